"""What was put aside: chunks that were condemned, until they come back or go for good, and wrong bytes.

A layer of the store (`chunks.py` has the theory, its point 4): the way of a file out of its place, back, and away.
Who may order that is known above; whether a chunk may go is said by `rules.py`, file by file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from datanode.store import reader, rules
from datanode.store.delta import Change, ReplicaChange
from datanode.store.disk import Disk
from datanode.store.held import HeldChunks
from datanode.store.holds import Hold, Holds
from datanode.store.index import Quarantined
from datanode.store.layout import Birth
from datanode.store.rules import Condemnation
from quorumfs.errors import IntegrityError, QuorumFSError
from quorumfs.ids import ChunkId


class AsideChunks(HeldChunks):
    """What lies here, and what was put aside. Thread-safe."""

    def __init__(self, disks: Sequence[Disk], history: Callable[[], int]) -> None:
        """`history`: of the leader that is obeyed now."""
        super().__init__(disks)
        self._history = history
        self._holds = [Holds(disk) for disk in self.disks]
        self._restoring = threading.Lock()
        self.worthless: frozenset[ChunkId] = frozenset()
        """Whose wrong bytes have been here for a look long enough: they go first when a disk has no room."""

    # Wrong bytes

    def mark_corrupt(self, chunk: ChunkId, inode: int = 0) -> None:
        """Put a replica with wrong bytes aside; the leader hears of it, or of another copy here that takes its place.
        Nothing happens if it is not here.

        `inode`: the file that was found damaged. Another one has come in its place meanwhile: it stays.
        """
        self.listing.know(chunk)
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

    # Deleting

    def quarantine(self, chunk: ChunkId, condemned: Condemnation) -> bool:
        """Put a condemned chunk aside, durably, with what is here of its wrong bytes. False if nothing is here that was
        not condemned before.

        The caller has obeyed the epoch of the order. Raises SafetyGuardError for a chunk that must not go,
        UnavailableError when the disk refuses.
        """
        self.listing.know(chunk)
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

    # Bringing back

    def restore(self, chunk: ChunkId, hold: Hold) -> bool:
        """Void condemnations at or below the hold's index and bring the chunk back, durably; False: not here.

        A chunk that was not quarantined gets the hold alone: the order to delete it may be on its way.
        """
        self.listing.know(chunk)
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
        self.listing.list_aside()
        aside = self._index.aside(chunk)
        if (
            aside is not None
            and aside.condemn_index is not None
            and not aside.corrupt
            and (0 < aside.history < hold.history or aside.condemn_index <= hold.void_below_index)
        ):
            self.restore(chunk, hold)

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

    # Removing for good

    def condemned(self) -> list[tuple[ChunkId, int]]:
        """(chunk, condemn index) of all that lies in quarantine by order."""
        self.listing.list_aside()
        with self._lock:
            return self._index.condemned()

    def corrupt(self) -> list[ChunkId]:
        """Chunks of which wrong bytes lie here that nobody has condemned."""
        self.listing.list_aside()
        with self._lock:
            return self._index.corrupt()

    def spare_on(self, number: int) -> list[tuple[ChunkId, int | None]]:
        """What may go before its time on one disk, as (chunk, condemn index): wrong bytes that were there long enough
        for a look, then what lies in quarantine by order, oldest first, without what an earlier history condemned: the
        present one may have gone back behind that, and want it again."""
        self.listing.list_aside()
        with self._lock:
            worthless = [chunk for chunk in self._index.corrupt(number) if chunk in self.worthless]
            return [*((chunk, None) for chunk in worthless), *self._index.condemned(number, self._history())]

    def purge(self, chunk: ChunkId, condemn_index: int | None) -> bool:
        """Remove what lies in quarantine under that index for good (None: wrong bytes without one); False if nothing
        does (any more).

        Not synced: what comes back after a crash lies in quarantine still. Raises UnavailableError.
        """
        self.listing.list_aside()
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
