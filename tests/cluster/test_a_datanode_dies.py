"""A datanode that holds many chunks is killed: it is noticed and healed in time, and nobody has to wait for it."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any

import pytest

from quorumfs.errors import QuorumFSError
from quorumfs.testing import LocalCluster, wait_for
from quorumfs.v1 import admin_pb2 as a

pytestmark = pytest.mark.cluster

CHUNK_BYTES = 64 << 10
FILE_CHUNKS = 64


@dataclass(frozen=True)
class Case:
    """`files` of FILE_CHUNKS chunks each. Seconds of silence until a node is suspect, and dead."""

    files: int
    bytes_per_second: int
    suspect_seconds: float
    dead_seconds: float
    patience_seconds: float


# With everything by default, and as many chunks on one node as take a while.
DEFAULTS = Case(56, 4 << 20, 3.0, 30.0, 240.0)
SHORT = Case(3, 1 << 20, 1.5, 4.0, 60.0)


@dataclass
class Traffic:
    """One caller that writes a file and reads another, again and again."""

    cluster: LocalCluster
    paths: list[str]
    content: bytes
    slowest_seconds: float = 0.0
    rounds: int = 0
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Traffic:
        self._thread = threading.Thread(target=self._run, name="traffic")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with self.cluster.client(short_circuit=False) as fs:
            for number in count():
                if self._over.is_set():
                    return
                began = time.monotonic()
                try:
                    fs.write_bytes(f"/traffic-{number}", self.content)
                    assert fs.read_bytes(self.paths[number % len(self.paths)]) == self.content * FILE_CHUNKS
                except (QuorumFSError, AssertionError) as error:
                    self.failures.append(str(error))
                self.rounds += 1
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
                self._over.wait(0.05)  # a caller among others


def events(cluster: LocalCluster, name: str, **fields: Any) -> list[dict[str, Any]]:
    """What coordinators have logged under this name, with `at`, the time of day in seconds."""
    found = []
    for node in cluster.layout.coordinator_nodes:
        for line in cluster.log(node.node_id).splitlines():
            if f'"{name}"' not in line:
                continue
            event = json.loads(line)
            if event["event"] == name and all(event[key] == value for key, value in fields.items()):
                found.append({**event, "at": datetime.fromisoformat(event["ts"]).timestamp()})
    return sorted(found, key=lambda event: float(event["at"]))


def chunks_on(cluster: LocalCluster, node_id: str) -> set[str]:
    directory = cluster.layout.data_directory(cluster.layout.node(node_id))
    return {one.name for one in directory.rglob("chunks/??/*") if "." not in one.name}


def whole(cluster: LocalCluster) -> bool:
    with cluster.client() as fs:
        status = fs.coordinator.call("Control.GetClusterStatus", a.GetClusterStatusRequest())
    return (status.under_replicated, status.missing) == (0, 0)


@pytest.mark.parametrize(
    "case",
    [pytest.param(SHORT, id="short"), pytest.param(DEFAULTS, id="defaults", marks=pytest.mark.long)],
)
def test_what_a_killed_datanode_held_is_whole_again_in_time_while_everybody_works(case: Case) -> None:
    settings = {
        "data.chunk_size_bytes": CHUNK_BYTES,
        "data.inline_bytes_max": 0,
        "repair.bytes_per_second": case.bytes_per_second,
        "membership.suspect_seconds": case.suspect_seconds,
        "membership.dead_seconds": case.dead_seconds,
    }
    with LocalCluster(datanodes=5, settings=settings) as cluster:
        figures = kill_one(cluster, case)
    sys.stderr.write(f"\na killed datanode: {json.dumps(figures)}\n")
    copying = figures["copying_seconds"]
    assert figures["suspect_seconds"] <= case.suspect_seconds, figures
    assert figures["begun_seconds"] <= case.dead_seconds, figures
    assert figures["healed_after_seconds"] <= 2 * copying, figures


def kill_one(cluster: LocalCluster, case: Case) -> dict[str, float]:
    """Seconds, of which `suspect` and `begun` (repair) count from the kill, `healed_after` from when it was dead."""
    paths = [f"/f{number}" for number in range(case.files)]
    content = os.urandom(CHUNK_BYTES)
    with cluster.client() as fs:
        for path in paths:
            fs.write_bytes(path, content * FILE_CHUNKS)
    wait_for(lambda: whole(cluster), case.patience_seconds, "everything has its replicas")
    held = {node.node_id: chunks_on(cluster, node.node_id) for node in cluster.layout.datanodes}
    victim = max(held, key=lambda node_id: len(held[node_id]))
    with Traffic(cluster, paths, content) as traffic:
        wait_for(lambda: traffic.rounds > 0, case.patience_seconds, "there is traffic")
        killed_at = time.time()
        cluster.kill(victim)
        wait_for(lambda: events(cluster, "node.dead", node=victim), case.patience_seconds, "it is dead")
        wait_for(lambda: whole(cluster), case.patience_seconds, "everything has its replicas again")
        healed_at = time.time()
    assert traffic.failures == []
    (suspect,) = events(cluster, "node.suspect", node=victim)
    (dead,) = events(cluster, "node.dead", node=victim)
    ordered = [one for one in events(cluster, "repair.ordered") if one["at"] >= killed_at]
    begun_at = next(
        one["at"] for one in ordered if one["chunk"] in held[victim]
    )  # others lack copies of their own
    dead_at = min(dead["at"], begun_at)  # repair may see it a moment before it is told
    copies = Counter((one["chunk"], one["destination"]) for one in ordered)
    failed = events(cluster, "repair.failed")
    copies.subtract((one["chunk"], one["destination"]) for one in failed if one["at"] >= killed_at)
    twice = [copy for copy, times in copies.items() if times > 1]
    assert twice == [], f"copies were made twice; failed: {[one['cause'] for one in failed]}"
    copied = sum(times == 1 for times in copies.values())
    assert copied >= len(held[victim])
    for path in paths:
        with cluster.client() as fs:
            assert fs.read_bytes(path) == content * FILE_CHUNKS
            assert all(
                len({one.node_id for one in place.replicas} - {victim}) >= 3 for place in fs.locate(path)
            )
    return {
        "chunks": len(held[victim]),
        "copied": copied,
        "suspect_seconds": round(suspect["at"] - killed_at, 2),
        "dead_seconds": round(dead_at - killed_at, 2),
        "begun_seconds": round(begun_at - killed_at, 2),
        "healed_after_seconds": round(healed_at - dead_at, 2),
        "copying_seconds": round(copied * CHUNK_BYTES / case.bytes_per_second, 2),
        "rounds": traffic.rounds,
        "slowest_round_seconds": round(traffic.slowest_seconds, 2),
    }
