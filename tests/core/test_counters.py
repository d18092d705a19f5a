"""Counters: every field is described, starts at zero and is read with the names of its codes."""

from __future__ import annotations

import re
from typing import get_type_hints

import pytest

from imgateway.core.counters import MEASURES, Counters
from imgateway.errors import CloseCode
from imgateway.frames import OutcomeCode


def test_every_field_is_described_and_typed() -> None:
    hints = get_type_hints(Counters)
    assert list(hints) == [measure.field for measure in MEASURES]
    for measure in MEASURES:
        assert (hints[measure.field] is int) == (not measure.label), measure.field


def test_names_and_units_are_as_prometheus_wants_them() -> None:
    assert len({measure.metric for measure in MEASURES}) == len(MEASURES)
    for measure in MEASURES:
        assert re.fullmatch(r"imgateway_[a-z_]+", measure.metric)
        assert measure.metric.endswith("_total") == (measure.kind == "counter")
        assert measure.kind in ("counter", "gauge")
        assert measure.help.endswith(".")
        assert ("bytes" in measure.help.lower()) == ("_bytes" in measure.metric), measure.metric


def test_they_start_at_zero_and_are_read_by_name() -> None:
    counters = Counters()
    assert all(not value for _, value in counters.read())
    counters.publishes += 2
    counters.outcomes[OutcomeCode.OK] += 1
    counters.outcomes[3] += 4
    counters.links_closed[CloseCode.KICKED] += 1
    counters.links_closed[999] += 1
    counters.protocol_errors["native"] += 1
    values = {measure.field: value for measure, value in counters.read()}
    assert values["publishes"] == 2
    assert values["outcomes"] == {"OK": 1, "FORBIDDEN": 4}
    assert values["links_closed"] == {"KICKED": 1, "999": 1}
    assert values["protocol_errors"] == {"native": 1}


def test_a_misspelt_counter_is_an_error() -> None:
    with pytest.raises(AttributeError):
        Counters().publish = 1  # type: ignore[attr-defined]
