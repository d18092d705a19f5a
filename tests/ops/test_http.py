"""The operators' HTTP port, over connections in memory."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport

from imgateway.core.counters import Counters
from imgateway.ops import http
from imgateway.ops.health import Health
from imgateway.ops.http import HttpListener, listen, site
from imgateway.ops.metrics import registry


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Door:
    """A site and ways to ask it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.health = Health()
        self.counters = Counters()
        self.site = site(self.health, registry({"node": "a"}, self.counters.read), self.clock)

    def send(self, data: bytes) -> StringTransport:
        transport = StringTransport()
        transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
        protocol = self.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert protocol is not None
        protocol.makeConnection(transport)
        protocol.dataReceived(data)
        return transport

    def ask(self, path: str, method: str = "GET", more: str = "") -> Answer:
        transport = self.send(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n".encode()
        )
        head, _, body = transport.value().partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return Answer(int(status.split()[1]), headers, body)


@pytest.fixture
def door() -> Door:
    return Door()


def test_it_lives(door: Door) -> None:
    answer = door.ask("/healthz")
    assert answer.status == 200
    assert json.loads(answer.body) == {"status": "alive"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["server"] == "imgateway"


def test_it_says_why_it_is_not_ready(door: Door) -> None:
    assert json.loads(door.ask("/readyz").body)["reasons"] == ["start: starting"]
    door.health.set("start", True)
    door.health.set("store", False, "disk full: free some space in ./data")
    door.health.set("drain", False, "draining")
    answer = door.ask("/readyz")
    assert answer.status == 503
    assert json.loads(answer.body) == {
        "ready": False,
        "reasons": ["store: disk full: free some space in ./data", "drain: draining"],
        "parts": {"start": "ok", "store": "disk full: free some space in ./data", "drain": "draining"},
    }
    assert door.ask("/healthz").status == 200


def test_it_says_that_it_is_ready(door: Door) -> None:
    door.health.set("start", True)
    answer = door.ask("/readyz?verbose")
    assert (answer.status, json.loads(answer.body)["ready"]) == (200, True)


def test_what_is_noted_is_shown_and_does_not_count(door: Door) -> None:
    door.health.set("start", True)
    door.health.note("registry", "redis is away")
    answer = door.ask("/readyz")
    assert answer.status == 200
    parts = {"start": "ok", "registry": "redis is away"}
    assert json.loads(answer.body) == {"ready": True, "reasons": [], "parts": parts}


def test_metrics_are_what_prometheus_asks_for(door: Door) -> None:
    door.counters.publishes = 7
    answer = door.ask("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"\nimgateway_publishes_total 7.0\n" in answer.body
    wanted = door.ask("/metrics", more="Accept: application/openmetrics-text; version=1.0.0\r\n")
    assert wanted.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert wanted.body.endswith(b"# EOF\n")


@pytest.mark.parametrize("path", ["/", "/healthz/", "/metrics/x", "/..", "/%2e", "/favicon.ico"])
def test_other_pages_are_not_there(door: Door, path: str) -> None:
    answer = door.ask(path)
    assert answer.status == 404
    assert json.loads(answer.body)["pages"] == ["/healthz", "/metrics", "/readyz"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_nothing_can_be_changed(door: Door, method: str) -> None:
    answer = door.ask("/healthz", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    json.loads(answer.body)


def test_head_is_get_without_its_body(door: Door) -> None:
    got, head = door.ask("/healthz"), door.ask("/healthz", "HEAD")
    assert head.body == b""
    assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.body))


def test_a_body_is_not_kept(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def spool(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a body went to a file")

    monkeypatch.setattr("tempfile.TemporaryFile", spool)
    answer = door.ask("/healthz", "POST", "Content-Length: 300000\r\n\r\n" + "x" * 299_998)
    assert answer.status == 405
    chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
    assert door.ask("/healthz", "GET", chunked).status == 200


def test_an_idle_connection_is_closed(door: Door) -> None:
    transport = door.send(b"GET /heal")
    door.clock.advance(http.IDLE_S - 1)
    assert not transport.disconnecting
    door.clock.advance(2)
    assert transport.disconnecting


def test_there_is_no_access_log_and_no_timer(door: Door) -> None:
    door.site.doStart()
    door.site.doStop()
    assert door.clock.getDelayedCalls() == []


# Listening.


class Port:
    """A listening port."""

    def __init__(self, host: Any, answer: Deferred[None] | None = None) -> None:
        self.host = host
        self.answer = answer
        self.stopped = 0

    def getHost(self) -> Any:
        return self.host

    def stopListening(self) -> Deferred[None] | None:
        self.stopped += 1
        return self.answer


def result_of(deferred: Deferred[Any]) -> Any:
    got: list[Any] = []
    deferred.addCallback(got.append)
    assert len(got) == 1
    return got[0]


def test_it_listens_where_it_is_told() -> None:
    reactor = MemoryReactorClock()
    listener = result_of(listen("tcp:7980:interface=127.0.0.1", Health(), registry({}), reactor))
    port, factory, _, interface = reactor.tcpServers[0]
    assert (port, interface) == (7980, "127.0.0.1")
    protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    transport = StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert transport.value().startswith(b"HTTP/1.1 200")
    assert listener.address.startswith("http://")


@pytest.mark.parametrize("answer", [None, succeed(None)])
def test_stopping_closes_the_port_and_its_connections(answer: Any) -> None:
    connections = http._Connections(Door().site)
    transport = StringTransport()
    closed: list[bool] = []
    transport.abortConnection = lambda: closed.append(True)  # type: ignore[method-assign]
    protocol = connections.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    assert protocol is not None
    protocol.makeConnection(transport)
    port = Port(IPv4Address("TCP", "127.0.0.1", 7980), answer)
    listener = HttpListener(port, "tcp:7980", connections.abort)  # type: ignore[arg-type]
    assert (listener.address, listener.port) == ("http://127.0.0.1:7980", 7980)
    result_of(listener.stop())
    assert (port.stopped, closed) == (1, [True])


def test_a_unix_socket_has_no_port() -> None:
    listener = HttpListener(Port(UNIXAddress("/run/x")), "unix:/run/x", lambda: None)  # type: ignore[arg-type]
    assert (listener.address, listener.port) == ("unix:/run/x", 0)


@pytest.mark.parametrize(
    ("host", "endpoint", "address", "is_bare"),
    [
        ("::1", "tcp6:7980:interface=::1", "http://[::1]:7980", False),
        ("::", "tcp6:7980", "http://[::]:7980", True),
        ("::", "ssl:7980:interface=::", "https://[::]:7980", False),
        ("0.0.0.0", "haproxy:ssl:7980", "https://0.0.0.0:7980", False),
        ("127.0.0.1", "tcp:7980", "http://127.0.0.1:7980", False),
    ],
)
def test_its_address_is_a_url(host: str, endpoint: str, address: str, is_bare: bool) -> None:
    kind = IPv6Address if ":" in host else IPv4Address
    listener = HttpListener(Port(kind("TCP", host, 7980)), endpoint, lambda: None)  # type: ignore[arg-type]
    assert (listener.address, listener.is_bare) == (address, is_bare)


def test_connections_are_bounded() -> None:
    connections = http._Connections(Door().site)
    for _ in range(http.MAX_CONNECTIONS):
        protocol = connections.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert protocol is not None
        protocol.makeConnection(StringTransport())
    assert connections.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1)) is None
