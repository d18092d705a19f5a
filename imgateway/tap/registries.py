"""The registry that the settings name, and the addresses under which a node stands in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from imgateway.brokers.redis.urls import parse_urls
from imgateway.config import REDIS_SCHEMES, RegistrySettings, Settings
from imgateway.errors import ConfigError
from imgateway.interfaces import IListener, IRegistry, Served
from imgateway.tap.banner import url_of
from imgateway.tap.doors import parse_listen

__all__ = ("check_registry", "make_registry", "served")

URL, ADVERTISE = "registry.url", "registry.advertise"
_SCHEME = re.compile(r"[a-z+]+://")
_ADVERTISED = re.compile(
    r"(?P<protocols>[^+=]+)\+(?P<transport>[^+=]+)=(?P<url>[a-z]+://[^/?#\s]*[^/?#\s:].*)"
)
EVERYWHERE = ("0.0.0.0", "[::]")


def make_registry(settings: RegistrySettings, reactor: Any) -> IRegistry:
    """Nothing is connected yet.

    :raises ConfigError: there is no such kind, or the URL or the password file is wrong.
    """
    kind = check_registry(settings)
    if kind == "redis":
        from imgateway.registries.redis import RedisRegistry

        return RedisRegistry(parse_urls(settings.url, URL), reactor, _password(settings.password_file))
    if kind == "zookeeper":
        from imgateway.registries.zookeeper import ZooKeeperRegistry, parse_zookeeper_url

        hosts, path = parse_zookeeper_url(settings.url, URL)
        chat = settings.chat_path.strip("/")
        return ZooKeeperRegistry(hosts, path, reactor, f"/{chat}" if chat else "")
    from imgateway.registries.memory import MemoryRegistry

    return MemoryRegistry()


def check_registry(settings: RegistrySettings) -> str:
    """The registry's kind. :raises ConfigError: naming the setting that is wrong, and what is allowed."""
    url = settings.url.strip()
    scheme = found[0] if (found := _SCHEME.match(url)) else url
    kind = {"": "memory", "zookeeper://": "zookeeper"}.get(scheme, "")
    if scheme in REDIS_SCHEMES:
        kind = "redis"
        targets = parse_urls(url, URL)
        if len({(target.hosts, target.sentinel) for target in targets}) < len(targets):
            raise ConfigError(f"{URL}: names the same server twice")
    elif kind == "zookeeper":
        from imgateway.registries.zookeeper import parse_zookeeper_url

        parse_zookeeper_url(url, URL)
    elif not kind:
        raise ConfigError(
            f"{URL}: {scheme!r} is no registry; allowed: redis://HOST:PORT/DB, "
            "redis+sentinel://HOST:PORT,HOST:PORT/NAME, zookeeper://HOST:PORT,HOST:PORT/PATH, or empty"
        )
    if settings.chat_path and kind != "zookeeper":
        raise ConfigError("registry.chat_path: is for a zookeeper:// registry only; leave it empty")
    for text in settings.advertise:
        advertised(text)
    return kind


def advertised(text: str) -> tuple[Served, ...]:
    """:raises ConfigError: it is not ``PROTOCOL[,PROTOCOL]+TRANSPORT=URL``."""
    found = _ADVERTISED.fullmatch(text.strip())
    protocols = found["protocols"].split(",") if found is not None else [""]
    if found is None or not all(protocols):
        raise ConfigError(
            f"{ADVERTISE}: {text!r} is not PROTOCOL[,PROTOCOL]+TRANSPORT=URL; "
            "an example: native+tcp=tls://gw1.example.org:7901"
        )
    return tuple(Served(protocol, found["transport"], found["url"]) for protocol in protocols)


def served(settings: Settings, listeners: Sequence[IListener], host: str) -> tuple[Served, ...]:
    """Where clients reach a node: as `registry.advertise` says, else where it listens just now.

    :param host: its name, for those that listen on all addresses.
    """
    if not listeners:
        return ()
    if settings.registry.advertise:
        return tuple(one for text in settings.registry.advertise for one in advertised(text))
    found = []
    for text, listener in zip(settings.listen.clients, listeners, strict=True):
        listen = parse_listen(text)
        url = url_of(listen, listener)
        for everywhere in EVERYWHERE:
            url = url.replace(f"//{everywhere}:", f"//{host}:")
        # What is behind a proxy or a unix socket has a URL that only the operator knows.
        found += [Served(protocol, listen.transport, url) for protocol in listen.protocols if url]
    return tuple(found)


def _password(path: str) -> str:
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(f"registry.password_file: {path} cannot be read: {why}") from None
