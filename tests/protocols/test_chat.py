"""The netty-chat wire: what its clients send, what they are sent, and what they cannot be sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json
from twisted.plugin import IPlugin, getPlugins
from zope.interface.verify import verifyObject

from imgateway.errors import BadFrame, CloseCode, FrameTooLarge, ProtocolError, UnexpectedFrame
from imgateway.frames import (
    Address,
    Bye,
    Deliver,
    Entry,
    Frame,
    Hello,
    Limits,
    Message,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Welcome,
    parse_address,
)
from imgateway.interfaces import ICodec, IProtocolAdapter, Traits
from imgateway.protocols.chat import MAX_GROUP, ChatAdapter
from imgateway.wire import chat_pb2 as pb
from imgateway.wire.framing import Splitter
from imgateway.wire.messages import encode_message
from tests.strategies import chunks, frames, messages

MAX = 131_072
UUID = "123e4567-e89b-42d3-a456-426614174000"
# Written down from a real client; only the id and, in its place, the time differ from one to the next.
LOGIN, PING, SINGLE, GROUP = (
    bytes.fromhex(line.replace("UUID", UUID.encode().hex()))
    for line in (
        "31 0a24UUID 1001 2803 38d4a4b9da9f34",
        "31 0a24UUID 1001 2804 38c5acb9da9f34",
        "4c 0a24UUID 1001 1802 2001 2801 3001 3884d2b9da9f34 42137b2274657874223a226869207468657265227d",
        "4b 0a24UUID 1001 2001 2801 3002 38dae1b9da9f34 420f7b2274657874223a22676d7367227d 4a03020304",
    )
)
TIME_MS = 1_793_000_000_000
INT64 = st.integers(-(2**63), 2**63 - 1)


def codec(max_frame_bytes: int = MAX) -> Any:
    return ChatAdapter().codec(True, max_frame_bytes)


def sent(**fields: Any) -> bytes:
    """A frame of a client."""
    data = pb.Msg(**{"msg_id": UUID, "from_uid": 1, **fields}).SerializeToString()
    assert len(data) < 2**14
    size = bytes((len(data),)) if len(data) < 128 else bytes((len(data) & 127 | 128, len(data) >> 7))
    return size + data


def chat(**fields: Any) -> bytes:
    return sent(
        **{"msg_type": 1, "chat_type": 1, "to_uid": 2, "format": 1, "body": '{"text":"hi"}', **fields}
    )


def received(data: bytes) -> list[Frame]:
    """What a codec makes of these bytes behind a login."""
    hello, *rest = codec().receive(LOGIN + data)
    assert hello == Hello("", user="1")
    found: list[Frame] = [frame for frame in rest if not isinstance(frame, bytes)]
    assert len(found) == len(rest)
    return found


def read(data: bytes | None) -> list[pb.Msg]:
    """What a client makes of these bytes."""
    assert data is not None
    splitter = Splitter(2**30)
    found = [pb.Msg.FromString(frame) for frame in splitter.feed(data)]
    assert not splitter.held_bytes
    return found


def entry(sender: str = "7", content_type: str = "text/plain", body: bytes = b"hi", **more: Any) -> Entry:
    return Entry(5, encode_message(Message("m1", sender, "d", content_type, body, TIME_MS, **more)))


def delivered(*entries: Entry, to: str = "2", kind: str = "user") -> bytes | None:
    found: bytes | None = codec().encode(Deliver(Address(kind, to), 0, 1, 4, 5, entries))
    return found


def relayed(frame: Frame, to: int, sender: str = "1") -> pb.Msg:
    """What the receiver is sent of a Publish."""
    assert isinstance(frame, Publish)
    message = Message(
        frame.msg_id, sender, "chat", frame.content_type, frame.body, TIME_MS, headers=frame.headers
    )
    (msg,) = read(delivered(Entry(1, encode_message(message)), to=str(to)))
    return msg


# ------------------------------------------------------------------------------------------------ the adapter


def test_provides_what_it_says() -> None:
    assert verifyObject(IProtocolAdapter, ChatAdapter())
    assert verifyObject(IPlugin, ChatAdapter())
    assert verifyObject(ICodec, codec())
    (offered,) = (plugin for plugin in getPlugins(IProtocolAdapter) if plugin.name == "chat")
    assert offered.traits == ChatAdapter.traits
    assert offered.carriage == ChatAdapter.carriage


def test_says_what_it_cannot() -> None:
    traits = ChatAdapter.traits
    assert traits == Traits(
        acks=False, batches=False, gaps=False, pings=False, pulls=False, authenticates=False
    )
    assert codec().silence_s == 10.0
    with pytest.raises(ValueError, match="stream"):
        ChatAdapter().codec(False, MAX)


# ------------------------------------------------------------------------------------------ what clients send


def test_frames_of_a_real_client() -> None:
    single = Publish(UUID, (Address("user", "2"),), "text/plain", b"hi there")
    group = Publish(
        UUID,
        tuple(Address("user", uid) for uid in "234"),
        "text/plain",
        b"gmsg",
        headers=(("chat-to", "2,3,4"),),
    )
    assert list(codec().receive(LOGIN + PING + SINGLE + GROUP)) == [
        Hello("", user="1"),
        Ping(),
        single,
        group,
    ]


def test_byte_by_byte_and_with_more_behind_it() -> None:
    stream = LOGIN + PING + SINGLE + GROUP
    receiver = codec()
    found = [frame for byte in stream + b"\x31" for frame in receiver.receive(bytes((byte,)))]
    assert found == list(codec().receive(stream))
    assert len(found) == 4


def test_from_uid_is_whom_the_session_is_whatever_a_frame_says() -> None:
    (frame,) = received(chat(from_uid=99))
    assert relayed(frame, to=2).from_uid == 1


def test_a_second_login_on_a_connection() -> None:
    assert received(LOGIN) == []
    with pytest.raises(UnexpectedFrame):
        received(sent(msg_type=3, from_uid=2))


def test_negative_numbers_are_numbers() -> None:
    (hello,) = codec().receive(sent(msg_type=3, from_uid=-5))
    assert hello == Hello("", user="-5")
    (frame,) = received(chat(to_uid=-(2**63)))
    assert frame.to == (Address("user", str(-(2**63))),)  # type: ignore[union-attr]
    assert relayed(frame, to=-(2**63), sender="-5").to_uid == -(2**63)


@pytest.mark.parametrize("kind", [2, 5, 6], ids=["ack", "pong", "kick"])
def test_what_has_nothing_to_say_to_a_server_is_passed_over(kind: int) -> None:
    assert received(sent(msg_type=kind)) == []


def test_a_group_gets_a_copy_each_and_the_list_stays_as_it_was() -> None:
    (frame,) = received(chat(chat_type=2, to_uid=0, to_uid_list=[3, 1, 3]))
    assert frame.to == (Address("user", "3"), Address("user", "1"))  # type: ignore[union-attr]
    copy = relayed(frame, to=3)
    assert (copy.to_uid, list(copy.to_uid_list), copy.chat_type) == (3, [3, 1, 3], 2)


def test_a_group_of_nobody_is_nothing() -> None:
    assert received(chat(chat_type=2, to_uid=0)) == []


def test_a_message_to_nobody_is_nothing_and_the_others_of_a_group_get_theirs() -> None:
    assert received(chat(to_uid=0)) == []
    (frame,) = received(chat(chat_type=2, to_uid=0, to_uid_list=[2, 0, 3]))
    assert isinstance(frame, Publish)
    assert frame.to == (parse_address("user:2"), parse_address("user:3"))
    assert dict(frame.headers) == {"chat-to": "2,3"}
    assert received(chat(chat_type=2, to_uid=0, to_uid_list=[0, 0])) == []


def test_numbers_at_the_ends_of_their_range_and_ones_own() -> None:
    for uid in (2**63 - 1, -(2**63), 1):
        (frame,) = received(chat(to_uid=uid))
        assert isinstance(frame, Publish)
        assert frame.to == (parse_address(f"user:{uid}"),)


def test_half_a_surrogate_pair_in_a_body_goes_on_as_the_json_that_it_is() -> None:
    (frame,) = received(chat(body='{"text":"\\ud800"}'))
    assert isinstance(frame, Publish)
    assert (frame.content_type, frame.body) == ("application/json", b'{"text":"\\ud800"}')


def test_a_large_group_is_split_by_what_one_publish_may_name() -> None:
    receiver = codec()
    uids = list(range(1, MAX_GROUP + 1))
    stream = iter(receiver.receive(LOGIN + chat(chat_type=2, to_uid_list=uids)))
    next(stream)
    assert receiver.encode(welcome(Limits(max_addresses=200))) == b""
    found: list[Any] = list(stream)
    assert [len(frame.to) for frame in found] == [200, 200, 100]
    assert [address.id for frame in found for address in frame.to] == list(map(str, uids))
    assert len({(frame.msg_id, frame.headers) for frame in found}) == 1
    assert list(relayed(found[2], to=500).to_uid_list) == uids


def test_the_largest_list_leaves_room_among_the_headers() -> None:
    uids = [-(2**63) + number for number in range(MAX_GROUP)]
    frame: Any = next(codec().receive(chat(chat_type=2, to_uid_list=uids, msg_id="x" * 1024)))
    assert sum(len(name) + len(value) + 16 for name, value in frame.headers) < 16_384


def test_a_repeat_has_the_same_id() -> None:
    first, again = received(SINGLE + SINGLE)
    assert first == again


def test_a_long_id_is_kept_beside_a_short_one() -> None:
    long = "é" * 33
    (frame,) = received(chat(msg_id=long))
    assert len(frame.msg_id) == 64  # type: ignore[union-attr]
    assert relayed(frame, to=2).msg_id == long
    (other,) = received(chat(msg_id=long + "x"))
    assert frame.msg_id != other.msg_id  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [0, 2, -1, 2**31 - 1])
def test_another_format_goes_through(number: int) -> None:
    (frame,) = received(chat(format=number))
    assert relayed(frame, to=2).format == number


@pytest.mark.parametrize(
    ("body", "content_type", "kept"),
    [
        ('{"text":"grüße"}', "text/plain", "grüße"),
        ('{ "text": "gr\\u00fc\\u00dfe" }', "text/plain", "grüße"),
        ('{"text":""}', "text/plain", ""),
        ("", "application/json", ""),
        ("no JSON", "application/json", "no JSON"),
        ('{"text":7}', "application/json", '{"text":7}'),
        ('{"text":"a","size":2}', "application/json", '{"text":"a","size":2}'),
        ('{"text":"\\ud800"}', "application/json", '{"text":"\\ud800"}'),
        ("[" * 5000, "application/json", "[" * 5000),
    ],
)
def test_bodies(body: str, content_type: str, kept: str) -> None:
    (frame,) = received(chat(body=body))
    assert isinstance(frame, Publish)
    assert (frame.content_type, frame.body) == (content_type, kept.encode())
    back = relayed(frame, to=2).body
    assert json.decode(back) == {"text": kept} if content_type == "text/plain" else back == body


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",  # no msg_type
        b"\x02\xff\xff",  # no protobuf
        b"\x80\x00",  # a length that is not in its shortest form
        sent(msg_type=7),
        sent(msg_type=3, from_uid=0),
        chat(chat_type=0),
        chat(chat_type=3),
        chat(chat_type=2, to_uid_list=range(2, MAX_GROUP + 3)),
        chat(msg_id=""),
        chat(msg_id="a\nb"),
        chat(msg_id="x" * 1025),
        b"\x03\x42\x01\xff",  # a body that is no text
    ],
)
def test_malformed(data: bytes) -> None:
    receiver = codec()
    found = receiver.receive(LOGIN + PING + data + PING)
    assert [next(found), next(found)] == [Hello("", user="1"), Ping()]
    with pytest.raises(BadFrame):
        next(found)
    with pytest.raises(BadFrame):
        list(receiver.receive(PING))


def test_too_large() -> None:
    receiver = codec(100)
    with pytest.raises(FrameTooLarge):
        list(receiver.receive(b"\x65"))
    assert receiver.held_bytes == 0


# -------------------------------------------------------------------------------------- what clients are sent


def welcome(limits: Limits) -> Welcome:
    return Welcome("device:1/chat", "1", "node", 1, 30.0, TIME_MS, 0, limits)


def test_a_ping_is_answered_with_its_id_and_our_time() -> None:
    receiver = codec()
    list(receiver.receive(LOGIN + PING))
    (pong,) = read(receiver.encode(Pong(0, TIME_MS)))
    assert pong == pb.Msg(msg_id=UUID, to_uid=1, msg_type=5, timestamp=TIME_MS)


@pytest.mark.parametrize(
    "frame",
    [
        welcome(Limits()),
        PublishAck("m1", ()),
        Bye(CloseCode.REPLACED, "replaced"),
        Ping(),
        Deliver(Address("user", "2"), 0, 1, 4, 5, (), True),
    ],
)
def test_nothing_is_said_but_pong_and_chat(frame: Frame) -> None:
    assert codec().encode(frame) == b""


def test_a_message_of_another_wire() -> None:
    (msg,) = read(delivered(entry()))
    assert msg == pb.Msg(
        msg_id="m1",
        from_uid=7,
        to_uid=2,
        format=1,
        msg_type=1,
        chat_type=1,
        timestamp=TIME_MS,
        body='{"text":"hi"}',
    )


def test_fields_stand_in_the_order_of_their_numbers() -> None:
    data = delivered(entry())
    (msg,) = read(data)
    assert data == bytes((len(msg.SerializeToString()),)) + msg.SerializeToString(deterministic=True)


@pytest.mark.parametrize("sender", ["alice", "0", "007", "-0", "٣", str(2**63), "service:k1", "1 "])
def test_a_sender_that_is_no_number_stands_in_the_body(sender: str) -> None:
    (msg,) = read(delivered(entry(sender)))
    assert (msg.from_uid, json.decode(msg.body)) == (0, {"from": sender, "text": "hi"})
    (msg,) = read(delivered(entry(sender, "application/json", b'{"n":[1]}')))
    assert (msg.from_uid, json.decode(msg.body)) == (0, {"from": sender, "json": {"n": [1]}})


def test_json_of_a_number_goes_as_it_is() -> None:
    (msg,) = read(delivered(entry("7", "Application/JSON; charset=utf-8", b'{ "n": 1 }')))
    assert (msg.from_uid, msg.body) == (7, '{ "n": 1 }')


@pytest.mark.parametrize(
    "one",
    [
        entry(content_type="", body=b"\xff"),
        entry(content_type="", body=b""),
        entry(content_type="image/png"),
        entry(content_type="text/plain", body=b"\xff"),
        entry(content_type="application/json", body=b"\xff"),
        entry("alice", content_type="application/json", body=b"no JSON"),
        entry("alice", content_type="application/json", body=b"[" * 5000),
        Entry(1, encode_message(Message("m", "7", "d", "text/plain", b"x", 2**63))),  # no time of this wire
        Entry(1, b"no message"),
    ],
)
def test_unsayable(one: Entry) -> None:
    assert delivered(one) is None
    assert delivered(entry(), one) is None


def test_what_has_no_type_is_text_if_it_can_be() -> None:
    (msg,) = read(delivered(entry(content_type="", body="grüße".encode())))
    assert json.decode(msg.body) == {"text": "grüße"}


def test_several_at_once() -> None:
    assert [msg.from_uid for msg in read(delivered(entry("7"), entry("8")))] == [7, 8]


def test_a_room_is_a_group_whose_members_nobody_names() -> None:
    (msg,) = read(delivered(entry(), to="9", kind="room"))
    assert (msg.to_uid, list(msg.to_uid_list), msg.chat_type) == (0, [], 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat-to", "a,b"),
        ("chat-to", "1,,2"),
        ("chat-to", "1,99999999999999999999"),
        ("chat-format", "x"),
        ("chat-format", "99999999999"),
        ("chat-format", "9999999999"),
    ],
)
def test_headers_that_another_wire_got_wrong_are_as_none(name: str, value: str) -> None:
    assert read(delivered(entry(headers=((name, value),)))) == read(delivered(entry()))


# ------------------------------------------------------------------------------------------------ any content


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_give_frames_or_a_protocol_error(pieces: list[bytes]) -> None:
    receiver = codec(50)
    for piece in pieces:
        try:
            list(receiver.receive(piece))
        except ProtocolError:
            pass
        assert receiver.held_bytes <= 50


msgs = st.builds(
    pb.Msg,
    msg_id=st.just(UUID) | st.text(st.characters(codec="utf-8"), max_size=80),
    from_uid=INT64,
    to_uid=INT64,
    format=st.integers(-(2**31), 2**31 - 1),
    msg_type=st.integers(0, 7),
    chat_type=st.integers(0, 3),
    timestamp=INT64,
    body=st.text(st.characters(codec="utf-8"), max_size=40),
    to_uid_list=st.lists(INT64, max_size=4),
)


@given(st.lists(msgs, max_size=3), st.data())
def test_any_msg_in_any_chunks(sent: list[pb.Msg], data: st.DataObject) -> None:
    stream = b"".join(
        len(body := msg.SerializeToString()).to_bytes(1) + body for msg in sent if msg.ByteSize() < 128
    )
    receiver = codec()
    found: list[Any] = []
    try:
        for chunk in data.draw(chunks(stream)):
            found += receiver.receive(chunk)
    except ProtocolError:
        pass
    for frame in found:
        if isinstance(frame, Publish):
            assert relayed(frame, int(frame.to[0].id)).to_uid == int(frame.to[0].id)


@given(messages, st.sampled_from(["2", "alice"]))
def test_any_message_is_said_or_unsayable(message: Message, to: str) -> None:
    data = delivered(Entry(1, encode_message(message)), to=to)
    if data is not None:
        (msg,) = read(data)
        assert msg.msg_type == 1
        assert message.content_type.lower().startswith(("text/", "application/json")) or message.body


@given(frames)
def test_no_frame_makes_it_raise(frame: Frame) -> None:
    data = codec().encode(frame)
    if data:
        assert isinstance(frame, Deliver | Pong)
        assert {msg.msg_type for msg in read(data)} <= {1, 5}
