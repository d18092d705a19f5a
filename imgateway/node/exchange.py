"""The exchange: what an open link may ask, one answer for each frame, in one table.

It is the desk of every link of the node: it admits connections, gives them to the login, and from Welcome on
routes each frame to the one place that answers it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from imgateway.config import LimitSettings, SessionSettings
from imgateway.core.counters import Counters
from imgateway.core.handshake import LinkState
from imgateway.core.retry import RetryPolicy
from imgateway.core.session import Session, for_device
from imgateway.core.throttle import Few
from imgateway.core.wheel import Wheel
from imgateway.errors import CloseCode
from imgateway.frames import (
    DURABLE_KINDS,
    FOLLOWED_KINDS,
    RING_KINDS,
    Batch,
    Bye,
    Deliver,
    DeliverAck,
    Keep,
    Ping,
    Pong,
    Publish,
    Pull,
    RefusedCode,
    Renew,
    Request,
    Response,
    Seen,
    Subscribe,
    Unsubscribe,
    log_of,
)
from imgateway.interfaces import IBroker, IConnection
from imgateway.node.audience import LANES
from imgateway.node.calls import Calls
from imgateway.node.gate import Gate
from imgateway.node.hub import Hub
from imgateway.node.ingress import Ingress
from imgateway.node.link import Link, Pause
from imgateway.node.login import Login
from imgateway.node.subscriptions import Subscriptions

__all__ = ("UNSUPPORTED", "Exchange")

PULL_BYTES = 49_152
"""A pulled answer goes out however slow the link is, so it stays below what stops the reading."""
SUBSCRIBED_KINDS = FOLLOWED_KINDS | {"room"}
_BY_ITSELF = "what is sent to an area or to all comes by itself"
_NOT_SUPPORTED = "not supported by this gateway"
_NO_SUCH_LANE = "there is no such lane"
_NOT_SUBSCRIBED = {
    "user": "your mailbox comes by itself",
    "area": _BY_ITSELF,
    "all": _BY_ITSELF,
    **dict.fromkeys(SUBSCRIBED_KINDS, _NO_SUCH_LANE),
}
"""Why not, by the kind of the address."""


MOST_UNRELIED = 10_000
"""Records of a link on their way to stable storage that nobody relies on. They take memory all the same."""
REMARKS = 100
REMARKS_A_SECOND = 10
"""Lines in the log about strangers: so many at once, and so many a second."""

UNSUPPORTED = (Seen,)
"""Frames that a node reads and answers with Refused: it cannot do that yet."""


class Exchange:
    """Admits connections and answers their frames."""

    def __init__(
        self,
        hub: Hub,
        login: Login,
        ingress: Ingress,
        calls: Calls,
        subscriptions: Subscriptions,
        gate: Gate,
        broker: IBroker,
        limits: LimitSettings,
        session: SessionSettings,
        wheel: Wheel[Callable[[float], None]],
        now: Callable[[], float],
        wall_ms: Callable[[], int],
        counters: Counters,
        max_frame_bytes: int,
        incarnation: str,
        retry_wait: RetryPolicy,
        stood_still: Callable[[], object],
    ) -> None:
        self.limits = limits
        self.session = session
        self.counters = counters
        self.max_frame_bytes = max_frame_bytes
        self.incarnation = incarnation
        self.retry_wait = retry_wait
        self.closing: set[Link] = set()
        """Links that have said their last, and whose connections are not gone yet."""
        self.leaving = False
        self.now = now
        self.arm = wheel.arm
        self._wheel = wheel
        self._hub = hub
        self._delivery = hub.delivery
        self._login = login
        self._ingress = ingress
        self._calls = calls
        self._subscriptions = subscriptions
        self._gate = gate
        self._broker = broker
        self._wall_ms = wall_ms
        self._stood_still = stood_still
        self._unwritten: dict[Link, int] = {}
        """How many records of a link are on their way to stable storage."""
        self._number = self._newest = 0
        self._remarks = Few(REMARKS_A_SECOND, REMARKS, now())
        self.answers: dict[type, Callable[[Link, Session, Any], None]] = {
            Publish: ingress.publish,
            DeliverAck: self._deliver_ack,
            Ping: self._ping,
            Pong: self._pong,
            Renew: self._renew,
            Request: self._request,
            Response: self._response,
            Pull: self._pull,
            Subscribe: self._subscribe,
            Unsubscribe: self._unsubscribe,
            Bye: self._bye,
            Keep: self._keep,
            **dict.fromkeys(UNSUPPORTED, self._unsupported),
        }
        # Straight through: nothing to decide here.
        self.arrived = gate.arrived
        self.greeted = login.greeted
        self.writable = hub.writable
        self.heard_without_acks = hub.delivery.heard_without_acks

    # ------------------------------------------------------------------------------------------ connections

    def accept(self, connection: IConnection) -> Link | None:
        """A socket was accepted; None if too many wait for their login already, or the node is leaving."""
        if self.leaving:
            self.counters.links_closed[CloseCode.GOING_AWAY] += 1
            return None
        source = connection.source
        if not self._gate.admits(source):
            self.counters.links_closed[CloseCode.TOO_MANY_LINKS] += 1
            return None
        link = Link(connection, self)
        self._gate.admit(link, source)
        self.counters.links_accepted += 1
        return link

    @property
    def links(self) -> set[Link]:
        """Those whose connections are there. It is put together when somebody asks: as a table of its own it
        would take 50 bytes a link."""
        linked = (session.link for session in self._hub.sessions)
        return {*self._gate.links, *self.closing, *(link for link in linked if link is not None)}

    def number(self, generation: int = 0) -> int:
        """One that no other link has: the generation of its session, an object that is there already. If it
        has none yet, or the broker counts each session by itself, one that counts down."""
        if generation > self._newest:
            self._newest = generation
            return generation
        self._number -= 1
        return self._number

    def remark(self) -> dict[str, Any] | None:
        """The first fields of a line in the log that any stranger can cause; None: there are too many."""
        unlogged = self._remarks.passes(self.now())
        if unlogged is None:
            return None
        return {"unlogged": unlogged} if unlogged else {}

    def closed(self, link: Link, code: int, reason: str) -> None:
        """The link's conversation is over."""
        self.counters.links_closed[code] += 1
        self.closing.add(link)
        self._hub.closed(link, code, reason)
        self._login.left(link)

    def gone(self, link: Link) -> None:
        """The link's connection is gone."""
        self.closing.discard(link)
        self._gate.release(link)

    def heard(self) -> float:
        """The time that a link notes when it hears something: late by less than a tick, and the same object
        for all that do in that tick."""
        now, wheel = self.now(), self._wheel
        if now <= wheel.next:
            return wheel.next
        self._stood_still()  # looked at before anything of this tick is understood
        return wheel.next_tick(now)

    # ----------------------------------------------------------------------------------------------- frames

    def _deliver_ack(self, link: Link, session: Session, frame: DeliverAck) -> None:
        self._delivery.acked(session, frame)

    def _ping(self, link: Link, session: Session, frame: Ping) -> None:
        link.send(Pong(frame.nonce, self._wall_ms()))

    def _pong(self, link: Link, session: Session, frame: Pong) -> None:
        """Its arrival was all it had to say."""

    def _renew(self, link: Link, session: Session, frame: Renew) -> None:
        self._login.renew(link, frame)

    def _bye(self, link: Link, session: Session, frame: Bye) -> None:
        link.leave(frame)

    def _keep(self, link: Link, session: Session, frame: Keep) -> None:
        kept = self._ingress.keep(link, session, frame.data, frame.relied_on)
        if frame.reply:
            kept.addCallback(self._reply, link, session, frame.reply).addErrback(link.broken)
        if not kept.called:
            self._unwritten[link] = self._unwritten.get(link, 0) + 1
            kept.addCallback(self._written, link)
            # As many as it may have under way are no reason: each frees one for what comes next.
            most = self.limits.publish_window if frame.relied_on else MOST_UNRELIED
            if self._unwritten[link] > most:
                link.pause(Pause.RECORD)
        if frame.linger_s is not None:
            self._hub.partings.wait(session, frame.linger_s)

    def _reply(self, kept: bool, link: Link, session: Session, reply: bytes | Callable[[], bytes]) -> None:
        if kept and link.session is session:
            said = reply if isinstance(reply, bytes) else reply()
            if said:
                link.send_bytes(said)

    def _written(self, _: object, link: Link) -> None:
        left = self._unwritten.pop(link) - 1
        if left:
            self._unwritten[link] = left
        if left <= self.limits.publish_window:  # which may be smaller than it was
            link.resume(Pause.RECORD)

    def _request(self, link: Link, session: Session, frame: Request) -> None:
        self._calls.asked(link, session, frame)

    def _response(self, link: Link, session: Session, frame: Response) -> None:
        self._calls.answered(session, frame)

    def _pull(self, link: Link, session: Session, frame: Pull) -> None:
        if frame.address.kind in RING_KINDS:
            if not self._subscriptions.pull(link, session, frame, self._ingress.policy):
                link.refuse(frame, RefusedCode.FORBIDDEN, "not yours to read")
            return
        log = log_of(frame.address)
        if not self._ingress.policy.may(session.identity, "read", frame.address):
            link.refuse(frame, RefusedCode.FORBIDDEN, "not yours to read")
            return
        if frame.address.kind not in DURABLE_KINDS or frame.lane:
            link.refuse(frame, RefusedCode.NOT_SUPPORTED, "no such log")
            return
        limit = min(frame.limit or 64, self.limits.deliver_window_entries)
        device = session.device

        def answer(batch: Batch) -> None:
            gap = batch.gap or bool(frame.epoch and frame.epoch != batch.epoch)
            entries = for_device(batch.entries, device)
            if link.state is LinkState.OPEN:
                epoch, upto = batch.epoch, batch.upto
                self._delivery.answer(
                    link,
                    Deliver(log.address, 0, epoch, batch.after, upto, entries, gap, batch.head, pulled=True),
                )

        def read() -> Deferred[None]:
            return self._broker.read(log, frame.after, limit, PULL_BYTES).addCallback(answer)

        self._subscriptions.read(link, log, read, lambda: link.state is not LinkState.OPEN)

    def _subscribe(self, link: Link, session: Session, frame: Subscribe) -> None:
        self._subscriptions.in_turn(link, session, frame, self._put_in)

    def _put_in(self, link: Link, session: Session, frame: Subscribe) -> None:
        is_room = frame.address.kind == "room"
        if frame.lane not in (LANES if is_room else (0,)) or frame.address.kind not in SUBSCRIBED_KINDS:
            self._not_subscribed(link, frame)
        elif not self._ingress.policy.may(session.identity, "subscribe", frame.address):
            link.refuse(frame, RefusedCode.FORBIDDEN, "not for you to subscribe to")
        elif is_room:
            if not self._subscriptions.subscribe(link, session, frame):
                link.refuse(frame, RefusedCode.RATE, "you are in as many rooms as you may")
        elif not self._subscriptions.follow(link, session, frame):
            link.refuse(frame, RefusedCode.RATE, "you follow as many logs as you may")

    def _unsubscribe(self, link: Link, session: Session, frame: Unsubscribe) -> None:
        self._subscriptions.in_turn(link, session, frame, self._take_out)

    def _take_out(self, link: Link, session: Session, frame: Unsubscribe) -> None:
        if frame.address.kind not in SUBSCRIBED_KINDS:
            self._not_subscribed(link, frame)
        elif frame.address.kind == "room":
            self._subscriptions.unsubscribe(link, session, frame)
        else:
            self._subscriptions.unfollow(link, session, frame)

    def _not_subscribed(self, link: Link, frame: Subscribe | Unsubscribe) -> None:
        reason = _NOT_SUBSCRIBED.get(frame.address.kind, "only rooms, topics and services are subscribed to")
        link.refuse(frame, RefusedCode.NOT_SUPPORTED, reason)

    def _unsupported(self, link: Link, session: Session, frame: Seen) -> None:
        link.refuse(frame, RefusedCode.NOT_SUPPORTED, _NOT_SUPPORTED)
