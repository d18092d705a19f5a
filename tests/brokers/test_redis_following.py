"""Where devices stand in logs beside their mailboxes: written at two primaries, and no script sees both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from imgateway.brokers.redis.positions import TOUCH_S
from imgateway.errors import CloseCode
from imgateway.frames import SessionKey
from imgateway.interfaces import Followed, LoginPolicy, Verdict
from tests.brokers.redis_server import Loop, RedisServer
from tests.brokers.session_desk import SessionDesk, log

pytestmark = pytest.mark.server

BOB = SessionKey("bob", "phone")
NEWS, SPORT, ORDERS = "topic:news", "topic:sport", "service:orders"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    found = [RedisServer(Path(tmp_path_factory.mktemp("redis"))) for _ in range(2)]
    yield found
    for server in found:
        server.stop()


@pytest.fixture
def desks(servers: list[RedisServer]) -> Iterator[Callable[..., Any]]:
    """Makes nodes that share a loop and two primaries, which are empty at first."""
    for server in servers:
        server.cli("FLUSHALL")
    loop = Loop()
    made: list[SessionDesk] = []

    def make(*nodes: str, **more: Any) -> Any:
        found = [SessionDesk(*servers, loop=loop, node=node, **more).start() for node in nodes]
        made.extend(found)
        return found if len(found) > 1 else found[0]

    yield make
    for desk in made:
        desk.stop()
    loop.close()


@pytest.fixture
def desk(desks: Any) -> SessionDesk:
    found: SessionDesk = desks("n.1")
    primaries = {found.primaries.of(tag)[0] for tag in ("bob", NEWS, SPORT, ORDERS)}
    assert len(primaries) == 2, "they do not all stand at one"
    return found


def server_of(desk: SessionDesk, servers: list[RedisServer], tag: str) -> RedisServer:
    return servers[desk.primaries.of(tag)[0].index]


def cursors(desk: SessionDesk, servers: list[RedisServer], text: str) -> int:
    found = desk.cli(server_of(desk, servers, text), "HLEN", text, "c")
    return int(found)


def places(found: Any) -> list[tuple[str, int]]:
    return [(place.log.address.id, place.acked) for place in found.places[1:]]


def test_who_follows_has_a_place_in_it(desk: SessionDesk) -> None:
    desk.grow(NEWS, 3)
    found = desk.open()
    assert desk.follow(found.generation, NEWS, 2) == Followed(False, 2)
    assert desk.follow(found.generation, NEWS, 3) == Followed(True, 2)
    desk.sessions.advance(BOB, found.generation, [(log(NEWS), 3)], [(log(NEWS), 3)])
    assert desk.follow(found.generation, NEWS, 0) == Followed(True, 3, (3,))
    desk.close("phone", found.generation)
    again = desk.open()
    (place,) = again.places[1:]
    assert (place.log, place.acked, place.first, place.head, place.parked) == (log(NEWS), 3, 1, 3, (3,))
    assert place.epoch == desk.primaries.of(NEWS)[0].epoch
    assert desk.follow(again.generation, NEWS, 0) == Followed(True, 3, (3,))
    pad = desk.open(device="pad")
    assert (places(pad), desk.follow(pad.generation, NEWS, 1, "pad").acked) == ([], 1)


def test_a_position_that_was_told_without_following_is_kept(desk: SessionDesk) -> None:
    found = desk.open()
    desk.sessions.advance(BOB, found.generation, [(log(ORDERS), 1)], [(log(ORDERS), 1), (log(ORDERS), 2)])
    desk.ack(found.generation, 2, ORDERS)
    desk.sessions.unpark(BOB, found.generation, log(ORDERS), 1)
    desk.sessions.unpark(BOB, found.generation, log("service:other"), 1)
    again = desk.open()
    assert [(place.log, place.acked, place.parked) for place in again.places[1:]] == [(log(ORDERS), 2, (2,))]


def test_who_unfollows_begins_anew(desk: SessionDesk, servers: list[RedisServer]) -> None:
    found = desk.open()
    generation = found.generation
    for text in (NEWS, SPORT):
        desk.follow(generation, text)
    desk.ack(generation, 2, NEWS)
    desk.run(desk.sessions.unfollow(BOB, generation, log(NEWS)))
    desk.run(desk.sessions.unfollow(BOB, generation, log(NEWS)))
    assert cursors(desk, servers, NEWS) == 0
    assert desk.follow(generation, NEWS, 1) == Followed(False, 1)
    boxes = [
        desk.later(desk.sessions.unfollow(BOB, generation, log(NEWS))),
        desk.later(desk.sessions.follow(BOB, generation, log(NEWS), 3)),
        desk.later(desk.sessions.follow(BOB, generation, log(NEWS), 4)),
        desk.later(desk.sessions.unfollow(BOB, generation, log(NEWS))),
    ]
    desk.settle()
    assert boxes == [[None], [Followed(False, 3)], [Followed(False, 3)], [None]]
    assert (places(desk.open()), cursors(desk, servers, NEWS)) == ([("sport", 0)], 0)


def test_to_follow_is_on_both_primaries_before_the_answer(
    desk: SessionDesk, servers: list[RedisServer]
) -> None:
    found = desk.open()
    box: list[Any] = []
    following = desk.sessions.follow(BOB, found.generation, log(NEWS), 3)

    def answered(followed: Followed) -> None:
        listed = desk.cli(server_of(desk, servers, "bob"), "HGET", "bob", "x", "f:phone")
        box.append((followed, listed, cursors(desk, servers, NEWS)))

    following.addCallback(answered)
    desk.run(following)
    assert box == [(Followed(False, 3), b"topic:news", 1)]


def test_a_newer_login_takes_the_places_over(desks: Any, servers: list[RedisServer]) -> None:
    """What the older one still writes at the log's primary is refused there, too."""
    one, two = desks("n.1", "n.2")
    one.heard = lambda primary, item: None
    old = one.open()
    for text in (NEWS, SPORT):
        one.follow(old.generation, text, 1)
    new = two.open()
    assert places(new) == [("news", 1), ("sport", 1)]
    primary, bucket = one.primaries.of(NEWS)
    row = (bucket, NEWS, "bob", "phone", old.generation, 9, "9")
    assert one.run(primary.call("cursors", *row)) == [CloseCode.STALE]
    assert one.run(primary.call("follow", bucket, NEWS, "bob", "phone", old.generation, 9)) == []
    one.run(primary.call("unfollow", "bob", "phone", old.generation, bucket, NEWS))
    two.close("phone", new.generation)
    assert places(one.open()) == [("news", 1), ("sport", 1)]


def test_what_was_left_behind_is_not_taken_for_a_place(desk: SessionDesk, servers: list[RedisServer]) -> None:
    """A node that died between the two primaries."""
    found = desk.open()
    primary, bucket = desk.primaries.of(NEWS)
    desk.run(primary.call("follow", bucket, NEWS, "bob", "phone", found.generation, 3))  # and never listed
    again = desk.open()
    assert places(again) == []
    assert desk.follow(again.generation, NEWS, 7) == Followed(False, 7)
    # Listed, and no place there:
    desk.cli(server_of(desk, servers, NEWS), "DEL", NEWS, "c")
    third = desk.open()
    assert places(third) == []
    assert desk.follow(third.generation, NEWS, 8) == Followed(False, 8)
    # A run again of the second half changes nothing.
    desk.ack(third.generation, 9, NEWS)
    desk.sessions.flush()
    assert desk.run(primary.call("follow", bucket, NEWS, "bob", "phone", third.generation, 8)) == [9, b""]


def test_a_device_follows_so_many_logs_and_no_more(desk: SessionDesk, monkeypatch: Any) -> None:
    desk.sessions._following._max_followed = 3
    found = desk.open()
    for n in range(6):
        assert desk.follow(found.generation, f"topic:{n}", 5) == Followed(False, 5)
        desk.ack(found.generation, 7, f"topic:{n}")
    assert len(desk.sessions._seats.get(BOB).owed.others) == 6, "what it follows just now is never forgotten"
    again = desk.open()
    assert len(places(again)) == 6
    assert desk.follow(again.generation, "topic:5") == Followed(True, 7)
    assert desk.follow(again.generation, "topic:new") == Followed(False, 0)
    desk.settle()
    assert places(desk.open()) == [(str(n), 7) for n in range(1, 6)] + [("new", 0)]


def test_whoever_is_online_counts_however_long_ago_it_came(
    desk: SessionDesk, servers: list[RedisServer]
) -> None:
    found = desk.open()
    desk.follow(found.generation, NEWS)
    server = server_of(desk, servers, NEWS)
    before = desk.cli(server, "HGETALL", NEWS, "c")
    desk.pass_time(TOUCH_S + 10)
    desk.settle()
    desk.pass_time(10)
    desk.settle()
    assert desk.cli(server, "HGETALL", NEWS, "c") != before


def test_a_login_that_is_displaced_while_it_asks_for_its_places(desk: SessionDesk) -> None:
    found = desk.open()
    desk.follow(found.generation, NEWS)
    desk.close("phone", found.generation)
    one = desk.later(desk.sessions.open(desk.claim()))
    two = desk.later(desk.sessions.open(desk.claim(device="web", policy=LoginPolicy.ONE)))
    desk.settle()
    assert (one[0].verdict, two[0].verdict) == (Verdict.OUTRUN, Verdict.OK)
    assert (desk.told, desk.sessions._waiting) == ([], {}), (
        "it never had its answer, so it has no link to close"
    )
    assert set(desk.online()) == {"web"}


@pytest.mark.parametrize("lost", ["the last writes", "the claim as well", "what is elsewhere"])
def test_what_a_promoted_replica_has_never_heard_of_is_written_again(
    desks: Any, servers: list[RedisServer], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr("imgateway.brokers.redis.sessions.CHECK_BATCH", 1)
    desk, other = desks("n.1", "n.2")
    desk.grow("user:bob", 20)
    for text in (NEWS, ORDERS):
        other.grow(text, 5)
    server = server_of(desk, servers, ORDERS if lost == "what is elsewhere" else "bob")
    assert server_of(desk, servers, NEWS) is not server_of(desk, servers, ORDERS)
    quiet = desk.open(device="pad")  # it has nothing but its claim
    generation = desk.open().generation if lost == "the last writes" else 0
    older = {key: server.cli("DUMP", key) for key in server.cli("KEYS", "ig:{*}:[uxc]:*")}
    generation = generation or desk.open().generation
    desk.sessions.record(BOB, generation, b"subscriptions")
    for text in (NEWS, ORDERS):
        desk.follow(generation, text)
        desk.ack(generation, 3, text)
    desk.ack(generation, 15)
    desk.sessions.flush()
    desk.settle()
    for key in server.cli("KEYS", "ig:{*}:[uxc]:*"):
        server.cli("DEL", key)
    for key, value in older.items():
        server.cli("RESTORE", key, 0, value)
    server.cli("HINCRBY", "ig:primary", "n", 1)
    for node in (desk, other):
        node.primaries.each()[servers.index(server)]._line.drop(ConnectionError("the primary is away"))
    for node in (desk, other):
        node.settle()
    desk.pass_time(6)
    for node in (desk, other):
        node.settle()
    assert desk.told == []
    again = other.open()
    assert (again.record, again.places[0].acked) == (b"subscriptions", 15)
    assert places(again) == [("news", 3), ("orders", 3)]
    assert desk.online()["pad"] == ("n.1", quiet.generation)


def test_what_is_no_more_is_not_back_with_a_promoted_replica(desks: Any, servers: list[RedisServer]) -> None:
    desk, other = desks("n.1", "n.2")
    server = server_of(desk, servers, "bob")
    generation = desk.open().generation
    desk.follow(generation, NEWS)
    desk.run(desk.sessions.record(BOB, generation, b"subscriptions"))
    more = desk.cli(server, "DUMP", "bob", "x")
    desk.run(desk.sessions.unfollow(BOB, generation, log(NEWS)))
    desk.run(desk.sessions.record(BOB, generation, b""))
    desk.cli(server, "RESTORE", "bob", "x", 0, more)
    server.cli("HINCRBY", "ig:primary", "n", 1)
    for node in (desk, other):
        node.primaries.each()[servers.index(server)]._line.drop(ConnectionError("the primary is away"))
        node.settle()
    desk.pass_time(6)
    desk.settle()
    again = other.open()
    assert (again.record, places(again)) == (b"", [])


@pytest.mark.parametrize("seed", range(6))
def test_orders_of_events_agree(desks: Any, seed: int) -> None:
    """Logins at one node or the other, subscriptions, departures and acknowledgements: what a device is told
    of its place is what it acknowledged, or where it began."""
    random = Random(seed)
    nodes = desks("n.1", "n.2", seed=seed)
    at = nodes[0]
    at.grow(NEWS, 9)
    generation = at.open().generation
    acked: int | None = None
    for _ in range(25):
        act = random.choice(("follow", "follow", "ack", "unfollow", "login", "flush", "move"))
        if act == "follow":
            begin = random.randrange(9)
            told = at.follow(generation, NEWS, begin)
            assert told == Followed(acked is not None, begin if acked is None else acked)
            acked = told.acked
        elif act == "ack" and acked is not None:
            acked = min(acked + 1, 9)
            at.ack(generation, acked, NEWS)
        elif act == "unfollow":
            at.run(at.sessions.unfollow(BOB, generation, log(NEWS)))
            acked = None
        elif act in ("login", "move"):
            if random.random() < 0.5:
                at.close("phone", generation)
            if act == "move":
                at.sessions.flush()
                at.settle()
                at = nodes[1 - nodes.index(at)]
            found = at.open()
            generation = found.generation
            assert places(found) == ([] if acked is None else [("news", acked)])
        else:
            at.pass_time(6)
            at.settle()
