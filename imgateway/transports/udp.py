"""UDP: datagrams that are sealed, paced and repeated, so that a device on a bad network loses no message."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IResolutionReceiver
from twisted.logger import Logger
from zope.interface import implementer

from imgateway.errors import LinkLost, OperatorError
from imgateway.interfaces import Accept, ITransportAdapter

from .datagram.bare import BareServer
from .datagram.client import ClientConnection, DatagramClient
from .datagram.greeting import ServerGreeting
from .datagram.measured import MeasuredConnection
from .datagram.port import MAX_PACKET_SIZE
from .datagram.server import DatagramServer
from .dialling import TIMEOUT_S, parse_target
from .places import cannot_listen, no_ride, refusal, rides

__all__ = ("UDPTransport",)

log = Logger()

_ENDPOINT = re.compile(
    r"(?:(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*):)?(?P<port>\d{1,5})(?P<plain>:insecure=1)?"
)

NO_SCOPE = "an address with a scope (%...) does not do for UDP; take one that needs none"


@implementer(ITransportAdapter)
class UDPTransport:
    """``native+udp:127.0.0.1:7901``; a bare ``7901`` is every address of the machine.

    `options` of `listen`: ``udp_key``, key id → UDP key of a token; ``udp_reset_key``, bytes;
    ``max_resends``, 0: until it arrives. `options` of `connect`: ``udp``, (key id, UDP key) or None for a
    connection that is not sealed, which only this machine may have; ``timeout_s``; ``measured``: the
    connection is an `IMeasured` too.
    """

    name = "udp"
    schemes = ("udp",)

    def listen(
        self, endpoint: str, wires: Sequence[Any], accept: Accept, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        """``HOST:PORT``, ``[IPV6]:PORT`` or ``PORT``; ``:insecure=1`` on loopback takes unsealed clients
        too."""
        return maybeDeferred(self._listen, endpoint, wires, accept, reactor, options)

    def _listen(
        self, endpoint: str, wires: Sequence[Any], accept: Accept, reactor: Any, options: Mapping[str, Any]
    ) -> DatagramServer | BareServer:
        where = f"{','.join(wire.name for wire in wires)}+udp:{endpoint}"
        if len(wires) != 1:
            raise OperatorError(f"{where}: udp takes one protocol a listener; give each its own")
        if wires[0].carriage.bare is not None:
            return self._bare(where, endpoint, wires[0].carriage.bare, accept, reactor)
        if "udp" not in rides(wires[0]):
            raise no_ride(wires[0], "udp", endpoint)
        host, port, insecure = _parsed(endpoint)
        key_of = options.get("udp_key")
        if insecure and not _is_loopback(host):
            raise OperatorError(
                f"{where}: insecure=1 is for 127.0.0.1 and [::1] alone; leave it out, and clients come "
                "with a UDP key"
            )
        if key_of is None and not insecure:
            raise OperatorError(f"{where}: there is no UDP secret to seal with")
        server = DatagramServer(
            reactor,
            wires[0],
            accept,
            ServerGreeting(key_of, insecure, secrets.token_bytes(32)),
            options.get("udp_reset_key") or secrets.token_bytes(32),
            secrets.token_bytes,
            int(options.get("max_resends") or 0),
        )
        _bind(reactor, endpoint, host, port, server, MAX_PACKET_SIZE)
        server.read()
        return server

    def _bare(self, where: str, endpoint: str, wire: Any, accept: Accept, reactor: Any) -> BareServer:
        host, port, insecure = _parsed(endpoint)
        if insecure:
            raise OperatorError(f"{where}: {wire.name} is never sealed; leave insecure=1 out")
        if not _is_loopback(host):
            log.warn(
                "{where}: {wire} has no encryption over UDP: whoever is on the way reads and forges it",
                where=where,
                wire=wire.name,
            )
        server = BareServer(reactor, wire, accept)
        _bind(reactor, endpoint, host, port, server, server.max_bytes + 1)
        return server

    def connect(
        self, url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        """``udp://HOST:PORT``. It opens the socket, no more: that nobody answers, `receiver.lost` says."""
        try:
            target = parse_target(url, {"udp": 0})
            if "%" in target.host:
                raise LinkLost(f"bad URL {url}: {NO_SCOPE}")
        except LinkLost as error:
            return fail(error)

        timeout_s = options.get("timeout_s") or TIMEOUT_S

        def resolved(host: str) -> Any:
            udp = options.get("udp")
            if udp is None and not ip_address(host).is_loopback:
                raise LinkLost(
                    f"{url} wants a token with a UDP key, as imgateway token USER --udp makes it: only on "
                    "this machine may UDP be plain"
                )
            client = DatagramClient(
                reactor,
                (host, target.port),
                url,
                wire,
                udp,
                secrets.token_bytes,
                timeout_s,
                MeasuredConnection if options.get("measured") else ClientConnection,
            )
            client.connection.receiver = receiver
            client.listen()
            receiver.opened(wire)
            return client.connection

        return _resolve(reactor, target.host, timeout_s).addCallback(resolved)


def _bind(reactor: Any, endpoint: str, host: str, port: int, server: Any, largest: int) -> None:
    try:
        reactor.listenUDP(port, server, host, largest)
    except CannotListenError as error:
        raise refusal(f"cannot listen on udp:{endpoint}: {cannot_listen(error, 'u')}", error) from None


def _parsed(endpoint: str) -> tuple[str, int, bool]:
    """Host, port, insecure."""
    if endpoint.startswith("shared:"):
        # After a new mapping a client's datagrams would reach whichever process the kernel liked.
        raise OperatorError(
            f"udp:{endpoint}: a UDP port cannot be shared; leave shared: out, and give each process a port "
            "of its own"
        )
    found = _ENDPOINT.fullmatch(endpoint)
    port = int(found["port"]) if found else 65_536
    if found is None or port > 65_535:
        raise OperatorError(
            f"udp:{endpoint}: is not HOST:PORT[:insecure=1]; "
            "such as udp:127.0.0.1:7901, udp:[::1]:7901 or udp:7901"
        )
    host = (found["host"] or "").strip("[]")
    host = {"localhost": "127.0.0.1", "*": "", "0.0.0.0": ""}.get(host, host)
    if "%" in host:
        raise OperatorError(f"udp:{endpoint}: {NO_SCOPE}")
    if host:
        try:
            ip_address(host)
        except ValueError:
            raise OperatorError(
                f"udp:{endpoint}: {host} is no address; name one of this machine: ip address"
            ) from None
    return host, port, found["plain"] is not None


def _is_loopback(host: str) -> bool:
    return bool(host) and ip_address(host).is_loopback


def _resolve(reactor: Any, host: str, timeout_s: float) -> Deferred[str]:
    """A numeric address for a host name: IPv4 if it has one, as most gateways listen there.

    :raises LinkLost: (in the Deferred) there is none, or none was found in time.
    """
    done: Deferred[str] = Deferred()  # Twisted's resolver cannot cancel
    try:
        ip_address(host)
    except ValueError:
        try:
            host.encode("idna")
        except UnicodeError as error:  # the resolver would say so in its log alone
            return fail(LinkLost(f"bad URL: {host} is no name: {error}"))
    else:
        done.callback(host)
        return done

    def late(_: Any, timeout: float) -> Any:
        raise LinkLost(f"cannot find {host}: no answer within {timeout:g} s")

    reactor.nameResolver.resolveHostName(_Answers(host, done), host)
    return done.addTimeout(timeout_s, reactor, late)


@implementer(IResolutionReceiver)
class _Answers:
    def __init__(self, host: str, done: Deferred[str]) -> None:
        self._host = host
        self._done = done
        self._found: list[str] = []

    def resolutionBegan(self, resolutionInProgress: Any) -> None: ...

    def addressResolved(self, address: Any) -> None:
        self._found.append(address.host)

    def resolutionComplete(self) -> None:
        found = sorted(self._found, key=lambda host: ":" in host)  # stable: else as the resolver orders them
        if self._done.called:
            return  # cancelled, or too late
        if found:
            self._done.callback(found[0])
        else:
            self._done.errback(LinkLost(f"cannot find {self._host}: there is no address for this name"))
