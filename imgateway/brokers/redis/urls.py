"""``redis://…`` and its sisters, as values."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from imgateway.errors import ConfigError

__all__ = ("RedisUrl", "parse_urls", "without_password")

PORTS = {"redis": 6379, "rediss": 6379, "redis+sentinel": 26379}
FORM = "redis://[user:password@]host[:port][/db], rediss:// (TLS) or redis+sentinel://host[:port],…/name[/db]"


class RedisUrl(Struct, frozen=True):
    """One primary. `hosts`: itself, or the Sentinels that know it as `sentinel`."""

    hosts: tuple[tuple[str, int], ...]
    db: int = 0
    user: str = ""
    password: str = ""
    tls: bool = False
    sentinel: str = ""

    @property
    def name(self) -> str:
        """For people, without the password."""
        if self.sentinel:
            return self.sentinel
        host, port = self.hosts[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_urls(text: str, setting: str = "broker.url") -> tuple[RedisUrl, ...]:
    """Several, with commas between them. :raises ConfigError: this is none; names the setting."""
    # A comma also stands between the Sentinels of one.
    return tuple(_parse(one.strip(), setting) for one in re.split(r",(?=\s*[a-z+]+://)", text))


def _parse(text: str, setting: str) -> RedisUrl:
    parts = urlsplit(text)
    bad = ConfigError(f"{setting}: {without_password(text)!r} is not a Redis URL; write {FORM}")
    if parts.scheme not in PORTS or not parts.netloc:
        raise bad
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    path = parts.path.strip("/").split("/") if parts.path.strip("/") else []
    sentinel = ""
    if parts.scheme == "redis+sentinel":
        if not path:
            raise bad
        sentinel = unquote(path.pop(0))
    if len(path) > 1 or (path and not path[0].isdecimal()) or parts.query or parts.fragment:
        raise bad
    try:
        places = tuple(_host(one, PORTS[parts.scheme]) for one in hosts.split(","))
    except ValueError:
        raise bad from None
    if len(places) > 1 and not sentinel:
        raise bad
    return RedisUrl(
        places,
        int(path[0]) if path else 0,
        unquote(user),
        unquote(password),
        parts.scheme == "rediss",
        sentinel,
    )


def _host(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit("//" + text)
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or default


def without_password(text: str) -> str:
    """A URL as it may be shown."""
    return re.sub(r"://[^@/]*@", "://…@", text)
