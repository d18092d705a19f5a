"""Token buckets keep their rate, and what they tell to wait is what it takes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from imgateway.core.throttle import SLACK_S, Few, TokenBucket

rates = st.floats(0.01, 1e6)
bursts = st.floats(0.5, 1e6)
amounts = st.floats(0.01, 1e6)
times = st.floats(0, 2e9)  # a monotonic clock or Unix seconds


class Bucket(RuleBasedStateMachine):
    """Against the plain formula: what was taken never exceeds the burst plus what has flowed in since."""

    @initialize(rate=rates, burst=bursts, start=times)
    def fill(self, rate: float, burst: float, start: float) -> None:
        self.bucket = TokenBucket(rate, burst, start)
        self.now = self.start = start
        self.taken = self.largest = 0.0

    @rule(share=st.floats(0, 3))
    def wait(self, share: float) -> None:
        self.now += share * self.bucket.burst / self.bucket.rate

    @rule(share=st.floats(0.001, 3))
    def take(self, share: float) -> None:
        amount = share * self.bucket.burst
        wait = self.bucket.wait_s(amount, self.now)
        assert wait >= 0.0
        passes = self.bucket.take(amount, self.now)
        assert passes is (wait == 0.0)
        if not passes:
            assert self.bucket.wait_s(amount, self.now) == wait, "a refusal costs nothing"
            self.now += wait
            assert self.bucket.wait_s(amount, self.now) == 0.0
            assert self.bucket.take(amount, self.now)
        self.count(amount)

    @rule(share=st.floats(0.001, 2))
    def a_refusal_is_not_too_strict(self, share: float) -> None:
        amount = share * self.bucket.burst
        wait = self.bucket.wait_s(amount, self.now)
        if wait:
            assert not self.bucket.take(amount, self.now + wait * 0.9 - 2 * SLACK_S)
            self.now = max(self.now, self.now + wait * 0.9 - 2 * SLACK_S)

    @rule(share=st.floats(0.001, 2))
    def charge(self, share: float) -> None:
        amount = share * self.bucket.burst
        wait = self.bucket.charge(amount, self.now)
        assert wait >= 0.0
        self.count(amount)
        self.now += wait
        assert self.bucket.charge(0.0, self.now) <= SLACK_S

    @rule()
    def full_is_as_good_as_new(self) -> None:
        bucket = self.bucket
        full = bucket.full(self.now)
        new = TokenBucket(bucket.rate, bucket.burst, self.now)
        same = bucket.wait_s(bucket.burst, self.now) <= new.wait_s(bucket.burst, self.now)
        assert not full or same
        assert full or bucket.take(0.0, self.now) or bucket.wait_s(0.0, self.now) > 0

    def count(self, amount: float) -> None:
        self.taken += amount
        self.largest = max(self.largest, amount)

    @invariant()
    def the_rate_holds(self) -> None:
        if hasattr(self, "bucket"):
            bucket = self.bucket
            flowed = bucket.burst + (self.now - self.start) * bucket.rate
            assert self.taken <= (flowed + self.largest + bucket.rate * SLACK_S) * (1 + 1e-6)


TestBucket = Bucket.TestCase
TestBucket.settings = settings(max_examples=120, stateful_step_count=25, derandomize=True, deadline=None)


@settings(max_examples=300, derandomize=True)
@given(rate=rates, burst=bursts, amount=amounts, spent=st.floats(0, 2), now=times)
def test_whoever_sleeps_as_long_as_told_is_let_through(
    rate: float, burst: float, amount: float, spent: float, now: float
) -> None:
    bucket = TokenBucket(rate, burst, now)
    bucket.charge(spent * burst, now)
    wait = bucket.wait_s(amount, now)
    assert bucket.wait_s(amount, now + wait) == 0.0
    assert bucket.take(amount, now + wait)


def test_a_burst_passes_and_then_the_rate() -> None:
    bucket = TokenBucket(10, 5, 0.0)
    assert [bucket.take(1, 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert bucket.wait_s(1, 0.0) == pytest.approx(0.1)
    assert not bucket.take(1, 0.1 - 1e-5)
    assert bucket.take(1, 0.1)
    assert bucket.wait_s(5, 0.1) == pytest.approx(0.5)


def test_no_more_than_the_burst_is_saved_up() -> None:
    bucket = TokenBucket(10, 5, 0.0)
    assert bucket.wait_s(5, 1000.0) == 0.0
    assert sum(bucket.take(1, 1000.0) for _ in range(20)) == 5


def test_more_than_the_burst_passes_a_full_bucket_and_is_paid_back() -> None:
    bucket = TokenBucket(10, 5, 0.0)
    assert bucket.wait_s(25, 0.0) == 0.0
    assert bucket.take(25, 0.0)
    assert not bucket.take(1, 2.0)
    assert bucket.wait_s(1, 2.0) == pytest.approx(0.1)
    assert bucket.wait_s(25, 0.0) == pytest.approx(2.5)
    assert not bucket.full(2.4)
    assert bucket.full(2.5)
    assert bucket.take(25, 2.5)


def test_a_charge_is_never_refused_and_says_what_it_costs() -> None:
    bucket = TokenBucket(2, 4, 0.0)
    assert [bucket.charge(1, 0.0) for _ in range(6)] == [0.0, 0.0, 0.0, 0.0, 0.5, 1.0]
    assert bucket.charge(0, 0.75) == pytest.approx(0.25)
    assert bucket.charge(0, 1.0) == 0.0
    assert bucket.charge(4, 100.0) == 0.0
    assert not bucket.take(1, 100.0)


def test_rate_zero_is_no_limit_at_all() -> None:
    bucket = TokenBucket(0, 0, 0.0)
    assert all(bucket.take(1e9, 0.0) for _ in range(3))
    assert bucket.charge(1e9, 0.0) == 0.0
    assert bucket.wait_s(1e9, 0.0) == 0.0
    assert bucket.full(0.0)


def test_of_many_a_few_pass_and_the_next_one_says_how_many_did_not() -> None:
    few = Few(2, 3, 0.0)
    assert [few.passes(0.0) for _ in range(5)] == [0, 0, 0, None, None]
    assert few.passes(0.25) is None
    assert few.passes(0.5) == 3
    assert few.passes(100.0) == 0


def test_a_bucket_without_burst_still_keeps_its_rate() -> None:
    bucket = TokenBucket(2, 0, 0.0)
    assert bucket.take(1, 0.0)
    assert not bucket.take(1, 0.4)
    assert bucket.take(1, 0.5)
