"""The end of a turn: at once after few, by a delayed call after many."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from twisted.internet.task import Clock

from imgateway.transports.turns import FEW, LONG_S, Turn, turn_of


def test_what_is_asked_for_while_nothing_is_read_waits_for_the_reactor() -> None:
    clock, done = Clock(), []
    turn = Turn(clock)
    turn.soon(lambda: done.append(1))
    assert done == []
    clock.advance(0)
    assert done == [1]


def test_what_few_ask_for_is_done_when_they_are_read_and_what_that_asks_for_behind_it() -> None:
    clock, done = Clock(), []
    turn = Turn(clock)

    def commit() -> None:
        done.append("commit")
        turn.soon(lambda: done.append("write"))

    turn.begin(FEW)
    turn.soon(commit)
    turn.soon(lambda: done.append("beside it"))
    assert done == []
    turn.end()
    assert done == ["commit", "beside it", "write"]
    assert not clock.getDelayedCalls()
    turn.soon(lambda: done.append("later"))
    assert done[-1] == "write"
    clock.advance(0)
    assert done[-1] == "later"


def test_nobody_keeps_a_turn_from_ending() -> None:
    clock, done = Clock(), []
    turn = Turn(clock)

    def again() -> None:
        done.append(clock.seconds())
        turn.soon(again)

    turn.begin(1)
    turn.soon(again)
    turn.end()
    assert len(done) == 2
    assert len(clock.getDelayedCalls()) == 1
    clock.getDelayedCalls()[0].cancel()


@pytest.mark.parametrize(("sockets", "took_s"), [(FEW + 1, 0), (1, 2 * LONG_S)], ids=["many", "long"])
def test_what_brought_much_waits_for_the_reactor(sockets: int, took_s: float) -> None:
    """One socket of UDP may have brought 2,000 datagrams."""
    clock, done = Clock(), []
    turn = Turn(clock)
    turn.begin(sockets)
    turn.soon(lambda: done.append(1))
    clock.rightNow += took_s
    turn.end()
    assert done == []
    clock.advance(0)
    assert done == [1]


def test_a_turn_within_a_turn_loses_nothing() -> None:
    """A plugin may let the reactor go on while it is called."""
    clock, done = Clock(), []
    turn = Turn(clock)
    turn.begin(1)
    turn.soon(lambda: done.append("outer"))
    turn.begin(1)
    turn.soon(lambda: done.append("inner"))
    turn.end()
    assert done == ["outer", "inner"]
    turn.soon(lambda: done.append("later"))
    turn.end()
    clock.advance(0)
    assert done == ["outer", "inner", "later"]


def test_one_that_fails_keeps_nobody_waiting(flush_logged_errors: Any) -> None:
    clock, done = Clock(), []
    turn = Turn(clock)

    def fails() -> None:
        turn.soon(lambda: done.append("its own"))
        raise KeyboardInterrupt

    turn.begin(1)
    turn.soon(fails)
    turn.soon(lambda: done.append("the next one"))
    turn.end()
    assert done == ["the next one", "its own"]
    assert len(flush_logged_errors(KeyboardInterrupt)) == 1
    turn.soon(lambda: done.append("later"))
    clock.advance(0)
    assert done[-1] == "later"


def test_a_reactor_has_one_which_does_not_keep_it_alive() -> None:
    clock = Clock()
    turn = turn_of(clock)
    assert turn_of(clock) is turn
    gone = weakref.ref(clock)
    del clock
    gc.collect()
    assert gone() is None
    turn.soon(lambda: None)  # there is no turn any more
