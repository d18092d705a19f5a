"""One connection of a client, from its Hello to its end: codec, greeting, heartbeat, goodbye.

It knows nothing of messages. What comes after Welcome goes to `on_frame`; how it ended, and what that asks
for, comes out of `gone`, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from imgateway.errors import CloseCode, LinkError, UnexpectedFrame
from imgateway.frames import FRAME_ROOM, RING_KINDS, Bye, Deliver, Frame, Hello, Limits, Ping, Pong, Welcome
from imgateway.interfaces import IReceiver
from imgateway.wire.reading import opened

__all__ = ("Ended", "Link")

# Something is said this much sooner than Welcome asks, for frames take time to arrive.
EARLY = 0.9
# Silence for this many heartbeats means that the peer is gone: the gateway's own measure.
DEAD = 2.5
# A gateway takes 8,192 bytes before Welcome if it is not told otherwise.
MAX_HELLO_BYTES = 8_000


class Ended(Struct, frozen=True):
    """How a link ended. `code` is a CloseCode, or a later gateway's number: its range counts."""

    code: int
    reason: str = ""
    retry_after_s: float = 0.0
    endpoints: tuple[str, ...] = ()


@implementer(IReceiver)
class Link:
    """:param on_welcome: the gateway let us in; called before any later frame is looked at.

    :param on_frame: takes every frame after Welcome that the link does not need itself.

    :param on_writable: the connection that was clogged is not any more.

    :param heartbeat_s: how often to say something if Welcome does not tell; 0: never.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        now: Callable[[], float],
        wire: Any,
        hello: Hello,
        on_welcome: Callable[[Welcome], None],
        on_frame: Callable[[Frame], None],
        on_writable: Callable[[], None],
        login_timeout_s: float,
        heartbeat_s: float = 0.0,
    ) -> None:
        self._reactor = reactor
        self._now = now
        self._wire = wire
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_frame = on_frame
        self._on_writable = on_writable
        self._connection: Any = None
        self._codec: Any = None
        self._early: list[bytes] = []
        self._heartbeat_s = heartbeat_s
        self._heard = self._sent = self._pinged = self._now()
        self._ended: Ended | None = None
        self.clogged = False
        self._welcomed = False
        self._most_bytes = 0  # of a frame; 0: whatever the wire can carry
        self.gone: Deferred[Ended] = Deferred()
        self.closed: Deferred[None] = Deferred()
        """The connection itself is gone too."""
        self._timer = reactor.callLater(login_timeout_s, self._too_late)

    # ----------------------------------------------------------------------------------------- IReceiver

    def opened(self, wire: Any) -> None:
        self._wire = wire

    def received(self, data: bytes) -> None:
        if self._codec is None:
            self._early.append(data)
            return
        self._heard = self._now()
        try:
            for frame in self._codec.receive(data):
                if self._ended is not None:
                    return
                if isinstance(frame, bytes):
                    self._write(frame)
                else:
                    self._take(frame)
        except LinkError as error:
            # Our verdict on the gateway's bytes and not the gateway's on us: the range of its code is not for
            # us.
            self.end(Ended(CloseCode.LOST, f"the gateway's bytes are wrong: {error}"), error.code)
        except Exception:
            self._log.failure("a frame from the gateway could not be dealt with")
            self.end(Ended(CloseCode.LOST, "could not deal with a frame"), CloseCode.INTERNAL_ERROR)

    def pause_sending(self) -> None:
        self.clogged = True

    def resume_sending(self) -> None:
        self.clogged = False
        self._on_writable()

    def lost(self, reason: str, code: int = CloseCode.LOST) -> None:
        self.end(Ended(CloseCode.LOST, reason))
        if not self.closed.called:
            self.closed.callback(None)

    # ------------------------------------------------------------------------------------------- the owner

    def attach(self, connection: Any) -> None:
        """The transport connected: greet."""
        if self._ended is not None:
            connection.abort()
            return
        self._connection = connection
        self._codec = self._wire.codec(connection.stream, self._wire.carriage.max_frame_bytes)
        self.send(self._fitting(self._hello))
        early, self._early = self._early, []
        for data in early:
            self.received(data)

    def _fitting(self, hello: Hello) -> Hello:
        """Fewer rooms, if it is more than the gateway or the transport takes: they can be subscribed to."""
        limit = getattr(self._connection, "max_first_bytes", 0) or MAX_HELLO_BYTES
        rest = tuple(point for point in hello.resume if point.address.kind not in RING_KINDS)
        rooms = tuple(point for point in hello.resume if point.address.kind in RING_KINDS)
        while rooms and len(self._codec.encode(hello) or b"") > limit:
            rooms = rooms[: len(rooms) // 2]
            hello = replace(hello, resume=rest + rooms)
        return hello

    def send(self, frame: Frame) -> bool:
        """False: the wire cannot say it, the transport not carry it, or the gateway does not take so much in
        one frame; `unfit` says which. Nothing happens once the link has ended."""
        if self._ended is not None:
            return True
        data = self._codec.encode(frame)
        if data is None:
            return False
        if 0 < self._connection.max_send_bytes < len(data) or 0 < self._most_bytes < len(data):
            return False
        self._write(data)
        return True

    def unfit(self, frame: Frame) -> str:
        """Why `send` said False to this."""
        data = self._codec.encode(frame)
        limits = (self._connection.max_send_bytes, self._most_bytes, self._wire.carriage.max_frame_bytes)
        most = min(limit for limit in limits if limit > 0)
        size = "this is more, or nothing that its wire can say" if data is None else f"this has {len(data)}"
        return f"this connection cannot carry it: a frame may have {most} bytes here, and {size}"

    def _most(self, limits: Limits) -> int:
        """What the gateway takes in one frame, for it calls more an error of the link. A stream's length
        before the frame counts here as well, so that up to three bytes less are sent there."""
        carriage = self._wire.carriage
        most: int = (limits.max_body_bytes + FRAME_ROOM) * carriage.expansion
        return min(most, carriage.max_frame_bytes) if limits.max_body_bytes else 0

    def close(self) -> None:
        """Say goodbye and leave."""
        if self._connection is not None:
            self.send(Bye(CloseCode.NORMAL))
        self.end(Ended(CloseCode.NORMAL))

    def end(self, how: Ended, close_code: int | None = None) -> None:
        """The link is over, whichever way comes first; `close_code`: what the peer is told, if it differs."""
        if self._ended is not None:
            return
        self._ended = how
        if self._timer.active():
            self._timer.cancel()
        if self._connection is not None:
            if how.code == CloseCode.HEARTBEAT_TIMEOUT:
                self._connection.abort()
            else:
                self._connection.close(how.code if close_code is None else close_code)
        self.gone.callback(how)

    # --------------------------------------------------------------------------------------------- frames

    def _write(self, data: bytes) -> None:
        if data:
            self._sent = self._now()
            self._connection.send(data)

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Bye):
            self.end(Ended(frame.code, frame.reason, frame.retry_after_ms / 1000, frame.endpoints))
        elif isinstance(frame, Ping):
            self.send(Pong(frame.nonce, frame.time_ms))
        elif isinstance(frame, Pong):
            pass
        elif isinstance(frame, Welcome) == self._welcomed:
            raise UnexpectedFrame(f"{type(frame).__name__} at the wrong time")
        elif isinstance(frame, Welcome):
            self._timer.cancel()
            self._welcomed = True
            self._most_bytes = self._most(frame.limits)
            self._heartbeat_s = frame.heartbeat_s or self._heartbeat_s
            self._beat()
            self._on_welcome(frame)
        elif isinstance(frame, Deliver):
            limit = self._wire.carriage.max_frame_bytes
            self._on_frame(opened(frame, self._hello.compressions, limit))
        else:
            self._on_frame(frame)

    def _too_late(self) -> None:
        self.end(Ended(CloseCode.LOGIN_TIMEOUT, "no Welcome in time"))

    # ------------------------------------------------------------------------------------------ heartbeat

    def _beat(self) -> None:
        """Ping when nothing was said, or heard, for a heartbeat; give up when nothing is heard for long."""
        every = self._heartbeat_s * EARLY
        if self._ended is not None or every <= 0:
            return
        now = self._now()
        dead = self._heard + self._heartbeat_s * DEAD
        if now >= dead:
            self.end(Ended(CloseCode.HEARTBEAT_TIMEOUT, "the gateway is silent"))
            return
        if now >= min(self._sent, max(self._heard, self._pinged)) + every:
            self._pinged = now
            self.send(Ping(0, int(self._reactor.seconds() * 1000)))
        due = min(dead, min(self._sent, max(self._heard, self._pinged)) + every)
        self._timer = self._reactor.callLater(max(0.0, due - now), self._beat)
