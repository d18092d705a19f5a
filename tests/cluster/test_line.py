"""The control line: questions and answers between processes, some of which are dead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import msgpack
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from imgateway.cluster import line as line_module
from imgateway.cluster.frames import Answer, Ask, Drain, Kick, decode_control, encode_control
from imgateway.cluster.line import MAX_UNKNOWN, Line
from imgateway.errors import RequestFailed
from imgateway.frames import ResponseCode
from imgateway.testing.wires import outcome

KICK = Kick(user="bob")


class Desk:
    """A line whose other end is this test. `somebody`: what `tell` answers with."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.said: list[tuple[str, Any]] = []
        self.asked: list[Any] = []
        self.somebody: Callable[[], Deferred[bool]] = lambda: succeed(True)
        self.line = Line(self.tell, "me.1", self.clock, self.asked.append)

    def tell(self, incarnation: str, payload: bytes) -> Deferred[bool]:
        self.said.append((incarnation, decode_control(payload)))
        return self.somebody()

    def answer(self, **more: Any) -> None:
        self.line.heard(encode_control(Answer(**more)))


def code(result: list[Any]) -> Any:
    (error,) = result
    assert isinstance(error, RequestFailed)
    return error.code


def test_a_question_and_its_answer() -> None:
    desk = Desk()
    first, second = outcome(desk.line.ask("a.1", KICK, 5.0)), outcome(desk.line.ask("b.1", KICK, 5.0))
    assert [(where, one.number, one.reply_to) for where, one in desk.said] == [
        ("a.1", 1, "me.1"),
        ("b.1", 2, "me.1"),
    ]
    desk.answer(number=2, count=4)
    assert (first, [answer.count for answer in second]) == ([], [4])
    desk.answer(number=2, count=5)  # once more
    desk.answer(number=1, code=101, body=b"no")
    assert [(answer.code, answer.body) for answer in first] == [(101, b"no")]
    assert not len(desk.line)
    assert desk.clock.getDelayedCalls() == []


def test_nobody_listens() -> None:
    desk = Desk()
    desk.somebody = lambda: succeed(False)
    assert code(outcome(desk.line.ask("dead.1", KICK, 5.0))) is ResponseCode.GONE
    assert outcome(desk.line.say("dead.1", Drain(rate=1))) == [False]
    assert desk.clock.getDelayedCalls() == []


@pytest.mark.parametrize("somebody", [lambda: succeed(True), lambda: Deferred()], ids=["lost", "broker away"])
def test_no_answer_in_time(somebody: Callable[[], Deferred[bool]]) -> None:
    desk = Desk()
    desk.somebody = somebody
    asking = outcome(desk.line.ask("a.1", KICK, 5.0))
    desk.clock.advance(4.9)
    assert asking == []
    desk.clock.advance(0.1)
    assert code(asking) is ResponseCode.DEADLINE
    desk.answer(number=1)  # too late: nobody minds
    assert not len(desk.line)


def test_the_broker_says_late_that_nobody_listens() -> None:
    desk = Desk()
    telling: Deferred[bool] = Deferred()
    desk.somebody = lambda: telling
    asking = outcome(desk.line.ask("a.1", KICK, 5.0))
    desk.clock.advance(5.0)
    telling.callback(False)
    assert code(asking) is ResponseCode.DEADLINE


def test_the_broker_fails(flush_logged_errors: Any) -> None:
    desk = Desk()
    desk.somebody = lambda: fail(ZeroDivisionError())
    assert code(outcome(desk.line.ask("a.1", KICK, 5.0))) is ResponseCode.GONE
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_question_that_is_given_up() -> None:
    desk = Desk()
    asking = desk.line.ask("a.1", KICK, 5.0)
    asking.addErrback(lambda failure: None)
    asking.cancel()
    assert not len(desk.line)
    assert desk.clock.getDelayedCalls() == []
    desk.answer(number=1)


def test_no_more_questions_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "MAX_WAITING", 50)
    desk = Desk()
    asking = [outcome(desk.line.ask("a.1", KICK, 5.0)) for _ in range(51)]
    assert code(asking[-1]) is ResponseCode.RATE
    assert (asking[0], asking[-2], len(desk.said)) == ([], [], 50)
    desk.line.stop()
    assert {code(one) for one in asking[:-1]} == {ResponseCode.GONE}
    assert code(outcome(desk.line.ask("a.1", KICK, 5.0))) is ResponseCode.GONE
    assert desk.clock.getDelayedCalls() == []


def test_what_others_ask() -> None:
    desk = Desk()
    ask = Ask(number=3, reply_to="a.1", user="bob", device="phone", service="s")
    desk.line.heard(encode_control(ask))
    assert desk.asked == [ask]


def test_what_cannot_be_done_is_logged(flush_logged_errors: Any) -> None:
    desk = Desk()
    line = Line(desk.tell, "me.1", desk.clock, lambda frame: 1 / 0)
    line.heard(encode_control(KICK))
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_what_is_no_frame_and_what_is_a_newer_version_s_is_logged() -> None:
    desk = Desk()
    with capturedLogs() as events:
        desk.line.heard(b"\xc1garbage")
        for _ in range(3):
            for number in range(MAX_UNKNOWN + 50):
                desk.line.heard(msgpack.encode({"kind": f"new-{number}"}))
    assert [event["size"] for event in events[:1]] == [8]
    assert [event["kind"] for event in events[1:]] == [f"new-{n}" for n in range(MAX_UNKNOWN)]
    assert desk.asked == []
