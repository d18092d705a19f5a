"""The wheel wakes everybody once: never early, at most a tick late, whatever the stalls."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from imgateway.core.wheel import Wheel

TICK = 0.25
SLOTS = 4
START = 100.0


class Clockwork(RuleBasedStateMachine):
    """Random deadlines and random steps of time; four slots, so that deadlines go around several times."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.looked = START
        self.wheel: Wheel[int] = Wheel(START, TICK)
        self.armed: dict[int, tuple[float, float]] = {}  # item → due, when the wheel had looked last
        self.number = 0

    def put(self, due: float) -> None:
        self.number += 1
        self.armed[self.number] = (due, self.looked)
        self.wheel.arm(due, self.number)

    @rule(wait=st.floats(-2, 6).map(lambda wait: round(wait, 3)))
    def arm(self, wait: float) -> None:
        self.put(self.now + wait)

    @rule(ticks=st.integers(-3, 20))
    def arm_on_the_tick(self, ticks: int) -> None:
        self.put(START + (math.floor((self.now - START) / TICK) + ticks) * TICK)

    @rule(step=st.floats(0, 1.0))
    def time_passes_unseen(self, step: float) -> None:
        self.now += step

    @rule(
        step=st.one_of(st.floats(0, 0.6), st.sampled_from([TICK, TICK * SLOTS, 5.0, 60.0])),
        late=st.booleans(),
    )
    def advance(self, step: float, late: bool) -> None:
        self.now += step
        woken = self.wheel.advance(self.now)
        self.looked = self.now
        for count, item in enumerate(woken):
            due, _ = self.armed.pop(item)  # a KeyError: handed out twice
            assert due <= self.now, "early"
            if count < 3:  # the woken arms its next wake-up, perhaps for a time that is over already
                self.put(self.now - 1 if late else self.now + 0.7)

    @invariant()
    def nobody_waits_longer_than_a_tick(self) -> None:
        for due, armed in self.armed.values():
            assert max(due, armed) > self.looked - TICK

    def teardown(self) -> None:
        rest = self.wheel.advance(self.now + 100)
        assert sorted(rest) == sorted(self.armed)
        assert not any(self.wheel._slots)


TestClockwork = Clockwork.TestCase
TestClockwork.settings = settings(max_examples=150, stateful_step_count=40, derandomize=True, deadline=None)


@settings(max_examples=300, derandomize=True)
@given(
    start=st.floats(0, 1e9),
    wait=st.floats(0, 1e5),
    nudge=st.integers(-3, 3),
)
def test_not_even_a_rounding_error_early(start: float, wait: float, nudge: int) -> None:
    """Whoever is woken before its time believes that nothing is due and does not arm again."""
    wheel: Wheel[str] = Wheel(start)
    due = start + wait
    wheel.arm(due, "item")
    now = due
    for _ in range(abs(nudge)):
        now = math.nextafter(now, math.copysign(math.inf, nudge))
    assert wheel.advance(now) == [] or now >= due
    assert wheel.advance(due + 2 * wheel.tick_s) in (["item"], [])


def test_what_is_due_now_comes_with_the_next_tick() -> None:
    wheel: Wheel[str] = Wheel(0.0, 1.0)
    wheel.arm(0.0, "now")
    wheel.arm(-5.0, "long ago")
    assert wheel.advance(0.0) == []
    assert wheel.advance(0.99) == []
    assert wheel.advance(1.0) == ["now", "long ago"]
    assert wheel.advance(1.0) == []


def test_what_is_armed_by_the_woken_waits_for_the_next_tick_even_after_a_stall() -> None:
    wheel: Wheel[str] = Wheel(0.0, 1.0)
    wheel.arm(1.0, "first")
    for item in wheel.advance(50.0):
        wheel.arm(2.0, item + " again")
    assert wheel.advance(50.5) == []
    assert wheel.advance(51.0) == ["first again"]


def test_a_whole_turn_apart_is_not_the_same() -> None:
    wheel: Wheel[str] = Wheel(0.0, 1.0)
    for turn in range(5):
        wheel.arm(2.0 + 4 * turn, f"turn {turn}")
    woken = {now: wheel.advance(float(now)) for now in range(1, 20)}
    assert {now: items for now, items in woken.items() if items} == {
        2 + 4 * turn: [f"turn {turn}"] for turn in range(5)
    }


def test_a_stall_hands_out_all_that_is_due_and_nothing_else() -> None:
    wheel: Wheel[float] = Wheel(0.0, 1.0)
    dues = [0.5, 1.0, 3.0, 4.0, 8.0, 9.5, 30.0, 31.0]
    for due in dues:
        wheel.arm(due, due)
    assert sorted(wheel.advance(30.0)) == dues[:-1]
    assert wheel.advance(31.0) == [31.0]


def test_a_stall_costs_one_turn_however_long() -> None:
    wheel: Wheel[str] = Wheel(0.0, 0.25)
    wheel.arm(3.0, "item")
    assert wheel.advance(1e12) == ["item"]  # 4e12 ticks would not end today


def test_a_clock_that_stands_or_steps_back_wakes_nobody_and_loses_nobody() -> None:
    wheel: Wheel[str] = Wheel(10.0, 1.0)
    wheel.arm(12.0, "item")
    assert wheel.advance(11.0) == []
    assert wheel.advance(5.0) == []
    assert wheel.advance(11.9) == []
    assert wheel.advance(12.0) == ["item"]
    wheel.arm(11.0, "late")
    assert wheel.advance(3.0) == []
    assert wheel.advance(13.0) == ["late"]


@pytest.mark.parametrize("due", [math.inf, math.nan])
def test_a_deadline_that_never_comes_is_a_mistake(due: float) -> None:
    with pytest.raises((OverflowError, ValueError)):
        Wheel(0.0).arm(due, "item")


def test_times_of_a_tick_are_one_object() -> None:
    wheel: Wheel[int] = Wheel(100.1)
    dues = [wheel.arm(102.0 + n / 100, n) for n in range(26)]
    assert dues == [102.0] + [102.25] * 25
    assert len(set(map(id, dues))) == 2
    assert wheel.advance(102.0) == [0]
    assert wheel.advance(102.25) == list(range(1, 26))


def test_the_next_tick_is_one_object_until_it_is_over() -> None:
    wheel: Wheel[int] = Wheel(100.0)
    assert [wheel.next_tick(now) for now in (100.0, 100.01, 100.25, 100.26)] == [100.0, 100.25, 100.25, 100.5]
    assert wheel.next_tick(100.4) is wheel.next_tick(100.5)
    assert wheel.next_tick(460.1) == 460.25
