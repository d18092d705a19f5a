"""A byte stream as a connection: what TCP, TLS and unix sockets share, and what WebSocket rides on.

The life of a `StreamConnection` is a line; every step is taken in this file::

    GREETING ──────▶ OPEN ──────▶ CLOSING ──────▶ ENDING ──────▶ LOST
    TLS, PROXY       bytes flow   the rest goes   abort was      the socket
    header                        out, then FIN   called         is gone

Steps may be skipped, never taken back. A plain socket without PROXY header starts OPEN.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    ISSLTransport,
)
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.errors import CloseCode, ProtocolError
from imgateway.interfaces import IConnection

from .collect import collector_of
from .places import source_of
from .sockets import host_of, is_our_own, peer_of, read_early, set_options

__all__ = ("Side", "StreamConnection")


GREETING, OPEN, CLOSING, ENDING, LOST = range(5)

STATE = (socket.IPPROTO_TCP, socket.TCP_INFO, 1) if sys.platform == "linux" else None
"""Of a TCP socket, in `getsockopt`: one byte."""
ESTABLISHED = b"\x01"


@implementer(IProtocolFactory)
class Side:
    """What all connections of one listener, or of one attempt to connect, share; makes them for Twisted.

    :param accept: StreamConnection → IReceiver or None.
    :param wire: handed to ``receiver.opened``; the stream itself does not look at it.

    :ivar proxied: every connection begins with a PROXY header, and its peer is whom that names.
    """

    noisy = False

    def __init__(self, reactor: Any, accept: Callable[[Any], Any], wire: Any = None) -> None:
        self.reactor = reactor
        self.collector = collector_of(reactor)
        self.accept = accept
        self.wire = wire
        self.proxied = False

    def buildProtocol(self, addr: Any) -> StreamConnection:
        return StreamConnection(self)

    def doStart(self) -> None: ...

    def doStop(self) -> None: ...


@implementer(IConnection, IProtocol, IHandshakeListener, IPushProducer)
class StreamConnection:
    """One socket, seen by Twisted as a protocol and by the core as a connection.

    `receiver` may be replaced at any time by whoever was given this connection.
    """

    __slots__ = (
        "__weakref__",
        "_clogged",
        "_deadline",
        "_gathered",
        "_peer",
        "_plain",
        "_reading",
        "_reason",
        "_side",
        "_state",
        "_unsent",
        "receiver",
        "transport",
    )

    carrier = "tcp"
    stream = True
    max_send_bytes = 0
    max_message_bytes = 0  # a stream has no messages

    def __init__(self, side: Side) -> None:
        self._side = side
        self.receiver: Any = None
        self.transport: Any = None
        self._plain: FileDescriptor | None = None  # the socket itself, where nothing must come between
        self._state = GREETING
        self._gathered: list[bytes] | None = None  # this turn's bytes, or all since the socket clogged
        self._unsent = 0
        self._clogged = False
        self._reading = True
        self._deadline: Any = None
        self._reason = ""  # why we ended it; "" when the peer or the network did
        self._peer = ""

    # ------------------------------------------------------------------------------------- what Twisted calls

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self._plain = plain_socket(transport)
        set_options(transport)
        self.receiver = self._side.accept(self)
        if self.receiver is None:
            self.abort()
        elif self._plain is not None and not self._side.proxied:
            self._greeted()
            read_early(self._plain)

    def connectionMade(self) -> None:
        """Twisted's `Protocol` calls this; we are told by makeConnection."""

    def handshakeCompleted(self) -> None:
        if not self._side.proxied:
            self._greeted()

    def dataReceived(self, data: bytes) -> None:
        if self._state == GREETING:
            self._greeted()
        if self._state == OPEN:
            self.receiver.received(data)
        # Else we are closing and read on only to see the peer's end: what it says no longer counts.

    def connectionLost(self, reason: Failure) -> None:
        self._peer = self.peer
        was_greeting = self._state == GREETING
        self._state = LOST
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        receiver = self.receiver
        # Nothing here may keep the others alive: a closed connection goes when its last user does.
        self.receiver = self.transport = self._plain = self._gathered = self._deadline = None
        if receiver is not None:
            if self._reason:
                receiver.lost(self._reason)
            else:
                receiver.lost(*_told(reason, was_greeting))

    def pauseProducing(self) -> None:
        if not self._clogged:
            self._clogged = True
            if self._state == OPEN:
                self.receiver.pause_sending()

    def resumeProducing(self) -> None:
        if not self._clogged:
            return  # a pull producer is asked once while it registers
        if self._plain is None and _is_ending(self.transport):
            # What was unsent is out. As long as there is a producer, Twisted asks it for more, and drops
            # that, instead of ending the connection.
            self.transport.unregisterProducer()
            return
        if self._plain is not None:
            self._plain.unregisterProducer()
        self._clogged = False
        self._unsent = sum(map(len, self._gathered or ()))
        self.flush()
        if not self._clogged and self._state == OPEN:
            self.receiver.resume_sending()

    def stopProducing(self) -> None:
        """The transport is being lost; connectionLost says the rest."""

    def _greeted(self) -> None:
        if self._state == GREETING:
            self._state = OPEN
            if self._plain is None:
                self.transport.registerProducer(self, True)
            self.receiver.opened(self._side.wire)

    # ---------------------------------------------------------------------------------- what the core calls

    @property
    def peer(self) -> str:
        """Asked of the transport each time: a PROXY header may change it."""
        return self._peer if self.transport is None else peer_of(self.transport)

    @property
    def source(self) -> str:
        return "" if self._side.proxied or self.transport is None else source_of(host_of(self.transport))

    @property
    def secure(self) -> bool:
        return bool(ISSLTransport.providedBy(self.transport))

    def send(self, data: bytes, order: Hashable | None = None) -> None:
        if self._state > OPEN:
            return
        self._unsent += len(data)
        if self._gathered is not None:
            self._gathered.append(data)
            return
        self._gathered = [data]
        if not self._clogged:
            self._side.collector.add(self)

    def flush(self) -> None:
        """Write what was gathered. The collector calls it at the end of the turn."""
        gathered = self._gathered
        if gathered is None or self._clogged or self._state > OPEN:
            return
        if self._plain is None and _is_ending(self.transport):
            self.pauseProducing()  # it would be dropped
            return
        data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        self._gathered = None
        if self._plain is None:
            # Twisted encrypts and buffers up to 64 KB more before it calls pauseProducing; from then on we
            # count.
            self.transport.write(data)
            if not self._clogged:
                self._unsent = 0
            return
        # Not its writeSomeData, which is as much Python again as all the rest of a delivery.
        try:
            sent = self._plain.socket.send(data)  # type: ignore[attr-defined]
            if sent == len(data):
                self._unsent = 0
                return
        except OSError:
            sent = 0  # it is full, or broken: then the reactor will find the same, and tell everybody
        rest = data[sent:]
        self._unsent = len(rest)
        self._plain.write(rest)
        self._plain.registerProducer(self, False)
        self.pauseProducing()

    def unsent(self) -> int:
        """While clogged this may still count bytes that the system took meanwhile; 0 is exact on a plain
        socket.

        Over TLS up to 64 KB inside Twisted are not counted.
        """
        return self._unsent

    def unacked(self) -> int | None:
        if self._plain is None:
            return None
        try:
            answer = fcntl.ioctl(self._plain.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, ValueError):
            return None
        return self._unsent + int(struct.unpack("i", answer)[0])

    def is_behind(self) -> bool:
        return False

    def has_left(self) -> bool:
        """Who greets over TLS has had an answer of ours before; over a unix socket it is not known."""
        plain = getattr(self._plain, "socket", None)
        if plain is None or STATE is None:
            return False
        try:
            return bool(plain.getsockopt(*STATE) != ESTABLISHED)
        except OSError:  # it is no TCP socket
            return False

    def proven(self) -> None:
        """Nobody's answers are limited here."""

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            if self._state <= OPEN:
                self.transport.pauseProducing()

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if self._state <= OPEN:
                self.transport.resumeProducing()

    def later(self, call: Callable[[], None]) -> None:
        """Run `call` in the next reactor turn."""
        self._side.reactor.callLater(0, call)

    def close(self, code: int, flush_s: float = 2.0) -> None:
        if self._state >= CLOSING:
            return
        self._reason = f"closed with code {int(code)}"
        if flush_s <= 0 or self._state == GREETING:
            self.abort()
            return
        self._state = CLOSING
        self._deadline = self._side.reactor.callLater(flush_s, self.abort)
        gathered, self._gathered = self._gathered, None
        if gathered is not None:
            (self._plain or self.transport).write(b"".join(gathered))
        # Closing the socket while it holds unread bytes would send a reset, and the peer might never read
        # our last words. So only our half is closed, and what still comes is read and dropped until the
        # peer's end.
        if not self._reading:
            self.transport.resumeProducing()
        if self._plain is None:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        else:
            self._plain.unregisterProducer()
            self._plain.loseWriteConnection()

    def abort(self) -> None:
        if self._state < ENDING:
            self._state = ENDING
            self._reason = self._reason or "aborted"
            self._gathered = None
            self.transport.abortConnection()


def _is_ending(transport: Any) -> bool:
    """Whether the peer has ended TLS: Twisted reads no more then, sends what it still has, and tells of the
    end when that is out."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return bool(getattr(transport, "disconnecting", False))


def plain_socket(transport: Any) -> FileDescriptor | None:
    """The socket's own transport if bytes may be written past whatever wraps it; None under TLS."""
    if is_our_own(transport):
        return transport  # type: ignore[no-any-return]
    while isinstance(transport, ProtocolWrapper) and not ISSLTransport.providedBy(transport):
        transport = transport.transport
    plain = isinstance(transport, FileDescriptor) and not ISSLTransport.providedBy(transport)
    return transport if plain else None


def _told(reason: Failure, was_greeting: bool) -> tuple[str, CloseCode]:
    """Why it is gone, and the code: what the peer did against the greeting's own rules has one."""
    error: Any = reason.value
    if isinstance(error, ProtocolError):
        return error.reason, error.code
    said = error.args[0] if error.args and type(error).__module__.startswith("OpenSSL") else None
    if was_greeting and isinstance(said, list) and said:  # of (library, function, reason)
        return f"TLS failed: {said[0][-1]}", CloseCode.BAD_FRAME
    if reason.check(ConnectionDone):
        return "closed by the peer", CloseCode.LOST
    if reason.check(ConnectionAborted):
        return "aborted", CloseCode.LOST
    return f"connection lost: {reason.getErrorMessage() or type(error).__name__}", CloseCode.LOST
