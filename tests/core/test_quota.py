"""Quotas belong to the user: reconnects, devices and sweeps give nothing back that was used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from imgateway.config import QuotaSettings
from imgateway.core.quota import MAX_PAIRS, Quotas
from imgateway.frames import Address

RATES = QuotaSettings(
    publish_rate=10,
    publish_burst=5,
    publish_bytes_rate=1000,
    publish_bytes_burst=2000,
    pair_rate=2,
    pair_burst=3,
    request_rate=1,
    request_burst=2,
)
UNLIMITED = QuotaSettings(publish_rate=0, publish_bytes_rate=0, pair_rate=0, request_rate=0)
BOB = Address("user", "bob")


def test_a_burst_passes_and_the_rest_is_told_how_long_to_wait() -> None:
    quota = Quotas(RATES).of("alice", 0.0)
    assert [quota.publish(1, 0.0) for _ in range(5)] == [0.0] * 5
    assert quota.publish(1, 0.0) == pytest.approx(0.1)
    assert quota.publish(1, 0.05) == pytest.approx(0.15)
    assert quota.publish(1, 0.5) == 0.0


def test_what_is_over_the_quota_is_paid_for() -> None:
    quota = Quotas(RATES).of("alice", 0.0)
    waits = [quota.publish(1, 0.0) for _ in range(25)]  # one read's worth of small publishes
    assert waits[-1] == pytest.approx(2.0)
    assert not quota.full(2.4)
    assert quota.full(2.51)


def test_bytes_count_too_and_the_longer_wait_is_told() -> None:
    quota = Quotas(RATES).of("alice", 0.0)
    assert quota.publish(1500, 0.0) == 0.0
    assert quota.publish(1500, 0.0) == pytest.approx(1.0)
    assert quota.publish(50_000, 10.0) == pytest.approx(48.0)


def test_a_reconnect_refills_nothing() -> None:
    quotas = Quotas(RATES)
    while quotas.of("alice", 0.0).publish(1, 0.0) == 0.0:
        pass
    assert quotas.sweep(0.0) == 0
    assert quotas.of("alice", 0.0).publish(1, 0.0) > 0
    assert quotas.of("bob", 0.0).publish(1, 0.0) == 0.0


def test_each_receiver_has_a_rate_of_its_own() -> None:
    quota = Quotas(RATES).of("alice", 0.0)
    assert [quota.pair(BOB, 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert quota.pair(Address("user", "carol"), 0.0) == 0.0
    assert quota.pair(BOB, 0.25) == pytest.approx(0.75)
    assert quota.pair(BOB, 1.5) == 0.0


def test_requests_are_counted() -> None:
    quota = Quotas(RATES).of("alice", 0.0)
    assert [quota.request(0.0) for _ in range(3)] == [True, True, False]
    assert quota.request(1.0)


def test_a_rate_of_zero_is_no_limit() -> None:
    quota = Quotas(UNLIMITED).of("alice", 0.0)
    for _ in range(10_000):
        assert quota.publish(1_000_000, 0.0) == 0.0
    assert quota.pair(BOB, 0.0) == 0.0
    assert quota.request(0.0)
    assert quota.full(0.0)


def test_pairs_are_bounded_and_full_ones_go_first() -> None:
    quota = Quotas(RATES).of("alice", 0.0)
    for _ in range(5):
        quota.pair(BOB, 0.0)
    for number in range(MAX_PAIRS - 1):
        quota.pair(Address("user", str(number)), 0.0)
    # At 1.0 s who got one message is full again and goes; who got five is just even.
    assert quota.pair(Address("user", "new"), 1.0) == 0.0
    assert quota.pair(BOB, 1.0) == 0.5


def test_pairs_are_bounded_when_none_is_full() -> None:
    quota = Quotas(RATES).of("alice", 0.0)
    for number in range(3 * MAX_PAIRS):
        assert quota.pair(Address("user", str(number)), 0.0) == 0.0
        assert len(quota._pairs or ()) <= MAX_PAIRS
    # The newest are the ones that are remembered.
    last = Address("user", str(3 * MAX_PAIRS - 1))
    assert [quota.pair(last, 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]


@pytest.mark.parametrize("use", ["publish", "bytes", "request", "pair"])
def test_a_sweep_forgets_only_who_owes_nothing(use: str) -> None:
    quotas = Quotas(RATES)
    quota = quotas.of("alice", 0.0)
    if use == "publish":
        quota.publish(0, 0.0)
    elif use == "bytes":
        quota.publish(1000, 0.0)
    elif use == "request":
        quota.request(0.0)
    else:
        quota.pair(BOB, 0.0)
    assert quotas.sweep(0.05) == 0
    assert quotas.sweep(1.01) == 1
    assert len(quotas) == 0


def test_sweeps_go_round_in_slices() -> None:
    quotas = Quotas(RATES)
    for number in range(10):
        quotas.of(str(number), 0.0).publish(1, 0.0)
    assert [quotas.sweep(0.0, 4) for _ in range(3)] == [0, 0, 0]
    assert [quotas.sweep(1.0, 4) for _ in range(4)] == [4, 4, 2, 0]


def test_other_rates_count_at_once_and_forgive_nothing() -> None:
    quotas = Quotas(RATES)
    quota = quotas.of("alice", 0.0)
    for _ in range(5):
        quota.publish(1, 0.0)
    quota.pair(BOB, 0.0)
    quota.request(0.0)
    quotas.set_rates(replace(RATES, publish_rate=100.0, pair_burst=1, request_burst=1))
    assert quota.publish(1, 0.0) == pytest.approx(0.01)
    assert [quota.pair(BOB, 0.0), quota.pair(BOB, 0.0)] == [0.0, 0.5]
    assert [quota.request(0.0), quota.request(0.0)] == [True, False]
    assert quotas.of("bob", 0.0).publish(1, 0.0) == 0.0
    quotas.set_rates(RATES)
    quotas.of("carol", 0.0).set_rates(UNLIMITED)  # who has no pairs and requests yet


def test_users_are_forgotten_once_there_is_no_limit_any_more() -> None:
    quotas = Quotas(RATES)
    quotas.of("alice", 0.0).publish(1, 0.0)
    for _ in range(9):
        quotas.of("bob", 0.0).pair(BOB, 0.0)
    quotas.set_rates(replace(RATES, publish_rate=0.0, publish_bytes_rate=0.0))
    assert (quotas.sweep(0.0), len(quotas)) == (1, 1)
    quotas.set_rates(UNLIMITED)
    assert (quotas.sweep(0.0), len(quotas)) == (1, 0)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 3000)), max_size=60))
def test_who_waits_as_told_gets_rate_and_burst_and_no_more(steps: list[tuple[float, int]]) -> None:
    quotas, now, passed, size_sum = Quotas(RATES), 0.0, 0, 0
    for wait, size in steps:
        now += wait
        quotas.sweep(now)
        now += quotas.of("alice", now).publish(size, now)
        passed, size_sum = passed + 1, size_sum + size
        assert passed <= 5 + now * 10 + 1e-6
        assert size_sum <= 2000 + now * 1000 + 1e-6
