"""The servers that a benchmark starts, each pinned to the first core, and stops."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

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
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child on core `CPU`, ended at the end."""
    child = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {CPU}),
    )
    try:
        yield child
    finally:
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
def waiting(command: list[str], port: int) -> Iterator[Server]:
    """A server that may be connected to once it has a log line's time; it is not probed, for it counts."""
    with running(command) as child:
        time.sleep(1)
        yield Server(child.pid, port)


@contextmanager
def gateway(
    directory: Path, broker: str, wire: str = "native+tcp", settings: tuple[str, ...] = ()
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
    with running(command) as child:
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz") as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.05)
        yield Server(child.pid, port, str(data_dir), http)


def tokens(server: Server, pairs: int, tag: str) -> Iterator[str]:
    """Service tokens (no quotas) for the users TAGs0, TAGr0, TAGs1, TAGr1 …"""
    secret = load_secret(AuthSettings(), server.data_dir)
    for index in range(pairs):
        for role in "sr":
            yield mint(secret, f"{tag}{role}{index}", service=True, ttl_s=3600, now_s=time.time())


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
