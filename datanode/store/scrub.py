"""Walks over everything this node holds, in order of ids, and reads it; its place survives a restart."""

from __future__ import annotations

import json
from dataclasses import dataclass

from datanode.store.chunks import ChunkStore
from datanode.store.disk import Disk
from quorumfs.errors import BusyError, ChunkNotFoundError
from quorumfs.ids import ChunkId

FILE = "scrub.json"


@dataclass(frozen=True, slots=True)
class Position:
    """`cursor`: the last chunk that was read (hex; empty: none in this round). `round` counts from 0."""

    cursor: str = ""
    round: int = 0
    bytes: int = 0
    corrupt: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One chunk read. `chunk` None: the round is over."""

    chunk: ChunkId | None
    bytes: int = 0
    ok: bool = True


class Scrubber:
    """The walk. One thread at a time."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self.position = Position()

    def load(self) -> None:
        """Go on where the last process stood; from the beginning when nobody knows."""
        for disk in self._store.disks:
            if disk.usable and (found := _read(disk)) is not None:
                self.position = found
                return

    def save(self) -> None:
        """Remember the position on the first disk that takes it. Losing it costs only reading again."""
        content = json.dumps(
            {
                "cursor": self.position.cursor,
                "round": self.position.round,
                "bytes": self.position.bytes,
                "corrupt": self.position.corrupt,
            }
        ).encode()
        for disk in self._store.disks:
            if not disk.writable:
                continue
            try:
                disk.files.replace_file(disk.path / FILE, content)
                return
            except OSError as error:
                disk.translate(error, "remembering how far the scrubber is")

    def step(self) -> Step:
        """Read and verify the next chunk; a damaged one is put aside and reported. Raises BusyError."""
        now = self.position
        following = self._store.ids(bytes.fromhex(now.cursor), 1)
        if not following:
            self.position = Position("", now.round + 1)
            return Step(None)
        chunk = following[0]
        size, ok = 0, True
        try:
            verdict = self._store.verify(chunk)
            size, ok = verdict.length, verdict.ok
            if not ok:
                self._store.mark_corrupt(chunk, verdict.inode)
        except ChunkNotFoundError:
            pass  # deleted a moment ago
        self.position = Position(chunk.hex(), now.round, now.bytes + size, now.corrupt + (not ok))
        return Step(chunk, size, ok)


def verify_suspect(store: ChunkStore) -> tuple[ChunkId, bool] | None:
    """Verify the next suspect, put it aside if damaged: (chunk, whether it is good); None: no suspect."""
    chunk = store.take_suspect()
    if chunk is None:
        return None
    try:
        verdict = store.verify(chunk)
    except ChunkNotFoundError:
        return chunk, True  # gone, which has been reported
    except BusyError:
        store.suspect(chunk)
        raise
    if not verdict.ok:
        store.mark_corrupt(chunk, verdict.inode)
    return chunk, verdict.ok


def _read(disk: Disk) -> Position | None:
    try:
        found = json.loads((disk.path / FILE).read_bytes())
        position = Position(
            str(found["cursor"]), int(found["round"]), int(found["bytes"]), int(found["corrupt"])
        )
        return position if len(bytes.fromhex(position.cursor)) in (0, 16) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
