"""The tutorial's commands, one after the other, against a real node that is really killed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.network.nodes import Node, imgateway

pytestmark = pytest.mark.network

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


def run(node: Node, command: str, *more: str) -> list[dict[str, Any]]:
    """Run a command as the page shows it, but at this node's port; the JSON lines that it prints."""
    program, *words = shlex.split(command.replace("tcp://127.0.0.1:7901", node.url))
    assert program == ".venv/bin/imgateway"
    done = imgateway(*words, *more, cwd=node.directory)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_tutorial(make_node: Callable[..., Node]) -> None:
    node = make_node().start()
    page = PAGE.read_text()
    story = page[page.index("## Two users") : page.index("## In a room")]
    answers = []
    for command in re.findall(r"^\$ (.*)$", story, re.M):
        if command == "kill -9 $(cat data/messages.lock)":
            assert int((node.data / "messages.lock").read_text()) == node.process.pid
            node.kill()
            node.start()
        elif " send " in command:
            answers += run(node, command)
    assert [answer["code"] for answer in answers] == ["OK"] * 5 + ["DUPLICATE"]
    assert [answer["seq"] for answer in answers] == [1, 2, 3, 4, 5, 5]
    listen = re.search(r"^\$ (.* listen .*)$", story, re.M)
    assert listen is not None
    came = run(node, listen[1], "--count", "5", "--timeout", "20")
    bodies = ["hello", "are you there?", "call me", "survive this", "pay 5 euros"]
    assert [one["body"] for one in came] == bodies
    assert run(node, listen[1], "--timeout", "0.5") == []


def test_who_is_in_no_room_may_not_send_there(make_node: Callable[..., Node]) -> None:
    node = make_node().start()
    page = PAGE.read_text()
    part = page[page.index("## In a room") : page.index("## Over UDP")]
    sending = re.search(r"^\$ \S+ (send \S+) --token \$\(\S+ (token dave)\) (.*)$", part, re.M)
    assert sending is not None
    send, token, what = (
        shlex.split(one.replace("tcp://127.0.0.1:7901", node.url)) for one in sending.groups()
    )

    def tried(*grants: str) -> Any:
        daves = imgateway(*token, *grants, cwd=node.directory).stdout.strip()
        return imgateway(*send, "--token", daves, *what, cwd=node.directory)

    refused = tried()
    assert refused.returncode == 1
    told, said = json.loads(refused.stdout + refused.stderr), json.loads(_shown(part, '{"msg_id"'))
    assert {**told, "msg_id": ""} == {**said, "msg_id": ""}
    assert tried("--room", "tea").returncode == 0


def test_over_udp(make_node: Callable[..., Node]) -> None:
    node = make_node(listen=("native+udp:127.0.0.1:{tcp}",)).start()
    part = PAGE.read_text()
    part = part[part.index("## Over UDP") : part.index("## From a browser")]
    sending = re.search(r"^\$ \S+ (send udp.*over UDP\")$", part, re.M)
    assert sending is not None
    words = shlex.split(sending[1].replace("7903", str(node.tcp)))
    done = imgateway(*words, cwd=node.directory)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["code"] == "OK"


def _shown(part: str, begin: str) -> str:
    """The line of the page that begins so."""
    return next(line for line in part.splitlines() if line.startswith(begin))
