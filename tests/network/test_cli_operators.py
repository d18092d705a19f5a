"""Every command for operators, once, against a real node that serves the HTTP API itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from imgateway.cli import main
from imgateway.router.keys import entry_of, make_key

from .nodes import CLI, Node, eventually

pytestmark = pytest.mark.network


@pytest.fixture
def node(make_node: Callable[..., Node], tmp_path: Path) -> Node:
    text, key = make_key("shop", ["*"], rate=0.0)
    (tmp_path / "keys.toml").write_text(entry_of(key))
    (tmp_path / "key").write_text(text)
    return make_node(options=["--keys", str(tmp_path / "keys.toml"), "--node", "n1"]).start()


@pytest.fixture
def ask(node: Node, tmp_path: Path) -> Callable[..., Any]:
    """Runs a command to its end; returns its JSON lines, which it must end well with."""

    def ask(*words: str, status: int = 0) -> Any:
        router = ("--router", f"http://127.0.0.1:{node.http}", "--key-file", tmp_path / "key")
        more = () if words[0] == "token" else ("--json",)
        done = CliRunner().invoke(main, [str(word) for word in (*words, *more, *router)])
        assert done.exit_code == status, done.output
        return [json.loads(line) for line in done.stdout.splitlines()] if more else done.stdout

    return ask


def test_a_day_of_an_operator(node: Node, ask: Callable[..., Any], tmp_path: Path) -> None:
    (one,) = ask("nodes")
    assert (one["node"], one["state"], one["sessions"]) == ("n1", "ready", 0)

    # Bob listens, with a token that the API made.
    token = ask("token", "bob", "--device", "phone").strip()
    log = tmp_path / "bob"
    with log.open("wb") as output:
        bob = subprocess.Popen(
            [*CLI, "listen", node.url], env={**os.environ, "IMGATEWAY_TOKEN": token}, stdout=output,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        (session,) = eventually(lambda: ask("online", "bob", "--sessions"), what="bob's login")
        assert (session["device"], session["online"], session["node"]) == ("phone", True, one["incarnation"])
        assert ask("online", "bob", "eve") == [
            {"user": "bob", "online": True, "devices": ["phone"]},
            {"user": "eve", "online": False, "devices": []},
        ]

        # A message, twice; one that is refused.
        words = ("push", "user:bob,device:eve/x", "hello", "--msg-id", "m1")
        assert [outcome["code"] for outcome in ask(*words)] == ["OK", "OK"]
        assert [outcome["code"] for outcome in ask(*words)] == ["DUPLICATE", "DUPLICATE"]
        (scheduled,) = ask("push", "user:bob", "later", "--at", "2099-01-01T00:00Z")

        # Push tasks: one to its end, one paused and cancelled.
        (tmp_path / "users.csv").write_text("user\nbob\neve\nmallory\n" + "x" * 65 + "\n")
        *_, told, report = ask("push", "--file", str(tmp_path / "users.csv"), "hi all", status=1)
        assert (told["state"], told["taken"], told["bad"]) == ("done", 3, 1)
        assert report["delivered"] + report["waiting"] == 3
        lines = ['{"task": {"message": {"text": "slow"}, "rate": 1}}', *['{"user": "eve"}'] * 500]
        (tmp_path / "users.ndjson").write_text("\n".join(lines))
        (slow,) = ask("push", "--file", str(tmp_path / "users.ndjson"), "--no-wait")
        for step, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
            (told,) = ask("push", f"--{step}", slow["id"])
            assert told["state"] in (state, "running" if step == "resume" else state)
        (report,) = ask("push", "--report", slow["id"])
        assert (report["state"], report["total"]) == ("cancelled", 500)
        assert report["unsent"] > 400
        # Who runs it sees within a second that it was cancelled, and gives it back.
        eventually(
            lambda: [
                task for task in ask("push", "--tasks") if task["id"] == slow["id"] and not task["router"]
            ],
            what="the end of the task",
        )
        (again,) = ask("push", "--repush", slow["id"], "--no-wait")
        assert again["id"] == slow["id"]
        ask("push", "--cancel", slow["id"])
        assert {task["id"] for task in ask("push", "--tasks")} >= {slow["id"], scheduled["task"]}

        # The end of a session, and of a day.
        assert ask("kick", "bob/phone", "eve", "--reason", "closing time") == [
            {"user": "bob", "kicked": 1, "device": "phone"},
            {"user": "eve", "kicked": 0},
        ]
        assert bob.wait(20) == 1
    finally:
        bob.kill()
        bob.wait()
    said = log.read_text().splitlines()
    assert [json.loads(line)["body"] for line in said[:2]] == ["hello", "hi all"]
    assert "KICKED: closing time" in said[-1]

    (*_, last) = ask("drain", "n1", "--wait")
    assert (last["state"], last["done"]) == ("draining", True)
    ask("undrain", "n1")
    eventually(lambda: ask("nodes")[0]["state"] == "ready", what="readiness")


def test_refusals(node: Node, ask: Callable[..., Any], tmp_path: Path) -> None:
    ask("drain", "n2", status=1)
    ask("push", "--report", "none", status=1)
    (tmp_path / "key").write_text("shop.wrong")
    ask("nodes", status=1)
    node.kill()
    ask("nodes", status=3)
