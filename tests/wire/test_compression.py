"""Compression: what goes in comes out, what is not worth it is left, and nothing is held beyond the bound."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.errors import BadFrame, FrameTooLarge, ProtocolError
from imgateway.wire import compression
from imgateway.wire.compression import COMPRESSIONS, compressed, decompressed, tune, zstd

TEXT = b"hello everybody, first time here; " * 40
every = pytest.mark.parametrize("name", COMPRESSIONS)
names = st.sampled_from(COMPRESSIONS)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    tune()


def packed(name: str, data: bytes) -> bytes:
    found = compressed(name, [data], len(data))
    assert found is not None
    return found


@given(names, st.lists(st.binary(max_size=50), max_size=20), st.integers(1, 9))
def test_what_goes_in_comes_out(name: str, parts: list[bytes], level: int) -> None:
    tune(0, level, level)
    whole = b"".join([TEXT, *parts])
    data = compressed(name, [TEXT, *parts], len(whole))
    assert data is not None
    assert len(data) < len(whole)
    assert decompressed(name, data, len(whole)) == whole


@every
def test_one_batch_after_the_other_stands_for_itself(name: str) -> None:
    first, second = packed(name, TEXT), packed(name, TEXT)
    assert first == second
    assert decompressed(name, second, len(TEXT)) == TEXT


@every
def test_what_is_small_or_gets_no_smaller_is_left(name: str) -> None:
    short, noise = TEXT[: compression.MIN_BYTES - 1], bytes(range(256)) * 2
    assert compressed(name, [short], len(short)) is None
    assert compressed(name, [noise], len(noise)) is not None  # it repeats
    random = bytes(hash((1, n)) % 251 for n in range(600))
    assert compressed(name, [random], len(random)) is None
    tune(len(TEXT) + 1)
    assert compressed(name, [TEXT], len(TEXT)) is None


def test_what_nobody_knows_is_left() -> None:
    assert compressed("lzma", [TEXT], len(TEXT)) is None
    assert compressed("", [TEXT], len(TEXT)) is None


def test_the_levels_count() -> None:
    chat = b"".join(b"%d: well, %d people said %d\n" % (n * 7919 % 1009, n, n * n % 97) for n in range(300))
    sizes = []
    for level in (1, 9):
        tune(0, level, level)
        sizes.append([len(packed(name, chat)) for name in COMPRESSIONS])
    assert all(slow < fast for fast, slow in zip(*sizes, strict=True))


@every
def test_exactly_as_much_as_is_allowed(name: str) -> None:
    data = packed(name, TEXT)
    assert decompressed(name, data, len(TEXT)) == TEXT
    with pytest.raises(FrameTooLarge):
        decompressed(name, data, len(TEXT) - 1)


@every
def test_broken_data(name: str) -> None:
    data = packed(name, TEXT)
    for wrong in (b"", b"\xff" * 40, data[:-1], data + b"x", data[1:]):
        with pytest.raises(BadFrame):
            decompressed(name, wrong, 1 << 20)


@given(st.sampled_from([*COMPRESSIONS, "x"]), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    try:
        assert len(decompressed(name, data, 1_000)) <= 1_000
    except ProtocolError:
        pass


def test_an_unknown_name() -> None:
    with pytest.raises(BadFrame):
        decompressed("lzma", b"x", 1_000)


@pytest.mark.parametrize(
    ("name", "bomb"),
    [
        ("zstd", zstd.compress(bytes(64 << 20), 3)),
        ("br", brotli.compress(bytes(64 << 20), quality=3)),
        ("zstd", zstd.compress(bytes(64 << 20), 3) * 2),
    ],
)
def test_a_bomb_is_not_unpacked(name: str, bomb: bytes) -> None:
    assert len(bomb) < 20_000
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decompressed(name, bomb, 1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_window_beyond_the_bound_is_refused() -> None:
    unsized = zstd.ZstdCompressor(
        options={zstd.CompressionParameter.window_log: 24, zstd.CompressionParameter.compression_level: 1}
    )
    data = unsized.compress(TEXT) + unsized.flush()
    assert zstd.decompress(data) == TEXT
    with pytest.raises(BadFrame):
        decompressed("zstd", data, 1 << 20)
