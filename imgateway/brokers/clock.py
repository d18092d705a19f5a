"""The wall clock, and one that does not go back."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

__all__ = ("steady", "wall_ms")


def wall_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def steady(now_ms: Callable[[], int]) -> Callable[[], int]:
    """`now_ms`, but when it jumps back the time before the jump goes on from where it was. Callable from any
    thread.

    What was to be kept an hour is then kept an hour; a jump ahead cannot be told from time that passed.
    """
    lock = Lock()
    last = ahead = 0

    def now() -> int:
        nonlocal last, ahead
        with lock:
            told = now_ms() + ahead
            if told < last:
                ahead += last - told
                told = last
            last = told
            return told

    return now
