"""What every broker must do for rooms, areas and everyone, whatever keeps its rings.

A broker joins by a subclass of `RoomContract` with a `make` that returns a started `Desk`, as for the
contract of the logs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgateway.config import RoomSettings
from imgateway.core.counters import Counters
from imgateway.core.ring import BLOCK
from imgateway.errors import CloseCode
from imgateway.frames import EVERYONE, LogKey, Message, OutcomeCode, SessionKey, log_of, parse_address
from imgateway.interfaces import LoginPolicy, Publication
from imgateway.testing.disk import Rig, opening
from imgateway.wire.messages import decode_message
from tests.brokers.broker_desk import BrokerDesk
from tests.brokers.redis_server import RedisServer

OK, DUPLICATE, RATE, UNKNOWN = (
    OutcomeCode.OK,
    OutcomeCode.DUPLICATE,
    OutcomeCode.RATE,
    OutcomeCode.UNKNOWN,
)
ROOM = parse_address("room:games.7")
BOB, EVE = SessionKey("bob", "phone"), SessionKey("eve", "phone")


def log(text: str, lane: int = 0) -> LogKey:
    return log_of(parse_address(text), lane)


class RoomContract:
    """Override `make`. A desk is what `Rig` is: broker, listener, now, later, publish, claim, run, pass_time,
    wall_ms."""

    def make(self, path: Path, settings: RoomSettings) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def desk_of(self, tmp_path: Path) -> Iterator[Callable[..., Any]]:
        desks = []

        def make(**settings: Any) -> Any:
            desks.append(self.make(tmp_path, RoomSettings(**settings)))
            return desks[-1]

        yield make
        for desk in desks:
            desk.now(desk.broker.stop())

    @pytest.fixture
    def desk(self, desk_of: Callable[..., Any]) -> Any:
        return desk_of()

    def send(self, desk: Any, *to: str, msg_id: str, **more: Any) -> tuple[Any, ...]:
        box = desk.publish(*to, msg_id=msg_id, **more)
        desk.run()
        return box[0]

    def read(self, desk: Any, address: str, after: int = 0, lane: int = 0) -> Any:
        return desk.now(desk.broker.read(log(address, lane), after, 1, 1))

    def ids(self, desk: Any, address: str, lane: int = 0) -> list[str]:
        entries = self.read(desk, address, lane=lane).entries
        return [decode_message(entry.message).msg_id for entry in entries]

    def count(self, desk: Any, *addresses: str) -> list[int]:
        return [desk.now(desk.broker.members(parse_address(one))) for one in addresses]

    # ------------------------------------------------------------------------------------------------ publish

    @pytest.mark.parametrize("where", ["room:7", "area:games", "all"])
    def test_rings_take_messages(self, desk: Any, where: str) -> None:
        outcomes = [self.send(desk, where, msg_id=str(n))[0] for n in range(3)]
        assert {outcome.code for outcome in outcomes} == {OK}
        seqs = [outcome.seq for outcome in outcomes]
        assert seqs == sorted(set(seqs))
        assert len({outcome.epoch for outcome in outcomes} - {0}) == 1
        batch = self.read(desk, where)
        assert [entry.seq for entry in batch.entries] == seqs
        assert (batch.epoch, batch.upto, batch.head, batch.gap) == (
            outcomes[0].epoch,
            seqs[-1],
            seqs[-1],
            False,
        )
        assert self.ids(desk, where) == ["0", "1", "2"]

    def test_seqs_rise_in_order_of_calls(self, desk: Any) -> None:
        boxes = [desk.publish("room:7", msg_id=str(n)) for n in range(20)]
        desk.run()
        seqs = [box[0][0].seq for box in boxes]
        assert seqs == sorted(seqs)
        assert self.ids(desk, "room:7") == [str(n) for n in range(20)]

    def test_lanes_are_logs_of_their_own(self, desk: Any) -> None:
        self.send(desk, "room:7", msg_id="1")
        assert self.send(desk, "room:7", msg_id="1", lane=1)[0].code == OK
        self.send(desk, "room:7", msg_id="2", lane=1)
        assert (self.ids(desk, "room:7"), self.ids(desk, "room:7", lane=1)) == (["1"], ["1", "2"])
        assert self.send(desk, "room:7", msg_id="3", lane=2)[0].code == UNKNOWN

    def test_a_repeat_gets_the_same_seq_for_ten_minutes(self, desk: Any) -> None:
        first = self.send(desk, "room:7", msg_id="1")[0]
        assert self.send(desk, "room:7", msg_id="1") == ((DUPLICATE, first.epoch, first.seq),)
        others = [{"device": "web"}, {"sender": "carol"}]
        assert [self.send(desk, "room:7", msg_id="1", **one)[0].code for one in others] == [OK, OK]
        assert self.send(desk, "room:8", msg_id="1")[0].code == OK
        desk.pass_time(590)
        assert self.send(desk, "room:7", msg_id="1")[0].code == DUPLICATE
        desk.pass_time(60)
        assert self.send(desk, "room:7", msg_id="1")[0].code == OK

    def test_each_address_has_its_outcome(self, desk: Any) -> None:
        self.send(desk, "user:bob", "room:8", msg_id="1")
        to = ("room:7", "user:bob", "node:x", "room:8", "all", "user:carol", "room:7")
        outcomes = self.send(desk, *to, msg_id="1")
        codes = [OK, DUPLICATE, UNKNOWN, DUPLICATE, OK, OK, OK]
        assert [outcome.code for outcome in outcomes] == codes
        assert outcomes[0] == outcomes[6]
        assert outcomes[0].epoch == outcomes[3].epoch != outcomes[5].epoch
        assert (self.ids(desk, "room:7"), self.ids(desk, "user:carol")) == (["1"], ["1"])

    def test_devices_and_copies_are_for_users_only(self, desk: Any) -> None:
        outcomes = self.send(desk, "room:7", msg_id="1", copy_self=True)
        assert [outcome.code for outcome in outcomes] == [OK]
        (entry,) = self.read(desk, "room:7").entries
        assert (entry.only_device, entry.except_device) == ("", "")
        (copy,) = desk.now(desk.broker.read(log("user:alice"), 0, 10, 1 << 20)).entries
        assert decode_message(copy.message).to == (parse_address("room:7"),)

    def test_emit_numbers_and_tells(self, desk: Any) -> None:
        to = tuple(map(parse_address, ("room:7", "user:bob", "all")))
        desk.now(desk.broker.watch(log("room:7")))
        for _ in range(2):
            desk.broker.emit(Publication(Message("1", "alice", "phone"), to))
        desk.run()
        assert self.ids(desk, "room:7") == self.ids(desk, "all") == ["1", "1"]
        assert sum(len(entries) for *_, entries in desk.listener.named("arrived")) == 2
        assert [address for address, _ in desk.listener.named("passed")] == [to[1]] * 2

    def test_over_the_rate_is_dropped_and_not_remembered(self, desk_of: Callable[..., Any]) -> None:
        desk = desk_of(rate=0.1, burst=5)
        boxes = [desk.publish("room:7", "user:bob", msg_id=str(n)) for n in range(8)]
        desk.run()
        assert [box[0][0].code for box in boxes] == [OK] * 5 + [RATE] * 3
        assert {box[0][1].code for box in boxes} == {OK}
        assert boxes[-1][0][0] == (RATE, 0, 0)
        assert self.send(desk, "room:7", msg_id="s", exempt=True)[0].code == OK
        assert self.send(desk, "room:7", msg_id="l", lane=1)[0].code == OK
        assert self.send(desk, "room:8", msg_id="0")[0].code == OK
        desk.broker.emit(Publication(Message("e", "alice", "phone"), (parse_address("room:7"),)))
        desk.run()
        desk.pass_time(10)
        assert self.send(desk, "room:7", msg_id="7")[0].code == OK
        assert self.ids(desk, "room:7") == ["0", "1", "2", "3", "4", "s", "7"]

    # -------------------------------------------------------------------------------------- watching, reading

    def test_watch_tells_all_that_follows_its_position(self, desk: Any) -> None:
        self.send(desk, "room:other", msg_id="0")
        box = desk.later(desk.broker.watch(log("room:7")))
        for n in range(5):
            desk.publish("room:7", msg_id=str(n))
            desk.publish("room:other", msg_id=f"other{n}")
        desk.run()
        self.send(desk, "room:7", msg_id="5")
        told = desk.listener.named("arrived")
        assert {where for where, *_ in told} == {log("room:7")}
        at, seqs = box[0].head, []
        for _, epoch, after, upto, entries in told:
            assert epoch == box[0].epoch
            assert after <= at < upto, "nothing is missing to who stands at the position"
            seqs += [entry.seq for entry in entries]
            assert seqs[-1] == upto
            at = upto
        assert seqs == [entry.seq for entry in self.read(desk, "room:7").entries]
        assert self.read(desk, "room:7", box[0].head).gap is False

    def test_of_an_unwatched_ring_nothing_is_told(self, desk: Any) -> None:
        desk.now(desk.broker.watch(log("room:7")))
        desk.broker.unwatch(log("room:7"))
        desk.broker.unwatch(log("room:never"))
        self.send(desk, "room:7", "all", msg_id="1")
        assert desk.listener.named("arrived") == []

    def test_a_ring_without_messages(self, desk: Any) -> None:
        newest = self.send(desk, "room:other", msg_id="1")[0]
        assert desk.now(desk.broker.watch(log("room:7"))) == (newest.epoch, newest.seq + 1, newest.seq)
        batch = self.read(desk, "room:7", newest.seq)
        assert (batch.upto, batch.entries, batch.gap, batch.head) == (newest.seq, (), False, newest.seq)

    def test_blocks_do_not_depend_on_who_reads(self, desk: Any) -> None:
        seqs = [self.send(desk, "room:7", msg_id=str(n))[0].seq for n in range(3 * BLOCK)]
        first = self.read(desk, "room:7", seqs[BLOCK - 1])
        assert [entry.seq for entry in first.entries] == seqs[BLOCK : 2 * BLOCK]
        assert (first.after, first.upto) == (seqs[BLOCK - 1], seqs[2 * BLOCK - 1])
        assert self.read(desk, "room:7", seqs[BLOCK + 20]) == first

    def test_what_the_class_does_not_keep_is_a_gap(self, desk_of: Callable[..., Any]) -> None:
        desk = desk_of(classes=("games.*: entries=10 age=30s",))
        seqs = [self.send(desk, "room:games.1", msg_id=str(n))[0].seq for n in range(20)]
        batch = self.read(desk, "room:games.1", seqs[3])
        assert ([entry.seq for entry in batch.entries], batch.gap) == (seqs[10:], True)
        assert self.read(desk, "room:games.1", seqs[9]).gap is False
        desk.pass_time(32)
        batch = self.read(desk, "room:games.1", seqs[12])
        assert (batch.entries, batch.gap, batch.upto) == ((), True, seqs[-1])
        assert self.read(desk, "room:games.1", seqs[-1]).gap is False

    def test_expired_entries_are_skipped_without_a_gap(self, desk: Any) -> None:
        for n, ttl_s in enumerate((10, 0, 10)):
            self.send(desk, "room:7", msg_id=str(n), ttl_s=ttl_s)
        assert self.ids(desk, "room:7") == ["0", "1", "2"]
        desk.wall_ms += 10_001
        assert (self.ids(desk, "room:7"), self.read(desk, "room:7").gap) == (["1"], False)

    def test_all_rings_share_their_memory(self, desk_of: Callable[..., Any]) -> None:
        desk = desk_of(memory_bytes=1 << 20)
        for n in range(3_000):
            desk.publish(f"room:{n % 1_000}", msg_id=str(n), body=bytes(1_000))
        desk.run()
        counters = Counters()
        desk.broker.measure(counters)
        assert 1 << 19 < counters.ring_bytes <= 1 << 20
        assert self.ids(desk, "room:999") == ["2999"]
        assert self.ids(desk, "room:0") == []
        assert self.read(desk, "room:0").gap is True
        assert counters.ring_evictions >= 2_000

    # --------------------------------------------------------------------------------------------- membership

    def open(self, desk: Any, session: SessionKey, **more: Any) -> int:
        generation: int = desk.now(opening(desk.broker, desk.claim(*session, **more))).generation
        return generation

    def join(self, desk: Any, session: SessionKey, generation: int, address: Any = ROOM, *areas: str) -> None:
        assert desk.now(desk.broker.join(session, generation, address, areas)) is None

    def told(self, desk: Any) -> list[tuple[Any, ...]]:
        return [event for event in desk.listener.events if event[0] in ("entered", "left")]

    def test_entered_and_left_once(self, desk: Any) -> None:
        bob, eve = self.open(desk, BOB), self.open(desk, EVE)
        for _ in range(2):
            self.join(desk, BOB, bob)
        self.join(desk, EVE, eve)
        assert self.told(desk) == [("entered", BOB, ROOM), ("entered", EVE, ROOM)]
        for _ in range(2):
            assert desk.now(desk.broker.leave(BOB, bob, ROOM)) is None
        assert self.told(desk)[2:] == [("left", BOB, ROOM)]
        self.join(desk, BOB, bob)
        assert self.told(desk)[3:] == [("entered", BOB, ROOM)]

    def test_a_session_that_ends_leaves_its_rooms(self, desk: Any) -> None:
        rooms = [parse_address(f"room:{n}") for n in range(3)]
        bob = self.open(desk, BOB)
        for one in rooms:
            self.join(desk, BOB, bob, one)
        for _ in range(2):
            desk.now(desk.broker.close_session(BOB, bob))
        assert sorted(self.told(desk)[3:]) == [("left", BOB, one) for one in rooms]
        assert self.count(desk, "room:0", "room:1", "room:2") == [0, 0, 0]

    @pytest.mark.parametrize("forget", [False, True])
    def test_a_newer_generation_is_the_same_member(self, desk: Any, forget: bool) -> None:
        old = self.open(desk, BOB)
        self.join(desk, BOB, old)
        new = self.open(desk, BOB)
        desk.now(desk.broker.close_session(BOB, old))
        self.join(desk, BOB, new)
        assert self.told(desk) == [("entered", BOB, ROOM)]
        desk.now(desk.broker.close_session(BOB, new, forget))
        assert self.told(desk)[1:] == [("left", BOB, ROOM)]

    def test_a_newer_generation_that_did_not_join_leaves_at_its_end(self, desk: Any) -> None:
        self.join(desk, BOB, self.open(desk, BOB))
        new = self.open(desk, BOB)
        assert self.count(desk, "room:games.7") == [1]
        desk.now(desk.broker.leave(BOB, new, ROOM))
        assert self.told(desk)[1:] == [("left", BOB, ROOM)]

    def test_a_stale_generation_neither_joins_nor_leaves_and_is_told(self, desk: Any) -> None:
        old = self.open(desk, BOB)
        new = self.open(desk, BOB)
        self.join(desk, BOB, new)
        desk.listener.events.clear()
        self.join(desk, BOB, old, parse_address("room:8"))
        desk.now(desk.broker.leave(BOB, old, ROOM))
        self.join(desk, EVE, 1)
        stale = [(session, code) for session, _, code, _ in desk.listener.named("displaced")]
        assert stale == [(BOB, CloseCode.STALE), (BOB, CloseCode.STALE), (EVE, CloseCode.STALE)]
        assert (self.told(desk), self.count(desk, "room:games.7", "room:8")) == ([], [1, 0])

    def test_who_is_displaced_has_left_before_it_is_told(self, desk: Any) -> None:
        self.join(desk, BOB, self.open(desk, BOB))
        self.open(desk, SessionKey("bob", "web"), policy=LoginPolicy.ONE)
        names = [event[0] for event in desk.listener.events]
        assert names == ["entered", "left", "displaced"]
        again = self.open(desk, BOB)
        self.join(desk, BOB, again)
        assert self.told(desk)[2:] == [("entered", BOB, ROOM)]

    def test_who_is_revoked_has_left(self, desk: Any) -> None:
        self.join(desk, BOB, self.open(desk, BOB, issued_at_s=100))
        self.join(desk, EVE, self.open(desk, EVE, issued_at_s=100))
        desk.now(desk.broker.revoke("bob", 150))
        assert self.told(desk)[2:] == [("left", BOB, ROOM)]
        assert self.count(desk, "room:games.7") == [1]

    def test_numbers(self, desk: Any) -> None:
        sessions = [SessionKey(f"u{n}", device) for n in range(4) for device in ("phone", "web")]
        opened = {session: self.open(desk, session) for session in sessions}
        other = parse_address("room:games.8")
        for session, generation in opened.items():
            self.join(desk, session, generation, ROOM, "games")
        for session in sessions[:3]:
            self.join(desk, session, opened[session], other, "games", "beta")
        assert self.count(desk, "room:games.7", "room:games.8", "area:games", "area:beta", "all") == [
            8,
            3,
            8,
            3,
            8,
        ]
        desk.now(desk.broker.leave(sessions[0], opened[sessions[0]], ROOM))
        assert self.count(desk, "room:games.7", "area:games") == [7, 8]
        for session, generation in opened.items():
            desk.now(desk.broker.close_session(session, generation))
        assert self.count(desk, "room:games.7", "area:games", "area:beta", "all", "user:u1") == [0] * 5

    def test_online_counts_sessions_and_not_generations(self, desk: Any) -> None:
        old = self.open(desk, BOB)
        new = self.open(desk, BOB)
        self.open(desk, SessionKey("bob", "web"))
        desk.now(desk.broker.close_session(BOB, old))
        assert desk.now(desk.broker.members(EVERYONE)) == 2
        self.open(desk, SessionKey("bob", "pad"), policy=LoginPolicy.ONE)
        desk.now(desk.broker.close_session(BOB, new))
        assert desk.now(desk.broker.members(EVERYONE)) == 1
        desk.now(desk.broker.revoke("bob", 10))
        assert desk.now(desk.broker.members(EVERYONE)) == 0

    def test_what_it_measures(self, desk_of: Callable[..., Any]) -> None:
        desk = desk_of(rate=0.01, burst=2)
        self.join(desk, BOB, self.open(desk, BOB))
        for n in range(4):
            self.send(desk, "room:7", "all", msg_id=str(n))
        self.send(desk, "room:8", msg_id="0", lane=1)
        counters = Counters()
        desk.broker.measure(counters)
        assert (counters.room_publishes, counters.room_rate_drops) == (5, 4)
        assert (counters.rings, counters.room_members, counters.ring_evictions) == (3, 1, 0)
        assert counters.ring_bytes > 5 * 30


class TestEmbedded(RoomContract):
    def make(self, path: Path, settings: RoomSettings) -> Any:
        return Rig(path / "data", rooms=settings).start()


class TestMemory(RoomContract):
    def make(self, path: Path, settings: RoomSettings) -> Any:
        return Rig(None, rooms=settings).start()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill9()


@pytest.mark.server
class TestRedis(RoomContract):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> Iterator[None]:
        redis_server.cli("FLUSHALL")
        self.server, self.desks = redis_server, []  # type: ignore[var-annotated]
        yield
        for desk in self.desks:
            desk.stop()

    def make(self, path: Path, settings: RoomSettings) -> Any:
        self.desks.append(BrokerDesk(self.server, rooms=settings).start())
        return self.desks[-1]
