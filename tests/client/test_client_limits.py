"""What is more than a gateway takes, or what it never takes, fails by itself: no link ends by it, and nothing
behind it waits. The client and a whole node, on every wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from imgateway.errors import FrameRefused, RequestFailed
from imgateway.frames import FRAME_ROOM, OutcomeCode, ResponseCode, SessionKey
from tests.client.test_client_against_node import Town
from tests.conformance.wires import WIRES


class Streets(Town):
    """And whether anybody's link ended."""

    def __init__(self, *arguments: Any, **changes: Any) -> None:
        super().__init__(*arguments, **changes)
        self.downs: list[Any] = []

    def client(self, user: str, device: str = "phone", **options: Any) -> Any:
        client = super().client(user, device, **options)
        client.on_down = lambda *how: self.downs.append(how)
        return client

    def word(self, deferred: Deferred[Any]) -> Any:
        """What it fires with, or fails with."""
        return self.house.result(deferred.addErrback(lambda failure: failure.value))


@pytest.fixture(params=WIRES, ids=[wire.name for wire in WIRES])
def town(request: pytest.FixtureRequest) -> Iterator[Streets]:
    town = Streets(request.param)
    yield town
    assert town.downs == []
    town.end()


def sizes(town: Town) -> list[int]:
    """Around what a frame may hold, plain or as base64, and far beyond."""
    most = (65_536 + FRAME_ROOM) * town.wire.adapter.carriage.expansion
    return [*range(most - 50, most + 2), most * 3 // 4 - 80, most * 3 // 4 + 8, 2 * most, 9 * most]


def test_a_question_of_any_size(town: Streets) -> None:
    client = town.client("!alice")
    words = [town.word(client.request("weather", "say", bytes(size))) for size in [10, *sizes(town)]]
    assert words[0].code == ResponseCode.NO_SUCH_SERVICE
    for word in words:
        assert isinstance(word, RequestFailed | ValueError)
        if isinstance(word, ValueError):
            assert "cannot carry it: a frame may have " in str(word)
    assert isinstance(words[-1], ValueError)


def test_an_answer_of_any_size(town: Streets) -> None:
    client = town.client("alice")
    answers = []
    for size in [10, *sizes(town)]:
        client.on_request = lambda _, size=size: bytes(size)
        asked = town.house.node.request(SessionKey("alice", "phone"), "me", "say", b"", 60.0)
        answer = town.word(asked)
        assert len(answer) == size if isinstance(answer, bytes) else answer.code == ResponseCode.FAILED
        answers.append(type(answer))
    assert (answers[0], answers[-1]) == (bytes, RequestFailed)


@pytest.mark.parametrize(("user", "count", "device"), [("alice", 200, "%2F"), ("!service", 500, "d")])
def test_as_many_and_as_long_addresses_as_welcome_allows(
    town: Streets, user: str, count: int, device: str
) -> None:
    client = town.client(user)
    many = [f"device:{'%2F' * 60}{n:04d}/{device * 64}" for n in range(count)]
    first, then = client.publish(many, bytes(65_536)), client.publish("user:bob", "then")
    word = town.word(first)
    if town.wire.adapter.carriage.expansion == 1:
        assert isinstance(word, FrameRefused)
        assert "cannot carry it: a frame may have " in str(word)
    else:
        assert {one.code for one in word} == {OutcomeCode.OK}
    assert town.house.result(then)[0].code == OutcomeCode.OK
