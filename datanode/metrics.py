"""The datanode's own metrics, read from the rooms when somebody scrapes; nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.metrics import SYNC_BUCKETS
from datanode.store.chunks import ChunkStore
from datanode.store.fence import EpochStore
from datanode.transfer.admission import Gate
from datanode.transfer.meter import Meter

TIMED = (
    ("sync", "Syncs of a chunk's file."),
    ("write", "The end of a chunk: trailer, header, sync, and its name durable."),
    ("read", "The beginning of a read: a chunk's header and checksums."),
)


class DatanodeMetrics(Collector):
    """Registers itself. Labels: `disk` is the configured path, so there are few."""

    def __init__(
        self,
        registry: CollectorRegistry,
        store: ChunkStore,
        fence: EpochStore,
        meter: Meter,
        writes: Gate,
        reads: Gate,
        sent: Callable[[], Mapping[str, int]],
        waits: Callable[[], Mapping[str, float]],
    ) -> None:
        """`sent`: heartbeats by how they ended; `waits`: for how many seconds which disk has not answered."""
        self._store = store
        self._fence = fence
        self._meter = meter
        self._writes = writes
        self._reads = reads
        self._sent = sent
        self._waits = waits
        took = {
            what: Histogram(
                f"quorumfs_disk_{what}_seconds", text, ("disk",), buckets=SYNC_BUCKETS, registry=registry
            )
            for what, text in TIMED
        }
        for disk in store.disks:
            disk.took = partial(_observe, {what: one.labels(str(disk.path)) for what, one in took.items()})
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        yield from self._disks()
        yield from self._transfers()
        history, term = self._fence.epoch
        yield GaugeMetricFamily("quorumfs_datanode_history", "History of the epoch obeyed.", value=history)
        yield GaugeMetricFamily("quorumfs_datanode_term", "Term of the epoch obeyed.", value=term)
        yield GaugeMetricFamily(
            "quorumfs_datanode_suspects", "Chunks that wait to be verified.", value=self._store.suspects
        )
        yield GaugeMetricFamily(
            "quorumfs_datanode_delta",
            "Changes that no leader has acknowledged.",
            value=len(self._store.delta),
        )
        beats = CounterMetricFamily(
            "quorumfs_heartbeats_sent", "Heartbeats, by how they ended.", labels=["outcome"]
        )
        for outcome, number in self._sent().items():
            beats.add_metric([outcome], number)
        yield beats

    def _disks(self) -> Iterator[Metric]:
        chunks = GaugeMetricFamily("quorumfs_disk_chunks", "Sealed chunks.", labels=["disk"])
        used = GaugeMetricFamily("quorumfs_disk_used_bytes", "Bytes of sealed chunks.", labels=["disk"])
        free = GaugeMetricFamily("quorumfs_disk_free_bytes", "Bytes left for new chunks.", labels=["disk"])
        aside = GaugeMetricFamily("quorumfs_disk_quarantined_bytes", "Bytes in quarantine.", labels=["disk"])
        early = CounterMetricFamily(
            "quorumfs_disk_purged_early", "Chunks that left quarantine early, to make room.", labels=["disk"]
        )
        good = GaugeMetricFamily("quorumfs_disk_ok", "1 when the disk is well.", labels=["disk"])
        for disk in self._store.usage():
            label = [disk.path]
            chunks.add_metric(label, disk.chunks)
            used.add_metric(label, disk.used_bytes)
            free.add_metric(label, disk.free_bytes)
            aside.add_metric(label, disk.quarantined_bytes)
            early.add_metric(label, disk.purged_early_chunks)
            good.add_metric(label, float(disk.state == "ok"))
        yield from (chunks, used, free, aside, early, good)
        waits = GaugeMetricFamily(
            "quorumfs_disk_silent_seconds",
            "For how long the disk has not answered the question that is under way.",
            labels=["disk"],
        )
        for path, seconds in self._waits().items():
            waits.add_metric([path], seconds)
        yield waits

    def _transfers(self) -> Iterator[Metric]:
        counts = self._meter.counts()
        streams = GaugeMetricFamily("quorumfs_streams", "Streams under way.", labels=["kind"])
        streams.add_metric(["write"], self._writes.inside)
        streams.add_metric(["read"], self._reads.inside)
        yield streams
        yield CounterMetricFamily(
            "quorumfs_received_bytes", "Bytes of chunks received.", counts.received_bytes
        )
        yield CounterMetricFamily("quorumfs_sent_bytes", "Bytes of chunks sent.", counts.sent_bytes)
        yield CounterMetricFamily("quorumfs_chunks_sealed", "Replicas sealed by writes.", counts.sealed)
        yield CounterMetricFamily(
            "quorumfs_write_failures", "Writes that left no replica here.", counts.write_failures
        )
        yield CounterMetricFamily(
            "quorumfs_chunks_passed", "Open chunks handed to clients on this host.", counts.passed
        )
        yield CounterMetricFamily("quorumfs_rows_lost", "Writes whose next node was lost.", counts.rows_lost)


def _observe(took: Mapping[str, Histogram], what: str, seconds: float) -> None:
    took[what].observe(seconds)
