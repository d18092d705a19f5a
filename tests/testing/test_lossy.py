"""One way of a bad line, without any clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.testing.conditions import LinkConditions
from imgateway.testing.lossy import (
    CHUNK_GAP_S,
    FLIGHT_BYTES,
    HOLD_S,
    WINDOW_BYTES,
    DatagramCounts,
    LossyDatagrams,
    LossyStream,
)

SENDS = 20_000


def lossy(seed: int | str = 7, **conditions: Any) -> LossyDatagrams:
    return LossyDatagrams(LinkConditions(**conditions), seed, 0.0)


def name(number: int) -> bytes:
    return number.to_bytes(4, "big")


def run(line: LossyDatagrams, count: int = SENDS, gap_s: float = 0.0) -> list[int]:
    """Send so many, `gap_s` apart, and look whenever it wants to; the numbers in the order of arrival."""
    arrived: list[int] = []
    now = 0.0

    def take() -> None:
        arrived.extend(int.from_bytes(data, "big") for data, _ in line.due(now))

    for number in range(count):
        while line.wake_at is not None and line.wake_at <= number * gap_s:
            now = max(now, line.wake_at)
            take()
        now = number * gap_s
        line.send(name(number), now)
        take()
    while line.wake_at is not None:
        now = max(now, line.wake_at)
        take()
    return arrived


# ----------------------------------------------------------------------------------------------- datagrams


def test_a_clean_line_carries_all_at_once_and_in_order() -> None:
    line = lossy()
    assert run(line, 100) == list(range(100))
    assert line.counts == DatagramCounts(
        datagrams_in=100, bytes_in=400, datagrams_out=100, bytes_out=400, delayed=0
    )


def test_the_address_comes_out_beside_the_datagram() -> None:
    line = lossy()
    line.send(b"a", 0.0, ("10.0.0.1", 5))
    line.send(b"b", 0.0)
    assert line.due(0.0) == [(b"a", ("10.0.0.1", 5)), (b"b", None)]
    assert line.due(9.0) == []
    assert line.wake_at is None


@pytest.mark.parametrize(("seed", "lost"), [(1, 5_918), (2, 5_941), (3, 6_094)])
def test_so_many_are_lost(seed: int, lost: int) -> None:
    line = lossy(seed, loss=0.3)
    arrived = run(line)
    # 20,000 throws at 0.3: the standard deviation is 65
    assert abs(line.counts.lost - 6_000) < 4 * 65
    assert len(arrived) == SENDS - line.counts.lost
    assert arrived == sorted(set(arrived))
    assert line.counts.lost == lost


def test_so_many_come_twice() -> None:
    line = lossy(duplicate=0.05)
    arrived = run(line)
    assert abs(line.counts.duplicated - 1_000) < 4 * 31
    assert len(arrived) == SENDS + line.counts.duplicated
    assert sorted(set(arrived)) == list(range(SENDS))
    assert line.counts.reordered == 0


def test_so_many_are_overtaken_and_by_few() -> None:
    line = lossy(reorder=0.1)
    arrived = run(line)
    assert sorted(arrived) == list(range(SENDS))
    assert abs(line.counts.reordered - 2_000) < 4 * 43
    place = {number: index for index, number in enumerate(arrived)}
    # held by three overtakers at most, some of them between others that are held as well
    assert 1 <= max(place[number] - number for number in range(SENDS - 10)) <= 6


def test_who_is_held_back_and_never_overtaken_arrives() -> None:
    line = lossy(reorder=1.0, delay_s=0.5)
    line.send(b"a", 0.0)
    assert line.wake_at == 0.5 + HOLD_S
    assert line.due(0.5) == []
    assert line.due(0.5 + HOLD_S) == [(b"a", None)]
    assert line.counts.reordered == 0


def test_who_wakes_first_one_held_or_one_on_the_way() -> None:
    line = lossy(reorder=1.0)
    line.send(b"held", 0.0)
    line.conditions = LinkConditions(delay_s=5.0)
    line.send(b"late", 0.0)
    assert line.wake_at in (HOLD_S, 5.0)
    line = lossy(delay_s=1.0)
    line.send(b"first", 0.0)
    line.conditions = LinkConditions(reorder=1.0, delay_s=3.0)
    line.send(b"held", 0.0)
    assert line.wake_at == 1.0


def test_a_delay_varies_around_its_mean() -> None:
    line = lossy(delay_s=0.08, jitter_s=0.04)
    times = []
    for number in range(2_000):
        line.send(name(number), 0.0)
    while line.wake_at is not None:
        now = line.wake_at
        times += [now] * len(line.due(now))
    assert len(times) == line.counts.delayed == 2_000
    assert min(times) >= 0.04
    assert max(times) <= 0.12
    assert sum(times) / 2_000 == pytest.approx(0.08, abs=0.002)
    assert line.counts.reordered > 1_000


def test_without_jitter_order_is_kept() -> None:
    line = lossy(delay_s=0.08)
    assert run(line, 100, 0.01) == list(range(100))
    assert line.counts.reordered == 0


def test_a_rate_spaces_datagrams_out() -> None:
    line = lossy(rate_bits_per_s=8_000)  # 1,000 bytes a second
    for _ in range(3):
        line.send(bytes(100), 0.0)
    times = []
    while line.wake_at is not None:
        times.append(line.wake_at)
        assert len(line.due(line.wake_at)) == 1
    assert times == pytest.approx([0.1, 0.2, 0.3])


def test_the_queue_before_a_rate_is_bounded_and_what_overflows_is_counted() -> None:
    line = lossy(rate_bits_per_s=8_000, queue_s=0.25)
    for _ in range(10):
        line.send(bytes(100), 0.0)
    # one leaves at 0.1 and so on; what would begin later than 0.25 is lost
    assert line.counts.overflowed == 7
    assert len(line.due(10.0)) == 3
    line.send(bytes(100), 10.0)
    assert line.wake_at == pytest.approx(10.1)


def test_a_rate_that_ends_lets_nobody_overtake() -> None:
    line = lossy(rate_bits_per_s=8_000)
    line.send(b"a" * 100, 0.0)
    line.conditions = LinkConditions()
    line.send(b"b", 0.0)
    assert [data[:1] for data, _ in line.due(0.1)] == [b"a", b"b"]


def test_what_is_on_the_way_is_bounded() -> None:
    line = lossy(delay_s=10.0)
    for _ in range(FLIGHT_BYTES // 65_000 + 3):
        line.send(bytes(65_000), 0.0)
    assert line.counts.overflowed == 3
    assert len(line.due(10.0)) == FLIGHT_BYTES // 65_000
    line.send(bytes(65_000), 11.0)
    assert line.counts.overflowed == 3


def test_silence_takes_datagrams_and_ends() -> None:
    line = lossy(silent=True)
    line.send(b"a", 0.0)
    line.conditions = LinkConditions()
    line.send(b"b", 1.0)
    assert line.due(1.0) == [(b"b", None)]
    assert (line.counts.silenced, line.counts.lost) == (1, 0)


def test_silence_after_a_time() -> None:
    line = LossyDatagrams(LinkConditions(silent_after_s=5.0), 1, 100.0)
    for now in (104.9, 105.0, 200.0):
        line.send(b"x", now)
    assert len(line.due(300.0)) == 1
    assert line.counts.silenced == 2


def test_silence_after_so_many_bytes() -> None:
    line = lossy(silent_after_bytes=10)
    for _ in range(4):
        line.send(b"12345", 0.0)
    assert len(line.due(0.0)) == 2


def test_the_same_seed_has_the_same_fate_and_another_another() -> None:
    conditions = {"loss": 0.2, "duplicate": 0.05, "reorder": 0.1, "delay_s": 0.08, "jitter_s": 0.04}
    one, two, other = (run(lossy(seed, **conditions), 500, 0.01) for seed in ("7/up", "7/up", "7/down"))
    assert one == two
    assert one != other


def test_worse_conditions_lose_what_better_ones_lost() -> None:
    mild = set(run(lossy(loss=0.1, delay_s=0.02, jitter_s=0.02), 1_000))
    harsh = set(run(lossy(loss=0.3, duplicate=0.5, reorder=0.5, rate_bits_per_s=1e6), 1_000))
    assert harsh < mild


def test_lines_may_share_their_counts() -> None:
    counts = DatagramCounts()
    for seed in (1, 2):
        LossyDatagrams(LinkConditions(), seed, 0.0, counts).send(b"x", 0.0)
    assert counts.datagrams_in == 2


@given(
    st.integers(0, 50),
    st.builds(
        LinkConditions,
        loss=st.floats(0, 1),
        duplicate=st.floats(0, 1),
        reorder=st.floats(0, 1),
        delay_s=st.floats(0.1, 1),
        jitter_s=st.floats(0, 0.1),
        rate_bits_per_s=st.sampled_from([0, 8_000, 1e6]),
        queue_s=st.floats(0, 1),
    ),
    st.lists(st.floats(0, 0.2), max_size=40),
)
def test_every_datagram_is_accounted_for(seed: int, conditions: LinkConditions, gaps: list[float]) -> None:
    line = LossyDatagrams(conditions, seed, 0.0)
    now, out = 0.0, []
    for number, gap in enumerate(gaps):
        now += gap
        out += line.due(now)
        line.send(name(number), now)
    while (at := line.wake_at) is not None:
        now = max(now, at)
        fresh = line.due(now)
        assert fresh or line.wake_at is not None
        out += fresh
    counts = line.counts
    assert counts.datagrams_in == len(gaps)
    assert counts.datagrams_out == len(out)
    assert len(out) == len(gaps) - counts.lost - counts.overflowed + counts.duplicated
    assert counts.bytes_out == 4 * len(out)


# ------------------------------------------------------------------------------------------------- streams


def stream(seed: int = 7, **conditions: Any) -> LossyStream:
    return LossyStream(LinkConditions(**conditions), seed, 0.0)


def all_due(line: LossyStream, now: float) -> list[bytes]:
    pieces = []
    while data := line.due(now):
        pieces.append(data)
    return pieces


def test_a_clean_stream_is_as_it_was_sent() -> None:
    line = stream()
    line.send(b"hello ", 0.0)
    line.send(b"", 0.0)
    line.send(b"world", 0.0)
    assert line.wake_at(0.0) == 0.0
    assert all_due(line, 0.0) == [b"hello ", b"world"]
    assert line.wake_at(0.0) is None
    assert (line.counts.bytes_in, line.counts.bytes_out, line.counts.chunks_out) == (11, 11, 2)


def test_a_stream_is_late_and_never_out_of_order() -> None:
    line = stream(delay_s=0.1, jitter_s=0.1)
    for number in range(200):
        line.send(name(number), number * 0.001)
    data, now = b"", 0.2
    while (at := line.wake_at(now)) is not None:
        now = max(now, at)
        data += line.due(now)
    assert data == b"".join(name(number) for number in range(200))
    assert now <= 0.4


def test_a_streams_rate_is_fine_grained() -> None:
    line = stream(rate_bits_per_s=80_000)  # 10,000 bytes a second
    line.send(bytes(10_000), 0.0)
    assert 4_000 < sum(map(len, all_due(line, 0.5))) <= 5_000
    assert sum(map(len, all_due(line, 1.001))) >= 5_000
    assert line.counts.bytes_out == 10_000


def test_a_stream_stops_its_sender() -> None:
    line = stream(rate_bits_per_s=80_000, queue_s=0.5)
    line.send(bytes(4_000), 0.0)
    assert not line.is_full(0.0)
    line.send(bytes(4_000), 0.0)
    assert line.is_full(0.0)
    assert not line.is_full(0.4)
    line = stream(delay_s=60.0)
    line.send(bytes(WINDOW_BYTES - 1), 0.0)
    assert not line.is_full(0.0)
    line.send(b"x", 0.0)
    assert line.is_full(0.0)
    assert all_due(line, 60.0)
    assert not line.is_full(60.0)


def test_byte_by_byte() -> None:
    line = stream(chunk_bytes=1)
    line.send(b"abc", 0.0)
    for number, byte in enumerate((b"a", b"b", b"c")):
        now = number * CHUNK_GAP_S
        assert line.wake_at(0.0) == pytest.approx(now)
        assert all_due(line, now) == [byte]
        assert all_due(line, now + CHUNK_GAP_S * 0.9) == []
    line = stream(chunk_bytes=2)
    line.send(b"abc", 0.0)
    assert all_due(line, 0.0) + all_due(line, 1.0) == [b"ab", b"c"]


def test_cut_after_so_many_bytes() -> None:
    line = stream(cut_after_bytes=4)
    line.send(b"abc", 0.0)
    assert all_due(line, 0.0) == [b"abc"]
    assert not line.is_cut(0.0)
    line.send(b"def", 0.0)
    assert all_due(line, 0.0) == [b"d"]
    assert line.is_cut(0.0)
    line.drop()
    assert line.counts.dropped_bytes == 2
    assert line.wake_at(0.0) is None


def test_cut_after_a_time() -> None:
    line = LossyStream(LinkConditions(cut_after_s=5.0, delay_s=1.0), 7, 100.0)
    assert line.cut_at == 105.0
    line.send(b"abc", 104.5)
    assert not line.is_cut(104.9)
    assert line.is_cut(105.0)
    assert line.due(106.0) == b""
    assert stream().cut_at is None


def test_a_silence_that_ends_loses_nothing() -> None:
    line = stream(silent=True)
    line.send(b"abc", 0.0)
    line.finish()
    assert (line.due(9.0), line.wake_at(9.0), line.has_ended(9.0)) == (b"", None, False)
    line.conditions = LinkConditions()
    assert line.wake_at(9.0) == 0.0
    assert not line.has_ended(9.0)
    assert line.due(9.0) == b"abc"
    assert line.has_ended(9.0)


def test_a_silence_for_good_keeps_the_end_too() -> None:
    line = stream(silent_after_bytes=2)
    line.send(b"abc", 0.0)
    line.finish()
    assert all_due(line, 0.0) == [b"ab"]
    assert (line.wake_at(0.0), line.has_ended(0.0)) == (None, False)
    line = stream(silent_after_s=2.0)
    line.finish()
    assert line.has_ended(1.9)
    assert not line.has_ended(2.0)
    line.send(b"x", 3.0)
    assert line.due(3.0) == b""


def test_the_end_travels_behind_the_last_byte() -> None:
    line = stream(delay_s=1.0)
    line.send(b"abc", 0.0)
    line.finish()
    assert not line.has_ended(0.5)
    assert line.due(1.0) == b"abc"
    assert line.has_ended(1.0)


@given(
    st.lists(st.binary(max_size=40), max_size=20),
    st.integers(0, 7),
    st.sampled_from([0, 8_000]),
    st.sampled_from([0.0, 0.3]),
)
def test_a_stream_loses_no_byte(datas: list[bytes], chunk: int, rate: float, delay_s: float) -> None:
    line = stream(chunk_bytes=chunk, rate_bits_per_s=rate, delay_s=delay_s, jitter_s=delay_s / 2)
    got, now = b"", 0.0
    for data in datas:
        line.send(data, now)
        now += 0.01
        got += b"".join(all_due(line, now))
    line.finish()
    while (at := line.wake_at(now)) is not None:
        now = max(now, at)
        got += line.due(now)
    assert got == b"".join(datas)
    assert line.has_ended(now)
