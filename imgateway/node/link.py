"""A link: one connection with its codec, from the first byte to the last.

It turns bytes into frames and hands each to the desk; it sends what it is given; it keeps the deadlines of
the connection. What the frames mean is the desk's business, what outlives the connection is the session's.

Reading stops for a named reason (`Pause`) and goes on when no reason is left. What the transport had already
read by then waits here, undecoded: one read's worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from math import inf
from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.config import LimitSettings, SessionSettings
from imgateway.core.counters import Counters
from imgateway.core.handshake import Event, LinkState, after
from imgateway.core.retry import RetryPolicy
from imgateway.core.session import Session
from imgateway.errors import (
    CloseCode,
    FrameTooLarge,
    LinkError,
    LoginRefused,
    ProtocolError,
    UnexpectedFrame,
)
from imgateway.frames import (
    FRAME_NAMES,
    Address,
    Bye,
    Frame,
    Hello,
    Keep,
    LogKey,
    Ping,
    Pull,
    Refused,
    RefusedCode,
    Seen,
    Subscribe,
    Unsubscribe,
    address_text,
)
from imgateway.interfaces import Carriage, ICodec, IConnection, IProtocolAdapter, IReceiver

__all__ = ("LATE_S", "Desk", "Link", "Pause")

log = Logger()


class Pause(IntEnum):
    """Why a link is not read from just now; of the reasons that it has each is a bit."""

    LOGIN = 1
    """The token is being checked and the session claimed."""
    WINDOW = 2
    """As many publishes as the window allows wait for their outcome."""
    QUOTA = 4
    """The user's quota is used up; the bucket refills."""
    STORE = 8
    """More waits for the store than may wait."""
    CONTROL = 16
    """The peer does not read its answers."""
    CALLS = 32
    """As many of its questions as allowed are being answered."""
    PULL = 64
    """What it asked to read is being read."""
    RENEW = 128
    """Its fresh token is being checked."""
    DRAIN = 256
    """The node is leaving."""
    CLOSED = 512
    ROOM = 2048
    """It is being put into a room."""
    STALE = 8192
    """Somebody else has its session: it is closed in a moment, and what it says does not count."""
    RECORD = 16384
    """Too many of its answers wait for a record to be on the disk."""


BEHIND = Pause.STORE | Pause.RENEW | Pause.WINDOW | Pause.ROOM | Pause.PULL | Pause.RECORD
"""A server is waited for: a fresh token may lie unread behind that, or be what it is to answer."""
BEHIND_AGAIN = Pause.STORE | Pause.RENEW
"""The same for a link that was read again since its token ended. The others its client can bring about."""
LATE_S = 10.0
"""So long a link is read for a fresh token once its servers are back."""

Said = Frame | Keep | bytes
"""What a codec gives for what arrived."""

OPEN, CLOSED = LinkState.OPEN, LinkState.CLOSED  # found faster than in their class

WAITED_FOR = {
    LinkState.CONNECTED: "the end of TLS, of a PROXY header or of an upgrade",
    LinkState.GREETING: "a whole greeting",
    LinkState.CHECKING: "the check of the token, or the store",
}
"""… for a login that did not come in time."""

RUNNING = 1024
"""A chunk is being decoded: nobody's reason, and what comes meanwhile waits as well."""

RESTORED = 4096
"""What waits here goes before what is left of the chunk that is being decoded."""


class Desk(Protocol):
    """What a link needs of the node."""

    limits: LimitSettings
    session: SessionSettings
    counters: Counters
    max_frame_bytes: int
    incarnation: str
    retry_wait: RetryPolicy

    def now(self) -> float: ...
    def number(self, generation: int = 0) -> int: ...
    def remark(self) -> dict[str, Any] | None: ...
    def heard(self) -> float: ...
    def arm(self, due: float, wake: Callable[[float], None]) -> float: ...
    def arrived(self, link: Link, size: int) -> bool: ...
    def greeted(self, link: Link, hello: Hello) -> None: ...
    @property
    def answers(self) -> Mapping[type, Callable[[Link, Any, Any], None]]: ...
    def heard_without_acks(self, link: Link) -> None: ...
    def writable(self, link: Link) -> None: ...
    def closed(self, link: Link, code: int, reason: str) -> None: ...
    def gone(self, link: Link) -> None: ...


class Rare:
    """What a link keeps from the first time on that its peer did not read, was not listened to, was asked
    whether it lives, is owed a repetition, or was refused what its codec asks for once more: none of it for
    one that idles.

    :ivar bytes: of control frames that are unsent.
    :ivar since: since when.
    :ivar able_since: since when all is well again.
    :ivar is_asked: a Ping waits for any sign of life.
    :ivar is_late: its token has ended while a server was away.
    :ivar again: when the wire wants to send once more what is unacknowledged.
    :ivar retry: when its codec asks once more for what it was refused. :ivar tries: how often it did.
    """

    __slots__ = ("able_since", "again", "bytes", "is_asked", "is_late", "retry", "since", "tries")

    def __init__(self) -> None:
        self.able_since = self.since = 0.0
        self.bytes = self.tries = 0
        self.is_asked = self.is_late = False
        self.again = self.retry = inf


@implementer(IReceiver)
class Link:
    """One connection's place in the node. Made when the socket is accepted, before TLS, upgrade or Hello."""

    __slots__ = (
        "_due",
        "_left",
        "_pauses",
        "_rare",
        "clogged",
        "codec",
        "connection",
        "desk",
        "heard",
        "number",
        "session",
        "state",
        "token_deadline",
        "wire",
    )

    def __init__(self, connection: IConnection, desk: Desk) -> None:
        self.connection = connection
        self.desk = desk
        self.number = 0  # from the first thing that is told of it on, and from its session on
        self.state = LinkState.CONNECTED
        self.session: Session | None = None
        self.wire: Any = None
        self.heard = desk.heard()
        self.token_deadline = 0.0
        self.clogged = False
        self.codec: ICodec | Any = None  # the translator of this connection, from `opened` on
        self._left: list[bytes | Iterator[Said]] | None = None
        self._pauses = 0
        self._rare: Rare | None = None
        self._due = desk.arm(self.heard + desk.limits.login_timeout_s, self)
        if not connection.stream:
            connection.max_message_bytes = desk.limits.login_bytes

    def about(self) -> dict[str, Any]:
        """The fields by which log lines tell links and sessions apart. `trace` is unique among all
        processes."""
        if not self.number:
            self.number = self.desk.number()
        # One that no session gave counts down: an n stands for its minus, for it is no mistake.
        number = f"{self.number:x}".replace("-", "n")
        fields = {
            "trace": f"{self.desk.incarnation}.{number}",
            "peer": self.connection.peer,
            "wire": self.wire_name,
        }
        if self.session is not None:
            fields["session"] = address_text(Address("device", *self.session.key))
        return fields

    # ------------------------------------------------------------------------------------------- from below

    def opened(self, wire: IProtocolAdapter) -> None:
        """The transport has greeted; now the client must."""
        if self.state is LinkState.CLOSED:
            return
        self.state = after(self.state, Event.OPENED)
        self.wire = wire
        self.codec = wire.codec(self.connection.stream, self._max_frame_bytes())

    def received(self, data: bytes) -> None:
        """A chunk or a message came in."""
        desk = self.desk
        self.heard = desk.heard()
        if self._rare is not None:
            self._rare.is_asked = False
        desk.counters.bytes_in += len(data)
        if self.state is not OPEN:
            if self.state is CLOSED:
                return
            if not desk.arrived(self, len(data)):
                self.fail(FrameTooLarge("more than may be sent before Welcome"))
                return
        elif not self.wire.traits.acks:
            desk.heard_without_acks(self)
        if self._pauses:
            self._stop_reading().append(data)
        else:
            self._run(data)
            if self._left is not None:
                self._settle()

    def pause_sending(self) -> None:
        """The socket did not take everything: from now on only control frames go in.

        What is left of this turn counts as control frames as far as it cannot be deliveries.
        """
        if not self.clogged:
            self.clogged = True
            left = self.connection.unsent()
            if self.session is not None:
                left -= self.session.bytes_unacked()
                self.session.clog_all()
            if left > 0:
                self._unsent_control(left)

    def resume_sending(self) -> None:
        """The socket took everything."""
        if self.clogged:
            self.clogged = False
            rare = self._made_rare()
            rare.bytes, rare.able_since = 0, self.desk.now()
            self.desk.writable(self)
            self.resume(Pause.CONTROL)

    def lost(self, reason: str, code: int = CloseCode.LOST) -> None:
        """The connection is gone."""
        if code != CloseCode.LOST and self.state is not LinkState.CLOSED:
            self._blame(code, reason)
        self._end(code, reason)
        self.desk.gone(self)

    # --------------------------------------------------------------------------------------------- inwards

    def _run(self, data: bytes | Iterator[Said]) -> None:
        """Decode `data`, or go on with the frames that are left of it: each goes to the desk, until somebody
        says pause."""
        self._pauses |= RUNNING
        answers = self.desk.answers
        try:
            frames = self.codec.receive(data) if isinstance(data, bytes) else data
            for frame in frames:
                answer = answers.get(type(frame))
                if answer is not None and self.state is OPEN:
                    answer(self, self.session, frame)
                elif isinstance(frame, bytes):
                    self.send_bytes(frame)
                elif self.state is OPEN:
                    raise UnexpectedFrame(f"a client does not send {FRAME_NAMES[type(frame)]}")
                else:
                    self._greeting(frame)
                if self._pauses != RUNNING:
                    if self._left is not None:  # else it was closed
                        self._left.insert(bool(self._pauses & RESTORED), frames)
                        self._pauses &= ~RESTORED
                    return
        except LinkError as error:
            self.fail(error)
        except Exception:
            log.failure("a frame could not be handled", **self.about())
            self.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            self._pauses -= RUNNING

    def _greeting(self, frame: Frame | Keep) -> None:
        if isinstance(frame, Hello):
            self.state = after(self.state, Event.HELLO)
            self.pause(Pause.LOGIN)
            self.desk.greeted(self, frame)
        elif isinstance(frame, Bye):
            self.leave(frame)
        else:
            self.state = after(self.state, Event.FRAME)

    def pause(self, why: Pause) -> None:
        """Stop reading for a reason."""
        self._pauses |= why
        self._stop_reading()

    def resume(self, why: Pause) -> None:
        """A reason is gone; with the last one reading goes on where it stopped."""
        if self._pauses & why:
            self._pauses -= why
            if self.token_deadline and why & self._servers():
                self._expire_late()
            if not self._pauses:
                self.heard = self.desk.heard()
                self._settle()

    def owe(self, wait_s: float) -> None:
        """More was taken than its user's quota has: read on when that is paid, in `wait_s` seconds."""
        self.desk.counters.quota_waits += 1
        self.pause(Pause.QUOTA)
        self.desk.arm(self.desk.now() + wait_s, lambda now: self.resume(Pause.QUOTA))

    def _stop_reading(self) -> list[bytes | Iterator[Said]]:
        """From here until it is read on there is a list, of what is left to do before."""
        if self._left is None:
            self._left = []
            self.connection.pause_reading()
        return self._left

    def _settle(self) -> None:
        """Take what waits here, in order; then, if nothing stands against it, read on."""
        while not self._pauses and self._left is not None:
            if self._left:
                self._run(self._left.pop(0))
            else:
                self._left = None
                self.connection.resume_reading()

    def take_first(self, frames: Iterable[Said]) -> None:
        """These before all else that is yet to be taken: as if the client had sent them. The link is
        paused."""
        self._stop_reading().insert(0, iter(frames))
        if self._pauses & RUNNING:
            self._pauses |= RESTORED

    def paused(self) -> bool:
        return bool(self._pauses)

    # -------------------------------------------------------------------------------------------- outwards

    def expire_token(self, deadline: float) -> None:
        """Close at `deadline` on the node's clock unless a later one is set by then; 0.0: never.

        While a server is waited for it stays: nobody could renew in time then.
        """
        self.token_deadline = deadline
        if self._rare is not None:
            self._rare.is_late = False
        if deadline:
            self._look_at(deadline)

    def _servers(self) -> int:
        """Waiting for these keeps a token from ending."""
        is_late = self._rare is not None and self._rare.is_late
        return BEHIND_AGAIN if is_late else BEHIND

    def _is_behind(self) -> bool:
        """A fresh token may be there, and could not be taken yet."""
        return bool(self._pauses & self._servers())

    def _expire_late(self) -> None:
        """A server has answered: if the token ended meanwhile, the time for a fresh one begins."""
        now = self.desk.now()
        if now >= self.token_deadline and not self._is_behind():
            self._made_rare().is_late = True
            self.token_deadline = now + LATE_S
            self._look_at(self.token_deadline)

    def accepted(self) -> None:
        """The login is over; frames may be exchanged. The caller sends Welcome, then resumes LOGIN."""
        self.state = after(self.state, Event.ACCEPTED)
        if not self.number and self.session is not None:
            self.number = self.desk.number(self.session.generation)
        if not self.connection.stream:
            self.connection.max_message_bytes = self._max_frame_bytes()
        # Its greeting may have set a limit that comes early; what else may come waits for the first look.
        heartbeat_s = self.desk.session.heartbeat_s
        if self.heard + min(self.codec.silence_s or heartbeat_s, heartbeat_s) < self._due:
            self._look_at(self._next(self.desk.now()))

    def _max_frame_bytes(self) -> int:
        carriage: Carriage = self.wire.carriage
        limit = self.desk.max_frame_bytes
        if carriage.expansion != 1:  # times one it would be an object of its own
            limit *= carriage.expansion
        return min(limit, carriage.max_frame_bytes)

    @property
    def wire_name(self) -> str:
        """For logs and counters; "" before `opened`."""
        return "" if self.wire is None else self.wire.name

    def refuse(self, frame: Seen | Pull | Subscribe | Unsubscribe, code: RefusedCode, reason: str) -> None:
        """It was understood and is not obeyed; the link goes on."""
        self.desk.counters.refused[code] += 1
        self.send(Refused(FRAME_NAMES[type(frame)], address_text(frame.address), code, reason))
        if self.codec.puts_off():
            self._retry_later()

    def _retry_later(self) -> None:
        """Its codec asks once more, after a while."""
        rare = self._made_rare()
        if rare.retry == inf:
            rare.retry = self.desk.now() + self.desk.retry_wait(rare.tries)
            rare.tries += 1
            self._look_at(rare.retry)

    def _retry(self, rare: Rare) -> None:
        rare.retry = inf
        # Behind what waits here: its answers are in the order in which the codec was asked.
        self._stop_reading().append(self.codec.retry())
        self._settle()

    def send(self, frame: Frame) -> bool:
        """Send a control frame; whether wire and transport can carry it. What they cannot is dropped."""
        try:
            data = self.codec.encode(frame)
        except Exception:
            log.failure("the codec of {wire} raised", **self.about())
            self.drop(CloseCode.INTERNAL_ERROR, "internal error")
            return False
        if type(data) is tuple:
            for part in data:
                self.send_bytes(part)
            return True
        if not data or 0 < self.connection.max_send_bytes < len(data):
            return False
        self.send_bytes(data)
        return True

    def is_too_large(self, data: bytes) -> bool:
        """Whether the transport cannot carry this as one message."""
        limit: int = self.connection.max_send_bytes
        return 0 < limit < len(data)

    def send_bytes(self, data: bytes) -> None:
        """Send an encoded control frame; count it while the peer does not read."""
        self.connection.send(data)
        self.desk.counters.bytes_out += len(data)
        if self.clogged and self._unsent_control(len(data)) >= self.desk.limits.control_abort_bytes:
            self.drop(CloseCode.SLOW_READER, "it does not read its answers")

    def _unsent_control(self, size: int) -> int:
        rare = self._made_rare()
        if not rare.bytes:
            rare.since = self.desk.now()
            self._look_at(rare.since + self.desk.limits.control_abort_s)
        rare.bytes += size
        if rare.bytes >= self.desk.limits.control_pause_bytes:
            self.pause(Pause.CONTROL)
        return rare.bytes

    def _made_rare(self) -> Rare:
        if self._rare is None:
            self._rare = Rare()
        return self._rare

    def deliver(self, data: bytes, log: LogKey | None) -> None:
        """Send an encoded Deliver of a log; the caller has made sure that the link is not clogged."""
        self.connection.send(data, log)
        self.desk.counters.bytes_out += len(data)

    def expect_ack(self, now: float) -> None:
        """A delivery went out that wants an acknowledgement."""
        traits = self.wire.traits
        if not traits.acks:
            return
        if traits.resend_s:
            rare = self._made_rare()
            if rare.again > now + traits.resend_s:
                rare.again = now + traits.resend_s
                self._look_at(rare.again)
        if traits.ack_timeout_s and now + traits.ack_timeout_s / 2 < self._due:
            self._look_at(now + traits.ack_timeout_s / 2)

    def _send_again(self, rare: Rare, now: float) -> None:
        """What the wire wants sent once more, unless the peer cannot take it, or only just can, or we do not
        hear it."""
        able_since = now if self._pauses or self.clogged else rare.able_since
        if now < able_since + self.wire.traits.resend_s:
            rare.again = able_since + self.wire.traits.resend_s
            return
        try:
            data, rare.again = self.codec.again(now)
        except LinkError as error:
            self.fail(error)
            return
        except Exception:
            log.failure("the codec of {wire} raised", **self.about())
            self.drop(CloseCode.INTERNAL_ERROR, "internal error")
            return
        if data:
            self.deliver(data, None)

    # ------------------------------------------------------------------------------------------------- end

    def fail(self, error: LinkError) -> None:
        """Close with the error's own code."""
        if isinstance(error, ProtocolError):
            self._blame(error.code, error.reason)
        detail = error.detail if isinstance(error, LoginRefused) else 0
        self.close(error.code, error.reason, error.retry_after_s, detail=detail)

    def _blame(self, code: int, reason: str) -> None:
        self.desk.counters.protocol_errors[self.wire_name] += 1
        remark = self.desk.remark()
        if remark is not None:
            log.info("closed for what it sent: {reason}", reason=reason, code=code, **remark, **self.about())

    def _miss(self) -> None:
        """It did not log in in time."""
        remark = self.desk.remark()
        if remark is not None:
            log.info(
                "no login in time: waited for {waited_for}",
                waited_for=WAITED_FOR[self.state],
                code=CloseCode.LOGIN_TIMEOUT,
                **remark,
                **self.about(),
            )
        self.close(CloseCode.LOGIN_TIMEOUT, "no login in time")

    def close(
        self,
        code: int,
        reason: str = "",
        retry_after_s: float = 0.0,
        endpoints: tuple[str, ...] = (),
        detail: int = 0,
    ) -> None:
        """Say Bye, flush for up to 2 s, close. The session is told at once, the socket follows."""
        if self.state is LinkState.CLOSED:
            return
        if self.codec is not None:
            # This may drop it instead.
            self.send(Bye(code, reason, int(retry_after_s * 1000), endpoints, detail))
        self._end(code, reason)
        self.connection.close(code)

    def leave(self, bye: Bye) -> None:
        """The client said goodbye; it gets no answer. Unless it says NORMAL it goes as if it were lost."""
        if bye.code == CloseCode.NORMAL:
            self._end(CloseCode.NORMAL, "the client left")
        else:
            self._end(CloseCode.LOST, "the client left, and may come back")
        self.connection.close(CloseCode.NORMAL)

    def broken(self, failure: Failure) -> None:
        """Something that must not fail did: log it and close, so that the client comes again."""
        if self.state is CLOSED and failure.check(CancelledError):
            return  # the node stops: it has sent everybody away, and then its store
        log.failure("internal error", failure, **self.about())
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def drop(self, code: int, reason: str) -> None:
        """End without a word and without a flush."""
        self._end(code, reason)
        self.connection.abort()

    def _end(self, code: int, reason: str) -> None:
        if self.state is LinkState.CLOSED:
            return
        self.state = after(self.state, Event.LOST if code == CloseCode.LOST else Event.BYE)
        self._pauses |= Pause.CLOSED
        self._left = None
        self.desk.closed(self, code, reason)
        self.session = None

    # ------------------------------------------------------------------------------------------- deadlines

    # One list slot at the wheel wakes a link for whatever comes first; only what is due before that takes
    # another. So deadlines that come and go, such as those of acknowledgements, do not pile up there.

    def _look_at(self, due: float) -> None:
        """Look at the deadlines at `due`, unless that is done before anyhow."""
        if due < self._due:
            self._due = self.desk.arm(due, self)

    def __call__(self, now: float) -> None:
        """The wheel wakes the link: look at every deadline, arm the next one. Harmless at any time."""
        # An entry of the wheel that an earlier one has overtaken finds its work done.
        if self.state is LinkState.CLOSED or now < self._due:
            return
        if self.state is not LinkState.OPEN:
            self._miss()
            return
        if self._pauses:
            self.heard = now  # we are not listening, so silence proves nothing
        if self._pauses or self.clogged:
            self._made_rare().able_since = now
        self._check(now)
        if self.state is LinkState.OPEN:
            self._due = inf
            self._look_at(self._next(now))

    def _silence_s(self) -> float:
        """How long silence is taken for life: the wire's own limit, or the node's."""
        limit: float = self.codec.silence_s or self.desk.session.dead_s
        return limit

    def _ask_s(self) -> float:
        """When a silent peer is asked: half way between its heartbeat and its end."""
        return (self.desk.session.heartbeat_s + self.desk.session.dead_s) / 2

    def _ack_due(self) -> float | None:
        """When the oldest delivery must be acknowledged; the time counts while the peer can take it and we
        listen. None: nothing is owed."""
        traits = self.wire.traits
        timeout: float = traits.ack_timeout_s
        since = self.session.oldest_unacked() if self.session is not None else None
        if since is None or not timeout or not traits.acks:
            return None
        return (since if self._rare is None else max(since, self._rare.able_since)) + timeout

    def _wait_for_transport(self, now: float) -> None:
        """A delivery that has not arrived cannot be acknowledged: until the transport says that it has, the
        time counts from the last sign of life. And it does not count while answers may be unread."""
        connection = self.connection
        if connection.is_behind():
            self._made_rare().able_since = now
        elif now - self.heard < self.wire.traits.ack_timeout_s and connection.unacked():
            rare = self._made_rare()
            rare.able_since = max(rare.able_since, self.heard)

    def _next(self, now: float) -> float:
        rare = self._rare
        due: float = self.heard + self._silence_s()
        if self.wire.traits.pings and not (rare is not None and rare.is_asked):
            due = min(due, self.heard + self._ask_s())
        if self.token_deadline and not (now >= self.token_deadline and self._is_behind()):
            due = min(due, self.token_deadline)
        ack_due = self._ack_due()
        if ack_due is not None:
            # Half way it is looked whether it has arrived; from there on the time is enough for an answer.
            half_way = ack_due - self.wire.traits.ack_timeout_s / 2
            due = min(due, half_way if now < half_way else ack_due)
        if rare is not None:
            due = min(due, rare.again, rare.retry)
            if rare.bytes:
                due = min(due, rare.since + self.desk.limits.control_abort_s)
        return max(due, now)

    def _check(self, now: float) -> None:
        ack_due = self._ack_due()
        if ack_due is not None and now >= ack_due - self.wire.traits.ack_timeout_s / 2:
            self._wait_for_transport(now)
            ack_due = self._ack_due()
        rare = self._rare
        silent = now - self.heard
        if self.token_deadline and now >= self.token_deadline and not self._is_behind():
            self.close(CloseCode.TOKEN_EXPIRED, "the token expired and was not renewed")
        elif rare is not None and rare.bytes and now - rare.since >= self.desk.limits.control_abort_s:
            self.drop(CloseCode.SLOW_READER, "its answers are unsent for too long")
        elif silent >= self._silence_s():
            self.close(CloseCode.HEARTBEAT_TIMEOUT, "silent for too long")
        elif ack_due is not None and now >= ack_due:
            self.close(CloseCode.ACK_TIMEOUT, "deliveries were not acknowledged in time")
        elif self.wire.traits.pings and silent >= self._ask_s() and not self._made_rare().is_asked:
            self._made_rare().is_asked = True
            self.send(Ping())
        if rare is not None and rare.again <= now and self.state is LinkState.OPEN:
            self._send_again(rare, now)
        if rare is not None and rare.retry <= now and self.state is LinkState.OPEN:
            self._retry(rare)
