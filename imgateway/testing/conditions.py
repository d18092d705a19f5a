"""How bad a line is: `LinkConditions` for one way of it, `BothWays` for a line, and the texts that people
write them in.

==============  =======================================  ================================================
setting         written                                  what it does
==============  =======================================  ================================================
loss            ``20%``                                  so many of the datagrams are lost
duplicate       ``5%``                                   so many arrive twice
reorder         ``10%``                                  so many are held back until later ones overtook
                                                         them
delay           ``80ms``, ``80ms~40ms``                  the time on the way; ~: so much more or less, a
                                                         value of its own for each
rate            ``64kbit``, ``2Mbit``                    what passes in a second; the rest queues
queue           ``1s``                                   how long a datagram may wait for its turn before
                                                         it is lost instead; a stream is stopped then
chunk           ``1``, ``1kB``                           a stream arrives in pieces of at most this size
cut-after       ``10kB``, ``5s``                         the connection breaks after so many bytes this
                                                         way, or so much time
silent-after    ``10kB``, ``5s``                         from then on nothing arrives, and nobody is told
==============  =======================================  ================================================

Two values with a slash are for two ways, ``20%/5%``: up, from the client to the gateway, and down. ``off``
stands for none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

__all__ = (
    "DATAGRAM_SETTINGS",
    "SETTINGS",
    "STREAM_SETTINGS",
    "BothWays",
    "LinkConditions",
    "changed",
    "seconds",
)

LONGEST_S = 86_400.0  # a day: what is longer is a slip of the keyboard
MOST_BITS_PER_S = 1e12
MOST_BYTES = 1e15


class LinkConditions(Struct, frozen=True, kw_only=True):
    """What befalls traffic one way. As made, nothing does.

    Shares are from 0 to 1. 0 is no limit for `rate_bits_per_s` and `chunk_bytes`; None: never.

    :raises ValueError: a value out of its range.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """At most `delay_s`: nothing arrives before it was sent."""
    rate_bits_per_s: float = 0.0
    queue_s: float = 1.0
    chunk_bytes: int = 0
    cut_after_bytes: int | None = None
    cut_after_s: float | None = None
    silent_after_bytes: int | None = None
    silent_after_s: float | None = None
    silent: bool = False
    """Now: datagrams are lost, and a stream stands still until this is over."""

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 % to 100 %")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be below 0")
        if self.jitter_s > self.delay_s:
            raise ValueError("a delay cannot vary by more than itself")


class BothWays(NamedTuple):
    """The conditions of a line: `up` from the client to the gateway, `down` back."""

    up: LinkConditions = LinkConditions()
    down: LinkConditions = LinkConditions()


def changed(ways: BothWays, setting: str, text: str) -> BothWays:
    """The line with one setting changed, such as ``changed(BothWays(), "loss", "20%/5%")``.

    :raises ValueError: no such setting, or not what it takes; the text is fit for people.
    """
    if setting not in SETTINGS:
        raise ValueError(f"there is no {setting!r}; there are {', '.join(SETTINGS)}")
    read, _ = SETTINGS[setting]
    texts = text.split("/")
    try:
        if len(texts) > 2:
            raise ValueError("it takes one value, or two as UP/DOWN")
        up, down = texts[0].strip(), texts[-1].strip()
        return BothWays(replace(ways.up, **read(up)), replace(ways.down, **read(down)))
    except ValueError as error:
        raise ValueError(f"{setting} {text!r}: {error}") from None


# ------------------------------------------------------------------------------------- texts → fields' values

_NUMBER = r"(\d{1,15}(?:\.\d{1,9})?)"
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_RATES = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_SIZES = {"": 1, "b": 1, "kb": 1_000, "mb": 1_000_000, "kib": 1_024, "mib": 1_048_576}


def seconds(text: str) -> float:
    """``80ms``, ``1.5s``, ``2m`` and ``0`` as seconds. :raises ValueError:"""
    found = _measured(text, _TIMES)
    if text == "0":
        return 0.0
    if found is None:
        raise ValueError(f"{text!r} is no time; write 80ms, 1.5s or 2m")
    if found > LONGEST_S:
        raise ValueError(f"{text!r} is more than a day")
    return found


def _measured(text: str, units: dict[str, Any]) -> float | None:
    found = re.fullmatch(f"{_NUMBER} ?([a-z]*)", text.lower(), re.ASCII)
    if found is None or found[2] not in units:
        return None
    return float(found[1]) * float(units[found[2]])


def _bytes(text: str, least: int) -> int:
    found = _measured(text, _SIZES)
    if found is None or not least <= found <= MOST_BYTES or found % 1:
        raise ValueError(f"{text!r} is no number of bytes; write {least or 500}, 10kB or 2MB")
    return int(found)


def _share(field: str) -> Callable[[str], dict[str, Any]]:
    def read(text: str) -> dict[str, Any]:
        number = re.fullmatch(rf"{_NUMBER} ?%", text, re.ASCII)
        if text in ("off", "0"):
            return {field: 0.0}
        if number is None or float(number[1]) > 100:
            raise ValueError(f"{text!r} is no share; write 0% to 100%")
        return {field: float(number[1]) / 100}

    return read


def _delay(text: str) -> dict[str, Any]:
    delay, _, jitter = ("0" if text == "off" else text).partition("~")
    return {"delay_s": seconds(delay.strip()), "jitter_s": seconds(jitter.strip() or "0")}


def _rate(text: str) -> dict[str, Any]:
    found = 0.0 if text == "off" else _measured(text, _RATES)
    if found is None or found > MOST_BITS_PER_S or (not found and text != "off"):
        raise ValueError(f"{text!r} is no rate; write 64kbit, 2Mbit or off")
    return {"rate_bits_per_s": found}


def _queue(text: str) -> dict[str, Any]:
    return {"queue_s": seconds(text)}


def _chunk(text: str) -> dict[str, Any]:
    return {"chunk_bytes": 0 if text == "off" else _bytes(text, 1)}


def _after(field: str) -> Callable[[str], dict[str, Any]]:
    def read(text: str) -> dict[str, Any]:
        size = after_s = None
        if _measured(text, _TIMES) is not None:
            after_s = seconds(text)
        elif _measured(text, _SIZES) is not None:
            size = _bytes(text, 0)
        elif text != "off":
            raise ValueError(f"{text!r} is neither a size nor a time; write 10kB or 5s")
        return {f"{field}_bytes": size, f"{field}_s": after_s}

    return read


SETTINGS: dict[str, tuple[Callable[[str], dict[str, Any]], str]] = {
    "loss": (_share("loss"), "udp"),
    "duplicate": (_share("duplicate"), "udp"),
    "reorder": (_share("reorder"), "udp"),
    "delay": (_delay, "udp, tcp"),
    "rate": (_rate, "udp, tcp"),
    "queue": (_queue, "udp, tcp"),
    "chunk": (_chunk, "tcp"),
    "cut-after": (_after("cut_after"), "tcp"),
    "silent-after": (_after("silent_after"), "udp, tcp"),
}
"""Every setting: text → fields of `LinkConditions`, and what it is for."""
DATAGRAM_SETTINGS = frozenset(name for name, (_, kinds) in SETTINGS.items() if "udp" in kinds)
STREAM_SETTINGS = frozenset(name for name, (_, kinds) in SETTINGS.items() if "tcp" in kinds)
