"""Rings on a real Redis: order, limits, the rate, repeats, the memory they share, and gaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from imgateway.brokers.redis import sweeping
from imgateway.core.ring import BLOCK
from imgateway.frames import EVERYONE, Address, LogKey, OutcomeCode, log_of
from tests.brokers.redis_rings import ROOM, House, build, house, room, true_bytes
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.server
__all__ = ("build", "house")

OK, DUPLICATE, RATE, UNKNOWN = (
    OutcomeCode.OK,
    OutcomeCode.DUPLICATE,
    OutcomeCode.RATE,
    OutcomeCode.UNKNOWN,
)
MB = 1 << 20
FREE = {"rate": 0.0}

# ------------------------------------------------------------------------------------------------- publishing


def test_one_counter_numbers_all_rings(house: House) -> None:
    node = house.node()
    outcomes = [node.publish(address) for address in (ROOM, EVERYONE, Address("area", "7"), ROOM)]
    assert [outcome.seq for outcome in outcomes] == [1, 2, 3, 4]
    (epoch,) = {outcome.epoch for outcome in outcomes}
    assert epoch > 0
    assert node.publish(lane=1) == (OK, epoch, 5)
    assert [node.seqs(*where) for where in ((ROOM, 0), (ROOM, 1), (EVERYONE, 0))] == [[1, 4], [5], [2]]


def test_what_one_turn_publishes_is_one_call_and_one_hint_for_each_ring(house: House) -> None:
    node, other = house.node(), house.node()
    other.watch()
    before = house.servers[0].info("commandstats")["cmdstat_evalsha"]
    boxes = [node.later(ROOM if n % 2 else EVERYONE) for n in range(40)]
    house.loop.until(lambda: boxes[-1])
    assert [box[0].seq for box in boxes] == list(range(1, 41))
    calls = [
        text.split(",")[0] for text in (before, house.servers[0].info("commandstats")["cmdstat_evalsha"])
    ]
    first, last = (int(text.partition("=")[2]) for text in calls)
    assert last - first <= 2 + 4, "besides beats"
    house.settle()
    assert [(told[2], told[3], len(told[4])) for told in other.told] == [(0, 40, 20)]


def test_a_lane_that_is_not_there(house: House) -> None:
    node = house.node()
    assert node.later(lane=2) == [(UNKNOWN, 0, 0)]
    node.emit(lane=-1)
    assert node.rings.waiting == 0


def test_repeats_are_recognised_per_log_for_their_time(house: House) -> None:
    node = house.node(dedup_s=600)
    first = node.publish(msg_id="1")
    assert node.publish(msg_id="1") == (DUPLICATE, first.epoch, first.seq)
    assert [node.publish(*where, msg_id="1").code for where in ((room(8),),)] == [OK]
    assert node.publish(lane=1, msg_id="1").code == OK
    node.emit(msg_id="1")
    node.upkeep(590)
    assert node.publish(msg_id="1") == (DUPLICATE, first.epoch, first.seq)
    node.upkeep(30)
    assert node.publish(msg_id="1").code == OK
    same = [node.later(msg_id="2") for _ in range(3)]
    house.loop.until(lambda: same[-1])
    assert [box[0].code for box in same] == [OK, DUPLICATE, DUPLICATE]
    assert len({box[0].seq for box in same}) == 1


def test_repeats_are_recognised_in_bounded_memory(house: House) -> None:
    node = house.node(dedup_memory=640, **FREE)
    boxes = [node.later(msg_id=f"m{n}") for n in range(3_000)]
    house.loop.until(lambda: boxes[-1])
    kept = [house.servers[0].cli("HLEN", name) for name in ("ig:rings:ids", "ig:rings:ids:old")]
    assert 320 <= sum(kept) <= 640 + 2 * 100
    assert node.publish(msg_id="m2990").code == DUPLICATE
    assert node.publish(msg_id="m2700").code == DUPLICATE
    assert node.publish(msg_id="m0").code == OK


def test_the_rate_is_of_a_room_and_a_lane(house: House) -> None:
    node = house.node(rate=10.0, burst=20)
    boxes = [node.later(msg_id=f"m{n}") for n in range(25)]
    house.loop.until(lambda: boxes[-1])
    assert [box[0].code for box in boxes] == [OK] * 20 + [RATE] * 5
    assert boxes[-1][0] == (RATE, 0, 0)
    assert node.publish(lane=1).code == node.publish(room(8)).code == OK
    assert node.publish(exempt=True).code == OK, "a service's does not count"
    node.emit()
    house.settle()
    assert node.measure().room_rate_drops >= 5
    house.pass_time(0.1)
    assert node.publish(msg_id="m24").code == OK, "what was over the rate is not remembered"
    assert node.publish(msg_id="m0").code == DUPLICATE, "a repeat is answered first"


def test_without_a_rate_nothing_is_dropped(house: House) -> None:
    node = house.node(**FREE)
    boxes = [node.later() for _ in range(1_000)]
    house.loop.until(lambda: boxes[-1])
    assert {box[0].code for box in boxes} == {OK}
    assert (node.rings.waiting, node.rings.waiting_bytes) == (0, 0)


# --------------------------------------------------------------------------------------------- told and read


def test_a_watched_ring_is_told_in_order(house: House) -> None:
    node = house.node()
    assert node.watch()[1:] == (1, 0)
    node.publish(room(1))
    seq = node.publish(size=100).seq
    house.settle()
    ((where, epoch, after, upto, (entry,)),) = node.told
    assert (where, after, upto, entry.seq, entry.message) == (log_of(ROOM), 0, seq, seq, bytes(100))
    assert node.watch() == (epoch, 1, seq)
    node.publish(lane=1)
    house.settle()
    assert len(node.told) == 1, "the other lane is another log"
    node.emit()
    house.settle()
    assert [one[2:4] for one in node.told] == [(0, 2), (2, 4)]
    for _ in range(2):
        node.rings.unwatch(log_of(ROOM))
    node.publish()
    house.settle()
    assert len(node.told) == 2


def test_any_bytes_and_any_name(house: House) -> None:
    node = house.node()
    body = bytes(range(256)) * 250
    address = Address("room", "\N{SNOWMAN}: a/b%{1}\\")
    node.watch(address)
    box = node.later(address, body=body, msg_id="\N{SNOWMAN}")
    house.loop.until(lambda: box)
    house.settle()
    assert node.told[0][4][0].message == body
    node.rings.unwatch(log_of(address))
    assert node.read(address).entries[0].message == body


def test_a_ring_that_nobody_published_to_stands_where_the_counter_is(house: House) -> None:
    node, other = house.node(), house.node()
    for n in range(5):
        epoch = node.publish(room(n)).epoch
    assert other.watch() == (epoch, 6, 5)
    for one in (node, other):
        batch = one.read(after=5)
        assert (batch.epoch, batch.after, batch.upto, batch.entries, batch.gap, batch.head) == (
            epoch,
            5,
            5,
            (),
            False,
            5,
        )
        assert one.read(after=0).gap is False, "nothing was ever dropped"
    node.publish()
    assert node.read(after=2).gap is False
    assert node.watch() == (epoch, 1, 6)


def test_what_was_never_asked_for_anything_is_asked_first(house: House) -> None:
    node = house.node()
    batch = node.read(after=3)
    assert (batch.upto, batch.entries, batch.gap, batch.head) == (3, (), False, 0)
    assert batch.epoch == node.publish().epoch


def test_blocks_are_the_same_whoever_asks(house: House) -> None:
    """From what the node keeps, and from Redis."""
    node, other = house.node(**FREE), house.node(**FREE)
    node.watch()
    for _ in range(100):
        node.later()
    house.settle()
    batch = other.read(after=40)
    assert (batch.after, batch.upto, len(batch.entries), batch.gap, batch.head) == (32, 64, BLOCK, False, 100)
    for one in (node, other):
        assert one.read(after=40) == one.read(after=33) == batch
        assert one.read(after=99).upto == 100
        assert one.read(after=100).entries == ()
        assert one.read(after=0).after == 0
        assert one.seqs() == list(range(1, 101))
    other.watch()
    for _ in range(40):
        node.later()
    house.settle()
    assert (other.read(after=100).after, other.read(after=100).upto) == (100, 128), "nothing else stands here"
    assert other.read(after=130) == node.read(after=135)


def test_what_a_node_keeps_is_read_without_asking(house: House) -> None:
    node = house.node()
    node.publish()
    node.watch()
    node.publish()
    house.settle()
    assert node.rings.read(log_of(ROOM), 1).called
    assert not node.rings.read(log_of(ROOM), 0).called
    assert node.seqs() == [1, 2]


def test_the_rest_of_a_ring_is_fetched_once_for_all_who_lag(house: House) -> None:
    node, other = house.node(classes=("*: entries=70",), **FREE), house.node(**FREE)
    for n in range(100):
        node.later(size=n, ttl_ms=60_000 if n == 50 else 0)
    house.settle()
    other.publish(room(1))
    node.watch()
    for _ in range(10):
        node.later()
    house.settle()
    house.pass_time(100)
    log, calls = log_of(ROOM), house.servers[0].info("commandstats")["cmdstat_evalsha"].split(",")[0]
    reads = [node.rings.read(log, after) for after in (35, 99, 50, 0, 101, 111)]
    assert [read.called for read in reads] == [False] * 4 + [True] * 2
    batches = [node.desk.run(read) for read in reads]
    after = house.servers[0].info("commandstats")["cmdstat_evalsha"].split(",")[0]
    assert int(after[6:]) - int(calls[6:]) <= 1 + 2, "besides beats"
    assert [batch.gap for batch in batches] == [True, False, False, True, False, False]
    assert batches[0].entries[0].seq == 41
    assert 51 not in [entry.seq for entry in batches[2].entries], "expired"
    for place in range(36, 112):
        assert node.read(after=place) == other.read(after=place), "with the same borders"
        assert node.rings.read(log, place).called
    assert node.rings._watching._mirrors.bytes == sum(
        mirror.ring.bytes for mirror in node.rings._watching._watched.values()
    )
    assert (
        node.rings._watching._mirrors.read(
            node.rings._watching._watched[b"0:room:7"], 0, node.desk.wall_ms
        ).gap
        is True
    )


def test_large_rings_are_read_by_blocks(house: House) -> None:
    node = house.node(classes=("*: bytes=5MB",), memory_bytes=6 << 20, **FREE)
    for _ in range(40):
        node.later()
    house.settle()
    node.watch()
    for _ in range(2):
        assert not node.rings.read(log_of(ROOM), 0).called
        assert len(node.read().entries) == 32


def test_what_is_fetched_for_a_ring_that_became_another_is_asked_again(house: House) -> None:
    node = house.node()
    node.publish()
    node.watch()
    first = node.rings.read(log_of(ROOM), 0)
    node.rings.unwatch(log_of(ROOM))
    assert len(node.desk.run(first).entries) == 1
    assert node.rings._watching._mirrors.bytes == 0
    node.watch()
    second = node.rings.read(log_of(ROOM), 0)
    node.rings.renewed(node.desk.primary)
    assert len(node.desk.run(second).entries) == 1
    house.settle()
    assert len(node.read().entries) == 1, "whichever answer came first"


def test_an_entry_that_expired_is_skipped_without_a_gap(house: House) -> None:
    node, watching = house.node(), house.node()
    watching.watch()
    node.publish(ttl_ms=10_000)
    node.publish()
    node.publish(ttl_ms=4_500)
    house.settle()
    assert (node.seqs(), watching.seqs()) == ([1, 2, 3], [1, 2, 3])
    house.pass_time(5)
    assert (node.seqs(), watching.seqs()) == ([1, 2], [1, 2])
    house.pass_time(6)
    for one in (node, watching):
        batch = one.read()
        assert ([entry.seq for entry in batch.entries], batch.upto, batch.gap) == ([2], 3, False)


def test_the_class_of_the_room_says_what_it_keeps(house: House, redis: RedisServer) -> None:
    classes = ("few*: entries=3", "thin: bytes=3KB", "short: age=5s", "*: entries=10")
    node = house.node(classes=classes, **FREE)
    for name in ("few1", "thin", "short", "other"):
        for _ in range(30):
            node.later(Address("room", name), size=1024 - 64)
    house.settle()
    lengths = {name: len(node.seqs(Address("room", name))) for name in ("few1", "thin", "short", "other")}
    assert lengths == {"few1": 3, "thin": 3, "short": 30, "other": 10}
    house.pass_time(5.01)
    batch = node.read(Address("room", "short"))
    assert (batch.entries, batch.gap, batch.upto) == ((), True, batch.head)
    # Lane 1 has limits of its own.
    for _ in range(300):
        node.later(Address("room", "few1"), 1, lane=1)
    house.settle()
    assert len(node.seqs(Address("room", "few1"), 1)) == 200
    assert (node.measure().ring_bytes, node.measure().rings) == true_bytes(redis)


def test_what_is_too_old_by_half_is_a_gap_for_who_stands_there(house: House) -> None:
    node = house.node(classes=("*: age=30s",))
    seqs = [node.publish().seq for _ in range(5)]
    house.pass_time(20)
    seqs += [node.publish().seq for _ in range(5)]
    house.pass_time(15)
    assert (node.seqs(), node.read(after=seqs[2]).gap, node.read(after=seqs[4]).gap) == (
        seqs[5:],
        True,
        False,
    )


# --------------------------------------------------------------------------------------------------- upkeep


def test_age_is_applied_by_the_upkeep_and_the_empty_ring_goes_after_its_dedup_time(
    house: House, redis: RedisServer
) -> None:
    node = house.node(dedup_s=1200)
    epoch = node.publish().epoch
    node.publish(lane=1)
    for _ in range(3):
        node.upkeep(201)
    assert node.measure().rings == 2
    assert (node.measure().ring_bytes, 2) == true_bytes(redis)
    assert redis.cli("KEYS", "ig:{*}:entries:0*") == []
    assert node.watch() == (epoch, 2, 1), "it is there, and empty"
    node.upkeep(600)
    node.upkeep(0)
    assert node.measure().rings == 1
    node.upkeep(3600)
    node.upkeep(0)
    assert (node.measure().rings, node.measure().ring_bytes) == (0, 0)
    assert redis.cli("KEYS", "ig:{*}:ring:*") == redis.cli("ZRANGE", "ig:rings:0", 0, -1) == []


def test_one_node_sweeps(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "CALL_RINGS", 2)
    node, other = house.node(**FREE), house.node(**FREE)
    for n in range(11):
        node.later(room(n), lane=n % 2)
    house.settle()
    node.upkeep(4_000)
    answers: list[int] = []
    primary = other.desk.primary
    other.rings._turns.ask(primary, [sweeping.SWEEP, 0, 0, 10], answers.append, changes=False)
    other.settle()
    assert answers == [-1]
    for _ in range(3):
        node.upkeep(0)
        other.upkeep(0)
    assert (node.measure().rings, node.measure().ring_bytes) == (0, 0)


def test_a_sweep_takes_so_much_and_no_more(house: House) -> None:
    """Whoever waits for the server does not wait for all of it."""
    node = house.node(**FREE)
    for _ in range(150):
        for n in range(30):
            node.later(room(n), 1)
    house.settle()
    house.pass_time(4_000)
    answers: list[int] = []

    def sweep(after: int) -> int:
        node.rings._turns.ask(
            node.desk.primary, [sweeping.SWEEP, 0, after, 200], answers.append, changes=False
        )
        node.settle()
        return answers[-1]

    assert sweep(0) > 0
    assert node.measure().rings == 16
    while answers[-1]:
        sweep(answers[-1])
    assert (len(answers), node.measure().rings, node.measure().ring_bytes) == (3, 0, 0)


def test_what_is_too_old_makes_room_where_memory_is_out(
    server: RedisServer, build: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for room waits behind itself on its line, and so does the upkeep that makes it."""
    monkeypatch.setattr(sweeping, "CALL_RINGS", 7)
    house = build(server)
    node = house.node(**FREE)
    boxes = [node.later(room(n), 30_000, lane=n % 2) for n in range(50)]
    house.settle()
    server.cli("CLIENT", "KILL", "TYPE", "normal")  # with what it had in memory for them
    house.settle()
    server.cli("CONFIG", "SET", "maxmemory", int(server.info("memory")["used_memory"]) - 400_000)
    waiting = [node.later(room(n), 30_000) for n in range(10)]
    house.loop.until(lambda: any("OOM" in why for _, why in node.desk.states))
    node.rings.upkeep()
    house.pass_time(4_000)
    house.loop.until(lambda: all(waiting))
    assert [box[0].code for box in (*boxes, *waiting)] == [OutcomeCode.OK] * 60
    assert sorted(box[0].seq for box in waiting) == [*range(51, 61)]
    server.cli("CONFIG", "SET", "maxmemory", 0)
    house.settle()
    assert (node.measure().ring_bytes, node.measure().rings) == true_bytes(server)


def test_what_a_node_keeps_goes_by_age_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.brokers.redis.mirrors.STEP", 2)
    node = house.node(dedup_s=1200)
    for n in range(5):
        node.watch(room(n))
        node.publish(room(n))
    house.settle()
    assert node.rings._watching._mirrors.bytes == 5 * 330
    node.upkeep(601)
    assert node.rings._watching._mirrors.bytes == 3 * 330
    node.watch(room(9))
    node.publish(room(9))
    node.rings.unwatch(log_of(room(1)))
    for _ in range(2):
        node.upkeep(0)
    assert node.rings._watching._mirrors.bytes == 330
    batch = node.read(room(0), after=0)
    assert (batch.gap, batch.entries) == (True, ())


# ----------------------------------------------------------------------------------------------------- memory


def test_all_rings_together_stay_under_their_limit(house: House, redis: RedisServer) -> None:
    limit = MB
    node = house.node(memory_bytes=limit, **FREE)
    for n in range(3_000):
        node.later(room(n % 1_000), lane=n % 2, size=300)
        if n % 500 == 0:
            house.settle()
            assert node.measure().ring_bytes <= limit
    house.settle()
    assert (node.measure().ring_bytes, node.measure().rings) == true_bytes(redis)
    assert node.measure().rings > 500
    kept = node.measure().ring_bytes - node.measure().rings * 600
    assert node.measure().ring_evictions == 3_000 - kept // (300 + 64)


def test_the_rings_that_were_not_published_to_for_longest_lose_their_oldest_first(house: House) -> None:
    node = house.node(memory_bytes=MB, **FREE)
    size = 10_000 - 64
    for n in range(3):
        for _ in range(30):
            node.later(room(n), size=size)
    node.later(room(0), size=size)
    for _ in range(20):
        node.later(room(2), size=size)
    house.settle()
    lengths = [len(node.seqs(room(n))) for n in range(3)]
    assert (lengths[0], lengths[2]) == (31, 50)
    assert 19 <= lengths[1] <= 24
    assert node.read(room(1)).gap is True
    assert node.seqs(room(1))[-1] == 60, "its newest are there"


def test_lane_1_goes_after_all_of_lane_0(house: House, redis: RedisServer) -> None:
    node = house.node(memory_bytes=MB, classes=("*: bytes=8MB",), **FREE)
    size = 10_000 - 64
    node.publish(room(0), size)
    node.publish(room(1), size, lane=1)
    for _ in range(40):
        node.later(room(2), size)
    for _ in range(70):
        node.later(room(3), size, lane=1)
    house.settle()
    assert (len(node.seqs(room(3), 1)), len(node.seqs(room(1), 1)), node.seqs(room(0))) == (70, 1, [])
    assert 30 <= len(node.seqs(room(2))) <= 34
    for _ in range(50):
        node.later(room(3), size, lane=1)
    house.settle()
    assert [redis.cli("ZCARD", f"ig:rings:{lane}") for lane in (0, 1)] == [0, 1]
    assert node.seqs(room(1), 1) == []


def test_what_is_larger_than_the_limit_is_told_and_not_kept(house: House) -> None:
    node = house.node(memory_bytes=10_000)
    node.watch()
    assert node.publish(size=20_000).code == OK
    house.settle()
    assert [one[2:4] for one in node.told] == [(0, 1)]
    assert (node.measure().rings, node.measure().ring_bytes, node.rings._watching._mirrors.bytes) == (0, 0, 0)


def test_what_nodes_keep_is_bounded_too(house: House) -> None:
    node = house.node(memory_bytes=100_000, classes=("few: entries=16", "thin: bytes=20KB"), **FREE)
    few, thin = Address("room", "few"), Address("room", "thin")
    for address in (few, thin, room(0), room(1)):
        node.watch(address)
    for _ in range(50):
        node.later(few, 10)
        node.later(thin, 5_000)
    house.settle()
    rings = {mirror.place.log.address.id: mirror.ring for mirror in node.rings._watching._watched.values()}
    assert (len(rings["few"]), len(rings["thin"])) in ((16, 3), (16, 4), (17, 4))
    for n in range(2):
        for _ in range(15):
            node.later(room(n), 5_000)
    house.settle()
    assert node.rings._watching._mirrors.bytes == sum(ring.bytes for ring in rings.values()) <= 100_000
    assert (len(rings["r0"]), len(rings["r1"])) == (0, 15)
    assert node.seqs(room(0)), "Redis has more"


# ------------------------------------------------------------------------------------------------------- gaps


def test_a_reborn_ring_repeats_no_seq_and_tells_a_gap_to_who_may_have_missed_something(house: House) -> None:
    node = house.node(dedup_s=600)
    seen, lost = node.publish().seq, node.publish().seq
    house.pass_time(500)
    node.publish(room(8))
    node.upkeep(200)
    assert node.measure().rings == 1
    assert node.read(after=seen).gap is True
    assert node.read(after=lost).gap is False
    assert node.publish().seq == 4
    assert node.read(after=seen).gap is True
    assert node.read(after=lost).gap is False


def test_other_rings_that_were_dropped_are_no_gap_for_who_watches(house: House) -> None:
    node, other = house.node(dedup_s=600), house.node(dedup_s=600)
    at = node.watch().head
    other.publish(room(1))
    other.upkeep(700)
    assert other.measure().rings == 0
    assert node.read(after=at).gap is other.read(after=at).gap is False
    other.publish()
    house.settle()
    assert (node.told[-1][2:4], other.read(after=at).gap, node.read(after=at).gap) == ((0, 2), False, False)
    house.pass_time(1)
    other.publish(room(2))
    other.publish(room(2))
    other.upkeep(700)
    assert other.measure().rings == 0
    assert other.read(after=2).gap is False, "its own head is where it ended"
    other.publish()
    house.settle()
    assert node.told[-1][2:4] == (2, 5)


# -------------------------------------------------------------------------------------------------- the model

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["publish", "publish", "publish", "publish", "read", "time", "watch", "unwatch", "burst"]
        ),
        st.integers(0, 3),
        st.integers(0, 1),
        st.integers(1, 4_000),
    ),
    max_size=80,
)


@hypothesis_settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_who_reads_on_sees_everything_or_is_told_of_a_gap(
    redis: RedisServer, steps: list[tuple[str, int, int, int]]
) -> None:
    """A reader of each log, at a node that may watch it, goes on from where it was: what it was not shown is
    covered by told gaps, its order rises, and nothing comes twice. Whoever watches is told of all that was
    published, in order."""
    house = House(redis)
    law: dict[str, Any] = {
        "classes": ("*: entries=5 bytes=8KB age=30s",),
        "memory_bytes": 30_000,
        "dedup_s": 60,
    }
    publisher, node = house.node(**law, **FREE), house.node(**law, **FREE)
    try:
        published: dict[LogKey, list[int]] = {}
        readers: dict[LogKey, int] = {}
        watched: dict[LogKey, int] = {}
        for what, number, lane, size in steps:
            log = log_of(room(number), lane)
            if what in ("publish", "burst"):
                boxes = [
                    publisher.later(room(number), size, lane=lane) for _ in range(1 + 6 * (what == "burst"))
                ]
                house.loop.until(lambda boxes=boxes: boxes[-1])
                seqs = [box[0].seq for box in boxes]
                published.setdefault(log, []).extend(seqs)
                if log in watched:
                    house.settle()
                    where, _, after, upto, entries = node.told[-1]
                    assert (where, upto, [entry.seq for entry in entries]) == (log, seqs[-1], seqs)
                    assert after <= watched[log] < seqs[0], "who is at the head has no gap"
                    watched[log] = upto
            elif what == "read":
                at = readers.get(log, 0)
                batch = node.read(log.address, lane, at)
                shown = [entry.seq for entry in batch.entries if entry.seq > at]
                wanted = [one for one in published.get(log, []) if at < one <= batch.upto]
                assert batch.upto >= at
                assert wanted[len(wanted) - len(shown) :] == shown
                assert batch.gap or wanted == shown
                readers[log] = batch.upto
            elif what == "time":
                publisher.upkeep(size / 100)
                node.rings.upkeep()
                house.settle()
            elif what == "watch":
                position = node.watch(log.address, lane)
                watched[log] = position.head
                assert [one for one in published.get(log, []) if one > position.head] == []
            else:
                node.rings.unwatch(log)
                watched.pop(log, None)
        house.settle()
        everything = [seq for seqs in published.values() for seq in seqs]
        assert sorted(everything) == list(range(1, len(everything) + 1))
        if everything:
            assert (publisher.measure().ring_bytes, publisher.measure().rings) == true_bytes(redis)
            assert publisher.measure().ring_bytes <= 30_000
    finally:
        house.stop()
