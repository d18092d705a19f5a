"""Claims on a real Redis: what one script decides, for every node at once, however often it is run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail

from imgateway.brokers.redis.connection import RedisError
from imgateway.brokers.redis.packing import pack, unpack
from imgateway.errors import CloseCode
from imgateway.frames import SessionKey, Start
from imgateway.interfaces import Followed, LoginPolicy, Verdict
from tests.brokers.redis_server import RedisServer
from tests.brokers.session_desk import SessionDesk, log

pytestmark = pytest.mark.server

BOB = SessionKey("bob", "phone")
REPLACED, STALE, DISPLACED, REVOKED = (
    CloseCode.REPLACED,
    CloseCode.STALE,
    CloseCode.DISPLACED,
    CloseCode.REVOKED,
)
BY_ORDER = {"on_same_device": "newest-order-wins"}
N = 1 << 32


@pytest.fixture
def desk(desks: Any) -> SessionDesk:
    found: SessionDesk = desks("n.1")
    return found


@pytest.fixture
def pair(desks: Any) -> list[SessionDesk]:
    found: list[SessionDesk] = desks("n.1", "n.2")
    return found


# ---------------------------------------------------------------------------------------------------- claims


def test_the_same_device_at_another_node_takes_over(pair: list[SessionDesk]) -> None:
    one, two = pair
    old = one.open()
    new = two.open()
    one.settle()
    assert (old.verdict, new.verdict, new.known, new.resumed) == (Verdict.OK, Verdict.OK, True, True)
    assert new.generation > old.generation
    assert one.told == [(BOB, old.generation, REPLACED)]
    assert one.reasons == ["the same device logged in again"]
    assert two.told == []
    assert one.online() == two.online() == {"phone": ("n.2", new.generation)}
    assert (one.sessions.online, two.sessions.online) == (0, 1)
    assert one.sessions.has(BOB) is False
    one.ack(old.generation, 1)
    assert one.told[1:] == [(BOB, old.generation, STALE)]


def test_the_same_device_at_the_same_node_takes_over(desk: SessionDesk) -> None:
    old = desk.open()
    events: list[Any] = []
    desk.on_displaced = lambda *told: events.append("displaced")
    answer = desk.sessions.open(desk.claim())
    answer.addCallback(lambda found: events.append(found.verdict))
    desk.run(answer)
    desk.settle()
    assert events == ["displaced", Verdict.OK], "the displaced are told in the same turn, and first"
    assert desk.told == [(BOB, old.generation, REPLACED)]


@pytest.mark.parametrize(
    ("policy", "verdict", "gone"),
    [
        (LoginPolicy.MANY, Verdict.OK, []),
        (LoginPolicy.ONE_PER_PLATFORM, Verdict.OK, ["phone"]),
        (LoginPolicy.ONE, Verdict.OK, ["desk", "phone"]),
        (LoginPolicy.REFUSE, Verdict.CONFLICT, []),
    ],
)
def test_login_policies_over_nodes(pair: list[SessionDesk], policy: Any, verdict: Any, gone: Any) -> None:
    one, two = pair
    there = {
        "phone": one.open(device="phone", platform="ios"),
        "desk": one.open(device="desk", platform="pc"),
    }
    found = two.open(device="tablet", platform="ios", policy=policy)
    one.settle()
    assert found.verdict == verdict
    assert sorted((key.device, code) for key, _, code in one.told) == [(name, DISPLACED) for name in gone]
    assert {generation for _, generation, _ in one.told} == {there[name].generation for name in gone}
    left = {"phone", "desk"} - set(gone) | ({"tablet"} if verdict == Verdict.OK else set())
    assert set(one.online()) == left
    again = two.open(device="tablet", platform="ios", policy=policy)
    one.settle()
    assert again.verdict == verdict
    assert len(one.told) == len(gone), "one kick each"


def test_the_newest_order_wins_over_nodes(pair: list[SessionDesk]) -> None:
    one, two = pair
    first = one.open(order=5, **BY_ORDER)
    assert two.open(order=4, **BY_ORDER).verdict == Verdict.OUTRUN
    same = two.open(order=5, **BY_ORDER)
    one.settle()
    assert one.told == [(BOB, first.generation, STALE)], "an equal one is the same login: it may come again"
    assert one.open(order=6, **BY_ORDER).verdict == Verdict.OK
    two.settle()
    assert two.told == [(BOB, same.generation, REPLACED)]
    assert two.open(order=1).verdict == Verdict.OK


def test_by_order_is_among_those_who_are_there(pair: list[SessionDesk]) -> None:
    one, two = pair
    first = one.open(order=5, **BY_ORDER)
    one.sessions.linger(BOB, first.generation)
    one.settle()
    assert two.online() == {}, "whose client may yet come back is not online"
    assert two.open(order=4, **BY_ORDER).verdict == Verdict.OK
    one.settle()
    assert one.told == [(BOB, first.generation, REPLACED)]
    assert two.online() != {}


def test_a_claim_that_comes_again_gets_its_answer(pair: list[SessionDesk], redis: RedisServer) -> None:
    """The script alone, as it is sent again when its answer was lost."""
    one, two = pair
    one.open()
    desk_args = _open_args(two, b"claim--1", policy=2, max_devices=1)
    first = two.run(two.primary.call("open", *desk_args))
    assert two.run(two.primary.call("open", *desk_args)) == first
    counted = redis.cli("GET", "ig:sessions")
    one.settle()
    assert [code for *_, code in one.told] == [REPLACED], "told once"
    # Another claim came in between: the older one does not win, and changes nothing.
    newer = one.open()
    state = one.cli(redis, "HGETALL", "bob", "u")
    assert two.run(two.primary.call("open", *desk_args)) == [Verdict.OUTRUN, []]
    assert one.cli(redis, "HGETALL", "bob", "u") == state
    assert one.online() == {"phone": ("n.1", newer.generation)}
    assert int(redis.cli("GET", "ig:sessions")) == int(counted) + 1


@pytest.mark.parametrize("why", ["another device", "revoked"])
def test_a_claim_that_comes_again_when_it_was_displaced_meanwhile(pair: list[SessionDesk], why: str) -> None:
    one, two = pair
    args = _open_args(two, b"claim--1")
    two.run(two.primary.call("open", *args))
    if why == "revoked":
        one.run(one.sessions.revoke("bob", 7))
    else:
        one.open(device="web", policy=LoginPolicy.ONE)
    verdict = Verdict.REVOKED if why == "revoked" else Verdict.OUTRUN
    assert two.run(two.primary.call("open", *args)) == [verdict, []]
    assert "phone" not in one.online()


@pytest.mark.parametrize("by", ["revoke", "replace"])
def test_what_a_claim_displaced_is_told_if_the_claim_itself_is_lost(pair: list[SessionDesk], by: str) -> None:
    """It ran, its answer was lost, and by the time it comes again somebody has displaced it."""
    one, two = pair
    web = two.open(device="web", issued_at_s=9)
    two.sessions._entropy = lambda n: b"claim--1"
    two.run(two.primary.call("open", *_open_args(two, b"claim--1", policy=2)))
    assert two.told == []
    if by == "revoke":
        one.run(one.sessions.revoke("bob", 7))
    else:
        one.open(issued_at_s=9)
    found = two.open(platform="ios", policy=LoginPolicy.ONE)
    assert found.verdict == (Verdict.REVOKED if by == "revoke" else Verdict.OUTRUN)
    assert two.told == [(SessionKey("bob", "web"), web.generation, DISPLACED)]
    assert two.sessions.online == 0


def _open_args(desk: SessionDesk, claim: bytes, policy: int = 0, max_devices: int = 3) -> tuple[Any, ...]:
    _, bucket = desk.primaries.of("bob")
    return (
        bucket,
        "bob",
        "phone",
        "ios",
        policy,
        0,
        0,
        0,
        0,
        claim,
        desk.node,
        max_devices,
        "user:bob",
        0,
        0,
        0,
    )


def _claim_later(desk: SessionDesk, **more: Any) -> Callable[[], Verdict]:
    """A claim is asked now, and comes to the primary when what is returned is called."""
    call, held = desk.primary.call, []

    def hold(*values: Any, **more: Any) -> Any:
        held.append(partial(call, *values, **more))
        return Deferred()

    desk.primary.call = hold
    desk.sessions.open(desk.claim(**more))
    desk.primary.call = call
    return lambda: Verdict(desk.run(held[0]())[0])


def _pass_time(pair: list[SessionDesk], seconds: float, is_step: bool = False) -> None:
    """`is_step`: for the server alone."""
    for desk in pair:
        desk.shift_ms += int(seconds * 1000)
    loop = pair[0].loop
    loop.shift_s += 0 if is_step else seconds
    for desk in pair:
        desk.settle()
        loop.until(lambda desk=desk: abs(desk.primary.time_ms(loop.seconds())[2] - desk.wall_ms) < 5_000)


def _shift(pair: list[SessionDesk], seconds: float) -> None:
    """Time passes, and nobody looks at the clock."""
    for desk in pair:
        desk.shift_ms += int(seconds * 1000)
    pair[0].loop.shift_s += seconds


def test_an_answer_that_took_long_does_not_say_what_time_it_is(desk: SessionDesk, redis: RedisServer) -> None:
    desk.settle()
    desk.hush()
    desk.primary._clock = None
    redis.freeze()
    try:
        number = desk.primary.subscription.beat()
        desk.loop.spin(0.02)
        desk.loop.shift_s += 2
    finally:
        redis.thaw()
    desk.loop.until(lambda: desk.primary.subscription.echoed >= number and not desk.primary.unanswered)
    assert desk.primary.time_ms(1_000.0) == (0, 0, 0)


def test_what_time_it_was_there_long_ago_is_nothing_to_rely_on(desk: SessionDesk) -> None:
    """Its clock, and ours, may have been set since."""
    desk.settle()
    desk.hush()
    desk.loop.shift_s += 59
    generation, earliest, latest = desk.primary.time_ms(desk.loop.seconds() - 59)
    assert generation == desk.primary.generation
    assert earliest < latest
    desk.loop.shift_s += 60
    assert desk.primary.time_ms(desk.loop.seconds()) == (0, 0, 0)


WEB = {"device": "web"}


@pytest.mark.parametrize(
    ("first", "then", "verdict"),
    [
        ({}, {}, Verdict.OUTRUN),
        (WEB, {}, Verdict.OK),
        ({**WEB, "policy": LoginPolicy.ONE}, {}, Verdict.OUTRUN),
        ({**WEB, "policy": LoginPolicy.ONE_PER_PLATFORM}, {}, Verdict.OUTRUN),
        ({**WEB, "policy": LoginPolicy.ONE_PER_PLATFORM, "platform": "ios"}, {}, Verdict.OK),
        ({"order": 5, **BY_ORDER}, {"order": 5, **BY_ORDER}, Verdict.OUTRUN),
        ({"order": 6, **BY_ORDER}, {"order": 5, **BY_ORDER}, Verdict.OK),
    ],
)
def test_a_claim_that_comes_too_late_displaces_nobody_who_asked_after_it(
    pair: list[SessionDesk], first: dict[str, Any], then: dict[str, Any], verdict: Verdict
) -> None:
    """Its client waited at one node, gave up, and is at the other."""
    one, two = pair
    _pass_time(pair, 1)
    come = _claim_later(one, **first)
    _pass_time(pair, 10)
    living = two.open(**then)
    _pass_time(pair, 60)
    assert come() is verdict
    two.settle()
    stays = verdict is Verdict.OUTRUN or first.get("device") == "web"
    assert [generation for _, generation, _ in two.told] == ([] if stays else [living.generation])


def test_of_claims_that_come_late_the_one_that_was_asked_last_stands(pair: list[SessionDesk]) -> None:
    _pass_time(pair, 1)
    for order in (0, 1), (1, 0):
        come = []
        for desk in pair:
            come.append(_claim_later(desk))
            _pass_time(pair, 5)
        verdicts = {n: come[n]() for n in order}
        assert verdicts == {0: Verdict.OUTRUN if order[0] else Verdict.OK, 1: Verdict.OK}


@pytest.mark.parametrize("why", ["it knows about when", "it does not know when", "it is of an older version"])
def test_a_claim_is_not_too_late_against_one_that_was_asked_before_it(
    pair: list[SessionDesk], redis: RedisServer, why: str
) -> None:
    """Both come late, the earlier one first, from a node that cannot date it well."""
    one, two = pair
    _pass_time(pair, 1)
    for desk in pair:
        desk.hush()
    if why == "it knows about when":
        asked_at = one.loop.seconds() - 0.9
        one.primary._echoed([one.primary._replid, 1, one.wall_ms], asked_at)
    elif why == "it does not know when":
        one.primary._clock = None
    first = _claim_later(one)
    _shift(pair, 0.3)
    second = _claim_later(two)
    _shift(pair, 5)
    assert first() is Verdict.OK
    if why == "it is of an older version":
        _, bucket = one.primaries.of("bob")
        state = unpack(redis.cli("HGET", f"ig:{{{bucket}}}:u:bob", "d:phone"))
        redis.cli("HSET", f"ig:{{{bucket}}}:u:bob", "d:phone", pack(state[:13]))
    assert second() is Verdict.OK


@pytest.mark.parametrize("waits", ["at its node", "on its line"])
def test_a_claim_is_not_too_late_by_the_clock_of_another_primary(
    pair: list[SessionDesk], redis: RedisServer, waits: str
) -> None:
    """The one that took over is ahead, and the node whose claim was asked last is back last."""
    one, two = pair
    _pass_time(pair, 1)
    asked_at = one.loop.seconds()
    second = _claim_later(two)
    clock = two.primary._clock
    redis.cli("HINCRBY", "ig:primary", "n", 1)
    for desk in pair:
        desk.shift_ms += 10_000
        desk.primary._line.drop(ConnectionError("a replica took over"))
        desk.settle()
    answer: Any = Deferred()
    one.sessions._claim(one.claim(), asked_at - 1, answer)
    assert one.run(answer).verdict is Verdict.OK
    if waits == "at its node":
        two.primary._clock = clock  # it has heard nothing of the other one's yet
        second = _claim_later(two)
    assert second() is Verdict.OK


@pytest.mark.parametrize("waits", ["in its line", "at its node"])
@pytest.mark.parametrize("first", [0, 1])
def test_claims_that_wait_for_a_primary_are_dated_by_the_one_that_takes_over(
    pair: list[SessionDesk], redis: RedisServer, waits: str, first: int
) -> None:
    """Whichever node is back first, the claim that was asked last stands."""
    _pass_time(pair, 1)
    boxes = []
    for desk in pair:
        desk.hush()
        if waits == "in its line":
            boxes.append(desk.later(desk.sessions.open(desk.claim())))
        line = desk.primary._line
        line.drop(ConnectionError("it is gone"))
        pair[0].loop.until(lambda line=line: line._timer is not None)
        line._timer.reset(3_600)
        desk.sessions.changed(desk.primary)
        if waits == "at its node":
            boxes.append(desk.later(desk.sessions.open(desk.claim())))
        _shift(pair, 5)
    redis.cli("HINCRBY", "ig:primary", "n", 1)
    for desk in (pair[first], pair[1 - first]):
        for call in desk.primary._line._calls:
            call.args = (desk.shift_ms, *call.args[1:])  # the server's time is that of when it runs
        desk.primary._line.retry_now()
        desk.loop.until(lambda desk=desk: desk.primary.is_up)
        desk.sessions.changed(desk.primary)
        desk.settle()
    verdicts = [box[0].verdict for box in boxes]
    assert verdicts == [Verdict.OUTRUN if first else Verdict.OK, Verdict.OK]
    assert pair[1].sessions.online == 1


@pytest.mark.parametrize("why", ["it has ended", "the clock was put back", "nobody knows when"])
def test_a_claim_that_comes_late_is_granted_otherwise(pair: list[SessionDesk], why: str) -> None:
    one, two = pair
    _pass_time(pair, 1)
    come = _claim_later(one)
    step_s = 3_600 if why == "the clock was put back" else 0
    _pass_time(pair, step_s, is_step=True)
    _pass_time(pair, 5)
    found = two.open()
    if why == "it has ended":
        two.close("phone", found.generation)
    _pass_time(pair, -step_s, is_step=True)
    _pass_time(pair, 5)
    if why == "nobody knows when":
        one.primary._clock = None
    assert come() is Verdict.OK


def test_a_kick_that_overtakes_the_answer(desks: Any) -> None:
    """Hints come over another connection than answers: the session is displaced before its node knows it."""
    desk = desks("n.1")
    box = desk.later(desk.sessions.open(desk.claim()))
    generation = int(desk.primary.generation) * N + 1
    for kicked in (generation + 5, generation):
        desk.sessions.heard(desk.primary, [b"d", b"bob", b"phone", kicked, int(REPLACED)])
    desk.settle()
    assert box[0].verdict == Verdict.OUTRUN
    assert (desk.told, desk.sessions.online, desk.sessions._opening) == ([], 0, {})
    box = desk.later(desk.sessions.open(desk.claim()))
    desk.sessions.heard(desk.primary, [b"d", b"bob", b"phone", generation + 1, int(REVOKED)])
    desk.settle()
    assert box[0].verdict == Verdict.REVOKED
    desk.sessions.heard(desk.primary, [b"d", b"bob", b"phone", generation + 1, int(REVOKED)])
    assert desk.told == [], "whom nobody has is nobody's to tell"


def test_a_kick_that_is_lost_before_the_answer(pair: list[SessionDesk]) -> None:
    """The subscription was away when somebody displaced a session whose node did not know of it yet."""
    one, two = pair
    heard: list[Any] = []
    one.heard = lambda primary, item: heard.append(item)
    answers: list[Any] = []
    one.primary.call, original = (
        (lambda script, *args, **more: _hold(original(script, *args, **more), answers)),
        one.primary.call,
    )
    box = one.later(one.sessions.open(one.claim()))
    one.loop.until(lambda: answers)
    one.primary.call = original
    newer = two.open()
    one.sessions.renewed(one.primary)
    one.settle()
    assert (box, len(heard)) == ([], 1)
    held, reply = answers[0]
    held.callback(reply)
    one.settle()
    assert box[0].verdict == Verdict.OK
    assert one.told == [(BOB, box[0].generation, STALE)]
    assert two.online() == {"phone": ("n.2", newer.generation)}


def _hold(calling: Any, answers: list[Any]) -> Any:
    """The answer comes when the test says so."""
    held: Any = Deferred()
    calling.addCallback(lambda reply: answers.append((held, reply)))
    return held


def test_a_claim_that_fails_fails_alone(desk: SessionDesk) -> None:
    """A script that is no good: the login hears of it, and nothing stays behind."""
    original = desk.primary.call
    desk.primary.call = lambda script, *args, **more: fail(RedisError("ERR no good"))
    with pytest.raises(RedisError):
        desk.open()
    desk.primary.call = original
    assert desk.sessions._opening == {}
    assert desk.open().verdict == Verdict.OK


def test_whom_it_has_it_says(desk: SessionDesk) -> None:
    generation = desk.open().generation
    assert desk.sessions.is_open(BOB, generation)
    assert desk.sessions.is_current(BOB, generation)
    assert not desk.sessions.is_open(BOB, generation - 1)
    assert desk.told == []
    assert not desk.sessions.is_current(BOB, generation - 1)
    assert desk.told == [(BOB, generation - 1, STALE)]


def test_a_stop_that_waits_in_vain_leaves_nobody_waiting(desks: Any, redis: RedisServer) -> None:
    """The primary is away, and the broker's own stop ends the calls."""
    desk = desks("n.1")
    generation = desk.open().generation
    redis.freeze()
    desk.ack(generation, 3)
    desk.sessions.renewed(desk.primary)
    stopping = desk.later(desk.sessions.stop())
    following = desk.later(desk.sessions.follow(BOB, generation, log("topic:news"), 3))
    closing = desk.later(desk.sessions.close(BOB, generation, True))
    opening = desk.later(desk.sessions.open(desk.claim()))
    desk.loop.spin(0.02)
    assert (stopping, closing) == ([], [])
    desk.primaries.stop()
    redis.thaw()
    assert (len(stopping), closing, len(following)) == (1, [None], 1)
    assert opening[0].check(CancelledError)


def test_generations_rise_for_everybody(pair: list[SessionDesk]) -> None:
    one, two = pair
    found = [desk.open(user).generation for user in ("bob", "eve", "bob") for desk in (one, two)]
    assert found == sorted(set(found))
    assert found[0] // N == one.primary.generation


def test_overlapping_claims_at_one_node(desk: SessionDesk) -> None:
    boxes = [desk.later(desk.sessions.open(desk.claim())) for _ in range(3)]
    desk.settle()
    generations = [box[0].generation for box in boxes]
    assert desk.told == [(BOB, generation, REPLACED) for generation in generations[:2]]
    assert desk.online() == {"phone": ("n.1", generations[2])}


# ----------------------------------------------------------------------------------------- devices and places


def test_where_devices_start(desk: SessionDesk, redis: RedisServer) -> None:
    desk.grow("user:bob", 4)
    first = desk.open(device="first")
    assert (first.known, first.resumed) == (False, False)
    place = first.places[0]
    assert (place.log, place.acked, place.first, place.head) == (log("user:bob"), 0, 1, 4)
    assert place.epoch == desk.primary.epoch
    desk.ack(first.generation, 3, device="first")
    found = {
        start: desk.open(device=start.name, start=start).places[0].acked
        for start in (Start.UNSEEN, Start.HEAD)
    }
    assert found == {Start.UNSEEN: 3, Start.HEAD: 4}, "also what is acknowledged and not written yet"
    desk.close("first", first.generation)
    again = desk.open(device="first", start=Start.HEAD)
    assert (again.known, again.resumed, again.places[0].acked) == (True, False, 3)
    assert desk.open("eve", start=Start.OLDEST).places[0].acked == 0


def test_a_position_beyond_the_log_is_its_end(desk: SessionDesk, redis: RedisServer) -> None:
    desk.grow("user:bob", 4)
    found = desk.open()
    desk.ack(found.generation, 4)
    desk.sessions.flush()
    desk.lose(redis, "user:bob")
    desk.grow("user:bob", 2)
    assert desk.open().places[0].acked == 2
    assert desk.open(device="web").places[0].acked == 2


def test_the_longest_unseen_device_makes_place_in_the_same_step(
    desk: SessionDesk, redis: RedisServer
) -> None:
    for device in ("a", "b", "c"):
        found = desk.open(device=device)
        desk.sessions.record(SessionKey("bob", device), found.generation, b"kept")
        desk.follow(found.generation, "topic:news", 1, device)
        desk.close(device, found.generation)
        desk.pass_time(10)
    found = desk.open(device="a")
    desk.close("a", found.generation)
    desk.open(device="d")
    desk.settle()
    assert desk.devices() == {"a", "c", "d"}
    fields = set(desk.cli(redis, "HKEYS", "bob", "x"))
    assert fields == {b"r:a", b"r:c", b"f:a", b"f:c", b"g:d"}
    cursors = set(desk.cli(redis, "HKEYS", "topic:news", "c"))
    assert cursors == {b"bob\0a", b"bob\0c"}, "a place holds nothing back for a device that is forgotten"
    again = desk.open(device="b")
    assert (again.known, again.record, len(again.places)) == (False, b"", 1)


def test_who_is_online_is_not_forgotten(desk: SessionDesk) -> None:
    for n in range(5):
        desk.open(device=f"d{n}")
    assert len(desk.online()) == 5
    assert desk.told == []


def test_a_forgotten_device_is_new(desk: SessionDesk, redis: RedisServer) -> None:
    desk.grow("user:bob", 4)
    found = desk.open()
    desk.follow(found.generation, "topic:news", 1)
    desk.ack(found.generation, 2)
    closing = desk.later(desk.sessions.close(BOB, found.generation, True))
    again = desk.later(desk.sessions.open(desk.claim()))
    desk.settle()
    assert closing == [None]
    assert (again[0].known, again[0].places[0].acked, len(again[0].places)) == (False, 2, 1), "seen stays"
    desk.close("phone", again[0].generation, True)
    assert desk.run(desk.sessions.present("bob")) == ()
    assert desk.cli(redis, "EXISTS", "topic:news", "c") == 0


def test_who_is_there(pair: list[SessionDesk]) -> None:
    one, two = pair
    phone = one.open(device="phone", platform="ios")
    two.open(device="web", platform="web")
    one.close("phone", phone.generation)
    found = one.run(one.sessions.present("bob"))
    assert [(each.session.device, each.platform, each.node, each.online) for each in found] == [
        ("web", "web", "n.2", True),
        ("phone", "ios", "", False),
    ]
    assert all(abs(each.since_ms - one.wall_ms) < 5_000 for each in found)
    assert (found[0].generation > 0, found[1].generation) == (True, 0)
    assert one.run(one.sessions.present("nobody")) == ()


# ------------------------------------------------------------------------------------- written behind, fenced


def test_positions_never_go_back(pair: list[SessionDesk], redis: RedisServer) -> None:
    one, two = pair
    one.grow("user:bob", 9)
    found = one.open()
    one.ack(found.generation, 5)
    one.sessions.flush()
    one.ack(found.generation, 2)
    one.sessions.flush()
    row = (one.primaries.of("bob")[1], "bob", "phone", found.generation, 3, 3, "", 0, 0, "")
    assert one.run(one.primary.call("save", "n.1", one.primary.epoch, *row)) == [0], (
        "an old one that comes again"
    )
    assert two.open().places[0].acked == 5
    assert two.open(device="web").places[0].acked == 5


def test_positions_are_written_behind(desk: SessionDesk, redis: RedisServer) -> None:
    desk.grow("user:bob", 9)
    found = desk.open()
    desk.hush()
    calls = int(_calls(redis))
    for n in range(5):
        desk.ack(found.generation, n)
    desk.settle()
    assert desk.cli(redis, "HGET", "bob", "u", "seen") is None
    assert _calls(redis) - calls <= 1, "nothing but the echo of settling"
    desk.pass_time(5)
    desk.settle()
    assert desk.cli(redis, "HGET", "bob", "u", "seen") == b"4"
    desk.ack(found.generation, 7)
    desk.run(desk.sessions.stop())
    assert desk.cli(redis, "HGET", "bob", "u", "seen") == b"7", "a stop writes what is left"


def _calls(redis: RedisServer) -> int:
    line = redis.info("commandstats").get("cmdstat_evalsha", "calls=0,")
    return int(line.split(",")[0].removeprefix("calls="))


def test_many_positions_go_in_batches(desk: SessionDesk, redis: RedisServer) -> None:
    opened = {user: desk.open(user).generation for user in map(str, range(250))}
    desk.settle()
    before = _calls(redis)
    for user, generation in opened.items():
        desk.sessions.advance(SessionKey(user, "phone"), generation, [(log(f"user:{user}"), 3)])
    desk.sessions.flush()
    desk.settle()
    assert _calls(redis) - before <= 3 + 2
    assert desk.cli(redis, "HGET", "249", "u", "seen") == b"3"


def test_a_stale_generation_writes_nothing_and_is_told(pair: list[SessionDesk], redis: RedisServer) -> None:
    """The node was not told of its kick: each script finds out by itself."""
    one, two = pair
    one.heard = lambda primary, item: None
    one.grow("user:bob", 9)
    old = one.open(issued_at_s=5)
    for act in ("advance", "unpark", "record", "follow", "unfollow", "linger", "topic"):
        if act != "advance":
            old = one.open(issued_at_s=5)
            one.follow(old.generation, "topic:other")
        before_topic = one.follow(old.generation, "topic:mine", 1) if act == "topic" else None
        new = two.open(issued_at_s=5)
        one.told.clear()
        state = [one.cli(redis, "HGETALL", "bob", kind) for kind in "ux"]
        topics = [one.cli(redis, "HGETALL", f"topic:{name}", "c") for name in ("news", "other", "mine")]
        if act == "advance":
            one.sessions.advance(BOB, old.generation, [(log("user:bob"), 9)], [(log("user:bob"), 4)])
        elif act == "unpark":
            one.sessions.unpark(BOB, old.generation, log("user:bob"), 4)
        elif act == "record":
            one.sessions.record(BOB, old.generation, b"old")
        elif act == "follow":
            one.follow(old.generation, "topic:news", 3)
        elif act == "unfollow":
            one.run(one.sessions.unfollow(BOB, old.generation, log("topic:other")))
        elif act == "linger":
            one.sessions.linger(BOB, old.generation)
        else:
            assert before_topic is not None
            one.ack(old.generation, 8, "topic:mine")
        one.sessions.flush()
        one.settle()
        assert one.told == [(BOB, old.generation, STALE)], act
        assert [one.cli(redis, "HGETALL", "bob", kind) for kind in "ux"] == state, act
        after = [one.cli(redis, "HGETALL", f"topic:{name}", "c") for name in ("news", "other", "mine")]
        assert after == topics, act
        assert one.online() == {"phone": ("n.2", new.generation)}
        two.close("phone", new.generation)
    assert one.sessions.online == 0


def test_a_stale_generation_that_is_known_here_is_told_at_once(desk: SessionDesk, redis: RedisServer) -> None:
    old = desk.open().generation - 1
    desk.hush()
    calls, where = _calls(redis), log("user:bob")
    desk.sessions.advance(BOB, old, [(where, 1)])
    desk.sessions.unpark(BOB, old, where, 1)
    desk.sessions.record(BOB, old, b"old")
    assert desk.run(desk.sessions.follow(BOB, old, log("topic:news"), 3)) == Followed(False, 3)
    assert desk.run(desk.sessions.unfollow(BOB, old, log("topic:news"))) is None
    assert desk.told == [(BOB, old, STALE)] * 5
    desk.sessions.linger(BOB, old)
    desk.close("phone", old)
    assert desk.run(desk.sessions.renew(BOB, old, 3)) == Verdict.OUTRUN
    assert len(desk.told) == 5
    assert _calls(redis) == calls, "nobody is asked"


def test_a_stale_generation_closes_and_renews_nothing(pair: list[SessionDesk]) -> None:
    one, two = pair
    one.heard = lambda primary, item: None
    old, new = one.open(), two.open()
    assert one.run(one.sessions.renew(BOB, old.generation, 9)) == Verdict.OUTRUN
    one.close("phone", old.generation, forget=True)
    assert one.online() == {"phone": ("n.2", new.generation)}
    assert one.run(one.sessions.renew(BOB, old.generation, 9)) == Verdict.OUTRUN, "known here by now"
    one.close("phone", old.generation)
    assert one.sessions.online == 0


@pytest.mark.parametrize("by", ["what it acknowledges", "what it renews"])
def test_who_was_displaced_and_not_told_learns_why(pair: list[SessionDesk], by: str) -> None:
    """Told STALE it would come again, and displace the newer one in its turn."""
    one, two = pair
    one.heard = lambda primary, item: None
    found = one.open()
    two.open(device="web", policy=LoginPolicy.ONE)
    if by == "what it acknowledges":
        one.ack(found.generation, 1)
        one.sessions.flush()
    else:
        assert one.run(one.sessions.renew(BOB, found.generation, 9)) == Verdict.OUTRUN
    one.settle()
    assert one.told == [(BOB, found.generation, DISPLACED)]


def test_records_and_parked_entries_come_back(pair: list[SessionDesk], redis: RedisServer) -> None:
    one, two = pair
    where = log("user:bob")
    one.grow("user:bob", 40)
    found = one.open()
    one.sessions.record(BOB, found.generation, b"\x00\xffstate")
    one.settle()
    assert one.cli(redis, "HGET", "bob", "x", "r:phone") == b"\x00\xffstate", "with its turn"
    one.sessions.advance(BOB, found.generation, [(where, 40)], [(where, n) for n in range(1, 36)])
    one.sessions.unpark(BOB, found.generation, where, 35)
    one.close("phone", found.generation)
    again = two.open()
    assert again.record == b"\x00\xffstate"
    assert again.places[0].parked == tuple(range(4, 35))
    one.hush()
    two.hush()
    calls = _calls(redis)
    two.sessions.record(BOB, again.generation, b"\x00\xffstate")
    two.loop.spin(0.02)
    assert _calls(redis) == calls, "the same again is not written"
    two.sessions.record(BOB, again.generation, b"")
    assert two.open().record == b""


# ------------------------------------------------------------------------------------- tokens and revocations


def test_revocation_over_nodes(pair: list[SessionDesk]) -> None:
    one, two = pair
    old = one.open(device="old", issued_at_s=100)
    here = two.open(device="here", issued_at_s=120)
    two.open(device="new", issued_at_s=200)
    two.run(two.sessions.revoke("bob", 150))
    two.run(two.sessions.revoke("bob", 120))
    one.settle()
    assert one.told == [(SessionKey("bob", "old"), old.generation, REVOKED)]
    assert two.told == [(SessionKey("bob", "here"), here.generation, REVOKED)]
    assert one.open(device="old", issued_at_s=149).verdict == Verdict.REVOKED
    assert one.open(device="old", issued_at_s=150).verdict == Verdict.OK
    assert one.open("eve", issued_at_s=1).verdict == Verdict.OK


def test_a_renewed_token_counts_from_then_on(desk: SessionDesk) -> None:
    found = desk.open(issued_at_s=100)
    renew = desk.sessions.renew
    assert desk.run(renew(BOB, found.generation, 200)) == Verdict.OK
    desk.run(desk.sessions.revoke("bob", 150))
    assert desk.told == []
    assert desk.run(renew(BOB, found.generation, 149)) == Verdict.REVOKED
    assert desk.run(renew(BOB, found.generation, 150)) == Verdict.OK
    assert desk.run(renew(BOB, found.generation - 1, 300)) == Verdict.OUTRUN


def test_a_revocation_that_comes_again_tells_whom_its_answer_would_have(desk: SessionDesk) -> None:
    """What displaced our own session was lost with the answer; the second run finds that it is not ours."""
    found = desk.open(issued_at_s=1)
    _, bucket = desk.primaries.of("bob")
    desk.run(desk.primary.call("revoke", bucket, "bob", 7, "n.1"))
    assert desk.told == []
    desk.run(desk.sessions.revoke("bob", 7))
    assert desk.told == [(BOB, found.generation, REVOKED)]


def test_a_reply_that_cannot_be_used_ends_the_claim(
    desk: SessionDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(desk.sessions, "_swept", broken)
    with pytest.raises(ZeroDivisionError):
        desk.open()
    monkeypatch.undo()
    assert desk.open().verdict is Verdict.OK
