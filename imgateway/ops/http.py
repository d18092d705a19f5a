"""The operators' HTTP port: /healthz, /readyz, /metrics. It takes GET and HEAD and changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from io import BytesIO
from ipaddress import ip_address
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from imgateway.ops.health import Health

__all__ = ("HttpListener", "listen", "site")

# Probes and scrapers keep one each; more is a mistake or an attack.
MAX_CONNECTIONS = 100
IDLE_S = 30.0

Page = Callable[[Request], tuple[int, str, bytes]]
"""A request to (status, content type, body)."""

JSON = "application/json"


def _json(status: int, content: Mapping[str, Any]) -> tuple[int, str, bytes]:
    return status, JSON, json.dumps(content).encode() + b"\n"


class _Pages(Resource):
    isLeaf = True

    def __init__(self, pages: Mapping[bytes, Page]) -> None:
        super().__init__()
        self._pages = pages

    def render(self, request: Request) -> bytes:
        page = self._pages.get(request.path)
        if page is None:
            known = sorted(path.decode() for path in self._pages)
            status, kind, body = _json(404, {"error": "there is no such page", "pages": known})
        elif request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            status, kind, body = _json(405, {"error": "only GET and HEAD"})
        else:
            status, kind, body = page(request)
        request.setResponseCode(status)
        request.setHeader("Server", "imgateway")
        request.setHeader("Content-Type", kind)
        request.setHeader("Cache-Control", "no-store")
        request.setHeader("X-Content-Type-Options", "nosniff")
        request.setHeader("Content-Length", str(len(body)))
        return b"" if request.method == b"HEAD" else body


class _BodilessRequest(Request):
    """No page wants a body, so none is kept: by default it would go to a file, however long."""

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        pass


class _QuietSite(Site):
    noisy = False

    def startFactory(self) -> None:
        """No access log, nor the timer that keeps its date."""

    def stopFactory(self) -> None: ...

    def log(self, request: http.Request) -> None: ...


class _Connections(WrappingFactory):
    """Knows the open connections: to bound them, and to close them at the end."""

    noisy = False

    # Twisted's own annotation leaves out that a factory may say no.
    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper | None:  # type: ignore[override]
        return super().buildProtocol(addr) if len(self.protocols) < MAX_CONNECTIONS else None

    def abort(self) -> None:
        """Cut all connections."""
        for connection in list(self.protocols):
            connection.transport.abortConnection()


def site(health: Health, metrics: CollectorRegistry, reactor: Any) -> Site:
    """The pages as a `twisted.web.server.Site`."""

    def healthz(request: Request) -> tuple[int, str, bytes]:
        return _json(200, {"status": "alive"})

    def readyz(request: Request) -> tuple[int, str, bytes]:
        reasons, parts = health.told()
        return _json(503 if reasons else 200, {"ready": not reasons, "reasons": reasons, "parts": parts})

    def page(request: Request) -> tuple[int, str, bytes]:
        encode, kind = choose_encoder(request.getHeader("accept") or "")
        return 200, kind, encode(metrics)

    pages = _Pages({b"/healthz": healthz, b"/readyz": readyz, b"/metrics": page})
    return _QuietSite(pages, requestFactory=_BodilessRequest, timeout=IDLE_S, reactor=reactor)


class HttpListener:
    """A port, open. `address` is for people; `port` is the number that it got, 0 if it has none.

    :param endpoint: as it was described. :param abort: cuts the connections that it accepted.
    """

    def __init__(self, listening: IListeningPort, endpoint: str, abort: Callable[[], None]) -> None:
        self._listening = listening
        self._abort = abort
        host: Any = listening.getHost()
        self.port: int = getattr(host, "port", 0)
        name = os.fsdecode(getattr(host, "name", None) or "")
        self.address = f"unix:{name}"
        self.is_bare = False
        """Other machines reach it, without TLS."""
        if self.port:
            tls = ":ssl:" in f":{endpoint}"
            shown = f"[{host.host}]" if ":" in host.host else host.host
            self.address = f"{'https' if tls else 'http'}://{shown}:{self.port}"
            self.is_bare = not (tls or ip_address(host.host).is_loopback)

    def stop(self) -> Deferred[None]:
        """Close the port and the connections that it accepted."""
        stop: Any = self._listening.stopListening  # a Deferred or, as some ports do, None
        stopped: Deferred[None] = maybeDeferred(stop)
        self._abort()
        return stopped


def listen(endpoint: str, health: Health, metrics: CollectorRegistry, reactor: Any) -> Deferred[HttpListener]:
    """Listen on an endpoint description. :raises: (in the Deferred) whatever the endpoint does."""
    connections = _Connections(site(health, metrics, reactor))
    listening = maybeDeferred(lambda: serverFromString(reactor, endpoint).listen(connections))
    return listening.addCallback(HttpListener, endpoint, connections.abort)
