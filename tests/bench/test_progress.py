"""How far a benchmark is."""

from __future__ import annotations

from io import StringIO

import pytest

from bench.progress import Progress, duration


class Screen(StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_for_each_step_where_no_terminal_is() -> None:
    screen = Screen(False)
    clock = Clock()
    progress = Progress("2/9 pairs: ", later_s=60.0, stream=screen, now=clock)
    progress.plan(3, 10.0)
    progress.step("mosquitto")
    clock.now += 20.0
    progress.step("memory")
    progress.note("made again")
    progress.clear()
    assert screen.getvalue().splitlines() == [
        "2/9 pairs: 1/3 mosquitto; 1 min 30 s left",
        "2/9 pairs: 2/3 memory; 1 min 40 s left",
        "2/9 pairs: made again",
    ]


def test_at_a_terminal_one_line_is_written_again_and_taken_away() -> None:
    screen = Screen(True)
    clock = Clock()
    progress = Progress(stream=screen, now=clock)
    progress.plan(2, 30.0)
    progress.step("one")
    progress.note("stays")
    clock.now += 60.0
    progress.step("two")
    progress.clear()
    lines = screen.getvalue().split("\r\x1b[K")
    assert lines == ["", "1/2 one; 1 min left", "stays\n", "2/2 two; 1 min left", ""]


def test_more_steps_than_planned_leave_nothing_and_no_plan_says_no_time() -> None:
    screen = Screen(False)
    clock = Clock()
    progress = Progress(stream=screen, now=clock)
    progress.step("before")
    progress.plan(1, 5.0)
    for _ in range(3):
        progress.step("again")
        clock.now += 5.0
    assert screen.getvalue().splitlines()[0] == "before"
    assert screen.getvalue().splitlines()[-1] == "3/1 again; 0 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (84, "1 min 20 s"), (125, "2 min"), (1_350, "22 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
