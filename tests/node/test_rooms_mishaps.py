"""Rooms when something fails half-way: a connection raises, a link goes amid its login, a broker is slow.

What fails costs the one whom it concerns, and nobody else.
"""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.frames import (
    Mode,
    Notify,
    ResumePoint,
    SessionKey,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    parse_address,
)
from imgateway.interfaces import Identity
from tests.node.rig import Diary, FakeBroker, Rig

ROOM, OTHER = parse_address("room:7"), parse_address("room:8")


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

    def cut_meanwhile(claim: Any) -> Any:
        answer = opening(claim)
        peer = rig.peers[-1]
        peer.client.lose("cut")
        if not peer.server.lost and peer.link is not None:
            peer.link.lost("cut")
        return answer

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
    rig.pass_ms(1000)
    svc.publish("2", "room:7")
    assert bob.shown() == ["2"]


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
