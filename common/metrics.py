"""The process's metrics: one registry, the process's own figures, and what the gRPC interceptors count.

Labels are bounded: service and method come from what is served, codes from gRPC's list. Rooms put their own
metrics into the same `Metrics.registry`; nothing uses the library's global one.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
SYNC_BUCKETS = (0.0001, 0.00025, *LATENCY_BUCKETS)
"""Of what a disk is asked: a good one keeps a few bytes in less than half a millisecond."""


class Metrics:
    """A registry with the figures that every daemon has. Any thread may use it."""

    def __init__(self, version: str = "", role: str = "") -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        info = Gauge("quorumfs_build_info", "Always 1.", ("version", "role"), registry=self.registry)
        info.labels(version, role).set(1)
        self.rpc = RpcMetrics(self.registry)

    def render(self) -> tuple[bytes, str]:
        """The whole registry as Prometheus text, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class RpcMetrics:
    """Rate, errors and latency of the calls that this process serves."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._handled = Counter(
            "quorumfs_rpc_handled_total",
            "Calls served, by how they ended.",
            ("service", "method", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "quorumfs_rpc_duration_seconds",
            "Time from the start of a call to its end; of a stream, to its last message.",
            ("service", "method"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._under_way = Gauge(
            "quorumfs_rpc_under_way", "Calls that have not ended.", ("service",), registry=registry
        )

    def begun(self, service: str) -> None:
        self._under_way.labels(service).inc()

    def ended(self, service: str, method: str, code: str, seconds: float) -> None:
        self._under_way.labels(service).dec()
        self._handled.labels(service, method, code).inc()
        self._seconds.labels(service, method).observe(seconds)
