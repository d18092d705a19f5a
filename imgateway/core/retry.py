"""Retry policies as function values: ``attempt → seconds``, the attempt counted from 0.

The jitter source is an argument, so that a test can pin it and two clients never share one.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ("RetryPolicy", "backoff", "fixed", "spread")

RetryPolicy = Callable[[int], float]


def backoff(
    random: Callable[[], float],
    first_s: float = 0.5,
    factor: float = 2.0,
    max_s: float = 30.0,
    jitter: float = 0.5,
) -> RetryPolicy:
    """Grow from `first_s` by `factor` up to `max_s`; each wait is drawn from the upper half of its step.

    :param random: gives floats in [0, 1), such as ``random.Random(seed).random``.
    :param jitter: the part of a step that is drawn; 1.0: from nothing to the whole step.
    """

    def wait(attempt: int) -> float:
        try:
            step = min(max_s, first_s * factor**attempt)
        except OverflowError:
            step = max_s
        return step * (1 - jitter + jitter * random())

    return wait


def fixed(seconds: float) -> RetryPolicy:
    """Always the same wait."""
    return lambda attempt: seconds


def spread(random: Callable[[], float], base_s: float, jitter: float = 0.5) -> float:
    """One wait around `base_s`, between (1 - jitter) and (1 + jitter) times it: what a Bye tells a crowd."""
    return base_s * (1 - jitter + 2 * jitter * random())
