"""Room classes: what the rooms whose ids fit a pattern keep, and how they are told.

A class is one text: a pattern, a colon, and settings with their units; what is not named has its default::

    live-*: entries=500 bytes=4MB age=10m tick=50ms notify_above=5000

================  ===========================================  =======
setting           what it is                                   default
================  ===========================================  =======
``entries``       messages that a room keeps, 1 to 1,000,000   200
``bytes``         their bytes, in B, KB, MB or GB, up to 1GB   1MB
``age``           how long, in s, m, h or d, up to 7d          10m
``tick``          messages of a busy room go out this often,   50ms
                  in ms or s, up to 10s; 0ms: at once
``notify_above``  with more members here than this, a room     0
                  tells that there is something instead of
                  sending it; 0: never
================  ===========================================  =======

``*`` stands for any text, ``?`` for one character, ``[ab]`` for one of these. The first class that fits
counts. Areas are found by their ids like rooms; `all` has the empty id. Lane 1 has limits of its own:
`LANE_1`, and the bytes of the class.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from typing import NamedTuple

from imgateway.core.ring import RingLimits
from imgateway.errors import ConfigError

__all__ = ("LANE_1", "RoomClass", "RoomClasses", "limits_of", "parse_class")

LANE_1 = (200, 3600.0)
"""Entries and seconds of lane 1, which is for what must not drown."""

_SIZES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_TIMES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_TICKS = {"ms": 0.001, "s": 1.0}
_PLAIN = {"": 1}

_EXAMPLE = "PATTERN: KEY=VALUE …, such as live-*: entries=500 bytes=4MB age=10m tick=50ms notify_above=5000"


class RoomClass(NamedTuple):
    """`tick_s` 0: no waiting for others. `notify_above` 0: never."""

    pattern: str = "*"
    entries: int = 200
    bytes: int = 1 << 20
    age_s: float = 600.0
    tick_s: float = 0.05
    notify_above: int = 0


class _Key(NamedTuple):
    field: str
    units: dict[str, int] | dict[str, float]
    least: float
    most: float
    allowed: str


_KEYS = {
    "entries": _Key("entries", _PLAIN, 1, 1_000_000, "1 to 1,000,000, such as 500"),
    "bytes": _Key("bytes", _SIZES, 1, 1 << 30, "1B to 1GB, such as 512KB or 4MB"),
    "age": _Key("age_s", _TIMES, 1, 604_800, "1s to 7d, such as 90s, 10m or 2h"),
    "tick": _Key("tick_s", _TICKS, 0, 10, "0ms to 10s, such as 50ms"),
    "notify_above": _Key("notify_above", _PLAIN, 0, 1_000_000_000, "0 to 1,000,000,000, such as 5000"),
}


def parse_class(text: str) -> RoomClass:
    """One class.

    :raises ConfigError: naming ``rooms.classes``, what is wrong with the text, and what is allowed.
    """
    pattern, colon, rest = text.rpartition(":")
    pattern = pattern.strip()
    if not (pattern and colon):
        raise ConfigError(f"rooms.classes: must be {_EXAMPLE}; not {_shown(text)}")
    values: dict[str, float] = {}
    for word in rest.split():
        name, equals, value = word.partition("=")
        key = _KEYS.get(name)
        if key is None or not equals:
            raise ConfigError(
                f"rooms.classes: {_shown(word)} in {_shown(text)} must be KEY=VALUE with a key of "
                + ", ".join(_KEYS)
            )
        number = _number(value, key)
        if number is None or key.field in values:
            once = ", once" if key.field in values else ""
            raise ConfigError(f"rooms.classes: {name} in {_shown(text)} must be {key.allowed}{once}")
        values[key.field] = number
    return RoomClass(pattern, **values)  # type: ignore[arg-type]


def _number(text: str, key: _Key) -> float | None:
    found = re.fullmatch(r"([0-9]{1,15})([A-Za-z]*)", text)
    if found is None or found[2] not in key.units:
        return None
    number = int(found[1]) * key.units[found[2]]
    return number if key.least <= number <= key.most else None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def limits_of(kind: RoomClass, lane: int) -> RingLimits:
    """What the ring of this lane keeps."""
    if lane:
        return RingLimits(LANE_1[0], kind.bytes, LANE_1[1])
    return RingLimits(kind.entries, kind.bytes, kind.age_s)


class RoomClasses:
    """The classes of the settings, in their order.

    :raises ConfigError: a text is wrong, or stands behind one that leaves nothing to it.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._classes: list[tuple[re.Pattern[str], RoomClass]] = []
        for text in texts:
            kind = parse_class(text)
            for _, before in self._classes:
                if before.pattern in ("*", kind.pattern):
                    raise ConfigError(
                        f"rooms.classes: {_shown(text)} is never used: the class of "
                        f"{_shown(before.pattern)} stands before it"
                    )
            self._classes.append((re.compile(translate(kind.pattern)), kind))

    def of(self, ident: str) -> RoomClass:
        """The class of a room, by its id."""
        for pattern, kind in self._classes:
            if pattern.match(ident):
                return kind
        return _DEFAULT


_DEFAULT = RoomClass()
