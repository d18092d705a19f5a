"""``python -m bench cluster-pairs`` and ``cluster-nodes``: QoS 1 from node to node over a real redis-server.

The nodes have one core; Redis and the generator (C) share the other. What counts is processor time, of all
threads and of the children that Redis has for rewriting its file: rates depend on who else is on the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from bench.servers import CPU, Server, cpu_seconds, gateway, redis, tokens
from imgateway.auth.keys import make_secret

OTHER_CPU = 1
IDLE_S = 10.0
"""How long a cluster that has nothing to do is watched."""


class Cluster(NamedTuple):
    """Nodes that share a Redis."""

    nodes: Sequence[Server]
    redis: Server | None
    url: str = ""

    def cpu(self) -> tuple[float, float]:
        """Seconds of processor time so far: of all nodes, of Redis."""
        mine = sum(cpu_seconds(node.pid) for node in self.nodes)
        return mine, cpu_seconds(self.redis.pid) if self.redis else 0.0


@contextmanager
def cluster(
    directory: Path, nodes: int, fsync: str, settings: tuple[str, ...] = (), cpu: int = CPU
) -> Iterator[Cluster]:
    """`nodes` nodes on a Redis with `fsync`, which is also their registry. `cpu`: the nodes' core."""
    make_secret(str(directory))
    secret = directory / "secrets" / "token.key"
    with ExitStack() as stack:
        store = stack.enter_context(redis(directory, fsync, OTHER_CPU))
        url = f"redis://127.0.0.1:{store.port}"
        common = (f"auth.secret_file={secret}", f"registry.url={url}", *settings)
        if fsync != "always":
            common += ("redis.unsafe=true",)
        started = [
            stack.enter_context(gateway(directory, url, settings=(f"node.name=n{n}", *common), cpu=cpu))
            for n in range(nodes)
        ]
        started = [node._replace(data_dir=str(directory)) for node in started]  # where the secret is
        yield Cluster(started, store, url)


@contextmanager
def alone(directory: Path) -> Iterator[Cluster]:
    """The baseline: one node with a store of its own."""
    with gateway(directory, "embedded:") as node:
        yield Cluster([node], None)


def generate(
    program: Path, among: Cluster, pairs: int, window: int, size: int, seconds: float, rate: float
) -> dict[str, Any]:
    """One run; beside what the generator says, µs of processor time a message: `nodes_us`, `redis_us`."""
    tag = f"w{window}-"
    lines = "".join(f"{t}\n" for t in tokens(among.nodes[0], pairs, tag))
    ports = ",".join(str(node.port) for node in among.nodes)
    command = [
        str(program),
        "native",
        "127.0.0.1",
        ports,
        *map(str, (pairs, window, size, seconds, tag, rate)),
    ]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {OTHER_CPU}),
    ) as generator:  # fmt: skip
        assert generator.stdin is not None
        assert generator.stdout is not None
        assert generator.stderr is not None
        generator.stdin.write(lines)
        generator.stdin.close()
        if generator.stderr.readline() != "measuring\n":
            raise click.ClickException("the generator failed")
        before = among.cpu()
        line = generator.stdout.readline()
        after = among.cpu()
        if not line:
            raise click.ClickException(f"the generator failed: {generator.stderr.read().strip()}")
    result: dict[str, Any] = json.loads(line)
    if result["twice"]:
        raise click.ClickException(f"{result['twice']} messages came twice")
    for name, was, now in zip(("nodes_s", "redis_s"), before, after, strict=True):
        result[name] = now - was
        result[name.replace("_s", "_us")] = round((now - was) / max(result["messages"], 1) * 1e6, 1)
    return result


def pairs(
    directory: Path, program: Path, pairs: int, windows: Sequence[int], size: int, seconds: int, runs: int
) -> None:
    """Closed loop between two nodes, with every write on disk before its answer and once a second."""
    kinds = {"two nodes, Redis, `always`": "always", "two nodes, Redis, `everysec`": "everysec"}
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in range(runs):
        for name, fsync in {**kinds, "one node, SQLite": ""}.items():
            with cluster(directory, 2, fsync) if fsync else alone(directory) as among:
                for window in windows:
                    result = generate(program, among, pairs, window, size, seconds, 0)
                    rows.setdefault((name, window), []).append(result)
                    click.echo(f"run {run + 1}/{runs}  {name:30} window {window:2}  {result}", err=True)
    click.echo(
        "| what | window | messages/s | spread | p50 ms | p99 ms | nodes µs | spread | Redis µs | spread |\n"
        + "|---" * 10
        + "|"
    )
    for (name, window), results in rows.items():
        rate, rates = middle(results, "rate", ",.0f")
        nodes, redis_us = middle(results, "nodes_us", ".0f"), middle(results, "redis_us", ".0f")
        p50, p99 = middle(results, "p50_ms", ".1f")[0], middle(results, "p99_ms", ".1f")[0]
        cells = (name, str(window), rate, rates, p50, p99, *nodes, *redis_us)
        click.echo(f"| {' | '.join(cells)} |")


def nodes(
    directory: Path, program: Path, counts: Sequence[int], each: float, pairs: int, seconds: int, runs: int
) -> None:
    """At a low rate, `each` messages a second of every node: does one cost more when there are more nodes?"""
    rows: dict[int, list[dict[str, Any]]] = {}
    for run in range(runs):
        for count in counts:
            with cluster(directory, count, "always") as among:
                time.sleep(2)
                before, began = among.cpu(), time.monotonic()
                time.sleep(IDLE_S)
                idle = [
                    (now - was) / (time.monotonic() - began)
                    for now, was in zip(among.cpu(), before, strict=True)
                ]
                result = generate(program, among, pairs * count, 4, 100, seconds, each * count)
                for name, share in zip(("nodes", "redis"), idle, strict=True):
                    result[f"{name}_idle"] = share * 100
                    result[f"{name}_net"] = (result[f"{name}_s"] - share * seconds) / result["messages"] * 1e6
                rows.setdefault(count, []).append(result)
                click.echo(f"run {run + 1}/{runs}  {count} nodes  {result}", err=True)
    click.echo(
        "| nodes | messages/s | p50 ms | nodes idle | Redis idle | nodes µs | spread | Redis µs | spread |\n"
        + "|---" * 9
        + "|"
    )
    for count, results in rows.items():
        idle_nodes, idle_redis = (middle(results, key, ".1f")[0] for key in ("nodes_idle", "redis_idle"))
        cells = (
            str(count), middle(results, "rate", ",.0f")[0], middle(results, "p50_ms", ".1f")[0],
            f"{idle_nodes} %", f"{idle_redis} %",
            *middle(results, "nodes_net", ".0f"), *middle(results, "redis_net", ".0f"),
        )  # fmt: skip
        click.echo(f"| {' | '.join(cells)} |")


def middle(results: Sequence[dict[str, Any]], key: str, form: str) -> tuple[str, str]:
    """The median and the spread, to be shown."""
    found = [result[key] for result in results]
    return format(statistics.median(found), form), f"{min(found):{form}}–{max(found):{form}}"
