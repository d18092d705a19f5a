"""``bench drain``: a node sends its clients to another one while they talk.

The nodes have one core; Redis and the router have the other. The clients, processes in Python with the SDK,
take what is left of both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from bench.cluster import cluster
from bench.servers import OTHER_CPU, Server, cpu_seconds, measure, router
from bench.tasks import Api, ask, settings_for

BEFORE_S, AFTER_S = 3.0, 5.0
"""How long they talk before the drain, and after it."""
LOOK_S = 0.05
DRAINS_S = 120.0


def run(directory: Path, sessions: int, rate: int, load: float, processes: int) -> None:
    """`sessions` clients at one node of two, which drains at `rate` a second; `load` messages a second."""
    key, settings = settings_for(directory, 500)
    with ExitStack() as stack:
        among = stack.enter_context(cluster(directory, 2, "always"))
        server = stack.enter_context(router(directory, among.url, settings, OTHER_CPU))
        api = Api(server.http, key, server.pid, lambda: sum(among.cpu()) + cpu_seconds(server.pid))
        node, other = among.nodes
        each = sessions // processes
        movers = [
            stack.enter_context(
                subprocess.Popen(
                    [
                        sys.executable, "-m", "bench.moving", str(node.port), node.data_dir, f"m{n}-",
                        str(each), str(load / processes),
                    ],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )
            for n in range(processes)
        ]  # fmt: skip
        for mover in movers:
            click.echo(f"logged in: {told(mover)}", err=True)
        say(movers)
        time.sleep(BEFORE_S)
        cpu = among.cpu()
        ask(api, f"/v1/nodes/n0/drain?rate={rate}", b"{}")
        paces = watched(node, each * processes)
        spent = [now - was for now, was in zip(among.cpu(), cpu, strict=True)]
        time.sleep(AFTER_S)
        say(movers)
        results = [told(mover) for mover in movers]
        there = measure(other, "imgateway_sessions")
    shown(results, paces, spent, there, rate, each * processes)


def watched(node: Server, sessions: int) -> list[tuple[float, float]]:
    """(monotonic seconds, how many were told to go) from the first one to the last."""
    looks: list[tuple[float, float]] = []
    end = time.monotonic() + DRAINS_S
    while not looks or looks[-1][1] < sessions:
        if time.monotonic() > end:
            raise click.ClickException(f"the drain does not end: {looks[-1][1]:.0f} of {sessions}")
        looks.append((time.monotonic(), measure(node, "imgateway_drained_links_total")))
        if len(looks) % 20 == 1:
            click.echo(f"told to go: {looks[-1][1]:.0f} of {sessions}", err=True)
        time.sleep(LOOK_S)
    return looks


def shown(
    results: list[dict[str, Any]],
    looks: list[tuple[float, float]],
    spent: list[float],
    there: float,
    rate: int,
    sessions: int,
) -> None:
    """The row; an error if not every client was told to go, once, and came back, if a message was lost or
    came twice, or if the pace was another."""
    moves = sorted(move for result in results for move in result["moves"])
    if len(moves) != sessions:
        raise click.ClickException(f"{sessions} clients were told to go and came back {len(moves)} times")
    away = sorted(up - down for down, up in moves)
    total = {key: sum(result[key] for result in results) for key in results[0] if key != "moves"}
    # Between a tenth and nine tenths: the looks are further apart than the drain is exact.
    last = looks[-1][1]
    inner = [look for look in looks if 0.1 * last <= look[1] <= 0.9 * last]
    pace = (inner[-1][1] - inner[0][1]) / (inner[-1][0] - inner[0][0])
    lost = total["sent"] - total["seen"] + total["missed"]
    click.echo(
        "| sessions | asked | pace | away p50 s | p99 | max | messages | lost | twice |\n" + "|---" * 9 + "|"
    )
    click.echo(
        f"| {len(moves):,} | {rate} | {pace:,.0f} "
        f"| {statistics.median(away):.2f} | {away[int(len(away) * 0.99)]:.2f} | {away[-1]:.2f} "
        f"| {total['sent']:,} | {lost} | {total['repeated']} |"
    )
    click.echo(
        f"\nCPU s meanwhile: nodes {spent[0]:.1f}, Redis {spent[1]:.1f}; the clients in all "
        f"{total['cpu_s']:.1f}\n"
        f"sessions at the other node: {there:,.0f}"
    )
    if lost or total["repeated"] or total["gaps"] or total["kept"] != total["sent"]:
        raise click.ClickException(f"messages were lost or came twice: {total}")
    if abs(pace / rate - 1) > 0.1:
        raise click.ClickException("the pace was another")


def say(movers: list[subprocess.Popen[str]]) -> None:
    """The next part."""
    for mover in movers:
        assert mover.stdin is not None
        mover.stdin.write("\n")
        mover.stdin.flush()


def told(mover: subprocess.Popen[str]) -> dict[str, Any]:
    """What it says next."""
    assert mover.stdout is not None
    line = mover.stdout.readline()
    if not line:
        raise click.ClickException("a generator failed")
    found: dict[str, Any] = json.loads(line)
    return found
