"""Rooms when something fails half-way: a connection raises, a link goes amid its login, a broker is slow.

What fails costs the one whom it concerns, and nobody else.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest
from twisted.internet.defer import fail

from imgateway.auth.policy import DefaultPolicy
from imgateway.errors import CloseCode
from imgateway.frames import (
    Deliver,
    LogKey,
    Mode,
    Notify,
    Ping,
    Pong,
    PublishAck,
    Pull,
    Refused,
    RefusedCode,
    ResumePoint,
    SessionKey,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    Welcome,
    parse_address,
    user_address,
)
from imgateway.interfaces import Identity
from imgateway.node.link import Pause
from imgateway.protocols.mqtt.adapter import MqttAdapter
from tests.node.rig import EPOCH, AsciiWire, Diary, FakeBroker, Rig, entry
from tests.protocols import mqtt

ROOM, OTHER = parse_address("room:7"), parse_address("room:8")
BOB = SessionKey("bob", "phone")


def rig_with(mode: Mode, *users: str, **options: Any) -> tuple[Any, ...]:
    """A rig with a service and users who are in a room."""
    rig = Rig("memory", **options)
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    peers = [rig.login("svc"), *(rig.login(user).send(Subscribe(ROOM, mode)) for user in users)]
    return (rig, *peers)


def fault(*_: Any) -> Any:
    raise ZeroDivisionError("a transport's own fault")


def test_greetings_do_not_pile_up_rooms_beyond_the_limit() -> None:
    rig = Rig("memory", set={"limits.rooms": 2})
    for n in range(5):
        points = tuple(ResumePoint(parse_address(f"room:{n}-{m}"), 0, 1, 0) for m in range(2))
        rig.login("bob", resume=points).cut()
    assert len(rig.session("bob").rooms) <= 4
    assert len(rig.hub.rooms.audiences) <= 1 + 4


def test_a_reconnect_that_fails_half_way_does_not_end_the_stay() -> None:
    diary = Diary()
    broker = FakeBroker()
    rig = Rig(broker, listeners=[diary])
    points = (ResumePoint(ROOM, 0, 7, 0),)
    rig.login("bob").send(Subscribe(ROOM)).cut()
    broker.hold = {"open"}
    half = rig.login("bob", resume=points)
    half.cut()
    broker.hold = set()
    broker.release("open")
    rig.settle()
    rig.login("bob", resume=points)
    events = [one[0] for one in diary.events if one[0] in ("entered", "left")]
    assert events == ["entered"]


def test_a_reconnect_that_fails_half_way_does_not_end_the_stay_at_the_real_broker() -> None:
    diary = Diary()
    rig = Rig("memory", listeners=[diary])
    rig.login("bob").send(Subscribe(ROOM)).cut()
    opening = rig.broker.open_session

    def cut_meanwhile(*claim: Any) -> None:
        opening(*claim)
        peer = rig.peers[-1]
        peer.client.lose("cut")
        if not peer.server.lost and peer.link is not None:
            peer.link.lost("cut")

    rig.broker.open_session = cut_meanwhile
    rig.login("bob")
    rig.broker.open_session = opening
    assert rig.session("bob") is not None
    assert [one[0] for one in diary.events if one[0] in ("entered", "left")] == ["entered"]


def test_subscribe_to_a_known_room_holds_the_link_while_the_broker_thinks() -> None:
    broker = FakeBroker()
    rig = Rig(broker)
    rig.login("eve").send(Subscribe(ROOM))
    bob = rig.login("bob")
    broker.hold = {"join"}
    bob.send(Subscribe(ROOM), Unsubscribe(ROOM))
    broker.hold = set()
    broker.release("join")
    rig.settle()
    assert [type(one) for one in bob.take()[1:]] == [Subscribed, Unsubscribed]
    assert rig.session("bob").rooms == ()
    assert SessionKey("bob", "phone") not in broker.rooms[ROOM]


def test_nothing_is_said_before_welcome() -> None:
    broker = FakeBroker()
    rig = Rig(broker)
    rig.login("bob").send(Subscribe(ROOM)).cut()
    broker.hold = {"watch"}
    bob = rig.login("bob")
    assert bob.take() == []
    rig.node.leave(SessionKey("bob", "phone"), ROOM)
    rig.settle()
    assert bob.take() == []


@pytest.mark.parametrize("tick", ["0ms", "50ms"])
def test_a_connection_that_raises_costs_the_others_nothing(tick: str, flush_logged_errors: Any) -> None:
    rig, svc, _, eve = rig_with(Mode.PUSH, "bob", "eve", set={"rooms.classes": (f"*: tick={tick}",)})

    rig.session("bob").link.connection.send = fault
    for n in range(3):
        try:
            svc.publish(str(n), "room:7")
            rig.pass_ms(60)
        except ZeroDivisionError:
            pass
    flush_logged_errors()
    assert eve.shown() == ["0", "1", "2"]


def test_a_room_that_fails_at_its_tick_costs_other_rooms_nothing(flush_logged_errors: Any) -> None:
    rig, svc, _ = rig_with(Mode.PUSH, "bob")
    eve = rig.login("eve").send(Subscribe(OTHER))
    for room in ("room:7", "room:8"):
        svc.publish(f"{room}-0", room)
    for room in ("room:7", "room:8"):
        svc.publish(f"{room}-1", room)  # both wait for the same tick

    rig.session("bob").link.connection.send = fault
    for _ in range(3):
        try:
            rig.pass_ms(60)
        except ZeroDivisionError:
            pass
    svc.publish("room:8-2", "room:8")
    rig.pass_ms(60)
    flush_logged_errors()
    assert eve.shown() == ["room:8-0", "room:8-1", "room:8-2"]


def test_notices_that_raise_do_not_silence_the_room(flush_logged_errors: Any) -> None:
    rig, svc, bob = rig_with(Mode.NOTIFY, "bob")
    rounds = rig.hub.rooms.rounds
    rounds._notices, notices = fault, rounds._notices
    svc.publish("1", "room:7")
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    assert rig.hub.rooms.audiences[ROOM].round is None
    rounds._notices = notices
    rig.pass_ms(1000)
    svc.publish("2", "room:7")
    assert len(bob.of(Notify)) == 1


def test_a_round_that_cannot_begin_costs_the_publisher_nothing(flush_logged_errors: Any) -> None:
    rig, svc, bob = rig_with(Mode.PUSH, "bob")
    rounds = rig.hub.rooms.rounds
    rounds._served = fault
    svc.publish("1", "room:7")
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    del rounds._served
    assert bob.shown() == []
    rig.pass_ms(1000)  # it is tried again, and nothing is lost
    assert bob.shown() == ["1"]
    svc.publish("2", "room:7")
    rig.pass_ms(100)
    assert bob.shown() == ["1", "2"]
    assert rig.counters.gaps_told == 0


@pytest.mark.parametrize("part", ["unsent", "send"])
def test_who_raises_while_it_catches_up_is_cut_off_alone(part: str, flush_logged_errors: Any) -> None:
    rig, svc, _, eve = rig_with(Mode.PUSH, "bob", "eve")
    room = rig.hub.rooms.audiences[ROOM]
    svc.publish("1", "room:7")
    for user in ("bob", "eve"):
        session = rig.session(user)
        lag = room.fall_behind(session)
        lag.places[0], lag.epochs[0] = 0, room.lanes[0].epoch
        rig.hub.rooms.rounds.queue(lag)
    bob = rig.session("bob")
    setattr(bob.link.connection, part, fault)
    eve.take()
    rig.pass_ms(10)
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    assert bob.link is None
    assert room.lags == {}
    assert eve.shown() == ["1"]


def test_a_login_that_fails_half_way_leaves_no_older_link_behind() -> None:
    broker = FakeBroker()
    rig = Rig(broker)
    rig.login("bob").send(Subscribe(ROOM))
    older = rig.session("bob")
    broker.hold = {"open"}
    half = rig.login("bob")
    half.cut()
    broker.hold = set()
    broker.release("open")
    rig.settle()
    assert rig.session("bob") is older
    assert older.link is None
    rig.advance(rig.hub.linger_s + 5)
    assert rig.session("bob") is None  # it lingered, and its end closed the newer claim
    assert SessionKey("bob", "phone") not in broker.rooms.get(ROOM, ())


# --------------------------------------------------------------------------------------- a broker that fails


def failing(broker: Any, name: str, kind: str, how: str) -> None:
    """`watch` or `join` of an address of this kind fails, or raises."""
    inner = getattr(broker, name)

    def instead(*args: Any) -> Any:
        address = args[0].address if name == "watch" else args[2]
        if address.kind != kind:
            return inner(*args)
        if how == "raises":
            raise RuntimeError("broken")
        return fail(RuntimeError("broken"))

    setattr(broker, name, instead)


@pytest.mark.parametrize("how", ["fails", "raises"])
@pytest.mark.parametrize(("name", "kind"), [("watch", "room"), ("watch", "area"), ("join", "room")])
def test_who_cannot_be_put_into_a_room_is_told(
    name: str, kind: str, how: str, flush_logged_errors: Any
) -> None:
    rig = Rig()
    games = parse_address("room:games.7")
    bob, eve = rig.login("bob"), rig.login("eve")
    failing(rig.broker, name, kind, how)
    for peer in (bob, eve):
        peer.send(Subscribe(games), Ping(1))
        assert peer.of(Refused) == [
            Refused("subscribe", "room:games.7", RefusedCode.UNAVAILABLE, "not just now; subscribe again")
        ]
        assert len(peer.of(Pong)) == 1, "it is read on"
    assert flush_logged_errors(RuntimeError, LookupError)
    assert list(rig.hub.rooms.audiences) == [parse_address("all")]
    assert rig.broker.rings == {LogKey(parse_address("all"), lane) for lane in (0, 1)}
    assert rig.session("bob").rooms == ()
    assert rig.counters.refused[RefusedCode.UNAVAILABLE] == 2
    delattr(rig.broker, name)
    bob.take()
    bob.send(Subscribe(games))
    assert len(bob.of(Subscribed)) == 1
    assert len(rig.hub.rooms.audiences) == 3


def test_all_who_wait_for_a_room_are_told_and_who_has_gone_is_not(flush_logged_errors: Any) -> None:
    broker = FakeBroker()
    rig = Rig(broker)
    broker.hold = {"watch"}
    peers = [rig.login(user) for user in ("bob", "eve", "dan")]
    broker.hold = set()
    while broker.waiting:
        broker.release("watch")
    rig.settle()
    broker.hold = {"watch"}
    for peer in peers:
        peer.send(Subscribe(ROOM))
    peers[2].cut()
    broker.fail("watch", RuntimeError("broken"))
    broker.release("watch")  # of its other lane: too late
    rig.settle()
    assert len(flush_logged_errors(RuntimeError)) == 3
    assert [len(peer.of(Refused)) for peer in peers] == [1, 1, 0]
    assert ROOM not in rig.hub.rooms.audiences


def test_a_room_that_began_anew_meanwhile_is_not_hurt_by_the_end_of_the_old_one(
    flush_logged_errors: Any,
) -> None:
    broker = FakeBroker()
    rig = Rig(broker)
    rooms = rig.hub.rooms.audiences
    broker.hold = {"watch"}
    first = rooms.room(ROOM)
    first.addErrback(lambda failure: None)
    rooms.release(rooms[ROOM])  # type: ignore[arg-type]
    second: list[Any] = []
    rooms.room(ROOM).addCallback(second.append)
    broker.fail("watch", RuntimeError("broken"))
    assert len(flush_logged_errors(RuntimeError)) == 1
    for _ in range(3):
        broker.release("watch")
    assert second == [rooms[ROOM]]
    assert LogKey(ROOM) in broker.rings


def test_a_greeting_whose_room_cannot_be_had_goes_on_without(flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.login("bob").send(Subscribe(ROOM)).cut()
    failing(rig.broker, "join", "room", "fails")
    points = (ResumePoint(ROOM, 0, 7, 0), ResumePoint(OTHER, 0, 7, 0))
    bob = rig.login("bob", resume=points)
    assert len(flush_logged_errors(RuntimeError)) == 2
    (welcome,) = bob.of(Welcome)
    assert [one.address.kind for one in welcome.resumed] == ["user"]
    assert [room.address for room in rig.session("bob").rooms] == [ROOM]  # the broker knows it there
    assert OTHER not in rig.hub.rooms.audiences


def test_everyone_is_watched_in_the_end(flush_logged_errors: Any) -> None:
    rig = Rig(start=False)
    broker = rig.broker
    failing(broker, "watch", "all", "fails")
    rig.start()
    rig.advance(3)
    assert len(flush_logged_errors(RuntimeError)) >= 2
    bob = rig.login("bob")
    bob.take()
    del broker.watch
    rig.advance(2)
    assert flush_logged_errors(RuntimeError) == []
    everyone = parse_address("all")
    broker.listener.arrived(LogKey(everyone), EPOCH, 0, 1, (entry(1),))
    rig.settle()
    assert bob.shown() == ["m1"]


# ------------------------------------------------------------------------------------------ half of a round


def test_a_connection_that_raises_amid_notices_costs_the_others_nothing(flush_logged_errors: Any) -> None:
    rig, svc, _, eve, _, dan = rig_with(Mode.NOTIFY, "bob", "eve", "ann", "dan")
    rig.session("bob").link.connection.send = fault
    rig.session("ann").link.connection.send = fault
    svc.publish("1", "room:7")
    assert len(flush_logged_errors(ZeroDivisionError)) == 2
    assert rig.session("bob").link is rig.session("ann").link is None
    assert len(eve.of(Notify)) == len(dan.of(Notify)) == 1
    room = rig.hub.rooms.audiences[ROOM]
    assert list(room.unanswered) == [rig.session("eve"), rig.session("dan")]
    assert room.round is None


def test_what_a_round_could_not_bring_is_read_instead(flush_logged_errors: Any) -> None:
    rig, svc, bob, eve = rig_with(Mode.PUSH, "bob", "eve")
    rig.login("ann").send(Subscribe(ROOM, Mode.NOTIFY)).send(Subscribe(OTHER))
    rounds = rig.hub.rooms.rounds
    rounds._push = fault
    svc.publish("1", "room:7")
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    del rounds._push
    rig.settle()
    room = rig.hub.rooms.audiences[ROOM]
    assert not room.lags
    assert room.round is None
    svc.publish("2", "room:7")
    rig.pass_ms(60)
    for peer in (bob, eve):
        upto = 0
        for deliver in peer.of(Deliver):
            assert deliver.after <= upto
            upto = deliver.upto
        assert list(dict.fromkeys(peer.shown())) == ["1", "2"]


# ------------------------------------------------------------------------------------ a server that is away


def rooms_of(rig: Rig) -> list[str]:
    return [room.address.id for room in rig.session("bob").rooms]


def test_a_greeting_does_not_wait_long_for_a_room() -> None:
    rig = Rig()
    rig.broker.hold = {"join"}
    bob = rig.login("bob", resume=POINTS)
    rig.broker.release("join")  # of the one; that of the other is away
    rig.advance(1.75)
    assert bob.take() == []
    rig.advance(0.5)
    (welcome,) = bob.of(Welcome)
    assert [one.address.id for one in welcome.resumed] == ["bob", "7", "7"]
    bob.take()
    bob.send(Subscribe(OTHER, Mode.PUSH, 0, EPOCH, 0), Ping(1))  # as it is told to
    rig.advance(2.25)
    assert [type(one) for one in bob.take()] == [Pong]
    rig.broker.release("join")  # once for the greeting and the Subscribe
    rig.settle()
    assert rooms_of(rig) == ["7", "8"]
    assert rig.broker.waiting == []
    assert [one.address for one in bob.of(Subscribed)] == [OTHER]
    rig.advance(rig.hub.linger_s + 1)
    assert rooms_of(rig) == ["7", "8"]
    assert rig.hub.rooms.audiences[OTHER].stays == 1


def test_a_room_that_a_greeting_did_not_wait_for_is_left_if_nobody_asks_for_it() -> None:
    rig = Rig()
    rig.broker.hold = {"join"}
    bob = rig.login("bob", resume=POINTS[:1])
    rig.advance(2.25)
    assert [one.address.id for one in bob.of(Welcome)[0].resumed] == ["bob"]
    rig.broker.release("join")
    assert rooms_of(rig) == ["7"]
    rig.advance(rig.hub.linger_s - 1)
    assert rooms_of(rig) == ["7"]
    rig.advance(2)
    is_out(rig)


def test_a_room_that_is_asked_for_late_is_not_left_meanwhile() -> None:
    rig = Rig()
    rig.login("bob").send(Subscribe(ROOM)).cut()
    bob = rig.login("bob")
    rig.broker.hold = {"join"}
    rig.advance(rig.hub.linger_s - 10)
    bob.send(Subscribe(ROOM, Mode.PUSH, 0, EPOCH, 0))
    rig.advance(20)
    rig.broker.release("join")
    rig.settle()
    assert len(bob.of(Subscribed)) == 1
    assert rooms_of(rig) == ["7"]
    assert rig.broker.rooms[ROOM] == {SessionKey("bob", "phone")}


def test_a_room_that_is_away_does_not_hold_up_a_link() -> None:
    rig = Rig()
    rig.broker.hold = {"join"}
    bob = rig.login("bob")
    bob.take()
    bob.send(Subscribe(ROOM), Subscribe(OTHER)).publish("1", "user:eve").send(Ping(1))
    rig.advance(1.75)
    assert bob.take() == []
    rig.advance(0.5)  # one wait is enough
    assert [type(one) for one in bob.take()] == [PublishAck, Pong]
    rig.broker.release("join", 1)
    rig.broker.release("join")
    rig.settle()
    assert [one.address for one in bob.of(Subscribed)] == [OTHER, ROOM]
    bob.take()
    bob.send(Subscribe(ROOM, Mode.NOTIFY), Ping(2))  # all is well again, and it waits as before
    rig.advance(1.75)
    assert bob.take() == []
    rig.broker.release("join")
    rig.settle()
    assert [type(one) for one in bob.take()] == [Subscribed, Pong]
    rig.advance(1)
    assert not rig.node.subscriptions._waits


def test_who_leaves_a_room_that_is_away_does_not_come_in() -> None:
    rig = Rig()
    rig.broker.hold = {"join"}
    bob = rig.login("bob")
    bob.take()
    bob.send(Subscribe(ROOM), Unsubscribe(ROOM))
    rig.advance(2.25)
    # To each its answer, and in their order: some wires tell them apart by nothing else.
    assert [type(one) for one in bob.take()] == [Refused, Unsubscribed]
    rig.broker.release("join")
    rig.settle()
    assert bob.take() == []
    is_out(rig)


@pytest.mark.parametrize("topic", ["room/7", "topic/news"])
def test_a_client_of_mqtt_gets_an_answer_to_each_packet(topic: str) -> None:
    rig = Rig()
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["news"]})
    device = rig.connect(MqttAdapter(0, lambda: rig.wall_ms))
    heard: list[bytes] = []
    device.received = heard.append  # type: ignore[method-assign,assignment]
    device.raw(mqtt.connect(5, client_id="phone", token=b"bob"))
    rig.broker.hold = {"join", "watch"}
    heard.clear()
    device.raw(mqtt.subscribe((topic, 0), packet_id=1, v5=True))
    device.raw(mqtt.subscribe((topic, 0), packet_id=2, v5=True))
    device.raw(mqtt.unsubscribe(topic, packet_id=3, v5=True))
    device.raw(mqtt.subscribe((topic, 0), packet_id=4, v5=True))
    rig.advance(2.25)
    while rig.broker.waiting:
        rig.broker.release(rig.broker.waiting[0][0])
        rig.settle()
    said = b"".join(heard)
    kinds = [said[at : at + 1] + said[at + 3 : at + 4] for at in range(0, len(said), 6)]
    assert kinds == [b"\x90\x01", b"\x90\x02", b"\xb0\x03", b"\x90\x04"]


def test_an_answer_that_is_late_is_for_who_asked() -> None:
    rig = Rig()
    bob = rig.login("bob").send(Subscribe(ROOM))
    rig.broker.hold = {"leave", "join"}
    bob.send(Unsubscribe(ROOM), Subscribe(OTHER))
    rig.advance(2.25)
    again = rig.login("bob")
    for name in ("leave", "join"):
        rig.broker.release(name)
    rig.settle()
    assert bob.of(Unsubscribed) == again.of(Unsubscribed) == again.of(Subscribed) == []
    assert not rig.node.subscriptions._waits


def test_who_leaves_while_it_is_looked_where_its_room_stands_is_out() -> None:
    rig = Rig()
    bob = rig.login("bob").send(Subscribe(ROOM))
    bob.take()
    rig.broker.hold = {"watch"}
    bob.send(Subscribe(ROOM, Mode.PUSH, 0, EPOCH, 9))
    rig.node.leave(SessionKey("bob", "phone"), ROOM)
    rig.broker.release("watch")
    rig.settle()
    assert bob.take() == [Unsubscribed(ROOM, UnsubscribedCode.REMOVED)] * 2  # and the Subscribe is answered
    is_out(rig)


def test_who_goes_while_it_is_looked_where_its_room_stands_is_told_nothing() -> None:
    rig = Rig()
    bob = rig.login("bob").send(Subscribe(ROOM))
    bob.take()
    rig.broker.hold = {"watch"}
    bob.send(Subscribe(ROOM, Mode.PUSH, 0, EPOCH, 9))
    bob.cut()
    rig.broker.release("watch")
    rig.settle()
    assert bob.take() == []
    assert rooms_of(rig) == ["7"]
    assert not rig.hub.rooms.audiences[ROOM].members
    assert not rig.node.subscriptions._waits


def test_rooms_that_are_away_count_as_rooms() -> None:
    rig = Rig(set={"limits.rooms": 2})
    rig.broker.hold = {"join"}
    bob = rig.login("bob")
    bob.take()
    bob.send(*(Subscribe(parse_address(f"room:{n}")) for n in (1, 2, 3, 2)))
    rig.advance(2.25)
    assert [(one.id, one.code) for one in bob.of(Refused)] == [("room:3", RefusedCode.RATE)]
    assert len(rig.broker.waiting) == 2
    for _ in range(2):
        rig.broker.release("join")
    rig.settle()
    assert [one.address.id for one in bob.of(Subscribed)] == ["1", "2", "2"]


def test_who_does_not_come_back_to_a_room_that_was_away_leaves_it() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.broker.hold = {"watch"}
    bob.send(Subscribe(ROOM)).cut()
    rig.broker.hold = set()
    bob = rig.login("bob")  # and it names no room
    while rig.broker.waiting:
        rig.broker.release("watch")
    rig.settle()
    assert rooms_of(rig) == ["7"]
    rig.advance(rig.hub.linger_s - 1)
    assert rooms_of(rig) == ["7"]
    rig.advance(2)
    assert bob.of(Subscribed) == []
    is_out(rig)


def test_a_room_that_a_greeting_did_not_wait_for_is_left_over_the_next_link_too() -> None:
    rig = Rig()
    rig.broker.hold = {"join"}
    rig.login("bob", resume=POINTS[:1])
    rig.advance(2.25)
    rig.login("bob")
    while rig.broker.waiting:
        rig.broker.release("join")
    rig.advance(rig.hub.linger_s + 1)
    is_out(rig)


@pytest.mark.parametrize("name", ["watch", "join"])
def test_a_session_is_not_in_a_room_that_the_one_before_it_asked_for(name: str) -> None:
    diary = Diary()
    rig = Rig(listeners=[diary])
    bob = rig.login("bob", linger_s=0.0, wire=AsciiWire())
    rig.broker.hold = {name}
    bob.send(Subscribe(ROOM)).cut()
    assert rig.session("bob") is None
    assert rig.hub.rooms.stays._coming == {}
    rig.broker.hold = set()
    diary.events.clear()
    rig.login("bob")
    while rig.broker.waiting:
        rig.broker.release(name)
    rig.settle()
    assert rooms_of(rig) == []
    assert ROOM not in rig.hub.rooms.audiences
    assert not rig.broker.rooms.get(ROOM)
    assert [one[0] for one in diary.events] == ["opened"]


@pytest.mark.parametrize("who", ["business", "broker"])
def test_the_business_takes_one_out_amid_what_it_put_it_into(who: str) -> None:
    """It waits twice, and when the first is answered it takes it out, perhaps once more."""
    rig = Rig()
    rig.login("bob")
    rig.broker.hold = {"join"}
    put: list[bool] = []
    taken: list[bool] = []

    def leave(was_put: bool) -> None:
        put.append(was_put)
        rig.node.leave(BOB, ROOM).addCallback(taken.append)

    rig.node.join(BOB, ROOM).addCallback(leave)
    rig.node.join(BOB, ROOM).addCallback(put.append)
    if who == "business":
        rig.node.leave(BOB, ROOM).addCallback(taken.append)
    rig.broker.release("join")
    assert put == [who == "broker", False]
    assert taken == ([True] if who == "broker" else [False, True])
    assert rig.broker.named("leave") == [(BOB, ROOM)]
    is_out(rig)


def test_links_that_come_and_go_leave_nothing_while_a_server_is_away() -> None:
    rig = Rig()
    rig.broker.hold = {"join"}
    put: list[bool] = []
    for _ in range(5):
        bob = rig.login("bob", resume=POINTS)
        rig.advance(2.25)
        bob.send(Subscribe(ROOM), Subscribe(OTHER), Subscribe(ROOM))
        rig.node.join(BOB, OTHER).addCallback(put.append)
        rig.advance(2.25)
        bob.cut()
    assert not rig.node.subscriptions._waits
    assert len(rig.broker.waiting) == 2
    assert rig.counters.refused[RefusedCode.UNAVAILABLE] == 0
    bob = rig.login("bob")
    bob.send(Subscribe(ROOM))
    while rig.broker.waiting:
        rig.broker.release("join")
    rig.settle()
    assert put == [True] * 5
    assert {one.address for one in bob.of(Subscribed)} == {ROOM, OTHER}
    assert rooms_of(rig) == ["7", "8"]


def test_a_greeting_that_ends_while_it_waits_for_a_room_is_over() -> None:
    rig = Rig()
    rig.broker.hold = {"join"}
    bob = rig.login("bob", wire=AsciiWire(), resume=POINTS, linger_s=0.0)
    bob.cut()
    rig.advance(2.25)
    assert bob.of(Welcome) == []
    assert rig.session("bob") is None
    assert not rig.hub.rooms.stays._coming
    while rig.broker.waiting:
        rig.broker.release("join")
    assert list(rig.hub.rooms.audiences) == [parse_address("all")]


def test_a_late_answer_of_one_server_reads_on_what_waits_for_another() -> None:
    """As many as may be are late, and one more goes to another server: it is late as they were."""
    rig = Rig()
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["a", "b"]})
    bob = rig.login("bob")
    bob.take()
    rig.broker.hold = {"read"}
    here, elsewhere = parse_address("topic:a"), parse_address("topic:b")
    bob.send(*[Pull(here)] * 16)
    rig.advance(2.25)
    bob.send(Pull(elsewhere), Ping(1))
    rig.advance(2.25)
    assert bob.take() == []
    rig.broker.release("read")
    rig.settle()
    assert [type(one) for one in bob.take()] == [Deliver, Pong]
    for _ in range(15):
        rig.broker.release("read")
    bob.send(Ping(2))
    assert len(bob.of(Pong)) == 1
    assert len(rig.broker.waiting) == 1
    rig.broker.release("read")
    rig.settle()
    bob.take()
    bob.send(Pull(here), Ping(3))  # all is well again, and it waits as before
    assert bob.take() == []
    rig.broker.release("read")
    rig.settle()
    assert [type(one) for one in bob.take()] == [Deliver, Pong]


@pytest.mark.parametrize("what", ["Subscribe", "Pull"])
def test_only_so_many_answers_may_be_late(what: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("imgateway.node.subscriptions.MOST_LATE", dict.fromkeys(Pause, 2))
    rig = Rig()
    bob = rig.login("bob").send(Subscribe(ROOM))
    bob.take()
    rig.broker.hold = {"join", "read"}
    rooms = [parse_address(f"room:{n}") for n in (1, 2, 3)]
    bob.send(*(map(Subscribe, rooms) if what == "Subscribe" else [Pull(ROOM)] * 3), Ping(1))
    rig.advance(10)
    assert len(rig.broker.waiting) == 3
    assert bob.take() == []
    rig.broker.release("join" if what == "Subscribe" else "read", 2)
    rig.settle()
    assert [type(one) for one in bob.take()] == [Subscribed if what == "Subscribe" else Deliver, Pong]


def test_a_pull_that_is_answered_late_goes_to_who_is_there() -> None:
    rig = Rig(set={"rooms.classes": ("*: tick=0ms",)})
    bob = rig.login("bob").send(Subscribe(ROOM, Mode.NOTIFY))
    rig.broker.store(LogKey(ROOM), entry(1))
    rig.settle()
    assert len(bob.of(Notify)) == 1
    bob.take()
    rig.broker.hold = {"read"}
    bob.send(Pull(ROOM), Unsubscribe(ROOM))
    rig.advance(2.25)
    assert [type(one) for one in bob.take()] == [Unsubscribed]
    rig.broker.release("read")
    rig.settle()
    assert bob.shown() == ["m1"]
    is_out(rig)


# -------------------------------------------------------------------------------------- put out, and let in


def removed_while_away(rig: Rig) -> None:
    """bob was in the room, lost its link, and was taken out."""
    rig.login("bob").send(Subscribe(ROOM)).cut()
    taken: list[bool] = []
    rig.node.leave(SessionKey("bob", "phone"), ROOM).addCallback(taken.append)
    assert taken == [True]


POINTS = (ResumePoint(ROOM, 0, EPOCH, 0), ResumePoint(ROOM, 1, EPOCH, 0), ResumePoint(OTHER, 0, EPOCH, 0))


def test_who_was_taken_out_while_it_was_away_is_not_let_in_by_its_greeting() -> None:
    diary = Diary()
    rig = Rig(listeners=[diary])
    removed_while_away(rig)
    for _ in range(3):  # whether or not it hears of it
        bob = rig.login("bob", resume=POINTS)
        assert [one.address.id for one in bob.of(Welcome)[0].resumed] == ["bob", "8", "8"]
        assert bob.of(Unsubscribed) == [Unsubscribed(ROOM, UnsubscribedCode.REMOVED)]
        # What Welcome did not name it subscribes to, from where it was.
        bob.send(Subscribe(ROOM, Mode.PUSH, 0, EPOCH, 1), Subscribe(ROOM, Mode.PUSH, 1, EPOCH, 1))
        assert bob.of(Unsubscribed)[1:] == [Unsubscribed(ROOM, UnsubscribedCode.REMOVED)] * 2
        assert [room.address for room in rig.session("bob").rooms] == [OTHER]
        bob.cut()
    events = [one for one in diary.events if one[0] in ("entered", "left") and one[2] == ROOM]
    assert [one[0] for one in events] == ["entered", "left"]
    bob = rig.login("bob")
    assert bob.of(Unsubscribed) == []
    bob.send(Subscribe(ROOM))  # that it may is the policy's business
    bob.send(Subscribe(ROOM, Mode.PUSH, 0, EPOCH, 1))
    assert len(bob.of(Subscribed)) == 2
    assert not rig.hub.rooms.stays._removed


def test_who_is_put_in_again_is_in() -> None:
    rig = Rig()
    removed_while_away(rig)
    rig.node.join(SessionKey("bob", "phone"), ROOM)
    bob = rig.login("bob", resume=POINTS)
    assert bob.of(Unsubscribed) == []
    assert [room.address for room in rig.session("bob").rooms] == [ROOM, OTHER]


def test_who_is_taken_out_while_its_subscribe_is_under_way_is_out() -> None:
    rig = Rig(set={"rooms.classes": ("*: tick=0ms",)})
    bob = rig.login("bob").send(Subscribe(ROOM))
    bob.take()
    taken: list[bool] = []
    rig.broker.hold = {"join"}
    bob.send(Subscribe(ROOM, lane=1), Ping(1))
    rig.node.leave(SessionKey("bob", "phone"), ROOM).addCallback(taken.append)
    rig.broker.release("join")
    rig.settle()
    assert taken == [True]
    removed = Unsubscribed(ROOM, UnsubscribedCode.REMOVED)
    assert bob.take() == [removed, removed, Pong(1, rig.wall_ms)]  # its Subscribe is answered, too
    is_out(rig)
    rig.broker.hold = set()
    bob.send(Subscribe(ROOM))  # that it may is the policy's business
    assert len(bob.of(Subscribed)) == 1


def test_who_is_taken_out_before_it_is_in_does_not_come_in() -> None:
    rig = Rig()
    bob = rig.login("bob")
    taken: list[bool] = []
    rig.broker.hold = {"watch"}
    bob.take()
    bob.send(Subscribe(ROOM))
    rig.node.leave(SessionKey("bob", "phone"), ROOM).addCallback(taken.append)
    for _ in range(2):
        rig.broker.release("watch")
    rig.settle()
    assert taken == [True]
    assert bob.take() == [Unsubscribed(ROOM, UnsubscribedCode.REMOVED)]
    assert rig.broker.named("join") == []
    assert rig.session("bob").rooms == ()
    assert ROOM not in rig.hub.rooms.audiences
    rig.node.leave(SessionKey("bob", "phone"), ROOM).addCallback(taken.append)
    assert taken == [True, False]
    assert not rig.hub.rooms.stays._coming


def test_who_cannot_come_in_after_it_was_taken_out_is_told_once(flush_logged_errors: Any) -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.broker.hold = {"join"}
    bob.take()
    bob.send(Subscribe(ROOM))
    rig.node.leave(SessionKey("bob", "phone"), ROOM)
    rig.broker.fail("join", RuntimeError("broken"))
    rig.settle()
    assert bob.take() == [Unsubscribed(ROOM, UnsubscribedCode.REMOVED)]
    assert not flush_logged_errors()
    is_out(rig)


def test_who_is_taken_out_while_its_login_is_under_way_is_out() -> None:
    rig = Rig(set={"rooms.classes": ("*: tick=0ms",)})
    rig.login("bob").send(Subscribe(ROOM)).cut()
    taken: list[bool] = []
    rig.broker.hold = {"join"}
    bob = rig.login("bob", resume=POINTS)
    rig.node.leave(SessionKey("bob", "phone"), ROOM).addCallback(taken.append)
    for _ in range(2):
        rig.broker.release("join")
    rig.settle()
    assert taken == [True]
    assert [one.address.id for one in bob.of(Welcome)[0].resumed] == ["bob", "8", "8"]
    assert bob.of(Unsubscribed) == [Unsubscribed(ROOM, UnsubscribedCode.REMOVED)]
    is_out(rig)


def test_who_is_taken_out_while_its_login_waits_for_another_room_is_out() -> None:
    rig = Rig()
    rig.broker.hold = {"join"}
    taken: list[bool] = []
    bob = rig.login("bob", resume=POINTS)
    rig.broker.release("join")
    rig.node.leave(SessionKey("bob", "phone"), ROOM).addCallback(taken.append)
    rig.broker.release("join")
    rig.settle()
    assert taken == [True]
    assert [one.address.id for one in bob.of(Welcome)[0].resumed] == ["bob", "8", "8"]
    assert bob.of(Unsubscribed) == [Unsubscribed(ROOM, UnsubscribedCode.REMOVED)]
    is_out(rig)


def test_who_is_taken_out_while_it_is_put_in_again_is_out() -> None:
    rig = Rig(set={"rooms.classes": ("*: tick=0ms",)})
    bob = rig.login("bob").send(Subscribe(ROOM))
    bob.take()
    rig.broker.hold = {"join"}
    put: list[bool] = []
    rig.node.join(SessionKey("bob", "phone"), ROOM).addCallback(put.append)
    rig.node.leave(SessionKey("bob", "phone"), ROOM)
    rig.broker.release("join")
    rig.settle()
    assert put == [False]
    assert bob.take() == [Unsubscribed(ROOM, UnsubscribedCode.REMOVED)]
    is_out(rig)


def test_who_is_taken_out_and_goes_while_its_subscribe_is_under_way_is_out() -> None:
    rig = Rig()
    bob = rig.login("bob").send(Subscribe(ROOM))
    rig.broker.hold = {"join"}
    bob.send(Subscribe(ROOM, lane=1))
    rig.node.leave(SessionKey("bob", "phone"), ROOM)
    bob.cut()
    rig.broker.release("join")
    is_out(rig)


def is_out(rig: Rig) -> None:
    """bob is not in the room, whomever one asks."""
    session = rig.session("bob")
    assert all(room.address != ROOM for room in session.rooms)
    assert ROOM not in rig.hub.rooms.audiences
    assert SessionKey("bob", "phone") not in rig.broker.rooms[ROOM]


def test_who_is_put_in_while_it_comes_back_is_in() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.broker.hold = {"join"}
    put: list[bool] = []
    rig.node.join(SessionKey("bob", "phone"), ROOM).addCallback(put.append)
    bob.cut()
    bob = rig.login("bob")
    rig.broker.release("join")
    assert put == []  # the broker may have passed over what was said of an older generation
    rig.broker.release("join")
    rig.settle()
    assert put == [True]
    assert [(one.address, one.lane) for one in bob.of(Subscribed)] == [(ROOM, 1), (ROOM, 0)]
    assert rig.session("bob") in rig.hub.rooms.audiences[ROOM].members
    assert rig.hub.rooms.audiences[ROOM].stays == 1
    assert SessionKey("bob", "phone") in rig.broker.rooms[ROOM]


def test_the_broker_is_asked_for_who_is_there() -> None:
    """And not for who was, when a room's server comes back: it would pass over an older generation."""
    rig = Rig()
    rig.login("bob")
    rig.login("eve")
    joined: list[int] = []
    joining = rig.broker.join

    def join(session: SessionKey, generation: int, *more: Any) -> Any:
        joined.append(generation)
        return joining(session, generation, *more)

    rig.broker.join = join
    rig.broker.hold = {"watch"}
    put: list[bool] = []
    for user in ("bob", "eve"):
        rig.node.join(SessionKey(user, "phone"), ROOM).addCallback(put.append)
    rig.node.kick("eve", None, "")
    rig.broker.hold = set()
    rig.login("bob")
    while rig.broker.waiting:
        rig.broker.release("watch")
    rig.settle()
    assert sorted(put) == [False, True]
    assert set(joined) == {rig.session("bob").generation}
    assert rig.hub.rooms.audiences[ROOM].stays == 1


def test_who_ends_while_it_is_put_in_is_not_in() -> None:
    rig = Rig()
    rig.login("bob")
    rig.broker.hold = {"join"}
    put: list[bool] = []
    rig.node.join(SessionKey("bob", "phone"), ROOM).addCallback(put.append)
    rig.node.kick("bob", None, "")
    rig.broker.release("join")
    assert put == [False]
    assert ROOM not in rig.hub.rooms.audiences
    assert SessionKey("bob", "phone") not in rig.broker.rooms[ROOM]


def test_who_comes_back_while_it_subscribes_is_in() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.broker.hold = {"join"}
    bob.send(Subscribe(ROOM))
    bob = rig.login("bob")
    rig.broker.release("join")
    rig.settle()
    assert rooms_of(rig) == []  # the broker may have passed over what was said of an older generation
    rig.broker.release("join")
    rig.settle()
    assert rooms_of(rig) == ["7"]  # as the broker says, until its client names it or ends
    assert rig.hub.rooms.audiences[ROOM].stays == 1
    bob.take()
    rig.broker.hold = set()
    bob.send(Unsubscribe(ROOM))
    is_out(rig)


def test_what_a_session_was_taken_out_of_is_forgotten_with_it(monkeypatch: Any) -> None:
    monkeypatch.setattr("imgateway.node.stays.MOST_REMOVED", 3)
    rig = Rig()
    rooms = [parse_address(f"room:{number}") for number in range(5)]
    rig.login("bob").send(*map(Subscribe, rooms))
    for room in rooms:
        rig.node.leave(SessionKey("bob", "phone"), room)
    assert list(rig.hub.rooms.stays._removed[rig.session("bob")]) == rooms[2:]
    rig.node.kick("bob", None, "")
    assert not rig.hub.rooms.stays._removed


def test_who_may_come_into_one_room_again_is_still_out_of_the_other() -> None:
    rig = Rig()
    bob = rig.login("bob").send(Subscribe(ROOM), Subscribe(OTHER))
    for room in (ROOM, OTHER):
        rig.node.leave(BOB, room)
    rig.settle()
    bob.take()
    bob.send(Subscribe(ROOM), Subscribe(OTHER, epoch=EPOCH))
    assert {one.address for one in bob.of(Subscribed)} == {ROOM}
    assert bob.of(Unsubscribed) == [Unsubscribed(OTHER, UnsubscribedCode.REMOVED)]


# ------------------------------------------------------------------------------------ what listeners hear


@pytest.mark.parametrize("broker", ["fake", "memory"])
def test_a_session_is_told_of_before_its_rooms(broker: str) -> None:
    diary = Diary()
    rig = Rig(FakeBroker() if broker == "fake" else "memory", listeners=[diary])
    rig.login("bob", resume=POINTS).cut()
    rig.login("bob", resume=(*POINTS, ResumePoint(parse_address("room:9"), 0, EPOCH, 0)))
    assert [(one[0], one[2].id if len(one) > 2 else "") for one in diary.events] == [
        ("opened", ""),
        ("entered", "7"),
        ("entered", "8"),
        ("resumed", ""),
        ("entered", "9"),
    ]
    rig.node.kick("bob", None, "")
    assert [one[0] for one in diary.events[5:]] == ["left", "left", "left", "closed"]


def test_stays_of_a_login_that_does_not_come_through_are_told_in_pairs() -> None:
    diary, broker = Diary(), FakeBroker()
    rig = Rig(broker, listeners=[diary])
    broker.hold = {"join"}
    bob = rig.login("bob", resume=POINTS[:1])
    assert diary.events == []  # it is in the room, as far as the broker knows
    bob.cut()
    assert diary.events == []
    rig.advance(rig.hub.linger_s + 5)
    assert [one[0] for one in diary.events] == ["entered", "left"]
    rig.login("eve").cut()
    eve = rig.login("eve", resume=POINTS[:1])
    eve.cut()  # it was opened before
    assert [one[0] for one in diary.events[2:]] == ["opened", "entered"]
    assert not rig.hub._early


def policy_with(areas: Any) -> Any:
    """The default policy, which asks this for the areas of a room."""

    class Policy(DefaultPolicy):
        def areas(self, room: Any) -> Any:
            return areas(room)

    return Policy()


def listens(**calls: Any) -> Any:
    """A session listener that does this when it hears of it."""
    diary = Diary()
    for name, call in calls.items():
        setattr(diary, name, call)
    return diary


def test_a_listener_takes_a_session_out_amid_its_greeting() -> None:
    def out(*_: Any) -> None:
        rig.node.leave(BOB, ROOM)

    rig = Rig(listeners=[listens(resumed=out)])
    rig.login("bob").send(Subscribe(ROOM)).cut()
    bob = rig.login("bob", resume=(ResumePoint(ROOM, 0, EPOCH, 0),))
    assert bob.kinds() == [Welcome, Unsubscribed]
    assert bob.code is None
    assert ROOM not in rig.hub.rooms.audiences


def test_who_waited_for_it_to_be_put_takes_it_out_as_well() -> None:
    rig = Rig()
    rig.login("eve").send(Subscribe(ROOM))
    bob = rig.login("bob").send(Subscribe(ROOM))
    rig.broker.hold = {"join"}
    bob.send(Subscribe(ROOM))
    rig.node.join(BOB, ROOM).addCallback(lambda was: rig.node.leave(BOB, ROOM))
    rig.node.leave(BOB, ROOM)
    while rig.broker.waiting:
        rig.broker.release("join")
    rig.settle()
    assert [one.code for one in bob.of(Unsubscribed)].count(UnsubscribedCode.REMOVED) == 2  # with the answer
    assert rig.hub.rooms.audiences[ROOM].stays == 1  # eve's
    assert rig.session("bob").rooms == ()


def test_all_that_is_another_ring_when_it_is_watched_again(flush_logged_errors: Any) -> None:
    rig = Rig(start=False)
    broker, everyone = rig.broker, LogKey(parse_address("all"))
    broker.hold = {"watch"}
    rig.start()
    rig.hub.arrived(everyone, EPOCH, 999, 1000, (entry(1000),))
    broker.fail("watch", RuntimeError("broken"))
    assert flush_logged_errors(RuntimeError)
    broker.hold.clear()
    broker.waiting.clear()
    broker.epochs[everyone] = EPOCH + 1
    rig.advance(3)
    bob = rig.login("bob")
    broker.store(everyone, entry(1))
    rig.settle()
    assert bob.shown() == ["m1"]


@pytest.mark.parametrize(("epoch", "head"), [(EPOCH, 5), (EPOCH + 1, 2)])
def test_what_is_said_of_a_ring_before_it_is_watched(epoch: int, head: int) -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.broker.hold = {"watch"}
    bob.send(Subscribe(ROOM))
    rig.hub.arrived(LogKey(ROOM), EPOCH - 1, 8, 9, (entry(9),))
    rig.hub.arrived(LogKey(ROOM), epoch, head - 1, head, (entry(head),))
    while rig.broker.waiting:
        rig.broker.release("watch")
    rig.settle()
    lane = rig.hub.rooms.audiences[ROOM].lanes[0]
    assert (lane.epoch, lane.head) == ((EPOCH, 5) if epoch == EPOCH else (EPOCH, 0))


def test_an_area_that_is_named_twice_is_one() -> None:
    rig = Rig(policy=policy_with(lambda room: ("games", "games")))
    bob = rig.login("bob").send(Subscribe(ROOM), Unsubscribe(ROOM))
    assert bob.kinds() == [Welcome, Subscribed, Unsubscribed]
    assert len(rig.hub.rooms.audiences) == 1  # all


@pytest.mark.parametrize("named", [(), ("games",)])
def test_a_policy_that_fails_once_shuts_no_room(named: tuple[str, ...], flush_logged_errors: Any) -> None:
    """Also when it fails half-way."""

    def areas(room: Any) -> Any:
        yield from named
        if rig.clock.seconds() < 5:
            raise ZeroDivisionError("its database is away")

    rig = Rig(policy=policy_with(areas))
    bob = rig.login("bob").send(Subscribe(ROOM))
    assert [one.code for one in bob.of(Refused)] == [RefusedCode.UNAVAILABLE]
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    assert len(rig.hub.rooms.audiences) == 1  # all
    rig.advance(5)
    bob.send(Subscribe(ROOM))
    assert len(bob.of(Subscribed)) == 1


def test_a_policy_that_fails_at_a_greeting_and_when_somebody_is_put(flush_logged_errors: Any) -> None:
    def areas(room: Any) -> Any:
        raise ZeroDivisionError("its database is away")

    rig = Rig(policy=policy_with(areas))
    bob = rig.login("bob", resume=(ResumePoint(ROOM, 0, EPOCH, 0),))
    assert [one.address.kind for one in bob.of(Welcome)[0].resumed] == ["user"]
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    failed: list[Any] = []
    rig.node.join(BOB, ROOM).addErrback(lambda failure: failed.append(failure.type))
    assert failed == [ZeroDivisionError]  # whoever put it hears of it
    assert not rig.hub.rooms.stays.held(rig.session("bob"))


def test_a_broker_that_fails_when_a_room_is_left_that_nobody_named(flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.login("bob").send(Subscribe(ROOM)).cut()
    rig.login("bob")  # names nothing
    rig.broker.leave = lambda *_: fail(RuntimeError("broken"))
    rig.advance(rig.hub.linger_s + 1)
    gc.collect()
    logged = flush_logged_errors(RuntimeError)
    assert [one["log_format"] for one in logged] == ["leaving a room failed"]


def test_nothing_goes_before_welcome_though_a_gap_is_heard_of() -> None:
    def put(*_: Any) -> None:
        rig.node.join(BOB, OTHER)

    rig = Rig(listeners=[listens(gap=put)])
    bob = rig.login("bob", wire=AsciiWire(gaps=False))
    bob.send(Subscribe(ROOM)).cut()
    bob = rig.login("bob", wire=AsciiWire(gaps=False), resume=(ResumePoint(ROOM, 0, EPOCH - 1, 5),))
    assert bob.kinds() == [Welcome, Subscribed, Subscribed]  # a lane each


def test_a_gap_after_the_listener_that_heard_of_the_login_has_kicked() -> None:
    def kick(*_: Any) -> None:
        rig.hub.kick("bob", None, "out")

    points = (ResumePoint(ROOM, 0, EPOCH - 1, 5), ResumePoint(user_address("bob"), 0, EPOCH - 1, 5))
    rig = Rig(listeners=[listens(resumed=kick)])
    rig.login("bob").send(Subscribe(ROOM)).cut()
    bob = rig.login("bob", resume=points)
    assert bob.code is CloseCode.KICKED
    assert rig.counters.gaps_told == 0
    assert ROOM not in rig.hub.rooms.audiences


def test_gaps_after_the_listener_that_heard_of_the_first_has_kicked() -> None:
    def kick(*_: Any) -> None:
        rig.hub.kick("bob", None, "out")

    rig = Rig(listeners=[listens(gap=kick)])
    rig.login("bob", wire=AsciiWire(gaps=False)).send(Subscribe(ROOM)).cut()
    points = tuple(ResumePoint(ROOM, lane, EPOCH - 1, 5) for lane in (0, 1))
    bob = rig.login("bob", wire=AsciiWire(gaps=False), resume=points)
    assert bob.code is CloseCode.KICKED
    assert rig.counters.gaps_unsaid == 1


def test_rooms_that_it_was_taken_out_of_and_does_not_name() -> None:
    rig = Rig()
    rig.login("bob").send(Subscribe(ROOM), Subscribe(OTHER)).cut()
    rig.node.leave(BOB, ROOM)
    bob = rig.login("bob", resume=(ResumePoint(OTHER, 0, EPOCH, 0),))
    assert bob.kinds() == [Welcome]


def test_who_is_put_while_away_is_told_as_was_asked() -> None:
    rig = Rig()
    rig.login("bob").cut()
    rig.node.join(BOB, ROOM, Mode.NOTIFY)
    rig.login("bob", device="tablet")
    bob = rig.login("bob")
    assert {one.mode for one in bob.of(Subscribed)} == {Mode.NOTIFY}


def test_who_is_put_and_comes_with_a_newer_link_is_told_as_was_asked() -> None:
    rig = Rig()
    rig.login("bob").cut()
    rig.node.join(BOB, ROOM, Mode.NOTIFY)
    rig.broker.hold = {"watch"}
    rig.login("bob")
    bob = rig.login("bob")
    while rig.broker.waiting:
        rig.broker.release("watch")
    rig.settle()
    assert {one.mode for one in bob.of(Subscribed)} == {Mode.NOTIFY}


def test_who_was_behind_and_knows_more_is_sent_only_what_it_lacks() -> None:
    """Its client pulled, and subscribes from there."""
    rig = Rig()
    bob = rig.login("bob").send(Subscribe(ROOM))
    bob.stop_reading()
    rig.broker.store(LogKey(ROOM), *(entry(n, b"x" * 50_000) for n in range(1, 9)))
    rig.pass_ms(0)
    rig.broker.store(LogKey(ROOM), entry(9))
    rig.pass_ms(1000)
    lag = rig.hub.rooms.audiences[ROOM].lags[rig.session("bob")]
    before = lag.places[0]
    session = rig.session("bob")
    room = rig.hub.rooms.audiences[ROOM]
    assert before < 9
    (place, _) = rig.hub.rooms.attendance.enter(session, room, Mode.PUSH, (ResumePoint(ROOM, 0, EPOCH, 9),))
    assert place.position == 9
    assert lag.places[0] == 9
    bob.read_on()
    rig.pass_ms(1000)
    assert session not in room.lags
    assert "m9" not in bob.shown()
