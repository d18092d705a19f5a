"""The cluster as a router sees it: an `IGateway` without sessions of its own, over the cluster's broker and
registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.cluster import Nowhere, Peers
from imgateway.config import LimitSettings
from imgateway.core.publishing import (
    FORBIDDEN,
    OK,
    TOO_LARGE,
    Answer,
    is_too_large,
    may_publish,
    message_of,
    once,
    spread,
)
from imgateway.frames import Address, Entry, LogKey, Message, Mode, Publish, SessionKey
from imgateway.interfaces import (
    IBroker,
    IBrokerListener,
    Identity,
    IGateway,
    IPolicy,
    IRegistry,
    Mailbox,
    NodeInfo,
    Presence,
    Publication,
)
from imgateway.router.offline import Offline

__all__ = ("RouterGateway",)

log = Logger()


@implementer(IGateway)
class RouterGateway:
    """One router's way to the nodes.

    :param policy: asked about each publish, as a node asks it about a service's.
    :param health: ``health(part, ok, why)``, with the part ``store``.
    :param note: ``note(part, why)``, with the part ``registry``: while that is away the nodes that were known
        stay known, and clients are sent to them.
    :param wall_ms: Unix milliseconds.
    """

    def __init__(
        self,
        broker: IBroker,
        registry: IRegistry,
        policy: IPolicy,
        limits: LimitSettings,
        incarnation: str,
        reactor: IReactorTime,
        wall_ms: Callable[[], int],
        health: Callable[[str, bool, str], None],
        note: Callable[[str, str], None] = lambda part, why: None,
    ) -> None:
        self.incarnation = incarnation
        self.limits = limits
        self.policy = policy
        self._broker = broker
        self._registry = registry
        self._wall_ms = wall_ms
        self._health = health
        self._note = note
        self._known: Mapping[str, NodeInfo] = {}
        self._peers = Peers(broker, Nowhere(), incarnation, reactor)
        self._offline = Offline(self._peers, self.nodes, reactor)
        self._started: list[Callable[[], Any]] = []

    def start(self) -> Deferred[None]:
        """Reach broker and registry; fires when the nodes are known.

        :raises OperatorError: (in the Deferred) what to change.
        """
        healthy = partial(self._health, "store")
        listener = _Ears(self._peers.heard, healthy, self._offline.stored)
        starting: Deferred[Any] = self._broker.start(listener, self.incarnation)
        starting.addCallback(self._broker_started)
        starting.addErrback(self._failed)
        return starting

    def _broker_started(self, _: object) -> Deferred[None]:
        self._started.append(self._broker.stop)
        self._started.append(self._registry.stop)
        return maybeDeferred(
            self._registry.start, self._changed, lambda ok, why: self._note("registry", "" if ok else why)
        )

    def _failed(self, failure: Failure) -> Deferred[Failure]:
        return self.stop().addCallback(lambda _: failure)

    def _changed(self, nodes: Mapping[str, NodeInfo]) -> None:
        self._known = nodes

    def stop(self) -> Deferred[None]:
        """Say goodbye to both; fires when nothing is left. Again: nothing."""
        self._peers.stop()
        started, self._started = self._started, []
        stopping = [
            maybeDeferred(stop).addErrback(lambda failure: log.failure("it did not stop", failure))
            for stop in reversed(started)
        ]
        return DeferredList(stopping).addCallback(lambda _: None)

    # -------------------------------------------------------------------------------------------- IGateway

    def publish(self, publish: Publish, sender: str, device: str = "api") -> Deferred[Answer]:
        """Publish with a service's rights; what is too large, or not allowed, is refused here."""
        to, may, identity = publish.to, self.policy.may, Identity(sender, service=True)
        if is_too_large(publish, self.limits.max_body_bytes):
            return succeed((TOO_LARGE,) * len(to))
        allowed = tuple([one for one in to if may_publish(may, identity, one, publish.lane)])
        if not publish.qos:
            if allowed:
                self._broker.emit(self._publication(publish, sender, device, once(allowed)))
            return succeed(spread((OK,) * len(allowed), allowed, to))
        if not allowed:
            return succeed((FORBIDDEN,) * len(to))
        answer = self._broker.publish(self._publication(publish, sender, device, allowed))
        return answer.addCallback(spread, allowed, to)

    def _publication(
        self, publish: Publish, sender: str, device: str, to: tuple[Address, ...]
    ) -> Publication:
        message = message_of(publish, sender, device, self._wall_ms())
        return Publication(message, to, publish.lane, publish.resent, publish.copy_self, exempt=True)

    def request(
        self, session: SessionKey, service: str, method: str, body: bytes, deadline_s: float = 10.0
    ) -> Deferred[bytes]:
        """Ask a client, wherever it is, and await its answer."""
        return self._peers.ask(session, service, method, body, deadline_s)

    def kick(self, user: str, device: str | None, reason: str) -> Deferred[int]:
        """Close a user's sessions, wherever they are."""
        return self._peers.kick(user, device, reason)

    def sessions(self, user: str) -> Deferred[tuple[Presence, ...]]:
        """The user's sessions. Those on a node that is gone are not online."""
        return self._broker.sessions(user).addCallback(lambda found: tuple(map(self._seen, found)))

    def _seen(self, presence: Presence) -> Presence:
        """The broker keeps the sessions of a node that died until their time is over."""
        dead = presence.online and presence.node not in self._known
        return replace(presence, online=False) if dead else presence

    def join(self, session: SessionKey, room: Address, mode: Mode = Mode.PUSH) -> Deferred[bool]:
        """There are no sessions here: False."""
        return succeed(False)

    def leave(self, session: SessionKey, room: Address) -> Deferred[bool]:
        """There are no sessions here: False."""
        return succeed(False)

    def members(self, address: Address) -> Deferred[int]:
        """How many sessions are in a room or area, or (all) open."""
        return self._broker.members(address)

    def revoke(self, user: str, not_before_s: int) -> Deferred[None]:
        """End what older tokens opened; they open nothing any more."""
        return self._broker.revoke(user, not_before_s)

    def mailbox(self, user: str) -> Deferred[Mailbox]:
        """How far the user's mailbox has got."""
        return self._broker.mailbox(user)

    def nodes(self) -> Mapping[str, NodeInfo]:
        """The nodes that live, by incarnation."""
        return self._known

    def drain(self, incarnation: str, rate: int) -> Deferred[int]:
        """A node sends its clients away."""
        return self._peers.drain(incarnation, rate)

    def undrain(self, incarnation: str) -> Deferred[int]:
        """It takes clients again."""
        return self._peers.undrain(incarnation)


@implementer(IBrokerListener)
class _Ears:
    """What a process without sessions wants to hear of a broker: the other processes, its state, and what
    it published for nobody."""

    def __init__(
        self,
        heard: Callable[[bytes], object],
        healthy: Callable[[bool, str], object],
        stored: Callable[[LogKey, Message], object],
    ) -> None:
        self._heard = heard
        self._healthy = healthy
        self._stored = stored

    def arrived(self, log: LogKey, epoch: int, after: int, upto: int, entries: tuple[Entry, ...]) -> None:
        """Nothing is watched."""

    def mailed(self, log: LogKey, epoch: int, after: int, messages: list[bytes]) -> bool:
        return False

    def moved(self, log: LogKey, epoch: int, head: int) -> None:
        """Nothing is watched."""

    def passed(self, address: Address, entry: Entry) -> None:
        """Nobody is here."""

    def unattended(self, log: LogKey, message: Message) -> None:
        self._stored(log, message)

    def attended(self, log: LogKey) -> bool:
        return False

    def displaced(self, session: SessionKey, generation: int, code: int, reason: str) -> None:
        """No session is here."""

    def entered(self, session: SessionKey, address: Address) -> None:
        """No session is here."""

    def left(self, session: SessionKey, address: Address) -> None:
        """No session is here."""

    def congested(self, on: bool) -> None:
        """Each request waits for its own answer: there is nobody else to stop."""

    def healthy(self, ok: bool, why: str) -> None:
        self._healthy(ok, why)

    def control(self, payload: bytes) -> None:
        self._heard(payload)
