"""Requests both ways, and the business hooks behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import RequestFailed
from imgateway.frames import (
    Bye,
    OutcomeCode,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Request,
    Response,
    ResponseCode,
    SessionKey,
)
from imgateway.interfaces import IBackend, IInterceptor, ISessionListener
from tests.conformance.house import House, publication, settings
from tests.conformance.wires import Wire

Build = Callable[..., House]


@implementer(IPlugin, IBackend)
class Echo:
    name = "echo"

    def __init__(self) -> None:
        self.gateway: Any = None
        self.waiting: list[Deferred[bytes]] = []

    def start(self, gateway: Any) -> None:
        self.gateway = gateway

    def request(self, caller: SessionKey, request: Request) -> bytes | Deferred[bytes]:
        if request.method == "refuse":
            raise RequestFailed(ResponseCode.FORBIDDEN, b"not you")
        if request.method == "crash":
            raise ZeroDivisionError
        if request.method == "wait":
            self.waiting.append(Deferred())
            return self.waiting[-1]
        return f"{caller.user}/{caller.device} ".encode() + request.body


@implementer(IPlugin, IInterceptor)
class Censor:
    name = "censor"

    def __init__(self) -> None:
        self.slow: list[Deferred[Publish | int]] = []

    def before_publish(self, identity: Any, publish: Publish) -> Any:
        if publish.body == b"forbidden":
            return OutcomeCode.FORBIDDEN
        if publish.body == b"slow":
            self.slow.append(Deferred())
            return self.slow[-1].addCallback(lambda _: publish)
        return publish


@implementer(IPlugin, ISessionListener)
class Diary:
    name = "diary"

    def __init__(self) -> None:
        self.pages: list[tuple[Any, ...]] = []

    def opened(self, session: SessionKey, identity: Any) -> None:
        self.pages.append(("opened", session.user))

    def resumed(self, session: SessionKey, identity: Any) -> None:
        self.pages.append(("resumed", session.user))

    def closed(self, session: SessionKey, code: int, reason: str) -> None:
        self.pages.append(("closed", session.user, code))

    def stored_offline(self, address: Any, message: Any) -> None:
        self.pages.append(("stored", address.id, message.msg_id))

    def gap(self, session: SessionKey, address: Any) -> None:
        self.pages.append(("gap", session.user, address.id))

    def entered(self, session: SessionKey, address: Any) -> None:
        self.pages.append(("entered", session.user, address.id))

    def left(self, session: SessionKey, address: Any) -> None:
        self.pages.append(("left", session.user, address.id))


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def served(build: Build, echo: Echo) -> House:
    return build(backends=[echo])


def test_a_client_asks_a_service(served: House, wire: Wire) -> None:
    client = served.login(wire)
    client.send(Request(7, "echo", "say", b"\x00hello"))
    assert client.take(Response) == Response(7, ResponseCode.OK, b"bob/phone \x00hello")


@pytest.mark.parametrize(
    ("service", "method", "code", "body"),
    [
        ("nobody", "say", ResponseCode.NO_SUCH_SERVICE, b""),
        ("echo", "refuse", ResponseCode.FORBIDDEN, b"not you"),
    ],
)
def test_answers_that_are_no(
    served: House, wire: Wire, service: str, method: str, code: int, body: bytes
) -> None:
    client = served.login(wire)
    client.send(Request(1, service, method))
    assert client.take(Response) == Response(1, code, body)


def test_a_crashing_backend_answers_failed(served: House, wire: Wire, flush_logged_errors: Any) -> None:
    client = served.login(wire)
    client.send(Request(1, "echo", "crash"), Ping(1))
    assert client.take(Response).code == ResponseCode.FAILED
    client.take(Pong)
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_slow_answers_come_in_their_own_order(served: House, wire: Wire, echo: Echo) -> None:
    client = served.login(wire)
    client.send(*[Request(number, "echo", "wait") for number in (1, 2)])
    echo.waiting[1].callback(b"two")
    assert client.take(Response) == Response(2, 0, b"two")
    echo.waiting[0].callback(b"one")
    assert client.take(Response) == Response(1, 0, b"one")


def test_a_deadline_ends_a_question_and_its_work(served: House, wire: Wire, echo: Echo) -> None:
    client = served.login(wire)
    client.send(Request(1, "echo", "wait", deadline_ms=500))
    served.advance(1)
    assert client.take(Response) == Response(1, ResponseCode.DEADLINE)
    assert echo.waiting[0].called
    client.send(Request(2, "echo", "wait"))
    served.advance(11)
    assert client.take(Response).code == ResponseCode.DEADLINE


def test_more_questions_than_allowed_wait(build: Build, wire: Wire, echo: Echo) -> None:
    house = build(settings(limits={"requests_in_flight": 2}), backends=[echo])
    client = house.login(wire)
    client.send(*[Request(number, "echo", "wait") for number in range(4)])
    assert len(echo.waiting) == 2
    echo.waiting[0].callback(b"")
    house.settle()
    assert len(echo.waiting) == 3


def test_the_gateway_asks_a_client(served: House, wire: Wire, echo: Echo) -> None:
    client = served.login(wire)
    answer = echo.gateway.request(SessionKey("bob", "phone"), "screen", "show", b"?", 5.0)
    served.settle()
    asked = client.take(Request)
    assert (asked.service, asked.method, asked.body, asked.deadline_ms) == ("screen", "show", b"?", 5000)
    client.send(Response(asked.id, 0, b"!"))
    assert served.result(answer) == b"!"


@pytest.mark.parametrize("how", ["error", "silence", "cut", "away"])
def test_a_client_that_does_not_answer(served: House, wire: Wire, echo: Echo, how: str) -> None:
    client = served.login(wire)
    device = "nowhere" if how == "away" else "phone"
    answer = echo.gateway.request(SessionKey("bob", device), "screen", "show", b"", 5.0)
    served.settle()
    if how == "error":
        client.send(Response(client.take(Request).id, 99, b"no"))
    elif how == "silence":
        number = client.take(Request).id
        served.advance(6)
        client.send(Response(number))  # too late, and harmless
        client.send(Ping())
        client.take(Pong)
    elif how == "cut":
        client.link.cut()
    code = {"error": 99, "silence": ResponseCode.DEADLINE}.get(how, ResponseCode.GONE)
    with pytest.raises(RequestFailed) as failed:
        served.result(answer)
    assert failed.value.code == code


def test_the_gateway_publishes(served: House, wire: Wire, echo: Echo) -> None:
    client = served.login(wire)
    outcomes = served.result(echo.gateway.publish(publication("user:bob all"), "service:billing"))
    assert outcomes[0].code == OutcomeCode.OK
    assert [(one.sender, one.device) for one in client.messages()] == [("service:billing", "api")] * 2


def test_interceptors_refuse_and_hold_only_their_own_session(build: Build, wire: Wire) -> None:
    censor = Censor()
    house = build(interceptors=[censor])
    alice, carol, bob = (house.login(wire, name) for name in ("alice", "carol", "bob"))
    assert alice.publish("user:bob", "1", b"forbidden").outcomes[0].code == OutcomeCode.FORBIDDEN
    alice.send(publication("user:bob", "2", b"slow"), publication("user:bob", "3", b"after it"))
    assert not alice.frames
    carol.publish("user:bob", "4", b"not held")
    censor.slow[0].callback(0)
    house.settle()
    assert [alice.take(PublishAck).msg_id for _ in range(2)] == ["2", "3"]
    assert bob.bodies() == [b"not held", b"slow", b"after it"]


def test_session_listeners_are_told(build: Build, wire: Wire) -> None:
    diary = Diary()
    house = build(listeners=[diary])
    bob = house.login(wire, "bob")
    bob.link.cut()
    house.settle()
    bob = house.login(wire, "bob")
    bob.send(Bye(0))
    alice = house.login(wire, "alice")
    alice.publish("user:bob", "m1")
    alice.link.cut()
    house.login(wire, "dan").publish("user:alice", "m2")  # her session waits, but she is not there
    assert diary.pages == [
        ("opened", "bob"),
        ("resumed", "bob"),
        ("closed", "bob", 0),
        ("opened", "alice"),
        ("stored", "bob", "m1"),
        ("opened", "dan"),
        ("stored", "alice", "m2"),
    ]
