"""A process that is late: what came is read before anything counts as lost; what is due goes in portions."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, MSG_PEEK
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from imgateway.transports.datagram import messages
from imgateway.transports.datagram.flow import Flow
from imgateway.transports.datagram.reader import AT_ONCE, SMALLEST_BYTES, Reader
from imgateway.transports.datagram.wakeups import AT_A_TIME, TICK_S, WakeUps

PLACE = ("192.0.2.7", 5)
BUFFER_BYTES = 3 * AT_ONCE * SMALLEST_BYTES


class Handle:
    """A socket with datagrams in it."""

    family = AF_INET

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = waiting

    def getsockopt(self, level: int, option: int) -> int:
        return BUFFER_BYTES

    def fileno(self) -> int:
        return 77

    def recvfrom(self, size: int, flags: int = 0) -> Any:
        if not self.waiting:
            raise BlockingIOError
        if flags != MSG_PEEK:
            self.waiting -= 1
        return b"datagram"[:size], PLACE


class House:
    """A reader with its socket, its clock and what it was given."""

    def __init__(self, waiting: int = 0) -> None:
        self.clock = Clock()
        self.handle = Handle(waiting)
        self.taken: list[Any] = []
        self.lost: list[Any] = []
        self.reader = Reader(self.handle, 4, self.take, self, self.clock.seconds)  # type: ignore[arg-type]

    def take(self, datagram: bytes, address: Any) -> None:
        self.taken.append((datagram, address))

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason)

    def turn(self, waiting: int) -> float:
        """A second later, with so many more there."""
        self.clock.advance(1)
        self.handle.waiting += waiting
        self.reader.doRead()
        return self.reader.upto(self.clock.seconds())


def test_all_that_is_there_is_read() -> None:
    house = House(waiting=3)
    house.reader.doRead()
    assert house.taken == [(b"data", PLACE)] * 3
    assert not house.reader.is_behind
    assert house.reader.fileno() == 77


def test_over_ipv6_an_address_is_two_things_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handle, "family", AF_INET6)
    house = House()
    house.handle.recvfrom = lambda size, flags=0: (b"six", ("::1", 5, 0, 0))  # type: ignore[method-assign]
    house.reader.doRead()
    assert house.taken[0] == (b"six", ("::1", 5))


def test_reading_knows_how_far_it_has_come() -> None:
    house = House()
    assert house.turn(AT_ONCE - 1) == 1
    assert not house.reader.is_behind
    # From here on there is always more than it reads, and three turns of it fit into the socket.
    assert [house.turn(2 * AT_ONCE) for _ in range(7)] == [0, 0, 0, 2, 2, 2, 5]
    assert house.reader.is_behind
    house.handle.waiting = 0
    assert house.turn(5) == 9
    assert not house.reader.is_behind


def test_as_many_as_are_read_in_a_turn_leave_nothing_behind() -> None:
    """The poll calls no more then."""
    house = House()
    assert house.turn(AT_ONCE) == 1
    assert not house.handle.waiting
    assert not house.reader.is_behind


@pytest.mark.parametrize("problem", [ConnectionRefusedError, ConnectionResetError])
def test_what_a_peer_did_is_no_end_of_the_socket(problem: type[OSError]) -> None:
    house = House()

    def fail(size: int) -> Any:
        raise problem

    house.handle.recvfrom = fail  # type: ignore[method-assign]
    house.reader.doRead()
    assert not house.lost


def test_a_datagram_that_cannot_be_dealt_with_is_logged(flush_logged_errors: Any) -> None:
    house = House(waiting=2)

    def take(datagram: bytes, address: Any) -> None:
        raise ZeroDivisionError

    house.reader._take = take
    house.reader.doRead()
    assert not house.handle.waiting
    assert len(flush_logged_errors(ZeroDivisionError)) == 2


def test_the_end_of_the_socket_is_its_transports() -> None:
    house = House()
    reason = Failure(ConnectionError())
    house.reader.readConnectionLost(reason)
    assert house.lost == [reason]


# ------------------------------------------------------------------------------------------------- wake-ups


class Sleeper:
    def __init__(self, woken: Any) -> None:
        self.woken = woken


def stall(clock: Clock, seconds: float) -> None:
    """The reactor does nothing for a while; then what is due happens, and nothing that this sets off."""
    clock.rightNow += seconds
    for call in [call for call in clock.calls if call.getTime() <= clock.seconds()]:
        clock.calls.remove(call)
        call.func()


def test_after_a_stall_reading_comes_first() -> None:
    clock = Clock()
    wakeups, woken = WakeUps(clock), []
    wakeups.arm(0.2, Sleeper(lambda: woken.append(wakeups.judged)))
    stall(clock, 5)
    assert not woken
    stall(clock, 1)
    assert woken == [6], "even if each turn is late"


def test_while_reading_is_behind_nobody_is_woken_for_what_may_be_there() -> None:
    clock = Clock()
    read_upto = [0.0]
    woken: list[float] = []
    wakeups = WakeUps(clock, lambda now: read_upto[0])
    for due in (0.2, 0.4):
        wakeups.arm(due, Sleeper(lambda due=due: woken.append(due)))
    clock.pump([TICK_S] * 64)
    assert (woken, wakeups.judged) == ([], 0.0)
    read_upto[0] = 0.25
    clock.pump([TICK_S])
    assert (woken, wakeups.judged) == ([0.2], 0.25)
    read_upto[0] = 0.1  # not known
    clock.pump([TICK_S])
    assert wakeups.judged == 0.25
    read_upto[0] = 1.0
    clock.pump([TICK_S])
    assert woken == [0.2, 0.4]
    assert not clock.getDelayedCalls()


def test_those_who_are_due_have_their_turn_in_portions() -> None:
    clock = Clock()
    wakeups, woken = WakeUps(clock), []
    for number in range(2 * AT_A_TIME + 1):
        wakeups.arm(TICK_S, Sleeper(lambda number=number: woken.append(number)))
    found = []
    for passed in (TICK_S, 0, 0):
        stall(clock, passed)
        found.append((len(woken), wakeups.is_late))
    assert found == [(AT_A_TIME, True), (2 * AT_A_TIME, True), (2 * AT_A_TIME + 1, False)]
    assert woken == sorted(woken)
    assert not clock.getDelayedCalls()


def test_stopped_it_forgets_who_waits() -> None:
    clock = Clock()
    wakeups, woken = WakeUps(clock), []
    for _ in range(AT_A_TIME + 1):
        wakeups.arm(TICK_S, Sleeper(lambda: woken.append(1)))
    stall(clock, TICK_S)
    assert wakeups.is_late
    wakeups.stop()
    assert not wakeups.is_late
    clock.advance(10)
    assert len(woken) == AT_A_TIME


def test_stopped_by_the_one_who_is_woken() -> None:
    clock = Clock()
    wakeups, woken = WakeUps(clock), []

    def last() -> None:
        woken.append(1)
        wakeups.stop()

    for _ in range(2):
        wakeups.arm(TICK_S, Sleeper(last))
    clock.advance(TICK_S)
    assert woken == [1]
    assert not clock.getDelayedCalls()


# ---------------------------------------------------------------------------------------------------- flows


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_sent_again_before_what_came_was_read(count: int) -> None:
    flow = Flow()
    for number in range(count):
        flow.send(b"message %d" % number)
    sent = list(flow.datagrams(0.0))
    due = flow.due()
    assert due == 1.0
    assert list(flow.datagrams(5.0, 0.9)) == []
    assert flow.due() == due
    last = sent[-1][0]
    flow.receive(0, messages.ack(last, (1 << last) - 1), 5.0)  # it had been there all the time
    assert list(flow.datagrams(5.0, 5.0)) == []
    assert flow.resent == flow.lost == 0
    assert flow.due() is None


@pytest.mark.parametrize("count", [1, 3])
def test_an_acknowledgement_that_wants_no_wake_up_goes_at_once(count: int) -> None:
    flow = Flow()
    for number in range(count):
        flow.send(b"%d" % number)
    assert list(flow.datagrams(0.0))
    assert flow.receive(0, messages.data_head(0, 0, 0, 4) + b"ping", 1.0, 0.0) == [b"ping"]
    assert flow.due() == 1.0
    ((_, payload),) = flow.datagrams(1.0, 0.0)
    assert list(messages.parse(payload)) == [messages.Ack(0, 0)]
