"""The generator's open loop and its histogram: what they tell is what happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.datagrams import built, with_key
from bench.figures import Options
from bench.generator import generator
from bench.latency import scene
from bench.servers import HERE, Server, compiled, gateway, tokens
from imgateway.auth.udp import load_udp_secret
from imgateway.config import UdpSettings
from tests.bench.quiet import Quiet, at_the_third

pytestmark = [pytest.mark.network, pytest.mark.server]

PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p99.9_ms": 99.9, "max_ms": 100.0}
SHOWS = """
#include "histogram.h"
int main(void) {
    static struct histogram h;
    double seconds;
    while (scanf("%lf", &seconds) == 1) count(&h, seconds);
    printf("{");
    print_latencies(stdout, &h);
    printf("}");
    return 0;
}
"""

# A sync takes 20 ms. At the end, on stderr: how many there were, and the bytes written before the last.
SLOW_DISK = """
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static long syncs, written, synced;
ssize_t pwrite(int file, const void *from, size_t len, off_t at) {
    long done = syscall(SYS_pwrite64, file, from, len, at);
    written += done;
    return done;
}
int fdatasync(int file) {
    (void)file;
    usleep(20000);
    syncs++;
    synced = written;
    return 0;
}
__attribute__((destructor)) static void tell(void) { fprintf(stderr, "%ld %ld\\n", syncs, synced); }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("pairs"), "pairs")


@pytest.fixture(scope="module")
def udp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("pairs_udp"), "pairs_udp")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with gateway(tmp_path_factory.mktemp("node"), "memory:", cpu=None) as started:
        yield started


def pairs(program: Path, server: Server, *arguments: object, tag: str) -> subprocess.Popen[str]:
    """Two pairs; `arguments`: window, size, seconds … with TAG for the users' names."""
    window, size, seconds, *more = map(str, arguments)
    child = subprocess.Popen(
        [str(program), "native", "127.0.0.1", str(server.port), "2", window, size, seconds, tag, *more],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    child.stdin.write("".join(f"{token}\n" for token in tokens(server, 2, tag)))
    child.stdin.flush()
    return child


def result(child: subprocess.Popen[str]) -> dict[str, Any]:
    said, complained = child.communicate()
    assert child.returncode == 0, complained
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def measuring(program: Path, server: Server, rate: int, tag: str) -> subprocess.Popen[str]:
    """An open loop that has begun to count, and goes on until it is told to end."""
    child = pairs(program, server, 0, 100, 600, rate, tag=tag)
    assert child.stderr is not None
    assert child.stderr.readline() == "measuring\n"
    return child


def marked(child: subprocess.Popen[str]) -> dict[str, Any]:
    """What was measured so far; from here on anew."""
    assert child.stdout is not None
    child.send_signal(signal.SIGUSR1)
    found: dict[str, Any] = json.loads(child.stdout.readline())
    return found


@contextmanager
def standing_still(server: Server) -> Iterator[None]:
    """The server does nothing meanwhile."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_a_histogram_is_wrong_by_one_percent_at_most(tmp_path: Path) -> None:
    source = tmp_path / "shows.c"
    source.write_text(SHOWS)
    shows = tmp_path / "shows"
    subprocess.run(["gcc", f"-I{HERE}", "-o", str(shows), str(source)], check=True)
    dice = random.Random(7)
    for values in (
        [dice.lognormvariate(-6, 2) for _ in range(10_000)],
        [dice.uniform(1e-6, 2e-6) for _ in range(999)],
        [0.0, 1e-9, 3e-7, 127e-9, 128e-9, 129e-9, 255e-9, 256e-9, 3600.0],
        [0.25],
    ):
        lines = "\n".join(map(repr, values))
        done = subprocess.run([str(shows)], input=lines, capture_output=True, text=True, check=True)
        shown = json.loads(done.stdout)
        there = sorted(values)
        for name, percent in PERCENTILES.items():
            rank = -(-len(there) * percent // 100)
            exact_ms = there[min(int(rank), len(there)) - 1] * 1e3
            assert shown[name] == pytest.approx(exact_ms, rel=0.01, abs=0.001), (name, len(values))


def test_the_open_loop_keeps_its_rate(program: Path, server: Server) -> None:
    found = result(pairs(program, server, 0, 100, 1, 400, tag="r"))
    assert found["messages"] == pytest.approx(400, abs=2)  # what was due, however busy the machine is
    assert found["rate"] == pytest.approx(400, abs=2)
    assert (found["twice"], found["lost"]) == (0, 0)
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["p99.9_ms"] <= found["max_ms"]
    assert found["late_p99_ms"] >= 0


def test_who_has_to_wait_is_counted_from_when_it_was_due(program: Path, server: Server) -> None:
    """A closed loop would send nothing while the server stands still, and have a few late messages."""
    child = measuring(program, server, 400, tag="w")
    with standing_still(server):
        marked(child)  # from here on
        threading.Event().wait(0.6)
        child.send_signal(signal.SIGTERM)  # to here the server stood still
    found = result(child)
    assert found["messages"] > 0.5 * 400
    assert found["lost"] == 0
    assert found["p50_ms"] > 200  # the later ones had to wait less
    assert found["max_ms"] > 500


def test_what_was_measured_so_far(program: Path, server: Server) -> None:
    child = measuring(program, server, 200, tag="s")
    first = next(one for one in iter(partial(marked, child), None) if one["messages"])
    assert first["max_ms"] > 0
    with standing_still(server):
        # What was on its way still comes, and then nothing: each begins anew.
        last = next(one for one in iter(partial(marked, child), None) if not one["messages"])
    assert last["max_ms"] == 0
    child.send_signal(signal.SIGTERM)
    assert result(child)["lost"] == 0


@at_the_third
def test_without_acknowledgements(program: Path, server: Server) -> None:
    closed = result(pairs(program, server, 4, 100, 1, 0, 0, tag="c"))
    assert closed["messages"] > 0
    opened = result(pairs(program, server, 0, 100, 0.5, 200, 0, tag="o"))
    assert opened["messages"] == pytest.approx(100, abs=2)
    assert closed["twice"] == closed["lost"] == opened["twice"] == opened["lost"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0, 100, 1), "without a window there must be a rate"),
        ((1, 15, 1, 0, 0), "QoS 0 is for native and mqtt, with bodies of 16 bytes or more"),
        ((65, 100, 1), "window or size too large"),
    ],
)
def test_what_makes_no_sense(program: Path, arguments: tuple[Any, ...], says: str) -> None:
    refused(program, "native", arguments, says)


@pytest.mark.parametrize("mode", ["mobileimsdk+websocket", "native+udp", "idle+websocket"])
def test_what_the_generator_does_not_speak(program: Path, mode: str) -> None:
    refused(program, mode, (1, 100, 1), "native and mqtt go over WebSocket")


@pytest.mark.parametrize(
    ("mode", "size", "says"),
    [
        ("native", 100, "this one speaks native+udp"),
        ("mqtt+udp", 100, "this one speaks native+udp"),
        ("native+websocket", 100, "this one speaks native+udp"),
        ("native+udp", 1_001, "over UDP a body has at most 1000 bytes"),
    ],
)
def test_what_the_generator_over_udp_does_not_speak(udp: Path, mode: str, size: int, says: str) -> None:
    refused(udp, mode, (1, size, 1), says)


@pytest.mark.parametrize("window", [0, 8])
def test_what_a_bad_line_loses_goes_again(udp: Path, window: int, tmp_path: Path) -> None:
    """Each message comes once, and in the open loop all of them come; in the closed one what is lost holds
    up its own pair, and not for long."""

    def all_came(tag: str) -> bool:
        with gateway(tmp_path, "memory:", "native+udp", cpu=None) as node, bad_line(node.port) as port:
            secret = load_udp_secret(UdpSettings(), node.data_dir)
            lines = "".join(f"{with_key(token, secret)}\n" for token in tokens(node, 4, tag))
            command = [udp, "native+udp", "127.0.0.1", port, 4, window, 100, 2, tag, 100]
            with generator(command, lines, cpu=None) as load:
                load.awaits("measuring")
                found = load.told()
        assert found["repeated"] > 0
        assert (found["twice"], found["lost"]) == (0, 0)
        count: int = found["messages"]
        return count > 60 if window else abs(count - 200) <= 2

    # A busy machine may stand still for most of those two seconds.
    assert any(all_came(tag) for tag in "lmn")


@contextmanager
def bad_line(port: int) -> Iterator[int]:
    """The port of one that loses a tenth of the datagrams to `port`, and of those from there."""
    words = ["link", "--listen", "udp:0", "--to", f"udp:127.0.0.1:{port}", "--loss", "10%", "--seed", "7"]
    command = [sys.executable, "-c", "from imgateway.cli import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stderr is not None
            yield int(child.stderr.readline().split()[0].rpartition(":")[2])
        finally:
            child.terminate()


def refused(program: Path, mode: str, arguments: tuple[Any, ...], says: str) -> None:
    window, size, seconds, *more = map(str, arguments)
    command = [str(program), mode, "127.0.0.1", "1", "2", window, size, seconds, "x", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert says in done.stderr


@at_the_third
def test_the_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    brokers = ("embedded:", "memory:")
    figures = scene(Options(pairs=2, seconds=1.0, runs=1, against="none", brokers=brokers), Quiet())
    assert [figure.what for figure in figures] == [
        f"{name}, p99 at 50% of window {window}'s rate" for name in ("SQLite", "memory") for window in (1, 4)
    ]
    for figure in figures:
        assert (figure.unit, figure.better, figure.by) == ("ms", "less", "value")
        assert (figure.asked, figure.stretch) == (10.0, 4.0)
        most, rate = figure.detail("most"), figure.detail("rate")
        assert most is not None
        assert rate == pytest.approx(most / 2, abs=3)
        assert figure.value == figure.detail("p99_ms")
        assert "did not come" not in figure.note
        bare = figure.detail("disk_messages")
        if figure.what.startswith("SQLite"):
            assert bare == pytest.approx(rate, abs=3)
            assert "; the bare disk " in figure.note
        else:
            assert (bare, "the bare disk" in figure.note) == (None, False)
    assert list(tmp_path.iterdir()) == []


def test_the_bare_disk_syncs_all_that_is_due(tmp_path: Path) -> None:
    program, file = compiled(tmp_path, "disk"), tmp_path / "disk.log"
    slow = tmp_path / "slow.so"
    (tmp_path / "slow.c").write_text(SLOW_DISK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", slow, tmp_path / "slow.c"], check=True)
    done = subprocess.run(
        [program, file, "20000", "1000", "0.5"],
        env={**os.environ, "LD_PRELOAD": str(slow)}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    found = json.loads(done.stdout)
    syncs, synced = map(int, done.stderr.split())
    assert found["messages"] == 10_000
    assert synced == 10_000 * 1_000
    assert syncs == found["syncs"] < 10_000
    assert 10 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert file.stat().st_size == 8 << 20  # it goes round


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("FILE", "10", "100"), 2, "usage: disk FILE RATE SIZE SECONDS"),
        (("FILE", "0", "100", "1"), 2, "a rate above 0"),
        (("FILE", "nan", "100", "1"), 2, "a rate above 0"),
        (("FILE", "inf", "100", "1"), 2, "a rate above 0"),
        (("FILE", "10", "100", "nan"), 2, "for some seconds"),
        (("FILE", "10", "1048577", "1"), 2, "1 to 1048576 bytes"),
        (("nowhere/FILE", "10", "100", "1"), 1, "No such file"),
    ],
)
def test_the_bare_disk_says_what_is_wrong(
    arguments: tuple[str, ...], status: int, says: str, tmp_path: Path
) -> None:
    program = compiled(tmp_path, "disk")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == status
    assert says in done.stderr
