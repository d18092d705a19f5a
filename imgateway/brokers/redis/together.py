"""Many in one call of a script; and each by itself where that fails, so that one that is bad does not keep
the others from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.python.failure import Failure

__all__ = ("first", "stopped", "together")

One = TypeVar("One")


def together(
    items: Sequence[One],
    call: Callable[[Sequence[One]], Deferred[Any]],
    answered: Callable[[Any, Sequence[One]], Any],
    failed: Callable[[Failure, One], Any],
    again: Callable[[One], One | None] = lambda one: one,
) -> Deferred[Any]:
    """Fires when all of them have had their answers.

    :param call: what is asked of all, or of one.
    :param answered: called with the answer and of whom it is.
    :param failed: called with why, which is logged, and of whom that is: it was asked by itself.
    :param again: of whom it is asked by itself; None: of this one not any more.
    :raises CancelledError: (in the Deferred) the broker has stopped. :raises Exception: what a callback
        raised.
    """

    def apart(failure: Failure) -> Any:
        if failure.check(CancelledError):
            return failure
        if len(items) == 1:
            return failed(failure, items[0])
        rest = [one for one in map(again, items) if one is not None]
        alone = [together([one], call, answered, failed, again) for one in rest]
        return gatherResults(alone, consumeErrors=True).addErrback(first)

    return call(items).addCallbacks(answered, apart, (items,)) if items else succeed(None)


def first(failure: Failure) -> Failure:
    """The failure itself, not that something failed."""
    found: Failure = failure.value.subFailure  # type: ignore[union-attr]
    return found


def stopped(failure: Failure) -> None:
    """The broker has stopped, and nobody waits for this any more; anything else stays a failure."""
    failure.trap(CancelledError)
