"""``make cluster``: what it starts works together, what dies comes again, and Ctrl-C ends it in order."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.redis_server import free_port

from .nodes import CLI, DEADLINE_S, eventually, imgateway

pytestmark = [pytest.mark.network, pytest.mark.server]

PROGRAM = Path(__file__).parents[2] / "deploy" / "cluster.py"
LINES = re.compile(r"^(?P<name>[\w ]+?) *\| (?P<line>.*)$", re.M)


def free_base() -> int:
    """A number behind which a hundred ports are most likely free: the program itself looks at each."""
    return free_port() // 100 * 100


class Running:
    """The program, and what it has said."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.out = place / "out"
        self.process: Any = None
        for _ in range(5):
            self.base = free_base()
            if self._start():
                return
        raise AssertionError(self.said())

    def _start(self) -> bool:
        """False: one of its ports belongs to somebody."""
        with self.out.open("wb") as out:
            command = [sys.executable, str(PROGRAM), "--dir", str(self.place / "c"), "--base", str(self.base)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        eventually(
            lambda: "Ctrl-C stops it" in self.said() or self.process.poll() is not None, 40, "the start"
        )
        if self.process.poll() is None:
            return True
        assert "is in use; see by whom with:" in self.said(), self.said()
        return False

    def said(self) -> str:
        return self.out.read_text(errors="replace")

    def lines(self) -> list[tuple[str, str]]:
        return [(found["name"], found["line"]) for found in LINES.finditer(self.said())]

    def shown(self, beginning: str) -> str:
        """The command that it tells to try, without the path of the program."""
        (command,) = re.findall(rf"^  \S*imgateway ({beginning} .*)$", self.said(), re.M)
        return str(command)

    def measure(self, offset: int, name: str) -> float:
        page = f"http://127.0.0.1:{self.base + offset}/metrics"
        with urllib.request.urlopen(page, timeout=5) as answer:
            (value,) = re.findall(rf"^{name} (\S+)$", answer.read().decode(), re.M)
        return float(value)

    def end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGTERM):
            if self.process.poll() is None:
                self.process.send_signal(number)
                try:
                    self.process.wait(DEADLINE_S)
                except subprocess.TimeoutExpired:
                    continue
        assert self.process.poll() is not None


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    try:
        yield running
    finally:
        running.end()


def push(cluster: Running, text: str) -> Any:
    """As the line with curl does it."""
    (line,) = re.findall(r"^ +-d '(.*)' (http://\S+)$", cluster.said(), re.M)
    key = (cluster.place / "c" / "api.key").read_text().strip()
    body = {**json.loads(line[0]), "text": text}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    asked = urllib.request.Request(line[1], json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=DEADLINE_S) as answer:
        return json.loads(answer.read())["outcomes"][0]["code"]


def test_from_the_start_to_ctrl_c(cluster: Running) -> None:
    """In one, for starting it takes long."""
    what_it_tells_to_try_works(cluster)
    both_nodes_get_clients_of_the_shared_ports(cluster)
    what_dies_is_started_again(cluster)
    ctrl_c_ends_it_in_order_and_the_messages_stay(cluster)


def what_it_tells_to_try_works(cluster: Running) -> None:
    assert re.fullmatch(r"[\w.~-]+\n", imgateway(*shlex.split(cluster.shown("token"))).stdout)
    listen = [*shlex.split(cluster.shown("listen")), "--count", "3", "--timeout", "20"]
    with subprocess.Popen([*CLI, *listen], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as listener:
        sent = imgateway(*shlex.split(cluster.shown("send")))
        assert json.loads(sent.stdout)["code"] == "OK"
        assert push(cluster, "pushed") == "OK"
        # On the ports that both nodes listen on, and straight to a node that cannot be shared.
        shared = f"tcp://127.0.0.1:{cluster.base + 11}"
        data = ("--data-dir", str(cluster.place / "c" / "nodes"))
        assert imgateway("send", shared, "--user", "eve", *data, "user:bob", "shared").returncode == 0
        out, _ = listener.communicate(timeout=DEADLINE_S)
    assert [json.loads(line)["body"] for line in out.splitlines()] == ["hello", "pushed", "shared"]
    udp = f"udp://127.0.0.1:{cluster.base + 23}"
    assert imgateway("send", udp, "--user", "eve", *data, "user:bob", "datagrams").returncode == 0


def both_nodes_get_clients_of_the_shared_ports(cluster: Running) -> None:
    def accepted() -> list[float]:
        return [cluster.measure(offset, "imgateway_links_accepted_total") for offset in (20, 30)]

    before = accepted()
    for _ in range(40):  # the kernel draws: that one gets none has a chance of 2 in 2 ** 40
        for offset in (11, 12):
            socket.create_connection(("127.0.0.1", cluster.base + offset), 5).close()
    eventually(lambda: sum(accepted()) - sum(before) >= 80, what="80 links")
    assert all(now > then for now, then in zip(accepted(), before, strict=True))


def what_dies_is_started_again(cluster: Running) -> None:
    (pid,) = (
        int(found[1])
        for name, line in cluster.lines()
        if name == "node a" and (found := re.search(r"\blistening\b.* pid=(\d+)", line))
    )
    os.kill(pid, signal.SIGKILL)

    def again() -> bool:
        said = [line for name, line in cluster.lines() if name == "node a"]
        return "ended (-9); it is started again" in said and sum(" listening " in one for one in said) == 2

    eventually(again, what="the second start")
    assert push(cluster, "still there") == "OK"


def ctrl_c_ends_it_in_order_and_the_messages_stay(cluster: Running) -> None:
    cluster.process.send_signal(signal.SIGINT)
    assert cluster.process.wait(DEADLINE_S) == 0
    at = {
        what: max(
            number for number, (name, line) in enumerate(cluster.lines()) if name == who and words in line
        )
        for what, who, words in (
            ("asked", "cluster", "stopping; Ctrl-C again"),
            ("a", "node a", " stopped "),
            ("b", "node b", " stopped "),
            ("router", "router", " stopping"),
            ("redis", "redis", "ready to exit, bye bye"),
        )
    }
    assert at["asked"] < min(at["a"], at["b"]) <= max(at["a"], at["b"]) < at["router"] < at["redis"]
    assert not re.search(r"Traceback|was never", cluster.said())
    assert list((cluster.place / "c" / "redis").rglob("*.aof"))
    assert ((cluster.place / "c" / "api.key").stat().st_mode & 0o777) == 0o600


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, str(PROGRAM), "--dir", str(tmp_path / "c"), "--base", str(port - 63)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    said = re.fullmatch(
        r'cluster: port \d+ is in use; see by whom with:  ss .* ARGS="--base (\d+) --dir \S+/c"\n',
        done.stderr,
    )
    assert said is not None
    assert int(said[1]) != port - 63


def test_a_udp_port_that_is_taken(tmp_path: Path) -> None:
    base = free_base()
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # it would let others share the port
        taken.bind(("127.0.0.1", base + 33))
        assert f"port {base + 33} is in use; see by whom with:  ss -lunp " in refusal(tmp_path / "c", base)


@pytest.mark.parametrize("base", [65_500, -92, 2**40])
def test_a_base_without_its_ports(tmp_path: Path, base: int) -> None:
    assert refusal(tmp_path, base) == (
        "cluster: --base must be from 0 to 65444: ports are BASE+1 to BASE+91\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_directory_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "round").symlink_to(tmp_path / "round")
    base = free_base()
    assert refusal(tmp_path / "file", base) == f"cluster: {tmp_path}/file: File exists\n"
    assert refusal(tmp_path / "file" / "c", base) == f"cluster: {tmp_path}/file/c: Not a directory\n"
    assert "Too many levels of symbolic links" in refusal(tmp_path / "round" / "c", base)
    assert refusal(Path("/proc/c"), base) == "cluster: /proc/c: No such file or directory\n"


def refusal(place: Path, base: int) -> str:
    """The one line with which it ends."""
    command = [sys.executable, str(PROGRAM), "--dir", str(place), "--base", str(base)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_directory_that_is_taken(tmp_path: Path) -> None:
    """Two Redis with one append-only file would ruin it."""
    with (tmp_path / "lock").open("w") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        command = [sys.executable, str(PROGRAM), "--dir", str(tmp_path), "--base", str(free_base())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert re.fullmatch(r"cluster: a cluster runs in \S+ already; .*--base \d+ --dir \S+-2\"\n", done.stderr)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        "names = runpy.run_path(sys.argv[1])\n"
        "names['PACKAGES'] |= {'no-such-program': 'no-such-package'}\n"
        "sys.argv = ['cluster', '--dir', sys.argv[2], '--base', '1000']\n"
        "names['main']()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(PROGRAM), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "cluster: make cluster needs no-such-package:  sudo apt-get install -y no-such-package\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_part_that_does_not_start_ends_the_others(tmp_path: Path) -> None:
    manifest = tmp_path / "redis" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("file x seq 1 type q\n")  # of no kind that Redis knows
    command = [sys.executable, str(PROGRAM), "--dir", str(tmp_path), "--base", str(free_base())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Unknown AOF file type" in done.stdout
    assert done.stderr == "cluster: redis ended; what it said is above\n"
