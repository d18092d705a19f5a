"""``twistd imrouter``: the HTTP API of a cluster, over its broker and registry. Several may run at once."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway import __version__
from imgateway.auth.keys import secret_path
from imgateway.brokers.clock import wall_ms
from imgateway.config import Settings
from imgateway.errors import ConfigError, OperatorError
from imgateway.interfaces import IAllocation
from imgateway.router.gateway import RouterGateway
from imgateway.tap.api import HttpApi
from imgateway.tap.check import check_broker
from imgateway.tap.options import SettingsOptions
from imgateway.tap.plugins import authenticator_plugin, find, find_policy
from imgateway.tap.process import API_STARTS, Process, first, tell
from imgateway.tap.registries import check_registry, make_registry
from imgateway.tap.service import make_broker

__all__ = ("Options", "Router", "check_router", "makeService")

log = Logger()


class Options(SettingsOptions):
    """Named options for what is set most, ``--set section.key=value`` for everything."""

    program = "imrouter"
    synopsis = "[options]"
    longdesc = (
        "Runs a router: the HTTP API of a cluster of gateway nodes. It needs the nodes' broker and registry, "
        "the secret that their tokens are signed with (auth.secret_file), and a file of API keys."
    )
    named: ClassVar[Mapping[str, str]] = {
        **SettingsOptions.named,
        "public": "router.public",
        "private": "router.private",
        "keys": "router.keys_file",
    }
    optParameters: ClassVar[list[list[Any]]] = [
        ["public", None, None, "Endpoint for clients, such as 0.0.0.0:7990; empty: none."],
        ["private", None, None, "Endpoint for business servers and operators, such as 127.0.0.1:7991."],
        ["keys", None, None, "The file of the API keys (imgateway apikey makes one)."],
    ]


def check_router(settings: Settings) -> None:
    """:raises ConfigError: a router cannot run with these settings; what to change."""
    check_broker(settings)
    if not settings.broker.is_shared:
        raise ConfigError(
            f"broker.url: {settings.broker.url} lives in one node alone; a router needs the cluster's, such "
            "as redis://HOST:PORT. One node serves the API itself: twistd imgateway --keys FILE"
        )
    if check_registry(settings.registry) == "memory":
        raise ConfigError(
            "registry.url: is empty; a router needs the one that the nodes announce themselves in, such as "
            "redis://HOST:PORT or zookeeper://HOST:PORT"
        )
    if not settings.router.keys_file:
        raise ConfigError(
            "router.keys_file: is empty; nobody may use the API without a key; make one: "
            "imgateway apikey --id NAME --scopes push,read --file FILE"
        )
    if not settings.router.private:
        raise ConfigError("router.private: must name an endpoint, such as 127.0.0.1:7991")
    auth = settings.auth
    named = auth.secret_file or auth.public_key_file or auth.jwks_file
    path = secret_path(auth, settings.node.data_dir)
    if auth.authenticator == "token" and not named and not path.exists():
        raise ConfigError(
            f"auth.secret_file: is empty, and there is no {path}; a router checks tokens as its nodes do: "
            "name their secret, or their auth.public_key_file"
        )


class Router(Process):
    """A router with its log, its ports and its signals, as a Twisted service.

    A first SIGTERM or SIGINT finishes the requests that run, a second one does not wait for them; SIGHUP
    reads API keys, secrets and limits anew.
    """

    name = "imrouter"
    read_anew = "API keys, secrets, limits and policy"
    reloads = frozenset({"limits", "auth.policy", "router"}) | frozenset(
        {"node.name", "node.drain_s", "node.drain_rate", "session", "listen", "quota", "compression"}
        | {"websocket", "mobileimsdk", "mqtt", "plugins"}
    )
    starts = API_STARTS

    def __init__(self, options: Options, reactor: Any) -> None:
        settings = options.settings
        check_router(settings)
        super().__init__(options, reactor)
        self.incarnation = f"router.{secrets.token_hex(4)}"
        self._stopping: Deferred[Any] | None = None
        self.gateway = RouterGateway(
            make_broker(settings, reactor, reaps=False),
            make_registry(settings.registry, reactor),
            find_policy(settings.auth),
            settings.limits,
            self.incarnation,
            reactor,
            wall_ms,
            self.health.set,
            self.health.note,
        )
        self.http = HttpApi(
            settings, self.gateway, self.incarnation, self.health, {"node": self.incarnation}, (), reactor
        )

    # ---------------------------------------------------------------------------------------- start and stop

    def _start(self) -> None:
        # The ports before the cluster: who asks is told why nothing else works yet.
        starting: Deferred[Any] = maybeDeferred(self.http.lock)
        starting.addCallback(lambda _: self._listen())
        starting.addCallback(lambda _: self.gateway.start())
        starting.addCallback(lambda _: self.http.start())
        starting.addCallbacks(self._ready, self._refused)

    def _listen(self) -> Deferred[Any]:
        router = self.options.settings.router
        opening = [self.http.listen(router.private, "router.private")]
        if router.public:
            opening.append(self.http.listen(router.public, "router.public", public=True))
        listening: Deferred[Any] = gatherResults(opening, consumeErrors=True)
        return listening.addCallbacks(self._listening, first)

    def _listening(self, ports: Any) -> None:
        places = [port.address for port in ports]
        tell(f"imrouter {__version__} listens on {' (private) and '.join(places)}\n")
        log.info("listening", places=", ".join(places), incarnation=self.incarnation, pid=os.getpid())

    def _ready(self, _: object) -> None:
        if self._stopping is None:
            self.health.set("start", True)
            log.info("ready", nodes=len(self.gateway.nodes()))

    def _refused(self, failure: Failure) -> None:
        if self._stopping is None:  # else it was told to stop before it was there
            super()._refused(failure)

    def stopService(self) -> Deferred[Any]:
        """Finish the requests, give the tasks back, leave the broker; close the ports last, so that health
        can be asked to the end."""
        super().stopService()
        log.info("stopping")
        self.health.set("drain", False, "stopping")
        self._stopping = stopping = self.http.stop(self.options.settings.router.drain_s)
        stopped: Deferred[Any] = Deferred()
        stopping.addCallback(lambda _: self.gateway.stop())
        stopping.addErrback(lambda failure: log.failure("the stop failed", failure))
        stopping.addCallback(lambda _: log.info("stopped"))
        stopping.addCallback(lambda _: self.http.close())
        stopping.addBoth(stopped.callback)
        return stopped

    def _hurry(self) -> None:
        self.http.hurry()

    def _check(self, settings: Settings) -> object:
        authenticator_plugin(settings.auth)
        return find(IAllocation, settings.router.allocation, "router.allocation")

    def _read(self, settings: Settings) -> Callable[[], None]:
        check_router(settings)
        policy = find_policy(settings.auth)
        use_http = self.http.read(settings)

        def use() -> None:
            use_http()
            self.gateway.policy, self.gateway.limits = policy, settings.limits

        return use


def makeService(options: Options) -> Router:
    """What twistd calls. A wrong setting ends it with one line."""
    from twisted.internet import reactor

    # Twisted's reactor keeps its timers on the wall clock: one step back would hold every deadline.
    setattr(reactor, "seconds", time.monotonic)  # noqa: B010 (mypy knows it as a method)
    try:
        return Router(options, reactor)
    except OperatorError as error:
        raise SystemExit(f"imrouter: {options.told(error)}") from None
