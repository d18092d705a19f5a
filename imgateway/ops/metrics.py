"""The metrics page: reads what others count at the time of the scrape, and counts nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ("Described", "Source", "registry")


class Described(Protocol):
    """What is to be known of one metric: ``counter`` or ``gauge``, name, help, label ('' : one number)."""

    @property
    def kind(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def help(self) -> str: ...
    @property
    def label(self) -> str: ...


Source = Callable[[], Iterable[tuple[Described, float | Mapping[str, float]]]]
"""Called at every scrape: what there is to tell, and its value now (by label text where there is a label)."""


class _Page(Collector):
    def __init__(self, info: Mapping[str, str], sources: tuple[Source, ...]) -> None:
        self._info = dict(info)
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("imgateway", "What runs here.", self._info)
        for source in self._sources:
            for described, value in source():
                yield _family(described, value)


def _family(described: Described, value: float | Mapping[str, float]) -> Metric:
    family = CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily
    metric: CounterMetricFamily | GaugeMetricFamily = family(
        described.metric, described.help, labels=[described.label] if described.label else []
    )
    if isinstance(value, Mapping):
        # A copy: a plugin's thread may count on while the page is made.
        for text, one in sorted(dict(value).items()):
            metric.add_metric([text], one)
    else:
        metric.add_metric([], value)
    return metric


def registry(info: Mapping[str, str], *sources: Source) -> CollectorRegistry:
    """A registry of its own with these sources, the process (CPU, memory, files) and its garbage collector.

    :param info: labels of the metric ``imgateway_info``, such as node and version.
    """
    page = CollectorRegistry()
    ProcessCollector(registry=page)
    GCCollector(registry=page)
    page.register(_Page(info, sources))
    return page
