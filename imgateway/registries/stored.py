"""How a node stands in a registry: JSON, readable by older and newer versions.

Fields that this version does not know are ignored, a state that it does not know counts as busy. What is no
node at all is left out, with one line in the log for each different garbage.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from twisted.logger import Logger

from imgateway.interfaces import NodeInfo, NodeState

__all__ = ("MAX_BYTES", "Reader", "write")

MAX_BYTES = 65_536
"""What is longer is no node; ours have a few hundred bytes."""
SHOWN_BYTES = 80

log = Logger()


def write(info: NodeInfo) -> bytes:
    """The node as it is stored."""
    return msgspec.json.encode(info)


def read(incarnation: str, data: bytes) -> NodeInfo:
    """:raises ValueError: it is no node, or another one than stands above it."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes, more than {MAX_BYTES:,}")
    fields = msgspec.json.decode(data, type=dict[str, object])
    if fields.get("state", NodeState.READY) not in list(NodeState):
        fields["state"] = NodeState.BUSY
    info = msgspec.convert(fields, NodeInfo)
    if info.incarnation != incarnation:
        raise ValueError("it names another incarnation")
    if info.weight < 0 or info.sessions < 0:
        raise ValueError("a weight or a number of sessions below 0")
    return info


class Reader:
    """Reads nodes, and says what it cannot read, once for each.

    :param where: for the log, such as ``redis 127.0.0.1:6379``.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._known: dict[str, tuple[bytes, NodeInfo | None]] = {}

    def nodes(self, stored: Mapping[str, bytes]) -> dict[str, NodeInfo]:
        """The nodes among what stands in the registry, by incarnation."""
        known = self._known
        # What is as it was is not parsed again: most of it, at each look.
        self._known = {
            name: known[name] if name in known and known[name][0] == data else (data, self._read(name, data))
            for name, data in stored.items()
        }
        return {name: info for name, (_, info) in self._known.items() if info is not None}

    def _read(self, name: str, data: bytes) -> NodeInfo | None:
        try:
            return read(name, data)
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            begin = data[:SHOWN_BYTES]
            log.warn(
                "something in the registry is no node",
                registry=self._where,
                key=name,
                why=str(error),
                begin=begin,
            )
            return None
