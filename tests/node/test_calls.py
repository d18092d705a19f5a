"""Requests both ways: each is answered once, at the latest at its deadline."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.plugin import IPlugin
from zope.interface import implementer
from zope.interface.verify import verifyObject

from imgateway.errors import RequestFailed
from imgateway.frames import Request, Response, ResponseCode, SessionKey
from imgateway.interfaces import IBackend, Identity
from imgateway.testing.wires import outcome
from tests.node.rig import AsciiWire, Rig

KEY = SessionKey("bob", "phone")


@implementer(IPlugin, IBackend)
class Shop:
    """Answers what `answer` says, called or given."""

    name = "shop"

    def __init__(self, answer: Any = b"answer") -> None:
        self.answer = answer
        self.gateway: Any = None
        self.asked: list[Request] = []

    def start(self, gateway: Any) -> None:
        self.gateway = gateway

    def request(self, caller: SessionKey, request: Request) -> Any:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


def responses(peer: Any) -> list[tuple[int, int, bytes]]:
    return [(one.id, one.code, one.body) for one in peer.of(Response)]


def test_a_backend_answers() -> None:
    shop = Shop()
    assert verifyObject(IBackend, shop)
    rig = Rig(backends=[shop])
    assert shop.gateway is rig.node
    bob = rig.login("bob").send(Request(7, "shop", "buy", b"x"), Request(8, "none", "m"))
    assert responses(bob) == [(7, 0, b"answer"), (8, ResponseCode.NO_SUCH_SERVICE, b"")]
    assert [(one.method, one.body) for one in shop.asked] == [("buy", b"x")]
    assert rig.counters.responses == {0: 1, 1: 1}


@pytest.mark.parametrize("answer", [ZeroDivisionError(), "text", None])
def test_a_backend_with_a_fault(answer: Any, flush_logged_errors: Any) -> None:
    rig = Rig(backends=[Shop(answer)])
    bob = rig.login("bob").send(Request(1, "shop", "m"))
    assert responses(bob) == [(1, ResponseCode.FAILED, b"")]
    assert rig.counters.plugin_errors == {"shop": 1}
    assert bob.code is None
    assert flush_logged_errors(ZeroDivisionError, TypeError)


def test_a_backend_answers_with_a_code() -> None:
    rig = Rig(backends=[Shop(RequestFailed(ResponseCode.FORBIDDEN, b"why"))])
    bob = rig.login("bob").send(Request(1, "shop", "m"))
    assert responses(bob) == [(1, ResponseCode.FORBIDDEN, b"why")]


def test_an_answer_larger_than_a_frame() -> None:
    rig = Rig(backends=[Shop(b"x" * 1_000_000)])
    bob = rig.login("bob").send(Request(1, "shop", "m"))
    assert responses(bob) == [(1, ResponseCode.FAILED, b"")]


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize(("asked_ms", "waits_s"), [(0, 10), (2000, 2), (60_000, 10)])
def test_deadlines(asked_ms: int, waits_s: float, chained: bool) -> None:
    slow: list[Deferred[Any]] = []

    def answer() -> Any:
        slow.append(Deferred())
        return succeed(None).addCallback(lambda _: slow[-1]) if chained else slow[-1]

    rig = Rig(backends=[Shop(answer)])
    bob = rig.login("bob").send(Request(1, "shop", "m", deadline_ms=asked_ms))
    rig.advance(waits_s - 0.25)
    assert responses(bob) == []
    rig.advance(0.5)
    assert responses(bob) == [(1, ResponseCode.DEADLINE, b"")]
    assert slow[0].called, "it was cancelled"


def test_so_many_questions_at_once() -> None:
    slow: list[Deferred[Any]] = []

    def answer() -> Any:
        slow.append(Deferred())
        return slow[-1]

    rig = Rig(backends=[Shop(answer)], set={"limits.requests_in_flight": 2})
    bob = rig.login("bob")
    for n in range(4):
        bob.send(Request(n, "shop", "m"))
    assert len(slow) == 2
    slow[1].callback(b"b")
    rig.settle()
    assert len(slow) == 3
    assert responses(bob) == [(1, 0, b"b")]
    bob.cut()
    slow[0].callback(b"a")  # nobody is there to hear it
    rig.advance(11)
    assert rig.session("bob").answering == 0


def test_questions_have_a_rate() -> None:
    rig = Rig(backends=[Shop()], set={"quota.request_rate": 1.0, "quota.request_burst": 2})
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    bob, svc = rig.login("bob"), rig.login("svc")
    for n in range(3):
        bob.send(Request(n, "shop", "m"))
        svc.send(Request(n, "shop", "m"))
    assert [code for _, code, _ in responses(bob)] == [0, 0, ResponseCode.RATE]
    assert [code for _, code, _ in responses(svc)] == [0, 0, 0]


# ------------------------------------------------------------------------------------------ we ask the client


def ask(rig: Rig, deadline_s: float = 10.0, body: bytes = b"?") -> list[Any]:
    answers = outcome(rig.node.request(KEY, "screen", "show", body, deadline_s))
    rig.settle()
    return answers


def test_the_client_answers() -> None:
    rig = Rig()
    bob = rig.login("bob")
    first, second = ask(rig), ask(rig)
    one, two = bob.of(Request)
    assert (one.service, one.method, one.body, one.deadline_ms) == ("screen", "show", b"?", 10_000)
    bob.send(Response(two.id, 0, b"2"), Response(one.id, 4, b"1"), Response(one.id, 0, b"again"))
    assert second == [b"2"]
    (failed,) = first
    assert (failed.code, failed.body) == (4, b"1")
    assert rig.session("bob").calls == {}
    rig.advance(11)


def test_the_client_does_not_answer() -> None:
    rig = Rig()
    rig.login("bob")
    answers = ask(rig, 2.0)
    rig.advance(2.25)
    assert [one.code for one in answers] == [ResponseCode.DEADLINE]


def test_the_client_goes() -> None:
    rig = Rig()
    bob = rig.login("bob")
    answers = ask(rig)
    bob.cut()
    assert [one.code for one in answers] == [ResponseCode.GONE]
    assert [one.code for one in ask(rig)] == [ResponseCode.GONE]
    rig.advance(61)
    assert [one.code for one in ask(rig)] == [ResponseCode.GONE]


def test_a_question_too_many_for_a_client_that_does_not_read() -> None:
    rig = Rig(set={"limits.control_pause_bytes": 1_000, "limits.control_abort_bytes": 2_000})
    bob = rig.login("bob")
    bob.stop_reading()
    found: list[int] = []
    for _ in range(4):
        asking = rig.node.request(KEY, "s", "m", b"x" * 900)
        asking.addErrback(lambda failure: found.append(failure.trap(RequestFailed) and failure.value.code))
        rig.settle()
    assert bob.link.session is None
    assert found == [ResponseCode.GONE] * 4


def test_not_before_welcome() -> None:
    rig = Rig()
    rig.broker.hold = {"watch"}
    rig.login("bob")
    assert [one.code for one in ask(rig)] == [ResponseCode.GONE]


def test_so_many_questions_to_a_client() -> None:
    rig = Rig(set={"limits.requests_in_flight": 2})
    rig.login("bob")
    answers = [ask(rig) for _ in range(3)]
    assert answers[:2] == [[], []]
    assert answers[2][0].code == ResponseCode.RATE


def test_who_asked_does_not_want_to_know_any_more() -> None:
    rig = Rig()
    bob = rig.login("bob")
    asked = rig.node.request(KEY, "screen", "show", b"")
    rig.settle()
    answers = outcome(asked)
    asked.cancel()
    assert rig.session("bob").calls == {}
    bob.send(Response(bob.of(Request)[0].id, 0, b"late"))
    assert len(answers) == 1
    gone = rig.node.request(KEY, "screen", "show", b"")
    outcome(gone)
    rig.session("bob").calls = None
    gone.cancel()


def test_a_question_that_the_wire_cannot_carry() -> None:
    rig = Rig()
    rig.login("bob", wire=AsciiWire())
    assert [one.code for one in ask(rig, body=b"x" * 1_000_000)] == [ResponseCode.FAILED]
    assert not rig.session("bob").calls
