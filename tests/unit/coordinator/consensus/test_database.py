"""The database's life on a disk: its files, what it refuses to take for a state, and what ends it."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.consensus.database import Database
from coordinator.consensus.faults import CorruptDatabase
from coordinator.consensus.files import RealFiles, StorageFailure, StorageFull
from coordinator.consensus.interfaces import LogEntry
from quorumfs.errors import InternalError
from tests.support.fake_machine import FakeMachine, MachineBrokenError, pairs_after, put, puts
from tests.support.waiting import eventually
from tests.unit.coordinator.consensus.databases import content, killed, names, opened


class SmallDisk(FakeMachine):
    """A machine whose database may have no more than `pages` pages: then SQLite says that the disk is full."""

    pages = 1 << 30

    def apply(self, tx, index: int, term: int, entry: bytes) -> list[bytes]:
        tx.execute(f"PRAGMA max_page_count = {self.pages}").fetchone()
        return super().apply(tx, index, term, entry)


class Noted(RealFiles):
    """Notes which files are read past the cache."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    def forget_cached(self, fd: int) -> None:
        self.forgotten.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        super().forget_cached(fd)


class NoReads(RealFiles):
    """A disk of which nothing can be read."""

    failing = False

    def read(self, fd: int, length: int, offset: int) -> bytes:
        if self.failing:
            raise OSError(errno.EIO, "input/output error")
        return super().read(fd, length, offset)


class NoSync(RealFiles):
    """The next sync of data fails, once."""

    failing = False
    error = errno.EIO

    def sync_data(self, fd: int) -> None:
        if self.failing:
            self.failing = False
            raise OSError(self.error, os.strerror(self.error))
        super().sync_data(fd)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "c1"


@pytest.fixture
def database(directory: Path) -> Iterator[Database]:
    database = opened(directory)
    yield database
    database.close()


# Files


def test_a_new_database_is_one_file_and_a_pointer_to_it(directory: Path) -> None:
    opened(directory).close()
    assert names(directory) == ["CURRENT", "state-1.db"]
    assert (directory / "CURRENT").read_text() == "state-1.db\n"


def test_what_was_applied_is_there_after_a_clean_stop(directory: Path) -> None:
    first = opened(directory)
    first.apply(puts(2, 40))
    rolling = first.rolling_at(40)
    first.close()
    again = opened(directory)
    assert (again.applied_index, again.durable_index, again.rolling_at(40)) == (40, 40, rolling)
    assert content(again) == pairs_after(40)
    again.close()


def test_closing_again_is_harmless(database: Database) -> None:
    database.close()
    database.close()


def test_what_was_applied_is_there_after_a_kill(database: Database, directory: Path, tmp_path: Path) -> None:
    database.apply(puts(2, 40))
    again = opened(killed(directory, tmp_path / "killed"))
    assert (again.applied_index, again.durable_index) == (40, 40)
    assert content(again) == pairs_after(40)
    again.close()


def test_a_start_reads_the_disk_and_not_what_a_failed_sync_left_in_the_cache(
    database: Database, directory: Path, tmp_path: Path
) -> None:
    database.apply(puts(2, 5))
    files = Noted()
    again = opened(killed(directory, tmp_path / "killed"), files=files)
    assert files.forgotten == ["state-1.db", "state-1.db-wal"]
    assert again.applied_index == 5
    again.close()


def test_leftovers_of_other_states_are_removed_at_the_start(directory: Path) -> None:
    opened(directory).close()
    for name in ("state-2.db", "state-2.db-wal", "state-7.db-shm", "CURRENT.tmp"):
        (directory / name).write_bytes(b"left")
    (directory / "snapshot.fetched").write_bytes(b"somebody else's")
    opened(directory).close()
    assert names(directory) == ["CURRENT", "snapshot.fetched", "state-1.db"]


def test_a_creation_that_was_interrupted_begins_again(directory: Path) -> None:
    opened(directory).close()
    (directory / "CURRENT").unlink()
    (directory / "state-new.tmp").write_bytes(b"half a database")
    database = opened(directory)
    assert database.applied_index == 1
    database.close()
    assert names(directory) == ["CURRENT", "state-1.db"]


# What is not taken for a state


def test_a_state_that_no_pointer_names_is_not_forgotten(directory: Path) -> None:
    first = opened(directory)
    first.apply([put(2)])
    first.close()
    (directory / "CURRENT").unlink()
    with pytest.raises(CorruptDatabase, match="no pointer names it"):
        opened(directory)
    (directory / "state-1.db").rename(directory / "state-3.db")
    with pytest.raises(CorruptDatabase, match="CURRENT is missing"):
        opened(directory)
    assert names(directory) == ["state-3.db"]


@pytest.mark.parametrize("said", [b"", b"state-2.db\n", b"state-1.db-wal\n", b"/etc/passwd\n", b"\xff" * 100])
def test_a_pointer_to_no_state_is_damage(directory: Path, said: bytes) -> None:
    opened(directory).close()
    (directory / "CURRENT").write_bytes(said)
    with pytest.raises(CorruptDatabase) as caught:
        opened(directory)
    assert "raft rejoin" in caught.value.next


@pytest.mark.parametrize("bytes_left", [b"", b"SQLite format 3\0" + bytes(5000), b"no database at all" * 400])
def test_a_file_that_is_no_database_is_damage(directory: Path, bytes_left: bytes) -> None:
    opened(directory).close()
    (directory / "state-1.db").write_bytes(bytes_left)
    with pytest.raises(CorruptDatabase, match=r"state-1\.db is damaged"):
        opened(directory)


def test_a_zeroed_page_ends_the_writing_when_it_is_met(directory: Path) -> None:
    first = opened(directory)
    first.apply([LogEntry(2, 1, b"fill 2000 100")])
    first.close()
    with (directory / "state-1.db").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(bytes(4096 * 40))
    database = opened(directory)
    with pytest.raises(CorruptDatabase, match="raft rejoin"):
        database.apply([LogEntry(index, 1, b"fill 2000 100") for index in range(3, 6)] + puts(6, 600))
    with pytest.raises(InternalError, match="nothing more can be written"):
        database.apply([put(3)])
    database.close()


# What fails


def test_a_full_disk_undoes_the_entries_and_they_can_be_applied_later(directory: Path) -> None:
    machine = SmallDisk()
    database = opened(directory, machine=machine)
    database.apply([put(2)])
    machine.pages = 20
    entries = [put(3), LogEntry(4, 1, b"fill 1000 1000"), put(5)]
    for _ in range(2):
        with pytest.raises(StorageFull):
            database.apply(entries)
        assert database.applied_index == 2
        assert content(database) == {2: b"x"}
    machine.pages = 1 << 30
    assert database.apply(entries) == [[b"3 put 3 x"], [b"4 fill 1000 1000"], [b"5 put 5 x"]]
    database.close()


def test_no_answer_is_lost_when_the_disk_is_full_in_the_middle(directory: Path) -> None:
    machine = SmallDisk()
    machine.pages = 20
    database = opened(directory, machine=machine)
    entries = [put(2), LogEntry(3, 1, b"mark"), LogEntry(4, 1, b"fill 1000 1000"), put(5)]
    with pytest.raises(StorageFull):
        database.apply(entries)
    assert database.applied_index == 3
    machine.pages = 1 << 30
    assert database.apply(entries) == [[b"2 put 2 x"], [b"3 mark"], [b"4 fill 1000 1000"], [b"5 put 5 x"]]
    assert database.apply(entries) == [None] * 4
    eventually(lambda: database.hash_at(3) is not None)
    assert database.last_hash() == (3, database.hash_at(3))
    database.close()


def test_after_the_machine_failed_nothing_is_written_but_readers_go_on(
    database: Database, tmp_path: Path
) -> None:
    database.apply([put(2)])
    with pytest.raises(MachineBrokenError):
        database.apply([LogEntry(3, 1, b"broken")])
    for write in (lambda: database.apply([put(3)]), database.make_durable, database.checkpoint_if_needed):
        with pytest.raises(InternalError, match="nothing more can be written"):
            write()
    assert content(database) == {2: b"x"}
    assert database.snapshot(tmp_path / "copy") == (2, 1)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_sync_that_fails_is_not_tried_again(directory: Path, error: int) -> None:
    files = NoSync()
    files.error = error
    database = opened(directory, files=files)
    database.apply(puts(2, 5))
    files.failing = True
    with pytest.raises(StorageFailure):
        database.make_durable()
    assert database.durable_index == 1
    with pytest.raises(InternalError, match="it failed before"):
        database.make_durable()
    database.close()


def test_a_wal_that_cannot_be_looked_at_ends_the_writing(directory: Path) -> None:
    files = NoReads()
    database = opened(directory, files=files)
    database.apply(puts(2, 5))
    files.failing = True
    with pytest.raises(StorageFailure):
        database.checkpoint_if_needed()
    files.failing = False
    with pytest.raises(InternalError, match="it failed before"):
        database.checkpoint_if_needed()
    database.close()


def test_a_hash_that_fails_costs_only_the_hash(directory: Path) -> None:
    def no_hash(_: object) -> bytes:
        raise RuntimeError("no hash today")

    directory.mkdir()
    database = Database.open(directory, FakeMachine(), state_hash=no_hash)
    database.apply([LogEntry(2, 1, b"mark")])
    eventually(lambda: database.reader_stats().active == 0)
    database.apply([put(3)])
    assert database.hash_at(2) is None
    database.close()


def test_what_is_only_tried_does_not_outlive_the_process(directory: Path, tmp_path: Path) -> None:
    database = opened(directory)
    database.apply([put(2)])
    database.try_next(LogEntry(3, 1, b"fill 2000 1000"))
    left = killed(directory, tmp_path / "left")
    database.close()
    for found in (left, directory):
        again = opened(found)
        assert again.applied_index == 2
        assert content(again) == {2: b"x"}
        again.close()


def test_a_wal_that_is_due_is_emptied_though_something_is_tried(directory: Path) -> None:
    database = opened(directory, checkpoint_bytes=64 << 10)
    database.apply([LogEntry(2, 1, b"fill 200 1000")])
    database.try_next(put(3))
    assert database.checkpoint_if_needed()
    assert database.wal_bytes == 0
    assert database.apply([put(3)]) == [[b"3 put 3 x"]]
    database.close()
