"""WebSocket messages over a byte stream, with Autobahn as the parser.

`MessageConnection` sits between two faces that it shares with everything else: to the stream it is the
receiver, to the core it is the connection. Autobahn's protocol object is a detail inside: it is fed bytes,
its writes go into the stream's collected ones, and it calls the few methods below.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import Any

from autobahn.twisted.websocket import WebSocketClientProtocol, WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats
from autobahn.websocket.types import ConnectionDeny
from twisted.logger import Logger
from zope.interface import implementer

from imgateway.errors import CloseCode
from imgateway.interfaces import IConnection, IReceiver

from .stream import StreamConnection
from .upgrade import Asked, Refusal, choose

__all__ = ("MessageConnection", "Terms")

log = Logger()

GREETING_BYTES = 8192
"""The longest HTTP request or answer of an upgrade."""
SLICE_BYTES = 4096
"""How much Autobahn parses at a time: it copies what is left of its buffer for every
frame, and a paused connection holds the messages of one slice at most."""
SLICES_A_TURN = 4
"""A read full of tiny messages costs 60 ms; after so many slices the others get their turn."""
HEAD_BYTES = 14
"""The most that a frame has beside its payload."""
CLOGGED_BYTES = 65_536
"""With so much unsent, a peer that pings on gets no more pongs."""

BINARY, TEXT = 0x82, 0x81


class Terms:
    """What the connections of one listener, or one attempt to connect, share.

    :param factory: Autobahn's, which holds its settings.
    """

    def __init__(self, factory: Any, wires: Any, origins: Any = ()) -> None:
        self.factory = factory
        self.parser = _parser(factory)
        self.wires = wires
        self.origins = origins
        self._framed: tuple[int, bytes, bytes] = (0, b"", b"")

    def framed(self, opcode: int, data: bytes) -> bytes:
        """A server's frame: not masked, so the same bytes go to everybody; a fan-out frames them once."""
        last_opcode, last_data, last = self._framed
        if data is last_data and opcode == last_opcode:
            return last
        size = len(data)
        if size < 126:
            frame = bytes((opcode, size)) + data
        elif size < 65_536:
            frame = struct.pack("!BBH", opcode, 126, size) + data
        else:
            frame = struct.pack("!BBQ", opcode, 127, size) + data
        self._framed = (opcode, data, frame)
        return frame


@implementer(IConnection, IReceiver)
class MessageConnection:
    """One WebSocket, either end. `receiver` may be replaced at any time by whoever was given this
    connection.
    """

    __slots__ = (
        "__weakref__",
        "_arrived",
        "_client",
        "_ended",
        "_fault",
        "_message",
        "_opcode",
        "_open",
        "_reading",
        "_reason",
        "_strange",
        "_stream",
        "_terms",
        "_unparsed",
        "_wire",
        "_ws",
        "max_message_bytes",
        "receiver",
    )

    carrier = "websocket"
    stream = False
    max_send_bytes = 0

    def __init__(self, stream: StreamConnection, terms: Terms, receiver: Any = None) -> None:
        self.receiver = receiver
        self.max_message_bytes = 0  # set by the core for the time before the login; 0: the wire's own limit
        self._stream = stream
        self._terms = terms
        self._wire: Any = None
        self._opcode = BINARY
        self._client = not terms.factory.isServer
        self._ws: Any = terms.parser()
        self._ws.owner = self
        self._ws.factory = terms.factory
        self._open = False  # the receiver was told
        self._ended = False  # closed, aborted or failed: nothing more goes in or out
        self._fault: CloseCode | None = None
        self._reason = ""
        self._strange = 0  # bytes of the upgrade so far, then those behind it; -1: the peer is proven
        self._unparsed = b""
        self._message: bytearray | None = None  # of the message that is coming in
        self._arrived: list[bytes] = []  # whole messages of one slice
        self._reading = True

    # ---------------------------------------------------------------------------------- what the core calls

    @property
    def peer(self) -> str:
        return self._stream.peer

    @property
    def source(self) -> str:
        return self._stream.source

    @property
    def secure(self) -> bool:
        return self._stream.secure

    def send(self, data: bytes, order: Hashable | None = None) -> None:
        if self._ended or not self._open:
            return
        if self._client:
            # The peer may have said goodbye behind what is being read: nobody hears us, and Autobahn raises.
            if self._ws.state == self._ws.STATE_OPEN:
                self._ws.sendMessage(data, isBinary=self._opcode == BINARY)
        else:
            self._stream.send(self._terms.framed(self._opcode, data))

    def unsent(self) -> int:
        return self._stream.unsent()

    def unacked(self) -> int | None:
        return self._stream.unacked()

    def is_behind(self) -> bool:
        return False

    def has_left(self) -> bool:
        return False

    def proven(self) -> None:
        self._strange = -1

    def pause_reading(self) -> None:
        self._reading = False
        self._stream.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if self._arrived or self._unparsed:
                # Not from within: whoever resumes may be in the middle of a message.
                self._stream.later(self._work)
            else:
                self._stream.resume_reading()

    def close(self, code: int, flush_s: float = 2.0) -> None:
        if self._ended:
            return
        if self._open:
            # Not sendClose, which thinks that 1009 is its own alone to say.
            self._ws.sendCloseFrame(*_status(self._wire.carriage.bye, code))
        self._end(int(code), flush_s)

    def abort(self) -> None:
        self._ended = True
        self._stream.abort()

    def _end(self, code: int, flush_s: float = 2.0) -> None:
        self._ended = True
        self._arrived.clear()
        self._unparsed = b""
        self._stream.close(code, flush_s)

    # -------------------------------------------------------------------------------- what the stream calls

    def opened(self, wire: Any) -> None:
        self._ws.makeConnection(_Transport(self._stream))

    def received(self, data: bytes) -> None:
        if self._ended or (self._strange >= 0 and self._open and self._is_too_much(len(data))):
            return
        self._unparsed = self._unparsed + data if self._unparsed else data
        self._work()

    def pause_sending(self) -> None:
        if self._open and not self._ended:
            self.receiver.pause_sending()

    def resume_sending(self) -> None:
        if self._open and not self._ended:
            self.receiver.resume_sending()

    def lost(self, reason: str, code: int = CloseCode.LOST) -> None:
        receiver, self.receiver = self.receiver, None
        # Autobahn's object refers to ours and, through its Deferreds, to itself.
        vars(self._ws).clear()
        self._ws = None
        self._ended = True
        if receiver is not None:
            receiver.lost(self._reason or reason, self._fault or code)

    # ---------------------------------------------------------------------------------------------- reading

    def _work(self) -> None:
        """Hand out what arrived, a slice at a time, as long as the receiver wants it."""
        slices = 0
        while self._reading and not self._ended:
            if self._arrived:
                self.receiver.received(self._arrived.pop(0))
            elif self._unparsed:
                if slices == SLICES_A_TURN:
                    self._stream.pause_reading()
                    self._stream.later(self._work)
                    return
                slices += 1
                part, self._unparsed = self._unparsed[:SLICE_BYTES], self._unparsed[SLICE_BYTES:]
                self._feed(part)
            else:
                self._stream.resume_reading()
                return

    def _feed(self, data: bytes) -> None:
        ws = self._ws
        if not self._open:
            self._strange += len(data)
        try:
            # Not dataReceived, which before it calls this spends 3.5 µs on colours for a debug log.
            ws._dataReceived(data)
        except Exception as error:  # Autobahn lets its parsers' exceptions out for some broken greetings
            if not ws.failedByMe:
                self._reason = self._reason or f"broken WebSocket: {type(error).__name__}"
                self._fault = CloseCode.BAD_FRAME
                self.abort()
        if self._ended:
            return
        if ws.state == ws.STATE_OPEN:
            if not self._open:
                self._open = True
                behind = self._strange - len(ws.http_request_data) + len(self._unparsed)
                self._strange = -1 if self._client else 0
                _keep_little(ws)
                self.receiver.opened(self._wire)
                if self._strange >= 0 and self._is_too_much(behind):
                    return
            if self._fault is not None:
                self._last_messages()
                self.close(self._fault)
        elif ws.state == ws.STATE_CONNECTING:
            if self._strange > GREETING_BYTES:
                self._reason = "the HTTP header of the upgrade is too large"
                self._fault = CloseCode.FRAME_TOO_LARGE
                if not self._client:
                    ws.failHandshake("header too large", 431)
                self._end(CloseCode.FRAME_TOO_LARGE)
        else:
            # The peer said goodbye, or Autobahn did for it: what was sent goes out, then the stream ends.
            self._last_messages()
            self._reason = self._reason or _goodbye(ws)
            self._end(CloseCode.NORMAL)

    def _is_too_much(self, size: int) -> bool:
        """So many bytes more came from a peer that is not proven. If that is more than may come, this is the
        end: its pings count, and what waits here while it is being checked."""
        self._strange += size
        if not self.max_message_bytes or self._strange <= self.max_message_bytes + HEAD_BYTES:
            return False
        self._fail(CloseCode.FRAME_TOO_LARGE, "more than may be sent before the login")
        self.close(CloseCode.FRAME_TOO_LARGE)
        return True

    def _last_messages(self) -> None:
        """What came whole before the end counts, paused or not: it was read already."""
        while self._arrived and self._open and not self._ended:
            self.receiver.received(self._arrived.pop(0))

    def _fail(self, code: CloseCode, reason: str) -> None:
        """The peer broke the wire's rules; acted upon when the slice is parsed."""
        if not self._deaf():
            self._fault = code
            self._reason = f"{reason} ({code.name})"

    # ------------------------------------------------------------------------- what Autobahn's object tells

    def asked(self, request: Any) -> str | None:
        """The client's upgrade: the subprotocol to answer with."""
        asked = Asked(request.path, request.host, request.origin or "", request.protocols)
        try:
            self._wire, subprotocol = choose(self._terms.wires, asked, self._terms.origins)
        except Refusal as refusal:
            log.info(
                "upgrade refused",
                status=refusal.status,
                reason=refusal.reason,
                path=asked.path,
                origin=asked.origin,
                peer=self.peer,
            )
            raise ConnectionDeny(refusal.status, refusal.reason) from None
        self._opcode = TEXT if self._wire.carriage.text else BINARY
        return subprotocol

    def answered(self, subprotocol: str | None) -> None:
        """The server's answer. Which wire it is was ours to say."""
        self._wire = self._terms.wires[0]
        self._opcode = TEXT if self._wire.carriage.text else BINARY

    def message_begins(self, binary: bool) -> None:
        self._message = bytearray()
        if binary != (self._opcode == BINARY):
            self._fail(CloseCode.BAD_FRAME, "text where binary is spoken, or the other way round")

    def frame_begins(self, length: int) -> None:
        limit = self._wire.carriage.max_frame_bytes
        if self.max_message_bytes:
            limit = min(limit, self.max_message_bytes)
        if len(self._message or b"") + length > limit:
            self._fail(CloseCode.FRAME_TOO_LARGE, "message too large")
        if not self._ws.current_frame.fin and not self._wire.carriage.fragments:
            self._fail(CloseCode.BAD_FRAME, "a message in parts where they come whole")

    def frame_data(self, payload: bytes) -> None:
        if self._message is not None and not self._deaf():
            self._message += payload

    def message_ends(self) -> None:
        if self._message is not None and not self._deaf():
            self._arrived.append(bytes(self._message))
        self._message = None

    def _deaf(self) -> bool:
        # Autobahn parses on after a violation, to find the peer's close frame, and tells what it finds.
        return self._ended or self._fault is not None or bool(self._ws.failedByMe)

    def may_pong(self) -> bool:
        return not self._deaf() and self._stream.unsent() < CLOGGED_BYTES


def _status(bye: str, code: int) -> tuple[int, bytes]:
    """The status and the reason of a close frame; `bye` as in `Carriage`."""
    if bye:
        return (1009, b"") if code == CloseCode.FRAME_TOO_LARGE else (1000, bye.encode())
    known = code in CloseCode.__members__.values()
    name = CloseCode(code).name.lower().replace("_", " ") if known else ""
    return 4000 + int(code), name.encode()


def _goodbye(ws: Any) -> str:
    if ws.failedByMe:
        return f"broken WebSocket (status {ws.localCloseCode})"
    if ws.remoteCloseCode is not None:
        return f"closed by the peer with status {ws.remoteCloseCode}"
    # From Autobahn, about the peer's HTTP: the peer's own bytes may be in it, so no line breaks.
    return " ".join(ws.wasNotCleanReason.split())[:200] if ws.wasNotCleanReason else "closed by the peer"


class _Transport:
    """The stream as Autobahn sees it. Closing is left to us, who look at its state after every slice."""

    __slots__ = ("_stream", "write")

    def __init__(self, stream: StreamConnection) -> None:
        self._stream = stream
        self.write = stream.send

    def getPeer(self) -> Any:
        return self._stream.transport.getPeer()

    def getHost(self) -> Any:
        return self._stream.transport.getHost()

    def loseConnection(self) -> None: ...

    def abortConnection(self) -> None: ...

    def unregisterProducer(self) -> None: ...


class _Quiet:
    """In the place of Autobahn's loggers: what matters reaches the core as the reason of `lost`."""

    def debug(self, *_: Any, **__: Any) -> None: ...

    info = warn = error = debug


class _Nobody:
    """In the place of Autobahn's Deferreds: nobody waits."""

    def callback(self, result: object) -> None: ...


class _Callbacks:
    """What we listen to of Autobahn's object; `owner` is the only name of ours on it."""

    owner: Any = None
    log = _Quiet()
    # For those that are open, instead of one of each for every connection.
    is_open = is_closed = _Nobody()
    trafficStats = TrafficStats()
    send_queue = ()  # for writes in parts, which we do not ask for

    def onMessageBegin(self, isBinary: bool) -> None:
        self.owner.message_begins(isBinary)

    def onMessageFrameBegin(self, length: int) -> None:
        self.owner.frame_begins(length)

    def onMessageFrameData(self, payload: bytes) -> None:
        self.owner.frame_data(payload)

    def onMessageFrameEnd(self) -> None: ...

    def onMessageEnd(self) -> None:
        self.owner.message_ends()

    def onPing(self, payload: bytes) -> None:
        if self.owner.may_pong():
            super().onPing(payload)  # type: ignore[misc]


_GREETING = frozenset(
    {
        *("is_open", "is_closed", "trafficStats", "send_queue", "peer", "_transport_details", "_wskey"),
        *("_valid_events", "_results", "websocket_protocols", "websocket_extensions"),
    }
)
"""What Autobahn's object has for its greeting alone, beside the HTTP; or has in its class, see above."""


def _keep_little(ws: Any) -> None:
    """Most of what Autobahn keeps of an open connection was for its greeting, or is the same for all: of that
    our class takes the one that there is. It is 3 KB of 6 that a connection takes."""
    kind, kept = type(ws), {}
    for name, value in vars(ws).items():
        if name in _GREETING or name.startswith("http_"):
            continue
        if value is None or value is False:
            if name not in vars(kind):
                setattr(kind, name, value)
            if vars(kind)[name] is value:
                continue
        kept[name] = value
    ws.__dict__ = kept


def _parser(factory: Any) -> type[Any]:
    """Autobahn's class with our settings in the class.

    It would copy 25 settings into every object and print them for a debug log that nobody reads: 350 µs and
    2 KB a connection.
    """
    kind = _ServerSide if factory.isServer else _ClientSide
    if "CONFIG_ATTRS" not in vars(kind):
        for name in kind.CONFIG_ATTRS:
            value = getattr(factory, name)
            setattr(kind, name, staticmethod(value) if callable(value) else value)
        kind.CONFIG_ATTRS = []
    return kind


class _ServerSide(_Callbacks, WebSocketServerProtocol):  # type: ignore[misc]
    def onConnect(self, request: Any) -> str | None:
        subprotocol: str | None = self.owner.asked(request)
        return subprotocol


class _ClientSide(_Callbacks, WebSocketClientProtocol):  # type: ignore[misc]
    def onConnect(self, response: Any) -> None:
        self.owner.answered(response.protocol)
