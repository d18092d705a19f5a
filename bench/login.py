"""Scene login: logins a second over TCP, each of another user with a JWT (HS256) of its own.

A login is connect, Hello, Welcome. The baseline is a program in C that takes whoever greets and answers with
as many bytes, under the same generator (bench/sessions.c): what the kernel and the generator allow. The limit
on logins is out of the way; all else is as by default. So many are under way at a time that no side waits.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from bench.figures import Figure, Options, Tell, store, values, version_of
from bench.generator import generator
from bench.servers import CPU, Server, compiled, cpu_seconds, free_port, gateway, scratch, waiting
from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.config import AuthSettings

ASKED = (12_000, 20_000)
SESSIONS = 15_000
AT_ONCE = 200
BASE = "c"
OPEN = ("limits.login_rate=1000000", "limits.login_burst=1000000")
HOW = {"stay": "all stay", "leave": "each leaves at once"}
LATENCIES = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms")


def scene(options: Options, tell: Tell) -> list[Figure]:
    """A figure for each broker where all stay, and one where each leaves at once."""
    count = options.sessions or SESSIONS
    brokers = options.brokers or ("memory:", "embedded:")
    names = [*(() if options.against == "none" else (BASE,)), *brokers]
    tell.plan(options.runs * len(names), 3 + len(HOW) * (1 + count / 4_000))
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with scratch() as directory:
        program = compiled(directory, "sessions")
        for run in range(options.runs):
            for name in names:
                tell.step(f"run {run + 1}/{options.runs}, {name}")
                with started(program, directory, name, options) as server:
                    for how in HOW:
                        found.setdefault((name, how), []).append(measured(program, server, count, how))
    return [
        figure(options, broker, how, found[broker, how], found.get((BASE, how), []))
        for broker in brokers
        for how in HOW
    ]


def started(program: Path, directory: Path, name: str, options: Options) -> AbstractContextManager[Server]:
    """The baseline, or a node on that broker."""
    cpu = None if options.unpinned else CPU
    if name != BASE:
        return gateway(directory, name, settings=OPEN, cpu=cpu)
    port = free_port()
    return waiting([str(program), "serve", str(port)], port, cpu)


def measured(program: Path, server: Server, count: int, how: str) -> dict[str, Any]:
    """One run of the generator, with users whom nobody has seen; µs of processor time are a login's."""
    lines = credentials(server, how, count) if server.data_dir else "nobody\n" * count
    before = cpu_seconds(server.pid)
    with generator([program, "login", "127.0.0.1", server.port, count, AT_ONCE, how], lines) as load:
        result = load.told()
        spent = cpu_seconds(server.pid) - before, cpu_seconds(load.child.pid)
    return {**result, "cpu_us": spent[0] / count * 1e6, "generator_cpu_us": spent[1] / count * 1e6}


def credentials(server: Server, tag: str, count: int, *services: str) -> str:
    """Tokens, a line each: of the services, then of the users TAG0, TAG1 …"""
    now = time.time()
    made = partial(mint, load_secret(AuthSettings(), server.data_dir), ttl_s=86_400, now_s=now)
    tokens = [made(name, service=True) for name in services]
    tokens += [made(f"{tag}{number}") for number in range(count)]
    return "".join(f"{token}\n" for token in tokens)


def figure(
    options: Options, broker: str, how: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]
) -> Figure:
    """What is asked is asked of sessions that stay, on one core."""
    asked, stretch = ASKED if how == "stay" and not options.unpinned else (None, None)
    details = {key: values(ours, key) for key in (*LATENCIES, "cpu_us", "generator_cpu_us")}
    if theirs:
        details["their_cpu_us"] = values(theirs, "cpu_us")
    return Figure(
        scene="login",
        what=f"{store(broker)}, JWT, {HOW[how]}{', unpinned' if options.unpinned else ''}",
        unit="logins/s",
        ours=values(ours, "rate"),
        against=f"bare accept in C, gcc {version_of('gcc')}" if theirs else "",
        theirs=values(theirs, "rate"),
        asked=asked,
        stretch=stretch,
        by="value",
        details=details,
    )
