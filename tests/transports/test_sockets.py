"""Accepted sockets that keep little are Twisted's in all that is asked of them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure

from imgateway.transports.sockets import keep_little


class Socket:
    """A socket that takes what it is given."""

    def __init__(self) -> None:
        self.sent = b""
        self.takes = 1 << 20

    def fileno(self) -> int:
        return 7

    def setblocking(self, on: bool) -> None: ...

    def send(self, data: bytes) -> int:
        taken, self.takes = bytes(data[: self.takes]), self.takes - min(self.takes, len(data))
        self.sent += taken
        return len(taken)

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None: ...


class Port:
    _realPortNumber = 7901

    def __init__(self, transport: Any = tcp.Server) -> None:
        self.transport = transport


def accepted(client: Any, transport: Any = tcp.Server) -> Any:
    port = Port(transport)
    keep_little(port)
    assert port.transport is not transport
    made = port.transport(Socket(), Protocol(), client, port, 1, MemoryReactor())
    made.protocol.makeConnection(made)
    return made


@pytest.mark.parametrize(
    ("client", "peer"),
    [
        (("192.0.2.7", 51000), IPv4Address("TCP", "192.0.2.7", 51000)),
        (("2001:db8::7", 51000, 3, 4), IPv6Address("TCP", "2001:db8::7", 51000, 3, 4)),
        (("fe80::7%eth0", 51000, 0, 2), IPv6Address("TCP", "fe80::7%eth0", 51000, 0, 2)),
    ],
)
def test_the_peer(client: Any, peer: Any) -> None:
    socket = accepted(client)
    assert (socket.client, socket.getPeer()) == (client, peer)


def test_the_peer_of_a_unix_socket_has_no_name() -> None:
    assert accepted("", unix.Server).getPeer() == UNIXAddress(None)


def test_it_keeps_nothing_that_nobody_asks_for() -> None:
    theirs = {"logstr", "repstr", "hostname", "sessionno", "fileno", "client", "_tempDataBuffer"}
    assert not theirs & set(vars(accepted(("192.0.2.7", 51000))))


def test_its_number_is_the_sockets_until_that_is_gone() -> None:
    socket = accepted(("192.0.2.7", 51000))
    assert socket.fileno() == 7
    socket.connectionLost(Failure(ConnectionDone()))
    assert socket.fileno() == -1


def test_what_the_system_does_not_take_waits() -> None:
    socket = accepted(("192.0.2.7", 51000))
    system = socket.socket
    system.takes = 3
    socket.write(b"ab")
    socket.write(b"cd")
    assert socket.doWrite() is None
    assert system.sent == b"abc"
    socket.write(b"ef")
    system.takes = 100
    for _ in range(3):
        socket.doWrite()
    assert system.sent == b"abcdef"
    assert socket._unwritten is None


def test_others_are_left_alone() -> None:
    class Own(tcp.Server):
        """What somebody's own endpoint makes."""

    port = Port(Own)
    keep_little(port)
    assert port.transport is Own
    keep_little(object())
