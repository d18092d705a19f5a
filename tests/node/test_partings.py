"""What clients asked for in case they are gone: their last will, and how long to wait for them."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from imgateway.errors import CloseCode
from imgateway.frames import (
    Bye,
    OutcomeCode,
    Ping,
    Publish,
    Start,
    Subscribe,
    Welcome,
    parse_address,
)
from imgateway.interfaces import Identity
from tests.node.rig import AsciiWire, Diary, Peer, Rig


def will(*to: str, msg_id: str = "w", **more: Any) -> Publish:
    return Publish(msg_id, tuple(map(parse_address, to or ("user:eve",))), body=b"gone", **more)


def login(rig: Rig, **hello: Any) -> Peer:
    return rig.login("bob", wire=hello.pop("wire", AsciiWire()), **hello)


def published(rig: Rig) -> list[str]:
    return [one[0].message.msg_id for one in rig.broker.named("publish")]


# --------------------------------------------------------------------------------- when it is said


def lose(rig: Rig, bob: Peer) -> None:
    bob.cut()


def fall_silent(rig: Rig, bob: Peer) -> None:
    rig.advance(76)


def kick(rig: Rig, bob: Peer) -> None:
    rig.hub.kick("bob", None, "out")


def send_rubbish(rig: Rig, bob: Peer) -> None:
    bob.raw(b"\xff" * 20)


def leave_in_anger(rig: Rig, bob: Peer) -> None:
    bob.send(Bye(CloseCode.LOST))


def drain(rig: Rig, bob: Peer) -> None:
    rig.node.stop()
    rig.advance(1)


@pytest.mark.parametrize("how", [lose, fall_silent, kick, send_rubbish, leave_in_anger, drain])
def test_whoever_does_not_say_goodbye_has_a_will(how: Any) -> None:
    rig = Rig()
    bob = login(rig, will=will())
    assert published(rig) == []
    how(rig, bob)
    assert published(rig) == ["w"]
    rig.advance(100)
    assert published(rig) == ["w"], "once"
    assert len(rig.hub.partings) == 0


def test_whoever_says_goodbye_has_none() -> None:
    rig = Rig()
    for delay in (0.0, 5.0):
        login(rig, will=will(), will_delay_s=delay).send(Bye(CloseCode.NORMAL))
    rig.advance(100)
    assert published(rig) == []
    assert len(rig.hub.partings) == 0


def test_a_will_is_a_publish_of_the_session() -> None:
    rig = Rig("memory")
    eve = rig.login("eve")
    login(rig, will=will()).cut()
    (message,) = [entry for deliver in eve.frames[1:] for entry in deliver.entries]  # type: ignore[union-attr]
    assert eve.shown() == ["w"]
    assert b"bob" in message.message
    assert b"phone" in message.message
    assert rig.counters.publishes == 1
    assert rig.counters.outcomes == {OutcomeCode.OK: 1}


def test_a_will_without_custody() -> None:
    rig = Rig("memory")
    eve = rig.login("eve")
    login(rig, will=will(qos=0)).cut()
    assert eve.shown() == ["w"]


# --------------------------------------------------------------------------------- its delay


def test_a_will_waits_and_is_dropped_if_the_client_is_back() -> None:
    rig = Rig()
    for _ in range(3):
        bob = login(rig, will=will(), will_delay_s=5.0)
        bob.cut()
        rig.advance(4.5)
    assert published(rig) == []
    rig.advance(0.75)
    assert published(rig) == ["w"]
    assert len(rig.hub.partings) == 1, "the session waits on"


def test_the_end_of_the_session_ends_the_wait() -> None:
    rig = Rig()
    login(rig, will=will(), will_delay_s=3600.0).cut()
    rig.advance(59)
    assert published(rig) == []
    rig.advance(1.5)
    assert rig.session("bob") is None
    assert published(rig) == ["w"]


def test_a_delay_beyond_the_end_of_the_session_leaves_nothing_behind() -> None:
    """A client may ask for a hundred years, again and again: nobody remembers it for so long."""
    rig = Rig()
    for delay_s in (4e9, inf, 60.0):
        login(rig, will=will(), will_delay_s=delay_s).cut()
        rig.advance(100)
    assert published(rig) == ["w"] * 3
    assert rig.node.wheel._slots == {}


def test_whoever_is_kicked_while_away_is_gone() -> None:
    rig = Rig()
    login(rig, will=will(), will_delay_s=30.0).cut()
    rig.hub.kick("bob", None, "out")
    assert published(rig) == ["w"]


@pytest.mark.parametrize("broker", [None, "memory"])
@pytest.mark.parametrize(("delay", "said"), [(0.0, 1), (5.0, 0)])
def test_a_takeover_by_the_same_device(broker: str | None, delay: float, said: int) -> None:
    rig = Rig(broker)
    eve = rig.login("eve")
    first = login(rig, will=will(), will_delay_s=delay)
    second = login(rig, will=None)
    assert (first.code, second.code) == (CloseCode.REPLACED, None)
    rig.advance(10)
    if broker:
        assert len(eve.shown()) == said
    else:
        assert len(published(rig)) == said


@pytest.mark.parametrize("delay", [0.0, 5.0])
@pytest.mark.parametrize("is_there", [False, True])
def test_who_begins_anew_ends_the_wait_as_well(is_there: bool, delay: float) -> None:
    rig = Rig("memory")
    eve = rig.login("eve")
    for peer in (eve, bob := login(rig, will=will("room:7"), will_delay_s=delay)):
        peer.send(Subscribe(parse_address("room:7")))
    if not is_there:
        bob.cut()
    login(rig, clean=True)
    rig.advance(10)
    assert eve.shown() == ["w"], "by whom is in its rooms, and once"


def test_a_node_that_stops_leaves_wills_that_wait_unsaid() -> None:
    rig = Rig()
    login(rig, will=will(), will_delay_s=5.0)
    login(rig, device="pad", will=will(msg_id="pad"), will_delay_s=5.0).cut()
    rig.node.stop()
    rig.advance(20)
    assert rig.broker.named("stop")
    assert published(rig) == []


# --------------------------------------------------------------------------------- what stands against it


def test_policy_and_rooms_count() -> None:
    rig = Rig("memory")
    eve = rig.login("eve")
    room = parse_address("room:7")
    eve.send(Subscribe(room))
    bob = login(rig, will=will("room:7", "all"), will_delay_s=600.0)
    bob.cut()
    rig.advance(62)
    assert eve.shown() == []
    assert rig.counters.outcomes == {OutcomeCode.FORBIDDEN: 2}
    eve.send(Ping())
    bob = login(rig, will=will("room:7", "all"), will_delay_s=600.0)
    bob.send(Subscribe(room))
    bob.cut()
    rig.advance(62)
    assert eve.shown() == ["w"], "it is in its rooms to the end"


class Censor:
    name = "censor"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def before_publish(self, identity: Identity, publish: Publish) -> Any:
        return self.answer(publish)


def test_interceptors_see_it() -> None:
    answers: list[Any] = [
        lambda publish: OutcomeCode.FORBIDDEN,
        lambda publish: Publish("other", publish.to),
        lambda publish: 1 / 0,
    ]
    rig = Rig(interceptors=[Censor(lambda publish: answers.pop(0)(publish))])
    login(rig, will=will()).cut()
    assert (published(rig), rig.counters.outcomes) == ([], {OutcomeCode.FORBIDDEN: 1})
    login(rig, will=will()).cut()
    assert published(rig) == ["other"]


def test_an_interceptor_that_fails_costs_the_will_only(flush_logged_errors: Any) -> None:
    rig = Rig(interceptors=[Censor(lambda publish: 1 / 0)])
    login(rig, will=will()).cut()
    assert published(rig) == []
    assert flush_logged_errors("a will could not be published")
    assert rig.counters.plugin_errors == {"censor": 1}


def test_it_counts_for_the_users_quota() -> None:
    rig = Rig(set={"quota.publish_burst": 1, "quota.publish_rate": 1.0})
    rig.broker.hold.add("publish")
    for _ in range(3):
        login(rig, will=will()).cut()
    bob = login(rig)
    bob.publish("1", "user:eve")
    bob.publish("2", "user:eve")
    assert published(rig) == ["w", "w", "w", "1"]
    rig.advance(4)
    assert published(rig)[-1] == "2"
    assert rig.counters.quota_waits == 2
    rig.tokens.identities["bob"] = Identity("bob", service=True)
    bob = login(rig, will=will())
    bob.cut()
    assert rig.node.quotas.of("bob", rig.clock.seconds()).publish(0, rig.clock.seconds()) < 2


def test_one_that_is_too_large_goes_nowhere() -> None:
    rig = Rig(set={"limits.max_body_bytes": 3})
    login(rig, will=will()).cut()
    assert rig.counters.outcomes == {OutcomeCode.TOO_LARGE: 1}


def test_one_to_too_many_goes_nowhere() -> None:
    rig = Rig(set={"limits.max_addresses": 2})
    login(rig, will=will("user:a", "user:b", "user:c")).cut()
    assert published(rig) == []
    assert rig.counters.outcomes == {OutcomeCode.FORBIDDEN: 3}


def test_the_store_may_be_slow() -> None:
    rig = Rig()
    rig.broker.hold.add("publish")
    login(rig, will=will(), linger_s=0.0).cut()
    assert rig.session("bob") is None
    rig.broker.release("publish")
    assert rig.counters.outcomes == {OutcomeCode.OK: 1}


# --------------------------------------------------------------------------------- how long it waits


@pytest.mark.parametrize(("asked", "waits"), [(-1.0, 60), (0.0, 0), (10.0, 10), (3600.0, 60)])
def test_a_session_waits_as_long_as_its_client_wants_but_no_longer(asked: float, waits: int) -> None:
    diary = Diary()
    rig = Rig(listeners=[diary])
    login(rig, linger_s=asked).cut()
    if waits:
        rig.advance(waits - 0.5)
        assert rig.session("bob") is not None
        rig.advance(1)
    assert rig.session("bob") is None
    assert diary.events[-1] == ("closed", "phone", CloseCode.LOST)
    assert len(rig.hub.partings) == 0


@pytest.mark.parametrize("broker", [None, "memory"])
def test_a_session_that_does_not_wait_can_be_taken_over(broker: str | None) -> None:
    diary = Diary()
    rig = Rig(broker, listeners=[diary])
    first = login(rig, linger_s=0.0)
    second = login(rig, linger_s=0.0)
    assert (first.code, second.code) == (CloseCode.REPLACED, None)
    rig.advance(5)
    assert second.of(Welcome)
    assert rig.session("bob").link is second.link
    assert [event[0] for event in diary.events] == ["opened", "resumed"]


def test_a_will_is_said_before_the_session_is_closed() -> None:
    order: list[Any] = []
    rig = Rig()
    publish, close = rig.broker.publish, rig.broker.close_session
    rig.broker.publish = lambda one: order.append("will") or publish(one)
    rig.broker.close_session = lambda *args: order.append("close") or close(*args)
    login(rig, will=will(), will_delay_s=600.0, linger_s=1.0).cut()
    rig.advance(2)
    assert order == ["will", "close"]


def test_who_asks_for_nothing_costs_nothing() -> None:
    rig = Rig()
    rig.login("bob")
    login(rig, device="pad")
    assert len(rig.hub.partings) == 0


# ------------------------------------------------------------------------------------ devices without a name


def watch_closing(rig: Rig) -> list[bool]:
    """Whether the device was forgotten, for each session that was closed."""
    closed: list[bool] = []
    close = rig.broker.close_session

    def noted(session: Any, generation: int, forget: bool = False) -> Any:
        closed.append(forget)
        return close(session, generation, forget)

    rig.broker.close_session = noted
    return closed


@pytest.mark.parametrize(
    ("hello", "forgotten"),
    [
        ({"device": "made-up", "assigned": True, "linger_s": 0.0}, True),
        ({"device": "made-up", "assigned": True, "linger_s": 5.0}, False),
        ({"device": "made-up", "assigned": True}, False),
        ({"device": "made-up", "linger_s": 0.0}, False),
    ],
)
def test_a_device_that_was_made_up_ends_with_its_session(hello: dict[str, Any], forgotten: bool) -> None:
    rig = Rig()
    closed = watch_closing(rig)
    bob = login(rig, **hello)
    bob.send(Bye(CloseCode.NORMAL))
    assert closed == [forgotten]


@pytest.mark.parametrize("assigned", [False, True])
def test_and_so_it_does_if_its_client_is_gone_before_the_answer(assigned: bool) -> None:
    rig = Rig()
    closed = watch_closing(rig)
    rig.broker.hold = {"open"}
    bob = login(rig, device="made-up", assigned=assigned, linger_s=0.0)
    bob.cut()
    rig.broker.release("open")
    rig.settle()
    assert closed == [assigned]


@pytest.mark.parametrize(
    ("hello", "brief"),
    [
        ({"device": "made-up", "assigned": True, "linger_s": 0.0, "start": Start.HEAD}, True),
        ({"device": "made-up", "assigned": True, "linger_s": 0.0}, False),
        ({"device": "made-up", "assigned": True, "start": Start.HEAD}, False),
        ({"device": "made-up", "linger_s": 0.0, "start": Start.HEAD}, False),
    ],
)
def test_a_store_is_told_of_a_device_that_it_need_not_remember(hello: dict[str, Any], brief: bool) -> None:
    rig = Rig()
    login(rig, **hello)
    rig.tokens.identities["bob"] = Identity("bob", device="phone")
    login(rig, **hello)
    told = [claim.brief for (claim,) in rig.broker.named("open")]
    assert (told[0], any(told[1:])) == (brief, False)


def test_the_name_in_a_token_goes_before_one_that_was_made_up() -> None:
    rig = Rig()
    closed = watch_closing(rig)
    rig.tokens.identities["bob"] = Identity("bob", device="phone")
    bob = login(rig, device="made-up", assigned=True, linger_s=0.0)
    assert bob.of(Welcome)[0].session == "device:bob/phone"
    bob.send(Bye(CloseCode.NORMAL))
    assert closed == [False]
    assert login(rig, device="other").code is CloseCode.BAD_TOKEN
