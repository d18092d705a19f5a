"""``imgateway listen``"""

from __future__ import annotations

from typing import Any

import click

from imgateway.cli.lines import at_a_terminal, tell
from imgateway.cli.login import Login, LoginCommand, login_options, router_options, with_client
from imgateway.cli.options import POSITIVE, addresses
from imgateway.cli.world import World, pass_world

__all__ = ("listen",)


@click.command(cls=LoginCommand)
@router_options
@login_options
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
@click.option("--timeout", type=POSITIVE, metavar="S", help="End after S seconds without a message.")
@click.option(
    "--start",
    type=click.Choice(["unseen", "head", "oldest"]),
    default="unseen",
    show_default=True,
    help="Where a new device begins: at what no device of the user had yet, at the end, at the oldest.",
)
@click.option(
    "--state", metavar="FILE", help="Remember there what was shown: one that is killed repeats nothing."
)
@click.option(
    "--subscribe",
    "rooms",
    multiple=True,
    metavar="ADDRESS",
    help="Be in this room, such as room:7, while listening, or follow topic:news; repeatable.",
)
@click.option(
    "--mode",
    type=click.Choice(["push", "notify"]),
    default="push",
    show_default=True,
    help="With --subscribe. notify: of rooms the gateway only tells that there is something; it is fetched.",
)
@click.option("--json", "_", is_flag=True, expose_value=False, help="Without effect: JSON is printed anyway.")
@pass_world
def listen(
    world: World,
    login: Login,
    count: int | None,
    timeout: float | None,
    start: str,
    state: str | None,
    rooms: tuple[str, ...],
    mode: str,
) -> None:
    """Print what comes, one JSON line a message.

    The fields are address, epoch, seq, msg_id, sender, device, content_type, sent_ms and body.

    A message is acknowledged when its line was written, into a pipe also before it is read: for a few
    messages take --count rather than head. Without --count it goes on until it is interrupted or
    nothing came for --timeout, and exits with 0; with --count it exits with 0 only when all N came.
    """

    places = [address for room in rooms for address in addresses(room)]
    if mode == "notify" and not places:
        raise click.UsageError("--mode notify is for rooms: name them with --subscribe, such as room:7")

    async def talk(client: Any, reactor: Any) -> int:
        from imgateway.cli.reception import be_in, receive

        await be_in(client, places, mode)
        if at_a_terminal():
            # A person would else look at nothing at all until the first message.
            tell(f"connected as {client.user}, waiting")
        return await receive(client, reactor, count, timeout)

    from imgateway.cli.remarks import STARTS

    with_client(world, login, talk, start=STARTS[start], state=state)
