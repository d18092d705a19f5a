"""``imgateway link``"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from imgateway.cli.options import DURATION, same_everywhere
from imgateway.cli.world import World, pass_world
from imgateway.testing.conditions import DATAGRAM_SETTINGS, SETTINGS, STREAM_SETTINGS, BothWays, changed
from imgateway.testing.timeline import Timeline, parse_script

__all__ = ("link",)

HELP = {
    "loss": "20%: so many datagrams are lost.",
    "duplicate": "5%: so many datagrams arrive twice.",
    "reorder": "10%: so many datagrams are overtaken by later ones.",
    "delay": "80ms, or 80ms~40ms: 40 ms more or less.",
    "rate": "64kbit, 2Mbit: what passes in a second; the rest queues.",
    "queue": "What would queue for longer is lost; a stream is held up.  [default: 1s]",
    "chunk": "1: a stream arrives in pieces of so many bytes.",
    "cut-after": "10kB or 5s: a connection breaks after so many bytes one way, or so much time.",
    "silent-after": "10kB or 5s: then nothing arrives any more, and nobody is told.",
}


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(SETTINGS):
        command = click.option(f"--{name}", metavar="X[/Y]", help=HELP[name])(command)
    return command


@click.command()
@click.option("--listen", metavar="WHERE", required=True, help="Where clients connect: udp:7000, tcp:7001.")
@click.option("--to", metavar="WHERE", required=True, help="The gateway: udp:127.0.0.1:7901.")
@_settings
@click.option("--script", metavar="FILE", help="What happens when: lines such as: at 5s loss 40%")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="The same dice again.  [default: any]")
@click.option("--duration", type=DURATION, metavar="T", help="End by itself after 90s, 15m, 1h30m.")
@click.option(
    "--idle", type=DURATION, metavar="T", default="60s", show_default=True, help="Forget a silent UDP client."
)
@same_everywhere
@pass_world
def link(
    world: World,
    /,
    listen: str,
    to: str,
    script: str | None,
    seed: int | None,
    duration: float | None,
    idle: float,
    **settings: str | None,
) -> None:
    """Carry datagrams or connections over a line that is as bad as you say, to try a client on it.

    X is for both ways, X/Y for up (client to gateway) and down. WebSocket is tcp.

    \b
      imgateway link --listen udp:7000 --to udp:127.0.0.1:7901 --loss 20%/5% --delay 80ms~40ms
      imgateway link --listen tcp:7001 --to tcp:127.0.0.1:7902 --rate 64kbit --cut-after 30s

    It listens on this machine only, unless --listen names an address (udp:0.0.0.0:7000). Ctrl-C, SIGTERM or
    --duration end it; then it prints one JSON line: what went in and out each way, and what became of the
    rest.
    """
    from imgateway.cli.carrying import LinkPlan, run_link

    near, far = _spot(listen, "--listen"), _spot(to, "--to")
    if near.kind != far.kind:
        raise click.UsageError(f"--listen is {near.kind} and --to is {far.kind}; they must be the same")
    if not far.host or not far.port:
        raise click.UsageError(f"--to {to!r}: write {far.kind}:HOST:PORT")
    ways = _ways(near.kind, {name.replace("_", "-"): text for name, text in settings.items() if text})
    timeline = Timeline(ways, () if script is None else _steps(script, near.kind))
    dice = secrets.randbelow(2**31) if seed is None else seed
    plan = LinkPlan(near, far, timeline, dice, duration or 0.0, idle)
    click.get_current_context().exit(world.run(lambda reactor: run_link(reactor, plan)))


def _spot(text: str, option: str) -> Any:
    from imgateway.cli.carrying import Spot

    found = re.fullmatch(r"(udp|tcp):(?:(\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+):)?(\d{1,5})", text, re.ASCII)
    if found is None or int(found[3]) > 65_535:
        raise click.UsageError(f"{option} {text!r}: write udp:PORT, tcp:PORT, udp:HOST:PORT or tcp:HOST:PORT")
    return Spot(found[1], (found[2] or "").strip("[]"), int(found[3]))


def _ways(kind: str, texts: dict[str, str]) -> BothWays:
    ways = BothWays()
    for name, text in texts.items():
        if kind == "tcp" and name not in STREAM_SETTINGS:
            raise click.UsageError(f"--{name} is for udp; a stream can be late, slow, silent or cut")
        if kind == "udp" and name not in DATAGRAM_SETTINGS:
            raise click.UsageError(f"--{name} is for tcp: there are no connections on udp")
        try:
            ways = changed(ways, name, text)
        except ValueError as error:
            raise click.UsageError(f"--{error}") from None
    return ways


def _steps(path: str, kind: str) -> Any:
    try:
        return parse_script(Path(path).read_text("utf-8"), kind == "tcp")
    except UnicodeDecodeError:
        raise click.ClickException(f"{path}: this is no text") from None
    except ValueError as error:
        raise click.ClickException(f"{path}: {error}") from None
