"""Whoever goes over from messages to notices or back, or whose room does, lacks nothing of either lane: also
with a full link, amid a round, behind the others, and where the ring began anew meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.frames import Address, Deliver, LogKey, Mode, Ping, Publish, Subscribe
from tests.node.rig import EPOCH, FakeBroker, Rig, entry
from tests.node.test_rooms import ALL, AREA, GAMES, OTHER, ROOM, clog, rig_with, slices_of
from tests.node.test_rooms_random import Reader

GROWING = {"rooms.classes": ("*: tick=0ms notify_above=2",)}
QUICK = {"rooms.classes": ("*: tick=0ms",)}


def reader(rig: Rig, *rooms: Address, user: str = "bob", mode: Mode = Mode.PUSH) -> Any:
    """A client that is in these rooms, and works as ours does."""
    one = Reader(rig, user)
    one.connect()
    for room in rooms:
        one.subscribe(room, mode)
    rig.settle()
    one.work()
    return one


def goes_over(one: Any, room: Address, mode: Mode) -> None:
    """As our client does it: lane 0 alone says where it is."""
    one.modes[room] = mode
    one.send(Subscribe(room, mode, 0, *one.inbox.position(LogKey(room))))


def stall(rig: Rig, one: Any, room: Address) -> None:
    """Its link is full with something else."""
    one.peer.stop_reading()
    rig.node.publish(Publish("big", (room,), body=b"x" * 50_000), "svc")
    rig.settle()
    assert one.peer.link.clogged


def live(rig: Rig, one: Any, *peers: Any) -> None:
    """Its link goes on, and two minutes pass; nobody falls silent."""
    one.peer.read_on()
    for _ in range(120):
        rig.advance(1)
        for peer in (one, *peers):
            peer.send(Ping(1))
        rig.settle()
        one.work()


@pytest.mark.parametrize("lacks", [0, 1])
def test_whoever_is_behind_in_a_room_that_grows_is_told_of_both_lanes(lacks: int) -> None:
    rig, svc, eve = rig_with("eve", set=GROWING)
    bob = reader(rig, OTHER, ROOM)
    stall(rig, bob, OTHER)
    svc.publish("missed", "room:7", lane=lacks)
    rig.login("dan").send(Subscribe(ROOM))
    svc.publish("later", "room:7", lane=1 - lacks)
    assert rig.hub.rooms.audiences[ROOM].telling
    live(rig, bob, svc, eve)
    assert sorted(bob.shown[LogKey(ROOM, 0)] + bob.shown[LogKey(ROOM, 1)]) == [2, 3]


@pytest.mark.parametrize(
    ("where", "classes"),
    [
        (AREA, ("games: tick=0ms notify_above=2", "?*: tick=0ms")),
        (ALL, ("?*: tick=0ms", "*: tick=0ms notify_above=3")),
    ],
)
def test_whoever_is_behind_in_an_area_that_grows_begins_where_it_was(where: Address, classes: Any) -> None:
    rig, svc, eve = rig_with("eve", room=GAMES, set={"rooms.classes": classes})
    bob = reader(rig, GAMES)
    stall(rig, bob, GAMES)
    first = rig.node.publish(Publish("first", (where,)), "svc")
    rig.login("dan").send(Subscribe(GAMES))
    second = rig.node.publish(Publish("second", (where,)), "svc")
    rig.settle()
    live(rig, bob, svc, eve)
    seqs = [asked.result[0].seq for asked in (first, second)]
    assert bob.shown[LogKey(where)] == seqs


def test_who_comes_back_with_a_crowd_is_told_of_what_it_was_yet_to_be_sent() -> None:
    broker = FakeBroker()
    rig, svc, first = rig_with("first", broker=broker, set=GROWING)
    bob = reader(rig, ROOM)
    broker.store(LogKey(ROOM, 1), entry(5))
    rig.settle()
    bob.work()
    bob.peer.cut()
    broker.store(LogKey(ROOM, 1), entry(6))
    broker.hold = {"read"}  # those who are behind read one after the other
    bob.connect()
    rig.login("dan").send(Subscribe(ROOM))
    broker.store(LogKey(ROOM, 0), entry(7))
    rig.settle()
    broker.hold = set()
    while broker.waiting:
        broker.release("read")
        rig.settle()
    live(rig, bob, svc, first)
    assert (bob.shown[LogKey(ROOM, 0)], bob.shown[LogKey(ROOM, 1)]) == ([7], [5, 6])


def test_who_goes_over_to_notices_amid_a_round_is_told_of_what_that_had_for_it(monkeypatch: Any) -> None:
    slices_of(1, monkeypatch)
    rig, svc, *others = rig_with("a", "b", set=QUICK)
    bob = reader(rig, ROOM)
    rig.node.publish(Publish("gift", (ROOM,), lane=1, body=b"x"), "svc")
    assert rig.hub.rooms.audiences[ROOM].round is not None
    assert not bob.peer.of(Deliver)
    goes_over(bob, ROOM, Mode.NOTIFY)
    live(rig, bob, svc, *others)
    assert bob.shown[LogKey(ROOM, 1)] == [1]


def test_whom_the_business_puts_over_to_notices_is_told_of_what_it_was_behind_in() -> None:
    rig, svc = rig_with(set=QUICK)
    bob = reader(rig, OTHER, ROOM)
    stall(rig, bob, OTHER)
    svc.publish("missed", "room:7")
    rig.node.join(rig.session("bob").key, ROOM, Mode.NOTIFY)
    live(rig, bob, svc)
    assert bob.shown[LogKey(ROOM)] == [2]


def anew(broker: FakeBroker, log: LogKey, *seqs: int) -> None:
    """The ring is another one."""
    broker.epochs[log] = EPOCH + 1
    broker.logs[log] = [entry(seq) for seq in seqs]
    broker.listener.arrived(log, EPOCH + 1, 0, seqs[-1], tuple(broker.logs[log]))


def test_what_it_could_not_be_told_of_in_a_ring_that_is_no_more_is_no_place_in_the_new_one() -> None:
    broker = FakeBroker()
    log = LogKey(ROOM, 1)
    rig, svc = rig_with(broker=broker, set=QUICK)
    broker.store(log, entry(999))
    bob = reader(rig, OTHER, ROOM, mode=Mode.NOTIFY)
    goes_over(bob, OTHER, Mode.PUSH)
    rig.settle()
    bob.peer.stop_reading()
    broker.store(LogKey(OTHER), entry(1, b"x" * 50_000))
    rig.settle()
    broker.store(log, entry(1000))
    anew(broker, log, 1, 2)
    goes_over(bob, ROOM, Mode.PUSH)
    live(rig, bob, svc)
    assert [one for one in bob.shown[log] if isinstance(one, int)] == [1, 2]


def test_who_knows_no_place_in_an_area_that_began_anew_begins_at_its_beginning() -> None:
    broker = FakeBroker()
    log = LogKey(AREA)
    classes = ("games: tick=0ms notify_above=1", "?*: tick=0ms")
    rig, svc, eve = rig_with("eve", broker=broker, room=GAMES, set={"rooms.classes": classes})
    broker.store(log, entry(999))
    rig.settle()
    bob = reader(rig, GAMES)
    bob.peer.stop_reading()
    broker.store(LogKey(GAMES), entry(1, b"x" * 50_000))
    rig.settle()
    broker.store(log, entry(1000))
    anew(broker, log, 1, 2)
    live(rig, bob, svc, eve)
    assert [one for one in bob.shown[log] if isinstance(one, int)] == [1, 2]


def test_who_falls_behind_in_a_round_of_a_ring_that_is_no_more_reads_all_of_the_new_one(
    monkeypatch: Any,
) -> None:
    slices_of(1, monkeypatch)
    broker = FakeBroker()
    log = LogKey(ROOM)
    rig, svc, *others = rig_with("eve", "dan", broker=broker, set=QUICK)
    broker.store(log, entry(999))
    rig.settle()
    bob = reader(rig, ROOM)
    clog(rig, bob.peer)
    broker.listener.arrived(log, EPOCH, 999, 1000, (entry(1000),))
    assert rig.hub.rooms.audiences[ROOM].round is not None
    anew(broker, log, 1, 2)
    rig.settle()
    live(rig, bob, svc, *others)
    assert bob.shown[log] == [(0, 0), 1, 2]
