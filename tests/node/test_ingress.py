"""The way in for a publish: its order is the order of arrival, and every address gets its final word."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer
from zope.interface.verify import verifyObject

from imgateway.auth.policy import DefaultPolicy
from imgateway.errors import CloseCode
from imgateway.frames import (
    Address,
    Deliver,
    Outcome,
    OutcomeCode,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Subscribe,
    Welcome,
    parse_address,
    user_address,
)
from imgateway.interfaces import Identity, IInterceptor, IMailBackend, IPolicy, Verdict
from imgateway.node import ingress
from imgateway.node.link import Pause
from imgateway.wire.messages import decode_message
from tests.node.rig import AsciiWire, Peer, Rig

BOB = user_address("bob")
OK, FORBIDDEN = OutcomeCode.OK, OutcomeCode.FORBIDDEN


def to(*texts: str) -> tuple[Address, ...]:
    return tuple(map(parse_address, texts))


def acks(peer: Peer) -> list[tuple[str, list[int]]]:
    return [(ack.msg_id, [outcome.code for outcome in ack.outcomes]) for ack in peer.of(PublishAck)]


def published(rig: Rig) -> list[str]:
    return [one.message.msg_id for (one,) in rig.broker.named("publish")]


# ------------------------------------------------------------------------------------- what a publish becomes


def test_who_and_when_are_the_gateways() -> None:
    rig = Rig()
    alice = rig.login("alice")
    alice.publish("1", "user:bob", body=b"x", content_type="text/plain", ttl_s=5, headers=(("a", "b"),),
                  resent=True, copy_self=True, lane=0)  # fmt: skip
    ((publication,),) = rig.broker.named("publish")
    message = publication.message
    assert (message.sender, message.device, message.body) == ("alice", "phone", b"x")
    assert (message.sent_ms, message.expires_ms) == (rig.wall_ms, rig.wall_ms + 5000)
    assert (message.content_type, message.headers) == ("text/plain", (("a", "b"),))
    assert (publication.resent, publication.copy_self, publication.to) == (True, True, (BOB,))
    assert rig.counters.publishes == 1
    assert rig.counters.outcomes == {OK: 1}


def test_forbidden_stands_where_its_address_stood() -> None:
    rig = Rig()
    alice = rig.login("alice")
    alice.publish("1", "room:x", "user:bob", "all", "user:eve", "room:x")
    ((ack),) = alice.of(PublishAck)
    assert [outcome.code for outcome in ack.outcomes] == [FORBIDDEN, OK, FORBIDDEN, OK, FORBIDDEN]
    assert rig.broker.named("publish")[0][0].to == to("user:bob", "user:eve")
    alice.publish("2", "all")
    assert acks(alice)[-1] == ("2", [FORBIDDEN])
    assert published(rig) == ["1"]


def test_rooms_are_for_services_and_for_who_is_granted_them() -> None:
    rig = Rig()
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    rig.tokens.identities["eve"] = Identity("eve", claims={"rooms": frozenset({"x"})})
    alice, eve, svc = rig.login("alice"), rig.login("eve"), rig.login("svc")
    for peer in (alice, eve, svc):
        peer.publish("1", "room:x", "room:y").publish("2", "room:x", qos=0)
    assert [acks(peer)[0][1] for peer in (alice, eve, svc)] == [[FORBIDDEN] * 2, [OK, FORBIDDEN], [OK, OK]]
    taken = [one for (one,) in rig.broker.named("publish", "emit")]
    assert [(one.message.sender, len(one.to), one.exempt) for one in taken] == [
        ("eve", 1, False), ("eve", 1, False), ("svc", 2, True), ("svc", 1, True),
    ]  # fmt: skip


def test_a_policy_that_changes_while_the_store_works() -> None:
    class Nobody:
        name = "nobody"

        def may(self, identity: Identity, action: str, address: Address) -> bool:
            return False

    rig = Rig()
    rig.broker.hold = {"publish"}
    alice = rig.login("alice")
    alice.publish("1", "all", "user:bob")
    rig.node.read(rig.node.settings, Nobody())()
    rig.broker.release("publish")
    rig.settle()
    assert acks(alice) == [("1", [FORBIDDEN, OK])]


def test_too_large() -> None:
    rig = Rig(set={"limits.max_body_bytes": 10})
    alice = rig.login("alice")
    alice.publish("1", "user:bob", "user:eve", body=b"x" * 11)
    alice.publish("2", "user:bob", body=b"x" * 10)
    alice.publish("3", "user:bob", headers=(("n", "x" * 20_000),))
    large = OutcomeCode.TOO_LARGE
    assert acks(alice) == [("1", [large, large]), ("2", [OK]), ("3", [large])]
    alice.publish("4", "user:bob", body=b"x" * 11, qos=0)
    assert rig.broker.named("emit") == []


@pytest.mark.parametrize(
    ("many", "text"),
    [(8, "\U0001f600" * 2_040), (6_500, ""), (1, "x" * 16_360)],
    ids=["wide", "many", "whole"],
)
def test_what_is_acknowledged_fits_into_a_delivery(many: int, text: str) -> None:
    """The largest body with headers that count more in bytes than in characters, or more than their text."""
    rig = Rig()
    alice, bob = rig.login("alice" * 12), rig.login("bob", "phone" * 12)
    headers = tuple((f"{n:04x}", text) for n in range(many))
    alice.publish("m" * 64, "user:bob", body=bytes(65_536), headers=headers)
    ((_, codes),) = acks(alice)
    assert codes == [OutcomeCode.TOO_LARGE] or bob.shown() == ["m" * 64]
    assert codes == ([OK] if many == 1 else [OutcomeCode.TOO_LARGE])


def test_too_many_addresses() -> None:
    rig = Rig(set={"limits.max_addresses": 2, "limits.max_addresses_service": 3})
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    alice, svc = rig.login("alice"), rig.login("svc")
    svc.publish("1", "user:a", "user:b", "user:c")
    assert acks(svc) == [("1", [OK, OK, OK])]
    alice.publish("1", "user:a", "user:b", "user:c")
    assert alice.code is CloseCode.BAD_FRAME


@pytest.mark.parametrize("service", [False, True])
def test_a_reload_does_not_make_an_error_of_what_welcome_allowed(service: bool) -> None:
    """Who was told three goes on to name three; who comes later is told two."""
    rig = Rig(set={"limits.max_addresses": 3, "limits.max_addresses_service": 3})
    rig.tokens.identities.update({name: Identity(name, service=service) for name in ("alice", "late")})
    alice = rig.login("alice")
    limits = replace(rig.node.settings.limits, max_addresses=2, max_addresses_service=2)
    rig.node.read(replace(rig.node.settings, limits=limits), DefaultPolicy())()
    assert rig.login("late").of(Welcome)[0].limits.max_addresses == 2
    alice.publish("1", "user:a", "user:b", "user:c").publish("2", "user:a", "user:b", "user:c", qos=0)
    assert acks(alice) == [("1", [OK, OK, OK])]
    assert alice.code is None
    alice.publish("3", "user:a", "user:b", "user:c", "user:d")
    assert alice.code is CloseCode.BAD_FRAME


def test_qos_0_is_never_answered() -> None:
    rig = Rig()
    alice, bob = rig.login("alice"), rig.login("bob")
    alice.publish("1", "user:bob", "all", qos=0)
    alice.publish("2", "all", qos=0)
    assert alice.kinds() == [Welcome]
    assert bob.shown() == ["1"]
    assert [one.to for (one,) in rig.broker.named("emit")] == [(BOB,)]


def test_qos_0_goes_now_or_nowhere() -> None:
    rig = Rig()
    alice, bob = rig.login("alice"), rig.login("bob")
    web = rig.login("bob", "web")
    gone = rig.login("bob", "tablet").cut()
    bob.stop_reading()
    alice.publish("1", "user:bob", body=b"x" * 100, qos=0)  # this one clogs it
    alice.publish("2", "user:bob", qos=0)
    alice.publish("3", "device:bob/web", qos=0)
    bob.read_on()
    assert bob.shown() == ["1"]
    assert web.shown() == ["1", "2", "3"]
    assert gone.shown() == []


def test_qos_0_of_one_turn_is_bounded() -> None:
    rig = Rig()
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    svc, bob = rig.login("svc"), rig.login("bob")
    bob.stop_reading()
    svc.together(*[Publish(str(n), (BOB,), body=b"x" * 60_000, qos=0) for n in range(20)])
    assert bob.server.unsent() <= rig.node.settings.limits.deliver_window_bytes + 61_000


def test_business_code_publishes_past_quotas_but_not_past_the_limits() -> None:
    rig = Rig(set={"quota.publish_rate": 1.0, "quota.publish_burst": 1, "limits.max_body_bytes": 10})
    bob = rig.login("bob")
    answers: list[Any] = []
    for n in range(5):
        rig.node.publish(Publish(str(n), (BOB,)), "shop").addCallback(answers.append)
    rig.node.publish(Publish("5", (BOB, BOB, *to("device:bob/phone")), qos=0), "shop", "web").addCallback(
        answers.append
    )
    rig.node.publish(Publish("6", (BOB,), body=b"x" * 11), "shop").addCallback(answers.append)
    rig.settle()
    codes = [[outcome.code for outcome in answer] for answer in answers]
    assert codes == [[OK]] * 5 + [[OK, OK, OK], [OutcomeCode.TOO_LARGE]]
    assert bob.shown() == list("012345"), "at most once, also for who is named twice"
    assert rig.broker.named("publish")[0][0].message.device == "api"


# --------------------------------------------------------------------------------------- window, quota, store


def test_the_window_holds_the_reading_until_an_answer_comes() -> None:
    rig = Rig(set={"limits.publish_window": 4})
    rig.broker.hold = {"publish"}
    alice = rig.login("alice")
    for n in range(10):
        alice.publish(str(n), "user:bob")
    assert published(rig) == ["0", "1", "2", "3"]
    assert not alice.server.reading
    rig.broker.release("publish", 3)
    rig.settle()
    assert published(rig) == ["0", "1", "2", "3", "4"]
    while rig.broker.waiting:
        rig.broker.release("publish")
        rig.settle()
    assert published(rig) == [str(n) for n in range(10)]
    assert [name for name, _ in acks(alice)] == ["3", *[str(n) for n in range(10) if n != 3]]
    assert alice.server.reading


@pytest.mark.parametrize("links", [1, 2])
def test_over_quota_waits_and_nothing_is_refused(links: int) -> None:
    rig = Rig(set={"quota.publish_rate": 10.0, "quota.publish_burst": 4})
    peers = [rig.login("alice", f"d{n}") for n in range(links)]
    for n in range(20):
        peers[n % links].publish(str(n), "user:bob")
    burst = len(published(rig))
    assert burst == 4 + links  # each link may owe one
    rig.advance(1)
    assert 10 <= len(published(rig)) - burst + links <= 10 + 2 * links
    rig.advance(2)
    assert sorted(published(rig), key=int) == [str(n) for n in range(20)]
    for number, peer in enumerate(peers):
        assert [int(name) for name, _ in acks(peer)] == list(range(number, 20, links))
        assert peer.server.reading
    assert rig.counters.quota_waits > 0


def test_a_reconnect_does_not_refill_the_quota() -> None:
    rig = Rig(set={"quota.publish_rate": 1.0, "quota.publish_burst": 2})
    alice = rig.login("alice")
    alice.together(*[Publish(str(n), (BOB,)) for n in range(4)])
    again = rig.login("alice")
    again.together(*[Publish(str(n), (BOB,)) for n in range(4, 8)])
    assert published(rig) == ["0", "1", "2", "4"]


def test_bytes_and_pairs_have_quotas_too() -> None:
    rig = Rig(
        set={
            "quota.publish_bytes_rate": 1000.0,
            "quota.publish_bytes_burst": 1000,
            "quota.pair_rate": 1.0,
            "quota.pair_burst": 2,
        }
    )
    large, often = rig.login("large"), rig.login("often")
    large.publish("a", "user:x", body=b"x" * 3000).publish("b", "user:y")
    for n in range(4):
        often.publish(str(n), "user:x")
    often.publish("4", "user:y")
    assert published(rig) == ["a", "0", "1", "2"]
    rig.advance(1.25)
    assert published(rig) == ["a", "0", "1", "2", "3"]
    rig.advance(2)
    assert published(rig) == ["a", "0", "1", "2", "3", "b", "4"] or published(rig)[-2:] == ["4", "b"]


def test_services_have_no_quota() -> None:
    rig = Rig(set={"quota.publish_rate": 1.0, "quota.publish_burst": 1, "quota.pair_burst": 1})
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    svc = rig.login("svc")
    svc.together(*[Publish(str(n), (BOB,)) for n in range(30)])
    assert len(published(rig)) == 30


def test_a_store_that_lags_stops_those_who_publish() -> None:
    rig = Rig()
    rig.broker.hold = {"publish"}
    alice, eve, bob = rig.login("alice"), rig.login("eve"), rig.login("bob")
    rig.hub.congested(True)
    assert rig.health["load"][0] is False
    for n in range(3):
        alice.publish(f"a{n}", "user:bob")
        eve.publish(f"e{n}", "user:bob")
    assert published(rig) == ["a0", "e0"], "one each finds out"
    bob.send(Ping(1))
    assert bob.of(Pong), "who does not publish is not held"
    eve.cut()
    rig.advance(200)
    assert alice.code is None, "silence does not count meanwhile"
    bob_code = bob.code
    rig.hub.congested(False)
    rig.settle()
    assert published(rig) == ["a0", "e0", "a1", "a2"]
    assert rig.health["load"] == (True, "publishers wait: more waits for the store than may wait")
    assert bob_code is CloseCode.HEARTBEAT_TIMEOUT
    assert rig.hub._stalled == {}


def test_a_store_that_fills_up_again_while_they_go_on() -> None:
    rig = Rig()
    peers = [rig.login(f"u{n}") for n in range(4)]
    rig.hub.congested(True)
    for peer in peers:
        peer.together(*[Publish(str(n), (BOB,)) for n in range(3)])
    publish = rig.broker.publish

    def fills(publication: Any) -> Any:
        rig.hub.is_congested = True
        return publish(publication)

    rig.broker.publish = fills
    before = len(published(rig))
    rig.hub.congested(False)
    assert len(published(rig)) == before + 1, "the first filled it; the others wait on"
    assert len(rig.hub._stalled) == 4
    rig.broker.publish = publish
    rig.hub.congested(False)
    rig.settle()
    for peer in peers:
        assert [name for name, _ in acks(peer)] == ["0", "1", "2"]


def test_the_store_may_fail_one_publish(flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.broker.hold = {"publish"}
    alice = rig.login("alice")
    alice.publish("1", "user:bob", "user:eve")
    rig.broker.fail("publish", ZeroDivisionError())
    rig.settle()
    assert alice.code is CloseCode.INTERNAL_ERROR
    assert acks(alice) == []
    assert flush_logged_errors(ZeroDivisionError)


def test_after_a_standstill_it_is_asked_whether_a_session_is_still_there_and_its_publishes_wait() -> None:
    rig = Rig()
    alice, carol = rig.login("alice"), rig.login("carol")
    rig.broker.hold = {"renew"}
    for _ in range(2):
        rig.clock.rightNow += 11
        before = published(rig)
        alice.publish("1", "user:bob").publish("2", "user:bob", qos=0).publish("3", "user:bob")
        carol.publish("4", "user:bob")
        alice.send(Ping(7))
        assert published(rig) == before
        assert alice.of(Pong), "it is heard all the same"
        rig.broker.release("renew", 1)
        rig.broker.release("renew")
        assert published(rig) == [*before, "4", "1", "3"]
        assert len(rig.broker.named("emit")) == 1 + bool(before)
        alice.publish("5", "user:bob")
        assert published(rig)[-1] == "5", "once is enough"
        rig.advance(1)
    rig.advance(30)
    rig.login("dave").publish("6", "user:bob")
    assert published(rig)[-1] == "6"
    assert [session.user for session, *_ in rig.broker.named("renew")] == ["alice", "carol"] * 2


@pytest.mark.parametrize("at_once", [False, True])
def test_what_comes_of_a_session_that_is_not_there_any_more_goes_nowhere(at_once: bool) -> None:
    rig = Rig()
    alice = rig.login("alice")
    rig.broker.hold = set() if at_once else {"renew"}
    rig.broker.verdict = Verdict.OUTRUN
    rig.clock.rightNow += 11
    alice.publish("1", "user:bob").publish("2", "user:bob")
    if not at_once:
        rig.broker.release("renew")
    alice.publish("3", "user:bob")
    assert (published(rig), acks(alice), alice.code) == ([], [], None)
    rig.hub.displaced(alice.link.session.key, alice.link.session.generation, CloseCode.REPLACED, "why")
    rig.settle()
    assert alice.code is CloseCode.REPLACED, "its broker says so"
    assert published(rig) == []


def test_if_nobody_can_say_whether_a_session_is_still_there_it_comes_again(flush_logged_errors: Any) -> None:
    rig = Rig()
    alice = rig.login("alice")
    rig.broker.hold = {"renew"}
    rig.clock.rightNow += 11
    alice.publish("1", "user:bob")
    rig.broker.fail("renew", RuntimeError("no"))
    rig.settle()
    assert (published(rig), alice.code) == ([], CloseCode.INTERNAL_ERROR)
    assert len(flush_logged_errors(RuntimeError)) == 1


def test_an_answer_for_a_link_that_is_gone() -> None:
    rig = Rig()
    rig.broker.hold = {"publish"}
    alice = rig.login("alice")
    alice.publish("1", "user:bob")
    alice.cut()
    rig.broker.release("publish")
    assert rig.counters.outcomes == {OK: 1}


# ------------------------------------------------------------------------------------ the usual way, and all

ADDRESSES = (
    "user:bob",
    "user:eve",
    "user:alice",
    "device:bob/phone",
    "topic:t",
    "room:r",
    "node:n",
    "user:no",
)
SENT = st.builds(
    Publish,
    st.sampled_from(["1", "2", "3", "4"]),
    st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=2).map(lambda texts: to(*texts)),
    st.sampled_from(["", "text/plain"]),
    st.sampled_from([b"", b"body", b"x" * 33]),
    st.sampled_from([0, 1, 1, 1]),
    st.sampled_from([0, 0, 60]),
    st.just(0),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(), (), (("name", "value"),)]),
)


@implementer(IPlugin, IPolicy)
class NotToNo(DefaultPolicy):
    name = "not to no"

    def may(self, identity: Identity, action: str, address: Address) -> bool:
        return address.id != "no" and super().may(identity, action, address)


@given(st.lists(st.lists(SENT, min_size=1, max_size=3), max_size=8), st.booleans())
def test_the_usual_way_and_the_way_for_all_are_one(sent: list[list[Publish]], service: bool) -> None:
    """An interceptor that changes nothing makes every message take the way for all."""
    results = []
    for interceptors in ([], [Look()]):
        rig = Rig("memory", set={"limits.max_body_bytes": 32}, policy=NotToNo(), interceptors=interceptors)
        for user in ("alice", "bob"):
            rig.tokens.identities[user] = Identity(user, service=service)
        alice, bob = rig.login("alice"), rig.login("bob")
        for chunk in sent:
            alice.together(*chunk)
        messages = [
            (
                deliver.address,
                deliver.after,
                deliver.upto,
                [(one.seq, decode_message(one.message)) for one in deliver.entries],
            )
            for deliver in bob.of(Deliver) + alice.of(Deliver)
        ]
        outcomes = [(ack.msg_id, [(o.code, o.seq) for o in ack.outcomes]) for ack in alice.of(PublishAck)]
        results.append((outcomes, messages, rig.counters.outcomes, rig.counters.publishes))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"ttl_s": 3}, OK),
        ({"headers": (("a", "b"),)}, OK),
        ({"resent": True}, OK),  # only there the disk is asked for what memory has forgotten
        ({"copy_self": True}, OK),
        ({"to": to("user:bob", "user:eve")}, OK),
        ({"to": to("device:bob/phone")}, OK),
        ({"to": to("topic:t")}, FORBIDDEN),
        ({"to": to("user:no")}, FORBIDDEN),
        ({"body": b"x" * 33}, OutcomeCode.TOO_LARGE),
    ],
)
def test_what_is_not_usual_goes_the_way_for_all(
    more: dict[str, Any], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(set={"limits.max_body_bytes": 32}, policy=NotToNo())
    alice = rig.login("alice")
    taken: list[str] = []
    take = rig.broker.take

    def heard(message: Any, *values: Any) -> None:
        taken.append(message.msg_id)
        take(message, *values)

    monkeypatch.setattr(rig.broker, "take", heard)
    usual = Publish("1", (BOB,), "text/plain", b"x" * 32)
    alice.send(usual, replace(usual, msg_id="2", **more))
    assert taken == ["1"]
    assert [(name, set(codes)) for name, codes in acks(alice)] == [("1", {OK}), ("2", {code})]


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("names", [["user:eve"], ["user:eve", "user:bob"], ["room:7"]])
def test_a_content_type_that_no_frame_can_hold_is_too_large(names: list[str], looks: bool) -> None:
    """Nobody could be shown it. Our own wires refuse to read it."""
    where = to(*names)
    rig = Rig(interceptors=[Look()] if looks else [])
    wire = AsciiWire()
    wire.reads = lambda frame: (
        (replace(frame, content_type="t" * int(frame.msg_id)),) if type(frame) is Publish else (frame,)
    )
    alice = rig.login("alice", wire=wire, will=Publish("w", where, "t" * 256))
    alice.send(Subscribe(to("room:7")[0]))
    for size in (255, 256, 65_000):
        alice.together(Publish(str(size), where), Publish(str(size), where, qos=0))
    many = len(where)
    assert acks(alice) == [
        ("255", [OK] * many),
        *((size, [OutcomeCode.TOO_LARGE] * many) for size in ("256", "65000")),
    ]
    alice.cut()
    assert rig.counters.outcomes == {OK: many, OutcomeCode.TOO_LARGE: 3 * many}
    said = rig.broker.named("publish", "emit")
    assert [one[0].message.msg_id for one in said] == ["255", "255"]


def test_a_content_type_counts_in_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "CHAINED_BYTES", 60_000)
    slow: Deferred[Any] = Deferred()
    rig = Rig(interceptors=[Look(m0=slow)])
    wire = AsciiWire()
    wire.reads = lambda frame: (
        (replace(frame, content_type="t" * 65_000),) if type(frame) is Publish else (frame,)
    )
    alice = rig.login("alice", wire=wire)
    alice.publish("m0", "user:eve")
    assert alice.server.reading
    alice.publish("m1", "user:eve")
    assert not alice.server.reading
    slow.callback(int(FORBIDDEN))
    rig.settle()
    assert alice.server.reading


def test_a_repeat_of_what_is_on_its_way_is_answered_with_it_and_in_order() -> None:
    rig = Rig("memory")
    alice = rig.login("alice")
    one, two = (Publish(name, (BOB,), body=b"b") for name in ("1", "2"))
    alice.together(one, two, one, replace(one, msg_id="3", ttl_s=9), one)
    assert [name for name, _ in acks(alice)] == ["1", "1", "1", "2", "3"]
    assert {tuple(codes) for _, codes in acks(alice)} == {(OK,)}
    alice.send(one)
    assert acks(alice)[-1] == ("1", [OutcomeCode.DUPLICATE])


# ----------------------------------------------------------------------------------------------- interceptors


@implementer(IPlugin, IInterceptor)
class Look:
    """Does what `does` says for the message id; the default lets it pass."""

    name = "look"

    def __init__(self, **does: Any) -> None:
        self.does = does
        self.seen: list[str] = []

    def before_publish(self, identity: Identity, publish: Publish) -> Any:
        self.seen.append(publish.msg_id)
        found = self.does.get(publish.msg_id, publish)
        if isinstance(found, Exception):
            raise found
        return found(publish) if callable(found) else found


def test_interceptors_provide_their_interface() -> None:
    assert verifyObject(IInterceptor, Look())
    assert verifyObject(IPolicy, Rig().policy)


def test_they_change_and_refuse() -> None:
    first = Look(
        m1=lambda publish: replace(publish, body=b"changed"),
        m2=int(FORBIDDEN),
        m4=lambda publish: replace(publish, msg_id="other", to=to("user:eve", "user:bob")),
    )
    second = Look()
    rig = Rig(interceptors=[first, second])
    alice = rig.login("alice")
    for n in (1, 2, 3):
        alice.publish(f"m{n}", "user:bob", "user:carol")
    alice.publish("m4", "user:bob", "user:carol", "user:eve")
    assert acks(alice) == [
        ("m1", [OK, OK]),
        ("m2", [FORBIDDEN, FORBIDDEN]),
        ("m3", [OK, OK]),
        ("m4", [OK, FORBIDDEN, OK]),
    ]
    assert second.seen == ["m1", "m3", "other"]
    assert rig.broker.named("publish")[0][0].message.body == b"changed"


def test_qos_0_is_looked_at_too() -> None:
    rig = Rig(interceptors=[Look(no=int(FORBIDDEN))])
    alice, bob = rig.login("alice"), rig.login("bob")
    alice.publish("no", "user:bob", qos=0).publish("yes", "user:bob", qos=0)
    assert bob.shown() == ["yes"]
    assert alice.kinds() == [Welcome]
    assert rig.session("alice").publishing == 0


def test_a_slow_first_message_is_not_overtaken() -> None:
    slow: Deferred[Any] = Deferred()
    look = Look(m0=slow)
    rig = Rig(interceptors=[look])
    alice, eve = rig.login("alice"), rig.login("eve")
    frames = [Publish(f"m{n}", (BOB,)) for n in range(5)]
    alice.together(*frames)
    eve.publish("e", "user:bob")
    assert published(rig) == ["e"], "others do not wait"
    assert look.seen == ["m0", "e"]
    slow.callback(frames[0])
    rig.settle()
    assert published(rig) == ["e", "m0", "m1", "m2", "m3", "m4"]
    assert [name for name, _ in acks(alice)] == ["m0", "m1", "m2", "m3", "m4"]


def test_the_chain_has_its_limit() -> None:
    slow: Deferred[Any] = Deferred()
    rig = Rig(interceptors=[Look(m0=slow)], set={"limits.interceptor_chain": 3})
    alice = rig.login("alice")
    for n in range(8):
        alice.publish(f"m{n}", "user:bob")
    assert len(rig.session("alice").chain) == 3
    assert not alice.server.reading
    slow.callback(int(FORBIDDEN))
    rig.settle()
    assert [name for name, _ in acks(alice)] == [f"m{n}" for n in range(8)]


def test_a_long_chain_does_not_end_at_the_recursion_limit() -> None:
    slow: Deferred[Any] = Deferred()
    rig = Rig(
        interceptors=[Look(m0=slow)],
        set={"limits.interceptor_chain": 2000, "limits.publish_window": 2000, "quota.publish_rate": 0.0,
             "quota.pair_rate": 0.0},
    )  # fmt: skip
    alice = rig.login("alice")
    alice.together(*[Publish(f"m{n}", (BOB,)) for n in range(1500)])
    slow.callback(int(FORBIDDEN))
    rig.settle()
    assert [name for name, _ in acks(alice)] == [f"m{n}" for n in range(1500)]


@pytest.mark.parametrize("fault", [ZeroDivisionError(), "nonsense", None])
def test_one_that_fails_closes_the_link_and_lets_nothing_pass_behind(
    fault: Any, flush_logged_errors: Any
) -> None:
    slow: Deferred[Any] = Deferred()
    rig = Rig(interceptors=[Look(m0=slow, m1=fault)])
    if fault is None:
        fault = TypeError()
    alice = rig.login("alice")
    frames = [Publish(f"m{n}", (BOB,)) for n in range(4)]
    alice.together(*frames)
    slow.callback(frames[0])
    rig.settle()
    assert alice.code is CloseCode.INTERNAL_ERROR
    assert published(rig) == ["m0"], "published now, m2 would stand before m1 when that is sent again"
    assert rig.counters.plugin_errors == {"look": 1}
    assert flush_logged_errors(TypeError if fault == "nonsense" else type(fault))


def test_a_link_that_is_lost_leaves_its_chain_in_order() -> None:
    slow: Deferred[Any] = Deferred()
    look = Look(m0=slow)
    rig = Rig(interceptors=[look])
    alice = rig.login("alice")
    frames = [Publish(f"m{n}", (BOB,)) for n in range(3)]
    alice.together(*frames)
    again = rig.login("alice")
    assert alice.code is CloseCode.REPLACED
    look.does = {}
    again.together(*frames)
    slow.callback(frames[0])
    rig.settle()
    order = published(rig)
    assert [order.index(f"m{n}") for n in range(3)] == [0, 1, 2]


def test_outcomes_are_values() -> None:
    assert Outcome(OK) == (0, 0, 0)
    assert Pause.WINDOW | Pause.QUOTA


# ------------------------------------------------------------------------------ what arrives for a backend


@implementer(IPlugin, IMailBackend)
class Clerk:
    """Answers what arrives with a message; `events` are what it saw, and what its sender saw by then."""

    name = "clerk"

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.peer: Any = None

    def start(self, gateway: Any) -> None:
        self.gateway = gateway

    def request(self, caller: Any, request: Any) -> bytes:
        return b""

    def arrived(self, sender: Any, publish: Publish, seq: int) -> None:
        self.events.append((tuple(sender), publish.msg_id, seq, len(self.peer.of(PublishAck))))
        if publish.body == b"trouble":
            raise ZeroDivisionError("a backend's own fault")


def test_what_arrives_in_a_backends_log_it_hears_once_and_before_the_sender() -> None:
    clerk = Clerk()
    assert verifyObject(IMailBackend, clerk)
    rig = Rig("memory", backends=[clerk])
    clerk.peer = alice = rig.login("alice")
    alice.publish("1", "service:clerk")
    alice.publish("1", "service:clerk")  # again: it is known
    alice.publish("2", "user:clerk", "service:other", "service:clerk")
    assert clerk.events == [(("alice", "phone"), "1", 1, 0), (("alice", "phone"), "2", 2, 2)]
    assert acks(alice) == [("1", [OK]), ("1", [OutcomeCode.DUPLICATE]), ("2", [OK, OK, OK])]


def test_a_backend_that_fails_at_what_arrives(flush_logged_errors: Any) -> None:
    clerk = Clerk()
    rig = Rig("memory", backends=[clerk])
    clerk.peer = alice = rig.login("alice")
    alice.publish("1", "service:clerk", body=b"trouble")
    alice.publish("2", "service:clerk")
    assert [event[1] for event in clerk.events] == ["1", "2"]
    assert acks(alice) == [("1", [OK]), ("2", [OK])]
    assert rig.counters.plugin_errors["clerk"] == 1
    flush_logged_errors(ZeroDivisionError)


def test_what_was_not_stored_no_backend_hears() -> None:
    clerk = Clerk()
    rig = Rig(backends=[clerk])
    clerk.peer = alice = rig.login("alice")
    rig.broker.hold.add("publish")
    alice.publish("1", "service:clerk")
    assert clerk.events == []
    rig.broker.release("publish")
    assert [event[1] for event in clerk.events] == ["1"]
