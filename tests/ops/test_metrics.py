"""The metrics page shows what others counted, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from imgateway.core.counters import MEASURES, Counters, Measure
from imgateway.errors import CloseCode
from imgateway.ops.metrics import registry


def page(*sources: Any) -> dict[str, Any]:
    text = generate_latest(registry({"node": "a", "version": "1"}, *sources)).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_every_measure_is_on_the_page_with_kind_and_help() -> None:
    counters = Counters()
    for measure in MEASURES:
        if measure.label:
            getattr(counters, measure.field)["x"] += 1
    families = page(counters.read)
    for measure in MEASURES:
        family = families[measure.metric.removesuffix("_total")]
        assert (family.type, family.documentation) == (measure.kind, measure.help)
        assert family.samples[0].name == measure.metric


def test_values_are_those_at_the_scrape() -> None:
    counters = Counters()
    counters.publishes = 3
    counters.sessions = 2
    counters.links_closed[CloseCode.KICKED] = 5
    counters.links_closed[CloseCode.LOST] = 1
    families = page(counters.read)
    assert [s.value for s in families["imgateway_publishes"].samples] == [3]
    assert [s.value for s in families["imgateway_sessions"].samples] == [2]
    closed = [(s.labels, s.value) for s in families["imgateway_links_closed"].samples]
    assert closed == [({"code": "KICKED"}, 5), ({"code": "LOST"}, 1)]
    counters.publishes += 1
    assert page(counters.read)["imgateway_publishes"].samples[0].value == 4


def test_other_parts_may_bring_their_own() -> None:
    def store() -> Iterator[tuple[Measure, float]]:
        yield Measure("x", "gauge", "imgateway_file_bytes", "Size of the file."), 4096.0

    families = page(Counters().read, store)
    assert families["imgateway_file_bytes"].samples[0].value == 4096


def test_the_process_and_the_node_are_on_the_page() -> None:
    families = page()
    assert families["process_resident_memory_bytes"].samples[0].value > 0
    assert "python_gc_collections" in families
    assert families["imgateway_info"].samples[0].labels == {"node": "a", "version": "1"}


def test_a_label_may_be_anything() -> None:
    counters = Counters()
    counters.protocol_errors['we"ird\n\\name'] = 1
    sample = page(counters.read)["imgateway_protocol_errors"].samples[0]
    assert sample.labels == {"wire": 'we"ird\n\\name'}
