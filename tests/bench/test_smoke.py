"""Tiny runs with real nodes: the whole way from the command to a result. What they find means nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from bench import p2p, room
from bench.figures import Figure, Options
from bench.figures import Result as Measured
from imgateway.cli import main
from tests.bench.quiet import Quiet, at_the_third

pytestmark = [pytest.mark.network, pytest.mark.server]

Run = Callable[[str], tuple[Figure, Result]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a scene that finds one figure, in a directory of its own where nothing may be left."""
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> tuple[Figure, Result]:
        for _ in range(3):
            done = CliRunner().invoke(main, ["bench", *words.split(), "--runs", "1", "--json", "result.json"])
            assert done.exit_code == 0, done.output
            (figure,) = msgspec.json.decode(Path("result.json").read_bytes(), type=Measured).figures
            assert figure.what in done.stdout
            if all(figure.ours + figure.theirs):
                break  # else a busy machine may have stood still for longer than it lasts
        return figure, done

    yield run
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_two_pairs_in_memory_without_a_baseline(run: Run) -> None:
    figure, done = run("p2p --pairs 2 --window 1 --seconds 0.2 --broker memory: --against none")
    assert figure.what == "native, memory, window 1"
    assert figure.value is not None
    assert figure.value > 0
    assert (figure.ratio, figure.asked, figure.mark) == (None, None, "")
    assert 0 < (figure.detail("p50_ms") or 0) <= (figure.detail("max_ms") or 0)
    assert "run 1/1, memory:" in done.stderr


def test_the_open_loop_counts_how_late_messages_come(run: Run) -> None:
    figure, _ = run("p2p --pairs 2 --rate 200 --seconds 0.5 --broker memory: --against none")
    assert figure.what == "native, memory, 200/s, p99"
    assert (figure.unit, figure.better) == ("ms", "less")
    assert figure.ours == figure.details["p99_ms"]
    assert figure.detail("rate") == pytest.approx(200, abs=4)  # what was due, however busy the machine is


@pytest.mark.parametrize("protocol", ["native", "mqtt"])
@pytest.mark.parametrize("size", [20, 300, 65_536], ids=["short", "long", "longest"])
def test_pairs_over_websocket(protocol: str, size: int, run: Run) -> None:
    """Lengths of one, three and nine bytes in WebSocket's heads."""
    words = f"--protocol {protocol} --transport websocket --size {size}"
    figure, _ = run(f"p2p {words} --pairs 2 --window 2 --seconds 0.5 --broker memory: --against none")
    assert figure.what == f"{protocol} over websocket, memory, window 2"
    assert (figure.value or 0) > 0


def test_pairs_over_websocket_in_the_open_loop_without_acknowledgements(run: Run) -> None:
    words = "p2p --transport websocket --pairs 2 --rate 200 --seconds 0.5 --qos 0 --broker memory:"
    figure, _ = run(f"{words} --against none")
    assert figure.what == "native over websocket, qos 0, memory, 200/s, p99"
    assert figure.detail("rate") == pytest.approx(200, abs=4)
    assert figure.details["lost"] == (0.0,)


@pytest.mark.parametrize("transport", ["websocket", "udp"])
def test_the_baseline_of_pairs_over_another_transport_says_what_it_is(transport: str, run: Run) -> None:
    figure, _ = run(f"p2p --transport {transport} --pairs 2 --window 1 --seconds 0.5 --broker memory:")
    assert figure.against.startswith("mosquitto ")
    assert figure.against.endswith(", in memory, over TCP")
    assert (figure.ratio or 0) > 0
    assert figure.asked is None


@pytest.mark.parametrize("size", [20, 1_000], ids=["many in a datagram", "one in a datagram"])
def test_pairs_over_udp(size: int, run: Run) -> None:
    """Of the larger ones what comes together comes in fragments."""
    words = f"p2p --transport udp --size {size} --pairs 2 --window 16 --seconds 0.5 --broker memory:"
    figure, _ = run(f"{words} --against none")
    assert figure.what == "native over udp, memory, window 16"
    assert (figure.value or 0) > 0
    assert figure.asked is None
    assert "repeated" in figure.details


@pytest.mark.parametrize("qos", [0, 1])
def test_pairs_over_udp_in_the_open_loop(qos: int, run: Run) -> None:
    words = f"p2p --transport udp --pairs 2 --rate 200 --seconds 0.5 --qos {qos} --broker memory:"
    figure, _ = run(f"{words} --against none")
    assert figure.what == f"native over udp{'' if qos else ', qos 0'}, memory, 200/s, p99"
    assert figure.detail("rate") == pytest.approx(200, abs=4)
    assert figure.details.get("lost", (0.0,)) == (0.0,)


@pytest.mark.parametrize("transport", ["tcp", "websocket"])
def test_a_room_of_five_beside_its_baseline(transport: str, run: Run) -> None:
    figure, _ = run(f"room --transport {transport} --members 5 --seconds 0.3")
    assert figure.what == f"5 members, {transport}"
    assert figure.against.split()[0] == {"tcp": "bare", "websocket": "Autobahn"}[transport]
    assert (figure.ratio or 0) > 0
    assert set(figure.details) >= {"cpu_us", "their_cpu_us", "their_cores"}


def test_a_room_with_a_tick_beside_one_without(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.room.ALONE", 2.0)  # others may have the core
    figure, _ = run("room --part tick --members 3 --rate 100 --seconds 0.5")
    assert figure.what == "3 members, tcp, 100 messages/s, tick 50 ms"
    assert (figure.unit, figure.asked) == ("entries per CPU-second", 5.0)
    assert (figure.detail("entries_a_frame") or 0) > 1
    assert (figure.ratio or 0) > 0


@at_the_third
def test_a_room_too_large_to_be_served_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(room, "LARGE", 300)  # so many that the crowd takes naps
    monkeypatch.setattr(room, "ALONE", 100.0)
    options = Options(parts=("tick",), seconds=0.5, rate=50.0, runs=1)
    small, large = room.scene(options, Quiet())
    assert (small.against, small.asked) == ("the same without a tick", 5.0)
    assert (large.against, large.asked) == ("one by one, as fast as it goes", None)
    assert large.what == "300 members, tcp, 50 messages/s, tick 50 ms"
    assert large.theirs[0] > 0


def test_a_room_that_is_always_too_busy_to_be_a_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(room, "ALONE", 0.0)
    with pytest.raises(click.ClickException, match="too busy to send one by one"):
        room.scene(Options(parts=("tick",), members=2, seconds=0.2, runs=1), Quiet())


def test_a_pair_beside_a_room(run: Run) -> None:
    figure, _ = run("room --part bystanders --members 3 --rate 50 --seconds 0.5")
    assert figure.what == "a pair beside a room of 3, 50 messages/s, p99"
    assert min(figure.ours + figure.theirs) > 0


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
    with pytest.raises(click.ClickException, match="'nothing:' is no broker"):
        p2p.scene(Options(brokers=("nothing:",), against="none", runs=1), Quiet())
    assert list(tmp_path.iterdir()) == []
