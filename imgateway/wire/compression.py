"""How the entries of a Deliver are made smaller, and large again: ``zstd`` and ``br`` (brotli).

Both ends know both; what is used on a link is what the client offered in Hello. Compression is the gateway's
alone: it reads nothing compressed, and a client reads no more than it is ready to hold. Nothing is kept from
one frame to the next, so that all who get the same frame share one encoding of it.

The levels are those that ``python -m bench compression`` found worth their time. They and the threshold are
the process's own (`tune`), as equal wires must give equal bytes. For one thread: the reactor's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import brotli

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd

from imgateway.errors import BadFrame, FrameTooLarge

__all__ = ("COMPRESSIONS", "compressed", "decompressed", "tune", "zstd")

COMPRESSIONS = ("zstd", "br")
"""What this version knows, the best bargain first."""

MIN_BYTES = 512
ZSTD_LEVEL = 3
BR_LEVEL = 5
# A window of 1 << 24 is brotli's largest; 1 << 10 the smallest of both.
_WINDOW_LOGS = range(10, 25)


def _with_zstd(context: Any, data: bytes) -> bytes:
    # A whole frame in one call: the context is as new afterwards, and the frame tells its size.
    packed: bytes = context.compress(data, context.FLUSH_FRAME)
    return packed


def _with_brotli(level: int, data: bytes) -> bytes:
    # The window sizes its tables: one that is larger than the data costs up to fifty times as much.
    compressor = brotli.Compressor(quality=level, lgwin=_window_log(len(data)))
    packed: bytes = compressor.process(data)
    packed += compressor.finish()
    return packed


def _window_log(size: int) -> int:
    return min(max(size.bit_length(), _WINDOW_LOGS.start), _WINDOW_LOGS[-1])


_min_bytes = MIN_BYTES
_packers: dict[str, Callable[[bytes], bytes]] = {}


def tune(min_bytes: int = MIN_BYTES, zstd_level: int = ZSTD_LEVEL, br_level: int = BR_LEVEL) -> None:
    """Set what the process compresses from now on: entries of `min_bytes` together and more, at these
    levels."""
    global _min_bytes
    _min_bytes = min_bytes
    _packers["zstd"] = partial(_with_zstd, zstd.ZstdCompressor(level=zstd_level))
    _packers["br"] = partial(_with_brotli, br_level)


tune()


def compressed(name: str, parts: list[bytes], size: int) -> bytes | None:
    """The concatenated `parts`, `size` bytes, made smaller; None if that is not worth it or not known."""
    pack = _packers.get(name)
    if pack is None or size < _min_bytes:
        return None
    packed = pack(b"".join(parts))
    return packed if len(packed) < size else None


def decompressed(name: str, data: bytes, max_bytes: int) -> bytes:
    """What `compressed` was given. Holds some two or three times `max_bytes` at most, whatever the data say.

    :raises FrameTooLarge: it has more than `max_bytes`.
    :raises BadFrame: it is not what it says, not whole, something follows it, or (zstd) it wants a window
        larger than `max_bytes`.
    """
    try:
        if name == "zstd":
            window: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _window_log(max_bytes)}
            unpacker = zstd.ZstdDecompressor(options=window)
            found = unpacker.decompress(data, max_bytes + 1)
            whole = unpacker.eof and not unpacker.unused_data
        elif name == "br":
            opener = brotli.Decompressor()
            found = opener.process(data, output_buffer_limit=max_bytes + 1)
            whole = opener.is_finished()
        else:
            raise BadFrame("compressed in a way that nobody here knows")
    except (zstd.ZstdError, brotli.error):
        raise BadFrame("the compressed entries are broken") from None
    if len(found) > max_bytes:
        raise FrameTooLarge(f"compressed entries of more than {max_bytes} bytes")
    if not whole:
        raise BadFrame("the compressed entries are not whole, or something follows them")
    return found
