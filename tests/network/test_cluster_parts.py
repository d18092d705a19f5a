"""The parts of ``make cluster``: what can not be started is told, and whatever was started is ended."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.tap.test_banner import shown

pytestmark = pytest.mark.network

PROGRAM = Path(__file__).parents[2] / "deploy" / "cluster.py"
STAYS = (sys.executable, "-c", "import signal; signal.pause()")
ENDS = (sys.executable, "-c", "")
NAMES = ("redis", "node a", "node b", "router", "haproxy")
DEADLINE_S = 20.0


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program as a module; nothing is waited for before something is started again."""
    spec = importlib.util.spec_from_file_location("cluster_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESTART_S", 0.0)
    return module


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, DEADLINE_S))


def alive(part: Any) -> bool:
    return part._process is not None and part._process.returncode is None


def test_a_program_that_is_not_there(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "WITH_US", ())  # where there is no setpriv
    part = program.Part("redis", ["/no/such/program"], lambda: True, None)
    with pytest.raises(program.Trouble, match=r"redis cannot be started: .*/no/such/program"):
        run(part.start())
    run(part.gone())


def test_what_can_not_be_started_again_is_tried_until_it_can(
    program: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scene() -> None:
        part = program.Part("router", STAYS, lambda: True, None)
        begun, refusals, again = part._begin, [OSError("no more processes")] * 2, asyncio.Event()
        await part.start()

        async def begin() -> None:
            if refusals:
                raise refusals.pop()
            await begun()
            again.set()

        part._begin = begin
        part._process.kill()
        await again.wait()
        assert alive(part)
        part.signal(program.signal.SIGTERM)
        await part.gone()
        assert not alive(part)

    run(scene())
    said = capsys.readouterr().out
    assert said.count("cannot be started: no more processes; it is tried again") == 2
    assert said.count("it is started again") == 1


def test_of_a_nodes_greeting_its_own_advice_is_left_out(
    program: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The cluster has its own, below what all of them say."""
    greeting = shown(
        tmp_path,
        ("native+tcp:tcp:0", "tcp:127.0.0.1:7711"),
        ("native,json+websocket:tcp:0", "tcp:127.0.0.1:7712"),
        http="http://127.0.0.1:7720",
    )
    prints = (sys.executable, "-c", f"print({greeting!r} + 'it listens\\n  with more')")

    async def scene() -> None:
        part = program.Part("node a", prints, lambda: True, None)
        await part._begin()
        await part.gone()

    run(scene())
    text = capsys.readouterr().out
    assert program.NODES_ADVICE in greeting
    lines = [line.partition(" | ")[2] for line in text.splitlines()]
    assert [line.split()[0] for line in lines] == [
        "imgateway", "native+tcp", "native,json+websocket", "health", "it", "with",
    ]  # fmt: skip


def test_what_can_not_be_started_again_can_be_stopped(program: ModuleType) -> None:
    async def scene() -> None:
        part = program.Part("router", STAYS, lambda: True, None)
        await part.start()
        refused = asyncio.Event()

        async def begin() -> None:
            refused.set()
            raise OSError

        part._begin = begin
        part._process.kill()
        await refused.wait()
        part.signal(program.signal.SIGTERM)
        await part.gone()

    run(scene())


# ------------------------------------------------------------------------------------------------ all of them


def parts(program: ModuleType, **commands: Any) -> dict[str, Any]:
    return {
        name: program.Part(name, commands.get(name, STAYS), lambda name=name: name not in commands, None)
        for name in NAMES
    }


def cluster_of(program: ModuleType, place: Path, parts: dict[str, Any]) -> Any:
    cluster = program.Cluster(place, 0)
    cluster.parts = lambda: list(parts.values())
    return cluster


def before(method: Callable[[], Awaitable[None]], what: Callable[[], Any]) -> Callable[[], Awaitable[None]]:
    async def both() -> None:
        found = what()
        if found is not None:
            await found
        await method()

    return both


def test_nothing_begins_while_the_others_are_ended(program: ModuleType, tmp_path: Path) -> None:
    async def scene() -> None:
        made = parts(program, router=ENDS)
        ending = asyncio.Event()
        made["haproxy"]._begin = before(made["haproxy"]._begin, ending.wait)  # a busy machine
        made["redis"].gone = before(made["redis"].gone, ending.set)
        with pytest.raises(program.Trouble, match="router ended"):
            await cluster_of(program, tmp_path, made).run()
        for _ in range(100):
            await asyncio.sleep(0)
        assert [name for name in NAMES if alive(made[name])] == []
        assert made["haproxy"]._process is None
        assert made["redis"]._process is not None

    run(scene())


def test_a_slip_at_one_end_leaves_nobody_behind(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scene() -> None:
        made = parts(program)
        cluster = cluster_of(program, tmp_path, made)

        def slip() -> None:
            raise RuntimeError("slip")

        made["node a"].gone = before(made["node a"].gone, slip)
        running = asyncio.ensure_future(cluster.run())
        while not all(part._watching for part in made.values()):
            assert not running.done()
            await asyncio.sleep(0.01)
        cluster._asked()
        await running
        await asyncio.gather(*(part._process.wait() for part in made.values()))

    run(scene())
    assert "node a  | RuntimeError('slip')" in capsys.readouterr().out
