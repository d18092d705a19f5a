"""A measurement that went wrong says so in one line: it does not spin, and shows no figures, no traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import click
import pytest

from bench import redis_bytes
from bench.allocate import results
from bench.appends import Link
from bench.drain import shown
from imgateway.auth.keys import make_secret

pytestmark = pytest.mark.network


def asker(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_an_asker_that_fails() -> None:
    well, ill = 'print("{\\"calls\\": 3, \\"seconds\\": 2.0}")', "raise SystemExit(3)"
    assert results([asker(well), asker(well)]) == [{"calls": 3, "seconds": 2.0}] * 2
    askers = [asker(ill), asker(well), asker(ill)]
    with pytest.raises(click.ClickException, match="2 of 3 askers failed"):
        results(askers)
    assert [one.returncode for one in askers] == [3, 0, 3]


def test_an_asker_whose_router_has_gone(tmp_path: Any) -> None:
    make_secret(str(tmp_path))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = str(nobody.getsockname()[1])
        command = [sys.executable, "-m", "bench.allocate", port, str(tmp_path), "60"]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("the router does not answer: ConnectionRefusedError")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def dying() -> Any:
    """The port of a Redis that takes one connection, and ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_appends_to_a_redis_that_has_gone(dying: socket.socket) -> None:
    link = Link(dying.getsockname()[1])
    dying.accept()[0].close()
    try:
        for call in (lambda: link.replies(), link.received, lambda: link.ask("PING")):
            with pytest.raises(click.ClickException, match="Redis has gone"):
                call()
    finally:
        link.socket.close()


def test_questions_to_a_redis_that_has_gone(dying: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    link = socket.create_connection(dying.getsockname())
    dying.accept()[0].close()
    monkeypatch.setattr(redis_bytes.socket, "create_connection", lambda *arguments: link)
    with pytest.raises(OSError):
        redis_bytes.ask(0, "PING")


def test_a_drain_that_forgot_a_client(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"sent": 9, "kept": 9, "seen": 9, "repeated": 0, "missed": 0, "gaps": 0, "cpu_s": 1.0}
    looks = [(float(second), second * 10.0) for second in range(11)]

    def show(moves: list[tuple[float, float]]) -> None:
        shown([{**counts, "moves": moves}], looks, [1.0, 1.0], 100.0, 10, 100)

    moved = [(0.1 * number, 0.1 * number + 0.5) for number in range(100)]
    show(moved)
    assert "| 100 | 10 | 10 | 0.50 |" in capsys.readouterr().out
    for moves, times in (([], 0), (moved[1:], 99), ([*moved, moved[0]], 101)):
        with pytest.raises(click.ClickException, match=f"100 clients .* came back {times} times"):
            show(moves)
