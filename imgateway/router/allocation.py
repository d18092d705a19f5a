"""Which node a client shall use: the strategies, and what is the same for all of them.

A strategy orders nodes; `Allocation` says which nodes count, puts the asked region first, spreads the answer
over zones and remembers what it gave away since a node was last heard of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from math import log
from typing import NamedTuple

from msgspec.structs import replace
from zope.interface import implementer

from imgateway.interfaces import IAllocation, NodeInfo, NodeState, Served

__all__ = (
    "MOST",
    "Allocation",
    "ConsistentHash",
    "Hash",
    "LeastConnections",
    "Place",
    "RoundRobin",
    "Weighted",
)

MOST = 5
"""Endpoints of one answer."""

GOLDEN = 0.6180339887498949
"""Its multiples, without their whole parts, lie as evenly on [0, 1) as any sequence's, wherever one stops."""


def _by_name(nodes: Iterable[NodeInfo]) -> list[NodeInfo]:
    return sorted(nodes, key=lambda node: node.node)


def _unit(*texts: str) -> float:
    """A number in (0, 1) that is as good as drawn, always the same for the same texts."""
    digest = blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) + 0.5) / 2**64


def _rendezvous(nodes: Iterable[NodeInfo], key: str) -> list[NodeInfo]:
    """Each node draws for the key, and the heavier draw better: highest random weight. A node that comes
    takes its share from all others, and nothing moves between those."""

    def draw(node: NodeInfo) -> float:
        return -log(_unit(key, node.node)) / node.weight

    return sorted(_by_name(nodes), key=draw)


@implementer(IAllocation)
class RoundRobin:
    """Each node in its turn, whatever its weight."""

    name = "round-robin"

    def choose(self, nodes: Sequence[NodeInfo], key: str, turn: int) -> Sequence[NodeInfo]:
        ordered = _by_name(nodes)
        first = turn % len(ordered) if ordered else 0
        return ordered[first:] + ordered[:first]


@implementer(IAllocation)
class Hash:
    """A user's node by the number of nodes: even, and nearly everybody moves when a node comes or goes."""

    name = "hash"

    def choose(self, nodes: Sequence[NodeInfo], key: str, turn: int) -> Sequence[NodeInfo]:
        ordered = _by_name(nodes)
        first = int(_unit(key) * len(ordered))
        return ordered[first:] + ordered[:first]


@implementer(IAllocation)
class ConsistentHash:
    """A user's node by weight; when a node comes or goes only its own share of the users moves."""

    name = "consistent-hash"

    def choose(self, nodes: Sequence[NodeInfo], key: str, turn: int) -> Sequence[NodeInfo]:
        return _rendezvous(nodes, key)


@implementer(IAllocation)
class Weighted:
    """Each node as often as its weight says, evenly at every time."""

    name = "weighted"

    def choose(self, nodes: Sequence[NodeInfo], key: str, turn: int) -> Sequence[NodeInfo]:
        ordered = _by_name(nodes)
        point = turn * GOLDEN % 1.0 * sum(node.weight for node in ordered)
        for first in ordered:
            point -= first.weight
            if point < 0:
                break
        else:
            return ordered[::-1]  # no nodes, or the rounding error of the last
        # Who cannot reach the first goes on by weight, too.
        rest = [node for node in ordered if node is not first]
        return [first, *_rendezvous(rest, str(turn))]


@implementer(IAllocation)
class LeastConnections:
    """First the node that has the fewest sessions for its weight."""

    name = "least-connections"

    def choose(self, nodes: Sequence[NodeInfo], key: str, turn: int) -> Sequence[NodeInfo]:
        return sorted(_by_name(nodes), key=lambda node: (node.sessions + 1) / node.weight)


class Place(NamedTuple):
    """A node, and the address of it that fits."""

    node: NodeInfo
    served: Served


class Allocation:
    """Chooses among the nodes that there are.

    :param nodes: `IGateway.nodes`.
    :param start: where the turns begin: another number for each router, so that several do not begin alike.
    """

    def __init__(
        self, strategy: IAllocation, nodes: Callable[[], Mapping[str, NodeInfo]], start: int = 0
    ) -> None:
        self._strategy = strategy
        self._nodes = nodes
        self._turn = start
        self._given: dict[str, tuple[NodeInfo, int]] = {}

    def choose(self, key: str, protocol: str, transport: str = "", region: str = "") -> tuple[Place, ...]:
        """At most five places, the best first; none: no node is ready that serves this.

        :param key: the user. :param transport: empty: whichever the node names first.
        """
        nodes = self._nodes()
        # Two of one name: a node that was started again, and whose former life is not forgotten yet.
        newest: dict[str, NodeInfo] = {}
        for info in nodes.values():
            known = newest.get(info.node)
            if known is None or _age(known) < _age(info):
                newest[info.node] = info
        places: dict[str, list[Place]] = {}
        candidates: list[NodeInfo] = []
        for info in newest.values():
            if info.state is not NodeState.READY or info.weight <= 0:
                continue
            fitting = [
                Place(info, served)
                for served in info.served
                if served.protocol == protocol and transport in ("", served.transport)
            ]
            if fitting:
                places[info.node] = fitting
                candidates.append(info)
        loaded = [self._loaded(info) for info in candidates]
        near = [info for info in loaded if info.region == region] if region else loaded
        far = [info for info in loaded if info.region != region] if region else []
        turn, self._turn = self._turn, self._turn + 1
        ordered = [
            info
            for group in (near, far)
            if group
            for info in _spread(self._strategy.choose(tuple(group), key, turn))
        ]
        found = [places[info.node][0] for info in ordered[:MOST]]
        for info in ordered:  # few nodes: what else they listen on
            found += places[info.node][1:]
        if found:
            self._give(found[0].node)
        self._forget(nodes)
        return tuple(found[:MOST])

    def _loaded(self, info: NodeInfo) -> NodeInfo:
        """The node with those whom we sent to it and who are not in its announcement yet: it speaks up every
        few seconds, and all who ask in between would go to the one that was the emptiest."""
        said, given = self._given.get(info.incarnation, (info, 0))
        return replace(info, sessions=info.sessions + given) if given and said == info else info

    def _give(self, info: NodeInfo) -> None:
        said, given = self._given.get(info.incarnation, (info, 0))
        self._given[info.incarnation] = (info, given + 1 if said == info else 1)

    def _forget(self, nodes: Mapping[str, NodeInfo]) -> None:
        if len(self._given) > len(nodes):
            self._given = {name: one for name, one in self._given.items() if name in nodes}


def _age(info: NodeInfo) -> tuple[int, str]:
    return info.started_ms, info.incarnation


def _spread(ordered: Sequence[NodeInfo]) -> list[NodeInfo]:
    """In the same order as far as may be, but first one of each zone: a zone that fails must not take all
    endpoints of an answer with it."""
    first: list[NodeInfo] = []
    rest: list[NodeInfo] = []
    zones = set()
    for info in ordered:
        (rest if info.zone and info.zone in zones else first).append(info)
        zones.add(info.zone)
    return first + rest
