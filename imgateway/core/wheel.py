"""A timer wheel: one clock for every link and session of a process.

Arming is an append, cancelling does not exist: what no longer wants its wake-up says so when it is woken. So
an idle connection costs one list slot, and a heartbeat that moves forward with every frame costs nothing at
all.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Generic, TypeVar

__all__ = ("Wheel",)

Item = TypeVar("Item")


class Wheel(Generic[Item]):
    """Items due at a time, to the precision of `tick_s`; never early, at most one tick late.

    Times that it gives back are those of its ticks, and one object for all that share a tick: links keep
    them, and are very many.

    :param tick_s: the width of a slot in seconds; a power of two (0.25, 1, …) keeps the arithmetic exact.
    """

    def __init__(self, now: float, tick_s: float = 0.25) -> None:
        self.tick_s = tick_s
        self._slots: dict[int, tuple[float, list[Item]]] = {}  # by tick, only those that somebody waits for
        self._done = int(now / tick_s)  # the tick that `advance` has handled last
        self.next = now
        """The first tick that was not before the time that `next_tick` was asked for last."""

    def arm(self, due: float, item: Item) -> float:
        """Hand out `item` from the first `advance` at or after `due`. :returns: when that is."""
        tick = max(ceil(due / self.tick_s), self._done + 1)
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = tick * self.tick_s, []
        slot[1].append(item)
        return slot[0]

    def next_tick(self, now: float) -> float:
        """The first tick that is not before `now`, which never goes back."""
        if now > self.next:
            self.next = ceil(now / self.tick_s) * self.tick_s
        return self.next

    def advance(self, now: float) -> list[Item]:
        """Take out the items that are due by `now`, the earliest first. What is armed from here on, however
        late it is, comes with the next tick."""
        upto = int(now / self.tick_s)
        ready: list[Item] = []
        ticks: Iterable[int] = range(self._done + 1, upto + 1)
        if upto - self._done > len(self._slots):  # a long stall
            ticks = sorted(tick for tick in self._slots if tick <= upto)
        for tick in ticks:
            slot = self._slots.pop(tick, None)
            if slot is not None:
                ready += slot[1]
        self._done = max(self._done, upto)
        return ready
