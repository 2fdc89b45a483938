"""One leader on one core, and the heartbeats of many datanodes: does it keep up, and what does each cost.

The datanodes are connections and heartbeats without disks (herd.py); leader, gRPC, Raft and state machine are real.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.children import Child, WorkloadError
from benchmarks.herd import DISKS, REPLICAS, held_by, node_name
from benchmarks.machine import Meter, keep_to_cores, resident_bytes
from benchmarks.plan import Plan
from benchmarks.restoring import FILE, PATIENCE_SECONDS, put_file, put_replicas, restore_filled
from benchmarks.results import Results, percentile
from benchmarks.systems import coordinator_pids
from quorumfs import Client
from quorumfs.ids import ID_BYTES
from quorumfs.testing import LocalCluster, wait_for
from quorumfs.v1 import admin_pb2

CHUNKS_PER_NODE = 1000
CHANGES = 3  # replicas that a heartbeat reports
WINDOW_SECONDS = 20.0
ROUNDS_MAX = 3
LEADER_CORE = 0
BACKLOG = "quorumfs_replica_reports_waiting"
_LONG_SECONDS = 600.0
_MS, _US = 1e3, 1e6


def heartbeats(plan: Plan, results: Results) -> None:
    """Register them all, give them chunks, have all inventories told; then rounds: one caller alone with idle
    heartbeats, and beside heartbeats that report changes."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        others = os.sched_getaffinity(0) - {LEADER_CORE}
        if not others:
            results.skip(
                "quorumfs, heartbeats", "there is one core, and the datanodes would share it with the leader"
            )
            return
        stack.callback(keep_to_cores, os.getpid(), os.sched_getaffinity(0))
        keep_to_cores(os.getpid(), others)  # what is started from here as well
        plan.say("heartbeats: starting the cluster")
        cluster = stack.enter_context(
            LocalCluster(coordinators=1, datanodes=0, directory=directory / "cluster")
        )
        with cluster.client() as client:
            address = client.leader().grpc
            pause = admin_pb2.ControlGcRequest(pause=True)  # the collection is measured for itself
            client.coordinator.control("Control.ControlGc", pause)
        config = {
            "address": address,
            "secret_file": str(cluster.layout.secret_file),
            "nodes": plan.datanodes,
        }
        herd = stack.enter_context(Child("herd", config, directory / "herd.log")).wait_ready()
        (pid,) = coordinator_pids(cluster).values()
        keep_to_cores(pid, {LEADER_CORE})
        case = f"{plan.datanodes} datanodes"
        _register(herd, pid, case, plan, results)
        pid = _load(cluster, herd, directory, plan)
        keep_to_cores(pid, {LEADER_CORE})
        _inventories(cluster, herd, pid, case, plan, results)
        with cluster.client() as client:
            for number in range(min(plan.rounds, ROUNDS_MAX)):
                plan.say(f"heartbeats: round {number + 1}")
                _round(client, herd, pid, case, plan, results)
        results.add(
            f"heartbeats/resident leader/{case}", "quorumfs", resident_bytes(pid) / 2**20, "MiB", "lower"
        )


def _register(herd: Child, pid: int, case: str, plan: Plan, results: Results) -> None:
    """All of them at once, and none was ever seen: an entry each."""
    plan.say(f"heartbeats: registering {plan.datanodes} datanodes")
    meter = Meter({"leader": [pid]})
    took = herd.call(_LONG_SECONDS, verb="register")["seconds"]
    account = meter.read()
    cost = account.cpu_seconds["leader"] / plan.datanodes * _MS
    others = account.other_cores
    results.add(f"heartbeats/registration/{case}, new", "quorumfs", took, "s", "lower", others)
    results.add(f"heartbeats/cpu of a registration/{case}, new", "quorumfs", cost, "ms/node", "lower", others)


def _load(cluster: LocalCluster, herd: Child, directory: Path, plan: Plan) -> int:
    """Three nodes hold each chunk. The pid of the leader that knows of it."""
    count = plan.datanodes * CHUNKS_PER_NODE // REPLICAS
    plan.say(f"heartbeats: loading {count} chunks")
    ids = sorted(os.urandom(ID_BYTES) for _ in range(count))
    ids_file = directory / "ids"
    ids_file.write_bytes(b"".join(ids))

    def fill(tx: sqlite3.Connection) -> None:
        put_file(tx, ids, REPLICAS)
        for number in range(plan.datanodes):
            put_replicas(tx, node_name(number), DISKS[0], held_by(number, plan.datanodes, ids))

    herd.call(_LONG_SECONDS, verb="hold", ids_file=str(ids_file))
    return restore_filled(cluster, directory, fill)


def _inventories(
    cluster: LocalCluster, herd: Child, pid: int, case: str, plan: Plan, results: Results
) -> None:
    """A new leader: all come back to it, and tell everything once."""
    plan.say("heartbeats: a new leader, and all inventories")
    meter, began = Meter({"leader": [pid]}), time.monotonic()
    herd.call(_LONG_SECONDS, verb="register")
    known = time.monotonic() - began
    herd.call(_LONG_SECONDS, verb="inventories")
    told = time.monotonic() - began
    account = meter.read()
    others = account.other_cores
    cost = account.cpu_seconds["leader"]
    results.add(f"heartbeats/registration/{case}, of a new leader", "quorumfs", known, "s", "lower", others)
    results.add(f"heartbeats/inventories/{case}", "quorumfs", told, "s", "lower", others)
    results.add(f"heartbeats/cpu of all inventories/{case}", "quorumfs", cost, "s", "lower", others)
    with cluster.client() as client:
        wait_for(lambda: _backlog(client) == 0, PATIENCE_SECONDS, "what was told is compared")


def _round(client: Client, herd: Child, pid: int, case: str, plan: Plan, results: Results) -> None:
    """A window of heartbeats without changes, then one with."""
    for changes, system in ((0, "quorumfs, idle"), (CHANGES, "quorumfs")):
        meter = Meter({"leader": [pid]})
        herd.ask(verb="run", seconds=WINDOW_SECONDS, changes=changes)
        stats = _stats(client, WINDOW_SECONDS)
        seen = herd.answer(WINDOW_SECONDS)
        account = meter.read()
        _add(seen, account.cpu_seconds["leader"], stats, account.other_cores, case, system, results)
        if changes:
            _catch_up(client, case, system, results)


def _add(
    seen: dict[str, Any],
    cpu_seconds: float,
    stats: Sequence[float],
    others: float,
    case: str,
    system: str,
    results: Results,
) -> None:
    def add(figure: str, value: float, unit: str) -> None:
        results.add(f"heartbeats/{figure}/{case}", system, value, unit, "lower", others)

    count, seconds = len(seen["late_ms"]), seen["seconds"]
    if not count:
        raise WorkloadError(f"no heartbeat was answered in {seconds:.0f} s: {seen['failures']}")
    add("late p99", percentile(seen["late_ms"], 0.99), "ms")
    add("late worst", seen["late_ms"][-1], "ms")
    add("answer median", percentile(seen["took_ms"], 0.5), "ms")
    add("failed", float(sum(seen["failures"].values())), "heartbeats")
    add("cpu leader", cpu_seconds / count * _US, "us/heartbeat")
    add("busy core", cpu_seconds / seconds, "cores")
    add("stat median", percentile(stats, 0.5), "ms")
    add("stat p99", percentile(stats, 0.99), "ms")
    results.add(f"heartbeats/rate/{case}", system, count / seconds, "heartbeats/s", "higher", others)
    for what, number in seen["failures"].items():
        results.note(f"heartbeats, {system}: {number} times {what}")
    late = percentile(seen["sent_late_ms"], 0.99)
    if late > _MS / 10:
        results.note(f"heartbeats, {system}: the datanodes themselves sent late, p99 {late:.0f} ms")


def _catch_up(client: Client, case: str, system: str, results: Results) -> None:
    """What is reported and not compared yet when the window ends, and how long it takes to be."""
    waiting, began = _backlog(client), time.monotonic()
    wait_for(lambda: _backlog(client) == 0, PATIENCE_SECONDS, "what was told is written")
    results.add(f"heartbeats/backlog/{case}", system, waiting, "reports", "lower")
    results.add(f"heartbeats/catching up/{case}", system, time.monotonic() - began, "s", "lower")


def _backlog(client: Client) -> float:
    """Replicas that were reported and are not compared with the metadata yet."""
    answer = client.coordinator.call("Admin.GetMetrics", admin_pb2.GetMetricsRequest(), leader=True)
    return sum(
        sample.value
        for family in text_string_to_metric_families(answer.text.decode())
        for sample in family.samples
        if sample.name == BACKLOG
    )


def _stats(client: Client, seconds: float) -> list[float]:
    """Milliseconds of each stat of one caller, in order of length."""
    took: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        client.stat(FILE)
        took.append((time.perf_counter() - began) * _MS)
        time.sleep(0.002)  # a caller among others: it must not take the core that datanodes and client share
    return sorted(took)
