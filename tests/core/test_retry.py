"""Waits between attempts: growing, capped, jittered by a source that the caller gives."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.core.retry import backoff, fixed, spread

LOWEST, HIGHEST = 0.0, 1 - 2**-53  # what random() may give


@settings(max_examples=200, derandomize=True)
@given(
    first_s=st.floats(0.001, 10),
    factor=st.floats(1, 1e10),
    max_s=st.floats(10, 1e4),
    attempt=st.integers(0, 5000),
    draw=st.floats(LOWEST, HIGHEST),
)
def test_a_wait_is_in_the_upper_half_of_its_step_and_under_the_cap(
    first_s: float, factor: float, max_s: float, attempt: int, draw: float
) -> None:
    def step(attempt: int) -> float:
        return backoff(lambda: HIGHEST, first_s, factor, max_s)(attempt)

    wait = backoff(lambda: draw, first_s, factor, max_s)(attempt)
    assert step(attempt) / 2 * 0.999 <= wait <= step(attempt) <= max_s
    assert step(attempt) <= step(attempt + 1) <= step(attempt) * factor * 1.001


def test_the_steps_double_up_to_the_cap() -> None:
    policy = backoff(lambda: LOWEST)
    assert [policy(attempt) * 2 for attempt in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_gentle_factor_does_not_jump() -> None:
    constant, slow = backoff(lambda: LOWEST, factor=1), backoff(lambda: LOWEST, factor=1.01)
    assert constant(63) == constant(64) == constant(10_000) == 0.25
    assert slow(64) == pytest.approx(slow(63) * 1.01)


@pytest.mark.parametrize("factor", [2, 2.0, 1e300])
def test_no_attempt_is_too_many(factor: float) -> None:
    assert backoff(lambda: LOWEST, factor=factor)(100_000) == 15.0


def test_two_clients_do_not_come_back_together() -> None:
    one, other = (backoff(random.Random(seed).random) for seed in (1, 2))
    assert all(one(attempt) != other(attempt) for attempt in range(20))


def test_a_seed_repeats_the_waits() -> None:
    one, again = (backoff(random.Random(7).random) for _ in range(2))
    assert [one(attempt) for attempt in range(20)] == [again(attempt) for attempt in range(20)]


def test_fixed_is_fixed() -> None:
    policy = fixed(3.5)
    assert [policy(attempt) for attempt in (0, 1, 1000)] == [3.5] * 3


@settings(max_examples=100, derandomize=True)
@given(base_s=st.floats(0, 1e4), jitter=st.floats(0, 1), draw=st.floats(LOWEST, HIGHEST))
def test_a_spread_is_around_its_base(base_s: float, jitter: float, draw: float) -> None:
    wait = spread(lambda: draw, base_s, jitter)
    assert base_s * (1 - jitter) * 0.999 <= wait <= base_s * (1 + jitter) * 1.001


def test_a_spread_uses_its_whole_width() -> None:
    assert [spread(lambda draw=draw: draw, 10.0) for draw in (0.0, 0.5, 1.0)] == [5.0, 10.0, 15.0]
