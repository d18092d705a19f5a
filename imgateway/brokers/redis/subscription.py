"""What other nodes, and scripts, tell this node: the channel ``ig:node:<incarnation>`` of one primary.

Every second the node says a word to itself, through the line that writes; three that were not heard in turn
mean that the connection is half-open, or at a server that is the primary no more, and it is made anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from imgateway.brokers.redis.connection import Connection
from imgateway.brokers.redis.packing import unpack
from imgateway.brokers.redis.persistent import Persistent
from imgateway.core.retry import RetryPolicy

__all__ = ("Subscription",)

MISSED = 3


class Subscription(Persistent):
    """Everything by keyword; see `Persistent` for the others.

    :param introduce: tells a new connection who we are.
    :param echo: says a number to ourselves; returns False if the primary is away.
    :param heard: called with each item ``[kind, …]``, strings as bytes.
    :param renewed: called when it listens (again): what was said in between is lost.
    :param state: called with (up, failure or None) when it listens, when it is lost and after every try.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        connect: Callable[[], Awaitable[Connection]],
        introduce: Callable[[Connection], Awaitable[None]],
        incarnation: str,
        wait: RetryPolicy,
        echo: Callable[[int], bool],
        heard: Callable[[list[Any]], None],
        renewed: Callable[[], None],
        state: Callable[[bool, Failure | None], None],
    ) -> None:
        super().__init__(reactor=reactor, connect=connect, wait=wait)
        self._introduce = introduce
        self._channel = f"ig:node:{incarnation}"
        self._echo = echo
        self._heard = heard
        self._renewed = renewed
        self._state = state
        self._missed = 0
        self._subscribed: Deferred[None] | None = None
        self.number = 0
        """Of the last echo asked for."""
        self.echoed = 0
        """Of the last one heard."""

    def beat(self) -> int:
        """Ask for an echo; its number. What was told before it is heard before it."""
        self.number += 1
        if self._echo(self.number):
            self._missed += 1
        return self.number

    def tick(self) -> None:
        """Once a second."""
        if self.is_up:
            if self._missed >= MISSED:
                self.drop(TimeoutError(f"{MISSED} words to ourselves were not heard"))
            else:
                self.beat()

    async def _greet(self, connection: Connection) -> None:
        await self._introduce(connection)
        self._subscribed = Deferred()
        connection.pushed = self._pushed
        connection.send(_ignored, "SUBSCRIBE", self._channel)
        await self._subscribed

    def _opened(self) -> None:
        self._attempt = self._missed = 0
        self._state(True, None)
        self._renewed()

    def _pushed(self, reply: Any) -> None:
        subscribed = self._subscribed
        if subscribed is not None and not subscribed.called:
            if isinstance(reply, Exception):
                subscribed.errback(reply)
            else:
                subscribed.callback(None)
        elif type(reply) is list and reply[0] == b"message":
            try:
                self._take(unpack(reply[2]))
            except Exception:  # whatever somebody published there must not cost the connection
                self.log.failure("a hint failed")

    def _take(self, items: list[list[Any]]) -> None:
        for item in items:
            if item[0] == b"e":
                self._missed = 0
                self.echoed = int(item[1])
            else:
                self._heard(item)

    def _broken(self, failure: Failure) -> None:
        self._state(False, failure)


def _ignored(reply: Any) -> None:
    pass
