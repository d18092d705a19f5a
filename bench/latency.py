"""Scene latency: from publish to deliver at half of the most that goes, on SQLite.

First the closed loop says what the most is, on the same server; then the open loop sends half of it at fixed
times, and a message counts from the time at which it was due, also if the load had to wait before it could be
sent: there is no coordinated omission. The baseline is mosquitto's open loop at the same rate, in memory.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from bench.figures import Figure, Options, Tell, shown, store, values, version_of
from bench.p2p import measured
from bench.servers import CPU, compiled, gateway, mosquitto, scratch

ASKED = (10.0, 4.0)
SHARE = 0.5
OPEN = 0
"""The window of an open loop: it has none."""
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
                    most = measured(program, "native", server, replace(options, rate=0.0), window)["rate"]
                    half = replace(options, rate=most * SHARE)
                    found = measured(program, "native", server, half, OPEN)
                ours[broker].append({**found, "most": most})
                if against:
                    with mosquitto(directory, cpu) as server:
                        theirs[broker].append(measured(program, "mqtt", server, half, OPEN))
    base = f"{BASE} {version_of(BASE)}, in memory, at the same rate" if against else ""
    return [figure(broker, window, ours[broker], base, theirs[broker], options) for broker in brokers]


def figure(
    broker: str,
    window: int,
    ours: list[dict[str, Any]],
    base: str,
    theirs: list[dict[str, Any]],
    options: Options,
) -> Figure:
    """What is asked counts alone: mosquitto writes nothing to a disk."""
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
