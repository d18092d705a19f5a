"""What holds for every form of the native protocol: stream, message, JSON."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.plugin import IPlugin
from zope.interface.verify import verifyObject

from imgateway.errors import BadFrame, FrameTooLarge, ProtocolError
from imgateway.frames import (
    CLIENT_FRAMES,
    FRAME_NAMES,
    SERVER_FRAMES,
    Address,
    Deliver,
    Entry,
    Frame,
    Hello,
    Message,
    Outcome,
    Ping,
    Publish,
    PublishAck,
    Refused,
    Welcome,
)
from imgateway.interfaces import ICodec, IProtocolAdapter
from imgateway.protocols.json import JsonAdapter
from imgateway.protocols.native import NativeAdapter
from imgateway.wire import imgateway_pb2 as pb
from imgateway.wire.messages import decode_message, encode_message
from tests.strategies import BY_FRAME, bodies, chunks, content_types, delivers, frames

MAX = 1_048_576
FORMS = {"stream": (NativeAdapter, True), "message": (NativeAdapter, False), "json": (JsonAdapter, False)}
form = pytest.mark.parametrize("form", FORMS)
forms = st.sampled_from(list(FORMS))  # pytest-twisted cannot have @given under parametrize


def codec(form: str, max_frame_bytes: int = MAX) -> Any:
    adapter, stream = FORMS[form]
    return adapter().codec(stream, max_frame_bytes)


def plain(frame: Frame) -> Any:
    """Without what is not part of the meaning: how protobuf orders the headers inside an entry."""
    if isinstance(frame, Deliver):
        entries = [(entry.seq, decode_message(entry.message)) for entry in frame.entries]
        return (*(getattr(frame, name) for name in frame.__struct_fields__ if name != "entries"), entries)
    return frame


def there_and_back(form: str, frame: Frame) -> Frame:
    data = codec(form).encode(frame)
    assert data is not None
    (found,) = codec(form).receive(data)
    return found


@form
def test_provides_what_it_says(form: str) -> None:
    assert verifyObject(ICodec, codec(form))
    assert verifyObject(IProtocolAdapter, FORMS[form][0]())
    assert verifyObject(IPlugin, FORMS[form][0]())


def test_wires_are_told_apart() -> None:
    assert [codec(form).wire for form in FORMS] == ["native/stream", "native/message", "json"]


def test_carriages() -> None:
    native, json = NativeAdapter.carriage, JsonAdapter.carriage
    assert (native.stream, native.message, native.text) == (True, True, False)
    assert (json.stream, json.message, json.text) == (False, True, True)
    assert native.subprotocols == ("imgateway.v1.protobuf",)
    assert json.subprotocols == ("imgateway.v1.json",)


def test_the_frame_tables_know_every_frame() -> None:
    contract = {field.name for field in pb.Frame.DESCRIPTOR.fields}
    assert set(FRAME_NAMES.values()) == contract
    assert len(FRAME_NAMES) == len(contract)
    assert CLIENT_FRAMES | SERVER_FRAMES == set(FRAME_NAMES) == set(BY_FRAME) == set(Frame.__args__)
    assert {Hello, Publish} <= CLIENT_FRAMES - SERVER_FRAMES
    assert {Welcome, Refused} <= SERVER_FRAMES - CLIENT_FRAMES


@form
@pytest.mark.parametrize("kind", FRAME_NAMES, ids=FRAME_NAMES.values())
def test_every_frame_comes_back(form: str, kind: type) -> None:
    @settings(max_examples=40)
    @given(BY_FRAME[kind])
    def comes_back(frame: Frame) -> None:
        assert plain(there_and_back(form, frame)) == plain(frame)

    comes_back()


@given(st.lists(frames, max_size=5), st.data())
def test_a_stream_in_any_chunks(sent: list[Frame], data: st.DataObject) -> None:
    sender, receiver = codec("stream"), codec("stream")
    stream = b"".join(sender.encode(frame) for frame in sent)
    found = [frame for chunk in data.draw(chunks(stream)) for frame in receiver.receive(chunk)]
    assert list(map(plain, found)) == list(map(plain, sent))


def test_a_stream_byte_by_byte_and_with_trailing_data() -> None:
    sent = [Ping(1, 2), Hello("token", "phone"), Publish("m", (Address("user", "b"),), body=b"x" * 300)]
    receiver = codec("stream")
    stream = b"".join(map(receiver.encode, sent)) + b"\x7f"
    found = [frame for byte in stream for frame in receiver.receive(bytes((byte,)))]
    assert found == sent
    assert receiver.held_bytes == 0  # the begin of a next frame: a length alone


def test_frames_before_a_bad_one_are_given_out() -> None:
    receiver = codec("stream")
    found = receiver.receive(receiver.encode(Ping(1)) + b"\x01\xff" + receiver.encode(Ping(2)))
    assert next(found) == Ping(1)
    with pytest.raises(BadFrame):
        next(found)
    with pytest.raises(BadFrame):  # and then no more
        list(receiver.receive(receiver.encode(Ping(3))))


@given(forms, st.lists(st.binary(max_size=60), max_size=10))
def test_any_bytes_give_frames_or_a_protocol_error(form: str, pieces: list[bytes]) -> None:
    receiver = codec(form, 50)
    for piece in pieces:
        try:
            list(receiver.receive(piece))
        except ProtocolError:
            pass
        if form == "stream":
            assert receiver.held_bytes <= 50


@given(forms, frames, st.data())
def test_damaged_frames_give_frames_or_a_protocol_error(form: str, frame: Frame, data: st.DataObject) -> None:
    whole = codec(form).encode(frame)
    assert whole is not None
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        list(codec(form).receive(bytes(damaged[: data.draw(st.integers(0, len(whole)))])))
    except ProtocolError:
        pass


@form
def test_the_largest_frame_passes_and_a_larger_one_does_not(form: str) -> None:
    frame = Publish("m", (Address("user", "b"),), body=b"x" * 200)
    data = codec(form).encode(frame)
    size = len(data) - (2 if form == "stream" else 0)  # the limit is for the frame, not for its length
    assert codec(form, size).encode(frame) == data
    assert list(codec(form, size).receive(data)) == [frame]
    assert codec(form, size - 1).encode(frame) is None
    with pytest.raises(FrameTooLarge):
        list(codec(form, size - 1).receive(data))


# One bad field at a time. The JSON reader and the binary reader share the rules, so each is asked.

BOB = ["user:bob"]
BAD: dict[str, pb.Frame] = {
    "an empty frame": pb.Frame(),
    "no msg_id": pb.Frame(publish=pb.Publish(to=BOB)),
    "a long msg_id": pb.Frame(publish=pb.Publish(msg_id="m" * 65, to=BOB)),
    "a long msg_id in bytes": pb.Frame(publish=pb.Publish(msg_id="é" * 33, to=BOB)),
    "a control character in a msg_id": pb.Frame(publish=pb.Publish(msg_id="m\n", to=BOB)),
    "to nobody": pb.Frame(publish=pb.Publish(msg_id="m")),
    "to nowhere": pb.Frame(publish=pb.Publish(msg_id="m", to=["bob"])),
    "to two, one nowhere": pb.Frame(publish=pb.Publish(msg_id="m", to=[*BOB, "user:"])),
    "qos 2": pb.Frame(publish=pb.Publish(msg_id="m", to=BOB, qos=2)),
    "lane 2": pb.Frame(publish=pb.Publish(msg_id="m", to=BOB, lane=2)),
    "a long content type": pb.Frame(publish=pb.Publish(msg_id="m", to=BOB, content_type="t" * 256)),
    "an ack of nothing": pb.Frame(publish_ack=pb.PublishAck()),
    "a deliver from nowhere": pb.Frame(deliver=pb.Deliver(address="nowhere")),
    "an ack for nowhere": pb.Frame(deliver_ack=pb.DeliverAck(acks=[pb.Acked(address="x:y")])),
    "a bad device": pb.Frame(hello=pb.Hello(token="t", device="d" * 65)),
    "a bad platform": pb.Frame(hello=pb.Hello(token="t", platform="\x7f")),
    "a start that is none": pb.Frame(hello=pb.Hello(start=9)),  # type: ignore[arg-type]
    "a mode that is none": pb.Frame(subscribe=pb.Subscribe(address="room:7", mode=-1)),  # type: ignore[arg-type]
    "a resume from nowhere": pb.Frame(hello=pb.Hello(resume=[pb.ResumePoint(address="user:%zz")])),
    "a welcome to nobody": pb.Frame(welcome=pb.Welcome()),
    "a heartbeat without end": pb.Frame(welcome=pb.Welcome(user="u", heartbeat_s=float("inf"))),
    "a rate that is no number": pb.Frame(
        welcome=pb.Welcome(user="u", limits=pb.Limits(pair_rate=float("nan")))
    ),
    "a rate below nothing": pb.Frame(welcome=pb.Welcome(user="u", limits=pb.Limits(request_rate=-1))),
    "a kind that is none": pb.Frame(seen=pb.Seen(address="user:bob", kind=2)),  # type: ignore[arg-type]
    "seen by a bad one": pb.Frame(seen=pb.Seen(address="user:bob", who="\n")),
    "no service": pb.Frame(request=pb.Request(id=1)),
    "a pull from nowhere": pb.Frame(pull=pb.Pull(address="device:a")),
    "told of nowhere": pb.Frame(notify=pb.Notify(heads=[pb.Told()])),
    "no address": pb.Frame(unsubscribe=pb.Unsubscribe()),
}


def in_form(form: str, proto: pb.Frame) -> bytes:
    if form == "json":
        from google.protobuf import json_format

        return json_format.MessageToJson(proto).encode()
    data = proto.SerializeToString()
    return (
        data
        if form == "message"
        else bytes((len(data) & 127 | 128, len(data) >> 7) if len(data) > 127 else (len(data),)) + data
    )


@form
@pytest.mark.parametrize("name", BAD)
def test_a_field_out_of_range_is_a_bad_frame(form: str, name: str) -> None:
    with pytest.raises(BadFrame):
        list(codec(form).receive(in_form(form, BAD[name])))


@form
def test_qos_absent_is_1_and_0_is_0(form: str) -> None:
    for proto, qos in [
        (pb.Publish(msg_id="m", to=BOB), 1),
        (pb.Publish(msg_id="m", to=BOB, qos=1), 1),
        (pb.Publish(msg_id="m", to=BOB, qos=0), 0),
    ]:
        (frame,) = codec(form).receive(in_form(form, pb.Frame(publish=proto)))
        assert frame.qos == qos


@form
def test_a_welcome_without_limits_has_the_usual_ones(form: str) -> None:
    (frame,) = codec(form).receive(in_form(form, pb.Frame(welcome=pb.Welcome(user="u"))))
    assert frame.limits.publish_window == 64


@form
def test_codes_of_newer_gateways_are_let_through(form: str) -> None:
    ack = PublishAck("m", (Outcome(77, 1, 2),))
    assert there_and_back(form, ack) == ack


# Poison: an encoder gives bytes or None, and never raises.

UNSAYABLE = [
    Refused("publish", "\ud800", 1),
    Hello("\udfff"),
    Publish("m\ud800", (Address("user", "b"),)),
    Publish("m", (Address("user", "\ud800"),)),
    Publish("m", (Address("user", "b"),), headers=(("\ud800", ""),)),
    PublishAck("\ud800", ()),
    PublishAck("m", (Outcome(-1),)),
    Deliver(Address("user", "\ud800"), 0, 1, 0, 1, ()),
    Deliver(Address("user", "b"), 0, -1, 0, 1, ()),
    Deliver(Address("user", "b"), 0, 1, 0, 2**64, ()),
    Ping(-1),
    Ping("x"),  # type: ignore[arg-type]
]


@form
@pytest.mark.parametrize("frame", UNSAYABLE, ids=lambda frame: FRAME_NAMES[type(frame)])
def test_what_cannot_be_said_is_none(form: str, frame: Frame) -> None:
    assert codec(form).encode(frame) is None


@given(forms, delivers, st.lists(st.binary(max_size=50), max_size=3))
def test_poisoned_entries_never_raise(form: str, deliver: Deliver, poison: list[bytes]) -> None:
    odd = tuple(Entry(seq, data) for seq, data in enumerate(poison, 1))
    frame = Deliver(deliver.address, 0, 1, 0, 9, deliver.entries + odd)
    data = codec(form).encode(frame)
    assert data is None or isinstance(data, bytes)


ODD_BODIES = [b"", b"\xff\xfe", b"\xed\xa0\x80", b"\x00" * 10, '\u2028"\\\n é 🎉'.encode(), b"x" * 200_000]


@form
@pytest.mark.parametrize("body", ODD_BODIES, ids=range(len(ODD_BODIES)))
def test_odd_bodies_arrive(form: str, body: bytes) -> None:
    message = Message("m", "alice", "phone", "text/plain", body)
    frame = Deliver(Address("user", "bob"), 0, 1, 0, 1, (Entry(1, encode_message(message)),))
    found = there_and_back(form, frame)
    assert isinstance(found, Deliver)
    assert decode_message(found.entries[0].message) == message


@given(content_types, bodies)
def test_all_forms_show_the_same_content(content_type: str, body: bytes) -> None:
    message = Message("m", "alice", "phone", content_type, body, 1, 0, (("k", "v"),))
    frame = Deliver(Address("room", "7"), 1, 2, 3, 4, (Entry(4, encode_message(message)),), True, 5)
    shown = [plain(there_and_back(form, frame)) for form in FORMS]
    assert shown[0] == shown[1] == shown[2] == plain(frame)
