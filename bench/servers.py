"""The servers that a benchmark starts, each pinned to the first core, and stops."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.config import AuthSettings

CPU = 0


class Server(NamedTuple):
    """A running server."""

    pid: int
    port: int
    data_dir: str = ""
    http: int = 0


def free_port() -> int:
    """A TCP port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], cpu: int = CPU) -> Iterator[subprocess.Popen[bytes]]:
    """A child on one core, ended at the end. :raises ClickException: it had ended by itself; what it said."""
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        )
        try:
            yield child
        finally:
            if child.poll() is not None:
                log.seek(0)
                said = log.read()[-2000:].decode(errors="replace")
                raise click.ClickException(f"{command[0]} ended with {child.returncode}: {said}")
            stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """Politely, then not."""
    child.terminate()
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def mosquitto(directory: Path) -> Iterator[Server]:
    """mosquitto without persistence; no limit that this load would meet, Nagle off as ours is."""
    port = free_port()
    config = directory / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlog_type none\n"
        "max_inflight_messages 0\nmax_queued_messages 0\n"
    )
    with running(["mosquitto", "-c", str(config)]) as child:
        for _ in range(200):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        yield Server(child.pid, port)


@contextmanager
def redis(directory: Path, fsync: str, cpu: int = CPU) -> Iterator[Server]:
    """redis-server that keeps everything in its append-only file, in a directory of its own."""
    port = free_port()
    data_dir = directory / f"redis-{port}"
    data_dir.mkdir()
    command = [
        "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data_dir), "--save", "",
        "--appendonly", "yes", "--appendfsync", fsync,
    ]  # fmt: skip
    with running(command, cpu) as child:
        for _ in range(200):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        yield Server(child.pid, port, str(data_dir))


@contextmanager
def waiting(command: list[str], port: int) -> Iterator[Server]:
    """A server that may be connected to once it has a log line's time; it is not probed, for it counts."""
    with running(command) as child:
        time.sleep(1)
        yield Server(child.pid, port)


@contextmanager
def gateway(
    directory: Path, broker: str, wire: str = "native+tcp", settings: tuple[str, ...] = (), cpu: int = CPU
) -> Iterator[Server]:
    """A node on a fresh data directory. `settings`: more, each SECTION.KEY=VALUE."""
    port, http = free_port(), free_port()
    data_dir = directory / f"data-{port}"
    where = f"127.0.0.1:{port}" if wire.endswith("udp") else f"tcp:{port}:interface=127.0.0.1"
    twistd = str(Path(sys.executable).with_name("twistd"))
    command = [
        twistd, "-n", "--pidfile", str(directory / f"{port}.pid"), "imgateway", "--data-dir", str(data_dir),
        "--broker", broker, "--listen", f"{wire}:{where}",
        "--http", f"tcp:{http}:interface=127.0.0.1", "--set", "log.level=warn",
        "--set", "limits.login_per_source=20000",
        *(word for setting in settings for word in ("--set", setting)),
    ]  # fmt: skip
    with running(command, cpu) as child:
        await_ready(http)
        yield Server(child.pid, port, str(data_dir), http)


def await_ready(http: int) -> None:
    """Until /readyz is well, some ten seconds at most."""
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz") as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)


@contextmanager
def router(directory: Path, url: str, settings: tuple[str, ...] = (), cpu: int = CPU) -> Iterator[Server]:
    """A router of the cluster whose broker and registry are at `url`, and whose secret `directory` has. Its
    `port` is the public one, `http` the private one."""
    public, private = free_port(), free_port()
    twistd = str(Path(sys.executable).with_name("twistd"))
    command = [
        twistd, "-n", "--pidfile", str(directory / f"{public}.pid"), "imrouter", "--data-dir", str(directory),
        "--broker", url, "--registry", url, "--public", f"tcp:{public}:interface=127.0.0.1",
        "--private", f"tcp:{private}:interface=127.0.0.1", "--set", "log.level=warn",
        *(word for setting in settings for word in ("--set", setting)),
    ]  # fmt: skip
    with running(command, cpu) as child:
        await_ready(private)
        yield Server(child.pid, public, str(directory), private)


def tokens(server: Server, pairs: int, tag: str) -> Iterator[str]:
    """Service tokens (no quotas) for the users TAGs0, TAGr0, TAGs1, TAGr1 …"""
    secret = load_secret(AuthSettings(), server.data_dir)
    for index in range(pairs):
        for role in "sr":
            yield mint(secret, f"{tag}{role}{index}", service=True, ttl_s=3600, now_s=time.time())


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no VmRSS")


def measure(server: Server, name: str) -> float:
    """A gateway's metric now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
