"""The `Chunks` face: what it answers to orders of which a part cannot be carried out."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from datanode.services import chunks
from datanode.services.chunks import ChunksService
from datanode.store.fence import EpochStore
from datanode.store.orders import Orders
from quorumfs.ids import ChunkId
from quorumfs.v1 import chunks_pb2 as pb
from quorumfs.v1.types_pb2 import Epoch
from tests.unit.datanode.store.fakes import FlakyFiles, opened, put

CHUNK = ChunkId(b"c" * 16)
OTHER = ChunkId(b"d" * 16)
ABSENT = ChunkId(b"a" * 16)
EPOCH = Epoch(history=1, term=1)


class Stuck(FlakyFiles):
    """One file of the quarantine does not move."""

    def rename(self, old: Path, new: Path) -> None:
        if old.parent.name == "quarantine" and old.name.startswith(CHUNK.hex()):
            raise OSError(errno.EROFS, "Read-only file system")
        super().rename(old, new)


def test_a_chunk_that_cannot_be_brought_back_is_named_and_the_others_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "require_node", lambda context: "c1")
    nothing: Any = None
    with opened(tmp_path, files=Stuck()) as (store, disks):
        fence = EpochStore(disks.disks)
        fence.load()
        put(store, CHUNK, b"x")
        put(store, OTHER, b"x")
        Orders(store, fence).delete(EPOCH, [(CHUNK, 100), (OTHER, 100)])
        service = ChunksService("d1", store, fence, nothing, nothing, nothing, nothing, nothing, None)
        request = pb.RestoreChunksRequest(epoch=EPOCH, chunks=[CHUNK, OTHER, ABSENT], void_below_index=100)
        answer = service.Restore(request, nothing)
    assert (answer.refused, answer.restored, answer.absent) == ([CHUNK], [OTHER], [ABSENT])
    assert "Read-only" in answer.error.cause


def test_a_list_of_ids_leaves_out_what_somebody_removed(tmp_path: Path) -> None:
    nothing: Any = None
    with opened(tmp_path) as (store, disks):
        fence = EpochStore(disks.disks)
        fence.load()
        put(store, CHUNK, b"x")
        put(store, OTHER, b"x")
        Path(store.where(OTHER)[1]).unlink()
        service = ChunksService("d1", store, fence, nothing, nothing, nothing, nothing, nothing, None)
        live = service.List(pb.ListChunksRequest(ids_only=True), nothing)
    assert [one.chunk for one in live.chunks] == [CHUNK]


def test_a_list_of_ids_reads_no_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    with opened(tmp_path) as (store, disks):
        fence = EpochStore(disks.disks)
        fence.load()
        put(store, CHUNK, b"x")
        put(store, OTHER, b"x")
        Orders(store, fence).delete(EPOCH, [(OTHER, 100)])
        service = ChunksService("d1", store, fence, nothing, nothing, nothing, nothing, nothing, None)

        def read(chunk: ChunkId) -> Any:
            raise AssertionError(f"{chunk.hex()} is read")

        monkeypatch.setattr(store, "info", read)
        live = service.List(pb.ListChunksRequest(ids_only=True), nothing)
        aside = service.List(pb.ListChunksRequest(ids_only=True, quarantined=True), nothing)
    assert [one.chunk for one in live.chunks] == [CHUNK]
    assert [(one.chunk, one.quarantined) for one in aside.chunks] == [(OTHER, True)]
