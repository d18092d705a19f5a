"""Who is in which room, counted in a real Redis for several nodes: each coming and going is told once."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from imgateway.brokers.redis import rooms as module
from imgateway.brokers.redis.packing import pack
from imgateway.errors import CloseCode
from imgateway.frames import Address, SessionKey
from tests.brokers.redis_rings import ROOM, House, Node, build, house

pytestmark = pytest.mark.server
__all__ = ("build", "house")

BOB, EVE = SessionKey("bob", "phone"), SessionKey("eve", "a/b")
OTHER = Address("room", "8")
GAMES, NEWS = Address("area", "games"), Address("area", "news")


def nothing_is_left(house: House) -> None:
    cli = house.servers[0].cli
    assert cli("KEYS", "ig:{*}:members:*") == cli("KEYS", "ig:in:*") == []


# --------------------------------------------------------------------------------------------------- one node


def test_the_first_join_and_the_last_leave_are_told(house: House) -> None:
    node = house.node()
    for generation in (1, 1, 2):
        node.join(BOB, generation)
    node.join(EVE, 5)
    assert node.events == [("entered", BOB, ROOM), ("entered", EVE, ROOM)]
    assert (node.members(ROOM, OTHER), node.measure().room_members) == ([2, 0], 2)
    for _ in range(2):
        node.leave(BOB, 2)
    node.leave(EVE, 5, OTHER)
    assert node.events[2:] == [("left", BOB, ROOM)]
    for _ in range(2):
        node.desk.run(node.rooms.end(EVE, 5))
    assert node.events[3:] == [("left", EVE, ROOM)]
    assert (node.members(ROOM), node.measure().room_members, node.rooms._members) == ([0], 0, {})
    nothing_is_left(house)


def test_an_old_generations_end_does_not_touch_what_a_newer_one_joined(house: House) -> None:
    node = house.node()
    node.join(BOB, 3)
    node.desk.run(node.rooms.end(BOB, 2))
    assert node.members(ROOM) == [1]
    node.desk.run(node.rooms.end(BOB, 4))
    assert node.events == [("entered", BOB, ROOM), ("left", BOB, ROOM)]


def test_a_session_counts_once_in_an_area_however_many_of_its_rooms_it_is_in(house: House) -> None:
    node = house.node()
    node.join(BOB, 1, ROOM, "games", "games")
    node.join(BOB, 1, OTHER, "games", "news")
    node.join(EVE, 1, OTHER, "games", "news")
    assert node.members(GAMES, NEWS, ROOM) == [2, 2, 1]
    node.leave(BOB, 1, OTHER)
    assert node.members(GAMES, NEWS) == [2, 1]
    for session in (BOB, EVE):
        node.desk.run(node.rooms.end(session, 1))
    node.settle()
    nothing_is_left(house)


def test_a_room_that_changes_its_areas_counts_anew_for_who_joins_again(house: House) -> None:
    node = house.node()
    for session in (BOB, EVE):
        node.join(session, 1, ROOM, "games")
    node.join(BOB, 1, ROOM, "news")
    assert (node.members(GAMES, NEWS), len(node.events)) == ([1, 1], 2)
    for session in (BOB, EVE):
        node.desk.run(node.rooms.end(session, 1))
    node.settle()
    nothing_is_left(house)


def test_who_is_displaced_has_left_before_it_is_told(house: House) -> None:
    node = house.node()
    node.join(BOB, 1)
    node.join(BOB, 1, OTHER)
    box = node.desk.later(node.rooms.displaced(BOB, 1, CloseCode.KICKED))
    assert (box, len(node.events)) == ([], 2)
    house.settle()
    assert (box, len(node.events)) == ([None], 4)


def test_who_is_displaced_does_not_wait_for_a_server_that_is_away(start: Any, build: Any) -> None:
    server = start()
    house = build(server)
    node = house.node()
    node.join(BOB, 1)
    server.kill9()
    house.loop.until(lambda: not node.desk.primary.is_up)
    assert node.desk.later(node.rooms.displaced(BOB, 1, CloseCode.KICKED)) == [None]
    assert node.events == [("entered", BOB, ROOM)]
    server.restart()
    house.settle()
    assert node.events[1:] == [("left", BOB, ROOM)]


# --------------------------------------------------------------------------------------------- several nodes


def test_a_session_that_moves_to_another_node_stays_in_the_rooms_that_it_names_there(house: House) -> None:
    old, new = house.node(), house.node()
    old.join(BOB, 1, ROOM, "games")
    old.join(BOB, 1, OTHER, "games", "news")
    assert old.desk.later(old.rooms.displaced(BOB, 1, CloseCode.REPLACED)) == [None]
    new.join(BOB, 2, ROOM, "games")
    assert (new.members(ROOM, OTHER, GAMES, NEWS), new.events) == ([1, 1, 1, 1], [])
    old.desk.run(old.rooms.end(BOB, 1))  # nobody waits for it any more
    assert old.events == [("entered", BOB, ROOM), ("entered", BOB, OTHER), ("left", BOB, OTHER)]
    assert (new.members(ROOM, OTHER, GAMES, NEWS), new.events) == ([1, 0, 1, 0], [])
    assert (old.measure().room_members, new.measure().room_members) == (0, 1)
    new.desk.run(new.rooms.end(BOB, 2))
    assert new.events == [("left", BOB, ROOM)]
    new.settle()
    nothing_is_left(house)


def test_a_session_that_comes_back_leaves_what_it_does_not_name_again(house: House) -> None:
    one, other = house.node(), house.node()
    one.join(BOB, 1)
    one.join(BOB, 1, OTHER)
    one.rooms.displaced(BOB, 1, CloseCode.REPLACED)
    other.join(BOB, 2)
    other.rooms.displaced(BOB, 2, CloseCode.REPLACED)
    one.join(BOB, 3)
    other.desk.run(other.rooms.end(BOB, 2))
    one.leave(BOB, 3, OTHER)
    assert (one.events[2:], other.events) == ([("left", BOB, OTHER)], [])
    assert (one.members(ROOM, OTHER), one.measure().room_members) == ([1, 0], 1)


@pytest.mark.parametrize("code", [CloseCode.REPLACED, CloseCode.STALE])
def test_a_newer_generation_at_the_same_node_needs_to_name_nothing(house: House, code: CloseCode) -> None:
    node = house.node()
    node.join(BOB, 1)
    node.rooms.displaced(BOB, 1, code)
    node.settle()
    assert node.members(ROOM) == [1]


def test_what_an_older_generation_says_counts_no_more(house: House) -> None:
    old, new = house.node(), house.node()
    new.join(BOB, 2)
    old.join(BOB, 1)
    old.leave(BOB, 1)
    assert (old.events, new.events, new.members(ROOM)) == ([], [("entered", BOB, ROOM)], [1])


def test_the_newest_generation_leaves_what_an_older_one_joined_elsewhere(house: House) -> None:
    old, new = house.node(), house.node()
    old.join(BOB, 1)
    new.leave(BOB, 2)
    assert (new.events, new.members(ROOM)) == ([("left", BOB, ROOM)], [0])
    old.desk.run(old.rooms.end(BOB, 1))
    assert old.events == [("entered", BOB, ROOM)], "it had left"
    nothing_is_left(house)


def test_concurrent_joins_of_one_room_are_told_once(house: House) -> None:
    """Takeovers back and forth, with calls on several lines under way."""
    nodes = [house.node() for _ in range(3)]
    random, generation = Random(11), 0
    for _ in range(60):
        generation += 1
        nodes[random.randrange(3)].rooms.join(BOB, generation, ROOM)
        if random.random() < 0.4:
            house.loop.iterate(0)
    house.settle()
    assert [event for node in nodes for event in node.events] == [("entered", BOB, ROOM)]
    for node in nodes:
        node.rooms.end(BOB, generation)
    house.settle()
    assert Counter(event[0] for node in nodes for event in node.events) == {"entered": 1, "left": 1}
    nothing_is_left(house)


# --------------------------------------------------------------------------------------------------- reaping


def test_the_members_of_a_dead_node_leave_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REAPED", 3)
    dead, *nodes = house.node(), house.node(), house.node()
    sessions = [SessionKey(f"u{n}", "phone") for n in range(10)]
    for session in sessions:
        dead.join(session, 1, ROOM, "games")
    nodes[0].join(sessions[0], 2, ROOM, "games")
    nodes[0].join(sessions[1], 2, OTHER, "games")
    dead.kill()
    primary = [node.desk.primary for node in nodes]
    more = True
    while more:
        boxes = [
            node.desk.later(node.rooms.reap(one, "n.1")) for node, one in zip(nodes, primary, strict=True)
        ]
        house.settle()
        more = any(box[0] for box in boxes)
    left = [event for node in nodes for event in node.events if event[0] == "left"]
    assert sorted(left) == [("left", session, ROOM) for session in sessions[1:]]
    assert nodes[1].members(ROOM, OTHER, GAMES) == [1, 1, 2]
    assert nodes[1].desk.run(nodes[1].rooms.reap(primary[1], "n.1")) is False
    assert house.servers[0].cli("KEYS", "ig:in:*") == [b"ig:in:n.2"]


def test_a_node_that_was_taken_for_dead_enters_again(house: House) -> None:
    node, other = house.node(), house.node()
    node.join(BOB, 1, ROOM, "games")
    node.join(EVE, 1)
    other.desk.run(other.rooms.reap(other.desk.primary, "n.1"))
    other.join(EVE, 2)
    node.events.clear()
    node.rooms.reclaim(node.desk.primary)
    house.settle()
    assert sorted(other.events) == [("entered", EVE, ROOM), ("left", BOB, ROOM), ("left", EVE, ROOM)]
    assert node.events == [("entered", BOB, ROOM)], "the other session is elsewhere now"
    assert node.members(ROOM, GAMES) == [2, 1]


def test_members_that_were_lost_with_the_last_writes_are_written_again_without_a_word(
    start: Any, build: Any
) -> None:
    server = start("--appendonly", "no")
    house = build(server, unsafe=True)
    node, other = house.node(), house.node()
    node.join(BOB, 1, ROOM, "games")
    other.join(EVE, 1)
    server.kill9()
    box = node.desk.later(node.rooms.join(BOB, 1, OTHER))
    server.restart()
    house.settle()
    assert box == [None]
    assert node.members(ROOM, OTHER, GAMES) == [2, 1, 1]
    assert node.events == [("entered", BOB, ROOM), ("entered", BOB, OTHER)]
    assert other.events == [("entered", EVE, ROOM)]


# ----------------------------------------------------------------------------------- calls that are repeated


def test_a_call_that_is_run_again_answers_the_same(house: House) -> None:
    node = house.node()
    primary = node.desk.primary

    def call(number: int, *asked: list[Any]) -> Any:
        return node.desk.run(primary.call("room", "n.9", number, pack([[], [*asked]])))

    bob = [3, "room:7", "bob\0phone"]
    calls = [
        (1, ([0, *bob, 5],), [1]),
        (2, ([0, *bob, 5], [0, *bob, 4], [0, *bob, 6], [1, *bob, 5]), [0, 0, 0, 0]),
        (3, ([1, *bob, 6], [1, *bob, 6], [0, *bob, 7]), [1, 0, 1]),
        (4, ([2, "n.9", 10],), [[0, b"room:7", b"bob\0phone"]]),
    ]
    for number, asked, answer in calls:
        for _ in range(3):
            assert call(number, *asked) == answer
    assert house.servers[0].cli("KEYS", "ig:{*}:members:*") == []


def test_kill_9_under_load_tells_everything_once(start: Any, build: Any) -> None:
    server, random = start(), Random(2)
    house = build(server)
    nodes = [house.node() for _ in range(2)]
    sessions = [SessionKey(f"u{n}", "phone") for n in range(6)]
    where: dict[SessionKey, Node] = {}
    went: list[tuple[Node, SessionKey, int]] = []
    generations: Counter[SessionKey] = Counter()
    for n in range(400):
        session = random.choice(sessions)
        if session not in where or random.random() < 0.1:
            before, where[session] = where.get(session), random.choice(nodes)
            generations[session] += 1
            if before is not None and before is not where[session]:
                went.append((before, session, generations[session] - 1))
        node, generation = where[session], generations[session]
        room = Address("room", random.choice("xyz"))
        if random.random() < 0.6:
            node.rooms.join(session, generation, room, ("all",))
        else:
            node.rooms.leave(session, generation, room)
        if random.random() < 0.3:
            house.loop.iterate(0)
        if n % 100 == 60:
            server.kill9()
            server.restart()
    house.settle()
    for node, session, generation in went:
        node.rooms.end(session, generation)
    house.settle()
    inside = Counter()  # type: Counter[tuple[SessionKey, Address]]
    for node in nodes:
        for what, session, room in node.events:
            inside[session, room] += 1 if what == "entered" else -1
    assert set(inside.values()) <= {0, 1}
    for name in "xyz":
        room = Address("room", name)
        assert nodes[0].members(room) == [sum(n for (_, at), n in inside.items() if at == room)]
    there = {session for (session, _), n in inside.items() if n}
    assert nodes[0].members(Address("area", "all")) == [len(there)]
    for session, node in where.items():
        node.rooms.end(session, generations[session])
    house.settle()
    nothing_is_left(house)
