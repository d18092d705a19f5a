"""``imgateway conformance``"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imgateway.cli.options import DURATION, same_everywhere
from imgateway.cli.world import World, pass_world

if TYPE_CHECKING:
    from imgateway.testing.conformance.report import Line
    from imgateway.testing.conformance.scenes import Scene

__all__ = ("conformance",)

MARKS = {"right": "ok", "wrong": "WRONG", "not applicable": "-"}


@click.command()
@click.option("--protocol", metavar="NAME", default="native", show_default=True, help="The wire to speak.")
@click.option(
    "--transport",
    metavar="NAME",
    help="tcp, websocket or udp.  [default: tcp; websocket for json]",
)
@click.option(
    "--listen", metavar="WHERE", default="127.0.0.1:0", help="PORT or HOST:PORT.  [default: any port, here]"
)
@click.option("--run", "command", metavar="COMMAND", help="Start the program under test with this.")
@click.option("--only", metavar="SCENES", help="These scenes alone, with commas between them.")
@click.option(
    "--patience",
    type=DURATION,
    default="5s",
    metavar="T",
    show_default=True,
    help="The time a client has for each thing.",
)
@click.option(
    "--absence",
    type=DURATION,
    default="60s",
    metavar="T",
    show_default=True,
    help="How long it may stay away.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line for each check, for programs.")
@same_everywhere
@pass_world
def conformance(
    world: World,
    protocol: str,
    transport: str | None,
    listen: str,
    command: str | None,
    only: str | None,
    patience: float,
    absence: float,
    as_json: bool,
) -> None:
    """Try a client: be its gateway, and tell line by line what it does right and wrong.

    The program under test connects to the URL that is printed, and goes on by itself until the end. With
    --run it is started here, and finds what it needs in its environment: IMGATEWAY_URL, IMGATEWAY_TOKEN,
    IMGATEWAY_PROTOCOL, IMGATEWAY_USER and IMGATEWAY_ECHO_TO. Let it publish the body of every message that it
    shows to the last of these: only so can it be seen what it shows.

    \b
      imgateway conformance --run "./my-client"
      imgateway conformance --protocol json --listen 127.0.0.1:7902

    Exits with 0 if nothing was wrong, with 1 if something was.
    """
    from imgateway.cli.conforming import Trial, run_trial
    from imgateway.cli.lines import as_line, at_a_terminal, plain, write_line
    from imgateway.cli.options import refusals
    from imgateway.testing.conformance.report import Report, Verdict

    def tell(line: Line) -> None:
        if as_json:
            fields = {"scene": line.scene, "check": line.check, "verdict": line.verdict.value}
            write_line(as_line(fields | {"detail": line.detail}))
        else:
            detail = f": {line.detail}" if line.detail else ""
            click.echo(plain(f"{MARKS[line.verdict.value]:5}  {line.scene:9}  {line.check}{detail}"))

    def begin(scene: Scene) -> None:
        # Some scenes take long, and say nothing before their end.
        if at_a_terminal() and not as_json:
            click.echo(f"...    {scene.name:9}  {scene.about}", err=True)

    report = Report(tell)
    names = _scenes(only)
    chosen = transport or ("websocket" if protocol == "json" else "tcp")
    trial = Trial(protocol, chosen, listen, command or "", names, patience, absence)
    with refusals():
        status = world.run(lambda reactor: run_trial(reactor, trial, report, begin))
    counts = {verdict.value: report.count(verdict) for verdict in Verdict}
    if as_json:
        write_line(as_line(counts))
    else:
        click.echo(", ".join(f"{count} {name}" for name, count in counts.items()))
    click.get_current_context().exit(status or (1 if report.count(Verdict.WRONG) else 0))


def _scenes(only: str | None) -> tuple[str, ...]:
    from imgateway.testing.conformance.scenes import SCENES

    names = tuple(name.strip() for name in only.split(",")) if only else ()
    known = [scene.name for scene in SCENES]
    for name in names:
        if name not in known:
            raise click.UsageError(f"--only {name!r}: there is no such scene; there are {', '.join(known)}")
    return names
