"""The upkeep of the rings in Redis: what is too old goes, though nobody publishes or reads.

Of all nodes one does it for each primary, as long as it is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from imgateway.brokers.redis.primary import Primary
from imgateway.brokers.redis.turns import Turns

__all__ = ("Sweeping",)

SWEEP = 3
CALL_RINGS = 200
"""Rings that one call looks at: half a millisecond of the server."""
STEP = 2_000
"""Rings that one upkeep looks at, or a tenth of them."""


class _Round:
    """Of one primary: where it goes on."""

    __slots__ = ("after", "is_under_way", "lane", "left")

    def __init__(self) -> None:
        self.is_under_way = False
        self.lane = self.after = self.left = 0


class Sweeping:
    """:param turns: calls the script `ring`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._rounds: dict[Primary, _Round] = {}

    def sweep(self, primary: Primary, rings: int) -> None:
        """Once a second; `rings`: how many it has."""
        at = self._rounds.setdefault(primary, _Round())
        if not at.is_under_way:
            at.is_under_way = True
            at.left = max(STEP, rings // 10)
            self._step(primary, at)

    async def free(self, primary: Primary, ask: Callable[[list[Any]], Awaitable[int]]) -> None:
        """An upkeep of a primary that has no memory left. `ask`: gets there all the same."""
        at = self._rounds.setdefault(primary, _Round())
        at.left = STEP
        while at.left > 0:
            self._looked(at, await ask([SWEEP, at.lane, at.after, CALL_RINGS]))

    def touch(self, primary: Primary, answer: Callable[[Any], None]) -> None:
        """A call that does nothing, but see what the primary is now."""
        self._turns.ask(primary, [SWEEP, 0, 0, 0], answer, changes=False)

    def _step(self, primary: Primary, at: _Round) -> None:
        asked = [SWEEP, at.lane, at.after, CALL_RINGS]
        self._turns.ask(primary, asked, partial(self._swept, primary, at), changes=False)

    def _swept(self, primary: Primary, at: _Round, after: int) -> None:
        self._looked(at, after)
        if at.left > 0:
            self._step(primary, at)
        else:
            at.is_under_way = False

    def _looked(self, at: _Round, after: int) -> None:
        at.left -= CALL_RINGS
        if after < 0:
            at.left = 0  # another node does it
        elif after == 0:
            at.lane, at.after = 1 - at.lane, 0
            at.left = min(at.left, STEP) if at.lane else 0
        else:
            at.after = after
