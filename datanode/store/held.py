"""What this node holds, as every part of the store sees it: which chunks there are, and the reading of one.

A layer of the store (`chunks.py` has the theory): nothing here makes a chunk, or takes one away. What is found to be
gone or unreadable is told: a copy that is lost to the `delta`, one that is doubted to whoever verifies suspects.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datanode.store import reader
from datanode.store.delta import Change, Delta, ReplicaChange
from datanode.store.disk import Disk
from datanode.store.index import Index, Quarantined
from datanode.store.layout import Birth, Header
from datanode.store.listing import SHARDS, Listing
from datanode.store.reader import ChunkReader, Verdict
from datanode.store.writer import ChunkInfo
from quorumfs.errors import ChunkNotFoundError, IntegrityError, QuorumFSError
from quorumfs.ids import ChunkId

SUSPECTS_MAX = 10_000


class HeldChunks:
    """What lies on these disks. Thread-safe."""

    def __init__(self, disks: Sequence[Disk]) -> None:
        self.disks = list(disks)
        self.delta = Delta()
        self._index = Index()
        self._lock = threading.RLock()
        self._suspects: dict[ChunkId, None] = {}
        self.listing = Listing(self.disks, self._index, self._lock)

    def __contains__(self, chunk: ChunkId) -> bool:
        self.listing.settle(chunk[0])
        return chunk in self._index

    def __len__(self) -> int:
        """As far as names have been listed."""
        return len(self._index)

    def holds_nothing(self) -> bool:
        """Whether there is no chunk on any disk, in its place or put aside. Of a disk that failed nobody knows."""
        for shard in range(SHARDS):
            if len(self):
                return False
            self.listing.list(shard)
        self.listing.list_aside()
        with self._lock:
            empty = not len(self._index) and not self._index.quarantined_after(b"", 1)
        return empty and all(disk.health()[0] != "failed" for disk in self.disks)

    def open_reader(self, chunk: ChunkId) -> ChunkReader:
        """Raises ChunkNotFoundError, IntegrityError (the chunk is then a suspect), BusyError."""
        self.listing.list(chunk[0])
        with self._lock:
            disk = self._disk_of(chunk)
        try:
            fd = disk.files.open(disk.chunk_path(chunk))
        except FileNotFoundError:
            self._vanished(chunk)
            raise self._not_found(chunk) from None
        except OSError as error:
            raise self._suspected(chunk, disk.translate_read(error, chunk)) from error
        try:
            return reader.open_chunk(disk, fd, chunk)
        except IntegrityError as error:
            raise self._suspected(chunk, error)

    def info(self, chunk: ChunkId) -> ChunkInfo:
        """What a sealed or quarantined chunk says of itself. Raises as `open_reader`."""
        aside = self._only_aside(chunk)
        if aside is None:
            with self.open_reader(chunk) as opened:
                with self._lock:
                    disk = self._disk_of(chunk)
                return ChunkInfo(opened.header, disk.disk_id, str(disk.chunk_path(chunk)))
        disk, path = self.disks[aside.disk], self._aside_path(chunk, aside)
        try:
            with reader.open_chunk(disk, disk.files.open(path), chunk) as opened:
                return ChunkInfo(opened.header, disk.disk_id, str(path), quarantined=True)
        except FileNotFoundError:
            raise self._not_found(chunk) from None
        except OSError as error:
            raise disk.translate_read(error, chunk) from error

    def where(self, chunk: ChunkId) -> tuple[str, str, bool]:
        """(disk id, file, quarantined) without opening anything. Raises ChunkNotFoundError."""
        self.listing.know(chunk)
        with self._lock:
            aside = self._only_aside(chunk)
            if aside is not None:
                return self.disks[aside.disk].disk_id, str(self._aside_path(chunk, aside)), True
            disk = self._disk_of(chunk)
            return disk.disk_id, str(disk.chunk_path(chunk)), False

    def has_file(self, chunk: ChunkId) -> bool:
        """Whether the file of a sealed or quarantined chunk is there; nothing is read. True when nobody can say."""
        self.listing.know(chunk)
        with self._lock:
            aside = self._only_aside(chunk)
            number = aside.disk if aside is not None else self._index.disk_of(chunk)
            if number is None:
                return False
            disk = self.disks[number]
            path = self._aside_path(chunk, aside) if aside is not None else disk.chunk_path(chunk)
        try:
            disk.files.size_of(path)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def on_failed_disk(self, chunk: ChunkId) -> bool:
        """Whether what is here of it lies on a disk that failed: it can be read perhaps, but is no copy to count on."""
        self.listing.settle(chunk[0])
        with self._lock:
            numbers = self._index.disks_of(chunk)
            well = next((one for one in numbers if self.disks[one].health()[0] != "failed"), None)
            if well is not None:
                self._index.prefer(chunk, well)
        return bool(numbers) and well is None

    def ids(self, after: bytes, limit: int, quarantined: bool = False) -> list[ChunkId]:
        """Up to `limit` ids that come after `after` (empty: from the first), in order. From memory, once listed."""
        if quarantined:
            self.listing.list_aside()
            with self._lock:
                return self._index.quarantined_after(after, limit)
        found: list[ChunkId] = []
        for shard in range(after[0] if after else 0, SHARDS):
            self.listing.settle(shard)
            with self._lock:
                found += self._index.after(after, limit - len(found), shard)
            if len(found) >= limit:
                break
        return found

    def verify(self, chunk: ChunkId) -> Verdict:
        """Read every block and check it. Changes nothing. Raises ChunkNotFoundError, BusyError."""
        self.listing.settle(chunk[0])
        with self._lock:
            disk = self._disk_of(chunk)
        inode = disk.files.inode_of(disk.chunk_path(chunk))
        try:
            with self.open_reader(chunk) as opened:
                return replace(opened.verify(), inode=inode)
        except ChunkNotFoundError:
            raise
        except IntegrityError as error:
            return Verdict(False, detail=str(error), inode=inode)

    # Suspects

    @property
    def suspects(self) -> int:
        """How many chunks wait to be verified."""
        return len(self._suspects)

    def suspect(self, chunk: ChunkId) -> None:
        """Have it verified soon, as it could not be read or says so. Bounded: scrubbing finds the rest."""
        with self._lock:
            if chunk in self._index and len(self._suspects) < SUSPECTS_MAX:
                self._suspects[chunk] = None

    def take_suspect(self) -> ChunkId | None:
        with self._lock:
            chunk = next(iter(self._suspects), None)
            if chunk is not None:
                del self._suspects[chunk]
            return chunk

    # Small things

    def _only_aside(self, chunk: ChunkId) -> Quarantined | None:
        """The file of a chunk that is not in its place, if one was put aside."""
        self.listing.settle(chunk[0])
        if chunk not in self._index:
            self.listing.list_aside()
        with self._lock:
            return None if chunk in self._index else self._index.aside(chunk)

    def _disk_of(self, chunk: ChunkId) -> Disk:
        number = self._index.disk_of(chunk)
        if number is None:
            raise self._not_found(chunk)
        return self.disks[number]

    def _aside_path(self, chunk: ChunkId, aside: Quarantined) -> Path:
        disk = self.disks[aside.disk]
        if aside.condemn_index is None or aside.corrupt:
            return disk.corrupt_path(chunk, aside.condemn_index, aside.history)
        return disk.quarantine_path(chunk, aside.condemn_index, aside.history)

    def _announce(self, header: Header, disk: Disk) -> None:
        self.delta.add(
            Change(
                header.chunk,
                ReplicaChange.SEALED,
                disk.disk_id,
                header.length,
                header.checksum,
                header.birth,
            )
        )

    def _lost(self, chunk: ChunkId, change: ReplicaChange, disk: Disk) -> None:
        """A copy is no more; what is told of the chunk. One on another disk is verified soon."""
        with self._lock:
            number = self._index.disk_of(chunk)
        if number is None:
            self.delta.add(Change(chunk, change, disk.disk_id))
            return
        self.suspect(chunk)
        try:
            self._announce(self.info(chunk).header, self.disks[number])
        except QuorumFSError:
            pass  # what verifying finds is told

    def _vanished(self, chunk: ChunkId) -> None:
        """Its file is gone, and none of ours removed it: that would have been under the lock."""
        with self._lock:
            number = self._index.disk_of(chunk)
            if number is None or self.disks[number].chunk_path(chunk).exists():
                return
            self._index.remove(chunk)
        self._lost(chunk, ReplicaChange.MISSING, self.disks[number])

    def _suspected(self, chunk: ChunkId, error: QuorumFSError) -> QuorumFSError:
        if isinstance(error, IntegrityError):
            self.suspect(chunk)
        return error

    def _birth_of(self, chunk: ChunkId) -> Birth | None:
        """None when its header cannot be read: then nothing it says can be believed or needs keeping."""
        try:
            with self.open_reader(chunk) as opened:
                return opened.header.birth
        except (ChunkNotFoundError, IntegrityError):
            return None

    @staticmethod
    def _not_found(chunk: ChunkId) -> ChunkNotFoundError:
        return ChunkNotFoundError(
            f"chunk {chunk.hex()} is not on this node",
            next="ask for the file's layout again and read another replica",
            ids={"chunk": chunk.hex()},
        )
