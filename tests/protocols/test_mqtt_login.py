"""CONNECT and what it draws; how connections end."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from imgateway.config import MqttSettings
from imgateway.errors import BadFrame, CloseCode, ProtocolError
from imgateway.frames import Bye, Hello, Limits, Ping, Publish, Start
from imgateway.interfaces import ICodec, IProtocolAdapter, IProtocolMaker
from imgateway.protocols.mqtt.adapter import MqttAdapter, MqttMaker
from imgateway.protocols.mqtt.packets import Body, packet, text
from imgateway.protocols.mqtt.properties import Property, written
from imgateway.protocols.mqtt.reasons import Broken
from tests.protocols.mqtt import DISCONNECT, MAX, ME, PINGREQ, Peer, connect, properties, publish

P = Property


def said(connack: bytes) -> dict[int, Any]:
    """What a CONNACK of MQTT 5 has beside session present and reason."""
    body = Body(connack[4:]).part()
    found: dict[int, Any] = {}
    sizes = {P.RECEIVE_MAXIMUM: "short", P.MAXIMUM_PACKET_SIZE: "long", P.TOPIC_ALIAS_MAXIMUM: "short"}
    sizes |= {
        P.WILDCARDS: "byte",
        P.SHARED: "byte",
        P.ASSIGNED_CLIENT_ID: "text",
        P.SERVER_KEEPALIVE: "short",
    }
    sizes |= {P.REASON_STRING: "text"}
    while body.more():
        number = body.byte()
        found[number] = getattr(body, sizes[P(number)])()
    return found


def test_the_interfaces() -> None:
    maker = MqttMaker()
    assert verifyObject(IProtocolMaker, maker)
    for settings in (None, MqttSettings()):
        adapter = maker.make(settings, lambda: 0.0, lambda: 0)
        assert verifyObject(IProtocolAdapter, adapter)
    assert verifyObject(ICodec, adapter.codec(True, MAX))
    assert verifyObject(ICodec, adapter.codec(False, MAX))


def test_ids_are_drawn_that_nobody_else_has() -> None:
    drawn = set()
    for _ in range(20):
        codec = MqttAdapter(0, lambda: 0).codec(True, MAX)
        list(codec.receive(connect()))
        (frame,) = codec.receive(publish("user/bob", b"x", qos=0))
        assert isinstance(frame, Publish)
        drawn.add(frame.msg_id)
    assert len(drawn) == 20


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("chunk", [1, 1_000])
def test_a_greeting(version: int, chunk: int) -> None:
    peer = Peer()
    data = connect(version, "phone", user="alice", token=b"secret", clean=True)
    frames = [frame for at in range(0, len(data), chunk) for frame in peer.take(data[at : at + chunk])]
    assert frames == [Hello("secret", "phone", user="alice", linger_s=0.0, clean=True)]
    assert peer.codec.silence_s == 90.0


def test_connack_of_3_1_1() -> None:
    peer = Peer()
    peer.login()
    assert peer.connack.hex() == "20020000"
    assert peer.hello.linger_s == -1.0  # the session is kept for ever, so the node waits as long as it does
    peer.login()
    assert peer.connack.hex() == "20020100"  # session present
    peer.login(clean=True)
    assert peer.connack.hex() == "20020000"
    peer.login()
    assert peer.connack.hex() == "20020000"


def test_connack_of_5() -> None:
    peer = Peer()
    peer.login(5, about=[(P.SESSION_EXPIRY, 30)], limits=Limits(publish_window=20))
    assert peer.connack[2:4].hex() == "0000"
    assert said(peer.connack) == {
        P.RECEIVE_MAXIMUM: 20,
        P.MAXIMUM_PACKET_SIZE: MAX,
        P.TOPIC_ALIAS_MAXIMUM: 16,
        P.WILDCARDS: 0,
        P.SHARED: 0,
    }
    assert peer.hello.linger_s == 30.0
    peer.login(5, about=[(P.SESSION_EXPIRY, 30), (P.RECEIVE_MAXIMUM, 3)])
    assert peer.connack[2] == 1
    assert peer.codec.window == 3


def test_an_empty_client_id() -> None:
    peer = Peer()
    peer.login(5, client_id="", device="given")
    assert (peer.hello.device, peer.hello.assigned, peer.hello.start) == ("mqtt-name1-", True, Start.HEAD)
    assert said(peer.connack)[P.ASSIGNED_CLIENT_ID] == "given"
    peer.login(4, client_id="", device="given", clean=True)
    assert peer.connack.hex() == "20020000"
    assert peer.hello.device == "mqtt-name2-"
    peer.login(5, client_id="", device="given", about=[(P.SESSION_EXPIRY, 60)])
    assert (peer.hello.assigned, peer.hello.start, peer.hello.linger_s) == (True, Start.UNSEEN, 60.0)
    peer.login(5)
    assert not peer.hello.assigned


@pytest.mark.parametrize(
    ("version", "asked", "limit", "silence", "told"),
    [
        (4, 0, 0, inf, None),
        (4, 40, 0, 60.0, None),
        (4, 40, 20, 60.0, None),  # it could not be told
        (5, 0, 0, inf, None),
        (5, 0, 20, 30.0, 20),
        (5, 40, 20, 30.0, 20),
        (5, 10, 20, 15.0, None),
    ],
)
def test_keepalive(version: int, asked: int, limit: int, silence: float, told: int | None) -> None:
    peer = Peer(limit)
    peer.login(version, keepalive_s=asked)
    assert peer.codec.silence_s == silence
    assert version == 4 or said(peer.connack).get(P.SERVER_KEEPALIVE) == told


def test_a_will() -> None:
    peer = Peer()
    peer.login(will=("room/7", b"gone"), will_flags=2 << 3 | 32)
    will = peer.hello.will
    assert will == Publish("name1-", will.to, body=b"gone", headers=(("mqtt.retain", "1"),))
    assert [address.kind for address in will.to] == ["room"]
    assert peer.hello.will_delay_s == 0.0
    about = [(P.WILL_DELAY, 7), (P.MESSAGE_EXPIRY, 0), (P.CONTENT_TYPE, "text/plain"), (P.USER, ("a", "b"))]
    peer.login(5, will=("user/bob", b"gone"), will_about=about)
    will = peer.hello.will
    assert (will.qos, will.ttl_s, will.content_type, will.headers) == (0, 1, "text/plain", (("a", "b"),))
    assert peer.hello.will_delay_s == 7.0


# What a CONNECT must not be: its bytes, and the CONNACK that it draws in 3.1.1 and in 5 (None: none).
BAD = [
    (PINGREQ, None),
    (b"\x10\x00", None),
    (packet(0x10, b"\0\4MQTX\4\0\0\0\0\0"), None),
    (connect(3), "20020001"),
    (packet(0x10, text("MQIsdp"), b"\3\2\0\0\0\0"), "20020001"),
    (connect(6), "20020001"),
    (connect(4, ""), "20020002"),
    (connect(4, "x" * 65), "20020002"),
    (connect(4, "a\x07"), "20020002"),
    (connect(5, "x" * 65), "85"),
    (connect(4) + b"", "ok"),
    (connect(4, user=None, token=None), "ok"),
    (connect(5, user=None, token=b"t"), "ok"),
    (packet(0x10, text("MQTT"), b"\4\x42\0\0", text("a"), text("t")), None),  # a password, no user name
    (packet(0x10, text("MQTT"), b"\4\3\0\0", text("a")), None),  # the reserved flag
    (packet(0x10, text("MQTT"), b"\4\x0a\0\0", text("a")), None),  # will flags without a will
    (packet(0x10, text("MQTT"), b"\4\x1e\0\0", text("a"), text("user/a"), text("b")), None),  # QoS 3
    (packet(0x10, text("MQTT"), b"\4\2\0\0", text("a"), b"more"), None),
    (packet(0x11, text("MQTT"), b"\4\2\0\0", text("a")), None),
    (connect(4, will=("a/b", b"x")), "20020005"),
    (connect(4, will=("user/+", b"x")), "20020005"),
    (connect(5, will=("a/b", b"x")), "90"),
    (connect(5, about=[(P.AUTH_METHOD, "SCRAM")]), "8c"),
    (connect(5, about=[(P.AUTH_DATA, b"x")]), "8c"),
    (connect(5, about=[(P.RECEIVE_MAXIMUM, 0)]), "82"),
    (packet(0x10, text("MQTT"), b"\5\2\0\0", b"\x05"), "81"),
]


@pytest.mark.parametrize(("data", "connack"), BAD)
def test_greetings_that_are_none(data: bytes, connack: str | None) -> None:
    peer = Peer()
    if connack == "ok":
        (hello,) = peer.take(data)
        assert isinstance(hello, Hello)
        return
    with pytest.raises(ProtocolError) as caught:
        peer.take(data)
    answer = peer.codec.encode(Bye(caught.value.code, caught.value.reason))
    if connack is None:
        assert answer == b""
    elif len(connack) == 2:
        assert (answer[0], answer[2], answer[3]) == (0x20, 0, int(connack, 16))
    else:
        assert answer.hex() == connack


# Why the core ends a connection: CONNACK of 3.1.1, of 5, DISCONNECT of 5.
ENDS = [
    (CloseCode.BAD_TOKEN, 4, 0x86, 0x87),
    (CloseCode.TOKEN_EXPIRED, 4, 0x86, 0xA0),
    (CloseCode.REVOKED, 5, 0x87, 0x87),
    (CloseCode.WRONG_AUDIENCE, 5, 0x87, 0x87),
    (CloseCode.FORBIDDEN, 5, 0x87, 0x87),
    (CloseCode.LOGIN_CONFLICT, 5, 0x87, 0x87),
    (CloseCode.REPLACED, 3, 0x89, 0x8E),
    (CloseCode.DISPLACED, 5, 0x87, 0x8E),
    (CloseCode.KICKED, 5, 0x87, 0x98),
    (CloseCode.GOING_AWAY, 3, 0x88, 0x8B),
    (CloseCode.OVERLOADED, 3, 0x89, 0x89),
    (CloseCode.HEARTBEAT_TIMEOUT, 3, 0x88, 0x8D),
    (CloseCode.INTERNAL_ERROR, 3, 0x88, 0x80),
    (CloseCode.STALE, 3, 0x88, 0x80),
    (CloseCode.UNEXPECTED_FRAME, 0, 0x82, 0x82),
]


@pytest.mark.parametrize(("code", "short", "connack", "disconnect"), ENDS)
def test_ends(code: CloseCode, short: int, connack: int, disconnect: int) -> None:
    for version in (4, 5):
        peer = Peer()
        peer.take(connect(version))
        answer = peer.codec.encode(Bye(code, "why"))
        if version == 4:
            assert answer == (bytes((0x20, 2, 0, short)) if short else b"")
        else:
            assert answer[3] == connack
            assert said(answer) == {P.REASON_STRING: "why"}
        peer.login(version)
        answer = peer.codec.encode(Bye(code, "why"))
        assert answer == (
            b"" if version == 4 else packet(0xE0, bytes((disconnect,)), properties((P.REASON_STRING, "why")))
        )


def test_every_close_code_has_an_answer() -> None:
    for code in CloseCode:
        peer = Peer()
        assert peer.codec.encode(Bye(code)) == b""  # before CONNECT nothing can be said
        peer.login(5)
        answer = peer.codec.encode(Bye(code))
        assert (answer == b"") == (code is CloseCode.LOST)


def test_who_wants_no_reasons_gets_none() -> None:
    peer = Peer()
    peer.login(5, about=[(P.PROBLEM_INFORMATION, 0)])
    assert peer.codec.encode(Bye(CloseCode.KICKED, "why")).hex() == "e0029800"
    assert peer.codec.encode(Bye(CloseCode.KICKED)).hex() == "e0029800"


@pytest.mark.parametrize(
    ("reason", "answer"),
    [
        ("why", "e008 98 06 1f 0003 776879"),
        ("\0", "e002 98 00"),
        ("a\0b", "e007 98 05 1f 0002 6162"),
        ("\ud800", "e006 98 04 1f 0001 3f"),
    ],
)
def test_any_reason_can_be_said(reason: str, answer: str) -> None:
    peer = Peer()
    peer.login(5)
    assert peer.codec.encode(Bye(CloseCode.KICKED, reason)) == bytes.fromhex(answer)


def test_the_codecs_own_reason_is_more_exact() -> None:
    peer = Peer()
    peer.login(5)
    with pytest.raises(Broken) as caught:
        peer.take(packet(0x30, b"\xff" * (MAX)))
    assert peer.codec.encode(Bye(caught.value.code, "why"))[2] == 0x95
    peer.login(5)
    with pytest.raises(Broken) as caught:
        peer.take(publish("user/#", b"x", about=()))
    assert peer.codec.encode(Bye(caught.value.code, "why"))[2] == 0x90


# --------------------------------------------------------------------------------------------- small packets


def test_ping() -> None:
    peer = Peer()
    peer.login()
    assert peer.take(PINGREQ) == [b"\xd0\x00"]
    with pytest.raises(BadFrame):
        peer.take(b"\xc0\x01x")


@pytest.mark.parametrize(
    "bad",
    [
        connect(),  # a second time
        b"\xf0\x00",  # AUTH
        b"\x50\x02\x00\x01",  # nothing was sent to it at QoS 2
        b"\x70\x02\x00\x01",
        b"\x20\x02\x00\x00",  # CONNACK
        b"\x00\x00",
        b"\x60\x02\x00\x01",  # PUBREL with wrong flags
        b"\x80\x05\x00\x01\x00\x01a",  # SUBSCRIBE, likewise
        b"\x40\x02\x00\x00",  # packet id 0
        b"\x40\x01\x00",
        b"\x40\x03\x00\x01\x00",  # a reason in 3.1.1
        b"\xe0\x01\x00",  # likewise
    ],
)
def test_packets_that_a_client_does_not_send(bad: bytes) -> None:
    peer = Peer()
    peer.login()
    with pytest.raises(BadFrame):
        peer.take(bad)


def test_disconnect() -> None:
    peer = Peer()
    peer.login()
    assert peer.take(DISCONNECT) == [Bye(CloseCode.NORMAL)]
    peer.login(5)
    assert peer.take(b"\xe0\x01\x00") == [Bye(CloseCode.NORMAL)]
    peer.login(5)
    assert peer.take(b"\xe0\x02\x04\x00") == [Bye(CloseCode.LOST)]  # with its will
    peer.login(5)
    assert peer.take(packet(0xE0, b"\x80", properties((P.REASON_STRING, "x")))) == [Bye(CloseCode.LOST)]
    peer.login(5)
    with pytest.raises(BadFrame):
        peer.take(b"\xe0\x03\x00\x00\x00")
    peer.login(5)
    with pytest.raises(Broken) as caught:  # the session was to end with the connection
        peer.take(packet(0xE0, b"\0", properties((P.SESSION_EXPIRY, 9))))
    assert caught.value.said == 0x82


def test_what_mqtt_has_no_word_for() -> None:
    peer = Peer()
    assert peer.codec.encode(Ping()) == b""
    peer.login()
    assert peer.codec.encode(Ping()) == b""
    assert peer.codec.again(0.0) == (b"", inf)
    assert Peer().codec.restore(b"") == ()


def test_secrets_are_not_kept() -> None:
    peer = Peer()
    peer.login(token=b"very-secret", will=("user/bob", b"last words"))
    greeting = peer.codec._greeting
    assert greeting.token == ""
    assert greeting.will is None
    assert written(P.PAYLOAD_FORMAT, 1) == b"\1\1"
    assert ME.id == "alice"


def test_a_reason_that_the_client_cannot_take_is_not_said() -> None:
    peer = Peer()
    peer.login(5, about=[(Property.MAXIMUM_PACKET_SIZE, 20)])
    assert peer.codec.encode(Bye(CloseCode.KICKED, "go")) == b"\xe0\x07\x98\x05\x1f\0\2go"
    assert peer.codec.encode(Bye(CloseCode.KICKED, "r" * 20)) == b"\xe0\x02\x98\x00"
    peer.begun()
    (_,) = peer.codec.receive(connect(5, about=[(Property.MAXIMUM_PACKET_SIZE, 20)]))
    assert peer.codec.encode(Bye(CloseCode.KICKED, "r" * 20)) == b"\x20\x03\x00\x87\x00"
