"""Rooms once more, on a broker whose rings and rooms answer and tell in later turns, as one does that keeps
them on a server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.frames import RING_KINDS, LogKey
from imgateway.interfaces import Publication

from . import house as house_module
from . import test_rooms as scenes
from .wires import WIRES, Wire


class LateBroker(EmbeddedBroker):
    """Answers keep their order, and so does what is told; which of them comes first, nobody knows."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._late: dict[str, deque[Callable[[], object]]] = {
            "answer": deque(),
            "read": deque(),
            "tell": deque(),
        }

    def _later(self, kind: str, call: Callable[[], object]) -> None:
        self._late[kind].append(call)
        self._reactor.callLater(0, lambda: self._late[kind].popleft()())

    def _after(self, found: Deferred[Any], kind: str = "answer") -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        found.addBoth(lambda result: self._later(kind, lambda: answer.callback(result)))
        return answer

    def publish(self, publication: Publication) -> Deferred[Any]:
        answer = super().publish(publication)
        is_late = any(address.kind in RING_KINDS for address in publication.to)
        return self._after(answer) if is_late else answer

    def watch(self, log: LogKey) -> Deferred[Any]:
        answer = super().watch(log)
        return self._after(answer) if log.address.kind in RING_KINDS else answer

    def read(self, log: LogKey, after: int, limit: int, max_bytes: int) -> Deferred[Any]:
        answer = super().read(log, after, limit, max_bytes)
        return self._after(answer, "read") if log.address.kind in RING_KINDS else answer

    def join(self, *where: Any) -> Deferred[Any]:
        return self._after(super().join(*where))

    def leave(self, *where: Any) -> Deferred[Any]:
        return self._after(super().leave(*where))

    def members(self, *where: Any) -> Deferred[Any]:
        return self._after(super().members(*where))

    def _tell(self, what: str, *values: Any) -> None:
        is_ring = what == "arrived" and values[0].address.kind in RING_KINDS
        if is_ring or what in ("entered", "left"):
            self._later("tell", lambda: EmbeddedBroker._tell(self, what, *values))
        else:
            super()._tell(what, *values)


@pytest.fixture(params=WIRES, ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    row: Wire = request.param
    return row


@pytest.fixture(autouse=True)
def _late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house_module, "EmbeddedBroker", LateBroker)


globals().update({name: scene for name, scene in vars(scenes).items() if name.startswith("test_")})


def test_it_is_late(build: Callable[..., Any]) -> None:
    """Else the scenes above would show nothing."""
    late = build()
    address = scenes.ROOM
    answer = late.broker.watch(LogKey(address))
    assert not answer.called
    late.settle()
    assert answer.called
