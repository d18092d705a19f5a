"""What a node says to the person who started it: where it listens, who can reach that, what to try next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from imgateway import __version__
from imgateway.config import Settings
from imgateway.interfaces import IListener
from imgateway.tap.doors import Listen, parse_listen

__all__ = ("banner", "exposed", "url_of")

SCHEMES = {
    ("tcp", "tcp"): "tcp",
    ("tcp", "ssl"): "tls",
    ("websocket", "tcp"): "ws",
    ("websocket", "ssl"): "wss",
    ("udp", "udp"): "udp",
}
IN_THE_CLEAR = ("tcp", "ws")


def url_of(listen: Listen, listener: IListener) -> str:
    """Where it listens, as clients write it; "" where that cannot be said (behind a proxy, say)."""
    kind, _, host = listener.address.rpartition(":")[0].partition(":")
    scheme = SCHEMES.get((listen.transport, kind.removesuffix("6")))
    return f"{scheme}://{host}:{listener.port}" if scheme and listener.port else ""


def exposed(settings: Settings, listeners: Sequence[IListener]) -> Iterator[str]:
    """The URLs that other machines can reach and that have no TLS."""
    for text, listener in zip(settings.listen.clients, listeners, strict=True):
        url = url_of(parse_listen(text), listener)
        scheme, _, place = url.partition("://")
        if scheme in IN_THE_CLEAR and not ip_address(place.rpartition(":")[0].strip("[]")).is_loopback:
            yield url


def banner(
    settings: Settings,
    listeners: Sequence[IListener],
    http: str,
    warnings: Sequence[str] = (),
    api: str = "",
) -> str:
    """Where the node listens, and the two commands to try next, on each listener that understands them."""
    lines = [f"imgateway {__version__} listens on"]
    urls = []
    for text, listener in zip(settings.listen.clients, listeners, strict=True):
        listen = parse_listen(text)
        url = url_of(listen, listener)
        if url and "native" in listen.protocols:
            urls.append(_from_here(url))
        elif url and "json" in listen.protocols:
            urls.append(f"{_from_here(url)} --protocol json")
        what = f"{','.join(listen.protocols)}+{listen.transport}"
        lines.append(f"  {what:25} {_with_reach(url or listener.address)}")
    if http:
        lines.append(f"  {'health and metrics':25} {_with_reach(http)}")
    if api:
        what = "HTTP API" if http else "HTTP API, health, metrics"
        lines.append(f"  {what:25} {_with_reach(api)}")
    lines += [f"Warning: {warning}" for warning in warnings]
    if urls:
        command = os.path.join(os.path.dirname(sys.argv[0]), "imgateway")
        if not os.path.exists(command):
            command = "imgateway"
        data = "" if settings.node.data_dir == "./data" else f" --data-dir {settings.node.data_dir}"
        lines.append("Try, in two other terminals:")
        lines.append(f"  {command} listen {urls[0]} --user bob{data}")
        lines.append(f'  {command} send {urls[0]} --user alice{data} user:bob "hello"')
        if len(urls) > 1:
            lines.append(f"or with {', '.join(urls[1:])}")
    return "\n".join(lines) + "\n"


def _from_here(url: str) -> str:
    """What a client on this machine connects to."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _with_reach(address: str) -> str:
    everywhere = "0.0.0.0:" in address or "[::]:" in address
    return f"{address} (all addresses)" if everywhere else address
