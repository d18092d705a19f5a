"""Timeouts, window and pace, by their numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest

from imgateway.transports.datagram.recovery import Recovery


def measured(rtt: float, times: int = 50) -> Recovery:
    recovery = Recovery()
    for _ in range(times):
        recovery.acked(1, rtt, False)
    return recovery


def test_before_the_first_measurement_the_timeout_is_a_second() -> None:
    assert Recovery().rto == 1.0


def test_the_first_measurement_counts_whole() -> None:
    recovery = measured(0.4, 1)
    assert (recovery.srtt, recovery.rttvar) == (0.4, 0.2)
    assert recovery.rto == pytest.approx(0.4 + 4 * 0.2)


def test_later_ones_are_smoothed() -> None:
    recovery = measured(0.4, 1)
    recovery.acked(1, 0.8, False)
    assert recovery.srtt == pytest.approx(0.4 + 0.4 / 8)
    assert recovery.rttvar == pytest.approx(0.2 + (0.4 - 0.2) / 4)


def test_a_mean_that_was_none_begins_anew() -> None:
    """The answer to the first datagram was lost, so that it seemed to take 3 s."""
    recovery = measured(3.0, 1)
    recovery.acked(1, 0.02, False)
    assert (recovery.srtt, recovery.rto) == (0.02, 0.2)
    recovery.acked(1, 0.015, False)
    assert recovery.srtt == pytest.approx(0.02 - 0.005 / 8)


@pytest.mark.parametrize(("rtt", "rto"), [(0.001, 0.2), (0.3, 0.35), (5.0, 5.05), (20.0, 10.0)])
def test_the_timeout_has_bounds_and_slack(rtt: float, rto: float) -> None:
    assert measured(rtt).rto == pytest.approx(rto, rel=1e-3)


def test_the_timeout_doubles_until_an_answer_comes() -> None:
    recovery = measured(0.3)
    seen = []
    for _ in range(12):
        recovery.timed_out()
        seen.append(recovery.rto)
    assert seen[:4] == pytest.approx([0.7, 1.4, 2.8, 5.6], rel=1e-3)
    assert seen[4:] == [10.0] * 8
    recovery.acked(1, 0.3, False)
    assert recovery.rto == pytest.approx(0.35, rel=1e-3)


def test_any_answer_ends_the_doubling() -> None:
    recovery = measured(0.3)
    recovery.heard()
    recovery.timed_out()
    recovery.timed_out()
    recovery.heard()
    assert recovery.rto == pytest.approx(0.35, rel=1e-3)


def test_the_window_grows_while_it_is_the_limit() -> None:
    recovery = Recovery()
    recovery.acked(4, 0.1, False)
    assert recovery.window == 4
    recovery.acked(4, 0.1, True)
    assert recovery.window == 8
    recovery.acked(100, 0.1, True)
    assert recovery.window == 64


def test_the_window_grows_by_one_in_a_round_trip_while_a_queue_shows() -> None:
    recovery = Recovery(0.1, 0.0, 0.1, 8)
    for _ in range(3):
        recovery.acked(2, 0.2, True)
    assert recovery.window == 8
    recovery.acked(2, 0.2, True)
    assert recovery.window == 9
    recovery.acked(2, 0.17, True)
    assert recovery.window == 11
    recovery.acked(1, 0.05, False)
    assert (recovery.best, recovery.window) == (0.05, 11)


def test_what_was_taken_for_lost_and_was_not_tells_of_a_slower_line() -> None:
    recovery = measured(0.3)
    recovery.timed_out()
    recovery.late(2.0)
    assert recovery.rto > 2.0
    assert recovery.best == 2.0
    recovery.acked(1, 1.9, False)
    assert recovery.best == 1.9


def test_the_best_round_trip_ages() -> None:
    """Else the window would grow slowly for ever on a line that became longer without losing anything."""
    recovery = Recovery(0.1, 0.0, 0.02, 4)
    for _ in range(100):
        recovery.acked(1, 0.15, False)
    assert 0.05 < recovery.best < 0.07
    for _ in range(900):
        recovery.acked(1, 0.15, False)
    assert recovery.best > 0.14


def test_the_window_is_halved_once_a_round_trip() -> None:
    recovery = Recovery(0.1, 0.0, 0.1, 64)
    recovery.lost(10, 74)
    assert recovery.window == 32
    recovery.lost(11, 75)
    recovery.lost(73, 80)
    assert recovery.window == 32  # all of them were on their way when it was halved
    recovery.lost(74, 90)
    assert recovery.window == 16
    for number in (90, 100, 110, 120):
        recovery.lost(number, number + 1)
    assert recovery.window == 4


def test_a_burst_is_ten_and_then_the_pace_is_a_window_in_a_round_trip() -> None:
    recovery = Recovery(0.32, 0.0, 0.32, 32)
    times: list[float] = []
    now = 5.0
    while len(times) < 30:
        if recovery.free_at() <= now:
            recovery.sent(now)
            times.append(now)
        else:
            now = recovery.free_at()
    assert times[:10] == [5.0] * 10
    gaps = [after - before for before, after in pairwise(times[9:])]
    assert gaps == pytest.approx([0.01] * 20, abs=1e-5)


def test_nothing_is_paced_before_a_measurement() -> None:
    recovery = Recovery()
    for _ in range(20):
        assert recovery.free_at() <= 0.0
        recovery.sent(0.0)


def test_the_loss_delay_is_a_little_more_than_a_round_trip() -> None:
    assert measured(0.8).loss_delay == pytest.approx(0.9)
