"""What the commands for operators take: where the HTTP API is, whose key is used, whom to trust."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from ipaddress import ip_address
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

import click
from msgspec import Struct

from imgateway.cli.api import Api
from imgateway.cli.lines import tell
from imgateway.cli.options import Decorator
from imgateway.cli.world import terminable

__all__ = ("Access", "api_options")


class Access(Struct, frozen=True):
    """Where the API is, whose key is used and whom to trust, as it was typed."""

    router: str
    key: str
    key_file: str
    ca: str
    insecure: bool

    def open(self) -> Api:
        """:raises click.ClickException: the key cannot be read, or nothing of this can work."""
        if self.ca and self.insecure:
            raise click.UsageError("--ca and --insecure exclude each other")
        api = Api(self.router, self._key(), self.ca, self.insecure)
        if _is_in_the_clear(self.router):
            tell(f"Warning: {self.router}: the API key goes over the network in the clear; use https://")
        return api

    def _key(self) -> str:
        if self.key and self.key_file:
            raise click.UsageError("--key and --key-file exclude each other")
        key, said = self.key or os.environ.get("IMGATEWAY_API_KEY", ""), "the API key"
        if self.key_file:
            said = f"the API key in {self.key_file}"
            try:
                with open(self.key_file, encoding="utf-8") as file:
                    key = file.read(10_000).strip()
                    mode = os.fstat(file.fileno()).st_mode
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "it is no text"
                raise click.ClickException(f"{self.key_file}: the API key cannot be read: {why}") from None
            if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
                tell(f"Warning: others may read {said}: chmod 600 {quote(self.key_file)}")
        if not key and self.key_file:
            raise click.UsageError(f"{said} is empty")
        if not key:
            raise click.UsageError(
                "no API key: --key-file FILE, or IMGATEWAY_API_KEY in the environment (see imgateway apikey)"
            )
        # The key itself is in no message: neither here, nor in what a library says of a bad header.
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise click.UsageError(f"{said} is none: it has blanks, or characters that no key has")
        return key


def _is_in_the_clear(router: str) -> bool:
    """Whether others may hear what is said to this URL."""
    parts = urlsplit(router)
    host = parts.hostname or ""
    if parts.scheme != "http" or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True  # a name


def api_options(needed: bool = True) -> Decorator:
    """Options that become the argument `access`.

    :param needed: False: without --router, `access` is None.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_access(
            *args: Any, router: str | None, key: str, key_file: str, ca: str, insecure: bool, **others: Any
        ) -> Any:
            access = Access(router, key, key_file, ca, insecure) if router else None
            if access is None and needed:
                raise click.UsageError("no router: --router URL, or IMGATEWAY_ROUTER in the environment")
            if access is None and (key or key_file or ca or insecure):
                raise click.UsageError("--key, --key-file, --ca and --insecure are for --router")
            with terminable():
                return command(*args, access=access, **others)

        options = (
            click.option(
                "--router",
                metavar="URL",
                envvar="IMGATEWAY_ROUTER" if needed else None,
                help="The private port of a router, or a node's API: https://HOST or http://HOST:PORT."
                + ("  [env: IMGATEWAY_ROUTER]" if needed else ""),
            ),
            click.option(
                "--key-file",
                metavar="FILE",
                default="",
                help="A file with the API key alone.  [default: the key in IMGATEWAY_API_KEY]",
            ),
            click.option(
                "--key", metavar="KEY", default="", help="The API key; others may see a command line."
            ),
            click.option("--ca", metavar="FILE", default="", help="Trust the certificates in this PEM file."),
            click.option("--insecure", is_flag=True, help="Check no certificate: for a test."),
        )
        decorated: Callable[..., Any] = with_access
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
