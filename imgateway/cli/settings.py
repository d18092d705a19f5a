"""``imgateway genconfig`` and ``imgateway checkconfig``"""

from __future__ import annotations

import json

import click

from imgateway.cli.options import refusals

__all__ = ("checkconfig", "genconfig")


@click.command()
@click.option("--data-dir", metavar="DIR", help="Write this as node.data_dir.")
def genconfig(data_dir: str | None) -> None:
    """Print a configuration file: every setting and what it means."""
    from imgateway.config import Settings, generate

    text = generate()
    if data_dir is not None:
        line = "data_dir = {}\n".format
        default, wanted = Settings().node.data_dir, json.dumps(data_dir, ensure_ascii=False)
        text = text.replace(line(json.dumps(default)), line(wanted), 1)
    click.echo(text, nl=False)


@click.command()
@click.argument("file")
@click.option(
    "--set",
    "sets",
    metavar="SECTION.KEY=VALUE",
    multiple=True,
    help="As twistd imgateway takes it; repeatable.",
)
@click.option("--data-dir", metavar="DIR", help="As twistd imgateway takes it: in place of node.data_dir.")
def checkconfig(file: str, sets: tuple[str, ...], data_dir: str | None) -> None:
    """Check a configuration file.

    Prints ok, or which setting is wrong and what is allowed; warnings go to stderr.
    """
    from imgateway.config import load
    from imgateway.tap.check import check

    if data_dir is not None:
        sets = (*sets, f"node.data_dir={json.dumps(data_dir)}")
    with refusals():
        warnings = check(load(file, sets))
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("ok")
