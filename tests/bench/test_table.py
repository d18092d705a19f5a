"""The table that ``make bench`` writes: its rows, and what becomes of one that fails."""

from __future__ import annotations

from typing import Any

import click
import pytest
from msgspec.structs import replace

from bench import scenes, table
from bench.figures import Figure, Options, Tell
from bench.table import ROWS, Row, cells, legend, markdown, measure, page
from tests.bench.results import FAILED, MEMORY, RATIO, RESULT, UNPINNED, VALUE


class Told:
    """What a scene tells."""

    def __init__(self, head: str = "", later_s: float = 0.0) -> None:
        self.head, self.later_s = head, later_s
        self.notes: list[str] = []

    def plan(self, steps: int, step_s: float) -> None: ...

    def step(self, what: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_row_with_a_baseline() -> None:
    assert cells(RATIO) == (
        "native, SQLite, window 4", "33,000 messages/s", "30,000–36,000",
        "mosquitto 2.0.11: 60,000", "58,000–62,000", "0.55", "0.50", "≥ 0.50 ×", "≥ 0.80 ×", "✓",
    )  # fmt: skip


def test_a_ratio_that_says_little_has_a_question_mark() -> None:
    busy = replace(RATIO, details={**RATIO.details, "their_cores": (0.2, 0.3, 0.2)})
    assert cells(busy)[-1] == "?"
    assert cells(replace(busy, asked=None))[-1] == "?"


def test_a_row_whose_value_counts_says_the_unit_of_what_is_asked() -> None:
    assert cells(VALUE)[-3:] == ("≥ 12,000 logins/s", "≥ 20,000 logins/s", "★")
    assert cells(MEMORY)[1:] == ("2,100 bytes", *[""] * 5, "≤ 2,000 bytes", "≤ 1,800 bytes", "below")


def test_a_row_that_failed_says_why_and_does_not_break_the_table() -> None:
    lines = markdown([RATIO, FAILED]).splitlines()
    assert "not measured: no \\| gcc" in lines[3]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_columns_that_nobody_fills_are_left_out() -> None:
    assert markdown([UNPINNED]).splitlines()[0].split() == ["|", "what", "|", "imgateway", "|"]


def test_the_signs_are_explained_where_there_are_some() -> None:
    for sign in ("÷", "Asked", "stretch", "✓", "★", "×", "÷ by processor", "?"):
        assert sign in legend([RATIO, UNPINNED])
    assert legend([UNPINNED]) == legend([FAILED]) == ""


def test_notes_stand_below() -> None:
    assert markdown([VALUE]).endswith("\n\n- logins <JWT>: each stays")


def test_the_page_has_machine_versions_date_and_what_ran_unpinned() -> None:
    text = page(RESULT)
    for said in (
        "2026-11-21 18:00 UTC, 20 min", "2 cores of a model", "8 GB", "Linux 6.1",
        "Python 3.11.7 (--with-lto --enable-shared)",
        "mosquitto 2.0.11", "others kept 0.3 cores busy", "runs of each: 1, 3",
    ):  # fmt: skip
        assert said in text
    pinned, unpinned = text.split("## Unpinned")
    assert RATIO.what in pinned
    assert UNPINNED.what not in pinned
    assert UNPINNED.what in unpinned
    assert text.endswith("|\n")
    assert "## Unpinned" not in page(replace(RESULT, figures=(RATIO,)))


def fake(monkeypatch: pytest.MonkeyPatch, **calls: Any) -> list[Options]:
    """Scenes that are not there."""
    seen: list[Options] = []

    class Scene(scenes.Scene):
        def run(self, options: Options, tell: Tell) -> list[Figure]:
            seen.append(options)
            found: list[Figure] = calls[self.name]()
            return found

    monkeypatch.setattr(table, "SCENES", {name: Scene(name, "", {"pairs": 7}) for name in calls})
    monkeypatch.setattr(table, "QUICK", {name: {"runs": 1} for name in calls})
    return seen


def test_a_scene_that_fails_does_not_lose_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> list[Figure]:
        raise click.ClickException("gcc is not installed:\n apt-get install gcc")

    def broken() -> list[Figure]:
        raise KeyError("rate")

    fake(monkeypatch, good=lambda: [RATIO, VALUE], missing=missing, broken=broken, nothing=list)
    told: list[Told] = []

    def tells(head: str, later_s: float) -> Told:
        told.append(Told(head, later_s))
        return told[-1]

    rows = [Row(f"the {name} one", name, {}, 10.0) for name in ("missing", "broken", "good", "nothing")]
    found = measure(rows, tells)
    assert found[2:] == [RATIO, VALUE]
    assert [(figure.what, figure.failed) for figure in found[:2]] == [
        ("the missing one", "gcc is not installed: apt-get install gcc"),
        ("the broken one", "KeyError('rate')"),
    ]
    assert [len(one.notes) for one in told] == [1, 1, 0, 0]
    assert [(one.head, one.later_s) for one in told][::3] == [
        ("1/4 the missing one: ", 30.0),
        ("4/4 the nothing one: ", 0.0),
    ]


def test_who_is_told_to_end_measures_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended() -> None:
        try:
            raise SystemExit(130)
        finally:
            raise click.ClickException("mosquitto ended with 0: ")

    fake(monkeypatch, ended=ended)
    with pytest.raises(click.ClickException, match="mosquitto"):
        measure([Row("one", "ended", {}, 1.0)], Told)


def test_a_row_changes_the_scenes_defaults_and_quick_changes_both(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake(monkeypatch, one=list)
    row = Row("one", "one", {"seconds": 2.0, "runs": 9}, 1.0)
    measure([row], Told)
    measure([row], Told, quick=True)
    assert [(asked.pairs, asked.seconds, asked.runs) for asked in seen] == [(7, 2.0, 9), (7, 2.0, 1)]


def test_the_table_takes_less_than_half_an_hour_and_three_runs_of_each() -> None:
    assert sum(row.about_s for row in ROWS) < 30 * 60
    for row in ROWS:
        options = scenes.SCENES[row.scene].options(**row.options)
        assert options.runs >= 3, row.what
        assert set(row.options) <= {*scenes.SCENES[row.scene].takes}
        assert row.scene in table.QUICK


def test_pairs_and_rooms_are_measured_unpinned_as_well() -> None:
    rows = {row.what: row for row in ROWS}
    for what in ("pairs", "room over TCP", "room over WebSocket"):
        assert rows[f"{what}, unpinned"].options == {**rows[what].options, "unpinned": True}
