"""One client's conversation with its codec, without a node."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.plugin import getPlugins
from zope.interface.verify import verifyObject

from imgateway.config import MobileImsdkSettings
from imgateway.errors import BadFrame, CloseCode, FrameTooLarge, LinkError, ProtocolError
from imgateway.frames import (
    Address,
    Bye,
    Deliver,
    Entry,
    Hello,
    Message,
    Outcome,
    OutcomeCode,
    Ping,
    Publish,
    Refused,
    Request,
)
from imgateway.interfaces import ICodec, IProtocolAdapter, IProtocolMaker
from imgateway.protocols.mobileimsdk.adapter import SILENCES, MobileImsdkMaker
from imgateway.protocols.mobileimsdk.mapping import BRIDGE, FP, QOS, TYPEU, as_msg_id
from imgateway.wire.messages import encode_message
from tests.protocols.mobileimsdk import (
    BOB,
    LEFT,
    NOW_MS,
    Talk,
    acked,
    as_bytes,
    deliver,
    entry,
    login,
    refusal,
    said,
    success,
    welcome,
)

TRANSPORTS = ["tcp", "ws", "udp"]
ANN = Address("user", "ann")
UPLINK = Address("service", "uplink")
on_all = pytest.mark.parametrize("transport", TRANSPORTS)

# ------------------------------------------------------------------------------------------------ the adapter


def test_interfaces() -> None:
    talk = Talk()
    assert verifyObject(IProtocolAdapter, talk.adapter)
    assert verifyObject(IProtocolAdapter, talk.adapter.carriage.bare)
    assert verifyObject(ICodec, talk.codec)


def test_offered_as_a_plugin() -> None:
    (maker,) = (plugin for plugin in getPlugins(IProtocolMaker) if plugin.name == "mobileimsdk")
    assert verifyObject(IProtocolMaker, maker)
    adapter: Any = maker.make(MobileImsdkSettings("30S", True), lambda: 0.0, lambda: 5)
    assert adapter.codec(True, 1).silence_s == 35.0
    (error,) = adapter.codec(False, 1).receive(b'{"type":5}')
    assert json.loads(error)["sm"] == 5


def test_settings() -> None:
    assert verifyObject(IProtocolMaker, MobileImsdkMaker())
    assert MobileImsdkMaker().make(None, lambda: 0.0, lambda: 5).codec(True, 1).silence_s == 20.0
    assert set(SILENCES) == {"none", "3S", "5S", "10S", "15S", "30S", "60S", "120S"}


@pytest.mark.parametrize(("mode", "stream_s", "udp_s"), [("none", 20, 10), ("3S", 7, 10), ("120S", 125, 242)])
def test_silence(mode: str, stream_s: float, udp_s: float) -> None:
    assert Talk("tcp", mode).codec.silence_s == Talk("ws", mode).codec.silence_s == stream_s
    assert Talk("udp", mode).codec.silence_s == udp_s


# -------------------------------------------------------------------------------------------------- strangers


@on_all
@pytest.mark.parametrize("kind", [1, 2, 4])
def test_who_has_not_logged_in_hears_so(transport: str, kind: int) -> None:
    asked = said(kind, "{}", "bob")
    error, *rest = Talk(transport).say(asked)
    content = json.loads(error.pop("dataContent"))
    assert content.pop("errorCode") == 301
    assert json.loads(content.pop("errorMsg")) == asked
    assert content == {}
    assert error == said(52, None, "0", "-1")
    assert rest == ([] if transport == "udp" else [LEFT])


@pytest.mark.parametrize("size", [0, 10, 100, 300, 500, 1500])
def test_over_udp_a_stranger_hears_little_more_than_it_said(size: int) -> None:
    talk = Talk("udp")
    for data in ("x" * size, '"' * (size // 2), "\\" * (size // 2)):
        question = as_bytes(said(2, data, "bob"))
        (answer,) = talk.codec.receive(question)
        assert len(answer) <= min(1024, len(question) + 256)
        assert json.loads(json.loads(answer)["dataContent"])["errorCode"] == 301


@on_all
def test_strangers_may_leave_and_hear_an_echo(transport: str) -> None:
    talk = Talk(transport)
    assert talk.say(said(3, None, "bob")) == [LEFT]
    echo = said(5, "x", "bob", "0", fp="f", qos=True, typeu=9, bridge=True)
    assert Talk(transport).say(echo) == [echo | {"type": 53}]
    assert Talk(transport).say({"type": 5}) == [said(53, typeu=0, to="-1", sm=0)]
    assert Talk(transport).say(echo | {"sm": 7}) == [echo | {"type": 53, "sm": 7}]
    assert Talk(transport).say(*(said(kind) for kind in (6, 50, 51, 54, -1, 99))) == []


def test_an_echo_that_the_client_could_not_take() -> None:
    talk = Talk("udp")
    assert talk.say(said(5, "x" * 1500)) == []
    assert talk.log_in().say(said(5, "x" * 1500)) == []


# ------------------------------------------------------------------------------------------------------ login


@on_all
def test_login(transport: str) -> None:
    talk = Talk(transport)
    assert talk.say(login()) == [Hello("tok", on_same_device="replace", order=NOW_MS, user="bob")]
    assert talk.codec.encode(Ping()) == b""


@on_all
def test_who_comes_again_names_when_it_came_first(transport: str) -> None:
    talk = Talk(transport)
    assert talk.say(login(first=77)) == [
        Hello("tok", on_same_device="newest-order-wins", order=77, user="bob")
    ]
    assert Talk(transport).log_in(first=77).say(login(first=0)) == [success(first=77)]


def test_two_first_logins_of_one_millisecond_differ() -> None:
    talk = Talk()
    one, two = talk.adapter.codec(False, 1), talk.adapter.codec(True, 1)
    ((first,), (second,)) = one.receive(as_bytes(login())), two.receive(talk.framed(as_bytes(login())))
    assert second.order == first.order + 1


@on_all
@pytest.mark.parametrize("user", ["", "0", "-1", "x" * 65, "é" * 33, "a\nb"])
def test_ids_that_no_user_has(transport: str, user: str) -> None:
    assert Talk(transport).say(login(user)) == [refusal(), LEFT]
    without = said(0, '{"loginToken":"t"}')
    assert Talk(transport).say(without) == [refusal(), LEFT]


@on_all
@pytest.mark.parametrize(
    ("bye", "code"),
    [
        (Bye(CloseCode.BAD_TOKEN, "no", detail=1030), 1030),
        (Bye(CloseCode.BAD_TOKEN), 1025),
        (Bye(CloseCode.BAD_TOKEN, detail=7), 1025),
        (Bye(CloseCode.UNAVAILABLE, detail=2000), 2000),
        (Bye(CloseCode.LOGIN_CONFLICT), 1025),
        (Bye(CloseCode.REVOKED), 1025),
    ],
)
def test_refused(transport: str, bye: Bye, code: int) -> None:
    talk = Talk(transport)
    talk.say(login())
    assert talk.hear(bye) == [refusal(code)]


@on_all
@pytest.mark.parametrize(
    "code",
    [CloseCode.UNAVAILABLE, CloseCode.INTERNAL_ERROR, CloseCode.LOGIN_TIMEOUT, CloseCode.FRAME_TOO_LARGE],
)
def test_what_is_no_refusal(transport: str, code: CloseCode) -> None:
    talk = Talk(transport)
    assert talk.hear(Bye(code)) == []
    talk.say(login())
    assert talk.hear(Bye(code)) == []


@on_all
def test_an_older_device_is_let_in_and_out_again(transport: str) -> None:
    talk = Talk(transport)
    talk.say(login(first=50))
    assert talk.hear(Bye(CloseCode.REPLACED)) == [success(first=50), said(54, '{"code":1}', "0", "bob")]


@on_all
def test_logging_in_again(transport: str) -> None:
    talk = Talk(transport).log_in()
    assert talk.say(login()) == [success()]
    assert talk.say(login("carl")) == [refusal(), LEFT]


@on_all
@pytest.mark.parametrize(
    ("code", "content"),
    [
        (CloseCode.REPLACED, {"code": 1}),
        (CloseCode.DISPLACED, {"code": 1}),
        (CloseCode.KICKED, {"code": 2, "reason": "why"}),
        (CloseCode.REVOKED, {"code": 2, "reason": "why"}),
        (CloseCode.STALE, None),
        (CloseCode.GOING_AWAY, None),
        (CloseCode.TOKEN_EXPIRED, None),
        (CloseCode.HEARTBEAT_TIMEOUT, None),
        (CloseCode.BAD_FRAME, None),
    ],
)
def test_sent_away(transport: str, code: CloseCode, content: Any) -> None:
    heard = Talk(transport).log_in().hear(Bye(code, "why"))
    expected = [] if content is None else [said(54, json.dumps(content, separators=(",", ":")), "0", "bob")]
    assert heard == expected


@on_all
@pytest.mark.parametrize("reason", ["\ud800", "\0" * 5000])
def test_sent_away_with_an_odd_reason(transport: str, reason: str) -> None:
    heard = Talk(transport).log_in().hear(Bye(CloseCode.KICKED, reason))
    assert heard is not None
    assert heard[0]["type"] == 54


@on_all
def test_keepalive_and_logout(transport: str) -> None:
    talk = Talk(transport).log_in()
    assert talk.say(said(1, "{}", "bob")) == [said(51, "{}", "0", "bob")]
    assert talk.say(said(5, "x")) == [said(53, "x")]
    assert talk.say(said(99), said(51)) == []
    assert talk.say(said(3, None, "bob")) == [LEFT]


def test_stamps() -> None:
    talk = Talk(stamps=True)
    talk.say(login())
    talk.wall_ms = 8
    heard = talk.hear(welcome()) or []
    heard += talk.say(said(1, "{}"), said(5, "x"))
    heard += talk.hear(deliver(entry(1))) or []
    talk.say(said(2, "x", "bob", "ann", fp="f", qos=True))
    heard += talk.take("f") or []
    heard += talk.hear(Bye(CloseCode.REPLACED)) or []
    assert [one["type"] for one in heard] == [50, 51, 53, 2, 4, 54]
    assert {one["sm"] for one in heard} == {8}


# ----------------------------------------------------------------------------------------- publishes


@on_all
def test_a_message_with_a_receipt(transport: str) -> None:
    talk = Talk(transport).log_in()
    asked = said(2, "你好", "somebody else", "ann", fp="f-1", qos=True)
    assert talk.say(asked) == [Publish("f-1", (ANN,), "text/plain", "你好".encode())]
    assert talk.take("f-1") == [said(4, "f-1", "ann", "bob")]
    assert talk.take("f-1") == []


@on_all
def test_what_is_sent_twice_has_two_receipts(transport: str) -> None:
    talk = Talk(transport).log_in()
    asked = said(2, "x", "bob", "ann", fp="f", qos=True)
    one, two = talk.say(asked, asked)
    assert one == two
    assert talk.take("f") == [said(4, "f", "ann", "bob")]
    assert talk.take("f", Outcome(OutcomeCode.DUPLICATE, 5, 1)) == [said(4, "f", "ann", "bob")]
    assert len(talk.codec._receipts) == 0


@on_all
def test_one_fp_to_two_users_has_its_receipts_when_both_are_stored(transport: str) -> None:
    """The second may be known, and answered at once, while the first is not on disk yet."""
    talk = Talk(transport).log_in()
    for_ann, for_carl = (said(2, "x", "bob", to, fp="f", qos=True) for to in ("ann", "carl"))
    receipts = [said(4, "f", to, "bob") for to in ("ann", "carl", "carl")]
    talk.say(for_ann, for_carl)
    assert talk.take("f", Outcome(OutcomeCode.DUPLICATE, 5, 1)) == []
    talk.say(for_carl)
    assert talk.take("f") == []
    assert talk.take("f") == receipts
    talk.say(for_ann, for_carl)
    assert talk.take("f", Outcome(OutcomeCode.FULL)) == []
    assert talk.take("f") == []
    assert len(talk.codec._receipts) == 0
    talk.say(for_carl)
    assert talk.take("f") == receipts[1:2]


@pytest.mark.parametrize("code", [code for code in OutcomeCode if code > OutcomeCode.DUPLICATE])
def test_what_was_not_taken_has_none(code: OutcomeCode) -> None:
    talk = Talk().log_in()
    talk.say(said(2, "x", "bob", "ann", fp="f", qos=True))
    assert talk.take("f", Outcome(code)) == []
    assert len(talk.codec._receipts) == 0


def test_to_the_server() -> None:
    talk = Talk().log_in()
    assert talk.say(said(2, "up", "bob", "0", fp="f", qos=True)) == [
        Publish("f", (UPLINK,), "text/plain", b"up")
    ]
    assert talk.take("f") == [said(4, "f", "0", "bob")]


def test_without_a_receipt() -> None:
    talk = Talk().log_in()
    one, two = talk.say(said(2, "x", "bob", "ann"), said(2, "x", "bob", "ann", fp="f"))
    assert one.headers == (("mobileimsdk-qos", "0"),)
    assert two.headers == (("mobileimsdk-fp", "f"), ("mobileimsdk-qos", "0"))
    assert len({one.msg_id, two.msg_id, "f"}) == 3
    (three,) = talk.say(said(2, "x", "bob", "ann", qos=True))
    assert three.headers == (("mobileimsdk-fp", ""),)
    (four,) = talk.say(said(2, "x", "bob", "ann", fp="", qos=True))
    assert four.headers == (("mobileimsdk-fp", ""),)
    for publish in (one, two, three, four):
        assert publish.qos == 1
        assert talk.take(publish.msg_id) == []
    (other,) = Talk().log_in().say(said(2, "x", "bob", "ann"))
    assert other.msg_id not in (one.msg_id, two.msg_id)


@pytest.mark.parametrize("fp", ["x" * 65, "é" * 33, "a\nb", "é" * 3000])
def test_an_fp_that_can_be_no_id(fp: str) -> None:
    talk = Talk("ws").log_in()
    (publish,) = talk.say(said(2, "x", "bob", "ann", fp=fp, qos=True))
    assert publish.msg_id == sha256(fp.encode()).hexdigest()
    assert publish.headers == (("mobileimsdk-fp", fp),)
    assert talk.take(publish.msg_id) == [said(4, fp, "ann", "bob")]


@pytest.mark.parametrize(("transport", "most"), [("udp", 1_024), ("tcp", 6_144), ("ws", 65_536)])
def test_what_could_have_no_receipt_is_not_taken(transport: str, most: int) -> None:
    """Its sender would be told that it is lost."""
    talk = Talk(transport).log_in()
    receipts = []
    for size in range(most - 150, most - 50):
        for publish in talk.say({"type": 2, "to": "ann", "fp": "x" * size, "QoS": True}):
            receipts.append((size, talk.take(publish.msg_id)))
    room = most - len(as_bytes(said(4, "", "ann", "bob")))
    assert receipts == [(size, [said(4, "x" * size, "ann", "bob")]) for size in range(most - 150, room + 1)]
    assert talk.take(as_msg_id("x" * (room + 1))) == []


def test_an_odd_fp_that_can() -> None:
    assert Talk().log_in().say(said(2, "x", to="ann", fp="é" * 32, qos=True))[0].msg_id == "é" * 32


def test_what_else_rides_along() -> None:
    talk = Talk().log_in()
    (publish,) = talk.say(said(2, None, "bob", "ann", fp="f", qos=True, typeu=0, bridge=True))
    headers = (("mobileimsdk-typeu", "0"), ("mobileimsdk-bridge", "1"))
    assert publish == Publish("f", (ANN,), "", b"", headers=headers)
    assert talk.take("f") == [said(4, "f", "ann", "bob", bridge=True)]
    (empty,) = talk.say(said(2, "", "bob", "ann", fp="g", qos=True))
    assert (empty.content_type, empty.body) == ("text/plain", b"")


def test_a_token_for_another_device_keeps_every_fp() -> None:
    (publish,) = Talk().log_in(device="phone").say(said(2, "x", to="ann", fp="f", qos=True))
    assert publish.headers == (("mobileimsdk-fp", "f"),)


@pytest.mark.parametrize("to", [None, "", "-1", "x" * 65, "x" * 5000, "a\0b"])
def test_to_nobody(to: str | None) -> None:
    talk = Talk().log_in()
    assert talk.say(said(2, "x", "bob", fp="f", qos=True) | {"to": to}) == []
    assert len(talk.codec._receipts) == 0


# ----------------------------------------------------------------------------------------- deliveries


@on_all
def test_delivered_and_received(transport: str) -> None:
    talk = Talk(transport).log_in()
    assert talk.hear(deliver(entry(7, "你好"))) == [said(2, "你好", "ann", "bob", fp="m7", qos=True)]
    assert talk.say(said(4, "m7", "bob", "ann")) == [acked(7)]
    assert talk.say(said(4, "m7", "bob", "ann")) == []


def test_relayed_as_it_came() -> None:
    """What one client's codec published another's delivers with every field that this wire relays."""
    for fields in (
        said(2, "x", "ann", "bob", fp="f", qos=True, typeu=5, bridge=True),
        said(2, "x", "ann", "bob", typeu=5),
        said(2, "x", "ann", "bob", fp="f"),
        said(2, None, "ann", "bob", fp="f" * 99, qos=True),
        said(2, "", "ann", "bob", qos=True),
        said(2, "x", "ann", "bob", fp="f", qos=True, typeu=0),
    ):
        for device in ("mobileimsdk", "phone"):
            (publish,) = Talk().log_in("ann", device=device).say(fields | {"unknown": 1, "sm": 4})
            message = Message(
                publish.msg_id, "ann", device, publish.content_type, publish.body, 1, 0, publish.headers
            )
            heard = Talk().log_in().hear(deliver(Entry(3, encode_message(message))))
            assert heard == [fields]


@pytest.mark.parametrize(
    ("kind", "body", "data"),
    [
        ("text/plain", b"a", "a"),
        ("text/plain", b"", ""),
        ("TEXT/html; charset=utf-8", b"<p>", "<p>"),
        ("application/json", b"{}", "{}"),
        ("application/geo+json; x=y", b"{}", "{}"),
        ("", "é".encode(), "é"),
        ("", b"", None),
        ("image/png", b"", None),
    ],
)
def test_bodies_that_can_be_said(kind: str, body: bytes, data: str | None) -> None:
    (heard,) = Talk().log_in().hear(deliver(entry(1, body, content_type=kind))) or []
    assert heard.get("dataContent") == data


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("image/png", b"a"),
        ("text/plain", b"\xff"),
        ("", b"\xff\0"),
        ("", b"\xed\xa0\x80"),
        ("application/json", b"\xff"),
    ],
)
def test_bodies_that_cannot(kind: str, body: bytes) -> None:
    talk = Talk().log_in()
    assert talk.hear(deliver(entry(1, body, content_type=kind))) is None
    assert talk.hear(deliver(Entry(2, b"\xff no message"))) is None
    assert talk.hear(deliver(entry(3))) is not None
    assert talk.say(said(4, "m3", to="ann")) == [acked(3)]


@pytest.mark.parametrize(("transport", "most"), [("tcp", 6144), ("ws", 65536), ("udp", 1024)])
def test_no_client_is_sent_more_than_it_takes(transport: str, most: int) -> None:
    talk = Talk(transport).log_in()
    shell = len(as_bytes(said(2, "", "ann", "bob", fp="m1", qos=True)))
    assert talk.hear(deliver(entry(1, "x" * (most - shell + 1)))) is None
    assert talk.hear(deliver(entry(1, "x" * (most - shell)))) is not None


def test_from_another_wire() -> None:
    """Only the position in the mailbox is its alone: ids of other devices may be anybody's."""
    talk = Talk().log_in()
    heard = [
        talk.hear(deliver(entry(seq, sender=who, msg_id="1", device="d")))
        for seq, who in ((7, "a"), (8, "b"))
    ]
    first, second = (one[0]["fp"] for one in heard if one)
    assert first != second
    assert talk.say(said(4, second, to="b")) == []
    assert talk.say(said(4, first, to="a")) == [acked(8)]


def test_an_fp_that_is_made_here_is_nobodys_to_guess() -> None:
    """Who could tell it beforehand could send one before, and the receiver would drop the true one."""

    def fp_of(body: str) -> Any:
        (heard,) = Talk().log_in().hear(deliver(entry(7, body, device="d"))) or []
        return heard["fp"]

    assert fp_of("one") == fp_of("one")
    assert fp_of("one") != fp_of("two")


def test_headers_from_another_wire() -> None:
    headers = (("mobileimsdk-fp", "mine"), ("mobileimsdk-typeu", "12"), ("x", "y"))
    (heard,) = Talk().log_in().hear(deliver(entry(1, device="d", headers=headers))) or []
    assert (heard["fp"], heard["typeu"], heard["QoS"]) == ("mine", 12, True)
    for odd in ("", "x", "99999999999", "2147483648", "1.0", "٣"):
        (heard,) = Talk().log_in().hear(deliver(entry(1, headers=(("mobileimsdk-typeu", odd),)))) or []
        assert heard["typeu"] == -1


def test_what_is_in_no_mailbox_has_no_receipt() -> None:
    talk = Talk().log_in()
    room = Deliver(Address("room", "r"), 0, 5, 6, 7, (entry(7),))
    assert talk.hear(room) == [said(2, "hi", "ann", "bob")]
    assert talk.hear(Deliver(BOB, 0, 0, 0, 0, (entry(0),))) == [said(2, "hi", "ann", "bob")]
    assert talk.say(said(1, "{}")) == [said(51, "{}", "0", "bob")]
    assert talk.hear(Deliver(Address("room", "r"), 0, 5, 6, 8, (entry(7), entry(8)))) is None
    assert talk.hear(Deliver(Address("room", "r"), 0, 5, 6, 8, ())) == []


def test_receipts_in_any_order() -> None:
    talk = Talk().log_in()
    for seq in (1, 2, 3, 4):
        talk.hear(deliver(entry(seq)))
    assert talk.say(said(4, "m3", to="ann")) == []
    assert talk.say(said(4, "m2", to="ann"), said(4, "m1", to="carl"), said(4, None, to=None)) == []
    assert talk.say(said(4, "m1", to="ann")) == [acked(3)]
    assert talk.say(said(4, "m4", to="ann")) == [acked(4)]


def test_receipts_in_one_chunk_make_one_acknowledgement() -> None:
    talk = Talk().log_in()
    for seq in (1, 2, 3):
        talk.hear(deliver(entry(seq)))
    assert talk.say(*(said(4, f"m{seq}", to="ann") for seq in (1, 2, 3))) == [acked(3)]


def test_the_same_fp_twice_from_one_sender() -> None:
    talk = Talk().log_in()
    for seq in (1, 2):
        talk.hear(deliver(entry(seq, msg_id="m")))
    assert talk.say(said(4, "m", to="ann")) == [acked(1)]
    assert talk.say(said(4, "m", to="ann")) == [acked(2)]


def test_what_holds_nothing_counts_with_what_went_before() -> None:
    talk = Talk().log_in()
    nothing = Deliver(BOB, 0, 5, 1, 5, (), head=5)
    assert talk.hear(nothing) == []
    talk.hear(deliver(entry(6)))
    assert talk.hear(Deliver(BOB, 0, 5, 6, 9, (), head=9)) == []
    assert talk.say(said(4, "m6", to="ann")) == [acked(9)]
    assert talk.hear(Deliver(BOB, 0, 5, 9, 10, (), head=10)) == []


LOOSE = (("mobileimsdk-qos", "0"),)


@pytest.mark.parametrize(
    "word", [said(1, "{}"), said(2, "x", to="ann"), said(5), said(99), said(4, "?", to="x")]
)
def test_what_wants_no_receipt_has_arrived_when_the_peer_is_heard(word: dict[str, Any]) -> None:
    talk = Talk().log_in()
    assert talk.hear(deliver(entry(1, headers=LOOSE))) == [said(2, "hi", "ann", "bob")]
    assert acked(1) in talk.say(word)
    assert acked(1) not in talk.say(word)


def test_what_wants_none_waits_for_what_wants_one() -> None:
    talk = Talk().log_in()
    talk.hear(deliver(entry(1)))
    talk.hear(deliver(entry(2, headers=LOOSE)))
    assert talk.say(said(1, "{}"))[1:] == []
    assert talk.say(said(4, "m1", to="ann")) == [acked(2)]


def test_a_full_window_waives_what_wants_none() -> None:
    talk = Talk().log_in()
    assert talk.codec.waive() == 0
    for seq in (1, 2):
        talk.hear(deliver(entry(seq, headers=LOOSE)))
    talk.hear(deliver(entry(3)))
    assert talk.codec.waive() == 2
    assert talk.codec.waive() == 0
    assert talk.say(said(4, "m3", to="ann")) == [acked(3)]


def test_who_leaves_or_logs_in_again_has_received_what_it_said() -> None:
    for last, answer in ((said(3), LEFT), (login(), success())):
        talk = Talk().log_in()
        talk.hear(deliver(entry(1)))
        assert talk.say(said(4, "m1", to="ann"), last) == [acked(1), answer]


def test_what_was_received_before_something_broken_counts() -> None:
    talk = Talk().log_in()
    talk.hear(deliver(entry(1)))
    frames = talk.codec.receive(b"".join(map(talk.framed, (as_bytes(said(4, "m1", to="ann")), b"null"))))
    assert next(frames) == acked(1)
    with pytest.raises(BadFrame):
        next(frames)


# ------------------------------------------------------------------------------------------------ once more


def test_once_more_after_five_seconds() -> None:
    talk = Talk().log_in()
    assert talk.codec.again(100.0) == (b"", inf)
    talk.hear(deliver(entry(1)))
    talk.hear(deliver(entry(2)))
    talk.hear(deliver(entry(3, headers=LOOSE)))
    talk.clock = 102.0
    talk.hear(deliver(entry(4)))
    assert talk.codec.again(104.9) == (b"", 105.0)
    talk.say(said(4, "m2", to="ann"))
    data, asked_at = talk.codec.again(105.0)
    assert talk.heard(data) == [said(2, "hi", "ann", "bob", fp="m1", qos=True)]
    assert asked_at == 107.0
    data, asked_at = talk.codec.again(107.0)
    assert [one["fp"] for one in talk.heard(data)] == ["m4"]
    assert asked_at == inf
    assert talk.codec.again(130.0) == (b"", inf)
    assert talk.say(said(4, "m4", to="ann"), said(4, "m1", to="ann")) == [acked(4)]
    assert talk.codec.again(130.0) == (b"", inf)


@pytest.mark.parametrize("transport", ["ws", "udp"])
def test_messages_go_once_more_one_by_one(transport: str) -> None:
    talk = Talk(transport).log_in()
    for seq in (1, 2):
        talk.hear(deliver(entry(seq)))
    data, asked_at = talk.codec.again(106.0)
    assert [one["fp"] for one in talk.heard(data)] == ["m1"]
    assert asked_at == 106.0
    data, asked_at = talk.codec.again(106.0)
    assert [one["fp"] for one in talk.heard(data)] == ["m2"]
    assert asked_at == inf


def test_a_window_that_stays_full_ends_it() -> None:
    talk = Talk().log_in()
    assert talk.codec.window == 32
    for seq in range(1, 33):
        talk.hear(deliver(entry(seq)))
    _, asked_at = talk.codec.again(105.0)
    assert asked_at == 115.0
    with pytest.raises(LinkError) as caught:
        talk.codec.again(115.0)
    assert caught.value.code is CloseCode.ACK_TIMEOUT
    talk.say(said(4, "m1", to="ann"))
    assert talk.codec.again(116.0) == (b"", inf)


def test_its_window_must_be_full_all_the_time() -> None:
    talk = Talk().log_in()
    talk.hear(deliver(entry(1)))
    talk.clock = 114.0
    for seq in range(2, 33):
        talk.hear(deliver(entry(seq)))
    assert [one["fp"] for one in talk.heard(talk.codec.again(114.0)[0])] == ["m1"]
    assert talk.codec.again(115.0) == (b"", 119.0)
    data, asked_at = talk.codec.again(119.0)
    assert len(talk.heard(data)) == 31
    assert asked_at == 129.0
    assert talk.codec.again(128.9) == (b"", 129.0)
    talk.say(*(said(4, f"m{seq}", to="ann") for seq in range(2, 33)))  # all but the oldest: no room yet
    with pytest.raises(LinkError):
        talk.codec.again(129.0)


def test_a_window_full_of_what_wants_no_receipt_does_not() -> None:
    talk = Talk().log_in()
    for seq in range(1, 33):
        talk.hear(deliver(entry(seq, headers=LOOSE)))
    assert talk.codec.waive() == 32
    assert talk.codec.again(200.0) == (b"", inf)


# ----------------------------------------------------------------------------------------- bytes and parsers

CONVERSATION = [
    login(),
    said(1, "{}", "bob"),
    said(2, "你好 <&='>", "bob", "ann", fp="f", qos=True),
    said(2, "x" * 5000, "bob", "0", fp="g", qos=True),
    said(4, "m1", "bob", "ann"),
    said(3, None, "bob"),
]


@pytest.mark.parametrize("size", [1, 3, 64, 100_000])
def test_any_chunks(size: int) -> None:
    whole, parts = Talk(), Talk()
    expected = whole.say(*CONVERSATION[:1])
    assert isinstance(expected[0], Hello)
    data = b"".join(parts.framed(as_bytes(one)) for one in CONVERSATION)
    found: list[Any] = []
    for at in range(0, len(data), size):
        for item in parts.codec.receive(data[at : at + size]):
            found.append(item)
            if isinstance(item, Hello):
                parts.hear(welcome())
                parts.hear(deliver(entry(1)))
    assert [type(item).__name__ for item in found] == [
        "Hello",
        "bytes",
        "Publish",
        "Publish",
        "DeliverAck",
        "Bye",
    ]
    assert parts.codec._splitter.held_bytes == 0


@on_all
@pytest.mark.parametrize(
    "body", [b"null", b"", b"[]", b"\0\1", b'{"type":0}', b'{"type":0,"dataContent":"x"}']
)
def test_malformed_ends_it(transport: str, body: bytes) -> None:
    with pytest.raises(BadFrame):
        Talk(transport).say_bytes(body)


@pytest.mark.parametrize(("transport", "most"), [("tcp", 6144), ("ws", 65536), ("udp", 2048)])
def test_no_body_may_be_longer(transport: str, most: int) -> None:
    shell = len(as_bytes(said(6, "")))
    assert Talk(transport).say(said(6, "x" * (most - shell))) == []
    with pytest.raises(FrameTooLarge):
        Talk(transport).say(said(6, "x" * (most - shell + 1)))


def test_what_this_wire_has_no_word_for() -> None:
    talk = Talk().log_in()
    for frame in (Ping(), Request(1, "s", "m"), Refused("publish", "x", 1)):
        assert talk.codec.encode(frame) == b""
    assert list(talk.codec.restore(b"")) == []


kinds = st.sampled_from(["0", "1", "2", "3", "4", "5", '"4"', "54"])
odd_texts = st.text(max_size=12)
pieces = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda kind, data, to, fp, qos: (
            f'{{"type":{kind},"dataContent":{json.dumps(data)},"to":{json.dumps(to)},"fp":{json.dumps(fp)},"QoS":{qos}}}'
        ).encode(),
        kinds,
        odd_texts | st.sampled_from(["m1", "m2"]),
        odd_texts | st.sampled_from(["0", "ann", "bob"]),
        odd_texts,
        st.sampled_from(["true", "false", "null", '"true"']),
    ),
    st.just(as_bytes(login())),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(TRANSPORTS), st.lists(pieces, max_size=8), st.integers(1, 40), st.booleans())
def test_whatever_comes_only_protocol_errors(
    transport: str, bodies: list[bytes], size: int, logged_in: bool
) -> None:
    talk = Talk(transport)
    if logged_in:
        talk.log_in()
        for seq in (1, 2):
            talk.hear(deliver(entry(seq)))
    chunks = bodies
    if transport == "tcp":
        data = b"".join(map(talk.framed, bodies))
        chunks = [data[at : at + size] for at in range(0, len(data), size)]
    upto = 0
    for chunk in chunks:
        try:
            for item in talk.codec.receive(chunk):
                if isinstance(item, bytes):
                    assert talk.heard(item)
                elif isinstance(item, Publish):
                    item.body.decode()
                    encode_message(Message(item.msg_id, "bob", "d", "", b"", 1, 0, item.headers))
                    talk.take(item.msg_id)
                elif not isinstance(item, Hello | Bye):
                    assert upto < item.acks[0].upto <= 2
                    upto = item.acks[0].upto
        except ProtocolError:
            break
        if talk.codec._splitter is not None:
            assert talk.codec._splitter.held_bytes <= 6148


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for transport in TRANSPORTS:
        try:
            list(Talk(transport).codec.receive(data))
        except ProtocolError:
            pass


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=60) | odd_texts.filter(lambda t: t.isprintable()).map(str.encode),
    st.sampled_from(["", "text/plain", "image/png", "application/json"]),
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.dictionaries(
        st.sampled_from(
            ["mobileimsdk-fp", "mobileimsdk-qos", "mobileimsdk-typeu", "mobileimsdk-bridge", "x"]
        ),
        st.text(st.characters(codec="utf-8"), max_size=8),
    ),
)
def test_whatever_is_stored_is_said_or_not(
    body: bytes, kind: str, sender: str, headers: dict[str, str]
) -> None:
    for transport in TRANSPORTS:
        talk = Talk(transport).log_in()
        one = entry(1, body, sender, content_type=kind, headers=tuple(headers.items()))
        heard = talk.hear(deliver(one))
        if heard is not None:
            assert list(heard[0]) == [
                name
                for name in ("bridge", "type", "dataContent", "from", "to", "fp", "QoS", "typeu", "sm")
                if name in heard[0]
            ]
            assert heard[0]["from"] == sender


def test_the_page_has_the_limits_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol" / "mobileimsdk.md").read_text()
    rows = re.findall(r"\| `(\w+)`[^|]* \| (\d+) s \| (\d+) s \|", page)
    assert {mode: (float(stream_s), float(udp_s)) for mode, stream_s, udp_s in rows} == SILENCES
    for header in (BRIDGE, FP, QOS, TYPEU):
        assert f"| `{header}` |" in page
