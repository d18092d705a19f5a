"""Messages for who is away, which session listeners want to hear of: they live in nodes, so a node is told.

Of a node's own publishes its own listeners are told. A router has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from imgateway.cluster import Peers
from imgateway.frames import LogKey, Message, address_text
from imgateway.interfaces import NodeInfo

__all__ = ("Offline",)

log = Logger()

MOST, MOST_BYTES = 100, 262_144
"""So much is said to a node at a time, or one message."""


class Offline:
    """:param nodes: gives those that live, by incarnation."""

    def __init__(
        self, peers: Peers, nodes: Callable[[], Mapping[str, NodeInfo]], reactor: IReactorTime
    ) -> None:
        self._peers = peers
        self._nodes = nodes
        self._reactor = reactor
        self._waiting: list[tuple[str, Message]] = []
        self._bytes = 0
        self._turn = 0

    def stored(self, log: LogKey, message: Message) -> None:
        """`IBrokerListener.unattended`: what one turn of the reactor brings goes together."""
        if not self._waiting:
            self._reactor.callLater(0, self._say)
        self._waiting.append((address_text(log.address), message))
        self._bytes += len(message.body)
        if len(self._waiting) >= MOST or self._bytes >= MOST_BYTES:
            self._say()

    def _say(self) -> None:
        messages, self._waiting, self._bytes = tuple(self._waiting), [], 0
        if messages:
            hearing = sorted(name for name, info in self._nodes().items() if info.hears)
            self._turn += 1
            first = self._turn % max(1, len(hearing))
            self._try(messages, hearing[first:] + hearing[:first])

    def _try(self, messages: tuple[tuple[str, Message], ...], nodes: list[str]) -> None:
        """A node that has died just now may still be known: then the next one hears it."""
        if nodes:
            telling = self._peers.stored(nodes[0], messages)
            telling.addCallback(lambda told: None if told else self._try(messages, nodes[1:]))
            telling.addErrback(_untold)


def _untold(failure: Any) -> None:
    log.failure("session listeners could not be told of who is away", failure)
