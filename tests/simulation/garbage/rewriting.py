"""The leader's rewriting of sparse chunks: production code, whose bytes go over the simulated network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from coordinator.duties.pack_writer import PackWriter
from coordinator.duties.repack import Repack, Rules
from coordinator.soft_state import SoftState
from quorumfs.checksum import crc32c
from quorumfs.errors import QuorumFSError, UnavailableError
from quorumfs.sources import Body
from quorumfs.store_chunk import ChunkFailed, Stored
from quorumfs.v1 import namespace_pb2 as n
from tests.simulation.garbage import fibres

if TYPE_CHECKING:
    from tests.simulation.garbage.storage import Storage
    from tests.simulation.process import Process

RULES = Rules(live_percent_min=75, pack_bytes_max=40, round_seconds=0.5)
CALL_SECONDS = 1.0
PAUSE_SECONDS_MAX = 0.4


def rewriting(process: Process, storage: Storage, desk: Any, soft: SoftState) -> Repack:
    """The duty of one leadership."""
    nobody: Any = None
    chance = process.random.random
    read = _reading(process, storage)
    duty = Repack(desk, soft, nobody, read, "simulated", RULES, chance, process.clock)
    duty._packs = SimPackWriter(process, storage, desk, soft)
    return duty


class SimPackWriter(PackWriter):
    """Sends its packs as fibres do."""

    def __init__(self, process: Process, storage: Storage, desk: Any, soft: SoftState) -> None:
        nobody: Any = None
        super().__init__(desk, soft, nobody, "simulated", process.random.random, process.clock)
        self._process = process
        self._storage = storage

    def _send(self, upload: n.UploadInfo, target: n.AllocatedChunk, body: Body) -> Stored:
        whole: Any = body
        content = bytes(whole.view)
        sealed = n.SealedChunk(chunk=target.chunk, length=len(content), checksum=crc32c(content))
        failed = set()
        for node in target.replicas:
            try:
                opening = (target.chunk, upload.upload, target.birth, len(content))
                self._call(node.node_id, "begin", opening)
                fibres.sleep(self._process.random.random() * PAUSE_SECONDS_MAX)
                sealed.replicas.append(self._call(node.node_id, "seal", (target.chunk, content)))
            except QuorumFSError:
                failed.add(node.node_id)
        if len(sealed.replicas) < upload.min_replicas:
            raise ChunkFailed(UnavailableError("too few nodes took the pack"), frozenset(failed))
        self._storage.totals["packs written"] += 1
        return Stored(sealed, frozenset(failed))

    def _call(self, node_id: str, method: str, request: Any) -> Any:
        return self._storage.calls(self._process, node_id, method, request, CALL_SECONDS)


def _reading(process: Process, storage: Storage) -> Callable[[n.ChunkLocation, int, int], bytes]:
    def read(where: n.ChunkLocation, offset: int, length: int) -> bytes:
        for replica in where.replicas:
            try:
                call = (where.chunk,)
                _, content = storage.calls(process, replica.node_id, "read", call, CALL_SECONDS)
            except QuorumFSError:
                continue
            return bytes(content[offset : offset + length])
        raise UnavailableError("nobody has the chunk")

    return read
