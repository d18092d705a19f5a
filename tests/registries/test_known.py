"""Which nodes live, and how long one that is missing is waited for."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from twisted.logger import globalLogPublisher

from imgateway.interfaces import NodeState
from imgateway.registries.known import Known
from imgateway.registries.redis import Pace
from imgateway.registries.stored import MAX_BYTES, Reader, write
from imgateway.registries.zookeeper import PATIENCE_S, SESSION_S
from tests.registries.desks import node

ONE, TWO = node("one"), node("two")
BOTH = {one.incarnation: one for one in (ONE, TWO)}
ONLY_TWO = {TWO.incarnation: TWO}


def test_who_is_missing_stays_for_a_while() -> None:
    known = Known(4.0)
    assert known.saw(BOTH, 0.0) is None
    assert known.saw(ONLY_TWO, 10.0) == 14.0
    assert known.nodes == BOTH
    assert known.saw(ONLY_TWO, 13.9) == 14.0
    assert known.nodes == BOTH
    assert known.saw(ONLY_TWO, 14.0) is None
    assert known.nodes == ONLY_TWO


def test_who_comes_back_in_time_was_never_gone() -> None:
    known = Known(4.0)
    known.saw(BOTH, 0.0)
    known.saw({}, 1.0)
    known.saw(BOTH, 2.0)
    assert known.saw({}, 5.0) == 9.0
    assert known.nodes == BOTH


def test_who_says_so_is_gone_at_once() -> None:
    known = Known(4.0)
    known.saw(BOTH, 0.0)
    known.leaves(ONE.incarnation)
    known.leaves("nobody")
    assert known.nodes == ONLY_TWO
    assert known.saw(ONLY_TWO, 1.0) is None


def test_after_an_outage_those_from_before_have_time_to_come_back_and_others_have_not() -> None:
    known = Known(2.0)
    known.saw({ONE.incarnation: ONE}, 0.0)
    known.saw({}, 1.0)
    known.spare(20.0)
    known.saw(ONLY_TWO, 10.0)
    assert known.saw({}, 11.0) == 13.0
    assert known.saw({}, 13.0) == 20.0
    assert known.nodes == {ONE.incarnation: ONE}
    assert known.saw({}, 20.0) is None
    assert known.nodes == {}


def test_who_came_back_after_an_outage_is_spared_no_longer() -> None:
    known = Known(2.0)
    known.saw(BOTH, 0.0)
    known.spare(20.0)
    known.saw(BOTH, 1.0)
    assert known.saw({}, 2.0) == 4.0


def test_a_dead_node_is_gone_within_15_s() -> None:
    pace = Pace()
    assert pace.ttl_s <= 12
    assert pace.ttl_s + pace.poll_s + pace.patience_s < 15
    assert pace.refresh_s < pace.patience_s
    assert SESSION_S <= 12
    assert SESSION_S + 2.0 + PATIENCE_S < 15


@pytest.fixture
def warnings() -> Any:
    events: list[Any] = []

    def observe(event: Any) -> None:
        if "registry" in event and event["log_level"].name == "warn":
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"\xff\xfe", "malformed"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field"),
        (b'{"node":"one","incarnation":5}', "Expected `str`"),
        (write(TWO), "another incarnation"),
        (write(replace(ONE, weight=-1)), "below 0"),
        (write(replace(ONE, sessions=-1)), "below 0"),
        (write(ONE)[:-1] + b" " * MAX_BYTES + b"}", "more than 65,536"),
        (b'{"node":' + b"[" * 5000, "ecursion"),
    ],
)
def test_garbage_is_left_out_with_one_line(data: bytes, why: str, warnings: Any) -> None:
    reader = Reader("redis here")
    stored = {ONE.incarnation: data, TWO.incarnation: write(TWO)}
    for _ in range(3):
        assert reader.nodes(stored) == ONLY_TWO
    assert len(warnings) == 1
    assert (warnings[0]["registry"], warnings[0]["key"]) == ("redis here", ONE.incarnation)
    assert why in warnings[0]["why"]
    assert len(warnings[0]["begin"]) <= 80


def test_what_changed_is_read_anew() -> None:
    reader = Reader("")
    assert reader.nodes({ONE.incarnation: write(ONE)}) == {ONE.incarnation: ONE}
    busy = replace(ONE, state=NodeState.BUSY)
    assert reader.nodes({ONE.incarnation: write(busy)}) == {ONE.incarnation: busy}
    assert reader.nodes({}) == {}
