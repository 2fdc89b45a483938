"""Answers to questions: the metadata's, completed with what only this member's soft state knows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coordinator.decisions.liveness import Liveness
from coordinator.metadata import layouts, lookup, queries
from coordinator.soft_state import SoftState
from quorumfs.errors import QuorumFSError, TooLargeError
from quorumfs.limits import MESSAGE_BYTES_MAX
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

ANSWER_BYTES_MAX = MESSAGE_BYTES_MAX // 2  # what is answered when this is reached still fits into a message

STATE_OF: Mapping[Liveness, t.NodeState.ValueType] = {
    Liveness.ALIVE: t.NODE_STATE_ALIVE,
    Liveness.SUSPECT: t.NODE_STATE_SUSPECT,
    Liveness.DEAD: t.NODE_STATE_DEAD,
    Liveness.RETURNING: t.NODE_STATE_RETURNING,
}


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of the datanodes' disks, as last heard."""

    total: int
    used: int
    free: int


def space(soft: SoftState) -> Space:
    disks = [
        disk
        for pulse in soft.pulses().values()
        if pulse.liveness is not Liveness.DEAD
        for disk in pulse.disks
    ]
    return Space(
        sum(disk.total_bytes for disk in disks),
        sum(disk.used_bytes for disk in disks),
        sum(disk.free_bytes for disk in disks if disk.state in ("", "ok")),
    )


def question(batch: n.ReadBatch, soft: SoftState, age_ms: int) -> Callable[[sqlite3.Connection], bytes]:
    """What a reader thread runs: all ops of `batch` in one transaction; gives a serialized
    ReadBatchResult."""

    def ask(tx: sqlite3.Connection) -> bytes:
        result = n.ReadBatchResult(
            code=t.ERROR_CODE_OK, tag=batch.tag, age_ms=age_ms, index=queries.applied_index(tx)
        )
        room = ANSWER_BYTES_MAX
        stats = [op.stat for op in batch.ops if op.HasField("stat")]
        if len(stats) == len(batch.ops):
            told = queries.stat_all(tx, stats, result.results.add, room)
            result.results.extend([TOO_MUCH] * (len(stats) - told))
            return result.SerializeToString()
        directories: lookup.Directories = {}
        packs: layouts.Packs = {}
        states: States = {}
        for op in batch.ops:
            one = result.results.add()
            if room > 0:
                if not queries.answer_among(tx, op, directories, packs, one):
                    complete(one, soft, states)
                room -= one.ByteSize()
            else:
                one.CopyFrom(TOO_MUCH)
        return result.SerializeToString()

    return ask


States = dict[str, tuple[t.NodeState.ValueType, frozenset[str]]]
"""How nodes are, each judged once for a batch of questions, and their disks whose replicas count as lost."""


def complete(result: n.ReadResult, soft: SoftState, states: States) -> None:
    """Add what only a leader knows: how nodes are, how much room there is."""
    kind = result.WhichOneof("value")
    if not soft.leading:
        return
    if kind == "layout":
        for chunk in result.layout.chunks:
            for replica in chunk.replicas:
                if replica.node_id not in states:
                    pulse = soft.pulse(replica.node_id)
                    states[replica.node_id] = STATE_OF[pulse.liveness], pulse.lost_disk_ids
                replica.node_state, lost_disk_ids = states[replica.node_id]
                if replica.disk_id in lost_disk_ids and replica.state == t.REPLICA_STATE_LIVE:
                    replica.state = t.REPLICA_STATE_MISSING
    elif kind == "fs":
        room = space(soft)
        result.fs.total_bytes, result.fs.used_bytes, result.fs.free_bytes = room.total, room.used, room.free


def _too_much() -> n.ReadResult:
    error = TooLargeError(
        "the answers to the questions before this one fill the message",
        cause=f"more than {ANSWER_BYTES_MAX} bytes",
        next="ask it again in another batch",
    )
    return n.ReadResult(code=t.ERROR_CODE_TOO_LARGE, error=to_detail(error))


TOO_MUCH = _too_much()


def refused_batch(error: QuorumFSError, batch: n.Batch) -> bytes:
    """A BatchResult that says why the batch as a whole was not done, or may not have been."""
    detail = to_detail(error)
    return n.BatchResult(code=detail.code, error=detail, slot=batch.slot, seq=batch.seq).SerializeToString()


def refused_read(error: QuorumFSError, batch: n.ReadBatch) -> bytes:
    detail = to_detail(error)
    return n.ReadBatchResult(code=detail.code, error=detail, tag=batch.tag).SerializeToString()
