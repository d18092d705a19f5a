"""A scripted gateway over an in-memory transport: native bytes both ways, and no reactor but a Clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from imgateway.client import Client
from imgateway.core.retry import fixed
from imgateway.errors import LinkLost
from imgateway.frames import (
    Address,
    Deliver,
    Entry,
    Frame,
    Hello,
    Limits,
    Message,
    Outcome,
    OutcomeCode,
    Pong,
    Publish,
    PublishAck,
    Resumed,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    parse_address,
)
from imgateway.interfaces import Accept, IConnection, ITransportAdapter
from imgateway.protocols.native import NativeAdapter
from imgateway.wire.messages import encode_message

ME = parse_address("user:me")
BOB = parse_address("user:bob")
ROOM = parse_address("room:7")
EPOCH = 7


@implementer(IConnection)
class Pipe:
    """The client's end of one connection, and the gateway's side of it."""

    carrier, peer, source, secure, stream = "memory", "memory", "", False, True
    max_message_bytes = 0

    def __init__(self, gateway: Gateway, url: str, receiver: Any) -> None:
        self.gateway = gateway
        self.max_send_bytes = gateway.max_send_bytes
        self.url = url
        self.receiver = receiver
        self.codec = gateway.wire.codec(True, 1 << 20)
        self.got: list[Frame] = []
        self.closed: int | None = None
        self.aborted = False
        self.open = True

    def send(self, data: bytes, order: Any = None) -> None:
        assert self.open
        for frame in self.codec.receive(data):
            assert not isinstance(frame, bytes)
            self.got.append(frame)
            self.gateway.heard(self, frame)

    def unsent(self) -> int:
        return 0

    def is_behind(self) -> bool:
        return False

    def unacked(self) -> int | None:
        return 0

    def has_left(self) -> bool:
        return False

    def proven(self) -> None: ...

    def pause_reading(self) -> None:
        raise NotImplementedError

    resume_reading = pause_reading

    def close(self, code: int, flush_s: float = 2.0) -> None:
        self.closed = code
        self.open = False
        if self.gateway.lets_go:
            self.gateway.clock.callLater(0, self.receiver.lost, "closed")

    def abort(self) -> None:
        self.aborted = True
        self.close(1)

    # the gateway's side

    def say(self, *frames: Frame) -> None:
        data = b"".join(self.codec.encode(frame) or b"" for frame in frames)
        size = self.gateway.chunk or len(data)
        for start in range(0, len(data), size):
            self.receiver.received(data[start : start + size])

    def cut(self, reason: str = "cut") -> None:
        self.open = False
        self.receiver.lost(reason)

    def of(self, *kinds: type) -> list[Any]:
        return [frame for frame in self.got if isinstance(frame, kinds)]


@implementer(ITransportAdapter)
class Gateway:
    """`welcomes` and `acks` by itself; what it took is in `log`, each msg_id once.

    It `admits` to rooms, whose lanes stand at `heads`, and tells of the lanes in `tells`.
    """

    name, schemes = "memory", ("memory",)

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.wire = NativeAdapter()
        self.pipes: list[Pipe] = []
        self.dialled: list[str] = []
        self.reachable = True
        self.hangs = False
        self.welcomes = self.acks = self.lets_go = True
        self.chunk = self.max_send_bytes = 0
        self.limits = Limits()
        self.heartbeat_s = 30.0
        self.ahead_s = 0.0  # of the clients' clock
        self.token_expires_ms = 0
        self.session = "device:me/phone"
        self.resumed: tuple[Resumed, ...] = (Resumed(ME, 0, EPOCH, 0, 0),)
        self.log: list[Publish] = []
        self.seqs: dict[str, int] = {}
        self.admits = True
        self.heads: dict[tuple[Address, int], int] = {}
        self.tells: tuple[int, ...] = (1, 0)
        self.watch: Callable[[Pipe, Frame], object] = lambda pipe, frame: None

    def listen(
        self, endpoint: str, wires: Sequence[Any], accept: Accept, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        raise NotImplementedError

    def connect(
        self, url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        self.dialled.append(url)
        if self.hangs:
            return Deferred(lambda d: d.errback(LinkLost("cancelled")))
        if not self.reachable:
            return fail(LinkLost("nobody is there"))
        pipe = Pipe(self, url, receiver)
        self.pipes.append(pipe)
        receiver.opened(wire)
        return succeed(pipe)

    @property
    def pipe(self) -> Pipe:
        return self.pipes[-1]

    def heard(self, pipe: Pipe, frame: Frame) -> None:
        self.watch(pipe, frame)
        if isinstance(frame, Hello) and self.welcomes:
            self.clock.callLater(0, self.answer, pipe, self.welcome())
        elif isinstance(frame, Subscribe) and self.admits:
            lanes = self.tells if frame.address.kind == "room" else (0,)
            for lane in lanes if not frame.lane else (1,):
                self.clock.callLater(0, self.answer, pipe, self.admitted(frame, lane))
        elif isinstance(frame, Unsubscribe) and self.admits:
            self.clock.callLater(0, self.answer, pipe, Unsubscribed(frame.address))
        elif isinstance(frame, Publish):
            code = OutcomeCode.DUPLICATE if frame.msg_id in self.seqs else OutcomeCode.OK
            if code == OutcomeCode.OK:
                self.log.append(frame)
            seq = self.seqs.setdefault(frame.msg_id, len(self.log))
            if self.acks and frame.qos:
                ack = PublishAck(frame.msg_id, tuple(Outcome(code, EPOCH, seq) for _ in frame.to))
                self.clock.callLater(0, self.answer, pipe, ack)

    def admitted(self, frame: Subscribe, lane: int) -> Subscribed:
        head = self.heads.get((frame.address, lane), 0)
        position = frame.seq if frame.epoch and frame.lane == lane else head
        return Subscribed(frame.address, 0, EPOCH, head, False, frame.mode, lane, position)

    def answer(self, pipe: Pipe, frame: Frame) -> None:
        if pipe.open:
            pipe.say(frame)

    def welcome(self) -> Welcome:
        return Welcome(
            self.session,
            "me",
            "node",
            len(self.pipes),
            self.heartbeat_s,
            int((self.clock.seconds() + self.ahead_s) * 1000),
            self.token_expires_ms,
            self.limits,
            self.resumed,
        )


class Later(Clock):
    """As reactors are: nothing can be called earlier than now."""

    def callLater(self, when: float, *what: Any, **more: Any) -> Any:
        assert when >= 0
        return super().callLater(when, *what, **more)


class World:
    """A clock, a gateway, and clients of it."""

    def __init__(self) -> None:
        self.clock = Later()
        self.clock.advance(1_000_000)
        self.gateway = Gateway(self.clock)
        self.clients: list[Client] = []

    def client(self, **options: Any) -> Client:
        options = {"token": "t", "device": "phone", "backoff": fixed(1.0), **options}
        url = options.pop("url", "memory://gw")
        client = Client(url, transport=self.gateway, reactor=self.clock, **options)
        self.clients.append(client)
        return client

    def up(self, **options: Any) -> Client:
        client = self.client(**options)
        started = client.start()
        self.turn()
        assert done(started) is None
        return client

    def turn(self, turns: int = 4) -> None:
        for _ in range(turns):
            self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.turn()

    def live(self, seconds: int) -> None:
        """Let time pass while the gateway gives signs of life."""
        for _ in range(seconds):
            self.wait(1)
            self.gateway.pipe.say(Pong())

    def end(self) -> None:
        for client in self.clients:
            closing = client.close(0.001)
            self.gateway.lets_go = True
            self.wait(1)
            self.wait(5)
            assert closing.called
        left = [call for call in self.clock.getDelayedCalls() if call.active()]
        assert left == []


def done(deferred: Deferred[Any]) -> Any:
    """The result of a Deferred that must have fired; its failure is raised."""
    results: list[Any] = []
    errors: list[Any] = []
    deferred.addCallbacks(results.append, errors.append)
    if errors:
        raise errors[0].value
    assert results, "not fired"
    return results[0]


def begin(coroutine: Any) -> Deferred[Any]:
    return ensureDeferred(coroutine)


def entry(seq: int, body: bytes = b"", msg_id: str = "") -> Entry:
    return Entry(seq, encode_message(Message(msg_id or f"m{seq}", "bob", "desk", "", body or b"%d" % seq)))


def deliver(after: int, upto: int, seqs: Sequence[int] | None = None, **more: Any) -> Deliver:
    numbers = range(after + 1, upto + 1) if seqs is None else seqs
    fields: dict[str, Any] = {"address": ME, "lane": 0, "epoch": EPOCH, "gap": False, "head": upto, **more}
    entries = fields.pop("entries", tuple(entry(seq) for seq in numbers))
    return Deliver(after=after, upto=upto, entries=entries, **fields)
