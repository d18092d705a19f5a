"""Accepted sockets that keep little: Twisted's own, without what it holds of each for log lines that nobody
reads, or has at hand for other uses. It is 300 bytes of an idle connection. They also stop reading late: a
login's pause is over before anything comes.

Twisted sets these as attributes of the instance; here they are properties, which take what is set and keep as
much of it as is needed. A Twisted that sets others, or none, works the same and is only larger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import tcp, unix

from .departures import departures_of

__all__ = ("accept_in_portions", "keep_little", "place_of", "read_early")

PORTION = 32
"""Connections accepted, and greetings read, before all others get their turn: some 3 ms."""


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
    _is_paused = False

    def _getLogPrefix(self, applicationObject: object) -> str:
        return "imgateway"

    @property
    def place(self) -> tuple[str, int] | None:
        """Host and port of the peer; None: it is a unix socket."""
        if type(self._peer) is not bytes:
            return None
        host, port, *_ = self._peer.decode().split(" ")
        return host, int(port)

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        super().resumeProducing()  # type: ignore[misc]

    def doRead(self) -> Any:
        """Twisted's sockets leave the poll as soon as they pause, and enter it again: two calls to the
        system, which are in vain if nothing comes meanwhile. So it is done when something has come."""
        if self._is_paused:
            self.stopReading()  # type: ignore[attr-defined]
            return None
        # A crowd that leaves at once is not dealt with before all others had their turn.
        end = super().doRead()  # type: ignore[misc]
        if end is not None and not departures_of(self.reactor).may_end(self):  # type: ignore[attr-defined, arg-type]
            return None
        return end

    @property
    def client(self) -> Any:
        """(host, port), and for IPv6 two numbers more; kept as one bytes object."""
        if type(self._peer) is not bytes:
            return self._peer
        host, *numbers = self._peer.decode().split(" ")
        return (host, *map(int, numbers))

    @client.setter
    def client(self, value: Any) -> None:
        self._peer = value if value[1] is None else " ".join(map(str, value)).encode()  # None: a unix socket

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
    pass


class _UNIXSocket(_Slim, unix.Server):
    pass


def place_of(transport: Any) -> tuple[str, int] | None:
    """Host and port of a transport's peer; None: it is no internet socket."""
    if isinstance(transport, _Slim):
        return transport.place
    peer = transport.getPeer()
    host = getattr(peer, "host", None)
    return None if host is None else (host, peer.port)


def read_early(transport: Any) -> None:
    """Read what a socket has brought along when it was accepted: in a crowd, its greeting. It spares a turn
    through the poll; an end that is found here is found there again."""
    if isinstance(transport, _Slim):
        transport.doRead()


def accept_in_portions(port: Any) -> None:
    """Twisted accepts more each time that all it asked for were there: in a storm it would ask for hundreds,
    and serve nobody else for as long as these take."""
    accept = port.doRead

    def do_read() -> None:
        port.numberAccepts = min(port.numberAccepts, PORTION)
        accept()

    port.doRead = do_read


def keep_little(port: Any) -> None:
    """What this port accepts from now on keeps little, if it is one of Twisted's that makes Twisted's own
    sockets."""
    made = getattr(port, "transport", None)
    if made is tcp.Server:
        port.transport = _TCPSocket
    elif made is unix.Server:
        port.transport = _UNIXSocket
