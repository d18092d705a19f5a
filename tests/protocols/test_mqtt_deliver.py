"""Subscriptions, what is delivered for them, and the acknowledgements; what a session remembers of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.errors import BadFrame, CloseCode
from imgateway.frames import (
    EVERYONE,
    Acked,
    Address,
    Bye,
    Deliver,
    DeliverAck,
    Entry,
    Keep,
    Notify,
    Publish,
    Refused,
    RefusedCode,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
)
from imgateway.protocols.mqtt.packets import Body, Splitter, packet
from imgateway.protocols.mqtt.properties import Property
from imgateway.protocols.mqtt.record import FOREVER, Record, Subscription
from tests.protocols.mqtt import (
    DISCONNECT,
    ME,
    NEWS,
    NOW_MS,
    PINGREQ,
    ROOM,
    Peer,
    connect,
    entry,
    puback,
    publish,
    subscribe,
    unsubscribe,
)

P = Property


def logged_in(version: int = 4, **more: Any) -> Peer:
    peer = Peer()
    peer.login(version, **more)
    return peer


class Got:
    """A PUBLISH as a client reads it."""

    def __init__(self, first: int, data: bytes, v5: bool) -> None:
        body = Body(data)
        self.topic = body.text()
        self.qos, self.retain, self.dup = first >> 1 & 3, bool(first & 1), bool(first & 8)
        self.packet_id = body.short() if self.qos else 0
        self.about: list[tuple[int, Any]] = []
        if v5:
            part = body.part()
            kinds = {2: "long", 3: "text", 8: "text", 9: "binary", 11: "variable", 1: "byte"}
            while part.more():
                number = part.byte()
                value = (part.text(), part.text()) if number == 0x26 else getattr(part, kinds[number])()
                self.about.append((number, value))
        self.body = body.rest()


def got(data: bytes | None, v5: bool = False) -> list[Got]:
    assert data is not None
    return [Got(first, body, v5) for first, body in Splitter(1 << 20).feed(data)]


# --------------------------------------------------------------------------------------- the mailbox and acks


def test_the_mailbox_comes_by_itself_at_qos_1() -> None:
    peer = logged_in()
    (one, two) = got(peer.deliver(ME, entry(5, b"a"), entry(6, b"b")))
    assert [(m.topic, m.qos, m.body, m.retain, m.dup) for m in (one, two)] == [
        ("user/alice", 1, b"a", False, False),
        ("user/alice", 1, b"b", False, False),
    ]
    assert peer.take(puback(one.packet_id) + puback(two.packet_id)) == [DeliverAck((Acked(ME, 1, 6),))]


def test_acks_in_any_order_move_the_prefix() -> None:
    peer = logged_in()
    ids = [m.packet_id for m in got(peer.deliver(ME, *[entry(seq) for seq in range(1, 6)], upto=9))]
    assert peer.take(puback(ids[1])) == []
    assert peer.take(puback(ids[0])) == [DeliverAck((Acked(ME, 1, 2),))]
    assert peer.take(puback(ids[4]) + puback(ids[3])) == []
    assert peer.take(puback(ids[2])) == [
        DeliverAck((Acked(ME, 1, 9),))
    ]  # the last stands for the whole range
    assert peer.take(puback(ids[2])) == []  # twice, and one that nobody sent
    assert peer.take(puback(40_000)) == []


@given(st.permutations(range(12)), st.integers(1, 4))
def test_any_order_of_acks_ends_at_the_end(order: list[int], at_once: int) -> None:
    peer = logged_in()
    ids = [m.packet_id for seq in range(1, 13) for m in got(peer.deliver(ME, entry(seq)))]
    done: list[int] = []
    acked = 0
    for at in range(0, 12, at_once):
        part = order[at : at + at_once]
        done += part
        for frame in peer.take(b"".join(puback(ids[index]) for index in part)):
            acked = frame.acks[0].upto
        prefix = next((n for n in range(12) if n not in done), 12)
        assert acked == prefix
    assert acked == 12


def test_packet_ids_come_round_and_pass_over_those_in_flight() -> None:
    peer = logged_in()
    (first,) = got(peer.deliver(ME, entry(1)))
    for seq in range(2, 65_540):
        (one,) = got(peer.deliver(NEWS, entry(seq)))
        assert one.packet_id != first.packet_id or seq == 1
        peer.take(puback(one.packet_id))
    assert peer.take(puback(first.packet_id)) == [DeliverAck((Acked(ME, 1, 1),))]


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_puback_in_any_chunks(cut: int) -> None:
    peer = logged_in()
    one, two = got(peer.deliver(ME, entry(1), entry(2)))
    for number, upto in ((one.packet_id, 1), (two.packet_id, 2)):
        data = puback(number)
        taken = peer.take(data[:cut]) + peer.take(data[cut:])
        assert taken == [DeliverAck((Acked(ME, 1, upto),))]


@given(st.permutations(range(9)), st.data())
def test_pubacks_together_are_pubacks_apart(order: list[int], data: Any) -> None:
    """Of two logs, one of which is unsubscribed from meanwhile; some are for what nobody sent."""
    one, other = logged_in(), logged_in()
    acks = b""
    for peer in (one, other):
        peer.take(subscribe(("topic/news", 1)))
        peer.codec.encode(Subscribed(NEWS, 0, epoch=1))
        ids = [m.packet_id for seq in range(1, 5) for m in got(peer.deliver(ME, entry(seq)))]
        ids += [m.packet_id for seq in range(1, 5) for m in got(peer.deliver(NEWS, entry(seq)))]
        acks = b"".join(puback([*ids, 40_000][index]) for index in order)
    if data.draw(st.booleans()):
        for peer in (one, other):
            peer.codec.encode(Unsubscribed(NEWS, UnsubscribedCode.ASKED))
    together = one.take(acks)
    apart = other.take(acks[:-1]) + other.take(acks[-1:])
    upto = [{ack.address: ack.upto for frame in frames for ack in frame.acks} for frames in (together, apart)]
    assert len(together) == 1
    assert upto[0] == upto[1]
    assert upto[0][ME] == 4
    assert upto[0].get(NEWS, 4) == 4
    assert one.codec._outbox.loose == other.codec._outbox.loose == 0


def test_a_puback_before_the_greeting_of_nothing_or_behind_what_is_broken() -> None:
    peer = Peer()
    with pytest.raises(BadFrame, match="CONNECT"):
        peer.take(puback(1))
    peer.login()
    for data in (puback(0), puback(1) + puback(0)):
        peer.login()
        with pytest.raises(BadFrame, match="packet id"):
            peer.take(data)
    with pytest.raises(BadFrame, match="nothing can follow"):
        peer.take(puback(1))


MORE: list[dict[str, Any]] = [
    {},
    {"content_type": "text/plain"},
    {"headers": (("a", "b"), ("mqtt.retain", "1"))},
    {"expires_ms": NOW_MS + 5_000},
    {"expires_ms": NOW_MS},
    {"sender": "a\0b"},
    {"body": b"x" * 16_400},
]


@given(
    st.sampled_from([(4, 0, 0), (5, 0, 0), (5, 1_000, 0), (5, 0, 1), (5, 0, 5), (5, 0, 9)]),
    st.lists(st.tuples(st.binary(max_size=200), st.sampled_from(MORE)), min_size=1, max_size=4),
    st.integers(0, 70_000),
    st.integers(0, 3),
    st.data(),
)
def test_mail_is_a_delivery(
    how: tuple[int, int, int], said: list[tuple[bytes, Any]], after: int, waiting: int, data: Any
) -> None:
    """Whatever the options of the subscription and whatever waits: the same bytes, or none and no change."""
    version, max_bytes, options = how
    about = [(P.MAXIMUM_PACKET_SIZE, max_bytes)] if max_bytes else []
    entries = tuple([entry(after + n, **{"body": body, **more}) for n, (body, more) in enumerate(said, 1)])
    upto = after + len(entries)
    frame = Deliver(ME, 0, 7, after, upto, entries, False, upto)
    one, other = logged_in(version, about=about), logged_in(version, about=about)
    ids = []
    for peer in (one, other):
        if options:
            peer.take(subscribe(("user/alice", options), v5=True, ident=options & 8))
        peer.codec._outbox._next = 65_533 - waiting
        ids = [m.packet_id for m in got(peer.deliver(NEWS, *map(entry, range(1, waiting + 1))), version == 5)]
        peer.codec._outbox._next = 65_530
    mail = one.codec.mail(ME, 7, after, [each.message for each in entries])
    if mail is None:
        mail = one.codec.encode(frame)
    assert mail == other.codec.encode(frame)
    ids += [each.packet_id for each in got(mail or b"", version == 5)]
    for packet_id in data.draw(st.permutations(ids)):
        assert one.take(puback(packet_id)) == other.take(puback(packet_id))
    assert not one.codec._outbox._flights


def test_the_usual_mail_has_a_way_of_its_own() -> None:
    for version in (4, 5):
        peer = logged_in(version)
        assert peer.codec.mail(ME, 7, 0, [entry(1, content_type="text/plain").message])
        assert peer.codec.mail(ME, 7, 1, [entry(2, expires_ms=NOW_MS + 1).message]) is None
        assert peer.codec.mail(ME, 7, 1, [b"\xff"]) is None
        assert peer.codec.mail(NEWS, 7, 1, [entry(2).message]) is None
        peer.take(puback(1))
        (two,) = got(peer.codec.mail(ME, 7, 1, [entry(2).message]), version == 5)
        assert two.packet_id == 2  # nothing was done in between


def test_mail_larger_than_a_client_takes() -> None:
    for size in range(100):
        peer, other = logged_in(5, about=[(P.MAXIMUM_PACKET_SIZE, 150)]), logged_in(5)
        message = entry(1, b"x" * size).message
        said, whole = peer.codec.mail(ME, 7, 0, [message]), other.codec.mail(ME, 7, 0, [message])
        assert said is None or (said == whole and len(said) <= 150)


def test_a_negative_puback_counts_as_one() -> None:
    peer = logged_in(5)
    (one,) = got(peer.deliver(ME, entry(1)), True)
    data = packet(0x40, one.packet_id.to_bytes(2), b"\x97\x00")
    assert peer.take(data) == [DeliverAck((Acked(ME, 1, 1),))]
    (two,) = got(peer.deliver(ME, entry(2)), True)
    assert peer.take(packet(0x40, two.packet_id.to_bytes(2), b"\x10")) == [DeliverAck((Acked(ME, 1, 2),))]


def test_qos_0_to_a_user_has_no_packet_id() -> None:
    peer = logged_in()
    (one,) = got(peer.deliver(ME, entry(0), upto=0))
    assert (one.qos, one.body) == (0, b"hello")


def test_a_new_epoch_begins_a_new_count() -> None:
    peer = logged_in()
    (old,) = got(peer.deliver(ME, entry(1), epoch=1))
    (new,) = got(peer.deliver(ME, entry(1), epoch=2))
    assert peer.take(puback(new.packet_id)) == [DeliverAck((Acked(ME, 2, 1),))]
    assert peer.take(puback(old.packet_id)) == [DeliverAck((Acked(ME, 1, 1),))]


def test_what_a_client_of_5_hears_of_a_message() -> None:
    peer = logged_in(5)
    headers = (
        ("imgateway.sender", "boss"),
        ("mqtt.correlation-data", "_wA="),
        ("mqtt.payload-format", "1"),
        ("mqtt.response-topic", "user/bob"),
        ("mqtt.retain", "1"),
        ("unit", "°C"),
    )
    one = entry(1, headers=headers, content_type="text/plain", expires_ms=NOW_MS + 1_500)
    (message,) = got(peer.deliver(ME, one), True)
    assert sorted(message.about) == [
        (P.PAYLOAD_FORMAT, 1),
        (P.MESSAGE_EXPIRY, 2),
        (P.CONTENT_TYPE, "text/plain"),
        (P.RESPONSE_TOPIC, "user/bob"),
        (P.CORRELATION, b"\xff\0"),
        (P.USER, ("imgateway.device", "pad")),
        (P.USER, ("imgateway.msg_id", "m1")),
        (P.USER, ("imgateway.sender", "bob")),
        (P.USER, ("unit", "°C")),
    ]
    (message,) = got(peer.deliver(ME, entry(2, device="", headers=(("mqtt.response-topic", "a/+"),))), True)
    assert message.about == [
        (P.USER, ("imgateway.sender", "bob")),
        (P.USER, ("imgateway.msg_id", "m2")),
    ]


def test_what_has_expired_is_passed_over() -> None:
    peer = logged_in()
    old = entry(1, expires_ms=NOW_MS)
    assert peer.deliver(ME, old) == b""
    (one,) = got(peer.deliver(ME, entry(2), old, upto=7))
    assert peer.take(puback(one.packet_id)) == [DeliverAck((Acked(ME, 1, 7),))]


@pytest.mark.parametrize(
    "bad",
    [
        entry(1, b"x" * 200),
        entry(1, headers=(("a", "\0"),)),
        entry(1, headers=(("mqtt.correlation-data", "?"),)),
        entry(1, content_type="x" * 65_536),
        Entry(1, b"\xff"),
    ],
)
def test_unsayable(bad: Entry) -> None:
    peer = logged_in(5, about=[(P.MAXIMUM_PACKET_SIZE, 150)])
    assert peer.deliver(ME, bad) is None
    assert peer.deliver(ME, entry(1), bad) is None
    assert peer.deliver(ROOM, bad) is None
    (one,) = got(peer.deliver(ME, entry(2)), True)
    assert peer.take(puback(one.packet_id)) == [DeliverAck((Acked(ME, 1, 2),))]  # nothing else is waited for


# ------------------------------------------------------------------------------------------------ subscribing


def test_one_answer_for_many() -> None:
    peer = logged_in()
    frames = peer.take(
        subscribe(("user/alice", 2), ("room/7", 1), ("topic/news/today", 2), ("all", 1), ("x", 0))
    )
    assert frames == [Subscribe(ROOM, last=True, acks=False), Subscribe(NEWS, last=True)]
    assert peer.codec.encode(Subscribed(NEWS)) == b""
    assert peer.codec.encode(Subscribed(ROOM)).hex() == "90070009" + "0100010080"
    assert peer.codec.encode(Subscribed(ROOM)) == b""  # the business put it there once more


def test_what_needs_no_asking_is_answered_at_once() -> None:
    peer = logged_in()
    assert peer.take(subscribe(("user/alice", 0))) == [bytes.fromhex("9003000901")]
    peer = logged_in(5)
    filters = ("$share/g/user/alice", 1), ("topic/#", 1), ("+/a", 1), ("topic/" + "x" * 65, 1), ("all", 1)
    (answer,) = peer.take(subscribe(*filters, v5=True))
    assert answer.hex() == "9008000900" + "9ea2a28f00"


def test_refusals() -> None:
    for version, codes in ((4, "8080"), (5, "8797")):
        peer = logged_in(version)
        peer.take(subscribe(("user/bob", 1), ("topic/t", 1), v5=version == 5))
        assert peer.codec.encode(Refused("subscribe", "topic:t", RefusedCode.RATE)) == b""
        answer = peer.codec.encode(Refused("subscribe", "user:bob", RefusedCode.FORBIDDEN))
        assert answer[-2:].hex() == codes
        peer.take(PINGREQ)
        record = Record.read(peer.record)
        assert record is None or record.subscriptions == {}
    assert peer.codec.encode(Refused("seen", "user:bob", 1)) == b""
    peer.take(subscribe(("area/a", 1), v5=True))
    assert peer.codec.encode(Refused("subscribe", "area:a", RefusedCode.NOT_SUPPORTED))[-1] == 0x8F
    peer.take(subscribe(("area/a", 1), v5=True))
    assert peer.codec.encode(Refused("subscribe", "area:a", 77))[-1] == 0x80


@pytest.mark.parametrize("how", ["asked", "restored", "asked and left"])
def test_what_is_refused_leaves_what_was_granted_before_it(how: str) -> None:
    peer = logged_in()
    peer.take(subscribe(("topic/news/today", 1)))
    if how == "restored":
        assert peer.login() == [Subscribe(NEWS)]
    peer.take(subscribe(("topic/news/today", 0)))
    if how == "asked and left":
        peer.take(unsubscribe("topic/news/today"))
    refused = Refused("subscribe", "topic:news%2Ftoday", RefusedCode.FORBIDDEN)
    assert peer.codec.encode(Subscribed(NEWS)) == (b"" if how == "restored" else b"\x90\3\0\x09\1")
    assert peer.codec.encode(refused) == b"\x90\3\0\x09\x80"
    peer.take(PINGREQ)
    record = Record.read(peer.record)
    assert record is not None
    there = {} if how == "asked and left" else {"topic/news/today": Subscription(1)}
    assert record.subscriptions == there


def test_the_same_topic_twice_in_one_packet() -> None:
    peer = logged_in()
    assert len(peer.take(subscribe(("topic/t", 0), ("topic/t", 1)))) == 2
    topic = Address("topic", "t")
    assert peer.codec.encode(Subscribed(topic)) == b""
    assert peer.codec.encode(Subscribed(topic))[-2:].hex() == "0001"


def test_unsubscribing() -> None:
    peer = logged_in()
    peer.take(subscribe(("room/7", 1), ("user/alice", 1)))
    peer.codec.encode(Subscribed(ROOM))
    assert peer.take(unsubscribe("room/7", "user/alice", "x", "room/8")) == [Unsubscribe(ROOM)]
    assert peer.codec.encode(Unsubscribed(ROOM, UnsubscribedCode.ASKED)).hex() == "b0020008"
    peer = logged_in(5)
    assert peer.take(unsubscribe("room/7", v5=True)) == [bytes.fromhex("b00400080011")]
    peer.take(subscribe(("room/7", 1), v5=True))
    peer.codec.encode(Subscribed(ROOM))
    peer.take(unsubscribe("room/7", "a/b", v5=True))
    assert peer.codec.encode(Unsubscribed(ROOM, 0)).hex() == "b0050008000011"


def test_late_acks_of_what_was_unsubscribed_from() -> None:
    peer = logged_in(5, about=[(P.RECEIVE_MAXIMUM, 2)])
    peer.take(subscribe(("topic/news/today", 1), v5=True))
    peer.codec.encode(Subscribed(NEWS))
    (one,) = got(peer.deliver(NEWS, entry(1)), True)
    (two,) = got(peer.deliver(NEWS, entry(2)), True)
    items = peer.take(puback(one.packet_id) + unsubscribe("topic/news/today", v5=True))
    assert items == [DeliverAck((Acked(NEWS, 1, 1),)), Unsubscribe(NEWS)]
    assert peer.codec.window == 1
    assert peer.codec.encode(Unsubscribed(NEWS, 0))
    (three,) = got(peer.deliver(ME, entry(3)), True)
    peer.take(subscribe(("topic/news/today", 1), v5=True))
    peer.codec.encode(Subscribed(NEWS))
    # Of one log there is no word for it, but of the window.
    assert peer.take(PINGREQ + puback(two.packet_id)) == [b"\xd0\x00", DeliverAck(())]
    assert peer.codec.window == 2
    assert peer.take(puback(two.packet_id)) == []
    assert peer.take(puback(three.packet_id)) == [DeliverAck((Acked(ME, 1, 3),))]


def test_a_window_without_room_is_not_one_without_limit() -> None:
    peer = logged_in(5, about=[(P.RECEIVE_MAXIMUM, 1)])
    peer.take(subscribe(("topic/news/today", 1), v5=True))
    peer.codec.encode(Subscribed(NEWS))
    peer.deliver(NEWS, entry(1))
    peer.take(unsubscribe("topic/news/today", v5=True))
    assert peer.codec.window == -1


@pytest.mark.parametrize(("first", "then"), [(0, 1), (1, 0), (1, None), (0, None)])
def test_a_packet_of_many_topics_changes_each_in_its_turn(first: int, then: int | None) -> None:
    """What the core sends before it has heard of a change comes as it was agreed before."""
    peer = logged_in(5)
    names = ("topic/a", "topic/b", "topic/b", "topic/b")
    peer.take(subscribe(*[(name, first) for name in names[:2]], v5=True))
    for name in "ab":
        peer.codec.encode(Subscribed(Address("topic", name)))
    other = Address("topic", "b")
    if then is None:
        chunk = peer.codec.receive(unsubscribe(*names[:2], v5=True))
        kinds = [first]
    else:
        hows = (then, then, first, then)
        chunk = peer.codec.receive(subscribe(*zip(names, hows, strict=True), v5=True))
        kinds = [first, *hows[1:]]
    seen = []
    for item in chunk:
        if isinstance(item, Subscribe | Unsubscribe):
            if item.address == other and isinstance(item, Unsubscribe):
                break
            (one,) = got(peer.deliver(other, entry(1)), True)
            seen.append(one.qos)
    assert seen == kinds
    list(chunk)
    (one,) = got(peer.deliver(other, entry(2)), True)
    assert one.qos == (1 if then is None else then)  # unasked


@pytest.mark.parametrize(
    "bad",
    [
        packet(0x82, b"\0\1"),
        packet(0x82, b"\0\0", b"\0\1a\1"),
        subscribe(("", 1)),
        subscribe(("user/alice", 3)),
        subscribe(("user/alice", 4)),  # an option of MQTT 5
        packet(0x82, b"\0\1\0\1a"),
        packet(0xA2, b"\0\1"),
        unsubscribe(""),
    ],
)
def test_what_is_no_subscription(bad: bytes) -> None:
    with pytest.raises(BadFrame):
        logged_in().take(bad)


@pytest.mark.parametrize("how", [3, 0x30, 0x40, 0x80])
def test_options_that_no_subscription_has(how: int) -> None:
    with pytest.raises(BadFrame):
        logged_in(5).take(subscribe(("user/alice", how), v5=True))


# --------------------------------------------------------------------------------------- what is delivered


def test_qos_is_what_was_granted() -> None:
    peer = logged_in()
    assert peer.take(subscribe(("topic/news/today", 0))) == [Subscribe(NEWS, last=True, acks=False)]
    peer.codec.encode(Subscribed(NEWS))
    (one,) = got(peer.deliver(NEWS, entry(1)))
    assert (one.topic, one.qos) == ("topic/news/today", 0)
    assert [m.qos for m in got(peer.deliver(ROOM, entry(1)))] == [0]
    (one,) = got(peer.deliver(EVERYONE, entry(1)))
    assert (one.topic, one.qos) == ("all", 0)


def test_retained() -> None:
    peer = logged_in(5)
    peer.take(subscribe(("topic/news/today", 1), v5=True))
    peer.codec.encode(Subscribed(NEWS, position=6, head=7, anew=True))
    old, new = got(peer.deliver(NEWS, entry(7), entry(8)), True)
    assert (old.retain, new.retain) == (True, False)
    for how in (0x21, 0x11, 0x01):  # there is a subscription already
        assert peer.take(subscribe(("topic/news/today", how), v5=True)) == [Subscribe(NEWS)]
        peer.codec.encode(Subscribed(NEWS, position=8, head=8))
    assert peer.take(subscribe(("room/7", 0x10), v5=True)) == [Subscribe(ROOM, last=True, acks=False)]
    assert peer.take(subscribe(("topic/a", 0x20), v5=True)) == [Subscribe(Address("topic", "a"), acks=False)]
    # An empty body takes a retained message back; who is subscribed sees it as any other.
    peer.codec.encode(Subscribed(ROOM, position=3, head=4, anew=True))
    assert peer.deliver(ROOM, entry(4, b"")) == b""
    assert [m.body for m in got(peer.deliver(ROOM, entry(5, b"")), True)] == [b""]


def test_what_it_missed_is_no_retained_message() -> None:
    peer = logged_in(5)
    asked = peer.take(subscribe(("topic/news/today", 1), ("room/7", 0), v5=True))
    assert asked == [Subscribe(NEWS, last=True), Subscribe(ROOM, last=True, acks=False)]
    for address in (NEWS, ROOM):
        peer.codec.encode(Subscribed(address, position=6, head=7))
        (missed,) = got(peer.deliver(address, entry(7, b"")), True)
        assert not missed.retain


def test_the_retained_message_is_that_of_the_newest_subscription() -> None:
    peer = logged_in(5)
    both = unsubscribe("topic/news/today", v5=True), subscribe(("topic/news/today", 1), v5=True)
    peer.take(both[1] + both[0] + both[1])
    peer.codec.encode(Subscribed(NEWS, position=6, head=7, anew=True))
    peer.codec.encode(Unsubscribed(NEWS, UnsubscribedCode.ASKED))
    peer.codec.encode(Subscribed(NEWS, position=7, head=8, anew=True))
    assert [one.retain for one in got(peer.deliver(NEWS, entry(8), entry(9)), True)] == [True, False]


def test_retain_as_published() -> None:
    peer = logged_in(5)
    peer.take(subscribe(("room/7", 0x28), ("topic/news/today", 0x29), v5=True))
    flagged = entry(1, headers=(("mqtt.retain", "1"),))
    assert [m.retain for m in got(peer.deliver(ROOM, flagged, entry(2)), True)] == [True, False]
    assert [m.retain for m in got(peer.deliver(NEWS, flagged, entry(2)), True)] == [True, False]
    other = logged_in(5)
    assert [m.retain for m in got(other.deliver(ROOM, flagged), True)] == [False]


def test_no_local() -> None:
    peer = logged_in(5)
    peer.take(subscribe(("room/7", 4), v5=True))
    mine, others = entry(1, sender="alice", device="phone"), entry(2, sender="alice", device="pad")
    assert len(got(peer.deliver(ROOM, mine, others), True)) == 1
    assert peer.deliver(ROOM, mine) == b""


def test_subscription_ids() -> None:
    peer = logged_in(5)
    peer.take(subscribe(("room/7", 0), ("user/alice", 1), v5=True, ident=300))
    for address in (ROOM, ME):
        (one,) = got(peer.deliver(address, entry(1)), True)
        assert (P.SUBSCRIPTION_ID, 300) in one.about


def test_many_get_the_same_object_unless_it_expires() -> None:
    peers = [logged_in(), logged_in(), logged_in(5), logged_in(5)]
    one = entry(1)
    said = [peer.deliver(ROOM, one) for peer in peers]
    assert said[0] is said[1]
    assert said[2] is said[3]
    until = entry(2, expires_ms=NOW_MS + 10_000)
    assert (P.MESSAGE_EXPIRY, 10) in got(peers[2].deliver(ROOM, until), True)[0].about


def test_what_many_get_may_begin_before_where_one_is() -> None:
    peer = logged_in()
    peer.take(subscribe(("room/7", 1)))
    peer.codec.encode(Subscribed(ROOM, epoch=1, position=2, head=3, anew=True))
    first = got(peer.deliver(ROOM, *[entry(seq, b"%d" % seq) for seq in range(1, 5)]))
    assert [(m.body, m.retain) for m in first] == [(b"3", True), (b"4", False)]
    assert peer.deliver(ROOM, entry(3), entry(4)) == b""
    assert len(got(peer.deliver(ROOM, entry(5)))) == 1
    assert len(got(peer.deliver(ROOM, entry(1), epoch=2))) == 1  # another ring
    assert len(got(peer.deliver(ROOM, entry(0), upto=0))) == 1


def test_what_it_cannot_be_told() -> None:
    peer = logged_in()
    assert peer.codec.encode(Notify(())) == b""
    assert peer.deliver(ME, upto=9) == b""


# ----------------------------------------------------------------------------------------- what is remembered


def test_subscriptions_are_made_again() -> None:
    peer = logged_in()
    peer.take(subscribe(("user/alice", 1), ("room/7", 1), ("topic/news/today", 0)))
    for address in (NEWS, ROOM):
        peer.codec.encode(Subscribed(address, position=3, head=9))
    frames = peer.login()
    assert frames == [Subscribe(ROOM, acks=False), Subscribe(NEWS, acks=False)]
    assert peer.codec.encode(Subscribed(ROOM, position=3, head=9)) == b""  # the client did not ask
    assert peer.codec.encode(Subscribed(NEWS)) == b""
    (one,) = got(peer.deliver(NEWS, entry(9)))
    assert (one.qos, one.retain) == (0, False)  # what it missed is no retained message
    assert peer.take(subscribe(("topic/news/today", 1))) == [Subscribe(NEWS)]
    assert peer.codec.encode(Subscribed(NEWS)) != b""
    peer.codec.encode(Refused("subscribe", "room:7", RefusedCode.FORBIDDEN))
    peer.take(PINGREQ)
    assert peer.login() == [Subscribe(NEWS)]


def test_one_that_cannot_be_made_again_just_now_is_asked_for_later() -> None:
    """The client was told that its session is there: it will not ask."""
    peer = logged_in()
    peer.take(subscribe(("room/7", 1), ("topic/news/today", 1), ("topic/a", 1)))
    again = peer.login()
    assert len(again) == 3
    assert peer.connack[2] == 1
    assert not peer.codec.puts_off()
    for name in ("room:7", "topic:news%2Ftoday", "topic:a"):
        assert peer.codec.encode(Refused("subscribe", name, RefusedCode.UNAVAILABLE)) == b""
    assert peer.codec.puts_off()
    peer.take(unsubscribe("topic/a"))
    peer.codec.encode(Unsubscribed(Address("topic", "a"), UnsubscribedCode.ASKED))
    assert peer.take(PINGREQ) == [b"\xd0\x00"]
    assert peer.retry() == [Subscribe(ROOM, acks=False), Subscribe(NEWS)]
    assert not peer.codec.puts_off()
    assert peer.codec.encode(Subscribed(ROOM)) == b""
    assert peer.codec.encode(Refused("subscribe", "topic:news%2Ftoday", RefusedCode.RATE)) == b""
    assert peer.retry() == [Subscribe(NEWS)]
    assert peer.codec.encode(Refused("subscribe", "topic:news%2Ftoday", RefusedCode.FORBIDDEN)) == b""
    assert peer.retry() == [Unsubscribe(NEWS)], "and so it holds back nothing there"
    assert peer.codec.encode(Unsubscribed(NEWS, UnsubscribedCode.ASKED)) == b""
    assert peer.retry() == []
    assert peer.login() == [Subscribe(ROOM, acks=False)]
    assert peer.codec.encode(Refused("subscribe", "room:7", RefusedCode.FORBIDDEN)) == b""
    assert peer.retry() == []
    assert peer.login() == [], "nor is it in the next connection"
    # Who asks itself is told, and may ask again.
    peer.take(subscribe(("room/8", 1)))
    said = peer.codec.encode(Refused("subscribe", "room:8", RefusedCode.UNAVAILABLE))
    assert said.hex() == "9003000980"
    assert not peer.codec.puts_off()


def test_who_cannot_have_one_just_now_does_not_ask_for_all() -> None:
    peer = logged_in()
    peer.take(subscribe(*[(f"topic/{name}", 1) for name in "abcd"]))
    again = peer.login()
    refused = [Refused("subscribe", f"topic:{name}", RefusedCode.UNAVAILABLE) for name in "abcd"]
    for one in refused:
        peer.codec.encode(one)
    for turn in (0, 1):
        asking = peer.codec.retry()
        assert next(asking) == again[turn]
        peer.codec.encode(refused[turn])
        assert list(asking) == [], "the others will not fare better"
    asking = peer.codec.retry()
    assert next(asking) == again[2]
    peer.codec.encode(Subscribed(again[2].address))
    assert next(asking) == again[3]
    peer.codec.encode(Refused("subscribe", "topic:d", RefusedCode.RATE))
    peer.take(unsubscribe("topic/a"))
    peer.codec.encode(Unsubscribed(again[0].address, UnsubscribedCode.ASKED))
    peer.take(PINGREQ)
    assert list(asking) == [again[1]], "what is refused for a reason of its own says nothing of the others"
    peer.codec.encode(Subscribed(again[1].address))
    assert peer.retry() == [again[3]]


def test_to_unsubscribe_may_be_refused() -> None:
    peer = logged_in(5, about=[(P.SESSION_EXPIRY, 3_600)])
    peer.take(subscribe(("topic/news/today", 1), v5=True))
    peer.codec.encode(Subscribed(NEWS))
    peer.take(unsubscribe("topic/news/today", v5=True))
    peer.take(subscribe(("topic/news/today", 1), v5=True))
    refused = Refused("unsubscribe", "topic:news%2Ftoday", RefusedCode.UNAVAILABLE)
    assert peer.codec.encode(refused).hex() == "b00400080080"
    assert peer.codec.encode(Subscribed(NEWS)) is not None
    peer.take(PINGREQ)
    record = Record.read(peer.record)
    assert record is not None
    assert set(record.subscriptions) == {"topic/news/today"}, "what came later stays"


def test_what_it_unsubscribed_from_is_left_in_the_next_connection_if_it_was_not_in_this() -> None:
    peer = logged_in()
    peer.take(subscribe(("room/7", 1), ("topic/news/today", 1), ("topic/a", 1)))
    first, *asked = peer.take(unsubscribe("topic/news/today", "topic/a", "room/7"))
    assert (first, asked) == (Unsubscribe(ROOM), [Unsubscribe(NEWS), Unsubscribe(Address("topic", "a"))])
    old = peer.record
    assert peer.login() == asked[:2], "in rooms nothing is held back"
    assert peer.connack[2] == 1
    assert peer.codec.encode(Unsubscribed(NEWS, UnsubscribedCode.ASKED)) == b"", "the client did not ask"
    peer.take(PINGREQ)
    assert peer.login() == asked[1:2]
    peer.codec.encode(Unsubscribed(asked[1].address, UnsubscribedCode.ASKED))
    peer.take(PINGREQ)
    assert peer.login() == []
    for clean in (False, True):
        peer.record = old
        assert peer.login(clean=clean) == asked[:2]
        assert peer.codec.undoes(old) == ([NEWS, asked[1].address] if clean else [])


def test_what_a_clean_start_cannot_leave_just_now_is_left_later() -> None:
    peer = logged_in()
    peer.take(subscribe(("topic/news/today", 1)))
    refused = Refused("unsubscribe", "topic:news%2Ftoday", RefusedCode.UNAVAILABLE)
    assert peer.login(clean=True) == [Unsubscribe(NEWS)]
    assert peer.codec.encode(refused) == b""
    assert peer.retry() == [Unsubscribe(NEWS)]
    assert peer.login(clean=True) == [Unsubscribe(NEWS)], "also by the next one"
    peer.codec.encode(Unsubscribed(NEWS, UnsubscribedCode.ASKED))
    peer.take(PINGREQ)
    assert peer.login(clean=True) == []


def test_what_it_unsubscribed_from_and_subscribed_to_anew_is_not_left() -> None:
    peer = logged_in(5, about=[(P.SESSION_EXPIRY, 3_600)])
    more: dict[str, Any] = {"about": [(P.SESSION_EXPIRY, 3_600)]}
    peer.take(subscribe(("topic/news/today", 1), v5=True))
    peer.codec.encode(Subscribed(NEWS))
    both = unsubscribe("topic/news/today", v5=True), subscribe(("topic/news/today", 0x21), v5=True)
    asked = [item for data in both for item in peer.take(data)]
    assert asked == [Unsubscribe(NEWS), Subscribe(NEWS)]
    assert peer.login(5, **more) == [Subscribe(NEWS)]
    peer.codec.encode(Subscribed(NEWS))
    peer.take(both[0] + both[1] + both[0])
    peer.codec.encode(Unsubscribed(NEWS, UnsubscribedCode.ASKED))
    peer.codec.encode(Subscribed(NEWS))
    peer.take(PINGREQ)
    assert peer.login(5, **more) == [Unsubscribe(NEWS)], "the last of the three has no answer"
    peer.take(both[1])
    peer.codec.encode(Unsubscribed(NEWS, UnsubscribedCode.ASKED))
    assert peer.codec.encode(Subscribed(NEWS)) != b""
    peer.take(PINGREQ)
    assert peer.login(5, **more) == [Subscribe(NEWS)]


def test_what_cannot_be_left_just_now_is_left_later() -> None:
    peer = logged_in(5, about=[(P.SESSION_EXPIRY, 3_600)])
    peer.take(subscribe(("topic/news/today", 1), ("topic/a", 1), v5=True))
    for address in (NEWS, Address("topic", "a")):
        peer.codec.encode(Subscribed(address))
    peer.take(unsubscribe("topic/news/today", "topic/a", v5=True))
    busy = [
        Refused("unsubscribe", f"topic:{name}", RefusedCode.UNAVAILABLE) for name in ("news%2Ftoday", "a")
    ]
    for one in busy:
        peer.codec.encode(one)
    assert peer.codec.puts_off()
    asking = peer.codec.retry()
    assert next(asking) == Unsubscribe(NEWS)
    assert peer.codec.encode(busy[0]) == b"", "who asked is answered already"
    assert list(asking) == [], "the other will not fare better"
    assert peer.take(unsubscribe("topic/news/today", v5=True)) == [Unsubscribe(NEWS)], "it may repeat it"
    assert peer.codec.encode(Unsubscribed(NEWS, UnsubscribedCode.ASKED)).hex() == "b00400080000"
    assert peer.retry() == [Unsubscribe(Address("topic", "a"))]
    peer.codec.encode(Unsubscribed(Address("topic", "a"), UnsubscribedCode.ASKED))
    assert not peer.codec.puts_off()
    assert peer.take(unsubscribe("topic/a", v5=True)) == [bytes.fromhex("b00400080011")]


def test_a_clean_start_undoes_them() -> None:
    peer = logged_in()
    peer.take(subscribe(("user/alice", 1), ("room/7", 1), ("topic/news/today", 1)))
    old = peer.record
    assert peer.login(clean=True) == [Unsubscribe(ROOM), Unsubscribe(NEWS)]
    assert peer.codec.undoes(old) == [NEWS], "its client was told"
    assert peer.codec.undoes(peer.record) == [NEWS], "it is not done yet"
    for address in (ROOM, NEWS):
        assert peer.codec.encode(Unsubscribed(address, 0)) == b""
    peer.take(PINGREQ)
    assert peer.record == b""
    (one,) = got(peer.deliver(ME, entry(1)))
    assert one.qos == 1


def test_that_a_session_is_over_is_written_down_before_it_is_undone() -> None:
    peer = logged_in()
    peer.take(subscribe(("room/7", 1), ("topic/news/today", 1)))
    peer.begun()
    list(peer.codec.receive(connect(clean=True)))
    first, *asked, last = peer.codec.restore(peer.record)
    assert asked == [Unsubscribe(ROOM), Unsubscribe(NEWS)]
    assert first.before_welcome, "the client is told so"
    for kept, left in ((first, asked), (last, asked[1:])):
        peer.record = kept.data  # it ended here: the next one undoes it, and does not go on with it
        assert peer.login() == left
        assert peer.connack.hex() == "20020000"
    peer = logged_in()
    peer.begun()
    list(peer.codec.receive(connect(clean=True)))
    first, last = peer.codec.restore(peer.record)
    assert (first.before_welcome, last) == (True, Keep(b"", relied_on=False)), "there is nothing to undo"
    peer.record = first.data
    assert peer.login() == []
    assert peer.connack.hex() == "20020000"


def test_what_a_session_that_is_not_kept_has_subscribed_to_is_undone() -> None:
    peer = logged_in(clean=True)
    peer.take(subscribe(("topic/news/today", 1)))
    assert peer.login() == [Unsubscribe(NEWS)]
    assert peer.connack.hex() == "20020000"
    peer = logged_in(5)  # neither clean nor kept
    peer.take(subscribe(("topic/news/today", 1), v5=True))
    assert peer.login(5) == [Unsubscribe(NEWS)]


def test_what_is_to_be_undone_is_known_before_the_next_session() -> None:
    peer = logged_in(clean=True)
    peer.take(subscribe(("user/alice", 1), ("room/7", 1), ("topic/news/today", 1)))
    record = peer.record
    peer.login()
    for clean in (False, True):
        peer.begun()
        list(peer.codec.receive(connect(clean=clean)))
        assert peer.codec.undoes(record) == [NEWS], "in rooms nothing is held back"
        assert peer.codec.undoes(peer.record) == [], "a session that is kept is undone by who is welcome"
        assert peer.codec.undoes(b"of another version") == []


def test_unsubscribing_is_remembered_and_so_is_being_taken_out() -> None:
    peer = logged_in()
    peer.take(subscribe(("room/7", 1), ("room/8", 1), ("room/9", 1)))
    peer.take(unsubscribe("room/7"))
    peer.codec.encode(Unsubscribed(Address("room", "8"), UnsubscribedCode.REMOVED))
    peer.take(PINGREQ)
    assert peer.login() == [Subscribe(Address("room", "9"), acks=False)]


def test_who_was_taken_out_of_a_room_is_told_so_when_it_asks() -> None:
    peer = logged_in(5)
    peer.take(subscribe(("room/7", 1), v5=True))
    assert peer.codec.encode(Unsubscribed(ROOM, UnsubscribedCode.REMOVED)).hex() == "900400090087"
    assert peer.codec.encode(Unsubscribed(ROOM, UnsubscribedCode.REMOVED)) == b""


def test_expiry() -> None:
    peer = Peer()
    more: dict[str, Any] = {"about": [(P.SESSION_EXPIRY, 3_600)]}
    peer.login(5, **more)
    peer.take(subscribe(("room/7", 1), v5=True))
    peer.clock.now_ms += 3_600_000 + 899_000
    assert len(peer.login(5, **more)) == 1
    for _ in range(5):  # pings say that the connection lives
        peer.clock.now_ms += 901_000
        assert peer.take(PINGREQ) == [b"\xd0\x00"]
    peer.clock.now_ms += 3_600_000
    assert peer.login(5, **more) == [Subscribe(ROOM, acks=False)]
    peer.clock.now_ms += 3_600_000 + 901_000
    assert peer.login(5, **more) == [Unsubscribe(ROOM)]
    assert peer.connack[2] == 0


@pytest.mark.parametrize("what", ["listens", "publishes", "publishes at QoS 0", "all in one chunk"])
def test_who_never_pings_lives_as_well(what: str) -> None:
    """Clients ping only when they have nothing else to say."""
    peer = Peer()
    more: dict[str, Any] = {"about": [(P.SESSION_EXPIRY, 3_600)]}
    peer.login(5, **more)
    peer.take(subscribe(("room/7", 1), v5=True))
    for seq in range(1, 100):
        peer.clock.now_ms += 60_000
        (one,) = got(peer.deliver(ME, entry(seq)), True)
        if what == "listens":
            assert peer.take(puback(one.packet_id)) == [DeliverAck((Acked(ME, 1, seq),))]
        elif what == "publishes":
            assert len(peer.take(publish("user/bob", b"x", 1 + seq % 9, about=()))) == 1
        elif what == "publishes at QoS 0":
            assert len(peer.take(publish("user/bob", b"x", qos=0, about=()))) == 1
        else:
            assert len(peer.take(puback(one.packet_id) + publish("user/bob", b"x", qos=0, about=()))) == 2
    peer.clock.now_ms += 3_500_000
    assert peer.login(5, **more) == [Subscribe(ROOM, acks=False)]


def test_disconnect_may_change_the_expiry() -> None:
    peer = Peer()
    more: dict[str, Any] = {"about": [(P.SESSION_EXPIRY, 3_600)]}
    peer.login(5, **more)
    peer.take(subscribe(("room/7", 1), v5=True))
    peer.take(packet(0xE0, b"\0\5\x11\0\0\0\0"))
    assert peer.login(5, **more) == [Unsubscribe(ROOM)]
    peer.take(packet(0xE0, b"\0\5\x11\xff\xff\xff\xff"))
    peer.clock.now_ms += 10**12
    peer.login(5, **more)
    assert peer.connack[2] == 1


def test_how_often_it_is_written() -> None:
    peer = logged_in()
    before = peer.record
    assert len(list(peer.codec.receive(PINGREQ + DISCONNECT))) == 2
    peer.clock.now_ms += 10**10
    peer.begun()
    peer.login()
    assert peer.record == before  # a session that is kept for ever is the same as before
    assert not any(isinstance(one, Publish) for one in peer.take(PINGREQ))
    ephemeral = logged_in(clean=True)
    ephemeral.take(DISCONNECT)
    assert ephemeral.record == b""


def test_records_of_others() -> None:
    assert Record.read(b"") is None
    assert Record.read(b"\xff\xff") is None
    assert Record.read(Record(version=2).written()) is None
    record = Record(1, FOREVER, 7, "m", ((1, 2, 3),), {"room/7": Subscription(1, True, True, 9)})
    assert Record.read(record.written()) == record
    peer = Peer()
    peer.record = b"garbage"
    assert peer.login() == []
    assert peer.connack.hex() == "20020000"


def test_publish_after_being_restored() -> None:
    peer = logged_in()
    (first,) = peer.take(publish("user/bob", b"x", 1))
    peer.take(subscribe(("room/7", 1)))
    peer.login()
    (again,) = peer.take(publish("user/bob", b"x", 1, dup=True))
    assert again.msg_id == first.msg_id


def test_packet_ids_of_what_was_unsubscribed_from_are_not_used_up() -> None:
    peer = logged_in(5)

    def again_and_again() -> None:
        for _ in range(70_000):
            peer.take(subscribe(("topic/news/today", 1), v5=True))
            peer.codec.encode(Subscribed(NEWS, 0, 1, 0))
            assert peer.deliver(NEWS, entry(1))
            peer.take(unsubscribe("topic/news/today", v5=True))
            peer.codec.encode(Unsubscribed(NEWS, UnsubscribedCode.ASKED))

    with pytest.raises(BadFrame, match="acknowledged"):
        again_and_again()
    assert peer.codec.encode(Bye(CloseCode.BAD_FRAME)) == b"\xe0\x02\x97\0"


def test_packet_ids_of_what_was_unsubscribed_from_come_free_with_their_acks() -> None:
    peer = logged_in(5)
    for number in range(1, 5_000):
        peer.take(subscribe(("topic/news/today", 1), v5=True))
        peer.codec.encode(Subscribed(NEWS, 0, 1, 0))
        assert peer.deliver(NEWS, entry(1))
        peer.take(unsubscribe("topic/news/today", v5=True))
        peer.codec.encode(Unsubscribed(NEWS, UnsubscribedCode.ASKED))
        assert peer.take(puback(number)) == [DeliverAck(())]


def test_more_topics_than_a_session_may_have_are_refused_before_they_are_remembered() -> None:
    peer = logged_in(5)
    names = [f"topic/{number}" for number in range(2_000)]
    taken = peer.take(subscribe(*[(name, 0) for name in names], v5=True))
    assert 0 < len(taken) < 2_000
    answers = [peer.codec.encode(Subscribed(one.address, 0, 1, 0)) for one in taken]
    codes = answers[-1][-2_000:]
    assert codes == b"\0" * len(taken) + b"\x97" * (2_000 - len(taken))
    record = Record.read(peer.record)
    assert record is not None
    assert len(record.subscriptions) == len(taken)
    # What is there already may be said again.
    assert len(peer.take(subscribe(("topic/1", 0), v5=True))) == 1


def test_who_has_left_more_than_the_core_has_taken_away_gets_no_more() -> None:
    peer = logged_in(5)
    names = [f"topic/{number}" for number in range(1_400)]
    for some in (names[:700], names[700:]):
        for one in peer.take(subscribe(*[(name, 0) for name in some], v5=True)):
            peer.codec.encode(Subscribed(one.address, 0, 1, 0))
        left = peer.take(unsubscribe(*some, v5=True))
        assert len(left) == 700
    assert peer.take(subscribe(("topic/a", 0), v5=True)) == [bytes.fromhex("900400090097")]
    for one in left[:400]:
        peer.codec.encode(Unsubscribed(one.address, UnsubscribedCode.ASKED))
    assert len(peer.take(subscribe(("topic/a", 0), v5=True))) == 1


def test_an_expiry_longer_than_mqtt_can_say() -> None:
    peer = logged_in(5)
    data = peer.deliver(ME, entry(1, expires_ms=NOW_MS + 10**14))
    assert b"\x02\xff\xff\xff\xff" in (data or b"")


def test_rooms_that_were_left_take_nothing() -> None:
    peer = logged_in()
    for number in range(50):
        name = f"room/{number}"
        room = Address("room", str(number))
        peer.take(subscribe((name, 0)))
        for lane in (0, 1):
            peer.codec.encode(Subscribed(room, 0, 1, 5, lane=lane, position=5))
        peer.take(unsubscribe(name))
        peer.codec.encode(Unsubscribed(room, UnsubscribedCode.ASKED))
    assert not peer.codec._outbox._shown


@pytest.mark.parametrize(
    "chunk",
    [
        puback(1) + b"\x62\x02\x00\x02" + puback(2),  # PUBREL
        puback(1) + b"\x40\x03\x00\x02\x40" + b"\x40\x02\x00\x40" + b"\x40\x02\x00",
        puback(1) + b"\x40\x02\x00",
        puback(1) + b"\xc0\x00" + b"\xc0\x00",
    ],
)
def test_what_only_begins_like_pubacks(chunk: bytes) -> None:
    """In one piece it is what it is byte by byte."""
    results = []
    for pieces in ([chunk], [chunk[at : at + 1] for at in range(len(chunk))]):
        peer = logged_in(5)
        for seq in range(1, 71):
            peer.deliver(ME, entry(seq))
        taken = [item for piece in pieces for item in peer.take(piece)]
        upto = max(ack.upto for item in taken if isinstance(item, DeliverAck) for ack in item.acks)
        results.append(
            (
                upto,
                [item for item in taken if isinstance(item, bytes)],
                sorted(peer.codec._outbox._flights),
                peer.codec._splitter.held_bytes,
            )
        )
    assert results[0] == results[1]
