"""One leader on one core, and the heartbeats of many datanodes: does it keep up, and what does each cost.

The datanodes are connections and heartbeats without disks (herd.py); leader, gRPC, Raft and state machine are real.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.children import Child, WorkloadError
from benchmarks.herd import DISKS, REPLICAS, held_by, node_name
from benchmarks.machine import Account, Meter, keep_to_cores, resident_bytes
from benchmarks.plan import Plan
from benchmarks.restoring import FILE, PATIENCE_SECONDS, put_file, put_replicas, restore_filled
from benchmarks.results import Results, percentile
from benchmarks.systems import coordinator_pids
from coordinator.decisions.liveness import Liveness
from quorumfs import Client
from quorumfs.ids import ID_BYTES
from quorumfs.testing import LocalCluster, wait_for
from quorumfs.v1 import admin_pb2

CHUNKS_PER_NODE = 1000
CHANGES = 3  # replicas that a heartbeat reports
WINDOW_SECONDS = 10.0
ROUNDS_MAX = 2
LEADER_CORE = 0
BACKLOG = "quorumfs_replica_reports_waiting"
TRANSITIONS = "quorumfs_node_transitions_total"
EMPTY = "empty messages"
_DOUBTS = (Liveness.SUSPECT.value, Liveness.DEAD.value)
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
        _transport(directory, plan, results)
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
        case = _case(plan)
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


def _transport(directory: Path, plan: Plan, results: Results) -> None:
    """As many empty messages over as many streams: what no leader's heartbeat can cost less than."""
    plan.say(f"heartbeats: {plan.datanodes} streams of empty messages")
    log = directory / "empty.log"
    with ExitStack() as stack:
        server = stack.enter_context(Child("empty_streams", {}, log)).wait_ready()
        keep_to_cores(server.pid, {LEADER_CORE})
        config = {"address": f"127.0.0.1:{server.call(verb='port')['port']}", "streams": plan.datanodes}
        callers = stack.enter_context(Child("empty_streams", config, log)).wait_ready()
        callers.call(_LONG_SECONDS, verb="connect")
        for _ in range(min(plan.rounds, ROUNDS_MAX)):
            meter = Meter({"leader": [server.pid]})
            callers.ask(verb="run", seconds=WINDOW_SECONDS)
            seen = callers.answer(WINDOW_SECONDS)
            _add_cost(seen, meter.read(), _case(plan), EMPTY, results)


def _case(plan: Plan) -> str:
    return f"{plan.datanodes} datanodes"


def _add_cost(seen: dict[str, Any], account: Account, case: str, system: str, results: Results) -> None:
    cpu_seconds, count = account.cpu_seconds["leader"], len(seen["took_ms"])
    for figure, value, unit in (
        ("answer median", percentile(seen["took_ms"], 0.5), "ms"),
        ("answer p99", percentile(seen["took_ms"], 0.99), "ms"),
        ("cpu leader", cpu_seconds / count * _US, "us/heartbeat"),
        ("busy core", cpu_seconds / account.wall_seconds, "cores"),
    ):
        results.add(f"heartbeats/{figure}/{case}", system, value, unit, "lower", account.other_cores)


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
    """Windows of heartbeats without changes, then with: what they cost, and then, for a caller costs the leader more
    than they do, what one caller's stats take beside them."""
    for changes, system in ((0, "quorumfs, idle"), (CHANGES, "quorumfs")):
        doubted, meter = _doubted(client), Meter({"leader": [pid]})
        herd.ask(verb="run", seconds=WINDOW_SECONDS, changes=changes)
        seen = herd.answer(WINDOW_SECONDS)
        account = meter.read()
        _add(seen, account, case, system, results)
        herd.ask(verb="run", seconds=WINDOW_SECONDS, changes=changes)
        stats = _stats(client, WINDOW_SECONDS)
        herd.answer(WINDOW_SECONDS)
        for figure, share in (("stat median", 0.5), ("stat p99", 0.99)):
            results.add(f"heartbeats/{figure}/{case}", system, percentile(stats, share), "ms", "lower")
        doubts = _doubted(client) - doubted
        results.add(f"heartbeats/called suspect/{case}", system, doubts, "times", "lower")
        untold = plan.datanodes - seen["acknowledged"]
        results.add(f"heartbeats/not acknowledged/{case}", system, untold, "datanodes", "lower")
        if changes:
            _catch_up(client, case, system, results)


def _add(seen: dict[str, Any], account: Account, case: str, system: str, results: Results) -> None:
    count, seconds = len(seen["late_ms"]), seen["seconds"]
    if not count:
        raise WorkloadError(f"no heartbeat was answered in {seconds:.0f} s: {seen['failures']}")
    _add_cost(seen, account, case, system, results)
    for figure, value, unit in (
        ("late p99", percentile(seen["late_ms"], 0.99), "ms"),
        ("late worst", seen["late_ms"][-1], "ms"),
        ("failed", float(sum(seen["failures"].values())), "heartbeats"),
    ):
        results.add(f"heartbeats/{figure}/{case}", system, value, unit, "lower", account.other_cores)
    rate = count / seconds
    results.add(f"heartbeats/rate/{case}", system, rate, "heartbeats/s", "higher", account.other_cores)
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
    return sum(value for _, value in _samples(client, BACKLOG))


def _doubted(client: Client) -> float:
    """How often the leader has called a datanode suspect or dead."""
    return sum(value for labels, value in _samples(client, TRANSITIONS) if labels["state"] in _DOUBTS)


def _samples(client: Client, name: str) -> list[tuple[dict[str, str], float]]:
    answer = client.coordinator.call("Admin.GetMetrics", admin_pb2.GetMetricsRequest(), leader=True)
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(answer.text.decode())
        for sample in family.samples
        if sample.name == name
    ]


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
