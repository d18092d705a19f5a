"""Answers that wait for a replica's disk, against a server that plays Redis 7.2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from imgateway.errors import StoreError
from tests.brokers.redis_desk import RedisDesk
from tests.brokers.redis_server import Loop
from tests.brokers.scripted_redis import ScriptedRedis

LAGS = (False, "no replica had the last messages on its disk within a second")


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def server(loop: Loop) -> Iterator[ScriptedRedis]:
    server = ScriptedRedis(loop)
    yield server
    server.stop()


@pytest.fixture
def desk(loop: Loop, server: ScriptedRedis) -> Iterator[RedisDesk]:
    desk = RedisDesk(server, loop=loop, to_replica=True)  # type: ignore[arg-type]
    loop.run(desk.primaries.start())
    yield desk
    desk.stop()


def call(desk: RedisDesk, *words: str) -> list[list[Any]]:
    boxes = [desk.later(desk.primary.call("tell", word, "")) for word in words]
    desk.loop.spin(0.03)
    return boxes


def test_an_answer_waits_for_a_replica(desk: RedisDesk, server: ScriptedRedis) -> None:
    boxes = call(desk, "a", "b")
    assert server.calls == [b"a", b"b"]
    assert boxes == [[], []]
    assert desk.primary.unanswered == 2
    server.answer([1, 1])
    desk.loop.until(lambda: all(boxes))
    assert boxes == [[1], [2]]
    assert server.waited == 1, "one for all of a turn"
    assert desk.states == [(True, "")]


def test_what_only_reads_waits_for_nobody(desk: RedisDesk, server: ScriptedRedis) -> None:
    assert desk.run(desk.primary.ask("tell", "a", "")) == 1
    assert server.waited == 0


def test_each_turn_has_its_own_wait(desk: RedisDesk, server: ScriptedRedis) -> None:
    (first,) = call(desk, "a")
    (second,) = call(desk, "b")
    server.answer([1, 2])
    desk.loop.until(lambda: first)
    desk.loop.spin(0.03)
    assert (first, second) == ([1], [])
    server.answer([1, 1])
    desk.loop.until(lambda: second)


@pytest.mark.parametrize("short", [[1, 0], [0, 1], [0, 0]])
def test_one_that_comes_too_late_is_asked_again(
    desk: RedisDesk, server: ScriptedRedis, short: list[int]
) -> None:
    (first,) = call(desk, "a")
    server.answer(short)
    desk.loop.until(lambda: desk.states[-1] == LAGS)
    assert first == []
    assert server.calls == [b"a"], "the script is not run again, only the wait"
    (second,) = call(desk, "b")
    server.answer(short)
    server.answer([1, 1])
    server.answer([1, 1])
    desk.loop.until(lambda: first and second)
    assert (first, second) == ([1], [2])
    assert desk.states == [(True, ""), LAGS, (True, "")]


def test_a_later_wait_stands_for_those_that_failed(desk: RedisDesk, server: ScriptedRedis) -> None:
    boxes = call(desk, "a") + call(desk, "b") + call(desk, "c")
    server.answer([1, 0])
    server.answer([1, 0])
    desk.loop.spin(0.03)
    assert boxes == [[], [], []]
    server.answer([1, 1])
    desk.loop.until(lambda: all(boxes))
    assert boxes == [[1], [2], [3]]


def test_what_no_replica_confirmed_is_sent_again(desk: RedisDesk, server: ScriptedRedis) -> None:
    boxes = call(desk, "a", "b")
    server.drop()
    boxes += call(desk, "c")
    desk.loop.until(lambda: len(server.calls) == 5)
    assert server.calls[2:] == [b"a", b"b", b"c"]
    assert not any(boxes)
    server.answer([1, 1])
    desk.loop.until(lambda: all(boxes))
    assert boxes == [[3], [4], [5]]


@pytest.mark.parametrize("end", ["drop", "stop"])
def test_an_answer_that_ends_the_connection_is_not_the_last_of_its_wait(
    desk: RedisDesk, server: ScriptedRedis, end: str
) -> None:
    """The replica has them all: none is sent again."""
    line = desk.primary._line
    ends = {"drop": lambda: line.drop(ConnectionError("test")), "stop": line.stop}
    said: list[Any] = []

    def told(answer: Any) -> None:
        said.append(answer)
        ends[end]()

    desk.primary.call("tell", "a", "").addCallback(told)
    (box,) = call(desk, "b")
    server.answer([1, 1])
    desk.loop.until(lambda: box)
    assert (said, box) == ([1], [2])
    if end == "drop":
        later = call(desk, "c")
        server.answer([1, 1])
        desk.loop.until(lambda: all(later))
    assert server.calls == [b"a", b"b", b"c"][: 2 + (end == "drop")]


def test_a_wait_that_is_refused_is_tried_on_a_new_connection(desk: RedisDesk, server: ScriptedRedis) -> None:
    (box,) = call(desk, "a")
    server.answer(Exception("ERR WAITAOF cannot be used when appendonly is disabled"))
    desk.loop.until(lambda: any("WAITAOF" in why for _, why in desk.states))
    desk.loop.until(lambda: len(server.calls) == 2)
    assert box == []
    server.answer([1, 1])
    desk.loop.until(lambda: box)


def test_nothing_is_asked_of_a_connection_that_broke_in_the_same_turn(
    desk: RedisDesk, server: ScriptedRedis
) -> None:
    box = desk.later(desk.primary.call("tell", "a", ""))
    desk.primary._line.drop(ConnectionError("test"))
    server.answer([1, 1])
    desk.loop.until(lambda: box)


def test_a_server_that_never_tells_of_its_replicas_is_left(desk: RedisDesk, server: ScriptedRedis) -> None:
    (box,) = call(desk, "a")
    for _ in range(13):
        desk.pass_time(1)
    assert (False, "cannot be written to: no answer within 10 s") in desk.states
    server.answer([1, 1])
    desk.loop.until(lambda: box)


def test_who_stops_tells_those_who_wait_for_a_replica(desk: RedisDesk, server: ScriptedRedis) -> None:
    boxes = call(desk, "a")
    boxes += [desk.later(desk.primary.call("tell", "b", ""))]
    idle = desk.later(desk.primary.idle())
    assert idle == []
    desk.stop()
    assert [box[0].check(CancelledError) for box in boxes] == [CancelledError] * 2
    assert idle == [None]


@pytest.mark.parametrize(("version", "will_do"), [("7.1.9", False), ("7.2.0", True), ("8.0.1", True)])
def test_the_version_decides(loop: Loop, version: str, will_do: bool) -> None:
    server = ScriptedRedis(loop, version)
    desk = RedisDesk(server, loop=loop, to_replica=True)  # type: ignore[arg-type]
    try:
        if will_do:
            loop.run(desk.primaries.start())
        else:
            with pytest.raises(StoreError, match=version):
                loop.run(desk.primaries.start())
    finally:
        desk.stop()
        server.stop()
