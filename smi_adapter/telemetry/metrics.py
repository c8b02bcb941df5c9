"""The metrics of a controller, by the names of users.md, section 10: bounded labels, no pods, no paths.

What happens is counted where it happens (`Metrics.reconciled` and the like); what is so at present is read when
somebody scrapes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_BEAT: Final = 0.1
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """What is so now. Ages in seconds; `restarts` by (kind, reason); `resources` by (kind, condition that is true)."""

    config_age: float = 0.0
    cache_age: float = 0.0
    event_ages: Mapping[str, float] = field(default_factory=dict)
    restarts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    resources: Mapping[tuple[str, str], int] = field(default_factory=dict)
    findings: Mapping[str, int] = field(default_factory=dict)
    proxies: Mapping[str, int] = field(default_factory=dict)
    permissive_namespaces: int = 0
    certificate_expiry: float | None = None
    """Below 0: one has expired; None: there is none yet."""
    leader: bool = False


class Metrics:
    """One registry: not the library's global one, so that two controllers can live in one process."""

    def __init__(self, read: Callable[[], Reading], version: str = "") -> None:
        self.registry = CollectorRegistry()
        self._version = version
        self._reconciled = self._histogram("reconcile_seconds", "Time from a batch of changes to a published config.")
        self._blocked = self._histogram(
            "loop_blocked_seconds", "By how much the event loop was late, ten times a second."
        )
        self._pushed = self._histogram("xds_push_seconds", "Time from sending a message to its acknowledgement.")
        self._nacks = Counter(
            "smi_adapter_xds_nack", "Messages that a proxy refused.", ["type"], registry=self.registry
        )
        self._reviews = Counter(
            "smi_adapter_webhook_requests", "Requests to a webhook.", ["webhook", "result"], registry=self.registry
        )
        self._review = self._histogram("webhook_seconds", "Time from a request's head to its answer.", "webhook")
        self.registry.register(_Present(read, version))

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"smi_adapter_{name}", text, labels, buckets=_SECONDS, registry=self.registry)

    async def feel_loop(self) -> None:
        """Measure how long the event loop is held up by whoever does not let others go on; for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _BEAT
            await asyncio.sleep(_BEAT)
            self._blocked.observe(max(0.0, loop.time() - due))

    def reconciled(self, seconds: float) -> None:
        """Count one batch."""
        self._reconciled.observe(seconds)

    def answered(self, kind: str, seconds: float, *, refused: bool) -> None:
        """Count one answer of a proxy."""
        self._pushed.observe(seconds)
        if refused:
            self._nacks.labels(kind).inc()

    def reviewed(self, webhook: str, result: str, seconds: float) -> None:
        """Count one request to a webhook."""
        self._reviews.labels(webhook, result).inc()
        self._review.labels(webhook).observe(seconds)


class _Present(Collector):
    """Gauges that are read at a scrape."""

    def __init__(self, read: Callable[[], Reading], version: str) -> None:
        self._read = read
        self._version = version

    def describe(self) -> Iterator[Metric]:
        """Say nothing beforehand, so that registering does not read."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        now = self._read()
        yield _gauge("info", "The version that runs.", {(self._version,): 1.0}, "version")
        yield _gauge("config_age_seconds", "Since the configuration last changed.", {(): now.config_age})
        yield _gauge("cache_age_seconds", "Since all watches were last known to be current.", {(): now.cache_age})
        ages = {(kind,): age for kind, age in now.event_ages.items()}
        yield _gauge("watch_last_event_age_seconds", "Since the last list, event or bookmark.", ages, "kind")
        restarts = CounterMetricFamily(
            "smi_adapter_watch_restarts", "Watches that began again.", labels=["kind", "reason"]
        )
        for labels, count in sorted(now.restarts.items()):
            restarts.add_metric(labels, count)
        yield restarts
        yield _gauge(
            "resources", "SMI objects of which a condition is true; Any: all.", now.resources, "kind", "condition"
        )
        yield _gauge("findings", "Present findings.", {(code,): n for code, n in now.findings.items()}, "code")
        yield _gauge("proxies", "Connected proxies.", {(state,): n for state, n in now.proxies.items()}, "state")
        text = "Namespaces whose mode is not enforce."
        yield _gauge("permissive_namespaces", text, {(): now.permissive_namespaces})
        expiry = {} if now.certificate_expiry is None else {(): now.certificate_expiry}
        yield _gauge("certificate_expiry_seconds", "Until the first certificate expires.", expiry)
        yield _gauge("leader", "Whether this replica writes status and Events.", {(): float(now.leader)})


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"smi_adapter_{name}", text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family
