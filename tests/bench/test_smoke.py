"""Tiny runs with real nodes: the whole way from the command to a result. What they find means nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from bench.figures import Figure
from bench.figures import Result as Measured
from imgateway.cli import main

pytestmark = [pytest.mark.network, pytest.mark.server]

Run = Callable[[str], tuple[Figure, Result]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a scene that finds one figure, in a directory of its own where nothing may be left."""
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> tuple[Figure, Result]:
        done = CliRunner().invoke(main, ["bench", *words.split(), "--runs", "1", "--json", "result.json"])
        assert done.exit_code == 0, done.output
        (figure,) = msgspec.json.decode(Path("result.json").read_bytes(), type=Measured).figures
        assert figure.what in done.stdout
        return figure, done

    yield run
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_two_pairs_in_memory_without_a_baseline(run: Run) -> None:
    figure, done = run("p2p --pairs 2 --window 1 --seconds 0.2 --broker memory: --against none")
    assert figure.what == "native, memory, window 1"
    assert figure.value is not None
    assert figure.value > 10
    assert (figure.ratio, figure.asked, figure.mark) == (None, None, "")
    assert 0 < (figure.detail("p50_ms") or 0) <= (figure.detail("max_ms") or 0)
    assert "run 1/1, memory:" in done.stderr


def test_the_open_loop_counts_how_late_messages_come(run: Run) -> None:
    figure, _ = run("p2p --pairs 2 --rate 200 --seconds 0.5 --broker memory: --against none")
    assert figure.what == "native, memory, 200/s, p99"
    assert (figure.unit, figure.better) == ("ms", "less")
    assert figure.ours == figure.details["p99_ms"]
    assert 100 < (figure.detail("rate") or 0) < 300


@pytest.mark.parametrize("transport", ["tcp", "websocket"])
def test_a_room_of_five_beside_its_baseline(transport: str, run: Run) -> None:
    figure, _ = run(f"room --transport {transport} --members 5 --seconds 0.3")
    assert figure.what == f"5 members, {transport}"
    assert figure.against.split()[0] == {"tcp": "bare", "websocket": "Autobahn"}[transport]
    assert (figure.ratio or 0) > 0
    assert set(figure.details) >= {"cpu_us", "their_cpu_us", "their_cores"}


@pytest.mark.parametrize("transport", ["tcp", "websocket", "udp"])
def test_four_idle_sessions(transport: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.idle.SETTLES_S", 0.1)
    monkeypatch.setattr("bench.udp.SETTLES_S", 0.1)
    monkeypatch.setattr("bench.udp.FORGETS_S", 0.1)
    figure, _ = run(f"idle --transport {transport} --sessions 4")
    assert figure.what.startswith(f"idle session, {transport}, memory, 4 sessions")
    assert (figure.unit, figure.better, len(figure.ours)) == ("bytes", "less", 1)


def test_a_server_that_does_not_start_is_told_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "bench p2p --broker nothing: --against none --runs 1".split()
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "'nothing:' is no broker" in done.stderr
    assert list(tmp_path.iterdir()) == []
