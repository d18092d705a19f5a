"""What a node tells the others of itself, and when."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent

from imgateway.errors import ConfigError
from imgateway.interfaces import NodeInfo, NodeState, Served
from imgateway.node.membership import ELDER_S, START_S, Condition, Membership

ABOUT = NodeInfo("gw1", "gw1.00000001", region="north")
OTHER = NodeInfo("gw2", "gw2.00000002")
SERVED = (Served("native", "tcp", "tcp://gw1:7901"),)


class Registry:
    """A registry whose answers the test gives."""

    name = "registry of the test"

    def __init__(self) -> None:
        self.said: list[NodeInfo] = []
        self.starting: Any = succeed(None)
        self.announcing: Any = None
        self.stopping: Any = succeed(None)
        self.stops = 0
        self.changed: Any = None
        self.healthy: Any = None

    def start(self, changed: Any, healthy: Any) -> Any:
        self.changed, self.healthy = changed, healthy
        return self.starting

    def announce(self, info: NodeInfo) -> Any:
        self.said.append(info)
        return self.announcing or succeed(None)

    def stop(self) -> Any:
        self.stops += 1
        return self.stopping


class Rig:
    def __init__(self) -> None:
        self.registry = Registry()
        self.clock = Clock()
        self.condition = Condition(SERVED, 0)
        self.parts: dict[str, tuple[bool, str]] = {}
        self.notes: dict[str, str] = {}
        self.membership = Membership(
            self.registry,  # type: ignore[arg-type]
            ABOUT,
            lambda: self.condition,
            lambda part, ok, why: self.parts.update({part: (ok, why)}),
            lambda part, why: self.notes.update({part: why}),
            self.clock,
        )

    def listening(self) -> Membership:
        self.membership.start()
        self.membership.health("start", False, "starting")
        self.membership.health("start", True)
        return self.membership

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 8)):
            self.clock.advance(0.125)

    @property
    def said(self) -> list[NodeInfo]:
        return self.registry.said


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_nothing_is_announced_before_it_listens(rig: Rig) -> None:
    rig.membership.start()
    rig.membership.health("start", False, "starting")
    rig.membership.health("store", True)
    rig.membership.consider()
    assert rig.said == []
    rig.membership.health("start", True)
    assert rig.said == [replace(ABOUT, served=SERVED)]
    assert rig.parts == {"start": (True, ""), "store": (True, "")}


def test_it_is_among_the_nodes_as_it_last_told(rig: Rig) -> None:
    membership = rig.listening()
    rig.registry.changed({OTHER.incarnation: OTHER, ABOUT.incarnation: ABOUT})
    assert membership.nodes() == {OTHER.incarnation: OTHER, ABOUT.incarnation: rig.said[-1]}
    rig.registry.changed({})
    assert membership.nodes() == {ABOUT.incarnation: rig.said[-1]}
    membership.leave()
    assert membership.nodes() == {}


def test_a_part_that_is_not_well_makes_it_busy(rig: Rig) -> None:
    membership = rig.listening()
    rig.pass_time(1)
    membership.health("store", False, "the disk is full")
    assert rig.said[-1].state is NodeState.BUSY
    rig.pass_time(1)
    membership.health("store", True)
    assert rig.said[-1].state is NodeState.READY


def test_a_state_that_flaps_is_told_at_a_bounded_rate(rig: Rig) -> None:
    membership = rig.listening()
    for n in range(100):
        membership.health("load", bool(n % 2))
        rig.pass_time(0.125)
    assert len(rig.said) <= 26
    rig.pass_time(1.0)
    assert rig.said[-1].state is NodeState.READY


def test_a_drain_is_told_at_once_and_its_progress_every_second(rig: Rig) -> None:
    rig.condition = Condition(SERVED, 5_000)
    membership = rig.listening()
    membership.health("drain", False, "draining")
    assert rig.said[-1].state is NodeState.DRAINING
    for left in range(4_000, 0, -1_000):
        rig.condition = Condition(SERVED, left, left)
        rig.pass_time(1)
    assert [info.leaving for info in rig.said] == [0, 0, 4_000, 3_000, 2_000, 1_000]
    rig.pass_time(5)
    assert len(rig.said) == 6
    membership.health("drain", True)
    assert rig.said[-1].state is NodeState.READY


def test_an_order_is_told_even_if_nothing_comes_of_it(rig: Rig) -> None:
    """Who gave it waits for what is announced after it."""
    membership = rig.listening()
    membership.health("drain", False, "draining")
    rig.condition = Condition(SERVED, 0, 0, 2)
    membership.consider()
    assert [(info.state, info.orders) for info in rig.said[-2:]] == [
        (NodeState.DRAINING, 0),
        (NodeState.DRAINING, 2),
    ]


def test_addresses_that_change_are_told(rig: Rig) -> None:
    membership = rig.listening()
    rig.pass_time(1)
    rig.condition = Condition((), 0)
    membership.consider()
    assert rig.said[-1].served == ()


@pytest.mark.parametrize(("before", "after", "told"), [(0, 1, 1), (1_000, 1_010, 0), (1_000, 1_011, 1)])
def test_sessions_are_told_when_they_changed_by_more_than_a_hundredth(
    before: int, after: int, told: int, rig: Rig
) -> None:
    rig.condition = Condition(SERVED, before)
    rig.listening()
    rig.condition = Condition(SERVED, after)
    rig.pass_time(4.5)
    assert len(rig.said) == 1
    rig.pass_time(1)
    assert len(rig.said) == 1 + told


def test_while_the_server_is_away_announcements_do_not_gather(rig: Rig) -> None:
    waiting: Deferred[None] = Deferred()
    rig.registry.announcing = waiting
    membership = rig.listening()
    for sessions in range(100):
        rig.condition = Condition(SERVED, sessions)
        rig.pass_time(5)
    membership.health("drain", False, "draining")
    assert len(rig.said) == 1
    rig.registry.announcing = None
    waiting.callback(None)
    assert [info.state for info in rig.said] == [NodeState.READY, NodeState.DRAINING]


def test_the_start_waits_for_the_registry_but_not_long(rig: Rig) -> None:
    rig.registry.starting = starting = Deferred()
    started: list[object] = []
    rig.membership.start().addCallback(started.append)
    rig.clock.advance(START_S - 0.1)
    assert not started
    rig.clock.advance(0.1)
    assert started == [None]
    starting.callback(None)
    assert rig.clock.getDelayedCalls() == []


def test_settings_that_cannot_work_fail_the_start(rig: Rig) -> None:
    rig.registry.starting = fail(ConfigError("registry.url: no"))
    failures: list[Any] = []
    rig.membership.start().addErrback(failures.append)
    assert str(failures[0].value) == "registry.url: no"
    assert rig.clock.getDelayedCalls() == []


def test_what_comes_too_late_for_that_is_logged(rig: Rig, flush_logged_errors: Any) -> None:
    for error in (ConfigError("registry.url: no"), ZeroDivisionError("a bug")):
        rig = Rig()
        rig.registry.starting = starting = Deferred()
        rig.membership.start()
        rig.clock.advance(START_S)
        starting.errback(error)
        assert rig.notes == {"registry": str(error)}
    assert len(flush_logged_errors()) == 2


def test_a_failure_after_it_has_left_is_nobodys(rig: Rig) -> None:
    rig.registry.starting = starting = Deferred()
    rig.membership.start()
    rig.clock.advance(START_S)
    rig.membership.leave()
    starting.errback(ConfigError("registry.url: no"))
    assert rig.notes == {}


def test_a_name_that_two_nodes_have_is_told(rig: Rig) -> None:
    rig.listening()
    before = replace(OTHER, node="gw1", incarnation="gw1.0", started_ms=ABOUT.started_ms - 1)
    twin = replace(OTHER, node="gw1", incarnation="gw1.2", started_ms=ABOUT.started_ms + 1)
    with capturedLogs() as logs:
        rig.registry.changed({before.incarnation: before})  # a process that this one followed
        rig.registry.changed({twin.incarnation: twin, OTHER.incarnation: OTHER})
        rig.registry.changed({twin.incarnation: twin})
    [told] = [event for event in logs if event["log_level"] is LogLevel.warn]
    assert formatEvent(told) == (
        "another node has the name gw1, too, and routers send clients to one of them only: "
        "give each its own (node.name)"
    )
    assert told["incarnation"] == "gw1.2"


def warned(logs: Any) -> list[str]:
    return [event["incarnation"] for event in logs if event["log_level"] is LogLevel.warn]


def test_the_younger_one_of_a_name_says_so_too(rig: Rig) -> None:
    rig.listening()
    elder = replace(OTHER, node="gw1", incarnation="gw1.0", started_ms=ABOUT.started_ms)
    with capturedLogs() as logs:
        rig.registry.changed({elder.incarnation: elder})
        rig.pass_time(ELDER_S - 1)
        assert warned(logs) == []  # it may be the process whose place this one took
        rig.pass_time(2)
        assert warned(logs) == ["gw1.0"]
        rig.pass_time(100)
        assert warned(logs) == ["gw1.0"]
        rig.registry.changed({})
        rig.pass_time(1)
        rig.registry.changed({elder.incarnation: elder})
        rig.pass_time(ELDER_S + 1)
        assert warned(logs) == ["gw1.0"] * 2


def test_who_was_there_before_and_goes_is_no_second_one_of_the_name(rig: Rig) -> None:
    rig.listening()
    dead = replace(OTHER, node="gw1", incarnation="gw1.0", started_ms=ABOUT.started_ms - 1)
    with capturedLogs() as logs:
        rig.registry.changed({dead.incarnation: dead})
        rig.pass_time(15)
        rig.registry.changed({})
        draining = replace(dead, state=NodeState.DRAINING)
        rig.registry.changed({draining.incarnation: draining})
        rig.pass_time(100)
        rig.registry.changed({})
        rig.registry.changed({dead.incarnation: dead})
        rig.pass_time(10)
        events = len(warned(logs))
        rig.registry.healthy(False, "it is away")  # who is gone meanwhile is not seen
        rig.pass_time(100)
        rig.registry.healthy(True, "")
        rig.pass_time(10)
        rig.registry.changed({})
        rig.pass_time(100)
    assert events == 0
    assert [event["why"] for event in logs if event["log_level"] is LogLevel.warn] == ["it is away"]


def test_the_registrys_state_is_noted_and_is_not_the_nodes(rig: Rig) -> None:
    rig.listening()
    rig.registry.healthy(False, "it is away")
    assert rig.notes == {"registry": "it is away"}
    rig.pass_time(1)
    assert rig.said[-1].state is NodeState.READY
    rig.registry.healthy(True, "")
    assert rig.notes == {"registry": ""}
    assert "registry" not in rig.parts


def test_the_log_has_what_changes_and_not_that_all_is_as_it_should_be(rig: Rig) -> None:
    with capturedLogs() as logs:
        rig.listening()
        rig.registry.healthy(True, "")
        rig.registry.changed({ABOUT.incarnation: ABOUT})
        assert logs == []
        rig.registry.healthy(False, "it is away")
        rig.registry.healthy(True, "")
        rig.registry.changed({ABOUT.incarnation: ABOUT, OTHER.incarnation: OTHER})
    told = [formatEvent(event) for event in logs]
    assert told == [
        "the registry is away, and the known nodes stay as they were",
        "the registry answers again",
        "a node is there",
    ]


def test_to_leave_stops_the_registry_and_everything_else(rig: Rig) -> None:
    membership = rig.listening()
    membership.leave()
    membership.health("store", False, "gone")
    membership.health("start", True)
    assert rig.registry.stops == 1
    assert len(rig.said) == 1
    assert rig.clock.getDelayedCalls() == []


def test_to_leave_before_the_start_is_nothing(rig: Rig) -> None:
    assert rig.membership.leave().called
    assert rig.registry.stops == 0


def test_a_registry_that_fails_does_not_hold_the_node(rig: Rig, flush_logged_errors: Any) -> None:
    rig.registry.announcing = fail(ZeroDivisionError("announce"))
    rig.registry.stopping = fail(ZeroDivisionError("stop"))
    membership = rig.listening()
    left: list[object] = []
    membership.leave().addCallback(left.append)
    assert left == [None]
    assert len(flush_logged_errors(ZeroDivisionError)) == 2
