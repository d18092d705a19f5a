"""The other processes of a cluster: a user's sessions are reached wherever they are.

The broker knows which node has a session; that node is asked over the control line. A node that is dead, or
does not answer, costs a deadline and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.cluster.frames import Answer, Ask, Control, Drain, Kick, Stored, Undrain
from imgateway.cluster.line import Line
from imgateway.errors import RequestFailed
from imgateway.frames import Address, Message, ResponseCode, SessionKey, parse_address
from imgateway.interfaces import IBroker, Presence

__all__ = ("KICK_S", "Here", "Nowhere", "Peers")

log = Logger()

KICK_S = 5.0
"""A kick waits this long for the broker and for the nodes; who has not answered then counts for none."""
ORDER_S = 5.0
"""A drain waits this long for the node's word. Nodes of an older version drain, and say nothing."""
LATE = b"the broker did not say in time where the client is"


class Here(Protocol):
    """What this process does itself of what it may be asked."""

    def has(self, session: SessionKey) -> bool:
        """Whether its client is connected here."""

    def kick(self, user: str, device: str | None, reason: str) -> int:
        """Close sessions that are here; how many there were."""

    def ask(
        self, session: SessionKey, service: str, method: str, body: bytes, deadline_s: float
    ) -> Deferred[bytes]:
        """Ask a client that is connected here. :raises RequestFailed: (in the Deferred)."""

    def drain(self, rate: int) -> bool:
        """Send clients away, `rate` a second. False: it has none, or goes away altogether."""

    def undrain(self) -> bool:
        """Take clients again. False: as for `drain`."""

    def stored(self, address: Address, message: Message) -> object:
        """A message was stored elsewhere for a user who is away: whoever listens here may want to know."""


class Nowhere:
    """The `Here` of a process without sessions, such as a router."""

    def has(self, session: SessionKey) -> bool:
        return False

    def kick(self, user: str, device: str | None, reason: str) -> int:
        return 0

    def ask(
        self, session: SessionKey, service: str, method: str, body: bytes, deadline_s: float
    ) -> Deferred[bytes]:
        raise RequestFailed(ResponseCode.GONE, b"no client is connected here")

    def drain(self, rate: int) -> bool:
        return False

    def undrain(self) -> bool:
        return False

    def stored(self, address: Address, message: Message) -> None:
        pass


class Peers:
    """Reaches sessions and nodes, those of this process too. Give `heard` what the broker's listener gets as
    `control`, and `stop` it before the broker.

    :param incarnation: this process, as the broker was started with.
    """

    def __init__(self, broker: IBroker, here: Here, incarnation: str, reactor: IReactorTime) -> None:
        self.incarnation = incarnation
        self.orders = 0
        """How often this process was told to drain, or not to any more."""
        self._broker = broker
        self._here = here
        self._reactor = reactor
        self._line = Line(broker.tell, incarnation, reactor, self._asked)
        self._doing: dict[type, Callable[[Any], object]] = {
            Kick: self._kicked,
            Ask: self._questioned,
            Drain: self._ordered,
            Undrain: self._ordered,
            Stored: self._stored,
        }
        self.heard = self._line.heard
        self.stop = self._line.stop

    # ------------------------------------------------------------------------------------------ what we want

    def kick(self, user: str, device: str | None, reason: str) -> Deferred[int]:
        """Close a user's sessions on whatever node they are; fires with how many there were.

        Those that are here go before this returns. What a node that does not answer has does not count.
        """
        here = self._here.kick(user, device, reason)
        finding: Deferred[Any] = self._sessions(user, KICK_S)
        finding.addCallback(self._kick_others, user, device, reason)
        finding.addErrback(self._not_found, user)
        return finding.addCallback(lambda others: here + others)

    def _kick_others(
        self, found: tuple[Presence, ...], user: str, device: str | None, reason: str
    ) -> Deferred[int]:
        nodes = dict.fromkeys(
            one.node for one in found if one.node and (device is None or one.session.device == device)
        )
        nodes.pop(self.incarnation, None)
        question = Kick(user=user, device=device, reason=reason)
        asking = [self._line.ask(node, question, KICK_S).addErrback(self._mute, node) for node in nodes]
        return DeferredList(asking).addCallback(lambda results: sum(answer.count for _, answer in results))

    def _mute(self, failure: Failure, node: str) -> Answer:
        failure.trap(RequestFailed)
        log.info("{node} did not say that it kicked: {why}", node=node, why=failure.getErrorMessage())
        return Answer(number=0)

    def _not_found(self, failure: Failure, user: str) -> int:
        if failure.check(CancelledError):
            log.warn("kick: the broker did not say in time where else the user is", user=user)
        else:
            log.failure("kick: the broker did not say where else the user is", failure)
        return 0

    def ask(
        self, session: SessionKey, service: str, method: str, body: bytes, deadline_s: float
    ) -> Deferred[bytes]:
        """Ask a client, wherever it is connected, and await its answer.

        :raises RequestFailed: (in the Deferred) GONE: not connected anywhere; RATE: too many questions to it
            wait already; FAILED: its wire cannot carry the question; DEADLINE; or the client's own code.
        """
        if self._here.has(session):
            return maybeDeferred(self._here.ask, session, service, method, body, deadline_s)
        due = self._reactor.seconds() + deadline_s
        finding: Deferred[Any] = self._sessions(session.user, deadline_s)
        finding.addErrback(self._too_late)

        def found(presences: tuple[Presence, ...]) -> Deferred[bytes]:
            left_s = due - self._reactor.seconds()
            left_ms = int(left_s * 1000)
            if left_ms < 1:  # the process stood still, and its timers have not run yet
                raise RequestFailed(ResponseCode.DEADLINE, LATE)
            node = next((one.node for one in presences if one.session == session), "")
            if node == self.incarnation or self._here.has(session):  # it may have come here meanwhile
                return maybeDeferred(self._here.ask, session, service, method, body, left_s)
            if not node:
                raise RequestFailed(ResponseCode.GONE, b"the client is not connected")
            question = Ask(
                user=session.user,
                device=session.device,
                service=service,
                method=method,
                body=body,
                deadline_ms=left_ms,
            )
            return self._line.ask(node, question, left_s).addCallback(_body)

        return finding.addCallback(found)

    def _too_late(self, failure: Failure) -> Failure:
        failure.trap(CancelledError)
        raise RequestFailed(ResponseCode.DEADLINE, LATE)

    def drain(self, incarnation: str, rate: int) -> Deferred[int]:
        """Have a node send its clients away, `rate` a second; fires with the order's number, see
        `IGateway.drain`."""
        return self._order(incarnation, Drain(rate=rate))

    def undrain(self, incarnation: str) -> Deferred[int]:
        """Have it take clients again; fires with the order's number."""
        return self._order(incarnation, Undrain())

    def _order(self, incarnation: str, order: Drain | Undrain) -> Deferred[int]:
        if incarnation == self.incarnation:
            return succeed(self._obey(order))
        asking: Deferred[Any] = self._line.ask(incarnation, order, ORDER_S)
        return asking.addCallbacks(lambda answer: answer.count, _unanswered)

    def stored(self, incarnation: str, messages: tuple[tuple[str, Message], ...]) -> Deferred[bool]:
        """Have a node's session listeners told of messages for who is away, each with its address as text.
        False: there is no such node."""
        return self._line.say(incarnation, Stored(messages=messages))

    def _sessions(self, user: str, within_s: float) -> Deferred[tuple[Presence, ...]]:
        """The user's sessions, or CancelledError: the broker waits for its store, and we do not."""
        finding = self._broker.sessions(user)
        # addTimeout would take the reactor's own clock; a call is cheaper than its three callbacks, too.
        late = self._reactor.callLater(max(0.0, within_s), finding.cancel)

        def over(result: Any) -> Any:
            if late.active():
                late.cancel()
            return result

        return finding.addBoth(over)

    # -------------------------------------------------------------------------------------- what others want

    def _asked(self, frame: Control) -> None:
        self._doing[type(frame)](frame)

    def _stored(self, frame: Stored) -> None:
        for address, message in frame.messages:
            self._here.stored(parse_address(address), message)

    def _ordered(self, frame: Drain | Undrain) -> None:
        number = self._obey(frame)
        if frame.reply_to:  # a router of an older version awaits no answer
            self._line.say(frame.reply_to, Answer(number=frame.number, count=number))

    def _obey(self, order: Drain | Undrain) -> int:
        """The order's number; 0: it cannot be done here."""
        self.orders += 1
        here = self._here
        done = here.drain(max(1, order.rate)) if isinstance(order, Drain) else here.undrain()
        return self.orders if done else 0

    def _kicked(self, frame: Kick) -> None:
        count = self._here.kick(frame.user, frame.device, frame.reason)
        self._line.say(frame.reply_to, Answer(number=frame.number, count=count))

    def _questioned(self, frame: Ask) -> None:
        key = SessionKey(frame.user, frame.device)
        asking: Deferred[Any] = maybeDeferred(
            self._here.ask, key, frame.service, frame.method, frame.body, frame.deadline_ms / 1000
        )
        asking.addCallbacks(
            lambda body: Answer(number=frame.number, body=body), self._refused, errbackArgs=(frame,)
        )
        asking.addCallback(partial(self._line.say, frame.reply_to))

    def _refused(self, failure: Failure, frame: Ask) -> Answer:
        error = failure.value
        if isinstance(error, RequestFailed):
            return Answer(number=frame.number, code=error.code, body=error.body)
        log.failure("a client could not be asked for another process", failure)
        return Answer(number=frame.number, code=ResponseCode.FAILED)


def _unanswered(failure: Failure) -> int:
    failure.trap(RequestFailed)
    error: Any = failure.value
    return -1 if error.code == ResponseCode.DEADLINE else 0


def _body(answer: Answer) -> bytes:
    if answer.code != ResponseCode.OK:
        raise RequestFailed(answer.code, answer.body)
    return answer.body
