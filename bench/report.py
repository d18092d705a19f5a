"""A result as a file for people: one HTML page that needs nothing beside it, or one PNG; both with plots."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.figures import Figure, Result, shown
from bench.table import HEAD, cells, origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ("SUFFIXES", "check", "write")

SUFFIXES = (".html", ".png")
PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)_ms|max_ms")
COLORS = {"stretch": "#2a9d4a", "asked": "#7fbf6a", "below": "#d9822b", "": "#5b8db8"}
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
        raise click.ClickException("a report needs matplotlib: pip install -e '.[bench]'") from None


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
    """A sheet with one plot below the other; `heights` in inches."""
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(10, sum(heights) + 0.6 * len(heights)), layout="constrained")
    sheet.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
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
    if late:
        yield "Latency", partial(latencies, figures=late), 4.0
    for figure in figures:
        for name, points in figure.series.items():
            yield (
                f"{figure.what}: {name}",
                partial(line, name=name, points=points),
                3.0,
            )


def bars(axes: Axes, figures: Sequence[Figure]) -> None:
    """Ours ÷ theirs; a line where what is asked for lies, a dotted one at the stretch goal."""
    _bars(axes, figures, [figure.ratio or 0.0 for figure in figures], lambda figure, limit: limit)
    axes.set_xlabel("imgateway ÷ baseline")


def shares(axes: Axes, figures: Sequence[Figure]) -> None:
    """How often what is asked for goes into it; of what should be little, the other way round."""

    def share(figure: Figure, value: float) -> float:
        asked = figure.asked or 1.0
        return value / asked if figure.better == "more" else asked / value

    _bars(axes, figures, [share(figure, figure.value or 1.0) for figure in figures], share)
    axes.set_xlabel("1 = as asked; longer is better")


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
    axes.set_yticks(range(len(figures)), [figure.what for figure in figures], fontsize=8)
    axes.invert_yaxis()


def percentiles(figure: Figure) -> list[tuple[str, float]]:
    """(name, milliseconds), rising."""
    found = [match for match in map(PERCENTILE.fullmatch, figure.details) if match]
    found.sort(key=lambda match: float(match[1] or 100))
    return [(match[0].removesuffix("_ms"), figure.detail(match[0]) or 0.0) for match in found]


def latencies(axes: Axes, figures: Sequence[Figure]) -> None:
    """A curve for each figure."""
    for figure in figures:
        names, values = zip(*percentiles(figure), strict=True)
        axes.plot(names, values, "o-", label=figure.what)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_ylabel("ms")
    axes.grid(True, axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")


def line(axes: Axes, name: str, points: Sequence[tuple[float, float]]) -> None:
    """A value over time, from 0 on: what is flat must look flat."""
    scale, unit = (1e-6, "MB") if name.endswith("_bytes") else (1.0, name)
    axes.plot([second for second, _ in points], [value * scale for _, value in points])
    axes.set_ylim(0, 1.1 * max((value for _, value in points), default=1.0) * scale or 1.0)
    axes.set_xlabel("s")
    axes.set_ylabel(unit)
    axes.grid(True, alpha=0.3)
