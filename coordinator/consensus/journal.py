"""The Raft log of one member on its disk.

1. The journal is the durable thing of a coordinator: an acknowledgement, a vote, an applied entry stands on what
   `sync` has returned for. SQLite follows it, and may lose its end.
2. Everything is a record behind the others; nothing is overwritten. A truncation, a compaction, a reset is written
   like an entry, and takes effect with the frame that carries it: what the disk holds after a crash is what the log
   was after some sync, never a mixture.
3. What changes the log only gathers records, and `sync` makes one frame of them. What is gathered is visible to
   readers at once, but counts for nothing until `synced_index` covers it.
4. A failed write or sync ends the journal: every later call raises the same StorageFailure. Only a new segment needs
   room on the disk, and it is made beforehand (`prepare`). Nothing is gathered that could not be written:
   StorageFull comes first, with the log as it was.
5. What the log holds is in `retained`, what its bytes mean in `records`, frames in `frame_log`, files in `segments`,
   and how they are read back in `recovery`.

One thread owns the journal. Others may call `prepare`, `has_room`, and read the properties that are numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from coordinator.consensus.entry_reader import Entry, EntryReader
from coordinator.consensus.files import CorruptJournal as CorruptJournal
from coordinator.consensus.files import DirectoryLock, Files, StorageFull, translated
from coordinator.consensus.frame_log import FrameLog
from coordinator.consensus.journal_names import PySyncObjNames
from coordinator.consensus.records import (
    JOURNAL_ID_BYTES,
    SECTOR_BYTES,
    FrameBuilder,
    Kind,
    encode_last,
    encode_vote,
)
from coordinator.consensus.recovery import recover, segment_numbers
from coordinator.consensus.retained import NOWHERE, Retained
from coordinator.consensus.segments import SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Segments
from coordinator.consensus.status import FsyncStats
from quorumfs.clock import Clock
from quorumfs.errors import InvalidArgumentError
from quorumfs.limits import MIB
from quorumfs.mint import RandomBytes, system_random

NOOP = b"\x01"
CACHE_BYTES = 16 * MIB
SLICE_ENTRIES_MAX = 4096

_KEPT_FOR_VOTES = 0.5  # the share of a segment's reserve that compaction leaves to terms and votes


@dataclass(frozen=True, slots=True)
class _Durable:
    """The log and the term as of the last sync: what a new segment begins with."""

    term: int
    voted_for: str | None
    base_index: int
    base_term: int
    last_index: int

    def begin(self, first: FrameBuilder) -> None:
        first.add(Kind.HARD, 0, self.term, encode_vote(self.voted_for))
        first.add(Kind.START, self.base_index, self.base_term, encode_last(self.last_index))


class Journal(PySyncObjNames):
    """Made by `open`. Sizes in bytes; an `index` counts from 1, a position from the first retained entry."""

    def __init__(
        self,
        log: FrameLog,
        retained: Retained,
        lock: DirectoryLock,
        term: int = 0,
        voted_for: str | None = None,
    ) -> None:
        self._log = log
        self._retained = retained
        self._reader = EntryReader(log, retained)
        self._lock = lock
        self._term = term
        self._voted_for = voted_for
        self._synced_index = 0
        self._unplaced_from = 1  # what is retained from here on waits for a sync
        self._settle()

    @staticmethod
    def is_there(directory: Path, files: Files) -> bool:
        """Whether `directory` has a journal, whole or not; if not, `open` makes a new one. Raises StorageFailure."""
        try:
            return bool(segment_numbers(files.names(directory)))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise translated(error, f"the Raft log in {directory} cannot be looked for") from error

    @classmethod
    def open(
        cls,
        directory: Path,
        files: Files,
        clock: Clock,
        *,
        segment_bytes: int,
        cache_bytes: int = CACHE_BYTES,
        random: RandomBytes = system_random,
    ) -> Journal:
        """The journal in `directory`, as the last sync left it, or a new one.

        Everything that is found is durable on return. `random` makes the id of a new journal.
        Raises CorruptJournal; StorageFailure; StorageFull, for a new one only; PreconditionFailedError when another
        process has the journal open.
        """
        if not SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX or segment_bytes % SECTOR_BYTES:
            raise InvalidArgumentError(
                f"a journal segment cannot have {segment_bytes} bytes",
                cause=f"it has {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}, in steps of {SECTOR_BYTES}",
            )
        segments, retained = Segments(directory, files, segment_bytes), Retained(cache_bytes)
        try:
            files.make_directory(directory)
            lock = DirectoryLock(directory, files)
            try:
                found = recover(directory, files, retained)
                if found is None:
                    log = FrameLog(segments, clock, random(JOURNAL_ID_BYTES))
                    journal = cls._new(directory, log, retained, lock)
                else:
                    segments.adopt(found.segments, found.offset)
                    log = FrameLog(segments, clock, found.journal_id, found.sequence, found.chain)
                    log.seal()
                    journal = cls(log, retained, lock, found.term, found.voted_for)
                segments.prepare()
            except BaseException:
                segments.close()
                lock.release()
                raise
        except OSError as error:
            raise translated(error, f"the Raft log in {directory} cannot be opened") from error
        return journal

    @classmethod
    def _new(cls, directory: Path, log: FrameLog, retained: Retained, lock: DirectoryLock) -> Journal:
        """A new journal holds one entry, as PySyncObj's do."""
        if not log.segments.prepare():
            raise StorageFull(f"a Raft log cannot be made in {directory}")

        def begin(first: FrameBuilder) -> None:
            first.add(Kind.HARD, 0, 0)
            retained.restart(1, 0, 1, SECTOR_BYTES + first.add(Kind.RESET, 1, 0, NOOP), NOOP)

        log.begin_segment(1, begin)
        return cls(log, retained, lock)

    # What there is

    @property
    def first_index(self) -> int:
        """The base: an entry whose predecessors are gone."""
        return self._retained.first_index

    @property
    def last_index(self) -> int:
        return self._retained.last_index

    @property
    def last_term(self) -> int:
        return self._retained.last_term

    @property
    def term(self) -> int:
        return self._term

    @property
    def voted_for(self) -> str | None:
        """In this term; None for nobody."""
        return self._voted_for

    @property
    def synced_index(self) -> int:
        """The entries up to this one are durable as they are."""
        return self._synced_index

    @property
    def dirty(self) -> bool:
        """Whether something waits for a sync."""
        return self._log.dirty

    @property
    def payload_bytes(self) -> int:
        """Of the retained entries' commands."""
        return self._retained.payload_bytes

    @property
    def disk_bytes(self) -> int:
        return self._log.segments.disk_bytes

    @property
    def fsync(self) -> FsyncStats:
        return self._log.fsync

    def on_fsync(self, observe: Callable[[float], None]) -> None:
        """Have `observe` told of every sync, in seconds; on the thread that syncs."""
        self._log.on_fsync = observe

    def on_wait(self, call: Callable[[], None]) -> None:
        """`call` is called before each fdatasync of `sync`, which takes a while."""
        self._log.on_wait = call

    def term_at(self, index: int) -> int | None:
        """The term of a retained entry; None for any other."""
        return self._retained.term_at(index)

    def index_keeping(self, payload_bytes: int) -> int:
        """Where to compact to so that at most `payload_bytes` of commands remain; the last index at most."""
        return self._retained.keeping(payload_bytes)

    def has_room(self) -> bool:
        """Whether there is room for what one turn of the loop may add. If not, add nothing and vote for nobody."""
        return self._log.has_room()

    @property
    def disk_full(self) -> bool:
        """Whether there is no room because the disk has none; otherwise the next segment is only not made yet."""
        return self._log.segments.disk_full and not self.has_room()

    @property
    def wants_spare(self) -> bool:
        """Whether `prepare` is to be called at once: there is no spare segment, and no full disk is known of."""
        segments = self._log.segments
        return not segments.has_spare and not segments.disk_full

    # Reading

    def entries(self, from_index: int, max_bytes: int, max_count: int) -> list[Entry]:
        """Entries from `from_index` on, within both bounds but at least one; none behind the end of the log.

        Raises IndexError for what is gone; CorruptJournal, StorageFailure.
        """
        self._log.check()
        if from_index < self.first_index:
            raise IndexError(f"entry {from_index} is gone: the log begins at {self.first_index}")
        if from_index > self.last_index or max_count < 1:
            return []
        return self._reader.read(from_index, self._retained.through(from_index, max_bytes, max_count) + 1)

    def __len__(self) -> int:
        return len(self._retained)

    @overload
    def __getitem__(self, position: int) -> Entry: ...

    @overload
    def __getitem__(self, position: slice) -> list[Entry]: ...

    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        """An entry, or a run of them; a slice without an end has SLICE_ENTRIES_MAX at most."""
        self._log.check()
        first = self.first_index
        if isinstance(position, slice):
            start, stop, step = position.indices(len(self))
            if step != 1:
                raise ValueError("a journal is read forwards, entry by entry")
            if position.stop is None:
                stop = min(stop, start + SLICE_ENTRIES_MAX)
            return self._reader.read(first + start, first + stop) if start < stop else []
        index = range(first, self.last_index + 1)[position]
        return self._reader.base() if index == first else self._reader.read(index, index + 1)[0]

    # Changing

    def append(self, command: bytes, index: int, term: int) -> None:
        """Gather the entry behind the last; what was gathered before may be synced on the way.

        Raises ValueError for one that does not follow, or is larger than a frame; StorageFull, with the log as it
        was; StorageFailure.
        """
        self._log.check()
        if index != self.last_index + 1 or term < self.last_term:
            raise ValueError(
                f"entry {index} of term {term} does not follow {self.last_index} of term {self.last_term}"
            )
        if not self._log.takes(len(command)):
            raise ValueError(f"entry {index} has {len(command)} bytes, more than a frame takes")
        self._admit(len(command))
        offset = self._log.gather(Kind.ENTRY, index, term, command)
        self._retained.append(term, NOWHERE, offset, command)
        self._retained.trim_cache(self._synced_index)

    def truncate_from(self, index: int) -> None:
        """Entry `index` and all behind it are gone, durably with the next `sync`.

        Raises ValueError for the base or what is before it; StorageFull, with the log as it was; StorageFailure.
        """
        self._log.check()
        if index <= self.first_index:
            raise ValueError(f"entry {index} cannot be truncated: the log begins at {self.first_index}")
        if index > self.last_index:
            return
        self._admit(0)
        self._log.gather(Kind.TRUNCATE, index, 0)
        self._retained.truncate_from(index)
        self._synced_index = min(self._synced_index, index - 1)
        self._unplaced_from = min(self._unplaced_from, index)

    def drop_to(self, index: int) -> None:
        """Compaction: entry `index` becomes the base and keeps its command; what is older is gone.

        Durable with the next `sync`; then `prepare` removes the segments that are not needed any more. Nothing for
        an index at or before the base. Raises ValueError for an index behind the end; StorageFull, with the log as
        it was; StorageFailure.
        """
        self._log.check()
        if index > self.last_index:
            raise ValueError(f"the log cannot begin at {index}: it ends at {self.last_index}")
        if index <= self.first_index:
            return
        self._admit(0, _KEPT_FOR_VOTES)
        term = self._retained.term(index)
        self._log.gather(Kind.BASE, index, term)
        self._retained.drop_to(index, term)

    def reset(self, index: int, term: int) -> None:
        """The state is that of (index, term) now, from a snapshot: the log goes on from there.

        What follows is kept if the log has that very entry. Otherwise the log is the one entry (NOOP, index, term).
        Durable with the next `sync`. Raises ValueError for an index before the base; StorageFull, with the log as
        it was; StorageFailure.
        """
        self._log.check()
        if index < self.first_index:
            raise ValueError(f"the log cannot begin at {index}: it begins at {self.first_index} already")
        if self.term_at(index) == term:
            self.drop_to(index)
            return
        self._admit(len(NOOP), _KEPT_FOR_VOTES)
        offset = self._log.gather(Kind.RESET, index, term, NOOP)
        self._retained.restart(index, term, NOWHERE, offset, NOOP)
        self._synced_index = min(self._synced_index, index - 1)
        self._unplaced_from = index

    def set_term(self, term: int, voted_for: str | None) -> None:
        """Term and vote, durable on return; what was gathered before them too, if they are new.

        Raises ValueError for a term that goes back, and for a second vote in a term; StorageFull, with nothing
        changed; StorageFailure.
        """
        self._log.check()
        if (term, voted_for) == (self._term, self._voted_for):
            return
        if term < self._term:
            raise ValueError(f"term {term} is before the present term {self._term}")
        if term == self._term and self._voted_for is not None:
            raise ValueError(f"in term {term} this member voted for {self._voted_for} already")
        vote = encode_vote(voted_for)
        self._admit(len(vote), 0)
        self._log.gather(Kind.HARD, 0, term, vote)
        self._term, self._voted_for = term, voted_for
        self.sync()

    def sync(self, *, seal: bool = True) -> None:
        """All that is gathered is durable on return: one write, one fdatasync. Nothing when nothing is.

        `seal`: seal it too; else `seal` does, when those who wait for the sync are answered. Raises StorageFailure:
        then it is unknown what the disk has, and the journal takes no more calls.
        """
        self._log.check()
        if self._log.dirty:
            number, offset = self._log.sync(self._durable.begin)
            self._retained.place(max(self._unplaced_from, self.first_index), number, offset)
            self._settle()
        if seal:
            self.seal()

    def seal(self) -> None:
        """Say behind what is synced that it is, if nothing says so yet: its damage is then not taken for a torn write.
        Not synced itself; nothing that was promised hangs on it. Raises StorageFailure."""
        self._log.check()
        if self._log.wants_seal:
            with self._log.failing("the Raft log cannot be sealed"):
                self._log.seal()

    def _settle(self) -> None:
        """All that is known is on the disk."""
        retained = self._retained
        base = retained.first_index
        self._durable = _Durable(self._term, self._voted_for, base, retained.term(base), retained.last_index)
        self._synced_index = retained.last_index
        self._unplaced_from = retained.last_index + 1
        retained.trim_cache(self._synced_index)
        self._log.segments.retire(retained.home(base)[0])

    def _admit(self, payload_bytes: int, keep: float | None = None) -> None:
        """See to it that one more record can be written; what is gathered may be synced for that.

        `keep`: the record may use the reserve for a full disk, all but this share. Raises StorageFull.
        """
        if self._log.fits(payload_bytes, keep):
            return
        if self._log.dirty:
            self.sync()
            if self._log.fits(payload_bytes, keep):
                return
        raise StorageFull("the Raft log has no room", cause="the disk has none for another segment")

    def prepare(self) -> bool:
        """Remove segments that hold nothing any more, and see to a spare one; False when there is no room for it.

        To be called about once a second, and after each new segment. Any thread. Raises StorageFailure.
        """
        if self._log.closed:
            return False
        self._log.check()
        with self._log.failing("a segment of the Raft log cannot be made or removed"):
            return self._log.segments.prepare()

    def close(self) -> None:
        """Sync what is gathered, unless the journal has failed, and close the files. Again is harmless."""
        if self._log.closed:
            return
        try:
            if not self._log.failed:
                self.sync()
        finally:
            self._log.closed = True
            self._log.segments.close()
            self._lock.release()
