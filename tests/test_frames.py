"""Addresses have one written form, ids have rules, and the vocabulary is complete and frozen."""

from __future__ import annotations

import re
import typing
from enum import IntEnum
from itertools import product

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from imgateway import frames
from imgateway.errors import InvalidAddress
from imgateway.frames import (
    CLIENT_FRAMES,
    DURABLE_KINDS,
    EVERYONE,
    FRAME_NAMES,
    KINDS,
    MAX_ID_BYTES,
    RING_KINDS,
    SERVER_FRAMES,
    Address,
    Batch,
    Deliver,
    Entry,
    LogKey,
    Message,
    Outcome,
    OutcomeCode,
    Position,
    SessionKey,
    address_text,
    check_id,
    log_of,
    parse_address,
    user_address,
)

CONTROL = [*range(0x20), *range(0x7F, 0xA0)]

ids = st.text(
    st.one_of(st.sampled_from("/%25Ff2: "), st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))),
    min_size=1,
    max_size=MAX_ID_BYTES,
).filter(lambda text: len(text.encode()) <= MAX_ID_BYTES)
plain = st.builds(Address, st.sampled_from(sorted(KINDS - {"all", "device"})), ids, st.just(""))
addresses = st.one_of(plain, st.builds(Address, st.just("device"), ids, ids), st.just(EVERYONE))

# ------------------------------------------------------------------------------------------- the written form


@settings(max_examples=400, derandomize=True)
@given(address=addresses)
@example(address=Address("user", "%2F"))
@example(address=Address("user", "%252f%"))
@example(address=Address("device", "a/b", "c/%d"))
@example(address=Address("room", "a:b"))
def test_what_is_written_is_read_back(address: Address) -> None:
    text = address_text(address)
    assert parse_address(text) == address
    assert text.count("/") == (address.kind == "device")
    assert parse_address(text) is parse_address("".join(text)), "equal texts share one object"


@settings(max_examples=300, derandomize=True)
@given(one=addresses, other=addresses)
def test_different_addresses_are_written_differently(one: Address, other: Address) -> None:
    assert (one == other) == (address_text(one) == address_text(other))
    assert one != other or hash(one) == hash(other)


@settings(max_examples=400, derandomize=True)
@given(
    text=st.one_of(
        st.text(max_size=20),
        st.builds(
            "{}:{}".format, st.sampled_from(sorted(KINDS)), st.text("a/%25Ff2:\x00\ud800é", max_size=8)
        ),
    )
)
def test_any_text_is_an_address_or_invalid_and_there_is_one_way_to_write_it(text: str) -> None:
    try:
        address = parse_address(text)
    except InvalidAddress:
        return
    assert address_text(address) == text.replace("%2f", "%2F")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("all", EVERYONE),
        ("user:42", Address("user", "42")),
        ("topic:news", Address("topic", "news")),
        ("service:orders", Address("service", "orders")),
        ("room:7", Address("room", "7")),
        ("area:games", Address("area", "games")),
        ("node:a.1f", Address("node", "a.1f")),
        ("device:42/phone", Address("device", "42", "phone")),
        ("user:a:b", Address("user", "a:b")),
        ("user:all", Address("user", "all")),
        ("user: ", Address("user", " ")),
        ("user:a%2Fb", Address("user", "a/b")),
        ("user:a%2fb", Address("user", "a/b")),
        ("user:%25", Address("user", "%")),
        ("user:%252F", Address("user", "%2F")),
        ("user:%252f", Address("user", "%2f")),
        ("user:%25252F", Address("user", "%252F")),
        ("device:a%2Fb/c%2Fd", Address("device", "a/b", "c/d")),
        ("device:%25/%25", Address("device", "%", "%")),
        ("user:Ünïcödé", Address("user", "Ünïcödé")),
        ("user:" + "é" * 32, Address("user", "é" * 32)),
        ("user:" + "%2F" * 64, Address("user", "/" * 64)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


KIND = "an address is KIND:ID with a kind of area, device, node, room, service, topic, user; or all"
SLASH = "device:USER/DEVICE has one '/', other addresses none; write it %2F inside an id"
PERCENT = "only %2F and %25 may follow a % in an address"
SURROGATE = "an id must be valid Unicode (it has a lone surrogate)"
CONTROLS = "an id must not contain control characters"


def size(got: int) -> str:
    return f"an id must be 1 to 64 bytes of UTF-8, not {got}"


INVALID = {
    "": KIND,
    "user": KIND,
    "42": KIND,
    ":": KIND,
    ":42": KIND,
    "User:42": KIND,
    " user:42": KIND,
    "group:7": KIND,
    "\ud800:7": KIND,
    "all:": KIND,
    "all:x": KIND,
    "ALL": KIND,
    "user/42": KIND,
    "user:42/phone": SLASH,
    "room:/": SLASH,
    "device:42": SLASH,
    "device:": SLASH,
    "device:42/phone/2": SLASH,
    "device:42%2Fphone": SLASH,
    "device:42//": SLASH,
    "user:%": PERCENT,
    "user:%2": PERCENT,
    "user:%20": PERCENT,
    "user:%41": PERCENT,
    "user:%%25": PERCENT,
    "user:%2%35": PERCENT,
    "user:%%2F": PERCENT,
    "device:a/%": PERCENT,
    "device:%/a": PERCENT,
    "user:": size(0),
    "device:/phone": size(0),
    "device:42/": size(0),
    "user:" + "a" * 65: size(65),
    "user:" + "é" * 33: size(66),
    "user:" + "%2F" * 65: size(65),
    "device:42/" + "a" * 65: size(65),
    "user:\ud800": SURROGATE,
    "user:a\udfffb": SURROGATE,
    "device:42/\udc80": SURROGATE,
    "user:a\nb": CONTROLS,
    "user:\x00": CONTROLS,
    "device:42/\x9f": CONTROLS,
}


@pytest.mark.parametrize("text", INVALID, ids=ascii)
def test_what_is_no_address_says_which_rule_it_breaks(text: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        parse_address(text)
    assert str(caught.value) == INVALID[text]
    assert isinstance(caught.value, ValueError)
    with pytest.raises(InvalidAddress):
        parse_address(text)  # a refusal is not remembered as an address


def test_a_huge_text_is_refused_without_repeating_it() -> None:
    with pytest.raises(InvalidAddress) as caught:
        parse_address("user:" + "x" * 1_000_000)
    assert len(str(caught.value)) < 100


# ------------------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize("number", CONTROL, ids=hex)
def test_control_characters_are_not_allowed_in_an_id(number: int) -> None:
    with pytest.raises(InvalidAddress, match=CONTROLS):
        check_id(f"a{chr(number)}b")


@pytest.mark.parametrize(
    "text", [" ", "\xa0", "\xad", "\u200b", "\u2028", "👩‍👧", "a/b", "100%", "\U0010ffff"]
)
def test_anything_else_is(text: str) -> None:
    assert check_id(text) is text


@pytest.mark.parametrize("character", ["a", "é", "€", "👍"])
def test_the_limit_is_in_bytes(character: str) -> None:
    most = MAX_ID_BYTES // len(character.encode())
    assert check_id(character * most)
    with pytest.raises(InvalidAddress, match=r"1 to 64 bytes"):
        check_id(character * (most + 1))
    with pytest.raises(InvalidAddress, match=r"not 0"):
        check_id("")


@settings(max_examples=300, derandomize=True)
@given(text=st.text(st.characters(), max_size=70))
def test_check_id_against_the_rules_as_they_are_told(text: str) -> None:
    good = (
        not any(0xD800 <= ord(c) <= 0xDFFF or ord(c) in CONTROL for c in text)
        and 1 <= len(text.encode(errors="surrogatepass")) <= 64
    )
    try:
        assert check_id(text) == text
        assert good
    except InvalidAddress:
        assert not good


# ------------------------------------------------------------------------------------------------------- logs


def test_a_devices_messages_stand_in_its_users_log() -> None:
    assert log_of(parse_address("device:42/phone")) == log_of(user_address("42"))
    assert log_of(parse_address("device:a%2Fb/c")).address == parse_address("user:a%2Fb")


@settings(max_examples=100, derandomize=True)
@given(address=addresses, lane=st.integers(0, 1))
def test_every_other_address_is_its_own_log(address: Address, lane: int) -> None:
    assume(address.kind != "device")
    assert log_of(address, lane) == LogKey(address, lane)
    assert log_of(address) == LogKey(address, 0)
    assert log_of(address) is log_of(address)


def test_kinds() -> None:
    assert not DURABLE_KINDS & RING_KINDS
    assert {"device", "node"} == KINDS - DURABLE_KINDS - RING_KINDS
    assert user_address("42") == parse_address("user:42")


# ------------------------------------------------------------------------------------------------- the frames

STRUCTS = [kind for kind in vars(frames).values() if isinstance(kind, type) and issubclass(kind, Struct)]
STRUCTS.remove(Struct)


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_values_are_frozen_and_have_no_behaviour(kind: type[Struct]) -> None:
    assert kind.__struct_config__.frozen
    own = {name for name in vars(kind) if not name.startswith("__")}
    assert own <= set(kind.__struct_fields__)
    required = len(kind.__struct_fields__) - len(kind.__struct_defaults__)
    value = kind(*(None for _ in range(required)))
    with pytest.raises(AttributeError, match="immutable"):
        setattr(value, kind.__struct_fields__[0], 1)
    assert value == kind(*(None for _ in range(required)))


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_defaults_are_values_too(kind: type[Struct]) -> None:
    for default in kind.__struct_defaults__:
        hash(default)


def test_every_frame_has_its_name() -> None:
    assert set(typing.get_args(frames.Frame)) == set(FRAME_NAMES)
    for kind, name in FRAME_NAMES.items():
        assert name == re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def test_every_frame_has_a_direction() -> None:
    assert set(FRAME_NAMES) == CLIENT_FRAMES | SERVER_FRAMES
    both = {FRAME_NAMES[kind] for kind in CLIENT_FRAMES & SERVER_FRAMES}
    assert both == {"ping", "pong", "seen", "request", "response", "bye"}
    asked = {FRAME_NAMES[kind] for kind in CLIENT_FRAMES - SERVER_FRAMES}
    assert asked == {"hello", "renew", "publish", "deliver_ack", "subscribe", "unsubscribe", "pull"}


CODES = [kind for kind in vars(frames).values() if isinstance(kind, type) and issubclass(kind, IntEnum)]
CODES.remove(IntEnum)


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_codes_of_a_kind_are_different(kind: type[IntEnum]) -> None:
    assert len(kind.__members__) == len(set(kind))
    assert min(kind) in (0, 1)


def test_values_compare_by_what_they_say() -> None:
    entry = Entry(1, b"x")
    assert Deliver(EVERYONE, 0, 1, 0, 1, (entry,)) == Deliver(EVERYONE, 0, 1, 0, 1, (Entry(1, b"x"),))
    assert hash(entry) == hash(Entry(1, b"x"))
    assert Message("m", "alice", "phone") != Message("m", "alice", "desk")
    assert tuple(SessionKey("a", "b")) == ("a", "b")
    assert Position(1, 2, 3).head == 3
    assert Outcome(OutcomeCode.OK) == (0, 0, 0)
    assert Batch(1, 0, 0, (), False, 0) == Batch(1, 0, 0, (), False, 0)


@pytest.mark.parametrize(("kind", "ident"), list(product(["user", "room"], ["all", "42"])))
def test_addresses_are_good_keys(kind: str, ident: str) -> None:
    address = Address(kind, ident)
    assert {address: 1}[parse_address(f"{kind}:{ident}")] == 1
    assert address not in {EVERYONE: 1}
