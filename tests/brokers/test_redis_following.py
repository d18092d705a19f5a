"""Where devices stand in logs beside their mailboxes: written at two primaries, and no script sees both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from imgateway.brokers.redis import following
from imgateway.brokers.redis.connection import RedisError
from imgateway.brokers.redis.positions import TOUCH_S
from imgateway.errors import CloseCode, StoreBusy
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
    assert (place.log, place.acked, place.parked) == (log(NEWS), 3, (3,))
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
    epoch = primary.epoch
    assert one.run(primary.call("cursors", epoch, *row)) == [CloseCode.STALE]
    assert one.run(primary.call("follow", epoch, bucket, NEWS, "bob", "phone", old.generation, 9)) == []
    one.run(primary.call("unfollow", "bob", "phone", old.generation, bucket, NEWS))
    two.close("phone", new.generation)
    assert places(one.open()) == [("news", 1), ("sport", 1)]


def test_a_node_that_stood_still_does_not_put_back_what_was_left_meanwhile(
    desks: Any, servers: list[RedisServer]
) -> None:
    one, two = desks("n.1", "n.2")
    generation = one.open().generation
    one.follow(generation, NEWS)
    one.ack(generation, 3, NEWS)
    one.heard = lambda primary, item: None  # from here on it stands still
    again = two.open()
    two.run(two.sessions.unfollow(BOB, again.generation, log(NEWS)))
    late = one.primaries.of(NEWS)[0]
    _, bucket = one.primaries.of(NEWS)
    following = one.later(late.call("follow", late.epoch, bucket, NEWS, *BOB, generation, 3))
    one.sessions.flush()  # it goes on, and its timers come before its sockets
    one.settle()
    assert (one.told[0][:2], following) == ((BOB, generation), [[]])
    assert cursors(two, servers, NEWS) == 0
    assert two.follow(again.generation, NEWS, 5) == Followed(False, 5), "who left may come back"
    left = server_of(two, servers, NEWS).cli("KEYS", "ig:*:left:*")
    assert [server_of(two, servers, NEWS).cli("PTTL", key) > 14_000_000 for key in left] == [True]


def test_what_was_left_behind_is_not_taken_for_a_place(desk: SessionDesk, servers: list[RedisServer]) -> None:
    """A node that died between the two primaries."""
    found = desk.open()
    primary, bucket = desk.primaries.of(NEWS)
    epoch = primary.epoch
    follow = "follow", epoch, bucket, NEWS, "bob", "phone"
    desk.run(primary.call(*follow, found.generation, 3))  # and never listed
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
    assert desk.run(primary.call(*follow, third.generation, 8)) == [9, b""]


def test_a_device_follows_so_many_logs_and_no_more(desk: SessionDesk, monkeypatch: Any) -> None:
    monkeypatch.setattr(following, "MAX_FOLLOWED", 3)
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


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_device_that_is_forgotten_leaves_the_logs_that_it_followed(
    desk: SessionDesk, servers: list[RedisServer], is_lost: bool
) -> None:
    """Also if the answer to the claim that it made place for is lost."""
    home = desk.primaries.of("bob")[0]
    generation = desk.open().generation
    desk.follow(generation, NEWS)
    desk.close("phone", generation)
    for device in ("web", "pad"):
        desk.open(device=device)
    desk.settle()
    call = home.call

    def lose(*values: Any, **more: Any) -> Any:
        desk.run(call(*values, **more))
        return call(*values, **more)

    if is_lost:
        home.call = lose
    boxes = desk.later(desk.sessions.open(desk.claim(device="tv")))
    home.call = call
    desk.settle()
    assert boxes[0].verdict is Verdict.OK
    assert desk.devices() == {"web", "pad", "tv"}
    assert cursors(desk, servers, NEWS) == 0
    server = server_of(desk, servers, "bob")
    assert desk.cli(server, "HEXISTS", "bob", "x", "g:tv") == 1
    desk.open(device="tv")
    assert desk.cli(server, "HEXISTS", "bob", "x", "g:tv") == 0


def test_what_a_device_followed_is_said_again_when_the_answer_to_its_end_was_lost(desk: SessionDesk) -> None:
    found = desk.open()
    for text in (NEWS, SPORT):
        desk.follow(found.generation, text)
    primary, bucket = desk.primaries.of("bob")
    ending = bucket, *BOB, found.generation, "n.1"
    answers = [desk.run(primary.call("close", *ending, forget)) for forget in (1, 1, 0)]
    assert answers == [f"{NEWS}\n{SPORT}".encode()] * 2 + [b""]
    again = desk.open()
    ending = bucket, *BOB, again.generation, "n.1"
    assert [desk.run(primary.call("close", *ending, 1)) for _ in range(2)] == [b"", b""]


def test_a_place_that_is_written_again_by_itself_is_not_that_of_a_device_that_was_forgotten_meanwhile(
    desk: SessionDesk, servers: list[RedisServer], flush_logged_errors: Any
) -> None:
    """Nobody would take it out any more, and it would hold back what the log may drop."""
    text = next(texts_at(desk, servers, elsewhere=True))
    server = server_of(desk, servers, text)
    spoiled = next(one for one in texts_at(desk, servers, elsewhere=True) if one != text)
    generation, others = desk.open().generation, desk.open("eve").generation
    desk.follow(generation, text)
    desk.run(desk.sessions.follow(SessionKey("eve", "phone"), others, log(spoiled), 0))
    desk.cli(server, "HSET", spoiled, "c", "eve\0phone", b"\xc1")
    desk.sessions.advance(BOB, generation, [(log(text), 1)])
    desk.sessions.advance(SessionKey("eve", "phone"), others, [(log(spoiled), 1)])
    server.freeze()
    try:
        desk.sessions.flush()
        closing = desk.later(desk.sessions.close(BOB, generation, forget=True))
        settle_home(desk)
    finally:
        server.thaw()
    desk.settle()
    assert (closing, cursors(desk, servers, text)) == ([None], 0)
    desk.cli(server, "DEL", spoiled, "c")
    desk.settle()
    assert flush_logged_errors()


def test_whoever_is_online_counts_however_long_ago_it_came(
    desk: SessionDesk, servers: list[RedisServer]
) -> None:
    found = desk.open()
    desk.follow(found.generation, NEWS)
    server = server_of(desk, servers, NEWS)
    before = desk.cli(server, "HGETALL", NEWS, "c")
    for _ in range(2):  # a round begins, and it has its turn
        desk.pass_time(TOUCH_S + 10)
        desk.settle()
    desk.pass_time(10)
    desk.settle()
    assert desk.cli(server, "HGETALL", NEWS, "c") != before


def placed_elsewhere(desk: SessionDesk, servers: list[RedisServer]) -> tuple[str, RedisServer]:
    """A topic with 5 entries at the other primary than the user, whose phone took 3 of them and is away."""
    text = next(texts_at(desk, servers, elsewhere=True))
    desk.grow(text, 5)
    generation = desk.open().generation
    desk.follow(generation, text)
    desk.ack(generation, 3, text)
    desk.close("phone", generation)
    desk.settle()
    return text, server_of(desk, servers, text)


def texts_at(desk: SessionDesk, servers: list[RedisServer], elsewhere: bool) -> Iterator[str]:
    """Topics at the other primary than the user, or at the same one."""
    home = server_of(desk, servers, "bob")
    texts = (f"topic:{n}" for n in count())
    return (text for text in texts if (server_of(desk, servers, text) is not home) is elsewhere)


def settle_home(desk: SessionDesk) -> None:
    """The user's primary is there, whatever the other one does."""
    home = desk.primaries.of("bob")[0]
    desk.loop.until(lambda: home.is_up and home.subscription.is_up and not home.unanswered)


@pytest.mark.parametrize("how", ["it hangs", "it is down"])
def test_a_login_does_not_wait_for_the_primaries_of_its_topics(
    desk: SessionDesk, servers: list[RedisServer], how: str
) -> None:
    """Nor does it forget what it follows there, and where it stands, if its own comes back as another."""
    text, away = placed_elsewhere(desk, servers)
    home, primary = server_of(desk, servers, "bob"), desk.primaries.of("bob")[0]
    near = next(texts_at(desk, servers, elsewhere=False))
    if how == "it hangs":
        away.freeze()
    else:
        away.kill9()
    try:
        found = desk.run(desk.sessions.open(desk.claim()))
        box = desk.later(desk.sessions.follow(BOB, found.generation, log(text), 5))
        home.cli("HINCRBY", "ig:primary", "n", 1)
        before = primary.generation
        primary._line.drop(ConnectionError("a replica took over"))
        desk.loop.until(lambda: primary.generation > before)
        settle_home(desk)
        desk.sessions.flush()
        settle_home(desk)
        assert desk.cli(home, "HGET", "bob", "x", "f:phone") == text.encode()
        assert desk.follow(found.generation, near, 0) == Followed(False, 0)
        listed = desk.cli(home, "HGET", "bob", "x", "f:phone").decode().split("\n")
        assert sorted(listed) == sorted((text, near))
        desk.ack(found.generation, 5, text)  # it cannot have been given any
        desk.sessions.unpark(BOB, found.generation, log(text), 5)
        desk.sessions.flush()
        assert box == []
    finally:
        if how == "it hangs":
            away.thaw()
        else:
            away.restart()
    desk.settle()
    assert box == [Followed(True, 3)]
    desk.ack(found.generation, 4, text)
    desk.close("phone", found.generation)
    again = desk.open()
    assert sorted(places(again)) == sorted([(log(text).address.id, 4), (log(near).address.id, 0)])


@pytest.mark.parametrize("how", ["displaced", "closed", "unfollowed", "stopped"])
def test_who_waits_for_its_place_when_it_ends_is_not_told_that_it_begins(
    desk: SessionDesk, servers: list[RedisServer], how: str
) -> None:
    text, away = placed_elsewhere(desk, servers)
    away.freeze()
    try:
        found = desk.run(desk.sessions.open(desk.claim()))
        box = desk.later(desk.sessions.follow(BOB, found.generation, log(text), 5))
        if how == "displaced":
            desk.run(desk.sessions.open(desk.claim(device="web", policy=LoginPolicy.ONE)))
            assert desk.told == [(BOB, found.generation, CloseCode.DISPLACED)]
        elif how == "closed":
            desk.close("phone", found.generation)
        elif how == "unfollowed":
            desk.later(desk.sessions.unfollow(BOB, found.generation, log(text)))
        else:
            desk.die()
        assert box[0].check(StoreBusy)
    finally:
        away.thaw()
    if how == "stopped":
        return
    desk.settle()
    assert places(desk.open()) == ([] if how == "unfollowed" else [(log(text).address.id, 3)])
    assert desk.sessions._following._asking == {}


def test_a_topic_that_is_unfollowed_and_followed_while_its_place_is_asked(
    desk: SessionDesk, servers: list[RedisServer]
) -> None:
    text, away = placed_elsewhere(desk, servers)
    away.freeze()
    try:
        found = desk.run(desk.sessions.open(desk.claim()))
        desk.later(desk.sessions.unfollow(BOB, found.generation, log(text)))
        box = desk.later(desk.sessions.follow(BOB, found.generation, log(text), 5))
    finally:
        away.thaw()
    desk.settle()
    assert box == [Followed(False, 5)]
    assert places(desk.open()) == [(log(text).address.id, 5)]


def test_a_place_that_cannot_be_read_keeps_nobody_from_the_others(
    desk: SessionDesk, servers: list[RedisServer], flush_logged_errors: Any
) -> None:
    text, server = placed_elsewhere(desk, servers)
    generation = desk.open().generation
    spoiled = next(one for one in texts_at(desk, servers, elsewhere=True) if one != text)
    desk.follow(generation, spoiled)
    desk.close("phone", generation)
    desk.cli(server, "HSET", spoiled, "c", "bob\0phone", b"\xc1")
    found = desk.run(desk.sessions.open(desk.claim()))
    bad = desk.later(desk.sessions.follow(BOB, found.generation, log(spoiled), 7))
    assert desk.follow(found.generation, text, 5) == Followed(True, 3)
    desk.settle()
    assert bad[0].check(RedisError)
    bad = desk.later(desk.sessions.follow(BOB, found.generation, log(spoiled), 7))
    desk.settle()
    assert bad[0].check(RedisError)
    assert len(flush_logged_errors()) == 3, "both, the one by itself, and that once more"
    desk.cli(server, "DEL", spoiled, "c")
    assert desk.follow(found.generation, spoiled, 7) == Followed(False, 7)
    assert len(places(desk.open())) == 2


def test_a_log_whose_places_cannot_be_read_cannot_be_followed(
    desk: SessionDesk, servers: list[RedisServer], flush_logged_errors: Any
) -> None:
    generation = desk.open().generation
    desk.cli(server_of(desk, servers, NEWS), "HSET", NEWS, "c", "bob\0phone", b"\xc1")
    bad = desk.later(desk.sessions.follow(BOB, generation, log(NEWS), 7))
    desk.settle()
    assert bad[0].check(RedisError)
    assert flush_logged_errors()


def test_what_is_followed_beyond_the_limit_goes_though_its_place_is_not_known(
    desk: SessionDesk, servers: list[RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, away = placed_elsewhere(desk, servers)
    monkeypatch.setattr(following, "MAX_FOLLOWED", 1)
    near = next(texts_at(desk, servers, elsewhere=False))
    away.freeze()
    try:
        found = desk.run(desk.sessions.open(desk.claim()))
        assert desk.follow(found.generation, near, 2) == Followed(False, 2)
    finally:
        away.thaw()
    desk.settle()
    assert places(desk.open()) == [(log(near).address.id, 2)]


def test_a_log_that_is_lost_while_somebody_waits_to_follow_it(
    desk: SessionDesk, servers: list[RedisServer]
) -> None:
    """Where it would have begun is a place in the log that is gone."""
    text, away = placed_elsewhere(desk, servers)
    away.freeze()
    desk.run(desk.sessions.open(desk.claim(device="pad")))  # it follows nothing
    found = desk.run(desk.sessions.open(desk.claim()))
    box = desk.later(desk.sessions.follow(BOB, found.generation, log(text), 5))
    away.lose_all()
    desk.settle()
    assert box == [Followed(False, 0)]
    desk.ack(found.generation, 5, text)
    assert places(desk.open()) == [(log(text).address.id, 0)]


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


@pytest.mark.parametrize("when", ["written", "on its way", "not written", "late"])
def test_a_place_in_a_log_that_is_gone_is_none_in_the_new_one(
    desk: SessionDesk, servers: list[RedisServer], when: str
) -> None:
    """The session is open all the time."""
    server = server_of(desk, servers, NEWS)
    assert server is not server_of(desk, servers, ORDERS)
    for text in (NEWS, ORDERS):
        desk.grow(text, 5)
    generation = desk.open().generation
    for text in (NEWS, ORDERS):
        desk.follow(generation, text)
    if when == "on its way":
        server.freeze()
    if when != "late":
        desk.sessions.advance(BOB, generation, [(log(NEWS), 5), (log(ORDERS), 4)], [(log(NEWS), 3)])
    if when == "written":
        desk.sessions.flush()
        desk.settle()
    elif when == "on its way":
        desk.sessions.flush()
    server.lose_all()
    desk.settle()
    if when == "late":
        desk.sessions.advance(BOB, generation, [(log(NEWS), 5), (log(ORDERS), 4)], [(log(NEWS), 3)])
        desk.sessions.unpark(BOB, generation, log(NEWS), 4)
    desk.pass_time(6)
    desk.settle()
    desk._grown[NEWS] = 0
    desk.grow(NEWS, 3)
    again = desk.open()
    assert places(again) == [("news", 0), ("orders", 4)]
    assert again.places[1].parked == ()
    desk.ack(again.generation, 2, NEWS)
    assert places(desk.open()) == [("news", 2), ("orders", 4)]


def test_a_log_that_is_lost_while_a_login_asks_for_its_places(
    desk: SessionDesk, servers: list[RedisServer]
) -> None:
    """The other primary does not answer yet."""
    texts = [NEWS, ORDERS]
    if server_of(desk, servers, NEWS) is server_of(desk, servers, "bob"):
        texts.reverse()  # the first one is lost, and the login is not
    lost = server_of(desk, servers, texts[0])
    for text in texts:
        desk.grow(text, 5)
    generation = desk.open().generation
    for text in texts:
        desk.follow(generation, text)
        desk.sessions.advance(BOB, generation, [(log(text), 5)], [(log(text), 3)])
    desk.close("phone", generation)
    desk.settle()
    held, call = [], desk.primaries.of(texts[1])[0].call

    def hold(script: str, *args: Any, **more: Any) -> Any:
        calling = call(script, *args, **more)
        return _held(calling, held) if script == "places" else calling

    desk.primaries.of(texts[1])[0].call = hold
    box = desk.later(desk.sessions.open(desk.claim()))
    desk.loop.until(lambda: held)
    desk.settle()
    lost.lose_all()
    desk.settle()
    assert box[0].verdict is Verdict.OK
    answer, reply = held[0]
    answer.callback(reply)
    found = {place.log: (place.acked, place.parked) for place in desk.places()}
    assert found == {log(texts[0]): (0, ()), log(texts[1]): (5, (3,))}


def _held(calling: Any, held: list[Any]) -> Any:
    """The answer comes when the test says so."""
    answer: Any = Deferred()
    calling.addCallback(lambda reply: held.append((answer, reply)))
    return answer


def test_who_follows_anew_after_a_log_was_lost_has_a_place_again(
    desk: SessionDesk, servers: list[RedisServer]
) -> None:
    """Over the same link, before that hears of the loss."""
    server = server_of(desk, servers, NEWS)
    desk.grow(NEWS, 5)
    generation = desk.open().generation
    desk.follow(generation, NEWS)
    desk.ack(generation, 5, NEWS)
    server.freeze()
    late = desk.later(desk.sessions.follow(BOB, generation, log("topic:lost"), 7))
    desk.loop.spin(0.02)
    server.lose_all()
    desk.settle()
    assert late == [Followed(False, 0 if server is server_of(desk, servers, "topic:lost") else 7)]
    assert desk.follow(generation, NEWS) == Followed(True, 0)
    desk.ack(generation, 1, NEWS)
    again = desk.open()
    assert ("news", 1) in places(again)


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
