"""MessagePack as Lua's cmsgpack writes it: strings have no encoding, so they are bytes here.

`msgspec` insists on UTF-8 in them, hence msgpack's own.
"""

from __future__ import annotations

from typing import Any

import msgpack

__all__ = ("pack", "unpack")


def pack(value: Any) -> bytes:
    """For cmsgpack.unpack."""
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


def unpack(packed: bytes) -> Any:
    """What cmsgpack.pack gave; arrays are lists. :raises ValueError: it did not."""
    return msgpack.unpackb(packed, raw=True, strict_map_key=False)
