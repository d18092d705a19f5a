"""Control frames: there and back, versions, and bytes that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from imgateway.cluster.frames import (
    Answer,
    Ask,
    Control,
    Drain,
    Kick,
    Stored,
    Undrain,
    UnknownKind,
    decode_control,
    encode_control,
)
from imgateway.errors import BadFrame
from imgateway.frames import Message

FRAMES: list[Control] = [
    Answer(number=7, code=3, body=b"\xff\x00", count=2),
    Kick(number=1, reply_to="a.1", user="bob", device="phone", reason="out"),
    Kick(user="bob"),
    Ask(number=2, reply_to="a.1", user="bob", device="", service="s", method="m", body=b"x", deadline_ms=5),
    Drain(rate=500),
    Undrain(),
    Stored(
        messages=(("user:bob", Message("1", "service:shop", "api", body=b"\xff", headers=(("a", "b"),))),)
    ),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_there_and_back(frame: Control) -> None:
    assert decode_control(encode_control(frame)) == frame


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_fields_of_a_newer_version_are_passed_over(frame: Control) -> None:
    said = {**msgpack.decode(encode_control(frame)), "since_version_9": [1, {}]}
    assert decode_control(msgpack.encode(said)) == frame


def test_a_kind_of_a_newer_version() -> None:
    with pytest.raises(UnknownKind, match=r"^evacuate$"):
        decode_control(msgpack.encode({"kind": "evacuate", "rate": 1}))


@pytest.mark.parametrize(
    "said",
    [
        None,
        7,
        [],
        {},
        {"kind": 7},
        {"kind": None},
        {"kind": "question"},
        {"kind": "drain"},
        {"kind": "drain", "rate": "fast"},
        {"kind": "kick", "user": 3},
        {"kind": "answer", "number": 1, "body": "text"},
    ],
)
def test_values_that_are_no_frame(said: object) -> None:
    with pytest.raises(BadFrame):
        decode_control(msgpack.encode(said))


@given(st.binary(max_size=64) | st.sampled_from(FRAMES).map(lambda one: encode_control(one)[:-1]))
def test_any_bytes(data: bytes) -> None:
    try:
        decode_control(data)
    except BadFrame:
        pass
