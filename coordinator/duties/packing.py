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
from coordinator.decisions.placement import Chance
from coordinator.duties.desk import Desk, failures
from coordinator.duties.pack_writer import PackWriter
from coordinator.metadata import inline
from coordinator.soft_state import SoftState
from quorumfs.checksum import crc32c
from quorumfs.clock import Clock
from quorumfs.errors import QuorumFSError
from quorumfs.rpc.channels import ChannelSource
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
        self._rules = rules
        self._packs = PackWriter(desk, soft, channels, cluster_id, chance, clock)
        self._damaged: set[bytes] = set()
        self._more = False

    def work(self) -> str:
        self._more = False
        chosen = self._choose()
        if not chosen:
            return "no inline bodies are to be moved"
        upload = self._packs.open(chosen[0].chunk, chosen[0].want)
        try:
            moved = self._move(upload, chosen)
        finally:
            with suppress(QuorumFSError):  # it expires by itself
                self._packs.close(upload)
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

    def _move(self, upload: n.UploadInfo, chosen: Sequence[Body]) -> int:
        """How many were moved. Raises what a later try may do without."""
        pack = self._read(chosen)
        if not pack.bodies:
            return 0
        sealed = self._packs.store(upload, pack.data)
        ends = accumulate(body.length for body in pack.bodies)
        ones = [
            e.RehomeChunks.One(chunk=body.chunk, into=sealed.chunk, offset=end - body.length)
            for body, end in zip(pack.bodies, ends, strict=True)
        ]
        return sum(
            self._rehome(upload.upload, ones[at : at + REHOMED_PER_ENTRY])
            for at in range(0, len(ones), REHOMED_PER_ENTRY)
        )

    def _read(self, chosen: Sequence[Body]) -> _Pack:
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
        return _Pack(good, b"".join(found[body.chunk][0] for body in good))

    def _rehome(self, upload: bytes, ones: Sequence[e.RehomeChunks.One]) -> int:
        done = self._desk.propose([e.SystemCommand(rehome=e.RehomeChunks(upload=upload, chunks=ones))])
        refused = failures(done)
        if refused:
            _log.warning("packing.refused", reason=refused[0])
        return int(done[0].number)
