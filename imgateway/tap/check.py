"""Whether a node could start with some settings, without starting one: its listeners are opened on a network
in memory. No secret is made, and no port bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from imgateway.auth.keys import load_keys
from imgateway.auth.udp import UdpKeys, load_udp_secret
from imgateway.brokers.clock import wall_ms
from imgateway.brokers.redis.urls import without_password
from imgateway.config import REDIS_SCHEMES, Settings
from imgateway.config.denied import in_the_way
from imgateway.core.roomclass import RoomClasses
from imgateway.errors import ConfigError, OperatorError
from imgateway.interfaces import IAllocation, IBackend, IInterceptor, ISessionListener
from imgateway.ops.health import Health
from imgateway.router.keys import read_keys
from imgateway.tap.doors import door, http_door, open_http, parse_listen, transport_options, unproven
from imgateway.tap.plugins import Wires, authenticator_plugin, find, find_all, find_policy
from imgateway.tap.registries import check_registry
from imgateway.testing.network import Network

__all__ = ("apart", "check", "check_broker", "unreached")

BROKERS = ("embedded:", "memory:")


def check_broker(settings: Settings) -> None:
    """:raises ConfigError: there is no such kind of broker, or a URL of Redis is wrong."""
    url = settings.broker.url
    if settings.broker.is_shared:
        from imgateway.brokers.redis import find_primaries

        find_primaries(settings.broker, settings.redis)
    elif url not in BROKERS:
        allowed = ", ".join((*BROKERS, *(f"{scheme}…" for scheme in REDIS_SCHEMES)))
        raise ConfigError(f"broker.url: {without_password(url)!r} is no broker; allowed: {allowed}")


def apart(settings: Settings) -> Iterator[str]:
    """What is told of a node that stands among others, and keeps its messages for itself."""
    if settings.broker.url in BROKERS and check_registry(settings.registry) != "memory":
        yield (
            f"broker.url: {settings.broker.url} is this node's own, and registry.url puts it among others: "
            "clients of the other nodes are not reached from here; give all of them one broker, such as "
            "redis://HOST:PORT, or leave registry.url empty"
        )


def unreached(settings: Settings) -> Iterator[str]:
    """What is told of a node that no client can come to."""
    if not settings.listen.clients:
        yield "listen.clients: is empty, so that no client can connect; an example: native+tcp:tcp:7901"


def check(settings: Settings) -> tuple[str, ...]:
    """Certificates and keys of TLS listeners are read, and the key files that the settings name; whether a
    port is free shows only when a node starts.

    :returns: what a node would start with, and its operator should know, a line each.
    :raises OperatorError: the setting that a node would not start with, and what is allowed.
    """
    check_broker(settings)
    check_registry(settings.registry)
    RoomClasses(settings.rooms.classes)
    authenticator_plugin(settings.auth)
    _check_keys(settings)
    find_policy(settings.auth)
    find_all(IBackend, settings.plugins.backends, "plugins.backends")
    find_all(IInterceptor, settings.plugins.interceptors, "plugins.interceptors")
    find_all(ISessionListener, settings.plugins.listeners, "plugins.listeners")
    together = Network()
    wires = Wires(settings, time.monotonic, wall_ms)
    options = transport_options(settings, UdpKeys(bytes(32), ""))
    for text in settings.listen.clients:

        def open_(network: Network, text: str = _without_systemd(text)) -> Any:
            return door(text, network, options, wires)(lambda connection: None)

        _rehearse(open_, together, f"listen.clients: {text}")
    endpoint = settings.listen.http
    if endpoint and not endpoint.startswith("systemd:"):
        _rehearse(
            lambda network: http_door(endpoint, Health(), CollectorRegistry(), network),
            together,
            f"listen.http: {endpoint}",
        )
    if settings.router.keys_file:
        read_keys(settings.router.keys_file)
        find(IAllocation, settings.router.allocation, "router.allocation")
    api = settings.listen.api
    if api and not api.startswith("systemd:"):
        _rehearse(
            lambda network: open_http(api, "listen.api", Factory(), network), together, f"listen.api: {api}"
        )
    return (*unproven(settings, wires), *apart(settings), *unreached(settings))


def _check_keys(settings: Settings) -> None:
    """What the settings name must be there; what a first start makes must find its place."""
    auth, udp, directory = settings.auth, settings.udp, settings.node.data_dir
    is_named = bool(auth.secret_file or auth.public_key_file or auth.jwks_file)
    if is_named and auth.authenticator == "token":
        load_keys(auth, directory, make=False)
    if udp.secret_file and any(parse_listen(text).transport == "udp" for text in settings.listen.clients):
        load_udp_secret(udp, directory, make=False)
    needs_directory = settings.broker.url == "embedded:" or not is_named
    if needs_directory and (file := in_the_way(directory)) is not None:
        raise ConfigError(f"node.data_dir: {file} is a file, not a directory")


def _without_systemd(text: str) -> str:
    """Sockets that systemd hands over are there only when it starts the node."""
    listen = parse_listen(text)
    if listen.endpoint.removeprefix("haproxy:").startswith("systemd:"):
        return f"{','.join(listen.protocols)}+{listen.transport}:tcp:0"
    return text


def _rehearse(open_: Callable[[Network], Any], together: Network, what: str) -> None:
    if (problem := _problem(open_, Network())) is not None:
        raise problem
    if _problem(open_, together) is not None:
        raise ConfigError(f"{what}: another listener has this address; give each its own")


def _problem(open_: Callable[[Network], Any], network: Network) -> OperatorError | None:
    """What the operator has to change. Another package's transport may want more than this network has: then
    nothing can be said."""
    opened: list[Any] = []
    maybeDeferred(open_, network).addBoth(opened.append)
    failed = (
        isinstance(opened[0], Failure) and isinstance(opened[0].value, OperatorError) if opened else False
    )
    return opened[0].value if failed else None
