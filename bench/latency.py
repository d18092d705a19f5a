"""Scene latency: from publish to deliver at half of the most that goes, on SQLite.

First the closed loop says what the most is, on the same server; then the open loop sends half of it at fixed
times, and a message counts from the time at which it was due, also if the load had to wait before it could be
sent: there is no coordinated omission. The baseline is mosquitto's open loop at the same rate, in memory.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from bench.figures import Figure, Options, Tell, shown, store, version_of
from bench.generator import paired
from bench.servers import CPU, Server, compiled, cpu_seconds, gateway, mosquitto, scratch, tokens

ASKED = (10.0, 4.0)
SHARE = 0.5
LATENCIES = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms")
BASE = "mosquitto"


def scene(options: Options, tell: Tell) -> list[Figure]:
    """A figure for each broker, of the open loop; `most` of it is the closed loop's rate."""
    brokers = options.brokers or ("embedded:",)
    window = options.windows[-1]
    cpu = None if options.unpinned else CPU
    against = options.against != "none"
    tell.plan(options.runs * len(brokers), (3 if against else 2) * (2.5 + options.seconds))
    ours: dict[str, list[dict[str, Any]]] = {broker: [] for broker in brokers}
    theirs: dict[str, list[dict[str, Any]]] = {broker: [] for broker in brokers}
    with scratch() as directory:
        program = compiled(directory, "pairs")
        for run in range(options.runs):
            for broker in brokers:
                tell.step(f"run {run + 1}/{options.runs}, {broker}")
                with gateway(directory, broker, cpu=cpu) as server:
                    most = loaded(program, "native", server, options, "most", window, 0)["rate"]
                    if not most:
                        raise click.ClickException("nothing came in the closed loop: too few seconds?")
                    found = loaded(program, "native", server, options, "half", 0, most * SHARE)
                ours[broker].append({**found, "most": most})
                if against:
                    with mosquitto(directory, cpu) as server:
                        theirs[broker].append(
                            loaded(program, "mqtt", server, options, "half", 0, most * SHARE)
                        )
    base = f"{BASE} {version_of(BASE)}, in memory, at the same rate" if against else ""
    return [figure(broker, window, ours[broker], base, theirs[broker], options) for broker in brokers]


def loaded(
    program: Path, mode: str, server: Server, options: Options, tag: str, window: int, rate: float
) -> dict[str, Any]:
    """One run of the generator: closed loop with a window, open loop with a rate."""
    lines = "".join(f"{t}\n" for t in tokens(server, options.pairs, tag)) if server.data_dir else ""
    arguments: list[Any] = [options.pairs, window, options.size, options.seconds, tag, rate]
    return paired(program, mode, str(server.port), arguments, lines, partial(cpu_seconds, server.pid))


def figure(
    broker: str,
    window: int,
    ours: list[dict[str, Any]],
    base: str,
    theirs: list[dict[str, Any]],
    options: Options,
) -> Figure:
    """What is asked counts alone: mosquitto writes nothing to a disk."""
    details = {
        key: tuple(one[key] for one in ours) for key in (*LATENCIES, "late_p99_ms", "rate", "most", "cpu_us")
    }
    for key in LATENCIES if theirs else ():
        details[f"their_{key}"] = tuple(one[key] for one in theirs)
    lost = sum(one["lost"] for one in ours)
    most = sorted(one["most"] for one in ours)[len(ours) // 2]
    asked, stretch = (None, None) if options.unpinned else ASKED
    unpinned = ", unpinned" if options.unpinned else ""
    return Figure(
        scene="latency",
        what=f"{store(broker)}, p99 at {SHARE:.0%} of window {window}'s rate{unpinned}",
        unit="ms",
        ours=tuple(one["p99_ms"] for one in ours),
        against=base,
        theirs=tuple(one["p99_ms"] for one in theirs),
        asked=asked,
        stretch=stretch,
        better="less",
        by="value",
        details=details,
        note=f"{shown(most * SHARE)} of {shown(most)} messages/s"
        + (f"; {lost} did not come" if lost else ""),
    )
