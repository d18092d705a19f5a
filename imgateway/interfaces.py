"""Every interface of the house, and the small values that pass through them.

A provider is checked with `zope.interface.verify.verifyObject` in a test; whoever uses a provider uses only
what is declared here. Synchronous methods that "may return a Deferred" are called through
`defer.maybeDeferred`.

Three faces hold a connection together::

    socket ⇄ IConnection ⇄ (bytes) ⇄ IReceiver ⇄ ICodec ⇄ (frames) ⇄ session ⇄ IBroker
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from imgateway.frames import (
    Address,
    Batch,
    Entry,
    Frame,
    Hello,
    Keep,
    LogKey,
    Message,
    Mode,
    Outcome,
    Position,
    Publish,
    Request,
    SessionKey,
    Start,
)

# mypy: disable-error-code="empty-body"

# --------------------------------------------------------------------------------------- transports and wires


class Carriage(Struct, frozen=True):
    """All that a transport may know of a wire."""

    stream: bool = True
    """May ride on a byte stream (TCP); its codec then finds the frame borders."""
    message: bool = True
    """May ride on a message transport: one frame per message."""
    text: bool = False
    """Its messages are text: WebSocket text messages, UTF-8."""
    path: str = ""
    """The WebSocket path; empty: none or ``/``."""
    subprotocols: tuple[str, ...] = ()
    """WebSocket subprotocols that choose this wire."""
    any_origin: bool = False
    """Its browsers come from anywhere; without it a listener's origin allow-list counts."""
    fragments: bool = True
    """A WebSocket message may come in parts; without it, whoever begins one that goes on is closed."""
    bye: str = ""
    """Its WebSockets are closed with status 1009 for what was too large, else with 1000 and this reason;
    empty: with 4000 + the close code and its name."""
    max_frame_bytes: int = 1_048_576
    """The largest frame that either side may send."""
    expansion: int = 1
    """Bytes that one byte of a body may take in a frame; limits on frames are multiplied by it."""
    bare: Any = None
    """The IProtocolAdapter that speaks this wire in bare datagrams: one frame each, lost, repeated or
    overtaken as it comes, peers told apart by their address. None: datagrams are sealed, and carry this
    wire as messages."""
    sealed: bool = True
    """May ride on sealed datagrams. Without it, and without `bare`, it is not served over UDP: its clients
    know no datagrams, or others."""


class Traits(Struct, frozen=True):
    """What a wire can say, so that the core does not have to know its name."""

    acks: bool = True
    """Receivers acknowledge with DeliverAck (or the codec makes one from the wire's own receipts)."""
    batches: bool = True
    """A Deliver may carry more than one entry; otherwise it is split."""
    gaps: bool = True
    """A Deliver's gap reaches the receiver."""
    pings: bool = True
    """The gateway may ask with Ping; otherwise it only listens."""
    ack_timeout_s: float = 30.0
    """Oldest unacknowledged entry this long after its flush, or after the last sign of life if it has not
    arrived yet: close ACK_TIMEOUT (0: never)."""
    resend_s: float = 0.0
    """What is unacknowledged this long after it was sent is asked of `ICodec.again` (0: never)."""
    authenticates: bool = True
    """Its greeting proves who the client is. Otherwise `Hello.user` is believed: the operator said so by
    listening for it."""
    pulls: bool = True
    """Its clients can be told that a room has news, and read it then. Those of other wires are sent the
    messages, however large the room is."""
    mail: bool = False
    """Its codecs are `IMailCodec`s. They acknowledge, take batches, and want nothing sent again."""
    compressions: tuple[str, ...] = ()
    """The values of `Deliver.compression` that its codec acts on; others it passes over."""


class ICodec(Interface):
    """One connection's translator; state that a wire needs per connection lives here and dies with it."""

    wire = Attribute(
        "str: codecs with equal `wire` encode a Deliver to equal bytes, so one encoding serves all; "
        "'' = never shared"
    )
    silence_s = Attribute(
        "float: the connection is dead after this long without a word from the peer; 0: the node's setting, "
        "inf: never"
    )
    window = Attribute(
        "int: entries of durable logs that may be unacknowledged at once; 0: the node's setting, -1: none. "
        "Where `wire` is '' it may change: that it is less is noticed when the session leaves a log, that it "
        "is more with the next DeliverAck, which may be an empty one"
    )

    def receive(data: bytes) -> Iterator[Frame | Keep | bytes]:
        """Feed what arrived (any chunk of a stream, or one whole message); iterate over the frames in it.

        A `bytes` item is an answer that the wire wants sent at once. The caller exhausts the iterator before
        it feeds more. :raises ProtocolError: from the iterator, at the place of the first bad frame; the
        codec is then done.
        """

    def encode(frame: Frame) -> Any:
        """The bytes of one frame; ``b""`` when the wire has nothing to say for it; None: unsayable content.

        What is no Deliver may take several of the wire's messages: then a tuple of them. Never raises for
        content.
        """

    def restore(record: bytes) -> Iterable[Frame | Keep]:
        """The login was taken; `record` is what a `Keep` of this session's codecs left last, b"" if none
        did. Called before `encode` gets the Welcome.

        :returns: frames that the core takes after its Welcome as if the client had sent them, each when those
            before it are taken.
        """

    def undoes(record: bytes) -> Iterable[Address]:
        """The topics and services that `restore` would leave because nothing was to be kept of the session
        that left this record. Changes nothing. It is asked before the Welcome, and once more after it, which
        may have told the client that nothing is kept: where the client is gone before all is done, the node
        leaves them.
        """

    def puts_off() -> bool:
        """Asked after each Refused: whether that was something that the client counts on without asking, so
        that `retry` is called after a while."""

    def retry() -> Iterator[Frame | Keep]:
        """What was put off: frames that the core takes as if the client had sent them. Called the later, the
        more often it was."""

    def again(now: float) -> tuple[bytes, float]:
        """What the wire wants sent once more at `now` (the node's monotonic seconds), and when it is to be
        asked next; inf: when something is delivered again. See `Traits.resend_s`.

        :raises LinkError: the peer takes nothing any more; close.
        """

    def waive() -> int:
        """The window is full: do without the receipts that the wire does not insist on. The position in the
        mailbox that this makes, 0: none."""


class IMailCodec(ICodec):
    """A codec with a way of its own for the usual mail, without a frame in between."""

    def mail(address: Address, epoch: int, after: int, messages: Sequence[bytes]) -> bytes | None:
        """What `encode` gives for a Deliver of the entries ``after + 1, after + 2 …`` of this durable log, of
        which the last is its head, with these messages. None: ask `encode`."""


class IProtocolMaker(IPlugin):
    """The plugin of a wire that needs settings or a clock; others are their own plugins."""

    name = Attribute("str: as written in --listen; its section of the settings has the same name")

    def make(settings: Any, now: Callable[[], float], wall_ms: Callable[[], int]) -> Any:
        """An IProtocolAdapter of its own for one node.

        `settings`: the section of its name, or None; `now`: monotonic seconds; `wall_ms`: Unix milliseconds.
        """


class IProtocolAdapter(IPlugin):
    """A wire protocol: knows no transport, no session, no node."""

    name = Attribute("str: as written in --listen, such as native")
    carriage = Attribute("Carriage: what a transport may know of this wire")
    traits = Attribute("Traits: what the core may know of this wire")

    def codec(stream: bool, max_frame_bytes: int) -> ICodec:
        """A codec for one new connection, either end. `stream`: bytes come without borders."""


class IConnection(Interface):
    """One accepted or made connection, as the core sees it."""

    peer = Attribute("str: for logs, such as 127.0.0.1:50312 or unix")
    source = Attribute(
        "str: what the limit per source counts: the IP address; '' for loopback, unix and PROXY sources"
    )
    carrier = Attribute("str: the name of the transport that it is of, such as tcp")
    secure = Attribute("bool: the bytes are encrypted up to this process")
    stream = Attribute("bool: a byte stream without message borders")
    max_message_bytes = Attribute(
        "int, settable unless `stream`: take no larger message than this; 0: as large as the wire allows"
    )
    max_send_bytes = Attribute("int: the largest message that `send` takes; 0: any. Not for streams")

    def send(data: bytes, order: Hashable | None = None) -> None:
        """Send bytes (a message transport: one message). Collected, and written once at the end of the
        reactor turn.

        What has the same `order` arrives in the order of the calls; None is what answers and control frames
        have. What comes with another `order` arrives after all that was sent before with None. A
        transport that keeps all in one order does not look at it; one that loses need not hold up one log for
        another.
        """

    def proven() -> None:
        """The peer's token is good: it is who it says, and it is where it says."""

    def unsent() -> int:
        """Bytes that were given to `send` and that the operating system has not taken."""

    def unacked() -> int | None:
        """`unsent` plus what the peer's system has not acknowledged yet; None where that is unknown."""

    def is_behind() -> bool:
        """More comes from peers than is read, so that what this one said may be unread, or lost for it.
        Always False where the system keeps what is unread, as it does of a stream."""

    def has_left() -> bool:
        """The peer is known to have gone, though what it said before is yet to be read. False where that is
        not known, or where nobody can have greeted whom we have not answered."""

    def pause_reading() -> None:
        """Deliver no more to the receiver until `resume_reading`; at most what was already read still
        comes."""

    def resume_reading() -> None:
        """Deliver again."""

    def close(code: int, flush_s: float = 2.0) -> None:
        """Send what is unsent for at most `flush_s` seconds, then close. `code` is an `errors.CloseCode`."""

    def abort() -> None:
        """Drop the connection now."""


class PathStatistics(Struct, frozen=True):
    """What became of datagrams. Those of a greeting, and those that try a size, are not counted."""

    sent: int
    """Ours, as far as the peer has told about them: all but the newest."""
    lost_up: int
    """Of these, those that never arrived."""
    received: int
    """The peer's, with those that never arrived; known up to the newest that did."""
    lost_down: int
    resent: int
    """Our messages and fragments that were sent again."""
    largest_up: int
    """Bytes of the largest `challenge` that arrived; 0: none did."""
    largest_down: int
    """Bytes of the largest answer to one that arrived; 0: none did."""


class IMeasured(Interface):
    """What a client's connection over UDP offers beside `IConnection` to whoever measures its path, if it was
    made with the option ``measured``."""

    def statistics() -> PathStatistics:
        """What is known by now."""

    def challenge(size: int) -> None:
        """Send one datagram of `size` bytes, at least 37 and unfragmented, which the peer answers with one as
        large. `statistics` tells what arrived: of the way up once a later message was acknowledged."""

    def rebind() -> Deferred[None]:
        """Go on from another local port, as if a NAT had forgotten us; fires when there is one.

        :raises LinkLost: (in the Deferred) there is no port left.
        """


class IReceiver(Interface):
    """The core's face to a transport. Calls come in this order: opened, then received …, then lost, once."""

    def opened(wire: IProtocolAdapter) -> None:
        """The transport's own greeting (TLS, upgrade) is over and this wire was chosen."""

    def received(data: bytes) -> None:
        """A chunk of a stream, or one message."""

    def pause_sending() -> None:
        """The connection is clogged: it still has bytes that the socket did not take."""

    def resume_sending() -> None:
        """It has none any more."""

    def lost(reason: str, code: int = 1) -> None:
        """The connection is gone, for whatever cause; also without `opened` before.

        `code` is CloseCode.LOST, or that of what the peer did against the transport's own rules: a message
        too long, text where binary is spoken, no TLS, no PROXY header.
        """


class IListener(Interface):
    """A listening endpoint."""

    address = Attribute("str: where it listens, for people, such as tcp:127.0.0.1:7901")
    port = Attribute("int: the port that it got, 0 if it has none")

    def pause() -> None:
        """Accept nobody until `resume`; the system's backlog holds who comes."""

    def resume() -> None:
        """Accept again, first whom the backlog holds."""

    def stop() -> Deferred[None]:
        """Stop accepting; connections that exist are left alone."""


Accept = Callable[[Any], Any]
"""IConnection → IReceiver (None: refused; the transport aborts it). Called as soon as the socket is
accepted."""


class ITransportAdapter(IPlugin):
    """A transport: turns sockets into IConnections, at both ends; does not know what a session is."""

    name = Attribute("str: as written in --listen, such as tcp")
    schemes = Attribute("tuple of str: URL schemes that `connect` takes")

    def listen(
        endpoint: str, wires: Sequence[Any], accept: Accept, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        """Listen on an endpoint description; fires with an IListener.

        `wires` are IProtocolAdapters, the first is the default. `options`: the transport's section of the
        settings.
        :raises OperatorError: (in the Deferred) port in use, bad description, wire that cannot ride here.
        """

    def connect(
        url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        """Connect; fires with the IConnection after `receiver.opened(wire)`.

        `options`: ``tls`` (a Twisted connection creator or None for the platform's trust), ``timeout_s``.
        :raises LinkLost: (in the Deferred) it could not be reached.
        """


# ---------------------------------------------------------------------------------------------------- broker


class Publication(Struct, frozen=True, gc=False):
    """A publish on its way into logs: who and when are settled, policy and quotas are behind it.

    `lane` counts for rings only. `exempt`: a service's; a room's rate does not count for it.
    """

    message: Message
    to: tuple[Address, ...]
    lane: int = 0
    resent: bool = False
    copy_self: bool = False
    exempt: bool = False


class LoginPolicy(IntEnum):
    """What a new login does to the user's other devices."""

    MANY = 0
    ONE_PER_PLATFORM = 1
    ONE = 2
    REFUSE = 3


class Claim(Struct, frozen=True):
    """A login that asks for its session. `issued_at_s`: the token's iat, against `revoke`. `brief`: its
    device starts at the head and ends with the session, so that a store need not remember it."""

    session: SessionKey
    platform: str = ""
    policy: LoginPolicy = LoginPolicy.MANY
    start: Start = Start.UNSEEN
    issued_at_s: int = 0
    on_same_device: str = "replace"
    order: int = 0
    brief: bool = False


class Verdict(IntEnum):
    OK = 0
    CONFLICT = 1
    """LoginPolicy.REFUSE, and another device is online."""
    REVOKED = 2
    OUTRUN = 3
    """newest-order-wins, and the session that is there has the higher order."""


class Place(Struct, frozen=True):
    """Where a session stands in one durable log. `parked`: seqs that its wire could not say, still owed."""

    log: LogKey
    epoch: int
    acked: int
    first: int
    head: int
    parked: tuple[int, ...] = ()


class Opened(Struct, frozen=True):
    """The answer to a claim; `places` has the mailbox first, and may have others: `follow` says where the
    device stands in any. `known`: it had been here before. `resumed`: an older generation of the session was
    open, on whatever node."""

    verdict: Verdict
    generation: int = 0
    places: tuple[Place, ...] = ()
    known: bool = False
    record: bytes = b""
    resumed: bool = False


class Followed(Struct, frozen=True):
    """Where a session stands in a log that it follows. `known`: it did before; else it begins here.

    `parked` as in Place.
    """

    known: bool
    acked: int
    parked: tuple[int, ...] = ()


class Presence(Struct, frozen=True):
    """`node`: the incarnation that has the session open, which it also is while its client may yet come back;
    '' if none has. `since_ms`: since when, or when the device was last seen."""

    session: SessionKey
    platform: str
    node: str
    generation: int
    since_ms: int
    online: bool


class Mailbox(Struct, frozen=True):
    """How far a user's mailbox has got, over all devices. `seen`: the furthest that any of them ever
    acknowledged; what stands after it, up to `head`, nobody has."""

    epoch: int
    first: int
    head: int
    seen: int


class IBrokerListener(Interface):
    """The hub, as the broker sees it. Synchronous; must not raise."""

    def arrived(log: LogKey, epoch: int, after: int, upto: int, entries: tuple[Entry, ...]) -> None:
        """Entries of a watched log: all there is in ``(after, upto]``, in order; of a durable log once they
        are committed, of a ring as soon as they have a place in it. `after` above what was told before: what
        is between has to be read. Another epoch: another log, or one that may have lost something."""

    def mailed(log: LogKey, epoch: int, after: int, messages: list[bytes]) -> bool:
        """The same, said shorter: the entries after `after` of a watched mailbox, seq by seq, which are for
        all its devices. True: they are on their way, over a link. False: nobody heard it, and `arrived` has
        to say it."""

    def moved(log: LogKey, epoch: int, head: int) -> None:
        """A watched log has grown to `head`, or has another epoch; whoever wants the entries reads them."""

    def passed(address: Address, entry: Entry) -> None:
        """A qos 0 message for a user or device, or for those who follow a log: now or never."""

    def unattended(log: LogKey, message: Message) -> None:
        """A message was stored in a mailbox none of whose devices is online."""

    def attended(log: LogKey) -> bool:
        """Is anybody at this mailbox connected just now? A session that lost its link is not."""

    def displaced(session: SessionKey, generation: int, code: int, reason: str) -> None:
        """This generation of the session must go: `code` is the CloseCode to close its link with.

        REPLACED and STALE: a newer generation has it, which was claimed here or at another node.
        """

    def entered(session: SessionKey, address: Address) -> None:
        """The session is in this room, and was not before: once, until `left`."""

    def left(session: SessionKey, address: Address) -> None:
        """The session is not in this room any more: it left, or it ended."""

    def congested(on: bool) -> None:
        """More is waiting for the store than may wait: stop reading whoever publishes, until told off."""

    def healthy(ok: bool, why: str) -> None:
        """The store's state changed; `why` is for the operator. Both: some of it is away, and the rest serves
        those whose messages are there."""

    def control(payload: bytes) -> None:
        """Another process of the cluster `IBroker.tell`s this one something."""


class IBroker(Interface):
    """Where logs and session claims live. Everything durable is on stable storage when its Deferred fires.

    "Unavailable" is never an answer: the broker waits and retries, in order, and says so through `healthy`.
    """

    name = Attribute("str: for logs and /readyz")
    dedup_s = Attribute("int: how long a repeat is recognised; told in Welcome")
    in_line = Attribute("bool: what is published after `record` was called is not on disk before the record")

    def start(listener: Any, incarnation: str) -> Deferred[None]:
        """Check settings, take the lock, refill dedup. :raises StoreError: with the line that mends it."""

    def give_up() -> None:
        """The process stops before `start` has fired. One that waits for a server which is away fails now;
        one that waits for nobody else goes on, and will be stopped."""

    def stop() -> Deferred[None]:
        """Waiting appends committed, positions flushed, lock released. What waits for a server that is away
        fails with CancelledError, or is not answered any more."""

    def publish(publication: Publication) -> Deferred[tuple[Outcome, ...]]:
        """Append to every address's log; one final Outcome per address, in the order of `to`.

        The order of calls is the order in each log. A repeat joins the append it repeats. Rings (rooms,
        areas, all) wait for no disk; RATE is theirs only, and is not remembered. Their answer may come before
        this returns, before what they take is told, or after it; of a publish to several addresses it comes
        with the last of them.
        """

    def take(message: Message, address: Address, answer: Callable[..., None], about: tuple[Any, ...]) -> None:
        """`publish` of what nearly all messages are: to one user or other durable log, for all its devices,
        without anything else about it. In order with other publishes.

        It is answered as ``answer((outcome,), *about)`` by a plain call, where a Deferred would be a tenth of
        the way in. `answer` must not raise.
        """

    def emit(publication: Publication) -> None:
        """qos 0: no custody, no result. A ring takes it and numbers it, users are told now or never.

        `to` names nobody twice.
        """

    def watch(log: LogKey) -> Deferred[Position]:
        """Be told of this log; the position is atomic with the interest: what comes later is told. Of a log
        that is watched already it says where that stands now; what came last may yet have to be told.

        The seqs of a ring rise with holes. One that nobody has published to stands at a seq that all of its
        entries will be above. Rings may differ in their epochs.
        """

    def watch_now(log: LogKey) -> Position | None:
        """`watch` of a durable log, if it is known at once where that stands. None: it is not, and nothing
        was done."""

    def unwatch(log: LogKey) -> None:
        """Be told no more of this log."""

    def server(log: LogKey) -> Hashable:
        """What has this log, and may be away while others are not: the same for all logs that it has."""

    def read(log: LogKey, after: int, limit: int, max_bytes: int) -> Deferred[Batch]:
        """Committed entries after `after`; at least one if there is one, however large.

        Of a ring: the block (`core.ring`) that has the first of them, the same whoever asks; the batch's
        `after` may lie below what was asked for, and `limit` and `max_bytes` do not count.
        """

    def join(
        session: SessionKey, generation: int, address: Address, areas: tuple[str, ...] = ()
    ) -> Deferred[None]:
        """The session is in this room, which belongs to the areas with these ids. Fenced by the generation.

        It stays until it leaves or ends; a newer generation of it is in the same rooms. To join again is
        nothing new.
        """

    def leave(session: SessionKey, generation: int, address: Address) -> Deferred[None]:
        """The session is not in this room any more. Fenced by the generation; to leave again is nothing."""

    def members(address: Address) -> Deferred[int]:
        """How many sessions are in a room, in any room of an area, or (all) open."""

    def open_session(claim: Claim, answer: Callable[..., None], about: tuple[Any, ...]) -> None:
        """Apply the login policy, raise the generation, say where the device stands. Displaced ones are told
        by `displaced`.

        It is answered once, as ``answer(opened, *about)`` by a plain call, where a Deferred would be a
        twentieth of a login: before this returns or after it, with an `Opened`, or if it failed with a
        Failure in its place. If this raises, that is the Failure, and `answer` is not called. `answer` must
        not raise.
        """

    def withdraw(claim: Claim) -> None:
        """The client that asked for this session has gone before it had an answer. A claim that still waits
        for its server, or for the disk, may be dropped, and is answered with OUTRUN then; any other is
        answered as ever, and what it got is the caller's to give back."""

    def follow(session: SessionKey, generation: int, log: LogKey, begin: int) -> Deferred[Followed]:
        """The session's device follows a durable log beside its mailbox: its position there is kept from now
        on, and outlives session and process. Who follows already stands where it stood, whatever `begin` is.
        Fenced by the generation. Fails with StoreBusy, as `watch` may and a claim."""

    def unfollow(session: SessionKey, generation: int, log: LogKey) -> Deferred[None]:
        """Forget the device's position in this log; nothing of it is kept for the device any more. Fenced by
        the generation; to unfollow again is nothing, but may fail with StoreBusy while that is under way."""

    def advance(
        session: SessionKey,
        generation: int,
        upto: Sequence[tuple[LogKey, int]],
        parked: Sequence[tuple[LogKey, int]] = (),
    ) -> None:
        """The session has custody of everything up to here. Coalesced, monotone, fenced by the generation.

        `parked`: seqs that the wire could not say, to be kept with the position (at most 32 a log, the oldest
        goes first).
        """

    def unpark(session: SessionKey, generation: int, log: LogKey, seq: int) -> None:
        """A parked entry was said after all."""

    def linger(session: SessionKey, generation: int) -> None:
        """The session's client is gone, and may yet come back. Until its next generation the session is not
        online, and by order (`Claim.on_same_device`) anybody may follow it. A stale generation: nothing."""

    def record(session: SessionKey, generation: int, data: bytes) -> Deferred[bool]:
        """Keep what an adapter must know of the session at the next login; returned in Opened.

        Fires as soon as it is on stable storage. False: somebody else has the session by now, nobody knows
        whether it is kept, and what relies on it must not be published. While the store is away it waits;
        what comes meanwhile for the same session is written as one.
        """

    def reset_log(log: LogKey) -> Deferred[Position]:
        """A client knows more of this log than the log itself: it was rolled back. Give it a new epoch."""

    def close_session(session: SessionKey, generation: int, forget: bool = False) -> Deferred[None]:
        """The session ended, and leaves its rooms. Its generation may be stale: then it leaves those that no
        newer one is in, and nothing else happens. `forget`: the device with its position."""

    def renew_session(session: SessionKey, generation: int, issued_at_s: int) -> Deferred[Verdict]:
        """The session has a new token, or still that which it had: OK, or REVOKED if it was issued too early,
        or OUTRUN: then `displaced` says why, if it has not."""

    def measure(counters: Any) -> None:
        """Set the fields of a `core.counters.Counters` that begin with store, room and ring: called when
        they are about to be read."""

    def sessions(user: str) -> Deferred[tuple[Presence, ...]]:
        """The user's sessions on all nodes; also devices that are away, as long as their positions are kept:
        those are not online."""

    def revoke(user: str, not_before_s: int) -> Deferred[None]:
        """Tokens issued before `not_before_s` no longer open sessions; live ones opened with such a token are
        displaced."""

    def mailbox(user: str) -> Deferred[Mailbox]:
        """How far the user's mailbox has got."""

    def tell(incarnation: str, payload: bytes) -> Deferred[bool]:
        """Say something to one process of the cluster, itself too, through `IBrokerListener.control`: at most
        once, never stored. False: nobody there listens."""


# ------------------------------------------------------------------------------------------------ the cluster


class Served(Struct, frozen=True):
    """One address at which a node takes clients."""

    protocol: str
    transport: str
    url: str
    """As clients write it, such as ``tcp://gw1.example.org:7901``."""


class NodeState(StrEnum):
    READY = "ready"
    """It takes logins."""
    BUSY = "busy"
    """It is up and cannot take any just now: its store is away, or it is starting."""
    DRAINING = "draining"
    """It sends its clients elsewhere."""


class NodeInfo(Struct, frozen=True):
    """A node as it announces itself. `incarnation` is unique for each start of a process."""

    node: str
    incarnation: str
    state: NodeState = NodeState.READY
    served: tuple[Served, ...] = ()
    region: str = ""
    zone: str = ""
    weight: int = 100
    """Its share of the logins against other nodes' weights; 0: none."""
    sessions: int = 0
    """How many it has, as of its last announcement."""
    started_ms: int = 0
    leaving: int = 0
    """While it drains: how many of its clients it has yet to send away."""
    hears: bool = False
    """It has session listeners, which want to be told of who is away."""
    orders: int = 0
    """How often it was told to drain, or not to any more."""


class IRegistry(Interface):
    """Which nodes of the cluster live. A node that died is gone within 15 s; one that is only cut off from
    the registry comes back by itself once it is not.

    What needs the registry's server waits for it and says so through `healthy`; nothing of it is an error.
    """

    name = Attribute("str: for logs and /readyz")

    def start(changed: Callable[[Mapping[str, NodeInfo]], None], healthy: Callable[[bool, str], None]) -> Any:
        """Begin to watch; a Deferred that fires once the nodes are known for the first time.

        `changed`: called with all nodes that live, by incarnation, at first and whenever that changes; while
        the server is away they stay as they were. `healthy(ok, why)`: its state changed.

        :raises OperatorError: (in the Deferred) the settings cannot work, and what to change.
        """

    def announce(info: NodeInfo) -> Deferred[None]:
        """This node is there, from now on until `withdraw` or the end of the process; again: it has changed.
        Fires when others can see it."""

    def withdraw() -> Deferred[None]:
        """This node leaves; fires at once when it never announced itself."""

    def stop() -> Deferred[None]:
        """Withdraw, and close the connections."""


class IAllocation(IPlugin):
    """Which nodes a client shall try, and in which order. Pure: the same arguments, the same answer."""

    name = Attribute("str: as written in router.allocation")

    def choose(nodes: Sequence[NodeInfo], key: str, turn: int) -> Sequence[NodeInfo]:
        """The nodes in the order of preference; in whatever order they come, the answer is the same.

        `nodes` are ready, of a weight above 0, and no two have the same `node`; their `sessions` count what
        was allocated since they were announced. `key`: the user. `turn` rises by one with each call of a
        router.
        """


# ------------------------------------------------------------------------------------- identity and business


class Identity(Struct, frozen=True, gc=False):
    """Who a token says that somebody is. `claims` is what a policy plugin may look at.

    `device` '' : the client may name any device. `expires_at_s` 0: never. Times are Unix seconds.
    """

    user: str
    device: str = ""
    service: bool = False
    issued_at_s: int = 0
    expires_at_s: int = 0
    claims: Mapping[str, Any] = {}


class IAuthenticator(IPlugin):
    """Turns a greeting into an identity."""

    name = Attribute("str: as written in auth.authenticator")

    def authenticate(hello: Hello, peer: str) -> Identity | Deferred[Identity]:
        """:raises LoginRefused: with the close code that fits. Also asked for Renew, with a Hello that has
        only the token."""

    def read() -> Callable[[], None]:
        """SIGHUP: read the keys again. The old ones stay in use until what this returns is called, which must
        not fail: it is not called if anything else cannot be read.

        :raises OperatorError: they cannot be used.
        """


class IAuthenticatorMaker(IPlugin):
    """The plugin of an authenticator that needs the node's settings; others are their own plugins."""

    name = Attribute("str: as written in auth.authenticator")

    def make(settings: Any, data_dir: str, seconds: Callable[[], float]) -> Any:
        """An IAuthenticator of its own for one node. `settings`: the auth section; `seconds`: the wall clock.

        :raises OperatorError: its keys cannot be used.
        """


class IPolicy(IPlugin):
    """May this identity do this to that address? Synchronous, from what the identity says.

    And which areas a room belongs to.
    """

    name = Attribute("str: as written in auth.policy")

    def may(identity: Identity, action: str, address: Address) -> bool:
        """`action` is ``publish``, ``publish-first``, ``subscribe`` or ``read``. To publish to a room a
        client must be in it, too, unless its token names the room. A publish to lane 1, which goes before
        everything else, needs ``publish-first`` as well."""

    def areas(address: Address) -> tuple[str, ...]:
        """The ids of the areas that a room belongs to; always the same for the same room."""


class IGateway(Interface):
    """The node, as business code in the same process sees it."""

    def publish(publish: Publish, sender: str, device: str = "api") -> Deferred[tuple[Outcome, ...]]:
        """Publish with a service's rights; `sender` appears as the message's sender. With qos 0 OK says that
        nothing forbade it: it went to whoever was there."""

    def request(
        session: SessionKey, service: str, method: str, body: bytes, deadline_s: float = 10.0
    ) -> Deferred[bytes]:
        """Ask a client and await its answer. :raises RequestFailed: with GONE, DEADLINE or the client's own
        code."""

    def kick(user: str, device: str | None, reason: str) -> Deferred[int]:
        """Close a user's sessions (all, or one device's) with KICKED, on whatever node they are; fires with
        how many there were."""

    def sessions(user: str) -> Deferred[tuple[Presence, ...]]:
        """The user's sessions on all nodes; also devices that are away, as long as their positions are kept:
        those are not online."""

    def join(session: SessionKey, room: Address, mode: Mode = Mode.PUSH) -> Deferred[bool]:
        """Put a session into a room; its client is told with Subscribed. It stays over lost connections,
        whether or not its client names the room again. False: there is no such session here, or it was taken
        out before it was in."""

    def leave(session: SessionKey, room: Address) -> Deferred[bool]:
        """Take a session out of a room; its client is told with Unsubscribed(REMOVED). False: it was not in
        it, nor on its way in."""

    def members(address: Address) -> Deferred[int]:
        """How many sessions are in a room or in the rooms of an area, or (all) open."""

    def revoke(user: str, not_before_s: int) -> Deferred[None]:
        """End what tokens issued before `not_before_s` (Unix seconds) opened; they open nothing any more."""

    def mailbox(user: str) -> Deferred[Mailbox]:
        """How far the user's mailbox has got: whether somebody has a message, by its seq."""

    def nodes() -> Mapping[str, NodeInfo]:
        """The nodes that live, by incarnation."""

    def drain(incarnation: str, rate: int) -> Deferred[int]:
        """A node sends its clients away, `rate` a second, and takes nobody until `undrain`.

        :returns: (in the Deferred) the order's number: what the node announces of itself with `orders` of at
            least this is from after it. 0: there is no such node, or it stops; -1: it was told, and has not
            answered.
        """

    def undrain(incarnation: str) -> Deferred[int]:
        """It takes clients again; who was not sent away yet stays. :returns: as `drain`."""


class IBackend(IPlugin):
    """Business behind Request: answers for one service name."""

    name = Attribute("str: the service that it answers for")

    def start(gateway: Any) -> None:
        """Called once before listening, with an IGateway."""

    def request(caller: SessionKey, request: Request) -> bytes | Deferred[bytes]:
        """The answer's body. :raises RequestFailed: to answer with another code. A Deferred is cancelled at
        the deadline."""


class IMailBackend(IBackend):
    """A backend that also hears what is published to ``service:`` and its name."""

    def arrived(sender: SessionKey, publish: Publish, seq: int) -> None:
        """A publish that this node took has place `seq` in the service's log, where it stays for whoever
        reads that. Called once for each, in the order of the log, before the sender has its acknowledgement;
        what it raises is logged and nothing else."""


class IInterceptor(IPlugin):
    """Looks at a publish before it counts."""

    name = Attribute("str: as written in plugins.interceptors")

    def before_publish(identity: Identity, publish: Publish) -> Publish | int | Deferred[Publish | int]:
        """The publish to go on with, or an OutcomeCode that answers every address. A slow one holds its
        session's later publishes."""


class ISessionListener(IPlugin):
    """Told what becomes of sessions; synchronous, and what it raises is logged and nothing else.

    Each node tells its own listeners. A session that goes on at another node is `resumed` there, and the node
    that it left says nothing of it, but `left` later for rooms that it did not enter again. A node that dies
    says nothing: of its sessions only `left` is told, by another node.
    """

    name = Attribute("str: as written in plugins.listeners")

    def opened(session: SessionKey, identity: Identity) -> None:
        """A login made a session that was not there."""

    def resumed(session: SessionKey, identity: Identity) -> None:
        """A new link took over a session that was still there, on this node or another."""

    def closed(session: SessionKey, code: int, reason: str) -> None:
        """The session ended: said goodbye, was kicked, or its resume window passed."""

    def stored_offline(address: Address, message: Message) -> None:
        """A message was stored for a user none of whose devices is online. Told at the node that took it; of
        what a router took, at one node that has listeners."""

    def gap(session: SessionKey, address: Address) -> None:
        """Messages at this address are gone (too old, over quota, lost with a log), which the wire of this
        session, online just now, cannot tell its client: what the business still has it may send again."""

    def entered(session: SessionKey, address: Address) -> None:
        """The session is in this room: once, until `left`, however often its client loses the connection."""

    def left(session: SessionKey, address: Address) -> None:
        """It is not any more: its client left, or the session is about to be `closed`."""
