"""The way in for a publish: quota, interceptors, size, policy, then the broker. Its order is the order of
arrival.

Nothing is refused for coming too fast on a connection that can be paused: what is over quota is taken on
credit and the link is not read until the debt is paid. So a sender never has to guess what became of a
message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import LimitSettings
from imgateway.core.counters import Counters
from imgateway.core.handshake import LinkState
from imgateway.core.policy import names
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
from imgateway.core.quota import Quotas
from imgateway.core.session import Session
from imgateway.errors import BadFrame
from imgateway.frames import (
    MAX_CONTENT_TYPE_BYTES,
    RING_KINDS,
    Address,
    Message,
    Outcome,
    OutcomeCode,
    Publish,
    PublishAck,
    SessionKey,
    header_bytes,
)
from imgateway.interfaces import (
    IBroker,
    Identity,
    IInterceptor,
    IMailBackend,
    IPolicy,
    Publication,
    Verdict,
)
from imgateway.node.hub import Hub
from imgateway.node.link import Link, Pause

__all__ = ("Ingress",)

log = Logger()

CHAINED_BYTES = 16_777_216
"""Of all publishes that wait in chains: then each link that brings one more is not read until one of its own
has passed. An outage of the store must not fill the memory before the store itself counts what waits."""
PUBLISH_BYTES, ADDRESS_BYTES = 1024, 256
"""What a publish takes besides its body, and for each that it is for."""

OPEN, WINDOW = LinkState.OPEN, Pause.WINDOW  # found faster than in their classes

Rooms = tuple[Any, ...]
"""Those that a session is in."""


class Ingress:
    """Takes publishes of sessions, and of business code in this process.

    :param now: monotonic seconds, for quotas.
    :param wall_ms: Unix milliseconds, for the message's own time.
    """

    def __init__(
        self,
        hub: Hub,
        broker: IBroker,
        policy: IPolicy,
        quotas: Quotas,
        limits: LimitSettings,
        interceptors: Sequence[IInterceptor],
        now: Callable[[], float],
        wall_ms: Callable[[], int],
        counters: Counters,
    ) -> None:
        self._most_told = self._most_told_services = 0  # addresses that one publish may name
        self.go_by(limits)
        self.policy = policy
        self.mail: Mapping[str, IMailBackend] = {}
        self._hub = hub
        self._broker = broker
        self._quotas = quotas
        self._interceptors = tuple(interceptors)
        self._now = now
        self._wall_ms = wall_ms
        self._counters = counters
        self._chained = 0  # bytes
        # Until then nobody's publishes count for certain but those of whom the broker has confirmed since.
        self._doubted_until = 0.0
        self._confirmed: set[Session] | None = None  # None: nobody is doubted
        # By session: what waits until the record that was given to the broker last is on stable storage.
        self._unwritten: dict[SessionKey, list[Deferred[bool]]] = {}

    def go_by(self, limits: LimitSettings) -> None:
        """Keep to these from now on. But a publish may name as many addresses as any Welcome of this process
        allowed: the client that was told so goes by it, and more ends its link for good."""
        self.limits = limits
        self._most_told = max(self._most_told, limits.max_addresses)
        self._most_told_services = max(self._most_told_services, limits.max_addresses_service)

    def doubt(self, until: float) -> None:
        """This process stood still. Whoever publishes from now on may have said it before that, and may have
        been displaced or revoked since, which is not heard yet: the broker is asked first, once for each."""
        self._doubted_until, self._confirmed = until, set()

    def publish(self, link: Link, session: Session, frame: Publish) -> None:
        """A client's publish. Its PublishAck goes to the same link, if that is still there.

        :raises BadFrame: it names more addresses than any Welcome allowed.
        """
        if self._confirmed is not None and not self._is_current(link, session):
            return
        self._counters.publishes += 1
        identity: Identity = session.identity
        limits, to = self.limits, frame.to
        is_one = len(to) == 1
        if not is_one and len(to) > self._most(identity):
            raise BadFrame("more addresses than Welcome allows")
        if not identity.service:
            wait = self._charge(session, frame)
            if wait:
                link.owe(wait)
        if self._interceptors or session.chain:
            session.publishing += 1
            if (
                session.publishing >= min(limits.publish_window, limits.interceptor_chain)
                or self._chained >= CHAINED_BYTES
            ):
                link.pause(WINDOW)
            self._enchain(link, session, frame)
        elif frame.qos:
            session.publishing += 1
            if session.publishing >= limits.publish_window:
                link.pause(WINDOW)
            user = to[0]
            if (
                is_one
                and user.kind == "user"
                and len(frame.body) <= limits.max_body_bytes
                and len(frame.content_type) <= MAX_CONTENT_TYPE_BYTES
                and not (frame.ttl_s or frame.headers or frame.resent or frame.copy_self)
                and self.policy.may(identity, "publish", user)
            ):
                # The way of nearly all messages: a body for one user, with nothing else about it.
                msg_id = frame.msg_id
                message = Message(
                    msg_id, session.user, session.device, frame.content_type, frame.body, self._wall_ms()
                )
                self._broker.take(message, user, self._answer, (link, session, msg_id))
            elif self._waits(session, to):
                if self._chained >= CHAINED_BYTES:
                    link.pause(WINDOW)
                self._enchain(link, session, frame)
            else:
                self._take(link, session, frame, session.rooms)
        else:
            self._emit(identity, session.user, session.device, frame, session.rooms)
        if self._hub.is_congested and any(one.kind not in RING_KINDS for one in to):
            self._hub.stall(link)

    def submit(self, identity: Identity, device: str, frame: Publish) -> Deferred[Answer]:
        """A publish of business code: policy applies, quotas do not. With qos 0 OK says that nothing forbade
        it."""
        if frame.qos:
            return self._submit(identity, identity.user, device, frame)
        return succeed(self._emit(identity, identity.user, device, frame))

    def bequeath(self, session: Session, will: Publish) -> None:
        """Publish the will of a session whose client is gone: as a publish of its own, unless it may not."""
        self._counters.publishes += 1
        identity: Identity = session.identity
        if len(will.to) > self._most(identity):
            self._counters.outcomes[OutcomeCode.FORBIDDEN] += len(will.to)
            return
        if not identity.service:
            self._charge(session, will)  # its next connection pays
        self._enchain(None, session, will)  # behind what its client said before

    def _bequeathed(self, result: Publish | int, session: Session, rooms: Rooms) -> bool:
        counts = self._counters.outcomes
        if not isinstance(result, Publish):
            counts[result] += 1
        elif result.qos:
            answer = self._submit(session.identity, session.user, session.device, result, rooms)
            answer.addCallback(lambda outcomes: counts.update(one.code for one in outcomes))
            answer.addErrback(self._not_bequeathed)
        else:
            self._emit(session.identity, session.user, session.device, result, rooms)
        return True

    def _not_bequeathed(self, failure: Failure) -> bool:
        log.failure("a will could not be published", failure)
        return True

    # ------------------------------------------------------------------------------------------------ steps

    def _most(self, identity: Identity) -> int:
        """Addresses that one publish may name."""
        return self._most_told_services if identity.service else self._most_told

    def _charge(self, session: Session, frame: Publish) -> float:
        """Take it from the user's quota. :returns: seconds until that is paid."""
        now = self._now()
        quota = self._quotas.of(session.user, now)
        wait = quota.publish(len(frame.body), now)
        for address in frame.to:
            wait = max(wait, quota.pair(address, now))
        return wait

    def _allowed(self, identity: Identity, frame: Publish, rooms: Rooms) -> tuple[Address, ...]:
        may, lane = self.policy.may, frame.lane
        return tuple(
            [
                one
                for one in frame.to
                if may_publish(may, identity, one, lane)
                and (one.kind != "room" or _may_speak(identity, one, rooms))
            ]
        )

    def _submit(
        self, identity: Identity, user: str, device: str, frame: Publish, rooms: Rooms = ()
    ) -> Deferred[Answer]:
        """Policy, then the broker; the outcomes come back in the order of `to`. `rooms`: those that the
        session was in when the frame came."""
        if is_too_large(frame, self.limits.max_body_bytes):
            return succeed((TOO_LARGE,) * len(frame.to))
        allowed = self._allowed(identity, frame, rooms)
        if not allowed:
            return succeed((FORBIDDEN,) * len(frame.to))
        answer = self._broker.publish(self._publication(identity, user, device, frame, allowed))
        if self.mail:
            answer.addCallback(self._arrived, SessionKey(user, device), frame, allowed)
        if len(allowed) == len(frame.to):
            return answer
        return answer.addCallback(spread, allowed, frame.to)

    def _arrived(
        self, outcomes: Answer, sender: SessionKey, frame: Publish, to: tuple[Address, ...]
    ) -> Answer:
        """Tell backends what is in their logs now."""
        for address, outcome in zip(to, outcomes, strict=True):
            backend = self.mail.get(address.id) if address.kind == "service" else None
            if backend is not None and outcome.code == OutcomeCode.OK:
                try:
                    backend.arrived(sender, frame, outcome.seq)
                except Exception:
                    self._counters.plugin_errors[backend.name] += 1
                    log.failure("the backend {name} failed at what arrived", name=backend.name)
        return outcomes

    def _emit(self, identity: Identity, user: str, device: str, frame: Publish, rooms: Rooms = ()) -> Answer:
        """qos 0: what may not be sent, or is too large, goes nowhere."""
        if is_too_large(frame, self.limits.max_body_bytes):
            return (TOO_LARGE,) * len(frame.to)
        allowed = self._allowed(identity, frame, rooms)
        if allowed:
            self._broker.emit(self._publication(identity, user, device, frame, once(allowed)))
        return spread((OK,) * len(allowed), allowed, frame.to)

    def _publication(
        self, identity: Identity, user: str, device: str, frame: Publish, to: tuple[Address, ...]
    ) -> Publication:
        message = message_of(frame, user, device, self._wall_ms())
        return Publication(message, to, frame.lane, frame.resent, frame.copy_self, identity.service)

    def _end(self, link: Link, session: Session) -> None:
        session.publishing -= 1
        if session.publishing < self.limits.publish_window:
            link.resume(WINDOW)

    def _take(
        self, link: Link, session: Session, frame: Publish, rooms: Rooms, came: Publish | None = None
    ) -> None:
        """Give a begun publish its place in the broker's order. `came`: the frame that is answered, if it was
        another."""
        answer = self._submit(session.identity, session.user, session.device, frame, rooms)
        if came is not None:
            answer.addCallback(spread, frame.to, came.to)
        answer.addCallbacks(self._answer, link.broken, (link, session, (came or frame).msg_id))

    def _answer(self, outcomes: Answer, link: Link, session: Session, msg_id: str) -> None:
        counts = self._counters.outcomes
        for outcome in outcomes:
            counts[outcome.code] += 1
        if link.state is OPEN:
            link.send(PublishAck(msg_id, outcomes))
        self._end(link, session)

    # ------------------------------------------------------------------------------ interceptors and records

    # A session's publishes pass one after the other, so that a slow first one is not overtaken; and none that
    # its codec said after a record is stored before that is. Where both stand in one line to the disk, only
    # what is for rooms, areas or `all` waits: that never touches the disk, and after a kill its message id
    # would be another message's. The chain is no DeferredLock, whose waiters run inside each other: a long
    # chain would end at the recursion limit.

    def keep(self, link: Link, session: Session, data: bytes, relied_on: bool) -> Deferred[bool]:
        """Keep this as the session's record. Fires with True when it is on stable storage; with False what
        relies on it goes nowhere, for somebody else has the session: its client sends it again there. Not
        `relied_on`: no publish waits for it."""
        key = session.key
        kept = self._broker.record(key, session.generation, data)
        kept.addErrback(self._not_kept, link).addCallback(self._is_kept, link)
        if relied_on and not kept.called:
            waiting: list[Deferred[bool]] = []
            self._unwritten[key] = waiting
            kept.addCallback(self._written, key, waiting)
            if not self._broker.in_line:
                turn: Deferred[bool] = Deferred()
                waiting.append(turn)
                self._enchain(link, session, turn)
        return kept

    def _not_kept(self, failure: Failure, link: Link) -> bool:
        link.broken(failure)
        return False

    def _is_kept(self, kept: bool, link: Link) -> bool:
        if not kept and link.state is OPEN:
            link.pause(Pause.STALE)
        return kept

    def _written(self, kept: bool, key: SessionKey, waiting: list[Deferred[bool]]) -> bool:
        for turn in waiting:  # also what comes meanwhile
            turn.callback(kept)
        if self._unwritten.get(key) is waiting:
            del self._unwritten[key]
        return kept

    def _waits(self, session: Session, to: tuple[Address, ...]) -> bool:
        """Whether what is published there must wait for the session's record."""
        return (
            bool(self._unwritten)
            and session.key in self._unwritten
            and any(one.kind in RING_KINDS for one in to)
        )

    def _is_current(self, link: Link, session: Session) -> bool:
        """Whether what it publishes has any effect, as far as that is known; if not, it waits in its chain
        until that is."""
        if self._now() >= self._doubted_until:
            self._confirmed = None
        elif self._confirmed is not None and session not in self._confirmed:
            self._confirmed.add(session)
            issued_at_s = session.identity.issued_at_s
            asked = self._broker.renew_session(session.key, session.generation, issued_at_s)
            current = asked.addCallback(lambda verdict: self._is_kept(verdict is Verdict.OK, link))
            current.addErrback(self._not_kept, link)
            if current.called:
                return current.result is True
            self._enchain(link, session, current)
        return True

    def _enchain(self, link: Link | None, session: Session, item: Publish | Deferred[bool]) -> None:
        """:param link: None: it is a will."""
        if session.chain is None:
            session.chain = deque()
        # The rooms of now: what the client says next may be that it leaves them.
        session.chain.append((link, item, session.rooms))
        self._chained += _size(item)
        if len(session.chain) == 1:
            self._pass(session)

    def _pass(self, session: Session) -> None:
        """Let the first of the chain pass, and those behind it as long as they are decided at once."""
        while session.chain:
            link, item, rooms = session.chain[0]
            asked: Deferred[Any]
            if isinstance(item, Publish):
                asked = succeed(item)
                for interceptor in self._interceptors:
                    asked.addCallback(self._ask, interceptor, session.identity)
                if link is None:
                    asked.addCallback(self._bequeathed, session, rooms)
                    asked.addErrback(self._not_bequeathed)
                else:
                    asked.addCallback(self._decided, link, session, item, rooms)
                    asked.addErrback(link.broken)
                later = bool(asked.paused)
            else:
                asked, later = item, not item.called
            asked.addCallback(self._passed, session, later)
            if later:
                return
        session.chain = None

    def _passed(self, went_on: bool | None, session: Session, later: bool) -> None:
        self._chained -= _size(session.chain.popleft()[1])
        if not went_on:
            # The client sends them again; published now, they would overtake the one that failed. Its will is
            # what it said last here.
            waiting, session.chain = session.chain, deque(one for one in session.chain if one[0] is None)
            self._chained -= sum([_size(item) for link, item, _ in waiting if link is not None])
        if later:
            self._pass(session)

    def _ask(self, result: Publish | int, interceptor: IInterceptor, identity: Identity) -> Any:
        if not isinstance(result, Publish):
            return result
        asked: Deferred[Any] = maybeDeferred(interceptor.before_publish, identity, result)
        asked.addCallback(self._is_decision, interceptor)
        return asked.addErrback(self._raised, interceptor)

    def _is_decision(self, result: Publish | int, interceptor: IInterceptor) -> Publish | int:
        if not isinstance(result, Publish | int):
            raise TypeError(f"{interceptor.name} returned neither a Publish nor an OutcomeCode")
        return result

    def _raised(self, failure: Failure, interceptor: IInterceptor) -> Failure:
        self._counters.plugin_errors[interceptor.name] += 1
        return failure

    def _decided(
        self, result: Publish | int, link: Link, session: Session, frame: Publish, rooms: Rooms
    ) -> bool | Deferred[bool]:
        """What the interceptors made of `frame`; the answer is for the frame as it came."""
        if not frame.qos:
            if isinstance(result, Publish):
                self._emit(session.identity, session.user, session.device, result, rooms)
            self._end(link, session)
        elif not isinstance(result, Publish):
            self._answer((Outcome(result),) * len(frame.to), link, session, frame.msg_id)
        elif self._waits(session, result.to):
            turn: Deferred[bool] = Deferred()
            self._unwritten[session.key].append(turn)
            return turn.addCallback(self._relied, link, session, result, rooms, frame)
        else:
            self._take(link, session, result, rooms, frame)
        return True

    def _relied(
        self, kept: bool, link: Link, session: Session, frame: Publish, rooms: Rooms, came: Publish
    ) -> bool:
        """The record that it relies on is kept, or not."""
        if kept:
            self._take(link, session, frame, rooms, came)
        return kept


def _size(item: Publish | Deferred[bool]) -> int:
    """In a chain, about."""
    if not isinstance(item, Publish):
        return 0
    text = len(item.content_type) + header_bytes(item.headers)
    return PUBLISH_BYTES + len(item.body) + ADDRESS_BYTES * len(item.to) + text


def _may_speak(identity: Identity, room: Address, rooms: Rooms) -> bool:
    """What is asked of a room beside the policy's word on publishing there."""
    return identity.service or any(one.address == room for one in rooms) or names(identity.claims, room)
