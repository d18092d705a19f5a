"""What a reactor opens for an endpoint, done with more care: sockets with a name in the file system, and TLS.

Twisted guards a unix socket by a link that names a process, and takes it for held as long as there is any
process of that number. After a kill there often is: in a container that starts again with its files the
number is our own. So here a socket is in use if somebody listens on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet

from .tls import bound

__all__ = ("LOCK", "opener")

LOCK = ".opening"
"""Behind a unix socket's name: the file that is locked while the socket is made."""


def opener(endpoint: str, reactor: Any) -> Any:
    """What is to be the reactor of this endpoint, which is described in full."""
    return _Opener(reactor) if endpoint.startswith(("unix:", "ssl:")) else reactor


class _Opener:
    """A reactor for one endpoint."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenSSL(self, *args: Any, **kwargs: Any) -> Any:
        port = self._reactor.listenSSL(*args, **kwargs)
        bound(port)
        return port

    def listenUNIX(
        self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> Any:
        """:raises CannotListenError: somebody listens there. :raises OSError: of the file that is locked."""
        reactor = self._reactor
        real: bool = IReactorFDSet.providedBy(reactor)
        if not real or address.startswith("\0"):
            # In memory, or without a file: what is gone has left nothing.
            return reactor.listenUNIX(address, factory, backlog, mode)
        with _alone(address):
            _forget(address)
            return reactor.listenUNIX(address, factory, backlog, mode)


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Nobody else makes this socket meanwhile."""
    lock = os.open(path + LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            in_use = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            raise CannotListenError(None, path, in_use) from None
        try:
            yield
        finally:
            # Whoever has it open by now finds what we have found, or that we listen.
            with suppress(FileNotFoundError):
                os.unlink(path + LOCK)
    finally:
        os.close(lock)


def _forget(path: str) -> None:
    """Remove a socket on which nobody listens."""
    with socket.socket(socket.AF_UNIX) as knock:
        knock.setblocking(False)
        try:
            knock.connect(path)
        except ConnectionRefusedError:
            if stat.S_ISSOCK(os.stat(path).st_mode):  # what else stands there refuses likewise
                os.unlink(path)
        except OSError:
            pass  # there is none, or one whose queue is full, or not ours to ask: to bind it will tell
