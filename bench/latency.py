"""Scene latency: from publish to deliver at half of the most that goes, on SQLite.

First the closed loop says what the most is, on the same server; then the open loop sends half of it at fixed
times, and a message counts from the time at which it was due, also if the load had to wait before it could be
sent: there is no coordinated omission. At window 1 each message comes alone, as all do in the open loop; at
window 4 four of them share what a read, a write and a commit cost, so half of that rate is more.

The baseline is the bare disk (bench/disk.c): as many messages at the same rate, with nothing done but to
write and to sync them; or mosquitto's open loop, in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bench.figures import Figure, Options, Tell, shown, store, values, version_of
from bench.generator import generator
from bench.p2p import measured
from bench.servers import CPU, compiled, gateway, mosquitto, scratch

ASKED = (10.0, 4.0)
SHARE = 0.5
OPEN = 0
"""The window of an open loop: it has none."""
LATENCIES = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms")
HEAD_BYTES = 30
"""What a log has of a message beside its body, about."""


def scene(options: Options, tell: Tell) -> list[Figure]:
    """A figure for each broker and window, of the open loop; `most` of it is the closed loop's rate."""
    brokers = options.brokers or ("embedded:",)
    cpu = None if options.unpinned else CPU
    against = options.against or "disk"
    loads = len(brokers) * len(options.windows)
    tell.plan(options.runs * loads, (2 if against == "none" else 3) * (2.5 + options.seconds))
    ours: dict[tuple[str, int], list[dict[str, Any]]] = {}
    theirs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with scratch() as directory:
        program = compiled(directory, "pairs")
        bare = compiled(directory, "disk") if against == "disk" else program
        for run in range(options.runs):
            for broker in brokers:
                for window in options.windows:
                    tell.step(f"run {run + 1}/{options.runs}, {broker}, window {window}")
                    with gateway(directory, broker, cpu=cpu) as server:
                        most = measured(program, "native", server, replace(options, rate=0.0), window)["rate"]
                        half = replace(options, rate=most * SHARE)
                        found = measured(program, "native", server, half, OPEN)
                    ours.setdefault((broker, window), []).append({**found, "most": most})
                    if against == "disk":
                        theirs.setdefault((broker, window), []).append(disk(bare, directory, half, cpu))
                    elif against == "mosquitto":
                        with mosquitto(directory, cpu) as server:
                            result = measured(program, "mqtt", server, half, OPEN)
                        theirs.setdefault((broker, window), []).append(result)
    base = {
        "disk": "the bare disk, at the same rate",
        "mosquitto": f"mosquitto {version_of('mosquitto')}, in memory, at the same rate",
        "none": "",
    }[against]
    return [
        figure(broker, window, ours[broker, window], base, theirs.get((broker, window), []), options)
        for broker in brokers
        for window in options.windows
    ]


def disk(program: Path, directory: Path, options: Options, cpu: int | None) -> dict[str, Any]:
    """One run of the bare disk, on the server's core."""
    arguments = [directory / "disk.log", options.rate, options.size + HEAD_BYTES, options.seconds]
    with generator([program, *arguments], cpu=cpu) as load:
        return load.told()


def figure(
    broker: str,
    window: int,
    ours: list[dict[str, Any]],
    base: str,
    theirs: list[dict[str, Any]],
    options: Options,
) -> Figure:
    """What is asked counts alone: neither baseline does the work."""
    details = {key: values(ours, key) for key in (*LATENCIES, "late_p99_ms", "rate", "most", "cpu_us")}
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
        + (f"; {lost} did not come" if lost else ""),
    )
