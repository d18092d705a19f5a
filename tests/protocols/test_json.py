"""What only the JSON form has: names, text, and everything that can be wrong with JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.errors import BadFrame, ProtocolError
from imgateway.frames import (
    Address,
    Deliver,
    Entry,
    Frame,
    Hello,
    Message,
    Mode,
    Outcome,
    Ping,
    Publish,
    PublishAck,
    ResumePoint,
    Seen,
    SeenKind,
    Start,
    Subscribe,
    Welcome,
)
from imgateway.protocols.json import JsonAdapter
from imgateway.wire.messages import decode_message, encode_message

BOB = Address("user", "bob")


def read(text: str | bytes | dict[str, Any]) -> Frame:
    if isinstance(text, dict):
        text = json.dumps(text)
    data = text.encode() if isinstance(text, str) else text
    (frame,) = JsonAdapter().codec(False, 1_000_000).receive(data)
    assert not isinstance(frame, bytes)
    return frame


def write(frame: Frame) -> str | None:
    data = JsonAdapter().codec(False, 1_000_000).encode(frame)
    return data.decode() if data is not None else None


MESSAGE = Message("m1", "alice", "phone", "text/plain", b"hi", 1_700_000_000_000)
GOLDEN: list[tuple[Frame, str]] = [
    (
        Publish("m1", (BOB,), "text/plain", b"hi"),
        '{"publish":{"msgId":"m1","to":["user:bob"],"contentType":"text/plain","text":"hi"}}',
    ),
    (
        Publish("m1", (BOB,), "image/png", b"\xff\xfe", qos=0, headers=(("k", "v"),)),
        '{"publish":{"msgId":"m1","to":["user:bob"],"contentType":"image/png","body":"//4=","qos":0,"headers":{"k":"v"}}}',
    ),
    (
        PublishAck("m1", (Outcome(0, 5, 7), Outcome(2))),
        '{"publishAck":{"msgId":"m1","outcomes":[{"seq":"7","epoch":"5"},{"code":2}]}}',
    ),
    (
        Deliver(BOB, 0, 5, 6, 7, (Entry(7, encode_message(MESSAGE)),), True, 7),
        '{"deliver":{"address":"user:bob","epoch":"5","after":"6","upto":"7","entries":[{"seq":"7","message":{"msgId":"m1",'
        '"sender":"alice","device":"phone","contentType":"text/plain","sentMs":"1700000000000","text":"hi"}}],"gap":true,"head":"7"}}',
    ),
    (
        Deliver(BOB, 0, 5, 6, 6, (), head=6, pulled=True),
        '{"deliver":{"address":"user:bob","epoch":"5","after":"6","upto":"6","head":"6","pulled":true}}',
    ),
    (
        Hello("t", "d", start=Start.OLDEST, resume=(ResumePoint(BOB, 0, 5, 7, Mode.NOTIFY),)),
        '{"hello":{"token":"t","device":"d","start":"OLDEST","resume":[{"address":"user:bob","epoch":"5","seq":"7","mode":"NOTIFY"}]}}',
    ),
    (Ping(), '{"ping":{}}'),
]


@pytest.mark.parametrize(("frame", "golden"), GOLDEN, ids=lambda part: type(part).__name__)
def test_golden_text(frame: Frame, golden: str) -> None:
    written = write(frame)
    assert written is not None
    assert json.loads(written) == json.loads(golden)
    assert len(written) == len(golden)  # compact; the order of names is protobuf's
    assert read(golden) == frame


@pytest.mark.parametrize(
    "text",
    [
        '{"publish":{"msg_id":"m","to":["user:bob"],"content_type":"text/plain","text":"hi","ttl_s":7}}',
        '{"publish":{"msgId":"m","to":["user:bob"],"contentType":"text/plain","body":"aGk=","ttlS":"7"}}',
        '{"publish":{"msgId":"m","to":["user:bob"],"contentType":"text/plain","body":"aGk","ttlS":7.0}}',
        ' {"publish" : {"msgId":"m","to":["user:bob"],"text":"h\\u0069", "ttlS":7e0, "copySelf":null} }\n',
        '{"newer":[[{}]],"publish":{"msgId":"m","to":["user:bob"],"text":"hi","ttlS":7,"x":{"y":[1,null]}}}',
        '{"publish":{"msgId":"m","to":["user:bob"],"text":"hi","body":null,"ttlS":7},"ping":null}',
        '{"body":7,"publish":{"msgId":"m","to":["user:bob"],"text":"hi","ttlS":7,"kind":"chat","limits":1}}',
    ],
)
def test_many_ways_to_say_the_same(text: str) -> None:
    assert read(text) == Publish("m", (BOB,), "text/plain", b"hi", ttl_s=7)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({"publish": {"to": ["user:bob"]}}, "publish: msg_id: an id must be 1 to 64 bytes of UTF-8, not 0"),
        ({"publish": {"msgId": "\x07", "to": ["all"]}}, "publish: msg_id: an id must not contain control"),
        ({"hello": {"device": "d" * 65}}, "hello: device: an id must be 1 to 64 bytes"),
        ({"hello": {"platform": "\x07"}}, "hello: platform: an id must not"),
        ({"request": {"id": 1}}, "request: service: an id must be 1 to 64 bytes"),
    ],
)
def test_an_id_that_is_none_is_told_with_its_field(frame: Any, said: str) -> None:
    with pytest.raises(BadFrame, match=said):
        read(frame)


def test_numbers_and_names() -> None:
    assert (
        read({"ping": {"nonce": 2**64 - 1}}) == read({"ping": {"nonce": str(2**64 - 1)}}) == Ping(2**64 - 1)
    )
    same = [{"address": "room:7", "mode": mode} for mode in ("NOTIFY", 1, "1")]
    assert {read({"subscribe": one}) == Subscribe(Address("room", "7"), Mode.NOTIFY) for one in same} == {
        True
    }
    assert read({"seen": {"address": "all", "kind": "READ"}}) == Seen(Address("all"), SeenKind.READ, 0)
    welcome = read({"welcome": {"user": "u", "heartbeatS": 30, "limits": {"publishRate": 0.5}}})
    assert isinstance(welcome, Welcome)
    assert (welcome.heartbeat_s, welcome.limits.publish_rate) == (30.0, 0.5)


def test_text_has_a_type() -> None:
    assert read(
        {"publish": {"msgId": "m", "to": ["all"], "contentType": "application/json", "text": "{}"}}
    ) == Publish("m", (Address("all"),), "application/json", b"{}")


def test_text_that_is_no_text_goes_as_body() -> None:
    written = write(Publish("m", (BOB,), "text/plain", b"\xff"))
    assert written is not None
    assert json.loads(written)["publish"]["body"] == "/w=="


def test_text_of_delivered_messages_is_read_too() -> None:
    message = {"msgId": "m", "sender": "a", "device": "d", "contentType": "text/x", "text": "é 🎉"}
    frame = read({"deliver": {"address": "user:bob", "entries": [{"seq": 1, "message": message}]}})
    assert isinstance(frame, Deliver)
    assert decode_message(frame.entries[0].message) == Message("m", "a", "d", "text/x", "é 🎉".encode())


def test_pairs_of_surrogates_are_one_character() -> None:
    frame = read(r'{"publish":{"msgId":"m","to":["user:bob"],"text":"\ud83c\udf89"}}')
    assert isinstance(frame, Publish)
    assert frame.body == "🎉".encode()


def nested(depth: int, inner: str = "1") -> str:
    return '{"ping":{},"x":' + "[" * (depth - 1) + inner + "]" * (depth - 1) + "}"


def test_depth() -> None:
    assert read(nested(16)) == Ping()
    for depth in (17, 100, 400_000):
        with pytest.raises(BadFrame, match="deeper than 16"):
            read(nested(depth))


@pytest.mark.parametrize(
    "inner", [r'"\\\\[["', r'"\"[[[[[[{{{{{{{{"', '"' + "[" * 50 + '"', "{}" + ",[]" * 50]
)
def test_only_brackets_count_and_not_those_in_strings(inner: str) -> None:
    assert read(nested(15, inner)) == Ping()


@pytest.mark.parametrize("brackets", ["{[" * 9 + "]}" * 9, "[" * 20, '"\\"' + "[" * 20])
def test_mixed_and_open_brackets(brackets: str) -> None:
    with pytest.raises(BadFrame):
        read(brackets)


PUBLISH = '"msgId":"m","to":["user:bob"]'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "null",
        "[]",
        "7",
        '"ping"',
        "{}",
        '{"ping":{}} {}',
        '{"ping":{}',
        '{"ping":7}',
        '{"ping":[]}',
        '{"pong":"x"}',
        '{"ping":[{}]}',
        '{"welcome":{"user":"u","limits":"x"}}',
        '{"welcome":{"user":"u","limits":[]}}',
        '{"publishAck":{"msgId":"m","outcomes":["x"]}}',
        '{"publish_ack":{"msgId":"m","outcomes":[null]}}',
        '{"nothing":{}}',
        '{"ping":null}',
        '\ufeff{"ping":{}}',
        '{"ping":{},"pong":{}}',
        '{"ping":{},"ping":{}}',
        '{"ping":{"nonce":1,"nonce":2}}',
        '{"ping":{"nonce":-1}}',
        '{"ping":{"nonce":1.5}}',
        '{"ping":{"nonce":true}}',
        '{"ping":{"nonce":"x"}}',
        '{"ping":{"nonce":[]}}',
        '{"ping":{"nonce":{}}}',
        '{"ping":{"nonce":18446744073709551616}}',
        '{"ping":{"nonce":1e400}}',
        '{"ping":{"nonce":' + "9" * 5000 + "}}",
        '{"ping":{"x":NaN}}',
        '{"ping":{"x":-Infinity}}',
        '{"welcome":{"user":"u","heartbeatS":"NaN"}}',
        '{"welcome":{"user":"u","heartbeatS":"Infinity"}}',
        '{"welcome":{"user":"u","heartbeatS":1e999}}',
        '{"publish":{' + PUBLISH + ',"text":"hi","body":"aGk="}}',
        '{"publish":{' + PUBLISH + ',"text":"","body":""}}',
        '{"publish":{' + PUBLISH + ',"body":"a"}}',
        '{"publish":{' + PUBLISH + ',"body":"a!Gk="}}',
        '{"publish":{' + PUBLISH + ',"body":7}}',
        '{"publish":{' + PUBLISH + ',"body":["aGk="]}}',
        '{"publish":{' + PUBLISH + ',"text":7}}',
        '{"publish":{' + PUBLISH + ',"headers":{"a":7}}}',
        '{"publish":{' + PUBLISH + ',"headers":[]}}',
        '{"publish":{' + PUBLISH + ',"headers":{"a":null}}}',
        '{"publish":{' + PUBLISH + ',"headers":{"a":"1","a":"2"}}}',
        '{"publish":{' + PUBLISH + ',"resent":"true"}}',
        '{"publish":{' + PUBLISH + ',"text":"\\ud800"}}',
        '{"publish":{' + PUBLISH + ',"unknown":["\\uDC00"]}}',
        '{"publish":{' + PUBLISH + ',"\\udbff":1}}',
        '{"publish":{' + PUBLISH + ',"text":"a\nb"}}',
        '{"publish":{"msgId":"m","to":"user:bob"}}',
        '{"publish":{"msgId":"m","to":[7]}}',
        '{"publish":{"msgId":"m","to":[null]}}',
        '{"publish":{"msgId":7,"to":["user:bob"]}}',
        '{"hello":{"token":"t","start":"NEWEST"}}',
        '{"hello":{"token":"t","start":7}}',
        '{"hello":{"token":"t","start":true}}',
        '{"hello":{"token":"t","start":1.5}}',
        '{"hello":{"token":"t","start":"\u00b2"}}',
        '{"hello":{"token":"t","resume":[{"address":"user:bob","mode":"notify"}]}}',
        '{"hello":{"token":"t","resume":{"address":"user:bob"}}}',
        '{"subscribe":{"address":"room:7","mode":""}}',
        '{"seen":{"address":"room:7","kind":"x"}}',
        '{"deliver":{"address":"room:7","entries":[{"message":{"text":"a","body":"aGk="}}]}}',
        '{"deliver":{"address":"room:7","entries":[7]}}',
    ],
)
def test_what_is_no_frame(text: str) -> None:
    with pytest.raises(BadFrame) as caught:
        read(text)
    assert len(caught.value.reason) < 120


@pytest.mark.parametrize("field", ["nonce", "timeMs", "secret"])
def test_what_a_peer_sent_is_not_in_the_reason(field: str) -> None:
    with pytest.raises(BadFrame) as caught:
        read(
            '{"ping":{"' + field + '":"secret","secret":secret}}'
            if field == "secret"
            else {"ping": {field: "secret"}}
        )
    assert "secret" not in caught.value.reason


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        '{"ping":{}}'.encode("utf-16"),
        b'{"publish":{"msgId":"\xed\xa0\x80","to":["all"]}}',
        b"\x00",
    ],
)
def test_what_is_no_utf8(data: bytes) -> None:
    with pytest.raises(BadFrame):
        read(data)


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "address",
                    "body",
                    "entries",
                    "headers",
                    "kind",
                    "limits",
                    "message",
                    "mode",
                    "msgId",
                    "resume",
                    "seq",
                    "start",
                    "text",
                    "to",
                    "[a.b]",
                    "",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["publish", "hello", "deliver", "subscribe", "seen", "welcome", "x"]),
        trees,
        max_size=2,
    )
)
def test_any_tree_gives_a_frame_or_a_protocol_error(tree: dict[str, Any]) -> None:
    try:
        read(tree)
    except ProtocolError:
        pass


def test_json_needs_message_borders() -> None:
    with pytest.raises(ValueError):
        JsonAdapter().codec(True, 1000)
