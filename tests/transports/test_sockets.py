"""Accepted sockets that keep little are Twisted's in all that is asked of them."""

from __future__ import annotations

import select
import socket as system_sockets
from errno import EMFILE, EWOULDBLOCK
from typing import Any

import pytest
from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from imgateway.transports import departures
from imgateway.transports import sockets as ours
from imgateway.transports.arrivals import PORTION, Arrivals
from imgateway.transports.listening import Listener
from imgateway.transports.sockets import (
    accept_in_portions,
    host_of,
    keep_little,
    peer_of,
    read_early,
    set_options,
)


class Socket:
    """A socket that takes what it is given."""

    family, type, proto = system_sockets.AF_INET, system_sockets.SOCK_STREAM, 0

    def __init__(self) -> None:
        self.sent = b""
        self.takes = 1 << 20
        self.options: list[tuple[int, int, int]] = []

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options.append((level, option, value))

    def fileno(self) -> int:
        return 7

    def setblocking(self, on: bool) -> None: ...

    def _accept(self) -> None: ...

    def send(self, data: bytes) -> int:
        taken, self.takes = bytes(data[: self.takes]), self.takes - min(self.takes, len(data))
        self.sent += taken
        return len(taken)

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None: ...


class Port:
    _realPortNumber = 7901

    def __init__(self, transport: Any = tcp.Server) -> None:
        self.reactor = MemoryReactorClock()
        self.transport = transport
        self.socket = Socket()


def accepted(client: Any, transport: Any = tcp.Server) -> Any:
    port = Port(transport)
    keep_little(port)
    assert port.transport is not transport
    made = port.transport(Socket(), Protocol(), client, port, 1, MemoryReactorClock())
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


@pytest.mark.parametrize("transport", [tcp.Server, unix.Server])
def test_the_poll_is_there_before_the_first_connection(
    transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = Port(transport)
    keep_little(port)

    def none_left() -> None:
        raise OSError(EMFILE, "too many")

    monkeypatch.setattr(select, "epoll", none_left)
    made = port.transport(Socket(), Protocol(), ("192.0.2.7", 51000), port, 1, port.reactor)
    assert made.connected


def test_others_are_left_alone() -> None:
    class Own(tcp.Server):
        """What somebody's own endpoint makes."""

    port = Port(Own)
    keep_little(port)
    assert port.transport is Own
    keep_little(object())


@pytest.mark.parametrize(
    ("client", "host", "peer"),
    [
        (("192.0.2.7", 51000), "192.0.2.7", "192.0.2.7:51000"),
        (("fe80::7%eth0", 51000, 0, 2), "fe80::7%eth0", "[fe80::7%eth0]:51000"),
    ],
)
def test_where_a_peer_is_costs_no_address_object(client: Any, host: str, peer: str) -> None:
    made = accepted(client)
    theirs = tcp.Server(Socket(), Protocol(), client, Port(), 1, MemoryReactorClock())  # type: ignore[arg-type]
    assert (host_of(made), peer_of(made)) == (host_of(theirs), peer_of(theirs)) == (host, peer)


def test_a_unix_sockets_peer_is_nowhere() -> None:
    made = accepted("", unix.Server)
    assert (host_of(made), peer_of(made)) == ("", "unix")


def test_it_has_what_twisteds_own_has_and_reads() -> None:
    """Making one leaves out the texts that Twisted's puts together, and nothing that another Twisted may
    need."""
    reactor = MemoryReactorClock()
    theirs = tcp.Server(Socket(), Protocol(), ("::1", 1, 0, 0), Port(), 1, reactor)  # type: ignore[arg-type]
    made = accepted(("::1", 1, 0, 0))
    names = {"_peer", "_unwritten"} | vars(theirs).keys() - {
        "logstr", "repstr", "hostname", "sessionno", "fileno", "client", "_tempDataBuffer", "_tempDataLen",
    }  # fmt: skip
    assert vars(made).keys() | {"_unwritten"} == names
    assert (
        (made._tempDataBuffer, made._tempDataLen) == (theirs._tempDataBuffer, theirs._tempDataLen) == ([], 0)
    )
    assert made in made.reactor.readers
    assert (made.connected, made._addressType) == (theirs.connected, theirs._addressType)


WANTED = [
    (system_sockets.IPPROTO_TCP, system_sockets.TCP_NODELAY, 1),
    (system_sockets.SOL_SOCKET, system_sockets.SO_KEEPALIVE, 1),
]


def test_what_all_connections_want_is_said_once_where_the_system_hands_it_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for inherited in (True, False):
        monkeypatch.setattr(ours, "INHERITED", inherited)
        made = accepted(("192.0.2.7", 51000))
        set_options(made)
        asked = made.server.socket.options, made.socket.options
        assert asked == ((WANTED, []) if inherited else ([], WANTED))
    theirs = tcp.Server(Socket(), Protocol(), ("192.0.2.7", 1), Port(), 1, MemoryReactorClock())  # type: ignore[arg-type]
    set_options(theirs)
    assert theirs.socket.options == WANTED  # type: ignore[attr-defined]
    nameless = accepted("", unix.Server)
    set_options(nameless)
    assert nameless.socket.options == []


@pytest.mark.parametrize("scheme", ["systemd", "haproxy:systemd"])
def test_who_came_before_the_port_was_ours_is_told_too(scheme: str) -> None:
    class Opened(Port):
        numberAccepts = 100

        def doRead(self) -> None: ...

        def getHost(self) -> IPv4Address:
            return IPv4Address("TCP", "192.0.2.1", 7901)

    port = Opened()
    Listener(port, scheme)
    assert isinstance(port.doRead.__self__, Arrivals)  # type: ignore[attr-defined]
    made = port.transport(Socket(), Protocol(), ("192.0.2.7", 51000), port, 1, port.reactor)
    set_options(made)
    assert (port.socket.options, made.socket.options) == ([], WANTED)


@pytest.mark.skipif(not ours.INHERITED, reason="each socket is told here")
def test_the_system_does_hand_it_on() -> None:
    with system_sockets.socket() as listening:
        for level, option, value in WANTED:
            listening.setsockopt(level, option, value)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with system_sockets.create_connection(listening.getsockname()), listening.accept()[0] as one:
            assert all(one.getsockopt(level, option) for level, option, _ in WANTED)


class Arriving(Protocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.data: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self.data.append(data)


@pytest.fixture(autouse=True)
def without_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    """These sockets are none of the system's; those that are stand in test_readable."""
    monkeypatch.setattr(ours, "AVAILABLE", False)


def reading(*chunks: bytes, reactor: Any = None) -> tuple[Any, Any, list[bytes]]:
    """A socket with something to read, its reactor, and what its protocol got."""
    reactor = reactor or MemoryReactorClock()
    port, protocol = Port(), Arriving()
    keep_little(port)
    system: Any = Socket()
    left = list(chunks)

    def recv(size: int) -> bytes:
        if not left:
            raise BlockingIOError(EWOULDBLOCK, "nothing there")
        return left.pop(0)

    system.recv = recv
    socket = port.transport(system, protocol, ("192.0.2.7", 51000), port, 1, reactor)
    socket.protocol.makeConnection(socket)
    return socket, reactor, protocol.data


def test_a_pause_that_is_over_before_anything_comes_never_leaves_the_poll() -> None:
    socket, reactor, data = reading(b"one")
    socket.pauseProducing()
    assert socket in reactor.readers
    socket.resumeProducing()
    socket.doRead()
    assert (socket in reactor.readers, data) == (True, [b"one"])


def test_what_comes_during_a_pause_stays_in_the_system_and_so_does_an_end() -> None:
    socket, reactor, data = reading(b"one", b"")
    socket.pauseProducing()
    assert socket.doRead() is None
    assert (socket in reactor.readers, data) == (False, [])
    socket.resumeProducing()
    assert socket in reactor.readers
    assert socket.doRead() is None
    assert isinstance(socket.doRead(), ConnectionDone)
    assert data == [b"one"]


def test_what_a_socket_brings_along_is_read_when_it_is_accepted() -> None:
    socket, _, data = reading(b"hello")
    read_early(socket)
    read_early(socket)  # nothing there, which is no matter
    assert data == [b"hello"]
    read_early(object())  # somebody else's transport


def test_of_a_crowd_that_leaves_at_once_some_end_in_the_next_turn() -> None:
    reactor = MemoryReactorClock()
    crowd = [reading(b"", b"", reactor=reactor)[0] for _ in range(departures.PORTION + 1)]
    ends = [socket.doRead() for socket in crowd]
    assert [isinstance(end, ConnectionDone) for end in ends] == [True] * departures.PORTION + [False]
    assert crowd[-1] not in reactor.readers
    assert crowd[-1].connected
    reactor.advance(0)
    assert not crowd[-1].connected


def test_few_are_accepted_at_a_time_however_many_come() -> None:
    asked: list[int] = []

    class Accepting:
        numberAccepts = 100

        def doRead(self) -> None:
            asked.append(self.numberAccepts)
            self.numberAccepts += 20

    port: Any = Accepting()
    assert accept_in_portions(port) is None
    for _ in range(3):
        port.doRead()
    port.numberAccepts = 1
    port.doRead()
    assert asked == [PORTION, PORTION, PORTION, 1]


def test_those_that_are_our_own_come_by_way_of_a_queue() -> None:
    port: Any = Port()
    port.doRead = lambda: None
    keep_little(port)
    assert isinstance(accept_in_portions(port), Arrivals)
