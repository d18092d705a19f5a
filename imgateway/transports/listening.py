"""Stream listeners from Twisted endpoint descriptions, and every way in which that can fail, in one line.

Beside Twisted's own descriptions (``tcp:7901``, ``ssl:…``, ``unix:…``, ``systemd:…``, ``haproxy:…``) a bare
``7901`` and ``host:7901`` mean tcp; ``shared:…`` is ours (`shared`).
"""

from __future__ import annotations

import errno
import os
import re
from ipaddress import ip_address
from typing import Any, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import connectionDone
from twisted.protocols.haproxy import proxyEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.errors import BadFrame
from imgateway.interfaces import IListener

from .places import cannot_listen, host_port, refusal
from .ports import LOCK, opener
from .sockets import accept_in_portions, keep_little
from .stream import Side
from .tls import bound

__all__ = ("Listener", "advice", "description", "listen_stream")

# How many may wait to be accepted. Twisted's default of 50 turns a login storm into refused connections.
BACKLOG = 4096
SHARED = "shared:"
_HOST_PORT = re.compile(r"(?:(?P<host>\[[^\]]+\]|\d+\.\d+\.\d+\.\d+|localhost|):)?(?P<port>\d+)")


def description(endpoint: str) -> str:
    """The endpoint description that a listening address means: ``7901`` → ``tcp:7901:backlog=4096``."""
    if endpoint.startswith(SHARED):
        inner = endpoint.removeprefix(SHARED)
        return SHARED + description(f"tcp:{inner}" if re.match(r"\d+:", inner) else inner)
    if short := _HOST_PORT.fullmatch(endpoint):
        host = (short["host"] or "").strip("[]")
        kind = "tcp6" if ":" in host else "tcp"
        endpoint = f"{kind}:{short['port']}" + (f":interface={quoteStringArgument(host)}" if host else "")
    if endpoint.startswith(("tcp:", "tcp6:", "ssl:")) and ":backlog=" not in endpoint:
        endpoint += f":backlog={BACKLOG}"
    return endpoint


def listen_stream(endpoint: str, side: Side) -> Deferred[Listener]:
    """Listen; `side.proxied` is set from the description.

    :raises OperatorError: (in the Deferred) in one line, with what to do.
    """
    proxied = endpoint.startswith("haproxy:")
    inner = description(endpoint.removeprefix("haproxy:"))
    scheme = ("haproxy:" if proxied else "") + inner.removeprefix(SHARED).partition(":")[0]

    def failed(reason: Failure) -> Failure:
        return Failure(refusal(f"cannot listen on {endpoint}: {advice(reason.value)}", reason.value))

    try:
        server: Any = serverFromString(opener(inner, side.reactor), inner)
    except (
        Exception
    ) as error:  # parsers of other people's endpoints too: whatever they raise is a wrong description
        return cast("Deferred[Listener]", fail(failed(Failure(error))))
    if proxied:
        side.proxied = True
        server = proxyEndpoint(_WholeHeader(server))
    listening = maybeDeferred(server.listen, side)
    return listening.addCallbacks(lambda port: Listener(port, scheme), failed)


@implementer(IListener)
class Listener:
    """A Twisted port as the node sees it."""

    def __init__(self, port: Any, scheme: str) -> None:
        self._port = port
        keep_little(port, adopted=scheme.endswith("systemd"))
        bound(port)
        self._arrivals = accept_in_portions(port) if hasattr(port, "numberAccepts") else None
        self.address, self.port = _address(port.getHost(), scheme)

    def pause(self) -> None:
        if self._arrivals is None:
            self._port.stopReading()
        else:
            self._arrivals.pause()

    def resume(self) -> None:
        if self._arrivals is None:
            self._port.startReading()
        else:
            self._arrivals.resume()

    def stop(self) -> Deferred[None]:
        if self._arrivals is not None:
            self._arrivals.stop()
        return maybeDeferred(self._port.stopListening)


def _address(host: Any, scheme: str) -> tuple[str, int]:
    if isinstance(host, UNIXAddress):
        return f"{scheme}:{os.fsdecode(host.name or b'')}", 0
    return f"{scheme}:{host_port(host.host, host.port)}", int(host.port)


def advice(error: BaseException | None, port: int = 7901) -> str:
    """What went wrong with listening, and what the operator can do.

    :param port: which such a listener usually has, for the example.
    """
    if isinstance(error, CannotListenError):
        return cannot_listen(error, "t", ", a path you may write, or a socket from systemd")
    if isinstance(error, OSError) and os.fsdecode(error.filename or b"").endswith(LOCK):
        # What is locked while a unix socket is made.
        directory = os.path.dirname(os.fsdecode(error.filename)) or "."
        if error.errno == errno.ENOENT:
            return f"the directory {directory} does not exist"
        return f"cannot make a socket in {directory}: {error.strerror}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot read {os.fsdecode(error.filename)}: {error.strerror}"
    if type(error).__module__.startswith("OpenSSL") or "keys do not match" in str(error):
        return "the key or certificate file is not PEM, or they do not belong together"
    if isinstance(error, LookupError):
        return "systemd handed over no such socket; start it through its .socket unit"
    if isinstance(error, OverflowError):
        return "a port is a number from 0 to 65535"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"not a valid endpoint description ({text}); such as tcp:{port}:interface=127.0.0.1"


# Twisted decides by the first bytes that arrive whether they are a PROXY header, and drops a valid one that
# comes in smaller pieces than 8 (v1) or 16 bytes (v2). So the first 16 are gathered before Twisted sees any.
# It also drops the shortest header of all, which HAProxy sends where it knows no addresses. And whatever
# stands in a v1 header is an address for it, or it falls over that: so this line is gathered whole and
# looked at.
_DECIDED_AT = 16
_LONGEST_LINE = 107
_UNKNOWN = b"PROXY UNKNOWN\r\n"


class _Gathering(ProtocolWrapper):
    _first: bytes | None = b""
    _is_refused = False

    def loseConnection(self) -> None:
        """Called for a header that cannot be read, here or by Twisted; else whoever asks says why himself."""
        self._is_refused = True
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        refused = Failure(BadFrame("no PROXY header, or not a valid one"))
        super().connectionLost(refused if self._is_refused else reason)

    def dataReceived(self, data: bytes) -> None:
        if self._first is not None:
            data = self._first + data
            line, newline, _ = data.partition(b"\r\n")
            is_v1 = data.startswith(b"PROXY ")
            if len(data) < (_LONGEST_LINE if is_v1 and not newline else _DECIDED_AT) and data != _UNKNOWN:
                self._first = data
                return
            if data.startswith(_UNKNOWN):
                data = b"PROXY UNKNOWN " + data[len(_UNKNOWN) - 2 :]
            elif is_v1 and not (newline and _is_header(line)):
                self.loseConnection()
                return
            self._first = None
        super().dataReceived(data)


def _is_header(line: bytes) -> bool:
    """Whether this is a v1 header that names nobody, or two addresses and two ports."""
    _, family, *named = line.split(b" ")
    if family not in (b"TCP4", b"TCP6"):
        return family == b"UNKNOWN"
    try:
        for address in named[:2]:
            ip_address(address.decode())
        ports = [int(port) for port in named[2:4]]
    except ValueError:
        return False
    # What stands behind a % could be anything.
    return len(ports) == 2 and min(ports) >= 0 and max(ports) < 65_536 and b"%" not in line


class _GatheringFactory(WrappingFactory):
    protocol = _Gathering
    noisy = False


@implementer(IStreamServerEndpoint)
class _WholeHeader:
    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Any:
        return self._endpoint.listen(_GatheringFactory(protocolFactory))
