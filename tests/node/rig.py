"""A whole node without sockets, threads or time: what the tests of this room stand on.

::

    rig = Rig()
    bob = rig.login("bob")
    bob.send(Publish("1", (user_address("bob"),), body=b"hello"))
    assert bob.kinds() == [PublishAck, Deliver]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.auth.policy import DefaultPolicy
from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.config import Settings
from imgateway.errors import BadFrame, CloseCode, LoginRefused
from imgateway.frames import (
    RING_KINDS,
    Acked,
    Address,
    Batch,
    Bye,
    Deliver,
    DeliverAck,
    Entry,
    Frame,
    Hello,
    Keep,
    LogKey,
    Message,
    Outcome,
    OutcomeCode,
    Position,
    Publish,
    SessionKey,
    Welcome,
    log_of,
    parse_address,
    user_address,
)
from imgateway.interfaces import (
    Carriage,
    Followed,
    IAuthenticator,
    IBroker,
    ICodec,
    Identity,
    IListener,
    IProtocolAdapter,
    ISessionListener,
    Mailbox,
    Opened,
    Place,
    Publication,
    Traits,
    Verdict,
)
from imgateway.node.service import Node
from imgateway.protocols.native import NativeAdapter
from imgateway.protocols.plain import PlainCodec
from imgateway.testing.disk import Steps
from imgateway.testing.wires import MemoryConnection, connection_pair, pump
from imgateway.wire.messages import decode_message, encode_message

START_MS = 1_700_000_000_000
EPOCH = 7


def message(msg_id: str, body: bytes = b"", sender: str = "alice") -> bytes:
    """A message as it stands in a log."""
    return encode_message(Message(msg_id, sender, "phone", body=body))


def entry(seq: int, body: bytes = b"", **more: Any) -> Entry:
    return Entry(seq, message(f"m{seq}", body), **more)


@implementer(IBroker)
class FakeBroker:
    """Logs in lists. What is named in `hold` waits for `release`, everything else is answered at once.

    `calls` are all calls that change something, as (name, *values). `says_mail` False: it tells of mail as of
    everything else.
    """

    name = "fake:"
    dedup_s = 86_400
    in_line = False

    def __init__(self) -> None:
        self.listener: Any = None
        self.says_mail = True
        self.hold: set[str] = set()
        self.waiting: list[tuple[str, Deferred[Any], Callable[[], Any]]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.lingering: list[tuple[SessionKey, int]] = []
        self.logs: dict[LogKey, list[Entry]] = {}
        self.epochs: dict[LogKey, int] = {}
        self.lost: dict[LogKey, int] = {}
        self.acked: dict[SessionKey, int] = {}
        self.parked: dict[SessionKey, tuple[int, ...]] = {}
        self.follows: dict[SessionKey, dict[LogKey, int]] = {}
        self.owed: dict[tuple[SessionKey, LogKey], tuple[int, ...]] = {}
        self.watched: set[LogKey] = set()
        self.rings: set[LogKey] = set()
        self.rooms: dict[Address, set[SessionKey]] = {}
        self.records: dict[SessionKey, bytes] = {}
        self.is_kept = True
        self.generation = 0
        self.verdict = Verdict.OK
        self.fails: Exception | None = None
        self.read_batch: Callable[[Batch], Batch] = lambda batch: batch
        self.servers: dict[LogKey, str] = {}

    def named(self, *names: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] in names]

    def answer(self, name: str, result: Callable[[], Any]) -> Deferred[Any]:
        if self.fails is not None and name != "close":
            return fail(self.fails)
        if name not in self.hold:
            return succeed(result())
        deferred: Deferred[Any] = Deferred()
        self.waiting.append((name, deferred, result))
        return deferred

    def release(self, name: str, index: int = 0) -> None:
        """Answer one that waits: the oldest of this name, or another one."""
        found = [one for one in self.waiting if one[0] == name][index]
        self.waiting.remove(found)
        found[1].callback(found[2]())

    def fail(self, name: str, error: Exception) -> None:
        found = next(one for one in self.waiting if one[0] == name)
        self.waiting.remove(found)
        found[1].errback(error)

    def store(self, log: LogKey, *entries: Entry, tell: bool = True) -> None:
        """Entries are committed; seqs 0 are given the next."""
        there = self.logs.setdefault(log, [])
        after = there[-1].seq if there else 0
        numbered = [one if one.seq else replace(one, seq=after + n + 1) for n, one in enumerate(entries)]
        there += numbered
        if tell and (log in self.watched or log in self.rings):
            upto = numbered[-1].seq
            mail = [one.message for one in numbered if not (one.only_device or one.except_device)]
            usual = self.says_mail and log.address.kind == "user" and len(mail) == upto - after
            if not (usual and self.listener.mailed(log, self.epoch(log), after, mail)):
                self.listener.arrived(log, self.epoch(log), after, upto, tuple(numbered))

    def epoch(self, log: LogKey) -> int:
        return self.epochs.get(log, EPOCH)

    def head(self, log: LogKey) -> int:
        there = self.logs.get(log)
        return there[-1].seq if there else 0

    def position(self, log: LogKey) -> Position:
        return Position(self.epoch(log), 1, self.head(log))

    # ------------------------------------------------------------------------------------------- IBroker

    def start(self, listener: Any, incarnation: str) -> Deferred[None]:
        self.listener = listener
        self.calls.append(("start", incarnation))
        return self.answer("start", lambda: None)

    def give_up(self) -> None:
        self.calls.append(("give_up",))

    def stop(self) -> Deferred[None]:
        self.calls.append(("stop",))
        return self.answer("stop", lambda: None)

    def publish(self, publication: Any) -> Deferred[Any]:
        self.calls.append(("publish", publication))

        def committed() -> tuple[Outcome, ...]:
            outcomes = []
            for address in publication.to:
                log = log_of(address)
                stored = Entry(0, encode_message(publication.message), address.device)
                self.store(log, stored)
                outcomes.append(Outcome(OutcomeCode.OK, self.epoch(log), self.head(log)))
            return tuple(outcomes)

        return self.answer("publish", committed)

    def take(
        self, message: Message, address: Address, answer: Callable[..., None], about: tuple[Any, ...]
    ) -> None:
        self.publish(Publication(message, (address,))).addCallback(answer, *about)

    def emit(self, publication: Any) -> None:
        self.calls.append(("emit", publication))
        for address in publication.to:
            self.listener.passed(address, Entry(0, encode_message(publication.message), address.device))

    def watch(self, log: LogKey) -> Deferred[Any]:
        if log.address.kind in RING_KINDS:
            self.rings.add(log)
        else:
            self.calls.append(("watch", log))
            self.watched.add(log)
        position = self.position(log)
        return self.answer("watch", lambda: position)

    def watch_now(self, log: LogKey) -> None:
        """It always asks."""

    def unwatch(self, log: LogKey) -> None:
        if log.address.kind in RING_KINDS:
            self.rings.discard(log)
            return
        self.calls.append(("unwatch", log))
        self.watched.discard(log)

    def server(self, log: LogKey) -> str:
        return self.servers.get(log, "")

    def read(self, log: LogKey, after: int, limit: int, max_bytes: int) -> Deferred[Any]:
        self.calls.append(("read", log, after, limit, max_bytes))

        def found() -> Batch:
            there = [one for one in self.logs.get(log, []) if one.seq > after]
            taken, size = [], 0
            for one in there:
                if (
                    log.address.kind not in RING_KINDS
                    and taken
                    and (size >= max_bytes or len(taken) >= limit)
                ):
                    break
                taken.append(one)
                size += len(one.message)
            upto = taken[-1].seq if len(taken) < len(there) else max(after, self.head(log))
            gap = after < self.lost.get(log, 0)
            return self.read_batch(Batch(self.epoch(log), after, upto, tuple(taken), gap, self.head(log)))

        return self.answer("read", found)

    def open_session(self, claim: Any, answer: Any, about: tuple[Any, ...]) -> None:
        self.calls.append(("open", claim))
        self.generation += 1
        generation, verdict = self.generation, self.verdict

        def opened() -> Opened:
            log = log_of(user_address(claim.session.user))
            place = Place(
                log,
                self.epoch(log),
                self.acked.get(claim.session, 0),
                1,
                self.head(log),
                self.parked.get(claim.session, ()),
            )
            record = self.records.get(claim.session, b"")
            return Opened(verdict, generation, (place,), True, record)

        self.answer("open", opened).addBoth(answer, *about)

    def withdraw(self, claim: Any) -> None:
        self.calls.append(("withdraw", claim))

    def advance(self, session: SessionKey, generation: int, upto: Any, parked: Any = ()) -> None:
        self.calls.append(("advance", session, generation, upto, parked))
        for log, seq in upto:
            if log.address.kind != "user":
                there = self.follows.setdefault(session, {})
                there[log] = max(there.get(log, 0), seq)
                continue
            self.acked[session] = max(self.acked.get(session, 0), seq)
        for _, seq in parked:
            self.parked[session] = tuple(sorted({*self.parked.get(session, ()), seq}))

    def follow(self, session: SessionKey, generation: int, log: LogKey, begin: int) -> Deferred[Any]:
        self.calls.append(("follow", session, log, begin))

        def followed() -> Followed:
            there = self.follows.setdefault(session, {})
            known = log in there
            return Followed(known, there.setdefault(log, begin), self.owed.get((session, log), ()))

        return self.answer("follow", followed)

    def unfollow(self, session: SessionKey, generation: int, log: LogKey) -> Deferred[Any]:
        self.calls.append(("unfollow", session, log))
        self.follows.get(session, {}).pop(log, None)
        return self.answer("unfollow", lambda: None)

    def unpark(self, session: SessionKey, generation: int, log: LogKey, seq: int) -> None:
        self.calls.append(("unpark", session, seq))
        self.parked[session] = tuple(one for one in self.parked.get(session, ()) if one != seq)

    def linger(self, session: SessionKey, generation: int) -> None:
        self.lingering.append((session, generation))

    def record(self, session: SessionKey, generation: int, data: bytes) -> Deferred[Any]:
        """`is_kept` is the answer."""
        self.calls.append(("record", session, data))
        self.records[session] = data
        return self.answer("record", lambda: self.is_kept)

    def reset_log(self, log: LogKey) -> Deferred[Any]:
        self.calls.append(("reset", log))
        self.epochs[log] = self.epoch(log) + 1
        return self.answer("reset", lambda: self.position(log))

    def join(
        self, session: SessionKey, generation: int, address: Address, areas: tuple[str, ...] = ()
    ) -> Deferred[None]:
        self.calls.append(("join", session, address, areas))
        there = self.rooms.setdefault(address, set())
        if session not in there:
            there.add(session)
            self.listener.entered(session, address)
        return self.answer("join", lambda: None)

    def leave(self, session: SessionKey, generation: int, address: Address) -> Deferred[None]:
        self.calls.append(("leave", session, address))
        self.part(session, address)
        return self.answer("leave", lambda: None)

    def part(self, session: SessionKey, address: Address) -> None:
        if session in self.rooms.get(address, ()):
            self.rooms[address].discard(session)
            self.listener.left(session, address)

    def members(self, address: Address) -> Deferred[Any]:
        return self.answer("members", lambda: len(self.rooms.get(address, ())))

    def close_session(self, session: SessionKey, generation: int, forget: bool = False) -> Deferred[None]:
        self.calls.append(("close", session, generation))
        for address in tuple(self.rooms):
            self.part(session, address)
        return self.answer("close", lambda: None)

    def renew_session(self, session: SessionKey, generation: int, issued_at_s: int) -> Deferred[Any]:
        self.calls.append(("renew", session, generation, issued_at_s))
        return self.answer("renew", lambda: self.verdict)

    def measure(self, counters: Any) -> None:
        counters.store_waiting = len(self.waiting)

    def sessions(self, user: str) -> Deferred[Any]:
        return succeed(())

    def revoke(self, user: str, not_before_s: int) -> Deferred[None]:
        self.calls.append(("revoke", user, not_before_s))
        return succeed(None)

    def mailbox(self, user: str) -> Deferred[Any]:
        log = log_of(user_address(user))
        seen = [acked for session, acked in self.acked.items() if session.user == user]
        return self.answer(
            "mailbox", lambda: Mailbox(self.epoch(log), 1, self.head(log), max(seen, default=0))
        )

    def tell(self, incarnation: str, payload: bytes) -> Deferred[Any]:
        self.calls.append(("tell", incarnation, payload))
        return self.answer("tell", lambda: False)


@implementer(IPlugin, IAuthenticator)
class Tokens:
    """The token is the user's name; `identities` has those that mean more. `hold`: they wait in `checks`."""

    name = "names"

    def __init__(self) -> None:
        self.identities: dict[str, Identity | Exception] = {}
        self.hold = False
        self.checks: list[tuple[Deferred[Any], str]] = []
        self.asked = 0
        self.unreadable: Exception | None = None

    def authenticate(self, hello: Hello, peer: str) -> Any:
        self.asked += 1
        if self.hold:
            deferred: Deferred[Any] = Deferred()
            self.checks.append((deferred, hello.token))
            return deferred
        return self.result(hello.token)

    def result(self, token: str) -> Identity:
        identity = self.identities.get(token) or Identity(token)
        if isinstance(identity, Exception):
            raise identity
        return identity

    def release(self) -> None:
        deferred, token = self.checks.pop(0)
        try:
            deferred.callback(self.result(token))
        except LoginRefused as error:
            deferred.errback(error)

    def read(self) -> Callable[[], None]:
        if self.unreadable is not None:
            raise self.unreadable
        return lambda: None


@implementer(IPlugin, ISessionListener)
class Diary:
    """A session listener that writes down; `raises`: and then fails."""

    name = "diary"

    def __init__(self, raises: bool = False) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._raises = raises

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        if self._raises:
            raise ZeroDivisionError("a listener's own fault")

    def opened(self, session: SessionKey, identity: Identity) -> None:
        self._note("opened", session.device)

    def resumed(self, session: SessionKey, identity: Identity) -> None:
        self._note("resumed", session.device)

    def closed(self, session: SessionKey, code: int, reason: str) -> None:
        self._note("closed", session.device, code)

    def stored_offline(self, address: Address, message: Message) -> None:
        self._note("stored", address, message.msg_id)

    def gap(self, session: SessionKey, address: Address) -> None:
        self._note("gap", session.device, address)

    def entered(self, session: SessionKey, address: Address) -> None:
        self._note("entered", session.device, address)

    def left(self, session: SessionKey, address: Address) -> None:
        self._note("left", session.device, address)


@implementer(IListener)
class FakeListener:
    address = "fake:1"
    port = 1

    def __init__(self) -> None:
        self.events: list[str] = []
        self.stopping: Deferred[None] = succeed(None)

    def pause(self) -> None:
        self.events.append("pause")

    def resume(self) -> None:
        self.events.append("resume")

    def stop(self) -> Deferred[None]:
        self.events.append("stop")
        return self.stopping


@implementer(ICodec)
class AsciiCodec(PlainCodec):
    """One entry a message, as ``seq body``; only ASCII. Everything else is the native wire's."""

    def __init__(self, owner: Any, inner: Any, wire: str, ranges: bool) -> None:
        self.owner = owner
        self.hello: Hello | None = None  # with what only other wires can say
        self._inner = inner
        self.wire = wire
        self._ranges = ranges

    def receive(self, data: bytes) -> Iterator[Frame | Keep | bytes]:
        for frame in self._inner.receive(data):
            if type(frame) is Hello and self.hello is not None:
                frame = self.hello
            yield from self.owner.reads(frame)

    def restore(self, record: bytes) -> Sequence[Frame]:
        return self.owner.restores(record)

    def again(self, now: float) -> tuple[bytes, float]:
        return self.owner.agains(now)

    def encode(self, frame: Frame) -> bytes | None:
        if isinstance(frame, Deliver):
            assert len(frame.entries) < 2, "this wire takes one entry at a time"
            try:
                if not all(decode_message(one.message).body.isascii() for one in frame.entries):
                    return None
            except BadFrame:
                return None
            if not frame.entries and not self._ranges:
                return b""
        return self._inner.encode(frame)  # type: ignore[no-any-return]


@implementer(IPlugin, IProtocolAdapter)
class AsciiWire:
    """A wire that cannot say everything. `ranges`: it has a word for a range without entries.

    What its codecs do may be set: `reads` (what is given for a frame that came), `restores`, `agains`.
    `shared` False: each codec writes for itself alone.
    """

    carriage = Carriage()

    def __init__(
        self,
        name: str = "ascii",
        ranges: bool = False,
        silence_s: float = 0.0,
        window: int = 0,
        shared: bool = True,
        **traits: Any,
    ) -> None:
        self.silence_s = silence_s
        self.window = window
        self.name = name
        self.ranges = ranges
        self.shared = shared
        self.traits = Traits(**{"batches": False, **traits})
        self.reads: Callable[[Frame], Iterable[Frame | Keep | bytes]] = lambda frame: (frame,)
        self.restores: Callable[[bytes], Sequence[Frame]] = lambda record: ()
        self.agains: Callable[[float], tuple[bytes, float]] = lambda now: (b"", inf)

    def codec(self, stream: bool, max_frame_bytes: int) -> Any:
        inner = NativeAdapter().codec(stream, max_frame_bytes)
        codec = AsciiCodec(self, inner, self.name if self.shared else "", self.ranges)
        codec.silence_s, codec.window = self.silence_s, self.window
        return codec


class Peer:
    """A client on a connection pair that writes down the frames it gets."""

    def __init__(self, rig: Rig, wire: Any, stream: bool, chunk: int, source: str) -> None:
        self.rig = rig
        self.client, self.server = connection_pair(stream, chunk)
        self.server.source = source
        self.frames: list[Frame] = []
        self.sizes: list[int] = []
        self.gone: str | None = None
        self.user = self.device = ""
        # Deliveries are read with the plain codec: the odd wires differ in what they can say only.
        self.codec = NativeAdapter().codec(stream, 1 << 20)
        self.client.receiver = self
        self.link = rig.node.exchange.accept(self.server)
        self.server.receiver = self.link
        if self.link is not None:
            self.link.opened(wire)

    def received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self.frames += self.codec.receive(data)  # type: ignore[arg-type]

    def lost(self, reason: str, code: int = 1) -> None:
        self.gone = reason

    def send(self, *frames: Frame) -> Peer:
        for frame in frames:
            data = self.codec.encode(frame)
            assert data
            self.client.send(data)
        self.rig.settle()
        return self

    def raw(self, data: bytes) -> Peer:
        self.client.send(data)
        self.rig.settle()
        return self

    def together(self, *frames: Frame) -> Peer:
        """Frames in one chunk."""
        return self.raw(b"".join(self.codec.encode(frame) or b"" for frame in frames))

    def publish(self, msg_id: str, *to: str, body: bytes = b"", **more: Any) -> Peer:
        return self.send(Publish(msg_id, tuple(map(parse_address, to)), body=body, **more))

    def ack(self, upto: int, epoch: int | None = None) -> Peer:
        if epoch is None:
            epoch = self.of(Welcome)[-1].resumed[0].epoch
        return self.send(DeliverAck((Acked(user_address(self.user), epoch, upto),)))

    def of(self, kind: type) -> list[Any]:
        return [frame for frame in self.frames if type(frame) is kind]

    def take(self) -> list[Frame]:
        taken, self.frames = self.frames, []
        return taken

    def kinds(self) -> list[type]:
        return [type(frame) for frame in self.take()]

    def shown(self) -> list[str]:
        """The ids of all messages that were delivered."""
        return [decode_message(one.message).msg_id for frame in self.of(Deliver) for one in frame.entries]

    @property
    def bye(self) -> Bye | None:
        found = self.of(Bye)
        assert len(found) < 2, "Bye is said once"
        return found[0] if found else None

    @property
    def code(self) -> CloseCode | None:
        return CloseCode(self.bye.code) if self.bye is not None else None

    def stop_reading(self) -> None:
        self.client.reading = False

    def read_on(self) -> None:
        self.client.reading = True
        self.rig.settle()

    def cut(self) -> Peer:
        self.client.lose("cut")
        self.rig.settle()
        return self


class Rig:
    """A started node. `broker` None: a `FakeBroker`; "memory": the real one, in memory, without threads."""

    def __init__(
        self,
        broker: Any = None,
        start: bool = True,
        clock: Clock | None = None,
        incarnation: str = "n.1",
        **options: Any,
    ) -> None:
        settings = Settings()
        for path, value in options.pop("set", {}).items():
            section, _, key = path.partition(".")
            settings = replace(settings, **{section: replace(getattr(settings, section), **{key: value})})
        self.clock = clock or Clock()
        self.wall_ms = START_MS
        self.steps = Steps()
        self.broker: Any = broker or FakeBroker()
        if broker == "memory":
            self.broker = EmbeddedBroker(
                reactor=self.clock, rooms=settings.rooms, now_ms=lambda: self.wall_ms, lane=self.steps
            )
        self.tokens = Tokens()
        self.policy = options.pop("policy", DefaultPolicy())
        self.health: dict[str, tuple[bool, str]] = {}
        self.peers: list[Peer] = []
        self.listener = FakeListener()
        options.setdefault("doors", [lambda accept: succeed(self.listener)])
        random = options.pop("random", lambda: 0.5)
        self.node = Node(
            settings,
            self.broker,
            self.tokens,
            self.policy,
            self.clock,
            lambda: self.wall_ms,
            random,
            incarnation,
            health=lambda part, ok, why: self.health.update({part: (ok, why)}),
            **options,
        )
        self.hub, self.counters, self.gate = self.node.hub, self.node.counters, self.node.gate
        if start:
            self.start()

    def start(self) -> list[Any]:
        result: list[Any] = []
        self.node.start().addBoth(result.append)
        self.settle()
        return result

    def settle(self) -> None:
        """Carry bytes and do the store's work until all is quiet; tell links what their socket did."""
        while True:
            ends: list[MemoryConnection] = [end for peer in self.peers for end in (peer.client, peer.server)]
            pump(*ends)
            busy = False
            for peer in tuple(self.peers):
                if peer.link is None or peer.server.lost:
                    self.peers.remove(peer)
                    continue
                clogged = peer.server.unsent() > 0
                if clogged and not peer.link.clogged:
                    peer.link.pause_sending()
                elif peer.link.clogged and not clogged:
                    peer.link.resume_sending()
                    busy = True
            if self.steps.choices():
                self.steps.run()
                busy = True
            busy = self.turn() or busy
            if not busy:
                return

    def turn(self) -> bool:
        """What is due just now happens, and nothing that this sets off; whether there was something."""
        due = [call for call in self.clock.calls if call.getTime() <= self.clock.seconds()]
        for call in due:
            if call.active():
                self.clock.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
        return bool(due)

    def pass_ms(self, milliseconds: int) -> None:
        """A moment goes by."""
        self.wall_ms += milliseconds
        self.clock.advance(milliseconds / 1000)
        self.settle()

    def advance(self, seconds: float) -> None:
        """Time goes by, in the node's own steps."""
        for _ in range(int(seconds / 0.25)):
            self.wall_ms += 250
            self.clock.advance(0.25)
            self.settle()

    def connect(self, wire: Any = None, stream: bool = True, chunk: int = 0, source: str = "") -> Peer:
        peer = Peer(self, wire or NativeAdapter(), stream, chunk, source)
        if peer.link is not None:
            self.peers.append(peer)
        return peer

    def login(self, user: str, /, device: str = "phone", wire: Any = None, **hello: Any) -> Peer:
        """Connect and greet; the Welcome is among the peer's frames."""
        peer = self.connect(wire, stream=hello.pop("stream", True), chunk=hello.pop("chunk", 0))
        peer.user, peer.device = user, device
        greeting = Hello(hello.pop("token", user), device, **hello)
        if isinstance(wire, AsciiWire) and peer.link is not None:
            peer.link.codec.hello = greeting
        return peer.send(greeting)

    def session(self, user: str, device: str = "phone") -> Any:
        return self.hub.sessions.get(SessionKey(user, device))

    def mail(self, user: str, *bodies: bytes, **more: Any) -> None:
        """Messages are stored for a user (`FakeBroker` only), and told."""
        log = log_of(user_address(user))
        base = self.broker.head(log)
        self.broker.store(log, *(entry(base + n + 1, body, **more) for n, body in enumerate(bodies)))
        self.settle()
