"""The command as a process: signals, closed pipes, a gateway that is not there, and how fast it starts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgateway.auth.keys import make_secret
from imgateway.cli.knock import refuses

pytestmark = pytest.mark.network

COMMAND = (sys.executable, "-c", "from imgateway.cli import main; main()")


def imgateway(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


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
    assert done.stderr == f"Error: nothing listens at {nobody}; is the node running?\n"


def test_a_udp_port_that_nobody_listens_on_is_known(nobody: str) -> None:
    place = nobody.removeprefix("tcp://")
    done = imgateway(
        "send", f"udp://{place}", "--token", "t", "--insecure", "--timeout", "0.2", "user:bob", "x"
    )
    assert (done.returncode, done.stdout) == (1, "")
    said = f"nothing listens at udp://{place}; is the node running, with --listen native+udp:{place}?"
    assert done.stderr == f"Error: {said}\n"


def test_who_takes_datagrams_without_a_word_refuses_nothing() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        assert not refuses("127.0.0.1", port)
    assert refuses("127.0.0.1", port)
    assert not refuses("nowhere.invalid", port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_welcome_ends_it(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        url = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        command = [*COMMAND, "listen", url, "--token", "t", "--wait"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            link, _ = silent.accept()
            with link:
                process.send_signal(number)
                out, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, out, err) == (128 + number, "", "")


CLOCK = """
import time
from imgateway.cli.world import run
async def main(reactor):
    return int(reactor.seconds is not time.monotonic)
raise SystemExit(run(main))
"""


def test_a_clock_that_is_set_back_holds_up_no_command() -> None:
    assert subprocess.run([sys.executable, "-c", CLOCK], check=False).returncode == 0


STUBBORN = """
from twisted.internet.defer import CancelledError, Deferred
from imgateway.cli.world import run
async def main(reactor):
    print("begun", flush=True)
    while True:
        try: await Deferred()
        except CancelledError: print("asked", flush=True)
run(main)
"""


def test_a_second_signal_does_not_ask() -> None:
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for said in ("begun", "asked"):
            assert process.stdout.readline() == f"{said}\n"
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        process.stdout.close()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def node(tmp_path: Path, socket_path: Path) -> Iterator[tuple[str, ...]]:
    """URL and directory of a node, as a command takes them."""
    program = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    make_secret(str(tmp_path))  # the node may need longer to start than a command does
    listen = ("--listen", f"native+tcp:unix:{socket_path}", "--http", "", "--data-dir", str(tmp_path))
    command = [sys.executable, "-c", program, "-n", "--pidfile=", "imgateway", *listen]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        yield f"unix://{socket_path}", "--data-dir", str(tmp_path), "--wait"
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


def test_a_conversation_over_a_node(node: tuple[str, ...]) -> None:
    url, *rest = node
    sent = imgateway("send", url, "user:bob", "-", "--user", "alice", *rest, input="one\ntwo\n")
    assert sent.returncode == 0, sent.stderr
    assert [json.loads(line)["code"] for line in sent.stdout.splitlines()] == ["OK", "OK"]
    talk = imgateway("chat", url, "--user", "alice", *rest, input="bob three\n/quit\n")
    assert (talk.returncode, talk.stdout) == (0, "")
    # What comes after the first is left to the next.
    listen = ["listen", url, "--user", "bob", *rest]
    with subprocess.Popen([*COMMAND, *listen, "--count", "1"], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert json.loads(first.stdout.readline())["body"] == "one"
    assert first.returncode == 0
    heard = imgateway(*listen, "--count", "2", "--timeout", "20")
    assert heard.returncode == 0
    assert [json.loads(line)["body"] for line in heard.stdout.splitlines()] == ["two", "three"]
    process = subprocess.Popen([*COMMAND, *listen], stdout=subprocess.PIPE, text=True)
    try:
        assert imgateway("send", url, "user:bob", "four", "--user", "alice", *rest).returncode == 0
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["body"] == "four"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        process.stdout.close()
    finally:
        process.kill()
        process.wait()


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [*COMMAND, "genconfig"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def spent_by_children_s() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


def test_it_starts_fast(tmp_path: Path) -> None:
    """In processor time, which others on the machine hardly change; only what is badly wrong shows."""
    make_secret(str(tmp_path))
    for args, limit_s in ((("version",), 0.15), (("token", "bob", "--data-dir", str(tmp_path)), 0.3)):
        spent_s = []
        for _ in range(3):
            before_s = spent_by_children_s()
            assert imgateway(*args).returncode == 0
            spent_s.append(spent_by_children_s() - before_s)
        assert 0.0 < min(spent_s) < 6 * limit_s
