"""A coordinator's own metrics: Raft, queues, nodes, duties. Gauges are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from common.metrics import SYNC_BUCKETS

Sample = tuple[tuple[str, ...], float]
Read = Callable[[], Sequence[Sample]]


class Gauges(Collector):
    """Gauges whose values are read at each scrape; a reader that has nothing to say gives no samples."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows: list[tuple[str, str, tuple[str, ...], Read]] = []
        registry.register(self)

    def add(self, name: str, text: str, read: Read, labels: tuple[str, ...] = ()) -> None:
        """`read` gives (label values, value) pairs; it must not block."""
        self._rows.append((name, text, labels, read))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, text, labels, read in list(self._rows):
            family = GaugeMetricFamily(name, text, labels=labels)
            for values, value in read():
                family.add_metric(values, value)
            yield family


class CoordinatorMetrics:
    """`registry` is the process's (common/metrics.py)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.gauges = Gauges(registry)
        self._repair = Counter(
            "quorumfs_repair_total",
            "Copies ordered by repair, by how they ended.",
            ("outcome",),
            registry=registry,
        )
        self._repair_bytes = Counter(
            "quorumfs_repair_bytes_total", "Bytes that repair had copied.", registry=registry
        )
        self._collected = Counter(
            "quorumfs_gc_chunks_total",
            "Chunks that this leader's collection adopted, condemned, deleted.",
            ("what",),
            registry=registry,
        )
        self._transitions = Counter(
            "quorumfs_node_transitions_total",
            "Datanodes that came to a state.",
            ("state",),
            registry=registry,
        )
        self._fsync = Histogram(
            "quorumfs_raft_fsync_seconds",
            "Syncs of the journal: each entry waits for one.",
            buckets=SYNC_BUCKETS,
            registry=registry,
        )
        proposals = Counter(
            "quorumfs_raft_proposals_total",
            "Batches given to this member to propose, by how they ended: done, refused, unknown.",
            ("outcome",),
            registry=registry,
        )
        self._proposals = {one: proposals.labels(one) for one in ("done", "refused", "unknown")}
        self._heartbeats = Counter(
            "quorumfs_heartbeats_received_total",
            "Datanodes' heartbeats, by what this coordinator answered: ok, register, or the error.",
            ("outcome",),
            registry=registry,
        )
        self._cycles = Counter(
            "quorumfs_gc_cycles_total",
            "This leader's cycles of the garbage collection, by how they ended.",
            ("outcome",),
            registry=registry,
        )
        self._cycle_seconds = Gauge(
            "quorumfs_gc_last_cycle_seconds",
            "How long this leader's last cycle of the garbage collection took.",
            registry=registry,
        )

    def synced(self, seconds: float) -> None:
        self._fsync.observe(seconds)

    def proposed(self, outcome: str) -> None:
        """`outcome`: done, refused, unknown."""
        self._proposals[outcome].inc()

    def heartbeat(self, outcome: str) -> None:
        self._heartbeats.labels(outcome).inc()

    def cycle(self, outcome: str, seconds: float) -> None:
        """Of the garbage collection; no dry run."""
        self._cycles.labels(outcome).inc()
        self._cycle_seconds.set(seconds)

    def repaired(self, what: str, number: int) -> None:
        """`what`: done, failed, or bytes."""
        if what == "bytes":
            self._repair_bytes.inc(number)
        else:
            self._repair.labels(what).inc(number)

    def collected(self, what: str, number: int) -> None:
        """`what`: adopted, condemned, deleted."""
        self._collected.labels(what).inc(number)

    def transition(self, state: str) -> None:
        self._transitions.labels(state).inc()
