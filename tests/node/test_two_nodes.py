"""Sessions that go from one node to another: which node ends what, and who is told of it."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface.verify import verifyObject

from imgateway.errors import CloseCode
from imgateway.frames import (
    Deliver,
    LogKey,
    Publish,
    PublishAck,
    ResponseCode,
    SessionKey,
    Subscribe,
    Subscribed,
    Unsubscribed,
    Welcome,
    parse_address,
    user_address,
)
from imgateway.interfaces import IBroker, IBrokerListener, IGateway
from tests.node.cluster_rig import Cluster, Wires
from tests.node.rig import AsciiWire, Diary, Rig

BOB = SessionKey("bob", "phone")
MAIL = user_address("bob")
ROOM = parse_address("room:7")


def pair(**options: Any) -> tuple[Cluster, Rig, Rig, Diary, Diary]:
    here, there = Diary(), Diary()
    cluster = Cluster("a", "b", listeners={"a": [here], "b": [there]}, **options)
    return (cluster, *cluster.rigs, here, there)


def test_the_rig_itself() -> None:
    cluster, a, b, _, _ = pair()
    assert verifyObject(IBroker, cluster.facets[0])
    assert verifyObject(IBrokerListener, Wires(cluster))
    assert verifyObject(IGateway, a.node)
    bob, eve = a.login("bob"), b.login("eve")
    eve.publish("1", "user:bob")
    assert bob.shown() == ["1"]
    assert eve.kinds() == [Welcome, PublishAck]


@pytest.mark.parametrize("linked", [True, False])
def test_a_session_that_goes_to_another_node_ends_here_at_once(linked: bool) -> None:
    cluster, a, b, here, there = pair()
    old = a.login("bob")
    if not linked:
        old.cut()
    new = b.login("bob")
    assert old.code is (CloseCode.REPLACED if linked else None)
    assert a.session("bob") is None
    assert b.session("bob").link is new.link
    assert LogKey(MAIL) not in cluster.facets[0].watched, "nobody here reads this mailbox any more"
    assert here.events == [("opened", "phone")], "it did not end"
    assert there.events == [("resumed", "phone")]
    assert b.counters.resumed == 1
    b.login("eve", "pad").publish("1", "user:bob")
    assert (old.shown(), new.shown()) == ([], ["1"])
    new.ack(1)
    cluster.advance(61)
    assert (b.session("bob").link, new.code) == (new.link, None)
    closed = [call[2] for call in cluster.facets[0].calls if call[0] == "close_session"]
    assert all(generation < b.session("bob").generation for generation in closed), "of what is stale"
    new.cut()
    cluster.advance(61)
    events = [event[0] for event in here.events + there.events if event[1] == "phone"]
    assert events == ["opened", "resumed", "closed"]


def test_what_was_delivered_and_not_acknowledged_comes_again_at_the_other_node() -> None:
    cluster, a, b, _, _ = pair()
    old = a.login("bob")
    eve = a.login("eve")
    eve.publish("1", "user:bob").publish("2", "user:bob")
    old.ack(1)
    cluster.late = True  # the old node does not know yet
    new = b.login("bob")
    assert new.shown() == ["2"]
    eve.publish("3", "user:bob")
    assert new.shown() == ["2", "3"]
    cluster.hear()
    assert old.code is CloseCode.REPLACED


def test_a_session_that_was_not_told_of_the_takeover_learns_it_with_its_next_word() -> None:
    cluster, a, b, here, _there = pair()
    old = a.login("bob")
    a.login("eve").publish("1", "user:bob")
    cluster.late = True
    new = b.login("bob")
    cluster.waiting.clear()  # lost
    cluster.late = False
    assert old.code is None
    old.ack(1)
    assert old.code is CloseCode.STALE
    assert a.session("bob") is None
    assert new.code is None
    assert ("closed", "phone", CloseCode.STALE) not in here.events


def test_there_and_back_before_anybody_hears_of_it() -> None:
    cluster, a, b, here, there = pair()
    first = a.login("bob")
    cluster.late = True
    second = b.login("bob")
    third = a.login("bob")
    assert first.code is CloseCode.REPLACED, "its node saw that"
    cluster.hear()
    assert second.code is CloseCode.REPLACED
    assert (third.code, a.session("bob").link) == (None, third.link)
    assert b.session("bob") is None
    assert here.events == [("opened", "phone"), ("resumed", "phone")]
    assert there.events == [("resumed", "phone")]


@pytest.mark.parametrize("device", ["phone", "pad"])
def test_a_claim_whose_answer_is_overtaken_by_its_end(device: str) -> None:
    cluster, a, b, here, _there = pair(set={"session.login_policy": "one"})
    held = cluster.facets[0]
    held.hold = True
    slow = a.login("bob")
    fast = b.login("bob", device)
    assert slow.code is None, "nothing is known of its claim"
    held.release()
    assert slow.code is (CloseCode.REPLACED if device == "phone" else CloseCode.DISPLACED)
    assert slow.of(Welcome) == []
    assert a.session("bob") is None
    assert fast.code is None
    assert here.events == []
    assert LogKey(MAIL) not in held.watched


def test_a_takeover_while_the_client_claims_its_session_here_again() -> None:
    cluster, a, b, here, there = pair()
    old = a.login("bob")
    held = cluster.facets[0]
    held.hold = True
    again = a.login("bob")  # displaces the first
    assert old.code is CloseCode.REPLACED
    b.login("bob")  # displaces the second
    assert a.session("bob") is not None, "whether it goes on here is not known"
    held.release()
    assert again.code is CloseCode.REPLACED
    assert a.session("bob") is None
    assert here.events == [("opened", "phone")]
    assert there.events == [("resumed", "phone")]


def test_a_claim_that_is_turned_down_after_a_takeover() -> None:
    cluster, a, b, here, _ = pair()
    a.login("bob")
    held = cluster.facets[0]
    held.hold = True
    a.login("bob").cut()  # it leaves before the answer
    assert a.session("bob").link is None
    b.login("bob")
    held.release()
    assert a.session("bob") is None
    assert here.events == [("opened", "phone")]


@pytest.mark.parametrize(("delay_s", "said"), [(0.0, True), (30.0, False)])
def test_the_last_will_of_who_goes_to_another_node(delay_s: float, said: bool) -> None:
    cluster, a, b, _, _ = pair()
    watcher = b.login("watcher")
    wire = AsciiWire("native")
    will = Publish("w", (user_address("watcher"),), body=b"gone")
    a.login("bob", wire=wire, will=will, will_delay_s=delay_s)
    b.login("bob")
    cluster.advance(120)
    assert watcher.shown() == (["w"] if said else [])


def test_rooms_that_are_not_entered_again_are_left_when_the_session_would_have_ended() -> None:
    cluster, a, b, _here, _there = pair()
    old = a.login("bob").send(Subscribe(ROOM))
    assert old.of(Subscribed)
    generation = a.session("bob").generation
    b.login("bob")
    assert ROOM not in a.hub.rooms.audiences, "nobody here is in it"
    closed = ("close_session", BOB, generation, False)
    cluster.advance(59)
    assert closed not in cluster.facets[0].calls
    cluster.advance(2)
    assert cluster.facets[0].calls.count(closed) == 1


def test_a_node_that_stops_leaves_them_then() -> None:
    cluster, a, b, _, _ = pair()
    a.login("bob").send(Subscribe(ROOM))
    generation = a.session("bob").generation
    b.login("bob")
    a.node.stop()
    cluster.advance(1)
    assert cluster.facets[0].calls.count(("close_session", BOB, generation, False)) == 1


def test_a_room_goes_on_at_the_other_node() -> None:
    _cluster, a, b, here, there = pair()
    a.login("bob").send(Subscribe(ROOM))
    bob = b.login("bob").send(Subscribe(ROOM))
    a.login("eve").send(Subscribe(ROOM)).publish("1", "room:7")
    assert bob.shown() == ["1"]
    assert bob.of(Unsubscribed) == []
    assert [event for event in here.events if event[1] == "phone" and event[0] == "left"] == []
    assert [event[0] for event in there.events] == ["resumed"], "it was in it all the time"


def test_questions_to_the_client_end_with_its_link() -> None:
    _cluster, a, b, _, _ = pair()
    a.login("bob")
    failures: list[Any] = []
    a.node.request(BOB, "s", "m", b"").addErrback(failures.append)
    b.login("bob")
    assert [failure.value.code for failure in failures] == [ResponseCode.GONE]


def test_other_devices_of_the_user_stay() -> None:
    _cluster, a, b, _here, _ = pair()
    phone, web = a.login("bob", "phone"), a.login("bob", "web")
    b.login("bob", "phone")
    assert (phone.code, web.code) == (CloseCode.REPLACED, None)
    a.login("eve").publish("1", "user:bob")
    assert web.shown() == ["1"]
    assert len(web.of(Deliver)) == 1


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("held_up_s", [9, 11])
def test_what_was_said_to_a_node_that_stood_still_counts_if_the_session_is_still_there(
    held_up_s: int, qos: int
) -> None:
    """What it was told meanwhile may be read after what its clients said."""
    cluster, a, b, _, _ = pair()
    old, ann, eve = a.login("bob"), a.login("ann"), b.login("eve")
    cluster.late = True
    b.login("bob").publish("1", "user:eve")
    cluster.clock.rightNow += held_up_s
    old.publish("2", "user:eve", qos=qos).publish("3", "user:eve", qos=qos)
    ann.publish("4", "user:eve", qos=qos)
    cluster.hear()
    late = ["2", "3"] if held_up_s < 10 else []
    assert eve.shown() == ["1", *late, "4"]
    assert old.code is CloseCode.REPLACED
