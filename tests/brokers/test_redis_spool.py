"""How many batches are on their way to a primary, and how large they are: without a server."""

from __future__ import annotations

from typing import Any

import msgpack
from twisted.internet.defer import Deferred

from imgateway.brokers.appends import Append
from imgateway.brokers.redis.spool import BATCH_ENTRIES, Spool
from imgateway.frames import Message, log_of, user_address

APPEND = Append(log_of(user_address("u")), b"encoded", b"digest", Message("m", "user:a", "d"), [])


class Primary:
    """Keeps the scripts that it is asked for: how many appends each has, and its answer."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, Deferred[Any]]] = []

    def call(self, name: str, packed: bytes) -> Deferred[Any]:
        assert name == "append"
        answer: Deferred[Any] = Deferred()
        self.calls.append((len(msgpack.unpackb(packed)[-1]) // 7, answer))
        return answer


class Desk:
    def __init__(self) -> None:
        self.primary = Primary()
        self.answered: list[int] = []
        self.spool = Spool(
            primary=self.primary,  # type: ignore[arg-type]
            token="t.",
            limits=(1, 1, 1, 1, 1),
            answered=lambda appends, answer: self.answered.append(len(appends)),
        )

    def turn(self, messages: int) -> None:
        """What one turn of the reactor brings."""
        for _ in range(messages):
            self.spool.add(1, b"user:u", APPEND)
        self.spool.flush()

    def sizes(self) -> list[int]:
        return [size for size, _ in self.primary.calls]

    def answer(self) -> None:
        """The oldest batch without an answer gets one."""
        next(answer for _, answer in self.primary.calls if not answer.called).callback([1, [], [], []])


def test_what_a_turn_brings_goes_at_once_when_nothing_is_on_its_way() -> None:
    desk = Desk()
    desk.turn(3)
    assert desk.sizes() == [3]
    desk.answer()
    desk.turn(1)
    assert desk.sizes() == [3, 1]


def test_small_batches_wait_for_the_one_on_its_way_and_become_one() -> None:
    desk = Desk()
    for messages in (3, 5, 7):
        desk.turn(messages)
    assert desk.sizes() == [3]
    desk.answer()
    assert desk.sizes() == [3, 12]
    desk.answer()
    assert (desk.answered, desk.spool.is_idle) == ([3, 12], True)


def test_a_full_batch_follows_at_once_but_no_third_one() -> None:
    desk = Desk()
    desk.turn(1)
    desk.turn(2 * BATCH_ENTRIES + 4)
    assert desk.sizes() == [1, BATCH_ENTRIES]
    desk.answer()
    assert desk.sizes() == [1, BATCH_ENTRIES, BATCH_ENTRIES], "full, and one is answered"
    desk.answer()
    assert len(desk.sizes()) == 3, "four wait for the full one"
    desk.answer()
    assert desk.sizes()[3:] == [4]
    desk.answer()
    assert desk.spool.is_idle
