"""What one turn asks of a primary: one call, numbered, cut where it is too large."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from imgateway.brokers.redis import turns as module
from imgateway.brokers.redis.packing import unpack
from imgateway.brokers.redis.turns import Turns


class FakePrimary:
    """Keeps calls; the test answers them."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, Any]] = []
        self.open: list[Deferred[Any]] = []

    def call(self, script: str, node: str, number: int, packed: bytes) -> Deferred[Any]:
        assert (script, node) == ("ring", "n.1")
        self.calls.append((number, unpack(packed)))
        self.open.append(Deferred())
        return self.open[-1]


class Desk:
    def __init__(self) -> None:
        self.clock = Clock()
        self.primary, self.other = FakePrimary(), FakePrimary()
        self.turns = Turns(reactor=self.clock, script="ring", node="n.1", law=lambda: [b"law"])
        self.answers: list[Any] = []

    def ask(self, *asked: Any, **more: Any) -> None:
        self.turns.ask(more.pop("at", self.primary), list(asked), self.answers.append, **more)


def test_a_turn_is_one_call_of_each_primary() -> None:
    desk = Desk()
    desk.ask(1)
    desk.ask(2, at=desk.other)
    desk.ask(3)
    assert desk.primary.calls == []
    desk.clock.advance(0)
    assert (desk.primary.calls, desk.other.calls) == (
        [(1, [[], b"law", [[1], [3]]])],
        [(1, [[], b"law", [[2]]])],
    )
    desk.ask(4)
    desk.clock.advance(0)
    assert desk.turns.waiting == 4
    desk.primary.open[0].callback(["a", "b"])
    assert (desk.answers, desk.turns.waiting) == (["a", "b"], 2)
    desk.primary.open[1].callback(["c"])
    desk.ask(5)
    desk.clock.advance(0)
    assert desk.primary.calls[1:] == [(2, [[], b"law", [[4]]]), (3, [[1, 2], b"law", [[5]]])], (
        "answers that came"
    )
    desk.clock.advance(1)
    assert len(desk.primary.calls) == 3


def test_what_may_be_asked_again_has_no_number() -> None:
    desk = Desk()
    desk.ask(1, changes=False)
    desk.turns.flush()
    desk.ask(2, changes=False)
    desk.ask(3)
    desk.clock.advance(0)
    assert [number for number, _ in desk.primary.calls] == [0, 1]
    for answer in desk.primary.open:
        answer.callback([None] * 2 if answer is desk.primary.open[1] else [None])
    desk.ask(4)
    desk.clock.advance(0)
    assert desk.primary.calls[2] == (2, [[1], b"law", [[4]]])


def test_calls_are_cut_by_count_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALL_ENTRIES", 3)
    monkeypatch.setattr(module, "CALL_BYTES", 100)
    desk = Desk()
    for n in range(7):
        desk.ask(n)
    assert [asked for _, (_, _, asked) in desk.primary.calls] == [[[0], [1], [2]], [[3], [4], [5]]]
    desk.ask(7, size=150)
    desk.ask(8, size=60)
    assert desk.turns.waiting_bytes == 210
    desk.clock.advance(0)
    assert [asked for _, (_, _, asked) in desk.primary.calls[2:]] == [[[6]], [[7]], [[8]]]
    assert [number for number, _ in desk.primary.calls] == [1, 2, 3, 4, 5]
    for answer in desk.primary.open:
        answer.callback([None] * (3 if answer in desk.primary.open[:2] else 1))
    assert (desk.turns.waiting, desk.turns.waiting_bytes) == (0, 0)


def test_while_many_calls_are_under_way_what_is_asked_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CALLS", 2)
    monkeypatch.setattr(module, "CALL_ENTRIES", 3)
    desk = Desk()
    for n in range(10):
        desk.ask(n)
        if n < 2:
            desk.clock.advance(0)
    desk.clock.advance(0)
    assert [asked for _, (_, _, asked) in desk.primary.calls] == [[[0]], [[1]]]
    desk.primary.open[0].callback(["a"])
    desk.clock.advance(0)
    assert desk.primary.calls[2:] == [(3, [[1], b"law", [[2], [3], [4]]])]
    desk.primary.open[1].callback(["b"])
    desk.primary.open[2].callback(["c", "d", "e"])
    desk.clock.advance(0)
    assert [asked for _, (_, _, asked) in desk.primary.calls[3:]] == [[[5], [6], [7]], [[8], [9]]]
    assert desk.answers == ["a", "b", "c", "d", "e"]
    for n in range(9):
        desk.ask(n)
    assert len(desk.primary.calls) == 5
    desk.turns.stop()
    assert len(desk.primary.calls) == 8, "what was asked goes out before the end"


def test_an_answer_that_raises_costs_nobody_anything(flush_logged_errors: Any) -> None:
    desk = Desk()

    def fail(answer: Any) -> None:
        raise ZeroDivisionError

    desk.turns.ask(desk.primary, [1], fail)  # type: ignore[arg-type]
    desk.ask(2)
    desk.clock.advance(0)
    desk.primary.open[0].callback(["a", "b"])
    assert desk.answers == ["b"]
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_call_that_fails_is_logged_and_no_longer_waits(flush_logged_errors: Any) -> None:
    desk = Desk()
    desk.ask(1, size=5)
    desk.clock.advance(0)
    desk.ask(2)
    desk.clock.advance(0)
    desk.primary.open[0].errback(ValueError("a script is wrong"))
    desk.primary.open[1].errback(CancelledError())
    assert (desk.answers, desk.turns.waiting, desk.turns.waiting_bytes) == ([], 0, 0)
    assert len(flush_logged_errors(ValueError)) == 1
    desk.ask(3)
    desk.clock.advance(0)
    desk.primary.open[2].callback([])
    assert len(flush_logged_errors(ValueError)) == 1, "an answer that does not fit"


def test_stop_sends_what_waits_and_nothing_after_it() -> None:
    desk = Desk()
    desk.ask(1)
    desk.turns.stop()
    desk.turns.stop()
    assert len(desk.primary.calls) == 1
    desk.ask(2)
    desk.clock.advance(1)
    assert (len(desk.primary.calls), desk.clock.getDelayedCalls()) == (1, [])
