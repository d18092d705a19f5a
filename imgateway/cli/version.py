"""``imgateway version``"""

from __future__ import annotations

import platform

import click

from imgateway import __version__
from imgateway.cli.options import same_everywhere

__all__ = ("version",)


@click.command()
@same_everywhere
def version() -> None:
    """Print the versions of imgateway, Twisted and Python."""
    import twisted

    click.echo(f"imgateway {__version__}")
    click.echo(f"Twisted {twisted.__version__}")
    click.echo(f"Python {platform.python_version()}")
