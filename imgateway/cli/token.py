"""``imgateway token``"""

from __future__ import annotations

import click

from imgateway.cli.access import Access, api_options
from imgateway.cli.options import DURATION, config_option, data_dir_option

__all__ = ("token",)

OPTIONS = {
    "sub": "it is the argument USER",
    "exp": "--ttl sets it",
    "device": "--device sets it",
    "dev": "--device sets it",
    "svc": "--service sets it",
    "rooms": "--room sets it",
    "topics": "--topic sets it",
}
"""What sets the claims that mean something to the gateway."""


@click.command()
@api_options(needed=False)
@click.argument("user")
@click.option("--device", default="", metavar="D", help="Good for this device alone.")
@click.option(
    "--ttl", type=DURATION, default="1h", show_default=True, help="How long it is good: 90s, 15m, 1h30m, 7d."
)
@click.option(
    "--service", is_flag=True, help="For a business server: publishes anywhere, reads any log, has no quotas."
)
@click.option(
    "--room",
    "rooms",
    multiple=True,
    metavar="ID",
    help="May send to room:ID without being in it, 7 or room:7; repeatable.",
)
@click.option(
    "--topic",
    "topics",
    multiple=True,
    metavar="ID",
    help="May send to topic:ID, read it and subscribe to it, news or topic:news; repeatable.",
)
@click.option(
    "--claim",
    "claims",
    multiple=True,
    metavar="NAME=VALUE",
    help="One claim more, a text, for a policy of your own, such as tenant=red; repeatable.",
)
@click.option(
    "--udp", is_flag=True, help="With the key that udp:// needs: TOKEN~KEY, taken wherever a token is."
)
@data_dir_option
@config_option
def token(
    access: Access | None,
    user: str,
    device: str,
    ttl: float,
    service: bool,
    rooms: tuple[str, ...],
    topics: tuple[str, ...],
    claims: tuple[str, ...],
    udp: bool,
    data_dir: str | None,
    config: str | None,
) -> None:
    """Print a token for USER, and nothing else.

    It is signed with the node's own secret, which is in its data directory; or --router makes it.
    """
    from imgateway.cli.minting import minter

    room_ids = [_id("room", room, "7") for room in rooms]
    topic_ids = [_id("topic", topic, "news") for topic in topics]
    own = _own(claims)
    if access is None:
        make = minter(config, data_dir, "", room_ids, topic_ids, own=own)
        click.echo(make(user, device, ttl, service, udp))
        return
    if own:
        raise click.UsageError("--claim is for this machine's secret: a router makes no tokens with it")
    if config is not None or data_dir is not None:
        raise click.UsageError("--config and --data-dir are for this machine's secret, not for --router")
    from imgateway.router.schema import Token

    asked = {"user": user, "device": device, "ttl_s": max(1, round(ttl)), "service": service}
    body = {**asked, "rooms": room_ids, "topics": topic_ids}
    told = access.open().ask("POST", "/v1/tokens", Token, body=body)
    if udp and not told["token_udp"]:
        raise click.ClickException("this router has no UDP secret: name it in its udp.secret_file")
    click.echo(told["token_udp" if udp else "token"])


def _own(texts: tuple[str, ...]) -> dict[str, str]:
    """``tenant=red`` → {"tenant": "red"}"""
    from imgateway.auth.token import RESERVED

    own: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.UsageError(f"--claim {text!r}: write NAME=VALUE, such as tenant=red")
        if name in RESERVED:
            by = OPTIONS.get(name, "this command sets it itself, or leaves it out")
            raise click.UsageError(f"--claim {text!r}: {name} means something to the gateway: {by}")
        if name in own:
            raise click.UsageError(f"--claim {text!r}: {name} is there already")
        own[name] = value
    return own


def _id(kind: str, text: str, example: str) -> str:
    """``7`` and ``room:7`` are the room 7."""
    from imgateway.errors import InvalidAddress
    from imgateway.frames import parse_address

    try:
        place = parse_address(text if ":" in text else f"{kind}:{text}")
    except InvalidAddress as error:
        raise click.UsageError(f"--{kind} {text!r}: {error}") from None
    if place.kind != kind:
        raise click.UsageError(f"--{kind} {text!r}: is not a {kind}; write {example} or {kind}:{example}")
    return place.id
