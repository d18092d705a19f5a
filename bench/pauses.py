"""Scene pauses: how long Python's garbage collection stops a process that has very many sessions.

A real node is started with a ``sitecustomize`` that writes down each collection: its generation, and how long
it took, on the clock and of the processor. The sessions are real ones, over UDP, for which no descriptors are
needed (bench/datagrams.c). Counted are the collections while all log in, while messages and Pings come, and
full ones that a signal asks for; the baseline of these are full ones before anybody has come.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.datagrams import built, crowd, on_both
from bench.figures import Figure, Options, Tell
from bench.servers import CPU, Server, scratch

SESSIONS, SECONDS = 200_000, 30.0
PINGS_S, RATE, SIZE = "300", 1_000.0, 100
LOGINS_PER_S = 1_000
FULL, FULL_EVERY_S, MOST_S = 3, 0.5, 30.0
"""So many full collections are asked for; how long one may take to be written down."""
WRITES = """\
import gc, os, signal, time
out = os.open(os.environ["BENCH_PAUSES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
began = [0.0, 0.0]
def note(phase, info):
    if phase == "start":
        began[:] = time.perf_counter(), time.thread_time()
    else:
        took = time.perf_counter() - began[0], time.thread_time() - began[1]
        os.write(out, b"%d %.9f %.9f\\n" % (info["generation"], *took))
gc.callbacks.append(note)
signal.signal(signal.SIGUSR2, lambda *_: gc.collect())
"""


class Pause(NamedTuple):
    """One collection; seconds on the clock, and of the processor."""

    generation: int
    wall_s: float
    cpu_s: float


class Pauses:
    """What the node has written down."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def since(self) -> list[Pause]:
        """Those since the last call."""
        lines = self._path.read_text().splitlines()
        new, self._read = lines[self._read :], len(lines)
        return [
            Pause(int(generation), float(wall), float(cpu)) for generation, wall, cpu in map(str.split, new)
        ]


@contextmanager
def written_down(directory: Path) -> Iterator[Pauses]:
    """Python processes that are started meanwhile write their collections down."""
    (directory / "sitecustomize.py").write_text(WRITES)
    path = directory / "pauses"
    path.touch(0o600)
    mine = {"PYTHONPATH": str(directory), "BENCH_PAUSES": str(path)}
    theirs = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    try:
        yield Pauses(path)
    finally:
        for name, value in theirs.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def scene(options: Options, tell: Tell) -> list[Figure]:
    """The longest pause and the 99th percentile: while all log in, afterwards, and of full collections."""
    sessions = options.sessions or SESSIONS
    seconds = options.seconds or SECONDS
    tell.plan(options.runs, 10 + sessions / LOGINS_PER_S + seconds)
    found: dict[str, list[list[Pause]]] = {"empty": [], "logins": [], "traffic": [], "full": []}
    for run in range(options.runs):
        tell.step(f"run {run + 1}/{options.runs}, {sessions:,} sessions over UDP")
        for name, pauses in measured(options, sessions, seconds).items():
            found[name].append(pauses)
    what = f"memory, {sessions:,} UDP sessions"
    return [
        longest(f"{what}: while they log in, the longest pause", found["logins"]),
        longest(f"{what}: with messages and Pings, the longest pause", found["traffic"]),
        longest(f"{what}: a full collection", found["full"], found["empty"]),
    ]


def measured(options: Options, sessions: int, seconds: float) -> dict[str, list[Pause]]:
    """One run."""
    found: dict[str, list[Pause]] = {}
    with scratch() as directory:
        program = built(directory)
        with ExitStack() as stack:
            with written_down(directory) as pauses:  # the node, and nobody who is started later
                node = on_both(directory, "memory:", cpu=None if options.unpinned else CPU)
                server, tcp = stack.enter_context(node)
            pauses.since()
            found["empty"] = full(server, pauses)
            with crowd(program, server, tcp, sessions, PINGS_S, RATE, SIZE) as load:
                load.told()
                found["logins"] = pauses.since()
                for _ in ("the Pings alone", "the messages alone"):
                    load.child.send_signal(signal.SIGUSR1)
                    load.told()
                pauses.since()
                time.sleep(seconds)
                found["traffic"] = pauses.since()
                found["full"] = full(server, pauses)
    return found


def full(server: Server, pauses: Pauses) -> list[Pause]:
    """Full collections, asked for one after the other."""
    found: list[Pause] = []
    for number in range(FULL):
        os.kill(server.pid, signal.SIGUSR2)
        until = time.monotonic() + MOST_S
        while len(found) <= number and time.monotonic() < until:
            time.sleep(FULL_EVERY_S)
            found += [pause for pause in pauses.since() if pause.generation == 2]
    return found


def longest(what: str, runs: Sequence[Sequence[Pause]], empty: Sequence[Sequence[Pause]] = ()) -> Figure:
    """The longest one of each run; percentiles of all of them, and how many there were of each generation."""
    details: dict[str, tuple[float, ...]] = {
        "p50_ms": tuple(percentile_ms(pauses, 50) for pauses in runs),
        "p99_ms": tuple(percentile_ms(pauses, 99) for pauses in runs),
        "max_ms": tuple(percentile_ms(pauses, 100) for pauses in runs),
        "max_cpu_ms": tuple(max((1e3 * one.cpu_s for one in pauses), default=0.0) for pauses in runs),
    }
    for generation in range(3):
        there = tuple(float(sum(one.generation == generation for one in pauses)) for pauses in runs)
        details[f"of_generation_{generation}"] = there
    return Figure(
        scene="pauses",
        what=what,
        unit="ms",
        ours=details["max_ms"],
        against="the same without sessions" if empty else "",
        theirs=tuple(percentile_ms(pauses, 100) for pauses in empty),
        better="less",
        by="value",
        details=details,
    )


def percentile_ms(pauses: Sequence[Pause], percent: int) -> float:
    """On the clock; 0 if there was none."""
    there = sorted(1e3 * one.wall_s for one in pauses)
    return there[min(-(-len(there) * percent // 100), len(there)) - 1] if there else 0.0
