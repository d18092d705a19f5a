"""A script of what happens to a line and when: ``at 5s loss 40%``.

::

    # a train, with a tunnel
    at 10s  delay 200ms~150ms  rate 128kbit
    at 30s  silent
    at 42s  heal  rebind
    at 60s  loss 20%/5%

Each line names a time since the start and one or several things: a setting of `LinkConditions` with its
value, or one of the words

- ``silent``, ``silent up``, ``silent down``: nothing arrives any more, and nobody is told
- ``heal``: the line is again as it was at the start
- ``cut``: every connection breaks (streams)
- ``rebind``: every client comes from another port, as behind a NAT that forgot it (datagrams)
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from .conditions import DATAGRAM_SETTINGS, SETTINGS, STREAM_SETTINGS, BothWays, changed, seconds

__all__ = ("Step", "Timeline", "parse_script")

WAYS = ("up", "down")
WORDS = ("silent", "heal", "cut", "rebind")


class Step(Struct, frozen=True):
    """`word` is a setting, ``silent``, ``heal``, ``cut`` or ``rebind``; `value` what stands behind it."""

    at_s: float
    word: str
    value: str = ""


class Timeline(Struct, frozen=True):
    """What a line is like at any time: as `start` until a step changes it.

    :raises ValueError: a step that cannot be done.
    """

    start: BothWays = BothWays()
    steps: tuple[Step, ...] = ()
    """In the order of time."""

    def __post_init__(self) -> None:
        if any(one.at_s > two.at_s for one, two in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("the steps are not in the order of time")
        self.at(float("inf"))  # what is wrong is wrong at once

    def at(self, time_s: float) -> BothWays:
        """The conditions, `time_s` seconds after the start."""
        ways = self.start
        for step in self.steps:
            if step.at_s > time_s:
                break
            ways = self._after(step, ways)
        return ways

    def between(self, after_s: float, upto_s: float) -> list[str]:
        """Which of ``cut`` and ``rebind`` happen, later than the one time and not later than the other."""
        return [
            step.word
            for step in self.steps
            if after_s < step.at_s <= upto_s and step.word in ("cut", "rebind")
        ]

    def next(self, after_s: float) -> float | None:
        """When something changes next; None: nothing does any more."""
        return next((step.at_s for step in self.steps if step.at_s > after_s), None)

    def _after(self, step: Step, ways: BothWays) -> BothWays:
        if step.word == "heal":
            return self.start
        if step.word == "silent":
            return BothWays(
                *(
                    replace(conditions, silent=conditions.silent or step.value in ("", way))
                    for way, conditions in zip(WAYS, ways, strict=True)
                )
            )
        if step.word in ("cut", "rebind"):
            return ways
        return changed(ways, step.word, step.value)


def parse_script(text: str, streams: bool | None = None) -> tuple[Step, ...]:
    """The steps of a script, in the order of time.

    :param streams: True, False: only what can befall a stream, or datagrams; None: all.
    :raises ValueError: names the line, and what is wrong with it.
    """
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        try:
            steps += _steps(words, streams)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return tuple(sorted(steps, key=lambda step: step.at_s))  # stable: what is written first is done first


def _steps(words: list[str], streams: bool | None) -> list[Step]:
    if not words:
        return []
    if words[0] != "at" or len(words) < 3:
        raise ValueError("a line is: at TIME WHAT, such as: at 5s loss 40%")
    at_s = seconds(words[1])
    steps: list[Step] = []
    rest = words[2:]
    while rest:
        word, value = rest.pop(0), ""
        if word in SETTINGS:
            if not rest:
                raise ValueError(f"{word} lacks its value")
            value = rest.pop(0)
            changed(BothWays(), word, value)
        elif word == "silent":
            value = rest.pop(0) if rest and rest[0] in WAYS else ""
        elif word not in WORDS:
            raise ValueError(
                f"there is no {word!r}; there are {', '.join(SETTINGS)}, silent, heal, cut, rebind"
            )
        _check_kind(word, streams)
        steps.append(Step(at_s, word, value))
    return steps


def _check_kind(word: str, streams: bool | None) -> None:
    if streams is True and word in ({"rebind"} | SETTINGS.keys()) - STREAM_SETTINGS:
        raise ValueError(f"{word} is for udp; a stream can be late, slow, silent or cut")
    if streams is False and word in ({"cut"} | SETTINGS.keys()) - DATAGRAM_SETTINGS:
        raise ValueError(f"{word} is for tcp; there are no connections on udp")
