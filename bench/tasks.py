"""A push task to many users, through the HTTP API of a real node: how long, how fast, at what cost."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from bench.servers import Server, cpu_seconds, gateway, rss_bytes
from imgateway.router.keys import entry_of, make_key

NDJSON = "application/x-ndjson"


def run(directory: Path, users: int, broker: str, database: str, rate: float, window: int) -> None:
    """Upload, push, report; a table of each. The node has one core, its threads included."""
    key, entry = make_key("bench", ["*"], 0.0)
    keys = directory / "keys.toml"
    keys.write_text(entry_of(entry))
    keys.chmod(0o600)
    settings = (f"router.keys_file={keys}", f"router.tasks_window={window}")
    if database:
        settings += (f"router.tasks_url={database}",)
    lines = "".join(f'{{"user":"u{n}"}}\n' for n in range(users)).encode()
    click.echo("| what | seconds | users/s | CPU s | µs a user |\n" + "|---" * 5 + "|")
    with gateway(directory, broker, settings=settings) as server:
        while not ready(server, key):
            time.sleep(0.05)
        began, cpu = time.monotonic(), cpu_seconds(server.pid)
        task = ask(server, key, f"/v1/tasks?text=Hello&rate={rate}", lines)["task"]
        cpu = told(server, "upload", users, began, cpu)
        began = time.monotonic()
        path = f"/v1/tasks/{task['id']}"
        while (task := ask(server, key, path))["state"] != "done":
            click.echo(f"{task['state']}: {users - task['unsent']:,} of {users:,}", err=True)
            time.sleep(0.5)
        cpu = told(server, "push", users, task["created_ms"] / 1000 - time.time() + time.monotonic(), cpu)
        began = time.monotonic()
        report = ask(server, key, f"{path}/report")
        told(server, "report", users, began, cpu)
        click.echo(f"\n{json.dumps(report)}\npeak of memory: {rss_bytes(server.pid) / 1e6:.0f} MB resident")
        if report["waiting"] != users:
            raise click.ClickException(f"{users - report['waiting']} users have not got it")


def ready(server: Server, key: str) -> bool:
    """The API takes requests."""
    try:
        return "tasks" in ask(server, key, "/v1/tasks")
    except urllib.error.HTTPError as error:
        return error.code != 503


def told(server: Server, what: str, users: int, began: float, cpu: float) -> float:
    """A row; the processor time until now."""
    now, seconds = cpu_seconds(server.pid), time.monotonic() - began
    spent = now - cpu
    click.echo(
        f"| {what} | {seconds:.1f} | {users / seconds:,.0f} | {spent:.1f} | {spent / users * 1e6:.0f} |"
    )
    return now


def ask(server: Server, key: str, path: str, lines: bytes | None = None) -> dict[str, Any]:
    """The answer's JSON."""
    headers = {"Authorization": f"Bearer {key}", **({"Content-Type": NDJSON} if lines else {})}
    request = urllib.request.Request(f"http://127.0.0.1:{server.http}{path}", lines, headers)
    with urllib.request.urlopen(request) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
