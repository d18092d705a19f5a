"""A client of ZooKeeper whose threads, answers and losses the test gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from kazoo.exceptions import ConnectionLoss, NoAuthError, NodeExistsError, NoNodeError, RolledBackError
from kazoo.protocol.states import KazooState
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from imgateway.registries.ephemerals import Ephemerals
from imgateway.registries.keeper import Keeper


class Reactor(Clock):
    """What threads ask it to call is called at once."""

    def callFromThread(self, call: Callable[..., Any], *arguments: Any) -> None:
        call(*arguments)


class Result:
    """kazoo's, not ready yet."""

    def __init__(self) -> None:
        self.value: Any = None
        self.exception: Exception | None = None

    def rawlink(self, done: Any) -> None:
        self.done = done

    def gives(self, value: Any = None, exception: Exception | None = None) -> None:
        self.value, self.exception = value, exception
        self.done(self)


class Client:
    def __init__(self, hosts: str, session_s: float, logger: Any) -> None:
        self.logger = logger
        self.client_id: Any = None
        self.result = Result()
        self.watch: Any = None
        self.is_stopped = False

    def add_listener(self, listener: Any) -> None:
        self.listener = listener

    def start_async(self) -> None: ...

    def get_async(self, path: str, watch: Any = None) -> Result:
        self.watch = watch
        return self.result

    def connects(self, session: int) -> None:
        self.client_id = (session, b"")
        self.listener(KazooState.CONNECTED)

    def loses(self, state: Any = KazooState.SUSPENDED) -> None:
        self.client_id = None
        self.listener(state)

    def stop(self) -> None:
        self.is_stopped = True
        raise RuntimeError("its writer is not closed")

    def close(self) -> None:
        raise AssertionError("not reached")


class Rig:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.clients: list[Client] = []
        self.heard: list[Any] = []
        self.keeper = Keeper(
            "h:1",
            9.0,
            8.0,
            lambda session: self.heard.append(session),
            lambda why: self.heard.append(why),
            lambda event: self.heard.append(event),
            self.reactor,
            self.make,
        )
        self.keeper.start()

    def make(self, *arguments: Any) -> Any:
        self.clients.append(Client(*arguments))
        return self.clients[-1]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def join_threads() -> None:
    """Wait for those that end a client."""
    for thread in threading.enumerate():
        if thread.name == "kazoo-stop":
            thread.join(5)


def outcome(asked: Deferred[Any]) -> list[Any]:
    box: list[Any] = []
    asked.addBoth(lambda result: box.append(result.type if isinstance(result, Failure) else result))
    return box


def test_what_is_asked_without_a_connection_fails_at_once(rig: Rig) -> None:
    assert outcome(rig.keeper.ask("get", "/a")) == [ConnectionLoss]
    assert outcome(rig.keeper.replace("/a", b"")) == [ConnectionLoss]


def test_an_answer_an_error_and_a_watch_come_into_the_reactor(rig: Rig) -> None:
    (client,) = rig.clients
    client.connects(5)
    asked = outcome(rig.keeper.ask("get", "/a", watch=True))
    client.result.gives("data")
    client.watch("event")
    failed = outcome(rig.keeper.ask("get", "/b"))
    client.result.gives(exception=NoNodeError())
    assert (asked, failed) == (["data"], [NoNodeError])
    assert rig.heard == [5, "event"]


def test_a_lost_connection_fails_what_waits_and_its_late_answer_is_nothing(rig: Rig) -> None:
    (client,) = rig.clients
    client.connects(5)
    asked = outcome(rig.keeper.ask("get", "/a"))
    client.logger.warning("Connection dropped: %s", "refused")
    client.loses()
    client.loses(KazooState.LOST)
    assert asked == [ConnectionLoss]
    assert rig.heard == [5, "Connection dropped: refused"]
    client.result.gives("late")
    assert asked == [ConnectionLoss]


def test_without_a_connection_for_long_there_is_a_new_client(rig: Rig) -> None:
    first = rig.clients[0]
    first.connects(5)
    first.loses()
    rig.reactor.advance(7.9)
    assert len(rig.clients) == 1
    rig.reactor.advance(0.1)
    second = rig.clients[1]
    assert rig.heard == [5, "the connection was lost", "it does not answer"]
    first.connects(5)  # too late
    second.connects(6)
    rig.reactor.advance(100)
    assert len(rig.clients) == 2
    assert rig.heard[3:] == [6]
    join_threads()
    assert first.is_stopped


def test_a_client_without_a_session_is_given_up_sooner_and_ever_later(rig: Rig) -> None:
    """A server that is just starting may take a connection and forget it."""
    given_up = []
    for _ in range(37 * 64):
        rig.reactor.advance(1 / 64)
        if len(rig.clients) == len(given_up) + 2:
            given_up.append(rig.reactor.seconds())
    waits = [later - sooner for sooner, later in zip([0, *given_up], given_up, strict=False)]
    assert waits == pytest.approx([1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 8, 8], abs=1 / 32)
    rig.clients[-1].connects(5)
    rig.clients[-1].loses()
    rig.reactor.advance(7.9)
    assert len(rig.clients) == 9, "a session is not given up lightly"
    rig.reactor.advance(0.1)
    assert len(rig.clients) == 10
    rig.reactor.advance(1.5)
    assert len(rig.clients) == 11, "the next one has none"
    join_threads()


def test_events_of_an_earlier_client_are_nothing(rig: Rig) -> None:
    (first,) = rig.clients
    first.connects(5)
    asked = outcome(rig.keeper.ask("get", "/a", watch=True))
    first.loses()
    assert asked == [ConnectionLoss]
    rig.reactor.advance(8)
    first.watch("late")
    assert "late" not in rig.heard


def test_a_connection_that_was_lost_before_it_was_told_does_not_count(rig: Rig) -> None:
    (client,) = rig.clients
    client.client_id = None
    client.listener(KazooState.CONNECTED)
    assert not rig.keeper.is_connected


def test_to_stop_ends_even_if_kazoo_cannot(rig: Rig) -> None:
    rig.clients[0].connects(5)
    asked = outcome(rig.keeper.ask("get", "/a"))
    stopped: list[object] = []
    rig.keeper.stop().addCallback(stopped.append)
    join_threads()
    assert stopped == [None]
    assert asked == [ConnectionLoss]
    assert rig.reactor.getDelayedCalls() == []


class Answers:
    """A keeper that gives prepared answers, and what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.is_connected = True
        self.answers = list(answers)
        self.asked: list[str] = []

    def ask(self, what: str, *arguments: Any, **more: Any) -> Deferred[Any]:
        self.asked.append(what)
        answer = self.answers.pop(0)
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def replace(self, path: str, data: bytes) -> Deferred[Any]:
        return self.ask("replace")


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ((None,), "create"),
        ((NodeExistsError(), [True, "/n/a"]), "create replace"),
        # It was gone by then, and is made in the next step.
        ((NodeExistsError(), [NoNodeError(), RolledBackError()], None), "create replace create"),
    ],
)
def test_a_znode_is_made(answers: Any, asked: str) -> None:
    keeper: Any = Answers(*answers)
    ephemerals = Ephemerals(keeper, lambda failure: failure.raiseException())
    assert ephemerals.want({"/n/a": b"1"}).called
    assert keeper.asked == asked.split()
    ephemerals.settle()
    assert keeper.asked == asked.split()


def test_a_znode_is_changed_made_anew_and_deleted() -> None:
    keeper: Any = Answers(None, None, NoNodeError(), None, None)
    ephemerals = Ephemerals(keeper, lambda failure: failure.raiseException())
    for wanted in ({"/n/a": b"1"}, {"/n/a": b"2"}, {"/n/a": b"3"}, {}):
        assert ephemerals.want(wanted).called
    assert keeper.asked == ["create", "set", "set", "create", "delete"]


def test_one_that_is_gone_already_need_not_be_deleted() -> None:
    keeper: Any = Answers(None, NoNodeError())
    ephemerals = Ephemerals(keeper, lambda failure: failure.raiseException())
    ephemerals.want({"/n/a": b"1"})
    assert ephemerals.want({}).called
    assert keeper.asked == ["create", "delete"]


def test_what_is_refused_is_told_and_tried_again_when_it_is_time() -> None:
    failures: list[Any] = []
    keeper: Any = Answers(NodeExistsError(), [NoAuthError(), RolledBackError()], None)
    ephemerals = Ephemerals(keeper, failures.append)
    done = ephemerals.want({"/n/a": b"1"})
    assert [failure.type for failure in failures] == [NoAuthError]
    assert ephemerals.refused
    assert not done.called
    ephemerals.check("/n", [])
    assert done.called
    assert not ephemerals.refused
