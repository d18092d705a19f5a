"""A node that serves the HTTP API itself."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from twisted.internet.defer import Deferred, fail
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, capturedLogs, globalLogPublisher

from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.config import Settings
from imgateway.errors import ConfigError, LoginRefused, OperatorError
from imgateway.frames import Hello
from imgateway.router.keys import entry_of, make_key
from imgateway.router.routes import Table
from imgateway.tap import api, process, service
from imgateway.tap.api import Secrets
from imgateway.tap.options import Options
from imgateway.tap.service import Gateway
from tests.router.desk import Judge, answers
from tests.router.fake_tasks import Tasks
from tests.tap.test_gateway import Reactor

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reactor]:
    reactor = Reactor()

    def broker(settings: Settings, reactor: Any) -> EmbeddedBroker:
        return EmbeddedBroker(reactor=reactor, settings=settings.broker, lane=reactor.steps)

    Tasks.reset()
    monkeypatch.setattr(api, "Tasks", Tasks)
    monkeypatch.setattr(service, "make_broker", broker)
    monkeypatch.setattr(service.Garbage, "start", lambda garbage: None)
    monkeypatch.setattr(sys, "__stderr__", StringIO())
    monkeypatch.setattr(process.atexit, "register", lambda *call: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield reactor
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def key(tmp_path: Path) -> str:
    text, key = make_key("ops", ["*"])
    (tmp_path / "keys.toml").write_text(entry_of(key))
    return text


class House:
    """A node on a network in memory."""

    def __init__(self, reactor: Reactor, place: Path, *more: str, http: str = "127.0.0.1:7980") -> None:
        self.options = Options()
        keys = ("--keys", str(place / "keys.toml"))
        base = ("--data-dir", str(place), "--broker", "memory:", "--node", "n", "--http", http)
        self.options.parseOptions([*base, *keys, *more])
        self.reactor = reactor
        self.gateway: Any = Gateway(self.options, reactor)

    def start(self) -> House:
        self.gateway.startService()
        self.reactor.work()
        return self

    def stop(self) -> None:
        self.gateway.stopService()
        for _ in range(3):
            self.reactor.advance(0.1)
            self.reactor.work()
        assert self.reactor._ports == {}

    def ask(self, port: int, path: str, key: str = "", method: str = "GET", body: str = "") -> Any:
        protocol = self.reactor._ports[port].factory.buildProtocol(None)
        transport = StringTransport()
        transport.abortConnection = lambda: None  # type: ignore[method-assign]
        protocol.makeConnection(transport)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        protocol.dataReceived(f"{head}{length}\r\n{body}".encode())
        self.reactor.work()
        return answers(transport.value())[0]


def test_with_keys_the_api_is_where_health_is(reactor: Reactor, tmp_path: Path, key: str) -> None:
    house = House(reactor, tmp_path, "--listen", "native+tcp:127.0.0.1:7901").start()
    assert set(reactor._ports) == {7901, 7980}
    assert house.ask(7980, "/readyz").json["ready"] is True
    assert house.ask(7980, "/v1/nodes").status == 401
    [info] = house.ask(7980, "/v1/nodes", key).json["nodes"]
    assert (info["node"], info["incarnation"]) == ("n", house.gateway.node.incarnation)
    made = house.ask(7980, "/v1/tokens", key, "POST", '{"user": "bob"}').json
    assert made["token_udp"] == ""
    [endpoint] = house.ask(7980, "/v1/allocate", made["token"]).json["endpoints"]
    assert endpoint["url"] == "tcp://127.0.0.1:7901"
    pushed = house.ask(7980, "/v1/push", key, "POST", '{"to": ["user:bob"], "text": "x"}').json
    assert [one["code"] for one in pushed["outcomes"]] == ["OK"]
    metrics = house.ask(7980, "/metrics").body
    assert b"imgateway_sessions 0.0" in metrics
    assert b'imgateway_api_requests_total{operation="post_push"} 1.0' in metrics
    told = sys.__stderr__.getvalue()  # type: ignore[union-attr]
    assert "HTTP API, health, metrics http://127.0.0.1:7980\n" in told
    assert (Tasks.started, Tasks.stopped) == (1, 0)
    house.stop()
    assert Tasks.stopped == 1


def test_the_api_has_a_port_of_its_own_if_it_shall(reactor: Reactor, tmp_path: Path, key: str) -> None:
    house = House(reactor, tmp_path, "--listen", "native+tcp:127.0.0.1:7901", "--api", "127.0.0.1:7991")
    house.start()
    assert set(reactor._ports) == {7901, 7980, 7991}
    assert house.ask(7980, "/v1/nodes", key).status == 404
    assert house.ask(7980, "/metrics").status == 200
    assert house.ask(7991, "/v1/nodes", key).status == 200
    assert "HTTP API                  http://127.0.0.1:7991\n" in sys.__stderr__.getvalue()  # type: ignore[union-attr]
    house.stop()


def test_the_api_alone(reactor: Reactor, tmp_path: Path, key: str) -> None:
    more = ("--listen", "native+tcp:127.0.0.1:7901", "--api", "[::1]:7991")
    house = House(reactor, tmp_path, *more, http="").start()
    assert set(reactor._ports) == {7901, 7991}
    assert house.gateway._api.ports[0].address == "http://[::1]:7991"
    house.stop()


def test_keys_without_a_port_serve_nothing(reactor: Reactor, tmp_path: Path, key: str) -> None:
    house = House(reactor, tmp_path, "--listen", "native+tcp:127.0.0.1:7901", http="").start()
    assert set(reactor._ports) == {7901}
    house.stop()


def test_an_endpoint_without_keys(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"listen\.api: needs router\.keys_file.*imgateway apikey"):
        Options().parseOptions(["--api", "127.0.0.1:7991"])


def test_keys_that_cannot_be_read(reactor: Reactor, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"router\.keys_file: .*keys.toml cannot be read"):
        House(reactor, tmp_path)


def test_two_ports_of_one_number(
    reactor: Reactor, tmp_path: Path, key: str, flush_logged_errors: Any
) -> None:
    house = House(reactor, tmp_path, "--api", "127.0.0.1:7980", "--listen", "native+tcp:7901").start()
    told = sys.__stderr__.getvalue()  # type: ignore[union-attr]
    assert told.startswith("imgateway: --http: listen.http: 127.0.0.1:7980: ")
    assert flush_logged_errors("the start failed")
    house.stop()


def test_tasks_that_cannot_start_end_the_start(
    reactor: Reactor, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    monkeypatch.setattr(Tasks, "start", lambda self: fail(ConfigError("router.tasks_url: no")))
    house = House(reactor, tmp_path, "--listen", "native+tcp:7901").start()
    assert reactor.stopped == 1
    assert "imgateway: router.tasks_url: no" in sys.__stderr__.getvalue()  # type: ignore[union-attr]
    assert flush_logged_errors("the start failed")
    house.stop()


def test_a_node_that_is_stopped_while_it_opens_its_tasks_does_not_say_that_it_listens(
    reactor: Reactor, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening: Deferred[None] = Deferred()
    monkeypatch.setattr(Tasks, "start", lambda self: opening)
    collected: list[float] = []
    monkeypatch.setattr(service.Garbage, "start", lambda garbage: collected.append(reactor.seconds()))
    with capturedLogs() as logged:
        house = House(reactor, tmp_path, "--listen", "native+tcp:7901").start()
        house.stop()
        opening.callback(None)
    said = [str(event.get("log_format")) for event in logged]
    assert "listening" not in said
    assert said[-1] == "stopped"
    assert (sys.__stderr__.getvalue(), collected) == ("", [])  # type: ignore[union-attr]


def test_tasks_that_another_process_runs_end_the_start_before_clients_come(
    reactor: Reactor, tmp_path: Path, key: str, flush_logged_errors: Any
) -> None:
    Tasks.refused = ConfigError("push-tasks.db: another process runs the push tasks")
    house = House(reactor, tmp_path, "--listen", "native+tcp:7901").start()
    assert (reactor.stopped, reactor._ports) == (1, {})
    told = sys.__stderr__.getvalue()  # type: ignore[union-attr]
    assert told == "imgateway: push-tasks.db: another process runs the push tasks\n"
    assert flush_logged_errors("the start failed")
    house.stop()


def test_tasks_that_do_not_stop_hold_up_nothing(
    reactor: Reactor, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    monkeypatch.setattr(Tasks, "stop", lambda self: fail(ZeroDivisionError()))
    House(reactor, tmp_path, "--listen", "native+tcp:7901").start().stop()
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_request_that_never_ends_does_not_hold_up_the_stop(
    reactor: Reactor, tmp_path: Path, key: str
) -> None:
    house = House(reactor, tmp_path, "--listen", "native+tcp:7901").start()
    house.gateway._api.api._running += 1
    house.gateway.stopService()
    reactor.work()
    assert 7901 in reactor._ports  # it still finishes requests
    house.gateway._hurry()
    house.stop()


def test_reload(reactor: Reactor, tmp_path: Path, key: str, flush_logged_errors: Any) -> None:
    house = House(reactor, tmp_path, "--listen", "native+tcp:7901").start()
    text, made = make_key("new", ["read"])
    (tmp_path / "keys.toml").write_text(entry_of(made))
    house.gateway.reload()
    assert house.ask(7980, "/v1/nodes", text).status == 200
    assert house.ask(7980, "/v1/nodes", key).status == 401
    assert Tasks.limits is house.gateway._api.pushing.limits
    (tmp_path / "keys.toml").write_text("[[")
    house.gateway.reload()
    assert house.ask(7980, "/v1/nodes", text).status == 200
    assert len(flush_logged_errors()) == 1
    house.stop()


def token(house: House, key: str) -> str:
    made: str = house.ask(7980, "/v1/tokens", key, "POST", '{"user": "bob"}').json["token"]
    return made


def secret(file: Path, byte: str) -> Path:
    file.write_text(byte * 40)
    file.chmod(0o600)
    return file


def test_a_reload_that_is_refused_leaves_the_secret(
    reactor: Reactor, tmp_path: Path, key: str, flush_logged_errors: Any
) -> None:
    file, conf = secret(tmp_path / "a.key", "a"), tmp_path / "c.toml"
    conf.write_text(f'[auth]\nsecret_file = "{file}"\n')
    house = House(reactor, tmp_path, "--config", str(conf), "--listen", "native+tcp:127.0.0.1:7901").start()
    before = token(house, key)
    secret(file, "b")
    conf.write_text(f'[auth]\nsecret_file = "{file}"\npolicy = "nosuch"\n')
    house.gateway.reload()
    assert len(flush_logged_errors("reload refused")) == 1
    for one in (before, token(house, key)):
        assert house.ask(7980, "/v1/allocate", one).status == 200
    conf.write_text(f'[auth]\nsecret_file = "{file}"\n')
    house.gateway.reload()
    assert house.ask(7980, "/v1/allocate", before).status == 401
    assert house.ask(7980, "/v1/allocate", token(house, key)).status == 200
    house.stop()


@pytest.mark.parametrize("error", [OperatorError("the disk failed"), ZeroDivisionError()])
@pytest.mark.parametrize("part", ["node", "_api"])
def test_a_part_that_cannot_be_read_anew_leaves_all_of_them(
    reactor: Reactor,
    tmp_path: Path,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    flush_logged_errors: Any,
    part: str,
    error: Exception,
) -> None:
    """The node and the API check tokens each with their own."""

    def fails() -> Any:
        raise error

    file, conf = secret(tmp_path / "a.key", "a"), tmp_path / "c.toml"
    conf.write_text(f'[auth]\nsecret_file = "{file}"\n')
    house = House(reactor, tmp_path, "--config", str(conf), "--listen", "native+tcp:127.0.0.1:7901").start()
    before = token(house, key)
    secret(file, "b")
    text, made = make_key("new", ["*"])
    (tmp_path / "keys.toml").write_text(entry_of(made))
    conf.write_text(f'[auth]\nsecret_file = "{file}"\n[limits]\nmax_body_bytes = 9\n')
    node, api = house.gateway.node, house.gateway._api
    with monkeypatch.context() as patch:
        patch.setattr(getattr(house.gateway, part)._authenticator, "read", fails)
        house.gateway.reload()
    assert len(flush_logged_errors("reload refused, nothing changed")) == 1
    assert node._authenticator.authenticate(Hello(before), "").user == "bob"
    for one in (before, token(house, key)):
        assert house.ask(7980, "/v1/allocate", one).status == 200
    assert house.ask(7980, "/v1/nodes", text).status == 401
    assert 9 not in (node.settings.limits.max_body_bytes, api.pushing.limits.max_body_bytes)
    house.gateway.reload()
    assert house.ask(7980, "/v1/allocate", before).status == 401
    assert house.ask(7980, "/v1/allocate", token(house, text)).status == 200
    with pytest.raises(LoginRefused):
        node._authenticator.authenticate(Hello(before), "")
    assert (node.settings.limits.max_body_bytes, api.pushing.limits.max_body_bytes) == (9, 9)
    house.stop()


def test_a_secret_that_changes_while_it_is_read_anew_is_read_once_more(
    reactor: Reactor, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who checks tokens at the node, who does at the API, and who makes them: each reads it for itself."""
    file, conf = secret(tmp_path / "a.key", "a"), tmp_path / "c.toml"
    conf.write_text(f'[auth]\nsecret_file = "{file}"\n')
    house = House(reactor, tmp_path, "--config", str(conf), "--listen", "native+tcp:127.0.0.1:7901").start()
    secret(file, "b")
    node, reads = house.gateway.node, []
    read = node.read

    def changing(*about: Any) -> Any:
        use = read(*about)
        if not reads:
            secret(tmp_path / "new", "c").replace(file)
        reads.append(about)
        return use

    monkeypatch.setattr(node, "read", changing)
    house.gateway.reload()
    made = token(house, key)
    assert node._authenticator.authenticate(Hello(made), "").user == "bob"
    assert house.ask(7980, "/v1/allocate", made).status == 200
    assert len(reads) == 2
    house.stop()


def test_a_secret_that_never_rests_changes_nothing(
    reactor: Reactor,
    tmp_path: Path,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    flush_logged_errors: Any,
) -> None:
    file, conf = secret(tmp_path / "a.key", "a"), tmp_path / "c.toml"
    conf.write_text(f'[auth]\nsecret_file = "{file}"\n')
    house = House(reactor, tmp_path, "--config", str(conf), "--listen", "native+tcp:127.0.0.1:7901").start()
    node, before = house.gateway.node, token(house, key)
    read, names = node.read, iter(range(100))

    def changing(*about: Any) -> Any:
        secret(tmp_path / "new", f"another {next(names)}").replace(file)
        return read(*about)

    monkeypatch.setattr(node, "read", changing)
    house.gateway.reload()
    assert house.ask(7980, "/v1/allocate", before).status == 200
    assert next(names) == 10
    assert len(flush_logged_errors("change while they are read")) == 1
    house.stop()


def test_tokens_are_signed_with_the_secret_that_they_are_checked_with(
    reactor: Reactor, tmp_path: Path, key: str
) -> None:
    """Another file, or another audience, is for the next start."""
    one, two, conf = secret(tmp_path / "a.key", "a"), secret(tmp_path / "b.key", "b"), tmp_path / "c.toml"
    conf.write_text(f'[auth]\nsecret_file = "{one}"\n')
    house = House(reactor, tmp_path, "--config", str(conf), "--listen", "native+tcp:127.0.0.1:7901").start()
    conf.write_text(f'[auth]\nsecret_file = "{two}"\naudience = "other"\n')
    house.gateway.reload()
    assert house.ask(7980, "/v1/allocate", token(house, key)).status == 200
    house.stop()


def test_an_empty_file_takes_nobodys_key_away(
    reactor: Reactor, tmp_path: Path, key: str, flush_logged_errors: Any
) -> None:
    """A full disk, or an editor that is still writing."""
    house = House(reactor, tmp_path, "--listen", "native+tcp:7901").start()
    (tmp_path / "keys.toml").write_text("\n")
    house.gateway.reload()
    assert house.ask(7980, "/v1/nodes", key).status == 200
    assert len(flush_logged_errors("reload refused")) == 1
    (tmp_path / "keys.toml").write_text("# nobody\n")
    house.gateway.reload()
    assert house.ask(7980, "/v1/nodes", key).status == 401
    assert flush_logged_errors() == []
    house.stop()
    (tmp_path / "keys.toml").write_text("")
    with pytest.raises(OperatorError, match="is empty"):
        House(reactor, tmp_path, "--listen", "native+tcp:7901")


def test_a_port_in_the_clear_is_told(reactor: Reactor, tmp_path: Path, key: str) -> None:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        house = House(reactor, tmp_path, "--listen", "native+tcp:7901", http="0.0.0.0:7980").start()
    finally:
        globalLogPublisher.removeObserver(events.append)
    told = [event for event in events if "API keys and tokens are in the clear" in event["log_format"]]
    assert [event["url"] for event in told] == ["http://0.0.0.0:7980"]
    assert told[0]["log_level"].name == "warn"
    house.stop()


def test_udp_keys_are_made_where_their_secret_is(reactor: Reactor, tmp_path: Path, key: str) -> None:
    house = House(reactor, tmp_path, "--listen", "native+udp:127.0.0.1:7901").start()
    made = house.ask(7980, "/v1/tokens", key, "POST", '{"user": "bob"}').json
    assert made["token_udp"].startswith(made["token"] + "~")
    bound = Secrets(house.options.settings)
    assert bound.with_udp_key(made["token"]) == made["token_udp"]
    house.stop()


def test_udp_keys_stay_those_that_the_nodes_listeners_know(
    reactor: Reactor, tmp_path: Path, key: str
) -> None:
    """They have their secret from the start."""
    house = House(reactor, tmp_path, "--listen", "native+udp:127.0.0.1:7901").start()
    before = Secrets(house.options.settings)
    file = tmp_path / "secrets" / "udp.key"
    file.write_text("A" * 43)
    house.gateway.reload()
    made = house.ask(7980, "/v1/tokens", key, "POST", '{"user": "bob"}').json
    assert made["token_udp"] == before.with_udp_key(made["token"]) != made["token"]
    house.stop()


def test_bound_tokens(reactor: Reactor, tmp_path: Path, key: str) -> None:
    more = ("--listen", "native+tcp:127.0.0.1:7901", "--set", "router.bind_tokens=true")
    house = House(reactor, tmp_path, *more, "--set", "auth.node=n").start()
    token = house.ask(7980, "/v1/tokens", key, "POST", '{"user": "bob"}').json["token"]
    [endpoint] = house.ask(7980, "/v1/allocate", token).json["endpoints"]
    assert endpoint["token"].count(".") == 2
    # Whoever is bound already may ask again.
    assert house.ask(7980, "/v1/allocate", endpoint["token"]).status == 200
    house.stop()


def test_the_whole_document(reactor: Reactor, tmp_path: Path, key: str) -> None:
    house = House(reactor, tmp_path, "--listen", "native+tcp:7901").start()
    answer = house.ask(7980, "/openapi.json")
    assert answer.headers["content-type"] == "application/vnd.oai.openapi+json;version=3.1"
    validate(answer.json)
    routes = house.gateway._api.api.table.routes
    told = {(method.upper(), path) for path, item in answer.json["paths"].items() for method in item}
    assert told == {(route.method, route.path) for route in routes}
    judge = Judge(routes, answer.body)
    for path in ("/healthz", "/readyz", "/v1/nodes", "/v1/rooms/7", "/v1/users/bob/sessions"):
        judge.judge("GET", path, house.ask(7980, path, key))
    assert {status for _, status in judge.seen} == {200}
    house.stop()

    # The page of the reference is drawn from the same routes.
    spec = importlib.util.spec_from_file_location("tables", DOCS / "_ext" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    drawn = Table(tables.api_routes()).routes
    assert {(one.method, one.path) for one in drawn} == {(one.method, one.path) for one in routes}


def test_a_unix_socket(reactor: Reactor, tmp_path: Path, key: str) -> None:
    house = House(reactor, tmp_path, "--listen", "native+tcp:7901", http=f"unix:{tmp_path}/s").start()
    assert house.gateway._api.ports[0].address == f"unix:{tmp_path}/s"
    house.stop()


def test_what_was_asked_for_too_late_is_not_opened(reactor: Reactor, tmp_path: Path, key: str) -> None:
    house = House(reactor, tmp_path, "--listen", "native+tcp:7901").start()
    house.stop()
    house.gateway._api._open(None)
    assert house.gateway._api.api.closed == "it is stopping"
