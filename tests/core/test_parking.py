"""Parked entries are offered again before anything newer, in order, and the ranges have no seam."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.core.parking import Parking

seqs = st.sets(st.integers(1, 60), max_size=32)


@settings(max_examples=200, derandomize=True)
@given(parked=seqs, position=st.integers(0, 60), data=st.data())
def test_the_offers_cover_the_way_to_the_position_exactly(
    parked: set[int], position: int, data: st.DataObject
) -> None:
    parking = Parking(tuple(data.draw(st.permutations(sorted(parked)))), position, named=False)
    due = sorted(seq for seq in parked if seq <= position)
    assert parking.owed == due
    at = parking.start()
    assert at == (due[0] - 1 if due else position)
    offers = []
    while parking.owed:
        assert parking.start() == at
        seq, end = parking.offer()
        assert seq == at + 1, "a Deliver for (at, end] begins with the entry it was made for"
        assert end >= seq
        offers.append(seq)
        at = end
    assert offers == due
    assert at == position == parking.start()
    assert parking.offered == sorted(set(parked) - set(due)) + due


@settings(max_examples=200, derandomize=True)
@given(parked=seqs, position=st.integers(0, 60), upto=st.lists(st.integers(0, 60)), named=st.booleans())
def test_an_ack_settles_each_seq_once(parked: set[int], position: int, upto: list[int], named: bool) -> None:
    parking = Parking(tuple(parked), position, named)
    settled: list[int] = []
    for far in upto:
        if parking.owed:
            parking.offer()
        before = set(parking.offered)
        now = parking.acked(far)
        assert set(now) == {seq for seq in before if seq <= far}
        settled += now
    assert len(settled) == len(set(settled))
    minded = {seq for seq in parked if seq > position or not named}
    assert set(settled) | set(parking.owed) | set(parking.offered) == minded
    assert parking.empty() is (set(settled) == minded)


def test_a_device_that_names_its_position_is_offered_nothing_again() -> None:
    parking = Parking((3, 5, 9), position=7, named=True)
    assert parking.owed == []
    assert parking.start() == 7
    assert parking.acked(8) == [], "it would drop them as known: they stay parked"
    assert not parking.empty()
    assert parking.acked(9) == [9], "this one comes with the log itself"
    assert parking.empty()


def test_neighbours_get_a_range_each() -> None:
    parking = Parking((4, 5, 8), position=10, named=False)
    assert parking.start() == 3
    assert [parking.offer() for _ in range(3)] == [(4, 4), (5, 7), (8, 10)]


def test_the_last_parked_entry_may_stand_at_the_position() -> None:
    parking = Parking((10,), position=10, named=False)
    assert parking.start() == 9
    assert parking.offer() == (10, 10)
    assert parking.start() == 10


def test_what_is_not_said_this_time_either_is_not_settled_by_an_ack() -> None:
    parking = Parking((2, 4), position=6, named=False)
    assert parking.offer() == (2, 3)
    parking.keep(2)
    assert parking.offer() == (4, 6)
    assert parking.acked(6) == [4]
    assert parking.empty()
    parking.keep(50)  # a new one, never offered
    assert parking.empty()


def test_an_ack_short_of_the_offer_settles_nothing() -> None:
    parking = Parking((5,), position=6, named=False)
    parking.offer()
    assert parking.acked(4) == []
    assert parking.offered == [5]
