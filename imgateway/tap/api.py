"""The HTTP API of one process put together, for a node and for a router alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace
from prometheus_client.exposition import choose_encoder
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway import __version__
from imgateway.auth.keys import load_secret
from imgateway.auth.token import bind, mint
from imgateway.auth.udp import load_udp_secret, with_udp_key
from imgateway.brokers.clock import wall_ms
from imgateway.config import Settings
from imgateway.errors import ConfigError, OperatorError
from imgateway.interfaces import IAllocation, Identity, IGateway
from imgateway.ops.health import Health
from imgateway.ops.http import HttpListener
from imgateway.ops.metrics import Source, registry
from imgateway.router.allocation import Allocation
from imgateway.router.api import Api
from imgateway.router.doors import Doors
from imgateway.router.keys import Keys, read_keys
from imgateway.router.nodes import Fleet
from imgateway.router.openapi import document
from imgateway.router.pages import Pages
from imgateway.router.pushing import Pushing
from imgateway.router.schema import MakeToken
from imgateway.router.tasks import TaskPages, Tasks
from imgateway.router.users import Users
from imgateway.router.web import ApiSite
from imgateway.tap.doors import open_http
from imgateway.tap.plugins import find, find_authenticator

__all__ = ("HttpApi", "Secrets", "find_mint")

log = Logger()


class Secrets:
    """Makes tokens with the shared secret that the nodes check them with (a `Mint`).

    :param before: has the secret of the UDP keys; None: that is read as well.
    """

    def __init__(self, settings: Settings, before: Secrets | None = None) -> None:
        self._audience = settings.auth.audience
        self._secret = load_secret(settings.auth, settings.node.data_dir)
        self._udp: bytes | None = None
        if before is not None:
            self._udp = before._udp
            return
        try:
            self._udp = load_udp_secret(settings.udp, settings.node.data_dir, make=False)
        except OperatorError:
            if settings.udp.secret_file:
                raise

    def make(self, asked: MakeToken, now_s: float) -> str:
        """A new token."""
        return mint(
            self._secret,
            asked.user,
            asked.device,
            asked.ttl_s,
            asked.service,
            now_s,
            self._audience,
            asked.rooms,
            asked.topics,
        )

    def bound(self, identity: Identity, node: str, now_s: float) -> str:
        """The same rights, at one node."""
        return bind(self._secret, identity, node, now_s, self._audience)

    def with_udp_key(self, token: str) -> str:
        """With its UDP key, if there is a secret for these."""
        return with_udp_key(token, self._udp) if self._udp is not None else ""


def find_mint(settings: Settings, before: Secrets | None = None) -> Secrets | None:
    """What makes tokens; None: the settings name a public key, so that somebody else makes them.

    Call it once the authenticator is there, which makes the secret.

    :param before: as `Secrets` takes it.
    :raises OperatorError: the secret cannot be used, or is needed and not there.
    """
    auth = settings.auth
    if auth.public_key_file or auth.jwks_file or auth.authenticator != "token":
        if settings.router.bind_tokens:
            raise ConfigError(
                "router.bind_tokens: needs the secret that signs tokens (auth.secret_file), and tokens are "
                "checked with another key here; set it to false"
            )
        return None
    return Secrets(settings, before)


class HttpApi:
    """The API with its keys, push tasks and metrics.

    :param sources: what else is on the metrics page.
    :raises OperatorError: keys, secrets or plugins cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        gateway: IGateway,
        incarnation: str,
        health: Health,
        info: Mapping[str, str],
        sources: tuple[Source, ...],
        reactor: Any,
    ) -> None:
        router = settings.router
        self._settings = settings
        """Of the start: where the secrets are, and for whom tokens are made, stays with the process."""
        self._reactor = reactor
        self.keys = Keys(read_keys(router.keys_file), reactor.seconds)
        # Who is bound to a node asks here as well.
        auth = replace(settings.auth, node="")
        self._authenticator = find_authenticator(auth, settings.node.data_dir, time.time)
        self._minting = find_mint(settings)
        strategy = find(IAllocation, router.allocation, "router.allocation")
        self.doors = Doors(
            Allocation(strategy, gateway.nodes, random.randrange(1_000_000)),
            self._authenticator,
            self._minting,
            router,
            settings.session.heartbeat_s,
            time.time,
        )
        self.tasks = Tasks(
            gateway,
            reactor,
            owner=incarnation,
            data_dir=settings.node.data_dir,
            router=router,
            limits=settings.limits,
            healthy=lambda ok, why: health.set("tasks", ok, why),
        )
        self.pushing = Pushing(gateway, settings.limits, self.tasks.schedule)
        pages = Pages(health.told, self._metrics, self._document)
        parts = (
            pages,
            self.doors,
            self.pushing,
            Users(gateway, time.time),
            Fleet(gateway),
            TaskPages(self.tasks, wall_ms),
        )
        self.api = Api(parts, self.keys, router, reactor)
        measures = (*sources, self.api.measures, self.tasks.measures)
        self._registry = registry({"version": __version__, **info}, *measures)
        self._drawn: dict[bool, bytes] = {}
        self._health = health
        health.set("api", False, "starting")
        self.ports: list[HttpListener] = []
        self._late: Any = None

    def _metrics(self, accept: str) -> tuple[str, bytes]:
        encode, kind = choose_encoder(accept)
        return kind, encode(self._registry)

    def _document(self, public: bool) -> bytes:
        if public not in self._drawn:
            table = self.api.public if public else self.api.table
            self._drawn[public] = document(table.routes)
        return self._drawn[public]

    def listen(self, endpoint: str, setting: str, public: bool = False) -> Deferred[HttpListener]:
        """Open a port: until `start` it answers what health asks, and 503 else.

        :param setting: which names the endpoint, for the error. :param public: for clients.
        :raises OperatorError: (in the Deferred) in one line, with what to do.
        """
        site = ApiSite(self.api, self._reactor, public)

        def opened(listening: Any) -> HttpListener:
            port = HttpListener(listening, endpoint, site.abort)
            self.ports.append(port)
            if port.is_bare:
                log.warn(
                    "API keys and tokens are in the clear: no TLS, and others reach it", url=port.address
                )
            return port

        return open_http(endpoint, setting, site, self._reactor).addCallback(opened)

    def lock(self) -> None:
        """The push tasks are ours, or this start ends before anybody hears of it.

        :raises OperatorError: another process runs those of the same SQLite file.
        """
        self.tasks.lock()

    def start(self) -> Deferred[Any]:
        """Take requests, and run push tasks: the gateway is there.

        :raises OperatorError: (in the Deferred) the database of the push tasks cannot be used.
        """
        return maybeDeferred(self.tasks.start).addCallback(self._open)

    def _open(self, _: object) -> None:
        if not self.api.stopping:
            self.api.closed = ""
            self._health.set("api", True)

    def stop(self, within_s: float) -> Deferred[Any]:
        """Take no more requests, and finish those that run, within so many seconds; give the tasks back."""
        stopping = self.api.stop()
        self._late = self._reactor.callLater(within_s, stopping.cancel)

        def over(result: Any) -> None:
            if self._late.active():
                self._late.cancel()
            if isinstance(result, Failure):
                log.warn("requests were not answered in time", within_s=within_s)

        stopping.addBoth(over)
        stopping.addCallback(lambda _: self.tasks.stop())
        return stopping.addErrback(lambda failure: log.failure("the push tasks did not stop", failure))

    def hurry(self) -> None:
        """Wait for no request any more."""
        if self._late is not None and self._late.active():
            self._late.reset(0)

    def close(self) -> Deferred[Any]:
        """Close the ports."""
        ports, self.ports = self.ports, []
        return DeferredList([port.stop() for port in ports], consumeErrors=True)

    def read(self, settings: Settings, listens: bool = False) -> Callable[[], None]:
        """SIGHUP: read API keys, secrets and limits again. Nothing changes until what this returns is called.

        :param listens: it is a node's, whose listeners know the UDP secret of the start, and no other.
        :raises OperatorError: they cannot be used.
        """
        started = self._settings
        keys = read_keys(settings.router.keys_file)
        # What checks tokens, here and at the node, keeps to the files and the audience that it began with.
        minting = find_mint(
            replace(settings, auth=started.auth, udp=started.udp, node=started.node),
            self._minting if listens else None,
        )
        use_token_keys = self._authenticator.read()

        def use() -> None:
            use_token_keys()
            self.keys.replace(keys)
            self.doors.mint = self._minting = minting
            self.doors.settings = self.api.settings = settings.router
            self.doors.heartbeat_s = settings.session.heartbeat_s
            self.pushing.limits = settings.limits
            self.tasks.go_by(settings.router, settings.limits)

        return use
