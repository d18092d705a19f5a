"""Questions over the link, both ways: our Requests and Pulls, and the gateway's Requests to us.

An answer belongs to the link that the question went out on: when that ends, what was asked fails with
LinkLost, for it may or may not have been carried out. What was not sent yet waits for the next link, within
its deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.client.link import Link
from imgateway.client.pace import Pace
from imgateway.client.reading import as_deferred
from imgateway.client.values import named
from imgateway.errors import FrameRefused, LinkLost, RequestFailed
from imgateway.frames import (
    RING_KINDS,
    Deliver,
    Pull,
    Refused,
    RefusedCode,
    Request,
    Response,
    ResponseCode,
    address_text,
)

__all__ = ("Asking",)

DEADLINE_S = 10.0
MAX_SERVED = 64


class Asking:
    """`on_request` is called with each Request from the gateway; it returns bytes, or what will be bytes."""

    _log = Logger()

    def __init__(self, reactor: Any, now: Callable[[], float], pace: Pace) -> None:
        self._reactor = reactor
        self._now = now
        self._pace = pace
        self._link: Link | None = None
        self.on_request: Callable[[Request], Any] | None = None
        self._last_id = 0
        self._unsent: deque[tuple[Request, float, Deferred[bytes]]] = deque()
        self._asked: dict[int, Deferred[bytes]] = {}
        self._unpulled: deque[tuple[Pull, Deferred[Deliver]]] = deque()
        self._pulls: list[tuple[Pull, Deferred[Deliver] | None]] = []  # that are out; None: the inbox asks
        self._serving: set[Deferred[Any]] = set()
        self._later: Any = None

    # -------------------------------------------------------------------------------------------- the link

    def up(self, link: Link) -> None:
        self._link = link
        while self._unpulled and self._link is link:  # the link may end with any of them
            self._send_pull(*self._unpulled.popleft())
        self._pump()

    def down(self) -> None:
        self._link = None
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._fail(LinkLost("the link ended before the answer came"), sent_only=True)

    def stop(self, error: Exception) -> None:
        self.down()
        self._fail(error, sent_only=False)
        for serving in list(self._serving):
            serving.cancel()

    def _fail(self, error: Exception, sent_only: bool) -> None:
        pulls = [answer for _, answer in self._pulls if answer is not None]
        waiting: list[Deferred[Any]] = [*self._asked.values(), *pulls]
        self._asked, self._pulls = {}, []
        if not sent_only:
            waiting += [one[2] for one in self._unsent]
            waiting += [one[1] for one in self._unpulled]
            self._unsent.clear()
            self._unpulled.clear()
        for answer in waiting:
            if not answer.called:
                answer.errback(error)

    # ------------------------------------------------------------------------------------------ we ask

    def request(self, service: str, method: str, body: bytes, deadline_s: float) -> Deferred[bytes]:
        """:raises RequestFailed: the answer has another code than OK, DEADLINE if there is none in time."""
        self._last_id += 1
        ident = self._last_id
        answer: Deferred[bytes] = Deferred(lambda _: self._drop(ident))
        late = self._reactor.callLater(deadline_s, self._deadline, ident, answer)
        answer.addBoth(_disarm, late)
        request = Request(ident, service, method, body)
        self._unsent.append((request, self._now() + deadline_s, answer))
        self._pump()
        return answer

    def pull(self, pull: Pull) -> Deferred[Deliver]:
        """:raises FrameRefused: we may not read this log."""
        answer: Deferred[Deliver] = Deferred(self._unpull)
        if self._link is None:
            self._unpulled.append((pull, answer))
        else:
            self._send_pull(pull, answer)
        return answer

    def catch_up(self, pull: Pull) -> None:
        """Ask what the inbox lacks, over the link that is up; `pulled` says which answer is its."""
        self._send_pull(pull, None)

    def answered(self, response: Response) -> None:
        answer = self._asked.pop(response.id, None)
        if answer is not None:
            if response.code == ResponseCode.OK:
                answer.callback(response.body)
            else:
                answer.errback(RequestFailed(named(ResponseCode, response.code), response.body))

    def pulled(self, deliver: Deliver) -> Pull | None:
        """Which of the Pulls this answers: of equal ones the oldest, for they are answered in their order.
        None: none that is out."""
        for index, (pull, answer) in enumerate(self._pulls):
            if _answers(deliver, pull):
                del self._pulls[index]
                if answer is not None and not answer.called:  # else it was cancelled
                    answer.callback(deliver)
                return pull
        return None

    def refused(self, refused: Refused) -> bool:
        """True: a Request was turned down."""
        asked = self._asked.pop(int(refused.id), None) if refused.id.isdecimal() else None
        if asked is not None:
            asked.errback(_error(refused))
        return asked is not None

    def pull_refused(self, refused: Refused) -> Pull | None:
        """Which Pull was turned down: one of the application's rather than of the inbox, which asks only for
        what it may read; and one of lane 1 if it is a lane that there is not. None: none that is out."""
        asked = [one for one in self._pulls if address_text(one[0].address) == refused.id]
        if not asked:
            return None
        no_log = refused.code == RefusedCode.NOT_SUPPORTED
        found = min(asked, key=lambda one: (one[1] is None, no_log and not one[0].lane))
        self._pulls.remove(found)
        pull, answer = found
        if answer is not None and not answer.called:
            answer.errback(_error(refused))
        return pull

    def _pump(self) -> None:
        while self._unsent and self._link is not None:
            now = self._now()
            wait = self._pace.request_wait_s(now)
            if wait > 0:
                if self._later is None:
                    self._later = self._reactor.callLater(wait, self._again)
                return
            request, until, answer = self._unsent.popleft()
            self._pace.take_request(now)
            left_ms = max(1, int((until - now) * 1000))
            self._asked[request.id] = answer
            frame = Request(request.id, request.service, request.method, request.body, left_ms)
            if not self._link.send(frame):
                del self._asked[request.id]
                answer.errback(ValueError(self._link.unfit(frame)))

    def _again(self) -> None:
        self._later = None
        self._pump()

    def _send_pull(self, pull: Pull, answer: Deferred[Deliver] | None) -> None:
        self._pulls.append((pull, answer))
        if self._link is not None and not self._link.send(pull):
            self._pulls.remove((pull, answer))
            if answer is not None:
                answer.errback(ValueError("this connection cannot carry the question"))

    def _drop(self, ident: int) -> None:
        self._asked.pop(ident, None)
        self._unsent = deque(one for one in self._unsent if one[0].id != ident)

    def _unpull(self, answer: Deferred[Deliver]) -> None:
        # One that is out stays in its place, so that its answer is not taken for another's.
        self._unpulled = deque(one for one in self._unpulled if one[1] is not answer)

    def _deadline(self, ident: int, answer: Deferred[bytes]) -> None:
        self._drop(ident)
        answer.errback(RequestFailed(ResponseCode.DEADLINE))

    # ------------------------------------------------------------------------------------------ we are asked

    def serve(self, request: Request) -> None:
        """Answer one Request from the gateway, in time."""
        link = self._link
        if link is None:
            return
        if self.on_request is None:
            link.send(Response(request.id, ResponseCode.NO_SUCH_SERVICE))
            return
        if len(self._serving) >= MAX_SERVED:
            link.send(Response(request.id, ResponseCode.RATE))
            return
        try:
            answer = self.on_request(request)
            waited = as_deferred(answer)
            if waited is None:
                self._answer(answer, link, request.id)
                return
        except Exception:
            self._answer_failure(Failure(), link, request.id)
            return
        self._serving.add(waited)
        late = self._reactor.callLater(request.deadline_ms / 1000 or DEADLINE_S, waited.cancel)
        waited.addBoth(_disarm, late)
        waited.addBoth(self._served, waited)
        waited.addCallback(self._answer, link, request.id)
        waited.addErrback(self._answer_failure, link, request.id)

    def _served(self, result: Any, waited: Deferred[Any]) -> Any:
        self._serving.discard(waited)
        return result

    def _answer(self, body: Any, link: Link, ident: int) -> None:
        if not isinstance(body, bytes):
            raise TypeError(f"on_request must return bytes, not {type(body).__name__}")
        self._respond(link, Response(ident, ResponseCode.OK, body))

    def _respond(self, link: Link, response: Response) -> None:
        if not link.send(response):
            self._log.warn("the answer to a request: {why}", why=link.unfit(response))
            link.send(Response(response.id, ResponseCode.FAILED))

    def _answer_failure(self, failure: Failure, link: Link, ident: int) -> None:
        error = failure.value
        if isinstance(error, RequestFailed):
            self._respond(link, Response(ident, error.code, error.body))
        elif isinstance(error, CancelledError):
            link.send(Response(ident, ResponseCode.DEADLINE))
        else:
            self._log.failure("on_request failed", failure)
            link.send(Response(ident, ResponseCode.FAILED))


def _answers(deliver: Deliver, pull: Pull) -> bool:
    """A ring answers with the block that has the next entry, wherever that begins, or with parts of it."""
    if (deliver.address, deliver.lane) != (pull.address, pull.lane):
        return False
    if deliver.after == pull.after or deliver.address.kind not in RING_KINDS:
        return deliver.after == pull.after
    has_next = deliver.upto > pull.after and (deliver.after < pull.after or deliver.gap)
    return has_next or pull.epoch not in (0, deliver.epoch)


def _error(refused: Refused) -> FrameRefused:
    return FrameRefused(named(RefusedCode, refused.code), refused.reason)


def _disarm(result: Any, late: Any) -> Any:
    if late.active():
        late.cancel()
    return result
