"""The listening grammar, ``PROTOCOL[,PROTOCOL]+TRANSPORT:ENDPOINT``, and the doors made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.python.failure import Failure

from imgateway.auth.udp import UdpKeys, load_udp_secret
from imgateway.brokers.clock import wall_ms
from imgateway.config import Settings
from imgateway.errors import ConfigError, InUse, OperatorError
from imgateway.interfaces import ITransportAdapter
from imgateway.node.service import Door
from imgateway.ops.health import Health
from imgateway.ops.http import HttpListener, listen
from imgateway.tap.plugins import Wires, find

__all__ = (
    "Listen",
    "door",
    "http_door",
    "open_http",
    "parse_listen",
    "transport_options",
    "udp_keys",
    "unproven",
)

SETTING = "listen.clients"
USUAL = {"listen.http": 7980, "listen.api": 7991, "router.public": 7990, "router.private": 7991}
"""The ports of what speaks HTTP, by its setting, for examples."""


class Listen(NamedTuple):
    """One listener as it was asked for."""

    protocols: tuple[str, ...]
    transport: str
    endpoint: str


def parse_listen(text: str) -> Listen:
    """Parse ``native,json+websocket:tcp:7902``.

    :raises ConfigError: with an example of what is meant.
    """
    head, colon, endpoint = text.partition(":")
    protocols, plus, transport = head.partition("+")
    names = tuple(protocols.split(","))
    if not (colon and plus and endpoint and transport and all(names)):
        raise ConfigError(
            f"{SETTING}: {text!r} is not PROTOCOL[,PROTOCOL]+TRANSPORT:ENDPOINT; "
            "an example: native+tcp:tcp:7901"
        )
    return Listen(names, transport, endpoint)


def udp_keys(settings: Settings) -> UdpKeys | None:
    """The UDP keys of a node that has a use for them; its secret is made if it is not there.

    :raises OperatorError: the secret cannot be used.
    """
    if not any(parse_listen(text).transport == "udp" for text in settings.listen.clients):
        return None
    return UdpKeys(load_udp_secret(settings.udp, settings.node.data_dir), settings.node.name)


def transport_options(settings: Settings, keys: UdpKeys | None) -> dict[str, Any]:
    """What is passed to every transport that listens."""
    options: dict[str, Any] = {"origins": settings.websocket.origins, "max_resends": settings.udp.max_resends}
    if keys is not None:
        options |= {"udp_key": keys.key_of, "udp_reset_key": keys.reset_key}
    return options


def unproven(settings: Settings, wires: Wires) -> Iterator[str]:
    """One line for each listener that believes whom a greeting names."""
    for text in settings.listen.clients:
        for name in parse_listen(text).protocols:
            if not wires.find(name).traits.authenticates:
                yield (
                    f"{SETTING}: {text}: whoever reaches it logs in as any user that it names, reads that "
                    f"user's messages and sends in that name, for {name} has no way to prove who one is; "
                    "keep it to a network where you trust everybody"
                )


def door(text: str, reactor: Any, options: Mapping[str, Any], wires: Wires | None = None) -> Door:
    """What opens the listener that `text` describes.

    :param options: passed to the transport. :param wires: its protocols; None: by the default settings.
    :raises ConfigError: the grammar is wrong, or a protocol or transport is not installed.
    """
    asked = parse_listen(text)
    transport = find(ITransportAdapter, asked.transport, SETTING)
    wires = wires or Wires(Settings(), reactor.seconds, wall_ms)
    adapters = tuple([wires.find(name) for name in asked.protocols])
    return partial(_open, transport, asked.endpoint, adapters, reactor, options)


def _open(transport: Any, endpoint: str, wires: Any, reactor: Any, options: Any, accept: Any) -> Any:
    def refused(failure: Failure) -> Failure:
        # A transport does not know where the place was named.
        if isinstance(failure.value, InUse):
            raise InUse(f"{SETTING}: {failure.value}", failure.value.port)
        if failure.check(OperatorError) and not failure.check(ConfigError):
            raise OperatorError(f"{SETTING}: {failure.value}")
        return failure

    return maybeDeferred(transport.listen, endpoint, wires, accept, reactor, options).addErrback(refused)


def open_http(endpoint: str, setting: str, factory: Any, reactor: Any) -> Deferred[Any]:
    """Open a port for HTTP; the endpoint may be short, as a client listener's may. Fires with the port.

    :param setting: which names the endpoint, for the error. A node's own, ``listen.…``, with a bare port is
        on loopback.
    :raises OperatorError: (in the Deferred) in one line, with what to do.
    """
    return _open_http(
        lambda described, reactor: serverFromString(reactor, described).listen(factory),
        endpoint,
        setting,
        reactor,
    )


def http_door(
    endpoint: str, health: Health, metrics: CollectorRegistry, reactor: Any
) -> Deferred[HttpListener]:
    """Open the operators' port; the endpoint may be short, as a client listener's may, but a bare port is on
    loopback.

    :raises OperatorError: (in the Deferred) in one line, with what to do.
    """
    return _open_http(
        lambda described, reactor: listen(described, health, metrics, reactor),
        endpoint,
        "listen.http",
        reactor,
    )


def _open_http(
    open_: Callable[[str, Any], Deferred[Any]], endpoint: str, setting: str, reactor: Any
) -> Deferred[Any]:
    from imgateway.transports.listening import advice, description
    from imgateway.transports.places import refusal
    from imgateway.transports.ports import opener

    def refused(failure: Failure) -> None:
        why = advice(failure.value, USUAL.get(setting, 7980))
        raise refusal(f"{setting}: {endpoint}: {why}", failure.value)

    # Health, metrics and the API want nobody from elsewhere unless somebody says so.
    is_bare = setting.startswith("listen.") and endpoint.isdecimal()
    described = description(f"127.0.0.1:{endpoint}" if is_bare else endpoint)
    return maybeDeferred(open_, described, opener(described, reactor)).addErrback(refused)
