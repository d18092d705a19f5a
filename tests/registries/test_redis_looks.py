"""Looks at a Redis registry that others write to meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from imgateway.brokers.redis.urls import RedisUrl
from imgateway.errors import OperatorError
from imgateway.registries import redis as module
from imgateway.registries.redis import Pace, Server, key_of
from imgateway.registries.stored import write
from tests.registries.desks import node

ONE, TWO = node("one"), node("two")


class Line:
    """A line that is up; what it is asked waits for `answer`."""

    def __init__(self, target: Any, password: str, channel: str, up: Any, down: Any, heard: Any, *_: Any):
        self.up, self.down, self.heard = up, down, heard
        self.asked: list[tuple[tuple[str, ...], Deferred[Any]]] = []

    def ask(self, *words: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append((words, answer))
        return answer

    def answer(self, nodes: dict[str, bytes]) -> None:
        """What is asked of these nodes is answered."""
        while self.asked:
            words, answer = self.asked.pop(0)
            if words[0] == "SMEMBERS":
                answer.callback([name.encode() for name in nodes])
                continue
            found = {key_of(name): data for name, data in nodes.items()}
            answer.callback([found.get(word) for word in words[1:]] if words[0] == "MGET" else 1)
            if words[0] == "MGET":
                return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "RedisLine", Line)
    server = Server(RedisUrl((("127.0.0.1", 6379),)), "", lambda: None, Clock(), Pace())
    server._line.up()  # type: ignore[attr-defined]
    return server


THERE = {one.incarnation: write(one) for one in (ONE, TWO)}


def test_hints_that_never_stop_do_not_keep_it_from_seeing(server: Any) -> None:
    for _ in range(20):
        server._line.heard(b"+one.1")  # while it reads
        server._line.answer(THERE)
    assert set(server.nodes) == set(THERE)
    assert server.live


def test_who_leaves_while_it_is_read_does_not_come_back(server: Any) -> None:
    server._line.answer(THERE)
    server._reactor.advance(Pace().poll_s)
    server._line.heard(b"-" + ONE.incarnation.encode())
    server._line.answer(THERE)  # as it was before
    assert set(server.nodes) == {TWO.incarnation}
    server._line.answer({TWO.incarnation: THERE[TWO.incarnation]})
    assert set(server.nodes) == {TWO.incarnation}
    assert server.live


@pytest.mark.parametrize(("change", "hints"), [({"orders": 3}, 1), ({"sessions": 3}, 0)])
def test_a_drain_that_was_ordered_is_hinted_at(server: Any, change: dict[str, int], hints: int) -> None:
    """Whoever ordered it waits for the node's word; how many sessions there are can wait for a look."""
    server.announce(ONE)
    server._line.asked.clear()
    server.announce(replace(ONE, **change))
    assert [words[0] for words, _ in server._line.asked].count("PUBLISH") == hints


def test_a_server_that_is_away_keeps_nothing_of_what_was_announced_since(server: Any) -> None:
    """Where another has it the node goes on announcing."""
    server._line.down(OperatorError("away"))
    fired: list[int] = []
    for n in range(100):
        server.announce(replace(ONE, sessions=n)).addCallback(lambda _, n=n: fired.append(n))
    assert len(server._waiting) == 1
    assert fired == [*range(99)]  # another took their place
    server._line.asked.clear()
    server._line.up()
    written = next(words for words, _ in server._line.asked if words[0] == "SET")
    assert written[2] == write(replace(ONE, sessions=99))
    server._line.answer({})
    server._line.answer({})
    assert fired == [*range(100)]
