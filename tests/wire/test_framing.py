"""Varint32 framing: any chunks, any lengths, and never more than one frame held."""

from __future__ import annotations

import pytest
from google.protobuf.internal.encoder import _VarintBytes
from hypothesis import given
from hypothesis import strategies as st

from imgateway.errors import BadFrame, FrameTooLarge, ProtocolError
from imgateway.wire.framing import Splitter, length_prefixed, varint
from tests.strategies import chunks


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_what_protobuf_writes(n: int) -> None:
    assert varint(n) == _VarintBytes(n)


@pytest.mark.parametrize("n", [0, 1, 127, 128, 16383, 16384, 2**32 - 1, 2**63, 2**64 - 1])
def test_a_varint_at_its_borders(n: int) -> None:
    assert varint(n) == _VarintBytes(n)


@pytest.mark.parametrize("n", [-1, -(2**70), 2**64])
def test_no_varint_holds_this(n: int) -> None:
    with pytest.raises(ValueError):
        varint(n)


def split(data: list[bytes], max_frame_bytes: int = 1000) -> list[bytes]:
    splitter = Splitter(max_frame_bytes)
    return [frame for chunk in data for frame in splitter.feed(chunk)]


FRAMES = [b"", b"a", b"b" * 127, b"c" * 128, b"", b"d" * 1000, b"e"]
STREAM = b"".join(map(length_prefixed, FRAMES))


def test_whole() -> None:
    assert split([STREAM]) == FRAMES


def test_byte_by_byte() -> None:
    assert split([bytes((byte,)) for byte in STREAM]) == FRAMES


def test_every_cut_in_two() -> None:
    for at in range(len(STREAM) + 1):
        assert split([STREAM[:at], STREAM[at:]]) == FRAMES


@given(
    st.lists(st.binary(max_size=300), max_size=6).flatmap(
        lambda fs: st.tuples(st.just(fs), chunks(b"".join(map(length_prefixed, fs))))
    )
)
def test_any_chunks(case: tuple[list[bytes], list[bytes]]) -> None:
    frames, pieces = case
    assert split(pieces) == frames


def test_trailing_bytes_wait_for_the_rest() -> None:
    splitter = Splitter(1000)
    assert list(splitter.feed(b"\x02ab\x05xy")) == [b"ab"]
    assert splitter.held_bytes == 2
    assert list(splitter.feed(b"z")) == []
    assert list(splitter.feed(b"zz\x01q\x80")) == [b"xyzzz", b"q"]
    assert splitter.held_bytes == 1  # half a length
    assert list(splitter.feed(b"")) == []
    assert list(splitter.feed(b"\x01" + b"r" * 128)) == [b"r" * 128]
    assert splitter.held_bytes == 0


def test_oversize_is_refused_as_soon_as_the_length_is_known() -> None:
    assert split([length_prefixed(b"x" * 1000)]) == [b"x" * 1000]
    splitter = Splitter(1000)
    with pytest.raises(FrameTooLarge, match="1001 bytes; 1000"):
        list(splitter.feed(varint(1001)))
    assert splitter.held_bytes == 0


def test_frames_before_a_bad_one_are_given_out() -> None:
    frames = Splitter(10).feed(b"\x01a\x01b\x0bc")
    assert next(frames) == b"a"
    assert next(frames) == b"b"
    with pytest.raises(FrameTooLarge):
        next(frames)


@pytest.mark.parametrize(
    "length",
    [
        b"\x80\x00",  # two bytes where one would do
        b"\xff\x80\x00",
        b"\x80\x80\x80\x80\x10",  # more than 32 bits
        b"\xff\xff\xff\xff\xff",  # a sixth byte would follow
        b"\xff\xff\xff\xff\xff\x01",
    ],
)
def test_a_length_that_is_no_varint32(length: bytes) -> None:
    with pytest.raises(BadFrame, match="varint32"):
        split([length], 2**40)
    with pytest.raises(BadFrame, match="varint32"):
        split([bytes((byte,)) for byte in length], 2**40)


def test_the_longest_length_is_one() -> None:
    splitter = Splitter(2**32)
    assert list(splitter.feed(b"\xff\xff\xff\xff\x0f")) == []


def test_nothing_follows_an_error() -> None:
    splitter = Splitter(10)
    with pytest.raises(FrameTooLarge):
        list(splitter.feed(b"\x0b"))
    with pytest.raises(BadFrame, match="nothing can follow"):
        list(splitter.feed(b"\x01a"))
    assert splitter.held_bytes == 0


def test_nothing_follows_an_iterator_that_was_left() -> None:
    splitter = Splitter(10)
    left = splitter.feed(b"\x01a\x01b")
    assert next(left) == b"a"
    with pytest.raises(BadFrame, match="nothing can follow"):
        list(splitter.feed(b"\x01c"))


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_give_frames_or_a_protocol_error_and_a_bounded_buffer(pieces: list[bytes]) -> None:
    splitter = Splitter(50)
    for piece in pieces:
        try:
            for frame in splitter.feed(piece):
                assert len(frame) <= 50
        except ProtocolError:
            pass
        assert splitter.held_bytes <= 50


def test_a_large_frame_byte_by_byte_is_not_copied_each_time() -> None:
    class Counting(bytearray):
        copied = 0

        def __iadd__(self, other: bytes) -> Counting:  # type: ignore[override]
            Counting.copied += len(other)
            return super().__iadd__(other)

    splitter = Splitter(100_000)
    splitter._held = Counting()
    stream = length_prefixed(b"x" * 100_000)
    found = [frame for byte in stream for frame in splitter.feed(bytes((byte,)))]
    assert found == [b"x" * 100_000]
    assert Counting.copied <= len(stream)
