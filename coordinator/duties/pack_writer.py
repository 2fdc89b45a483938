"""Packs that the leader writes itself: a chunk on datanodes, under an upload that only protects it."""

from __future__ import annotations

from coordinator.decisions.placement import Chance, Wanted, place
from coordinator.duties.desk import Desk
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import NoPlacementError
from quorumfs.rpc.channels import ChannelSource
from quorumfs.sources import Body, BytesSource
from quorumfs.store_chunk import ChunkFailed, ChunkStorer, Stored, Tally
from quorumfs.suspects import Suspects
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n


class PackWriter:
    """`channels` lead to datanodes. Of one duty's thread."""

    def __init__(
        self,
        desk: Desk,
        soft: SoftState,
        channels: ChannelSource,
        cluster_id: str,
        chance: Chance,
        clock: Clock,
    ) -> None:
        self._desk = desk
        self._soft = soft
        self._channels = channels
        self._cluster_id = cluster_id
        self._chance = chance
        self._suspects = Suspects(clock)

    def open(self, chunk: bytes, want: int) -> n.UploadInfo:
        """An upload for a pack of so many replicas. It has a name at which nothing ever appears, after `chunk`."""
        ref = n.Ref(path=b"/.quorumfs-pack-" + chunk.hex().encode())
        opening = n.OpenUploadRequest(ref=ref, replication=want)
        (opened,) = self._desk.change([n.Op(open_upload=opening)])
        return opened.upload

    def close(self, upload: n.UploadInfo) -> None:
        """The pack stands on its extents from now on, or is garbage."""
        self._desk.change([n.Op(abort_upload=n.AbortUploadRequest(upload=upload.upload))])

    def store(self, upload: n.UploadInfo, data: bytes) -> n.SealedChunk:
        """The bytes as a chunk of the upload, on datanodes and handed in. Raises NoPlacementError, UnavailableError."""
        size = len(data)
        choice = self._place(upload, size)
        request = n.AllocateRequest(upload=upload.upload, count=1, size_hint=size)
        (made,) = self._desk.change([n.Op(allocate=request)], [choice])
        target = made.allocation.chunks[0]
        (body,) = BytesSource(data).bodies(size)
        try:
            stored = self._send(upload, target, body)
        except ChunkFailed as failure:
            self._suspects.add(failure.failed)
            raise failure.error from failure
        self._suspects.add(stored.failed)
        hand_in = n.AddExtentsRequest(upload=upload.upload, chunks=[stored.chunk])
        self._desk.change([n.Op(add_extents=hand_in)])
        return stored.chunk

    def _send(self, upload: n.UploadInfo, target: n.AllocatedChunk, body: Body) -> Stored:
        """Through the pipeline of datanodes. Raises ChunkFailed."""
        storer = ChunkStorer(
            self._channels, upload.upload, upload.min_replicas, self._cluster_id, Tally(None)
        )
        return storer.store(target, list(target.replicas), body)

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
