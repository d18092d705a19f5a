"""The way in for a publish: size, policy, quota, interceptors, then the broker. Its order is the order of
arrival.

Nothing is refused for coming too fast on a connection that can be paused: what is over quota is taken on
credit and the link is not read until the debt is paid. So a sender never has to guess what became of a
message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred, succeed
from twisted.python.failure import Failure

from imgateway.config import LimitSettings
from imgateway.core.counters import Counters
from imgateway.core.handshake import LinkState
from imgateway.core.quota import Quotas
from imgateway.core.session import Session
from imgateway.errors import BadFrame
from imgateway.frames import Address, Message, Outcome, OutcomeCode, Publish, PublishAck
from imgateway.interfaces import IBroker, Identity, IInterceptor, IPolicy, Publication
from imgateway.node.hub import Hub
from imgateway.node.link import Link, Pause

__all__ = ("Ingress",)

Answer = tuple[Outcome, ...]


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
        arm: Callable[[float, Callable[[float], None]], None],
        counters: Counters,
    ) -> None:
        self.limits = limits
        self.policy = policy
        self._hub = hub
        self._broker = broker
        self._quotas = quotas
        self._interceptors = tuple(interceptors)
        self._now = now
        self._wall_ms = wall_ms
        self._arm = arm
        self._counters = counters

    def publish(self, link: Link, session: Session, frame: Publish) -> None:
        """A client's publish. Its PublishAck goes to the same link, if that is still there.

        :raises BadFrame: it names more addresses than Welcome allows.
        """
        self._counters.publishes += 1
        identity: Identity = session.identity
        limits = self.limits
        if len(frame.to) > (limits.max_addresses_service if identity.service else limits.max_addresses):
            raise BadFrame("more addresses than Welcome allows")
        if not identity.service:
            self._charge(link, session, frame)
        if self._interceptors:
            self._begin(link, session)
            if session.chain is None:
                session.chain = DeferredLock()
            passing = session.chain.run(self._intercept, link, session, frame)
            passing.addErrback(link.broken)
        elif frame.qos:
            self._begin(link, session)
            self._take(link, session, frame)
        else:
            self._emit(identity, session.key.user, session.key.device, frame)
        if self._hub.is_congested:
            self._hub.stall(link)

    def submit(self, identity: Identity, device: str, frame: Publish) -> Deferred[Answer]:
        """A publish of business code: policy applies, quotas do not."""
        if frame.qos:
            return self._submit(identity, identity.user, device, frame)
        self._emit(identity, identity.user, device, frame)
        return succeed((Outcome(OutcomeCode.OK),) * len(frame.to))

    # ------------------------------------------------------------------------------------------------ steps

    def _charge(self, link: Link, session: Session, frame: Publish) -> None:
        now = self._now()
        quota = self._quotas.of(session.key.user, now)
        wait = quota.publish(len(frame.body), now)
        for address in frame.to:
            wait = max(wait, quota.pair(address, now))
        if wait:
            self._counters.quota_waits += 1
            link.pause(Pause.QUOTA)
            self._arm(now + wait, lambda now: link.resume(Pause.QUOTA))

    def _allowed(self, identity: Identity, frame: Publish) -> tuple[Address, ...]:
        may = self.policy.may
        for address in frame.to:
            if not may(identity, "publish", address):
                return tuple([one for one in frame.to if may(identity, "publish", one)])
        return frame.to

    def _submit(self, identity: Identity, user: str, device: str, frame: Publish) -> Deferred[Answer]:
        """Policy, then the broker; the outcomes come back in the order of `to`."""
        if len(frame.body) > self.limits.max_body_bytes:
            return succeed((Outcome(OutcomeCode.TOO_LARGE),) * len(frame.to))
        allowed = self._allowed(identity, frame)
        if not allowed:
            return succeed((Outcome(OutcomeCode.FORBIDDEN),) * len(frame.to))
        answer = self._broker.publish(self._publication(user, device, frame, allowed))
        if len(allowed) == len(frame.to):
            return answer
        return answer.addCallback(self._with_forbidden, identity, frame)

    def _with_forbidden(self, outcomes: Answer, identity: Identity, frame: Publish) -> Answer:
        given = iter(outcomes)
        may = self.policy.may
        return tuple(
            next(given) if may(identity, "publish", address) else Outcome(OutcomeCode.FORBIDDEN)
            for address in frame.to
        )

    def _emit(self, identity: Identity, user: str, device: str, frame: Publish) -> None:
        """qos 0: what may not be sent, or is too large, goes nowhere."""
        allowed = self._allowed(identity, frame)
        if allowed and len(frame.body) <= self.limits.max_body_bytes:
            self._broker.emit(self._publication(user, device, frame, allowed))

    def _publication(self, user: str, device: str, frame: Publish, to: tuple[Address, ...]) -> Publication:
        sent_ms = self._wall_ms()
        expires_ms = sent_ms + frame.ttl_s * 1000 if frame.ttl_s else 0
        message = Message(
            frame.msg_id, user, device, frame.content_type, frame.body, sent_ms, expires_ms, frame.headers
        )
        return Publication(message, to, frame.lane, frame.resent, frame.copy_self)

    def _begin(self, link: Link, session: Session) -> None:
        session.publishing += 1
        if session.publishing >= self.limits.publish_window:
            link.pause(Pause.WINDOW)

    def _end(self, link: Link, session: Session) -> None:
        session.publishing -= 1
        if session.publishing < self.limits.publish_window:
            link.resume(Pause.WINDOW)

    def _take(self, link: Link, session: Session, frame: Publish) -> None:
        """Give a begun publish its place in the broker's order."""
        answer = self._submit(session.identity, session.key.user, session.key.device, frame)
        answer.addCallbacks(self._answer, link.broken, (link, session, frame.msg_id))

    def _answer(self, outcomes: Answer, link: Link, session: Session, msg_id: str) -> None:
        counts = self._counters.outcomes
        for outcome in outcomes:
            counts[outcome.code] += 1
        if link.state is LinkState.OPEN:
            link.send(PublishAck(msg_id, outcomes))
        self._end(link, session)

    # ----------------------------------------------------------------------------------------- interceptors

    def _intercept(self, link: Link, session: Session, frame: Publish) -> Deferred[None]:
        """Through the interceptors, then to the broker; a slow one holds this session's later publishes,
        nobody else's."""
        asked: Deferred[Publish | int] = succeed(frame)
        for interceptor in self._interceptors:
            asked.addCallback(self._ask, interceptor, session.identity)
        return asked.addCallback(self._decided, link, session, frame)

    def _ask(self, result: Publish | int, interceptor: IInterceptor, identity: Identity) -> Any:
        if not isinstance(result, Publish):
            return result
        asked = maybeDeferred(interceptor.before_publish, identity, result)
        return asked.addErrback(self._raised, interceptor)

    def _raised(self, failure: Failure, interceptor: IInterceptor) -> Failure:
        self._counters.plugin_errors[interceptor.name] += 1
        return failure

    def _decided(self, result: Publish | int, link: Link, session: Session, frame: Publish) -> None:
        if not frame.qos:
            if isinstance(result, Publish):
                self._emit(session.identity, session.key.user, session.key.device, result)
            self._end(link, session)
        elif isinstance(result, Publish):
            self._take(link, session, result)
        else:
            self._answer((Outcome(result),) * len(frame.to), link, session, frame.msg_id)
