"""The garbage collection over many chunks: what a cycle costs the leader, and what it costs those who wait meanwhile.

The chunks are in the metadata and in inventories only: a backup of a small cluster is filled with them and restored,
and the datanodes are heartbeats and inventories without disks, in a process of their own. Nothing is garbage: a cycle
gathers and marks everything and finds nothing to do.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.children import Child
from benchmarks.inventory_nodes import NODES
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
from quorumfs import Client
from quorumfs.testing import LocalCluster, wait_for
from quorumfs.v1 import admin_pb2 as a

DISK = "disk"
ID_BYTES = 16
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
        (directory / "ids").write_bytes(b"".join(ids))
        config = {
            "secret": str(cluster.layout.secret_file),
            "coordinators": cluster.coordinators,
            "ids": str(directory / "ids"),
        }
        stack.enter_context(Child("inventory_nodes", config, directory / "nodes.log")).wait_ready()
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
