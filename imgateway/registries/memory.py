"""The registry of one process: its nodes, or routers, meet on one board; a single node sees itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from imgateway.interfaces import IRegistry, NodeInfo

__all__ = ("Board", "MemoryRegistry")

Changed = Callable[[Mapping[str, NodeInfo]], None]


class Board:
    """What the registries of one process share."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        self.readers: list[Changed] = []

    def post(self, incarnation: str, info: NodeInfo | None) -> None:
        """The node is there, or (None) it is not; all readers are told if that is new."""
        if self.nodes.get(incarnation) == info:
            return
        if info is None:
            del self.nodes[incarnation]
        else:
            self.nodes[incarnation] = info
        for read in tuple(self.readers):
            read(dict(self.nodes))


@implementer(IRegistry)
class MemoryRegistry:
    """One node's, or one router's, view of a board; without one it has its own."""

    name = "memory"

    def __init__(self, board: Board | None = None) -> None:
        self._board = board if board is not None else Board()
        self._changed: Changed | None = None
        self._incarnation = ""

    def start(self, changed: Changed, healthy: Callable[[bool, str], None]) -> Deferred[None]:
        """Begin to watch."""
        self._changed = changed
        self._board.readers.append(changed)
        healthy(True, "")
        changed(dict(self._board.nodes))
        return succeed(None)

    def announce(self, info: NodeInfo) -> Deferred[None]:
        """This node is there, or has changed."""
        if self._incarnation != info.incarnation:
            self.withdraw()
        self._incarnation = info.incarnation
        self._board.post(info.incarnation, info)
        return succeed(None)

    def withdraw(self) -> Deferred[None]:
        """This node leaves."""
        incarnation, self._incarnation = self._incarnation, ""
        self._board.post(incarnation, None)
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """Withdraw, and hear no more."""
        changed, self._changed = self._changed, None
        if changed is not None:
            self._board.readers.remove(changed)
        return self.withdraw()
