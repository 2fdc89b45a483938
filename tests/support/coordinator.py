"""One coordinator that leads, without Raft and without sockets: real state machine, soft state, gateway and desk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from coordinator.decisions.liveness import Timing
from coordinator.duties.desk import Desk
from coordinator.services.gateway import Gateway
from coordinator.soft_state import SoftState, node_table
from quorumfs.clock import ManualClock
from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.local_consensus import LocalConsensus
from tests.support.machines import commit_of
from tests.support.ops import ref

T = TypeVar("T")

SUSPECT_SECONDS, DEAD_SECONDS = 3.0, 30.0
FREE_BYTES = 1 << 40


def node_info(node_id: str, **fields: Any) -> m.NodeInfo:
    values = {
        "node_uuid": f"uuid-{node_id}",
        "role": t.NODE_ROLE_DATANODE,
        "grpc": f"{node_id}:1",
        "incarnation": 1,
        "disks": [t.DiskInfo(disk_id=f"disk-{node_id}", path="/disk")],
        **fields,
    }
    return m.NodeInfo(node_id=node_id, **values)


class Coordinator:
    """`c1`, with datanodes that beat when they are told to. Time moves by hand."""

    def __init__(self, directory: Path) -> None:
        self.clock = ManualClock()
        self.consensus: Any = LocalConsensus(directory, self.clock)
        self.soft = SoftState(self.clock, Timing(SUSPECT_SECONDS, DEAD_SECONDS))
        self.gateway = Gateway(self.clock, "c1")
        self.desk = Desk(self.consensus, self.clock)
        self.own = m.NodeView(
            info=m.NodeInfo(node_id="c1", role=t.NODE_ROLE_COORDINATOR, grpc="127.0.0.1:10")
        )
        self._sequences: dict[str, int] = {}

    @property
    def db(self) -> Any:
        return self.consensus.writer

    # Nodes

    def lead(self, *node_ids: str, **labels: dict[str, str]) -> None:
        """Register these datanodes, begin a leadership, and let each send a heartbeat."""
        for node_id in node_ids:
            info = node_info(node_id, labels=labels.get(node_id, {}))
            self.system(e.SystemCommand(register_node=e.RegisterNode(node=info)))
        self.begin()
        for node_id in node_ids:
            self.beat(node_id)

    def begin(self) -> None:
        table = node_table(self.db)
        self.soft.begin(1, 1, table.nodes, table.index)

    def beat_of(self, node_id: str, **fields: Any) -> m.HeartbeatRequest:
        self._sequences[node_id] = self._sequences.get(node_id, 0) + 1
        known = self.soft.known().get(node_id)
        values = {
            "node_uuid": f"uuid-{node_id}",
            "incarnation": 1,
            "sequence": self._sequences[node_id],
            "disks": [t.DiskInfo(disk_id=f"disk-{node_id}", free_bytes=FREE_BYTES, state="ok")],
            "labels": dict(known.info.labels) if known is not None else {},
            **fields,
        }
        return m.HeartbeatRequest(node_id=node_id, **values)

    def beat(self, node_id: str, **fields: Any) -> list[m.Command]:
        """A heartbeat; the commands of its answer."""
        assert self.soft.heard(self.beat_of(node_id, **fields))
        return self.soft.deliver(node_id)

    def pass_time(self, seconds: float, *beating: str) -> None:
        """In steps of a second, at each of which these nodes beat."""
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            for node_id in beating:
                self.beat(node_id)
            self.soft.judge()

    # State

    def system(self, *commands: e.SystemCommand) -> list[e.SystemResult.One]:
        return list(self.consensus.apply_system(*commands).results)

    def batch(self, *ops: n.Op, choices: Sequence[e.Choice] = ()) -> list[n.Result]:
        item = e.Item(choices=choices, batch=n.Batch(ops=ops).SerializeToString())
        return list(n.BatchResult.FromString(self.consensus.apply(item)).results)

    def opened(self, path: bytes) -> bytes:
        """A new upload."""
        (made,) = self.batch(n.Op(open_upload=n.OpenUploadRequest(ref=ref(path))))
        assert made.code == Code.OK, made
        return made.upload.upload

    def allocated(self, upload: bytes, *lengths: int, nodes: Sequence[str]) -> n.Allocation:
        choice = e.Choice(placements=[e.Placement(node_ids=nodes) for _ in lengths])
        request = n.AllocateRequest(upload=upload, count=len(lengths))
        (made,) = self.batch(n.Op(allocate=request), choices=[choice])
        assert made.code == Code.OK, made
        return made.allocation

    def store(self, path: bytes, *nodes: str, length: int = 5) -> bytes:
        """A file of one chunk with replicas on these nodes; the chunk."""
        upload = self.opened(path)
        made = self.allocated(upload, length, nodes=nodes)
        commit = commit_of(upload, made, [length], nodes)
        (done,) = self.batch(n.Op(commit_upload=commit))
        assert done.code == Code.OK, done
        return made.chunks[0].chunk

    def become(self, chunk: bytes, node_id: str, state: t.ReplicaState.ValueType) -> None:
        one = e.ReplicaUpdate(chunk=chunk, node_id=node_id, state=state)
        self.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=[one])))

    def replicas(self, chunk: bytes) -> dict[str, str]:
        """Node id -> state, in a word."""
        rows = self.db.execute(
            "SELECT node_id, state FROM replica JOIN node ON key = node WHERE chunk = ?", (chunk,)
        )
        return {
            node_id: t.ReplicaState.Name(state).removeprefix("REPLICA_STATE_").lower()
            for node_id, state in rows
        }

    # Services

    def run(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Run a handler on a loop of its own."""

        async def go() -> T:
            self.gateway.attach(self.consensus, asyncio.get_running_loop())
            return await asyncio.wait_for(ask(), 10)

        return asyncio.run(go())
