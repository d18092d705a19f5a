"""Rooms: who is in one, what they are sent and when, and what becomes of who is slow or away."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import CancelledError
from zope.interface.verify import verifyObject

from imgateway.auth.policy import DefaultPolicy
from imgateway.client.inbox import Inbox
from imgateway.core.session import Session
from imgateway.errors import CloseCode
from imgateway.frames import (
    Address,
    Batch,
    Bye,
    Deliver,
    LogKey,
    Mode,
    OutcomeCode,
    Publish,
    PublishAck,
    Pull,
    Refused,
    RefusedCode,
    Resumed,
    ResumePoint,
    SessionKey,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    Welcome,
    log_of,
    parse_address,
)
from imgateway.interfaces import IBrokerListener, Identity, IGateway
from imgateway.node.rounds import SLICE
from imgateway.node.shares import Shelf
from imgateway.protocols.native import NativeAdapter
from imgateway.wire.messages import decode_message
from tests.node.rig import EPOCH, AsciiWire, Diary, FakeBroker, Peer, Rig, entry

ROOM, OTHER, GAMES = (parse_address(text) for text in ("room:7", "room:8", "room:games.7"))
ALL, AREA = parse_address("all"), parse_address("area:games")
BOB = SessionKey("bob", "phone")


QUICK = ("*: tick=0ms",)


def rig_with(*users: str, room: Address = ROOM, broker: Any = "memory", **options: Any) -> tuple[Any, ...]:
    """A rig with a service and users who are in a room; nothing that they got until then is left."""
    rig = Rig(broker, **options)
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    peers = [rig.login("svc"), *(rig.login(user).send(Subscribe(room)) for user in users)]
    for peer in peers:
        assert not peer.of(Refused)
        peer.take()
    return (rig, *peers)


def bodies(peer: Peer, lane: int | None = None) -> list[str]:
    """The ids of what it was delivered in rooms, and forget it."""
    found = [one for one in peer.of(Deliver) if lane is None or one.lane == lane]
    peer.frames = [one for one in peer.frames if one not in found]
    shown = Peer.__new__(Peer)
    shown.frames = found  # type: ignore[assignment]
    return shown.shown()


def slices_of(members: int, monkeypatch: Any) -> None:
    """A turn serves so many members, and beginnings cost nothing."""
    monkeypatch.setattr("imgateway.node.rounds.SLICE", members)
    monkeypatch.setattr("imgateway.node.rounds.BEGIN", 0)


def broker_members(rig: Rig, address: Address = ROOM) -> int:
    found: list[int] = []
    rig.node.members(address).addCallback(found.append)
    return found[0]


# ------------------------------------------------------------------------------------ to be in, and not to be


def test_the_hub_and_the_node_are_what_they_say() -> None:
    rig = Rig("memory")
    assert verifyObject(IBrokerListener, rig.hub)
    assert verifyObject(IGateway, rig.node)


def test_a_member_is_sent_what_is_published_and_so_is_its_sender() -> None:
    rig, _, bob, eve = rig_with("bob", "eve")
    bob.publish("1", "room:7", body=b"hello")
    assert bob.of(PublishAck)[0].outcomes[0].code == OutcomeCode.OK
    for peer in (bob, eve):
        (deliver,) = peer.of(Deliver)
        assert (deliver.address, deliver.lane, deliver.upto, deliver.gap) == (ROOM, 0, 1, False)
        assert bodies(peer) == ["1"]
    assert rig.counters.room_deliveries == 2
    assert rig.counters.room_rounds == rig.counters.room_slices == 1


def test_subscribed_says_where_it_goes_on() -> None:
    rig, svc, bob = rig_with("bob")
    svc.publish("1", "room:7").publish("2", "room:7", lane=1)
    rig.advance(1)
    eve = rig.login("eve").send(Subscribe(ROOM, Mode.NOTIFY, lane=1))
    assert eve.of(Subscribed) == [
        Subscribed(ROOM, 0, bob.of(Deliver)[0].epoch, 2, False, Mode.NOTIFY, lane=1, position=2)
    ]
    eve.take()
    eve.send(Subscribe(ROOM, lane=0))
    assert [(one.head, one.mode, one.position) for one in eve.of(Subscribed)] == [(1, Mode.PUSH, 1)]
    assert eve.of(Deliver) == []


@pytest.mark.parametrize("qos", [0, 1])
def test_who_is_not_in_a_room_may_not_publish_to_it(qos: int) -> None:
    rig, _, bob = rig_with("bob")
    eve = rig.login("eve")
    rig.tokens.identities["dan"] = Identity("dan", claims={"rooms": ["7"]})
    dan = rig.login("dan")
    eve.publish("1", "room:7", qos=qos)
    dan.publish("2", "room:7", qos=qos)
    bob.publish("3", "room:7", qos=qos)
    rig.advance(1)
    assert bodies(bob) == ["2", "3"]
    if qos:
        assert eve.of(PublishAck)[0].outcomes[0].code == OutcomeCode.FORBIDDEN
    bob.send(Unsubscribe(ROOM))
    assert bob.of(Unsubscribed) == [Unsubscribed(ROOM, UnsubscribedCode.ASKED)]
    bob.publish("4", "room:7", qos=qos)
    dan.publish("5", "room:7", qos=qos)
    assert bodies(bob) == []


def test_unsubscribe_is_final_and_may_be_repeated() -> None:
    diary = Diary()
    rig, svc, bob = rig_with("bob", listeners=[diary])
    bob.send(Unsubscribe(ROOM), Unsubscribe(ROOM))
    assert len(bob.of(Unsubscribed)) == 2
    svc.publish("1", "room:7")
    assert bob.of(Deliver) == []
    assert diary.events[-2:] == [("entered", "phone", ROOM), ("left", "phone", ROOM)]
    assert ROOM not in rig.hub.rooms.audiences
    assert rig.session("bob").rooms == ()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("area:games", "what is sent to an area or to all comes by itself"),
        ("all", "what is sent to an area or to all comes by itself"),
        ("user:bob", "your mailbox comes by itself"),
        ("node:n", "only rooms, topics and services are subscribed to"),
    ],
)
def test_what_cannot_be_subscribed_to(address: str, why: str) -> None:
    _, _, bob = rig_with("bob")
    bob.send(Subscribe(parse_address(address)), Unsubscribe(parse_address(address)))
    assert [(one.frame, one.id, one.code, one.reason) for one in bob.of(Refused)] == [
        (name, address, RefusedCode.NOT_SUPPORTED, why) for name in ("subscribe", "unsubscribe")
    ]


def test_the_policy_is_asked() -> None:
    class Club(DefaultPolicy):
        def may(self, identity: Identity, action: str, address: Address) -> bool:
            return action != "subscribe" or address != ROOM

    rig = Rig("memory", policy=Club())
    bob = rig.login("bob").send(Subscribe(ROOM), Subscribe(OTHER))
    assert [(one.id, one.code) for one in bob.of(Refused)] == [("room:7", RefusedCode.FORBIDDEN)]
    assert [one.address for one in bob.of(Subscribed)] == [OTHER]
    points = tuple(ResumePoint(one, 0, 1, 0) for one in (ROOM, OTHER))
    again = rig.login("bob", resume=points)
    assert {one.address for one in again.of(Welcome)[0].resumed[1:]} == {OTHER}


def test_a_session_is_in_so_many_rooms_at_most() -> None:
    rig = Rig("memory", set={"limits.rooms": 2})
    bob = rig.login("bob").send(*(Subscribe(parse_address(f"room:{n}")) for n in (1, 2, 3, 2)))
    assert [(one.id, one.code) for one in bob.of(Refused)] == [("room:3", RefusedCode.RATE)]
    assert len(bob.of(Subscribed)) == 3
    bob.send(Unsubscribe(parse_address("room:1")), Subscribe(parse_address("room:3")))
    assert len(bob.of(Subscribed)) == 4
    points = tuple(ResumePoint(parse_address(f"room:{n}"), 0, 1, 0) for n in (4, 5, 6))
    assert len(rig.login("eve", resume=points).of(Welcome)[0].resumed) == 1 + 2 * 2


def test_who_subscribes_too_often_waits() -> None:
    rig = Rig("memory", set={"quota.subscribe_rate": 2.0, "quota.subscribe_burst": 3})
    bob = rig.login("bob").send(*(Subscribe(parse_address(f"room:{n}")) for n in range(6)))
    assert bob.of(Welcome)[0].limits.subscribe_rate == 2.0
    assert len(bob.of(Subscribed)) == 4  # one on credit
    assert rig.counters.quota_waits == 1
    rig.advance(0.75)
    assert len(bob.of(Subscribed)) == 5
    rig.advance(3)
    assert len(bob.of(Subscribed)) == 6
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    svc = rig.login("svc").send(*(Subscribe(parse_address(f"room:{n}")) for n in range(9)))
    assert len(svc.of(Subscribed)) == 9


def test_a_slow_broker_holds_the_link_that_asked() -> None:
    broker = FakeBroker()
    rig, _, bob = rig_with("bob", broker=broker)
    broker.hold = {"watch", "join", "leave"}
    bob.send(Subscribe(OTHER), Unsubscribe(ROOM), Subscribe(ROOM))
    assert bob.take() == []
    assert bob.link.paused()
    broker.release("watch")
    rig.settle()
    broker.listener.arrived(LogKey(OTHER, 0), EPOCH, 0, 3, (entry(3),))  # before the other lane is watched
    broker.release("watch")
    rig.settle()
    broker.release("join")
    rig.settle()
    assert [one.position for one in bob.of(Subscribed)] == [3]
    broker.release("leave")
    rig.settle()
    assert [one.address for one in bob.of(Unsubscribed)] == [ROOM]
    broker.release("watch")
    rig.settle()
    broker.release("watch")
    rig.settle()
    bob.cut()
    broker.release("join")  # too late: it waits for its client
    rig.settle()
    assert [room.address for room in rig.session("bob").rooms] == [OTHER, ROOM]


@pytest.mark.parametrize("qos", [0, 1])
def test_what_goes_first_is_not_for_everybody(qos: int) -> None:
    rig, svc, bob, eve = rig_with("bob", "eve")
    rig.tokens.identities["dan"] = Identity("dan", claims={"rooms": ["7"]})
    dan = rig.login("dan")
    bob.publish("1", "room:7", "user:eve", lane=1, qos=qos)
    dan.publish("2", "room:7", lane=1, qos=qos)
    svc.publish("3", "room:7", "all", lane=1, qos=qos)
    rig.advance(1)
    assert bodies(eve, lane=1) == ["2", "3", "3"]
    assert bodies(eve) == ["1"]  # a mailbox has no lanes
    if qos:
        codes = [one.code for one in bob.of(PublishAck)[0].outcomes]
        assert codes == [OutcomeCode.FORBIDDEN, OutcomeCode.OK]


def test_a_policy_may_let_members_publish_first() -> None:
    class Gifts(DefaultPolicy):
        def may(self, identity: Identity, action: str, address: Address) -> bool:
            return action == "publish-first" or super().may(identity, action, address)

    rig, _svc, bob = rig_with("bob", policy=Gifts())
    rig.login("eve").publish("1", "room:7", lane=1)  # is not in it
    bob.publish("2", "room:7", lane=1).publish("3", "all", lane=1)
    rig.advance(1)
    assert bodies(bob, lane=1) == ["2"]


# -------------------------------------------------------------------------------------------- areas, everyone


def test_areas_and_everyone_are_reached_without_subscribing() -> None:
    rig, svc, bob, eve = rig_with("bob", "eve", room=GAMES)
    bob.send(Subscribe(parse_address("room:games.8"))).take()
    dan = rig.login("dan")
    svc.publish("1", "area:games").publish("2", "all").publish("3", "area:chess")
    rig.advance(1)
    assert bodies(bob) == bodies(eve) == ["1", "2"]
    assert bodies(dan) == ["2"]
    assert [broker_members(rig, one) for one in (GAMES, AREA, ALL)] == [2, 2, 4]
    bob.send(Unsubscribe(GAMES))
    eve.send(Unsubscribe(GAMES))
    svc.publish("4", "area:games")
    assert (bodies(bob), bodies(eve)) == (["4"], [])
    bob.send(Unsubscribe(parse_address("room:games.8")))
    assert set(rig.hub.rooms.audiences) == {ALL}


def test_clients_may_not_publish_to_them() -> None:
    _, _, bob = rig_with("bob", room=GAMES)
    bob.publish("1", "area:games", "all")
    assert {one.code for one in bob.of(PublishAck)[0].outcomes} == {OutcomeCode.FORBIDDEN}


def test_their_positions_may_be_named() -> None:
    rig, svc, bob = rig_with("bob", room=GAMES)
    svc.publish("1", "area:games", "all", "room:games.7")
    epoch = bob.of(Deliver)[0].epoch
    bob.cut()
    svc.publish("2", "area:games", "all", "room:games.7")
    rig.advance(1)
    seqs = {one.address: one.upto for one in bob.of(Deliver)}
    points = tuple(ResumePoint(one, 0, epoch, seqs[one]) for one in (ALL, AREA, GAMES))
    stranger = rig.login("dan", resume=(ResumePoint(AREA, 0, epoch, 1), ResumePoint(ALL, 0, epoch, 2)))
    assert {one.address for one in stranger.of(Welcome)[0].resumed[1:]} == {ALL}
    bob = rig.login("bob", resume=points)
    assert {one.address for one in bob.of(Welcome)[0].resumed[1:]} == {ALL, AREA, GAMES}
    rig.advance(1)
    assert set(bodies(bob)) == {"1", "2"}  # blocks have borders of their own
    assert all(one.upto > seqs[one.address] for one in bob.of(Deliver))


# ------------------------------------------------------------------------------------------- rounds and ticks


def test_a_quiet_room_waits_for_nothing_and_a_busy_one_for_its_tick() -> None:
    rig, svc, bob = rig_with("bob")
    rig.clock.advance(1.01)
    svc.publish("1", "room:7")
    assert bodies(bob) == ["1"]
    svc.publish("2", "room:7").publish("3", "room:7").publish("g", "room:7", lane=1)
    assert bodies(bob) == []
    rig.pass_ms(39)
    assert bodies(bob) == []
    rig.pass_ms(2)  # the clock's own tick, not 50 ms after the first
    assert [(one.lane, len(one.entries)) for one in bob.of(Deliver)] == [(1, 1), (0, 2)]
    assert bodies(bob) == ["g", "2", "3"]
    svc.publish("4", "room:7")
    assert bodies(bob) == []
    rig.pass_ms(60)
    assert bodies(bob) == ["4"]
    rig.pass_ms(60)
    svc.publish("5", "room:7")
    assert bodies(bob) == ["5"]


@pytest.mark.parametrize("is_put", [False, True])
def test_who_comes_in_within_a_tick_begins_after_what_was_said_before(is_put: bool) -> None:
    rig, svc, bob = rig_with("bob", set={"rooms.classes": ("*: tick=1s",)})
    svc.publish("1", "room:7").publish("2", "room:7").publish("g", "room:7", lane=1)
    assert bodies(bob) == ["1"]
    eve = rig.login("eve")
    if is_put:
        rig.node.join(SessionKey("eve", "phone"), ROOM)
        rig.settle()
    else:
        eve.send(Subscribe(ROOM))
        svc.publish("h", "room:7", lane=1)  # that is for it already
        eve.send(Subscribe(ROOM, lane=1))
    places = {one.lane: (one.epoch, one.position) for one in eve.of(Subscribed)}
    inbox = Inbox(decode_message)
    for one in eve.of(Subscribed):
        inbox.resumed(Resumed(ROOM, one.lane, one.epoch, one.position, one.head))
    assert {lane: place[1] for lane, place in places.items()} == {0: 2, 1: 3}
    svc.publish("3", "room:7")
    rig.advance(1)
    for frame in eve.of(Deliver):
        assert frame.after < places[frame.lane][1]  # as everybody gets it, and without a hole
        assert inbox.deliver(frame) is None
    shown = []
    while item := inbox.next():
        shown.append(item.what.message.msg_id)
    assert shown == ([] if is_put else ["h"]) + ["3"]
    assert bodies(bob) == ["g", *([] if is_put else ["h"]), "2", "3"]
    assert rig.hub.rooms.audiences[ROOM].came == {}


def test_who_comes_in_while_something_is_read_for_the_others_begins_after_that() -> None:
    broker, log = FakeBroker(), LogKey(ROOM)
    rig, _, bob = rig_with("bob", broker=broker)
    broker.hold = {"read"}
    broker.store(log, entry(1), entry(2), tell=False)
    broker.listener.moved(log, EPOCH, 2)
    broker.hold = set()
    eve = rig.login("eve").send(Subscribe(ROOM))
    assert [(one.position, one.head) for one in eve.of(Subscribed)] == [(2, 2)]
    broker.release("read")
    broker.store(log, entry(3))
    rig.advance(1)
    assert bodies(bob) == ["m1", "m2", "m3"]
    assert [one.seq for frame in eve.of(Deliver) for one in frame.entries if one.seq > 2] == [3]


def test_rooms_share_the_clock_and_classes_have_ticks_of_their_own() -> None:
    classes = ("fast: tick=0ms", "slow-*: tick=1s")
    rig, svc, bob = rig_with("bob", set={"rooms.classes": classes})
    rooms = [parse_address(f"room:{name}") for name in ("fast", "slow-1", "slow-2")]
    bob.send(*map(Subscribe, rooms)).take()
    rig.clock.advance(5.3)
    for number in (1, 2):
        for room in rooms:
            svc.send(Publish(f"{room.id}/{number}", (room,)))
    assert bodies(bob) == ["fast/1", "slow-1/1", "slow-2/1", "fast/2"]
    assert len(rig.hub.rooms.rounds._ticks) == 1
    rig.pass_ms(700)
    assert bodies(bob) == ["slow-1/2", "slow-2/2"]


def test_a_round_goes_in_slices_and_what_came_meanwhile_is_the_next(monkeypatch: Any) -> None:
    slices_of(2, monkeypatch)
    users = [f"u{n}" for n in range(5)]
    rig, _svc, *members = rig_with(*users, set={"rooms.classes": ("*: tick=0ms",)})
    rounds = rig.hub.rooms.rounds
    rounds._left = 2
    sent: list[list[int]] = []

    def note() -> None:
        sent.append([len(member.server.sent) for member in members])

    broker, room = rig.broker, rig.hub.rooms.audiences[ROOM]
    before = [len(member.server.sent) for member in members]
    publish = rig.node.publish
    publish(Publish("1", (ROOM,)), "svc")
    note()
    publish(Publish("2", (ROOM,)), "svc")
    publish(Publish("g", (ROOM,), lane=1), "svc")
    for _ in range(6):
        rig.turn()
        note()
    served = [[now - then for now, then in zip(row, before, strict=True)] for row in sent]
    assert served == [
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [3, 1, 1, 1, 1],  # the next round has both lanes
        [3, 3, 3, 1, 1],
        [3, 3, 3, 3, 3],
        *[[3, 3, 3, 3, 3]] * 2,
    ]
    rig.settle()
    assert room.round is None
    for member in members:
        assert [(one.lane, len(one.entries)) for one in member.of(Deliver)] == [(0, 1), (1, 1), (0, 1)]
        assert bodies(member) == ["1", "g", "2"]
    assert broker is rig.broker


def test_rooms_take_turns(monkeypatch: Any) -> None:
    slices_of(2, monkeypatch)
    users = [f"u{n}" for n in range(5)]
    rig, _svc, *members = rig_with(*users, set={"rooms.classes": ("*: tick=0ms",)})
    eve = rig.login("eve").send(Subscribe(OTHER))
    rig.hub.rooms.rounds._left = 2
    rig.node.publish(Publish("1", (ROOM,)), "svc")
    rig.node.publish(Publish("2", (OTHER,)), "svc")
    rig.turn()
    rig.turn()
    before = len(rig.hub.rooms.rounds._line)
    rig.settle()
    assert before <= 1
    assert bodies(eve) == ["2"]
    assert all(bodies(member) == ["1"] for member in members)


def test_who_leaves_or_comes_while_a_round_goes_on(monkeypatch: Any) -> None:
    slices_of(1, monkeypatch)
    rig, svc, *members = rig_with("a", "b", "c", "d", set={"rooms.classes": ("*: tick=0ms",)})
    rig.hub.rooms.rounds._left = 1
    rig.node.publish(Publish("1", (ROOM,)), "svc")  # to the first
    sessions = [rig.session(name) for name in "abcd"]
    rig.hub.rooms.stays.leave(sessions[1], ROOM)
    rig.hub.rooms.stays.leave(sessions[2], ROOM)
    rig.hub.rooms.stays.put(sessions[2], ROOM, Mode.PUSH)
    members[3].link.drop(CloseCode.LOST, "cut")
    rig.settle()
    assert [bodies(member) for member in members[:3]] == [["1"], [], []]
    svc.publish("2", "room:7")
    rig.advance(1)
    assert [bodies(member) for member in members[:3]] == [["2"], [], ["2"]]
    _, subscribed = members[2].of(Subscribed)
    assert subscribed.position == 1


def test_the_frames_of_a_round_are_made_once_for_a_kind_of_link(monkeypatch: Any) -> None:
    made: list[str] = []
    rig, svc, *_ = rig_with("a", "b", "c")
    for user, wire in (("d", None), ("e", AsciiWire("one")), ("f", AsciiWire("one"))):
        rig.login(user, wire=wire).send(Subscribe(ROOM))
    alone = AsciiWire("alone")
    rig.login("g", wire=alone).send(Subscribe(ROOM))
    rig.session("g").link.codec.wire = ""
    rig.session("g").form = rig.node.login._forms.of(rig.session("g").link, ())
    say = rig.hub.delivery.say
    monkeypatch.setattr(
        rig.hub.delivery, "say", lambda *what: (made.append(what[0].codec.wire), say(*what))[1]
    )
    svc.publish("1", "room:7")
    assert sorted(made) == ["", "native/stream", "one"]


@pytest.mark.parametrize(
    ("offered", "allowed", "used"),
    [
        (("zstd", "br"), ("zstd", "br"), "zstd"),
        (("br", "zstd"), ("zstd", "br"), "br"),
        (("zstd", "br"), ("br",), "br"),
        (("lzma",), ("zstd", "br"), ""),
        (("zstd",), (), ""),
    ],
)
def test_what_is_compressed_is_agreed_at_the_login(offered: Any, allowed: Any, used: str) -> None:
    rig, svc, plain = rig_with("plain", set={"compression.algorithms": allowed})
    bob = rig.login("bob", compressions=offered).send(Subscribe(ROOM))
    svc.publish("1", "room:7", body=b"la" * 1000)
    rig.advance(1)
    assert bob.of(Deliver)[-1].compression == used
    assert plain.of(Deliver)[-1].compression == ""


def test_a_round_that_is_large_is_cut() -> None:
    rig, svc, bob = rig_with("bob")
    svc.publish("0", "room:7")
    for number in range(6):
        svc.publish(str(number + 1), "room:7", body=b"x" * 20_000)
    rig.advance(1)
    frames = bob.of(Deliver)
    assert [(one.after, one.upto, len(one.entries)) for one in frames] == [
        (0, 1, 1),
        (1, 3, 2),
        (3, 5, 2),
        (5, 7, 2),
    ]


def test_what_a_wire_cannot_say_is_told_as_a_gap() -> None:
    rig, svc, bob = rig_with("bob")
    eve = rig.login("eve", wire=AsciiWire(ranges=True)).send(Subscribe(ROOM))
    svc.publish("0", "room:7")
    for number, body in enumerate((b"a", b"\xff", b"b")):
        svc.publish(str(number + 1), "room:7", body=body)
    rig.advance(1)
    assert bodies(bob) == ["0", "1", "2", "3"]
    assert [(one.after, one.upto, one.gap, len(one.entries)) for one in eve.of(Deliver)] == [
        (0, 1, False, 1),
        (1, 2, False, 1),
        (2, 3, True, 0),
        (3, 4, False, 1),
    ]
    silent = rig.login("silent", wire=AsciiWire("silent")).send(Subscribe(ROOM))
    svc.publish("4", "room:7", body=b"\xff")
    rig.advance(1)
    assert silent.of(Deliver) == []


def test_nobody_here_costs_nothing() -> None:
    rig, svc, bob = rig_with("bob")
    bob.cut()
    rounds = rig.counters.room_rounds
    svc.publish("1", "room:7")
    rig.advance(1)
    assert rig.counters.room_rounds == rounds


# ------------------------------------------------------------------------------------- those who are behind


def clog(rig: Rig, peer: Peer) -> None:
    """It stops reading, and its socket is full."""
    peer.stop_reading()
    peer.link.send(Bye(0))
    peer.rig.settle()
    assert peer.link.clogged


def test_a_slow_member_catches_up_block_by_block_lane_1_first() -> None:
    rig, svc, bob, eve = rig_with("bob", "eve", set={"rooms.classes": ("*: tick=0ms entries=64",)})
    svc.publish("0", "room:7")
    clog(rig, bob)
    room = rig.hub.rooms.audiences[ROOM]
    for number in range(100):
        svc.publish(str(number + 1), "room:7", lane=int(number % 50 == 49))
    assert len(bodies(eve)) == 101
    assert list(room.lags) == [rig.session("bob")]
    rig.hub.rooms.audiences.measure(rig.counters)
    assert rig.counters.room_lagging == 1
    bob.take()
    bob.read_on()
    frames = bob.of(Deliver)
    assert [(one.lane, one.upto) for one in frames][:1] == [(1, 101)]
    assert [one.gap for one in frames if one.lane == 0] == [True, False, False]
    covered = [(one.after, one.upto) for one in frames if one.lane == 0]
    assert all(first[1] == second[0] for first, second in itertools.pairwise(covered))
    assert covered[-1][1] == 100
    assert not room.lags
    assert rig.counters.room_blocks == len(frames)
    assert rig.counters.gaps_told == 1
    svc.publish("last", "room:7")
    assert bodies(bob)[-1] == "last"


def test_blocks_are_written_once_however_many_read_them(monkeypatch: Any) -> None:
    rig, svc, *members = rig_with("a", "b", "c", set={"rooms.classes": ("*: tick=0ms",)})
    for member in members:
        clog(rig, member)
    for number in range(70):
        svc.publish(str(number), "room:7")
    made: list[Any] = []
    say = rig.hub.delivery.say
    monkeypatch.setattr(rig.hub.delivery, "say", lambda *what: (made.append(what[1].upto), say(*what))[1])
    for member in members:
        member.read_on()
    assert made == [32, 64, 70]
    assert all(len(bodies(member)) == 70 for member in members)


def test_a_turn_that_brings_too_much_is_caught_up_in_the_next() -> None:
    rig, _svc, bob = rig_with(
        "bob", set={"limits.deliver_window_bytes": 100, "rooms.classes": ("*: tick=0ms",)}
    )
    for number in range(5):
        rig.node.publish(Publish(str(number), (ROOM,), body=b"x" * 60), "svc")
    lag = rig.hub.rooms.audiences[ROOM].lags[rig.session("bob")]
    assert lag.places[0] > 0
    rig.settle()
    assert bodies(bob) == ["0", "0", "1", "2", "3", "4"]  # a block's begin was there
    assert not rig.hub.rooms.audiences[ROOM].lags


def test_who_is_behind_and_leaves() -> None:
    rig, svc, bob, _eve = rig_with("bob", "eve", set={"rooms.classes": ("*: tick=0ms",)})
    clog(rig, bob)
    svc.publish("1", "room:7", "all")
    audiences = rig.hub.rooms.audiences
    assert rig.session("bob") in audiences[ROOM].lags
    assert rig.session("bob") in audiences[ALL].lags
    bob.cut()
    assert not audiences[ROOM].lags
    assert not audiences[ALL].lags


@pytest.mark.parametrize(("error", "is_said"), [(RuntimeError("broken"), True), (CancelledError(), False)])
def test_a_read_that_fails_closes_the_link(error: Exception, is_said: bool, flush_logged_errors: Any) -> None:
    """But not when the broker stops: then everybody is sent away."""
    broker = FakeBroker()
    rig, _, bob = rig_with("bob", broker=broker)
    broker.store(LogKey(ROOM), entry(1), entry(2))
    bob.send(Subscribe(ROOM, epoch=EPOCH, seq=1)).take()
    broker.hold = {"read"}
    bob.send(Subscribe(ROOM, epoch=EPOCH, seq=1))
    broker.fail("read", error)
    rig.settle()
    assert bob.code == (CloseCode.INTERNAL_ERROR if is_said else None)
    assert bool(flush_logged_errors(type(error))) is is_said


def test_gone_or_clogged_while_it_is_read_for() -> None:
    broker = FakeBroker()
    rig, _, bob, eve = rig_with("bob", "eve", broker=broker)
    broker.store(LogKey(ROOM), entry(1), entry(2))
    rig.advance(1)
    broker.hold = {"read"}
    for peer in (bob, eve):
        peer.take()
        peer.send(Subscribe(ROOM, epoch=EPOCH, seq=1))
    bob.cut()
    eve.link.pause_sending()
    broker.release("read")
    broker.release("read")
    rig.turn()
    assert bodies(eve) == []
    assert list(rig.hub.rooms.audiences[ROOM].lags) == [rig.session("eve")]
    broker.hold = set()
    rig.settle()  # its socket is empty again
    assert bodies(eve) == ["m2"]
    assert not rig.hub.rooms.audiences[ROOM].lags


# ---------------------------------------------------------------------------------------- away and back again


def test_who_comes_back_goes_on_where_it_was_and_nobody_left() -> None:
    diary = Diary()
    rig, svc, bob = rig_with("bob", listeners=[diary])
    svc.publish("1", "room:7").publish("g", "room:7", lane=1)
    rig.advance(1)
    epoch = bob.of(Deliver)[0].epoch
    bob.cut()
    svc.publish("2", "room:7")
    rig.advance(30)
    assert broker_members(rig) == 1
    bob = rig.login("bob", resume=(ResumePoint(ROOM, 0, epoch, 1), ResumePoint(ROOM, 1, epoch, 2)))
    assert bob.of(Welcome)[0].resumed[1:] == (
        Resumed(ROOM, 0, epoch, 1, 3),
        Resumed(ROOM, 1, epoch, 2, 2),
    )
    rig.settle()
    assert bodies(bob) == ["1", "2"]
    assert [event for event in diary.events if event[0] in ("entered", "left")] == [
        ("entered", "phone", ROOM)
    ]
    rig.advance(61)
    rig.node.publish(Publish("3", (ROOM,)), "svc")
    rig.settle()
    assert bodies(bob) == ["3"]


@pytest.mark.parametrize(("epoch", "seq"), [(1, 1), (0, 99)])
def test_a_position_of_another_ring_is_told_as_a_gap(epoch: int, seq: int) -> None:
    rig, svc, bob = rig_with("bob")
    svc.publish("1", "room:7")
    here = bob.of(Deliver)[0].epoch
    bob.cut()
    bob = rig.login("bob", resume=(ResumePoint(ROOM, 0, epoch or here, seq),))
    assert bob.of(Welcome)[0].resumed[1] == Resumed(ROOM, 0, here, 1, 1, gap=True)
    assert rig.counters.gaps_told == 1
    bob.send(Subscribe(ROOM, epoch=epoch or here, seq=seq))
    assert bob.of(Subscribed)[0].gap


@pytest.mark.parametrize("by", ["greeting", "subscribe"])
def test_who_was_shown_more_at_another_node_goes_on_there(by: str) -> None:
    broker, log = FakeBroker(), LogKey(ROOM)
    rig, _, eve = rig_with("eve", broker=broker)
    broker.store(log, entry(1), entry(2), tell=False)  # that is under way, or lost
    broker.hold = {"watch", "read"}
    if by == "greeting":
        bob = rig.login("bob", resume=(ResumePoint(ROOM, 0, EPOCH, 2),))
        broker.release("watch")  # of its mailbox
        assert bob.of(Welcome) == []
        broker.release("watch")
        rig.settle()
        assert bob.of(Welcome)[0].resumed[1] == Resumed(ROOM, 0, EPOCH, 2, 2)
    else:
        broker.hold = {"read"}
        bob = rig.login("bob")
        broker.hold = {"watch", "read"}
        bob.send(Subscribe(ROOM, epoch=EPOCH, seq=2))
        assert bob.of(Subscribed) == []
        broker.release("watch")
        rig.settle()
        assert [(one.position, one.head, one.gap) for one in bob.of(Subscribed)] == [(2, 2, False)]
    broker.release("read")
    broker.store(log, entry(3))
    rig.advance(1)
    assert bodies(eve) == ["m1", "m2", "m3"]
    assert not any(one.gap for one in bob.of(Deliver))
    assert [one.seq for frame in bob.of(Deliver) for one in frame.entries if one.seq > 2] == [3]


def test_who_was_shown_more_of_what_all_get_goes_on_there() -> None:
    broker = FakeBroker()
    rig = Rig(broker)
    broker.store(LogKey(ALL), entry(1), tell=False)
    bob = rig.login("bob", resume=(ResumePoint(ALL, 0, EPOCH, 1),))
    assert bob.of(Welcome)[0].resumed[1] == Resumed(ALL, 0, EPOCH, 1, 1)


def test_who_was_shown_more_of_another_ring_is_told_of_a_gap() -> None:
    broker, log = FakeBroker(), LogKey(ROOM)
    rig, *_ = rig_with("eve", broker=broker)
    broker.epochs[log] = EPOCH + 1  # and nobody told it here
    bob = rig.login("bob", resume=(ResumePoint(ROOM, 0, EPOCH, 2),))
    assert bob.of(Welcome)[0].resumed[1] == Resumed(ROOM, 0, EPOCH + 1, 0, 0, gap=True)


def test_who_seems_to_have_been_shown_more_gets_in_though_nobody_answers() -> None:
    broker = FakeBroker()
    rig, *_ = rig_with("eve", broker=broker)
    bob = rig.login("bob")
    broker.hold = {"watch"}
    bob.send(Subscribe(ROOM, epoch=EPOCH, seq=2))
    broker.fail("watch", ValueError("no"))
    rig.settle()
    assert [(one.position, one.gap) for one in bob.of(Subscribed)] == [(0, True)]


def test_a_room_that_is_not_named_is_left_after_a_while_unless_it_is() -> None:
    diary = Diary()
    rig, svc, bob = rig_with("bob", listeners=[diary])
    bob.send(Subscribe(OTHER))
    bob.cut()
    bob = rig.login("bob")
    assert len(bob.of(Welcome)[0].resumed) == 1
    svc.publish("1", "room:7")
    assert bodies(bob) == []
    bob.publish("2", "room:7")  # it is in it still
    assert bob.of(PublishAck)[0].outcomes[0].code == OutcomeCode.OK
    rig.advance(30)
    bob.send(Subscribe(OTHER))
    rig.advance(29.5)
    assert ("left", "phone", ROOM) not in diary.events
    rig.advance(1)
    assert [event for event in diary.events if event[0] == "left"] == [("left", "phone", ROOM)]
    assert [room.address for room in rig.session("bob").rooms] == [OTHER]


def test_the_wait_for_names_ends_with_the_link_and_the_session_with_its_rooms() -> None:
    diary = Diary()
    rig, _, bob = rig_with("bob", listeners=[diary])
    bob.cut()
    bob = rig.login("bob")
    rig.advance(20)
    bob.cut()
    rig.advance(50)
    assert ("left", "phone", ROOM) not in diary.events
    rig.advance(20)
    assert diary.events[-2:] == [("left", "phone", ROOM), ("closed", "phone", CloseCode.LOST)]
    assert ROOM not in rig.hub.rooms.audiences


def test_a_newer_link_of_the_same_session_takes_its_rooms_over() -> None:
    rig, svc, bob = rig_with("bob")
    again = rig.login("bob", resume=(ResumePoint(ROOM),))
    assert bob.code is CloseCode.REPLACED
    svc.publish("1", "room:7")
    assert bodies(again) == ["1"]
    assert len(rig.hub.rooms.audiences[ROOM].members) == 1
    assert rig.hub.rooms.audiences[ROOM].stays == 1


def test_a_login_that_waits_for_its_rooms_and_one_that_does_not_come_through() -> None:
    broker = FakeBroker()
    rig, _, _bob = rig_with("bob", broker=broker)
    broker.hold = {"join"}
    eve = rig.login("eve", resume=(ResumePoint(ROOM), ResumePoint(OTHER)))
    assert eve.frames == []
    eve.cut()
    broker.release("join")
    rig.settle()
    broker.release("join")
    rig.settle()
    assert {room.address for room in rig.session("eve").rooms} == {ROOM, OTHER}
    assert rig.session("eve") not in rig.hub.rooms.audiences[ROOM].members
    eve = rig.login("eve", resume=(ResumePoint(ROOM),))
    rig.session("eve")
    again = rig.login("eve")  # overtakes it
    broker.release("join")
    broker.release("join")  # of the newer generation
    rig.settle()
    assert again.of(Welcome)
    assert rig.hub.rooms.audiences[ROOM].stays == 2


def test_rooms_of_a_kicked_user_are_left() -> None:
    diary = Diary()
    rig, _, _bob = rig_with("bob", listeners=[diary])
    rig.node.kick("bob", None, "enough")
    rig.settle()
    assert ("left", "phone", ROOM) in diary.events
    assert ROOM not in rig.hub.rooms.audiences


# ---------------------------------------------------------------------------------------------- business code


def result(deferred: Any) -> Any:
    found: list[Any] = []
    deferred.addCallback(found.append)
    return found[0]


def test_the_business_puts_somebody_in_and_takes_it_out() -> None:
    rig, svc = rig_with()
    bob = rig.login("bob")
    assert result(rig.node.join(BOB, ROOM)) is True
    rig.settle()
    assert [(one.address, one.lane) for one in bob.of(Subscribed)] == [(ROOM, 1), (ROOM, 0)]
    svc.publish("1", "room:7")
    assert bodies(bob) == ["1"]
    assert result(rig.node.leave(BOB, ROOM)) is True
    assert result(rig.node.leave(BOB, ROOM)) is False
    rig.settle()
    assert bob.of(Unsubscribed) == [Unsubscribed(ROOM, UnsubscribedCode.REMOVED)]
    nobody = SessionKey("nobody", "phone")
    assert result(rig.node.join(nobody, ROOM)) is result(rig.node.leave(nobody, ROOM)) is False
    assert broker_members(rig) == 0


def test_who_is_away_hears_of_it_when_it_comes_back() -> None:
    rig, svc = rig_with()
    bob = rig.login("bob").cut()
    rig.node.join(BOB, ROOM)
    rig.node.join(BOB, ROOM)
    rig.node.join(BOB, OTHER)
    rig.node.leave(BOB, OTHER)
    assert broker_members(rig) == 1
    bob = rig.login("bob")
    assert [one.address for one in bob.of(Subscribed)] == [ROOM, ROOM]
    rig.advance(61)
    svc.publish("1", "room:7")
    assert bodies(bob) == ["1"]
    assert rig.hub.rooms.audiences[ROOM].stays == 1


def test_online_numbers() -> None:
    rig, _svc, _bob, _eve = rig_with("bob", "eve")
    rig.login("bob", device="web")
    online = rig.hub.sessions
    assert (online.users, len(online), result(rig.node.members(ALL))) == (3, 4, 4)
    values = {measure.field: value for measure, value in rig.node.measures()}
    assert (values["users"], values["rooms"], values["room_members"]) == (3, 1, 2)


# ------------------------------------------------------------------------------------------------------ pulls


def test_pulls_are_answered_with_blocks_without_a_pause(monkeypatch: Any) -> None:
    rig, svc, bob = rig_with("bob", set={"rooms.classes": ("*: tick=0ms entries=50",)})
    for number in range(70):
        svc.publish(str(number), "room:7")
    bob.take()
    made: list[Any] = []
    say = rig.hub.delivery.say
    monkeypatch.setattr(rig.hub.delivery, "say", lambda *what: (made.append(what[1].upto), say(*what))[1])
    dan = rig.login("dan")
    for peer in (bob, dan):  # to read is free
        peer.together(*(Pull(ROOM, after=after) for after in (0, 40, 66, 70)))
    assert made == [32, 64, 70, 70, 70]  # what has no entries is not kept
    for peer in (bob, dan):
        assert all(one.pulled for one in peer.of(Deliver))
        found = [(one.after, one.upto, one.gap) for one in peer.of(Deliver)]
        assert found == [(20, 32, True), (32, 64, False), (64, 70, False), (70, 70, False)]
    assert rig.counters.room_pulls == 8


def test_a_block_that_is_sent_is_not_the_answer_with_the_same_block() -> None:
    rig, svc, bob = rig_with("bob", set={"rooms.classes": QUICK})
    for number in range(5):
        svc.publish(str(number), "room:7")
    dan = rig.login("dan")
    for _ in range(2):
        dan.send(Pull(ROOM))
        rig.hub.rooms.rounds.queue(rig.hub.rooms.audiences[ROOM].fall_behind(rig.session("bob")))
        rig.hub.rooms.audiences[ROOM].lags[rig.session("bob")].stand((0, 0))
        rig.settle()
    assert [(one.after, one.upto, one.pulled) for one in dan.of(Deliver)] == [(0, 5, True)] * 2
    assert [(one.after, one.upto, one.pulled) for one in bob.of(Deliver)[-2:]] == [(0, 5, False)] * 2


def test_an_answer_in_parts_says_so_of_each() -> None:
    rig, svc, bob = rig_with("bob", set={"rooms.classes": QUICK})
    for number in range(3):
        svc.publish(str(number), "room:7", body=b"x" * 200)
    bob.cut()
    bob = rig.login("bob", stream=False)
    bob.server.max_send_bytes = 400
    bob.send(Subscribe(ROOM)).take()
    bob.send(Pull(ROOM))
    assert [(one.upto, one.pulled) for one in bob.of(Deliver)] == [(1, True), (2, True), (3, True)]


def test_a_pull_of_what_was_the_newest_block_says_that_there_is_more_now() -> None:
    _, svc, bob = rig_with("bob", set={"rooms.classes": QUICK})
    for number in range(32):  # a whole block
        svc.publish(str(number), "room:7")
    bob.take()
    bob.send(Pull(ROOM, after=0))
    assert [(one.upto, one.head) for one in bob.of(Deliver)] == [(32, 32)]
    assert len(bodies(bob)) == 32
    for number in range(32, 40):
        svc.publish(str(number), "room:7")
    svc.take()
    shown: list[str] = []
    upto, head = 0, 1
    while upto < head:
        svc.send(Pull(ROOM, after=upto))
        (found,) = svc.of(Deliver)
        upto, head = found.upto, found.head
        shown += bodies(svc)
    assert shown == [str(number) for number in range(40)]


def test_an_area_is_read_by_who_is_in_it() -> None:
    rig, svc, bob = rig_with("bob", room=GAMES)
    svc.publish("1", "area:games", "all")
    bob.take()
    bob.send(Pull(AREA), Pull(ALL))
    assert [one.address for one in bob.of(Deliver)] == [AREA, ALL]
    dan = rig.login("dan").send(Pull(AREA))
    assert [(one.id, one.code) for one in dan.of(Refused)] == [("area:games", RefusedCode.FORBIDDEN)]
    svc.send(Pull(AREA))
    assert svc.of(Deliver)[-1].address == AREA


def test_pulls_of_large_blocks_wait_for_the_socket() -> None:
    _rig, svc, bob = rig_with("bob", set={"rooms.classes": ("*: tick=0ms bytes=4MB",)})
    for number in range(10):
        svc.publish(str(number), "room:7", body=b"x" * 40_000)
    bob.take()
    bob.stop_reading()
    bob.together(*(Pull(ROOM, after=0) for _ in range(500)))
    held = bob.server.unsent()
    assert 0 < held < 2 * 65_536 + 2 * 49_152
    bob.read_on()
    assert len(bob.of(Deliver)) == 500
    assert {(one.after, one.upto) for one in bob.of(Deliver)} == {(0, 1)}


def test_a_pull_that_waits_for_the_broker() -> None:
    broker = FakeBroker()
    rig, _, bob = rig_with("bob", broker=broker)
    broker.store(LogKey(ROOM), entry(1))
    rig.settle()
    bob.take()
    broker.hold = {"read"}
    bob.together(Pull(ROOM), Pull(ROOM, after=1))
    assert bob.link.paused()
    broker.release("read")
    rig.settle()
    assert bodies(bob) == ["m1"]
    bob.cut()
    broker.release("read")
    rig.settle()


# --------------------------------------------------------------------------------- what a broker may do to us


def test_a_hole_is_read_once_for_all() -> None:
    broker = FakeBroker()
    rig, _, bob, eve = rig_with("bob", "eve", broker=broker)
    log = LogKey(ROOM)
    broker.store(log, entry(1), entry(2), tell=False)
    broker.hold = {"read"}
    broker.store(log, entry(3))
    broker.store(log, entry(4))
    broker.listener.moved(log, EPOCH, 4)
    assert len(broker.waiting) == 1
    broker.release("read")
    rig.settle()
    assert bodies(bob) == bodies(eve) == ["m1", "m2", "m3", "m4"]
    broker.listener.arrived(log, EPOCH, 2, 4, ())  # known
    broker.listener.moved(log, EPOCH, 4)
    assert not broker.waiting
    broker.store(log, entry(5), tell=False)
    rig.advance(1)
    broker.listener.moved(log, EPOCH, 5)
    broker.release("read")
    rig.settle()
    assert bodies(bob) == ["m5"]


def test_a_hole_that_cannot_be_filled_is_a_gap() -> None:
    broker = FakeBroker()
    rig, _, bob = rig_with("bob", broker=broker)
    broker.listener.arrived(LogKey(ROOM), EPOCH, 5, 6, (entry(6),))
    rig.settle()
    assert [(one.after, one.upto, one.gap) for one in bob.of(Deliver)] == [(0, 6, True)]


def test_another_epoch_is_a_gap_for_all() -> None:
    broker = FakeBroker()
    rig, _, bob = rig_with("bob", broker=broker)
    log = LogKey(ROOM)
    broker.store(log, entry(1))
    clogged = rig.login("eve").send(Subscribe(ROOM))
    clog(rig, clogged)
    broker.store(log, entry(2))
    rig.advance(1)
    broker.listener.arrived(log, EPOCH + 1, 0, 1, (entry(1),))
    rig.settle()
    last = bob.of(Deliver)[-1]
    assert (last.epoch, last.after, last.upto, last.gap) == (EPOCH + 1, 0, 1, True)
    rig.advance(1)
    broker.listener.moved(log, EPOCH + 2, 9)
    rig.advance(1)
    last = bob.of(Deliver)[-1]
    assert (last.epoch, last.upto, last.gap) == (EPOCH + 2, 9, True)
    broker.epochs[log] = EPOCH + 3  # found out by who reads
    clogged.read_on()
    rig.advance(1)
    assert bob.of(Deliver)[-1].epoch == EPOCH + 3
    broker.epochs[log] = EPOCH + 4
    broker.listener.arrived(log, EPOCH + 3, 90, 91, ())
    rig.advance(1)
    assert bob.of(Deliver)[-1].epoch == EPOCH + 4


def test_who_was_behind_in_a_ring_that_is_no_more_begins_with_the_new_one() -> None:
    broker = FakeBroker()
    rig, _, eve = rig_with("eve", broker=broker)
    log = LogKey(ROOM)
    broker.listener.arrived(log, EPOCH, 40, 41, (entry(41),))
    clog(rig, eve)
    broker.listener.arrived(log, EPOCH, 41, 42, (entry(42),))
    rig.advance(1)
    room = rig.hub.rooms.audiences[ROOM]
    assert room.place(rig.session("eve"), 0) == 41
    broker.listener.arrived(log, EPOCH + 1, 0, 1, (entry(1),))
    eve.send(Subscribe(ROOM)).read_on()
    (subscribed,) = eve.of(Subscribed)
    assert (subscribed.epoch, subscribed.position, subscribed.head) == (EPOCH + 1, 0, 1)


def test_a_read_that_is_overtaken_by_another_epoch() -> None:
    broker = FakeBroker()
    rig, _, bob = rig_with("bob", broker=broker)
    broker.hold = {"read"}
    broker.listener.arrived(LogKey(ROOM), EPOCH, 5, 6, ())
    broker.listener.arrived(LogKey(ROOM), EPOCH + 1, 0, 1, (entry(1),))
    broker.release("read")
    rig.settle()
    assert [(one.epoch, one.upto) for one in bob.of(Deliver)] == [(EPOCH + 1, 1)]


@pytest.mark.parametrize("answer", [EPOCH, EPOCH + 1])
def test_what_is_read_of_a_ring_that_is_no_more_changes_nothing(answer: int) -> None:
    broker = FakeBroker()
    rig, _, bob = rig_with("bob", broker=broker, set={"rooms.classes": QUICK})
    log = LogKey(ROOM)
    broker.store(log, entry(1), entry(2))
    eve = rig.login("eve")
    broker.hold = {"read"}
    eve.send(Subscribe(ROOM, epoch=EPOCH, seq=1))
    rig.settle()
    assert len(broker.waiting) == 1
    broker.logs[log], broker.epochs[log] = [], EPOCH + 1
    broker.store(log, entry(1))
    rig.settle()
    assert [(one.epoch, one.gap) for one in bob.of(Deliver)][1:] == [(EPOCH + 1, True)]
    bob.take()
    broker.read_batch = lambda batch: replace(batch, epoch=answer)
    broker.release("read")
    broker.read_batch = lambda batch: batch
    broker.hold = set()
    rig.settle()
    while broker.waiting:
        broker.release("read")
        rig.settle()
    broker.store(log, entry(2))
    rig.advance(1)
    assert rig.hub.rooms.audiences[ROOM].lanes[0].epoch == EPOCH + 1
    assert [(one.epoch, one.after, one.upto, one.gap) for one in bob.of(Deliver)] == [
        (EPOCH + 1, 1, 2, False)
    ]
    assert [(one.epoch, one.after, one.upto) for one in eve.of(Deliver)] == [
        (EPOCH + 1, 0, 1),
        (EPOCH + 1, 1, 2),
    ]


def test_a_hole_larger_than_a_read() -> None:
    broker = FakeBroker()
    rig, _, bob = rig_with("bob", broker=broker)
    broker.store(LogKey(ROOM), *(entry(n) for n in range(1, 7)), tell=False)
    broker.read_batch = lambda batch: replace(
        batch, entries=batch.entries[:2], upto=batch.entries[1].seq if len(batch.entries) > 1 else batch.upto
    )
    broker.listener.moved(LogKey(ROOM), EPOCH, 6)
    rig.settle()
    assert [(one.after, one.upto, one.gap) for one in bob.of(Deliver)] == [(0, 6, False)]
    assert bodies(bob) == [f"m{n}" for n in range(1, 7)]


def test_rooms_that_nobody_here_is_in_are_not_ours() -> None:
    rig, *_ = rig_with(broker=FakeBroker())
    rig.broker.listener.arrived(LogKey(ROOM), EPOCH, 0, 1, (entry(1),))
    rig.broker.listener.moved(LogKey(ROOM), EPOCH, 1)
    assert rig.counters.room_rounds == 0


def test_what_a_round_holds_is_no_more_than_a_room_keeps() -> None:
    rig, svc, bob = rig_with("bob", set={"rooms.classes": ("*: tick=10s entries=5 bytes=1KB",)})
    svc.publish("0", "room:7")
    for number in range(20):
        svc.publish(str(number + 1), "room:7", body=b"x" * 300)
    lane = rig.hub.rooms.audiences[ROOM].lanes[0]
    assert lane.bytes <= 1024
    rig.advance(10)
    assert [(one.after, one.upto, one.gap) for one in bob.of(Deliver)] == [(0, 1, False), (1, 21, True)]
    assert bodies(bob) == ["0", "18", "19", "20"]


def test_a_node_that_stops_waits_for_no_tick() -> None:
    rig, _svc, _bob = rig_with("bob")
    rounds = rig.hub.rooms.rounds
    rig.node.publish(Publish("1", (ROOM,)), "svc")
    rig.node.publish(Publish("2", (ROOM,)), "svc")
    rounds._turn_soon()
    assert rounds._ticks
    rig.hub.rooms.rounds.stop()
    assert not rounds._ticks
    assert not rig.clock.calls or all(call.getTime() > rig.clock.seconds() for call in rig.clock.calls)
    assert rounds._turning is None


def test_written_blocks_are_kept_for_a_while(monkeypatch: Any) -> None:
    monkeypatch.setattr("imgateway.node.shares.SHELF_BYTES", 4_000)
    shelf = Shelf()
    entries = tuple(entry(n, b"x" * 100) for n in range(1, 4))
    batch = Batch(EPOCH, 0, 3, entries, False, 3)
    (share,) = shelf.of(LogKey(ROOM), batch, 7)
    assert shelf.of(LogKey(ROOM), batch, 9) == (share,)
    (answer,) = shelf.of(LogKey(ROOM), batch, 0)
    assert (share.deliver.pulled, answer.deliver.pulled) == (False, True)
    assert [one.seq for one in shelf.of(LogKey(ROOM), batch, 2)[0].deliver.entries] == [1, 2]
    for room in range(4):
        shelf.of(LogKey(parse_address(f"room:{room}")), batch, 0)
    assert shelf.of(LogKey(ROOM), batch, 9) != (share,)


def test_a_link_with_too_much_in_hand_gets_no_block_in_this_turn(monkeypatch: Any) -> None:
    rig, svc, bob = rig_with("bob", set={"limits.deliver_window_bytes": 200, "rooms.classes": QUICK})
    for number in range(4):
        svc.publish(str(number), "room:7", body=b"x" * 60)
    session, room = rig.session("bob"), rig.hub.rooms.audiences[ROOM]
    lag = room.fall_behind(session)
    lag.places[0] = 0
    bob.take()
    bob.server.send(bob.codec.encode(Bye(0)) * 100)
    rig.hub.rooms.rounds.queue(lag)
    rig.turn()
    assert lag.queued
    rig.settle()
    rig.pass_ms(60)
    assert bodies(bob) == ["0", "1", "2", "3"]


# ------------------------------------------------------------------------------------------------------ flood


def test_a_flood_gets_rate_and_gifts_come_first() -> None:
    rig, _, bob, dan = rig_with("bob", "dan", set={"quota.pair_rate": 0.0, "quota.publish_rate": 0.0})
    rig.tokens.identities["eve"] = Identity("eve", claims={"rooms": ["7"]})
    eve = rig.login("eve")
    rig.clock.advance(0.1)
    for second in range(4):
        for number in range(500):
            bob.client.send(bob.codec.encode(Publish(f"{second}-{number}", (ROOM,), body=b"danmaku")))
        eve.publish(f"gift {second}", "room:7", lane=1)
        rig.advance(1)
    codes = [one.outcomes[0].code for one in bob.of(PublishAck)]
    assert codes.count(OutcomeCode.OK) == 400 + 3 * 200
    assert codes.count(OutcomeCode.RATE) == 2000 - 1000
    assert {one.outcomes[0].code for one in eve.of(PublishAck)} == {OutcomeCode.OK}
    assert bodies(dan, lane=1) == [f"gift {second}" for second in range(4)]
    frames = dan.of(Deliver)
    assert sum(len(one.entries) for one in frames) >= 800


def test_a_congested_store_does_not_hold_rooms() -> None:
    rig, _, bob = rig_with("bob")
    rig.hub.congested(True)
    bob.publish("1", "room:7")
    assert not bob.link.paused()
    bob.publish("2", "room:7", "user:bob")
    assert bob.link.paused()


# ------------------------------------------------------------------------------------------------------ sizes


def test_an_idle_session_carries_two_slots_for_it() -> None:
    session = Session(BOB, 1, None, 1, 0, 0)
    assert session.rooms == ()
    assert session.form is None


def test_five_thousand_members_and_one_message() -> None:
    rig, svc, bob = rig_with("bob")
    room = rig.hub.rooms.audiences[ROOM]
    sent: list[bytes] = []

    class Line:
        max_send_bytes = 0

        def send(self, data: bytes, order: Any = None) -> None:
            sent.append(data)

        def unsent(self) -> int:
            return 0

    class Stub:
        clogged = False
        connection = Line()
        wire = NativeAdapter()
        codec = wire.codec(True, 1 << 20)
        session = None

    for number in range(5_000):
        session = Session(SessionKey(f"u{number}", "p"), 1, None, 1, 0, 0)
        session.link, session.form = Stub(), rig.session("bob").form
        room.members[session] = None
    svc.publish("1", "room:7")
    assert len(sent) == 5_000
    assert all(data is sent[0] for data in sent)
    assert rig.counters.room_slices >= 5_000 // SLICE
    assert bodies(bob) == ["1"]
    assert log_of(ROOM) == LogKey(ROOM)
