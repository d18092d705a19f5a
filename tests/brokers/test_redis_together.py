"""Many in one call, and each by itself where that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from imgateway.brokers.redis.together import stopped, together

BAD = ValueError("bad")


class Asked:
    """What is asked of some letters; `calls`: the letters of each call, with its Deferred."""

    def __init__(self, letters: str, again: Callable[[str], str | None] = lambda letter: letter) -> None:
        self.calls: list[tuple[str, Deferred[Any]]] = []
        self.heard: list[Any] = []
        self.over: list[Any] = []
        together(letters, self._call, self._answered, self._failed, again).addBoth(self.over.append)

    def _call(self, letters: Sequence[str]) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        self.calls.append(("".join(letters), deferred))
        return deferred

    def _answered(self, answer: Any, letters: Sequence[str]) -> None:
        if answer is BAD:
            raise answer
        self.heard.append((answer, "".join(letters)))

    def _failed(self, failure: Failure, letter: str) -> None:
        self.heard.append((failure.value, letter))

    def say(self, answer: Any) -> None:
        """To the call that waits longest."""
        next(one for _, one in self.calls if not one.called).callback(answer)

    def fail(self, why: Exception = BAD) -> None:
        next(one for _, one in self.calls if not one.called).errback(why)


def test_all_are_asked_in_one() -> None:
    asked = Asked("abc")
    assert asked.over == []
    asked.say("yes")
    assert [letters for letters, _ in asked.calls] == ["abc"]
    assert (asked.heard, asked.over) == ([("yes", "abc")], [None])


def test_nobody_is_asked_nothing() -> None:
    asked = Asked("")
    assert (asked.calls, asked.over) == ([], [None])


def test_one_that_is_bad_fails_alone() -> None:
    asked = Asked("abc")
    asked.fail()
    assert [letters for letters, _ in asked.calls] == ["abc", "a", "b", "c"]
    asked.say(1)
    asked.fail()
    assert asked.over == []
    asked.say(3)
    assert asked.heard == [(1, "a"), (BAD, "b"), (3, "c")]
    assert asked.over == [[None] * 3]


def test_whom_it_is_asked_of_by_itself_is_looked_up_again() -> None:
    asked = Asked("abc", {"a": "A", "b": None, "c": "c"}.get)
    asked.fail()
    assert [letters for letters, _ in asked.calls] == ["abc", "A", "c"]


@pytest.mark.parametrize("apart", [False, True])
def test_a_broker_that_stops_asks_nothing_more(apart: bool) -> None:
    asked = Asked("ab")
    if apart:
        asked.fail()
        asked.say(1)
    asked.fail(CancelledError())
    assert len(asked.calls) == (3 if apart else 1)
    assert asked.heard == ([(1, "a")] if apart else [])
    assert asked.over[0].check(CancelledError)
    assert stopped(asked.over[0]) is None


@pytest.mark.parametrize("apart", [False, True])
def test_what_goes_wrong_with_an_answer_is_not_hidden(apart: bool) -> None:
    asked = Asked("ab")
    if apart:
        asked.fail()
        asked.say(1)
    asked.say(BAD)
    assert asked.over[0].value is BAD
    with pytest.raises(ValueError, match="bad"):
        stopped(asked.over[0])
