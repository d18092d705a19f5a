"""How far a long task has got, on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

__all__ = ("Progress",)

PATIENCE_S = 1.0
EVERY_S = 0.2


class Progress:
    """One line on stderr, written again and again once the task has taken a while.

    Silent when stderr is no terminal, or when stdout is one and shows results itself.
    """

    def __init__(
        self,
        what: str,
        now: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
        results: bool = False,
    ) -> None:
        self._what = what
        self._now = now
        self._stream = sys.stderr if stream is None else stream
        self._on = self._stream.isatty() and not (results and sys.stdout.isatty())
        self._next = now() + PATIENCE_S
        self._written = False

    def __call__(self, done: int, total: int = 0) -> None:
        """`total` 0: not known."""
        if not self._on or self._now() < self._next:
            return
        self._next = self._now() + EVERY_S
        of = f"/{total:,} ({done * 100 // total} %)" if total else ""
        self._stream.write(f"\r\x1b[K{done:,}{of} {self._what}")
        self._stream.flush()
        self._written = True

    def clear(self) -> None:
        """Take the line away, for something else to be written."""
        if self._written:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._written = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self.clear()
