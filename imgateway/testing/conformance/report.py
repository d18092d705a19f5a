"""What came out: one line for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

__all__ = ("Line", "Report", "Verdict")


class Verdict(Enum):
    RIGHT = "right"
    WRONG = "wrong"
    NOT_APPLICABLE = "not applicable"


class Line(Struct, frozen=True):
    """`check` says what a good client does; `detail` what this one did instead, or why nobody looked."""

    scene: str
    check: str
    verdict: Verdict
    detail: str = ""


class Report:
    """:param tell: called with each line as it comes."""

    def __init__(self, tell: Callable[[Line], object] = lambda line: None) -> None:
        self.lines: list[Line] = []
        self._tell = tell

    def add(self, line: Line) -> None:
        self.lines.append(line)
        self._tell(line)

    def count(self, verdict: Verdict) -> int:
        return sum(line.verdict is verdict for line in self.lines)
