"""The chunk store of one node, over all its disks. Theory of operation:

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
6. At start names are listed, temporaries removed, directories synced once: a rename that a killed process had
   not yet made durable must not be counted before it is.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from datanode.store import reader, rules
from datanode.store.delta import Change, Delta, ReplicaChange
from datanode.store.disk import TEMPORARY, Disk
from datanode.store.holds import Hold, Holds
from datanode.store.index import Index, Quarantined
from datanode.store.layout import Birth, Header, file_size
from datanode.store.reader import ChunkReader, Verdict
from datanode.store.room import EarlyPurges
from datanode.store.rules import Condemnation
from datanode.store.writer import ChunkInfo, ChunkWriter
from quorumfs import limits
from quorumfs.errors import (
    BusyError,
    ChunkNotFoundError,
    IntegrityError,
    NoSpaceError,
    PreconditionFailedError,
    QuorumFSError,
    UnavailableError,
)
from quorumfs.ids import ChunkId, UploadId
from quorumfs.v1.types_pb2 import DiskInfo

SUSPECTS_MAX = 10_000
FIRST_HISTORY = 1


class ChunkStore:
    """Everything this node holds. Thread-safe. `load` before use."""

    def __init__(self, disks: Sequence[Disk], history: Callable[[], int] = lambda: FIRST_HISTORY) -> None:
        """`history`: of the leader that is obeyed now."""
        self.disks = list(disks)
        self._history = history
        self.delta = Delta()
        self._holds = [Holds(disk) for disk in self.disks]
        self._index = Index()
        self._lock = threading.RLock()
        self._restoring = threading.Lock()
        self._publishing: set[ChunkId] = set()
        self._suspects: dict[ChunkId, None] = {}
        self._serial = itertools.count(1)
        self.worthless: frozenset[ChunkId] = frozenset()
        """Whose wrong bytes have been here for a look long enough: they go first when a disk has no room."""
        self.early = EarlyPurges(self.disks, self)

    # Starting

    def load(self) -> None:
        """Build the index from names; remove what a crash left. A disk that cannot be listed is failed."""
        for number, disk in enumerate(self.disks):
            if not disk.usable:
                continue
            try:
                self._load_chunks(number, disk)
                self._load_quarantine(number, disk)
                self._holds[number].load()
            except OSError as error:
                disk.fail(f"its chunks cannot be listed: {error}")

    def _load_chunks(self, number: int, disk: Disk) -> None:
        for shard in range(256):
            directory = disk.chunks / f"{shard:02x}"
            prefix = directory.name
            for name in list(disk.files.names(directory)):
                if name.endswith(TEMPORARY):
                    if disk.writable:
                        disk.files.remove(directory / name)
                    continue
                chunk = _parse(name) if name.startswith(prefix) else None
                if chunk is not None:
                    (self._index.add_other if chunk in self._index else self._index.add)(chunk, number)
            if disk.writable:
                disk.sync_directory(directory)
        if disk.writable:
            disk.sync_directory(disk.quarantine)

    def _load_quarantine(self, number: int, disk: Disk) -> None:
        found: list[tuple[int, int, ChunkId, bool]] = []
        for corrupt, directory in ((False, disk.quarantine), (True, disk.corrupt)):
            for name in disk.files.names(directory):
                chunk, index, history = _parse_aside(name)
                if chunk is None:
                    continue
                if index is not None:
                    found.append((history, index, chunk, corrupt))
                elif corrupt:
                    self._index.set_aside(chunk, Quarantined(number, None, corrupt=True))
        for history, index, chunk, corrupt in sorted(found):  # what was condemned first is the oldest
            self._index.set_aside(chunk, Quarantined(number, index, 0, history, corrupt))

    # Writing

    def begin(self, chunk: ChunkId, upload: UploadId, birth: Birth, size_hint: int = 0) -> ChunkWriter:
        """A writer on the disk with most room; where there is too little, quarantine makes way. `size_hint` (bytes) is
        promised until it ends.

        Raises NoSpaceError, UnavailableError (no disk can be written), BusyError, PreconditionFailedError
        (the id has been condemned here: ids are never used again).
        """
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
        return ChunkWriter(disk, path, (chunk, upload, birth), needed, self._publish)

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

    # Reading

    def __contains__(self, chunk: ChunkId) -> bool:
        return chunk in self._index

    def __len__(self) -> int:
        return len(self._index)

    def holds_nothing(self) -> bool:
        """Whether there is no chunk on any disk, in its place or put aside. Of a disk that failed nobody knows."""
        with self._lock:
            empty = not len(self._index) and not self._index.quarantined_after(b"", 1)
        return empty and all(disk.health()[0] != "failed" for disk in self.disks)

    def open_reader(self, chunk: ChunkId) -> ChunkReader:
        """Raises ChunkNotFoundError, IntegrityError (the chunk is then a suspect), BusyError."""
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
        with self._lock:
            aside = None if chunk in self._index else self._index.aside(chunk)
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
        with self._lock:
            aside = None if chunk in self._index else self._index.aside(chunk)
            if aside is not None:
                return self.disks[aside.disk].disk_id, str(self._aside_path(chunk, aside)), True
            disk = self._disk_of(chunk)
            return disk.disk_id, str(disk.chunk_path(chunk)), False

    def has_file(self, chunk: ChunkId) -> bool:
        """Whether the file of a sealed or quarantined chunk is there; nothing is read. True when nobody can say."""
        with self._lock:
            aside = None if chunk in self._index else self._index.aside(chunk)
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
        with self._lock:
            numbers = self._index.disks_of(chunk)
            well = next((one for one in numbers if self.disks[one].health()[0] != "failed"), None)
            if well is not None:
                self._index.prefer(chunk, well)
        return bool(numbers) and well is None

    def ids(self, after: bytes, limit: int, quarantined: bool = False) -> list[ChunkId]:
        """Up to `limit` ids that come after `after` (empty: from the first), in order. From memory."""
        with self._lock:
            return (self._index.quarantined_after if quarantined else self._index.after)(after, limit)

    def verify(self, chunk: ChunkId) -> Verdict:
        """Read every block and check it. Changes nothing. Raises ChunkNotFoundError, BusyError."""
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

    # Suspects and corruption

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

    def mark_corrupt(self, chunk: ChunkId, inode: int = 0) -> None:
        """Put a replica with wrong bytes aside; the leader hears of it, or of another copy here that takes its place.
        Nothing happens if it is not here.

        `inode`: the file that was found damaged. Another one has come in its place meanwhile: it stays.
        """
        with self._lock:
            number = self._index.disk_of(chunk)
            if number is None:
                return
            disk = self.disks[number]
            if inode and disk.files.inode_of(disk.chunk_path(chunk)) not in (0, inode):
                return
            try:
                disk.files.rename(disk.chunk_path(chunk), disk.corrupt_path(chunk))
            except OSError as error:
                disk.translate_read(error, chunk)  # it stays where it is, but is not served or counted
            self._index.remove(chunk)
            self._index.set_aside(chunk, Quarantined(number, None, corrupt=True))
        self._lost(chunk, ReplicaChange.CORRUPT, disk)

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

    # Deleting

    def quarantine(self, chunk: ChunkId, condemned: Condemnation) -> bool:
        """Put a condemned chunk aside, durably, with what is here of its wrong bytes. False if nothing is here that was
        not condemned before.

        The caller has obeyed the epoch of the order. Raises SafetyGuardError for a chunk that must not go,
        UnavailableError when the disk refuses.
        """
        gone = False
        while self._quarantine_sealed(chunk, condemned):
            gone = True  # from one disk; it may lie on another
        return self._condemn_corrupt(chunk, condemned) or gone

    def _quarantine_sealed(self, chunk: ChunkId, condemned: Condemnation) -> bool:
        birth = self._birth_of(chunk)
        with self._lock:
            number = self._index.disk_of(chunk)
            if number is None:
                return False
            disk = self.disks[number]
            rules.check_quarantine(chunk, birth, condemned, self._hold_of(chunk))
            old, new = disk.chunk_path(chunk), disk.quarantine_path(chunk, condemned.index, condemned.history)
            try:
                size = disk.files.size_of(old)
                disk.files.rename(old, new)
            except FileNotFoundError as error:
                self._vanished(chunk)
                if self._index.disk_of(chunk) == number:  # the file is there; it is the directory that is not
                    raise disk.translate(error, f"quarantining chunk {chunk.hex()}") from error
                return self._quarantine_sealed(chunk, condemned)
            except OSError as error:
                raise disk.translate(error, f"quarantining chunk {chunk.hex()}") from error
            self._index.remove(chunk)
            self._index.set_aside(chunk, Quarantined(number, condemned.index, size, condemned.history))
        try:
            disk.sync_directory(new.parent)
            disk.sync_directory(old.parent)
        except OSError as error:
            raise disk.translate(error, f"quarantining chunk {chunk.hex()}") from error
        if chunk not in self._index:
            self.delta.add(Change(chunk, ReplicaChange.MISSING, disk.disk_id))
        return True

    def _condemn_corrupt(self, chunk: ChunkId, condemned: Condemnation) -> bool:
        """From now on their time in quarantine runs; nothing of them can be brought back. A disk that refuses keeps
        them: wrong bytes do not hold up the deletion."""
        with self._lock:
            found = [one for one in self._index.all_aside(chunk) if one.condemn_index is None]
        births = [self._birth_in(self.disks[one.disk], self._aside_path(chunk, one), chunk) for one in found]
        done = False
        for aside, birth in zip(found, births, strict=True):
            disk = self.disks[aside.disk]
            now = replace(aside, condemn_index=condemned.index, history=condemned.history)
            with self._lock:
                if not any(one.is_file_of(aside) for one in self._index.all_aside(chunk)):
                    continue  # purged meanwhile
                rules.check_quarantine(chunk, birth, condemned, self._hold_of(chunk))
                try:
                    disk.files.rename(self._aside_path(chunk, aside), self._aside_path(chunk, now))
                except OSError as error:
                    if not isinstance(error, FileNotFoundError):  # that: somebody removed it
                        disk.translate(error, f"condemning wrong bytes of chunk {chunk.hex()}")
                    continue
                self._index.take_back(chunk, aside)
                self._index.set_aside(chunk, now)
                done = True
            try:
                disk.sync_directory(disk.corrupt)
            except OSError as error:
                disk.translate(error, f"condemning wrong bytes of chunk {chunk.hex()}")
        return done

    def _birth_in(self, disk: Disk, path: Path, chunk: ChunkId) -> Birth | None:
        """As `_birth_of`, of a file that was put aside."""
        try:
            with reader.open_chunk(disk, disk.files.open(path), chunk) as opened:
                return opened.header.birth
        except (OSError, QuorumFSError):
            return None

    def restore(self, chunk: ChunkId, hold: Hold) -> bool:
        """Void condemnations at or below the hold's index and bring the chunk back, durably; False: not here.

        A chunk that was not quarantined gets the hold alone: the order to delete it may be on its way.
        """
        number = self._lies_on(chunk)
        if number is None:
            return False
        disk = self.disks[number]
        try:
            self._holds[number].add(chunk, hold)
            with self._restoring:
                moved = self._bring_back(chunk)
        except OSError as error:
            raise disk.translate(error, f"restoring chunk {chunk.hex()}") from error
        if not moved:
            return chunk in self._index
        try:
            self._announce(self.info(chunk).header, disk)
        except IntegrityError:
            pass  # it is a suspect now; what verifying finds is reported
        return True

    def unquarantine(self, chunk: ChunkId, hold: Hold) -> None:
        """Bring back what an earlier history put aside, or a condemnation at or below the hold's index: the chunk is
        wanted here again. Nothing happens when there is none. Its bytes are not verified. Raises UnavailableError."""
        aside = self._index.aside(chunk)
        if (
            aside is not None
            and aside.condemn_index is not None
            and not aside.corrupt
            and (0 < aside.history < hold.history or aside.condemn_index <= hold.void_below_index)
        ):
            self.restore(chunk, hold)

    def condemned(self) -> list[tuple[ChunkId, int]]:
        """(chunk, condemn index) of all that lies in quarantine by order."""
        with self._lock:
            return self._index.condemned()

    def corrupt(self) -> list[ChunkId]:
        """Chunks of which wrong bytes lie here that nobody has condemned."""
        with self._lock:
            return self._index.corrupt()

    def spare_on(self, number: int) -> list[tuple[ChunkId, int | None]]:
        """What may go before its time on one disk, as (chunk, condemn index): wrong bytes that were there long enough
        for a look, then what lies in quarantine by order, oldest first, without what an earlier history condemned: the
        present one may have gone back behind that, and want it again."""
        with self._lock:
            worthless = [chunk for chunk in self._index.corrupt(number) if chunk in self.worthless]
            return [*((chunk, None) for chunk in worthless), *self._index.condemned(number, self._history())]

    def purge(self, chunk: ChunkId, condemn_index: int | None) -> bool:
        """Remove what lies in quarantine under that index for good (None: wrong bytes without one); False if nothing
        does (any more).

        Not synced: what comes back after a crash lies in quarantine still. Raises UnavailableError.
        """
        purged = False
        with self._restoring:
            with self._lock:
                files = [one for one in self._index.all_aside(chunk) if one.condemn_index == condemn_index]
            for aside in files:
                disk = self.disks[aside.disk]
                try:
                    disk.files.remove(self._aside_path(chunk, aside))
                except FileNotFoundError:
                    pass  # somebody removed it
                except OSError as error:
                    raise disk.translate(error, f"purging chunk {chunk.hex()}") from error
                with self._lock:
                    self._index.take_back(chunk, aside)
                purged = True
        return purged

    def _lies_on(self, chunk: ChunkId) -> int | None:
        """The number of the disk with the chunk, sealed or condemned. Wrong bytes do not come back: None."""
        with self._lock:
            number = self._index.disk_of(chunk)
            aside = self._index.aside(chunk)
            if number is None and aside is not None and not aside.corrupt:
                return aside.disk
            return number

    def _bring_back(self, chunk: ChunkId) -> bool:
        """Give a condemned chunk its name again, durably; False if it is not condemned here (any more)."""
        with self._lock:
            aside = None if chunk in self._index else self._index.aside(chunk)
            if aside is None or aside.corrupt:
                return False
            disk = self.disks[aside.disk]
            old, new = self._aside_path(chunk, aside), disk.chunk_path(chunk)
            try:
                disk.files.rename(old, new)
            except FileNotFoundError:
                self._index.take_back(chunk, aside)  # somebody removed it
                return False
        disk.sync_directory(new.parent)
        disk.sync_directory(old.parent)
        with self._lock:
            self._index.take_back(chunk, aside)
            self._index.add(chunk, aside.disk, aside.size)
        return True

    def _hold_of(self, chunk: ChunkId) -> Hold | None:
        """The latest: it is of the chunk, wherever else that lies now."""
        return max((hold for holds in self._holds if (hold := holds.of(chunk)) is not None), default=None)

    def _birth_of(self, chunk: ChunkId) -> Birth | None:
        """None when its header cannot be read: then nothing it says can be believed or needs keeping."""
        try:
            with self.open_reader(chunk) as opened:
                return opened.header.birth
        except (ChunkNotFoundError, IntegrityError):
            return None

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

    # Small things

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

    @staticmethod
    def _not_found(chunk: ChunkId) -> ChunkNotFoundError:
        return ChunkNotFoundError(
            f"chunk {chunk.hex()} is not on this node",
            next="ask for the file's layout again and read another replica",
            ids={"chunk": chunk.hex()},
        )


def _parse_aside(name: str) -> tuple[ChunkId | None, int | None, int]:
    """(chunk, condemn index, history) of a name in quarantine; versions before wrote no history (0). None: no chunk, or
    no index."""
    stem, dot, rest = name.partition(".")
    index, _, history = rest.partition(".")
    if not dot:
        return _parse(stem), None, 0
    if not index.isdecimal() or not (history or "0").isdecimal():
        return None, None, 0
    return _parse(stem), int(index), int(history or 0)


def _parse(name: str) -> ChunkId | None:
    """The chunk of that name; None for any other spelling than the one that is written here."""
    try:
        raw = bytes.fromhex(name)
    except ValueError:
        return None
    return ChunkId(raw) if len(raw) == 16 and raw.hex() == name else None
