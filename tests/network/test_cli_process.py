"""The command as a process: signals, closed pipes, a gateway that is not there, and how fast it starts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgateway.auth.keys import make_secret

pytestmark = pytest.mark.network

COMMAND = (sys.executable, "-c", "from imgateway.cli import main; main()")


def imgateway(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of somebody who takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def nobody() -> str:
    """The URL of a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"tcp://127.0.0.1:{port}"


@pytest.mark.parametrize("args", [("send", "user:bob", "x"), ("listen",), ("chat",)])
def test_a_gateway_that_is_not_there_is_one_line(nobody: str, args: tuple[str, ...]) -> None:
    done = imgateway(args[0], nobody, "--token", "t", *args[1:], stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {nobody}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_welcome_ends_it(silent: str, number: signal.Signals) -> None:
    command = [*COMMAND, "listen", silent, "--token", "t", "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_connection(process.pid)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (128 + number, "", "")


def wait_for_connection(pid: int) -> None:
    """Until the process has a TCP connection: then its handlers are in place."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        sockets = {os.stat(f"/proc/{pid}/fd/{fd}").st_ino for fd in os.listdir(f"/proc/{pid}/fd")}
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if any(row[3] == "01" and int(row[9]) in sockets for row in rows):
            return
    raise AssertionError("the command did not connect")


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [*COMMAND, "genconfig"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_it_starts_fast(tmp_path: Path) -> None:
    """Generous: on a busy machine only what is badly wrong shows."""
    make_secret(str(tmp_path))
    for args, limit_s in ((("version",), 0.15), (("token", "bob", "--data-dir", str(tmp_path)), 0.3)):
        times = []
        for _ in range(3):
            began = time.monotonic()
            assert imgateway(*args).returncode == 0
            times.append(time.monotonic() - began)
        assert min(times) < 6 * limit_s
