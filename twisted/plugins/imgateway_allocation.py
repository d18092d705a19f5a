"""The ways to choose a node that come with imgateway, for ``getPlugins(IAllocation)``."""

from functools import cached_property
from typing import Any

from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer


class _Strategy:
    """A strategy by the name of its class, which is imported when it is first used."""

    def __init__(self, name: str, strategy: str) -> None:
        self.name = name
        self._class = f"imgateway.router.allocation.{strategy}"

    @cached_property
    def _strategy(self) -> Any:
        return namedAny(self._class)()

    def choose(self, nodes: Any, key: str, turn: int) -> Any:
        return self._strategy.choose(nodes, key, turn)


# By name, so that this file's own imports stay those of any twistd.
implementer(IPlugin, namedAny("imgateway.interfaces.IAllocation"))(_Strategy)

round_robin = _Strategy("round-robin", "RoundRobin")
hash_ = _Strategy("hash", "Hash")
consistent_hash = _Strategy("consistent-hash", "ConsistentHash")
weighted = _Strategy("weighted", "Weighted")
least_connections = _Strategy("least-connections", "LeastConnections")
