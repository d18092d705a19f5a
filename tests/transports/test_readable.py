"""Sockets with something to read: each is called once a turn, and ends as a reactor would end it."""

from __future__ import annotations

from collections.abc import Iterator
from socket import AF_UNIX, SOCK_STREAM, socket, socketpair
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from imgateway.transports import departures
from imgateway.transports import readable as readables
from imgateway.transports.readable import Readable, heard_by, readable_of
from imgateway.transports.sockets import keep_little, read_early
from imgateway.transports.turns import FEW, turn_of


class Port:
    _realPortNumber = 7901

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.transport: Any = tcp.Server
        self.socket = self

    def setsockopt(self, *option: int) -> None: ...


class Ear(Protocol):
    """Keeps what comes, and does with it what it was told."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.gone: list[type] = []
        self.then: Any = lambda: None
        self.last: Any = lambda: None

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)
        self.then()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.gone.append(reason.type)
        self.last()


class Place:
    """Accepted sockets of one reactor, with their peers."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.readable: Readable = readable_of(self.reactor)
        self.sockets: list[Any] = []
        self.peers: list[socket] = []
        self._port = Port(self.reactor)
        keep_little(self._port)

    def accept(self) -> tuple[Any, socket, Ear]:
        ours, peer = socketpair(AF_UNIX, SOCK_STREAM)
        ours.setblocking(False)
        self.peers.append(peer)
        self.sockets.append(ours)
        ear = Ear()
        accepted = self._port.transport(ours, ear, ("192.0.2.7", 51000), self._port, 1, self.reactor)
        ear.makeConnection(accepted)
        return accepted, peer, ear

    def turn(self) -> None:
        self.readable.doRead()
        self.reactor.advance(0)

    def reads(self) -> bool:
        return self.readable in self.reactor.readers


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    for one in place.sockets + place.peers:
        one.close()


def test_it_is_a_reader_of_the_reactor_while_there_is_somebody(place: Place) -> None:
    assert verifyObject(IReadDescriptor, place.readable)
    assert place.readable.fileno() > 0
    assert place.readable.logPrefix()
    assert not place.reads()
    first, second = place.accept()[0], place.accept()[0]
    assert place.reads()
    assert {first, second}.isdisjoint(place.reactor.readers)
    first.stopReading()
    first.stopReading()
    assert place.reads()
    second.stopReading()
    assert not place.reads()
    second.startReading()
    second.startReading()
    assert place.reads()


def test_whoever_has_something_is_read_from_once_a_turn(place: Place) -> None:
    (_, one, first), (_, two, second), (_, _, third) = (place.accept() for _ in range(3))
    one.send(b"1")
    two.send(b"2")
    place.turn()
    place.turn()
    assert (first.heard, second.heard, third.heard) == ([b"1"], [b"2"], [])


def test_what_few_have_brought_is_dealt_with_when_they_are_read(place: Place) -> None:
    done: list[str] = []
    for name in "ab":
        _, peer, ear = place.accept()
        ear.then = lambda name=name: turn_of(place.reactor).soon(lambda: done.append(name))
        peer.send(b"x")
    place.readable.doRead()
    assert sorted(done) == ["a", "b"]
    assert not place.reactor.getDelayedCalls()


def test_what_many_have_brought_is_dealt_with_in_the_next_turn(place: Place) -> None:
    done: list[int] = []
    for n in range(FEW + 1):
        _, peer, ear = place.accept()
        ear.then = lambda n=n: turn_of(place.reactor).soon(lambda: done.append(n))
        peer.send(b"x")
    place.readable.doRead()
    assert done == []
    place.reactor.advance(0)
    assert sorted(done) == list(range(FEW + 1))


def test_a_turn_ends_whatever_happens_in_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise ZeroDivisionError

    accepted, peer, ear = place.accept()
    done: list[str] = []
    ear.then = lambda: turn_of(place.reactor).soon(lambda: done.append("asked for"))
    peer.send(b"x")
    accepted.doRead, doRead = lambda: doRead() or ValueError(), accepted.doRead
    monkeypatch.setattr(place.readable, "_end", fails)
    with pytest.raises(ZeroDivisionError):
        place.readable.doRead()
    assert done == ["asked for"]
    turn_of(place.reactor).soon(lambda: done.append("later"))
    place.reactor.advance(0)
    assert done == ["asked for", "later"]


def test_a_pause_that_is_over_before_anything_comes_never_leaves_the_poll(place: Place) -> None:
    accepted, peer, ear = place.accept()
    accepted.pauseProducing()
    assert place.reads()
    accepted.resumeProducing()
    peer.send(b"one")
    place.turn()
    accepted.pauseProducing()
    peer.send(b"two")
    place.turn()
    assert (place.reads(), ear.heard) == (False, [b"one"])
    accepted.resumeProducing()
    place.turn()
    assert ear.heard == [b"one", b"two"]


def test_the_peers_end(place: Place) -> None:
    accepted, peer, ear = place.accept()
    peer.send(b"last")
    peer.close()
    place.turn()
    place.turn()
    assert (ear.heard, ear.gone, place.reads()) == ([b"last"], [ConnectionDone], False)
    assert accepted.fileno() == -1


def test_a_connection_that_breaks(place: Place) -> None:
    accepted, peer, ear = place.accept()

    class Broken:
        """What `recv` raises of a reset connection."""

        def __init__(self, inner: socket) -> None:
            self.fileno, self.shutdown, self.close = inner.fileno, inner.shutdown, inner.close

        def recv(self, size: int) -> bytes:
            raise ConnectionResetError

    accepted.socket = Broken(accepted.socket)
    peer.send(b"x")
    place.turn()
    assert (ear.gone, place.reads()) == ([ConnectionLost], False)


def test_one_that_raises_ends_alone(place: Place, flush_logged_errors: Any) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    (_, one, first), (_, two, second) = place.accept(), place.accept()
    first.then = fails
    one.send(b"1")
    two.send(b"2")
    place.turn()
    assert (first.gone, second.gone, second.heard) == ([ZeroDivisionError], [], [b"2"])
    assert flush_logged_errors(ZeroDivisionError)


def test_one_that_raises_at_its_end_too_ends_alone(place: Place, flush_logged_errors: Any) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    (_, one, first), (_, two, second), (_, three, third) = (place.accept() for _ in range(3))
    first.then = first.last = second.last = fails
    one.send(b"1")
    two.close()
    three.send(b"3")
    place.turn()
    assert (first.gone, second.gone) == ([ZeroDivisionError], [ConnectionDone])
    assert (third.gone, third.heard, place.reads()) == ([], [b"3"], True)
    assert len(flush_logged_errors(ZeroDivisionError)) == 3


def test_whatever_is_raised_the_others_stay(place: Place, flush_logged_errors: Any) -> None:
    class Unhashable(Exception):
        """As every data class is."""

        __hash__ = None  # type: ignore[assignment]

    def fails() -> None:
        raise Unhashable

    (_, one, first), (_, two, second) = place.accept(), place.accept()
    first.then = fails
    one.send(b"1")
    two.send(b"2")
    place.turn()
    assert (first.gone, second.gone, second.heard) == ([Unhashable], [], [b"2"])
    assert flush_logged_errors(Unhashable)


def test_what_another_ones_bytes_stopped_is_not_read_from(place: Place) -> None:
    (first, one, heard), (second, two, also) = place.accept(), place.accept()
    heard.then, also.then = second.stopReading, first.stopReading
    one.send(b"1")
    two.send(b"2")
    place.turn()
    assert len(heard.heard + also.heard) == 1


def test_when_the_reactor_stops_all_are_told(place: Place) -> None:
    ears = [place.accept()[2] for _ in range(3)]
    place.readable.connectionLost(Failure(ConnectionLost()))
    assert [ear.gone for ear in ears] == [[ConnectionLost]] * 3
    assert not place.reads()


def test_one_that_raises_when_the_reactor_stops_keeps_it_from_nobody(
    place: Place, flush_logged_errors: Any
) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    ears = [place.accept()[2] for _ in range(3)]
    ears[0].last = fails
    place.readable.connectionLost(Failure(ConnectionLost()))
    assert [ear.gone for ear in ears] == [[ConnectionLost]] * 3
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_descriptor_that_is_used_again_is_the_new_ones(place: Place) -> None:
    old, peer, _ = place.accept()
    number = old.fileno()
    peer.close()
    place.turn()
    new, peer, ear = place.accept()
    assert new.fileno() == number
    old.stopReading()
    peer.send(b"new")
    place.turn()
    assert ear.heard == [b"new"]


def test_of_a_crowd_that_leaves_at_once_some_end_in_the_next_turn(place: Place) -> None:
    crowd = [place.accept() for _ in range(departures.PORTION + 1)]
    for _, peer, _ in crowd:
        peer.close()
    place.readable.doRead()
    assert sum(len(ear.gone) for _, _, ear in crowd) == departures.PORTION
    place.reactor.advance(0)
    place.turn()
    assert [ear.gone for _, _, ear in crowd] == [[ConnectionDone]] * len(crowd)
    place.reactor.advance(0)


def test_it_is_known_whether_anybody_speaks_who_has_greeted(place: Place) -> None:
    heard = heard_by(place.reactor)
    accepted, peer, ear = place.accept()
    read_early(accepted)  # its greeting is on its way
    counts = [heard()]
    for said in (b"greeting", b"word", b"word"):
        peer.sendall(said)
        place.turn()
        counts.append(heard())
    peer.close()
    place.turn()
    assert [*counts, heard()] == [0, 0, 1, 2, 2]
    assert (len(ear.heard), ear.gone) == (3, [ConnectionDone])


def test_who_ends_without_a_word_has_not_spoken(place: Place) -> None:
    heard = heard_by(place.reactor)
    for is_early in (True, False):
        accepted, peer, ear = place.accept()
        if is_early:
            read_early(accepted)
        peer.close()
        place.turn()
        assert (heard(), ear.gone) == (0, [ConnectionDone])


def test_without_a_poll_of_our_own_somebody_may_always_have_spoken(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readables, "AVAILABLE", False)
    heard = heard_by(place.reactor)
    assert heard() != heard()
