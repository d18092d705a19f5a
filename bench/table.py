"""``bench table``: what is promised of the speed, measured in one go, as a page of the documentation.

The page is made from the figures alone, so a result that was written as JSON makes the same page again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from bench.figures import Figure, Result, Tell, shown, spread
from bench.progress import duration
from bench.scenes import SCENES

__all__ = ("HEAD", "PAGE", "ROWS", "Row", "cells", "legend", "markdown", "measure", "origin", "page")

PAGE = Path(__file__).parent.parent / "docs" / "performance" / "table.md"
MARKS = {"stretch": "★", "asked": "✓", "below": "below", "": ""}
UNPINNED = ", unpinned"
HEADING = """# Measured: the table

Written by `make bench`, which replaces it. Every figure stands beside a baseline that the same run started;
medians, with the least and the most of the runs. The server has one core, its threads included, and the
generator another; what is called unpinned is of a server that may use both."""
LEGEND = """÷ is the figure divided by the baseline's. Asked is what we want, stretch what would be better:
✓ reaches what is asked for, ★ the stretch goal as well; × is a multiple of the baseline.
`÷ by processor` is the ratio by the processor time that both servers took for the same, which depends less on
who else is on the machine. A `?` says that the baseline had not even 0.7 of its core: others computed, or
the load was the limit, and the ratio says little."""


class Row(NamedTuple):
    """A call of a scene, with what differs from its defaults. `about_s`: how long it takes, about."""

    what: str
    scene: str
    options: dict[str, Any]
    about_s: float


ROWS = (
    Row("pairs", "p2p", {"seconds": 3.0}, 100),
    Row(
        "MQTT pairs", "p2p",
        {"protocol": "mqtt", "brokers": ("embedded:",), "windows": (4,), "seconds": 3.0}, 40,
    ),
    Row("room over TCP", "room", {"seconds": 4.0}, 70),
    Row("room over WebSocket", "room", {"transport": "websocket", "seconds": 4.0}, 70),
    Row("aggregation", "room", {"parts": ("tick",)}, 140),
    Row("logins", "login", {}, 120),
    Row("idle over TCP", "idle", {"sessions": 10_000}, 60),
    Row("idle over WebSocket", "idle", {"transport": "websocket", "sessions": 4_000}, 60),
    Row("idle over UDP", "idle", {"transport": "udp", "sessions": 100_000}, 330),
    Row("latency at half of the rate", "latency", {}, 150),
    Row("storm", "storm", {"runs": 3}, 240),
    Row("pairs, unpinned", "p2p", {"seconds": 3.0, "unpinned": True}, 100),
    Row("room over TCP, unpinned", "room", {"seconds": 4.0, "unpinned": True}, 70),
    Row(
        "room over WebSocket, unpinned", "room",
        {"transport": "websocket", "seconds": 4.0, "unpinned": True}, 70,
    ),
)  # fmt: skip
QUICK: dict[str, dict[str, Any]] = {
    "p2p": {"pairs": 10, "seconds": 0.5, "runs": 1},
    "room": {"members": 100, "seconds": 0.5, "runs": 1},
    "login": {"sessions": 400, "runs": 1},
    "idle": {"sessions": 200, "runs": 1},
    "latency": {"pairs": 10, "seconds": 0.5, "runs": 1},
    "storm": {"sessions": 200, "rate": 50.0, "runs": 1},
}
"""For trying the table; the figures mean nothing."""
QUICK_S = 8.0


def measure(rows: Sequence[Row], tells: Callable[[str, float], Tell], quick: bool = False) -> list[Figure]:
    """The figures of all rows; one that fails says why in its place, and the others are measured.

    :param tells: makes what a scene tells its progress, from its name and the seconds that come after it.
    """
    found: list[Figure] = []
    about = [QUICK_S if quick else row.about_s for row in rows]
    for n, row in enumerate(rows):
        tell = tells(f"{n + 1}/{len(rows)} {row.what}: ", sum(about[n + 1 :]))
        scene = SCENES[row.scene]
        options = scene.options(**{**row.options, **(QUICK[row.scene] if quick else {})})
        try:
            found += scene.run(options, tell)
        except Exception as error:  # whatever it is: the other rows are worth minutes
            if _is_told_to_end(error):
                raise
            why = error.format_message() if isinstance(error, click.ClickException) else repr(error)
            why = " ".join(why.split())
            found.append(Figure(scene=row.scene, what=row.what, unit="", failed=why))
            tell.note(f"failed: {why}")
    return found


def _is_told_to_end(error: BaseException) -> bool:
    """Whether it came up while a signal was ending all of it."""
    at: BaseException | None = error
    while at is not None and not isinstance(at, SystemExit | KeyboardInterrupt):
        at = at.__context__
    return at is not None


# ------------------------------------------------------------------------------------------ to be read

HEAD = ("what", "imgateway", "spread", "baseline", "spread", "÷", "÷ by processor", "asked", "stretch", "")


def markdown(figures: Sequence[Figure]) -> str:
    """A table of them; what was asked for is held against the ratio, where there is one."""
    rows = [HEAD, *(tuple(cell.replace("|", "\\|") for cell in cells(figure)) for figure in figures)]
    used = [n for n in range(len(HEAD)) if n < 2 or any(row[n] for row in rows[1:])]
    widths = {n: max(len(row[n]) for row in rows) for n in used}
    lines = ["| " + " | ".join(row[n].ljust(widths[n]) for n in used) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (widths[n] + 2) for n in used) + "|")
    if notes := [f"- {figure.what}: {figure.note}" for figure in figures if figure.note]:
        lines += ["", *notes]
    return "\n".join(lines)


def legend(figures: Sequence[Figure]) -> str:
    """What the signs in the table of them mean; "" if it has none."""
    return LEGEND if any(any(cells(figure)[5:]) for figure in figures) else ""


def cells(figure: Figure) -> tuple[str, ...]:
    """A row."""
    if figure.failed:
        return (figure.what, f"not measured: {figure.failed}", *[""] * (len(HEAD) - 2))
    limits = [
        limit_text(figure, limit) if limit is not None else "" for limit in (figure.asked, figure.stretch)
    ]
    theirs = f"{figure.against}: {shown(figure.base)}" if figure.base is not None else ""
    return (
        figure.what,
        f"{shown(figure.value)} {figure.unit}",
        spread(figure.ours) if len(figure.ours) > 1 else "",
        theirs,
        spread(figure.theirs) if len(figure.theirs) > 1 else "",
        shown(figure.ratio) if figure.ratio is not None else "",
        shown(_by_processor(figure)) if _by_processor(figure) is not None else "",
        *limits,
        "?" if figure.is_disturbed else MARKS[figure.mark],
    )


def limit_text(figure: Figure, limit: float) -> str:
    """``≥ 0.60 ×`` of the baseline, ``≤ 30 s``."""
    sign, unit = ("≥" if figure.better == "more" else "≤"), ("×" if figure.is_ratio else figure.unit)
    return f"{sign} {limit:.2f} {unit}" if figure.is_ratio else f"{sign} {shown(limit)} {unit}"


def _by_processor(figure: Figure) -> float | None:
    """How much of the baseline's processor time ours takes for the same, turned round: more is better."""
    ours, theirs = figure.detail("cpu_us"), figure.detail("their_cpu_us")
    return theirs / ours if ours and theirs else None


def page(result: Result) -> str:
    """The page: the machine, the table, and what an unpinned server does."""
    pinned = [figure for figure in result.figures if UNPINNED not in figure.what]
    unpinned = [figure for figure in result.figures if UNPINNED in figure.what]
    parts = [HEADING, origin(result), markdown(pinned), LEGEND]
    if unpinned:
        parts += ["## Unpinned", markdown(unpinned)]
    return "\n\n".join(parts) + "\n"


def origin(result: Result) -> str:
    """When, where and how often."""
    machine = result.machine
    runs = sorted({len(figure.ours) for figure in result.figures if figure.ours})
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    build = f" ({machine.build})" if machine.build else ""
    return (
        f"{result.at[:16].replace('T', ' ')} UTC, {duration(result.took_s)}; runs of each: "
        f"{', '.join(map(str, runs)) or 'none'}. {machine.cores} cores of {machine.model}, "
        f"{machine.memory_bytes / 1e9:.0f} GB, Linux {machine.kernel}, Python {machine.python}{build}; "
        f"{versions}. When it began, others kept {machine.load:.1f} cores busy."
    )
