"""Scene soak: what takes long. ``make soak``; its parts:

tcp      18,000 TCP sessions on one process with heartbeats and messages: is memory flat, is one lost?
         (each message is remembered for a day, so that a repeat is known: what has to be flat is the rest)
udp      1,000,000 UDP sessions on one process: memory, a Ping a minute, 10,000 pushes a second
cluster  200,000 TCP sessions over several processes behind one router (bench/soak_cluster.py)

`sessions` makes each part as small as one likes.
"""

from __future__ import annotations

import signal
import time
import tracemalloc
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from bench.datagrams import built, crowd, on_both
from bench.figures import Figure, Options, Tell, shown, store
from bench.generator import generator
from bench.kernel import memory
from bench.login import credentials
from bench.servers import compiled, cpu_seconds, gateway, measure, rss_bytes, scratch
from bench.soak_cluster import SESSIONS as CLUSTER_SESSIONS
from bench.soak_cluster import many_processes
from imgateway.config import BrokerSettings
from imgateway.core.dedup import DIGEST_BYTES, Dedup

PARTS = ("tcp", "udp", "cluster")
TCP_SESSIONS, UDP_SESSIONS = 18_000, 1_000_000
LOGINS_PER_S = {"tcp": 1_500, "udp": 1_000, "cluster": 400}
"""For the time that is told beforehand."""
AT_ONCE, SIZE, RATE = 200, 100, 20.0
SAMPLE_S = 5.0
SETTLED = 0.25
"""The first part of the time, in which memory finds its size."""
FLAT = 0.1
"""Percent of its memory by which a process may grow in a minute and count as flat."""
PUSHES = 10_000.0
PINGS_S = "300,60"
"""The Pings of an interval that one core bears easily, and of the one that is asked for."""
FULL = 0.97
"""Of a core that has no time left, and of what counts as all."""
PART_S = 60.0
"""Of each part of the UDP load, at most."""


def scene(options: Options, tell: Tell) -> list[Figure]:
    """The figures of the parts that are asked for."""
    parts = options.parts or PARTS
    sizes = {"tcp": TCP_SESSIONS, "udp": UDP_SESSIONS, "cluster": CLUSTER_SESSIONS}
    seconds = (options.minutes or 10.0) * 60
    each = {part: (options.sessions or sizes[part]) / LOGINS_PER_S[part] + seconds for part in parts}
    tell.plan(len(parts), sum(each.values()) / len(parts))
    found: list[Figure] = []
    with scratch() as programs:
        # What is missing for it is told now, and not after the part before.
        udp = built(programs) if "udp" in parts else None
        for part in parts:
            sessions = options.sessions or sizes[part]
            tell.step(f"{part}, {sessions:,} sessions, {seconds / 60:g} minutes")
            with scratch() as directory:
                if part == "tcp":
                    broker = (options.brokers or ("embedded:",))[0]
                    found += lasting(directory, broker, sessions, seconds, tell)
                elif part == "udp":
                    assert udp is not None
                    broker = (options.brokers or ("memory:",))[0]
                    found += million(udp, directory, broker, sessions, min(PART_S, seconds), tell)
                else:
                    found += many_processes(directory, sessions, seconds, tell)
    return found


# -------------------------------------------------------------------------------------------------------- TCP


def lasting(directory: Path, broker: str, sessions: int, seconds: float, tell: Tell) -> list[Figure]:
    """Sessions that stay: resident memory all the time, and who was lost."""
    program = compiled(directory, "sessions")
    with gateway(directory, broker) as server:
        lines = credentials(server, "s", sessions, "publisher")
        command = [program, "hold", "127.0.0.1", server.port, sessions, AT_ONCE, RATE, SIZE, 0, "s"]
        empty = rss_bytes(server.pid)
        with generator(command, lines) as load:
            load.told()
            for each in (signal.SIGUSR2, signal.SIGHUP):  # one message to everybody, which is acknowledged
                load.child.send_signal(each)
                load.told()
            began, spent = time.monotonic(), cpu_seconds(server.pid)
            series: list[tuple[float, float]] = []
            linked: list[float] = []
            while (passed := time.monotonic() - began) < seconds:
                series.append((passed, float(rss_bytes(server.pid))))
                linked.append(measure(server, "imgateway_sessions_linked"))
                time.sleep(min(SAMPLE_S, max(seconds - passed, 0.01)))
            share = (cpu_seconds(server.pid) - spent) / (time.monotonic() - began)
            load.child.send_signal(signal.SIGTERM)
            last = load.told()
    tell.note(f"tcp: {last}")
    what = f"{store(broker)}, {sessions:,} TCP sessions, {seconds / 60:g} minutes"
    missing = float(last["lost"] + last["missed"] + last["unheard"] + last["sent"] - last["received"])
    slope, rss = slope_per_min(series), series[-1][1]
    rest = beside_remembered(series, sessions)
    return [
        Figure(
            scene="soak",
            what=f"{what}: lost sessions, messages and answers",
            unit="of all",
            ours=(missing,),
            asked=0.0,
            better="less",
            details={
                **{
                    key: (float(last[key]),)
                    for key in ("lost", "sent", "received", "pings", "p50_ms", "p99_ms", "max_ms")
                },
                "fewest_linked": (min(linked) - 1,),  # one is the publisher
                "cores": (share,),
            },
        ),
        Figure(
            scene="soak",
            what=f"{what}: memory grows by",
            unit="bytes/min",
            ours=(slope,),
            better="less",
            details={
                "rss_bytes": (rss,),
                "percent_per_min": (100 * slope / rss,),
                "bytes_a_message": (slope / (60 * RATE),),
                "bytes_a_session": ((rss - empty) / sessions,),
            },
            series={"rss_bytes": tuple(series), "without_what_is_remembered_bytes": tuple(rest)},
            note=f"{RATE:g} messages a second, each of which is remembered for a day to know it again",
        ),
        Figure(
            scene="soak",
            what=f"{what}: memory beside what is remembered grows by",
            unit="% a minute",
            ours=(100 * slope_per_min(rest) / rss,),
            asked=FLAT,
            better="less",
        ),
    ]


def beside_remembered(series: Sequence[tuple[float, float]], before: int) -> list[tuple[float, float]]:
    """The memory without what is remembered of its messages. `before`: how many there were when it began."""
    remembered = remembered_bytes([before + int(RATE * t) for t, _ in series])
    return [(t, size - known) for (t, size), known in zip(series, remembered, strict=True)]


def remembered_bytes(counts: Sequence[int]) -> list[int]:
    """What the table of repeats takes, as Python allocates it, with so many messages; `counts` rise."""
    found: list[int] = []
    tracemalloc.start()
    try:
        began, _ = tracemalloc.get_traced_memory()
        known: Dedup[None] = Dedup(BrokerSettings().dedup_memory, BrokerSettings().dedup_s * 1000)
        numbers = count(1 << 32)  # as large as seqs are
        for goal in counts:
            while len(known) < goal:
                number = next(numbers)
                known.settle(number.to_bytes(DIGEST_BYTES), number, 0)
            found.append(tracemalloc.get_traced_memory()[0] - began)
    finally:
        tracemalloc.stop()
    return found


def slope_per_min(series: Sequence[tuple[float, float]]) -> float:
    """Of the line through what is left without the beginning, least squares; 0 of fewer than two."""
    there = [one for one in series if one[0] >= SETTLED * series[-1][0]]
    if len(there) < 2:
        return 0.0
    at = sum(t for t, _ in there) / len(there)
    level = sum(value for _, value in there) / len(there)
    return 60 * sum((t - at) * (value - level) for t, value in there) / sum((t - at) ** 2 for t, _ in there)


# -------------------------------------------------------------------------------------------------------- UDP


def million(
    program: Path, directory: Path, broker: str, sessions: int, part_s: float, tell: Tell
) -> list[Figure]:
    """One socket, very many sessions: bytes, and processor time of Pings, of pushes, of both."""
    with on_both(directory, broker) as (server, tcp):
        before, machine = rss_bytes(server.pid), memory()
        with crowd(program, server, tcp, sessions, PINGS_S, PUSHES, SIZE) as load:
            spent = cpu_seconds(server.pid)
            logged_in = load.told()
            login_us = (cpu_seconds(server.pid) - spent) / sessions * 1e6
            at_once = rss_bytes(server.pid) - before
            kernel = memory().since(machine).kernel
            tell.note(
                f"udp: {logged_in}; {at_once / sessions:,.0f} bytes a session, {login_us:.0f} µs a login"
            )
            parts: list[dict[str, Any]] = []
            base = {"pongs": 0, "pings": 0, "received": 0, "sent": 0, "lost": 0, "unheard": 0}
            for then in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM):
                spent, began = cpu_seconds(server.pid), time.monotonic()
                time.sleep(part_s)
                share = (cpu_seconds(server.pid) - spent) / (time.monotonic() - began)
                load.child.send_signal(then)
                told = load.told()
                part = {**told, **{key: told[key] - base[key] for key in base}, "cores": share}
                part["cpu_s"] = cpu_seconds(server.pid) - spent  # with what was under way at the end
                base = {key: told[key] for key in base}
                part["rss_bytes"] = rss_bytes(server.pid)
                parts.append(part)
                tell.note(f"udp: {part}")
    grown = parts[0]["rss_bytes"] - before
    slow, asked, pushes, both = parts
    what = f"{store(broker)}, {sessions:,} UDP sessions"
    return [
        Figure(
            scene="soak",
            what=f"{what}: memory",
            unit="bytes a session",
            ours=(grown / sessions,),
            better="less",
            details={
                "rss_bytes": (float(before + grown),),
                "right_after_the_logins": (at_once / sessions,),
                "after_the_pushes": ((pushes["rss_bytes"] - before) / sessions,),
                "kernel_bytes": (float(kernel),),
                "logins_per_s": (float(logged_in["rate"]),),
                "login_cpu_us": (login_us,),
            },
        ),
        *(
            Figure(
                scene="soak",
                what=f"{what}: a Ping every {every} s, the processor's share",
                unit="% of a core",
                ours=(100 * part["cores"],),
                better="less",
                details={
                    "pings_per_s": (part["pings"] / part["seconds"],),
                    "pongs_per_s": (part["pongs"] / part["seconds"],),
                    "cpu_us": (part["cpu_s"] / max(part["pongs"], 1) * 1e6,),
                    "lost": (float(part["lost"]),),
                },
                note=borne(part),
            )
            for every, part in zip(PINGS_S.split(","), (slow, asked), strict=True)
        ),
        *(
            Figure(
                scene="soak",
                what=f"{what}: {PUSHES:,.0f} pushes/s asked, each to one at random{beside}",
                unit="pushes/s",
                ours=(part["received"] / part["seconds"],),
                details={
                    **{
                        key: (float(part[key]),)
                        for key in ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms")
                    },
                    "cpu_percent": (100 * part["cores"],),
                    "cpu_us": (part["cpu_s"] / max(part["received"], 1) * 1e6,),
                    "lost": (float(part["lost"] + part["sent"] - part["received"]),),
                },
            )
            for beside, part in (("", pushes), (f", with a Ping every {PINGS_S.split(',', 1)[0]} s", both))
        ),
    ]


def borne(part: dict[str, Any]) -> str:
    """What to say of Pings that were more than the core could answer; empty: they were not."""
    if part["cores"] < FULL and part["pongs"] >= FULL * part["pings"] and not part["unheard"]:
        return ""
    answered, asked = (shown(part[key] / part["seconds"]) for key in ("pongs", "pings"))
    return f"more than one core bears: {answered} of {asked} a second"
