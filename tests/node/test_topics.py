"""Topics and services: who may follow them, from where, how far, and what becomes of it when links go."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, fail
from zope.interface.verify import verifyObject

from imgateway.core.cursor import State
from imgateway.core.follow import Follow
from imgateway.errors import CloseCode, StoreBusy
from imgateway.frames import (
    Acked,
    Address,
    Deliver,
    DeliverAck,
    Entry,
    LogKey,
    Mode,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Pull,
    Refused,
    RefusedCode,
    SessionKey,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    Welcome,
    log_of,
    parse_address,
    user_address,
)
from imgateway.interfaces import IBroker, Identity
from tests.node.rig import EPOCH, AsciiWire, FakeBroker, Peer, Rig, entry

NEWS, SPORT, ORDERS = map(parse_address, ("topic:news", "topic:sport", "service:orders"))
NEWS_LOG, SPORT_LOG = log_of(NEWS), log_of(SPORT)
BOB = SessionKey("bob", "phone")


def rig_with(*users: str, broker: Any = "memory", topics: Any = ("news", "sport"), **options: Any) -> Any:
    """A node, a service, and users whose tokens name the topics."""
    rig = Rig(broker, **options)
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    for user in (*users, "bob"):
        rig.tokens.identities[user] = Identity(user, claims={"topics": list(topics)})
    return (rig, rig.login("svc"), *[rig.login(user) for user in users])


def join(peer: Peer, address: Address = NEWS, **more: Any) -> Subscribed:
    peer.send(Subscribe(address, **more))
    answer: Subscribed = peer.of(Subscribed)[-1]
    assert answer.address == address
    return answer


def came(peer: Peer, address: Address = NEWS) -> list[Deliver]:
    return [frame for frame in peer.of(Deliver) if frame.address == address]


def ack(peer: Peer, upto: int, address: Address = NEWS, epoch: int = 0) -> Peer:
    epoch = epoch or next(one for one in peer.of(Subscribed) if one.address == address).epoch
    return peer.send(DeliverAck((Acked(address, epoch, upto),)))


def store(rig: Rig, log: LogKey, *entries: Entry, **more: Any) -> None:
    rig.broker.store(log, *entries, **more)
    rig.settle()


def follow_of(rig: Rig, address: Address = NEWS) -> Any:
    return rig.session("bob").follows[address]


def test_the_fake_is_a_broker() -> None:
    assert verifyObject(IBroker, FakeBroker())


# ------------------------------------------------------------------------------------------------ to be told


def test_what_comes_after_the_subscription_is_delivered() -> None:
    rig, svc, bob, eve = rig_with("bob", "eve")
    svc.publish("0", "topic:news")
    first = join(bob)
    assert first == Subscribed(NEWS, 0, first.epoch, 1, False, Mode.PUSH, 0, 1)
    svc.publish("1", "topic:news", "topic:sport", "user:bob")
    (frame,) = came(bob)
    assert (frame.address, frame.epoch, frame.after, frame.upto) == (NEWS, first.epoch, 1, 2)
    assert bob.shown() == ["1", "1"]
    assert eve.of(Deliver) == []
    assert len(rig.hub.topics) == 1


def test_a_topic_is_not_a_user_of_the_same_name() -> None:
    _, svc, bob = rig_with("bob", topics=["bob"])
    join(bob, parse_address("topic:bob"))
    svc.publish("1", "topic:bob")
    svc.publish("2", "user:bob")
    assert [(frame.address.kind, frame.upto) for frame in bob.of(Deliver)] == [("topic", 1), ("user", 1)]
    svc.publish("3", "topic:bob", qos=0)
    assert [frame.address.kind for frame in bob.of(Deliver)[2:]] == ["topic"]


def test_it_is_encoded_once_for_all() -> None:
    rig, svc, bob, eve, dan = rig_with("bob", "eve", "dan")
    for one in (bob, eve, dan):
        join(one)
    says: list[Any] = []
    inner = rig.hub.delivery.say

    def say(link: Any, frame: Any, shared: Any = None) -> Any:
        says.append(shared)
        return inner(link, frame, shared)

    rig.hub.delivery.say = say
    svc.publish("1", "topic:news")
    svc.publish("2", "topic:news", qos=0)
    assert [one.shown() for one in (bob, eve, dan)] == [["1", "2"]] * 3
    assert len({id(one) for one in says[:3]}) == len({id(one) for one in says[3:]}) == 1
    assert says[0] is not None


def test_qos_0_is_for_those_who_follow_and_can_take_it_now() -> None:
    rig, svc, bob, eve = rig_with("bob", "eve")
    join(bob)
    join(eve)
    bob.stop_reading()
    rig.session("bob").link.pause_sending()
    svc.publish("1", "topic:news", "topic:sport", qos=0)
    assert [(frame.upto, frame.address) for frame in eve.of(Deliver)] == [(0, NEWS)]
    bob.read_on()
    assert bob.of(Deliver) == []
    eve.cut()
    svc.publish("2", "topic:news", qos=0)
    assert bob.shown() == ["2"]


def test_qos_0_does_not_overtake_the_answer() -> None:
    rig, svc, bob = rig_with("bob", broker=FakeBroker())
    rig.broker.hold.add("follow")
    bob.send(Subscribe(NEWS))
    svc.publish("1", "topic:news", qos=0)
    assert bob.of(Deliver) == []
    rig.broker.release("follow")
    rig.settle()
    svc.publish("2", "topic:news", qos=0)
    assert bob.shown() == ["2"]


def test_notices_are_not_to_be_had() -> None:
    _, svc, bob = rig_with("bob")
    assert join(bob, mode=Mode.NOTIFY).mode is Mode.PUSH
    svc.publish("1", "topic:news")
    assert bob.shown() == ["1"]


# --------------------------------------------------------------------------------------------------- who may


def test_who_may() -> None:
    _, svc, bob, eve = rig_with("bob", "eve", topics=["news"])
    eve.send(Subscribe(ORDERS), Subscribe(SPORT), Subscribe(NEWS, lane=1), Subscribe(NEWS))
    assert [(one.frame, one.id, one.code, one.reason) for one in eve.of(Refused)] == [
        ("subscribe", "service:orders", RefusedCode.FORBIDDEN, "not for you to subscribe to"),
        ("subscribe", "topic:sport", RefusedCode.FORBIDDEN, "not for you to subscribe to"),
        ("subscribe", "topic:news", RefusedCode.NOT_SUPPORTED, "there is no such lane"),
    ]
    assert [one.address for one in eve.of(Subscribed)] == [NEWS]
    join(svc, ORDERS)
    bob.publish("1", "service:orders")
    assert svc.shown() == ["1"]


def test_how_many() -> None:
    _, _, bob = rig_with("bob", topics="abcd", set={"limits.rooms": 3})
    for name in "abcab":
        bob.send(Subscribe(parse_address(f"topic:{name}")))
    assert len(bob.of(Subscribed)) == 5
    bob.send(Subscribe(parse_address("topic:d")), Subscribe(parse_address("room:7")))
    assert [(one.id, one.code, one.reason) for one in bob.of(Refused)] == [
        ("topic:d", RefusedCode.RATE, "you follow as many logs as you may")
    ]
    bob.send(Unsubscribe(parse_address("topic:a")), Subscribe(parse_address("topic:d")))
    assert len(bob.of(Refused)) == 1


def test_how_often() -> None:
    rig, _, bob = rig_with("bob", set={"quota.subscribe_rate": 1.0, "quota.subscribe_burst": 1})
    for _ in range(3):
        bob.send(Subscribe(NEWS), Unsubscribe(NEWS))
    assert len(bob.of(Subscribed)) < 3
    assert rig.counters.quota_waits
    rig.advance(10)
    assert len(bob.of(Subscribed)) == 3


# ------------------------------------------------------------------------------------------------ from where


def test_it_begins_where_the_device_had_acknowledged() -> None:
    rig, svc, bob = rig_with("bob")
    join(bob)
    for n in range(3):
        svc.publish(str(n), "topic:news")
    ack(bob, 2)
    bob.cut()
    bob = rig.login("bob")
    svc.publish("3", "topic:news")
    assert bob.of(Deliver) == [], "a login follows nothing"
    assert (join(bob).position, bob.of(Subscribed)[0].head) == (2, 4)
    assert bob.shown() == ["2", "3"]
    pad = rig.login("bob", "pad")
    assert join(pad).position == 4, "each device has a place of its own"


@pytest.mark.parametrize(
    ("epoch", "seq", "position", "gap"),
    [
        (0, 0, 4, False),  # no position: the end
        (EPOCH, 2, 2, False),
        (EPOCH, 0, 0, False),
        (EPOCH, 9, 4, True),
        (EPOCH - 1, 2, 4, True),
    ],
)
def test_where_a_new_device_begins(epoch: int, seq: int, position: int, gap: bool) -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    store(rig, NEWS_LOG, *(entry(n) for n in range(1, 5)))
    answer = join(bob, epoch=epoch, seq=seq)
    assert (answer.position, answer.gap, answer.head) == (position, gap, 4)
    assert rig.broker.named("follow") == [(BOB, NEWS_LOG, position)]
    assert rig.broker.named("reset") == [], "it is not one reader's to say"
    assert rig.counters.gaps_told == gap
    assert [one.seq for frame in came(bob) for one in frame.entries] == list(range(position + 1, 5))


@pytest.mark.parametrize(
    ("epoch", "seq", "position", "gap"),
    [
        (0, 0, 2, False),
        (EPOCH, 3, 3, False),
        (EPOCH, 1, 1, False),
        (EPOCH, 9, 2, True),
        (EPOCH - 1, 3, 2, True),
    ],
)
def test_where_a_known_device_goes_on(epoch: int, seq: int, position: int, gap: bool) -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    store(rig, NEWS_LOG, *(entry(n) for n in range(1, 5)))
    rig.broker.follows[BOB] = {NEWS_LOG: 2}
    answer = join(bob, epoch=epoch, seq=seq, last=True)
    assert (answer.position, answer.gap) == (position, gap)
    assert rig.broker.follows[BOB][NEWS_LOG] == max(2, position), "what it has it need not be sent again"


def test_the_newest_entry_first() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    assert join(bob, SPORT, last=True).position == 0
    store(rig, NEWS_LOG, entry(1), entry(2), entry(3))
    assert join(bob, last=True).position == 2
    assert bob.shown() == ["m3"]
    assert join(bob, last=True).position == 2, "it is here already"


def test_what_was_lost_is_told() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    store(rig, NEWS_LOG, entry(5), entry(6))
    rig.broker.follows[BOB] = {NEWS_LOG: 2}
    rig.broker.lost[NEWS_LOG] = 4
    join(bob)
    (frame,) = came(bob)
    assert (frame.after, frame.upto, frame.gap) == (2, 6, True)


def test_to_subscribe_again_changes_nothing() -> None:
    rig, svc, bob = rig_with("bob")
    epoch = join(bob).epoch
    svc.publish("1", "topic:news")
    again = join(bob, epoch=epoch, seq=0)
    assert (again.position, again.head, again.gap) == (0, 1, False)
    assert bob.shown() == ["1"]
    ack(bob, 1)
    assert bob.code is None
    assert len(rig.hub.topics) == 1


def test_a_topic_that_is_away_does_not_hold_up_a_link() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    rig.broker.hold = {"watch"}
    bob.take()
    bob.send(Subscribe(NEWS), Ping(1))
    assert bob.take() == []
    rig.advance(2.25)
    assert [type(one) for one in bob.take()] == [Pong]
    bob.send(Subscribe(NEWS), Ping(2))
    assert [type(one) for one in bob.take()] == [Pong]
    rig.broker.release("watch")
    rig.settle()
    assert [one.address for one in bob.of(Subscribed)] == [NEWS, NEWS]  # to each its answer
    store(rig, NEWS_LOG, entry(1))
    assert bob.shown() == ["m1"]


def test_who_unsubscribes_from_a_topic_that_is_away_does_not_follow_it() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    rig.broker.hold = {"watch"}
    bob.take()
    bob.send(Subscribe(NEWS), Unsubscribe(NEWS))
    rig.advance(2.25)
    assert [type(one) for one in bob.take()] == [Refused, Unsubscribed]
    rig.broker.release("watch")
    rig.settle()
    assert bob.take() == []
    assert rig.session("bob").follows is None
    assert not rig.hub.topics._asked


def test_what_its_wire_could_not_say_is_offered_again() -> None:
    rig, svc, bob = rig_with("bob")
    bob.cut()
    bob = rig.login("bob", wire=AsciiWire())
    join(bob)
    svc.publish("1", "topic:news", body=b"plain")
    svc.publish("2", "topic:news", body="ö".encode())
    svc.publish("3", "topic:news", body=b"more")
    assert bob.shown() == ["1", "3"]
    ack(bob, 3)
    bob.cut()
    bob = rig.login("bob")
    assert join(bob).position == 1
    assert bob.shown() == ["2"]
    assert [(frame.after, frame.upto) for frame in came(bob)] == [(1, 3)]
    assert follow_of(rig).parking is not None
    ack(bob, 3)
    assert follow_of(rig).parking is None
    bob.cut()
    assert join(rig.login("bob")).position == 3


# --------------------------------------------------------------------------------------------- to be durable


def test_the_answer_waits_for_the_disk_and_what_comes_meanwhile_is_delivered() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    store(rig, NEWS_LOG, entry(1))
    rig.broker.hold |= {"watch", "follow"}
    bob.send(Subscribe(NEWS))
    store(rig, NEWS_LOG, entry(2))
    rig.broker.release("watch")
    store(rig, NEWS_LOG, entry(3))
    bob.send(Pull(NEWS))
    assert bob.take()[1:] == []
    rig.broker.release("follow")
    rig.settle()
    answer, pulled, caught = bob.take()
    assert isinstance(answer, Subscribed)
    assert (answer.position, answer.head) == (1, 3)
    assert {(one.after, one.upto) for one in (pulled, caught) if isinstance(one, Deliver)} == {(0, 3), (1, 3)}


@pytest.mark.parametrize("held", ["watch", "follow"])
def test_a_link_that_goes_while_it_waits(held: str) -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    rig.broker.hold.add(held)
    bob.send(Subscribe(NEWS)).cut()
    rig.broker.release(held)
    assert rig.session("bob").follows is None
    assert len(rig.hub.topics) == 0
    assert NEWS_LOG not in rig.broker.watched


@pytest.mark.parametrize("held", ["watch", "follow", "unfollow"])
def test_a_broker_that_fails_ends_the_link(held: str, flush_logged_errors: Any) -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    if held == "unfollow":
        join(bob)
    rig.broker.hold.add(held)
    bob.send(Unsubscribe(NEWS) if held == "unfollow" else Subscribe(NEWS))
    rig.broker.fail(held, ZeroDivisionError("its own fault"))
    rig.settle()
    assert bob.code is CloseCode.INTERNAL_ERROR
    assert len(rig.hub.topics) == 0
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


# ------------------------------------------------------------------------------------------- to be out of it


@pytest.mark.parametrize(("error", "times"), [(ZeroDivisionError(), 1), (CancelledError(), 0)])
def test_what_a_brief_session_followed_cannot_be_forgotten(
    error: Exception, times: int, flush_logged_errors: Any
) -> None:
    """Of a broker that stops it is no failure."""
    rig, _ = rig_with(broker=FakeBroker())
    bob = rig.login("bob", linger_s=0.0, wire=AsciiWire())
    join(bob)
    rig.broker.hold = {"unfollow"}
    bob.cut()
    rig.broker.fail("unfollow", error)
    assert len(flush_logged_errors("a log could not be left")) == times


def test_too_much_waits_for_the_store_to_follow_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, service, bob = rig_with("bob")
    busy = fail(StoreBusy())
    monkeypatch.setattr(rig.broker, "follow", lambda *about: fail(StoreBusy()))
    bob.send(Subscribe(NEWS), Subscribe(SPORT), Ping())
    assert [(one.frame, one.id, one.code) for one in bob.of(Refused)] == [
        ("subscribe", "topic:news", RefusedCode.UNAVAILABLE),
        ("subscribe", "topic:sport", RefusedCode.UNAVAILABLE),
    ]
    assert bob.of(Pong), "the link goes on"
    assert rig.session("bob").follows is None
    assert len(rig.node.hub.topics) == 0
    monkeypatch.undo()
    service.publish("1", "topic:news")
    join(bob)
    service.publish("2", "topic:news")
    assert bob.shown() == ["2"]
    monkeypatch.setattr(rig.broker, "unfollow", lambda *about: busy)
    bob.take()
    bob.send(Unsubscribe(NEWS), Ping())
    refused = bob.of(Refused)[0]
    assert (refused.frame, refused.id, refused.code) == ("unsubscribe", "topic:news", RefusedCode.UNAVAILABLE)
    assert bob.of(Pong)
    assert rig.counters.refused[RefusedCode.UNAVAILABLE] == 3


def test_who_is_gone_is_not_told_that_too_much_waits() -> None:
    rig = Rig()
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["news"]})
    bob = rig.login("bob")
    rig.broker.hold = {"follow", "unfollow"}
    bob.send(Unsubscribe(SPORT), Subscribe(NEWS))
    rig.advance(2.25)
    waiting = [asked for _, asked, _ in rig.broker.waiting]
    assert len(waiting) == 2
    bob.cut()
    for asked in waiting:
        asked.errback(StoreBusy())
    rig.settle()
    assert bob.of(Refused) == []
    assert rig.session("bob").follows is None


@pytest.mark.parametrize("address", [NEWS, parse_address("room:r")], ids=["topic", "room"])
def test_what_is_asked_behind_an_unsubscribe_that_is_late_is_answered_behind_it(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    leave = "unfollow" if address is NEWS else "leave"
    join(bob, address)
    rig.broker.hold = {leave}
    bob.take()
    bob.send(Unsubscribe(address))
    rig.advance(2.25)
    may = rig.policy.may
    monkeypatch.setattr(rig.policy, "may", lambda *about: False)
    bob.send(Subscribe(address), Unsubscribe(address), Ping(1), Subscribe(address))
    assert [type(one) for one in bob.take()] == [Pong]
    rig.broker.release(leave)
    rig.settle()
    if address is NEWS:  # a topic is forgotten once more; who is in no room has left it
        assert [type(one) for one in bob.take()] == [Unsubscribed, Refused]
        rig.broker.release(leave)
        rig.settle()
        assert [type(one) for one in bob.take()] == [Unsubscribed, Refused]
    else:
        assert [type(one) for one in bob.take()] == [Unsubscribed, Refused, Unsubscribed, Refused]
    monkeypatch.setattr(rig.policy, "may", may)
    join(bob, address)
    assert not rig.node.subscriptions._lines


def test_who_is_gone_asks_no_more_when_the_unsubscribe_is_answered() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    join(bob)
    rig.broker.hold = {"unfollow"}
    bob.send(Unsubscribe(NEWS))
    rig.advance(2.25)
    bob.send(Subscribe(NEWS)).cut()
    rig.broker.release("unfollow")
    rig.settle()
    assert rig.session("bob").follows is None
    assert len(rig.hub.topics) == 0


def test_unsubscribe_forgets() -> None:
    rig, svc, bob = rig_with("bob")
    join(bob)
    svc.publish("1", "topic:news")
    bob.send(Unsubscribe(NEWS))
    assert bob.of(Unsubscribed) == [Unsubscribed(NEWS, UnsubscribedCode.ASKED)]
    svc.publish("2", "topic:news")
    ack(bob, 1)  # on its way when it left
    assert bob.code is None
    assert bob.shown() == ["1"]
    assert rig.session("bob").follows is None
    assert len(rig.hub.topics) == 0
    assert join(bob).position == 2, "it begins anew"


def test_unsubscribe_without_a_subscription_forgets_too() -> None:
    rig, svc, bob = rig_with("bob")
    join(bob)
    bob.cut()
    bob = rig.login("bob").send(Unsubscribe(NEWS))
    assert bob.of(Unsubscribed) == [Unsubscribed(NEWS, UnsubscribedCode.ASKED)]
    svc.publish("1", "topic:news")
    assert join(bob).position == 1


def test_while_others_follow_the_log_is_watched() -> None:
    rig, _, bob, eve = rig_with("bob", "eve", broker=FakeBroker())
    for one in (bob, eve):
        join(one)
        join(one, SPORT)
    bob.send(Unsubscribe(NEWS))
    eve.cut()
    assert {NEWS_LOG, SPORT_LOG} & rig.broker.watched == {SPORT_LOG}
    assert bob.of(Unsubscribed)
    store(rig, SPORT_LOG, entry(1))
    assert bob.shown() == ["m1"]
    bob.cut()
    assert not {NEWS_LOG, SPORT_LOG} & rig.broker.watched


def test_the_end_of_the_node_frees_all() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    join(bob)
    rig.hub.end_all()
    assert NEWS_LOG not in rig.broker.watched
    assert len(rig.hub.topics) == 0


def test_a_newer_login_takes_over() -> None:
    rig, svc, bob = rig_with("bob")
    join(bob)
    svc.publish("1", "topic:news")
    again = rig.login("bob")
    assert bob.code is CloseCode.REPLACED
    assert join(again).position == 0
    assert again.shown() == ["1"]


# --------------------------------------------------------------------------------------- custody and windows


def test_to_acknowledge_what_was_not_sent_is_an_error() -> None:
    _, _, bob = rig_with("bob")
    join(bob)
    ack(bob, 1)
    assert bob.code is CloseCode.BAD_FRAME


@pytest.mark.parametrize("text", ["user:eve", "room:7", "all"])
def test_to_acknowledge_what_nobody_follows_is_an_error(text: str) -> None:
    _, _, bob = rig_with("bob")
    bob.send(DeliverAck((Acked(parse_address(text), 1, 0),)))
    assert bob.code is CloseCode.BAD_FRAME


def test_an_acknowledgement_of_another_epoch_is_passed_over() -> None:
    rig, svc, bob = rig_with("bob")
    join(bob)
    svc.publish("1", "topic:news")
    ack(bob, 99, epoch=12345)
    assert (bob.code, follow_of(rig).acked) == (None, 0)


def test_all_logs_of_a_session_share_its_window() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker(), set={"limits.deliver_window_entries": 4})
    join(bob)
    join(bob, SPORT)
    store(rig, NEWS_LOG, entry(1), entry(2), entry(3))
    store(rig, SPORT_LOG, entry(1), entry(2))
    rig.mail("bob", b"x")
    unacked = [frame for frame in bob.of(Deliver) for _ in frame.entries]
    assert len(unacked) == 4
    assert len(came(bob)[0].entries) == 3
    ack(bob, 3)
    assert sum(len(frame.entries) for frame in bob.of(Deliver)) == 6
    assert {frame.address for frame in bob.of(Deliver)} == {NEWS, SPORT, user_address("bob")}


def test_bytes_are_shared_too() -> None:
    limits = {"limits.deliver_window_bytes": 1_000}
    rig, _, bob = rig_with("bob", broker=FakeBroker(), set=limits)
    join(bob)
    join(bob, SPORT)
    for log in (NEWS_LOG, SPORT_LOG, log_of(user_address("bob"))):
        store(rig, log, entry(1, b"x" * 700))
    # The second was read, for the window was not full; of the third nothing is sent.
    assert [frame.address for frame in bob.of(Deliver)] == [NEWS, SPORT]
    ack(bob, 1)
    assert len(bob.of(Deliver)) == 2, "not half of it is free"
    ack(bob, 1, SPORT)
    assert [frame.address.kind for frame in bob.of(Deliver)] == ["topic", "topic", "user"]


def test_nobody_starves() -> None:
    """Three logs that always have more: each gets its turn, though one turn fills the window."""
    rig, _, bob = rig_with("bob", broker=FakeBroker(), set={"limits.deliver_window_entries": 4})
    logs = {NEWS: NEWS_LOG, SPORT: SPORT_LOG, user_address("bob"): log_of(user_address("bob"))}
    join(bob)
    join(bob, SPORT)
    for log in logs.values():
        store(rig, log, *(entry(n) for n in range(1, 41)))
    served = set()
    for _ in range(12):
        for frame in bob.take():
            if isinstance(frame, Deliver):
                served.add(frame.address)
                bob.send(DeliverAck((Acked(frame.address, EPOCH, frame.upto),)))
    assert served == set(logs)
    unacked = sum(one.entries for one in rig.session("bob").cursors())
    assert unacked <= 4


def test_the_window_of_a_codec_is_for_all_logs() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    bob.cut()
    bob = rig.login("bob", wire=AsciiWire(window=2))
    join(bob)
    join(bob, SPORT)
    for log in (NEWS_LOG, SPORT_LOG):
        for n in range(1, 4):
            store(rig, log, entry(n))
    assert len(bob.of(Deliver)) == 2
    for _ in range(10):
        for frame in bob.take():
            if isinstance(frame, Deliver):
                bob.send(DeliverAck((Acked(frame.address, EPOCH, frame.upto),)))
                assert sum(one.entries for one in rig.session("bob").cursors()) <= 2
    assert [follow_of(rig, one).acked for one in (NEWS, SPORT)] == [3, 3]


def test_logs_with_nothing_to_say_hold_nobody_up() -> None:
    """What is read may all be gone: nothing is sent, so nothing is acknowledged, and others go on all the
    same."""
    names = [f"t{n}" for n in range(12)]
    rig, _, bob = rig_with("bob", broker=FakeBroker(), topics=names)
    bob.cut()
    bob = rig.login("bob", wire=AsciiWire())  # it says nothing of an empty range
    places = [parse_address(f"topic:{name}") for name in names]
    for place in places:
        join(bob, place)
    rig.session("bob").link.pause_sending()
    rig.broker.hold.add("read")
    for place in places:
        rig.broker.store(log_of(place), entry(1, only_device="pad"))
    rig.settle()  # the link can be written to again
    assert len(rig.broker.waiting) == 4, "the others wait for their turn"
    while rig.broker.waiting:
        rig.broker.release("read")
    assert [follow_of(rig, place).acked for place in places] == [1] * 12
    assert all(follow_of(rig, place).state is State.LIVE for place in places)


def test_what_others_took_while_it_was_read_is_left_out() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker(), set={"limits.deliver_window_entries": 4})
    join(bob)
    join(bob, SPORT)
    rig.broker.hold.add("read")
    store(rig, NEWS_LOG, *(entry(n) for n in range(1, 7)))
    store(rig, SPORT_LOG, entry(1))
    rig.broker.release("read")
    rig.settle()
    assert [(frame.address, frame.upto) for frame in bob.of(Deliver)] == [(SPORT, 1), (NEWS, 3)]
    rig.broker.hold.clear()
    ack(bob, 3)
    assert came(bob)[-1].upto == 6


def test_a_full_window_of_others_stops_a_read() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker(), set={"limits.deliver_window_entries": 2})
    join(bob)
    join(bob, SPORT)
    rig.broker.hold.add("read")
    rig.hub.moved(NEWS_LOG, EPOCH, 0)
    store(rig, NEWS_LOG, entry(1), entry(2), entry(3))  # more than the window: to be read
    assert [one[0] for one in rig.broker.waiting] == ["read"]
    store(rig, SPORT_LOG, entry(1), entry(2))
    rig.broker.release("read")
    rig.settle()
    assert [frame.address for frame in bob.of(Deliver)] == [SPORT]
    assert follow_of(rig).state is State.CLOGGED
    ack(bob, 2, SPORT)
    rig.broker.release("read")
    rig.settle()
    assert came(bob)[0].upto == 2


def test_a_slow_link_clogs_all_and_catches_up() -> None:
    rig, svc, bob = rig_with("bob")
    join(bob)
    bob.stop_reading()
    for n in range(30):
        svc.publish(f"n{n}", "topic:news", body=b"x" * 20_000)
        svc.publish(f"u{n}", "user:bob")
    assert follow_of(rig).state is State.CLOGGED
    bob.read_on()
    for _ in range(30):
        for frame in bob.of(Deliver)[-2:]:
            bob.send(DeliverAck((Acked(frame.address, frame.epoch, frame.upto),)))
    news = [one.seq for frame in came(bob) for one in frame.entries]
    assert news == list(range(1, 31))


def test_the_oldest_of_all_logs_has_to_be_acknowledged_in_time() -> None:
    rig, svc, bob = rig_with("bob", set={"session.heartbeat_s": 1000.0, "session.dead_s": 4000.0})
    join(bob)
    svc.publish("1", "topic:news")
    rig.advance(20)
    svc.publish("2", "user:bob")
    bob.ack(1)
    rig.advance(5)
    assert bob.code is None
    rig.advance(6)
    assert bob.code is CloseCode.ACK_TIMEOUT


def silent(acks: bool) -> AsciiWire:
    """A wire whose clients say that they will (not) acknowledge what they subscribe to."""
    wire = AsciiWire()
    wire.reads = lambda frame: (replace(frame, acks=acks) if isinstance(frame, Subscribe) else frame,)
    return wire


@pytest.mark.parametrize("acks", [True, False])
def test_who_does_not_acknowledge_has_what_was_sent(acks: bool) -> None:
    rig, svc, bob = rig_with("bob", set={"limits.deliver_window_entries": 4})
    bob.cut()
    bob = rig.login("bob", wire=silent(acks))
    join(bob)
    for n in range(20):
        svc.publish(str(n), "topic:news")
    assert bob.shown() == [str(n) for n in range(4 if acks else 20)]
    bob.cut()
    for n in range(20, 40):
        svc.publish(str(n), "topic:news")
    bob = rig.login("bob", wire=silent(acks))
    assert join(bob).position == (0 if acks else 20)
    assert bob.shown() == [str(n) for n in (range(4) if acks else range(20, 40))]
    if acks:
        rig.hub.topics.subscribe(rig.session("bob").link, rig.session("bob"), Subscribe(NEWS, acks=False))
        rig.settle()
        assert bob.shown() == [str(n) for n in range(40)], "it may change its mind, and wait for nothing"
        assert follow_of(rig).acked == 40


def test_a_slow_link_holds_back_what_is_not_acknowledged_too() -> None:
    rig, svc, bob = rig_with("bob")
    bob.cut()
    bob = rig.login("bob", wire=silent(False))
    join(bob)
    bob.stop_reading()
    for n in range(30):
        svc.publish(str(n), "topic:news", body=b"x" * 20_000)
    assert follow_of(rig).state is State.CLOGGED
    assert follow_of(rig).acked < 30
    bob.read_on()
    assert bob.shown() == [str(n) for n in range(30)]
    assert follow_of(rig).acked == 30


def test_a_wire_without_acknowledgements() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    bob.cut()
    bob = rig.login("bob", wire=AsciiWire(acks=False))
    join(bob)
    store(rig, NEWS_LOG, entry(1))
    rig.mail("bob", b"x")
    bob.send(Pull(user_address("bob")))
    assert rig.broker.follows[BOB] == {NEWS_LOG: 1}
    assert rig.broker.acked[BOB] == 1


def test_a_log_with_another_epoch_ends_the_link() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    join(bob)
    rig.broker.epochs[NEWS_LOG] = EPOCH + 1
    store(rig, NEWS_LOG, entry(1))
    assert bob.code is CloseCode.STALE
    bob = rig.login("bob")
    answer = join(bob, epoch=EPOCH, seq=0)
    assert (answer.epoch, answer.gap, answer.position) == (EPOCH + 1, True, 0)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("told", ["moved", "arrived"])
def test_who_stands_beyond_the_end_of_a_log_that_was_replaced_comes_again(told: str, size: int) -> None:
    """It had got further than its node was told."""
    rig, _, *peers = rig_with(*["bob", "carol"][:size], broker=FakeBroker())
    for peer in peers:
        join(peer)
    store(rig, NEWS_LOG, *map(entry, range(1, 6)))
    assert [peer.shown() for peer in peers] == [[f"m{n}" for n in range(1, 6)]] * size
    rig.broker.hold.add("read")
    if told == "moved":
        rig.hub.moved(NEWS_LOG, EPOCH, 2)
        rig.settle()
        assert [peer.code for peer in peers] == [None] * size
        rig.hub.moved(NEWS_LOG, EPOCH + 1, 2)
    else:
        rig.hub.arrived(NEWS_LOG, EPOCH, 0, 1, (entry(1),))
        rig.settle()
        assert [peer.code for peer in peers] == [None] * size
        rig.hub.arrived(NEWS_LOG, EPOCH + 1, 0, 1, (entry(1),))
    rig.settle()
    assert [peer.code for peer in peers] == [CloseCode.STALE] * size


def test_moved_logs_are_read() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    join(bob)
    store(rig, NEWS_LOG, entry(1), tell=False)
    rig.hub.moved(NEWS_LOG, EPOCH, 1)
    rig.settle()
    assert bob.shown() == ["m1"]
    rig.hub.moved(SPORT_LOG, EPOCH, 1)
    rig.hub.arrived(SPORT_LOG, EPOCH, 0, 1, (entry(1),))
    assert bob.shown() == ["m1"]


@pytest.mark.parametrize(
    ("error", "is_said"), [(ZeroDivisionError("its own fault"), 1), (CancelledError(), 0)]
)
def test_a_read_that_fails_ends_the_link(error: Exception, is_said: int, flush_logged_errors: Any) -> None:
    """It is logged, unless the broker stops."""
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    join(bob)
    rig.broker.hold.add("read")
    rig.hub.moved(NEWS_LOG, EPOCH, 1)
    rig.broker.fail("read", error)
    rig.settle()
    assert bob.code is CloseCode.INTERNAL_ERROR
    assert len(flush_logged_errors(type(error))) == is_said


def test_what_is_read_for_one_that_has_left_is_dropped() -> None:
    rig, _, bob = rig_with("bob", broker=FakeBroker())
    join(bob)
    store(rig, NEWS_LOG, entry(1), tell=False)
    rig.broker.hold.add("read")
    rig.hub.moved(NEWS_LOG, EPOCH, 1)
    bob.send(Unsubscribe(NEWS))
    rig.broker.release("read")
    rig.settle()
    assert bob.of(Deliver) == []


def test_a_follow_speaks_for_its_session() -> None:
    rig, _, bob = rig_with("bob")
    join(bob)
    follow, session = follow_of(rig), rig.session("bob")
    assert isinstance(follow, Follow)
    for name in ("key", "user", "device", "generation", "link", "form", "follows"):
        assert getattr(follow, name) == getattr(session, name)
    assert (follow.address, follow.log) == (NEWS, NEWS_LOG)


def test_publishing_and_following_are_different_rights() -> None:
    _, svc, bob = rig_with("bob")
    join(bob)
    bob.publish("1", "topic:news")
    assert [frame.outcomes[0].code for frame in bob.of(PublishAck)] == [0]
    assert bob.shown() == ["1"], "one's own messages come as well"
    assert len(bob.of(Welcome)) == 1
    svc.send(replace(Publish("2", (NEWS,)), copy_self=True))
    assert bob.shown() == ["1", "2"]
