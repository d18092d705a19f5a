"""The node: puts its parts together, keeps the clock, starts in order, drains in order.

Start: store, backends, then listening. Stop: listening ends, links drain, positions are flushed, the store
closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.cluster.peers import Peers
from imgateway.config import Settings
from imgateway.core.counters import Counters, Measure
from imgateway.core.quota import Quotas
from imgateway.core.retry import backoff
from imgateway.core.wheel import Wheel
from imgateway.frames import FRAME_ROOM, Address, Limits, Mode, Outcome, Publish, SessionKey
from imgateway.interfaces import (
    Accept,
    IAuthenticator,
    IBackend,
    IBroker,
    Identity,
    IGateway,
    IInterceptor,
    IListener,
    IMailBackend,
    IPolicy,
    ISessionListener,
    Mailbox,
    NodeInfo,
    Presence,
)
from imgateway.node.calls import Calls
from imgateway.node.drain import Drain, Drains, Farewell
from imgateway.node.exchange import Exchange
from imgateway.node.gate import Gate
from imgateway.node.home import Home
from imgateway.node.hub import Hub
from imgateway.node.ingress import Ingress
from imgateway.node.login import Login
from imgateway.node.shares import Forms
from imgateway.node.subscriptions import Subscriptions

__all__ = ("Door", "Node")

log = Logger()

Door = Callable[[Accept], Deferred[IListener]]
"""Opens one listening endpoint for an accept function."""

STANDSTILL_S = 1.0
"""Held up for longer, this process may find greetings of clients that have given up since."""
DOUBTED_S = 10.0
"""Held up for longer, it may find publishes of clients that are at another node since, or were revoked."""
AFTERWARDS_S = 30.0
"""It may find them for so long: they wait for their turn."""


@implementer(IGateway)
class Node:
    """One gateway node on one broker.

    :param doors: what to listen on once the store is ready.
    :param before: called in between: once the store is ready, and before anything listens.
    :param after: called when everybody has left, also when the start failed; before the store closes.
    :param nodes: gives the nodes that live, this one among them, by incarnation.
    :param changed: called when it begins to drain, and when it takes clients again.
    :param health: ``health(part, ok, why)``.
    :param wall_ms: Unix milliseconds. Steps of the wall clock move only the times written into messages.
    :param random: floats in [0, 1).
    """

    def __init__(
        self,
        settings: Settings,
        broker: IBroker,
        authenticator: IAuthenticator,
        policy: IPolicy,
        reactor: IReactorTime,
        wall_ms: Callable[[], int],
        random: Callable[[], float],
        incarnation: str,
        doors: Sequence[Door] = (),
        backends: Sequence[IBackend] = (),
        interceptors: Sequence[IInterceptor] = (),
        listeners: Sequence[ISessionListener] = (),
        health: Callable[[str, bool, str], None] = lambda part, ok, why: None,
        before: Callable[[], Deferred[None] | None] = lambda: None,
        nodes: Callable[[], Mapping[str, NodeInfo]] = dict,
        changed: Callable[[], None] = lambda: None,
        after: Callable[[], Deferred[None] | None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.counters = Counters()
        self.listeners: list[IListener] = []
        self.incarnation = incarnation
        self._broker = broker
        self._authenticator = authenticator
        self._reactor = reactor
        self._doors = tuple(doors)
        self._backends = tuple(backends)
        self._health = health
        self._before = before
        self._after = after
        self._nodes = nodes
        self._ticking: IDelayedCall | None = None
        self._tick_due = reactor.seconds()
        self._held_up_until = self._doubted_since = 0.0
        self._starting: Deferred[None] | None = None
        self._preparing: Deferred[Any] = succeed(None)
        self._store_open = False
        self._draining: Drain | None = None
        # What is told of the broker is what it was made with, whatever is read anew.
        self._rooms_dedup_s = settings.rooms.dedup_s
        self._told: dict[bool, Limits] = {}  # what `limits_for` says, to services and to others
        now = reactor.seconds
        limits = settings.limits
        self.wheel: Wheel[Callable[[float], None]] = Wheel(now())
        arm = self.wheel.arm
        self.quotas = Quotas(settings.quota)
        self.hub = Hub(
            broker,
            limits,
            settings.rooms,
            policy,
            settings.session.linger_s,
            reactor,
            now,
            arm,
            self.counters,
            listeners,
            health,
            lambda session, will: self.ingress.bequeath(session, will),
            lambda payload: self.peers.heard(payload),
        )
        self.gate = Gate(limits, now, arm, lambda: self.listeners)
        self.calls = Calls(self.hub, self.quotas, limits, now, arm, self.counters)
        self.login = Login(
            settings.node.name,
            self.hub,
            self.gate,
            broker,
            authenticator,
            settings.session,
            Forms(settings.compression.algorithms, self.counters),
            self.limits_for,
            now,
            wall_ms,
            self.counters,
            lambda link: self.drains.turns_away(link),
            self._stood_still,
            settings.log.level == "debug",
        )
        self.ingress = Ingress(
            self.hub, broker, policy, self.quotas, limits, interceptors, now, wall_ms, self.counters
        )
        self.subscriptions = Subscriptions(self.hub, self.quotas, limits, now, arm, self.counters)
        self.exchange = Exchange(
            self.hub,
            self.login,
            self.ingress,
            self.calls,
            self.subscriptions,
            self.gate,
            broker,
            limits,
            settings.session,
            self.wheel,
            now,
            wall_ms,
            self.counters,
            limits.max_body_bytes + FRAME_ROOM,
            incarnation,
            backoff(random, first_s=1.0),
            self._stood_still,
        )
        farewell = Farewell(nodes, incarnation, random, self.counters)
        self.drains = Drains(self.exchange, reactor, farewell, health, changed)
        self.peers = Peers(broker, Home(self.hub, self.calls, self.drains), incarnation, reactor)

    # ------------------------------------------------------------------------------------------ start, stop

    def start(self) -> Deferred[None]:
        """Bring the node up; fires when it listens.

        :raises OperatorError: (in the Deferred) with the one line that says what to change.
        """
        self._health("start", False, "starting")
        self._starting = Deferred()
        starting = self._broker.start(self.hub, self.incarnation)
        starting.addCallback(self._store_ready)
        starting.addErrback(self._start_failed)
        return starting.addBoth(self._start_over)

    def _store_ready(self, _: object) -> Deferred[None]:
        self._store_open = True
        self.hub.rooms.audiences.start()
        self._preparing = maybeDeferred(self._before) if self._draining is None else succeed(None)
        return self._preparing.addCallback(self._open_doors)

    def _open_doors(self, _: object) -> Deferred[None] | None:
        if self._draining is not None:
            return None
        for backend in self._backends:
            backend.start(self)
        self.calls.backends = {backend.name: backend for backend in self._backends}
        self.ingress.mail = {one.name: one for one in self._backends if IMailBackend.providedBy(one)}
        self._tick()
        # All of them are waited for, so that one that cannot be opened does not leave others open.
        opening = [maybeDeferred(door, self.exchange.accept) for door in self._doors]
        return DeferredList(opening, consumeErrors=True).addCallback(self._opened)

    def _opened(self, results: list[tuple[bool, Any]]) -> None:
        self.listeners = [result for opened, result in results if opened]
        for opened, result in results:
            if not opened:
                result.raiseException()
        self._health("start", True, "")

    def _start_failed(self, failure: Failure) -> Deferred[Failure]:
        closing = self._close_doors()
        closing.addCallback(lambda _: self._stopped())
        return closing.addCallback(lambda _: failure)

    def _start_over(self, result: Any) -> Any:
        waiting, self._starting = self._starting, None
        if waiting is not None:
            waiting.callback(None)
        return result

    def stop(self) -> Deferred[None]:
        """Drain and stop; fires when nothing is left. A second call drops everybody at once."""
        if self._draining is not None:
            self._draining.hurry()
            return self._draining.done
        self.exchange.leaving = True
        self._give_up()
        closing = self._close_doors()
        node = self.settings.node
        drain = self._draining = self.drains.finish(node.drain_rate, node.drain_s)
        stopped: Deferred[None] = Deferred()
        drain.done.addCallback(lambda _: closing)
        drain.done.addCallback(lambda _: self._starting)
        drain.done.addCallback(lambda _: self._close_doors())  # those that were opened meanwhile
        drain.done.addCallback(lambda _: self._stopped())
        drain.done.addBoth(stopped.callback)
        drain.begin()
        return stopped

    def _give_up(self) -> None:
        """A start may wait for servers that are away: it ends now, one way or the other."""
        if self._starting is None:
            return
        if not self._store_open:
            self._broker.give_up()
        elif not self._preparing.called:
            self._preparing.cancel()

    def _close_doors(self) -> Deferred[Any]:
        """Stop listening; what does not stop is logged, and must not keep the store from being closed."""
        listeners, self.listeners = self.listeners, []
        closing = [
            maybeDeferred(listener.stop).addErrback(
                lambda failure: log.failure("a listener did not stop", failure)
            )
            for listener in listeners
        ]
        return DeferredList(closing)

    def _stopped(self) -> Deferred[None]:
        self.peers.stop()
        self.hub.end_all()
        self.hub.rooms.rounds.stop()
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        after = maybeDeferred(self._after)
        after.addErrback(lambda failure: log.failure("not everything was left in order", failure))
        return after.addCallback(self._close_store)

    def _close_store(self, _: object) -> Deferred[None] | None:
        if not self._store_open:
            return None
        self._store_open = False
        return self._broker.stop()

    def _tick(self) -> None:
        if self._reactor.seconds() - self._tick_due > self.wheel.tick_s:
            # We were held up, and so was reading: an answer that is there is not missing. So read first.
            self._stood_still()
            self._ticking = self._reactor.callLater(0, self._turn)
        else:
            self._turn()

    def _stood_still(self) -> bool:
        """Whether this process was held up lately: what is read now may have been said long ago."""
        now = self._reactor.seconds()
        if now - self._tick_due > STANDSTILL_S:
            self._held_up_until = now + AFTERWARDS_S
        if now - self._tick_due > DOUBTED_S and self._doubted_since != self._tick_due:
            self._doubted_since = self._tick_due  # once for each
            self.ingress.doubt(self._held_up_until)
        return now < self._held_up_until

    def _turn(self) -> None:
        now = self._reactor.seconds()
        for wake in self.wheel.advance(now):
            try:
                wake(now)
            except Exception:
                log.failure("a deadline could not be handled")
        self.quotas.sweep(now)
        self._tick_due = self._reactor.seconds() + self.wheel.tick_s
        self._ticking = self._reactor.callLater(self.wheel.tick_s, self._tick)

    def read(self, settings: Settings, policy: IPolicy) -> Callable[[], None]:
        """SIGHUP: read keys again. Nothing changes until what this returns is called; these keys, limits,
        quotas and this policy then count for what comes.

        :raises OperatorError: the keys cannot be used.
        """
        use_keys = self._authenticator.read()

        def use() -> None:
            use_keys()
            self._go_by(settings, policy)

        return use

    def _go_by(self, settings: Settings, policy: IPolicy) -> None:
        self.settings = settings
        self._told.clear()
        self.quotas.set_rates(settings.quota)
        self.ingress.policy = self.hub.rooms.policy = policy
        limits = settings.limits
        self.calls.limits = self.exchange.limits = self.subscriptions.limits = limits
        self.ingress.go_by(limits)
        self.hub.delivery.limits = limits
        self.gate.set_limits(limits)
        self.exchange.max_frame_bytes = limits.max_body_bytes + FRAME_ROOM
        self.hub.linger_s = settings.session.linger_s
        self.login.settings = self.exchange.session = settings.session

    def measures(self) -> Iterator[tuple[Measure, int | Mapping[Any, int]]]:
        """Every measure with its value now; the gauges are taken here."""
        counters = self.counters
        links = self.exchange.links
        counters.links_open = len(links)
        counters.links_pending = self.gate.waiting
        counters.paused_links = sum(link.paused() for link in links)
        counters.held_unsent_bytes = sum(link.connection.unsent() for link in links)
        counters.sessions = len(self.hub.sessions)
        counters.sessions_linked = sum(session.link is not None for session in self.hub.sessions)
        counters.users = self.hub.sessions.users
        counters.drain_left = self.drains.left
        self.hub.rooms.audiences.measure(counters)
        self._broker.measure(counters)
        return counters.read()

    @property
    def draining(self) -> bool:
        """It sends its clients away: it was told to, or it stops."""
        return self.drains.is_on

    @property
    def leaving(self) -> int:
        """Clients that it has yet to send away."""
        return self.drains.left

    def limits_for(self, identity: Identity) -> Limits:
        """What Welcome tells this identity."""
        told = self._told.get(identity.service)
        if told is None:
            told = self._told[identity.service] = self._limits(identity.service)
        return told

    def _limits(self, service: bool) -> Limits:
        limits, quota = self.settings.limits, self.settings.quota
        if service:
            return Limits(
                limits.max_body_bytes,
                limits.max_addresses_service,
                limits.publish_window,
                self._broker.dedup_s,
                rooms_dedup_s=self._rooms_dedup_s,
            )
        return Limits(
            limits.max_body_bytes,
            limits.max_addresses,
            limits.publish_window,
            self._broker.dedup_s,
            quota.publish_rate,
            quota.publish_burst,
            quota.publish_bytes_rate,
            quota.pair_rate,
            quota.pair_burst,
            quota.request_rate,
            quota.subscribe_rate,
            self._rooms_dedup_s,
        )

    # --------------------------------------------------------------------------- for business code (IGateway)

    def publish(self, publish: Publish, sender: str, device: str = "api") -> Deferred[tuple[Outcome, ...]]:
        """Publish with a service's rights."""
        return self.ingress.submit(Identity(sender, service=True), device, publish)

    def request(
        self, session: SessionKey, service: str, method: str, body: bytes, deadline_s: float = 10.0
    ) -> Deferred[bytes]:
        """Ask a client, on whatever node it is, and await its answer."""
        return self.peers.ask(session, service, method, body, deadline_s)

    def kick(self, user: str, device: str | None, reason: str) -> Deferred[int]:
        """Close a user's sessions with KICKED, on whatever node they are."""
        return self.peers.kick(user, device, reason)

    def sessions(self, user: str) -> Deferred[tuple[Presence, ...]]:
        """Who is there of a user."""
        return self._broker.sessions(user)

    def join(self, session: SessionKey, room: Address, mode: Mode = Mode.PUSH) -> Deferred[bool]:
        """Put a session into a room."""
        return self.subscriptions.put(session, room, mode)

    def leave(self, session: SessionKey, room: Address) -> Deferred[bool]:
        """Take it out."""
        return self.subscriptions.take_out(session, room)

    def members(self, address: Address) -> Deferred[int]:
        """How many sessions are in a room or area, or (all) open."""
        return self._broker.members(address)

    def revoke(self, user: str, not_before_s: int) -> Deferred[None]:
        """End what was opened with older tokens, and let none of them in again."""
        return self._broker.revoke(user, not_before_s)

    def mailbox(self, user: str) -> Deferred[Mailbox]:
        """How far the user's mailbox has got."""
        return self._broker.mailbox(user)

    def nodes(self) -> Mapping[str, NodeInfo]:
        """The nodes that live, by incarnation."""
        return self._nodes()

    def drain(self, incarnation: str, rate: int) -> Deferred[int]:
        """Send a node's clients away, this one's or another's."""
        return self.peers.drain(incarnation, rate)

    def undrain(self, incarnation: str) -> Deferred[int]:
        """Let it take clients again."""
        return self.peers.undrain(incarnation)
