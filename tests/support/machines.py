"""The metadata's state machine on SQLite in memory, driven entry by entry, as tests want it."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any
from unittest.mock import patch

from coordinator.metadata import machine as machine_module
from coordinator.metadata import migrations
from coordinator.metadata.arrivals import Arrivals
from coordinator.metadata.context import Context
from coordinator.metadata.machine import Machine
from quorumfs.checksum import combine, crc32c
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

MEMBERS = tuple(m.Member(node_id=f"c{k}", member_uuid=f"member-{k}") for k in (1, 2, 3))


@cache
def empty_image() -> bytes:
    """A database before its first entry; made once, for migrating takes its time."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("BEGIN")
    Machine(migrations.upgrade).create(db)
    db.execute("COMMIT")
    image = db.serialize()
    db.close()
    return image


class Replica:
    """One member's state: applies entries, each in a transaction of its own."""

    def __init__(self, image: bytes | None = None) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.machine = Machine(migrations.upgrade)
        self.db.deserialize(empty_image() if image is None else image)

    def apply(self, index: int, entry: bytes) -> list[bytes]:
        self.db.execute("BEGIN")
        results = self.machine.apply(self.db, index, 1, entry)
        self.db.execute("COMMIT")
        return results

    def image(self) -> bytes:
        return self.db.serialize()

    @property
    def index(self) -> int:
        return int(self.db.execute("SELECT applied_index FROM raft_state").fetchone()[0])


class RowByRow(Replica):
    """Writes each new file at once, as if it were alone in its entry: what `Arrivals` is held to."""

    def apply(self, index: int, entry: bytes) -> list[bytes]:
        with patch.object(machine_module, "Context", _RowByRow):
            return super().apply(index, entry)


class _AtOnce(Arrivals):
    def __init__(self, tx: sqlite3.Connection) -> None:
        super().__init__()
        self._tx = tx

    def add(self, *file: Any) -> None:
        super().add(*file)
        self.write(self._tx)


class _RowByRow(Context):
    def __init__(self, tx: sqlite3.Connection, *facts: Any) -> None:
        super().__init__(tx, *facts)
        self.arrivals = _AtOnce(tx)


class Cluster:
    """A log and one replica of it, initialised, with three datanodes d1, d2, d3; time moves by hand."""

    def __init__(self) -> None:
        self.replica = Replica()
        self.log: list[bytes] = []
        self.now_ms = 1000
        self.system(e.SystemCommand(init=e.InitCluster(cluster_id="cluster", history=1, members=MEMBERS)))
        for number in (1, 2, 3):
            self.register(f"d{number}")

    def register(self, node_id: str, empty: bool = False, uuid: str = "") -> e.SystemResult.One:
        node = m.NodeInfo(
            node_id=node_id,
            node_uuid=uuid or f"uuid-{node_id}",
            role=t.NODE_ROLE_DATANODE,
            grpc=f"{node_id}:1",
            disks=[t.DiskInfo(disk_id=f"disk-{node_id}", path="/disk")],
        )
        return self.system(e.SystemCommand(register_node=e.RegisterNode(node=node, empty=empty)))

    def entry(self, *items: e.Item) -> list[bytes]:
        index = len(self.log) + 2
        made = e.Entry(
            format=1,
            stamp=e.Stamp(cluster_ms=self.now_ms, wall_ms=1_700_000_000_000 + self.now_ms),
            seed=hashlib.sha256(index.to_bytes(8, "big")).digest()[:16],
            items=items,
        ).SerializeToString()
        self.log.append(made)
        return self.replica.apply(index, made)

    def system(self, command: e.SystemCommand) -> e.SystemResult.One:
        raw = e.SystemBatch(commands=[command]).SerializeToString()
        (result,) = self.entry(e.Item(system=raw))
        return e.SystemResult.FromString(result).results[0]

    def batch(self, batch: n.Batch, choices: Sequence[e.Choice] = ()) -> n.BatchResult:
        item = e.Item(principal=e.Principal(name="tester"), choices=choices, batch=batch.SerializeToString())
        (result,) = self.entry(item)
        return n.BatchResult.FromString(result)

    def do(self, *ops: n.Op, choices: Sequence[e.Choice] = ()) -> list[n.Result]:
        return list(self.batch(n.Batch(ops=ops), choices).results)

    def one(self, op: n.Op, choices: Sequence[e.Choice] = ()) -> n.Result:
        return self.do(op, choices=choices)[0]

    def upload(self, path: bytes, *lengths: int, nodes: Sequence[str] = ("d1", "d2", "d3")) -> n.Result:
        """A file of chunks of these lengths, all acknowledged by `nodes`; the commit's result."""
        opened = self.one(n.Op(open_upload=n.OpenUploadRequest(ref=n.Ref(path=path))))
        if opened.code:
            return opened
        upload = opened.upload.upload
        choice = e.Choice(placements=[e.Placement(node_ids=nodes) for _ in lengths])
        allocated = self.one(
            n.Op(allocate=n.AllocateRequest(upload=upload, count=len(lengths))), choices=[choice]
        )
        return self.one(n.Op(commit_upload=commit_of(upload, allocated.allocation, lengths, nodes)))


def commit_of(
    upload: bytes, allocation: n.Allocation, lengths: Sequence[int], nodes: Sequence[str]
) -> n.CommitUploadRequest:
    """All chunks sealed, whole and in order; checksums are those of chunks of zeros, composed."""
    request = n.CommitUploadRequest(upload=upload)
    for chunk, length in zip(allocation.chunks, lengths, strict=True):
        checksum = crc32c(bytes(length))
        acks = [t.ReplicaAck(node_id=node, disk_id=f"disk-{node}", durable=True) for node in nodes]
        request.chunks.add(chunk=chunk.chunk, length=length, checksum=checksum, replicas=acks)
        request.extents.add(offset=request.size, length=length, chunk=chunk.chunk)
        request.checksum = combine(request.checksum, checksum, length)
        request.size += length
    return request
