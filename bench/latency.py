"""Scene latency: from publish to deliver at half of the most that goes, on SQLite.

First the closed loop says what the most is, on the same server; then the open loop sends half of it at fixed
times, and a message counts from the time at which it was due, also if the load had to wait before it could be
sent: there is no coordinated omission. At window 1 each message comes alone, as all do in the open loop; at
window 4 four of them share what a read, a write and a commit cost, so half of that rate is more.

The baseline is mosquitto's open loop at the same rate, in memory. Beside it stands the bare disk
(bench/disk.c): as many messages at the same rate, with nothing done but to write and to sync them.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bench.figures import Figure, Options, Tell, shown, spread, store, values, version_of
from bench.generator import generator
from bench.p2p import measured
from bench.servers import CPU, compiled, gateway, mosquitto, scratch

ASKED = (10.0, 4.0)
SHARE = 0.5
OPEN = 0
"""The window of an open loop: it has none."""
LATENCIES = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms")
BASE = "mosquitto"
ON_DISK = "embedded:"
HEAD_BYTES = 30
"""What a log has of a message beside its body, about."""


def scene(options: Options, tell: Tell) -> list[Figure]:
    """A figure for each broker and window, of the open loop; `most` of it is the closed loop's rate."""
    brokers = options.brokers or ("embedded:",)
    cpu = None if options.unpinned else CPU
    against = options.against != "none"
    tell.plan(
        options.runs * len(brokers) * len(options.windows), (4 if against else 3) * (2.0 + options.seconds)
    )
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    theirs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with scratch() as directory:
        program, bare = compiled(directory, "pairs"), compiled(directory, "disk")
        for run in range(options.runs):
            for key in product(brokers, options.windows):
                broker, window = key
                tell.step(f"run {run + 1}/{options.runs}, {broker}, window {window}")
                with gateway(directory, broker, cpu=cpu) as server:
                    most = measured(program, "native", server, replace(options, rate=0.0), window)["rate"]
                    half = replace(options, rate=most * SHARE)
                    ours = measured(program, "native", server, half, OPEN)
                ours["most"] = most
                if broker == ON_DISK:
                    ours |= disk(bare, directory, half, cpu)
                found.setdefault(key, []).append(ours)
                if against:
                    with mosquitto(directory, cpu) as server:
                        theirs.setdefault(key, []).append(measured(program, "mqtt", server, half, OPEN))
    base = f"{BASE} {version_of(BASE)}, in memory, at the same rate" if against else ""
    return [figure(*key, found[key], base, theirs.get(key, []), options) for key in found]


def disk(program: Path, directory: Path, options: Options, cpu: int | None) -> dict[str, Any]:
    """What the bare disk does with as many messages, on the server's core: ``disk_p50_ms`` …"""
    arguments = [directory / "disk.log", options.rate, options.size + HEAD_BYTES, options.seconds]
    with generator([program, *arguments], cpu=cpu) as load:
        return {f"disk_{name}": value for name, value in load.told().items()}


def figure(
    broker: str,
    window: int,
    ours: list[dict[str, Any]],
    base: str,
    theirs: list[dict[str, Any]],
    options: Options,
) -> Figure:
    """What is asked counts alone: mosquitto writes nothing to a disk."""
    on_disk = [f"disk_{key}" for key in (*LATENCIES, "messages", "syncs")] if broker == ON_DISK else []
    names = (*LATENCIES, "late_p99_ms", "rate", "most", "cpu_us", *on_disk)
    details = {name: values(ours, name) for name in names}
    for key in LATENCIES if theirs else ():
        details[f"their_{key}"] = values(theirs, key)
    lost = sum(one["lost"] for one in ours)
    most = sorted(one["most"] for one in ours)[len(ours) // 2]
    asked, stretch = (None, None) if options.unpinned else ASKED
    unpinned = ", unpinned" if options.unpinned else ""
    return Figure(
        scene="latency",
        what=f"{store(broker)}, p99 at {SHARE:.0%} of window {window}'s rate{unpinned}",
        unit="ms",
        ours=values(ours, "p99_ms"),
        against=base,
        theirs=values(theirs, "p99_ms"),
        asked=asked,
        stretch=stretch,
        better="less",
        by="value",
        details=details,
        note=f"{shown(most * SHARE)} of {shown(most)} messages/s"
        + (f"; the bare disk {spread(details['disk_p99_ms'])} ms" if on_disk else "")
        + (f"; {lost} did not come" if lost else ""),
    )
