"""Draining: everybody is asked to go elsewhere, at a pace that the other nodes can take.

A link's turn: it is not read any more, its publishes get their outcomes, then it gets Bye with a jittered
time to come back and its bytes are flushed. Whoever is still there at the deadline is dropped; it has lost
nothing that was acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from imgateway.core.handshake import LinkState
from imgateway.core.retry import spread
from imgateway.errors import CloseCode
from imgateway.node.exchange import Exchange
from imgateway.node.link import Link, Pause

__all__ = ("Drain",)

TICK_S = 0.05
RETRY_S = 3.0
"""The middle of the told retry times: long enough for a supervisor to start the next process."""


class Drain:
    """One drain of all links of an exchange.

    :param rate: links per second that get their turn.
    :param within_s: after this long what is left is dropped.
    :param random: floats in [0, 1) for the jitter.
    """

    def __init__(
        self,
        exchange: Exchange,
        rate: int,
        within_s: float,
        reactor: IReactorTime,
        random: Callable[[], float],
    ) -> None:
        self.done: Deferred[None] = Deferred()
        self._exchange = exchange
        self._rate = rate
        self._until = reactor.seconds() + within_s
        self._reactor = reactor
        self._random = random
        self._turns = 0.0
        self._waiting = list(exchange.links)
        self._leaving: list[Link] = []
        self._tick()

    def hurry(self) -> None:
        """Drop everybody now."""
        self._until = self._reactor.seconds()
        self._rate = 1_000_000

    def _tick(self) -> None:
        exchange = self._exchange
        if self._reactor.seconds() >= self._until:
            for link in exchange.links:
                link.drop(CloseCode.GOING_AWAY, "the node stopped")
            self.done.callback(None)
            return
        self._turns += self._rate * TICK_S
        # Who has gone of its own accord takes no turn.
        while self._waiting and (self._turns >= 1 or self._waiting[-1].state is LinkState.CLOSED):
            link = self._waiting.pop()
            if link.state is not LinkState.CLOSED:
                self._turns -= 1
                link.pause(Pause.DRAIN)
                self._leaving.append(link)
        self._leaving = [link for link in self._leaving if not self._leave(link)]
        if self._waiting or self._leaving or exchange.closing:
            self._reactor.callLater(TICK_S, self._tick)
        else:
            self.done.callback(None)

    def _leave(self, link: Link) -> bool:
        """Say Bye if every publish of the link has its outcome."""
        session = link.session
        if session is not None and session.publishing:
            return False
        link.close(CloseCode.GOING_AWAY, "the node is going away", spread(self._random, RETRY_S, 0.9))
        return True
