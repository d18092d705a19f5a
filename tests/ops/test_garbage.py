"""The collector looks at what is new, and at all of it only if there is more than sessions explain."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imgateway.ops import garbage
from imgateway.ops.garbage import PER_SESSION, STEP, Garbage


class Knot:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def later() -> list[Callable[[], None]]:
    return []


@pytest.fixture
def started(later: list[Callable[[], None]]) -> Iterator[Garbage]:
    one = Garbage(lambda: 2, later.append)
    one.start()
    yield one
    one.stop()


def knots() -> int:
    return sum(type(one) is Knot for one in gc.get_objects())


def test_what_is_there_at_the_start_is_not_looked_at_again(started: Garbage) -> None:
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] == STEP


def test_what_outlives_one_look_is_put_aside(started: Garbage) -> None:
    before = gc.get_freeze_count()
    held = [[index] for index in range(3 * STEP)]
    assert gc.get_freeze_count() - before > STEP
    assert gc.get_count()[1:] == (0, 0), "no older generation ever has anything"
    assert len(held) == 3 * STEP


def test_garbage_is_still_found_while_it_is_new(started: Garbage) -> None:
    Knot()
    gc.collect(0)
    assert knots() == 0


def test_all_are_looked_at_if_there_are_more_than_sessions_explain(
    started: Garbage, later: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = [Knot() for _ in range(1_000)]
    gc.collect(0)  # they are aside now, and must be looked for there
    held.clear()
    assert later == []
    monkeypatch.setattr(garbage, "MORE", 100)
    gc.collect(0)
    (look_at_all,) = later
    aside = gc.get_freeze_count()
    look_at_all()
    assert aside - gc.get_freeze_count() > 900
    later.clear()
    gc.collect(0)
    assert later == [], "what is left has its reasons"


def test_all_are_looked_at_once_however_many_looks_find_too_many(
    started: Garbage, later: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [[index] for index in range(1_000)]
    monkeypatch.setattr(garbage, "MORE", 100)
    for _ in range(3):
        gc.collect(0)
    (look_at_all,) = later
    look_at_all()
    assert later == [look_at_all], "what is left is more than that was, and asks for no other look"
    held += [[index] for index in range(1_000)]
    gc.collect(0)
    assert len(later) == 2, "only who has looked is asked again"


def test_new_sessions_explain_some(later: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = 2
    monkeypatch.setattr(garbage, "MORE", 100)
    one = Garbage(lambda: sessions, later.append)
    one.start()
    try:
        held = [[index] for index in range(1_000)]
        sessions += 2_000 // PER_SESSION
        gc.collect(0)
        assert (later, len(held)) == ([], 1_000)
        sessions = 0
        gc.collect(0)
        assert len(later) == 1
    finally:
        one.stop()


def test_those_that_have_ended_are_not_counted_against_it(
    started: Garbage, later: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "STEP", 10**12)  # as if so many had come, and gone
    gc.collect(0)
    assert later == []


def test_who_never_started_may_stop() -> None:
    callbacks = list(gc.callbacks)
    Garbage(lambda: 0, lambda call: None).stop()
    assert gc.callbacks == callbacks


def test_stop_leaves_it_as_it_was(later: list[Callable[[], None]]) -> None:
    threshold, callbacks = gc.get_threshold(), list(gc.callbacks)
    one = Garbage(lambda: 0, later.append)
    one.start()
    one.stop()
    assert (gc.get_threshold(), gc.callbacks, gc.get_freeze_count()) == (threshold, callbacks, 0)
