"""A timer wheel: one clock for every link and session of a process.

Arming is an append, cancelling does not exist: what no longer wants its wake-up says so when it is woken. So
an idle connection costs one list slot, and a heartbeat that moves forward with every frame costs nothing at
all.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ("Wheel",)

Item = TypeVar("Item")


class Wheel(Generic[Item]):
    """Items due at a time, to the precision of `tick_s`; never early, at most one tick late.

    :param tick_s: the width of a slot in seconds; a power of two (0.25, 1, …) keeps the arithmetic exact.
    :param slots: the number of slots; what is due after a full turn waits in its slot for its round.
    """

    def __init__(self, now: float, tick_s: float = 0.25, slots: int = 512) -> None:
        self.tick_s = tick_s
        self._slots: list[list[tuple[int, Item]]] = [[] for _ in range(slots)]
        self._start = now
        self._done = 0  # ticks that `advance` has handled

    def arm(self, due: float, item: Item) -> None:
        """Hand out `item` from the first `advance` at or after `due`."""
        ticks = (due - self._start) / self.tick_s
        tick = int(ticks)
        tick = max(tick + (tick < ticks), self._done + 1)
        self._slots[tick % len(self._slots)].append((tick, item))

    def advance(self, now: float) -> list[Item]:
        """Take out the items that are due by `now`. What is armed from here on, however late it is, comes
        with the next tick."""
        upto = int((now - self._start) / self.tick_s)
        # After a long stall each slot is still visited once only.
        first = max(self._done + 1, upto - len(self._slots) + 1)
        ready: list[Item] = []
        for tick in range(first, upto + 1):
            index = tick % len(self._slots)
            slot = self._slots[index]
            if slot:
                ready += [item for due, item in slot if due <= upto]
                self._slots[index] = [waiting for waiting in slot if waiting[0] > upto]
        self._done = upto
        return ready
