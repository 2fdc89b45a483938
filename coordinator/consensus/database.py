"""The replicated state on this member's disk: one SQLite database, one writer, any number of readers.

What a command means is the state machine's business; what it stands on is here.

Theory of operation
1. The log's journal is what is synced per entry. The database is always the outcome of some prefix of the log:
   the applied index changes in the same transaction as everything else. After a crash the log is applied again
   from there; entries that the database has are skipped.
2. `durable_index` is the prefix that a power cut cannot take any more. The log may forget entries only up to it.
3. One connection writes, in one thread, and the same thread makes checkpoints, makes durable, and installs
   snapshots (`readers.py` says why). Each `apply` is one transaction; only a HashAt entry ends one early, because
   the state must be hashed exactly as it is then.
4. A full disk undoes the transaction, and the same entries may be applied again when there is room. After any other
   failure this object refuses to write: memory and disk may disagree, and only a new start can tell.
5. A snapshot becomes the state under a new file name (`sqlite_files.py`). Who reads the former state goes on
   undisturbed; its file is removed when the last has ended.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from common import log
from coordinator.consensus import snapshots
from coordinator.consensus.entry_writer import Answers, EntryWriter, StateMachine, position_of
from coordinator.consensus.faults import CorruptDatabase, storage_fault, storage_faults
from coordinator.consensus.files import Files, RealFiles, StorageFailure, StorageFull
from coordinator.consensus.interfaces import LogEntry
from coordinator.consensus.readers import Readers, ReaderStats
from coordinator.consensus.sqlite_files import SqliteFiles
from coordinator.consensus.state_hashes import StateHash, StateHashes
from coordinator.consensus.wal import CHECKPOINT_BYTES, Wal
from coordinator.metadata import hashing
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import InternalError, UnavailableError

CACHE_KIB = 64 * 1024
STATEMENTS_MAX = 512
BUSY_SECONDS = 5.0

_log = log.get(__name__)


class Database:
    """`DatabaseDoor` for real disks. What changes it belongs to the writer's thread, everything else to any."""

    def __init__(
        self,
        held: SqliteFiles,
        path: Path,
        machine: StateMachine,
        clock: Clock,
        checkpoint_bytes: int,
        state_hash: StateHash,
    ) -> None:
        """Use `open`. Raises StorageFull, StorageFailure, CorruptDatabase."""
        self._held = held
        self._machine = machine
        self._clock = clock
        self._checkpoint_bytes = checkpoint_bytes
        self._hashes = StateHashes(state_hash)
        self._failed: BaseException | None = None
        self._closed = False
        self._stand_on(path)

    @classmethod
    def open(
        cls,
        directory: Path,
        machine: StateMachine,
        *,
        files: Files | None = None,
        clock: Clock | None = None,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        state_hash: StateHash | None = None,
    ) -> Database:
        """Open the state in `directory`, or begin one at index 1 where there is none; durable on return.

        Raises CorruptDatabase when what lies there is no whole state, StorageFull, StorageFailure.
        """
        held = SqliteFiles(directory, files or RealFiles())
        path = held.current()
        if path is None:
            _refuse_to_forget(held.interrupted_creation())
        for name in held.remove_leftovers(path):
            _log.info("database.leftover_removed", file=name)
        if path is None:
            path = held.adopt(_create(directory / "state-new.tmp", machine))
        held.settle(path)
        return cls(
            held, path, machine, clock or SystemClock(), checkpoint_bytes, state_hash or hashing.state_hash
        )

    def _stand_on(self, path: Path) -> None:
        """Write to, and read from, the file `path` from now on."""
        with storage_faults(path, f"opening {path}"), ExitStack() as opened:
            connection = opened.enter_context(closing(open_writer(path)))
            entries = _entry_writer(connection, path, self._machine, self._pin)
            readers = Readers(path, lambda: entries.at.index, self._clock)
            wal = Wal(connection, path, self._held.files, self._checkpoint_bytes, self._clock, readers.quiet)
            opened.callback(wal.close)
            self._held.sync_directory()
            wal.sync()
            opened.pop_all()
        self._path, self._connection, self._entries, self._wal = path, connection, entries, wal
        self._durable_index, self._readers = entries.at.index, readers

    def _pin(self, index: int) -> None:
        self._hashes.pin(index, self._readers)

    # What any thread may ask

    @property
    def applied_index(self) -> int:
        return self._entries.at.index

    @property
    def applied_term(self) -> int:
        return self._entries.at.term

    @property
    def durable_index(self) -> int:
        return self._durable_index

    def cluster_ms(self) -> int:
        return self._entries.at.cluster_ms

    def rolling_at(self, index: int) -> bytes | None:
        return self._entries.rolling_at(index)

    def hash_at(self, index: int) -> bytes | None:
        return self._hashes.at(index)

    def last_hash(self) -> tuple[int, bytes] | None:
        """The state hash that was made last, and its index. Any thread."""
        return self._hashes.last()

    @property
    def wal_bytes(self) -> int:
        return self._wal.size_bytes

    @property
    def longest_checkpoint_seconds(self) -> float:
        """Since this state was opened, or installed."""
        return self._wal.longest_checkpoint_seconds

    def reader_stats(self) -> ReaderStats:
        return self._readers.stats()

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A read transaction that sees all that was applied before this call, and nothing that comes later.

        Raises sqlite3.Error, UnavailableError after `close`.
        """
        readers, connection = self._begin_reading()
        try:
            yield connection
        finally:
            readers.end(connection)

    def _begin_reading(self) -> tuple[Readers, sqlite3.Connection]:
        while not self._closed:
            readers = self._readers
            connection = readers.begin()
            if connection is not None:
                return readers, connection
        raise UnavailableError("the database is closed", cause="this coordinator is stopping")

    def snapshot(self, target: Path) -> tuple[int, int]:
        """Copy the state to the new file `target` while it changes; (index, term) of the copy. Durable on return.

        Raises StorageFull, StorageFailure, CorruptDatabase; then there is no `target`.
        """
        with storage_faults(target, f"copying the state to {target}"), self.reader() as reader:
            at = position_of(reader)
            snapshots.copy(reader, target)
            return at.index, at.term

    # What only the writer's thread may do

    def apply(self, entries: Sequence[LogEntry]) -> Sequence[Answers]:
        """Apply committed entries in order; per entry one answer per item, None for one without commands.

        All are visible to readers on return; durable after `make_durable`. Entries that were applied before are
        skipped (None). Raises StorageFull: then the same entries must be given again. Raises InternalError for a
        gap in the indexes, StorageFailure, CorruptDatabase and what the machine raises: then nothing more can be
        applied.
        """
        self._require_whole()
        try:  # like `_writing`, which would cost a lone entry more than all else here
            return self._entries.apply(entries)
        except BaseException as error:
            what = f"applying entries after {self._entries.at.index} in {self._path}"
            fault = self._noted(storage_fault(error, self._path, what))
            if fault is error:
                raise
            raise fault from error

    def try_next(self, entry: LogEntry) -> None:
        """Do what can be done beforehand for an entry that is about to be committed. `apply` of the same one takes less
        time then; any other call forgets it. Readers see nothing of it. Raises nothing."""
        if self._failed is None:
            self._entries.try_next(entry)

    def make_durable(self) -> int:
        """Let all that was applied so far survive a power cut; up to which index. Raises StorageFailure."""
        index = self._entries.at.index
        with self._writing(f"syncing the WAL of {self._path}"):
            try:
                self._wal.sync()
            except (
                OSError
            ) as error:  # for want of room as well: a second one would succeed without having written
                raise StorageFailure(f"the WAL of {self._path} cannot be synced", error) from error
        self._durable_index = index
        return index

    def checkpoint_if_needed(self) -> bool:
        """Empty the WAL when it has grown by a portion, as far as readers allow; whether it did something.

        Waits no longer than QUIET_SECONDS. Raises StorageFull (it is tried again the next time), StorageFailure.
        """
        self._require_whole()
        if not self._wal.may_have_grown():
            return False
        self._entries.forget_tried()
        with self._writing(f"writing a checkpoint of {self._path}"):
            return self._wal.checkpoint_if_needed()

    def install(self, file: Path, index: int, term: int) -> None:
        """Become the state of the verified snapshot `file`, atomically and durably; `file` is consumed.

        It must be in this directory's file system. Raises ValueError when it is not newer than what is applied
        or is not of (index, term), StorageFull (nothing was changed), StorageFailure.
        """
        if index <= self.applied_index:
            raise ValueError(
                f"a snapshot of index {index} is not newer than the applied {self.applied_index}"
            )
        with (
            storage_faults(file, f"reading the snapshot {file}"),
            closing(snapshots.open_frozen(file)) as found,
        ):
            at = position_of(found)
        if (at.index, at.term) != (index, term):
            raise ValueError(f"the snapshot is of {(at.index, at.term)}, not of {(index, term)}")
        self._entries.forget_tried()
        path, connection, wal, readers = self._path, self._connection, self._wal, self._readers
        with self._writing(f"making the snapshot {file} the state"):
            target = self._held.adopt(file)
        with self._writing(f"opening the snapshot as {target}"):
            self._stand_on_adopted(target)
        connection.close()
        wal.close()
        readers.retire(lambda: self._held.remove(path))

    def _stand_on_adopted(self, target: Path) -> None:
        try:
            self._stand_on(target)
        except StorageFull as error:  # no way back: what is open here is no longer the state
            raise InternalError(
                f"{target} is the state now, but cannot be opened",
                cause=error.cause,
                next="free space on the coordinator's disk and start it again",
            ) from error

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Storage's faults by name; and after one that is not a full disk nothing is written any more."""
        self._require_whole()
        try:
            with storage_faults(self._path, what):
                yield
        except BaseException as error:
            self._noted(error)
            raise

    def _require_whole(self) -> None:
        failed = self._failed or self._hashes.failure
        if failed is not None:
            raise InternalError(
                "nothing more can be written", cause=f"it failed before: {failed}"
            ) from failed

    def _noted(self, fault: BaseException) -> BaseException:
        """After one that is not a full disk nothing is written any more."""
        if not isinstance(fault, StorageFull):
            self._failed = fault
        return fault

    def close(self) -> None:
        """End the reading, write what the WAL holds to the database, close. Again is harmless."""
        if self._closed:
            return
        self._closed = True
        self._hashes.close()
        self._readers.retire(lambda: None)
        self._connection.close()
        self._wal.close()


def open_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes: explicit transactions, WAL, no sync per commit. Raises sqlite3.Error.

    It waits for the lock of writers, though nobody else writes: a reader that comes upon the WAL's index while that is
    being changed takes the lock for a moment, to read it again.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_MAX,
        timeout=BUSY_SECONDS,
    )
    pragmas = (
        "synchronous = FULL",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "wal_autocheckpoint = 0",
        "foreign_keys = OFF",
        "temp_store = MEMORY",
        f"cache_size = -{CACHE_KIB}",
    )
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _entry_writer(
    connection: sqlite3.Connection, path: Path, machine: StateMachine, on_mark: Callable[[int], None]
) -> EntryWriter:
    try:
        return EntryWriter(connection, machine, on_mark)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
            raise
        raise CorruptDatabase(path, str(error)) from error


def _create(path: Path, machine: StateMachine) -> Path:
    """A new file with the state of an empty cluster, as if it were a snapshot of index 1."""
    with storage_faults(path, f"creating the state in {path}"):
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = MEMORY")  # a file left behind would be replayed
            connection.execute("BEGIN IMMEDIATE")
            machine.create(connection)
            connection.execute("COMMIT")
    return path


def _refuse_to_forget(found: Path | None) -> None:
    """A file that a first start left behind may go; one that has applied anything may not."""
    if found is None:
        return
    with storage_faults(found, f"reading {found}"), closing(snapshots.open_frozen(found)) as connection:
        index = position_of(connection).index
    if index > 1:
        raise CorruptDatabase(found, f"no pointer names it, but it is a state of index {index}")
