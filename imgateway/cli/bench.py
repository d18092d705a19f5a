"""``imgateway bench``: what stands in ``bench/`` of the source tree, which no wheel has."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import click

from imgateway.cli.options import same_everywhere

__all__ = ("bench",)

HOME = "bench.__main__"


class Scenes(click.Group):
    """Its commands are imported when one of them is wanted, or all their names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _found().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _found().get_command(ctx, cmd_name)


def _found() -> click.Group:
    """:raises ClickException: this is an installed wheel."""
    try:
        return cast(click.Group, import_module(HOME).main)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "bench":
            raise
        raise click.ClickException(
            "the benchmarks are in the source tree, not in the installed package: run this in a clone of it, "
            "after make run or pip install -e ."
        ) from None


@click.group(cls=Scenes)
@same_everywhere
def bench() -> None:
    """Measure this machine: rates, latencies and memory, beside baselines of the same run.

    Each scene starts what it measures and what it is measured against, on loopback alone. The server is
    pinned to one core, the load (C, compiled with gcc) to another.

    \b
      imgateway bench p2p --window 4 --report p2p.html
      imgateway bench room --transport websocket --json room.json
      imgateway bench table --quick
    """
