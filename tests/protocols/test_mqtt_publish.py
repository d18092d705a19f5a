"""Publishes of clients: ids, outcomes, properties, aliases, repeats over connections."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.errors import BadFrame
from imgateway.frames import EVERYONE, Address, Keep, OutcomeCode, Publish, PublishAck
from imgateway.protocols.mqtt.packets import packet, text
from imgateway.protocols.mqtt.properties import Property
from imgateway.protocols.mqtt.reasons import Broken
from imgateway.protocols.mqtt.record import Record
from tests.protocols.mqtt import Peer, puback, publish

P = Property
BOB = Address("user", "bob")


def logged_in(version: int = 4, **more: Any) -> Peer:
    peer = Peer()
    peer.login(version, **more)
    return peer


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    ("topic", "address"),
    [
        ("user/bob", BOB),
        ("room/7", Address("room", "7")),
        ("topic/a/b", Address("topic", "a/b")),
        ("all", EVERYONE),
    ],
)
def test_a_publish(version: int, topic: str, address: Address) -> None:
    peer = logged_in(version)
    about = () if version == 5 else None
    (frame,) = peer.take(publish(topic, b"hi", 300, about=about))
    assert frame == Publish(frame.msg_id, (address,), body=b"hi")
    assert peer.answer(frame.msg_id).hex() == "4002012c"
    assert peer.answer(frame.msg_id) == b""  # it is answered once
    (frame,) = peer.take(publish(topic, b"", qos=0, about=about))
    assert frame == Publish(frame.msg_id, (address,), qos=0)
    assert peer.answer(frame.msg_id) == b""


@st.composite
def packets(draw: Any, version: int) -> bytes:
    """Mostly usual publishes, but of the same few packet ids; some with a wrong byte."""
    properties: Any = st.sampled_from([(), (), [(P.CONTENT_TYPE, "text/plain")], [(P.TOPIC_ALIAS, 1)]])
    data = publish(
        draw(st.sampled_from(["user/bob", "user/bob", "topic/a/b", "user/" + "b" * 64, "a/b", "", "+"])),
        draw(st.sampled_from([b"", b"hi", b"x" * 110, b"x" * 120, b"x" * 400, b"x" * 16_380])),
        draw(st.sampled_from([1, 2, 3, 300, 65_535])),
        draw(st.sampled_from([1, 1, 1, 0, 2])),
        draw(st.sampled_from([False, False, False, True])),
        draw(st.sampled_from([False, False, False, True])),
        draw(properties) if version == 5 else None,
    )
    kind = draw(st.integers(0, 15))
    if kind == 0:
        wrong = bytearray(data)
        wrong[draw(st.integers(0, min(20, len(data) - 1)))] = draw(st.sampled_from([0, 1, 127, 128, 255]))
        data = bytes(wrong)
    elif kind == 1:
        data = data[: draw(st.integers(1, len(data)))]
    return data if kind != 2 else puback(5)


def taken(chunks: list[bytes], version: int, clean: bool = False, most: int = 0) -> Any:
    """What a new connection makes of this, how it answers it, and what is wrong with it."""
    peer = logged_in(version, clean=clean)
    if most:
        peer.codec._splitter.max_bytes = most
    items: list[Any] = []
    problem = ""
    try:
        for chunk in chunks:
            items += peer.codec.receive(chunk)
    except BadFrame as error:
        problem = error.reason
    return items, [peer.answer(item.msg_id) for item in items if isinstance(item, Publish)], problem


def apart(sent: bytes) -> list[bytes]:
    """What begins in an earlier chunk goes the general way."""
    return [sent[:1], sent[1:]]


@given(st.data(), st.sampled_from([4, 5]), st.booleans(), st.sampled_from([0, 0, 300]))
def test_the_usual_way_and_the_general_one_come_to_the_same(
    data: Any, version: int, clean: bool, most: int
) -> None:
    sent = b"".join(data.draw(st.lists(packets(version), min_size=1, max_size=6)))
    assert taken([sent] * 2, version, clean, most) == taken(apart(sent) * 2, version, clean, most)


BORDERS = {
    "cut off": publish("user/bob", b"hi")[:-1],
    "nothing behind the topic": b"\x32\x0a" + text("user/bob"),
    "half a packet id": b"\x32\x0b" + text("user/bob") + b"\0",
    "no properties of 5": b"\x32\x0c" + text("user/bob") + b"\0\1",
    "a topic that ends in the next packet": b"\x32\x06" + text("user/bob") + b"\0\1\0",
    "no packet id": b"\x32\x0d" + text("user/bob") + b"\0\0\0",
    "a long topic": packet(0x32, b"\x01\x08user/bob\0\1\0" + b"x" * 300),
    "a length that is not the shortest": b"\x32\x8d\0" + text("user/bob") + b"\0\1\0",
    "a long one that is not the shortest": b"\x32\xff\xff\0\x08user/bob\0\1\0" + b"x" * 32_760,
    "as long as two bytes say": packet(0x32, text("user/bob") + b"\0\1\0" + b"x" * 16_370),
    "longer": packet(0x32, text("user/bob") + b"\0\1\0" + b"x" * 16_371),
    "too long": publish("user/bob", b"x" * 100_000),
}


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("what", BORDERS)
def test_at_its_borders_too(version: int, what: str) -> None:
    good = publish("user/bob", b"good", 9, about=() if version == 5 else None)
    for sent in (BORDERS[what], good + BORDERS[what], BORDERS[what] + good):
        for most in (0, len(BORDERS[what]) - 1):
            assert taken([sent], version, most=most) == taken(apart(sent), version, most=most)


def test_what_came_before_what_is_wrong_is_taken() -> None:
    peer = logged_in()
    items = peer.codec.receive(publish("user/bob", b"1", 1) + publish("user/bob", b"2", 2) + b"\x32\x02\0\0")
    assert isinstance(next(items), Keep)
    assert [next(items).body, next(items).body] == [b"1", b"2"]
    with pytest.raises(BadFrame):
        next(items)


def test_no_two_have_the_same_id() -> None:
    peer = logged_in()
    frames = [*peer.take(publish("user/bob", b"x", qos=0) * 3), *peer.take(publish("user/bob", b"x", 5) * 3)]
    assert len({frame.msg_id for frame in frames}) == 6
    assert all(0 < len(frame.msg_id) <= 64 for frame in frames)


def test_qos_2_is_answered_in_its_own_words() -> None:
    peer = logged_in()
    (frame,) = peer.take(publish("user/bob", b"hi", 7, qos=2))
    assert frame.qos == 1
    (again,) = peer.take(publish("user/bob", b"hi", 7, qos=2, dup=True))
    assert again.msg_id == frame.msg_id
    assert again.resent
    assert peer.answer(frame.msg_id).hex() == "50020007"
    assert peer.take(bytes.fromhex("62020007")) == [bytes.fromhex("70020007")]


def released(packet_id: int) -> bytes:
    return b"\x62\x02" + packet_id.to_bytes(2)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("dup", [False, True])
@pytest.mark.parametrize("reconnects", [False, True])
def test_until_pubrel_a_packet_id_of_qos_2_is_the_same_message(
    version: int, dup: bool, reconnects: bool
) -> None:
    """Whatever DUP says: some clients leave it out after a reconnect that failed."""
    peer = Peer()
    more: dict[str, Any] = {"about": [(P.SESSION_EXPIRY, 600)]} if version == 5 else {}
    about = () if version == 5 else None
    peer.login(version, **more)
    (first,) = peer.take(publish("user/bob", b"5 euros", 7, qos=2, about=about))
    assert peer.answer(first.msg_id).hex() == "50020007"
    if reconnects:
        peer.login(version, **more)
    (again,) = peer.take(publish("user/bob", b"5 euros", 7, qos=2, dup=dup, about=about))
    assert (again.msg_id, again.resent) == (first.msg_id, True)
    assert peer.answer(first.msg_id, OutcomeCode.DUPLICATE).hex() == "50020007"
    assert peer.take(released(7)) == [bytes.fromhex("70020007")]
    if reconnects:
        peer.login(version, **more)
    (new,) = peer.take(publish("user/bob", b"5 euros", 7, qos=2, about=about))
    assert (new.msg_id != first.msg_id, new.resent) == (True, False)


def test_what_waits_for_pubrel_is_written_down_first() -> None:
    peer = logged_in()
    items = peer.codec.receive(b"".join(publish("user/bob", b"x", n, qos=2) for n in (1, 2)))
    assert [type(item).__name__ for item in items] == ["Keep", "Publish"] * 2
    kept, again = peer.codec.receive(released(1) * 2)
    assert kept == again, "a repeat waits for what the first one changed"
    assert kept.reply == bytes.fromhex("70020001")
    record = Record.read(kept.data)
    assert record is not None
    assert record.unreleased == (2,)
    peer = logged_in(clean=True)
    items = peer.codec.receive(publish("user/bob", b"x", 1, qos=2) + released(1))
    assert [type(item).__name__ for item in items] == ["Publish", "bytes"]


@pytest.mark.parametrize("body", [b"6 euros", b"5 euros"])
def test_the_same_packet_id_is_not_enough(body: bytes) -> None:
    """Its client forgot its session, and began again at 1; or has more than 64 under way."""
    peer = logged_in()
    (first,) = peer.take(publish("user/bob", b"5 euros", 1, qos=2))
    if body == b"5 euros":
        for packet_id in range(2, 66):
            peer.take(publish("user/bob", b"x", packet_id, qos=2))
    (other,) = peer.take(publish("user/bob", body, 1, qos=2))
    assert other.msg_id != first.msg_id


def test_a_refused_publish_of_qos_2_is_over() -> None:
    peer = logged_in(5)
    (first,) = peer.take(publish("user/bob", b"x", 7, qos=2, about=()))
    assert peer.answer(first.msg_id, OutcomeCode.FULL).hex() == "5003000797"
    (other,) = peer.take(publish("user/bob", b"x", 7, qos=2, about=()))
    assert (other.msg_id != first.msg_id, other.resent) == (True, False)


OUTCOMES = [
    (OutcomeCode.OK, ""),
    (OutcomeCode.DUPLICATE, ""),
    (OutcomeCode.FULL, "97"),
    (OutcomeCode.FORBIDDEN, "87"),
    (OutcomeCode.UNKNOWN, "90"),
    (OutcomeCode.RATE, "97"),
    (OutcomeCode.TOO_LARGE, "97"),
    (99, "83"),
]


@pytest.mark.parametrize(("code", "reason"), OUTCOMES)
@pytest.mark.parametrize(("qos", "kind"), [(1, 0x40), (2, 0x50)])
def test_outcomes(code: int, reason: str, qos: int, kind: int) -> None:
    peer = logged_in(5)
    (frame,) = peer.take(publish("user/bob", b"hi", 7, qos, about=()))
    answer = bytes((kind, 3 if reason else 2, 0, 7)) + bytes.fromhex(reason)
    assert peer.answer(frame.msg_id, code) == answer
    peer = logged_in(4)
    (frame,) = peer.take(publish("user/bob", b"hi", 7, qos))
    assert peer.answer(frame.msg_id, code) == bytes((kind, 2, 0, 7))  # 3.1.1 has no word for no


def test_a_topic_that_there_is_not() -> None:
    peer = logged_in(5)
    assert peer.take(publish("sensors/1", b"hi", 7, about=())) == [bytes.fromhex("4003000790")]
    assert peer.take(publish("sensors/1", b"hi", 7, 2, about=())) == [bytes.fromhex("5003000790")]
    assert peer.take(publish("sensors/1", b"hi", qos=0, about=())) == []
    peer = logged_in(4)
    assert peer.take(publish("sensors/1", b"hi", 7)) == [bytes.fromhex("40020007")]


def test_properties_become_fields_and_headers() -> None:
    peer = logged_in(5)
    about = [
        (P.PAYLOAD_FORMAT, 1),
        (P.MESSAGE_EXPIRY, 60),
        (P.CONTENT_TYPE, "text/plain"),
        (P.RESPONSE_TOPIC, "user/alice"),
        (P.CORRELATION, b"\xff\0"),
        (P.USER, ("unit", "°C")),
        (P.USER, ("imgateway.sender", "boss")),
        (P.USER, ("mqtt.retain", "1")),
    ]
    (frame,) = peer.take(publish("topic/t", b"21", about=about))
    assert (frame.ttl_s, frame.content_type) == (60, "text/plain")
    assert frame.headers == (
        ("unit", "°C"),
        ("mqtt.response-topic", "user/alice"),
        ("mqtt.correlation-data", "_wA="),
        ("mqtt.payload-format", "1"),
    )
    (frame,) = peer.take(publish("topic/t", b"21", retain=True, about=[(P.MESSAGE_EXPIRY, 0)]))
    assert frame.headers == (("mqtt.retain", "1"),)
    assert frame.ttl_s == 1


def test_aliases() -> None:
    peer = logged_in(5)
    peer.take(publish("user/bob", b"1", about=[(P.TOPIC_ALIAS, 16)]))
    (frame,) = peer.take(publish("", b"2", 2, about=[(P.TOPIC_ALIAS, 16)]))
    assert frame.to == (BOB,)
    assert frame.body == b"2"
    peer.take(publish("room/7", b"1", about=[(P.TOPIC_ALIAS, 16)]))
    (frame,) = peer.take(publish("", b"2", 2, about=[(P.TOPIC_ALIAS, 16)]))
    assert frame.to == (Address("room", "7"),)
    peer.login(5)  # aliases die with the connection
    with pytest.raises(Broken) as caught:
        peer.take(publish("", b"2", 2, about=[(P.TOPIC_ALIAS, 16)]))
    assert caught.value.said == 0x82


BAD = [
    publish("", b"x"),
    publish("user/+", b"x"),
    publish("#", b"x", qos=0),
    publish("user/bob", b"x", 0),
    publish("user/bob", b"x", qos=3),
    publish("user/bob", b"x", qos=0, dup=True),
    b"\x32\x00",
    b"\x32\x01\x00",
    b"\x32\x05\x00\x08user",
    b"\x32\x04\x00\x01a\x00",
    packet(0x30, b"\0\2\xff\xff", b"x"),
]
BAD_5 = [
    publish("", b"x", about=()),
    publish("user/bob", b"x", about=[(P.TOPIC_ALIAS, 0)]),
    publish("user/bob", b"x", about=[(P.TOPIC_ALIAS, 17)]),
    publish("user/bob", b"x", about=[(P.RESPONSE_TOPIC, "a/#")]),
    publish("user/bob", b"x", about=[(P.RESPONSE_TOPIC, "")]),
    publish("user/bob", b"x", about=[(P.SUBSCRIPTION_ID, 1)]),
    packet(0x32, text("user/bob"), b"\0\1"),  # no properties at all
    packet(0x32, text("user/bob"), b"\0\1\5\1"),
]


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_publish(data: bytes) -> None:
    peer = logged_in()
    with pytest.raises(BadFrame):
        peer.take(data)


@pytest.mark.parametrize("data", BAD_5)
def test_what_is_no_publish_of_5(data: bytes) -> None:
    peer = logged_in(5)
    with pytest.raises(BadFrame):
        peer.take(data)


# ------------------------------------------------------------------------------------------------- repeats


@pytest.mark.parametrize("version", [4, 5])
def test_a_repeat_after_a_lost_connection_is_recognised(version: int) -> None:
    peer = Peer()
    more: dict[str, Any] = {"about": [(P.SESSION_EXPIRY, 600)]} if version == 5 else {}
    peer.login(version, **more)
    about = () if version == 5 else None
    sent = [peer.take(publish("user/bob", b"%d" % n, n, about=about))[0] for n in (1, 2, 3)]
    peer.login(version, **more)
    for n in (1, 2, 3):
        (again,) = peer.take(publish("user/bob", b"%d" % n, n, dup=True, about=about))
        assert (again.msg_id, again.resent) == (sent[n - 1].msg_id, True)
    (other,) = peer.take(publish("user/bob", b"1", 1, about=about))
    assert other.msg_id not in {frame.msg_id for frame in sent}


def test_the_record_goes_before_the_publish_that_it_is_for() -> None:
    peer = logged_in()
    kinds = [type(item).__name__ for item in peer.codec.receive(publish("user/bob", b"x", 1) * 2)]
    assert kinds == ["Keep", "Publish", "Keep", "Publish"]
    peer = logged_in()
    items = peer.codec.receive(b"".join(publish("user/bob", b"x", n) for n in range(1, 65)))
    assert [type(item).__name__ for item in items] == ["Keep", *["Publish"] * 64]


def test_what_is_repeated_late_is_known_over_the_next_connection_too() -> None:
    """The client went on with another packet id before."""
    peer = logged_in()
    (five,) = peer.take(publish("user/bob", b"five", 5))
    peer.login()
    peer.take(publish("user/bob", b"three", 3))
    items = list(peer.codec.receive(publish("user/bob", b"five", 5, dup=True)))
    assert [type(item).__name__ for item in items] == ["Keep", "Publish"]
    peer.record = items[0].data
    peer.login()
    (again,) = peer.take(publish("user/bob", b"five", 5, dup=True))
    assert items[1].msg_id == again.msg_id == five.msg_id


def test_a_session_that_is_not_kept_writes_nothing() -> None:
    peer = logged_in(clean=True)
    assert [type(item).__name__ for item in peer.codec.receive(publish("user/bob", b"x", 1))] == ["Publish"]
    assert peer.record == b""


def test_a_clean_start_forgets_packet_ids() -> None:
    peer = logged_in()
    (first,) = peer.take(publish("user/bob", b"x", 1))
    peer.login(clean=True)
    (again,) = peer.take(publish("user/bob", b"x", 1, dup=True))
    assert again.msg_id != first.msg_id


def test_an_ack_for_something_else() -> None:
    peer = logged_in()
    assert peer.codec.encode(PublishAck("nobody's", ())) == b""


def test_an_alias_for_what_is_no_topic_holds_little() -> None:
    peer = logged_in(5)
    long = "topic/" + "x" * 60_000
    for alias in range(1, 17):
        (answer,) = peer.take(publish(long, b"", about=[(Property.TOPIC_ALIAS, alias)]))
        assert answer[-1] == 0x90
    assert sum(map(len, peer.codec._inbox._aliases.values())) < 16 * 1_000
    (answer,) = peer.take(publish("", b"", about=[(Property.TOPIC_ALIAS, 16)]))
    assert answer[-1] == 0x90
