"""The servers that a benchmark starts, each pinned to the first core, and stops; and what it compiles."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.config import AuthSettings

CPUS = sorted(os.sched_getaffinity(0))
CPU = CPUS[0]
"""Of the server that is measured, its threads included."""
OTHER_CPU = CPUS[-1]
"""Of the generator, and of what else takes part."""
HERE = Path(__file__).parent
READY_S = 60.0
"""A machine that does much else takes more than ten."""
LISTENS = "0A"
"""The state in /proc/net/tcp."""
PACKAGES = {"gcc": "gcc libc6-dev", "mosquitto": "mosquitto", "redis-server": "redis-server"}
"""Debian's, by program."""


class Server(NamedTuple):
    """A running server."""

    pid: int
    port: int
    data_dir: str = ""
    http: int = 0


def needs(program: str) -> str:
    """Where it is. :raises ClickException: nowhere; says how it gets there."""
    # Debian has servers where a user's PATH does not look.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    if (found := shutil.which(program, path=path)) is None:
        package = PACKAGES.get(program, program)
        raise click.ClickException(f"{program} is not installed: apt-get install {package}")
    return found


def compiled(directory: Path, source: str, *libraries: str) -> Path:
    """A generator, compiled from ``bench/SOURCE.c``, with ``-lLIBRARY`` for each.

    :raises ClickException: there is no compiler, or it refused; what it said.
    """
    program = directory / source
    flags = [f"-l{library}" for library in libraries]
    command = [needs("gcc"), "-O2", "-o", str(program), str(HERE / f"{source}.c"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{source}.c does not compile: {done.stderr.strip()}")
    return program


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory on the disk that the current directory is on: what is measured is that disk."""
    with tempfile.TemporaryDirectory(dir=os.getcwd(), prefix=".bench-") as name:
        yield Path(name)


def pin(cpu: int | None) -> Callable[[], None] | None:
    """For `preexec_fn`: on that core, or wherever there is room."""
    return None if cpu is None else lambda: os.sched_setaffinity(0, {cpu})


def free_port() -> int:
    """A TCP port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str], cpu: int | None = CPU, may_end: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A child on one core (None: on all), ended at the end.

    :param may_end: it ends well when its last client has gone.
    :raises ClickException: it had ended by itself; what it said.
    """
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=pin(cpu),
        )
        try:
            yield child
        finally:
            if child.poll() is not None and not (may_end and child.returncode == 0):
                log.seek(0)
                said = log.read()[-2000:].decode(errors="replace")
                raise click.ClickException(f"{command[0]} ended with {child.returncode}: {said}")
            stop(child)


def listens(port: int) -> bool:
    """Somebody on this machine takes connections at this TCP port, over IPv4."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[3] == LISTENS and int(row[1].partition(":")[2], 16) == port for row in rows)


def stop(child: subprocess.Popen[bytes]) -> None:
    """Politely, then not."""
    child.terminate()
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def mosquitto(directory: Path, cpu: int | None = CPU) -> Iterator[Server]:
    """mosquitto without persistence; no limit that this load would meet, Nagle off as ours is."""
    port = free_port()
    config = directory / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlog_type none\n"
        "max_inflight_messages 0\nmax_queued_messages 0\n"
    )
    with waiting([needs("mosquitto"), "-c", str(config)], port, cpu, may_end=False) as server:
        yield server


@contextmanager
def redis(directory: Path, fsync: str, cpu: int | None = CPU) -> Iterator[Server]:
    """redis-server that keeps everything in its append-only file, in a directory of its own."""
    port = free_port()
    data_dir = directory / f"redis-{port}"
    data_dir.mkdir()
    command = [
        needs("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data_dir),
        "--save", "", "--appendonly", "yes", "--appendfsync", fsync,
    ]  # fmt: skip
    with waiting(command, port, cpu, may_end=False) as server:
        yield server._replace(data_dir=str(data_dir))


@contextmanager
def waiting(command: list[str], port: int, cpu: int | None = CPU, may_end: bool = True) -> Iterator[Server]:
    """A server that may be connected to. The kernel is asked for it: a connection to try it would count.

    :param may_end: as `running` takes it.
    :raises ClickException: it does not listen within `READY_S`, or has ended.
    """
    with running(command, cpu, may_end) as child:
        until = time.monotonic() + READY_S
        while not listens(port):
            if child.poll() is not None or time.monotonic() > until:
                raise click.ClickException(f"{command[0]} does not listen")
            time.sleep(0.05)
        yield Server(child.pid, port)


@contextmanager
def gateway(
    directory: Path,
    broker: str,
    wire: str = "native+tcp",
    settings: tuple[str, ...] = (),
    cpu: int | None = CPU,
    more: tuple[str, ...] = (),
) -> Iterator[Server]:
    """A node on a fresh data directory. `settings`: more, each SECTION.KEY=VALUE; `more`: other words of its
    command line. `cpu` None: not pinned."""
    port, http = free_port(), free_port()
    data_dir = directory / f"data-{port}"
    where = f"127.0.0.1:{port}" if wire.endswith("udp") else f"tcp:{port}:interface=127.0.0.1"
    twistd = str(Path(sys.executable).with_name("twistd"))
    command = [
        twistd, "-n", "--pidfile", str(directory / f"{port}.pid"), "imgateway", "--data-dir", str(data_dir),
        "--broker", broker, "--listen", f"{wire}:{where}",
        "--http", f"tcp:{http}:interface=127.0.0.1", "--set", "log.level=warn",
        "--set", "limits.login_per_source=20000",
        *(word for setting in settings for word in ("--set", setting)), *more,
    ]  # fmt: skip
    with running(command, cpu) as child:
        await_ready(http, child)
        yield Server(child.pid, port, str(data_dir), http)


def await_ready(http: int, child: subprocess.Popen[bytes] | None = None) -> None:
    """Until /readyz is well. :raises ClickException: it is not within `READY_S`, or the server has ended."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if child is not None and child.poll() is not None:
            raise click.ClickException("a server has ended")  # running() says with which words
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz") as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise click.ClickException(f"a server is not ready after {READY_S:.0f} s")


@contextmanager
def router(
    directory: Path, url: str, settings: tuple[str, ...] = (), cpu: int | None = CPU
) -> Iterator[Server]:
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
        await_ready(private, child)
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
