"""Rewrites chunks of which little is alive: one pack per unit of work (docs/decisions/0012).

1. Pages of all chunks are looked through in turns; what is sparse is collected until there is enough for a pack, or the
   round is over. Nobody tells what deletes, reaping and closed uploads leave: a round begins `round_seconds` after the
   last, so that whatever becomes sparse is found within that time and a round's.
2. The live ranges are read, verified, and written as a new chunk, under an upload of its own; one entry switches every
   extent that lies within them then. What changed meanwhile is not touched.
3. The old chunk is garbage then, as any other. A leader that dies leaves an upload that expires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from common import log
from coordinator.decisions.placement import Chance
from coordinator.decisions.repacking import choose
from coordinator.duties.desk import Desk, failures
from coordinator.duties.pack_writer import PackWriter
from coordinator.metadata import layouts, sparse
from coordinator.metadata.sparse import SparseChunk
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import IntegrityError, QuorumFSError
from quorumfs.rpc.channels import ChannelSource
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n

LOOK_AT = 2_000
FOUND_MAX = 500
RANGES_PER_ENTRY = 500
RESTING_MAX = 10_000
REST_SECONDS = 3600.0
PAGE_SECONDS = 0.05
BUSY_SECONDS = 0.5
FOREGROUND_SECONDS = 1.0

Read = Callable[[n.ChunkLocation, int, int], bytes]
"""So many bytes of a chunk from an offset on, verified. Raises QuorumFSError."""

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """`live_percent_min`: chunks with less alive are rewritten, 0: none; `pack_bytes_max`: of one new chunk;
    `round_seconds`: the pause between rounds that leave nothing to do."""

    live_percent_min: int
    pack_bytes_max: int
    round_seconds: float


@dataclass(slots=True)
class Figures:
    """What this leadership rewrote, and what the last round has found; `rounds`: how many were whole. Read by any
    thread."""

    rounds: int = 0
    chunks: int = 0
    total_bytes: int = 0
    live_bytes: int = 0
    sparse_chunks: int = 0
    dead_bytes: int = 0
    rewritten_chunks: int = 0


class Repack:
    """Of one leadership. `channels` lead to datanodes, for writing; `read` reads from them."""

    name = "repack"

    def __init__(
        self,
        desk: Desk,
        soft: SoftState,
        channels: ChannelSource,
        read: Read,
        cluster_id: str,
        rules: Rules,
        chance: Chance,
        clock: Clock,
    ) -> None:
        self._desk = desk
        self._read = read
        self._rules = rules
        self._clock = clock
        self._packs = PackWriter(desk, soft, channels, cluster_id, chance, clock)
        self._after = b""
        self._found: dict[bytes, SparseChunk] = {}
        self._counted = Figures()  # of the round under way
        self._rests: dict[bytes, float] = {}
        self._pause = rules.round_seconds
        self.figures = Figures()

    def work(self) -> str:
        if not self._rules.live_percent_min:
            self._pause = self._rules.round_seconds
            return "nothing is rewritten: packing.live_percent_min is 0"
        over = self._look_on()
        most = self._rules.pack_bytes_max
        live = sum(one.live_bytes for one in self._found.values() if one.live_bytes <= most)
        if not self._found or not (over or live >= most or len(self._found) >= FOUND_MAX):
            self._pause = self._between(over)
            return f"{len(self._found)} sparse chunks found"
        busy = self._desk.consensus.status().queue_ops
        self._pause = FOREGROUND_SECONDS if busy else BUSY_SECONDS
        return self._rewrite(over)

    def wait(self) -> float:
        return self._pause

    def _between(self, over: bool) -> float:
        return self._rules.round_seconds if over else PAGE_SECONDS

    # What is sparse

    def _look_on(self) -> bool:
        """One page more; whether that was the last of the round."""
        after = self._after
        page = self._desk.look(
            lambda tx: sparse.sparse(tx, after, LOOK_AT, FOUND_MAX, self._rules.live_percent_min)
        )
        for one in page.chunks:
            self._counted.sparse_chunks += 1
            self._counted.dead_bytes += one.length - one.live_bytes
            if self._rests.get(one.chunk, 0.0) <= self._clock.monotonic():
                self._found[one.chunk] = one
        self._counted.chunks += page.looked_at
        self._counted.total_bytes += page.total_bytes
        self._counted.live_bytes += page.live_bytes
        self._after = page.after
        if page.after:
            return False
        now = self.figures
        self.figures = replace(self._counted, rounds=now.rounds + 1, rewritten_chunks=now.rewritten_chunks)
        self._counted = Figures()
        return True

    # Rewriting

    def _rewrite(self, over: bool) -> str:
        found = list(self._found.values())
        chosen = [found[at] for at in choose(found, self._rules.pack_bytes_max)]
        if not chosen:
            self._found.clear()
            self._pause = self._between(over)
            return "what is sparse fits into no pack"
        for one in chosen:
            del self._found[one.chunk]
        read = [(one, data) for one in chosen if (data := self._live_bytes_of(one)) is not None]
        if not read:
            return f"none of {len(chosen)} sparse chunks can be read now"
        upload = self._packs.open(read[0][0].chunk, read[0][0].want)
        try:
            moved = self._move(upload, read)
        finally:
            with suppress(QuorumFSError):  # it expires by itself
                self._packs.close(upload)
        self.figures.rewritten_chunks += len(read)
        _log.info("repack.done", chunks=len(read), extents=moved, bytes=sum(len(data) for _, data in read))
        return f"rewrote {len(read)} sparse chunks, moved {moved} extents"

    def _live_bytes_of(self, one: SparseChunk) -> bytes | None:
        """All its ranges, one behind the other; None when they cannot be had now: it rests for a while."""
        try:
            where = self._desk.look(lambda tx: layouts.location(tx, one.chunk))
            if where is None:
                return None
            data = b"".join(self._read(where, part.offset, part.length) for part in one.ranges)
            if len(data) != one.live_bytes:  # what lies behind it would be shifted
                raise IntegrityError(f"{one.live_bytes} bytes were asked for, {len(data)} came")
            return data
        except QuorumFSError as error:
            _log.info("repack.not_read", chunk=one.chunk.hex(), cause=str(error))
            if len(self._rests) >= RESTING_MAX:
                self._rests.clear()
            self._rests[one.chunk] = self._clock.monotonic() + REST_SECONDS
            return None

    def _move(self, upload: n.UploadInfo, read: Sequence[tuple[SparseChunk, bytes]]) -> int:
        """How many extents name the new chunk. Raises what a later try may do without."""
        sealed = self._packs.store(upload, b"".join(data for _, data in read))
        ranges: list[e.RepackChunks.Range] = []
        at = 0
        for one, _ in read:
            for part in one.ranges:
                ranges.append(
                    e.RepackChunks.Range(
                        chunk=one.chunk,
                        offset=part.offset,
                        length=part.length,
                        into=sealed.chunk,
                        into_offset=at,
                    )
                )
                at += part.length
        pages = [ranges[k : k + RANGES_PER_ENTRY] for k in range(0, len(ranges), RANGES_PER_ENTRY)]
        return sum(self._switch(upload.upload, page) for page in pages)

    def _switch(self, upload: bytes, ranges: Sequence[e.RepackChunks.Range]) -> int:
        done = self._desk.propose([e.SystemCommand(repack=e.RepackChunks(upload=upload, ranges=ranges))])
        refused = failures(done)
        if refused:
            _log.warning("repack.refused", reason=refused[0])
        return int(done[0].number)
