"""Routers over HTTP: what is asked, and answers of every kind, on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from msgspec import json
from twisted.internet import reactor, task
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from imgateway.client.router import Allocation, Place, Router, RouterAway, RouterRefused, Waits
from tests.certificate import write_certificate

ANSWER = {
    "endpoints": [
        {"url": "tls://gw1:7901", "protocol": "native", "transport": "tcp", "node": "gw1", "region": "eu"},
        {"url": "udp://gw2:7901", "protocol": "native", "transport": "udp", "node": "gw2", "token": "T"},
    ],
    "heartbeat_s": 25.0,
    "backoff": {"first_s": 1.0, "max_s": 60.0, "factor": 3.0, "jitter": 1.0},
    "expires_at": 1_900_000_000,
    "since_version_9": [],
}


class Desk(Resource):
    """Answers everything with `status`, `headers` and `body`; notes what was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: Any = ANSWER
        self.asked: list[tuple[str, str | None]] = []
        self.hangs = self.breaks = self.stalls = False
        self.left: Deferred[None] = Deferred()

    def render_GET(self, request: Any) -> Any:
        self.asked.append((request.uri.decode(), request.getHeader("authorization")))
        if self.hangs:
            return NOT_DONE_YET
        request.setResponseCode(self.status)
        for name, value in self.headers.items():
            request.setHeader(name, value)
        if self.breaks:
            request.setHeader("content-length", "1000")
            request.write(b"{")
            reactor.callLater(0.05, request.transport.abortConnection)  # type: ignore[attr-defined]
            return NOT_DONE_YET
        if self.stalls:
            request.setHeader("content-length", "1000")
            request.write(b"{")
            request.notifyFinish().addErrback(lambda reason: self.left.callback(None))
            return NOT_DONE_YET
        return self.body if isinstance(self.body, bytes) else json.encode(self.body)


@implementer(IAgent)
class Watched:
    """An agent that says when the head of an answer is there."""

    def __init__(self) -> None:
        self._agent = Agent(reactor)
        self.answered: Deferred[None] = Deferred()

    def request(
        self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None
    ) -> Deferred[Any]:
        asking: Deferred[Any] = self._agent.request(method, uri, headers, bodyProducer)
        return asking.addCallback(self._head)

    def _head(self, response: Any) -> Any:
        reactor.callLater(0, self.answered.callback, None)  # type: ignore[attr-defined]
        return response


@implementer(IAgent)
class Endless:
    """Goes on with its answer though the connection was told to stop."""

    code, headers = 200, Headers()

    def __init__(self) -> None:
        self.transport = StringTransport()
        self.body: Any = None

    def request(
        self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None
    ) -> Deferred[Any]:
        return succeed(self)

    def deliverBody(self, body: Any) -> None:
        self.body = body
        body.makeConnection(self.transport)
        for _ in range(10):
            body.dataReceived(bytes(60_000))
        body.connectionLost(Failure(ConnectionLost()))


@asynccontextmanager
async def serving(desk: Desk, certificate: PrivateCertificate | None = None) -> AsyncIterator[str]:
    site = Site(desk)
    listen: Any = reactor
    if certificate is None:
        port = listen.listenTCP(0, site, interface="127.0.0.1")
    else:
        port = listen.listenSSL(0, site, certificate.options(), interface="127.0.0.1")
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{port.getHost().port}"
    finally:
        await port.stopListening()
        await turn()


async def turn() -> None:
    await task.deferLater(reactor, 0)  # type: ignore[arg-type]


def router(*urls: str, **more: Any) -> Router:
    return Router(urls, reactor, **more)


async def refused(asking: Any) -> Exception:
    with pytest.raises((RouterAway, RouterRefused)) as caught:
        await asking
    return caught.value


@pytest_twisted.ensureDeferred
async def test_a_question_and_its_answer() -> None:
    desk = Desk()
    async with serving(desk) as url:
        found = await router(url + "/gw/", transport="udp", region="eu & us").allocate("JWT~key")
    assert desk.asked == [
        ("/gw/v1/allocate?protocol=native&transport=udp&region=eu+%26+us", "Bearer JWT"),
    ], "the UDP key is nobody else's business"
    assert found == Allocation(
        (
            Place("tls://gw1:7901", "native", "tcp", "gw1", "eu"),
            Place("udp://gw2:7901", "native", "udp", "gw2", "", "T"),
        ),
        25.0,
        Waits(1.0, 60.0, 3.0, 1.0),
        1_900_000_000,
    )


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "waits", "why"),
    [
        (401, {}, {"title": "x", "detail": "it expired"}, RouterRefused, None, "401: it expired"),
        (403, {}, {"title": "not for you"}, RouterRefused, None, "403: not for you"),
        (503, {"retry-after": "7"}, {"detail": "no node"}, RouterAway, 7.0, "503: no node"),
        (429, {"retry-after": "99999"}, b"slow down", RouterAway, 600.0, "429: no reason given"),
        (503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"", RouterAway, 0.0, "503"),
        (302, {"location": "http://evil/"}, b"", RouterAway, 0.0, "302"),
        (500, {}, b"\xff\xfe", RouterAway, 0.0, "500"),
        (200, {}, b"<html>", RouterAway, 0.0, "no allocation"),
        (200, {}, b"\xff", RouterAway, 0.0, "no allocation"),
        (200, {}, {"endpoints": [{"url": 7}]}, RouterAway, 0.0, "no allocation"),
        (200, {}, {"endpoints": []}, RouterAway, 0.0, "named no node"),
        (200, {}, b"x" * 70_000, RouterAway, 0.0, "more than 65536 bytes"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_answers(
    status: int, headers: dict[str, str], body: Any, kind: type[Exception], waits: float | None, why: str
) -> None:
    desk = Desk()
    desk.status, desk.headers, desk.body = status, headers, body
    async with serving(desk) as url:
        error = await refused(router(url).allocate("t"))
    assert type(error) is kind
    assert why in str(error)
    if isinstance(error, RouterAway):
        assert error.retry_after_s == waits
    if isinstance(error, RouterRefused):
        assert error.forbidden is (status == 403)
    assert len(desk.asked) == 1, "nobody is sent on with the token"


@pytest_twisted.ensureDeferred
async def test_an_answer_that_breaks_off() -> None:
    desk = Desk()
    desk.breaks = True
    async with serving(desk) as url:
        error = await refused(router(url).allocate("t"))
    assert "cannot ask the router" in str(error)


@pytest_twisted.ensureDeferred
async def test_no_answer() -> None:
    desk = Desk()
    desk.hangs = True
    async with serving(desk) as url:
        error = await refused(router(url, timeout_s=0.1).allocate("t"))
    assert "no answer within 0.1 s" in str(error)


@pytest.mark.parametrize("in_time", [True, False])
@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_not_waited_for_any_more_leaves_no_connection(in_time: bool) -> None:
    desk, agent, clock = Desk(), Watched(), task.Clock()
    desk.stalls = True
    async with serving(desk) as url:
        asking = ensureDeferred(Router(url, clock, timeout_s=10.0, agent=agent).allocate("t"))
        await agent.answered
        if in_time:
            asking.cancel()
            with pytest.raises(CancelledError):
                await asking
        else:
            clock.advance(10.0)
            assert "no answer within 10 s" in str(await refused(asking))
        await desk.left.addTimeout(60.0, reactor)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_of_an_answer_without_an_end_no_more_is_kept() -> None:
    endless = Endless()
    error = await refused(router("http://router", agent=endless).allocate("t"))
    assert "more than 65536 bytes" in str(error)
    assert endless.transport.producerState == "stopped"
    assert len(endless.body._data) < 200_000


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_the_answer_any_more() -> None:
    desk = Desk()
    desk.hangs = True
    async with serving(desk) as url:
        for was_asked in (False, True):  # while the host is looked up, and when the question was asked
            asking = ensureDeferred(router(url).allocate("t"))
            await turn()
            while was_asked and not desk.asked:
                await turn()
            asking.cancel()
            with pytest.raises((CancelledError, RouterAway)) as caught:
                await asking
    assert caught.type is CancelledError
    assert len(desk.asked) == 1


@pytest_twisted.ensureDeferred
async def test_another_router_answers() -> None:
    first, second = Desk(), Desk()
    first.status = 503
    async with serving(first) as one, serving(second) as two:
        both = router(one, two)
        await both.allocate("t")
        await both.allocate("t")
        assert (len(first.asked), len(second.asked)) == (1, 2), "it goes on with the one that answered"
        second.status = 503
        second.headers = {"retry-after": "3"}
        error = await refused(both.allocate("t"))
    assert isinstance(error, RouterAway)
    assert error.retry_after_s == 3.0, "the one that knows when"
    error = await refused(both.allocate("t"))
    assert "refused" in str(error)


@pytest_twisted.ensureDeferred
async def test_the_certificate_is_checked(tmp_path: Path) -> None:
    where = write_certificate(tmp_path)
    key, certificate_pem = (where / "key.pem").read_bytes(), (where / "cert.pem").read_bytes()
    certificate = PrivateCertificate.loadPEM(key + certificate_pem)
    desk = Desk()
    async with serving(desk, certificate) as url:
        error = await refused(router(url).allocate("t"))
        assert "cannot ask the router" in str(error)
        assert desk.asked == []
        hosts: list[str] = []

        def anything(host: str) -> Any:
            from imgateway.cli.trust import unverified

            hosts.append(host)
            return unverified(host)

        found = await router(url, tls=anything).allocate("t")
    assert (hosts, len(found.endpoints)) == (["127.0.0.1"], 2)
