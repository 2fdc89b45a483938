"""What a coordinator tells Prometheus of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from coordinator.consensus import RaftState
from coordinator.consensus.status import FsyncStats
from coordinator.decisions.liveness import Timing
from coordinator.gauges import RAFT_GAUGES, add_gauges
from coordinator.metrics import CoordinatorMetrics
from coordinator.services.gateway import Gateway
from coordinator.soft_state import SoftState
from quorumfs.clock import ManualClock


def told_by(gateway: Any) -> dict[str, float | None]:
    """The figures of Raft, as they are scraped."""
    registry = CollectorRegistry()
    add_gauges(CoordinatorMetrics(registry), gateway, SoftState(ManualClock(), Timing(3.0, 30.0)))
    return {name: registry.get_sample_value(f"quorumfs_raft_{name}") for name, _ in RAFT_GAUGES}


def state_of_a_member() -> RaftState:
    return RaftState(
        node_id="c1",
        state="follower",
        term=3,
        leader_id="c2",
        commit_index=11,
        applied_index=10,
        last_index=12,
        base_index=1,
        members=(),
        history=1,
        tick_age_seconds=0.25,
        journal_bytes=4096,
        queue_ops=5,
        queue_bytes=600,
        boot_counter=1,
        fsync=FsyncStats(count=7, seconds_total=0.7, seconds_max=0.125),
        wal_bytes=8192,
        longest_checkpoint_seconds=0.5,
    )


def test_what_a_member_says_of_its_log_and_database_is_in_its_metrics() -> None:
    consensus = SimpleNamespace(status=state_of_a_member)
    assert told_by(SimpleNamespace(attached=True, consensus=consensus, leadership=lambda: None)) == {
        "term": 3,
        "commit_index": 11,
        "applied_index": 10,
        "last_index": 12,
        "tick_age": 0.25,
        "journal_bytes": 4096,
        "queue_ops": 5,
        "queue_bytes": 600,
        "longest_fsync_seconds": 0.125,
        "wal_bytes": 8192,
        "longest_checkpoint_seconds": 0.5,
    }


def test_a_coordinator_that_waits_for_genesis_tells_no_figures_of_a_log() -> None:
    assert set(told_by(Gateway(ManualClock(), "c1")).values()) == {None}
