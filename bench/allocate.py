"""``bench allocate``: how many clients a second a router sends to a node."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import click

from bench.cluster import cluster
from bench.servers import OTHER_CPU, cpu_seconds, router
from bench.tasks import settings_for
from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.config import AuthSettings

TOKENS = 1_000
PATH = "/v1/allocate?transport=tcp&protocol=native"


def run(directory: Path, nodes: int, seconds: float, processes: int, runs: int) -> None:
    """`nodes` nodes that do nothing; the router has one core; those who ask (Python) have the other."""
    _, settings = settings_for(directory, 500)
    rates: list[tuple[float, float]] = []
    with (
        cluster(directory, nodes, "always", cpu=OTHER_CPU) as among,
        router(directory, among.url, settings) as server,
    ):
        command = [sys.executable, "-m", "bench.allocate", str(server.port), server.data_dir, str(seconds)]
        for turn in range(runs):
            cpu = cpu_seconds(server.pid)
            askers = [
                subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    text=True,
                    preexec_fn=lambda: os.sched_setaffinity(0, {OTHER_CPU}),
                )
                for _ in range(processes)
            ]
            answered = results(askers)
            calls = sum(one["calls"] for one in answered)
            rates.append(
                (
                    sum(one["calls"] / one["seconds"] for one in answered),
                    (cpu_seconds(server.pid) - cpu) / calls * 1e6,
                )
            )
            click.echo(f"run {turn + 1}/{runs}  {rates[-1][0]:,.0f} calls/s, {rates[-1][1]:.0f} µs", err=True)
    speeds, costs = ([rate[n] for rate in rates] for n in (0, 1))
    click.echo("| nodes | calls/s | spread | router's µs a call | spread |\n" + "|---" * 5 + "|")
    click.echo(
        f"| {nodes} | {statistics.median(speeds):,.0f} | {min(speeds):,.0f}–{max(speeds):,.0f} "
        f"| {statistics.median(costs):.0f} | {min(costs):.0f}–{max(costs):.0f} |"
    )


def results(askers: list[subprocess.Popen[str]]) -> list[dict[str, float]]:
    """What each measured. :raises ClickException: one failed; it said why on stderr. All have ended then."""
    said = [asker.communicate()[0] for asker in askers]
    failed = sum(asker.returncode != 0 for asker in askers)
    if failed:
        raise click.ClickException(f"{failed} of {len(askers)} askers failed")
    return [json.loads(line) for line in said]


def ask(port: int, data_dir: str, seconds: float) -> None:
    """One connection, one call after the other."""
    secret, now = load_secret(AuthSettings(), data_dir), time.time()
    tokens = [mint(secret, f"u{n}", ttl_s=3600, now_s=now) for n in range(TOKENS)]
    connection = HTTPConnection("127.0.0.1", port)
    calls, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            connection.request("GET", PATH, headers={"Authorization": f"Bearer {tokens[calls % TOKENS]}"})
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, HTTPException) as error:
            raise SystemExit(f"the router does not answer: {error!r}") from None
        if answer.status != 200:
            raise SystemExit(said.decode())
        calls += 1
    print(json.dumps({"calls": calls, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    ask(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
