"""``imgateway online`` and ``imgateway kick``"""

from __future__ import annotations

from typing import Any

import click

from imgateway.cli.access import Access, api_options
from imgateway.cli.api import in_doubt, segment
from imgateway.cli.fleet import json_option
from imgateway.cli.lines import as_line, plain, write_line
from imgateway.cli.options import same_everywhere
from imgateway.cli.tables import show, when

__all__ = ("kick", "online")

AT_ONCE = 100
"""Users of one question: 100 ids of 64 bytes, percent-encoded, are a third of what its URLs may have."""


@click.command()
@api_options()
@click.argument("users", metavar="USER…", nargs=-1, required=True)
@click.option("--sessions", is_flag=True, help="Every device: on which node, since when.")
@json_option
@same_everywhere
def online(access: Access, users: tuple[str, ...], sessions: bool, as_json: bool) -> None:
    """Say which of these users are online, and on which devices.

    With --sessions also devices that are away, as long as their positions are kept.
    """
    from imgateway.router.schema import Online, Sessions

    names = [_who(user, device=False)[0] for user in users]
    api = access.open()
    found: list[Any] = []
    if sessions:
        for name in names:
            found += api.ask("GET", f"/v1/users/{segment(name)}/sessions", Sessions)["sessions"]
    else:
        for n in range(0, len(names), AT_ONCE):
            found += api.ask("GET", "/v1/online", Online, {"user": names[n : n + AT_ONCE]})["users"]
    if as_json:
        for one in found:
            write_line(as_line(one))
    elif sessions:
        columns = ("USER", "DEVICE", "PLATFORM", "ONLINE", "SINCE", "NODE")
        show(columns, [_session(one) for one in found])
    else:
        show(
            ("USER", "ONLINE", "DEVICES"),
            [(one["user"], _yes(one["online"]), " ".join(one["devices"])) for one in found],
        )


def _session(one: Any) -> tuple[str, ...]:
    return (
        one["user"],
        one["device"],
        one["platform"],
        _yes(one["online"]),
        when(one["since_ms"]),
        one["node"],
    )


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


@click.command()
@api_options()
@click.argument("who", metavar="USER[/DEVICE]…", nargs=-1, required=True)
@click.option("--reason", default="kicked", show_default=True, metavar="TEXT", help="Told to the clients.")
@json_option
@same_everywhere
def kick(access: Access, who: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Close the sessions of users, or of single devices.

    Their clients are told not to connect again. Their tokens stay good: a person may log in anew.
    """
    from imgateway.router.schema import Kicked

    names = [_who(one, device=True) for one in who]
    api = access.open()
    for text, (user, device) in zip(who, names, strict=True):
        path = f"/v1/users/{segment(user)}/sessions" + (f"/{segment(device)}" if device else "")
        shows = f"imgateway online --sessions {text.partition('/')[0]} shows it"
        with in_doubt(f"{text} may be kicked or not: {shows}"):
            told = api.ask("DELETE", path, Kicked, {"reason": reason})
        if as_json:
            write_line(as_line(told if not device else told | {"device": device}))
        else:
            click.echo(f"{plain(text)}: {told['kicked']:,} closed")


def _who(text: str, device: bool) -> tuple[str, str]:
    """User and device, "" if none is named, written as in addresses: ``/`` in an id is ``%2F``."""
    from imgateway.errors import InvalidAddress
    from imgateway.frames import parse_address

    try:
        address = parse_address(f"device:{text}" if device and "/" in text else f"user:{text}")
    except InvalidAddress as error:
        raise click.UsageError(f"{text!r}: {error}") from None
    return address.id, address.device
