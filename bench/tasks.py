"""A push task to many users, through the HTTP API of a real node or of a cluster's router: how long, how
fast, at what cost."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from bench.cluster import cluster
from bench.servers import OTHER_CPU, cpu_seconds, gateway, router, rss_bytes, tokens
from imgateway.router.keys import entry_of, make_key

NDJSON = "application/x-ndjson"
SETTLES_S = 30.0


class Api(NamedTuple):
    """Who serves it, and the processor time of all that count."""

    port: int
    key: str
    pid: int
    cpu: Callable[[], float]


def settings_for(directory: Path, window: int, database: str = "") -> tuple[str, tuple[str, ...]]:
    """An API key, and what the process that serves the API is set to."""
    key, entry = make_key("bench", ["*"], 0.0)
    keys = directory / "keys.toml"
    keys.write_text(entry_of(entry))
    keys.chmod(0o600)
    settings = (f"router.keys_file={keys}", f"router.tasks_window={window}")
    return key, (*settings, f"router.tasks_url={database}") if database else settings


def run(directory: Path, users: int, broker: str, database: str, rate: float, window: int) -> None:
    """Upload, push, report; a table of each. The node has one core, its threads included."""
    key, settings = settings_for(directory, window, database)
    with gateway(directory, broker, settings=settings) as server:
        api = Api(server.http, key, server.pid, lambda: cpu_seconds(server.pid))
        _, report = pushed(api, [f"u{n}" for n in range(users)], rate)
        if report["waiting"] != users:
            raise click.ClickException(f"{users - report['waiting']} users have not got it")


def run_cluster(
    directory: Path, program: Path, users: int, online: int, database: str, rate: float, window: int
) -> None:
    """The same through a router, with `online` of the users logged in at two nodes. The nodes have one core;
    Redis, the router and the clients (C) share the other. Processor time is of all but the clients."""
    key, settings = settings_for(directory, window, database)
    # Those who are there come between those who are not.
    there = [f"on{role}{index}" for index in range(online // 2) for role in "sr"]
    names = [f"u{n}" for n in range(users - len(there))]
    step = users // len(there)
    for n, name in enumerate(there):
        names.insert(n * step, name)
    with (
        cluster(directory, 2, "always") as among,
        router(directory, among.url, settings, OTHER_CPU) as server,
    ):
        command = [str(program), "idle", "127.0.0.1", ",".join(str(node.port) for node in among.nodes)]
        with subprocess.Popen(
            [*command, str(len(there)), "0", "0", "3600", "on"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {OTHER_CPU}),
        ) as clients:  # fmt: skip
            assert clients.stdin is not None
            assert clients.stdout is not None
            clients.stdin.write("".join(f"{t}\n" for t in tokens(among.nodes[0], len(there) // 2, "on")))
            clients.stdin.close()
            click.echo(f"logged in: {clients.stdout.readline().strip()}", err=True)
            api = Api(server.http, key, server.pid, lambda: sum(among.cpu()) + cpu_seconds(server.pid))
            task, report = pushed(api, names, rate)
            until = time.monotonic() + SETTLES_S
            while report["delivered"] < len(there) and time.monotonic() < until:
                time.sleep(1)  # positions are written behind
                report = ask(api, f"/v1/tasks/{task['id']}/report")
            clients.terminate()
            came = json.loads(clients.stdout.readline())
        found = {state: results(api, task["id"], state) for state in ("delivered", "waiting")}
    click.echo(f"then: {json.dumps(report)}\nclients: {json.dumps(came)}")
    if came != {"received": len(there), "twice": 0}:
        raise click.ClickException("not everybody who is online got it, once")
    if found != {"delivered": set(there), "waiting": set(names) - set(there)}:
        raise click.ClickException("the results are not what happened")


def pushed(api: Api, names: list[str], rate: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Upload, push, report; the task and its report."""
    users = len(names)
    lines = "".join(f'{{"user":"{name}"}}\n' for name in names).encode()
    click.echo("| what | seconds | users/s | CPU s | µs a user |\n" + "|---" * 5 + "|")
    while not ready(api):
        time.sleep(0.05)
    began, cpu = time.monotonic(), api.cpu()
    task = ask(api, f"/v1/tasks?text=Hello&rate={rate}", lines)["task"]
    cpu = told(api, "upload", users, began, cpu)
    path = f"/v1/tasks/{task['id']}"
    while (task := ask(api, path))["state"] != "done":
        click.echo(f"{task['state']}: {users - task['unsent']:,} of {users:,}", err=True)
        time.sleep(0.5)
    cpu = told(api, "push", users, task["created_ms"] / 1000 - time.time() + time.monotonic(), cpu)
    began = time.monotonic()
    report = ask(api, f"{path}/report")
    told(api, "report", users, began, cpu)
    peak = f"{rss_bytes(api.pid) / 1e6:.0f} MB resident"
    click.echo(f"\n{json.dumps(report)}\nmemory of the process that runs the task: {peak}")
    return task, report


def results(api: Api, task: str, state: str) -> set[str]:
    """The users who are in that state; none twice."""
    found: list[str] = []
    after: int | None = 0
    while after is not None:
        path = f"/v1/tasks/{task}/results?state={state}&after={after}&limit=10000"
        rows = [json.loads(line) for line in asked(api, path).splitlines()]
        after = rows.pop()["next"] if rows and "next" in rows[-1] else None
        found += [row["to"].removeprefix("user:") for row in rows]
    if len(set(found)) != len(found):
        raise click.ClickException("a user is in the results twice")
    return set(found)


def ready(api: Api) -> bool:
    """The API takes requests."""
    try:
        return "tasks" in ask(api, "/v1/tasks")
    except urllib.error.HTTPError as error:
        return error.code != 503


def told(api: Api, what: str, users: int, began: float, cpu: float) -> float:
    """A row; the processor time until now."""
    now, seconds = api.cpu(), time.monotonic() - began
    spent = now - cpu
    click.echo(
        f"| {what} | {seconds:.1f} | {users / seconds:,.0f} | {spent:.1f} | {spent / users * 1e6:.0f} |"
    )
    return now


def ask(api: Api, path: str, lines: bytes | None = None) -> dict[str, Any]:
    """The answer's JSON."""
    found: dict[str, Any] = json.loads(asked(api, path, lines))
    return found


def asked(api: Api, path: str, lines: bytes | None = None) -> bytes:
    """The answer's body."""
    headers = {"Authorization": f"Bearer {api.key}", **({"Content-Type": NDJSON} if lines else {})}
    request = urllib.request.Request(f"http://127.0.0.1:{api.port}{path}", lines, headers)
    with urllib.request.urlopen(request) as answer:
        body: bytes = answer.read()
    return body
