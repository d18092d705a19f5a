"""``twistd imrouter``: the HTTP API of a cluster, over its broker and registry. Several may run at once."""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import sys
import time
from typing import Any, ClassVar

from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from imgateway import __version__
from imgateway.auth.keys import secret_path
from imgateway.brokers.clock import wall_ms
from imgateway.config import Settings
from imgateway.errors import ConfigError, OperatorError
from imgateway.ops.health import Health
from imgateway.ops.logs import observer
from imgateway.router.gateway import RouterGateway
from imgateway.tap.api import HttpApi
from imgateway.tap.check import check_broker
from imgateway.tap.logfile import log_file
from imgateway.tap.options import SettingsOptions
from imgateway.tap.plugins import find_policy
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
    optParameters: ClassVar[list[list[Any]]] = [
        ["public", None, None, "Endpoint for clients, such as 0.0.0.0:7990; empty: none."],
        ["private", None, None, "Endpoint for business servers and operators, such as 127.0.0.1:7991."],
        ["keys", None, None, "The file of the API keys (imgateway apikey makes one)."],
    ]

    def _more(self, settings: Settings) -> Settings:
        router = settings.router
        for option, field in (("public", "public"), ("private", "private"), ("keys", "keys_file")):
            if self[option] is not None:
                router = replace(router, **{field: self[option]})
        return replace(settings, router=router)


def check_router(settings: Settings) -> None:
    """:raises ConfigError: a router cannot run with these settings; what to change."""
    check_broker(settings)
    if not settings.broker.url.startswith("redis"):
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


class Router(Service):
    """A router with its log, its ports and its signals, as a Twisted service.

    A first SIGTERM or SIGINT finishes the requests that run, a second one does not wait for them; SIGHUP
    reads API keys, secrets and limits anew.
    """

    name = "imrouter"

    def __init__(self, options: Options, reactor: Any) -> None:
        settings = options.settings
        check_router(settings)
        self.options = options
        self.health = Health()
        self.incarnation = f"router.{secrets.token_hex(4)}"
        self._reactor = reactor
        self._failed = False
        self._stopping: Deferred[Any] | None = None
        self.gateway = RouterGateway(
            make_broker(settings, reactor),
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

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and write its log."""
        super().setServiceParent(parent)
        if isinstance(parent, Componentized):  # the application itself, not a service in between
            out = log_file(self.options.parent or {})
            if out is not None:
                parent.setComponent(ILogObserver, observer(self.options.settings.log, out))

    # ---------------------------------------------------------------------------------------- start and stop

    def startService(self) -> None:
        """Start once the reactor runs."""
        super().startService()
        self._reactor.callWhenRunning(self._start)

    def _start(self) -> None:
        self._catch_signals()
        router = self.options.settings.router
        # First the ports: who asks is told why nothing else works yet.
        opening = [self.http.listen(router.private, "router.private")]
        if router.public:
            opening.append(self.http.listen(router.public, "router.public", public=True))
        starting: Deferred[Any] = gatherResults(opening, consumeErrors=True)
        starting.addCallbacks(self._listening, lambda failure: failure.value.subFailure)
        starting.addCallback(lambda _: self.gateway.start())
        starting.addCallback(lambda _: self.http.start())
        starting.addCallbacks(self._ready, self._refused)

    def _listening(self, ports: Any) -> None:
        places = [port.address for port in ports]
        _tell(f"imrouter {__version__} listens on {' (private) and '.join(places)}\n")
        log.info("listening", places=", ".join(places), incarnation=self.incarnation, pid=os.getpid())

    def _ready(self, _: object) -> None:
        if self._stopping is None:
            self.health.set("start", True)
            log.info("ready", nodes=len(self.gateway.nodes()))

    def _refused(self, failure: Failure) -> None:
        """The start failed: one line for the operator, exit status 1."""
        if self._stopping is not None:
            return  # it was told to stop before it was there
        if isinstance(failure.value, OperatorError):
            _tell(f"imrouter: {failure.getErrorMessage()}\n")
            log.error("the start failed", why=failure.getErrorMessage())
        else:
            log.failure("the start failed", failure)
        self._failed = True
        # twistd has no way to say that a service failed, and exits with 0.
        atexit.register(os._exit, 1)
        self._reactor.stop()

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

    # --------------------------------------------------------------------------------------------- signals

    def _catch_signals(self) -> None:
        before = signal.getsignal(signal.SIGTERM)

        def terminate(number: int, frame: Any) -> None:
            if self.running and callable(before):
                before(number, frame)
            else:
                self._reactor.callFromThread(self.http.hurry)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, terminate)
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))

    def reload(self) -> None:
        """SIGHUP. What cannot be read is logged, and everything stays as it was."""
        try:
            settings = self.options.load()
            check_router(settings)
            policy = find_policy(settings.auth)
            apply = self.http.read(settings)
        except OperatorError as error:
            log.error("reload refused, nothing changed: {why}", why=str(error))
        else:
            apply()
            self.gateway.policy, self.gateway.limits = policy, settings.limits
            log.info("reloaded API keys, secrets, limits and policy")


def _tell(text: str) -> None:
    """Say something to the person at the terminal: twistd turns sys.stderr into log lines."""
    if sys.__stderr__ is not None:
        sys.__stderr__.write(text)
        sys.__stderr__.flush()


def makeService(options: Options) -> Router:
    """What twistd calls. A wrong setting ends it with one line."""
    from twisted.internet import reactor

    # Twisted's reactor keeps its timers on the wall clock: one step back would hold every deadline.
    setattr(reactor, "seconds", time.monotonic)  # noqa: B010 (mypy knows it as a method)
    try:
        return Router(options, reactor)
    except OperatorError as error:
        raise SystemExit(f"imrouter: {error}") from None
