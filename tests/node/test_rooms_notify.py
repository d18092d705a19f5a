"""Notices: telling that there is something, once until it is pulled, merged, repeated, and given up."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from imgateway.client.inbox import Inbox
from imgateway.frames import (
    Address,
    Deliver,
    LogKey,
    Mode,
    Notify,
    Ping,
    Publish,
    Pull,
    Resumed,
    ResumePoint,
    SessionKey,
    Subscribe,
    Subscribed,
    Told,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    Welcome,
    parse_address,
)
from imgateway.interfaces import Identity
from imgateway.node.notices import spread_ms
from imgateway.node.shares import Form
from imgateway.protocols.mqtt.adapter import MqttAdapter
from imgateway.wire.messages import decode_message
from tests.node.rig import EPOCH, AsciiWire, Diary, FakeBroker, Peer, Rig, entry
from tests.node.test_rooms import ALL, OTHER, ROOM, bodies, clog, rig_with, slices_of
from tests.node.test_rooms_random import Reader
from tests.protocols import mqtt

QUICK = {"rooms.classes": ("*: tick=0ms",)}


def notified(user: str = "bob", **options: Any) -> tuple[Any, ...]:
    """One who asked to be notified of a room."""
    options.setdefault("set", QUICK)
    rig, svc = rig_with(**options)
    bob = rig.login(user).send(Subscribe(ROOM, Mode.NOTIFY))
    bob.take()
    return rig, svc, bob


def told(peer: Peer) -> list[list[tuple[str, int, int]]]:
    """The heads of its notices, which are forgotten."""
    found = peer.of(Notify)
    peer.frames = [one for one in peer.frames if one not in found]
    return [[(one.address.id, one.lane, one.head) for one in notify.heads] for notify in found]


def test_one_notice_until_it_is_pulled() -> None:
    rig, svc, bob = notified()
    svc.publish("1", "room:7")
    svc.publish("2", "room:7").publish("g", "room:7", lane=1)
    (notify,) = bob.of(Notify)
    assert notify == Notify((Told(ROOM, 0, notify.heads[0].epoch, 1, 0),), 0)
    assert bob.of(Deliver) == []
    told(bob)
    bob.send(Pull(ROOM))
    assert bodies(bob) == ["1", "2"]
    assert told(bob) == [[("7", 1, 3)]]  # lane 1 it does not know of
    bob.send(Pull(ROOM, lane=1))
    assert bodies(bob) == ["g"]
    assert told(bob) == []
    svc.publish("3", "room:7")
    assert told(bob) == [[("7", 0, 4)]]
    assert rig.counters.room_notifies == 3
    bob.send(Pull(ROOM, after=2)).send(Pull(ROOM, after=4))
    assert told(bob) == []


def test_who_asks_on_is_left_alone_until_it_does_not() -> None:
    rig, svc, bob = notified()
    for number in range(40):
        svc.publish(str(number), "room:7")
    bob.send(Pull(ROOM))  # told of 1, got 32
    assert told(bob) == [[("7", 0, 1)], [("7", 0, 40)]]
    for number in range(40):
        svc.publish(f"b{number}", "room:7")
    bob.send(Pull(ROOM, after=10))
    assert told(bob) == []
    bob.send(Pull(ROOM, after=32))
    assert told(bob) == [[("7", 0, 80)]]
    rig.advance(10.5)
    assert told(bob) == [[("7", 0, 80)]]


def came(rig: Rig, seq: int) -> None:
    """The room's ring has one more."""
    rig.broker.store(LogKey(ROOM), entry(seq))
    rig.settle()


def begun_anew(rig: Rig) -> None:
    """The room's ring is another one, whose numbers begin at 1."""
    log = LogKey(ROOM)
    rig.broker.logs[log] = []
    rig.broker.epochs[log] = EPOCH + 1
    rig.broker.listener.moved(log, EPOCH + 1, 0)
    rig.settle()


def test_a_notice_of_a_ring_that_is_no_more_is_answered_by_any_pull() -> None:
    rig, _, bob = notified(broker=FakeBroker())
    came(rig, 1000)
    assert told(bob) == [[("7", 0, 1000)]]
    begun_anew(rig)
    assert told(bob) == []  # it has a notice, and the pull will find what became of the room
    bob.send(Pull(ROOM))
    assert [(one.epoch, one.upto) for one in bob.of(Deliver)] == [(EPOCH + 1, 0)]
    for seq in (1, 2):
        came(rig, seq)
        assert told(bob) == [[("7", 0, seq)]]
        bob.send(Pull(ROOM, after=seq - 1))


def test_a_pull_from_a_place_in_a_ring_that_is_no_more_brings_all_of_the_one_that_there_is() -> None:
    rig, _, bob = notified(broker=FakeBroker())
    came(rig, 1000)
    begun_anew(rig)
    came(rig, 1)
    came(rig, 2)
    bob.take()
    bob.send(Pull(ROOM, 0, EPOCH, 1000))  # it was on its way
    (deliver,) = bob.of(Deliver)
    assert (deliver.epoch, deliver.after, deliver.upto, deliver.pulled) == (EPOCH + 1, 0, 2, True)
    assert bodies(bob) == ["m1", "m2"]
    assert told(bob) == []
    came(rig, 3)
    assert told(bob) == [[("7", 0, 3)]]


def test_who_left_while_the_ring_that_there_is_was_read_is_sent_nothing() -> None:
    rig, _, bob = notified(broker=FakeBroker())
    came(rig, 1000)
    begun_anew(rig)
    rig.broker.hold = {"read"}
    bob.send(Pull(ROOM, 0, EPOCH, 1000))
    rig.broker.release("read")
    assert [call[1] for call in rig.broker.named("read")[-2:]] == [1000, 0]
    bob.cut()
    rig.broker.release("read")
    rig.settle()
    assert bob.of(Deliver) == []


@pytest.mark.parametrize("epoch", [0, EPOCH, EPOCH + 1])
def test_who_reads_beyond_the_end_of_a_ring_is_told_of_what_comes(epoch: int) -> None:
    rig, _, bob = notified(broker=FakeBroker())
    came(rig, 1000)
    bob.send(Pull(ROOM, 0, EPOCH, 999))
    begun_anew(rig)
    bob.send(Pull(ROOM, 0, EPOCH + 1))
    bob.take()
    bob.send(Pull(ROOM, 0, epoch, 1001))
    for seq in (1, 2):
        came(rig, seq)
        assert told(bob) == [[("7", 0, seq)]]
        bob.send(Pull(ROOM, 0, EPOCH + 1, seq - 1))


def test_an_answer_from_a_ring_that_is_no_more_counts_for_nothing_in_the_one_that_there_is() -> None:
    rig, _, bob = notified(broker=FakeBroker())
    came(rig, 1000)
    begun_anew(rig)
    came(rig, 1)
    told(bob)
    rig.broker.read_batch = lambda batch: replace(batch, epoch=EPOCH, upto=1000, entries=())
    bob.send(Pull(ROOM, 0, EPOCH, 1000))  # what was read before came later
    assert [one.epoch for one in bob.of(Deliver)] == [EPOCH]
    assert told(bob) == [[("7", 0, 1)]]


def test_a_client_that_asks_while_its_ring_becomes_another_is_shown_what_comes(monkeypatch: Any) -> None:
    rig = Rig(FakeBroker(), set=QUICK)
    bob = Reader(rig, "bob")
    bob.connect()
    bob.subscribe(ROOM, Mode.NOTIFY)
    rig.settle()
    bob.work()
    came(rig, 1000)
    bob.work()
    held: list[Any] = []
    with monkeypatch.context() as under_way:
        under_way.setattr(bob, "send", lambda frame: held.append(frame) or True)
        came(rig, 1001)
        bob.work()
    begun_anew(rig)
    (pull,) = held
    assert pull == Pull(ROOM, 0, EPOCH, 1000, 64)
    bob.send(pull)
    for seq in range(1, 4):
        came(rig, seq)
        bob.work()
    assert bob.shown[LogKey(ROOM)] == [1000, (0, 0), 1, 2, 3]


@pytest.mark.parametrize("head", [0, 1])
def test_a_notice_is_repeated_with_a_place_in_the_ring_that_there_is(head: int) -> None:
    rig, _, bob = notified(broker=FakeBroker())
    came(rig, 999)
    bob.send(Pull(ROOM))
    came(rig, 1000)
    begun_anew(rig)
    for seq in range(1, head + 1):
        came(rig, seq)
    bob.take()
    rig.advance(10.5)
    assert bob.of(Notify) == [Notify((Told(ROOM, 0, EPOCH + 1, head, 0),), 0)]


def test_who_does_not_pull_is_told_twice_more_and_then_removed() -> None:
    rig, svc, bob = notified()
    svc.publish("1", "room:7")
    assert len(told(bob)) == 1
    for _ in range(2):
        rig.advance(9)
        assert told(bob) == []
        rig.advance(1.5)
        assert len(told(bob)) == 1
    rig.advance(11)
    assert bob.of(Unsubscribed) == [Unsubscribed(ROOM, UnsubscribedCode.NOT_PULLING)]
    assert rig.counters.room_not_pulling == 1
    assert ROOM not in rig.hub.rooms.audiences
    assert bob.code is None


class Companion(Diary):
    """The business: who leaves takes others along."""

    rig: Any = None

    def __init__(self, **along: tuple[str, ...]) -> None:
        super().__init__()
        self.along = along

    def left(self, session: SessionKey, address: Address) -> None:
        super().left(session, address)
        for user in self.along.pop(session.user, ()):
            self.rig.node.leave(SessionKey(user, "phone"), address)


@pytest.mark.parametrize("along", [("eve",), ("carol",), ("dave",), ("eve", "dave")], ids=str)
def test_who_is_removed_for_not_pulling_may_take_others_along(along: tuple[str, ...]) -> None:
    business = Companion(bob=along)
    rig, svc, bob = notified(listeners=[business])
    business.rig = rig
    eve, carol, dave = (
        rig.login(name).send(Subscribe(ROOM, Mode.NOTIFY)) for name in ("eve", "carol", "dave")
    )
    carol.send(Pull(ROOM))
    svc.publish("1", "room:7")
    for _ in range(2):
        for peer in (carol, dave):
            peer.send(Pull(ROOM, after=1))
        rig.advance(10.5)
    svc.publish("2", "room:7")
    for peer in (bob, eve, carol, dave):
        told(peer)
    rig.advance(11)
    assert [peer.user for peer in (bob, eve, carol, dave) if peer.of(Unsubscribed)] == sorted(
        {"bob", "eve", *along}, key=["bob", "eve", "carol", "dave"].index
    )
    assert bob.of(Unsubscribed) == [Unsubscribed(ROOM, UnsubscribedCode.NOT_PULLING)]
    left = [peer for peer in (carol, dave) if peer.user not in along]
    assert [told(peer) for peer in left] == [[[("7", 0, 2)]]] * len(left), "they are told once more"
    rig.advance(22)
    assert [len(peer.of(Unsubscribed)) for peer in (bob, eve, carol, dave)] == [1, 1, 1, 1]
    assert rig.counters.room_not_pulling == 4 - len(along)
    assert ROOM not in rig.hub.rooms.audiences


def test_a_pull_in_time_begins_it_anew() -> None:
    rig, svc, bob = notified()
    for number in range(4):
        svc.publish(str(number), "room:7")
        rig.advance(10.5)
        bob.send(Pull(ROOM, after=number))
    assert len(told(bob)) == 8
    rig.advance(60)
    assert bob.of(Unsubscribed) == []


def test_rooms_of_a_session_are_told_together() -> None:
    rig, svc = rig_with()
    bob = rig.login("bob").send(Subscribe(ROOM, Mode.NOTIFY), Subscribe(OTHER, Mode.NOTIFY))
    eve = rig.login("eve").send(Subscribe(ROOM, Mode.NOTIFY), Subscribe(OTHER))
    rig.clock.advance(5.01)
    svc.publish("1", "room:7", "room:8")
    assert told(bob) == [[("7", 0, 1)], [("8", 0, 2)]]
    bob.send(Pull(ROOM, after=0), Pull(OTHER, after=0))
    eve.send(Pull(ROOM, after=0))
    told(eve)
    assert told(bob) == []
    svc.publish("2", "room:7").publish("3", "room:8").publish("4", "room:7")
    rig.pass_ms(50)
    assert told(bob) == [[("7", 0, 5), ("8", 0, 4)]]
    assert told(eve) == [[("7", 0, 5)]]
    rig.advance(1)
    assert told(bob) == []


@pytest.mark.parametrize(("readers", "spread"), [(1, 0), (10, 1), (5_000, 500), (10**6, 10_000)])
def test_the_spread_grows_with_the_room(readers: int, spread: int) -> None:
    assert spread_ms(readers) == spread


def test_a_room_that_grows_is_told_by_notices_and_sent_to_again_below_80_percent() -> None:
    rig, svc, *members = rig_with(*"abcde", set={"rooms.classes": ("*: tick=0ms notify_above=5",)})
    svc.publish("1", "room:7")
    assert all(bodies(member) == ["1"] for member in members)
    extra = rig.login("f").send(Subscribe(ROOM))
    svc.publish("2", "room:7")
    assert all(len(told(member)) == 1 and bodies(member) == [] for member in (*members, extra))
    late = rig.login("g").send(Subscribe(ROOM))
    assert late.of(Subscribed)[0].mode is Mode.NOTIFY
    for gone in (late, extra, members.pop()):
        gone.cut()
    svc.publish("3", "room:7")
    assert all(bodies(member) == [] for member in members)  # 4 are 80 %
    members.pop().cut()
    svc.publish("4", "room:7")
    for member in members:
        (deliver,) = member.of(Deliver)
        assert (deliver.after, deliver.upto) == (3, 4)
        member.take()
        member.send(Pull(ROOM, after=1))
        assert bodies(member) == ["1", "2", "3", "4"]
        assert told(member) == []


def test_who_was_behind_when_the_room_grew_pulls_like_the_others() -> None:
    rig, svc, a, _b = rig_with("a", "b", set={"rooms.classes": ("*: tick=0ms notify_above=2",)})
    clog(rig, a)
    svc.publish("1", "room:7")
    rig.login("c").send(Subscribe(ROOM))
    svc.publish("2", "room:7")
    room = rig.hub.rooms.audiences[ROOM]
    assert not room.lags
    a.take()
    a.read_on()
    assert a.of(Deliver) == []
    assert told(a) == [[("7", 0, 2)]]


def test_everyone_may_be_told_so() -> None:
    rig, svc, bob = rig_with(
        "bob", set={"rooms.classes": ("?*:", ":".join(("*", " tick=0ms notify_above=1")))}
    )
    svc.publish("1", "all")
    rig.settle()
    assert [one.heads[0].address for one in bob.of(Notify)] == [ALL]
    rig.advance(45)
    assert len(bob.of(Notify)) == 3
    assert bob.of(Unsubscribed) == []
    svc.publish("2", "all")
    assert len(bob.of(Notify)) == 4
    bob.send(Pull(ALL))
    assert bodies(bob) == ["1", "2"]


def test_who_comes_back_is_told_what_it_missed() -> None:
    rig, svc, bob = notified()
    svc.publish("1", "room:7")
    bob.send(Pull(ROOM))
    epoch = bob.of(Deliver)[0].epoch
    bob.cut()
    svc.publish("2", "room:7")
    point = ResumePoint(ROOM, 0, epoch, 1, Mode.NOTIFY)
    bob = rig.login("bob", resume=(point,))
    assert [type(frame) for frame in bob.frames] == [Welcome, Notify]
    assert told(bob) == [[("7", 0, 2)]]
    bob.send(Subscribe(ROOM, Mode.NOTIFY, 0, epoch, 1))
    assert told(bob) == []  # that one is unanswered
    bob.send(Pull(ROOM, after=1)).send(Subscribe(ROOM, Mode.NOTIFY, 0, epoch, 1))
    assert told(bob) == [[("7", 0, 2)]]
    svc.publish("3", "room:7")
    assert told(bob) == []


def test_the_mode_may_change() -> None:
    _, svc, bob = notified()
    bob.send(Subscribe(ROOM, Mode.PUSH))
    assert bob.of(Subscribed)[-1].mode is Mode.PUSH
    svc.publish("1", "room:7")
    assert bodies(bob) == ["1"]
    bob.send(Subscribe(ROOM, Mode.NOTIFY))
    svc.publish("2", "room:7")
    assert len(told(bob)) == 1


def test_a_clogged_link_is_told_when_it_is_writable_and_nothing_is_expected_before() -> None:
    rig, svc, bob = notified()
    clog(rig, bob)
    svc.publish("1", "room:7")
    svc.publish("g", "room:7", lane=1)
    rig.advance(25)
    assert rig.counters.room_notifies == 0
    bob.take()
    bob.read_on()
    assert told(bob) == [[("7", 1, 2), ("7", 0, 1)]]
    rig.advance(9)
    assert told(bob) == []
    rig.advance(1.5)
    assert told(bob) == [[("7", 1, 2), ("7", 0, 1)]]  # from here on it is waited for
    clog(rig, bob)
    rig.hub.rooms.attendance._notices.tell_one(rig.hub.rooms.audiences[ROOM], rig.session("bob"), ((0, 0),))
    assert told(bob) == []


def test_a_clogged_link_is_told_of_all_its_rooms_at_once() -> None:
    rig, svc, bob = notified()
    bob.send(Subscribe(OTHER, Mode.NOTIFY))
    clog(rig, bob)
    svc.publish("1", "room:7")
    rig.pass_ms(1_000)
    svc.publish("2", "room:8")
    rig.pass_ms(1_000)
    bob.take()
    bob.read_on()
    assert told(bob) == [[("7", 0, 1), ("8", 0, 2)]]


def test_who_is_sent_messages_again_is_not_told_of_what_it_was_clogged_for() -> None:
    rig, svc, bob = notified()
    clog(rig, bob)
    svc.publish("1", "room:7")
    room = rig.hub.rooms.audiences[ROOM]
    assert list(room.unheard) == [rig.session("bob")]
    del room.notified[rig.session("bob")]
    bob.take()
    bob.read_on()
    assert told(bob) == []
    assert bodies(bob) == ["1"]  # it is sent that instead
    assert not room.unheard
    room.notified[rig.session("bob")] = None
    clog(rig, bob)
    svc.publish("2", "room:7")
    assert room.unheard
    bob.cut()
    assert not room.unheard


def test_repeats_wait_for_a_round_that_goes_on(monkeypatch: Any) -> None:
    slices_of(1, monkeypatch)
    rig, svc = rig_with(set=QUICK)
    names = "abc"
    members = [rig.login(name).send(Subscribe(ROOM, Mode.NOTIFY)) for name in names]
    svc.publish("1", "room:7")
    rig.advance(5)
    members[2].send(Pull(ROOM))
    svc.publish("2", "room:7")
    room = rig.hub.rooms.audiences[ROOM]
    for member in members:
        told(member)
    rig.advance(4.75)
    rig.hub.rooms.rounds._line.append(rig.hub.rooms.audiences[ALL])
    rig.node.publish(Publish("3", (ROOM,)), "svc")  # a round that has served nobody: another stands before it
    assert room.round is not None
    rig.hub.rooms.attendance._notices._wake(room, rig.clock.seconds() + 0.5)
    assert [asked.times for asked in room.unanswered.values()] == [1, 1, 1]
    assert room.armed
    rig.advance(1)
    assert [len(told(member)) for member in members] == [1, 1, 0]
    assert list(room.unanswered) == [rig.session("c"), rig.session("a"), rig.session("b")]
    assert [asked.times for asked in room.unanswered.values()] == [1, 2, 2]


def test_a_codec_that_raises_costs_nobody_else_anything(flush_logged_errors: Any) -> None:
    rig, svc, _bob = notified()
    eve = rig.login("eve").send(Subscribe(ROOM, Mode.NOTIFY))
    rig.session("bob").form = Form("", True, 1, rig.counters)

    class Broken:
        wire = "broken"

        def encode(self, frame: Any) -> bytes:
            raise ZeroDivisionError

    rig.session("bob").link.codec = Broken()
    svc.publish("1", "room:7")
    assert len(told(eve)) == 1
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_notice_of_nothing_is_none() -> None:
    broker = FakeBroker()
    rig = Rig(broker)
    bob = rig.login("bob").send(Subscribe(ROOM, Mode.NOTIFY))
    room = rig.hub.rooms.audiences[ROOM]
    rig.hub.rooms.attendance._notices.tell_one(room, rig.session("bob"), ())
    rig.settle()
    assert bob.of(Notify) == []
    broker.listener.arrived(LogKey(ROOM), EPOCH, 0, 1, (entry(1),))
    rig.settle()
    bob.cut()
    assert not room.unanswered


def members(mode: Mode, *users: str) -> tuple[Any, ...]:
    """A rig whose rooms have ticks, a service, and those who are in the room."""
    rig = Rig("memory")
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    return (rig, rig.login("svc"), *(rig.login(user).send(Subscribe(ROOM, mode)) for user in users))


def live(rig: Any, seconds: int, *peers: Any) -> None:
    """Time passes; nobody falls silent."""
    for _ in range(seconds // 5):
        rig.advance(5)
        for peer in peers:
            peer.send(Ping(1))


def test_who_pulled_ahead_of_the_round_is_not_thrown_out_for_not_pulling() -> None:
    rig, svc, bob = members(Mode.NOTIFY, "bob")
    told = bob.of(Subscribed)[0]
    inbox = Inbox(decode_message)
    log = LogKey(ROOM)
    inbox.resumed(Resumed(ROOM, 0, told.epoch, told.position, told.head))
    svc.publish("1", "room:7")  # at once
    svc.publish("2", "room:7")  # waits for the tick
    (notify,) = bob.of(Notify)
    assert inbox.told(log, notify.heads[0].epoch, notify.heads[0].head)
    bob.take()
    pull = inbox.catch_up(log)
    bob.send(pull)
    (deliver,) = bob.of(Deliver)
    assert inbox.answered(deliver, pull) is None  # it has both, and wants no more
    assert bob.shown() == ["1", "2"]
    bob.take()
    live(rig, 60, svc, bob)
    asked = [inbox.told(log, one.heads[0].epoch, one.heads[0].head) for one in bob.of(Notify)]
    assert not any(asked)  # our own client has nothing to pull
    assert bob.of(Unsubscribed) == []


def test_who_leaves_and_comes_within_a_tick_is_not_told_of_what_was_said_before() -> None:
    rig, svc, bob = notified(set={"rooms.classes": ("*: tick=1s",)})
    rig.login("eve").send(Subscribe(ROOM))
    svc.publish("1", "room:7")
    svc.publish("2", "room:7")  # waits for the tick
    bob.send(Pull(ROOM, after=0))
    assert bob.shown() == ["1", "2"]
    bob.take()
    bob.send(Unsubscribe(ROOM), Subscribe(ROOM, Mode.NOTIFY))
    (subscribed,) = bob.of(Subscribed)
    assert (subscribed.position, subscribed.head) == (2, 2)
    rig.advance(1)
    assert told(bob) == []
    svc.publish("3", "room:7")
    rig.advance(1)
    assert told(bob) == [[("7", 0, 3)]]
    bob.send(Pull(ROOM, epoch=subscribed.epoch, after=subscribed.position))
    assert bob.shown()[-1] == "3"


def test_who_went_from_notices_to_pushes_is_not_thrown_out_for_not_pulling() -> None:
    rig, svc, bob = members(Mode.NOTIFY, "bob")
    told = bob.of(Subscribed)[0]
    svc.publish("1", "room:7")
    assert len(bob.of(Notify)) == 1
    bob.send(Subscribe(ROOM, Mode.PUSH, 0, told.epoch, told.position))
    assert bob.shown() == ["1"]
    live(rig, 60, svc, bob)
    assert len(bob.of(Notify)) == 1
    assert bob.of(Unsubscribed) == []


def test_who_went_from_notices_to_pushes_is_sent_what_it_has_not_pulled_in_either_lane() -> None:
    rig, svc, bob = notified(set={"rooms.classes": ("*: tick=1s",)})
    svc.publish("chat", "room:7")  # told of at once
    svc.publish("gift", "room:7", lane=1)  # waits for the tick, and then for the pull of the other
    rig.advance(1)
    assert told(bob) == [[("7", 0, 1)]]
    bob.send(Subscribe(ROOM, Mode.PUSH, 0, rig.hub.rooms.audiences[ROOM].lanes[0].epoch, 1))
    rig.advance(60)
    assert [bodies(bob, 0), bodies(bob, 1)] == [[], ["gift"]]  # it said that it has the first
    assert bob.of(Notify) == bob.of(Unsubscribed) == []


@pytest.mark.parametrize("pulled", [0, 32])
def test_who_went_to_pushes_amid_its_pulls_is_sent_the_rest(pulled: int) -> None:
    rig, svc, bob = notified()
    for number in range(40):
        svc.publish(str(number), "room:7", lane=1)
    epoch = rig.hub.rooms.audiences[ROOM].lanes[1].epoch
    rig.advance(20)  # told again, of all
    bob.take()
    if pulled:
        bob.send(Pull(ROOM, 1, epoch))  # a block, and there is more
        assert len(bodies(bob)) == pulled
    bob.send(Subscribe(ROOM, Mode.PUSH))
    rig.advance(60)
    assert bodies(bob, 1) == [str(number) for number in range(pulled, 40)]
    assert bob.of(Notify) == bob.of(Unsubscribed) == []


def test_who_went_to_pushes_with_a_clogged_link_is_sent_what_it_was_not_told_of() -> None:
    rig, svc, bob = notified()
    clog(rig, bob)
    svc.publish("1", "room:7")
    svc.publish("g", "room:7", lane=1)
    bob.send(Subscribe(ROOM, Mode.PUSH))
    bob.take()
    bob.read_on()
    rig.advance(1)
    assert [bodies(bob, 0), bodies(bob, 1)] == [["1"], ["g"]]
    svc.publish("2", "room:7")
    assert bodies(bob) == ["2"]


def test_whom_the_business_moves_to_pushes_begins_where_it_has_pulled_to() -> None:
    rig, svc, bob = notified()
    svc.publish("1", "room:7")
    bob.send(Pull(ROOM))
    svc.publish("2", "room:7")
    bob.take()
    rig.node.join(rig.session("bob").key, ROOM, Mode.PUSH)
    rig.settle()
    assert [(one.lane, one.position) for one in bob.of(Subscribed)] == [(1, 0), (0, 1)]
    rig.advance(1)
    assert bodies(bob) == ["1", "2"]  # a block: its client drops what is not beyond its position


def test_who_was_told_of_another_ring_is_sent_all_of_the_one_that_there_is() -> None:
    rig, svc, bob = notified()
    svc.publish("1", "room:7")
    svc.publish("2", "room:7")
    room = rig.hub.rooms.audiences[ROOM]
    told = room.unanswered[rig.session("bob")]
    told.heads = tuple([(epoch - 1, 7) for epoch, _ in told.heads])
    bob.take()
    bob.send(Subscribe(ROOM, Mode.PUSH))
    rig.advance(1)
    assert bodies(bob) == ["1", "2"]


def test_a_pull_under_a_flood_does_not_count_the_room() -> None:
    rig, svc, bob, *_ = members(Mode.NOTIFY, "bob", "eve", "dan")
    room = rig.hub.rooms.audiences[ROOM]
    svc.publish("1", "room:7")
    for n in range(2, 80):
        svc.publish(str(n), "room:7")
    rig.pass_ms(100)
    looked = 0

    class Members(dict[Any, None]):
        def __iter__(self) -> Any:
            nonlocal looked
            for one in dict.__iter__(self):
                looked += 1
                yield one

    room.members = Members(room.members)
    bob.send(Pull(ROOM, 0, bob.of(Notify)[0].heads[0].epoch, 0, 64))
    assert looked == 0


def test_the_first_notice_of_all_loses_nothing_without_a_gap() -> None:
    rig = Rig("memory", set={"rooms.classes": ("*: notify_above=1 tick=50ms",)})
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    svc = rig.login("svc")
    svc.publish("old", "all", lane=1)
    rig.advance(1)
    bob = rig.login("bob")
    inbox = Inbox(decode_message)
    inbox.linked(bob.of(Welcome)[0].resumed)
    bob.take()
    rig.hub.rooms.audiences[parse_address("all")].last = rig.clock.seconds()  # within a tick of a round
    svc.publish("1", "all")
    svc.publish("2", "all")
    rig.pass_ms(60)
    (notify,) = bob.of(Notify)
    for told in notify.heads:
        log = LogKey(told.address, told.lane)
        if inbox.told(log, told.epoch, told.head, told.after):
            pull: Any = inbox.catch_up(log)
            while pull is not None:
                bob.take()
                bob.send(pull)
                pull = inbox.answered(bob.of(Deliver)[0], pull)
    shown = []
    while (item := inbox.next()) is not None:
        shown.append(getattr(getattr(item.what, "message", None), "msg_id", "gap"))
        inbox.take(item)
    assert shown == ["1", "2"]


def test_a_lane_without_news_is_told_only_when_it_has_some() -> None:
    rig, svc, bob = notified()
    svc.publish("1", "room:7", lane=1)
    (first,) = bob.of(Notify)
    epoch = first.heads[0].epoch
    bob.take()
    bob.send(Pull(ROOM, 1, epoch, 0, 64))
    svc.publish("2", "room:7")
    assert told(bob) == [[("7", 0, 2)]]
    svc.publish("3", "room:7", lane=1)
    assert told(bob) == []
    live(rig, 15, svc, bob)
    assert bob.of(Notify)[0].heads == (
        Told(ROOM, 1, epoch, 3, 1),
        Told(ROOM, 0, epoch, 2, 0),
    )


def test_who_pulled_ahead_in_one_room_is_not_told_of_it_with_another() -> None:
    rig, svc, bob = members(Mode.NOTIFY, "bob")
    bob.send(Subscribe(OTHER, Mode.NOTIFY))
    svc.publish("1", "room:7")
    svc.publish("2", "room:7")  # waits for the tick
    bob.send(Pull(ROOM, 0, bob.of(Notify)[0].heads[0].epoch, 0, 64))
    assert bob.shown() == ["1", "2"]
    bob.take()
    svc.publish("3", "room:8")
    assert told(bob) == [[("8", 0, 3)]]
    rig.pass_ms(100)
    assert told(bob) == []
    svc.publish("4", "room:7")
    rig.pass_ms(100)
    assert rig.hub.rooms.audiences[ROOM].ahead == {}
    assert told(bob) == [[("7", 0, 4)]]


def test_who_cannot_pull_is_sent_the_messages_of_a_large_room() -> None:
    rig, svc, bob, eve = rig_with("bob", "eve", set={"rooms.classes": ("*: tick=0ms notify_above=2",)})
    deaf = rig.login("deaf", wire=AsciiWire(ranges=True, pulls=False)).send(Subscribe(ROOM))
    assert deaf.of(Subscribed)[0].mode is Mode.PUSH
    for text in "123":
        svc.publish(text, "room:7")
        rig.advance(1)
    assert rig.hub.rooms.audiences[ROOM].telling
    assert bodies(deaf) == ["1", "2", "3"]
    assert len(told(bob)) == len(told(eve)) == 1
    # What it could not take at once it reads, as in a small room: a block, of which it shows what is new.
    clog(rig, deaf)
    svc.publish("4", "room:7").publish("5", "room:7")
    assert bodies(deaf) == []
    deaf.read_on()
    assert bodies(deaf) == ["1", "2", "3", "4", "5"]
    rig.advance(45)
    assert deaf.of(Notify) == deaf.of(Unsubscribed) == []  # it was asked nothing, so it owes nothing
    assert bob.of(Unsubscribed)


def test_who_cannot_pull_cannot_ask_for_notices() -> None:
    rig, svc, _bob = rig_with("bob", set=QUICK)
    deaf = rig.login("deaf", wire=AsciiWire(ranges=True, pulls=False)).send(Subscribe(ROOM, Mode.NOTIFY))
    assert deaf.of(Subscribed)[0].mode is Mode.PUSH
    svc.publish("1", "room:7")
    assert bodies(deaf) == ["1"]


@pytest.mark.parametrize("where", ["all", "area:games"])
def test_who_cannot_pull_is_sent_what_all_are_told_of(where: str) -> None:
    classes = ("?*: tick=0ms notify_above=1", ":".join(("*", " tick=0ms notify_above=1")))
    rig, svc, bob = rig_with("bob", room=parse_address("room:games.7"), set={"rooms.classes": classes})
    deaf = rig.login("deaf", wire=AsciiWire(ranges=True, pulls=False))
    for room in ("games.7", "games.8"):
        deaf.send(Subscribe(parse_address(f"room:{room}")))
    svc.publish("1", where)
    rig.settle()
    assert bodies(deaf) == ["1"]
    assert len(told(bob)) == 1
    assert deaf.of(Notify) == bodies(bob) == []


@pytest.mark.parametrize("version", [4, 5])
def test_a_client_of_mqtt_stays_in_a_large_room(version: int) -> None:
    rig, svc, *_ = rig_with("bob", "eve", set={"rooms.classes": ("*: tick=0ms notify_above=2",)})
    device = rig.connect(MqttAdapter(0, lambda: rig.wall_ms))
    heard: list[bytes] = []
    device.received = heard.append
    device.raw(mqtt.connect(version, client_id="phone", token=b"ann"))
    device.raw(mqtt.subscribe(("room/7", 0), v5=version == 5))
    heard.clear()
    svc.publish("1", "room:7", body=b"first")
    rig.advance(45)
    svc.publish("2", "room:7", body=b"second")
    assert [data.endswith(end) for data, end in zip(heard, (b"first", b"second"), strict=True)] == [True] * 2
