"""A result as a file for people: one HTML page that needs nothing beside it, or one PNG; both with plots."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from io import StringIO
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import click

from bench.figures import Figure, Result, shown
from bench.table import HEAD, UNPINNED, cells, origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ("SUFFIXES", "check", "write")

SUFFIXES = (".html", ".png")
PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)_ms|max_ms")
COLORS = {"stretch": "#2a9d4a", "asked": "#7fbf6a", "below": "#d9822b", "": "#5b8db8"}
LIMITS = "lines: what is asked for; dotted: the stretch goal"
NAME = 45
"""Longer names go on in another line: the plot needs its width."""
LONGEST = 5.0
"""A bar of what is far below its limit is not drawn longer than so many times as asked."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse }
td, th { border-bottom: 1px solid #ccc; padding: .3em .7em; text-align: left }
svg { max-width: 100%; height: auto }
p { color: #555 }
""".strip()

Plot = Callable[["Axes"], None]


def check(path: str) -> None:
    """Before anything is measured. :raises ClickException: such a report cannot be written, and why."""
    if Path(path).suffix not in SUFFIXES:
        raise click.UsageError(f"--report {path}: a report is one of {', '.join(SUFFIXES)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise click.ClickException(
            f"a report needs matplotlib: {sys.executable} -m pip install matplotlib"
        ) from None


def write(path: str, result: Result) -> None:
    """As HTML or PNG, as the name ends."""
    plots = list(drawn(result.figures))
    if Path(path).suffix == ".png":
        canvas = _canvas([height for _, _, height in plots] or [1.0])
        for axes, (title, plot, _) in zip(canvas.axes, plots, strict=False):
            axes.set_title(title, loc="left")
            plot(axes)
        canvas.savefig(path, dpi=110)
    else:
        Path(path).write_text(html(result, plots), encoding="utf-8")


def html(result: Result, plots: Sequence[tuple[str, Plot, float]]) -> str:
    """The page."""
    parts = [
        f"<p><code>{escape(result.command)}</code></p>",
        f"<p>{escape(origin(result))}</p>",
        f"<table>{_rows('th', [HEAD])}{_rows('td', map(cells, result.figures))}</table>",
    ]
    parts += [f"<h2>{escape(title)}</h2>{_svg(plot, height)}" for title, plot, height in plots]
    parts += [
        f"<p>{escape(figure.what)}: {escape(figure.note)}</p>" for figure in result.figures if figure.note
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>imgateway: measured</title>'
        f"<style>{STYLE}</style><h1>imgateway: measured</h1>\n{body}\n</html>\n"
    )


def _rows(cell: str, rows: Iterable[Sequence[str]]) -> str:
    return "".join(
        "<tr>" + "".join(f"<{cell}>{escape(text)}</{cell}>" for text in row) + "</tr>" for row in rows
    )


def _svg(plot: Plot, height: float) -> str:
    canvas = _canvas([height])
    plot(canvas.axes[0])
    text = StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _canvas(heights: Sequence[float]) -> Any:
    """A sheet with one plot below the other, each as wide as its own words let it; `heights` in inches."""
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(10, sum(heights) + 0.6 * len(heights)), layout="constrained")
    for part in sheet.subfigures(
        len(heights), 1, squeeze=False, height_ratios=[h + 0.6 for h in heights]
    ).flat:
        part.subplots()
    return sheet


# --------------------------------------------------------------------------------------------- the plots


def drawn(figures: Sequence[Figure]) -> Iterator[tuple[str, Plot, float]]:
    """Title, plot and height in inches of each that there is something for."""
    ratios = [
        figure for figure in figures if figure.ratio is not None and (figure.is_ratio or not figure.asked)
    ]
    if ratios:
        yield "Beside the baseline", partial(bars, figures=ratios), 0.6 + 0.35 * len(ratios)
    values = [figure for figure in figures if figure.asked and not figure.is_ratio and figure.value]
    if values:
        yield "Beside what is asked for", partial(shares, figures=values), 0.6 + 0.35 * len(values)
    late = [figure for figure in figures if len(percentiles(figure)) > 1]
    for scene in dict.fromkeys(figure.scene for figure in late):
        ones = [figure for figure in late if figure.scene == scene]
        yield f"Latency, scene {scene}", partial(latencies, figures=ones), max(3.0, 0.6 + 0.2 * len(ones))
    for figure in figures:
        if figure.series:
            yield figure.what, partial(over_time, series=figure.series), 3.0


def bars(axes: Axes, figures: Sequence[Figure]) -> None:
    """Ours ÷ theirs; a line where what is asked for lies, a dotted one at the stretch goal."""
    _bars(axes, figures, [figure.ratio or 0.0 for figure in figures], lambda figure, limit: limit)
    axes.set_xlabel(f"imgateway ÷ baseline; {LIMITS}")


def shares(axes: Axes, figures: Sequence[Figure]) -> None:
    """How often what is asked for goes into it; of what should be little, the other way round."""

    def share(figure: Figure, value: float) -> float:
        asked = figure.asked or 1.0
        if figure.better == "more":
            return value / asked
        return asked / value if value * LONGEST > asked else LONGEST  # also if it shrinks instead of growing

    _bars(axes, figures, [share(figure, figure.value or 1.0) for figure in figures], share)
    axes.set_xlabel(f"1 = as asked; longer is better; {LIMITS}")


def _bars(
    axes: Axes, figures: Sequence[Figure], lengths: Sequence[float], place: Callable[[Figure, float], float]
) -> None:
    for n, (figure, length) in enumerate(zip(figures, lengths, strict=True)):
        axes.barh(n, length, color=COLORS[figure.mark], height=0.6)
        for limit, style in ((figure.asked, "-"), (figure.stretch, ":")):
            if limit:
                axes.plot([place(figure, limit)] * 2, [n - 0.42, n + 0.42], style, color="black")
        is_ratio = figure.is_ratio or not figure.asked
        text = f"{length:.2f}" if is_ratio else f"{shown(figure.value)} {figure.unit}"
        axes.text(1.01, n, text, va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(figures)), [fill(figure.what, NAME) for figure in figures], fontsize=8)
    axes.invert_yaxis()


def percentiles(figure: Figure) -> list[tuple[str, float]]:
    """(name, milliseconds), rising."""
    found = [match for match in map(PERCENTILE.fullmatch, figure.details) if match]
    found.sort(key=lambda match: float(match[1] or 100))
    return [(match[0].removesuffix("_ms"), figure.detail(match[0]) or 0.0) for match in found]


def latencies(axes: Axes, figures: Sequence[Figure]) -> None:
    """A curve for each figure, dashed if the server was not pinned; their names beside them, not on them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for figure in figures:
        names, values = zip(*percentiles(figure), strict=True)
        axes.plot(names, values, "o--" if UNPINNED in figure.what else "o-", label=fill(figure.what, NAME))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("ms")
    axes.grid(True, axis="y", alpha=0.3)
    _names_beside(axes)


def over_time(axes: Axes, series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Values over time, from 0 on: what is flat must look flat. All have the unit of the first."""
    in_bytes = next(iter(series)).endswith("_bytes")
    scale = 1e-6 if in_bytes else 1.0
    for name, points in series.items():
        label = name.removesuffix("_bytes").replace("_", " ")
        axes.plot([second for second, _ in points], [value * scale for _, value in points], label=label)
    most = max((value for points in series.values() for _, value in points), default=0.0)
    axes.set_ylim(0, 1.1 * most * scale or 1.0)
    axes.set_xlabel("s")
    axes.set_ylabel("MB" if in_bytes else next(iter(series)))
    axes.grid(True, alpha=0.3)
    _names_beside(axes)


def _names_beside(axes: Axes) -> None:
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
