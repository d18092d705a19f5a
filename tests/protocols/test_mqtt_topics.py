"""Topics and addresses."""

from __future__ import annotations

import pytest
from hypothesis import given

from imgateway.errors import InvalidAddress
from imgateway.frames import EVERYONE, Address
from imgateway.protocols.mqtt.topics import address_of, has_wildcards, topic_of
from tests.strategies import addresses

PAIRS = [
    ("user/alice", Address("user", "alice")),
    ("user/a%2Fb", Address("user", "a/b")),
    ("device/alice/phone", Address("device", "alice", "phone")),
    ("device/a%2Fb/c%2Fd", Address("device", "a/b", "c/d")),
    ("room/c%23", Address("room", "c#")),
    ("area/games", Address("area", "games")),
    ("all", EVERYONE),
    ("service/billing", Address("service", "billing")),
    ("topic/a/b//c", Address("topic", "a/b//c")),
    ("topic/1%2B1", Address("topic", "1+1")),
    ("topic/100%25", Address("topic", "100%")),
]


@pytest.mark.parametrize(("topic", "address"), PAIRS)
def test_both_ways(topic: str, address: Address) -> None:
    assert address_of(topic) == address
    assert topic_of(address) == topic


@given(addresses.filter(lambda address: address.kind != "node"))
def test_every_address_has_a_topic_that_says_nothing_else(address: Address) -> None:
    topic = topic_of(address)
    assert not has_wildcards(topic)
    assert address_of(topic) == address


def test_what_may_be_written_otherwise() -> None:
    assert address_of("user/a%2fb") == Address("user", "a/b")
    assert address_of("topic/a%2Fb") == Address("topic", "a/b")


@pytest.mark.parametrize(
    "topic",
    [
        "sensors/kitchen",
        "user",
        "user/",
        "user/a/b",
        "User/a",
        "device/alice",
        "device/alice/",
        "device/a/b/c",
        "topic",
        "topic/",
        "all/",
        "node/n1",
        "$SYS/broker",
        "/user/a",
        "user/%41",
        "user/100%",
        "topic/" + "x" * 65,
        "user/\x07",
    ],
)
def test_what_is_no_address(topic: str) -> None:
    with pytest.raises(InvalidAddress):
        address_of(topic)


def test_wildcards() -> None:
    assert has_wildcards("topic/#")
    assert has_wildcards("user/+/x")
    assert not has_wildcards("topic/a")
