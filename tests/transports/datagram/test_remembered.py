"""HELLOs that were answered are known again, each for itself."""

from __future__ import annotations

import builtins

import pytest

from imgateway.transports.datagram import remembered
from imgateway.transports.datagram.packets import Hello
from imgateway.transports.datagram.remembered import Remembered


def hello(key: int, public: int, cookie: int) -> Hello:
    return Hello(1, bytes([key]) * 16, bytes([public]) * 32, bytes([cookie]) * 24, 0)


def test_each_is_answered_as_before() -> None:
    known = Remembered()
    for number in range(200):
        known.add(hello(1, number, number), b"answer" * number, True)
    assert len(known) == 200
    assert [known.answer(hello(1, number, 0)) for number in range(200)] == [b"answer" * n for n in range(200)]
    assert known.answer(hello(2, 7, 7)) is None
    assert known.answer(hello(1, 201, 7)) is None


def test_the_youngest_cookie_of_a_key_is_known() -> None:
    known = Remembered()
    assert known.newest(hello(1, 1, 5).key_id) is None
    known.add(hello(1, 1, 5), b"one", True)
    known.add(hello(2, 2, 6), b"two", True)
    known.add(hello(1, 3, 4), b"three", False)
    assert known.newest(hello(1, 0, 0).key_id) == bytes([5]) * 24
    known.add(hello(1, 4, 9), b"four", True)
    assert known.newest(hello(1, 0, 0).key_id) == bytes([9]) * 24
    assert known.answer(hello(1, 3, 4)) == b"three"


def test_more_than_there_was_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_PLACES", 4)
    known = Remembered()
    for number in range(200):
        known.add(hello(number, number, 1), b"%d" % number, True)
        known.add(hello(number, number, 2), b"again %d" % number, True)
    assert len(known) == 200
    assert [known.answer(hello(n, n, 0)) for n in range(200)] == [b"again %d" % n for n in range(200)]
    assert {known.newest(hello(n, 0, 0).key_id) for n in range(200)} == {bytes([2]) * 24}
    assert known.answer(hello(200, 200, 1)) is known.newest(bytes(16)[:15] + b"\1") is None


def test_of_two_with_one_hash_neither_gets_the_others_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "hash", lambda data: builtins.hash(b""), raising=False)
    known = Remembered()
    known.add(hello(1, 1, 5), b"one", True)
    known.add(hello(2, 2, 6), b"two", True)
    assert known.answer(hello(1, 1, 5)) == b"one"
    assert known.answer(hello(2, 2, 6)) == b"two"
    assert known.answer(hello(3, 3, 6)) is None
    assert known.newest(hello(1, 1, 5).key_id) == bytes([5]) * 24
    assert known.newest(hello(2, 2, 6).key_id) == bytes([6]) * 24
