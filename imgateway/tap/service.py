"""Puts a node together from settings and runs it under twistd: log, health, signals, exit status."""

from __future__ import annotations

import atexit
import gc
import os
import random
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from imgateway import __version__
from imgateway.config import Settings
from imgateway.errors import ConfigError, OperatorError
from imgateway.interfaces import IBackend, IBroker, IInterceptor, IListener, ISessionListener
from imgateway.node.service import Node
from imgateway.ops.health import Health
from imgateway.ops.http import HttpListener, listen
from imgateway.ops.logs import observer
from imgateway.ops.metrics import registry
from imgateway.tap.doors import Listen, door, parse_listen
from imgateway.tap.options import Options
from imgateway.tap.plugins import find_all, find_authenticator, find_policy

__all__ = ("Gateway", "compose", "makeService")

log = Logger()


def wall_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def make_broker(settings: Settings, reactor: Any) -> IBroker:
    """The broker that ``broker.url`` names. :raises ConfigError: there is no such kind."""
    from imgateway.brokers.embedded import EmbeddedBroker

    scheme = settings.broker.url
    if scheme not in ("embedded:", "memory:"):
        raise ConfigError(f"broker.url: {scheme!r} is no broker; allowed: embedded: and memory:")
    return EmbeddedBroker(
        data_dir=settings.node.data_dir if scheme == "embedded:" else None,
        settings=settings.broker,
        retention=settings.retention,
        max_devices=settings.session.max_devices,
        reactor=reactor,
        now_ms=wall_ms,
    )


def compose(settings: Settings, reactor: Any, health: Health) -> Node:
    """A node with everything that the settings name.

    :raises OperatorError: a setting, key or plugin is wrong.
    """
    name = settings.node.name or socket.gethostname()
    settings = replace(settings, node=replace(settings.node, name=name))
    options = {"origins": settings.websocket.origins}
    return Node(
        settings,
        make_broker(settings, reactor),
        find_authenticator(settings.auth, settings.node.data_dir, time.time),
        find_policy(settings.auth),
        reactor,
        wall_ms,
        random.random,
        f"{name}.{secrets.token_hex(4)}",
        doors=[door(text, reactor, options) for text in settings.listen.clients],
        backends=find_all(IBackend, settings.plugins.backends, "plugins.backends"),
        interceptors=find_all(IInterceptor, settings.plugins.interceptors, "plugins.interceptors"),
        listeners=find_all(ISessionListener, settings.plugins.listeners, "plugins.listeners"),
        health=health.set,
    )


class Gateway(Service):
    """A node with its log, its HTTP port and its signals, as a Twisted service.

    A first SIGTERM or SIGINT drains, a second one stops at once; SIGHUP reads keys, limits, quotas and policy
    anew.
    """

    name = "imgateway"

    def __init__(self, options: Options, reactor: Any) -> None:
        self.options = options
        self.health = Health()
        self.node = compose(options.settings, reactor, self.health)
        self._reactor = reactor
        self._http: HttpListener | None = None
        self._failed = False

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and write its log."""
        super().setServiceParent(parent)
        if isinstance(parent, Componentized):  # the application itself, not a service in between
            parent.setComponent(ILogObserver, observer(self.options.settings.log, sys.stdout))

    # ---------------------------------------------------------------------------------------- start and stop

    def startService(self) -> None:
        """Start once the reactor runs."""
        super().startService()
        self._reactor.callWhenRunning(self._start)

    def _start(self) -> None:
        self._catch_signals()
        starting: Deferred[Any] = succeed(None)
        endpoint = self.options.settings.listen.http
        if endpoint:
            counters = registry(
                {"version": __version__, "node": self.node.settings.node.name}, self.node.measures
            )
            starting = listen(endpoint, self.health, counters, self._reactor)
            starting.addCallback(self._serving)
        starting.addCallback(lambda _: self.node.start())
        starting.addCallbacks(self._ready, self._refused)

    def _serving(self, http: HttpListener) -> None:
        self._http = http

    def _ready(self, _: object) -> None:
        # What was made until now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        # A message makes a few dozen objects that die with it; the default looks at them every 700.
        gc.set_threshold(10_000, 20, 50)
        places = ", ".join(listener.address for listener in self.node.listeners)
        http = self._http.address if self._http is not None else ""
        log.info("listening", places=places, http=http, incarnation=self.node.incarnation, pid=os.getpid())
        _tell(banner(self.options.settings, self.node.listeners, http))

    def _refused(self, failure: Failure) -> None:
        """The start failed: one line for the operator, exit status 1."""
        if isinstance(failure.value, OperatorError):
            _tell(f"imgateway: {failure.getErrorMessage()}\n")
            log.error("the start failed: {why}", why=failure.getErrorMessage())
        else:
            log.failure("the start failed", failure)
        if not self._failed:
            self._failed = True
            # twistd has no way to say that a service failed, and exits with 0.
            atexit.register(os._exit, 1)
            self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        """Drain, close the store, then the HTTP port, so that health can be asked to the end."""
        super().stopService()
        return self.node.stop().addBoth(self._stopped)

    def _stopped(self, result: object) -> Any:
        if isinstance(result, Failure):
            log.failure("the stop failed", result)
        return self._http.stop() if self._http is not None else None

    # --------------------------------------------------------------------------------------------- signals

    def _catch_signals(self) -> None:
        before = signal.getsignal(signal.SIGTERM)

        def terminate(number: int, frame: Any) -> None:
            if self.running and callable(before):
                before(number, frame)
            else:
                self._reactor.callFromThread(self.node.stop)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, terminate)
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))

    def reload(self) -> None:
        """SIGHUP. What cannot be read is logged, and everything stays as it was."""
        try:
            settings = self.options.load()
            self.node.reload(settings, find_policy(settings.auth))
        except OperatorError as error:
            log.error("reload refused, nothing changed: {why}", why=str(error))
        else:
            log.info("reloaded keys, limits, quotas and policy")


def _tell(text: str) -> None:
    """Say something to the person at the terminal: twistd turns sys.stderr into log lines."""
    if sys.__stderr__ is not None:
        sys.__stderr__.write(text)
        sys.__stderr__.flush()


SCHEMES = {
    ("tcp", "tcp"): "tcp",
    ("tcp", "ssl"): "tls",
    ("websocket", "tcp"): "ws",
    ("websocket", "ssl"): "wss",
}


def url_of(listen: Listen, listener: IListener) -> str:
    """What a client on this machine connects to; "" where it cannot be said (behind a proxy, say)."""
    kind, _, host = listener.address.rpartition(":")[0].partition(":")
    scheme = SCHEMES.get((listen.transport, kind.removesuffix("6")))
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{scheme}://{host}:{listener.port}" if scheme and listener.port else ""


def banner(settings: Settings, listeners: Sequence[IListener], http: str) -> str:
    """Where the node listens, and the two commands to try next."""
    lines = [f"imgateway {__version__} listens on"]
    urls = []
    for text, listener in zip(settings.listen.clients, listeners, strict=True):
        listen = parse_listen(text)
        url = url_of(listen, listener)
        urls += [url] if url else []
        what = f"{','.join(listen.protocols)}+{listen.transport}"
        lines.append(f"  {what:25} {url or listener.address}")
    if http:
        lines.append(f"  {'health and metrics':25} {http}")
    if urls:
        command = os.path.join(os.path.dirname(sys.argv[0]), "imgateway")
        if not os.path.exists(command):
            command = "imgateway"
        data = "" if settings.node.data_dir == "./data" else f" --data-dir {settings.node.data_dir}"
        lines.append("Try, in two other terminals:")
        lines.append(f"  {command} listen {urls[0]} --user bob{data}")
        lines.append(f'  {command} send {urls[0]} --user alice{data} user:bob "hello"')
    return "\n".join(lines) + "\n"


def makeService(options: Options) -> Gateway:
    """What twistd calls. A wrong setting ends it with one line."""
    from twisted.internet import reactor

    # Twisted's reactor keeps its timers on the wall clock: one step back would hold every deadline.
    # The store's thread wants the interpreter back after every step of SQLite; 5 ms is an age to wait for it.
    sys.setswitchinterval(0.0005)
    setattr(reactor, "seconds", time.monotonic)  # noqa: B010 (mypy knows it as a method)
    try:
        return Gateway(options, reactor)
    except OperatorError as error:
        raise SystemExit(f"imgateway: {error}") from None
