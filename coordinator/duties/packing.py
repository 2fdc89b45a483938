"""Moves bodies out of the metadata into packs on datanodes, one pack per unit of work.

1. The pack is written under an upload of its own, like a client's; from the allocation on GC leaves it alone.
2. RehomeChunks moves every body that is still there. A file that was overwritten or deleted meanwhile has no such
   chunk any more, and is not touched.
3. The upload is aborted: the pack stands on its files, or is garbage. A leader that dies before leaves an upload that
   expires, and the next leader decides anew from what is in the metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

from common import log
from coordinator.decisions.packing import Body, Rules, choose
from coordinator.decisions.placement import Chance, Wanted, place
from coordinator.duties.desk import Desk, failures
from coordinator.metadata import inline
from coordinator.soft_state import SoftState
from quorumfs.checksum import crc32c
from quorumfs.clock import Clock
from quorumfs.errors import NoPlacementError, QuorumFSError
from quorumfs.rpc.channels import ChannelSource
from quorumfs.sources import BytesSource
from quorumfs.store_chunk import ChunkFailed, ChunkStorer, Tally
from quorumfs.suspects import Suspects
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n

EXAMINED_MAX = 2000
REHOMED_PER_ENTRY = 500
BUSY_SECONDS = 0.1
FOREGROUND_SECONDS = 0.5
IDLE_SECONDS = 5.0
DAMAGED_MAX = 10_000

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class _Pack:
    upload: n.UploadInfo
    bodies: Sequence[Body]
    data: bytes


class Packing:
    """`channels` lead to datanodes."""

    name = "packing"

    def __init__(
        self,
        desk: Desk,
        soft: SoftState,
        channels: ChannelSource,
        cluster_id: str,
        rules: Rules,
        chance: Chance,
        clock: Clock,
    ) -> None:
        self._desk = desk
        self._soft = soft
        self._channels = channels
        self._cluster_id = cluster_id
        self._rules = rules
        self._chance = chance
        self._suspects = Suspects(clock)
        self._damaged: set[bytes] = set()
        self._more = False

    def work(self) -> str:
        self._more = False
        chosen = self._choose()
        if not chosen:
            return "no inline bodies are to be moved"
        (opened,) = self._desk.change([self._opening(chosen[0])])
        upload = opened.upload
        try:
            moved = self._move(upload, chosen)
        finally:
            with suppress(QuorumFSError):  # it expires by itself
                self._desk.change([n.Op(abort_upload=n.AbortUploadRequest(upload=upload.upload))])
        self._more = True
        _log.info("packing.done", moved=moved, chosen=len(chosen))
        return f"moved {moved} inline bodies of {len(chosen)} to datanodes"

    def wait(self) -> float:
        if not self._more:
            return IDLE_SECONDS
        return FOREGROUND_SECONDS if self._desk.consensus.status().queue_ops else BUSY_SECONDS

    def _choose(self) -> Sequence[Body]:
        now_ms = self._desk.consensus.cluster_ms()
        most = EXAMINED_MAX + len(self._damaged)
        taken, rows = self._desk.look(lambda tx: (inline.inline_bytes(tx), inline.oldest_bodies(tx, most)))
        oldest = [
            Body(row.chunk, row.length, row.want, row.birth_ms)
            for row in rows
            if row.chunk not in self._damaged
        ]
        return choose(taken, oldest, len(rows) < most, now_ms, self._rules)

    def _opening(self, first: Body) -> n.Op:
        """The upload has a name at which nothing ever appears."""
        ref = n.Ref(path=b"/.quorumfs-pack-" + first.chunk.hex().encode())
        return n.Op(open_upload=n.OpenUploadRequest(ref=ref, replication=first.want))

    def _move(self, upload: n.UploadInfo, chosen: Sequence[Body]) -> int:
        """How many were moved. Raises what a later try may do without."""
        pack = self._read(upload, chosen)
        if not pack.bodies:
            return 0
        sealed = self._store(pack)
        hand_in = n.AddExtentsRequest(upload=upload.upload, chunks=[sealed])
        self._desk.change([n.Op(add_extents=hand_in)])
        ends = accumulate(body.length for body in pack.bodies)
        ones = [
            e.RehomeChunks.One(chunk=body.chunk, into=sealed.chunk, offset=end - body.length)
            for body, end in zip(pack.bodies, ends, strict=True)
        ]
        return sum(
            self._rehome(upload.upload, ones[at : at + REHOMED_PER_ENTRY])
            for at in range(0, len(ones), REHOMED_PER_ENTRY)
        )

    def _read(self, upload: n.UploadInfo, chosen: Sequence[Body]) -> _Pack:
        """Those bodies that are still there and are what was written."""
        found = self._desk.look(lambda tx: inline.bodies(tx, [body.chunk for body in chosen]))
        good = []
        for body in chosen:
            data, checksum = found.get(body.chunk, (b"", 0))
            if not data:
                continue
            if len(data) != body.length or crc32c(data) != checksum:
                _log.error("packing.damaged", chunk=body.chunk.hex())
                if len(self._damaged) < DAMAGED_MAX:
                    self._damaged.add(body.chunk)
                continue
            good.append(body)
        return _Pack(upload, good, b"".join(found[body.chunk][0] for body in good))

    def _store(self, pack: _Pack) -> n.SealedChunk:
        """The pack on datanodes. Raises NoPlacementError, UnavailableError."""
        upload, size = pack.upload, len(pack.data)
        choice = self._place(upload, size)
        request = n.AllocateRequest(upload=upload.upload, count=1, size_hint=size)
        (made,) = self._desk.change([n.Op(allocate=request)], [choice])
        target = made.allocation.chunks[0]
        storer = ChunkStorer(
            self._channels, upload.upload, upload.min_replicas, self._cluster_id, Tally(None)
        )
        (body,) = BytesSource(pack.data).bodies(size)
        try:
            stored = storer.store(target, list(target.replicas), body)
        except ChunkFailed as failure:
            self._suspects.add(failure.failed)
            raise failure.error from failure
        self._suspects.add(stored.failed)
        return stored.chunk

    def _place(self, upload: n.UploadInfo, size: int) -> e.Choice:
        candidates = self._soft.candidates().values()
        avoid = self._suspects.current()
        decision = place(
            candidates, Wanted(upload.replication, upload.min_replicas, size, avoid), self._chance
        )
        if not decision.node_ids and avoid:
            decision = place(candidates, Wanted(upload.replication, upload.min_replicas, size), self._chance)
        if not decision.node_ids:
            raise NoPlacementError(
                f"no place for a pack of {size} bytes on at least {upload.min_replicas} datanodes",
                cause=decision.explain(),
            )
        self._soft.promise(decision.node_ids, size)
        return e.Choice(op=0, placements=[e.Placement(node_ids=decision.node_ids)])

    def _rehome(self, upload: bytes, ones: Sequence[e.RehomeChunks.One]) -> int:
        done = self._desk.propose([e.SystemCommand(rehome=e.RehomeChunks(upload=upload, chunks=ones))])
        refused = failures(done)
        if refused:
            _log.warning("packing.refused", reason=refused[0])
        return int(done[0].number)
