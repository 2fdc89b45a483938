"""What a datanode tells Prometheus of its disks and of its heartbeats."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from datanode.metrics import DatanodeMetrics
from datanode.transfer.admission import Gate
from datanode.transfer.meter import Meter
from quorumfs.ids import ChunkId
from tests.unit.datanode.store.fakes import content, opened, put

A = ChunkId(b"a" * 16)


def test_each_disk_tells_how_long_it_took_and_for_how_long_it_has_been_silent(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    fence: Any = SimpleNamespace(epoch=(1, 2))
    with opened(tmp_path) as (store, _):
        DatanodeMetrics(
            registry,
            store,
            fence,
            Meter(),
            Gate("writes", 1),
            Gate("reads", 1),
            lambda: {"accepted": 7, "silent": 0},
            lambda: {str(tmp_path): 31.0},
        )
        put(store, A, b"d" * 1000)
        content(store, A)
        disk = {"disk": str(tmp_path)}
        for what in ("sync", "write", "read"):
            assert registry.get_sample_value(f"quorumfs_disk_{what}_seconds_count", disk) == 1
        assert registry.get_sample_value("quorumfs_disk_silent_seconds", disk) == 31.0
        sent = "quorumfs_heartbeats_sent_total"
        assert registry.get_sample_value(sent, {"outcome": "accepted"}) == 7
        assert registry.get_sample_value(sent, {"outcome": "silent"}) == 0
