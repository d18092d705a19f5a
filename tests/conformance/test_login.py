"""From the first byte to Welcome, and every way in which a session ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imgateway.errors import CloseCode, LinkLost
from imgateway.frames import (
    Address,
    Bye,
    DeliverAck,
    Frame,
    Hello,
    Mode,
    Notify,
    Ping,
    Pong,
    Pull,
    Refused,
    RefusedCode,
    Renew,
    Renewed,
    Request,
    Response,
    Seen,
    SeenKind,
    Start,
    Subscribe,
    Told,
    Unsubscribe,
    Welcome,
)
from imgateway.interfaces import Presence
from tests.conformance.house import House, publication, settings, user
from tests.conformance.wires import CONNECTED, UDP, Wire

Build = Callable[..., House]

CLIENT_FIRSTS: list[Frame] = [
    publication("user:bob"),
    DeliverAck(()),
    Ping(1),
    Pong(1),
    Renew("bob"),
    Pull(user("bob")),
    Request(1, "echo", "say"),
    Response(1),
    Subscribe(Address("room", "1")),
    Seen(user("bob"), SeenKind.READ, 1),
]


def test_welcome_says_who_and_how(house: House, wire: Wire) -> None:
    welcome = house.login(wire, "bob", "phone").welcome
    assert welcome.user == "bob"
    assert welcome.session == "device:bob/phone"
    assert welcome.node == "n"
    assert welcome.heartbeat_s == 30.0
    assert welcome.server_time_ms == house.wall_ms()
    assert welcome.token_expires_ms == 0
    limits = welcome.limits
    assert (limits.max_body_bytes, limits.max_addresses, limits.publish_window, limits.dedup_s) == (
        65_536,
        200,
        64,
        14_400 if wire.on_redis else 86_400,
    )
    assert limits.rooms_dedup_s == 600
    (mailbox,) = welcome.resumed
    assert (mailbox.address, mailbox.position, mailbox.head, mailbox.gap) == (user("bob"), 0, 0, False)
    assert mailbox.epoch


def test_the_rates_are_told(build: Build, wire: Wire) -> None:
    limits = build(settings(quota={"publish_rate": 7.0, "pair_rate": 3.0})).login(wire).welcome.limits
    assert (limits.publish_rate, limits.pair_rate) == (7.0, 3.0)


@pytest.mark.parametrize("frame", CLIENT_FIRSTS, ids=lambda frame: type(frame).__name__)
def test_only_hello_may_come_first(house: House, wire: Wire, frame: Frame) -> None:
    other = house.login(wire, "other")
    client = house.connect(wire)
    client.send(frame)
    assert client.bye() == CloseCode.UNEXPECTED_FRAME
    assert other.quiet()


def test_what_comes_right_behind_hello_waits_for_welcome(house: House, wire: Wire) -> None:
    client = house.connect(wire)
    client.send(Hello("bob", "phone"), Ping(7), publication("user:bob"), Ping(8))
    assert isinstance(client.take(Welcome), Welcome)
    kinds = [type(frame).__name__ for frame in client.frames]
    assert sorted(kinds) == ["Deliver", "Pong", "Pong", "PublishAck"]


def test_a_second_hello_is_unexpected(house: House, wire: Wire) -> None:
    client = house.login(wire)
    client.send(Hello("bob", "phone"))
    assert client.bye() == CloseCode.UNEXPECTED_FRAME


def test_frames_of_a_gateway_are_unexpected(house: House, wire: Wire) -> None:
    client = house.login(wire)
    client.send(Renewed(5))
    assert client.bye() == CloseCode.UNEXPECTED_FRAME


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello("bad", "phone"), CloseCode.BAD_TOKEN),
        (Hello("bob@0", "phone"), CloseCode.TOKEN_EXPIRED),
        (Hello("bob/phone", "tablet"), CloseCode.BAD_TOKEN),
        (Hello("bob", "x" * 65), CloseCode.BAD_FRAME),
    ],
)
def test_refused_logins(house: House, wire: Wire, hello: Hello, code: CloseCode) -> None:
    client = house.connect(wire)
    client.send(hello)
    assert client.bye() == code
    assert not house.node.hub.sessions


def test_a_device_may_come_from_the_token(house: House, wire: Wire) -> None:
    assert house.login(wire, "bob/phone", "").welcome.session == "device:bob/phone"


@pytest.mark.parametrize("wire", CONNECTED, ids=lambda wire: wire.name)
def test_nobody_waits_longer_than_the_login_timeout(house: House, wire: Wire) -> None:
    client = house.connect(wire)
    house.advance(9.5)
    assert client.quiet()
    house.advance(1)
    assert client.bye() == CloseCode.LOGIN_TIMEOUT


def test_no_more_than_the_login_bytes_before_welcome(house: House, wire: Wire) -> None:
    client = house.connect(wire)
    client.send(Hello("x" * 9000, "phone"))
    assert client.gone is not None
    assert [frame.code for frame in client.frames if isinstance(frame, Bye)] in (
        [],
        [CloseCode.FRAME_TOO_LARGE],
    )


@pytest.mark.parametrize(
    "frame",
    [
        Subscribe(Address("area", "1"), Mode.PUSH),
        Unsubscribe(Address("area", "1")),
        Seen(user("bob"), SeenKind.READ, 1),
        Pull(Address("node", "1")),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_what_comes_later_is_refused_and_the_link_goes_on(house: House, wire: Wire, frame: Frame) -> None:
    client = house.login(wire, "!bob")
    client.send(frame)
    refused = client.take(Refused)
    assert refused.code == RefusedCode.NOT_SUPPORTED
    assert refused.frame == type(frame).__name__.lower()
    client.send(Ping(3))
    assert client.take(Pong).nonce == 3


def test_notify_is_a_gateways_frame(house: House, wire: Wire) -> None:
    client = house.login(wire)
    client.send(Notify((Told(user("bob"), 0, 1, 1),)))
    assert client.bye() == CloseCode.UNEXPECTED_FRAME


# ------------------------------------------------------------------------------------------------- heartbeat


def test_silence_is_asked_about_and_then_the_end(house: House, wire: Wire) -> None:
    client = house.login(wire)
    house.advance(50)
    assert client.quiet()
    house.advance(4)
    client.take(Ping)
    house.advance(25)
    assert client.bye() == CloseCode.HEARTBEAT_TIMEOUT


def test_any_answer_keeps_the_link(house: House, wire: Wire) -> None:
    client = house.login(wire)
    for _ in range(4):
        house.advance(54)
        client.take(Ping)
        client.send(Pong())
    assert client.quiet()


def test_a_clients_ping_is_answered_with_its_nonce(house: House, wire: Wire) -> None:
    client = house.login(wire)
    client.send(Ping(2**63))
    pong = client.take(Pong)
    assert (pong.nonce, pong.time_ms) == (2**63, house.wall_ms())


# ---------------------------------------------------------------------------------------------------- tokens


def test_a_token_that_is_not_renewed_ends_the_link_after_its_grace(house: House, wire: Wire) -> None:
    client = house.login(wire, "bob@30")
    assert client.welcome.token_expires_ms == house.wall_ms() + 30_000
    for _ in range(8):
        house.advance(10)
        client.send(Pong())
    assert client.quiet()
    house.advance(11)
    assert client.bye() == CloseCode.TOKEN_EXPIRED


def test_renew_keeps_the_link(house: House, wire: Wire) -> None:
    client = house.login(wire, "bob@30")
    house.advance(20)
    client.send(Renew("bob@500"))
    assert client.take(Renewed).token_expires_ms == house.wall_ms() + 500_000
    for _ in range(10):
        house.advance(10)
        client.send(Pong())
    assert client.quiet()


@pytest.mark.parametrize("token", ["bad", "alice", "bob/tablet"])
def test_renew_with_another_ones_token_ends_the_link(house: House, wire: Wire, token: str) -> None:
    client = house.login(wire, "bob")
    client.send(Renew(token))
    assert client.bye() == CloseCode.BAD_TOKEN


def test_revoked(house: House, wire: Wire) -> None:
    client = house.login(wire, "bob")
    other = house.login(wire, "alice")
    house.advance(2)
    house.result(house.node.revoke("bob", house.wall_ms() // 1000))
    assert client.bye() == CloseCode.REVOKED
    assert other.quiet()
    house.login(wire, "bob")  # a token that was issued since


# --------------------------------------------------------------------------------------- devices and policies


def test_many_devices_side_by_side(house: House, wire: Wire) -> None:
    phone, tablet = house.login(wire, "bob", "phone"), house.login(wire, "bob", "tablet")
    assert phone.quiet()
    assert tablet.quiet()
    present = house.result(house.node.sessions("bob"))
    assert sorted(one.session.device for one in present) == ["phone", "tablet"]
    assert all(isinstance(one, Presence) and one.online for one in present)


def test_the_same_device_again_replaces_the_link(house: House, wire: Wire) -> None:
    old = house.login(wire)
    new = house.login(wire)
    assert old.bye() == CloseCode.REPLACED
    assert new.welcome.generation > old.welcome.generation
    assert new.quiet()
    house.login(wire, "alice").publish("user:bob")
    assert len(new.messages()) == 1


def test_a_replaced_link_that_is_lost_late_disturbs_nobody(house: House, wire: Wire) -> None:
    old = house.login(wire)
    old.link.fall_silent()
    new = house.login(wire)
    for _ in range(4):  # longer than the old link may be silent, and its session may linger
        house.advance(40)
        new.send(Pong())
    assert len(house.result(house.node.sessions("bob"))) == 1
    house.login(wire, "alice").publish("user:bob")
    assert len(new.messages()) == 1


def policy(name: str) -> dict[str, dict[str, str]]:
    return {"session": {"login_policy": name}}


def test_one_device_at_a_time(build: Build, wire: Wire) -> None:
    house = build(settings(**policy("one")))
    phone = house.login(wire, "bob", "phone")
    house.login(wire, "bob", "tablet")
    assert phone.bye() == CloseCode.DISPLACED


def test_one_device_per_platform(build: Build, wire: Wire) -> None:
    house = build(settings(**policy("one-per-platform")))
    desk = house.login(wire, "bob", "desk", platform="desktop")
    phone = house.login(wire, "bob", "phone", platform="mobile")
    house.login(wire, "bob", "tablet", platform="mobile")
    assert phone.bye() == CloseCode.DISPLACED
    assert desk.quiet()


def test_a_second_device_is_refused(build: Build, wire: Wire) -> None:
    house = build(settings(**policy("refuse")))
    phone = house.login(wire, "bob", "phone")
    tablet = house.connect(wire)
    tablet.send(Hello("bob", "tablet"))
    assert tablet.bye() == CloseCode.LOGIN_CONFLICT
    assert phone.quiet()
    phone.send(Bye(CloseCode.NORMAL))
    house.login(wire, "bob", "tablet")


def test_kick_one_device_or_all(house: House, wire: Wire) -> None:
    phone, tablet, desk = (house.login(wire, "bob", device) for device in ("phone", "tablet", "desk"))
    assert house.result(house.node.kick("bob", "phone", "enough")) == 1
    house.settle()
    bye = phone.take(Bye)
    assert (bye.code, bye.reason) == (CloseCode.KICKED, "enough")
    assert tablet.quiet()
    assert house.result(house.node.kick("bob", None, "all of you")) == 2
    assert (tablet.bye(), desk.bye()) == (CloseCode.KICKED, CloseCode.KICKED)
    assert house.result(house.node.kick("bob", None, "")) == 0


def test_goodbye_ends_the_session_at_once_a_lost_link_does_not(house: House, wire: Wire) -> None:
    bob, alice = house.login(wire, "bob"), house.login(wire, "alice")
    bob.send(Bye(CloseCode.NORMAL))
    assert bob.gone is not None
    alice.link.cut()
    house.settle()
    assert [session.user for session in house.node.hub.sessions] == ["alice"]
    assert not house.result(house.node.sessions("alice"))[0].online
    house.advance(61)
    assert not house.node.hub.sessions


# ------------------------------------------------------------------------------------------------- the gate


@pytest.mark.parametrize("wire", CONNECTED, ids=lambda wire: wire.name)
def test_more_than_may_wait_for_their_login_are_turned_away(build: Build, wire: Wire) -> None:
    house = build(settings(limits={"login_pending": 3}))
    there = house.login(wire, "bob")
    waiting = [house.connect(wire) for _ in range(3)]
    try:
        assert house.connect(wire).gone is not None  # TCP: connected, and cut
    except LinkLost:
        pass  # WebSocket: never opened
    assert there.quiet()
    house.advance(11)
    assert [client.bye() for client in waiting] == [CloseCode.LOGIN_TIMEOUT] * 3
    house.login(wire, "late")


def test_over_udp_nobody_is_there_who_has_not_greeted_with_a_key(house: House) -> None:
    there = house.login(UDP, "bob")
    server = ("127.0.0.1", 7903)
    for number in range(1000):
        for data in (b"", b"\x0a", b"\xf1" * 1200, bytes(200)):
            house.network.datagrams.spoof(data, ("192.0.2.1", 1000 + number), server)
        house.settle()
    assert len(house.node.exchange.links) == 1
    assert there.quiet()


def test_start_at_head_or_oldest(house: House, wire: Wire) -> None:
    alice = house.login(wire, "alice")
    for number in range(3):
        alice.publish("user:bob", str(number))
    assert house.login(wire, "bob", "a", start=Start.HEAD).messages() == []
    assert len(house.login(wire, "bob", "b", start=Start.OLDEST).messages()) == 3
    house.advance(6)  # positions are written
    # What one device has taken is no news for a new one.
    assert house.login(wire, "bob", "c", start=Start.UNSEEN).messages() == []
