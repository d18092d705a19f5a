"""Who logs in, and where: what ``send``, ``listen`` and ``chat`` have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from msgspec import Struct

from imgateway.cli.options import addresses, config_option, data_dir_option
from imgateway.cli.world import World

__all__ = ("Login", "LoginCommand", "login_options", "router_options", "with_client")

# Renewed by itself on a long connection.
TTL_S = 3_600.0
PORTS = {"tcp": 0, "tls": 0, "udp": 0, "unix": 0, "ws": 80, "wss": 443}
"""The schemes of our own transports, and the port where a URL may leave it out; 0: it may not."""


OR_ROUTER = "A node prints its own at its start; or ask a router where to connect: --router URL"


class Login(Struct, frozen=True):
    """The SDK's arguments. `tls` is a connection creator, or None for the system's trust."""

    url: str
    token: str | Callable[[], str]
    device: str
    platform: str
    protocol: str
    tls: Any
    wait: bool
    router: str = ""
    transport: str = ""

    @property
    def place(self) -> str:
        """What was typed, for messages."""
        return self.url or self.router


class LoginCommand(click.Command):
    """A command whose first argument is URL, unless a router says where to go."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = args[: args.index("--")] if "--" in args else args
        if any(word == "--router" or word.startswith("--router=") for word in words):
            args = ["", *args]
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            if error.param is None or error.param.name != "url":
                raise
            raise click.MissingParameter(OR_ROUTER, ctx, error.param) from None

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """With what may stand in the place of URL."""
        return ["{URL|--router URL}" if one == "URL" else one for one in super().collect_usage_pieces(ctx)]


def login_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument URL and the options of a login, as one `Login` named ``login``."""

    @click.argument("url")
    @click.option("--user", metavar="U", help="Log in as U, with a token made from the node's secret.")
    @click.option(
        "--token",
        metavar="T",
        help="Log in with this token; @FILE reads it, and IMGATEWAY_TOKEN may hold it.",
    )
    @data_dir_option
    @config_option
    @click.option("--device", metavar="D", help="This device's name.  [default: cli-COMMAND]")
    @click.option("--platform", metavar="P", default="cli", show_default=True, help="This device's kind.")
    @click.option(
        "--protocol",
        metavar="NAME",
        default="native",
        show_default=True,
        help="native; json on ws:// and wss://.",
    )
    @click.option("--ca", metavar="FILE", help="Trust the certificates of this PEM file, and no others.")
    @click.option(
        "--insecure",
        is_flag=True,
        help="Check no certificate; with udp:// seal nothing: for a test, never for a secret.",
    )
    @click.option("--wait", is_flag=True, help="Keep trying until the gateway is there.")
    @wraps(command)
    def wrapped(
        *args: Any,
        url: str,
        router: str = "",
        transport: str = "",
        user: str | None,
        token: str | None,
        data_dir: str | None,
        config: str | None,
        device: str | None,
        platform: str,
        protocol: str,
        ca: str | None,
        insecure: bool,
        wait: bool,
        **rest: Any,
    ) -> Any:
        name = click.get_current_context().command.name
        if transport and not router:
            raise click.UsageError("--transport is for --router; a URL names it: tcp://, ws://, udp://")
        if router:
            if protocol == "json":
                transport = transport or "websocket"
            _check_router(router, protocol, transport)
            tls = _tls_by_host(ca, insecure)
        else:
            _check_wire(url, protocol)
            tls = _tls(url, ca, insecure)
        scheme = transport if router else urlsplit(url).scheme
        about: dict[str, Any] = dict(_named(rest.get("to", ""), *rest.get("rooms", ())))
        sealed = scheme == "udp" and (bool(router) or not insecure)
        if scheme == "udp" and not router:
            about["udp_at"] = urlsplit(url).netloc
        source, pinned = _credentials(user, token, config, data_dir, sealed, about)
        if scheme == "udp" and not sealed:
            source = _without_key(source)
        login = Login(
            url, source, device or pinned or f"cli-{name}", platform, protocol, tls, wait, router, transport
        )
        return command(*args, login=login, **rest)

    return wrapped


def router_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What goes before `login_options` on a command, of the class `LoginCommand`, that a router may guide."""
    by_router = click.option(
        "--router",
        metavar="URL",
        default="",
        help="Ask this router where to connect, https://HOST[:PORT], and leave out the argument URL.",
    )
    by_transport = click.option(
        "--transport",
        metavar="NAME",
        default="",
        help="With --router: tcp, websocket or udp.  [default: what the nodes have; udp only if named]",
    )
    return by_router(by_transport(command))


def with_client(
    world: World,
    login: Login,
    talk: Callable[[Any, Any], Coroutine[Any, Any, int]],
    timeout_s: float = 0.0,
    **options: Any,
) -> None:
    """Log in, ``talk(client, reactor)`` → exit status, log out, exit. A refusal is one line on stderr.

    :param timeout_s: how long the login may take; 0.0: as long as the client tries.
    """
    from twisted.python.failure import Failure

    from imgateway.cli.remarks import explained, remark_on
    from imgateway.errors import GatewayError, LinkLost

    if sys.stdout is None:  # before anything is sent, or acknowledged as shown
        raise click.ClickException("standard output is closed; if nobody shall read it: >/dev/null")
    if login.router:
        options = {**options, "router": login.router, "transport": login.transport or None}

    async def main(reactor: Any) -> int:
        client = world.client(
            login.url,
            token=login.token,
            device=login.device,
            platform=login.platform,
            protocol=login.protocol,
            tls=login.tls,
            wait=login.wait,
            reactor=reactor,
            **options,
        )
        remark_on(client, login.place, login.wait)
        try:
            starting = client.start()
            if timeout_s:
                late = LinkLost(f"no login within {timeout_s:g} s")
                starting.addTimeout(timeout_s, reactor, lambda *_: Failure(late))
            await starting
            return await talk(client, reactor)
        finally:
            # What has no outcome by now is not waited for any longer: talk did that.
            await client.close(0)

    try:
        status = world.run(main)
    except GatewayError as error:
        from imgateway.cli.lines import plain

        raise click.ClickException(plain(explained(error, login.place, world.refuses))) from None
    click.get_current_context().exit(status)


def _check_wire(url: str, protocol: str) -> None:
    from imgateway.client.adapters import protocol_named, transport_for
    from imgateway.errors import LinkLost
    from imgateway.transports.dialling import parse_target

    try:
        transport_for(url)
        protocol_named(protocol)
        if urlsplit(url).scheme in PORTS:  # not what another package's transport takes
            parse_target(url, PORTS)
    except (ValueError, LinkLost) as error:
        raise click.UsageError(str(error)) from None
    if protocol == "json" and urlsplit(url).scheme not in ("ws", "wss"):
        raise click.UsageError("--protocol json is for ws:// and wss://")


def _check_router(router: str, protocol: str, transport: str) -> None:
    from imgateway.client.adapters import protocol_named, transport_named

    parts = urlsplit(router)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(
            f"--router: {router!r} is no router's URL; write https://HOST or https://HOST:PORT"
        )
    try:
        protocol_named(protocol)
        if transport:
            transport_named(transport)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if protocol == "json" and transport != "websocket":
        raise click.UsageError("--protocol json is for --transport websocket")


# ----------------------------------------------------------------------------------------------- credentials


def _credentials(
    user: str | None,
    token: str | None,
    config: str | None,
    data_dir: str | None,
    udp: bool,
    about: dict[str, Any],
) -> tuple[str | Callable[[], str], str]:
    """What the SDK takes as token, and the device that it is pinned to. `udp`: make one with its UDP key;
    `about`: what else `minter` takes of it."""
    if user is not None and token is not None:
        raise click.UsageError("--user and --token exclude each other")
    if user is not None:
        from imgateway.cli.minting import minter

        make = minter(config, data_dir, "; or log in with --token", **about)
        make(user, "", TTL_S, False, udp)  # what is wrong is wrong at once
        return lambda: make(user, "", TTL_S, False, udp), ""
    text = token if token is not None else os.environ.get("IMGATEWAY_TOKEN", "").strip()
    if not text:
        raise click.UsageError("who are you? --user NAME, --token TOKEN, --token @FILE or IMGATEWAY_TOKEN")
    if text.startswith("@"):
        path = text[1:]
        return lambda: _from_file(path), _pinned_device(_from_file(path))
    return text, _pinned_device(text)


def _named(to: str, *subscribed: str) -> dict[str, tuple[str, ...]]:
    """What a token must name: the ids of rooms among the addresses that a command sends to, for its session
    is in none of them; and of topics among all addresses."""
    found: dict[str, dict[str, None]] = {"room": {}, "topic": {}}
    for text in (to, *subscribed):
        if "topic:" in text or ("room:" in text and text is to):
            from imgateway.frames import parse_address

            for place in map(parse_address, addresses(text)):
                if place.kind == "topic" or (place.kind == "room" and text is to):
                    found[place.kind][place.id] = None
    return {"rooms": tuple(found["room"]), "topics": tuple(found["topic"])}


def _without_key(source: str | Callable[[], str]) -> str | Callable[[], str]:
    """The same without UDP key."""
    from imgateway.core.credentials import bare_token

    return bare_token(source) if isinstance(source, str) else lambda: bare_token(source())


def _from_file(path: str) -> str:
    try:
        text = Path(path).read_text("ascii").strip()
    except OSError as error:
        raise click.ClickException(f"{path}: the token cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise click.ClickException(f"{path}: there is no token in it")
    return text


def _pinned_device(token: str) -> str:
    """The device that a token names, if it is one that we can read; the gateway checks it, not we."""
    from imgateway.core.credentials import claims_of

    claims = claims_of(token)
    device = claims.get("device", claims.get("dev", ""))
    return device if isinstance(device, str) else ""


# ------------------------------------------------------------------------------------------------------- TLS


def _tls(url: str, ca: str | None, insecure: bool) -> Any:
    """The SDK's `tls`."""
    if ca is None and not insecure:
        return None
    target = urlsplit(url)
    if target.scheme == "udp" and ca is None:
        return None  # nothing sealed, then
    if target.scheme not in ("tls", "wss"):
        raise click.UsageError("--ca is for tls:// and wss://, --insecure for these and udp://")
    if ca is not None and insecure:
        raise click.UsageError("--ca and --insecure exclude each other")
    from imgateway.cli.trust import trusting, unverified

    host = target.hostname or ""
    return unverified(host) if ca is None else trusting(host, ca)


def _tls_by_host(ca: str | None, insecure: bool) -> Callable[[str], Any] | None:
    """The same for a router and the nodes that it names."""
    if ca is not None and insecure:
        raise click.UsageError("--ca and --insecure exclude each other")
    if ca is None and not insecure:
        return None
    from imgateway.cli.trust import trusting, unverified

    if ca is None:
        return unverified
    path = ca
    trusting("localhost", path)  # what is wrong is wrong at once
    return lambda host: trusting(host, path)
