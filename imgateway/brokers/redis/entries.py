"""Entries of durable logs as Redis keeps them; `lua/parts/log.lua` says what stands where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct

from imgateway.frames import Entry

__all__ = ("pack_entry", "pack_rest", "unpack_entries")

# seq, at_s, expires_ms, bytes of the message, kind
_HEAD = Struct(">QIQIB")
_HEAD_BYTES = _HEAD.size
SHARED = 1
"""The kind of an entry that only names its message."""
_EVERYBODY = b"\x00\x00"


def pack_rest(only_device: str, except_device: str, message: bytes) -> bytes:
    """What follows the head; `message` may be the name of a shared one."""
    if not only_device and not except_device:
        return _EVERYBODY + message
    only, other = only_device.encode(), except_device.encode()
    return bytes((len(only),)) + only + bytes((len(other),)) + other + message


def pack_entry(entry: Entry) -> bytes:
    """The whole of one that is in no log."""
    head = _HEAD.pack(entry.seq, 0, entry.expires_ms, len(entry.message), 0)
    return head + pack_rest(entry.only_device, entry.except_device, entry.message)


def unpack_entries(packed: Iterable[bytes], shared: Mapping[bytes, bytes] = {}) -> tuple[Entry, ...]:
    """:param shared: messages by name. :raises KeyError: one of them is not there."""
    entries = []
    for data in packed:
        seq, _, expires_ms, _, kind = _HEAD.unpack_from(data)
        at = _HEAD_BYTES
        only = other = ""
        if data[at] or data[at + 1]:
            at += 1 + data[at]
            only = data[_HEAD_BYTES + 1 : at].decode()
            end = at + 1 + data[at]
            other = data[at + 1 : end].decode()
            at = end
        else:
            at += 2
        message = data[at:]
        entries.append(Entry(seq, shared[message] if kind == SHARED else message, only, other, expires_ms))
    return tuple(entries)
