"""A ring against a plain list of everything that was ever put into it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from imgateway.core.ring import BLOCK, Ring, RingLimits, batch
from imgateway.frames import Batch, Entry

LIMITS = RingLimits(entries=100, bytes=10_000, age_s=60.0)


def filled(count: int, step: int = 1, **limits: Any) -> Ring[int]:
    ring: Ring[int] = Ring(0)
    for n in range(1, count + 1):
        ring.append(n * step, n * step, 10, float(n))
        ring.trim(LIMITS._replace(**{"age_s": 1e9, **limits}), float(n))
    return ring


def test_an_empty_ring_has_nothing_and_no_gap_for_who_stands_at_its_beginning() -> None:
    ring: Ring[int] = Ring(7)
    assert (ring.head, len(ring)) == (7, 0)
    assert ring.read(7) == (7, 7, (), False)
    assert ring.read(9) == (9, 9, (), False)
    assert ring.read(6) == (7, 7, (), True)


def test_count_bytes_and_age_each_drop_the_oldest() -> None:
    assert filled(150).floor == 50
    assert filled(20, bytes=55).floor == 15
    ring = filled(10)
    assert ring.trim(LIMITS._replace(age_s=4.0), 10.0) == 50
    assert (ring.floor, ring.bytes, len(ring)) == (5, 50, 5)


def test_the_newest_stays_however_large_it_is_but_not_however_old() -> None:
    ring = filled(3, bytes=1)
    assert (len(ring), ring.floor, ring.head) == (1, 2, 3)
    ring.trim(LIMITS, 1_000.0)
    assert (len(ring), ring.floor, ring.head) == (0, 3, 3)
    assert ring.read(3).gap is False
    assert ring.read(2) == (3, 3, (), True)


def test_who_trims_late_waits_for_a_16th_too_much() -> None:
    ring, limits = filled(106, entries=1_000), LIMITS._replace(age_s=1e9)
    assert ring.trim_late(limits, 106.0) == 0
    ring.append(107, 107, 10, 107.0)
    assert (ring.trim_late(limits, 107.0), len(ring)) == (70, 100)
    ring.append(108, 108, 9_625, 108.0)
    assert ring.trim_late(limits, 108.0) == 0
    ring.append(109, 109, 10, 109.0)
    assert (ring.trim_late(limits, 109.0), ring.bytes) == (640, 9_995)


def test_what_has_expired_is_in_no_batch() -> None:
    ring: Ring[Entry] = Ring(0)
    entries = [Entry(seq, b"", "", "", expires_ms) for seq, expires_ms in ((1, 0), (2, 500), (3, 501))]
    for entry in entries:
        ring.append(entry.seq, entry, 10, 0.0)
    assert batch(ring, 7, 0, 499) == Batch(7, 0, 3, tuple(entries), False, 3)
    assert batch(ring, 7, 0, 500) == Batch(7, 0, 3, (entries[0], entries[2]), False, 3)


def test_the_borders_of_blocks_do_not_depend_on_the_reader_nor_on_what_was_dropped() -> None:
    ring = filled(100)
    assert ring.read(0) == (0, BLOCK, tuple(range(1, BLOCK + 1)), False)
    assert ring.read(5) == ring.read(0)
    assert ring.read(BLOCK).after == BLOCK
    ring.drop(40)
    block = ring.read(41)
    assert (block.after, block.upto, block.gap) == (40, 2 * BLOCK, False)
    assert ring.read(0) == block._replace(gap=True)
    assert ring.read(2 * BLOCK).entries == tuple(range(65, 97))
    assert ring.read(97).upto == 100


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 500), st.integers(0, 20)), max_size=120),
    st.integers(1, 60),
    st.integers(1, 5_000),
    st.integers(1, 100),
)
def test_what_a_reader_gets_and_is_told_covers_everything(
    steps: list[tuple[int, int, int]], entries: int, size: int, age: int
) -> None:
    ring: Ring[int] = Ring(0)
    limits = RingLimits(entries, size, float(age))
    every: list[int] = []
    seq, now = 0, 0.0
    for rise, length, pause in steps:
        seq += rise
        now += pause
        before, held = len(ring), ring.bytes
        ring.append(seq, seq, length, now)
        freed = ring.trim(limits, now)
        every.append(seq)
        assert ring.bytes == held + length - freed
        assert 0 < len(ring) <= min(entries, before + 1)
        assert ring.bytes <= max(size, length)
    for start in (0, seq // 2, seq):
        position, shown, gap = start, [], start < ring.floor
        if gap:
            position = ring.floor
        while position < ring.head:
            block = ring.read(position)
            assert block.after <= position < block.upto
            assert len(block.entries) <= BLOCK
            shown += [one for one in block.entries if one > position]
            position = block.upto
        assert shown == [one for one in every if one > max(start, ring.floor)]
        assert ring.read(start).gap is gap


def test_what_came_before_is_put_back_where_it_was() -> None:
    """As if it had been there from the beginning: the same blocks, limits and gaps."""
    whole: Ring[str] = Ring(0)
    late: Ring[str] = Ring(70, 70)
    for seq in range(1, 101):
        whole.append(seq, str(seq), seq, float(seq))
        if seq > 70:
            late.append(seq, str(seq), seq, float(seq))
    assert late.read(69).gap is True
    late.prepend(40, [(seq, str(seq), seq, float(seq)) for seq in range(41, 71)])
    whole.drop(40)
    assert (len(late), late.bytes, late.floor) == (len(whole), whole.bytes, whole.floor)
    for after in range(30, 101):
        assert late.read(after) == whole.read(after)
    late.prepend(39, [])
    assert late.read(39).gap is False
    limits = RingLimits(1000, 10_000, 20.0)
    assert late.trim(limits, 75.0) == whole.trim(limits, 75.0)
    assert late.read(0).entries == whole.read(0).entries
