"""Scene cluster, and ``bench cluster-nodes``: QoS 1 from node to node over a real redis-server.

The nodes have one core; Redis and the generator (C) share the other. What counts is processor time, of all
threads and of the children that Redis has for rewriting its file: rates depend on who else is on the machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from bench.figures import Figure, Options, Tell, values
from bench.generator import check, generator
from bench.servers import CPU, OTHER_CPU, Server, compiled, cpu_seconds, gateway, redis, scratch, tokens
from imgateway.auth.keys import make_secret

ALONE = "one node, SQLite"
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
    command = [program, "native", "127.0.0.1", ports, pairs, window, size, seconds, tag, rate]
    with generator(command, lines) as load:
        load.awaits("measuring")
        before = among.cpu()
        result = load.told()
        after = among.cpu()
    check(result)
    for name, was, now in zip(("nodes_s", "redis_s"), before, after, strict=True):
        result[name] = now - was
        result[name.replace("_s", "_us")] = round((now - was) / result["messages"] * 1e6, 1)
    return result


def scene(options: Options, tell: Tell) -> list[Figure]:
    """Closed loop between two nodes, with every write on disk before its answer and once a second, beside one
    node with a store of its own."""
    names = ("always", "everysec", "")
    tell.plan(options.runs * len(names), 5 + len(options.windows) * (2 + options.seconds))
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with scratch() as directory:
        program = compiled(directory, "pairs")
        for run in range(options.runs):
            for fsync in names:
                tell.step(f"run {run + 1}/{options.runs}, {f'two nodes, Redis {fsync}' if fsync else ALONE}")
                start: AbstractContextManager[Cluster]
                start = cluster(directory, 2, fsync) if fsync else alone(directory)
                with start as among:
                    for window in options.windows:
                        result = generate(
                            program, among, options.pairs, window, options.size, options.seconds, options.rate
                        )
                        found.setdefault((fsync, window), []).append(result)
    return [
        figure(fsync, window, found[fsync, window], found["", window])
        for fsync in names[:-1]
        for window in options.windows
    ]


def figure(fsync: str, window: int, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> Figure:
    """Messages a second; what counts stands in the details."""
    details = {name: values(ours, name) for name in ("p50_ms", "p99_ms", "nodes_us", "redis_us")}
    return Figure(
        scene="cluster",
        what=f"two nodes, Redis with appendfsync {fsync}, window {window}",
        unit="messages/s",
        ours=values(ours, "rate"),
        against=ALONE,
        theirs=values(theirs, "rate"),
        details={**details, "their_nodes_us": values(theirs, "nodes_us")},
    )


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
