"""However many connections end at once, so many of them are dealt with in a turn."""

from __future__ import annotations

from twisted.internet.task import Clock

from imgateway.transports.departures import PORTION, departures_of


class Socket:
    """One whose peer has gone: whenever it is read from it ends, if it may."""

    def __init__(self, clock: Clock, ended: list[Socket]) -> None:
        self.connected = 1
        self.reading = True
        self.clock = clock
        self.ended = ended

    def startReading(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False

    def read(self) -> None:
        if self.reading and self.connected and departures_of(self.clock).may_end(self):
            self.connected = 0
            self.ended.append(self)


def test_a_few_end_at_once() -> None:
    clock, ended = Clock(), list[Socket]()
    for _ in range(3):
        for _ in range(PORTION):
            Socket(clock, ended).read()
        clock.advance(0)
    assert len(ended) == 3 * PORTION
    assert clock.getDelayedCalls() == []


def test_of_many_each_turn_has_its_portion_and_none_is_forgotten() -> None:
    clock, ended = Clock(), list[Socket]()
    sockets = [Socket(clock, ended) for _ in range(5 * PORTION + 1)]
    turns = []
    while len(ended) < len(sockets):
        before = len(ended)
        for socket in sockets:
            socket.read()
        turns.append(len(ended) - before)
        clock.advance(0)
    assert max(turns) <= PORTION
    assert len(turns) <= 8
    clock.advance(0)
    clock.advance(0)
    assert clock.getDelayedCalls() == []


def test_who_was_ended_by_us_meanwhile_is_not_read_from() -> None:
    clock, ended = Clock(), list[Socket]()
    sockets = [Socket(clock, ended) for _ in range(PORTION + 1)]
    for socket in sockets:
        socket.read()
    sockets[-1].connected = 0
    clock.advance(0)
    assert not sockets[-1].reading


def test_each_reactor_has_its_own() -> None:
    one, other = Clock(), Clock()
    assert departures_of(one) is departures_of(one) is not departures_of(other)
