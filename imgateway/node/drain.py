"""Draining: everybody is asked to go elsewhere, at a pace that the other nodes can take.

A link's turn: it is not read any more, its publishes get their outcomes, then it gets Bye with a jittered
time to come back, and with where else it may go, and its bytes are flushed.

A node drains because it stops: then nobody comes in, and whoever is still there at the deadline is dropped;
it has lost nothing that was acknowledged. Or because it is told to: then it goes on running, those who come
are sent away at once, and it may be told to take them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import inf

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from imgateway.cluster.elsewhere import elsewhere
from imgateway.core.counters import Counters
from imgateway.core.handshake import LinkState
from imgateway.core.retry import spread
from imgateway.errors import CloseCode
from imgateway.interfaces import NodeInfo
from imgateway.node.exchange import Exchange
from imgateway.node.link import Link, Pause

__all__ = ("Drain", "Drains", "Farewell")

log = Logger()

TICK_S = 0.05
IDLE_S = 1.0
"""How often a node that has sent everybody away looks for logins that were under way when it began."""
LATE_S = 0.25
"""A process that was busy makes up for so much of its pace, and no more: the others take no bursts."""
RETRY_S = 3.0
"""The middle of the told retry times when there is no other node: long enough for a supervisor to start the
next process."""
MOVE_S = 0.5
"""The same when there is one: the pace has spread them already."""
REFUSED_S = 10.0
"""The same for who came while the only node drains: it may do so for long."""


class Farewell:
    """Says Bye to clients that shall go elsewhere.

    :param nodes: gives those that live, by incarnation.
    :param random: floats in [0, 1).
    """

    def __init__(
        self,
        nodes: Callable[[], Mapping[str, NodeInfo]],
        incarnation: str,
        random: Callable[[], float],
        counters: Counters,
    ) -> None:
        self._nodes = nodes
        self._incarnation = incarnation
        self._random = random
        self._counters = counters

    def send_away(self, link: Link, alone_s: float = RETRY_S) -> None:
        """Bye, with other places. `alone_s`: about when it shall try again here if there are none."""
        self._counters.drained += 1
        connection, wire = link.connection, link.wire_name
        places = elsewhere(
            self._nodes().values(),
            self._incarnation,
            wire,
            connection.carrier,
            connection.secure,
            self._random,
        )
        wait_s = spread(self._random, MOVE_S if places else alone_s, 0.9)
        link.close(CloseCode.GOING_AWAY, "the node is going away", wait_s, places)


class Drain:
    """One drain of the links of an exchange, from `begin` on.

    :param rate: links per second that get their turn.
    :param within_s: after this long what is left is dropped, and `done` fires as soon as nothing is; inf: it
        goes on, with whoever comes, until `stop`.
    """

    def __init__(
        self, exchange: Exchange, rate: int, within_s: float, reactor: IReactorTime, farewell: Farewell
    ) -> None:
        self.done: Deferred[None] = Deferred()
        self.rate = rate
        self._exchange = exchange
        self._reactor = reactor
        self._farewell = farewell
        self._now = reactor.seconds()
        self._until = self._now + within_s
        self._turns = rate * TICK_S
        self._waiting = self._find()
        self._leaving: list[Link] = []
        self._ticking: IDelayedCall | None = None
        self._is_over = False

    def begin(self) -> None:
        """The first turns are taken. Who hears of a client that left may end this drain at once, so whoever
        asked for it must know it by now."""
        self._tick()

    @property
    def left(self) -> int:
        """Links that have not been sent away yet."""
        return len(self._leaving) + sum(link.state is not LinkState.CLOSED for link in self._waiting)

    def hurry(self) -> None:
        """Drop everybody now."""
        self._until = self._reactor.seconds()

    def stop(self) -> None:
        """Who has not been told to go stays. Callable from within a turn."""
        self._is_over = True
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        leaving, self._leaving, self._waiting = self._leaving, [], []
        for link in leaving:
            _safely(link, link.resume, Pause.DRAIN)

    def _find(self) -> list[Link]:
        """Whose turn is to come. Who has not logged in has none while the node goes on: its greeting is
        answered."""
        links: Iterable[Link] = self._exchange.links
        if self._until == inf:
            links = (link for link in links if link.session is not None)
        return list(links)

    def _tick(self) -> None:
        self._ticking = None
        exchange, now = self._exchange, self._reactor.seconds()
        if now >= self._until:
            for link in exchange.links:
                _safely(link, link.drop, CloseCode.GOING_AWAY, "the node stopped")
            self.done.callback(None)
            return
        self._turns += self.rate * min(now - self._now, LATE_S)
        self._now = now
        self._take_turns()
        self._leaving = [link for link in self._leaving if not self._leave(link)]
        if self._is_over:
            return
        wait_s = TICK_S
        if not self._waiting and not self._leaving:
            if self._until < inf and not exchange.closing:
                self.done.callback(None)
                return
            if self._until == inf:
                self._waiting = self._find()
                self._turns = 0.0
                wait_s = TICK_S if self._waiting else IDLE_S
        self._ticking = self._reactor.callLater(wait_s, self._tick)

    def _take_turns(self) -> None:
        # Who has gone of its own accord takes no turn.
        while self._waiting and (self._turns >= 1 or self._waiting[-1].state is LinkState.CLOSED):
            link = self._waiting.pop()
            if link.state is not LinkState.CLOSED:
                self._turns -= 1
                self._leaving.append(link)
                _safely(link, link.pause, Pause.DRAIN)

    def _leave(self, link: Link) -> bool:
        """Say Bye if every publish of the link has its outcome. It may have gone by itself."""
        session = link.session
        if self._is_over or (session is not None and session.publishing):
            return False
        if link.state is not LinkState.CLOSED:
            _safely(link, self._farewell.send_away, link)
        return True


def _safely(link: Link, step: Callable[..., object], *arguments: object) -> None:
    """A step of one link's turn. A connection that raises is dropped: the others, and a node that stops, have
    nothing to do with it."""
    try:
        step(*arguments)
    except Exception:
        log.failure("a client's turn to leave failed")
        with suppress(Exception):
            link.drop(CloseCode.GOING_AWAY, "the node is going away")


class Drains:
    """Whether, and why, the node sends its clients away.

    :param health: ``health(part, ok, why)``; the part is ``drain``.
    :param changed: called when a drain begins and when one ends.
    """

    def __init__(
        self,
        exchange: Exchange,
        reactor: IReactorTime,
        farewell: Farewell,
        health: Callable[[str, bool, str], None],
        changed: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._reactor = reactor
        self._farewell = farewell
        self._health = health
        self._changed = changed
        self._drain: Drain | None = None
        self._stopping = False

    @property
    def is_on(self) -> bool:
        """It sends its clients away."""
        return self._drain is not None

    @property
    def left(self) -> int:
        """Clients that it has yet to send away."""
        return self._drain.left if self._drain is not None else 0

    def begin(self, rate: int) -> bool:
        """Drain, `rate` links a second, until `end`; one that goes on gets another pace. False: the node
        stops, and drains as it does."""
        if self._stopping:
            return False
        if self._drain is not None:
            self._drain.rate = rate
            return True
        self._drain = Drain(self._exchange, rate, inf, self._reactor, self._farewell)
        log.info("draining", rate=rate, links=self._drain.left)
        self._tell(False, "draining")
        self._drain.begin()
        return True

    def end(self) -> bool:
        """Take clients again. False: the node stops."""
        if self._stopping:
            return False
        drain, self._drain = self._drain, None
        if drain is not None:
            log.info("draining no more", stayed=drain.left)
            drain.stop()
            self._tell(True, "")
        return True

    def finish(self, rate: int, within_s: float) -> Drain:
        """The node stops: drain for the last time, from when the caller begins it."""
        self._stopping = True
        if self._drain is not None:
            self._drain.stop()
        # Before it is told: that nobody is left to be sent away must not be said of those who are.
        self._drain = Drain(self._exchange, rate, within_s, self._reactor, self._farewell)
        self._tell(False, "draining")
        return self._drain

    def turns_away(self, link: Link) -> bool:
        """Whether a link that greets was told to go elsewhere."""
        if self._drain is not None:
            self._farewell.send_away(link, REFUSED_S)
        return self._drain is not None

    def _tell(self, ok: bool, why: str) -> None:
        self._health("drain", ok, why)
        self._changed()
