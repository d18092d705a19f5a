"""What a benchmark finds: figures of several runs, beside those of a baseline, and the machine they are from.

A scene is a function in a module of its own::

    def scene(options: Options, tell: Tell) -> list[Figure]

that starts what it measures and its baseline in turns, `options.runs` times. Rates and times of a shared
machine move; what counts is the ratio of the medians of one call, with the spread beside it.
"""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

import click
import msgspec

from bench.servers import needs

__all__ = (
    "Figure",
    "Machine",
    "Options",
    "Result",
    "Tell",
    "machine",
    "shown",
    "spread",
    "store",
    "values",
    "version_of",
)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was asked for. `bench.scenes` says what each scene takes; the rest keeps its default."""

    protocol: str = "native"
    transport: str = "tcp"
    brokers: tuple[str, ...] = ()
    pairs: int = 100
    members: int = 0
    sessions: int = 0
    windows: tuple[int, ...] = (1, 4)
    size: int = 100
    """Bytes of a body."""
    qos: int = 1
    seconds: float = 5.0
    """Of each measurement."""
    minutes: float = 0.0
    parts: tuple[str, ...] = ()
    """Of a scene that has several, these; empty: all."""
    runs: int = 3
    rate: float = 0.0
    """Messages, logins … a second, whatever comes of it (open loop); 0: as many as go (closed loop)."""
    against: str = ""
    """The baseline: mosquitto, c, autobahn, none; empty: what the scene takes by itself."""
    unpinned: bool = False
    """The server may use every core, not the first one alone."""


class Tell(Protocol):
    """Where a scene says how far it is; what it found comes back from it."""

    def plan(self, steps: int, step_s: float) -> None:
        """So many steps follow, of about so many seconds."""

    def step(self, what: str) -> None:
        """The next one begins, and the one before is over."""

    def note(self, text: str) -> None:
        """One line that stays."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was measured, `runs` times, and the same of the baseline if there is one."""

    scene: str
    what: str
    """What this row is, to be read without the others: ``native, memory:, window 4``."""
    unit: str
    """messages/s, bytes, ms, s …"""
    ours: tuple[float, ...] = ()
    """One value of each run."""
    against: str = ""
    """Name and version of the baseline: ``mosquitto 2.0.11``."""
    theirs: tuple[float, ...] = ()
    """One value of each run."""
    asked: float | None = None
    """What it should at least be (`better` less: at most); of `judged`."""
    stretch: float | None = None
    better: Literal["more", "less"] = "more"
    by: Literal["ratio", "value"] = "ratio"
    """What is held against `asked`: ours ÷ theirs, or ours alone; without a baseline always ours."""
    details: dict[str, tuple[float, ...]] = {}
    """More values of each run, units in the names; p50_ms, p90_ms, p99_ms, p99.9_ms, max_ms are plotted."""
    series: dict[str, tuple[tuple[float, float], ...]] = {}
    """Over time: (seconds, value), units in the names: ``rss_bytes``."""
    note: str = ""
    failed: str = ""
    """Why there is nothing."""

    @property
    def value(self) -> float | None:
        """The median of ours."""
        return statistics.median(self.ours) if self.ours else None

    @property
    def base(self) -> float | None:
        """The median of theirs."""
        return statistics.median(self.theirs) if self.theirs else None

    @property
    def ratio(self) -> float | None:
        """Median ÷ median."""
        if self.value is None or not self.base:
            return None
        return self.value / self.base

    @property
    def spread(self) -> tuple[float, float] | None:
        """The least and the most of ours."""
        return (min(self.ours), max(self.ours)) if self.ours else None

    @property
    def judged(self) -> float | None:
        """What is held against `asked` and `stretch`."""
        return self.ratio if self.by == "ratio" and self.against else self.value

    @property
    def is_ratio(self) -> bool:
        """`judged` is the ratio."""
        return self.by == "ratio" and bool(self.against)

    @property
    def mark(self) -> Literal["stretch", "asked", "below", ""]:
        """How far it got; empty: nothing was asked."""
        if self.asked is None:
            return ""
        if self.judged is None:
            return "below"
        if self.stretch is not None and self._reached(self.stretch):
            return "stretch"
        return "asked" if self._reached(self.asked) else "below"

    @property
    def is_disturbed(self) -> bool:
        """The baseline had much less than a core, so it was not the limit, and the ratio says little.

        So it is when others compute on the machine, or when the load is too slow. Only figures of as much as
        goes say it, those with `their_cores` in the details.
        """
        theirs = self.detail("their_cores")
        return self.is_ratio and theirs is not None and theirs < BUSY

    def _reached(self, limit: float) -> bool:
        assert self.judged is not None
        return self.judged >= limit if self.better == "more" else self.judged <= limit

    def detail(self, name: str) -> float | None:
        """The median of one of `details`."""
        values = self.details.get(name)
        return statistics.median(values) if values else None


BUSY = 0.7
"""Cores that a baseline has at least if it is the limit of what is measured."""
BUILD_OPTIONS = ("--enable-optimizations", "--with-lto", "--enable-shared")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    cores: int
    model: str
    memory_bytes: int
    kernel: str
    python: str
    build: str = ""
    """How Python was compiled: ``--enable-optimizations --with-lto``."""
    load: float
    """How many processes wanted a core in the minute before, which are others'."""
    versions: dict[str, str] = {}
    """Of what was compared, and of what we stand on; only what is installed."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is written as JSON."""

    schema: int = 1
    command: str
    at: str
    """When it began: 2026-11-21T18:00:00+00:00."""
    took_s: float
    machine: Machine
    figures: tuple[Figure, ...]


VERSION_OF = {"mosquitto": "-h", "redis-server": "--version", "gcc": "-dumpfullversion"}
"""What a program is asked for its version with."""
PACKAGES = ("imgateway", "Twisted", "autobahn", "protobuf", "PyJWT", "hiredis")


def machine() -> Machine:
    """This one."""
    versions = {name: found for name in (*PACKAGES, *VERSION_OF) if (found := version_of(name))}
    return Machine(
        cores=os.cpu_count() or 1,
        model=_field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        python=platform.python_version(),
        build=build_of(sysconfig.get_config_var("CONFIG_ARGS") or ""),
        load=os.getloadavg()[0],
        versions=versions,
    )


def build_of(arguments: str) -> str:
    """Which of the options that decide CPython's speed its ``configure`` was given. A distribution may have
    ways of its own, which do not show here."""
    return " ".join(word for word in shlex.split(arguments) if word.startswith(BUILD_OPTIONS))


def version_of(name: str) -> str:
    """Of a package, or what an installed program says; empty if it is not there."""
    if name not in VERSION_OF:
        try:
            return version(name)
        except PackageNotFoundError:
            return ""
    try:
        command = [needs(name), VERSION_OF[name]]
    except click.ClickException:
        return ""
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for word in said.replace("v=", " ").split():
        if word[0].isdigit() and "." in word:
            return word
    return ""


def _field(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def shown(value: float | None) -> str:
    """A number as people read it: three digits that count, thousands apart."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def store(broker: str) -> str:
    """What people call a broker: ``embedded:`` is SQLite, ``redis://…`` Redis."""
    kind = broker.partition(":")[0]
    return {"embedded": "SQLite", "redis": "Redis"}.get(kind, kind)


def values(runs: Sequence[Mapping[str, Any]], name: str) -> tuple[float, ...]:
    """One thing that each run found."""
    return tuple([run[name] for run in runs])


def spread(values: Sequence[float]) -> str:
    """The least and the most, to be read."""
    return f"{shown(min(values))}–{shown(max(values))}" if values else "–"
