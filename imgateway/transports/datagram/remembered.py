"""HELLOs that were answered, and how.

A storm of logins leaves many thousands of them for half a minute. As objects of their own they would leave
holes behind, between what stays of the sessions; so the bytes stand one behind the other in one buffer.
"""

from __future__ import annotations

import struct

from .packets import Hello

__all__ = ("Remembered",)

_HEAD = struct.Struct("!16s 32s 24s H")
"""Key id, public key and cookie of the HELLO; the length of the answer, which follows."""


class Remembered:
    """Those of a while; to forget them is to drop this."""

    __slots__ = ("_answers", "_newest", "_records")

    def __init__(self) -> None:
        self._records = bytearray()
        # By hash, to where the record begins; of two with one hash the later is known.
        self._answers: dict[int, int] = {}  # of key id and public key
        self._newest: dict[int, int] = {}  # of the key id: the record with its youngest cookie

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, hello: Hello, answer: bytes, newest: bool) -> None:
        """`newest`: no younger cookie came with this key id."""
        at = len(self._records)
        self._records += _HEAD.pack(hello.key_id, hello.public, hello.cookie, len(answer))
        self._records += answer
        self._answers[hash(hello.key_id + hello.public)] = at
        if newest:
            self._newest[hash(hello.key_id)] = at

    def answer(self, hello: Hello) -> bytes | None:
        """What it was answered with; None: it is not known."""
        at = self._answers.get(hash(hello.key_id + hello.public))
        if at is None:
            return None
        key_id, public, _, size = _HEAD.unpack_from(self._records, at)
        if (key_id, public) != (hello.key_id, hello.public):
            return None
        at += _HEAD.size
        return bytes(self._records[at : at + size])

    def newest(self, key_id: bytes) -> bytes | None:
        """The youngest cookie that came with this key id; None: it is not known."""
        at = self._newest.get(hash(key_id))
        if at is None:
            return None
        known, _, cookie, _ = _HEAD.unpack_from(self._records, at)
        return bytes(cookie) if known == key_id else None
