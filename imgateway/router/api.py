"""The API without its sockets: a request is found in the table, its key and its body are checked, its part
answers, and whatever goes wrong becomes a problem document."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import RouterSettings
from imgateway.core.counters import COUNTER, GAUGE, Measure
from imgateway.router.keys import Keys, no_key
from imgateway.router.problems import PROBLEM_JSON, Problem
from imgateway.router.routes import Call, Page, Part, Route, Table, query_of

__all__ = ("MEASURES", "Api", "Reply", "Request")

log = Logger()

JSON = "application/json"
LONGEST_RETRY_S = 86_400

MEASURES = (
    Measure(
        "requests",
        COUNTER,
        "imgateway_api_requests_total",
        "Requests of the HTTP API, by operation.",
        "operation",
    ),
    Measure("answers", COUNTER, "imgateway_api_answers_total", "Their answers, by HTTP status.", "status"),
    Measure("running", GAUGE, "imgateway_api_requests_running", "Requests that wait for their result now."),
    Measure("connections", GAUGE, "imgateway_api_connections", "Connections to the HTTP API now."),
)


class Request(Struct, frozen=True):
    """One request as it came. `file`: what is kept of the body, at its start, closed by who answers; `size`:
    what it had."""

    method: str
    path: bytes
    query: bytes
    token: str
    """What stood in Authorization: Bearer."""
    kind: str
    """The content type as it was sent."""
    file: IO[bytes]
    size: int
    accept: str = ""
    peer: str = ""
    trouble: str = ""
    """Why the body could not be kept."""
    is_whole: bool = True
    """All of the body was kept: it was not longer than its sender might send when it began."""


class Reply(Struct, frozen=True):
    status: int
    kind: str
    data: bytes
    headers: Mapping[str, str] = {}


class Api:
    """All parts of the API together.

    :param parts: objects with `routes()`.
    """

    def __init__(
        self, parts: Sequence[Part], keys: Keys, settings: RouterSettings, reactor: IReactorTime
    ) -> None:
        routes = [route for part in parts for route in part.routes()]
        self.table = Table(routes)
        self.public = Table([route for route in routes if route.public])
        self.settings = settings
        self.keys = keys
        self.closed = "it is starting"
        """Why it takes no requests but for health; empty: it does."""
        self.stopping = False
        self.connections = 0
        self._reactor = reactor
        self._uploads = [(route.scope, route.upload.max_bytes) for route in routes if route.upload]
        self._running = self._clients = 0
        self._requests: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._idle: list[Deferred[None]] = []

    # ------------------------------------------------------------------------------------------------ limits

    def room(self, token: str) -> tuple[int, float]:
        """How many bytes of a body are kept of who says this in Authorization, and within how many seconds it
        must be there. Nothing of strangers', and uploads only of who may make them."""
        settings = self.settings
        scopes = self.keys.scopes_of(token)
        uploads = [most() for scope, most in self._uploads if scope in scopes]
        if uploads:
            return max(settings.max_request_bytes, *uploads), max(
                settings.timeout_s, settings.tasks_timeout_s
            )
        return settings.max_request_bytes if scopes else 0, settings.timeout_s

    def refuse(self, token: str, most: int, public: bool) -> Reply:
        """The answer to a body that is too large to be read and dropped."""
        problem = _too_large(most) if most or public else no_key(token)
        return self._counted(_problem(problem))

    def stop(self) -> Deferred[None]:
        """Take no more requests; fires when those that run are answered."""
        self.stopping, self.closed = True, "it is stopping"
        done: Deferred[None] = Deferred()
        self._idle.append(done)
        self._tell_idle()
        return done

    def _tell_idle(self) -> None:
        if self.stopping and not self._running:
            idle, self._idle = self._idle, []
            for one in idle:
                one.callback(None)

    def measures(self) -> Iterator[tuple[Measure, float | Mapping[str, float]]]:
        """Every measure with its value now."""
        values: list[Any] = [dict(self._requests), dict(self._answers), self._running, self.connections]
        yield from zip(MEASURES, values, strict=True)

    # ----------------------------------------------------------------------------------------------- answers

    def answer(self, request: Request, public: bool = False) -> Deferred[Reply]:
        """Never fails. :param public: it came through the clients' port."""
        try:
            route, path = (self.public if public else self.table).find(request.method, request.path)
            self._requests[route.operation] += 1
            if route.path.startswith("/v1/"):
                self._spare(route)
            call = self._call(route, path, request, public)
        except Problem as problem:
            request.file.close()
            return succeed(self._counted(_problem(problem)))
        except Exception:
            request.file.close()
            log.failure("a request could not be read")
            return succeed(self._counted(_problem(_failed())))
        return self._do(route, call, request.file)

    def _counted(self, reply: Reply) -> Reply:
        self._answers[str(reply.status)] += 1
        return reply

    def _spare(self, route: Route) -> None:
        if self.closed:
            raise Problem(
                "unavailable", self.closed, "ask another router, or later; /readyz says more", retry_after_s=1
            )
        # Clients have room of their own: pushes that wait for the broker do not keep them out.
        waiting = self._clients if route.public else self._running - self._clients
        if waiting >= self.settings.connections:
            raise Problem(
                "unavailable",
                f"{waiting} requests wait for their results already",
                "ask again, or another router; /readyz says what is away",
                retry_after_s=5,
            )

    def _call(self, route: Route, path: Mapping[str, str], request: Request, public: bool) -> Call:
        key, scopes = "", frozenset[str]()
        if route.scope:
            key, scopes = self.keys.admit(request.token, route.scope)
        query = query_of(route.query, request.query)
        if request.trouble:
            raise Problem(
                "unavailable",
                f"the body could not be kept: {request.trouble}",
                "ask again, or another router; its operator frees space for temporary files (TMPDIR)",
                retry_after_s=5,
            )
        kind = request.kind.partition(";")[0].strip().lower()
        body = None
        if route.upload is not None:
            _fits(request, route.upload.max_bytes())
            _is_kind(kind, route.upload.kinds)
        elif route.body is not None:
            _fits(request, self.settings.max_request_bytes)
            _is_kind(kind or JSON, (JSON,))
            body = _decoded(route, request.file.read())
        return Call(
            path,
            query,
            body,
            request.file if route.upload is not None else None,
            kind,
            key,
            scopes,
            "" if route.scope else request.token,
            request.accept,
            request.peer,
            public,
        )

    def _do(self, route: Route, call: Call, file: IO[bytes]) -> Deferred[Reply]:
        self._running += 1
        self._clients += route.public
        reply: Deferred[Reply] = Deferred()
        began = self._reactor.seconds()
        wait_s = self.settings.timeout_s
        if route.waits_s is not None:
            wait_s = max(wait_s, route.waits_s(call.body))

        def say(said: Reply) -> None:
            if reply.called:
                return
            # What an operator did shall be found again.
            tell = log.info if route.scope in ("kick", "drain") and route.method != "GET" else log.debug
            tell(
                "answered",
                operation=route.operation,
                path=route.path.format_map(call.path),
                status=said.status,
                key=call.key,
                peer=call.peer,
                seconds=round(self._reactor.seconds() - began, 4),
            )
            reply.callback(self._counted(said))

        def late() -> None:
            say(_problem(_late(wait_s, call.known)))
            # What writes goes on: it may be done already. What only looks need not.
            if route.method == "GET":
                doing.cancel()

        def done(result: Reply) -> None:
            self._running -= 1
            self._clients -= route.public
            file.close()
            if timer.active():
                timer.cancel()
            say(result)
            self._tell_idle()

        def failed(failure: Failure) -> Reply:
            problem = failure.value
            if isinstance(problem, Problem):
                if problem.in_doubt and call.known:
                    problem.advice = _again(call.known)
                    problem.msg_id = call.known.get("msg_id", "")
                return _problem(problem)
            if not reply.called:  # else it was cancelled, or nobody waits for it any more
                log.failure("{operation} failed", failure, operation=route.operation)
            return _problem(_failed())

        timer = self._reactor.callLater(wait_s, late)
        doing: Deferred[Any] = maybeDeferred(self._made, route, call)
        doing.addErrback(failed)
        doing.addErrback(failed)  # a problem that cannot be written: `done` must be called whatever happens
        doing.addCallback(done)
        return reply

    def _made(self, route: Route, call: Call) -> Deferred[Reply]:
        return maybeDeferred(route.do, call).addCallback(lambda result: _reply(route, result))


def _reply(route: Route, result: Any) -> Reply:
    status = route.status_of(result)
    if result is None:
        return Reply(status, "", b"")
    if isinstance(result, Page):
        return Reply(status, result.kind, result.data, result.headers)
    return Reply(status, JSON, msgspec.json.encode(result) + b"\n")


def _problem(problem: Problem) -> Reply:
    headers = dict(problem.headers)
    if problem.retry_after_s is not None:
        # A plugin's authenticator may say "never", as infinity.
        headers["Retry-After"] = str(math.ceil(max(1, min(LONGEST_RETRY_S, problem.retry_after_s))))
    return Reply(problem.status, PROBLEM_JSON, problem.document(), headers)


def _failed() -> Problem:
    return Problem("internal", "the gateway failed at this request", "its log says why")


def _late(wait_s: float, known: Mapping[str, str]) -> Problem:
    return Problem(
        "timeout",
        f"no result within {wait_s:g} s",
        f"{_again(known)}; /readyz says what is away",
        retry_after_s=1,
        msg_id=known.get("msg_id", ""),
    )


def _again(known: Mapping[str, str]) -> str:
    return f"it may be done or not: {known.get('again', 'ask again')}"


def _too_large(most: int) -> Problem:
    return Problem("too-large", f"the body has more than {most:,} bytes", "make several requests")


def _fits(request: Request, most: int) -> None:
    if request.size > most:
        raise _too_large(most)
    # How much is kept was settled when the body began; keys and limits may have been read anew since.
    if not request.is_whole:
        raise Problem(
            "unavailable",
            "what the key may do was changed while the body came",
            "send it again",
            retry_after_s=1,
        )


def _is_kind(kind: str, kinds: Sequence[str]) -> None:
    if kind not in kinds:
        said = "it does not say its Content-Type" if not kind else f"it is {kind[:60]}"
        raise Problem(
            "wrong-content-type",
            f"the body must be {' or '.join(kinds)}: {said}",
            f"send the header Content-Type: {kinds[0]}",
        )


def _decoded(route: Route, data: bytes) -> Any:
    """An empty body is an empty object."""
    try:
        return msgspec.json.decode(data or b"{}", type=route.body)
    except msgspec.ValidationError as error:
        raise Problem("invalid-request", f"the body: {error}", "see /openapi.json") from None
    except RecursionError:
        raise Problem("invalid-request", "the body is nested too deep", "send a flatter object") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("invalid-request", f"the body is no JSON: {error}", "send a JSON object") from None
