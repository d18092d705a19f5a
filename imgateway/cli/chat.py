"""``imgateway chat``"""

from __future__ import annotations

from typing import Any

import click

from imgateway.cli.login import Login, LoginCommand, login_options, router_options, with_client
from imgateway.cli.options import addresses
from imgateway.cli.world import World, pass_world

__all__ = ("chat",)


@click.command(cls=LoginCommand)
@router_options
@login_options
@click.option(
    "--room",
    "rooms",
    multiple=True,
    metavar="ID",
    help="Join this room at once: 7 and room:7 are the same; repeatable.",
)
@pass_world
def chat(world: World, login: Login, rooms: tuple[str, ...]) -> None:
    """Chat in the terminal, line by line.

    \b
      bob hello     send hello to bob
      /to bob       from now on every line goes to bob
      /join 7       be in room:7; from now on every line goes there
      /leave 7      be there no more
      /quit         leave (or Ctrl-D)

    What comes is shown with time and sender. Works in a pipe, too: the end of the input ends it, when
    everything sent has its outcome; the exit status is 0 if all of it was taken.
    """

    places = [place for room in rooms for place in addresses(room if ":" in room else f"room:{room}")]

    async def talk(client: Any, reactor: Any) -> int:
        from imgateway.cli.conversation import Conversation

        return await Conversation(client, reactor, world.now).run(world.lines(reactor), places)

    with_client(world, login, talk)
