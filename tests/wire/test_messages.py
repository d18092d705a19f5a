"""The hand-written encodings against protobuf's own, to the byte."""

from __future__ import annotations

import pytest
from hypothesis import given

from imgateway.errors import BadFrame
from imgateway.frames import Address, Deliver, Entry, Message, Outcome, PublishAck, address_text
from imgateway.wire import imgateway_pb2 as pb
from imgateway.wire.messages import decode_message, deliver_frame, encode_message, publish_ack_frame
from tests.strategies import delivers, messages, publish_acks


def proto_message(message: Message) -> pb.Message:
    return pb.Message(
        msg_id=message.msg_id,
        sender=message.sender,
        device=message.device,
        content_type=message.content_type,
        body=message.body,
        sent_ms=message.sent_ms,
        expires_ms=message.expires_ms,
        headers=dict(message.headers),
        to=[address_text(address) for address in message.to],
    )


@given(messages)
def test_a_message_is_what_protobuf_writes(message: Message) -> None:
    data = encode_message(message)
    assert pb.Message.FromString(data) == proto_message(message)
    if len(message.headers) < 2:  # each implementation of protobuf has its own order of map entries
        assert data == proto_message(message).SerializeToString()


@given(messages)
def test_a_message_comes_back(message: Message) -> None:
    assert decode_message(encode_message(message)) == message
    assert decode_message(proto_message(message).SerializeToString()) == message


def test_an_empty_message() -> None:
    assert encode_message(Message("", "", "")) == b""
    assert decode_message(b"") == Message("", "", "")


def test_headers_are_sorted_and_the_last_of_equal_names_counts() -> None:
    message = Message("m", "a", "d", headers=(("b", "1"), ("a", "2"), ("b", "3"), ("", "")))
    assert decode_message(encode_message(message)).headers == (("", ""), ("a", "2"), ("b", "3"))


def test_a_long_content_type_is_right_too() -> None:
    message = Message("m", "a", "d", "text/plain; " + "x" * 300)
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Message("\ud800", "a", "d"),
        Message("m", "\ud800", "d"),
        Message("m", "a", "d", headers=(("n", "\udfff"),)),
        Message("m", "a", "d", sent_ms=-1),
        Message("m", "a", "d", expires_ms=2**64),
    ],
)
def test_what_no_message_can_hold(message: Message) -> None:
    with pytest.raises(ValueError):
        encode_message(message)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x0a\x05ab",  # cut off
        b"\x0a\x02\xff\xfe",  # a msg_id that is no UTF-8
        b"\x4a\x05nouse",  # to: no address
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_message(data)


@given(delivers)
def test_a_deliver_is_what_protobuf_writes(deliver: Deliver) -> None:
    proto = pb.Frame(
        deliver=pb.Deliver(
            address=address_text(deliver.address),
            lane=deliver.lane,
            epoch=deliver.epoch,
            after=deliver.after,
            upto=deliver.upto,
            entries=[
                pb.Entry(seq=entry.seq, message=pb.Message.FromString(entry.message))
                for entry in deliver.entries
            ],
            gap=deliver.gap,
            head=deliver.head,
            pulled=deliver.pulled,
        )
    )
    assert pb.Frame.FromString(deliver_frame(deliver)) == proto
    assert len(deliver_frame(deliver)) == proto.ByteSize()


@given(publish_acks)
def test_a_publish_ack_is_what_protobuf_writes(ack: PublishAck) -> None:
    proto = pb.Frame(
        publish_ack=pb.PublishAck(
            msg_id=ack.msg_id,
            outcomes=[pb.Outcome(code=o.code, epoch=o.epoch, seq=o.seq) for o in ack.outcomes],
        )
    )
    assert publish_ack_frame(ack.msg_id, ack.outcomes) == proto.SerializeToString()


def test_empty_ones() -> None:
    assert publish_ack_frame("", ()) == pb.Frame(publish_ack=pb.PublishAck()).SerializeToString()
    nothing = Deliver(Address("all"), 0, 0, 0, 0, ())
    assert deliver_frame(nothing) == pb.Frame(deliver=pb.Deliver(address="all")).SerializeToString()


def test_large_entries() -> None:
    entries = tuple(
        Entry(seq, encode_message(Message(f"m{seq}", "a", "d", "", b"x" * 70_000))) for seq in (1, 2)
    )
    proto = pb.Frame.FromString(deliver_frame(Deliver(Address("user", "b"), 0, 1, 0, 2, entries)))
    assert [len(entry.message.body) for entry in proto.deliver.entries] == [70_000, 70_000]


# What stands in databases and on wires does not change by accident.

STORED = Message(
    "m1",
    "alice",
    "phone",
    "text/plain",
    b"hi",
    1_700_000_000_000,
    5,
    (("k", "v"),),
    (Address("user", "b/c"),),
)
GOLDEN = (
    b"\x0a\x02m1\x12\x05alice\x1a\x05phone\x22\x0atext/plain\x2a\x02hi\x30\x80\xd0\x95\xff\xbc1\x38\x05"
    b"\x42\x06\x0a\x01k\x12\x01v\x4a\x0auser:b%2Fc"
)


def test_golden_message() -> None:
    assert encode_message(STORED) == GOLDEN
    assert decode_message(GOLDEN) == STORED


def test_golden_deliver() -> None:
    deliver = Deliver(Address("room", "7"), 1, 300, 1, 2, (Entry(2, b"\x0a\x01m"),), True, 9)
    assert deliver_frame(deliver) == (
        b"\x1a\x1e\x0a\x06room:7\x10\x01\x18\xac\x02\x20\x01\x28\x02\x32\x07\x08\x02\x12\x03\x0a\x01m"
        b"\x38\x01\x40\x09"
    )
    answer = Deliver(Address("all"), 0, 0, 0, 0, (), pulled=True)
    assert deliver_frame(answer) == b"\x1a\x07\x0a\x03all\x58\x01"


def test_golden_publish_ack() -> None:
    ack = publish_ack_frame("m1", (Outcome(0, 300, 7), Outcome(2)))
    assert ack == b"\x12\x0f\x0a\x02m1\x12\x05\x10\x07\x18\xac\x02\x12\x02\x08\x02"
