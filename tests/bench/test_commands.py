"""``imgateway bench`` on the command line, with scenes that are not there."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from bench import __main__ as commands
from bench import scenes, servers, table
from bench.figures import Figure, Options, Tell
from bench.figures import Result as Measured
from imgateway.cli import bench as cli
from imgateway.cli import main
from tests.bench.results import FAILED, RATIO, RESULT

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    return lambda *words: CliRunner().invoke(main, ["bench", *map(str, words)], catch_exceptions=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """What the scenes were asked for; each finds one figure."""
    seen: list[Options] = []

    def instead(scene: scenes.Scene, options: Options, tell: Tell) -> list[Figure]:
        tell.plan(1, 1.0)
        tell.step("only run")
        seen.append(options)
        return [RATIO]

    monkeypatch.setattr(scenes.Scene, "run", instead)
    return seen


def test_every_scene_is_a_command_with_the_options_it_takes(run: Run) -> None:
    listed = run("--help").output
    for name in scenes.SCENES:
        assert f"\n  {name} " in listed
        said = run(name, "--help")
        assert said.exit_code == 0
        assert "--json" in said.output
        assert "--report" in said.output
    for flag in "protocol transport broker pairs window size qos seconds runs rate against unpinned".split():
        assert f"--{flag}" in run("p2p", "--help").output


def test_what_every_scene_takes_is_a_field_of_the_options() -> None:
    for scene in scenes.SCENES.values():
        assert set(scene.takes) <= set(Options.__struct_fields__), scene.name
        assert set(scene.choices) <= set(scene.takes), scene.name
        assert {vain.option for vain in scene.vain} <= set(scene.takes), scene.name


def test_options_reach_the_scene(run: Run, asked: list[Options]) -> None:
    words = "p2p --protocol mqtt --broker embedded: --pairs 3 --window 2 --window 8 --size 20 --qos 0".split()
    more = ["--transport", "websocket", "--seconds", "0.5", "--runs", 2, "--against", "none", "--unpinned"]
    done = run(*words, *more)
    assert done.exit_code == 0
    assert asked == [
        Options(
            protocol="mqtt", brokers=("embedded:",), pairs=3, windows=(2, 8), size=20, qos=0, seconds=0.5,
            runs=2, against="none", unpinned=True, transport="websocket",
        )
    ]  # fmt: skip
    assert run("p2p", "--rate", 9).exit_code == 0  # the default of --window is not said by anybody
    assert asked[-1].rate == 9
    assert run("room", "--part", "tick", "--rate", 9).exit_code == 0
    assert run("idle", "--broker", "memory:", "--broker", "embedded:").exit_code == 0
    run("room", "--part", "tick", "--part", "bystanders", "--transport", "websocket")
    assert asked[-1].parts == ("tick", "bystanders")
    assert (asked[-1].transport, asked[-1].against) == ("websocket", "")


def test_the_table_goes_to_stdout_and_progress_to_stderr(run: Run, asked: list[Options]) -> None:
    done = run("p2p")
    assert RATIO.what in done.stdout
    assert done.stdout.endswith(f"\n\n{table.LEGEND}\n")
    assert done.stderr == "1/1 only run; 1 s left\n"


def test_the_result_is_written_as_json(run: Run, asked: list[Options], tmp_path: Path) -> None:
    path = tmp_path / "p2p.json"
    run("p2p", "--json", path)
    result = msgspec.json.decode(path.read_bytes(), type=Measured)
    assert result.figures == (RATIO,)
    assert result.command.startswith("imgateway bench")
    assert result.machine.cores
    said = run("p2p", "--json", "-").stdout
    assert msgspec.json.decode(said, type=Measured).figures == (RATIO,)


def test_the_report_is_written(run: Run, asked: list[Options], tmp_path: Path) -> None:
    run("p2p", "--report", tmp_path / "p2p.html")
    assert "<svg" in (tmp_path / "p2p.html").read_text()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("p3p", "No such command"),
        ("p2p --qos 2", "--qos"),
        ("p2p --window 0", "--window"),
        ("p2p --protocol smoke", "--protocol"),
        ("p2p --seconds 0", "--seconds"),
        ("room --transport udp", "--transport"),
        ("room --part cellar", "--part"),
        ("p2p --report p2p.pdf", "a report is one of .html, .png"),
        ("idle --pairs 3", "No such option: --pairs. idle takes --transport, --broker, --sessions, --runs,"),
        ("login --transport tcp", "there is one transport that it goes over"),
        ("cluster --protocol mqtt", "there is one protocol that its clients speak"),
        ("p2p --transport pigeon", "'pigeon' is not one of 'tcp', 'websocket', 'udp'"),
        ("p2p --transport udp --protocol mqtt", "native goes over UDP; mqtt is measured over TCP"),
        ("p2p --transport udp --protocol mobileimsdk", "mobileimsdk is measured over TCP"),
        ("p2p --transport udp --size 1001", "over UDP a body has at most 1,000 bytes"),
        ("p2p --rate 9 --window 4", "with --rate there is no --window"),
        ("room --rate 9", "--rate is for --part tick and --part bystanders"),
        ("room --part tick --against c", "--against is for --part fan-out"),
        ("room --broker memory: --broker embedded:", "it measures one --broker in a call"),
        ("storm --broker memory: --broker embedded:", "it measures one --broker in a call"),
        ("udp --broker memory: --broker embedded:", "it measures one --broker in a call"),
        ("idle --transport udp --broker memory: --broker embedded:", "over udp it measures one --broker"),
        ("room --against autobahn", "--against autobahn is for --transport websocket"),
        ("p2p --protocol mobileimsdk --transport websocket", "mobileimsdk is measured over TCP"),
        ("p2p --protocol mobileimsdk --qos 0", "--qos 0 is for native and mqtt"),
        ("p2p --qos 0 --size 15", "--qos 0 takes bodies of 16 bytes or more"),
        ("p2p --pairs 9001", "--pairs 9,001: one program has descriptors for 18,000 connections, two a pair"),
        ("p2p --broker memory: --broker foo:", "broker.url: 'foo:' is no broker; allowed: embedded:"),
        ("storm --broker redis://", "is not a Redis URL"),
        ("login --sessions 18001", "--sessions 18,001: one program has descriptors for 18,000"),
        ("idle --transport websocket --sessions 20000", "one program has descriptors for 18,000"),
        ("room --members 20000", "--members 20,000: one program has descriptors for 18,000"),
        ("soak --part tcp --sessions 20000", "one program has descriptors for 18,000"),
        ("soak --runs 2", "No such option: --runs. soak takes"),
        ("table --from nowhere.json", "nowhere.json"),
    ],
)
def test_a_wrong_command_line_is_status_2_and_nothing_is_measured(
    words: str, why: str, run: Run, asked: list[Options]
) -> None:
    done = run(*words.split())
    assert done.exit_code == 2
    assert why in done.stderr
    assert asked == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("p2p --against none --runs 1", "gcc is not installed: apt-get install gcc"),
        ("idle --runs 1", "gcc is not installed: apt-get install gcc"),
    ],
)
def test_a_scene_that_cannot_run_says_why_in_one_line(
    words: str, why: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda program, path: None)
    done = run(*words.split())
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert why in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("p2p", "mosquitto"),
        ("latency", "mosquitto"),
        ("cluster", "redis-server"),
        ("soak", "redis-server"),
        ("p2p --against none", ""),
        ("latency --against none", ""),
        ("soak --part udp", ""),
        ("idle --transport websocket", ""),
    ],
)
def test_what_is_not_installed_is_told_before_anything_is_measured(
    words: str, missing: str, run: Run, asked: list[Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"idle --transport websocket": ()}.get(words, ("gcc",))
    monkeypatch.setattr("shutil.which", lambda name, path: name if name in there else None)
    done = run(*words.split())
    assert (done.exit_code, len(asked)) == ((1, 0) if missing else (0, 1))
    assert f"{missing} is not installed" in done.stderr or not missing


def test_a_redis_that_is_not_there_is_told_before_anything_is_measured(
    run: Run, asked: list[Options]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert run("p2p", "--broker", f"redis://127.0.0.1:{port}", "--against", "none").exit_code == 0
    done = run("p2p", "--broker", f"redis://:secret@127.0.0.1:{port}")
    assert done.exit_code == 2
    assert f"--broker: 127.0.0.1:{port} does not answer: " in done.stderr
    assert "secret" not in done.stderr
    assert len(asked) == 1


def test_a_missing_server_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda program, path: None)
    for start in (servers.mosquitto(tmp_path), servers.redis(tmp_path, "always")):
        with pytest.raises(click.ClickException, match="is not installed: apt-get install"), start:
            pass


def test_a_port_is_seen_to_listen_without_a_connection_to_it() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert not servers.listens(port)
        server.listen()
        assert servers.listens(port)


@pytest.mark.parametrize("ends", [True, False])
def test_a_server_that_does_not_listen_is_not_waited_for(ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "READY_S", 0.2)
    program = "print('no')" if ends else "import time; time.sleep(60)"
    with pytest.raises(click.ClickException, match="does not listen"):  # noqa: SIM117
        with servers.waiting([sys.executable, "-c", program], servers.free_port()):
            raise AssertionError("it came up")


@pytest.mark.parametrize("which", ["mosquitto", "redis"])
def test_a_server_that_never_comes_is_not_measured(
    which: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\necho no room here\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(servers, "needs", lambda name: str(program))
    start = servers.mosquitto(tmp_path) if which == "mosquitto" else servers.redis(tmp_path, "always")
    measured = False
    with pytest.raises(click.ClickException, match="server ended with 3: no room here"), start:
        measured = True
    assert not measured


def test_a_server_is_found_where_a_users_path_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    looked: list[str] = []

    def which(program: str, path: str) -> str:
        looked.append(path)
        return f"/usr/sbin/{program}"

    monkeypatch.setattr("shutil.which", which)
    assert servers.needs("x") == "/usr/sbin/x"
    assert looked == ["/nowhere:/usr/sbin:/usr/local/sbin"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("is_all_ended", [False, True], ids=["alone", "with its servers, as by a terminal"])
def test_a_scene_that_is_told_to_end_ends_in_order(
    number: signal.Signals, status: int, is_all_ended: bool
) -> None:
    before = signal.getsignal(number)
    left: list[str] = []

    def scene() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            left.append("in order")
            if is_all_ended:
                raise click.ClickException("mosquitto ended with 0: ")

    with pytest.raises(SystemExit) as ended, commands.ended_in_order():
        scene()
    assert ended.value.code == status
    assert left == ["in order"]
    assert signal.getsignal(number) is before


def test_ctrl_c_ends_a_scene_with_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> list[Figure]:
        os.kill(os.getpid(), signal.SIGINT)
        return [RATIO]

    monkeypatch.setattr(scenes.Scene, "run", interrupted)
    for words in ("p2p", "table --quick"):
        done = run(*words.split())
        assert done.exit_code == 130
        assert done.stdout == ""
        assert "Aborted" not in done.stderr


# ------------------------------------------------------------ the table


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What the rows find."""
    figures = [RATIO]

    def measure(rows: Any, tells: Any, quick: bool = False) -> list[Figure]:
        tells("1/1: ", 0.0).step("a row")
        return figures

    monkeypatch.setattr(table, "measure", measure)
    return figures


def test_the_table_rewrites_its_page(run: Run, found: list[Figure], tmp_path: Path) -> None:
    page = tmp_path / "table.md"
    done = run("table", "--page", page, "--json", tmp_path / "all.json", "--report", tmp_path / "all.png")
    assert done.exit_code == 0
    assert RATIO.what in page.read_text()
    assert (tmp_path / "all.png").exists()
    assert (tmp_path / "all.json").exists()
    assert f"written: {page}" in done.stderr


def test_a_quick_table_writes_no_page(run: Run, found: list[Figure], tmp_path: Path) -> None:
    page = tmp_path / "table.md"
    assert run("table", "--quick", "--page", page).exit_code == 0
    assert not page.exists()


def test_a_row_that_failed_is_in_the_page_and_the_status_is_1(
    run: Run, found: list[Figure], tmp_path: Path
) -> None:
    found.append(FAILED)
    page = tmp_path / "table.md"
    done = run("table", "--page", page)
    assert done.exit_code == 1
    assert "1 of 2 were not measured" in done.stderr
    assert "not measured: no" in page.read_text()


def test_the_page_can_be_made_of_results_from_before(run: Run, tmp_path: Path) -> None:
    for name, figures in (("a", (RATIO,)), ("b", RESULT.figures[1:3])):
        result = msgspec.structs.replace(
            RESULT, figures=figures, at=f"2026-11-2{name == 'a':d}T10:00:00+00:00"
        )
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(result))
    words = ["--from", tmp_path / "a.json", "--from", tmp_path / "b.json", "--report", tmp_path / "both.html"]
    done = run("table", *words, "--page", tmp_path / "table.md")
    assert done.exit_code == 0
    text = (tmp_path / "table.md").read_text()
    assert "2026-11-20 10:00 UTC, 41 min" in text
    assert all(figure.what in text for figure in RESULT.figures[:3])
    assert (tmp_path / "both.html").exists()


def test_a_file_that_can_not_be_written_is_told_before_measuring(
    run: Run, asked: list[Options], tmp_path: Path
) -> None:
    for option, name in (("--json", "r.json"), ("--report", "r.html")):
        done = run("p2p", option, tmp_path / "none" / name)
        assert done.exit_code == 2
        assert "there is no such directory" in done.stderr
    assert run("table", "--page", tmp_path / "none" / "t.md").exit_code == 2
    assert asked == []


def test_the_result_names_the_command_once(
    run: Run, asked: list[Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["p2p", "--json", str(tmp_path / "r.json")]
    for typed in (["imgateway", "bench", *words], ["bench/__main__.py", *words]):
        monkeypatch.setattr(sys, "argv", typed)
        assert run(*words).exit_code == 0
        result = msgspec.json.decode((tmp_path / "r.json").read_bytes(), type=Measured)
        assert result.command.startswith("imgateway bench p2p --json")


def test_a_table_from_what_is_no_result(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    done = run("table", "--from", tmp_path / "x.json", "--page", tmp_path / "t.md")
    assert done.exit_code == 1
    assert "--json did not write this" in done.stderr
    assert not (tmp_path / "t.md").exists()


@pytest.mark.parametrize("words", ["compression --runs 0", "compression --entries 9", "tasks --users 0"])
def test_numbers_out_of_their_range(run: Run, words: str) -> None:
    done = run(*words.split())
    assert done.exit_code == 2
    assert "is not in the range" in done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("tasks --broker foo:", "'foo:' is no broker"),
        ("tasks --users 10 --online 11", "--online 11: of 10 users"),
        ("tasks --online 1 --broker memory:", "no --broker"),
    ],
)
def test_what_a_task_cannot_be_measured_with(run: Run, words: str, why: str) -> None:
    done = run(*words.split())
    assert done.exit_code == 2
    assert why in done.stderr


# ------------------------------------------------------------ without the source tree


def test_an_installed_wheel_says_where_the_benchmarks_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "bench"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bench", None)
    for words in (["p2p"], ["--help"]):
        done = run(*words)
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: the benchmarks are in the source tree")
        assert done.stderr.count("\n") == 1


def test_a_package_that_a_scene_lacks_is_not_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "HOME", "a_package_that_nobody_made")
    with pytest.raises(ModuleNotFoundError):
        CliRunner().invoke(main, ["bench", "p2p"], catch_exceptions=False)


def test_python_m_bench_is_the_same_group() -> None:
    context = click.Context(cli.bench)
    assert cli.bench.list_commands(context) == commands.main.list_commands(click.Context(commands.main))
