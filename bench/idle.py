"""Scene idle: how much memory a session takes that has logged in and says nothing.

The growth of the process, in user space, by the number of sessions. Over TCP the sessions are those of
bench/pairs.c, over WebSocket of bench/websocket_idle.py, over UDP of bench/datagrams.c, which the scene
udp runs as well.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from bench import udp
from bench.figures import Figure, Options, Tell, store
from bench.generator import generator
from bench.servers import CPU, Server, compiled, gateway, rss_bytes, scratch, tokens

ASKED = {"tcp": (2_000, 1_800), "websocket": (11_000, 6_000), "udp": (1_200, 700)}
"""Bytes, at most, and how few it could be."""
SESSIONS = {"tcp": 10_000, "websocket": 4_000, "udp": 50_000}
LOGINS_PER_S = {"tcp": 1_500, "websocket": 500, "udp": 1_300}
SETTLES_S = 5.0
QUIET = ("session.heartbeat_s=600", "session.dead_s=1200")


def scene(options: Options, tell: Tell) -> list[Figure]:
    """A figure for each broker."""
    if options.transport == "udp":
        seconds = min(options.seconds, SETTLES_S)
        return [found for found in udp.figures(options, tell, seconds, "idle") if found.unit == "bytes"]
    sessions = options.sessions or SESSIONS[options.transport]
    brokers = options.brokers or ("memory:", "embedded:")
    tell.plan(options.runs * len(brokers), 3 + SETTLES_S + sessions / LOGINS_PER_S[options.transport])
    found: dict[str, list[float]] = {}
    with scratch() as directory:
        program = compiled(directory, "pairs") if options.transport == "tcp" else None
        for run in range(options.runs):
            for broker in brokers:
                tell.step(f"run {run + 1}/{options.runs}, {options.transport}, {broker}")
                cpu = None if options.unpinned else CPU
                with gateway(directory, broker, f"native+{options.transport}", QUIET, cpu) as server:
                    found.setdefault(broker, []).append(grown(program, server, sessions))
    asked, stretch = ASKED[options.transport]
    return [
        Figure(
            scene="idle",
            what=f"idle session, {options.transport}, {store(broker)}, {sessions:,} sessions",
            unit="bytes",
            ours=tuple(sizes),
            asked=asked,
            stretch=stretch,
            better="less",
        )
        for broker, sizes in found.items()
    ]


def grown(program: Path | None, server: Server, sessions: int) -> float:
    """By how many bytes a session the server grew."""
    before = rss_bytes(server.pid)
    lines = "".join(f"{t}\n" for t in tokens(server, (sessions + 1) // 2, "i"))
    command: list[Any]
    if program is None:
        command = [sys.executable, "-m", "bench.websocket_idle", server.port, sessions]
    else:
        command = [program, "idle", "127.0.0.1", server.port, sessions, 0, 0, 60, "i"]
    with generator(command, lines) as load:
        ready: int = load.told()["ready"]
        time.sleep(SETTLES_S)
        return (rss_bytes(server.pid) - before) / ready
