"""Reports: one file each, whole, whatever the result has."""

from __future__ import annotations

import builtins
import itertools
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import click
import pytest
from msgspec.structs import replace

from bench.report import LONGEST, check, drawn, latencies, percentiles, write
from tests.bench.results import FAILED, FIGURES, MEMORY, RATIO, RESULT, UNPINNED, VALUE


def test_html_is_one_file_with_the_table_and_every_plot(tmp_path: Path) -> None:
    path = tmp_path / "all.html"
    write(str(path), RESULT)
    text = path.read_text()
    assert text.count("<svg") == text.count("</svg>") == 4
    assert "18,000 sessions</h2>" in text  # its memory over time
    for at in range(1, 5):
        picture = text.split("<svg")[at].split("</svg>")[0]
        assert len(list(xml.fromstring(f"<svg{picture}</svg>").iter())) > 20
    for word in ("src=", 'href="http', "<script", "<link"):
        assert word not in text
    assert "logins &lt;JWT&gt;" in text
    assert "logins <JWT>" not in text
    assert "<td>33,000 messages/s</td>" in text
    assert "not measured: no | gcc" in text
    assert "<code>imgateway bench table</code>" in text


def test_png_is_a_picture_that_grows_with_what_is_in_it(tmp_path: Path) -> None:
    heights = []
    for name, figures in (("one", (RATIO,)), ("all", FIGURES), ("none", (FAILED,))):
        path = tmp_path / f"{name}.png"
        write(str(path), replace(RESULT, figures=figures))
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        heights.append(int.from_bytes(head[20:24]))
    assert heights[1] > heights[0] > heights[2] > 50


def test_which_plots_there_are() -> None:
    def titles(*figures: Any) -> list[str]:
        return [title for title, _, _ in drawn(figures)]

    assert titles(RATIO) == ["Beside the baseline", "Latency, scene p2p"]
    late = replace(RATIO, scene="storm")
    assert titles(RATIO, late, RATIO)[1:] == ["Latency, scene p2p", "Latency, scene storm"]
    assert titles(VALUE) == ["Beside what is asked for"]
    assert titles(MEMORY) == ["Beside what is asked for", "18,000 sessions"]
    assert titles(UNPINNED, FAILED) == []


def test_a_bar_is_as_long_as_the_ratio_and_a_line_stands_at_what_is_asked() -> None:
    axes = _axes([RATIO, MEMORY])
    assert [bar.get_width() for bar in axes[0].patches] == [pytest.approx(0.55)]
    assert [line.get_xdata()[0] for line in axes[0].lines] == [0.5, 0.8]
    # Of what should be little, less is a longer bar.
    assert [bar.get_width() for bar in axes[1].patches] == [pytest.approx(2_000 / 2_100)]
    assert [line.get_xdata()[0] for line in axes[1].lines] == [1.0, pytest.approx(2_000 / 1_800)]


def test_memory_over_time_begins_at_zero() -> None:
    memory = _axes([MEMORY])[1]
    assert memory.get_ylim()[0] == 0
    assert list(memory.lines[0].get_ydata()) == [50, 51, 51]
    assert memory.get_ylabel() == "MB"
    both = replace(MEMORY, series={**MEMORY.series, "beside_it_bytes": ((0.0, 20e6), (10.0, 20e6))})
    assert [text.get_text() for text in _axes([both])[1].get_legend().get_texts()] == ["rss", "beside it"]


def test_labels_of_a_latency_plot_are_apart_and_names_do_not_cover_curves() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(10, 3), layout="constrained")
    axes = sheet.subplots()
    wide = {"p50_ms": (2.0,), "p99_ms": (900.0,), "max_ms": (15_000.0,)}
    latencies(axes, [replace(RATIO, details=wide), replace(UNPINNED, details=wide)])
    FigureCanvasAgg(sheet).draw()
    shown = [label.get_window_extent() for label in axes.get_yticklabels(which="both") if label.get_text()]
    inside = sorted((box for box in shown if axes.bbox.y0 <= box.y0 <= axes.bbox.y1), key=lambda box: box.y0)
    assert len(inside) > 5
    assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(inside))
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x0 >= axes.bbox.x1
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]


def test_a_bar_of_what_shrinks_instead_of_growing_has_an_end() -> None:
    bars = [_axes([replace(MEMORY, ours=(value,))])[0].patches[0] for value in (-5.0, 1.0, 1_000.0)]
    assert [bar.get_width() for bar in bars] == [LONGEST, LONGEST, 2.0]


def test_percentiles_rise_and_the_longest_is_last() -> None:
    more = {"max_ms": (9.0,), "p99.9_ms": (8.0,), "p50_ms": (1.0,), "p99_ms": (7.0,), "their_p50_ms": (1.0,)}
    found = percentiles(replace(RATIO, details=more))
    assert found == [("p50", 1.0), ("p99", 7.0), ("p99.9", 8.0), ("max", 9.0)]


def test_a_report_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    check("fine.png")
    with pytest.raises(click.UsageError, match=r"one of \.html, \.png"):
        check("paper.pdf")
    importing = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return importing(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(click.ClickException, match="pip install"):
        check("fine.html")


def _axes(figures: list[Any]) -> list[Any]:
    from matplotlib.figure import Figure as Sheet

    found = []
    for _, plot, _ in drawn(figures):
        axes = Sheet().subplots()
        plot(axes)
        if axes.get_yscale() == "linear":
            found.append(axes)
    return found
