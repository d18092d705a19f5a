"""The rings of a broker: order, limits, the rate, repeats, the memory they share, and gaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from imgateway.brokers import rings as module
from imgateway.brokers.rings import ENTRY_BYTES, RING_BYTES, Rings
from imgateway.config import RoomSettings
from imgateway.core.counters import Counters
from imgateway.core.ring import BLOCK
from imgateway.frames import EVERYONE, Address, Entry, LogKey, Message, Outcome, OutcomeCode, log_of
from imgateway.interfaces import Publication

OK, DUPLICATE, RATE, UNKNOWN = (
    OutcomeCode.OK,
    OutcomeCode.DUPLICATE,
    OutcomeCode.RATE,
    OutcomeCode.UNKNOWN,
)
EPOCH = 77
ROOM = Address("room", "7")
MB = 1 << 20


class Desk:
    """Rings with a clock that stands still, and a listener that writes down."""

    def __init__(self, **settings: Any) -> None:
        self.ms = 1_000_000
        self.told: list[tuple[LogKey, int, int, int, tuple[Entry, ...]]] = []
        self.rings = Rings(RoomSettings(**settings), EPOCH, b"secret", lambda: self.ms, self.arrived)
        self.count = 0
        self.next: Callable[[], object] | None = None

    def arrived(self, log: LogKey, epoch: int, after: int, upto: int, entries: tuple[Entry, ...]) -> None:
        self.told.append((log, epoch, after, upto, entries))
        then, self.next = self.next, None
        if then is not None:
            then()

    def publication(self, lane: int, msg_id: str, exempt: bool, ttl_ms: int = 0) -> Publication:
        self.count += 1
        msg_id = msg_id or str(self.count)
        message = Message(msg_id, "alice", "phone", sent_ms=5, expires_ms=5 + ttl_ms if ttl_ms else 0)
        return Publication(message, (), lane, exempt=exempt)

    def publish(
        self, address: Address = ROOM, lane: int = 0, msg_id: str = "", size: int = 100, exempt: bool = False,
        ttl_ms: int = 0,
    ) -> Outcome:  # fmt: skip
        return self.rings.publish(self.publication(lane, msg_id, exempt, ttl_ms), address, bytes(size))

    def emit(self, address: Address = ROOM, lane: int = 0, msg_id: str = "") -> None:
        self.rings.emit(self.publication(lane, msg_id, False), address, b"x")

    def seqs(self, address: Address = ROOM, lane: int = 0, after: int = 0) -> list[int]:
        """All that can be read from `after` on, block by block."""
        found: list[int] = []
        while True:
            batch = self.rings.read(log_of(address, lane), after)
            found += [entry.seq for entry in batch.entries if entry.seq > after]
            if batch.upto >= batch.head:
                return found
            after = batch.upto

    def measure(self) -> Counters:
        counters = Counters()
        self.rings.measure(counters)
        return counters

    def upkeep(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)
        self.rings.upkeep()

    def true_bytes(self) -> int:
        kept = [kept.ring for lane in self.rings._lanes for kept in lane.values()]
        return sum(ring.bytes + RING_BYTES for ring in kept)


def room(n: int) -> Address:
    return Address("room", f"r{n}")


# --------------------------------------------------------------------------------------------- publishing


def test_one_counter_numbers_all_rings() -> None:
    desk = Desk()
    to = [ROOM, EVERYONE, Address("area", "7"), ROOM]
    assert [desk.publish(address) for address in to] == [Outcome(OK, EPOCH, n) for n in (1, 2, 3, 4)]
    assert desk.publish(lane=1) == (OK, EPOCH, 5)
    assert [desk.seqs(*where) for where in ((ROOM, 0), (ROOM, 1), (EVERYONE, 0))] == [[1, 4], [5], [2]]


def test_a_watched_ring_is_told_before_publish_returns() -> None:
    desk = Desk()
    log = log_of(ROOM)
    assert desk.rings.watch(log) == (EPOCH, 1, 0)
    desk.publish(room(1))
    seq = desk.publish().seq
    ((where, epoch, after, upto, (entry,)),) = desk.told
    assert (where, epoch, after, upto, entry.seq, entry.message) == (log, EPOCH, 0, seq, seq, bytes(100))
    desk.publish(lane=1)
    assert len(desk.told) == 1, "the other lane is another log"
    desk.emit()
    assert [one[2:4] for one in desk.told] == [(0, 2), (2, 4)]
    desk.rings.unwatch(log)
    desk.rings.unwatch(log)
    desk.publish()
    assert len(desk.told) == 2


def test_whoever_publishes_when_told_does_so_after_it() -> None:
    desk = Desk()
    desk.rings.watch(log_of(ROOM))
    desk.next = lambda: (desk.publish(msg_id="b"), desk.publish(msg_id="a"))
    desk.publish(msg_id="a")
    assert [one[2:4] for one in desk.told] == [(0, 1), (1, 2)]


def test_a_lane_that_is_not_there() -> None:
    desk = Desk()
    assert desk.publish(lane=2) == (UNKNOWN, 0, 0)
    desk.emit(lane=-1)
    assert desk.measure().room_publishes == 0


def test_repeats_are_recognised_per_log_for_their_time() -> None:
    desk = Desk(dedup_s=600)
    first = desk.publish(msg_id="1")
    assert desk.publish(msg_id="1") == (DUPLICATE, EPOCH, first.seq)
    assert [desk.publish(*where, msg_id="1").code for where in ((ROOM, 1), (room(8), 0))] == [OK, OK]
    desk.emit(msg_id="1")
    desk.upkeep(590)
    assert desk.publish(msg_id="1") == (DUPLICATE, EPOCH, first.seq)
    desk.upkeep(30)
    assert desk.publish(msg_id="1").code == OK


def test_repeats_are_recognised_in_bounded_memory() -> None:
    desk = Desk(dedup_memory=640, rate=0.0)
    for n in range(3_000):
        desk.publish(msg_id=f"m{n}")
    assert len(desk.rings._dedup) <= 640 + 10
    assert desk.publish(msg_id="m2990").code == DUPLICATE
    assert desk.publish(msg_id="m0").code == OK


def test_the_rate_is_of_a_room_and_a_lane() -> None:
    desk = Desk(rate=10.0, burst=20)
    codes = [desk.publish(msg_id=f"m{n}").code for n in range(25)]
    assert codes == [OK] * 20 + [RATE] * 5
    assert desk.publish(lane=1).code == desk.publish(room(8)).code == OK
    assert desk.publish(exempt=True).code == OK, "a service's does not count"
    desk.emit()
    assert desk.measure().room_rate_drops == 6
    desk.ms += 100
    assert desk.publish(msg_id="m24").code == OK, "what was over the rate is not remembered"
    assert desk.publish().code == RATE
    assert desk.publish(msg_id="m0").code == DUPLICATE, "a repeat is answered first"
    assert desk.measure().room_publishes == 24


def test_a_services_flood_leaves_the_rate_to_others() -> None:
    desk = Desk(rate=1.0, burst=1)
    assert {desk.publish(exempt=True).code for _ in range(50)} == {OK}
    assert desk.publish().code == OK


def test_without_a_rate_nothing_is_dropped() -> None:
    desk = Desk(rate=0.0)
    assert {desk.publish().code for _ in range(1_000)} == {OK}


# ------------------------------------------------------------------------------------------------ reading


def test_a_ring_that_nobody_published_to_stands_where_the_counter_is() -> None:
    desk = Desk()
    for n in range(5):
        desk.publish(room(n))
    log = log_of(ROOM)
    assert desk.rings.watch(log) == (EPOCH, 6, 5)
    batch = desk.rings.read(log, 5)
    assert (batch.epoch, batch.after, batch.upto, batch.entries, batch.gap, batch.head) == (
        EPOCH,
        5,
        5,
        (),
        False,
        5,
    )
    assert desk.rings.read(log, 0).gap is False, "nothing was ever dropped"
    desk.publish()
    assert desk.rings.read(log, 2).gap is False
    assert desk.rings.watch(log) == (EPOCH, 1, 6)


def test_blocks_are_the_same_whoever_asks() -> None:
    desk = Desk(rate=0.0)
    for _ in range(100):
        desk.publish()
    log = log_of(ROOM)
    batch = desk.rings.read(log, 40)
    assert (batch.after, batch.upto, len(batch.entries), batch.gap, batch.head) == (32, 64, BLOCK, False, 100)
    assert desk.rings.read(log, 33) == batch
    assert desk.rings.read(log, 99).upto == 100
    assert desk.rings.read(log, 100).entries == ()


def test_an_entry_that_expired_is_skipped_without_a_gap() -> None:
    desk = Desk()
    desk.publish(ttl_ms=10_000)
    desk.publish()
    desk.publish(ttl_ms=1)
    assert desk.seqs() == [1, 2, 3]
    desk.ms += 1
    assert desk.seqs() == [1, 2]
    desk.ms += 9_999
    batch = desk.rings.read(log_of(ROOM), 0)
    assert ([entry.seq for entry in batch.entries], batch.upto, batch.gap) == ([2], 3, False)


def test_the_class_of_the_room_says_what_it_keeps() -> None:
    desk = Desk(classes=("few*: entries=3", "thin: bytes=3KB", "short: age=5s", "*: entries=10"), rate=0.0)
    for name in ("few1", "thin", "short", "other"):
        for _ in range(30):
            desk.publish(Address("room", name), size=1024 - ENTRY_BYTES)
    lengths = {name: len(desk.seqs(Address("room", name))) for name in ("few1", "thin", "short", "other")}
    assert lengths == {"few1": 3, "thin": 3, "short": 30, "other": 10}
    desk.ms += 5_001
    assert len(desk.seqs(Address("room", "short"))) == 0
    assert desk.rings.read(log_of(Address("room", "short")), 0).gap is True
    # Lane 1 has limits of its own.
    for _ in range(300):
        desk.publish(Address("room", "few1"), 1)
    assert len(desk.seqs(Address("room", "few1"), 1)) == 200
    assert desk.measure().ring_bytes == desk.true_bytes()


def test_a_ring_never_grows_far_over_its_limits() -> None:
    desk = Desk(classes=("*: entries=160 bytes=1MB",), rate=0.0)
    for _ in range(1_000):
        desk.publish()
    assert len(desk.rings._lanes[0][log_of(ROOM)].ring) <= 170
    for _ in range(100):
        desk.publish(size=60_000)
    assert desk.rings._lanes[0][log_of(ROOM)].ring.bytes <= MB + MB // 16 + 61_000


# --------------------------------------------------------------------------------------------------- upkeep


def test_age_is_applied_by_the_upkeep_and_the_empty_ring_goes_after_its_dedup_time() -> None:
    desk = Desk(dedup_s=1200)
    desk.publish()
    desk.publish(lane=1)
    desk.upkeep(601)
    assert (desk.measure().rings, desk.measure().ring_bytes) == (2, 2 * RING_BYTES + 100 + ENTRY_BYTES)
    assert desk.rings.watch(log_of(ROOM)) == (EPOCH, 2, 1), "it is there, and empty"
    desk.upkeep(600)
    assert desk.measure().rings == 1
    desk.upkeep(3600)
    assert (desk.measure().rings, desk.measure().ring_bytes) == (0, 0)


def test_upkeep_of_many_rings_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP", 10)
    desk = Desk(rate=0.0, dedup_s=1200)
    for n in range(205):
        desk.publish(room(n))
    desk.upkeep(599)
    desk.rings._drop(log_of(room(0)))  # while a round is under way
    for _ in range(25):
        desk.upkeep(0.2)
    assert {len(kept.ring) for kept in desk.rings._lanes[0].values()} == {0}
    for _ in range(40):
        desk.upkeep(30)
    assert desk.measure().rings == 0


# ----------------------------------------------------------------------------------------------------- gaps


def test_a_reborn_ring_repeats_no_seq_and_tells_a_gap_to_who_may_have_missed_something() -> None:
    desk = Desk()
    seen = desk.publish().seq
    lost = desk.publish().seq
    desk.publish(room(8))
    desk.rings._drop(log_of(ROOM))
    log = log_of(ROOM)
    assert desk.rings.read(log, seen).gap is True
    assert desk.rings.read(log, lost).gap is False
    assert desk.publish().seq == 4
    assert desk.rings.read(log, seen).gap is True
    assert desk.rings.read(log, lost).gap is False


def test_other_rings_that_were_dropped_are_no_gap_for_who_watches() -> None:
    desk = Desk()
    log = log_of(ROOM)
    at = desk.rings.watch(log).head
    desk.publish(room(1))
    desk.rings._drop(log_of(room(1)))
    assert desk.rings.read(log, at).gap is False
    desk.publish()
    assert (desk.told[-1][2:4], desk.rings.read(log, at).gap) == ((0, 2), False)
    desk.publish(room(2))
    desk.publish(room(2))
    desk.rings._drop(log)
    desk.rings._drop(log_of(room(2)))
    assert desk.rings.read(log, 2).gap is False, "its own head is where it ended"
    desk.publish()
    assert desk.told[-1][2:4] == (2, 5)


# --------------------------------------------------------------------------------------------------- memory


def test_all_rings_together_stay_under_their_limit() -> None:
    limit = 4 * MB
    desk = Desk(memory_bytes=limit, rate=0.0)
    for n in range(20_000):
        desk.publish(room(n % 5_000), n % 2, size=300)
        assert desk.measure().ring_bytes <= limit
    assert desk.measure().ring_bytes == desk.true_bytes()
    assert desk.measure().rings > 1_500
    kept = desk.measure().ring_bytes - desk.measure().rings * RING_BYTES
    assert desk.measure().ring_evictions == 20_000 - kept // (300 + ENTRY_BYTES)


def test_the_rings_that_were_not_published_to_for_longest_lose_their_oldest_first() -> None:
    desk = Desk(memory_bytes=MB, rate=0.0)
    size = 10_000 - ENTRY_BYTES
    for n in range(3):
        for _ in range(30):
            desk.publish(room(n), size=size)
    desk.publish(room(0), size=size)
    for _ in range(20):
        desk.publish(room(2), size=size)
    lengths = [len(desk.seqs(room(n))) for n in range(3)]
    assert lengths[0] == 31
    assert lengths[2] == 50
    assert 19 <= lengths[1] <= 24
    assert desk.rings.read(log_of(room(1)), 0).gap is True
    assert desk.seqs(room(1))[-1] == 60, "its newest are there"


def test_lane_1_goes_after_all_of_lane_0() -> None:
    desk = Desk(memory_bytes=MB, rate=0.0, classes=("*: bytes=8MB",))
    size = 10_000 - ENTRY_BYTES
    desk.publish(room(0), size=size)
    desk.publish(room(1), 1, size=size)
    for _ in range(40):
        desk.publish(room(2), size=size)
    for _ in range(70):
        desk.publish(room(3), 1, size=size)
    assert len(desk.seqs(room(3), 1)) == 70
    assert len(desk.seqs(room(1), 1)) == 1
    assert desk.seqs(room(0)) == []
    assert 30 <= len(desk.seqs(room(2))) <= 34
    for _ in range(50):
        desk.publish(room(3), 1, size=size)
    assert [len(lane) for lane in desk.rings._lanes] == [0, 1]
    assert desk.seqs(room(1), 1) == []


def test_what_is_larger_than_the_limit_is_told_and_not_kept() -> None:
    desk = Desk(memory_bytes=10_000)
    desk.rings.watch(log_of(ROOM))
    assert desk.publish(size=20_000).code == OK
    assert [one[2:4] for one in desk.told] == [(0, 1)]
    assert (desk.measure().rings, desk.measure().ring_bytes) == (0, 0)


def test_making_way_drops_what_is_too_old_as_well() -> None:
    desk = Desk(memory_bytes=MB, rate=0.0)
    for _ in range(50):
        desk.publish(size=10_000)
    desk.ms += 700_000
    for _ in range(70):
        desk.publish(room(1), size=10_000)
    assert desk.seqs() == []
    assert len(desk.seqs(room(1))) == 70
    assert desk.measure().ring_bytes == desk.true_bytes()


# -------------------------------------------------------------------------------------------------- the model

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["publish", "publish", "publish", "publish", "read", "time", "watch", "unwatch", "drop"]
        ),
        st.integers(0, 3),
        st.integers(0, 1),
        st.integers(1, 4_000),
    ),
    max_size=120,
)


@hypothesis_settings(max_examples=200, deadline=None)
@given(steps=STEPS)
def test_who_reads_on_sees_everything_or_is_told_of_a_gap(steps: list[tuple[str, int, int, int]]) -> None:
    """A reader of each log goes on from where it was: what it was not shown is covered by told gaps, its
    order rises, and nothing comes twice. Whoever watches is told of all that was published, in order."""
    desk = Desk(classes=("*: entries=5 bytes=8KB age=30s",), memory_bytes=30_000, rate=0.0, dedup_s=60)
    published: dict[LogKey, list[int]] = {}
    readers: dict[LogKey, int] = {}
    watched: dict[LogKey, int] = {}
    for what, number, lane, size in steps:
        log = log_of(room(number), lane)
        if what == "publish":
            seq = desk.publish(room(number), lane, size=size).seq
            published.setdefault(log, []).append(seq)
            if log in watched:
                where, _, after, upto, entries = desk.told[-1]
                assert (where, upto, [entry.seq for entry in entries]) == (log, seq, [seq])
                assert [one for one in published[log] if after < one <= upto] == [seq]
                assert after <= watched[log] < upto, "who is at the head has no gap"
                watched[log] = upto
        elif what == "read":
            at = readers.get(log, 0)
            batch = desk.rings.read(log, at)
            shown = [entry.seq for entry in batch.entries if entry.seq > at]
            wanted = [one for one in published.get(log, []) if at < one <= batch.upto]
            assert batch.upto >= at
            assert wanted[len(wanted) - len(shown) :] == shown
            assert batch.gap or wanted == shown
            readers[log] = batch.upto
        elif what == "time":
            desk.upkeep(size / 100)
        elif what == "watch":
            position = desk.rings.watch(log)
            watched[log] = position.head
            assert [one for one in published.get(log, []) if one > position.head] == []
        elif what == "unwatch":
            desk.rings.unwatch(log)
            watched.pop(log, None)
        elif log in desk.rings._lanes[lane]:
            desk.rings._drop(log)
        assert desk.measure().ring_bytes == desk.true_bytes() <= 30_000
    everything = [seq for seqs in published.values() for seq in seqs]
    assert sorted(everything) == list(range(1, len(everything) + 1))
