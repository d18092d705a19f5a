"""What there is one of for each reactor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

__all__ = ("one_per_reactor",)

T = TypeVar("T")


def one_per_reactor(make: Callable[[Any], T]) -> Callable[[Any], T]:
    """``reactor -> T``: made when it is first asked for. It must not hold its reactor but weakly, or the
    reactors of tests would live for ever."""
    made: WeakKeyDictionary[Any, T] = WeakKeyDictionary()

    def of(reactor: Any) -> T:
        found = made.get(reactor)
        if found is None:
            found = made[reactor] = make(reactor)
        return found

    return of
