"""However many connections end at once, so many of them are dealt with in a turn."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from imgateway.transports.departures import PORTION, departures_of

GONE = ConnectionDone()


class Socket:
    """One whose peer has gone: whenever it is read from it ends, if it may."""

    def __init__(self, clock: Clock, ended: list[Socket]) -> None:
        self.connected = 1
        self.reading = True
        self.clock = clock
        self.ended = ended

    def stopReading(self) -> None:
        self.reading = False

    def read(self) -> None:
        if self.reading and self.connected and departures_of(self.clock).may_end(self, GONE):
            self.connectionLost(Failure(GONE))

    def connectionLost(self, reason: Failure) -> None:
        assert reason.value is GONE
        self.connected = 0
        self.ended.append(self)


def turn(clock: Clock) -> None:
    """What is due now; what that asks for is for the next one."""
    for call in clock.getDelayedCalls():
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)


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
    for socket in sockets:
        socket.read()
    turns = [len(ended)]
    while len(ended) < len(sockets):
        before = len(ended)
        turn(clock)
        turns.append(len(ended) - before)
    assert turns == [PORTION] * 5 + [1]
    assert ended == sockets
    clock.advance(0)
    assert clock.getDelayedCalls() == []


def test_those_of_a_portion_and_those_who_come_in_that_turn_are_no_more_than_one() -> None:
    clock, ended = Clock(), list[Socket]()
    for _ in range(2 * PORTION):
        Socket(clock, ended).read()
    turn(clock)
    late = Socket(clock, ended)
    late.read()
    assert (len(ended), late.connected) == (2 * PORTION, 1)
    turn(clock)
    assert not late.connected
    clock.advance(0)
    assert clock.getDelayedCalls() == []


def test_one_whose_end_cannot_be_told_holds_up_nobody(flush_logged_errors: Any) -> None:
    clock, ended = Clock(), list[Socket]()
    sockets = [Socket(clock, ended) for _ in range(PORTION + 2)]

    def fail(reason: Failure) -> None:
        raise ZeroDivisionError

    sockets[PORTION].connectionLost = fail  # type: ignore[method-assign]
    for socket in sockets:
        socket.read()
    clock.advance(0)
    assert not sockets[-1].connected
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_who_was_ended_by_us_meanwhile_is_not_ended_again() -> None:
    clock, ended = Clock(), list[Socket]()
    sockets = [Socket(clock, ended) for _ in range(PORTION + 1)]
    for socket in sockets:
        socket.read()
    sockets[-1].connected = 0
    clock.advance(0)
    assert sockets[-1] not in ended


def test_each_reactor_has_its_own() -> None:
    one, other = Clock(), Clock()
    assert departures_of(one) is departures_of(one) is not departures_of(other)
