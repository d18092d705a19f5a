"""How far a benchmark is: one line that is written again at a terminal, a line for each step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ("Progress", "duration")


class Progress:
    """What scenes tell (`bench.figures.Tell`), on standard error, with the time left.

    :param head: stands before every line: which scene of several.
    :param later_s: what comes after the scene, in seconds.
    """

    def __init__(
        self,
        head: str = "",
        later_s: float = 0.0,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._head = head
        self._later_s = later_s
        self._stream = sys.stderr if stream is None else stream
        self._now = now
        self._terminal = self._stream.isatty()
        self._began = now()
        self._steps = self._begun = 0
        self._step_s = 0.0

    def plan(self, steps: int, step_s: float) -> None:
        """So many steps follow, of about so many seconds."""
        self._steps, self._begun, self._step_s = steps, 0, step_s
        self._began = self._now()

    def step(self, what: str) -> None:
        """The next one begins."""
        self._begun += 1
        of = f"{self._begun}/{self._steps} " if self._steps else ""
        line = f"{self._head}{of}{what}"
        if self._steps:
            line += f"; {duration(self.left_s())} left"
        if self._terminal:
            self._stream.write(f"\r\x1b[K{line}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def note(self, text: str) -> None:
        """One line that stays."""
        self.clear()
        self._stream.write(f"{self._head}{text}\n")
        self._stream.flush()

    def left_s(self) -> float:
        """As it went so far, and before that as it was planned."""
        done = self._begun - 1
        each = (self._now() - self._began) / done if done > 0 else self._step_s
        return max(self._steps - done, 0) * each + self._later_s

    def clear(self) -> None:
        """Take the line away, for something else to be written."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def duration(seconds: float) -> str:
    """``40 s``, ``3 min 20 s``, ``12 min``; to the ten seconds from a minute on."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds / 10) * 10, 60)
    return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
