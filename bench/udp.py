"""Scene udp: very many sessions over UDP, each with a Ping now and then: bytes a session, and the processor.

The generator is bench/datagrams.c; all sessions are on one socket of the gateway.
"""

from __future__ import annotations

import signal
import time

from bench.datagrams import AT_ONCE, built, crowd, on_both
from bench.figures import Figure, Options, Tell, store
from bench.servers import CPU, cpu_seconds, rss_bytes, scratch

SESSIONS = 200_000
PING_S = 60.0
LOGINS_PER_S = 1_300
ASKED = (1_200, 700)
"""Bytes a session, at most, and how few it could be."""
SETTLES_S = 2.0
FORGETS_S = 41.0
"""How long the gateway remembers greetings, which are not what a session takes."""


def scene(options: Options, tell: Tell) -> list[Figure]:
    """Bytes a session, Pings a second and their processor time, logins a second."""
    return figures(options, tell, options.seconds, "udp")


def figures(options: Options, tell: Tell, seconds: float, scene: str) -> list[Figure]:
    """The same for the scene that asks."""
    sessions = options.sessions or SESSIONS
    broker = (options.brokers or ("memory:",))[0]
    tell.plan(options.runs, 5 + sessions / LOGINS_PER_S + max(seconds, FORGETS_S))
    found: list[dict[str, float]] = []
    for run in range(options.runs):
        tell.step(f"run {run + 1}/{options.runs}, udp, {sessions:,} sessions, {broker}")
        found.append(measured(options, broker, sessions, seconds))
    what = f"udp, {store(broker)}, {sessions:,} sessions"
    values = {key: tuple(one[key] for one in found) for key in found[0]}
    asked, stretch = ASKED
    return [
        Figure(
            scene=scene,
            what=f"idle session, {what}",
            unit="bytes",
            ours=values["bytes"],
            asked=asked,
            stretch=stretch,
            better="less",
        ),
        Figure(
            scene=scene,
            what=f"{what}, a Ping every {PING_S:.0f} s, the processor's share",
            unit="% of a core",
            ours=tuple(100 * share for share in values["cores"]),
            better="less",
            details={"pings_per_s": values["pings_per_s"]},
        ),
        Figure(
            scene=scene,
            what=f"{what}, logins, {AT_ONCE} at a time",
            unit="logins/s",
            ours=values["logins_per_s"],
        ),
    ]


def measured(options: Options, broker: str, sessions: int, seconds: float) -> dict[str, float]:
    """One run."""
    cpu = None if options.unpinned else CPU
    with scratch() as directory:
        program = built(directory)
        with on_both(directory, broker, cpu=cpu) as (server, tcp):
            before = rss_bytes(server.pid)
            with crowd(program, server, tcp, sessions, f"{PING_S:.0f}") as load:
                logged_in = load.told()
                spent, began = cpu_seconds(server.pid), time.monotonic()
                time.sleep(seconds)
                cores = (cpu_seconds(server.pid) - spent) / (time.monotonic() - began)
                time.sleep(max(FORGETS_S - seconds, 0))
                load.child.send_signal(signal.SIGUSR1)
                pings = load.told()
                time.sleep(SETTLES_S)
                size = rss_bytes(server.pid) - before
    return {
        "bytes": size / sessions,
        "cores": cores,
        "pings_per_s": pings["pongs"] / pings["seconds"],
        "logins_per_s": logged_in["rate"],
    }
