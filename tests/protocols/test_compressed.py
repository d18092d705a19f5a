"""Compressed Delivers: written by codecs, opened by clients, and never by a gateway."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from imgateway.errors import BadFrame, ProtocolError
from imgateway.frames import Address, Deliver, Entry, Message
from imgateway.protocols.json import JsonAdapter
from imgateway.protocols.native import NativeAdapter
from imgateway.wire import imgateway_pb2 as pb
from imgateway.wire.compression import COMPRESSIONS, compressed
from imgateway.wire.messages import encode_message
from imgateway.wire.reading import opened
from tests.strategies import delivers

ROOM = Address("room", "7")
MAX = 1 << 20
every = pytest.mark.parametrize("name", COMPRESSIONS)


def entry(seq: int, body: bytes = b"hello everybody") -> Entry:
    return Entry(
        seq, encode_message(Message(f"m{seq}", "bob", "phone", "text/plain", body, 1_700_000_000_000))
    )


def block(count: int = 32, compression: str = "") -> Deliver:
    entries = tuple(entry(seq) for seq in range(10, 10 + count))
    return Deliver(ROOM, 1, 5, 9, 9 + count, entries, True, 99, compression)


def codec(stream: bool = False, limit: int = MAX) -> Any:
    return NativeAdapter().codec(stream, limit)


def sent(deliver: Deliver, stream: bool = False) -> Deliver:
    (found,) = codec(stream).receive(codec(stream).encode(deliver))
    assert isinstance(found, Deliver)
    return found


@every
@pytest.mark.parametrize("stream", [False, True])
def test_a_block_is_smaller_and_says_the_same(name: str, stream: bool) -> None:
    plain, packed = (codec(stream).encode(block(32, one)) for one in ("", name))
    assert len(packed) < len(plain) / 3
    came = sent(block(32, name), stream)
    assert (came.compression, came.entries) == (name, ())
    assert opened(came, COMPRESSIONS, MAX) == block(32)


@every
def test_the_bytes_are_a_deliver_that_has_only_its_entries(name: str) -> None:
    proto = pb.Frame.FromString(codec().encode(block(32, name))).deliver
    assert (proto.address, proto.lane, proto.after, proto.upto, proto.gap, proto.head) == (
        "room:7",
        1,
        9,
        41,
        True,
        99,
    )
    data = opened(sent(block(32, name)), (name,), MAX)
    inner = pb.Deliver(
        entries=[pb.Entry(seq=e.seq, message=pb.Message.FromString(e.message)) for e in data.entries]
    ).SerializeToString()
    assert proto.compressed == compressed(name, [inner], len(inner))


@every
def test_an_answer_says_that_it_is_one(name: str) -> None:
    answer = replace(block(32, name), pulled=True)
    data = codec().encode(answer)
    assert data == pb.Frame.FromString(data).SerializeToString()
    assert opened(sent(answer), (name,), MAX) == replace(block(32), pulled=True)


@pytest.mark.parametrize("name", [*COMPRESSIONS, "lzma"])
def test_what_is_not_worth_it_goes_plain(name: str) -> None:
    assert codec().encode(block(1, name)) == codec().encode(block(1))
    if name == "lzma":
        assert codec().encode(block(32, name)) == codec().encode(block(32))


@given(delivers, st.sampled_from(COMPRESSIONS))
def test_any_deliver_says_the_same(deliver: Deliver, name: str) -> None:
    wanted = opened(sent(deliver), (), MAX)
    assert opened(sent(replace(deliver, compression=name)), COMPRESSIONS, MAX) == wanted


def test_json_passes_over_it() -> None:
    json = JsonAdapter().codec(False, MAX)
    assert json.encode(block(32, "zstd")) == json.encode(block(32))
    assert (JsonAdapter.traits.compressions, NativeAdapter.traits.compressions) == ((), COMPRESSIONS)


def test_what_came_compressed_goes_on_as_it_is() -> None:
    came = sent(block(32, "zstd"))
    assert sent(came) == came
    json: Any = JsonAdapter().codec(False, MAX)
    assert list(json.receive(json.encode(came))) == [came]


@every
def test_what_is_too_large_as_it_is_is_too_large_compressed(name: str) -> None:
    large = Deliver(ROOM, 0, 1, 0, 2, (entry(1, bytes(600)), entry(2, bytes(600))), compression=name)
    assert codec(limit=1_200).encode(large) is None
    assert len(codec(limit=1_400).encode(large)) < 300


# ---------------------------------------------------------------------------------------------------- opening


def test_a_plain_one_is_open() -> None:
    deliver = block()
    assert opened(deliver, (), 1) is deliver


@pytest.mark.parametrize(
    "deliver",
    [
        Deliver(ROOM, 0, 1, 0, 1, (), compression="br", compressed=b"x"),  # not offered
        Deliver(ROOM, 0, 1, 0, 1, (), compression="", compressed=b"x"),
        Deliver(ROOM, 0, 1, 0, 1, (), compression="zstd"),
        Deliver(ROOM, 0, 1, 0, 1, (entry(1),), compression="zstd", compressed=b"x"),
        Deliver(ROOM, 0, 1, 0, 1, (), compression="lzma", compressed=b"x"),
        Deliver(
            ROOM,
            0,
            1,
            0,
            1,
            (),
            compression="zstd",
            compressed=compressed("zstd", [b"\xff" * 600], 600) or b"",
        ),
    ],
)
def test_what_cannot_be_opened(deliver: Deliver) -> None:
    with pytest.raises(BadFrame):
        opened(deliver, ("zstd",), MAX)


def test_more_than_a_frame_may_have() -> None:
    with pytest.raises(ProtocolError):
        opened(sent(block(32, "zstd")), COMPRESSIONS, 500)


# ------------------------------------------------------------------------------- what a gateway does with one


@pytest.mark.parametrize("adapter", [NativeAdapter(), JsonAdapter()], ids=lambda adapter: adapter.name)
def test_a_codec_never_opens_what_it_reads(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a codec decompresses")

    data = adapter.codec(False, MAX).encode(sent(block(32, "zstd")))
    for module in ("imgateway.wire.reading", "imgateway.wire.compression"):
        monkeypatch.setattr(f"{module}.decompressed", never)
    (came,) = adapter.codec(False, MAX).receive(data)
    assert came.entries == ()
    with pytest.raises(AssertionError):
        opened(came, COMPRESSIONS, MAX)


def test_rubbish_is_as_good_as_anything_to_a_gateway() -> None:
    bad = Deliver(ROOM, 0, 1, 0, 1, (), compression="zstd", compressed=b"\xff" * 100)
    assert sent(bad) == bad
    with pytest.raises(ProtocolError):
        opened(bad, COMPRESSIONS, MAX)
