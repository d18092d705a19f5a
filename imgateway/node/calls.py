"""Requests both ways: a client asks a service, the gateway asks a client.

A client's question goes to the backend of that name and is answered once, at the latest at its deadline. The
gateway's own questions wait in the session, at most 16, and end with an answer, at the deadline, or with the
link (GONE).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import LimitSettings
from imgateway.core.counters import Counters
from imgateway.core.handshake import LinkState
from imgateway.core.quota import Quotas
from imgateway.core.session import Session
from imgateway.errors import RequestFailed
from imgateway.frames import Request, Response, ResponseCode, SessionKey
from imgateway.interfaces import IBackend
from imgateway.node.hub import Hub
from imgateway.node.link import Link, Pause

__all__ = ("Calls",)

log = Logger()


class Call:
    """One question to a client that waits for its answer."""

    __slots__ = ("answer", "number", "session")

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        self.answer: Deferred[bytes] = Deferred(self._cancelled)

    def end(self, code: int, body: bytes) -> None:
        """Answer, once; later calls do nothing."""
        calls = self.session.calls
        if calls is not None and calls.get(self.number) is self:
            del calls[self.number]
        if not self.answer.called:
            if code == ResponseCode.OK:
                self.answer.callback(body)
            else:
                self.answer.errback(RequestFailed(code, body))

    def gone(self) -> None:
        """The link went before the answer came."""
        self.end(ResponseCode.GONE, b"the client's connection is gone")

    def _cancelled(self, answer: Deferred[bytes]) -> None:
        calls = self.session.calls
        if calls is not None:
            calls.pop(self.number, None)


class Calls:
    """Routes questions and answers; keeps their deadlines."""

    def __init__(
        self,
        hub: Hub,
        quotas: Quotas,
        limits: LimitSettings,
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], object],
        counters: Counters,
    ) -> None:
        self.limits = limits
        self.backends: Mapping[str, IBackend] = {}
        self._hub = hub
        self._quotas = quotas
        self._now = now
        self._arm = arm
        self._counters = counters
        self._number = 0

    # ----------------------------------------------------------------------------------- the client asks us

    def asked(self, link: Link, session: Session, request: Request) -> None:
        """A client's question; its answer goes to the same link."""
        self._counters.requests += 1
        backend = self.backends.get(request.service)
        if backend is None:
            self._respond(link, request.id, ResponseCode.NO_SUCH_SERVICE, b"")
            return
        now = self._now()
        if not session.identity.service and not self._quotas.of(session.user, now).request(now):
            self._respond(link, request.id, ResponseCode.RATE, b"")
            return
        session.answering += 1
        if session.answering >= self.limits.requests_in_flight:
            link.pause(Pause.CALLS)
        deadline_s = self.limits.request_deadline_s
        if request.deadline_ms:
            deadline_s = min(deadline_s, request.deadline_ms / 1000)
        working: Deferred[Any] = maybeDeferred(backend.request, session.key, request)
        if not working.called or working.paused:  # paused: it fired, and waits for another Deferred
            self._arm(now + deadline_s, lambda now: working.cancel())
        working.addCallback(self._is_body)
        working.addErrback(self._failed, request)
        working.addCallback(self._answered, link, session, request)
        working.addErrback(
            lambda failure: log.failure("an answer could not be sent", failure, **link.about())
        )

    def _is_body(self, body: bytes) -> bytes:
        if not isinstance(body, bytes):
            raise TypeError(f"a backend answers with bytes, not {type(body).__name__}")
        return body

    def _failed(self, failure: Failure, request: Request) -> tuple[int, bytes]:
        error = failure.value
        if isinstance(error, CancelledError):
            return ResponseCode.DEADLINE, b""
        if isinstance(error, RequestFailed):
            return error.code, error.body
        self._counters.plugin_errors[request.service] += 1
        log.failure("the backend of {service} failed", failure, service=request.service)
        return ResponseCode.FAILED, b""

    def _answered(
        self, result: bytes | tuple[int, bytes], link: Link, session: Session, request: Request
    ) -> None:
        session.answering -= 1
        code, body = result if isinstance(result, tuple) else (ResponseCode.OK, result)
        self._respond(link, request.id, code, body)
        link.resume(Pause.CALLS)

    def _respond(self, link: Link, number: int, code: int, body: bytes) -> None:
        if link.state is LinkState.OPEN and not link.send(Response(number, code, body)) and body:
            code = ResponseCode.FAILED  # larger than a frame may be, and the client waits
            link.send(Response(number, code))
        self._counters.responses[code] += 1

    # ------------------------------------------------------------------------------------- we ask the client

    def ask(
        self, key: SessionKey, service: str, method: str, body: bytes, deadline_s: float
    ) -> Deferred[bytes]:
        """Ask a client.

        :raises RequestFailed: (in the Deferred) GONE: not connected; RATE: too many questions wait already;
            FAILED: its wire cannot carry the question; DEADLINE; or the code that the client answered with.
        """
        session = self._hub.sessions.get(key)
        if session is None or session.link is None or session.link.state is not LinkState.OPEN:
            return fail(RequestFailed(ResponseCode.GONE, b"the client is not connected here"))
        if session.calls is None:
            session.calls = {}
        if len(session.calls) >= self.limits.requests_in_flight:
            return fail(RequestFailed(ResponseCode.RATE, b"too many unanswered requests to this client"))
        self._number += 1
        question = Request(self._number, service, method, body, int(deadline_s * 1000))
        if not session.link.send(question):
            return fail(RequestFailed(ResponseCode.FAILED, b"the client's wire cannot carry this request"))
        if session.calls is None:  # that was more than a link may leave unread: it is gone
            return fail(RequestFailed(ResponseCode.GONE, b"the client's connection is gone"))
        call = session.calls[self._number] = Call(session, self._number)
        self._arm(self._now() + deadline_s, lambda now: call.end(ResponseCode.DEADLINE, b"no answer in time"))
        return call.answer

    def answered(self, session: Session, response: Response) -> None:
        """A client's answer; one that nobody waits for any more is dropped."""
        call = (session.calls or {}).get(response.id)
        if call is not None:
            call.end(response.code, response.body)
