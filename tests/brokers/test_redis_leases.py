"""Nodes that live, are silent for a while, or died: on a real Redis, whose clock the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import fail

from imgateway.brokers.redis import positions
from imgateway.brokers.redis.positions import TOUCH_PARTS, TOUCH_S
from imgateway.errors import CloseCode
from imgateway.frames import SessionKey
from imgateway.interfaces import LoginPolicy, Verdict
from tests.brokers.redis_server import Loop, RedisServer
from tests.brokers.session_desk import SessionDesk, log

pytestmark = pytest.mark.server

BOB = SessionKey("bob", "phone")


def later(seconds: float, *desks: SessionDesk, silent: tuple[SessionDesk, ...] = ()) -> None:
    """Time passes on all machines; `desks` renew their leases every five seconds."""
    while seconds > 0:
        for desk in (*desks, *silent):
            desk.shift_ms += int(min(seconds, 5.0) * 1000)
        for desk in desks:
            desk.run(desk.leases.renew(desk.primary))
        seconds -= 5.0
    for desk in desks:
        desk.settle()


def test_a_dead_node_has_nobody_online(desks: Any) -> None:
    one, two = desks("n.1", "n.2")
    first = one.open()
    one.die()
    assert two.online() == {"phone": ("n.1", first.generation)}
    assert two.open(device="web", policy=LoginPolicy.REFUSE).verdict == Verdict.CONFLICT
    later(16, two)
    assert two.online() == {}
    assert two.open(device="web", policy=LoginPolicy.REFUSE).verdict == Verdict.OK
    again = two.open(order=1, on_same_device="newest-order-wins")
    assert (again.verdict, again.known, again.resumed) == (Verdict.OK, True, False)


def test_who_was_online_until_its_node_was_killed_was_seen_lately(desks: Any) -> None:
    one, two = desks("n.1", "n.2")
    one.open()
    for device in ("pad", "web"):
        two.close(device, two.open(device=device).generation)
    for desk in (one, two):
        desk.shift_ms += 6 * 86_400_000
    later(5, one, two)
    for _ in range(2):  # a round begins, and the phone has its turn
        one.pass_time(TOUCH_S / TOUCH_PARTS)
        one.settle()
    two.shift_ms = one.shift_ms
    one.run(one.leases.renew(one.primary))
    one.sessions.flush()
    one.settle()
    one.die()
    later(16, two)
    two.open(device="new")
    assert two.devices() == {"phone", "web", "new"}, "the pad was away for six days"


def test_those_online_are_written_down_in_parts(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "TOUCH_PARTS", 2)
    desk = desks("n.1")
    touched = desk.sessions._positions
    generations = [desk.open(f"user{n}").generation for n in range(5)]
    touched._touch()  # a round begins
    desk.close("phone", generations[4], user="user4")
    assert touched._dirty == {}
    counts = []
    for _ in range(4):
        touched._touch()
        counts.append(len(touched._dirty))
    assert counts == [3, 4, 4, 4]
    desk.sessions.flush()
    desk.settle()
    assert touched._dirty == {}


def test_renewals_keep_a_node_alive(desks: Any) -> None:
    one, two = desks("n.1", "n.2")
    one.open()
    for _ in range(10):
        later(5, one, two)
    assert set(two.online()) == {"phone"}
    assert (one.regained, two.regained) == ([], [])


def test_the_timer_renews(desks: Any) -> None:
    """Of each node by itself, whatever became of the renewal before."""
    one = desks("n.1")
    before = one.leases._until_ms[one.primary]
    one.pass_time(5.1)
    one.settle()
    assert one.leases._until_ms[one.primary] > before + 4_000
    one.leases._asked.add(one.primary)
    last = one.leases._until_ms[one.primary]
    one.pass_time(5.1)
    one.settle()
    assert one.leases._until_ms[one.primary] == last, "a second one does not line up behind one under way"


def test_a_node_that_was_silent_has_its_sessions_again(desks: Any) -> None:
    one, two = desks("n.1", "n.2")
    kept, lost = one.open(device="kept"), one.open(device="lost")
    one.heard = lambda primary, item: None  # it hears nothing either
    later(16, two, silent=(one,))
    assert two.online() == {}
    taken = two.open(device="lost")
    assert not one.told
    one.run(one.leases.renew(one.primary))
    one.settle()
    assert one.regained == [one.primary]
    assert two.online() == {"kept": ("n.1", kept.generation), "lost": ("n.2", taken.generation)}
    assert one.told == [(SessionKey("bob", "lost"), lost.generation, CloseCode.STALE)]
    one.ack(kept.generation, 3, device="kept")
    one.sessions.flush()
    one.settle()
    assert len(one.told) == 1, "what nobody took goes on with the generation that it had"


def test_a_node_that_was_taken_for_dead_hears_it_though_the_clock_was_put_back(desks: Any) -> None:
    one, two = desks("n.1", "n.2")
    one.open()
    later(16, two, silent=(one,))
    for desk in (one, two):
        desk.shift_ms -= 30_000
    later(5, two, silent=(one,))
    assert two.online() == {}
    later(5, one, two)
    assert (one.regained, two.regained) == ([one.primary], [])
    assert set(two.online()) == {"phone"}


def test_a_node_that_died_before_the_clock_was_put_back_is_dead_all_the_same(
    desks: Any, redis: RedisServer
) -> None:
    one, two = desks("n.1", "n.2")
    one.open()
    one.die()
    two.shift_ms -= 3_600_000
    later(5, two)
    assert set(two.online()) == {"phone"}
    later(16, two)
    assert (two.online(), two.regained) == ({}, [])
    assert redis.cli("ZRANGE", "ig:nodes", 0, -1) == [b"n.2"]


def test_a_policy_counts_for_those_who_are_silent(desks: Any) -> None:
    """Or both would be online once the silent one is back."""
    one, two = desks("n.1", "n.2")
    first = one.open()
    one.heard = lambda primary, item: None
    later(16, two, silent=(one,))
    two.open(device="web", policy=LoginPolicy.ONE)
    one.run(one.leases.renew(one.primary))
    one.settle()
    assert one.told == [(BOB, first.generation, CloseCode.DISPLACED)]
    assert set(two.online()) == {"web"}


def test_a_kick_that_was_lost_with_the_subscription(desks: Any, redis: RedisServer) -> None:
    one, two = desks("n.1", "n.2")
    first = one.open()
    eve = one.open("eve")
    one.heard = lambda primary, item: None
    two.open()
    one.settle()
    assert one.told == []
    one.sessions.renewed(one.primary)
    one.settle()
    assert one.told == [(BOB, first.generation, CloseCode.STALE)]
    assert two.online("eve") == {"phone": ("n.1", eve.generation)}


def test_sessions_are_asked_after_in_batches(desks: Any) -> None:
    one, two = desks("n.1", "n.2")
    opened = {str(n): one.later(one.sessions.open(one.claim(str(n)))) for n in range(450)}
    one.settle()
    one.heard = lambda primary, item: None
    for user in ("3", "449"):
        two.open(user)
    one.settle()
    calls: list[int] = []
    original = one.primary.call
    one.primary.call = lambda script, *args: calls.append(len(args)) or original(script, *args)
    one.sessions.renewed(one.primary)
    for user in ("7", "448"):
        one.sessions.close(SessionKey(user, "phone"), opened[user][0].generation)
    one.settle()
    assert {session.user for session, *_ in one.told} == {"3", "449"}
    assert [size for size in calls if size > 10] == [2_203, 2_203, 542]
    assert one.sessions.online == 446


def test_sessions_that_ended_while_others_were_asked_after(desks: Any) -> None:
    """The batch that comes next has nobody left in it."""
    one = desks("n.1")
    opened = {str(n): one.later(one.sessions.open(one.claim(str(n)))) for n in range(401)}
    one.settle()
    one.sessions.renewed(one.primary)
    for user, box in opened.items():
        one.sessions.close(SessionKey(user, "phone"), box[0].generation)
    one.settle()
    assert (one.told, one.sessions.online) == ([], 0)


# ------------------------------------------------------------------------------------------------ the reaper


class Rooms:
    """What a dead node had in rooms, taken back three at a time; each is told once."""

    def __init__(self, redis: RedisServer) -> None:
        self.server = redis
        self.told: list[bytes] = []
        self.steps = 0

    def __call__(self, primary: Any, dead: str) -> bool:
        self.steps += 1
        found = self.server.cli("SPOP", f"rooms:{dead}", 3)
        self.told += found
        return bool(found)


def test_a_dead_node_is_reaped_once_by_several(desks: Any, redis: RedisServer) -> None:
    rooms = Rooms(redis)
    one, two, three = desks("n.1", "n.2", "n.3", reap=rooms)
    redis.cli("SADD", "rooms:n.1", *range(10))
    one.die()
    later(10, two, three)
    assert (rooms.told, redis.cli("ZCARD", "ig:nodes")) == ([], 3)
    later(6, two, three)
    for desk in (two, three):
        desk.loop.until(lambda desk=desk: not desk.leases._reaping)
    assert sorted(map(int, rooms.told)) == list(range(10))
    assert rooms.steps >= 5
    assert set(redis.cli("ZRANGE", "ig:nodes", 0, -1)) == {b"n.2", b"n.3"}
    assert redis.cli("HEXISTS", "ig:online", "n.1") == 0
    steps = rooms.steps
    later(5, two, three)
    assert rooms.steps == steps


def test_a_node_that_comes_back_is_not_buried(desks: Any, redis: RedisServer) -> None:
    one, two = desks("n.1", "n.2")
    back: list[Any] = []

    def reap(primary: Any, dead: str) -> Any:
        back.append(dead)
        return one.leases.renew(one.primary).addCallback(lambda _: False)

    two.leases._reap = reap
    later(16, two, silent=(one,))
    two.loop.until(lambda: not two.leases._reaping)
    assert (back, one.regained) == (["n.1"], [one.primary])
    assert set(redis.cli("ZRANGE", "ig:nodes", 0, -1)) == {b"n.1", b"n.2"}


def test_a_reaper_that_fails_tries_again(desks: Any, redis: RedisServer, flush_logged_errors: Any) -> None:
    one, two = desks("n.1", "n.2")
    one.die()
    tries: list[str] = []

    def reap(primary: Any, dead: str) -> Any:
        tries.append(dead)
        return fail(RuntimeError("not just now")) if len(tries) == 1 else False

    two.leases._reap = reap
    later(15, two)
    two.loop.until(lambda: not two.leases._reaping)
    assert (tries, redis.cli("ZCARD", "ig:nodes")) == (["n.1"], 2)
    later(5, two)
    two.loop.until(lambda: not two.leases._reaping)
    assert (tries, redis.cli("ZCARD", "ig:nodes")) == (["n.1"] * 2, 1)
    assert len(flush_logged_errors(RuntimeError)) == 1


def test_a_node_that_leaves_is_gone_at_once(desks: Any, redis: RedisServer) -> None:
    one, two = desks("n.1", "n.2")
    found = one.open()
    one.close("phone", found.generation)
    one.stop()
    assert redis.cli("ZRANGE", "ig:nodes", 0, -1) == [b"n.2"]
    assert two.leases.others_online() == 0


def test_a_renewal_that_fails_is_tried_again(desks: Any, flush_logged_errors: Any) -> None:
    one = desks("n.1")
    original = one.primary.call
    one.primary.call = lambda script, *args: fail(RuntimeError("no good"))
    one.pass_time(5.1)
    one.primary.call = original
    assert len(flush_logged_errors(RuntimeError)) == 1
    before = one.leases._until_ms[one.primary]
    one.pass_time(5.1)
    one.settle()
    assert one.leases._until_ms[one.primary] > before


def test_a_stop_while_the_primary_is_away(desks: Any, redis: RedisServer) -> None:
    """The renewal that waits ends with the lines, without a word."""
    one = desks("n.1")
    redis.freeze()
    one.leases.renew(one.primary)
    leaving = one.later(one.leases.stop())
    one.loop.spin(0.02)
    assert leaving == []
    one.primaries.stop()
    redis.thaw()
    assert len(leaving) == 1


def test_a_server_that_was_away_has_nobody_dead(desks: Any, redis: RedisServer) -> None:
    """Nobody could renew: whoever comes first must not take the others for dead."""
    one, two, gone = desks("n.1", "n.2", "n.3")
    first = one.open()
    gone.die()
    later(10, one, two)
    assert two.open(device="web", policy=LoginPolicy.REFUSE).verdict == Verdict.CONFLICT
    one.shift_ms += 40_000
    two.shift_ms += 40_000
    # What waited for the server is run before anybody has renewed.
    assert two.online() == {"phone": ("n.1", first.generation)}
    two.run(two.leases.renew(two.primary))
    assert two.online() == {"phone": ("n.1", first.generation)}
    assert two.run(two.primary.call("bury", "n.1", 0)) == 0
    one.run(one.leases.renew(one.primary))
    one.settle()
    assert (one.told, set(redis.cli("ZRANGE", "ig:nodes", 0, -1))) == ([], {b"n.1", b"n.2", b"n.3"})
    later(16, two, silent=(one,))
    two.loop.until(lambda: not two.leases._reaping)
    assert (two.online(), redis.cli("ZRANGE", "ig:nodes", 0, -1)) == ({}, [b"n.2"])


def test_how_many_are_online_elsewhere(desks: Any) -> None:
    one, two, three = desks("n.1", "n.2", "n.3")
    for user in ("bob", "eve"):
        one.open(user)
    three.open("dan")
    later(5, one, two, three)
    later(1, one, two, three)
    assert [desk.leases.others_online() + desk.sessions.online for desk in (one, two, three)] == [3, 3, 3]
    one.die()
    later(16, two, three)
    later(1, two, three)
    assert [desk.leases.others_online() + desk.sessions.online for desk in (two, three)] == [1, 1]


# ------------------------------------------------------------------------------------------------- failover


def test_claims_that_a_promoted_replica_has_never_heard_of(desks: Any, redis: RedisServer) -> None:
    """The newest writes are lost with the old primary: who is online stays, unless others came meanwhile."""
    one, two = desks("n.1", "n.2")
    one.grow("user:bob", 9)
    older = one.open(device="older")
    newer = one.open(device="newer", platform="ios", issued_at_s=9, order=4)
    one.sessions.advance(
        SessionKey("bob", "newer"), newer.generation, [(log("user:bob"), 5)], [(log("user:bob"), 2)]
    )
    taken = one.open(device="taken")
    late = one.open("eve", issued_at_s=3)
    one.heard = lambda primary, item: None
    # What the replica has: no device "newer", an older claim of "older", and one less in all generations.
    one.cli(redis, "HDEL", "bob", "u", "d:newer")
    one.cli(redis, "DEL", "eve", "u")
    redis.cli("HINCRBY", "ig:primary", "n", 1)
    after = two.open(device="taken")
    two.run(two.sessions.revoke("eve", 7))
    assert after.generation > late.generation
    one.sessions.renewed(one.primary)
    one.settle()
    assert sorted(one.told) == [
        (SessionKey("bob", "taken"), taken.generation, CloseCode.STALE),
        (SessionKey("eve", "phone"), late.generation, CloseCode.STALE),
    ]
    online = two.online()
    assert online["newer"] == ("n.1", newer.generation)
    assert online["older"] == ("n.1", older.generation)
    one.close("newer", newer.generation)
    again = two.open(device="newer")
    assert (again.known, again.places[0].acked, again.places[0].parked) == (True, 5, (2,))
    assert again.generation > newer.generation


def test_what_is_written_before_a_promoted_replica_was_asked(desks: Any, redis: RedisServer) -> None:
    """What was under way comes first; for want of a claim that was lost nobody is sent away."""
    one, two = desks("n.1", "n.2")
    one.grow("user:bob", 9)
    found = one.open(issued_at_s=5)
    generation = found.generation
    one.cli(redis, "HDEL", "bob", "u", "d:phone")
    one.renewed = lambda primary: None  # the subscription, which asks, is not there yet
    redis.cli("HINCRBY", "ig:primary", "n", 1)
    assert one.follow(generation, "topic:news", 3).acked == 3
    assert one.run(one.sessions.renew(BOB, generation, 6)) == Verdict.OK
    two.run(two.sessions.revoke("bob", 6))
    assert one.run(one.sessions.renew(BOB, generation, 5)) == Verdict.REVOKED
    assert one.online() == {}
    kept = one.later(one.sessions.record(BOB, generation, b"kept"))
    one.ack(generation, 4)
    one.settle()
    one.settle()
    assert kept == [True]
    assert (one.told, two.online()) == ([], {"phone": ("n.1", generation)})
    again = two.open(issued_at_s=6)
    assert (again.record, [place.acked for place in again.places]) == (b"kept", [4, 3])


def test_a_record_that_a_promoted_replica_may_lack_is_not_kept_already(
    desks: Any, redis: RedisServer
) -> None:
    one = desks("n.1")
    generation = one.open().generation
    assert one.run(one.sessions.record(BOB, generation, b"kept"))
    assert one.sessions.record(BOB, generation, b"kept").result is True
    _, bucket = one.primaries.of("bob")
    more = f"ig:{{{bucket}}}:x:bob"
    kept: list[Any] = []

    def again() -> None:
        redis.cli("HDEL", more, "r:phone")
        found = one.run(one.sessions.record(BOB, generation, b"kept"))
        kept.append((found, redis.cli("HGET", more, "r:phone")))

    one.renewed = lambda primary: None  # nobody has asked what is there
    before = one.primary.generation
    redis.cli("HINCRBY", "ig:primary", "n", 1)
    one.primary._line.drop(ConnectionError("a replica took over"))
    one.loop.until(lambda: one.primary.generation > before)
    again()
    one.sessions.renewed(one.primary)  # it is asked, and has not answered
    again()
    one.settle()
    one.settle()
    assert kept == [(True, b"kept")] * 2
    assert one.sessions.record(BOB, generation, b"kept").result is True


def test_a_primary_that_has_other_data_is_asked_for_everything(desks: Any) -> None:
    one = desks("n.1")
    one.primary.generation += 1
    one.run(one.leases.renew(one.primary))
    assert one.regained == [one.primary]
    one.run(one.leases.renew(one.primary))
    assert one.regained == [one.primary]


def take_over(redis: RedisServer, *desks: SessionDesk) -> None:
    """A replica does, as its nodes see it."""
    before = desks[0].primary.generation
    redis.cli("HINCRBY", "ig:primary", "n", 1)
    redis.cli("HSET", "ig:primary", "raised_ms", desks[0].wall_ms)
    for desk in desks:
        desk.primary._line.drop(ConnectionError("a replica took over"))
    desks[0].loop.until(lambda: all(desk.primary.generation > before for desk in desks))
    for desk in desks:
        desk.settle()


def test_who_left_just_before_is_not_back_with_a_promoted_replica_once_its_node_has_named_all(
    desks: Any, redis: RedisServer
) -> None:
    one, two = desks("n.1", "n.2")
    kept = one.open("ann")
    for user in ("bob", "eve"):
        generation = one.open(user).generation
        record = one.cli(redis, "HGET", user, "u", "d:phone")
        one.close("phone", generation, user=user)
        one.cli(redis, "HSET", user, "u", "d:phone", record)
    renewed, one.renewed = one.renewed, lambda primary: None
    take_over(redis, one, two)
    assert set(two.online("bob")) == {"phone"}, "its node has not said yet what it has"
    assert two.open("ann", "web", policy=LoginPolicy.REFUSE).verdict == Verdict.CONFLICT
    renewed(one.primary)
    one.settle()
    assert (two.online("ann"), two.online("bob")) == ({"phone": ("n.1", kept.generation)}, {})
    assert one.open("bob", "web", policy=LoginPolicy.REFUSE).verdict == Verdict.OK
    assert two.open("eve", "web", policy=LoginPolicy.REFUSE).verdict == Verdict.OK
    assert two.open("ann", "web", policy=LoginPolicy.REFUSE).verdict == Verdict.CONFLICT
    assert one.told == two.told == []


def test_nobody_ended_as_long_as_one_could_not_be_asked_after(
    desks: Any, redis: RedisServer, flush_logged_errors: Any
) -> None:
    one, two = desks("n.1", "n.2")
    for user in ("ann", "bob"):
        one.open(user)
    one.cli(redis, "HSET", "ann", "u", "d:phone", "no record")
    take_over(redis, one, two)
    assert flush_logged_errors()
    assert int(redis.cli("HGET", "ig:named", "n.1")) == one.primary.generation - 1
    assert set(two.online("bob")) == {"phone"}


def test_a_claim_that_was_answered_while_a_replica_took_over_is_vouched_for(
    desks: Any, redis: RedisServer
) -> None:
    one, two = desks("n.1", "n.2")
    generation = one.open().generation
    one.renewed = lambda primary: one.sessions._data.update({primary: (primary.generation, primary.epoch)})
    take_over(redis, one, two)
    one.sessions.renewed(one.primary)
    one.settle()
    assert two.online() == {"phone": ("n.1", generation)}


@pytest.fixture
def two_servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    found = [RedisServer(tmp_path / name) for name in ("old", "new")]
    yield found
    for one in found:
        one.stop()


def test_a_promoted_replica_that_misses_the_last_claims(two_servers: list[RedisServer]) -> None:
    """A real one, which takes over the address. Who is online stays; and no generation is given twice."""
    old, new = two_servers
    loop = Loop()
    one, two = (SessionDesk(old, loop=loop, node=node).start() for node in ("n.1", "n.2"))
    there = one.open(device="there")
    new.replica_of(old)
    new.freeze()
    old.cli("CLIENT", "KILL", "TYPE", "replica")
    lost = one.open(device="lost", platform="ios")
    one.open(device="there")
    taken = two.open(device="there")  # the replica knows of neither
    one.settle()
    assert len(one.told) == 2
    old.kill9()
    new.thaw()
    new.promote()
    new.cli("CONFIG", "SET", "port", old.port)
    for desk in (one, two):
        desk.settle()
        desk.run(desk.leases.renew(desk.primary))
        desk.settle()
    assert (one.regained, two.regained) == ([one.primary], [two.primary])
    assert one.online() == {"lost": ("n.1", lost.generation), "there": ("n.2", taken.generation)}
    assert (len(one.told), two.told) == (2, []), "nobody is sent away for it"
    again = one.open(device="there")
    two.settle()
    assert again.generation > max(taken.generation, lost.generation, there.generation)
    assert [told[1] for told in two.told] == [taken.generation]
    for desk in (one, two):
        desk.stop()
    loop.close()
