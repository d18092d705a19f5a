"""This node among the others: what it tells them of itself, and what it knows of them.

It is announced once it listens, then whenever something changes that others go by: at once its state and its
addresses, now and then how many sessions it has. The registry's server may be away; the node works on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple

from msgspec.structs import replace
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.errors import OperatorError
from imgateway.interfaces import IRegistry, NodeInfo, NodeState, Served

__all__ = ("Condition", "Membership")

log = Logger()

START_S = 3.0
"""How long a start waits for the registry: its server may be away, and clients can be served without it."""
TICK_S = 1.0
LOAD_S = 5.0
"""Others learn a new number of sessions at most this often, and while the node drains with every tick."""
LOAD_STEP = 0.01
"""And only when it has changed by more than this."""
ELDER_S = 20.0
"""A node that is there for so long has not ended: one that has is gone within 15 s."""
FLAP_S = 0.5
"""So long a state stands before the next one is told, but for a drain."""


class Condition(NamedTuple):
    """What changes of a node. `leaving`: clients that a drain has yet to send away; `orders`: how often it
    was told to drain, or not to any more."""

    served: tuple[Served, ...]
    sessions: int
    leaving: int = 0
    orders: int = 0


class Membership:
    """:param about: what does not change of the node.
    :param condition: gives what does.
    :param health: ``health(part, ok, why)``, which is told all that `health` here is told.
    :param note: ``note(part, why)``: something that the operator shall see, though clients can be served.
    """

    def __init__(
        self,
        registry: IRegistry,
        about: NodeInfo,
        condition: Callable[[], Condition],
        health: Callable[[str, bool, str], None],
        note: Callable[[str, str], None],
        reactor: IReactorTime,
    ) -> None:
        self._registry = registry
        self._about = about
        self._condition = condition
        self._health = health
        self._note = note
        self._reactor = reactor
        self._others: Mapping[str, NodeInfo] = {}
        self._elders: dict[str, float] = {}
        self._is_away = False
        self._unfit: set[str] = {"start"}
        self._said: NodeInfo | None = None
        self._said_at = 0.0
        self._saying = False
        self._listening = False
        self._started = False
        self._left = False
        self._ticking: IDelayedCall | None = None

    def nodes(self) -> Mapping[str, NodeInfo]:
        """The nodes that live, by incarnation; this one among them while it listens, as it last told."""
        own = self._about.incarnation
        nodes = {name: info for name, info in self._others.items() if name != own}
        return nodes if self._said is None else {**nodes, own: self._said}

    # ------------------------------------------------------------------------------------------ start, stop

    def start(self) -> Deferred[None]:
        """Ask who is there; fires when that is known, or after 3 s without an answer.

        :raises OperatorError: (in the Deferred) the registry's settings cannot work.
        """
        self._started = True
        ready: Deferred[None] = Deferred()
        patience = self._reactor.callLater(START_S, ready.callback, None)

        def known(result: Any) -> None:
            if patience.active():
                patience.cancel()
                ready.callback(result)  # a Failure makes it fail
            elif isinstance(result, Failure) and not self._left:
                self._refused(result)

        maybeDeferred(self._registry.start, self._changed, self._healthy).addBoth(known)
        return ready

    def _refused(self, failure: Failure) -> None:
        """Too late for the start to fail."""
        if failure.check(OperatorError):
            log.error("the registry cannot be used", why=failure.getErrorMessage())
        else:
            log.failure("the registry failed", failure)
        self._note("registry", failure.getErrorMessage())

    def leave(self) -> Deferred[None]:
        """Nobody shall look for this node any more. Never fails; a server that does not answer ends it."""
        self._left = True
        self._said = None
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        stopping = maybeDeferred(self._registry.stop) if self._started else succeed(None)
        return stopping.addErrback(lambda failure: log.failure("the registry did not stop", failure))

    # ------------------------------------------------------------------------------------------ what is told

    def health(self, part: str, ok: bool, why: str = "") -> None:
        """A part of the node is fine, or not; the node's state is drawn from them."""
        self._health(part, ok, why)
        (self._unfit.discard if ok else self._unfit.add)(part)
        if part == "start" and ok and not self._left:
            self._listening = True
            self._tick()
        else:
            self.consider()

    def consider(self) -> None:
        """Something may have changed: tell it, if it is time."""
        if not self._listening or self._saying or self._left:
            return
        info = self._info()
        if self._is_due(info):
            self._said, self._said_at = info, self._reactor.seconds()
            # One at a time: while the server is away they must not gather.
            self._saying = True
            maybeDeferred(self._registry.announce, info).addBoth(self._announced)

    def _announced(self, result: object) -> None:
        if isinstance(result, Failure):
            log.failure("the registry did not take the node", result)
        self._saying = False
        self.consider()

    def _info(self) -> NodeInfo:
        unfit = self._unfit
        state = NodeState.DRAINING if "drain" in unfit else NodeState.BUSY if unfit else NodeState.READY
        condition = self._condition()
        return replace(
            self._about,
            state=state,
            served=condition.served,
            sessions=condition.sessions,
            leaving=condition.leaving,
            orders=condition.orders,
        )

    def _is_due(self, info: NodeInfo) -> bool:
        said = self._said
        if said is None:
            return True
        age = self._reactor.seconds() - self._said_at
        draining = info.state is NodeState.DRAINING
        if (info.state, info.served, info.orders) != (said.state, said.served, said.orders):
            return draining or age >= FLAP_S
        if draining:
            return info != said and age >= TICK_S / 2  # with the tick, which may come a little early
        return age >= LOAD_S and abs(info.sessions - said.sessions) > said.sessions * LOAD_STEP

    def _tick(self) -> None:
        self._ticking = self._reactor.callLater(TICK_S, self._tick)
        self._look_for_elders()
        self.consider()

    # ------------------------------------------------------------------------------------------ what is heard

    def _changed(self, nodes: Mapping[str, NodeInfo]) -> None:
        about = self._about
        for incarnation in (self._others.keys() ^ nodes.keys()) - {about.incarnation}:
            there = incarnation in nodes
            info = (nodes if there else self._others)[incarnation]
            log.info(
                "a node is there" if there else "a node is gone", node=info.node, incarnation=incarnation
            )
            # One that began before us may be the process that we took the place of.
            if there and info.node == about.node and info.started_ms > about.started_ms:
                _warn_of(info)
        self._others = nodes

    def _look_for_elders(self) -> None:
        """Those of our name that were there before us, and are there for longer than a process that has
        ended; of these nothing is known while the registry is away, or that they are ending."""
        about, now, before = self._about, self._reactor.seconds(), self._elders
        self._elders = {
            name: before.get(name, now)
            for name, info in self._others.items()
            if info.node == about.node
            and name != about.incarnation
            and info.started_ms <= about.started_ms
            and info.state is not NodeState.DRAINING
            and not self._is_away
        }
        for name, since in self._elders.items():
            if now >= since + ELDER_S:
                self._elders[name] = inf  # told
                _warn_of(self._others[name])

    def _healthy(self, ok: bool, why: str) -> None:
        self._note("registry", why)
        if not ok:
            log.warn("the registry is away, and the known nodes stay as they were", why=why)
        elif self._is_away:
            log.info("the registry answers again", registry=self._registry.name)
        self._is_away = not ok


def _warn_of(info: NodeInfo) -> None:
    log.warn(
        "another node has the name {node}, too, and routers send clients to one of them only: "
        "give each its own (node.name)",
        node=info.node,
        incarnation=info.incarnation,
    )
