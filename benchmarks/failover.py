"""kill -9 of the leader under load: how long until a client's next write is acknowledged.

The load is 16 callers that go on creating, so that both cores are busy. The write that is timed begins at the kill,
by a client that knew the old leader. Beside it etcd with its defaults, and with timers like ours.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.machine import Meter
from benchmarks.peers import etcd
from benchmarks.plan import Plan
from benchmarks.results import Results
from benchmarks.systems import QuorumFS, Shape, coordinator_pids
from benchmarks.tally import NothingAnsweredError
from quorumfs import Client
from quorumfs.testing import LocalCluster

_LOAD = Shape(16)
_LOAD_SECONDS = 4.0
_KILL_AFTER_SECONDS = (1.0, 1.6)
_PUT_SECONDS = 0.25
_PAUSE_SECONDS = 0.01


class OurGroup:
    """Our coordinators, and a client of them."""

    name = "quorumfs"

    def __init__(self, product: QuorumFS, client: Client) -> None:
        self._product = product
        self._client = client
        self._writes = 0

    def pids(self) -> Sequence[int]:
        """Of servers and load."""
        servers = coordinator_pids(self._product.cluster).values()
        return [*servers, *(child.pid for child in self._product.children)]

    def load(self, seconds: float) -> None:
        self._product.load("create", _LOAD, seconds, lambda: None)

    def time_to_next_write(self) -> float:
        """Kill the leader; seconds from then to the acknowledgement of a write."""
        self._write()
        leader = self._client.leader().node_id
        pid = coordinator_pids(self._product.cluster)[leader]
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self._write()
        took = time.monotonic() - began
        self._product.cluster.start_node(leader)
        return took

    def wait_ready(self) -> None:
        self._product.cluster.wait_ready()

    def _write(self) -> None:
        self._writes += 1
        self._client.write_bytes(f"/write-{self._writes}", b"")


class EtcdGroup:
    """etcd's members, and a client that asks the others when one does not answer."""

    def __init__(self, group: etcd.Etcd, name: str) -> None:
        self._group = group
        self.name = name

    def pids(self) -> Sequence[int]:
        """Of the servers; the load is a new process each time."""
        return [pid for pids in self._group.processes().values() for pid in pids]

    def load(self, seconds: float) -> None:
        self._group.load("create", _LOAD, seconds, lambda: None)

    def time_to_next_write(self) -> float:
        leader = self._group.leader()
        others = [number for number in range(3) if number != leader]
        began = time.monotonic()
        self._group.kill(leader)
        tries = 0
        while not self._group.put(others[tries % 2], _PUT_SECONDS):
            tries += 1
            time.sleep(_PAUSE_SECONDS)
        took = time.monotonic() - began
        self._group.start(leader)
        return took

    def wait_ready(self) -> None:
        self._group.wait_ready()


Group = OurGroup | EtcdGroup


def failover(plan: Plan, results: Results) -> None:
    """All groups in turns, `plan.kills` kills each."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.directory)))
        plan.say("starting the clusters")
        cluster = stack.enter_context(LocalCluster(datanodes=0, directory=directory / "cluster"))
        product = stack.enter_context(QuorumFS(cluster, directory))
        groups: list[Group] = [OurGroup(product, stack.enter_context(cluster.client()))]
        if reason := etcd.missing():
            results.skip("etcd", reason)
        else:
            plain = stack.enter_context(etcd.Etcd(directory / "etcd"))
            tuned = stack.enter_context(etcd.Etcd(directory / "etcd-tuned", etcd.TUNED))
            groups += [EtcdGroup(plain, "etcd"), EtcdGroup(tuned, "etcd, 300 ms election")]
        taken: dict[str, list[float]] = {group.name: [] for group in groups}
        for number in range(plan.kills):
            plan.say(f"failover: kill {number + 1} of {plan.kills}")
            for group in groups:
                taken[group.name].append(_one(group, results))
        _conclude(taken, results)


def _one(group: Group, results: Results) -> float:
    """One kill under load, and the group whole again."""
    load = threading.Thread(target=_quietly, args=(group.load,))
    meter = Meter({"own": group.pids()})
    load.start()
    time.sleep(random.uniform(*_KILL_AFTER_SECONDS))
    took = group.time_to_next_write()
    load.join()
    busy = meter.read().other_cores
    group.wait_ready()
    results.add("failover/time/next write", group.name, took, "s", "lower", busy)
    return took


def _quietly(load: Callable[[float], None]) -> None:
    """The load beside a kill: what it does not get done is not the figure."""
    try:
        load(_LOAD_SECONDS)
    except NothingAnsweredError:
        return


def _conclude(taken: dict[str, Sequence[float]] | dict[str, list[float]], results: Results) -> None:
    for system, times in taken.items():
        results.add("failover/median/next write", system, statistics.median(times), "s", "lower")
        results.add("failover/worst/next write", system, max(times), "s", "lower")
