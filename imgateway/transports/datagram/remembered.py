"""HELLOs that were answered, and how.

A storm of logins leaves many thousands of them for half a minute. As objects of their own they would leave
holes behind, between what stays of the sessions: 100 bytes for each. So the bytes stand one behind the other
in one buffer, and where they begin in an array.
"""

from __future__ import annotations

import struct
from array import array

from .packets import Hello

__all__ = ("Remembered",)

_HEAD = struct.Struct("!16s 32s 24s H")
"""Key id, public key and cookie of the HELLO; the length of the answer, which follows."""
_KEY_ID, _NAME = 16, 48
"""Bytes at the begin of a record: the key id; with the public key it is the whole name of a HELLO."""
_PLACES, _GROWTH = 16_384, 4
"""Of an index at first: enough for 500 logins a second; to make it larger takes some ms, so it is rare."""


class Index:
    """Where the record begins that was put in last with a name.

    :param records: each begins with its name.
    :param size: bytes of a name.
    """

    __slots__ = ("_places", "_records", "_size", "_taken")

    def __init__(self, records: bytearray, size: int) -> None:
        self._records = records
        self._size = size
        self._places = array("I", bytes(4 * _PLACES))  # 1 + where; 0: free
        self._taken = 0

    def __len__(self) -> int:
        return self._taken

    def find(self, name: bytes) -> int:
        """-1: nowhere."""
        return self._places[self._slot(name)] - 1

    def put(self, name: bytes, at: int) -> None:
        slot = self._slot(name)
        self._taken += not self._places[slot]
        self._places[slot] = at + 1
        if 3 * self._taken > 2 * len(self._places):
            there, self._places = self._places, array("I", bytes(4 * _GROWTH * len(self._places)))
            for place in filter(None, there):
                self._places[self._slot(bytes(self._records[place - 1 : place - 1 + self._size]))] = place

    def _slot(self, name: bytes) -> int:
        places, records, size = self._places, self._records, self._size
        last = len(places) - 1
        slot = hash(name) & last
        while (place := places[slot]) and records[place - 1 : place - 1 + size] != name:
            slot = (slot + 1) & last
        return slot


class Remembered:
    """Those of a while; to forget them is to drop this."""

    __slots__ = ("_answers", "_newest", "_records")

    def __init__(self) -> None:
        self._records = bytearray()
        self._answers = Index(self._records, _NAME)
        self._newest = Index(self._records, _KEY_ID)  # the record with the youngest cookie

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, hello: Hello, answer: bytes, newest: bool) -> None:
        """`newest`: no younger cookie came with this key id."""
        at = len(self._records)
        self._records += _HEAD.pack(hello.key_id, hello.public, hello.cookie, len(answer))
        self._records += answer
        self._answers.put(hello.key_id + hello.public, at)
        if newest:
            self._newest.put(hello.key_id, at)

    def answer(self, hello: Hello) -> bytes | None:
        """What it was answered with; None: it is not known."""
        at = self._answers.find(hello.key_id + hello.public)
        if at < 0:
            return None
        size = _HEAD.unpack_from(self._records, at)[-1]
        at += _HEAD.size
        return bytes(self._records[at : at + size])

    def newest(self, key_id: bytes) -> bytes | None:
        """The youngest cookie that came with this key id; None: it is not known."""
        at = self._newest.find(key_id)
        return None if at < 0 else bytes(_HEAD.unpack_from(self._records, at)[2])
