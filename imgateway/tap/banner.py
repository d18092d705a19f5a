"""What a node says to the person who started it: where it listens, who can reach that, what to try next."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from shlex import quote

from cryptography import x509

from imgateway import __version__
from imgateway.config import Settings, load
from imgateway.errors import ConfigError
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
    config: str | None = None,
) -> str:
    """Where the node listens, and the two commands to try next, on each listener that understands them; none
    where the command could not log in.

    :param config: the node's configuration file.
    """
    lines = [f"imgateway {__version__} listens on"]
    urls = []
    for text, listener in zip(settings.listen.clients, listeners, strict=True):
        listen = parse_listen(text)
        url = url_of(listen, listener)
        if url and (words := _from_here(url, listen.endpoint)):
            if "native" in listen.protocols:
                urls.append(words)
            elif "json" in listen.protocols:
                urls.append(f"{words} --protocol json")
        what = f"{','.join(listen.protocols)}+{listen.transport}"
        lines.append(f"  {what:25} {_with_reach(url or listener.address)}")
    if http:
        lines.append(f"  {'health and metrics':25} {_with_reach(http)}")
    if api:
        what = "HTTP API" if http else "HTTP API, health, metrics"
        lines.append(f"  {what:25} {_with_reach(api)}")
    if len(lines) == 1:
        lines = [f"imgateway {__version__} listens nowhere"]
    lines += [f"Warning: {warning}" for warning in warnings]
    own = _own_words(settings, config)
    if urls and own is not None:
        command = os.path.join(os.path.dirname(sys.argv[0]), "imgateway")
        if not os.path.exists(command):
            command = "imgateway"
        lines.append("Try, in two other terminals:")
        lines.append(f"  {command} listen {urls[0]} --user bob{own}")
        lines.append(f'  {command} send {urls[0]} --user alice{own} user:bob "hello"')
        if len(urls) > 1:
            lines.append(f"or with {', '.join(urls[1:])}")
    return "\n".join(lines) + "\n"


def _own_words(settings: Settings, config: str | None) -> str | None:
    """With what the command makes tokens that the node takes; None: it cannot, for of the node's options it
    knows these two alone."""
    if settings.auth.authenticator != "token" or settings.auth.node:
        return None
    try:
        known = load(config)
    except ConfigError:  # it has been changed since
        return None
    of_command, of_node = (
        (one.auth.secret_file, one.auth.audience, one.udp.secret_file) for one in (known, settings)
    )
    keys = [one.auth.public_key_file or one.auth.jwks_file for one in (known, settings)]
    if of_command != of_node or any(keys):
        return None
    directory = settings.node.data_dir
    words = [f" --config {quote(config)}"] if config is not None else []
    words += [f" --data-dir {quote(directory)}"] if directory != known.node.data_dir else []
    return "".join(words)


def _from_here(url: str, endpoint: str) -> str:
    """What a client on this machine connects to, with whom to trust; "" where that cannot be said."""
    url = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    if not url.startswith(("tls:", "wss:")):
        return url
    file = _certificate_file(endpoint)
    scheme, place = url.split("://")
    host, _, port = place.rpartition(":")
    names = _own_names(file)
    if host.strip("[]") not in names:
        if "localhost" not in names or host not in ("127.0.0.1", "[::1]"):
            return ""
        host = "localhost"
    return f"{scheme}://{host}:{port} --ca {quote(file)}"


def _certificate_file(endpoint: str) -> str:
    """What the description of a TLS endpoint names."""
    words = re.split(r"(?<!\\):", endpoint)
    order = iter(("privateKey", "certKey"))
    named = {}
    for word in words[words.index("ssl") + 2 :]:
        name, equals, value = word.partition("=")
        if not equals:
            name, value = next(order, ""), word
        named[name] = re.sub(r"\\(.)", r"\1", value)
    return named.get("certKey") or named.get("privateKey") or "server.pem"


def _own_names(file: str) -> set[str]:
    """What a certificate is for that nobody else has signed; of the others we do not know whom to trust."""
    try:
        with open(file, "rb") as pem:
            certificate = x509.load_pem_x509_certificate(pem.read())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return set()
    if certificate.issuer != certificate.subject:
        return set()
    addresses = names.get_values_for_type(x509.IPAddress)
    return {*names.get_values_for_type(x509.DNSName), *map(str, addresses)}


def _with_reach(address: str) -> str:
    everywhere = "0.0.0.0:" in address or "[::]:" in address
    return f"{address} (all addresses)" if everywhere else address
