"""Which nodes live, as each primary sees it: a node renews its lease there every few seconds.

A node whose lease ran out counts as gone: its sessions are not online, and any other node takes back what
it had in rooms, and buries it. It may only have been silent (stopped, or cut off from this primary). Its
sessions are then its own again with its next renewal, unless somebody took them over, which it asks at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.brokers.health import Timers
from imgateway.brokers.redis.primaries import Primaries
from imgateway.brokers.redis.primary import Primary

__all__ = ("Leases",)

LEASE_MS = 15_000
RENEW_S = 5.0
"""Two renewals may fail before the lease runs out."""


class Leases:
    """Everything by keyword.

    :param incarnation: this node's.
    :param online: primary → open sessions of this node there; told with each renewal.
    :param regained: called with a primary where our lease had run out, or that has other data than before:
        what we have there has to be asked after, or entered again.
    :param reap: ``(primary, incarnation)``: take back what a dead node had there, a step at a time; the
        Deferred fires with True if there is more. Several nodes may do so at once. None: that is for others.
    """

    log = Logger()

    def __init__(
        self,
        *,
        primaries: Primaries,
        incarnation: str,
        reactor: Any,
        online: Callable[[Primary], int] = lambda primary: 0,
        regained: Callable[[Primary], None] = lambda primary: None,
        reap: Callable[[Primary, str], Deferred[bool] | bool] | None = lambda primary, dead: False,
    ) -> None:
        self._primaries = primaries
        self._incarnation = incarnation
        self._online = online
        self._regained = regained
        self._reap = reap
        self._timers = Timers(reactor)
        self._until_ms: dict[Primary, int] = {}  # by the primary's clock
        self._generations: dict[Primary, int] = {}
        self._others: dict[Primary, int] = {}
        self._asked: set[Primary] = set()
        self._reaping: set[tuple[Primary, str]] = set()

    def start(self) -> Deferred[Any]:
        """Fires when the node has its leases."""
        self._timers.later("renew", RENEW_S, self._renew)
        return DeferredList([self.renew(primary) for primary in self._primaries.all()])

    def stop(self) -> Deferred[Any]:
        """Give the leases back; the node's sessions have been closed."""
        self._timers.cancel_all()
        leaving = [primary.call("bury", self._incarnation, 1) for primary in self._primaries.all()]
        return DeferredList(leaving, consumeErrors=True)

    def others_online(self) -> int:
        """Open sessions of all other nodes, as they told with their last renewals."""
        return sum(self._others.get(primary, 0) for primary in self._primaries.each())

    def _renew(self) -> None:
        self._timers.later("renew", RENEW_S, self._renew)
        for primary in self._primaries.all():
            if primary not in self._asked:  # else it is away, and the renewal waits for it
                self.renew(primary)

    def renew(self, primary: Primary) -> Deferred[None]:
        """Now."""
        self._asked.add(primary)
        asking = primary.call("lease", self._incarnation, LEASE_MS, self._online(primary))
        return asking.addBoth(self._renewed, primary).addErrback(self._failed)

    def _renewed(self, reply: Any, primary: Primary) -> Any:
        self._asked.discard(primary)
        if isinstance(reply, Failure):
            return reply
        now_ms, others, dead, was_there = reply
        self._others[primary] = others
        until_ms, generation = self._until_ms.get(primary), self._generations.get(primary)
        self._until_ms[primary] = now_ms + LEASE_MS
        self._generations[primary] = primary.generation
        is_other = generation != primary.generation
        if until_ms is not None and (not was_there or now_ms >= until_ms or is_other):
            self.log.warn(
                "{primary}: this node's lease had run out, or was lost; it asks for what it had there",
                primary=primary.name,
            )
            self._regained(primary)
        for name in dead if self._reap is not None else ():
            self._bury(primary, name.decode())
        return None

    def _bury(self, primary: Primary, dead: str) -> None:
        if (primary, dead) not in self._reaping:
            self._reaping.add((primary, dead))
            self.log.info("{primary}: node {dead} is gone", primary=primary.name, dead=dead)
            self._step(primary, dead)

    def _step(self, primary: Primary, dead: str) -> None:
        assert self._reap is not None
        reaping: Deferred[Any] = maybeDeferred(self._reap, primary, dead)
        reaping.addCallback(self._reaped, primary, dead)
        reaping.addErrback(self._unreaped, primary, dead)

    def _reaped(self, more: bool, primary: Primary, dead: str) -> Any:
        if more:
            self._timers.later(f"reap {primary.index} {dead}", 0, partial(self._step, primary, dead))
            return None
        return primary.call("bury", dead, 0).addCallback(lambda _: self._reaping.discard((primary, dead)))

    def _unreaped(self, failure: Failure, primary: Primary, dead: str) -> None:
        """It is found dead again with the next renewal."""
        self._reaping.discard((primary, dead))
        self._failed(failure)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # the broker has stopped
            self.log.failure("a lease failed", failure)
