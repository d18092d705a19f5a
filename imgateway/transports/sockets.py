"""Accepted sockets that keep little: Twisted's own, without what it holds of each for log lines that nobody
reads, or has at hand for other uses. It is 300 bytes of an idle connection. They also stop reading late: a
login's pause is over before anything comes.

Twisted sets these as attributes of the instance; here they are properties, which take what is set and keep as
much of it as is needed. The tests hold what there is in the end against Twisted's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from socket import IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET, TCP_NODELAY
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.address import IPv6Address
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST

from .arrivals import PORTION, Arrivals, bare
from .departures import departures_of
from .places import host_port
from .readable import AVAILABLE, heard_by, readable_of

__all__ = (
    "accept_in_portions",
    "host_of",
    "is_our_own",
    "keep_little",
    "peer_of",
    "read_early",
    "set_options",
)

INHERITED = sys.platform == "linux"
"""Whether a socket that is accepted has the options of the one that listens."""

READING, PAUSED, LEFT, SILENT = range(4)
"""Of a socket: it is read from; it is not, and stands in the poll yet; it has left that; it is read from, and
has not greeted."""


class _Fixed:
    """An attribute that stays what it is, whatever is set."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __get__(self, instance: object, owner: type) -> Any:
        return self._value

    def __set__(self, instance: object, value: Any) -> None: ...


class _Slim:
    """Goes before a `tcp.Server`."""

    logstr = repstr = _Fixed("imgateway")
    sessionno = _Fixed(0)
    hostname = _Fixed("")

    _peer: Any = None
    _unwritten: list[bytes] | None = None
    _pause = READING

    def _getLogPrefix(self, applicationObject: object) -> str:
        return "imgateway"

    @property
    def peer(self) -> str:
        """``host:port``; ``unix`` for a unix socket."""
        if type(self._peer) is not bytes:
            return "unix"
        peer = self._peer.decode()
        if " " not in peer:
            return peer
        host, port, *_ = peer.split(" ")
        return host_port(host, port)

    @property
    def host(self) -> str:
        """The IP address of the peer; "" for a unix socket."""
        if type(self._peer) is not bytes:
            return ""
        peer = self._peer.decode()
        return peer.partition(" " if " " in peer else ":")[0]

    def pauseProducing(self) -> None:
        if self._pause in (READING, SILENT):
            self._pause = PAUSED

    def resumeProducing(self) -> None:
        left, self._pause = self._pause == LEFT, READING
        if left:
            super().resumeProducing()  # type: ignore[misc]

    def startReading(self) -> None:
        if AVAILABLE:
            readable_of(self.reactor).add(self)  # type: ignore[attr-defined, arg-type]
        else:
            super().startReading()  # type: ignore[misc]

    def stopReading(self) -> None:
        if AVAILABLE:
            readable_of(self.reactor).remove(self)  # type: ignore[attr-defined, arg-type]
        else:
            super().stopReading()  # type: ignore[misc]

    def doRead(self) -> Any:
        """Twisted's sockets leave the poll as soon as they pause, and enter it again: two calls to the
        system, which are in vain if nothing comes meanwhile. So it is done when something has come."""
        pause = self._pause
        if pause == SILENT:
            self._pause = READING
            readable_of(self.reactor).heard -= 1  # type: ignore[attr-defined]
        elif pause != READING:
            self._pause = LEFT
            self.stopReading()
            return None
        try:
            data = self.socket.recv(self.bufferSize)  # type: ignore[attr-defined]
        except BlockingIOError:
            if AVAILABLE:
                self._pause = SILENT
            return None
        except OSError:
            end: Exception = CONNECTION_LOST
        else:
            if data:
                self.protocol.dataReceived(data)  # type: ignore[attr-defined]
                return None
            end = CONNECTION_DONE
        # A crowd that leaves at once is not dealt with before all others had their turn.
        if not departures_of(self.reactor).may_end(self, end):  # type: ignore[attr-defined, arg-type]
            return None
        if pause == SILENT:
            readable_of(self.reactor).heard += 1  # type: ignore[attr-defined] # an end does not count there
        return end

    @property
    def client(self) -> Any:
        """(host, port), and for IPv6 two numbers more; kept as one bytes object, as ``peer`` says it if it
        can be."""
        if type(self._peer) is not bytes:
            return self._peer
        peer = self._peer.decode()
        host, *numbers = peer.split(" " if " " in peer else ":")
        return (host, *map(int, numbers))

    @client.setter
    def client(self, value: Any) -> None:
        if len(value) == 2:
            host, port = value
            self._peer = value if port is None else f"{host}:{port}".encode()  # None: a unix socket
        else:
            self._peer = " ".join(map(str, value)).encode()

    @property
    def fileno(self) -> Callable[[], int]:
        socket = getattr(self, "socket", None)  # Twisted takes it away at the end
        return (lambda: -1) if socket is None else socket.fileno

    @fileno.setter
    def fileno(self, value: Any) -> None: ...

    @fileno.deleter
    def fileno(self) -> None: ...

    @property
    def _tempDataBuffer(self) -> list[bytes]:
        """What waits for the socket to become writable: a list only while there is something."""
        if self._unwritten is None:
            self._unwritten = []
        return self._unwritten

    @_tempDataBuffer.setter
    def _tempDataBuffer(self, value: list[bytes]) -> None:
        self._unwritten = value or None


class _TCPSocket(_Slim, tcp.Server):
    _tempDataLen = 0

    def __init__(
        self, skt: Any, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any
    ) -> None:
        """As `tcp.Server` and the classes below it do it, but in one call, and without the texts that it puts
        together."""
        skt.setblocking(False)
        self.reactor = reactor
        self.socket = skt
        self.protocol = protocol
        if len(client) != 2:
            self._addressType = IPv6Address
        self.server = server
        self.client = client
        self.startReading()
        self.connected = 1


class _AdoptedSocket(_TCPSocket):
    """Of a port that somebody else opened: whoever came before it was ours has not the options that it got
    then."""


class _UNIXSocket(_Slim, unix.Server):
    pass


def is_our_own(transport: Any) -> bool:
    """Whether this is one of the sockets that keep little: plain ones."""
    return type(transport) is _TCPSocket


def peer_of(transport: Any) -> str:
    """``host:port`` of a transport's peer; ``unix`` if it is no internet socket."""
    if isinstance(transport, _Slim):
        return transport.peer
    peer = transport.getPeer()
    host = getattr(peer, "host", None)
    return "unix" if host is None else host_port(host, peer.port)


def host_of(transport: Any) -> str:
    """The IP address of a transport's peer; "" if it is no internet socket."""
    return (
        transport.host if isinstance(transport, _Slim) else getattr(transport.getPeer(), "host", None) or ""
    )


def set_options(transport: Any) -> None:
    """What every connection wants of its socket. On Linux one that is accepted has it from the port's."""
    if not (INHERITED and type(transport) is _TCPSocket) and host_of(transport):
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)


def read_early(transport: Any) -> None:
    """Read what a socket has brought along when it was accepted: in a crowd, its greeting. It spares a turn
    through the poll; an end that is found here is found there again."""
    if isinstance(transport, _Slim):
        transport.doRead()


def accept_in_portions(port: Any) -> Arrivals | None:
    """Twisted accepts more each time that all it asked for were there: in a storm it would ask for hundreds,
    and serve nobody else for as long as these take. And what it does around each of them costs as much as
    accepting it.

    :returns: who takes care of those that come, if the port's sockets are our own.
    """
    if getattr(port, "transport", None) in (_TCPSocket, _AdoptedSocket):
        return Arrivals(port, bare(port.socket), heard_by(port.reactor))
    accept = port.doRead

    def do_read() -> None:
        port.numberAccepts = min(port.numberAccepts, PORTION)
        accept()

    port.doRead = do_read
    return None


def keep_little(port: Any, adopted: bool = False) -> None:
    """What this port accepts from now on keeps little, if it is one of Twisted's that makes Twisted's own
    sockets.

    :param adopted: it was open before this process had it.
    """
    made = getattr(port, "transport", None)
    if AVAILABLE and made in (tcp.Server, unix.Server):
        readable_of(port.reactor)  # now: in a crowd there might be no descriptor left for its poll
    if made is tcp.Server:
        port.transport = _AdoptedSocket if adopted else _TCPSocket
        if INHERITED and not adopted:
            port.socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            port.socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    elif made is unix.Server:
        port.transport = _UNIXSocket
