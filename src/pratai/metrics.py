"""Counters and gauges, for Prometheus. Names are the glossary's; all begin with `pratai_`.

Hot paths count in a plain dict, which costs a fraction of a client library's counter; the
collector below hands the sums to prometheus-client when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

#: Upper bounds of the duration histogram, in seconds.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
#: Functions that have series of their own; further ones share one called `other`.
FUNCTIONS_MAX = 1_000

_counts: dict[str, int] = {}


def count(name: str, by: int = 1) -> None:
    """Add to a counter."""
    _counts[name] = _counts.get(name, 0) + by


def counted(name: str) -> int:
    """The value of a counter."""
    return _counts.get(name, 0)


class Durations:
    """Outcomes and durations of invocations, by function."""

    def __init__(self) -> None:
        #: {(namespace, function): [bucket counts..., sum in us, count]}.
        self._durations: dict[tuple[str, str], list[int]] = {}
        #: {(namespace, function, outcome, start kind): count}.
        self._outcomes: dict[tuple[str, str, str, str], int] = {}
        self._bounds_us = [round(bound * 1e6) for bound in BUCKETS_S]

    def observe(
        self, namespace: str, function: str, *, outcome: str, start_kind: str, duration_us: int
    ) -> None:
        """Count one finished invocation."""
        series = self._durations.get((namespace, function))
        if series is None:
            if len(self._durations) >= FUNCTIONS_MAX:
                namespace, function = "other", "other"
            series = self._durations.setdefault(
                (namespace, function), [0] * (len(self._bounds_us) + 2)
            )
        place = bisect_left(self._bounds_us, duration_us)
        if place < len(self._bounds_us):
            series[place] += 1
        series[-2] += duration_us
        series[-1] += 1
        key = (namespace, function, outcome, start_kind)
        self._outcomes[key] = self._outcomes.get(key, 0) + 1

    def families(self) -> Iterable[Metric]:
        """The metric families of a scrape."""
        outcomes = CounterMetricFamily(
            "pratai_invocations",
            "Finished invocations.",
            labels=["namespace", "function", "outcome", "start_kind"],
        )
        for labels, value in self._outcomes.items():
            outcomes.add_metric(list(labels), value)
        yield outcomes
        durations = HistogramMetricFamily(
            "pratai_invocation_duration_seconds",
            "From acceptance to the outcome.",
            labels=["namespace", "function"],
        )
        for (namespace, function), series in self._durations.items():
            total, buckets = 0, []
            for bound, value in zip(BUCKETS_S, series, strict=False):
                total += value
                buckets.append((str(bound), float(total)))
            buckets.append(("+Inf", float(series[-1])))
            durations.add_metric([namespace, function], buckets, series[-2] / 1e6)
        yield durations


class Scrape(Collector):
    """Everything that `/metrics` shows. `gauges` answers {name: (help, value)} at scrape time."""

    def __init__(
        self, durations: Durations, gauges: Callable[[], dict[str, tuple[str, float]]]
    ) -> None:
        self._durations = durations
        self._gauges = gauges
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus-client for each scrape."""
        yield from self._durations.families()
        for name, value in sorted(_counts.items()):
            family = CounterMetricFamily(f"pratai_{name}", name.replace("_", " ").capitalize())
            family.add_metric([], value)
            yield family
        for name, (text, number) in sorted(self._gauges().items()):
            gauge = GaugeMetricFamily(f"pratai_{name}", text)
            gauge.add_metric([], number)
            yield gauge

    def text(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)
