"""A crowd is taken from the system at once, and made in portions; nobody in it is refused or forgotten."""

from __future__ import annotations

import os
import socket
from errno import EMFILE, EPERM
from resource import RLIM_INFINITY
from typing import Any, NamedTuple

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.task import Clock

from imgateway.transports import arrivals
from imgateway.transports.arrivals import ALONE, PORTION, QUIET, Arrivals, bare


class Socket:
    closed = False

    def close(self) -> None:
        self.closed = True


class Made(NamedTuple):
    """A connection."""

    socket: Socket
    client: tuple[Any, ...]

    def abortConnection(self) -> None:
        self.socket.close()


class Port:
    """A listening port: `coming` is the system's queue; an exception in it is raised."""

    def __init__(self, count: int = 0, client: tuple[Any, ...] = ("192.0.2.7", 51000)) -> None:
        self.reactor = Clock()
        self.coming: list[Any] = [(Socket(), client) for _ in range(count)]
        self.made: list[tuple[Any, Any]] = []
        self.turns: list[int] = []
        self.reading = True
        self.asked_twisted = 0
        self.refuses = False
        self.made_one: Any = lambda: None
        self.socket = self.factory = self
        self.heard = 0
        self.arrivals = Arrivals(self, self.accept, lambda: self.heard)

    def doRead(self) -> None:
        self.asked_twisted += 1

    def accept(self) -> Any:
        if not self.coming:
            raise BlockingIOError
        if isinstance(self.coming[0], OSError):
            raise self.coming[0]
        return self.coming.pop(0)

    def buildProtocol(self, address: Any) -> Any:
        return None if self.refuses else self

    def transport(self, skt: Any, protocol: Any, client: Any, port: Any, number: int, reactor: Any) -> Any:
        assert (protocol, port, reactor) == (self, self, self.reactor)
        return Made(skt, client)

    def makeConnection(self, transport: Any) -> None:
        self.made.append(transport)
        self.made_one()

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True

    def turn(self) -> int:
        """One of the reactor's: how many are made in it."""
        before = len(self.made)
        due = self.reactor.getDelayedCalls()
        if self.reading and self.coming:
            self.doRead()
        for call in due:  # what these ask for is for the next one
            self.reactor.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
        return len(self.made) - before


def test_few_who_come_are_made_at_once() -> None:
    port = Port(3)
    port.doRead()
    assert (len(port.made), port.coming, port.reactor.getDelayedCalls()) == (3, [], [])


def test_a_crowd_is_taken_at_once_and_made_in_portions_in_order() -> None:
    port = Port(5 * PORTION)
    sockets = [skt for skt, _ in port.coming]
    port.doRead()
    assert (port.coming, len(port.made)) == ([], PORTION)
    assert [port.turn() for _ in range(5)] == [PORTION] * 4 + [0]
    assert [skt for skt, _ in port.made] == sockets
    assert port.reactor.getDelayedCalls() == []


def test_where_nobody_else_says_anything_the_portions_are_large() -> None:
    port = Port(3 * QUIET * PORTION + 2 * ALONE)
    port.doRead()
    assert [port.turn() for _ in range(QUIET - 1)] == [PORTION] * (QUIET - 1)
    assert port.turn() == ALONE
    port.heard += 1
    assert [port.turn() for _ in range(QUIET + 1)] == [PORTION] * (QUIET + 1)
    assert port.turn() == ALONE


def test_while_it_is_paused_they_wait_here() -> None:
    port = Port(2)
    port.arrivals.pause()
    port.doRead()
    assert (port.coming, port.made, len(port.arrivals)) == ([], [], 2)
    port.arrivals.resume()
    assert port.turn() == 2
    port.arrivals.resume()
    assert port.reactor.getDelayedCalls() == []


def test_whoever_comes_last_of_those_that_may_pauses_it_at_once() -> None:
    port = Port(PORTION)
    port.made_one = lambda: port.arrivals.pause() if len(port.made) == 3 else None
    port.doRead()
    assert (len(port.made), port.turn()) == (3, 0)
    port.arrivals.resume()
    assert port.turn() == PORTION - 3


def test_there_is_a_limit_and_the_rest_waits_in_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MOST", 2 * PORTION)
    port = Port(4 * PORTION)
    port.arrivals.pause()
    port.doRead()
    assert (len(port.arrivals), len(port.coming), port.reading) == (2 * PORTION, 2 * PORTION, False)
    port.arrivals.resume()
    while port.coming or len(port.arrivals):
        assert port.turn() == PORTION
        assert len(port.arrivals) <= 2 * PORTION
    assert (len(port.made), port.reading) == (4 * PORTION, True)


def test_without_descriptors_nobody_is_sent_away_as_long_as_somebody_is_served() -> None:
    port = Port(PORTION + 1)
    port.coming.append(OSError(EMFILE, "too many"))
    port.doRead()
    assert (port.asked_twisted, port.reading, len(port.made)) == (0, False, PORTION)
    assert port.turn() == 1
    assert port.reading
    port.doRead()
    assert port.asked_twisted == 1, "there is nothing that it could wait for"


def test_what_else_may_be_wrong_is_left_to_twisted() -> None:
    port = Port(1)
    port.coming.append(OSError(EPERM, "a firewall"))
    port.doRead()
    assert (port.asked_twisted, len(port.made)) == (1, 1)


@pytest.mark.parametrize(
    ("descriptors", "most"), [(16 * PORTION, 2 * PORTION), (7, 1), (RLIM_INFINITY, 4 * PORTION)]
)
def test_most_descriptors_are_left_to_others(
    descriptors: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "getrlimit", lambda what: (descriptors, RLIM_INFINITY))
    port = Port(4 * PORTION)
    port.arrivals.pause()
    for _ in range(3):
        port.turn()
    assert len(port.arrivals) == most


@pytest.mark.parametrize("number", [EMFILE, EPERM])
@pytest.mark.parametrize("others", [0, 1])
def test_while_it_is_paused_twisted_makes_nobody(number: int, others: int) -> None:
    port = Port(others)
    port.coming.append(OSError(number, "no"))
    port.arrivals.pause()
    port.doRead()
    assert (port.asked_twisted, port.reading, len(port.made)) == (0, False, 0)
    port.arrivals.resume()
    port.turn()
    port.turn()
    assert (port.asked_twisted, port.reading, len(port.made)) == (1 + (not others), True, others)


def test_who_waits_at_the_end_is_sent_away() -> None:
    port = Port(PORTION + 2)
    waiting = [skt for skt, _ in port.coming[PORTION:]]
    port.doRead()
    port.arrivals.stop()
    assert [skt.closed for skt in waiting] == [True, True]
    assert (port.turn(), port.reactor.getDelayedCalls()) == (0, [])
    port.arrivals.stop()


def test_what_is_accepted_is_a_socket_without_pythons_class_around_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        accept = bare(listening)
        with pytest.raises(BlockingIOError):
            accept()
        with socket.create_connection(listening.getsockname()) as caller:
            listening.setblocking(True)
            made, client = accept()
            try:
                assert type(made) is socket.SocketType
                assert not isinstance(made, socket.socket)
                assert client == caller.getsockname()
                assert (made.family, made.type, made.proto) == (
                    listening.family,
                    listening.type,
                    listening.proto,
                )
                assert not os.get_inheritable(made.fileno())
                made.send(b"welcome")
                assert caller.recv(100) == b"welcome"
            finally:
                made.close()
            assert caller.recv(100) == b""


def test_the_address_of_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    four, six = Port(1), Port(1, ("fe80::7", 51000, 0, 1))
    monkeypatch.setattr(arrivals, "getnameinfo", lambda client, flags: ("fe80::7%lo", "51000"))
    seen: list[Any] = []
    for port in (four, six):
        port.buildProtocol = lambda address, port=port: seen.append(address) or port  # type: ignore[method-assign, misc]
        port.doRead()
    assert seen == [IPv4Address("TCP", "192.0.2.7", 51000), IPv6Address("TCP", "fe80::7%lo", 51000, 0, 1)]
    assert [port.made[0][1] for port in (four, six)] == [("192.0.2.7", 51000), ("fe80::7%lo", 51000, 0, 1)]


def test_a_factory_may_want_none() -> None:
    port = Port(1)
    [(skt, _)] = port.coming
    port.refuses = True
    port.doRead()
    assert (skt.closed, port.made) == (True, [])


def test_one_that_cannot_be_made_costs_the_others_nothing(flush_logged_errors: Any) -> None:
    port = Port(3)

    def fail() -> None:
        if len(port.made) == 2:
            raise ZeroDivisionError

    port.made_one = fail
    port.doRead()
    assert [skt.closed for skt, _ in port.made] == [False, True, False], "nobody else would end it"
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
