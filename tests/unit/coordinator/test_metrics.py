"""What a coordinator tells Prometheus of itself."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from coordinator.consensus import RaftState
from coordinator.consensus.status import FsyncStats
from coordinator.decisions.liveness import Timing
from coordinator.gauges import RAFT_GAUGES, Recent, add_gauges, add_gc_gauges
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


def test_what_waits_for_the_collection_is_told_by_the_next_scrape_and_by_nobody_who_lost_the_lead() -> None:
    asked: list[Future[dict[str, float]]] = []

    def ask() -> Future[dict[str, float]]:
        asked.append(Future())
        return asked[-1]

    registry = CollectorRegistry()
    add_gc_gauges(CoordinatorMetrics(registry), Recent(ask))
    assert registry.get_sample_value("quorumfs_gc_candidates") is None
    assert len(asked) == 1  # one question, however many figures and scrapes wait for it
    asked[0].set_result({"candidates": 3, "condemned": 2, "held": 0, "paused": True})
    assert registry.get_sample_value("quorumfs_gc_candidates") == 3
    assert registry.get_sample_value("quorumfs_gc_paused") == 1
    asked[-1].set_exception(RuntimeError("the loop is over"))
    assert registry.get_sample_value("quorumfs_gc_candidates") is None
    asked[-1].set_result({})
    assert registry.get_sample_value("quorumfs_gc_candidates") is None


def test_syncs_proposals_heartbeats_and_cycles_are_counted_by_how_they_ended() -> None:
    registry = CollectorRegistry()
    figures = CoordinatorMetrics(registry)
    figures.synced(0.0003)
    for outcome in ("done", "done", "unknown"):
        figures.proposed(outcome)
    figures.heartbeat("ok")
    figures.cycle("done", 12.5)

    def told(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"quorumfs_{name}", labels)

    assert told("raft_fsync_seconds_bucket", le="0.00025") == 0
    assert told("raft_fsync_seconds_bucket", le="0.0005") == 1
    assert [told("raft_proposals_total", outcome=one) for one in ("done", "refused", "unknown")] == [2, 0, 1]
    assert told("heartbeats_received_total", outcome="ok") == 1
    assert told("gc_cycles_total", outcome="done") == 1
    assert told("gc_last_cycle_seconds") == 12.5
