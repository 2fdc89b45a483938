"""Small files that threads put one by one, and that share chunks, on real processes: a node dies or hangs meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from quorumfs import Client
from quorumfs.errors import QuorumFSError
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

KIB = 1 << 10
CALLERS = 8
SIZES = (1, 9 * KIB, 64 * KIB, 65 * KIB, 256 * KIB)
HARM_AFTER = 60  # files
FILES = 240

# No body is taken into the metadata; a node that does not answer is soon replaced.
cluster = cluster_fixture(
    settings={
        "data.inline_bytes_max": 0,
        "membership.suspect_seconds": 1.5,
        "membership.dead_seconds": 4,
    }
)


@dataclass
class Callers:
    """Threads that each put one file after the other, of names that nobody else has, by one client."""

    fs: Client
    directory: str
    stored: dict[str, bytes] = field(default_factory=dict)
    failed: dict[str, QuorumFSError] = field(default_factory=dict)
    _taken: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _harm: Callable[[], object] = field(default=lambda: None)

    def run(self, harm: Callable[[], object]) -> None:
        """All files, with the harm done once HARM_AFTER of them were begun."""
        self._harm = harm
        self.fs.mkdir(self.directory)
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, number: int) -> None:
        dice = random.Random(f"{self.directory} {number}")
        for _ in range(FILES // CALLERS):
            path = f"{self.directory}/{number}-{_}"
            self._next()
            data = dice.randbytes(dice.choice(SIZES))
            try:
                self.fs.write_bytes(path, data, if_absent=True)  # what was done twice would be refused
            except QuorumFSError as error:
                self.failed[path] = error
            else:
                self.stored[path] = data

    def _next(self) -> None:
        with self._lock:
            self._taken += 1
            is_time = self._taken == HARM_AFTER
        if is_time:
            self._harm()


def live_replicas(fs: Client, path: str) -> int:
    (place,) = fs.locate(path)
    return sum(replica.state == "live" for replica in place.replicas)


def all_is_well(cluster: LocalCluster, callers: Callers) -> None:
    assert callers.failed == {}
    assert len(callers.stored) == FILES
    with cluster.client() as other:
        assert other.get_many(callers.stored) == callers.stored
        chunks = {place.chunk for path in callers.stored for place in other.locate(path)}
        assert len(chunks) < FILES
        wait_for(
            lambda: all(live_replicas(other, path) >= 3 for path in callers.stored),
            90.0,
            "every file has its replicas",
        )


@pytest.mark.parametrize("node", ["d1", "d2", "d3"])
@pytest.mark.parametrize(
    ("harm", "heal"),
    [(LocalCluster.kill, LocalCluster.start_node), (LocalCluster.pause, LocalCluster.resume)],
    ids=["dies", "hangs"],
)
def test_a_datanode_dies_or_hangs_while_files_are_put_together(
    cluster: LocalCluster,
    fs: Client,
    node: str,
    harm: Callable[[LocalCluster, str], object],
    heal: Callable[[LocalCluster, str], object],
) -> None:
    callers = Callers(fs, f"/{harm.__name__}-{node}")
    try:
        callers.run(lambda: harm(cluster, node))
    finally:
        heal(cluster, node)
    all_is_well(cluster, callers)
    cluster.wait_ready()


def test_the_leader_dies_while_files_are_put_together(cluster: LocalCluster, fs: Client) -> None:
    callers = Callers(fs, "/killed-leader")
    old: list[str] = []
    try:
        callers.run(lambda: old.append(cluster.kill_leader()))
    finally:
        for node in old:
            cluster.start_node(node)
    all_is_well(cluster, callers)
    cluster.wait_ready()


def test_the_leader_hangs_while_files_are_put_together(cluster: LocalCluster, fs: Client) -> None:
    callers = Callers(fs, "/paused-leader")
    old = cluster.leader()
    try:
        callers.run(lambda: cluster.pause(old))
    finally:
        cluster.resume(old)
    all_is_well(cluster, callers)
    cluster.wait_ready()


def test_what_a_client_that_dies_leaves_open_ends_and_its_files_stay(cluster: LocalCluster) -> None:
    with cluster.client() as other:
        lost = cluster.client()
        lost.mkdir("/left")
        for number in range(3):
            lost.write_bytes(f"/left/{number}", bytes([number]) * 40 * KIB)
        lost.coordinator.close()  # nothing that it says is heard any more
        lost.close()
        assert {name: other.read_bytes(name) for name in ("/left/1", "/left/2")} == {
            "/left/1": b"\1" * 40 * KIB,
            "/left/2": b"\2" * 40 * KIB,
        }
        assert live_replicas(other, "/left/2") == 3
