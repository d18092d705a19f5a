"""``imgateway token``"""

from __future__ import annotations

import click

from imgateway.cli.options import DURATION, config_option, data_dir_option

__all__ = ("token",)


@click.command()
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
    help="May send to room:ID without being in it; repeatable.",
)
@click.option(
    "--udp", is_flag=True, help="With the key that udp:// needs: TOKEN~KEY, taken wherever a token is."
)
@data_dir_option
@config_option
def token(
    user: str,
    device: str,
    ttl: float,
    service: bool,
    rooms: tuple[str, ...],
    udp: bool,
    data_dir: str | None,
    config: str | None,
) -> None:
    """Print a token for USER, and nothing else.

    It is signed with the node's own secret, which is in its data directory.
    """
    from imgateway.cli.minting import minter

    click.echo(minter(config, data_dir, rooms=rooms)(user, device, ttl, service, udp))
