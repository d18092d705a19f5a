"""Which wire a WebSocket upgrade asks for, or the HTTP status that turns it down. Rules only: no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ("Asked", "Refusal", "choose")


class Asked(NamedTuple):
    """What a browser or client asked for. `origin` "" : no Origin header, so no browser. `host` without
    port.
    """

    path: str
    host: str
    origin: str = ""
    subprotocols: Sequence[str] = ()


class Refusal(Exception):
    """The upgrade is refused with this HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def choose(wires: Sequence[Any], asked: Asked, origins: Sequence[str] = ()) -> tuple[Any, str | None]:
    """The wire for this upgrade, and the subprotocol to answer with.

    The path narrows the wires of the listener, then the first subprotocol that one of them has decides; who
    offers none gets the first wire. No credentials are looked for in the URL or in cookies.

    :param wires: IProtocolAdapters, the default first.
    :param origins: pages that may connect, such as ``https://example.com``, or ``*``; empty: pages of the
        same host.
    :raises Refusal: 404 for the path, 400 for the subprotocols, 403 for the origin.
    """
    there = [wire for wire in wires if _path(wire.carriage.path) == _path(asked.path)]
    if not there:
        raise Refusal(404, "nothing at this path")
    wire, subprotocol = there[0], None
    if asked.subprotocols:
        found = (
            (wire, name)
            for name in asked.subprotocols
            for wire in there
            if name in wire.carriage.subprotocols
        )
        wire, subprotocol = next(found, (None, None))
        if wire is None:
            raise Refusal(400, "none of these subprotocols is spoken here")
    if not (wire.carriage.any_origin or _may(asked, origins)):
        raise Refusal(403, "this origin may not connect")
    return wire, subprotocol


def _path(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _may(asked: Asked, origins: Sequence[str]) -> bool:
    if not asked.origin:
        return True
    origin = asked.origin.lower().rstrip("/")
    if origins:
        return "*" in origins or any(origin == allowed.lower().rstrip("/") for allowed in origins)
    # A page from this host, whatever the ports: the gateway listens beside the web server.
    try:
        host = urlsplit(origin).hostname
    except ValueError:
        return False
    return host is not None and host == asked.host.lower().strip("[]")
