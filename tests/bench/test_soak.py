"""What takes long, in seconds: each part of the soak with a few sessions, and the sums that it makes."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import click
import pytest

from bench import datagrams, pauses, servers, soak, soak_cluster
from bench.figures import Options
from bench.generator import generator
from bench.kernel import Memory, memory, slabs, socket_pages
from bench.login import credentials
from bench.pauses import Pause, Pauses, longest, percentile_ms
from bench.servers import compiled, gateway
from bench.soak import borne, slope_per_min
from tests.bench.quiet import Quiet, at_the_third

pytestmark = [pytest.mark.network, pytest.mark.server]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@at_the_third
def test_sessions_that_stay() -> None:
    lost, slope, rest = soak.scene(Options(sessions=20, minutes=0.03, parts=("tcp",)), Quiet())
    assert lost.ours == (0.0,)
    assert lost.details["fewest_linked"] == (20.0,)
    assert lost.details["sent"][0] > 20
    assert lost.details["sent"] == lost.details["received"]
    whole, without = slope.series.values()
    assert list(slope.series) == ["rss_bytes", "without_what_is_remembered_bytes"]
    assert 1e6 < without[0][1] < whole[0][1]
    assert slope.asked is None
    assert (rest.unit, rest.asked, rest.better) == ("% a minute", soak.FLAT, "less")


def test_what_a_later_part_lacks_is_told_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(directory: Path) -> Path:
        raise click.ClickException("apt-get install libssl-dev")

    begun: list[Path] = []
    monkeypatch.setattr(soak, "built", lacking)
    monkeypatch.setattr(soak, "lasting", lambda directory, *_: begun.append(directory) or [])
    with pytest.raises(click.ClickException, match="libssl-dev"):
        soak.scene(Options(parts=("tcp", "udp")), Quiet())
    assert begun == []
    assert soak.scene(Options(parts=("tcp",)), Quiet()) == []
    assert len(begun) == 1


def test_what_is_compiled_beforehand_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_into: list[Path] = []

    def building(directory: Path) -> Path:
        compiled_into.append(directory)
        (directory / "udp").touch()
        return directory / "udp"

    monkeypatch.setattr(soak, "built", building)
    monkeypatch.setattr(soak, "million", lambda program, *_: [program] if program.exists() else [])
    found: list[object] = [*soak.scene(Options(parts=("udp",)), Quiet())]
    assert found == [compiled_into[0] / "udp"]
    assert len(compiled_into) == 1


def test_who_is_sent_away_is_counted_and_comes_again(tmp_path: Path) -> None:
    program = compiled(tmp_path, "sessions")
    with gateway(tmp_path, "memory:", cpu=None) as server:
        tokens = credentials(server, "s", 3, "publisher")
        hold = [program, "hold", "127.0.0.1", server.port, 3, 3, 0, 100, 0.1, "s"]
        with generator(hold, tokens) as load:
            assert load.told()["ready"] == 3
            first = tokens.splitlines()[1]
            with generator([program, "login", "127.0.0.1", server.port, 1, 1, "stay"], f"{first}\n") as other:
                assert other.told()["ready"] == 1  # the same user and device: s0 has to go
                while not (line := load.told())["lost"]:
                    assert line["sessions"] == 3
                while line["sessions"] < 3:
                    line = load.told()
                with pytest.raises(click.ClickException, match="the same device logged in again"):
                    other.told()
            assert (line["lost"], line["refused"]) == (1, 0)
            load.child.send_signal(signal.SIGTERM)


def test_too_few_tokens(tmp_path: Path) -> None:
    program = compiled(tmp_path, "sessions")
    with (
        generator([program, "login", "127.0.0.1", 1, 2, 1, "stay"], "one\n") as load,
        pytest.raises(click.ClickException, match="too few tokens"),
    ):
        load.told()


@at_the_third
def test_sessions_over_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "PINGS_S", "2,1")
    monkeypatch.setattr(soak, "PUSHES", 100.0)
    figures = soak.scene(Options(sessions=40, minutes=0.03, parts=("udp",)), Quiet())
    size, slow, fast, pushes, both = figures
    assert size.details["logins_per_s"][0] > 1
    assert slow.details["pings_per_s"][0] == pytest.approx(20, rel=0.2)
    assert fast.details["pings_per_s"][0] == pytest.approx(40, rel=0.2)
    for figure in (slow, fast):
        assert figure.details["pongs_per_s"][0] == pytest.approx(figure.details["pings_per_s"][0], rel=0.1)
        assert figure.note == ""
    for figure in (pushes, both):
        assert figure.value == pytest.approx(100, rel=0.2)
        assert figure.details["lost"] == (0.0,)
        assert figure.details["p99_ms"][0] > 0


def test_sessions_at_several_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_cluster, "EACH", 20)
    figures = soak.scene(Options(sessions=40, minutes=0.03, parts=("cluster",)), Quiet())
    lost, nodes, kernel, logins = figures
    assert "2 processes" in lost.what
    assert lost.ours == (0.0,)
    assert lost.details["fewest_linked"] == (40.0,)
    assert logins.details["most_at_a_node"][0] + logins.details["fewest_at_a_node"][0] == 40
    assert nodes.unit == kernel.unit == "bytes a session"


def test_more_at_one_node_than_there_are_descriptors_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_cluster, "MOST", 3)
    with pytest.raises(click.ClickException, match="sent 4 to one process"):
        soak.scene(Options(sessions=4, minutes=0.01, parts=("cluster",)), Quiet())


@at_the_third
def test_pauses_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "FULL_EVERY_S", 0.05)
    logins, traffic, full = pauses.scene(Options(sessions=20, seconds=0.2, runs=1), Quiet())
    assert full.details["of_generation_2"][0] >= pauses.FULL
    assert 0 < full.details["p50_ms"][0] <= full.details["max_ms"][0] == full.ours[0]
    assert full.theirs[0] > 0
    assert not logins.theirs + traffic.theirs


def test_a_slope() -> None:
    assert slope_per_min([(float(t), 1e6 + 100 * t) for t in range(0, 60, 5)]) == pytest.approx(6_000)
    # What a process grows by when it begins does not count.
    level = [(0.0, 0.0), (1.0, 500.0), *((float(t), 700.0) for t in range(10, 40))]
    assert slope_per_min(level) == pytest.approx(0)
    assert slope_per_min([(0.0, 5.0)]) == 0


def test_growth_by_what_is_remembered_counts_as_flat() -> None:
    times = [float(t) for t in range(0, 601, 5)]
    known = soak.remembered_bytes([18_000 + int(soak.RATE * t) for t in times])
    assert 60 < (known[-1] - known[0]) / (soak.RATE * 600) < 250  # bytes a message
    assert known == sorted(known)
    grown = [(t, 50e6 + size) for t, size in zip(times, known, strict=True)]
    assert slope_per_min(grown) > 1_000
    assert slope_per_min(soak.beside_remembered(grown, 18_000)) == pytest.approx(0, abs=10)
    leaking = [(t, size + 1_000 * t) for t, size in grown]
    assert slope_per_min(soak.beside_remembered(leaking, 18_000)) == pytest.approx(60_000, rel=0.01)


def test_pings_that_are_too_many() -> None:
    well = {"cores": 0.3, "pings": 1_000, "pongs": 998, "unheard": 0, "seconds": 2.0}
    assert borne(well) == ""
    for ill in ({"cores": 0.99}, {"pongs": 900}, {"unheard": 1}):
        assert borne({**well, **ill}).startswith("more than one core bears: ")
    assert "450 of 500 a second" in borne({**well, "pongs": 900})


def test_what_the_kernel_has(tmp_path: Path) -> None:
    assert (
        socket_pages("sockets: used 9\nTCP: inuse 2 orphan 0 tw 3 alloc 4 mem 17\nUDP: inuse 0 mem 1\n") == 17
    )
    assert socket_pages("sockets: used 9\n") == 0
    (tmp_path / "slabinfo").write_text(
        "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n"
        "TCP 3 13 2368 13 8 : tunables 0\nanon 1 2 3\n"
    )
    assert slabs(tmp_path / "slabinfo") == {"TCP": 13 * 2368}
    assert slabs(tmp_path / "nowhere") == {}
    now = memory()
    assert now.available > now.kernel > 1e6
    before, after = Memory(100, 10, 1, 20, {"TCP": 5}), Memory(60, 30, 2, 25, {"TCP": 9})
    assert after.since(before) == Memory(40, 20, 1, 5, {"TCP": 4})


def test_percentiles_of_pauses(tmp_path: Path) -> None:
    assert percentile_ms([], 99) == 0
    hundred = [Pause(0, n / 1e3, 0.0) for n in range(100, 0, -1)]
    assert [percentile_ms(hundred, percent) for percent in (1, 50, 99, 100)] == pytest.approx(
        [1, 50, 99, 100]
    )
    path = tmp_path / "pauses"
    path.write_text("2 0.5 0.25\n")
    pauses = Pauses(path)
    assert pauses.since() == [Pause(2, 0.5, 0.25)]
    path.write_text("2 0.5 0.25\n0 0.001 0.001\n")
    assert pauses.since() == [Pause(0, 0.001, 0.001)]
    figure = longest("what", [[Pause(2, 0.5, 0.25), Pause(0, 0.1, 0.1)], []])
    assert figure.ours == (500.0, 0.0)
    assert figure.details["max_cpu_ms"] == (250.0, 0.0)
    assert figure.details["of_generation_2"] == (1.0, 0.0)


@pytest.mark.parametrize(
    ("complaint", "says"),
    [
        ("fatal error: openssl/evp.h: No such file", "apt-get install libssl-dev"),
        ("ld: cannot find -lcrypto", "apt-get install libssl-dev"),
        ("error: expected ';'", "error: expected ';'"),
    ],
)
def test_what_does_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaint: str, says: str
) -> None:
    def refused(directory: Path, source: str, *libraries: str) -> Path:
        raise click.ClickException(f"{source}.c does not compile: {complaint}")

    monkeypatch.setattr(datagrams, "compiled", refused)
    with pytest.raises(click.ClickException, match=re.escape(says)):
        datagrams.built(tmp_path)


def test_a_server_that_does_not_get_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "READY_S", 0.1)
    with pytest.raises(click.ClickException, match="not ready"):
        servers.await_ready(servers.free_port())
