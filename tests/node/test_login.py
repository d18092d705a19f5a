"""From Hello to Welcome, whatever happens in between, and in whatever order."""

from __future__ import annotations

import gc
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred

from imgateway.brokers.redis.lobby import Lobby
from imgateway.errors import CloseCode, LoginRefused
from imgateway.frames import (
    Bye,
    Deliver,
    Hello,
    Ping,
    Publish,
    PublishAck,
    Pull,
    Renew,
    Renewed,
    Resumed,
    ResumePoint,
    SessionKey,
    Start,
    Welcome,
    log_of,
    user_address,
)
from imgateway.interfaces import Identity, LoginPolicy, Verdict
from imgateway.node import login
from imgateway.node.link import LATE_S, Pause
from tests.node.rig import EPOCH, START_MS, Diary, FakeBroker, Rig, entry

BOB = user_address("bob")
LOG = log_of(BOB)
KEY = SessionKey("bob", "phone")


def at(seq: int, epoch: int = EPOCH) -> tuple[ResumePoint, ...]:
    return (ResumePoint(BOB, 0, epoch, seq),)


# ---------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "code", [CloseCode.BAD_TOKEN, CloseCode.TOKEN_EXPIRED, CloseCode.WRONG_AUDIENCE, CloseCode.REVOKED]
)
def test_a_token_that_does_not_count(code: CloseCode) -> None:
    rig = Rig()
    rig.tokens.identities["t"] = LoginRefused("no", code)
    bob = rig.login("bob", token="t")
    assert bob.kinds() == [Bye]
    assert bob.gone is not None
    assert rig.counters.logins_refused == {code: 1}
    assert rig.broker.named("open", "watch") == []
    assert (len(rig.hub.sessions), rig.gate.waiting, rig.gate.checking) == (0, 0, 0)


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict.CONFLICT, CloseCode.LOGIN_CONFLICT),
        (Verdict.REVOKED, CloseCode.REVOKED),
        (Verdict.OUTRUN, CloseCode.REPLACED),
    ],
)
def test_a_claim_that_is_turned_down(verdict: Verdict, code: CloseCode) -> None:
    rig = Rig()
    rig.broker.verdict = verdict
    bob = rig.login("bob")
    assert bob.code is code
    assert not rig.hub.sessions
    assert rig.broker.named("watch") == []


def test_who_gave_up_while_the_process_stood_still_drives_nobody_out() -> None:
    """Its greeting is read all the same; by then it is here on another connection, or at another node."""
    rig = Rig("memory")
    bob, ghost, late = rig.login("bob"), rig.connect(), rig.connect()
    ghost.server.left = True
    rig.clock.rightNow += 6
    late.send(Hello("ann", "phone"))
    ghost.send(Hello("bob", "phone"))
    assert (bob.code, bob.gone, ghost.kinds(), ghost.server.lost) == (None, None, [], True)
    assert late.of(Welcome), "who waited is served"
    rig.advance(20)
    ghost = rig.connect()
    ghost.server.left = True
    ghost.send(Hello("bob", "phone"))  # it waited for its turn
    assert (bob.code, ghost.kinds()) == (None, [])


def test_who_says_all_at_once_and_leaves_is_heard_where_nothing_stood_still() -> None:
    rig = Rig("memory")
    rig.advance(60)
    hasty = rig.connect()
    hasty.server.left = True
    hasty.together(Hello("bob", "phone"), Publish("1", (user_address("ann"),)))
    assert hasty.kinds() == [Welcome, PublishAck]


def test_whose_device_it_is() -> None:
    rig = Rig()
    rig.tokens.identities["t"] = Identity("bob", "phone")
    assert rig.login("bob", "web", token="t").code is CloseCode.BAD_TOKEN
    assert rig.login("bob", "", token="t").of(Welcome)[0].session == "device:bob/phone"
    assert rig.login("bob", "", token="bob").of(Welcome)[0].session == "device:bob/native"
    assert rig.login("bob", "x" * 65).code is CloseCode.BAD_FRAME


def test_a_greeting_that_no_store_could_keep() -> None:
    rig = Rig()
    bob = rig.connect()
    bob.link._greeting(
        Hello("bob", "phone", platform="\ud800")
    )  # ours cannot read such a thing, a foreign codec may
    rig.settle()
    assert bob.code is CloseCode.BAD_FRAME
    assert not rig.hub.sessions


def test_a_second_hello() -> None:
    rig = Rig()
    bob = rig.login("bob").send(Hello("bob"))
    assert bob.code is CloseCode.UNEXPECTED_FRAME
    assert len(rig.broker.named("open")) == 1


def test_an_authenticator_or_broker_with_a_fault(flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.tokens.identities["t"] = ZeroDivisionError()
    assert rig.login("bob", token="t").code is CloseCode.INTERNAL_ERROR
    rig.broker.fails = ZeroDivisionError()
    assert rig.login("bob").code is CloseCode.INTERNAL_ERROR
    assert len(flush_logged_errors(ZeroDivisionError)) == 2
    assert (rig.gate.waiting, rig.gate.checking) == (0, 0)


# ---------------------------------------------------------------------------------------------------- welcome


def test_what_welcome_says() -> None:
    rig = Rig(set={"node.name": "node-1"})
    rig.tokens.identities["t"] = Identity("bob", expires_at_s=START_MS // 1000 + 100, issued_at_s=5)
    welcome = rig.login("bob", token="t", platform="ios", start=Start.HEAD).of(Welcome)[0]
    assert (welcome.session, welcome.user, welcome.node) == ("device:bob/phone", "bob", "node-1")
    assert welcome.token_expires_ms == START_MS + 100_000
    assert welcome.server_time_ms == rig.wall_ms
    assert welcome.limits.publish_rate == 50
    assert welcome.resumed == (Resumed(BOB, 0, EPOCH, 0, 0, False),)
    ((claim,),) = rig.broker.named("open")
    assert (claim.session, claim.platform, claim.policy) == (KEY, "ios", LoginPolicy.MANY)
    assert (claim.start, claim.issued_at_s) == (Start.HEAD, 5)


def test_a_service_has_no_quotas_and_more_addresses() -> None:
    rig = Rig()
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    limits = rig.login("svc").of(Welcome)[0].limits
    assert (limits.publish_rate, limits.pair_rate, limits.max_addresses) == (0, 0, 500)


@pytest.mark.parametrize(
    ("acked", "resume", "said", "shown"),
    [
        (0, (), (EPOCH, 0, False), [1, 2, 3, 4, 5]),
        (3, (), (EPOCH, 3, False), [4, 5]),
        (3, at(4), (EPOCH, 4, False), [5]),
        (3, at(1), (EPOCH, 1, False), [2, 3, 4, 5]),
        (3, at(5), (EPOCH, 5, False), []),
        (3, at(5, epoch=99), (EPOCH, 3, True), [4, 5]),
        (3, at(9), (EPOCH + 1, 3, True), [4, 5]),
        (3, (ResumePoint(user_address("eve"), 0, EPOCH, 5),), (EPOCH, 3, False), [4, 5]),
    ],
)
def test_where_a_client_goes_on(acked: int, resume: Any, said: Any, shown: list[int]) -> None:
    rig = Rig()
    rig.broker.store(LOG, *(entry(n) for n in range(1, 6)))
    rig.broker.acked[KEY] = acked
    bob = rig.login("bob", resume=resume)
    (resumed,) = bob.of(Welcome)[0].resumed
    assert (resumed.epoch, resumed.position, resumed.gap) == said
    assert bob.shown() == [f"m{n}" for n in shown]
    assert rig.broker.named("reset") == ([(LOG,)] if said[0] != EPOCH else [])
    assert rig.counters.gaps_told == said[2]
    if said[2] is False and said[1] > acked:
        assert rig.broker.acked[KEY] == said[1], "its word is an acknowledgement"
    bob.ack(5)
    assert rig.broker.acked[KEY] == 5


def test_messages_that_arrive_while_the_position_is_asked_for() -> None:
    rig = Rig()
    rig.broker.hold = {"watch"}
    bob = rig.login("bob")
    rig.mail("bob", b"1", b"2")
    assert bob.frames == []
    rig.broker.release("watch")
    rig.settle()
    assert bob.of(Welcome)[0].resumed[0].head == 2
    assert bob.shown() == ["m1", "m2"]


def test_a_log_that_is_replaced_during_a_login() -> None:
    """How far the device had got is of the one that is gone."""
    rig = Rig()
    rig.broker.store(LOG, *(entry(n) for n in range(1, 6)))
    rig.broker.acked[KEY] = 5
    rig.broker.hold = {"watch"}
    bob = rig.login("bob")
    rig.broker.logs[LOG], rig.broker.epochs[LOG], rig.broker.acked[KEY] = [], EPOCH + 1, 0
    rig.broker.store(LOG, entry(1), entry(2), tell=False)
    _, watching, _ = rig.broker.waiting.pop()
    watching.callback(rig.broker.position(LOG))
    rig.settle()
    assert [frame.code for frame in bob.of(Bye)] == [CloseCode.STALE]
    assert bob.kinds() == [Bye]
    rig.broker.hold = set()
    assert rig.login("bob").shown() == ["m1", "m2"]


def test_nothing_goes_out_before_welcome() -> None:
    rig = Rig()
    rig.broker.store(LOG, entry(1))
    rig.broker.hold = {"watch"}
    alice, bob = rig.login("alice"), rig.login("bob")
    rig.broker.release("watch")
    rig.settle()
    alice.publish("now", "user:bob", qos=0)
    bob.link.pause_sending()
    bob.link.resume_sending()
    rig.settle()
    assert bob.frames == []
    rig.broker.release("watch")
    rig.settle()
    assert bob.kinds() == [Welcome, Deliver]


# --------------------------------------------------------------------------------------- gone in the meantime


@pytest.mark.parametrize("step", ["check", "open", "watch", "reset"])
@pytest.mark.parametrize("way", ["cut", "timeout"])
def test_gone_while_it_logs_in(step: str, way: str) -> None:
    diary = Diary()
    rig = Rig(listeners=[diary])
    rig.tokens.hold = step == "check"
    rig.broker.hold = {step}
    if step == "reset":
        rig.broker.acked[KEY] = 0
    bob = rig.login("bob", resume=at(5) if step == "reset" else ())
    assert bob.frames == []
    if way == "cut":
        bob.cut()
    else:
        rig.advance(10.25)
        assert bob.code is CloseCode.LOGIN_TIMEOUT
    if step == "check":
        assert rig.gate.checking == 0, "the check was given up"
    else:
        rig.broker.release(step)
    rig.settle()
    rig.broker.hold = set()
    rig.advance(61)
    assert (len(rig.hub.sessions), rig.gate.waiting) == (0, 0)
    assert (rig.broker.watched, rig.node.exchange.links, rig.node.login._checks) == (set(), set(), {})
    assert diary.events == []
    assert len(rig.broker.named("close")) == len(rig.broker.named("open"))


# -------------------------------------------------------------------------------------------- the same device


def test_a_reconnect_whose_old_link_was_lost_before() -> None:
    diary = Diary()
    rig = Rig(listeners=[diary])
    old = rig.login("bob")
    rig.mail("bob", b"1")
    old.cut()
    rig.mail("bob", b"2")
    new = rig.login("bob")
    assert new.shown() == ["m1", "m2"]
    new.ack(2)
    rig.advance(70)
    assert diary.events == [("opened", "phone"), ("resumed", "phone")]
    assert rig.counters.resumed == 1
    assert rig.session("bob").link is new.link


@pytest.mark.parametrize("broker", [None, "memory"])
def test_a_reconnect_whose_old_link_is_still_there(broker: Any) -> None:
    diary = Diary()
    rig = Rig(broker, listeners=[diary])
    old = rig.login("bob")
    new = rig.login("bob")
    assert old.code is CloseCode.REPLACED
    assert new.code is None
    new.publish("1", "user:bob")
    assert new.shown() == ["1"]
    assert diary.events == [("opened", "phone"), ("resumed", "phone")]
    assert (rig.counters.logins, rig.counters.resumed) == (2, 1)
    new.send(Bye(0))
    assert diary.events[2:] == [("closed", "phone", CloseCode.NORMAL)]
    assert len(rig.hub.sessions) == 0


def test_a_memory_session_that_lingers_is_resumed() -> None:
    diary = Diary()
    rig = Rig("memory", listeners=[diary])
    rig.login("bob").cut()
    rig.login("bob").cut()
    rig.advance(61)
    assert diary.events == [("opened", "phone"), ("resumed", "phone"), ("closed", "phone", CloseCode.LOST)]
    assert not rig.hub.sessions


def test_the_old_link_is_lost_while_the_new_one_is_claimed() -> None:
    diary = Diary()
    rig = Rig(listeners=[diary])
    old = rig.login("bob")
    rig.broker.hold = {"open"}
    new = rig.login("bob")
    old.cut()
    rig.broker.release("open")
    rig.settle()
    assert [type(frame) for frame in new.frames] == [Welcome]
    rig.advance(61)
    assert rig.session("bob").link is new.link
    assert diary.events == [("opened", "phone"), ("resumed", "phone")]


def test_a_new_link_that_dies_while_claiming_leaves_the_session_to_the_next() -> None:
    diary = Diary()
    rig = Rig(listeners=[diary])
    rig.login("bob").cut()
    rig.broker.hold = {"watch"}
    rig.login("bob").cut()
    rig.broker.release("watch")
    rig.broker.hold = set()
    rig.login("bob")
    assert diary.events == [("opened", "phone"), ("resumed", "phone")]


@pytest.mark.parametrize("step", ["open", "watch"])
def test_a_step_that_fails_later_ends_the_login_and_no_other(step: str, flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.broker.hold = {step}
    bob = rig.login("bob")
    rig.broker.fail(step, ZeroDivisionError())
    rig.settle()
    assert bob.code is CloseCode.INTERNAL_ERROR
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    assert rig.hub._claims.get(SessionKey("bob", "phone")) is None
    rig.broker.hold = set()
    again = rig.login("bob")
    assert [type(frame) for frame in again.frames] == [Welcome]


def test_claims_that_are_answered_out_of_order() -> None:
    rig = Rig()
    rig.broker.hold = {"open"}
    first, second = rig.login("bob"), rig.login("bob")
    rig.broker.release("open", 1)
    rig.broker.release("open", 0)
    rig.settle()
    assert first.code is CloseCode.REPLACED
    assert [type(frame) for frame in second.frames] == [Welcome]
    assert rig.session("bob").link is second.link
    assert rig.session("bob").generation == 2


def test_replaced_kicked_and_displaced_are_said_once() -> None:
    rig = Rig("memory", set={"session.login_policy": "one"})
    phone = rig.login("bob", "phone")
    again = rig.login("bob", "phone")
    web = rig.login("bob", "web")
    assert phone.code is CloseCode.REPLACED
    assert again.code is CloseCode.DISPLACED
    kicked: list[int] = []
    rig.node.kick("bob", None, "out").addCallback(kicked.append)
    rig.settle()
    assert web.code is CloseCode.KICKED
    assert kicked == [1]
    rig.hub.displaced(SessionKey("bob", "web"), 1 << 60, CloseCode.KICKED, "late")
    rig.node.kick("bob", None, "out").addCallback(kicked.append)
    rig.settle()
    assert kicked == [1, 0]
    assert not rig.hub.sessions
    assert rig.counters.links_closed == {
        CloseCode.REPLACED: 1,
        CloseCode.DISPLACED: 1,
        CloseCode.KICKED: 1,
    }


def test_a_kick_of_one_device_and_of_one_that_is_away() -> None:
    diary = Diary()
    rig = Rig(listeners=[diary])
    phone, web = rig.login("bob", "phone"), rig.login("bob", "web")
    web.cut()
    assert rig.hub.kick("bob", "web", "out") == 1
    assert phone.code is None
    assert diary.events[-1] == ("closed", "web", CloseCode.KICKED)
    rig.hub.displaced(SessionKey("bob", "phone"), rig.session("bob").generation - 1, CloseCode.STALE, "old")
    assert phone.code is None, "that was an older generation"


def test_displaced_while_it_waits_for_its_position() -> None:
    rig = Rig()
    rig.broker.hold = {"watch"}
    bob = rig.login("bob")
    rig.hub.displaced(KEY, 1, CloseCode.DISPLACED, "another device")
    rig.broker.release("watch")
    rig.settle()
    assert bob.code is CloseCode.DISPLACED
    assert not rig.hub.sessions


@pytest.mark.parametrize(
    ("policy", "codes"),
    [
        ("many", [None, None, None]),
        ("one-per-platform", [CloseCode.DISPLACED, None, None]),
        ("one", [CloseCode.DISPLACED, CloseCode.DISPLACED, None]),
        ("refuse", [None, CloseCode.LOGIN_CONFLICT, CloseCode.LOGIN_CONFLICT]),
    ],
)
def test_login_policies(policy: str, codes: list[Any]) -> None:
    rig = Rig("memory", set={"session.login_policy": policy})
    peers = [
        rig.login("bob", device, platform=platform)
        for device, platform in (("a", "ios"), ("b", "web"), ("c", "ios"))
    ]
    assert [peer.code for peer in peers] == codes


def test_a_session_lingers_for_its_client_then_ends() -> None:
    diary = Diary(raises=True)
    rig = Rig(listeners=[diary])
    bob = rig.login("bob")
    bob.cut()
    rig.advance(59)
    assert rig.hub.sessions
    rig.advance(2)
    assert not rig.hub.sessions
    assert rig.broker.named("close") == [(KEY, 1)]
    assert rig.broker.watched == set()
    assert diary.events == [("opened", "phone"), ("closed", "phone", CloseCode.LOST)]


@pytest.fixture(autouse=True)
def _raising_diaries(request: Any, flush_logged_errors: Any) -> Any:
    yield
    if "lingers_for" in request.node.name:
        assert len(flush_logged_errors(ZeroDivisionError)) == 2


# ---------------------------------------------------------------------------------------------- renew, expiry


def expiring(rig: Rig, token: str, in_s: int, user: str = "bob", device: str = "") -> None:
    rig.tokens.identities[token] = Identity(user, device, expires_at_s=rig.wall_ms // 1000 + in_s)


def test_a_token_expires_on_a_living_link_after_its_grace() -> None:
    rig = Rig()
    expiring(rig, "t", 10)
    bob = rig.login("bob", token="t")
    rig.advance(69.5)
    bob.send(Publish("1", (BOB,)))
    assert bob.code is None
    rig.advance(1)
    assert bob.code is CloseCode.TOKEN_EXPIRED


def test_a_fresh_token_in_time() -> None:
    rig = Rig()
    expiring(rig, "t", 10)
    bob = rig.login("bob", token="t")
    expiring(rig, "u", 100)
    bob.send(Renew("u"))
    assert bob.of(Renewed) == [Renewed((START_MS // 1000 + 100) * 1000)]
    rig.advance(65)
    bob.publish("1", "user:eve")
    rig.advance(50)
    bob.publish("1", "user:eve")
    assert bob.code is None
    rig.advance(46)
    assert bob.code is CloseCode.TOKEN_EXPIRED


def test_a_fresh_token_in_time_though_the_store_is_away() -> None:
    rig = Rig()
    expiring(rig, "t", 120)
    bob = rig.login("bob", token="t")
    rig.broker.hold = {"renew"}
    rig.advance(60)
    expiring(rig, "u", 600)
    bob.send(Renew("u"))
    rig.advance(300)
    assert bob.code is None
    rig.broker.release("renew")
    rig.settle()
    assert len(bob.of(Renewed)) == 1
    for _ in range(12):
        rig.advance(29)
        bob.send(Ping())
    assert bob.code is None
    rig.advance(20)
    assert bob.code is CloseCode.TOKEN_EXPIRED


def unread(rig: Rig, why: str, bob: Any) -> None:
    """Bob's link is not read, for a server is away."""
    rig.broker.hold = {"publish", "read"}
    if why == "STORE":
        rig.hub.congested(True)
    if why == "PULL":
        bob.send(*[Pull(BOB, 0, 0, 0, 64)] * 20)
        rig.advance(3)
    else:
        bob.publish("1", "user:eve")
    assert bob.link.paused()


def answer_all(rig: Rig) -> None:
    while rig.broker.waiting:
        rig.broker.release(rig.broker.waiting[0][0])
    rig.broker.hold.clear()
    rig.hub.congested(False)
    rig.settle()


@pytest.mark.parametrize("why", ["STORE", "WINDOW", "PULL"])
@pytest.mark.parametrize("renews", [True, False])
def test_a_fresh_token_that_lies_unread(why: str, renews: bool) -> None:
    rig = Rig(set={"limits.publish_window": 1} if why == "WINDOW" else {})
    expiring(rig, "t", 120)
    bob = rig.login("bob", token="t")
    unread(rig, why, bob)
    rig.advance(60)
    expiring(rig, "u", 3600)
    if renews:
        bob.send(Renew("u"))
    rig.advance(200)
    assert bob.code is None
    answer_all(rig)
    assert len(bob.of(Renewed)) == renews
    rig.advance(LATE_S - 0.5)
    assert bob.code is None
    rig.advance(1)
    assert bob.code is (None if renews else CloseCode.TOKEN_EXPIRED)


@pytest.mark.parametrize("why", ["STORE", "WINDOW"])
def test_a_token_that_ended_is_waited_for_anew_only_for_the_store(why: str) -> None:
    """Else a client that always fills its window could stay for ever."""
    rig = Rig(set={"limits.publish_window": 1} if why == "WINDOW" else {})
    expiring(rig, "t", 10)
    bob = rig.login("bob", token="t")
    unread(rig, why, bob)
    rig.advance(100)
    answer_all(rig)
    unread(rig, why, bob)
    rig.advance(100)
    assert bob.code is (None if why == "STORE" else CloseCode.TOKEN_EXPIRED)
    if why == "STORE":
        expiring(rig, "u", 10)
        bob.send(Renew("u"))
        answer_all(rig)
        unread(rig, "PULL", bob)  # with the fresh token all begins anew
        rig.advance(100)
        assert bob.code is None


def test_a_token_that_ended_is_not_waited_for_by_whoever_keeps_its_window_full() -> None:
    rig = Rig(set={"limits.publish_window": 1})
    expiring(rig, "t", 10)
    bob = rig.login("bob", token="t")
    unread(rig, "STORE", bob)
    rig.advance(100)
    rig.clock.advance(0.05)  # so that the node looks a little after the end
    answer_all(rig)
    rig.advance(LATE_S - 1)
    for number in range(50):
        rig.clock.advance(0.05)
        rig.settle()
        if bob.code is None:
            rig.broker.hold = {"publish"}
            bob.publish(f"more {number}", "user:eve")
            answer_all(rig)
    assert bob.code is CloseCode.TOKEN_EXPIRED


def test_a_step_of_the_wall_clock_ends_no_session() -> None:
    rig = Rig()
    expiring(rig, "t", 1000)
    bob = rig.login("bob", token="t")
    for step_ms in (-3_600_000, 7_200_000):
        rig.wall_ms += step_ms
        rig.advance(50)
        bob.send(Publish(str(step_ms), (BOB,), ttl_s=5)).ack(rig.broker.head(LOG))
    assert bob.code is None


def test_frames_behind_renew_wait_for_it() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.tokens.hold = True
    bob.together(Renew("bob"), Publish("1", (BOB,)))
    assert bob.of(PublishAck) == []
    rig.tokens.release()
    rig.settle()
    assert len(bob.of(PublishAck)) == 1


@pytest.mark.parametrize(
    ("identity", "code"),
    [
        (LoginRefused("old", CloseCode.TOKEN_EXPIRED), CloseCode.TOKEN_EXPIRED),
        (Identity("eve"), CloseCode.BAD_TOKEN),
        (Identity("bob", "web"), CloseCode.BAD_TOKEN),
        (Identity("bob", "phone"), None),
    ],
)
def test_renewing_with_what_does_not_fit(identity: Any, code: Any) -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.tokens.identities["t"] = identity
    bob.send(Renew("t"))
    assert bob.code is code


def test_gone_while_it_renews() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.tokens.hold = True
    bob.send(Renew("bob"))
    bob.cut()
    assert rig.node.login._checks == {}
    assert rig.gate.checking == 0


def test_an_answer_to_renew_that_comes_in_the_turn_of_the_end() -> None:
    rig = Rig()
    bob = rig.login("bob")
    bob.link.close(CloseCode.KICKED)
    rig.node.login._renewed(Identity("bob"), bob.link)
    rig.settle()
    assert bob.of(Renewed) == []


def test_revoked() -> None:
    rig = Rig("memory")
    rig.tokens.identities |= {
        "old": Identity("bob", issued_at_s=100),
        "new": Identity("bob", issued_at_s=300),
    }
    old, new = rig.login("bob", "a", token="old"), rig.login("bob", "b", token="new")
    rig.node.revoke("bob", 200)
    rig.settle()
    assert (old.code, new.code) == (CloseCode.REVOKED, None)
    assert rig.login("bob", "a", token="old").code is CloseCode.REVOKED


# --------------------------------------------------------------------------------------------------- the gate


def test_limits_of_those_who_have_not_greeted() -> None:
    rig = Rig(set={"limits.login_per_source": 2, "limits.login_pending": 4})
    first = [rig.connect(source="10.0.0.1") for _ in range(2)]
    assert rig.connect(source="10.0.0.1").link is None
    for peer in first:
        assert peer.link is not None
    assert [rig.connect().link is None for _ in range(3)] == [False, False, True]
    assert rig.counters.links_closed == {CloseCode.TOO_MANY_LINKS: 2}
    first[0].send(Hello("bob"))
    first[1].cut()
    assert rig.gate.waiting == 2
    assert rig.gate._per_source == {}
    assert rig.connect(source="10.0.0.1").link is not None
    first[0].cut()
    assert rig.gate.waiting == 3, "who has logged in is not counted twice"


def test_a_lost_connection_no_longer_knows_its_source() -> None:
    rig = Rig(set={"limits.login_per_source": 1})
    for _ in range(3):
        peer = rig.connect(source="10.0.0.1")
        peer.server.source = ""  # what a real connection says once it is lost
        peer.cut()
    assert rig.gate._per_source == {}


def test_a_storm_waits_at_the_door() -> None:
    rig = Rig(set={"limits.login_rate": 2, "limits.login_burst": 4})
    peers = [rig.connect() for _ in range(6)]
    assert all(peer.link is not None for peer in peers), "nobody is refused"
    assert rig.listener.events == ["pause"]
    rig.advance(0.75)
    assert rig.listener.events == ["pause"], "two came after the door was shut: they count"
    rig.advance(0.5)
    assert rig.listener.events == ["pause", "resume"]
    rig.connect()
    assert rig.listener.events == ["pause", "resume", "pause"]


def test_checks_wait_for_their_turn() -> None:
    rig = Rig(set={"limits.checks_in_flight": 2})
    rig.tokens.hold = True
    peers = [rig.login(f"u{n}") for n in range(5)]
    assert (len(rig.tokens.checks), rig.gate.checking) == (2, 2)
    peers[2].cut()  # one that waits
    peers[0].cut()  # one that is checked
    assert [token for _, token in rig.tokens.checks] == ["u0", "u1", "u3"]
    rig.tokens.checks.pop(0)
    rig.tokens.hold = False
    rig.tokens.release()
    rig.settle()
    assert [bool(peer.of(Welcome)) for peer in peers] == [False, True, False, False, True]
    rig.tokens.release()
    rig.settle()
    assert peers[3].of(Welcome)
    assert rig.gate.checking == 0


def test_ten_thousand_waiting_checks_that_end_at_once() -> None:
    rig = Rig(set={"limits.checks_in_flight": 1, "limits.login_rate": 1_000_000, "limits.login_burst": 10**6})
    rig.tokens.hold = True
    rig.login("first")
    peers = [rig.login(f"u{n}") for n in range(400)]
    rig.tokens.hold = False
    rig.tokens.release()
    rig.settle()
    assert all(peer.of(Welcome) for peer in peers)


def test_a_check_that_never_ends_holds_nobody_for_long() -> None:
    rig = Rig(set={"limits.checks_in_flight": 1})
    rig.tokens.hold = True
    stuck, waiting = rig.login("a"), rig.login("b")
    rig.advance(10.25)
    assert stuck.code is waiting.code is CloseCode.LOGIN_TIMEOUT
    rig.tokens.hold = False
    assert rig.login("c").of(Welcome)
    assert rig.gate._checks == {}


def test_a_check_is_not_begun_for_who_has_closed() -> None:
    rig = Rig(set={"limits.checks_in_flight": 1})
    rig.tokens.hold = True
    waiting, stuck = rig.connect(), rig.connect()
    stuck.send(Hello("a"))
    waiting.send(Hello("b"))
    rig.advance(10.25)  # who waits came first, and goes first: the check that ends makes room
    assert stuck.code is waiting.code is CloseCode.LOGIN_TIMEOUT
    assert [token for _, token in rig.tokens.checks] == ["a"]
    assert rig.gate.checking == 0
    rig.tokens.hold = False
    assert rig.login("c").of(Welcome)


def test_pauses_are_told_apart() -> None:
    names = [pause.name for pause in Pause]
    assert len(names) == len(set(names)) == 13
    assert FakeBroker().dedup_s


def test_an_authenticator_that_answers_after_it_was_given_up() -> None:
    rig = Rig()
    stubborn: Deferred[Any] = Deferred(lambda deferred: deferred.callback(Identity("bob")))
    rig.tokens.authenticate = lambda hello, peer: stubborn
    rig.login("bob").cut()
    assert rig.broker.named("open") == []
    assert rig.gate.checking == 0


def test_a_token_for_a_name_that_no_address_can_have() -> None:
    rig = Rig()
    rig.tokens.identities["t"] = Identity("x" * 65)
    assert rig.login("bob", token="t").code is CloseCode.BAD_FRAME
    assert rig.broker.named("open") == []


def test_a_fresh_token_that_was_revoked_before_it_was_shown() -> None:
    rig = Rig()
    bob, eve = rig.login("bob"), rig.login("eve")
    rig.broker.hold = {"renew"}
    bob.send(Renew("bob"))
    eve.send(Renew("eve")).cut()
    rig.broker.verdict = Verdict.REVOKED
    rig.broker.release("renew")
    rig.broker.release("renew")
    rig.settle()
    assert bob.code is CloseCode.REVOKED
    assert bob.of(Renewed) == eve.of(Renewed) == []


def test_a_renewed_session_outlives_a_revocation_of_its_first_token() -> None:
    rig = Rig("memory")
    rig.tokens.identities |= {
        "old": Identity("bob", issued_at_s=100),
        "new": Identity("bob", issued_at_s=300),
    }
    bob = rig.login("bob", token="old").send(Renew("new"))
    rig.node.revoke("bob", 200)
    rig.settle()
    assert (len(bob.of(Renewed)), bob.code) == (1, None)


def test_a_refused_login_leaves_nothing_to_the_garbage_collector() -> None:
    """Strangers can have as many of them as they like."""

    class No(LoginRefused):
        pass

    def authenticate(hello: Hello, peer: str) -> Identity:
        raise No("no")

    rig = Rig()
    rig.tokens.authenticate = authenticate  # type: ignore[method-assign]
    gc.disable()
    try:
        assert rig.login("alice").code is CloseCode.BAD_TOKEN
        assert not [one for one in gc.get_objects() if type(one) is No]
    finally:
        gc.enable()


def test_an_authenticator_may_be_a_coroutine() -> None:
    rig = Rig()
    known: list[Deferred[Identity]] = []

    async def authenticate(hello: Hello, peer: str) -> Identity:
        known.append(Deferred())
        return await known[-1]

    rig.tokens.authenticate = authenticate  # type: ignore[method-assign, assignment]
    peer = rig.login("alice")
    assert (peer.of(Welcome), rig.gate.checking) == ([], 1)
    known[0].callback(Identity("alice"))
    rig.settle()
    assert peer.of(Welcome)
    assert rig.gate.checking == 0


def test_a_broker_that_raises_costs_the_link_alone(flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.broker.open_session = None
    peer = rig.login("alice")
    assert peer.code is CloseCode.INTERNAL_ERROR
    assert rig.gate.checking == 0
    assert rig.hub.kick("alice", None, "out") == 0, "no claim of hers is under way"
    assert len(flush_logged_errors(TypeError)) == 1


@pytest.mark.parametrize("how", ["cut", "too late"])
def test_who_goes_while_its_claim_waits_withdraws_it(how: str) -> None:
    rig = Rig()
    rig.login("alice").cut()
    rig.broker.hold.add("open")
    peer = rig.login("bob")
    if how == "cut":
        peer.cut()
    rig.advance(10.25)
    carol = rig.login("carol")
    for _ in range(2):
        rig.broker.release("open")
    rig.settle()
    assert carol.of(Welcome)
    carol.cut()
    opened = [claim for (claim,) in rig.broker.named("open")]
    assert rig.broker.named("withdraw") == [(opened[1],)]


def test_a_kick_of_one_who_gave_up_is_not_for_who_comes_later() -> None:
    """Its claim waited for a primary of Redis that was away."""
    rig = Rig()
    primary: Any = Mock(answers=False)
    opening = rig.broker.open_session
    lobby = Lobby(lambda claim, at, answer: opening(claim, answer.callback, ()))
    lobby.changed(primary)
    rig.broker.open_session = lambda claim, answer, about: lobby.open(primary, claim, 0.0).addBoth(
        answer, *about
    )
    rig.broker.withdraw = lobby.withdraw
    first = rig.login("bob")
    rig.hub.kick("bob", None, "go")
    rig.advance(10.25)
    assert first.code is CloseCode.LOGIN_TIMEOUT
    last = rig.login("bob")
    rig.login("carol").cut()
    primary.answers = True
    lobby.changed(primary)
    rig.settle()
    assert last.of(Welcome)
    assert [claim.session.user for (claim,) in rig.broker.named("open")] == ["bob"]


def test_logins_are_logged_for_who_asked_for_details(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(login.log, "debug", lambda text, **fields: told.append(text))
    Rig().login("alice")
    assert told == []
    Rig(set={"log.level": "debug"}).login("alice")
    assert told == ["session opened"]
