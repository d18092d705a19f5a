"""Two nodes, or more, over one store: a broker that is shared as one on a server would be.

::

    cluster = Cluster("a", "b")
    a, b = cluster.rigs
    bob = a.login("bob")
    cluster.late = True                # what is said to other nodes waits for `hear`
    again = b.login("bob")
    cluster.hear()
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.frames import RING_KINDS, Address, LogKey, Position, SessionKey
from imgateway.interfaces import IBroker, IBrokerListener, NodeInfo, Opened, Presence, Verdict
from imgateway.testing.disk import Steps, opening
from tests.node.rig import START_MS, Rig


@implementer(IBrokerListener)
class Wires:
    """The listener of the store: it passes on what each node wants to know."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def _watching(self, log: LogKey) -> list[Facet]:
        return [facet for facet in self._cluster.facets if facet.listens and log in facet.watched]

    def arrived(self, log: LogKey, *values: Any) -> None:
        for facet in self._watching(log):
            facet.listener.arrived(log, *values)

    def mailed(self, log: LogKey, *values: Any) -> bool:
        return False

    def moved(self, log: LogKey, *values: Any) -> None:
        for facet in self._watching(log):
            facet.listener.moved(log, *values)

    def passed(self, address: Address, entry: Any) -> None:
        for facet in self._cluster.facets:
            if facet.listens:
                facet.listener.passed(address, entry)

    def unattended(self, log: LogKey, message: Any) -> None:
        next(facet for facet in self._cluster.facets if facet.listens).listener.unattended(log, message)

    def attended(self, log: LogKey) -> bool:
        return any(facet.listens and facet.listener.attended(log) for facet in self._cluster.facets)

    def displaced(self, session: SessionKey, generation: int, code: int, reason: str) -> None:
        facet = self._cluster.homes.get((session, generation))
        if facet is not None and facet.listens:
            self._cluster.tell(facet.listener.displaced, session, generation, code, reason)

    def entered(self, session: SessionKey, address: Address) -> None:
        self._cluster.actor.listener.entered(session, address)

    def left(self, session: SessionKey, address: Address) -> None:
        self._cluster.actor.listener.left(session, address)

    def congested(self, on: bool) -> None:
        for facet in self._cluster.facets:
            facet.listener.congested(on)

    def healthy(self, ok: bool, why: str) -> None:
        for facet in self._cluster.facets:
            facet.listener.healthy(ok, why)

    def control(self, payload: bytes) -> None:
        raise AssertionError("nobody tells the store anything")


@implementer(IBroker)
class Facet:
    """What one node sees of the store."""

    def __init__(self, cluster: Cluster, incarnation: str) -> None:
        self.cluster = cluster
        self.incarnation = incarnation
        self.listener: Any = None
        self.listens = False
        self.mute: set[str] = set()
        """Questions that are never answered."""
        self.calls: list[tuple[Any, ...]] = []
        self.hold = False
        self.held: list[tuple[Deferred[Opened], Opened]] = []
        self.watched: set[LogKey] = set()
        self.dedup_s = cluster.store.dedup_s
        self.name = "shared:"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """All else as the store does it; in its turn this node is the one that acts."""
        if name not in IBroker:
            raise AttributeError(name)

        def call(*values: Any, **more: Any) -> Any:
            self.cluster.actor = self
            self.calls.append((name, *values))
            return getattr(self.cluster.store, name)(*values, **more)

        return call

    def start(self, listener: Any, incarnation: str) -> Deferred[None]:
        assert incarnation == self.incarnation
        self.listener, self.listens = listener, True
        return succeed(None)

    def stop(self) -> Deferred[None]:
        self.listens = False
        return succeed(None)

    def die(self) -> None:
        """The process is gone, and nobody knows."""
        self.listens = False

    def watch(self, log: LogKey) -> Deferred[Any]:
        self.watched.add(log)
        return self.cluster.store.watch(log)

    def watch_now(self, log: LogKey) -> Position | None:
        position = self.cluster.store.watch_now(log)
        if position is not None:
            self.watched.add(log)
        return position

    def unwatch(self, log: LogKey) -> None:
        self.watched.discard(log)
        if log.address.kind in RING_KINDS or not any(log in one.watched for one in self.cluster.facets):
            self.cluster.store.unwatch(log)

    def open_session(self, claim: Any, answer: Any, about: tuple[Any, ...]) -> None:
        self.cluster.actor = self
        opened = opening(self.cluster.store, claim).addCallback(self._opened, claim.session)
        opened.addBoth(answer, *about)

    def _opened(self, opened: Opened, session: SessionKey) -> Deferred[Opened]:
        if opened.verdict is Verdict.OK:
            self.cluster.homes[session, opened.generation] = self
        if not self.hold:
            return succeed(opened)
        answer: Deferred[Opened] = Deferred()
        self.held.append((answer, opened))
        return answer

    def release(self) -> None:
        """The oldest claim that was held is answered."""
        answer, opened = self.held.pop(0)
        answer.callback(opened)
        self.cluster.settle()

    def sessions(self, user: str) -> Deferred[tuple[Presence, ...]]:
        if "sessions" in self.mute:
            return Deferred()
        return self.cluster.store.sessions(user).addCallback(lambda found: tuple(map(self._home, found)))

    def _home(self, presence: Presence) -> Presence:
        facet = self.cluster.homes.get((presence.session, presence.generation))
        return replace(presence, node=facet.incarnation) if facet is not None else presence

    def tell(self, incarnation: str, payload: bytes) -> Deferred[bool]:
        if "tell" in self.mute:
            return Deferred()
        self.cluster.told.append((incarnation, payload))
        there = next((one for one in self.cluster.facets if one.incarnation == incarnation), None)
        if there is None or not there.listens:
            return succeed(False)
        self.cluster.tell(there.listener.control, payload)
        return succeed(True)


class Cluster:
    """Rigs of nodes with these names. `set`, and what else a `Rig` takes, is for all of them."""

    def __init__(self, *names: str, **options: Any) -> None:
        self.clock = Clock()
        self.steps = Steps()
        self.wall_ms = START_MS
        self.late = False
        self.waiting: list[Callable[[], object]] = []
        self.told: list[tuple[str, bytes]] = []
        self.homes: dict[tuple[SessionKey, int], Facet] = {}
        self.facets: list[Facet] = []
        self.infos: dict[str, NodeInfo] = {}
        self.changes: list[str] = []
        self.actor: Any = None
        self.store = EmbeddedBroker(reactor=self.clock, now_ms=lambda: self.wall_ms, lane=self.steps)
        started: list[Any] = []
        self.store.start(Wires(self), "store").addBoth(started.append)
        self.steps.run()
        assert started == [None]
        self.rigs: list[Rig] = []
        listeners = options.pop("listeners", {})
        for name in names:
            incarnation = f"{name}.1"
            facet = Facet(self, incarnation)
            self.facets.append(facet)
            rig = Rig(
                facet,
                start=False,
                clock=self.clock,
                incarnation=incarnation,
                nodes=lambda: self.infos,
                changed=lambda name=name: self.changes.append(name),
                listeners=listeners.get(name, ()),
                **options,
            )
            rig.steps = self.steps
            if self.rigs:
                rig.peers = self.rigs[0].peers  # who settles one settles all
            self.rigs.append(rig)
            rig.start()

    def tell(self, call: Callable[..., object], *values: Any) -> None:
        """Say something to a node: in a later turn, or, if it is `late`, with `hear`."""
        if self.late:
            self.waiting.append(lambda: call(*values))
        else:
            self.clock.callLater(0, call, *values)

    def hear(self) -> None:
        """What was said arrives."""
        self.late = False
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one()
        self.settle()

    def settle(self) -> None:
        self.rigs[0].settle()

    def advance(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.25)):
            self.wall_ms += 250
            for rig in self.rigs:
                rig.wall_ms += 250
            self.clock.advance(0.25)
            self.settle()
