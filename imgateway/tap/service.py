"""Puts a node together from settings and runs it under twistd: log, health, signals, exit status."""

from __future__ import annotations

import os
import random
import secrets
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway import __version__
from imgateway.brokers.clock import wall_ms
from imgateway.config import Settings
from imgateway.errors import InUse, OperatorError
from imgateway.interfaces import IBackend, IBroker, IInterceptor, ISessionListener, NodeInfo
from imgateway.node.membership import Condition, Membership
from imgateway.node.service import Node
from imgateway.ops.garbage import Garbage
from imgateway.ops.health import Health
from imgateway.ops.http import HttpListener
from imgateway.ops.metrics import registry
from imgateway.tap.banner import banner, exposed
from imgateway.tap.check import apart, check, check_broker, unreached
from imgateway.tap.doors import door, http_door, transport_options, udp_keys, unproven
from imgateway.tap.elsewhere import elsewhere
from imgateway.tap.options import Options
from imgateway.tap.plugins import Wires, find_all, find_authenticator, find_policy
from imgateway.tap.process import API_STARTS, Process, first, tell
from imgateway.tap.registries import make_registry, served
from imgateway.transports.turns import turn_of
from imgateway.wire import compression

if TYPE_CHECKING:
    from imgateway.tap.api import HttpApi

__all__ = ("Gateway", "compose", "makeService")

log = Logger()

REMIND_FIRST_S = 5.0
REMIND_S = 30.0
"""When the log says that a start waits, and how long until it says so again."""


def make_broker(settings: Settings, reactor: Any, reaps: bool = True) -> IBroker:
    """The broker that ``broker.url`` names. `reaps`: it looks after what dead nodes of a cluster had.

    :raises ConfigError: there is no such kind.
    """
    check_broker(settings)
    both: dict[str, Any] = {
        "settings": settings.broker,
        "retention": settings.retention,
        "rooms": settings.rooms,
        "max_devices": settings.session.max_devices,
        "reactor": reactor,
        "now_ms": wall_ms,
    }
    if settings.broker.is_shared:
        from imgateway.brokers.redis import RedisBroker

        return RedisBroker(**both, redis=settings.redis, reaps=reaps)
    from imgateway.brokers.embedded import EmbeddedBroker

    return EmbeddedBroker(
        **both,
        data_dir=settings.node.data_dir if settings.broker.url == "embedded:" else None,
        soon=turn_of(reactor).soon,
    )


def compose(
    settings: Settings,
    reactor: Any,
    health: Health,
    before: Callable[[], Deferred[None] | None] = lambda: None,
    wires: Wires | None = None,
) -> Node:
    """A node with everything that the settings name.

    :param before: as `Node` takes it. :param wires: its protocols; None: made here.
    :raises OperatorError: a setting, key or plugin is wrong.
    """
    name = settings.node.name or socket.gethostname()
    settings = replace(settings, node=replace(settings.node, name=name))
    options = transport_options(settings, udp_keys(settings))
    wires = wires or Wires(settings, reactor.seconds, wall_ms)
    incarnation = f"{name}.{secrets.token_hex(4)}"
    node: Node
    membership = Membership(
        make_registry(settings.registry, reactor),
        _about(settings, incarnation),
        lambda: Condition(
            served(settings, node.listeners, socket.gethostname()),
            len(node.hub.sessions),
            node.drains.left,
            node.peers.orders,
        ),
        health.set,
        health.note,
        reactor,
    )

    def ready() -> Deferred[Any]:
        parts: list[Deferred[Any]] = [membership.start(), maybeDeferred(before)]
        return gatherResults(parts, consumeErrors=True).addErrback(first)

    packing = settings.compression
    compression.tune(packing.min_bytes, packing.zstd_level, packing.br_level)
    node = Node(
        settings,
        make_broker(settings, reactor),
        find_authenticator(settings.auth, settings.node.data_dir, time.time),
        find_policy(settings.auth),
        reactor,
        wall_ms,
        random.random,
        incarnation,
        doors=[door(text, reactor, options, wires) for text in settings.listen.clients],
        backends=find_all(IBackend, settings.plugins.backends, "plugins.backends"),
        interceptors=find_all(IInterceptor, settings.plugins.interceptors, "plugins.interceptors"),
        listeners=find_all(ISessionListener, settings.plugins.listeners, "plugins.listeners"),
        health=membership.health,
        before=ready,
        after=membership.leave,
        nodes=membership.nodes,
        changed=membership.consider,
    )
    return node


def _about(settings: Settings, incarnation: str) -> NodeInfo:
    """What does not change of a node."""
    registry = settings.registry
    return NodeInfo(
        settings.node.name,
        incarnation,
        region=registry.region,
        zone=registry.zone,
        weight=registry.weight,
        started_ms=wall_ms(),
        hears=bool(settings.plugins.listeners),
    )


class Gateway(Process):
    """A node with its log, its HTTP port and its signals, as a Twisted service.

    A first SIGTERM or SIGINT drains, a second one stops at once; SIGHUP reads keys, limits, quotas and policy
    anew.
    """

    name = "imgateway"
    read_anew = "keys, limits, quotas and policy"
    reloads = frozenset({"session", "limits", "quota", "router"}) | frozenset(
        {"node.drain_s", "node.drain_rate", "auth.policy"}
    )
    starts = API_STARTS | {"session.max_devices"}

    def __init__(self, options: Options, reactor: Any) -> None:
        super().__init__(options, reactor)
        wires = Wires(options.settings, reactor.seconds, wall_ms)
        # A store of our own says within a moment whether it is ours. The cluster's may be away for long, and
        # whoever asks then has to be told so.
        self._is_shared = options.settings.broker.is_shared
        before = (lambda: None) if self._is_shared else self._serve
        self.node = compose(options.settings, reactor, self.health, before, wires)
        self._unproven = tuple(unproven(options.settings, wires))
        self._apart = tuple(apart(options.settings))
        self._unreached = tuple(unreached(options.settings))
        self._api = self._make_api()
        if self._api is None:
            self.starts |= {"router.keys_file"}
        self._http: HttpListener | None = None
        self._reminder: Any = None
        self._garbage = Garbage(
            lambda: len(self.node.hub.sessions), lambda call: self._reactor.callFromThread(call)
        )

    def _make_api(self) -> HttpApi | None:
        """The HTTP API, if there are keys to use it with."""
        settings = self.options.settings
        if not settings.router.keys_file:
            return None
        # SQLAlchemy with it: a node that serves no API does without.
        from imgateway.tap.api import HttpApi

        node = self.node
        info = {"node": node.settings.node.name}
        return HttpApi(settings, node, node.incarnation, self.health, info, (node.measures,), self._reactor)

    # ---------------------------------------------------------------------------------------- start and stop

    def _start(self) -> None:
        starting: Deferred[Any] = maybeDeferred(self._serve) if self._is_shared else succeed(None)
        starting.addCallback(lambda _: self._start_node())
        starting.addCallback(lambda _: self._api.start() if self._api is not None else None)
        starting.addCallbacks(self._ready, self._refused)

    def _start_node(self) -> Deferred[None]:
        if not self.running:
            return fail(CancelledError())
        self._reminder = self._reactor.callLater(REMIND_FIRST_S, self._remind)
        return self.node.start().addBoth(self._waited)

    def _remind(self) -> None:
        """The store is away, maybe for long, and nobody who looks at the log later shall have to ask why
        nothing listens."""
        self._reminder = self._reactor.callLater(REMIND_S, self._remind)
        why = self.health.snapshot().get("store") or "it has not answered"
        log.warn("not listening yet, waiting for the store: {why}", why=why)

    def _waited(self, result: Any) -> Any:
        self._reminder.cancel()
        return result

    def _serve(self) -> Deferred[None] | None:
        """Open the HTTP ports: after the data directory is ours, so that a second node there is told of that
        and not of a port; before the cluster's store and before clients, so that probes see the rest of the
        start."""
        listen, endpoint = self.options.settings.listen, self.options.settings.listen.http
        opening: Deferred[Any] = succeed(None)
        if self._api is not None:
            self._api.lock()
        if self._api is not None and (listen.api or endpoint):
            setting = "listen.api" if listen.api else "listen.http"
            opening = self._api.listen(listen.api or endpoint, setting)
        if not endpoint or (self._api is not None and not listen.api):
            return opening
        counters = registry(
            {"version": __version__, "node": self.node.settings.node.name}, self.node.measures
        )
        opening.addCallback(lambda _: http_door(endpoint, self.health, counters, self._reactor))
        return opening.addCallback(self._serving)

    def _refused(self, failure: Failure) -> None:
        """Of what others have all is said, or it would be one start for each."""
        error = failure.value
        if not isinstance(error, InUse):
            self._fail(failure)
            return
        looking = self._close_http()
        looking.addCallback(lambda _: elsewhere(error, self.options, self._reactor))
        looking.addErrback(lambda problem: log.failure("cannot look for other places", problem))
        looking.addCallback(lambda more: self._fail(failure, more or ()))

    def _serving(self, http: HttpListener) -> None:
        self._http = http

    def _ready(self, _: object) -> None:
        if not self.running:  # it was told to stop before it was there
            return
        self._garbage.start()
        places = ", ".join(listener.address for listener in self.node.listeners)
        http = self._http.address if self._http is not None else ""
        api = ", ".join(port.address for port in self._api.ports) if self._api is not None else ""
        warnings = (*self._unproven, *self._apart, *self._unreached)
        config = self.options["config"]
        tell(banner(self.options.settings, self.node.listeners, http, warnings, api, config))
        log.info(
            "listening", places=places, http=http or api, incarnation=self.node.incarnation, pid=os.getpid()
        )
        for url in exposed(self.options.settings, self.node.listeners):
            log.warn("tokens and messages are in the clear: no TLS, and other machines reach it", url=url)
        for why in self._unproven:
            log.warn("a listener believes whom a greeting names", why=why)
        for why in self._apart:
            log.warn("messages do not come from, nor go to, other nodes", why=why)
        for why in self._unreached:
            log.warn("nobody can log in", why=why)

    def stopService(self) -> Deferred[None]:
        """Drain, close the store, then the HTTP port, so that health can be asked to the end."""
        super().stopService()
        if not self._failed:
            links = len(self.node.exchange.links)
            log.info("stopping", why=self._why or "the process was asked to", links=links)
        if self._api is None:
            return self.node.stop().addBoth(self._stopped)
        stopping: Deferred[Any] = self._api.stop(self.options.settings.router.drain_s)
        return stopping.addCallback(lambda _: self.node.stop()).addBoth(self._stopped)

    def _stopped(self, result: object) -> Any:
        self._garbage.stop()
        if isinstance(result, Failure):
            log.failure("the stop failed", result)
        elif not self._failed:
            log.info("stopped", links_served=self.node.counters.links_accepted)
        return self._close_http()

    def _close_http(self) -> Deferred[Any]:
        http, self._http = self._http, None
        stopping = http.stop() if http is not None else None
        closing: Deferred[Any] = self._api.close() if self._api is not None else succeed(None)
        return closing.addCallback(lambda _: stopping)

    def _hurry(self) -> None:
        log.info("stopping at once", why=self._why, links=len(self.node.exchange.links))
        if self._api is not None:
            self._api.hurry()
        self.node.stop()

    def _check(self, settings: Settings) -> object:
        return check(settings)

    def _read(self, settings: Settings) -> Callable[[], None]:
        parts = [self.node.read(settings, find_policy(settings.auth))]
        if self._api is not None:
            parts.append(self._api.read(settings, listens=True))

        def use() -> None:
            for part in parts:
                part()

        return use


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
        raise SystemExit(f"imgateway: {options.told(error)}") from None
