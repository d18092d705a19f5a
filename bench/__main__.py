"""``python -m bench``: QoS 1 pairs against mosquitto, and the memory of idle sessions.

The server under test is pinned to one core, its threads included; the generator (C, compiled here with gcc)
to another. The servers take turns, `--runs` times, and the medians are compared. Nothing leaves 127.0.0.1.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bench import allocate as allocation
from bench import appends as appending
from bench import cluster, rooms
from bench import drain as draining
from bench import large_room as simulated
from bench import tasks as push_tasks
from bench.compression import measure
from bench.servers import Server, cpu_seconds, gateway, mosquitto, rss_bytes, tokens

HERE = Path(__file__).parent


def compiled(directory: Path) -> Path:
    """The generator, compiled from its source."""
    program = directory / "pairs"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / "pairs.c")], check=True)
    return program


def generate(
    program: Path, cpu: int, mode: str, server: Server, arguments: list[Any], lines: str
) -> dict[str, Any]:
    """One run of the generator; its JSON."""
    command = [str(program), mode, "127.0.0.1", str(server.port), *map(str, arguments)]
    done = subprocess.run(
        command,
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    if done.returncode:
        raise click.ClickException(f"the generator failed: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@click.group()
def main() -> None:
    """Measure imgateway against baselines started in the same run."""


@main.command()
@click.option("--seed", default=7, show_default=True)
@click.option("--entries", default=9_600, show_default=True)
@click.option("--runs", default=5, show_default=True, help="The fastest counts.")
def compression(seed: int, entries: int, runs: int) -> None:
    """Ratio and processor time of zstd, brotli and zlib on a room's chat."""
    for line in measure(seed, entries, runs):
        click.echo(line)


@main.command()
@click.option("--pairs", default=100, show_default=True)
@click.option("--window", "windows", multiple=True, default=(1, 4), show_default=True, type=int)
@click.option("--size", default=100, show_default=True, help="Body bytes.")
@click.option("--seconds", default=5, show_default=True)
@click.option("--runs", default=3, show_default=True)
@click.option(
    "--protocol",
    type=click.Choice(["native", "mobileimsdk", "mqtt", "mqtt-kept"]),
    default="native",
    show_default=True,
)
def pairs(pairs: int, windows: tuple[int, ...], size: int, seconds: int, runs: int, protocol: str) -> None:
    """Closed loop, QoS 1: on SQLite with synchronous=FULL, in memory, and mosquitto in memory."""
    if shutil.which("mosquitto") is None:
        raise click.ClickException("mosquitto is not installed: apt-get install mosquitto")
    with scratch() as directory:
        program = compiled(directory)
        wire = f"{protocol.removesuffix('-kept')}+tcp"
        kinds = {
            "mosquitto, memory": ("mqtt", lambda: mosquitto(directory)),
            "imgateway, SQLite FULL": (protocol, lambda: gateway(directory, "embedded:", wire)),
            "imgateway, memory": (protocol, lambda: gateway(directory, "memory:", wire)),
        }
        rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for run in range(runs):
            for name, (mode, start) in kinds.items():
                with start() as server:
                    for window in windows:
                        tag = f"w{window}"  # users of its own: what an earlier run left unread is not counted
                        lines = (
                            "".join(f"{t}\n" for t in tokens(server, pairs, tag)) if server.data_dir else ""
                        )
                        result = generate(
                            program, 1, mode, server, [pairs, window, size, seconds, tag], lines
                        )
                        rows.setdefault((name, window), []).append(result)
                        click.echo(f"run {run + 1}/{runs}  {name:24} window {window:2}  {result}", err=True)
        table(rows, windows)


def table(rows: dict[tuple[str, int], list[dict[str, Any]]], windows: tuple[int, ...]) -> None:
    """Medians, spread, and the ratio to mosquitto."""
    click.echo(
        "| server | window | messages/s | spread | p50 ms | p99 ms | ÷ mosquitto |\n" + "|---" * 7 + "|"
    )
    for (name, window), results in rows.items():
        rates = [result["rate"] for result in results]
        base = statistics.median(result["rate"] for result in rows["mosquitto, memory", window])
        rate = statistics.median(rates)
        p50, p99 = (statistics.median(result[key] for result in results) for key in ("p50_ms", "p99_ms"))
        spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
        click.echo(
            f"| {name} | {window} | {rate:,.0f} | {spread} | {p50:.2f} | {p99:.2f} | {rate / base:.2f} |"
        )


@main.command()
@click.option("--sessions", default=10_000, show_default=True)
@click.option("--broker", "brokers", multiple=True, default=("memory:", "embedded:"), show_default=True)
def idle(sessions: int, brokers: tuple[str, ...]) -> None:
    """Resident memory per idle TCP session, in user space, after login."""
    click.echo("| broker | idle TCP sessions | bytes per session |\n" + "|---" * 3 + "|")
    with scratch() as directory:
        program = compiled(directory)
        for broker in brokers:
            with gateway(directory, broker) as server:
                ready, size = grown(program, server, sessions)
            click.echo(f"| `{broker}` | {ready:,} | {size / ready:,.0f} |")


@main.command()
@click.option(
    "--members",
    default=0,
    help="0: 5,000 over TCP, 2,000 over WebSocket, 450 with --aggregate, 18,000 with --bystanders.",
)
@click.option("--transport", type=click.Choice(["tcp", "websocket"]), default="tcp", show_default=True)
@click.option("--size", default=100, show_default=True, help="Body bytes.")
@click.option("--seconds", default=5.0, show_default=True)
@click.option("--runs", default=3, show_default=True)
@click.option("--rate", default=200.0, show_default=True, help="Messages a second, with the two below.")
@click.option("--aggregate", is_flag=True, help="Entries per CPU-second with a tick of 50 ms and without.")
@click.option("--bystanders", is_flag=True, help="How long a pair waits that is not in the room.")
def room(
    members: int,
    transport: str,
    size: int,
    seconds: float,
    runs: int,
    rate: float,
    aggregate: bool,
    bystanders: bool,
) -> None:
    """One room: its members' deliveries against a bare send() loop, and against Autobahn's on WebSocket."""
    with scratch() as directory:
        if aggregate:
            rooms.aggregation(directory, transport, members or 450, size, seconds, runs, rate)
        elif bystanders:
            rooms.bystanders(directory, transport, members or 18_000, size, seconds, rate)
        else:
            count = members or (5_000 if transport == "tcp" else 2_000)
            rooms.fan_out(directory, transport, count, size, seconds, runs)


@main.command()
@click.option("--size", default=4_000, show_default=True, help="Body bytes.")
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--rate", default=200.0, show_default=True, help="Messages a second.")
def stalled(size: int, seconds: float, rate: float) -> None:
    """A member of a flooded room stops reading for a while: what is held for it, and what it gets."""
    with scratch() as directory:
        rooms.stall(directory, size, seconds, rate)


@main.command("large-room")
@click.option("--members", default=100_000, show_default=True)
@click.option("--size", default=100, show_default=True, help="Body bytes.")
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--rate", default=20.0, show_default=True, help="Messages a second.")
def large_room(members: int, size: int, seconds: float, rate: float) -> None:
    """A very large room in one process without sockets: time of a slice, memory, how long others wait."""
    simulated.run(members, size, seconds, rate)


@main.command("cluster-pairs")
@click.option("--pairs", default=100, show_default=True)
@click.option("--window", "windows", multiple=True, default=(1, 4, 16), show_default=True, type=int)
@click.option("--size", default=100, show_default=True, help="Body bytes.")
@click.option("--seconds", default=5, show_default=True)
@click.option("--runs", default=3, show_default=True)
def cluster_pairs(pairs: int, windows: tuple[int, ...], size: int, seconds: int, runs: int) -> None:
    """Closed loop, QoS 1, from node to node over Redis: rates, and processor time a message."""
    with scratch() as directory:
        cluster.pairs(directory, compiled(directory), pairs, windows, size, seconds, runs)


@main.command("cluster-nodes")
@click.option("--nodes", "counts", multiple=True, default=(2, 4, 8), show_default=True, type=int)
@click.option("--each", default=50.0, show_default=True, help="Messages a second of each node.")
@click.option("--pairs", default=10, show_default=True, help="Pairs of each node.")
@click.option("--seconds", default=15, show_default=True)
@click.option("--runs", default=3, show_default=True)
def cluster_nodes(counts: tuple[int, ...], each: float, pairs: int, seconds: int, runs: int) -> None:
    """What a QoS 1 message from node to node costs with more and more nodes, at a low rate."""
    with scratch() as directory:
        cluster.nodes(directory, compiled(directory), counts, each, pairs, seconds, runs)


@main.command()
@click.option("--users", default=100_000, show_default=True)
@click.option("--broker", default="embedded:", show_default=True)
@click.option("--database", default="", help="router.tasks_url; empty: SQLite.")
@click.option("--rate", default=0.0, show_default=True, help="Users a second; 0: as fast as it goes.")
@click.option("--window", default=500, show_default=True, help="router.tasks_window.")
@click.option(
    "--online", default=0, show_default=True, help="So many are, at two nodes of a cluster on Redis."
)
def tasks(users: int, broker: str, database: str, rate: float, window: int, online: int) -> None:
    """A push task to many users, over the HTTP API of one node, or with --online of a router."""
    with scratch() as directory:
        if online:
            program = compiled(directory)
            push_tasks.run_cluster(directory, program, users, online, database, rate, window)
        else:
            push_tasks.run(directory, users, broker, database, rate, window)


@main.command()
@click.option("--size", default=140, show_default=True, help="Bytes of a message, with its head.")
@click.option("--seconds", default=2.0, show_default=True)
@click.option("--runs", default=3, show_default=True)
def appends(size: int, seconds: float, runs: int) -> None:
    """What an append costs Redis: one by one, from few and many nodes, and many in a script."""
    with scratch() as directory:
        appending.run(directory, ((1, 1), (8, 1), (64, 1), (8, 20)), size, seconds, runs)


@main.command()
@click.option("--sessions", default=5_000, show_default=True)
@click.option("--rate", default=500, show_default=True, help="Sessions a second that are sent away.")
@click.option("--load", default=500.0, show_default=True, help="Messages a second, meanwhile.")
@click.option("--processes", default=2, show_default=True, help="Of clients.")
def drain(sessions: int, rate: int, load: float, processes: int) -> None:
    """A node of two drains while its clients (SDK) talk: pace, messages lost, how long a client is away."""
    with scratch() as directory:
        draining.run(directory, sessions, rate, load, processes)


@main.command()
@click.option("--nodes", default=3, show_default=True)
@click.option("--seconds", default=5.0, show_default=True)
@click.option("--processes", default=2, show_default=True, help="That ask, each over one connection.")
@click.option("--runs", default=3, show_default=True)
def allocate(nodes: int, seconds: float, processes: int, runs: int) -> None:
    """GET /v1/allocate at one router: calls a second, and what one costs."""
    with scratch() as directory:
        allocation.run(directory, nodes, seconds, processes, runs)


def grown(program: Path, server: Server, sessions: int) -> tuple[int, int]:
    """How many sessions logged in, and by how many bytes the server grew."""
    before = rss_bytes(server.pid)
    lines = "".join(f"{t}\n" for t in tokens(server, (sessions + 1) // 2, "i"))
    command = [str(program), "idle", "127.0.0.1", str(server.port), str(sessions), "0", "0", "20", "i"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as generator:
        assert generator.stdin is not None
        assert generator.stdout is not None
        generator.stdin.write(lines)
        generator.stdin.close()
        ready = json.loads(generator.stdout.readline())["ready"]
        time.sleep(5)
        size = rss_bytes(server.pid) - before
        generator.terminate()
    return ready, size


@main.command("udp-idle")
@click.option("--sessions", default=200_000, show_default=True)
@click.option(
    "--ping", "ping_s", default=60.0, show_default=True, help="Each session pings so often, in seconds."
)
@click.option("--seconds", default=60.0, show_default=True, help="Of Pings that are measured.")
@click.option("--broker", default="memory:", show_default=True)
def udp_idle(sessions: int, ping_s: float, seconds: float, broker: str) -> None:
    """Resident memory and processor time per UDP session that pings now and then."""
    quiet = ("session.heartbeat_s=600", "session.dead_s=1200")
    with scratch() as directory, gateway(directory, broker, "native+udp", quiet) as server:
        before = rss_bytes(server.pid)
        arguments = map(str, (server.port, server.data_dir, sessions, ping_s, seconds))
        command = [sys.executable, "-m", "bench.udp_sessions", *arguments]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {1})
        ) as generator:
            assert generator.stdout is not None
            logged_in = json.loads(generator.stdout.readline())
            cpu, began = cpu_seconds(server.pid), time.monotonic()
            steady = json.loads(generator.stdout.readline())
            share = (cpu_seconds(server.pid) - cpu) / (time.monotonic() - began)
            ready = json.loads(generator.stdout.readline())["ready"]
            time.sleep(2)
            size = rss_bytes(server.pid) - before
            generator.terminate()
    click.echo(
        "| broker | UDP sessions | bytes per session | logins/s | pings/s | of one core |\n"
        + "|---" * 6
        + "|"
    )
    rates = f"{logged_in['logins_per_s']:,} | {steady['pings_per_s']:,} | {share:.0%}"
    click.echo(f"| `{broker}` | {ready:,} | {size / ready:,.0f} | {rates} |")


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory on the disk that the current directory is on: what is measured is that disk."""
    with tempfile.TemporaryDirectory(dir=os.getcwd(), prefix=".bench-") as name:
        yield Path(name)


if __name__ == "__main__":
    sys.exit(main())
