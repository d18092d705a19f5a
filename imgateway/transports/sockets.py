"""Accepted sockets that keep little: Twisted's own, without what it holds of each for log lines that nobody
reads, or has at hand for other uses. It is 300 bytes of an idle connection.

Twisted sets these as attributes of the instance; here they are properties, which take what is set and keep as
much of it as is needed. A Twisted that sets others, or none, works the same and is only larger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import tcp, unix

__all__ = ("keep_little",)


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


def keep_little(port: Any) -> None:
    """What this port accepts from now on keeps little, if it is one of Twisted's that makes Twisted's own
    sockets."""
    made = getattr(port, "transport", None)
    if made is tcp.Server:
        port.transport = _TCPSocket
    elif made is unix.Server:
        port.transport = _UNIXSocket
