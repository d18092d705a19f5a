"""The nodes that are known to live, and the patience with those that cannot be seen any more.

A node that said that it leaves is gone at once. One that is merely missing may be about to announce itself
again, because the server has lost what it knew: it stays for a while.
"""

from __future__ import annotations

from collections.abc import Mapping

from imgateway.interfaces import NodeInfo

__all__ = ("Known",)


class Known:
    """:param patience_s: how long a node that is missing stays, counted from the first look without it.

    Times are seconds on a clock that does not go back.
    """

    def __init__(self, patience_s: float) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        self._patience_s = patience_s
        self._missing: dict[str, float] = {}
        self._spared: set[str] = set()
        self._until = 0.0

    def spare(self, until: float) -> None:
        """The server may have come back with nothing: who is known now and is not seen there goes no earlier
        than `until`, and is missed anew."""
        self._spared = set(self.nodes)
        self._until = until
        self._missing.clear()

    def leaves(self, incarnation: str) -> None:
        """It said so."""
        self._missing.pop(incarnation, None)
        self.nodes.pop(incarnation, None)

    def saw(self, seen: Mapping[str, NodeInfo], now: float) -> float | None:
        """A look at the server. :returns: when to look again because somebody is missing."""
        self._spared = {name for name in self._spared if name not in seen}
        self._missing = {name: self._missing.get(name, now) for name in self.nodes if name not in seen}
        goes = {name: self._goes(name) for name in self._missing}
        stay = {name: self.nodes[name] for name, at in goes.items() if at > now}
        self.nodes = {**stay, **seen}
        return min((goes[name] for name in stay), default=None)

    def _goes(self, name: str) -> float:
        at = self._missing[name] + self._patience_s
        return max(at, self._until) if name in self._spared else at
