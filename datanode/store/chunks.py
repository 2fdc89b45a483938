"""The chunk store of one node, over all its disks: how chunks get in, on top of how they are read (`held.py`) and put
aside (`aside.py`). Theory of operation of the three:

1. A chunk is sealed or it does not exist. Sealing: data under a temporary name, trailer, header, fdatasync,
   rename, fsync of the directory, then the index. What is in the index is durable.
2. A name is claimed while it is published, so that two writers of one chunk cannot both rename. A second copy
   with the same content is success (the first answer was lost), with other content an error.
3. Reads open the file by the index's word and believe nothing before its checksum holds. A file that cannot
   be believed becomes a *suspect*; the verifying duty reads it whole and puts it aside if it is bad.
4. Deleting is a rename into quarantine, refused for a chunk born after its condemnation, or under a hold. Wrong bytes
   that were put aside are condemned with their chunk: they get another name, and never come back.
   A chunk that lies on several disks is deleted on all of them; where one copy is lost, another takes its place.
5. The index lock guards memory only; files are touched outside it, except by the renames of point 4, which
   are short and must not cross a reader's look-up of the same chunk.
6. Names are listed, temporaries removed, directories synced when the first who needs one comes, and all of them soon
   after a start (`listing.py`): a rename that a killed process had not yet made durable must not be counted before it
   is. Who touches a chunk's files has its directory listed first, and outside the index lock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from datanode.store.aside import AsideChunks
from datanode.store.disk import TEMPORARY, Disk
from datanode.store.layout import Birth, Header, file_size
from datanode.store.room import EarlyPurges
from datanode.store.writer import ChunkInfo, ChunkWriter
from quorumfs import limits
from quorumfs.errors import (
    BusyError,
    IntegrityError,
    NoSpaceError,
    PreconditionFailedError,
    UnavailableError,
)
from quorumfs.ids import ChunkId, UploadId
from quorumfs.v1.types_pb2 import DiskInfo

FIRST_HISTORY = 1


class ChunkStore(AsideChunks):
    """Everything this node holds. Thread-safe. `load` before use."""

    def __init__(
        self,
        disks: Sequence[Disk],
        history: Callable[[], int] = lambda: FIRST_HISTORY,
        *,
        all_direct: bool = False,
    ) -> None:
        """`history`: of the leader that is obeyed now. `all_direct`: what is read soon may go past the cache too."""
        super().__init__(disks, history)
        self._all_direct = all_direct
        self._publishing: set[ChunkId] = set()
        self._serial = itertools.count(1)
        self.early = EarlyPurges(self.disks, self)

    # Starting

    def load(self) -> None:
        """Read what must be known before anything is deleted. Names are listed when they are needed (`listing.py`)."""
        for disk, holds in zip(self.disks, self._holds, strict=True):
            if not disk.usable:
                continue
            try:
                holds.load()
            except OSError as error:
                disk.fail(f"what was restored on it cannot be read: {error}")

    # Writing

    def begin(
        self, chunk: ChunkId, upload: UploadId, birth: Birth, size_hint: int = 0, *, read_soon: bool = True
    ) -> ChunkWriter:
        """A writer on the disk with most room; where there is too little, quarantine makes way. `size_hint` (bytes) is
        promised until it ends. What is not `read_soon` may go past the page cache.

        Raises NoSpaceError, UnavailableError (no disk can be written), BusyError, PreconditionFailedError
        (the id has been condemned here: ids are never used again).
        """
        self.listing.list(chunk[0])
        self.listing.list_aside()
        with self._lock:
            aside = self._index.aside(chunk)
        if aside is not None and not aside.corrupt:
            raise PreconditionFailedError(
                f"chunk {chunk.hex()} was deleted here",
                cause=f"it was condemned at index {aside.condemn_index}",
                next="write the bytes under a new chunk id",
            )
        needed = file_size(min(max(size_hint, 1), limits.CHUNK_SIZE_BYTES_MAX))
        disk = self._choose_disk(needed)
        path = disk.shard(chunk) / f"{chunk.hex()}.{next(self._serial)}{TEMPORARY}"
        direct_bytes = 0 if read_soon and not self._all_direct else size_hint
        return ChunkWriter(disk, path, (chunk, upload, birth), needed, self._publish, direct_bytes)

    def _choose_disk(self, needed: int) -> Disk:
        writable = [(disk.space()[1], -number) for number, disk in enumerate(self.disks) if disk.writable]
        if not writable:
            reasons = "; ".join(f"{disk.path}: {disk.health()[1]}" for disk in self.disks)
            raise UnavailableError(
                "no disk of this node can be written", cause=reasons, next="write to another node"
            )
        free, number = max(writable)
        if free < needed:
            for one, disk in sorted(
                enumerate(self.disks), key=lambda of: -self._index.quarantined_bytes(of[0])
            ):
                if self.early.make_room(one, needed):
                    return disk
            raise NoSpaceError(
                "no disk of this node has room", cause=f"{needed} bytes are needed, {free} are free at most"
            )
        return self.disks[-number]

    def _publish(self, disk: Disk, temporary: Path, header: Header) -> ChunkInfo:
        """Give the synced file its name, durably, then count it."""
        chunk, number = header.chunk, self.disks.index(disk)
        with self._lock:
            if chunk in self._publishing:
                raise BusyError(f"chunk {chunk.hex()} is being sealed by another stream")
            self._publishing.add(chunk)
        try:
            there = self._sealed_before(header)
            if there is not None:
                disk.files.remove(temporary)
                return there
            final = disk.chunk_path(chunk)
            disk.files.rename(temporary, final)
            disk.sync_directory(final.parent)
            with self._lock:
                self._index.add(chunk, number, file_size(header.length))
        except OSError as error:
            raise disk.translate(error, f"naming chunk {chunk.hex()}") from error
        finally:
            with self._lock:
                self._publishing.discard(chunk)
        self._announce(header, disk)
        return ChunkInfo(header, disk.disk_id, str(final))

    def _sealed_before(self, header: Header) -> ChunkInfo | None:
        """The replica that is here already, if it can be read; one that cannot makes way for the new one."""
        if header.chunk not in self._index or self.on_failed_disk(header.chunk):
            return None
        try:
            info = self.info(header.chunk)
        except IntegrityError:
            self.mark_corrupt(header.chunk)
            return self._sealed_before(header)
        if (info.header.length, info.header.checksum) != (header.length, header.checksum):
            raise PreconditionFailedError(
                f"chunk {header.chunk.hex()} is sealed here with other content",
                cause=f"{info.header.length} bytes with checksum {info.header.checksum:08x} are here",
                next="write the bytes under a new chunk id",
            )
        return info

    # Room

    def usage(self) -> list[DiskInfo]:
        """Every configured disk as the leader sees it, failed ones too. Directories on one file system tell a part of
        its room each: together they have no more than there is."""
        devices = [disk.device() for disk in self.disks]
        return [
            self._usage_of(number, disk, devices.count(devices[number]))
            for number, disk in enumerate(self.disks)
        ]

    def _usage_of(self, number: int, disk: Disk, sharers: int) -> DiskInfo:
        total, free = disk.space() if disk.usable else (0, 0)
        state, error = disk.health()
        if state == "ok" and free < limits.FRAME_BYTES:
            state, error = "full", "no room above the reserve"
        total, free = total // sharers, free // sharers
        return DiskInfo(
            disk_id=disk.disk_id,
            path=str(disk.path),
            total_bytes=total,
            used_bytes=self._index.used_bytes(number),
            free_bytes=free if state == "ok" else 0,
            state=state,
            error=error,
            chunks=self._index.count(number),
            quarantined_bytes=self._index.quarantined_bytes(number),
            quarantined_chunks=self._index.condemned_count(number),
            purged_early_chunks=self.early.counts[number],
        )

    def measure(self, shard: int) -> int:
        """Learn the sizes of the files of one shard (0..255) that are not known; how many were learned."""
        self.listing.list(shard)
        self.listing.list_aside()
        with self._lock:
            unknown = self._index.unmeasured(shard)
            unknown_aside = self._index.unmeasured_aside(shard)
        for chunk, aside in unknown_aside:
            disk = self.disks[aside.disk]
            try:
                size = disk.files.size_of(self._aside_path(chunk, aside))
            except OSError:
                continue  # what was put aside is nobody's evidence
            with self._lock:
                if aside in self._index.all_aside(chunk):
                    self._index.set_aside(chunk, replace(aside, size=size))
        for chunk, number in unknown:
            disk = self.disks[number]
            try:
                size = disk.files.size_of(disk.chunk_path(chunk))
            except OSError:
                self.suspect(chunk)  # gone or unreadable: verifying finds out which
                continue
            with self._lock:
                self._index.measured(chunk, number, size)
        return len(unknown) + len(unknown_aside)
