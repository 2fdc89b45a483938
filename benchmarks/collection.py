"""The garbage collection over many chunks: what a cycle costs the leader, and what it costs those who wait meanwhile.

The chunks are in the metadata and in inventories only: a backup of a small cluster is filled with them and restored,
and the datanodes are heartbeats and inventories without disks. Nothing is garbage: a cycle gathers and marks everything
and finds nothing to do.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.machine import Meter, forget_peak, peak_bytes, resident_bytes
from benchmarks.plan import Plan
from benchmarks.restoring import (
    FILE,
    PATIENCE_SECONDS,
    datanodes_alive,
    put_file,
    put_replicas,
    restore_filled,
)
from benchmarks.results import Results, percentile
from benchmarks.systems import coordinator_pids
from common.cluster import ClusterNode
from common.cluster.content import Agenda
from common.cluster.transport import GrpcTransport
from datanode.duties.content import INVENTORY_PAGE_IDS
from quorumfs import Client
from quorumfs.rpc.trust import TrustedChannels, read_secret
from quorumfs.testing import LocalCluster, wait_for
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

NODES = ("d1", "d2", "d3")
DISK = "disk"
ID_BYTES = 16
HEARTBEAT_SECONDS = 0.2
CYCLE_SECONDS = 600.0
ROUNDS_MAX = 3
_MS = 1e3


def collection(plan: Plan, results: Results) -> None:
    """Fill a cluster, run cycles alone, then beside one caller, in turns with the caller alone."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        settings = {"data.replication": 1, "data.min_replicas": 1, "gc.interval_seconds": 86_400.0}
        plan.say("gc: starting the cluster")
        cluster = stack.enter_context(
            LocalCluster(coordinators=1, datanodes=0, directory=directory / "cluster", settings=settings)
        )
        ids = sorted(os.urandom(ID_BYTES) for _ in range(plan.chunks))
        nodes = [_Node(cluster, name, ids[k :: len(NODES)]) for k, name in enumerate(NODES)]
        for node in nodes:
            node.start()
            stack.callback(node.stop)
        before = _load(cluster, directory, ids, plan)
        with cluster.client() as client:
            pid = coordinator_pids(cluster)[client.leader().node_id]
            plan.say("gc: a first cycle")
            wait_for(lambda: _is_whole(_cycle(client), plan), CYCLE_SECONDS, "a cycle sees everything")
            rounds = min(plan.rounds, ROUNDS_MAX)
            for number in range(rounds):
                plan.say(f"gc: round {number + 1} of {rounds}")
                _alone(client, pid, before, plan, results)
                _beside(client, plan, results)


class _Node:
    """A datanode that says that it is there, and what it holds."""

    def __init__(self, cluster: LocalCluster, node_id: str, ids: Sequence[bytes]) -> None:
        self._ids = ids
        self._epoch = (0, 0)
        self._channels = TrustedChannels(read_secret(cluster.layout.secret_file), node_id)
        info = m.NodeInfo(
            node_id=node_id,
            node_uuid=f"bench-{node_id}",
            role=t.NODE_ROLE_DATANODE,
            grpc="127.0.0.1:1",  # nothing is asked of it
            incarnation=1,
            disks=self.disks(),
        )
        agenda = Agenda(self, self, lambda _: None, lambda _: None, lambda _: None, HEARTBEAT_SECONDS)
        self._agent = ClusterNode.for_datanode(
            lambda: info, cluster.coordinators.split(","), GrpcTransport(self._channels), agenda
        )
        self.start = self._agent.start

    def stop(self) -> None:
        self._agent.stop()
        self._channels.close()

    # HeartbeatContent

    def load(self) -> m.NodeLoad:
        return m.NodeLoad()

    def disks(self) -> Sequence[t.DiskInfo]:
        return [
            t.DiskInfo(
                disk_id=DISK,
                path="/disk",
                state="ok",
                total_bytes=1 << 40,
                free_bytes=1 << 39,
                used_bytes=1 << 39,
            )
        ]

    def take_delta(self, sequence: int) -> Sequence[m.ReplicaReport]:
        return []

    def outcomes(self, sequence: int) -> Sequence[m.CommandOutcome]:
        return []

    def acknowledged(self, sequence: int) -> None:
        pass

    def inventory(self) -> Iterator[m.InventoryPage]:
        for first in range(0, len(self._ids), INVENTORY_PAGE_IDS):
            yield m.InventoryPage(ids=b"".join(self._ids[first : first + INVENTORY_PAGE_IDS]))

    def holds_nothing(self) -> bool:
        return False

    # EpochStore: whoever leads is obeyed

    @property
    def epoch(self) -> tuple[int, int]:
        return self._epoch

    @property
    def commit_index(self) -> int:
        return 0

    @property
    def incarnation(self) -> int:
        return 1

    def obey(self, epoch: t.Epoch) -> None:
        self._epoch = (epoch.history, epoch.term)

    def heard(self, epoch: t.Epoch, commit_index: int) -> None:
        pass


def _load(cluster: LocalCluster, directory: Path, ids: Sequence[bytes], plan: Plan) -> int:
    """Put the chunks into the metadata, and wait for the leader and its datanodes.

    What the leader holds in memory, in bytes, when it answers for the first time.
    """
    with cluster.client() as client:
        wait_for(lambda: datanodes_alive(client) == len(NODES), PATIENCE_SECONDS, "the datanodes are there")

    def fill(tx: sqlite3.Connection) -> None:
        """Each chunk with one replica, dealt out in turns."""
        put_file(tx, ids, replicas=1)
        for k, name in enumerate(NODES):
            put_replicas(tx, name, DISK, ids[k :: len(NODES)])

    plan.say(f"gc: loading {len(ids)} chunks")
    before = resident_bytes(restore_filled(cluster, directory, fill))
    with cluster.client() as client:
        wait_for(lambda: datanodes_alive(client) == len(NODES), PATIENCE_SECONDS, "the datanodes are back")
    return before


def _cycle(client: Client) -> a.GcReport:
    """Begun, and waited for."""
    control = client.coordinator.control
    report: a.GcReport = control("Control.RunGc", a.RunGcRequest(), deadline=CYCLE_SECONDS)
    while report.outcome == "running":
        again = a.RunGcRequest(wait=True, ticket=report.ticket)
        report = control("Control.RunGc", again, repeatable=True, deadline=CYCLE_SECONDS)
    return report


def _is_whole(report: a.GcReport, plan: Plan) -> bool:
    """Whether it saw everything. Raises AssertionError when it took something for garbage."""
    assert (report.outcome, report.strays, report.condemned) == ("done", 0, 0), report
    return not report.void_nodes and min(report.marked, report.gathered) >= plan.chunks


def _alone(client: Client, pid: int, before: int, plan: Plan, results: Results) -> None:
    """`before`: what the leader held in memory before it knew of any inventory."""
    forget_peak(pid)
    meter = Meter({"leader": [pid]})
    report = _cycle(client)
    assert _is_whole(report, plan), report
    account, case = meter.read(), f"{plan.chunks} chunks"
    others = account.other_cores
    results.add(f"gc/cycle/{case}", "quorumfs", report.seconds, "s", "lower", others)
    results.add(f"gc/cpu leader/{case}", "quorumfs", account.cpu_seconds["leader"], "s", "lower", others)
    added = (peak_bytes(pid) - before) / 2**20
    results.add(f"gc/memory added/{case}", "quorumfs", added, "MiB", "lower", others)


def _beside(client: Client, plan: Plan, results: Results) -> None:
    """One caller, for a while alone, then as long as a cycle takes."""
    meter = Meter({})
    alone = _calls(client, lambda began: time.monotonic() - began < plan.seconds)
    _add(alone, "quorumfs", meter.read().other_cores, results)
    done = threading.Event()
    reports: list[a.GcReport] = []

    def run() -> None:
        try:
            reports.append(_cycle(client))
        finally:
            done.set()

    meter = Meter({})
    runner = threading.Thread(target=run, name="gc-cycle")
    runner.start()
    beside = _calls(client, lambda _: not done.is_set())
    runner.join()
    assert reports, "the cycle failed"
    assert _is_whole(reports[0], plan), reports[0]
    _add(beside, "quorumfs, beside a cycle", meter.read().other_cores, results)


def _calls(client: Client, goes_on: Callable[[float], bool]) -> dict[str, list[float]]:
    """Milliseconds of each stat and each create, in turns."""
    took: dict[str, list[float]] = {"stat": [], "create": []}
    began, number = time.monotonic(), 0
    while goes_on(began):
        number += 1
        at = time.perf_counter()
        client.stat(FILE)
        seen = time.perf_counter()
        client.write_bytes(f"/file-{time.monotonic_ns()}-{number}", b"")
        took["stat"].append((seen - at) * _MS)
        took["create"].append((time.perf_counter() - seen) * _MS)
    return took


def _add(took: dict[str, list[float]], system: str, others: float, results: Results) -> None:
    for verb, times in took.items():
        times.sort()
        results.add(f"gc/{verb} median/one caller", system, percentile(times, 0.5), "ms", "lower", others)
        results.add(f"gc/{verb} p99/one caller", system, percentile(times, 0.99), "ms", "lower", others)
