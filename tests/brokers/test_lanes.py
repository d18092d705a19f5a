"""The lane of the reactor's own thread, and who has it."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

from twisted.internet.task import Clock

from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.brokers.lanes import TurnLane
from imgateway.frames import Message, parse_address
from imgateway.interfaces import Publication
from imgateway.testing.disk import Recorder


def test_the_jobs_of_a_turn_are_done_when_it_is_over() -> None:
    clock = Clock()
    lane = TurnLane(partial(clock.callLater, 0))
    done: list[Any] = []
    for n in range(3):
        lane.submit(lambda n=n: n, done.append)
    assert done == []
    clock.advance(0)
    assert done == [0, 1, 2]


def test_what_a_result_asks_for_is_done_in_the_next_turn() -> None:
    turns: list[Any] = []
    lane = TurnLane(turns.append)
    done: list[str] = []

    def again(result: str) -> None:
        done.append(result)
        lane.submit(lambda: "second", done.append)

    lane.submit(lambda: "first", again)
    lane.submit(lambda: "beside it", done.append)
    turns.pop()()
    assert done == ["first", "beside it"]
    lane.submit(lambda: "third", done.append)
    turns.pop()()
    assert done == ["first", "beside it", "second", "third"]
    assert not turns


def test_a_result_that_cannot_be_dealt_with_keeps_nobody_waiting() -> None:
    clock = Clock()
    lane = TurnLane(partial(clock.callLater, 0))
    done: list[str] = []

    def fails(result: str) -> None:
        raise ValueError(result)

    lane.submit(lambda: "first", fails)
    lane.submit(lambda: "second", done.append)
    try:
        clock.advance(0)
    except ValueError:
        clock.advance(0)
    assert done == ["second"]


def test_a_broker_in_memory_needs_no_thread() -> None:
    clock: Any = Clock()
    before = threading.active_count()
    broker = EmbeddedBroker(reactor=clock, now_ms=lambda: 1_000)
    started = broker.start(Recorder(), "n.1")
    clock.advance(0)
    assert started.called
    answers = [
        broker.publish(
            Publication(Message(f"{n}", "alice", "phone", body=b"x"), (parse_address("user:bob"),))
        )
        for n in range(3)
    ]
    assert not any(answer.called for answer in answers)
    clock.advance(0)
    assert [answer.result[0].seq for answer in answers] == [1, 2, 3]
    broker.stop()
    clock.advance(0)
    clock.advance(0)
    assert threading.active_count() == before
    assert not clock.getDelayedCalls()


def test_a_broker_in_memory_commits_when_it_is_told_that_the_turn_is_over() -> None:
    clock: Any = Clock()
    turns: list[Any] = []
    broker = EmbeddedBroker(reactor=clock, soon=turns.append)
    started = broker.start(Recorder(), "n.1")
    turns.pop()()
    assert started.called
    message = Message("1", "alice", "phone", body=b"x")
    answer = broker.publish(Publication(message, (parse_address("user:bob"),)))
    clock.advance(0)
    assert not answer.called
    turns.pop(0)()
    assert answer.result[0].seq == 1
    broker.stop()
    while turns:
        turns.pop(0)()
    assert not clock.getDelayedCalls()
