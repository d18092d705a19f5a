"""The service: composed from settings, started, told by signals, stopped."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application, IService, MultiService
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from imgateway.auth.policy import DefaultPolicy
from imgateway.auth.token import TokenAuthenticator
from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.config import Settings
from imgateway.errors import ConfigError, OperatorError
from imgateway.interfaces import IGateway
from imgateway.ops.health import Health
from imgateway.registries.memory import MemoryRegistry
from imgateway.router.keys import entry_of, make_key
from imgateway.tap import process, service
from imgateway.tap.options import Options
from imgateway.tap.service import REMIND_FIRST_S, REMIND_S, Gateway, compose, make_broker
from imgateway.testing.disk import Recorder, Steps
from imgateway.testing.network import Network
from imgateway.transports.turns import turn_of
from imgateway.wire import compression


class Reactor(Network):
    """A network that can be run and stopped, and told things by signal handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped = 0
        self.steps = Steps()

    def callWhenRunning(self, call: Callable[..., object], *arguments: object) -> None:
        call(*arguments)

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        self.callLater(0, call, *arguments)

    def stop(self) -> None:
        self.stopped += 1

    def work(self) -> None:
        """The network and the store, until both are quiet."""
        while True:
            self.settle()
            if not self.steps.choices():
                return
            self.steps.run()


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reactor]:
    """A reactor; the process's signals, garbage collector and standard streams are as before in the end."""
    reactor = Reactor()

    def broker(settings: Settings, reactor: Any) -> EmbeddedBroker:
        return EmbeddedBroker(reactor=reactor, settings=settings.broker, lane=reactor.steps)

    monkeypatch.setattr(service, "make_broker", broker)
    monkeypatch.setattr(service.Garbage, "start", lambda garbage: None)
    monkeypatch.setattr(sys, "__stderr__", StringIO())
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield reactor
    for number, handler in before.items():
        signal.signal(number, handler)


def options(tmp_path: Path, *arguments: str) -> Options:
    options = Options()
    options.parseOptions(["--data-dir", str(tmp_path), "--broker", "memory:", "--node", "n", *arguments])
    return options


@pytest.fixture
def gateway(reactor: Reactor, tmp_path: Path) -> Gateway:
    return Gateway(options(tmp_path, "--http", ""), reactor)


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    """What is logged."""
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def said() -> str:
    assert isinstance(sys.__stderr__, StringIO)
    return sys.__stderr__.getvalue()


# ------------------------------------------------------------------------------------------------ composing


def test_compose_takes_what_the_settings_name(reactor: Reactor, tmp_path: Path) -> None:
    node = compose(options(tmp_path).settings, reactor, Health())
    assert verifyObject(IGateway, node)
    assert node.settings.node.name == "n"
    assert node.incarnation.startswith("n.")
    assert isinstance(node.ingress.policy, DefaultPolicy)
    assert isinstance(node._authenticator, TokenAuthenticator)
    assert len(node._doors) == 2


def test_the_settings_of_compression_reach_it(reactor: Reactor, tmp_path: Path) -> None:
    def size(*settings: str) -> int | None:
        compose(options(tmp_path, *settings).settings, reactor, Health())
        text = b"".join(b"%d: hello %d\n" % (n * n % 97, n % 13) for n in range(100))
        packed = [compression.compressed(name, [text], len(text)) for name in ("zstd", "br")]
        return sum(map(len, filter(None, packed))) or None

    try:
        default = size() or 0
        assert size("--set", "compression.min_bytes=2000") is None
        assert default > (size("--set", "compression.zstd_level=9", "--set", "compression.br_level=9") or 0)
    finally:
        compression.tune()


def test_a_node_without_a_name_has_the_hosts(reactor: Reactor, tmp_path: Path) -> None:
    import socket

    node = compose(options(tmp_path, "--node", "").settings, reactor, Health())
    assert node.settings.node.name == socket.gethostname()


def test_two_starts_are_two_incarnations(reactor: Reactor, tmp_path: Path) -> None:
    settings = options(tmp_path).settings
    assert (
        compose(settings, reactor, Health()).incarnation != compose(settings, reactor, Health()).incarnation
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("auth.policy=nobody", "auth.policy"),
        ("auth.authenticator=nobody", "auth.authenticator"),
        ("plugins.backends=nobody", "plugins.backends"),
        ("plugins.interceptors=nobody", "plugins.interceptors"),
        ("plugins.listeners=nobody", "plugins.listeners"),
        ("listen.clients=smoke+tcp:tcp:1", "listen.clients"),
        ("auth.secret_file=/nowhere/key", "/nowhere/key"),
    ],
)
def test_what_the_settings_name_must_be_there(
    reactor: Reactor, tmp_path: Path, setting: str, words: str
) -> None:
    with pytest.raises(OperatorError, match=words):
        compose(options(tmp_path, "--set", setting).settings, reactor, Health())


def test_brokers_by_url(tmp_path: Path) -> None:
    import twisted.internet.task as task

    def named(url: str) -> Any:
        parsed = Options()
        parsed.parseOptions(["--data-dir", str(tmp_path), "--broker", url])
        return make_broker(parsed.settings, task.Clock())

    assert named("embedded:").name == "embedded:"
    assert named("memory:").name == "memory:"
    assert named("redis://:s3cret@a,rediss://b:7000/2").name == "redis:a:6379,redis:b:7000"
    with pytest.raises(ConfigError, match="allowed: embedded:, memory:, redis://"):
        named("carrots:")
    with pytest.raises(ConfigError, match="is not a Redis URL"):
        named("redis://a/b/c")


def test_a_broker_in_memory_commits_at_the_end_of_a_turn_that_brought_little(tmp_path: Path) -> None:
    import twisted.internet.task as task

    clock = task.Clock()
    parsed = Options()
    parsed.parseOptions(["--data-dir", str(tmp_path), "--broker", "memory:"])
    broker = make_broker(parsed.settings, clock)
    turn = turn_of(clock)
    turn.begin(1)
    started = broker.start(Recorder(), "n.1")
    assert not started.called
    turn.end()
    assert started.called
    broker.stop()
    clock.advance(0)
    clock.advance(0)


def test_redis_unsafe(tmp_path: Path) -> None:
    for arguments, unsafe in (
        (["--redis-unsafe"], True),
        ([], False),
        (["--set", "redis.unsafe=true"], True),
    ):
        parsed = Options()
        parsed.parseOptions(["--data-dir", str(tmp_path), *arguments])
        assert parsed.settings.redis.unsafe is unsafe


# ---------------------------------------------------------------------------------------------- the service


def test_start_listens_says_so_and_is_ready(gateway: Gateway, reactor: Reactor) -> None:
    assert verifyObject(IService, gateway)
    gateway.startService()
    assert not gateway.health.ready
    reactor.work()
    assert gateway.health.ready
    assert "tcp://127.0.0.1:7901" in said()
    assert "listen" in said()
    gateway.stopService()
    reactor.work()


def test_a_failed_start_is_one_line_and_status_1(
    reactor: Reactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    at_exit: list[tuple[Any, ...]] = []
    monkeypatch.setattr(process.atexit, "register", lambda *call: at_exit.append(call))
    listen = "native+tcp:tcp:5:interface=127.0.0.1"
    gateway = Gateway(options(tmp_path, "--http", "", "--listen", listen, "--listen", listen), reactor)
    gateway.startService()
    reactor.work()
    assert reactor.stopped == 1
    assert [call[1] for call in at_exit] == [1]
    assert "in use" in said()
    assert said().endswith(
        "--listen native+tcp:tcp:5:interface=127.0.0.1 --listen native+tcp:127.0.0.1:1005\n"
    )
    assert flush_logged_errors("the start failed")


@pytest.mark.parametrize("more", [[], ["--keys", "KEYS"]])
def test_all_places_that_others_have_are_told_at_once(
    reactor: Reactor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flush_logged_errors: Any,
    more: list[str],
) -> None:
    """Here health's port is free, and open when the others are found taken."""
    keys = tmp_path / "keys.toml"
    keys.write_text(entry_of(make_key("a", ["*"])[1]))
    monkeypatch.setattr(process.atexit, "register", lambda *call: None)
    for port in (7901, 7902):
        reactor.listenTCP(port, Factory(), interface="127.0.0.1")
    words = [str(keys) if word == "KEYS" else word for word in more]
    gateway = Gateway(options(tmp_path, "--http", "7980", *words), reactor)
    gateway.startService()
    reactor.work()
    lines = said().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["imgateway"] * 3
    assert "7901" in lines[0]
    assert "7902" in lines[1]
    assert "or take others: " in lines[2]
    assert "--listen native+tcp:127.0.0.1:8901 " in lines[2]
    assert "--http 7980" in lines[2]
    [event] = flush_logged_errors("the start failed")
    assert "others" not in str(event)
    assert sorted(reactor._ports) == [7901, 7902]
    assert reactor.stopped == 1


def test_a_search_that_fails_keeps_nothing_from_being_told(
    reactor: Reactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    monkeypatch.setattr(process.atexit, "register", lambda *call: None)
    monkeypatch.setattr(service, "elsewhere", lambda *_: fail(ZeroDivisionError()))
    reactor.listenTCP(7901, Factory())
    gateway = Gateway(options(tmp_path, "--http", ""), reactor)
    gateway.startService()
    reactor.work()
    assert said().count("\n") == 1
    assert "7901" in said()
    assert flush_logged_errors(ZeroDivisionError)
    assert flush_logged_errors("the start failed")


@pytest.fixture
def opened(reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The TCP ports that were opened."""
    ports: list[int] = []
    listen = reactor.listenTCP

    def listening(port: int, *rest: Any, **more: Any) -> Any:
        ports.append(port)
        return listen(port, *rest, **more)

    monkeypatch.setattr(reactor, "listenTCP", listening)
    return ports


def test_http_opens_after_the_store_and_before_the_clients(
    reactor: Reactor, tmp_path: Path, opened: list[int]
) -> None:
    gateway = Gateway(options(tmp_path, "--http", "127.0.0.1:7980"), reactor)
    gateway.startService()
    assert opened == [], "the store is not open yet"
    reactor.work()
    assert opened == [7980, 7901, 7902]
    assert "http://127.0.0.1:7980\n" in said()
    gateway.stopService()
    reactor.advance(0.1)
    reactor.work()


def test_http_opens_before_a_store_that_others_share(
    reactor: Reactor, tmp_path: Path, opened: list[int]
) -> None:
    """Which may be away for long."""
    gateway = Gateway(options(tmp_path, "--http", "127.0.0.1:7980", "--broker", "redis://h"), reactor)
    gateway.startService()
    assert opened == [7980]
    assert not gateway.health.ready
    reactor.work()
    assert opened == [7980, 7901, 7902]
    assert gateway.health.ready
    gateway.stopService()
    reactor.advance(0.1)
    reactor.work()


def test_a_start_that_waits_for_its_store_says_so_again_and_again(
    reactor: Reactor, tmp_path: Path, events: list[LogEvent]
) -> None:
    def waits() -> list[str]:
        told = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
        events.clear()
        return told

    gateway = Gateway(options(tmp_path, "--http", "", "--broker", "redis://h"), reactor)
    gateway.startService()
    reactor.advance(REMIND_FIRST_S)
    assert waits() == ["not listening yet, waiting for the store: it has not answered"]
    gateway.node.hub.healthy(False, "redis h:6379 cannot be written to: no route to host")
    reactor.advance(REMIND_S - 1)
    assert waits() == []
    reactor.advance(1)
    line = "not listening yet, waiting for the store: redis h:6379 cannot be written to: no route to host"
    assert waits() == [line]
    reactor.advance(REMIND_S)
    assert waits() == [line]
    reactor.work()
    assert "listening" in [event["log_format"] for event in events]
    waits()
    reactor.advance(3 * REMIND_S)
    assert waits() == []
    gateway.stopService()
    reactor.advance(0.1)
    reactor.work()


def test_a_store_that_others_share_is_not_opened_once_the_process_stops(
    reactor: Reactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(options(tmp_path, "--http", "", "--broker", "redis://h"), reactor)
    serving: Deferred[None] = Deferred()
    monkeypatch.setattr(gateway, "_serve", lambda: serving)
    started: list[str] = []
    monkeypatch.setattr(gateway.node, "start", lambda: started.append("node"))
    gateway.startService()
    gateway.stopService()
    serving.callback(None)
    reactor.work()
    assert started == []
    assert (said(), reactor.stopped) == ("", 0)


def test_a_listener_that_believes_names_is_warned_of(
    reactor: Reactor, tmp_path: Path, events: list[LogEvent]
) -> None:
    gateway = Gateway(options(tmp_path, "--http", "", "--listen", "chat+tcp:127.0.0.1:0"), reactor)
    gateway.startService()
    reactor.work()
    assert "\nWarning: listen.clients: chat+tcp:127.0.0.1:0: whoever reaches it logs in as any user" in said()
    assert len([event for event in events if "any user" in str(event.get("why"))]) == 1
    gateway.stopService()
    reactor.work()


def test_a_node_that_no_client_can_come_to_is_warned_of(
    reactor: Reactor, tmp_path: Path, events: list[LogEvent]
) -> None:
    gateway = Gateway(options(tmp_path, "--http", "", "--set", "listen.clients=[]"), reactor)
    gateway.startService()
    reactor.work()
    assert " listens nowhere\nWarning: listen.clients: is empty, so that no client can connect" in said()
    [event] = [event for event in events if "no client can" in str(event.get("why"))]
    assert event["log_level"] is LogLevel.warn
    gateway.stopService()
    reactor.work()


def test_a_node_among_others_that_keeps_its_messages_for_itself_is_warned_of(
    reactor: Reactor, tmp_path: Path, events: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "make_registry", lambda *_: MemoryRegistry())
    gateway = Gateway(options(tmp_path, "--http", "", "--registry", "redis://127.0.0.1"), reactor)
    gateway.startService()
    reactor.work()
    assert "\nWarning: broker.url: memory: is this node's own, and registry.url puts it among" in said()
    [event] = [event for event in events if "this node's own" in str(event.get("why"))]
    assert event["log_level"] is LogLevel.warn
    gateway.stopService()
    reactor.advance(0.1)
    reactor.work()


def test_what_others_can_overhear_is_a_warning(
    reactor: Reactor, tmp_path: Path, events: list[LogEvent]
) -> None:
    listen = ("--listen", "native+tcp:7901", "--listen", "native+websocket:127.0.0.1:7902")
    gateway = Gateway(options(tmp_path, "--http", "", *listen), reactor)
    gateway.startService()
    reactor.work()
    [event] = [event for event in events if event["log_level"] is LogLevel.warn]
    assert event["url"] == "tcp://0.0.0.0:7901"
    gateway.stopService()
    reactor.advance(0.1)
    reactor.work()


def test_an_unexpected_failure_is_logged_whole(
    gateway: Gateway, reactor: Reactor, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    monkeypatch.setattr(process.atexit, "register", lambda *call: None)
    failed: Deferred[None] = Deferred()
    monkeypatch.setattr(gateway.node, "start", lambda: failed)
    gateway.startService()
    failed.errback(ZeroDivisionError())
    assert reactor.stopped == 1
    assert flush_logged_errors(ZeroDivisionError)


def test_stop_drains_the_node_and_waits_for_it(gateway: Gateway, reactor: Reactor) -> None:
    gateway.startService()
    reactor.work()
    stopped: list[object] = []
    gateway.stopService().addBoth(stopped.append)
    assert not gateway.health.ready
    reactor.advance(0.1)
    reactor.work()
    assert stopped == [None]


def test_a_look_at_all_objects_is_asked_for_from_any_thread(gateway: Gateway, reactor: Reactor) -> None:
    """The collector runs in the store's threads too, in which timers must not be set."""
    asked: list[Callable[[], None]] = []
    reactor.callFromThread = asked.append  # type: ignore[method-assign, assignment]
    gateway._garbage._later(said)
    assert asked == [said]


def test_a_stop_that_fails_is_logged(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    failed: Deferred[None] = Deferred()
    monkeypatch.setattr(gateway.node, "stop", lambda: failed)
    stopped: list[object] = []
    gateway.stopService().addBoth(stopped.append)
    failed.errback(ZeroDivisionError())
    assert stopped == [None]
    assert flush_logged_errors(ZeroDivisionError)


def test_the_application_gets_our_log_a_service_in_between_does_not(gateway: Gateway) -> None:
    application = Application("test")
    between = MultiService()
    gateway.setServiceParent(between)
    gateway.disownServiceParent()
    gateway.setServiceParent(application)
    assert callable(ILogObserver(application))


def test_twistds_own_logger_is_left_alone(gateway: Gateway) -> None:
    gateway.options.parent = {"syslog": True}  # type: ignore[assignment]
    application = Application("test")
    gateway.setServiceParent(application)
    assert ILogObserver(application, None) is None


# -------------------------------------------------------------------------------------------------- signals


def test_a_first_sigterm_is_twisteds_a_second_one_hurries(
    gateway: Gateway, reactor: Reactor, events: list[LogEvent]
) -> None:
    heard: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: heard.append(number))
    gateway.startService()
    reactor.work()
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    hurried: list[str] = []
    gateway.stopService()
    gateway.node.stop = lambda: hurried.append("hurried")  # type: ignore[assignment, return-value]
    signal.raise_signal(signal.SIGINT)
    reactor.work()
    assert heard == [signal.SIGTERM]
    assert hurried == ["hurried"]
    reactor.advance(0.1)
    reactor.work()
    told = [(event["log_format"], event.get("why")) for event in events]
    wanted = [("stopping", "SIGTERM"), ("stopping at once", "SIGINT"), ("stopped", None)]
    assert [one for one in told if one in wanted] == wanted


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_while_a_failed_start_looks_for_other_places_stops_once(
    reactor: Reactor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flush_logged_errors: Any,
    signals: int,
) -> None:
    """Twisted's reactor raises where it is stopped twice. What failed is told all the same."""
    monkeypatch.setattr(process.atexit, "register", lambda *call: None)
    signal.signal(signal.SIGTERM, lambda number, frame: reactor.stop())
    looking: Deferred[list[str]] = Deferred()
    monkeypatch.setattr(service, "elsewhere", lambda *_: looking)
    reactor.listenTCP(7901, Factory())
    gateway = Gateway(options(tmp_path, "--http", ""), reactor)
    gateway.startService()
    reactor.work()
    for _ in range(signals):
        signal.raise_signal(signal.SIGTERM)
    gateway.stopService()
    reactor.work()
    looking.callback([])
    assert reactor.stopped == 1
    assert "7901" in said()
    assert flush_logged_errors("the start failed")


def test_a_signal_after_a_start_that_failed_does_not_stop_again(
    reactor: Reactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    """In the turn that it failed in: the services hear of the stop in the next."""
    monkeypatch.setattr(process.atexit, "register", lambda *call: None)
    signal.signal(signal.SIGTERM, lambda number, frame: reactor.stop())
    reactor.listenTCP(7901, Factory())
    gateway = Gateway(options(tmp_path, "--http", ""), reactor)
    gateway.startService()
    reactor.work()
    assert reactor.stopped == 1
    signal.raise_signal(signal.SIGTERM)
    gateway.stopService()
    reactor.work()
    assert reactor.stopped == 1
    assert flush_logged_errors("the start failed")


def test_two_signals_in_one_turn_stop_it_in_order(
    reactor: Reactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group is told, and a supervisor tells it as well: the services have not heard of the first yet."""
    signal.signal(signal.SIGTERM, lambda number, frame: reactor.stop())
    gateway = Gateway(options(tmp_path, "--http", ""), reactor)
    gateway.startService()
    reactor.work()
    hurried: list[bool] = []
    monkeypatch.setattr(gateway, "_hurry", lambda: hurried.append(gateway.running))
    for _ in range(2):
        signal.raise_signal(signal.SIGTERM)
    reactor.work()
    assert (reactor.stopped, hurried) == (1, [])
    gateway.stopService()
    signal.raise_signal(signal.SIGTERM)
    reactor.work()
    assert (reactor.stopped, hurried) == (1, [False])


def test_sighup_reloads(reactor: Reactor, tmp_path: Path, flush_logged_errors: Any) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[limits]\nmax_addresses = 5\n")
    gateway = Gateway(options(tmp_path, "--http", "", "--config", str(file)), reactor)
    gateway.startService()
    reactor.work()
    file.write_text("[limits]\nmax_addresses = 6\n[quota]\npublish_rate = 3.0\n")
    signal.raise_signal(signal.SIGHUP)
    reactor.work()
    assert gateway.node.ingress.limits.max_addresses == 6
    assert gateway.node.settings.quota.publish_rate == 3.0

    file.write_text("[limits]\nmax_addresses = 7\n[auth]\npolicy = 'nobody'\n")
    signal.raise_signal(signal.SIGHUP)
    reactor.work()
    assert gateway.node.ingress.limits.max_addresses == 6
    assert len(flush_logged_errors("reload refused")) == 1

    file.write_text("[limits]\nmax_addresses = 7\n")
    (tmp_path / "secrets" / "token.key").unlink()
    signal.raise_signal(signal.SIGHUP)
    reactor.work()
    assert gateway.node.ingress.limits.max_addresses == 6
    assert len(flush_logged_errors("reload refused")) == 1
    gateway.stopService()
    reactor.advance(0.1)
    reactor.work()


def reloaded(gateway: Gateway, events: list[LogEvent]) -> list[str]:
    """What the log says at a SIGHUP."""
    events.clear()
    gateway.reload()
    return [formatEvent(event) for event in events if event["log_namespace"] == "imgateway.tap.process"]


def configured(reactor: Reactor, tmp_path: Path) -> tuple[Gateway, Path]:
    """A node that runs, and its configuration, in which nothing stands."""
    file = tmp_path / "c.toml"
    file.write_text("")
    gateway = Gateway(options(tmp_path, "--http", "", "--config", str(file)), reactor)
    gateway.startService()
    reactor.work()
    return gateway, file


def test_a_reload_says_which_changes_wait_for_a_restart(
    reactor: Reactor, tmp_path: Path, events: list[LogEvent]
) -> None:
    gateway, file = configured(reactor, tmp_path)
    taken = "reloaded keys, limits, quotas and policy"
    keys = tmp_path / "keys.toml"
    keys.write_text("# nobody")
    assert reloaded(gateway, events) == [taken]
    file.write_text(
        "[retention]\nage_s = 9\n[session]\nlinger_s = 5\nmax_devices = 3\n[node]\ndrain_s = 3\n"
        "[limits]\nmax_addresses = 5\n[quota]\npublish_rate = 3.0\n"
        f"[registry]\nurl = 'redis://:secret@127.0.0.1:1'\n[router]\nkeys_file = '{keys}'\n"
    )
    assert reloaded(gateway, events) == [
        taken,
        "not taken over before a restart: session.max_devices, registry.url, retention.age_s, "
        "router.keys_file",
    ]
    assert reloaded(gateway, events)[1:] != []  # as long as it is so
    file.write_text("")
    assert reloaded(gateway, events) == [taken]
    gateway.stopService()
    reactor.advance(0.1)
    reactor.work()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[plugins]\nbackends = ['nobdoy']", "plugins.backends: no plugin has the name 'nobdoy'; there are "),
        (
            "[listen]\nclients = ['natvie+tcp:0']",
            "listen.clients: no plugin has the name 'natvie'; there are ",
        ),
    ],
)
def test_a_reload_says_what_the_next_start_cannot_use(
    reactor: Reactor, tmp_path: Path, text: str, why: str, events: list[LogEvent]
) -> None:
    gateway, file = configured(reactor, tmp_path)
    file.write_text(f"[limits]\nmax_addresses = 5\n{text}\n")
    done, restart, fails = reloaded(gateway, events)
    assert done.startswith("reloaded")
    assert restart.startswith("not taken over before a restart: ")
    assert fails.startswith(f"the next start would fail: {why}")
    assert gateway.node.ingress.limits.max_addresses == 5
    gateway.stopService()
    reactor.advance(0.1)
    reactor.work()


def test_a_reload_is_done_whatever_a_plugin_does_when_it_is_tried(
    reactor: Reactor, tmp_path: Path, events: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(options(tmp_path, "--http", ""), reactor)
    gateway.startService()
    reactor.work()
    monkeypatch.setattr("imgateway.tap.service.check", lambda settings: 1 / 0)
    done, fails = reloaded(gateway, events)
    assert (done[:8], fails) == ("reloaded", "the next start would fail: division by zero")
    gateway.stopService()
    reactor.advance(0.1)
    reactor.work()
