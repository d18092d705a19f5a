"""Garbage collection in a process that holds very many objects for very long.

Python's collector looks at all objects again whenever a quarter of them is new: with 200,000 sessions that is
1.2 million objects and most of a second in which nobody is served, and it finds nothing, for what ends here
is freed by its count of references. So whatever has outlived one look is put aside, and a look is at no more
than `STEP` new objects. Only if there are more than sessions explain, because somebody's code leaves cycles
behind, all of them are looked at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

__all__ = ("Garbage",)

STEP = 10_000
"""New objects between two looks, which take a few milliseconds. What a message needs dies with it, and is not
counted."""
PER_SESSION = 20
"""Objects that a new session may bring: one over TCP has 6, one that is in many rooms more."""
MORE = 300_000
"""So many that no session explains are put aside before all are looked at: some 50 MB if it is garbage."""


class Garbage:
    """The collector of this process, from `start` to `stop`.

    :param sessions: how many there are now.
    :param later: runs what it is given in a moment, for in the midst of a look there can be no other. Called
        in whatever thread the look is, a store's too.
    """

    def __init__(self, sessions: Callable[[], int], later: Callable[[Callable[[], None]], object]) -> None:
        self._sessions = sessions
        self._later = later
        self._threshold = gc.get_threshold()
        self._aside = 0  # objects put aside, at most: those that have ended are counted, too
        self._explained = 0  # objects, when all of them were looked at last
        self._counted = 0  # sessions, then
        self._is_asked = False  # all of them will be looked at

    def start(self) -> None:
        """What was made until now lives as long as the process."""
        gc.collect()
        gc.freeze()
        self._explain()
        gc.set_threshold(STEP, 20, 50)
        gc.callbacks.append(self._looked)

    def stop(self) -> None:
        """As it was before."""
        if self._looked not in gc.callbacks:
            return
        gc.callbacks.remove(self._looked)
        gc.set_threshold(*self._threshold)
        gc.unfreeze()

    def _looked(self, phase: str, info: object) -> None:
        if phase != "stop":
            return
        gc.freeze()
        self._aside += STEP
        if self._aside > self._limit() and not self._is_asked:
            self._aside = gc.get_freeze_count()
            if self._aside > self._limit():
                self._is_asked = True
                self._later(self._look_at_all)

    def _limit(self) -> int:
        # Fewer sessions than then allow for no less: what they had is in what was explained.
        return self._explained + MORE + PER_SESSION * max(0, self._sessions() - self._counted)

    def _look_at_all(self) -> None:
        gc.unfreeze()
        gc.collect()  # and puts aside what is left
        self._explain()
        self._is_asked = False

    def _explain(self) -> None:
        self._aside = self._explained = gc.get_freeze_count()
        self._counted = self._sessions()
