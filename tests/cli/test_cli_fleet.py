"""``imgateway nodes``, ``drain`` and ``undrain`` against an API whose answers are scripted."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from typing import Any

import pytest

from imgateway.cli.api import Api
from imgateway.cli.fleet import HEARD_S
from imgateway.interfaces import NodeInfo, NodeState, Served
from imgateway.router.problems import Problem
from imgateway.router.schema import Drained, Nodes
from tests.cli.fake_api import KEY, FakeApi, Pauses
from tests.network.nodes import CLI

from .conftest import Ask

GONE = Problem("not-found", "there is no such node", "GET /v1/nodes lists those that live")


def drained(leaving: int, state: str = "draining", done: bool | None = None, order: int = 0) -> Drained:
    is_done = state == "draining" and not leaving if done is None else done
    return Drained("n1", "n1.aa", state, leaving + 3, leaving, is_done, order)


def test_nodes(api: FakeApi, ask: Ask) -> None:
    url = "tcp://gw1.example.org:7901"
    served = (Served("native", "tcp", url), Served("json", "websocket", "wss://gw1.example.org"))
    full = NodeInfo("n1", "n1.aa", NodeState.BUSY, served, "eu", "a", 50, 12_345, 1_795_276_416_685, 7)
    api.say(Nodes((full, NodeInfo("节点", "节点.bb"))))
    result = ask("nodes")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "NODE  INCARNATION  STATE  SESSIONS  LEAVING  AWAY  WEIGHT  REGION  ZONE  STARTED               SERVES",  # noqa: E501
        "n1    n1.aa        busy     12,345        7  -         50  eu      a     2026-11-21 15:53:36Z  "
        f"native+{url} json+wss://gw1.example.org",
        "节点  节点.bb      ready         0        0  -        100  -       -     -                     -",
    ]
    assert [one.line for one in api.asked] == ["GET /v1/nodes"]
    lines = [json.loads(line) for line in ask("nodes", "--json").stdout.splitlines()]
    assert [(one["node"], one["sessions"]) for one in lines] == [("n1", 12_345), ("节点", 0)]


def test_sessions_of_a_drained_node_whose_clients_have_gone_are_told_apart(api: FakeApi, ask: Ask) -> None:
    half = NodeInfo("n1", "n1.aa", NodeState.DRAINING, sessions=2_310, leaving=310)
    all_gone = NodeInfo("n2", "n2.aa", NodeState.DRAINING, sessions=1)
    # Links that are not logged in yet are sent away as well.
    early = NodeInfo("n3", "n3.aa", NodeState.DRAINING, sessions=1, leaving=2)
    api.say(Nodes((half, all_gone, early)))
    rows = [line.split()[3:6] for line in ask("nodes").stdout.splitlines()]
    assert rows == [
        ["SESSIONS", "LEAVING", "AWAY"], ["2,310", "310", "2,000"], ["1", "0", "1"], ["1", "2", "0"],
    ]  # fmt: skip


@pytest.mark.parametrize("ms", [-(2**63), 253_402_300_800_000, 2**63 - 1])
def test_a_time_that_is_in_no_calendar(api: FakeApi, ask: Ask, ms: int) -> None:
    """A node whose clock is no clock, or that is none of ours."""
    api.say(Nodes((NodeInfo("n1", "n1.aa", started_ms=ms),)))
    result = ask("nodes")
    assert (result.exit_code, result.stderr) == (0, "")
    assert str(ms) in result.stdout.splitlines()[1].split()


def test_nothing_of_a_name_is_a_command_for_the_terminal(api: FakeApi, ask: Ask) -> None:
    api.say(Nodes((NodeInfo("\x1b[31mred", "x", region="a\u0301"),)))
    for more in ((), ("--json",)):
        assert "\x1b" not in ask("nodes", *more).stdout


def test_no_nodes(api: FakeApi, ask: Ask) -> None:
    api.say(Nodes(()))
    assert ask("nodes").stdout.startswith("NODE  INCARNATION")
    assert ask("nodes", "--json").stdout == ""


def test_drain_and_undrain(api: FakeApi, ask: Ask) -> None:
    api.say(drained(4_997, "ready"), drained(4_000), drained(10, "ready"), drained(10, "ready"))
    result = ask("drain", "a/b", "--rate", "250")
    assert (result.exit_code, result.output) == (0, "a/b: drains, 5,000 sessions at 250 a second\n")
    assert (api.asked[0].line, api.asked[0].query) == ("POST /v1/nodes/a%2Fb/drain", {"rate": ["250"]})
    assert json.loads(ask("drain", "n1", "--json").stdout)["leaving"] == 4_000
    assert api.asked[1].query == {"rate": ["500"]}
    assert ask("undrain", "n1").output == "n1: takes clients again\n"
    assert api.asked[2].line == "POST /v1/nodes/n1/undrain"
    assert json.loads(ask("undrain", "n1", "--json").stdout)["state"] == "ready"


def test_waiting_until_nobody_is_left(api: FakeApi, ask: Ask) -> None:
    """The first announcements may be older than the drain."""
    api.say(drained(0, "ready"), drained(0, "ready"), drained(8), drained(8), drained(9), drained(0))
    pauses = Pauses()
    result = ask("drain", "n1", "--wait", world=pauses.world)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "n1: nobody is left to be sent away; it may be stopped\n"
    assert {one.line for one in api.asked[1:]} == {"GET /v1/nodes/n1.aa/drain"}
    assert pauses.count == 4


def test_what_the_node_announced_before_the_order_is_not_taken_for_its_drain(api: FakeApi, ask: Ask) -> None:
    """Drained, taken back and drained again at once: first it tells of the first drain, then of its end."""
    first, back = drained(0, done=False, order=1), drained(0, "ready", order=2)
    api.say(drained(8, done=False, order=3), first, back, drained(8, order=3), drained(0, order=3))
    result = ask("drain", "n1", "--wait", world=Pauses().world)
    assert (result.exit_code, result.stderr) == (0, "")
    assert {tuple(one.query["order"]) for one in api.asked[1:]} == {("3",)}


def test_each_change_is_a_line(api: FakeApi, ask: Ask) -> None:
    api.say(drained(0, "ready"), drained(8), drained(8), drained(2), drained(0))
    lines = ask("drain", "n1", "--wait", "--json", world=Pauses().world).stdout.splitlines()
    assert [json.loads(line)["leaving"] for line in lines] == [8, 2, 0]


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ([drained(8), drained(5, "ready")], "takes clients again: somebody ended the drain"),
        ([drained(8), drained(5), GONE], "is gone; when it was last heard of, 5 clients were yet to be sent"),
        ([drained(5, "ready")], f"does not drain, {HEARD_S:g} s after it was told to"),
        ([Problem("forbidden", "the key shop has not the scope read")], "has not the scope read"),
    ],
)
def test_drains_that_do_not_end(api: FakeApi, ask: Ask, then: list[Any], why: str) -> None:
    api.say(drained(0, "ready"), *then)
    result = ask("drain", "n1", "--wait", world=Pauses().world)
    assert result.exit_code == 1
    assert why in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_router_that_is_away_for_a_while(api: FakeApi, ask: Ask) -> None:
    away = Problem("unavailable", "it is stopping", retry_after_s=1)
    api.say(drained(0, "ready"), drained(8), *[away] * 30, lambda port: None, drained(2), away, drained(0))
    result = ask("drain", "n1", "--wait", world=Pauses().world)
    assert result.exit_code == 0
    told = result.stderr.splitlines()
    assert told == ["it is stopping; again in 1 s; looking again for 60 s"] * 2


def test_a_router_that_stays_away(api: FakeApi, ask: Ask) -> None:
    api.say(drained(0, "ready"), drained(8), lambda port: None)
    pauses = Pauses()
    result = ask("drain", "n1", "--wait", world=pauses.world)
    assert result.exit_code == 3
    assert 60 <= pauses.now <= 62
    assert "the connection broke" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "doubt"),
    [
        (("drain", "n\x1b1"), "n\\u001b1 may drain or not: imgateway nodes shows it"),
        (("drain", "n1", "--wait"), "n1 may drain or not: imgateway nodes shows it"),
        (("undrain", "n1"), "n1 may take clients again or not: imgateway nodes shows it"),
        (("kick", "eve/web"), "eve/web may be kicked or not: imgateway online --sessions eve shows it"),
        (("push", "--pause", "t1"), "it may be paused or not: imgateway push --report t1 tells of it"),
        (("push", "--resume", "t1"), "it may be resumed or not: imgateway push --report t1 tells of it"),
        (("push", "--cancel", "t1"), "it may be cancelled or not: imgateway push --report t1 tells of it"),
        (("push", "--repush", "t1"), "it may be pushed again or not: imgateway push --report t1 tells of it"),
    ],
)
def test_what_may_be_done_or_not_is_said(
    api: FakeApi, ask: Ask, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], doubt: str
) -> None:
    api.say(lambda port: None)
    broken = ask(*words)
    assert (broken.exit_code, broken.stderr.count("\n")) == (3, 1)
    assert broken.stderr.endswith(f"; {doubt}\n")
    api.say(Problem("forbidden", "no"))
    assert "or not" not in ask(*words).stderr

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Api, "ask", interrupted)
    result = ask(*words)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", f"{doubt}\n")


def test_a_bar_and_ctrl_c(api: FakeApi) -> None:
    """On a terminal, as a process: the drain goes on, and so it is said."""
    api.say(drained(100, "ready"), drained(100), drained(25))
    reading, writing = pty.openpty()
    process = subprocess.Popen(
        [*CLI, "drain", "n1", "--wait", "--router", api.url],
        env={**os.environ, "IMGATEWAY_API_KEY": KEY},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writing,
    )
    os.close(writing)
    shown = b""
    try:
        while b"75/100" not in shown:
            shown += os.read(reading, 4096)
        process.send_signal(signal.SIGINT)
        try:
            while data := os.read(reading, 4096):
                shown += data
        except OSError:
            pass  # that is how a terminal ends
        assert process.communicate(timeout=20) == (b"", None)
    finally:
        process.kill()
        process.wait()
        os.close(reading)
    assert process.returncode == 130
    assert b"n1 drains  [###" in shown
    assert shown.splitlines()[-1] == (
        b"the drain of n1 goes on; imgateway undrain n1 ends it, imgateway nodes shows it"
    )


def test_a_mistake_of_the_command_line(api: FakeApi, ask: Ask) -> None:
    for words in (("drain",), ("drain", "n1", "--rate", "0"), ("undrain",), ("nodes", "n1")):
        assert ask(*words).exit_code == 2
    assert api.asked == []
