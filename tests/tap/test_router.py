"""``twistd imrouter``: what it wants of its settings, how it starts, is told by signals, and stops."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application, IService, IServiceMaker, MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import ILogObserver, capturedLogs, formatEvent
from twisted.plugin import getPlugins
from zope.interface.verify import verifyObject

from imgateway.auth.keys import make_secret
from imgateway.errors import ConfigError, OperatorError, StoreError
from imgateway.router.keys import entry_of, make_key
from imgateway.tap import api as tap_api
from imgateway.tap import process
from imgateway.tap import router as tap_router
from imgateway.tap.router import Options, Router, makeService
from tests.router.desk import answers
from tests.router.fake_gateway import FakeGateway, node
from tests.router.fake_tasks import Tasks

REDIS = ("--broker", "redis://127.0.0.1", "--registry", "redis://127.0.0.1")


class Reactor(MemoryReactorClock):
    """A reactor whose ports can be asked, that calls at once, and counts its stops."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped = 0

    def callWhenRunning(self, call: Any, *values: Any) -> None:  # type: ignore[override]
        call(*values)

    def callFromThread(self, call: Any, *values: Any) -> None:  # type: ignore[override]
        call(*values)

    def stop(self) -> None:
        self.stopped += 1

    def ask(self, port: int, path: str, key: str = "") -> Any:
        """What the port says."""
        factory = next(one for number, one, *_ in self.tcpServers if number == port)
        protocol = factory.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        )
        return answers(transport.value())[0]


class Gateway(FakeGateway):
    """In the place of the way to the cluster."""

    def __init__(self, *values: Any) -> None:
        super().__init__(node("a"))
        self.starting: Deferred[None] = Deferred()
        self.stopped = 0
        self.policy, self.limits = values[2], values[3]

    def start(self) -> Deferred[None]:
        return self.starting

    def stop(self) -> Deferred[None]:
        self.stopped += 1
        return succeed(None)


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reactor]:
    Tasks.reset()
    monkeypatch.setattr(tap_router, "RouterGateway", Gateway)
    monkeypatch.setattr(tap_router, "make_broker", lambda settings, reactor, reaps: None)
    monkeypatch.setattr(tap_router, "make_registry", lambda settings, reactor: None)
    monkeypatch.setattr(tap_api, "Tasks", Tasks)
    monkeypatch.setattr(sys, "__stderr__", StringIO())
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield Reactor()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def place(tmp_path: Path) -> tuple[list[str], str]:
    """Good options, and a key that may do everything."""
    make_secret(str(tmp_path))
    text, key = make_key("ops", ["*"])
    (tmp_path / "keys.toml").write_text(entry_of(key))
    return [*REDIS, "--data-dir", str(tmp_path), "--keys", str(tmp_path / "keys.toml")], text


def parsed(arguments: list[str], *more: str) -> Options:
    options = Options()
    options.parseOptions([*arguments, *more])
    return options


# ---------------------------------------------------------------------------------------------------- options


def test_twistd_finds_it() -> None:
    [maker] = [one for one in getPlugins(IServiceMaker) if one.tapname == "imrouter"]
    assert (maker.options, maker.makeService) == (Options, makeService)


def test_every_option(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[router]\ntimeout_s = 5.0\npublic = 'tcp:1'\n")
    options = parsed(
        ["--config", str(tmp_path / "c.toml"), "--public", "", "--private", "1.2.3.4:9", "--keys", "k"],
        *("--data-dir", "/d", "--broker", "redis://r", "--registry", "zookeeper://z"),
        *("--set", "router.connections=7"),
    )
    settings = options.settings
    router = settings.router
    assert (router.public, router.private, router.keys_file) == ("", "1.2.3.4:9", "k")
    assert (router.timeout_s, router.connections) == (5.0, 7)
    assert (settings.broker.url, settings.registry.url) == ("redis://r", "zookeeper://z")
    assert settings.node.data_dir == "/d"


@pytest.mark.parametrize("wrong", [["x"], ["--set", "router.nothing=1"], ["--listen", "x"]])
def test_a_wrong_command_line_is_one_line(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as told:
        parsed(wrong)
    assert str(told.value).startswith("imrouter: ")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--broker", "embedded:"], "broker.url: embedded: lives in one node alone"),
        (["--broker", "memory:"], "twistd imgateway --keys FILE"),
        (["--broker", "nosuch:"], "is no broker"),
        (["--broker", "reddis://:s3cret@gw"], "'reddis://…@gw' is no broker"),
        (["--registry", ""], "registry.url: is empty; a router needs"),
        (["--keys", ""], "router.keys_file: is empty; .* imgateway apikey"),
        (["--keys", "/nowhere/k"], "router.keys_file: /nowhere/k cannot be read"),
        (
            ["--data-dir", "/nowhere"],
            "auth.secret_file: is empty, and there is no /nowhere/secrets/token.key",
        ),
        (["--set", "router.allocation=dice"], "router.allocation: no plugin has the name 'dice'; there are"),
        (["--set", "auth.secret_file=/nowhere/s"], "/nowhere/s: the key cannot be read"),
        (["--set", "udp.secret_file=/nowhere/u"], "/nowhere/u: the key cannot be read"),
    ],
)
def test_what_it_cannot_start_with(
    reactor: Reactor,
    place: tuple[list[str], str],
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    why: str,
) -> None:
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    with pytest.raises(SystemExit, match=why) as told:
        makeService(parsed(place[0], *more))
    assert str(told.value).startswith("imrouter: ")
    assert "\n" not in str(told.value)


def test_a_public_key_makes_no_tokens(reactor: Reactor, place: Any, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "p.pem").write_bytes(public.public_bytes(*pem))
    more = ["--set", f"auth.public_key_file={tmp_path}/p.pem", "--data-dir", str(tmp_path / "none")]
    router = Router(parsed(place[0], *more), reactor)
    assert router.http.doors.mint is None
    with pytest.raises(ConfigError, match=r"router\.bind_tokens: needs the secret"):
        Router(parsed(place[0], *more, "--set", "router.bind_tokens=true"), reactor)


def test_a_good_service(reactor: Reactor, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    service = makeService(parsed(place[0]))
    verifyObject(IService, service)
    assert service.incarnation.startswith("router.")
    application: Any = Application("x")
    service.setServiceParent(application)
    assert application.getComponent(ILogObserver) is not None
    service.disownServiceParent()
    service.setServiceParent(MultiService())
    assert service.http.tasks.more["owner"] == service.incarnation


# ------------------------------------------------------------------------------------------------------- life


def started(reactor: Reactor, place: Any, *more: str) -> Any:
    router: Any = Router(parsed(place[0], *more), reactor)
    router.startService()
    return router


def test_it_answers_health_before_the_cluster_is_there(reactor: Reactor, place: Any) -> None:
    router = started(reactor, place)
    assert reactor.ask(7991, "/healthz").status == 200
    for port, why in ((7990, "not ready"), (7991, "starting")):
        answer = reactor.ask(port, "/readyz")
        assert (answer.status, answer.json["reasons"]) == (503, [f"start: {why}", f"api: {why}"])
    assert reactor.ask(7991, "/v1/nodes", place[1]).status == 503
    assert Tasks.started == 0
    router.gateway.starting.callback(None)
    assert Tasks.started == 1
    assert reactor.ask(7990, "/readyz").status == 200
    assert reactor.ask(7991, "/v1/nodes", place[1]).json["nodes"][0]["node"] == "a"
    assert reactor.ask(7990, "/v1/nodes", place[1]).status == 404
    metrics = reactor.ask(7991, "/metrics").body
    assert b'imgateway_api_requests_total{operation="get_nodes"} 2.0' in metrics
    assert b'imgateway_info{node="router.' in metrics
    assert "/v1/push" in reactor.ask(7991, "/openapi.json").json["paths"]
    assert "/v1/push" not in reactor.ask(7990, "/openapi.json").json["paths"]
    assert "imrouter" in sys.__stderr__.getvalue()  # type: ignore[union-attr]


def test_without_a_public_port(reactor: Reactor, place: Any) -> None:
    started(reactor, place, "--public", "")
    assert [number for number, *_ in reactor.tcpServers] == [7991]


@pytest.mark.parametrize("endpoint", ["nonsense:", "ssl:7991:privateKey=/nowhere:certKey=/nowhere"])
def test_a_port_that_cannot_be_opened(
    reactor: Reactor, place: Any, endpoint: str, flush_logged_errors: Any
) -> None:
    router = started(reactor, place, "--private", endpoint)
    told = sys.__stderr__.getvalue()  # type: ignore[union-attr]
    assert told.startswith(f"imrouter: --private: router.private: {endpoint}: ")
    assert reactor.stopped == 1
    assert not router.gateway.starting.called
    router.stopService()
    flush_logged_errors()


def test_push_tasks_that_another_router_runs(reactor: Reactor, place: Any, flush_logged_errors: Any) -> None:
    """It is told of before it listens: nobody shall hear that it does."""
    Tasks.refused = StoreError("push-tasks.db: another process runs the push tasks")
    router = started(reactor, place)
    told = sys.__stderr__.getvalue()  # type: ignore[union-attr]
    assert told == "imrouter: push-tasks.db: another process runs the push tasks\n"
    assert (reactor.stopped, reactor.tcpServers) == (1, [])
    router.stopService()
    flush_logged_errors()


@pytest.fixture
def no_exit(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    kept: list[Any] = []
    monkeypatch.setattr(process.atexit, "register", lambda *call: kept.append(call))
    return kept


@pytest.fixture(autouse=True)
def _no_exit(no_exit: list[Any]) -> None:
    """A start that fails ends the process with 1; not ours."""


def test_a_cluster_that_cannot_be_used_ends_it(
    reactor: Reactor, place: Any, no_exit: list[Any], flush_logged_errors: Any
) -> None:
    router = started(reactor, place)
    router.gateway.starting.errback(OperatorError("broker.url: set appendfsync to always"))
    assert "imrouter: --broker: broker.url: set append" in sys.__stderr__.getvalue()  # type: ignore[union-attr]
    assert (reactor.stopped, len(no_exit)) == (1, 1)
    router.stopService()
    other = started(reactor, place)
    other.gateway.starting.errback(ZeroDivisionError())
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    flush_logged_errors()
    other.stopService()


def test_stop_finishes_what_runs(reactor: Reactor, place: Any) -> None:
    router = started(reactor, place)
    router.gateway.starting.callback(None)
    router.gateway.answers["members"] = waiting = Deferred[int]()
    factory = next(one for number, one, *_ in reactor.tcpServers if number == 7991)
    protocol = factory.buildProtocol(None)
    transport = StringTransport()
    transport.abortConnection = lambda: None  # type: ignore[method-assign]
    protocol.makeConnection(transport)
    head = f"GET /v1/rooms/7 HTTP/1.1\r\nAuthorization: Bearer {place[1]}\r\n\r\n"
    protocol.dataReceived(head.encode())
    done: list[Any] = []
    router.stopService().addCallback(done.append)
    assert (done, router.gateway.stopped) == ([], 0)
    assert reactor.ask(7991, "/readyz").json["reasons"] == ["drain: stopping"]
    waiting.callback(4)
    assert b'"members":4' in transport.value()
    assert (len(done), router.gateway.stopped, Tasks.stopped) == (1, 1, 1)
    assert reactor.getDelayedCalls() == []


def test_stop_does_not_wait_for_ever(reactor: Reactor, place: Any) -> None:
    router = started(reactor, place)
    router.gateway.starting.callback(None)
    router.gateway.answers["members"] = Deferred()
    factory = next(one for number, one, *_ in reactor.tcpServers if number == 7991)
    protocol = factory.buildProtocol(None)
    transport = StringTransport()
    transport.abortConnection = lambda: None  # type: ignore[method-assign]
    protocol.makeConnection(transport)
    protocol.dataReceived(f"GET /v1/rooms/7 HTTP/1.1\r\nAuthorization: Bearer {place[1]}\r\n\r\n".encode())
    done: list[Any] = []
    router.stopService().addCallback(done.append)
    reactor.advance(9.9)
    assert done == []
    reactor.advance(0.2)
    assert len(done) == 1


def test_signals(reactor: Reactor, place: Any) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    router = started(reactor, place)
    router.gateway.starting.callback(None)
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]
    router.gateway.answers["members"] = Deferred()
    router.http.api._running += 1  # one that never ends
    done: list[Any] = []
    router.stopService().addCallback(done.append)
    assert done == []
    signal.raise_signal(signal.SIGTERM)  # the second one does not wait
    reactor.advance(0)
    assert len(done) == 1


def test_reload(reactor: Reactor, place: Any, tmp_path: Path, flush_logged_errors: Any) -> None:
    (tmp_path / "c.toml").write_text("")
    router = started(reactor, place, "--config", str(tmp_path / "c.toml"))
    router.gateway.starting.callback(None)
    text, key = make_key("new", ["read"])
    (tmp_path / "keys.toml").write_text(entry_of(key))
    (tmp_path / "c.toml").write_text("[limits]\nmax_body_bytes = 9\n[router]\nmax_token_s = 7\n")
    signal.raise_signal(signal.SIGHUP)
    assert reactor.ask(7991, "/v1/nodes", text).status == 200
    assert reactor.ask(7991, "/v1/nodes", place[1]).status == 401
    assert router.gateway.limits.max_body_bytes == 9
    assert router.http.doors.settings.max_token_s == 7
    (tmp_path / "keys.toml").write_text("[[")
    (tmp_path / "c.toml").write_text("")
    signal.raise_signal(signal.SIGHUP)
    assert router.gateway.limits.max_body_bytes == 9
    assert reactor.ask(7991, "/v1/nodes", text).status == 200
    flush_logged_errors()


def test_a_reload_says_what_waits_for_a_restart_and_what_that_cannot_use(
    reactor: Reactor, place: Any, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text("")
    router = started(reactor, place, "--config", str(tmp_path / "c.toml"))
    router.gateway.starting.callback(None)

    def said() -> list[str]:
        with capturedLogs() as events:
            router.reload()
        return [formatEvent(event) for event in events]

    done, *nothing = said()
    assert (done, nothing) == ("reloaded API keys, secrets, limits and policy", [])
    (tmp_path / "c.toml").write_text(
        "[router]\ntasks_at_once = 3\nmax_token_s = 7\nallocation = 'rnadom'\n[retention]\nage_s = 9\n"
        "[session]\nlinger_s = 5\n[listen]\nhttp = ''\n[mqtt]\n"
    )
    _, restart, fails = said()
    assert restart == (
        "not taken over before a restart: retention.age_s, router.allocation, router.tasks_at_once"
    )
    assert fails.startswith("the next start would fail: router.allocation: no plugin has the name 'rnadom'; ")


def test_keys_of_tokens_that_cannot_be_read_anew_leave_all_as_it_was(
    reactor: Reactor, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    def fails() -> Any:
        raise OperatorError("the disk failed")

    (tmp_path / "c.toml").write_text("")
    router = started(reactor, place, "--config", str(tmp_path / "c.toml"))
    router.gateway.starting.callback(None)
    text, key = make_key("new", ["read"])
    (tmp_path / "keys.toml").write_text(entry_of(key))
    (tmp_path / "c.toml").write_text("[limits]\nmax_body_bytes = 9\n")
    monkeypatch.setattr(router.http._authenticator, "read", fails)
    signal.raise_signal(signal.SIGHUP)
    assert len(flush_logged_errors("reload refused, nothing changed")) == 1
    assert reactor.ask(7991, "/v1/nodes", place[1]).status == 200
    assert reactor.ask(7991, "/v1/nodes", text).status == 401
    assert 9 not in (router.gateway.limits.max_body_bytes, router.http.pushing.limits.max_body_bytes)


def test_it_was_stopped_before_it_was_there(reactor: Reactor, place: Any) -> None:
    router = started(reactor, place)
    done: list[Any] = []
    router.stopService().addCallback(done.append)
    assert len(done) == 1
    router.gateway.starting.errback(ConnectionError())
    assert reactor.stopped == 0
    other = started(reactor, place)
    other.stopService()
    other.gateway.starting.callback(None)
    assert reactor.ask(7991, "/readyz").json["ready"] is False
