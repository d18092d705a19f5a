"""Scene p2p: pairs of users who send to each other, at QoS 1 against mosquitto's QoS 1 in memory.

Closed loop: a message counts as done when its sender has the acknowledgement *and* its receiver has the
message; only then does the pair send another. With a rate (open loop) the messages are due when they are due,
and what counts is how late they come. The servers take turns; the generator is bench/pairs.c, over UDP
bench/pairs_udp.c.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from bench.datagrams import built, with_key
from bench.figures import Figure, Options, Tell, shown, store, values, version_of
from bench.generator import paired
from bench.servers import CPU, Server, compiled, cpu_seconds, gateway, mosquitto, scratch, tokens
from imgateway.auth.udp import load_udp_secret
from imgateway.config import UdpSettings

ASKED = {
    ("native", "memory:", 1): (0.60, 0.9),
    ("native", "memory:", 4): (1.0, 1.5),
    ("native", "embedded:", 1): (0.33, 0.45),
    ("native", "embedded:", 4): (0.55, 0.9),
    ("mqtt", "embedded:", 4): (0.50, 0.8),
}
"""Of mosquitto's rate at the same window, over TCP: at least, and how far it could go."""
BASE = "mosquitto"
START_S, WARM_S = 2.0, 1.0
MORE = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms", "cpu_us", "cores")
"""What a run tells beside its rate."""


def scene(options: Options, tell: Tell) -> list[Figure]:
    """A figure for each broker and window; SQLite commits with synchronous=FULL before it acknowledges."""
    brokers = options.brokers or ("memory:", "embedded:")
    windows = (0,) if options.rate else options.windows  # the open loop has none
    base = "" if options.against == "none" else f"{BASE} {version_of(BASE)}, in memory"
    if base and options.transport != "tcp":
        base += ", over TCP"  # as Debian builds it, it has nothing else
    names = [*([BASE] if base else []), *brokers]
    each_s = START_S + len(windows) * (WARM_S + options.seconds)
    tell.plan(options.runs * len(names), each_s)
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with scratch() as directory:
        ours = built(directory, "pairs_udp") if options.transport == "udp" else compiled(directory, "pairs")
        theirs = compiled(directory, "pairs") if base and options.transport == "udp" else ours
        for run in range(options.runs):
            for name in names:
                tell.step(f"run {run + 1}/{options.runs}, {name}")
                load, mode = (theirs, "mqtt") if name == BASE else (ours, spoken(options))
                with started(directory, name, options) as server:
                    for window in windows:
                        result = measured(load, mode, server, options, window)
                        found.setdefault((name, window), []).append(result)
    return [
        figure(options, broker, window, found[broker, window], base, found.get((BASE, window), []))
        for broker in brokers
        for window in windows
    ]


def started(directory: Path, name: str, options: Options) -> AbstractContextManager[Server]:
    """mosquitto, or a node on that broker."""
    cpu = None if options.unpinned else CPU
    if name == BASE:
        return mosquitto(directory, cpu)
    wire = f"{options.protocol.removesuffix('-kept')}+{options.transport}"
    return gateway(directory, name, wire, cpu=cpu)


def spoken(options: Options) -> str:
    """What the generator is to speak: ``native``, ``mqtt+websocket`` …"""
    return options.protocol if options.transport == "tcp" else f"{options.protocol}+{options.transport}"


def measured(program: Path, mode: str, server: Server, options: Options, window: int) -> dict[str, Any]:
    """One run of the generator."""
    # Users of its own: what an earlier run left unread is not counted.
    tag = f"w{window}" if window else f"r{options.rate:.0f}"
    credentials = list(tokens(server, options.pairs, tag)) if server.data_dir else []
    if mode.endswith("+udp"):
        secret = load_udp_secret(UdpSettings(), server.data_dir)
        credentials = [with_key(token, secret) for token in credentials]
    arguments: list[Any] = [
        options.pairs, window, options.size, options.seconds, tag, options.rate, options.qos
    ]  # fmt: skip
    lines = "".join(f"{line}\n" for line in credentials)
    return paired(program, mode, str(server.port), arguments, lines, partial(cpu_seconds, server.pid))


def figure(
    options: Options,
    broker: str,
    window: int,
    ours: list[dict[str, Any]],
    base: str,
    theirs: list[dict[str, Any]],
) -> Figure:
    """Rates in the closed loop, the 99th percentile in the open one."""
    key, unit = ("p99_ms", "ms") if options.rate else ("rate", "messages/s")
    qos = "" if options.qos else ", qos 0"
    unpinned = ", unpinned" if options.unpinned else ""
    load = f"{shown(options.rate)}/s, p99" if options.rate else f"window {window}"
    over = "" if options.transport == "tcp" else f" over {options.transport}"
    asks = options.qos and not options.rate and not options.unpinned and bool(base) and not over
    asked, stretch = ASKED.get((options.protocol, broker, window), (None, None)) if asks else (None, None)
    names = (*MORE, *(("rate", "late_p99_ms") if options.rate else ()), *(() if options.qos else ("lost",)))
    if options.transport == "udp":
        names = (*names, "repeated")
    details = {name: values(ours, name) for name in names}
    for name in ("p50_ms", "p99_ms", "cpu_us", *(() if options.rate else ("cores",))):
        if theirs:
            details[f"their_{name}"] = values(theirs, name)
    return Figure(
        scene="p2p",
        what=f"{options.protocol}{over}{qos}, {store(broker)}, {load}{unpinned}",
        unit=unit,
        ours=values(ours, key),
        against=base,
        theirs=values(theirs, key),
        asked=asked,
        stretch=stretch,
        better="less" if options.rate else "more",
        details=details,
    )
