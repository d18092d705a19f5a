"""``imgateway bench``, which is ``python -m bench``: the scenes as commands, and the table of them all.

The server under test is pinned to one core, its threads included; the generator (C, compiled here with gcc)
to another. The servers take turns, `--runs` times, and the medians are compared. Nothing leaves 127.0.0.0/8.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from bench import report, table
from bench.figures import Figure, Machine, Result, machine
from bench.others import OTHERS
from bench.progress import Progress
from bench.scenes import SCENES, Scene
from bench.servers import needs

POSITIVE = click.FloatRange(min=0, min_open=True)
COUNT = click.IntRange(min=1)
NUMBERS: dict[str, tuple[str, click.ParamType[Any], str]] = {
    "pairs": ("--pairs", COUNT, "So many, each of a sender and a receiver."),
    "members": ("--members", click.IntRange(min=0), "Of the room; 0: what fits the transport."),
    "sessions": ("--sessions", click.IntRange(min=0), "So many; 0: what fits the transport, or the part."),
    "size": ("--size", click.IntRange(1, 65_536), "Bytes of a body."),
    "qos": ("--qos", click.IntRange(0, 1), "1: acknowledged."),
    "seconds": ("--seconds", POSITIVE, "Of each measurement."),
    "minutes": ("--minutes", POSITIVE, "Of each part."),
    "runs": ("--runs", COUNT, "The servers take turns so often; medians count."),
    "rate": (
        "--rate",
        click.FloatRange(min=0),
        "Messages a second, in an open loop; 0: as the scene does it.",
    ),
}
SEVERAL: dict[str, tuple[str, click.ParamType[Any], str]] = {
    "brokers": ("--broker", click.STRING, "memory:, embedded:, redis://HOST. Several are measured in turn."),
    "windows": (
        "--window",
        click.IntRange(1, 64),
        "Messages of a pair under way. Several are measured in turn.",
    ),
    "parts": ("--part", click.STRING, "This part, and no other that is not named."),
}
ONE_WAY = {
    "--transport": "; there is one transport that it goes over",
    "--protocol": "; there is one protocol that its clients speak",
}
ONE_OF = {
    "protocol": "The wire of the clients.",
    "transport": "What they come over.",
    "against": "The baseline.",
}


class Written(click.Path):
    """A file to be written after minutes of measuring: that its directory is missing is said before them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = os.fsdecode(super().convert(value, param, ctx))
        if not Path(path).parent.is_dir():
            self.fail(f"{path}: there is no such directory", param, ctx)
        return path


WRITE = (
    click.Option(
        ["--json", "json_file"], type=Written(dir_okay=False, writable=True, allow_dash=True), metavar="FILE",
        help="The result with all runs; - is stdout.",
    ),
    click.Option(
        ["--report", "report_file"], type=Written(dir_okay=False, writable=True), metavar="FILE",
        help="A report with plots: FILE.html or FILE.png.",
    ),
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Measure imgateway on this machine, against baselines that the same run starts.

    \b
      imgateway bench p2p --window 4 --report p2p.html
      imgateway bench room --transport websocket --json room.json
      imgateway bench table --quick
    """


def command(scene: Scene) -> click.Command:
    """A scene, with the options that it takes."""
    options = [option(scene, name, default) for name, default in scene.takes.items()]

    def call(json_file: str | None, report_file: str | None, **values: Any) -> None:
        if report_file:
            report.check(report_file)
        began, here = time.time(), machine()
        options = scene.options(**{name: "" if value is None else value for name, value in values.items()})
        if why := scene.ignored(said(values), options):
            raise click.UsageError(f"{scene.name}: {why}")
        if why := scene.refused(options):
            raise click.UsageError(f"{scene.name}: {why}")
        for program in scene.programs(options):
            needs(program)
        progress = Progress()
        with ended_in_order():
            try:
                figures = scene.run(options, progress)
            finally:
                progress.clear()
        finish(figures, here, began, json_file, report_file)

    return SceneCommand(
        scene.name, params=[*options, *WRITE], callback=call, help=scene.about, short_help=scene.about
    )


class SceneCommand(click.Command):
    """One that says what it takes, where an option of another scene was tried."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            taken = ", ".join(max(param.opts, key=len) for param in self.params)
            raise click.UsageError(
                f"No such option: {error.option_name}. {self.name} takes {taken}"
                + ONE_WAY.get(error.option_name, ""),
                ctx,
            ) from None


def said(names: Iterable[str]) -> set[str]:
    """Those that stand on the command line, and are not defaults."""
    context = click.get_current_context()
    return {name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the servers too, and take away what they wrote; the status is 128 + N then."""
    told: list[int] = []

    def end(number: int, frame: Any) -> None:
        told.append(number)
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception:
        # A terminal's Ctrl-C ends the servers too, and who stops one wonders at that.
        if told:
            sys.exit(128 + told[0])
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def option(scene: Scene, name: str, default: Any) -> click.Option:
    """How a field of `Options` is said on the command line."""
    if name == "unpinned":
        return click.Option(["--unpinned"], is_flag=True, help="Let the server use every core.")
    if name in ONE_OF:
        return click.Option(
            [f"--{name}"], type=click.Choice(scene.choices[name]), default=default or None,
            show_default=True, help=ONE_OF[name],
        )  # fmt: skip
    if name in SEVERAL:
        flag, kind, about = SEVERAL[name]
        if name in scene.choices:
            kind = click.Choice(scene.choices[name])
        return click.Option(
            [flag, name], type=kind, multiple=True, default=default, show_default=True, help=about
        )
    flag, kind, about = NUMBERS[name]
    return click.Option([flag, name], type=kind, default=default, show_default=True, help=about)


def finish(
    figures: Sequence[Figure], here: Machine, began: float, json_file: str | None, report_file: str | None
) -> Result:
    """Show it, and write what was asked for."""
    words = sys.argv[1:]
    if words[:1] == ["bench"]:  # not `python -m bench`
        del words[0]
    result = Result(
        command=shlex.join(["imgateway", "bench", *words]),
        at=datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
        took_s=round(time.time() - began, 1),
        machine=here,
        figures=tuple(figures),
    )
    show(result, json_file, report_file)
    return result


def show(result: Result, json_file: str | None, report_file: str | None) -> None:
    """On stdout, and into the files that were asked for."""
    if json_file != "-":
        click.echo(table.markdown(result.figures))
        if signs := table.legend(result.figures):
            click.echo(f"\n{signs}")
    if json_file:
        with click.open_file(json_file, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    if report_file:
        report.write(report_file, result)


@click.command("table")
@click.option("--quick", is_flag=True, help="Tiny loads, one run: to try it. Writes no page.")
@click.option(
    "--from",
    "sources",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Measure nothing; take what --json wrote. Several are one table.",
)
@click.option(
    "--page",
    default=str(table.PAGE),
    type=Written(dir_okay=False, writable=True),
    metavar="FILE",
    help="The page that is written.  [default: docs/performance/table.md]",
)
def whole(
    quick: bool, sources: tuple[str, ...], page: str, json_file: str | None, report_file: str | None
) -> None:
    """All that is promised of the speed, in under 30 minutes; rewrites docs/performance/table.md.

    A scene that fails does not lose the others: its row says why, and the exit status is 1.
    """
    if report_file:
        report.check(report_file)
    if sources:
        result = joined(list(map(read, sources)))
        show(result, json_file, report_file)
    else:
        began, here = time.time(), machine()
        with ended_in_order():
            figures = table.measure(table.ROWS, Progress, quick)
        Progress().clear()
        result = finish(figures, here, began, json_file, report_file)
    if not quick:
        Path(page).write_text(table.page(result), encoding="utf-8")
        click.echo(f"written: {page}", err=True)
    failed = [figure for figure in result.figures if figure.failed]
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(result.figures)} were not measured")


def read(source: str) -> Result:
    """What --json wrote. :raises ClickException: it did not write this."""
    try:
        return msgspec.json.decode(Path(source).read_bytes(), type=Result)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{source}: --json did not write this: {error}") from None


def joined(results: Sequence[Result]) -> Result:
    """One result of several of the same machine."""
    first = min(results, key=lambda result: result.at)
    return msgspec.structs.replace(
        first,
        took_s=sum(result.took_s for result in results),
        figures=tuple(figure for result in results for figure in result.figures),
    )


whole.params += WRITE
for one in (*map(command, SCENES.values()), whole, *OTHERS):
    one.short_help = one.short_help or " ".join((one.help or "").partition("\n\n")[0].split())  # not cut off
    main.add_command(one)


if __name__ == "__main__":
    main(prog_name="python -m bench")
