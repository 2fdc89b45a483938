"""The systems under load, each behind the same face: make it ready, load it, and say which processes are whose.

`QuorumFS` is the product as it is: real processes, real gRPC, threads that share a `Client`. `SameCluster` asks it in
other ways. `Core` is our Raft and state machine alone. etcd lives in peers/etcd.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.children import Child, WorkloadError, run_together
from benchmarks.tally import Load, combine
from quorumfs.local.ports import free_base_port
from quorumfs.local.processes import MALLOC_ENVIRONMENT
from quorumfs.testing import LocalCluster

KNOWN_NAMES = 1000
PROCESSES_MAX = 4
_LEADER_SECONDS = 30.0
_FILL = 100

Started = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """How many callers ask at once: `callers` in each of `processes` processes."""

    callers: int
    processes: int = 1

    @property
    def label(self) -> str:
        return str(self.callers) if self.processes == 1 else f"{self.processes}x{self.callers}"


SHAPES = (Shape(1), Shape(16), Shape(256), Shape(16, PROCESSES_MAX))


class System(Protocol):
    """Something that carries out `create` and `stat`."""

    name: str

    def processes(self) -> Mapping[str, Sequence[int]]:
        """Pids by group: `leader` and `followers` (as of now), or `servers`."""
        ...

    def load(self, verb: str, shape: Shape, seconds: float, started: Started) -> Load:
        """Put the load on, and wait for its end. `started` is called when it begins."""
        ...


class QuorumFS:
    """A running cluster and the processes that load it; in a with-block."""

    name = "quorumfs"

    def __init__(self, cluster: LocalCluster, directory: Path) -> None:
        self.cluster = cluster
        self._stack = ExitStack()
        config = {"coordinators": cluster.coordinators}
        self.children = [
            self._stack.enter_context(Child("callers", config, directory / f"callers-{number}.log"))
            for number in range(PROCESSES_MAX)
        ]
        for child in self.children:
            child.wait_ready()
        self._client = self._stack.enter_context(cluster.client())
        self._client.mkdir("/known")
        self._client.put_many({f"/known/known-{number:06d}": b"" for number in range(KNOWN_NAMES)})
        self._runs = 0

    def __enter__(self) -> QuorumFS:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def processes(self) -> Mapping[str, Sequence[int]]:
        leader = self._client.leader().node_id
        pids = coordinator_pids(self.cluster)
        return {
            "leader": [pids[leader]],
            "followers": [pid for node_id, pid in pids.items() if node_id != leader],
        }

    def load(self, verb: str, shape: Shape, seconds: float, started: Started) -> Load:
        return self.run("threads", verb, shape, seconds, started)

    def run(self, way: str, verb: str, shape: Shape, seconds: float, started: Started) -> Load:
        """The load, by the library or by unary calls."""
        directory = "/known"
        if verb == "create":
            self._runs += 1
            directory = f"/run-{self._runs}"
            self._client.mkdir(directory)
        command = {
            "way": way,
            "verb": verb,
            "callers": shape.callers,
            "directory": directory,
            "address": self._client.leader().grpc,
            "names": KNOWN_NAMES,
        }
        return combine(run_together(self.children[: shape.processes], seconds, started, **command))


class SameCluster:
    """The same cluster, asked in another way than by threads: by coroutines of an `AsyncClient` (`asyncio`), or by
    plain unary `Do` and `Read` of one operation, without coalescing (`unary`)."""

    def __init__(self, product: QuorumFS, way: str, name: str) -> None:
        self._product = product
        self._way = way
        self.name = name

    def processes(self) -> Mapping[str, Sequence[int]]:
        return self._product.processes()

    def load(self, verb: str, shape: Shape, seconds: float, started: Started) -> Load:
        return self._product.run(self._way, verb, shape, seconds, started)


class CoreGroup:
    """Three members of the core alone, each a process; in a with-block."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        base = free_base_port(3)
        members = {f"m{number}": f"127.0.0.1:{base + 10 * number}" for number in range(3)}
        self._children: dict[str, Child] = {}
        for node_id in members:
            home = directory / node_id
            home.mkdir(parents=True)
            config = {"directory": str(home), "node_id": node_id, "members": members}
            self._children[node_id] = self._stack.enter_context(
                Child("core_member", config, directory / f"{node_id}.log", MALLOC_ENVIRONMENT)
            )
        for child in self._children.values():
            child.wait_ready()
        self._runs = 0
        leader = self.leader()
        leader.call(verb="found")
        self._mkdir("/known")
        for first in range(0, KNOWN_NAMES, _FILL):
            some = list(range(first, first + _FILL))
            leader.call(verb="fill", directory="/known", names=KNOWN_NAMES, some=some)

    def __enter__(self) -> CoreGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def leader(self) -> Child:
        """The member that leads. Raises WorkloadError when none does."""
        deadline = time.monotonic() + _LEADER_SECONDS
        while time.monotonic() < deadline:
            for child in self._children.values():
                if child.call(verb="status")["leads"]:
                    return child
            time.sleep(0.05)
        raise WorkloadError("no member of the core leads")

    def processes(self) -> Mapping[str, Sequence[int]]:
        leader = self.leader().pid
        pids = [child.pid for child in self._children.values()]
        return {"leader": [leader], "followers": [pid for pid in pids if pid != leader]}

    def run(
        self, verb: str, lanes: int, operations: int, batched: bool, seconds: float, started: Started
    ) -> Load:
        """`lanes` requests of `operations` operations each under way."""
        directory = "/known"
        if verb == "create":
            self._runs += 1
            directory = f"/run-{self._runs}"
            self._mkdir(directory)
        command = {
            "verb": verb,
            "lanes": lanes,
            "operations": operations,
            "batched": batched,
            "directory": directory,
            "names": KNOWN_NAMES,
        }
        return combine(run_together([self.leader()], seconds, started, **command))

    def _mkdir(self, directory: str) -> None:
        self.leader().call(verb="mkdir", directory=directory)


class Core:
    """The core asked one by one (`core`), or by batches of all callers of a process (`core, batched`)."""

    def __init__(self, group: CoreGroup, batched: bool) -> None:
        self._group = group
        self._batched = batched
        self.name = "core, batched" if batched else "core"

    def processes(self) -> Mapping[str, Sequence[int]]:
        return self._group.processes()

    def load(self, verb: str, shape: Shape, seconds: float, started: Started) -> Load:
        if self._batched:
            return self._group.run(verb, shape.processes, shape.callers, True, seconds, started)
        return self._group.run(verb, shape.callers * shape.processes, 1, False, seconds, started)


def coordinator_pids(cluster: LocalCluster) -> dict[str, int]:
    """Pids of the coordinators that run, by node id."""
    return {
        one["node_id"]: one["pid"]
        for one in cluster.local.status()["processes"]
        if one["role"] == "coordinator" and one["kind"] == "node" and one["pid"]
    }


def server_pids(cluster: LocalCluster) -> list[int]:
    """Pids of all coordinators and datanodes that run, without sidecars."""
    return [one["pid"] for one in cluster.local.status()["processes"] if one["kind"] == "node" and one["pid"]]
