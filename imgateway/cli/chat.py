"""``imgateway chat``"""

from __future__ import annotations

from typing import Any

import click

from imgateway.cli.login import Login, login_options, with_client
from imgateway.cli.world import World, pass_world

__all__ = ("chat",)


@click.command()
@login_options
@pass_world
def chat(world: World, login: Login) -> None:
    """Chat in the terminal, line by line.

    \b
      bob hello     send hello to bob
      /to bob       from now on every line goes to bob
      /quit         leave (or Ctrl-D)

    What comes is shown with time and sender. Works in a pipe, too: the end of the input ends it, when
    everything sent has its outcome; the exit status is 0 if all of it was taken.
    """

    async def talk(client: Any, reactor: Any) -> int:
        from imgateway.cli.conversation import Conversation

        return await Conversation(client, reactor, world.now).run(world.lines(reactor))

    with_client(world, login, talk)
