"""The agent's own metrics, in a registry of its own: told beside the node's, never mixed into them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sidecar.leader_tracking import LeaderTracker
from sidecar.logs import LogHub
from sidecar.node_link import NodeLink
from sidecar.settings import Settings

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.0, 5.0)


class SidecarMetrics:
    """Labels are bounded: routes are the templates of the URL map, methods and codes what HTTP has."""

    def __init__(self, settings: Settings, link: NodeLink, tracker: LeaderTracker, logs: LogHub) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "quorumfs_sidecar_http_requests",
            "Answered requests.",
            ("route", "method", "code"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "quorumfs_sidecar_http_request_seconds",
            "Time to the answer's first byte.",
            ("route",),
            buckets=SECONDS_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Findings(settings, link, tracker, logs))

    def answered(self, route: str, method: str, code: int, seconds: float) -> None:
        self._requests.labels(route, method, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format. May ask the node how it is; within two seconds."""
        return generate_latest(self._registry)


class _Findings:
    """What is looked up when somebody scrapes."""

    def __init__(self, settings: Settings, link: NodeLink, tracker: LeaderTracker, logs: LogHub) -> None:
        self._settings = settings
        self._link = link
        self._tracker = tracker
        self._logs = logs

    def describe(self) -> list[Metric]:
        return []  # otherwise registering would ask the node

    def collect(self) -> Iterator[Metric]:
        seen = self._link.observe()
        up = GaugeMetricFamily(
            "quorumfs_node_up", "1 when the node answers its agent.", labels=("node_id", "role")
        )
        up.add_metric((self._settings.node_id, self._settings.role), float(seen.answers))
        yield up
        state = GaugeMetricFamily(
            "quorumfs_sidecar_node_state", "How the node is, as its agent sees it.", labels=("state",)
        )
        for name in ("ok", "hung", "down"):
            state.add_metric((name,), float(seen.state == name))
        yield state
        finding = self._tracker.found()
        yield GaugeMetricFamily(
            "quorumfs_sidecar_leader_known",
            "1 when a current leader is known.",
            float(finding.current is not None),
        )
        yield GaugeMetricFamily(
            "quorumfs_sidecar_log_streams", "Log streams open now.", float(self._logs.readers)
        )
        yield CounterMetricFamily(
            "quorumfs_sidecar_log_records_dropped",
            "Log records that slow readers lost.",
            float(self._logs.dropped_total),
        )
