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
    story = page[page.index("## Two users") : page.index("## From a browser")]
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
    came = run(node, listen[1], "--timeout", "1")
    bodies = ["hello", "are you there?", "call me", "survive this", "pay 5 euros"]
    assert [one["body"] for one in came] == bodies
    assert run(node, listen[1], "--timeout", "0.5") == []
