"""``python -m bench room``: one message to many, against the bare loop and against Autobahn.

The servers have one core, the crowd (C, compiled here) the other. What counts is what the members received.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bench.servers import Server, free_port, gateway, measure, rss_bytes, waiting
from bench.stalled import stalled
from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.config import AuthSettings

HERE = Path(__file__).parent
WIRES = {"tcp": ("native", "native+tcp"), "websocket": ("websocket", "native+websocket")}
READY_S = 300


def compiled(directory: Path) -> str:
    """The crowd, compiled from its source."""
    program = directory / "crowd"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / "crowd.c")], check=True)
    return str(program)


def tokens(server: Server, members: int, pair: int) -> str:
    """The publisher is a service, the others are users."""
    secret, now = load_secret(AuthSettings(), server.data_dir), time.time()
    users = [f"pair{index}" for index in range(2 * pair)] + [f"m{index}" for index in range(members)]
    lines = [mint(secret, "publisher", service=True, ttl_s=3600, now_s=now)]
    lines += [mint(secret, user, service=user == "pair0", ttl_s=3600, now_s=now) for user in users]
    return "\n".join(lines) + "\n"


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def crowd(
    program: str, mode: str, server: Server, lines: str, members: int, size: int, seconds: float, *more: Any
) -> dict[str, Any]:
    """One run; `cpu_s` is what the server used from when all were there."""
    command = [program, mode, "127.0.0.1", str(server.port), str(members), str(size), str(seconds)]
    with subprocess.Popen(
        [*command, *map(str, more)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {1}),
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(lines)
        child.stdin.close()
        if members:
            child.stdout.readline()
        before, began = cpu_s(server.pid), time.monotonic()
        line = child.stdout.readline()
        used, took = cpu_s(server.pid) - before, time.monotonic() - began
    if not line:
        raise click.ClickException("the crowd failed")
    result: dict[str, Any] = json.loads(line)
    return {**result, "cpu": used / took}


@contextmanager
def bare(program: str, members: int, size: int) -> Iterator[Server]:
    """The bare loop."""
    port = free_port()
    with waiting([program, "serve", "127.0.0.1", str(port), str(members), str(size)], port) as server:
        yield server


@contextmanager
def autobahn(size: int) -> Iterator[Server]:
    """Autobahn's server."""
    port = free_port()
    with waiting([sys.executable, "-m", "bench.autobahn_room", str(port), str(size)], port) as server:
        yield server


def room_settings(tick_ms: int) -> tuple[str, ...]:
    return (f'rooms.classes=["*: tick={tick_ms}ms entries=1000"]', "rooms.rate=0")


def fan_out(directory: Path, transport: str, members: int, size: int, seconds: float, runs: int) -> None:
    """One message after the other, each as soon as all have the one before."""
    program = compiled(directory)
    mode, wire = WIRES[transport]
    rows: dict[str, list[float]] = {}
    per_cpu: dict[str, list[float]] = {}
    for run in range(runs):
        with gateway(directory, "memory:", wire, room_settings(0)) as server:
            ours = crowd(program, mode, server, tokens(server, members, 0), members, size, seconds)
        payload = round(ours["frame"])
        with bare(program, members, payload) as server:
            base = crowd(program, "raw", server, "", members, payload, seconds)
        found = {"imgateway": ours, "bare send() loop": base}
        if transport == "websocket":
            with autobahn(payload - 2 - 2 * (payload > 127)) as server:
                found["Autobahn, prepared"] = crowd(
                    program, "autobahn", server, "", members, payload, seconds
                )
        for name, result in found.items():
            rows.setdefault(name, []).append(result["deliveries"])
            per_cpu.setdefault(name, []).append(result["deliveries"] / result["cpu"])
            click.echo(f"run {run + 1}/{runs}  {name:20} {result}", err=True)
    click.echo(
        f"| {members:,} members, {transport} | deliveries/s | spread | imgateway ÷ | per CPU-second "
        "| imgateway ÷ |\n" + "|---" * 6 + "|"
    )
    median = {name: statistics.median(rates) for name, rates in rows.items()}
    cpu = {name: statistics.median(rates) for name, rates in per_cpu.items()}
    for name, rates in rows.items():
        spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
        click.echo(
            f"| {name} | {median[name]:,.0f} | {spread} | {median['imgateway'] / median[name]:.2f} "
            f"| {cpu[name]:,.0f} | {cpu['imgateway'] / cpu[name]:.2f} |"
        )


def aggregation(
    directory: Path, transport: str, members: int, size: int, seconds: float, runs: int, rate: float
) -> None:
    """Entries for a second of the server's processor, at so many messages a second: each in a frame of its
    own, and with a tick that gathers them. With more members than it can serve one by one the node gathers by
    itself, and there would be nothing to compare with."""
    program = compiled(directory)
    mode, wire = WIRES[transport]
    found: dict[int, list[dict[str, Any]]] = {0: [], 50: []}
    for run in range(runs):
        for tick_ms, results in found.items():
            with gateway(directory, "memory:", wire, room_settings(tick_ms)) as server:
                lines = tokens(server, members, 0)
                results.append(crowd(program, mode, server, lines, members, size, seconds, rate))
            click.echo(f"run {run + 1}/{runs}  tick {tick_ms} ms  {results[-1]}", err=True)
    click.echo(
        f"| {members:,} members, {transport}, {rate:,.0f} messages/s | entries/s | entries a frame | cores "
        "| entries per CPU-second |\n|---|---|---|---|---|"
    )
    per_cpu = {}
    for tick_ms, results in found.items():
        entries, frames, cores = (
            statistics.median(result[key] for result in results) for key in ("entries", "deliveries", "cpu")
        )
        per_cpu[tick_ms] = statistics.median(result["entries"] / result["cpu"] for result in results)
        click.echo(
            f"| tick {tick_ms} ms | {entries:,.0f} | {entries / frames:.1f} | {cores:.2f} "
            f"| {per_cpu[tick_ms]:,.0f} |"
        )
    click.echo(f"\n{per_cpu[50] / per_cpu[0]:.1f} times the entries for the same time of the processor")


def bystanders(directory: Path, transport: str, members: int, size: int, seconds: float, rate: float) -> None:
    """A pair that has nothing to do with the room: alone, and while the room is served."""
    program = compiled(directory)
    mode, wire = WIRES[transport]
    click.echo(
        "| members | deliveries/s | entries/s | cores | pair p50 | pair p99 | pair max |\n" + "|---" * 7 + "|"
    )
    for count in (0, members):
        with gateway(directory, "memory:", wire, room_settings(50)) as server:
            lines = tokens(server, count, 1)
            found = crowd(program, mode, server, lines, count, size, seconds, rate, 1)
        click.echo(
            f"| {count:,} | {found['deliveries']:,.0f} | {found['entries']:,.0f} | {found['cpu']:.2f} "
            f"| {found['pair_p50_ms']} ms | {found['pair_p99_ms']} ms | {found['pair_max_ms']} ms |"
        )


def stall(directory: Path, size: int, seconds: float, rate: float) -> None:
    """A member of a flooded room that does not read."""
    with gateway(directory, "memory:") as server:
        secret = load_secret(AuthSettings(), server.data_dir)
        before = rss_bytes(server.pid)
        found = stalled(
            server.port,
            lambda user, service: mint(secret, user, service=service, ttl_s=3600, now_s=time.time()),
            lambda: measure(server, "imgateway_held_unsent_bytes"),
            seconds,
            size,
            rate,
        )
        grown = rss_bytes(server.pid) - before
    well, slow = found.well, found.slow
    click.echo("| | reads along | stopped reading |\n|---|---|---|")
    for name, values in (
        (f"messages, of {found.messages:,}", [len(one.shown[0]) for one in (well, slow)]),
        (f"of lane 1, of {len(found.gifts):,}", [len(one.shown[1]) for one in (well, slow)]),
        ("gaps told", [one.gaps[0] for one in (well, slow)]),
        ("gaps told in lane 1", [one.gaps[1] for one in (well, slow)]),
        ("bytes received", [one.bytes for one in (well, slow)]),
    ):
        click.echo(f"| {name} | {values[0]:,} | {values[1]:,} |")
    click.echo(
        f"\nheld for it: {found.held:,.0f} bytes at most; the process grew by {grown:,} bytes; "
        f"caught up in {found.caught_up_s:.1f} s"
    )
