"""Copies of the state: one index, one file, and what is refused on arrival."""

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.consensus import snapshots
from coordinator.consensus.database import Database
from coordinator.consensus.files import StorageFailure
from coordinator.consensus.interfaces import LogEntry
from quorumfs.errors import IntegrityError, InternalError
from tests.support.fake_machine import pairs, pairs_after, puts
from tests.unit.coordinator.consensus.databases import names, opened


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = opened(tmp_path / "c1")
    yield database
    database.close()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


def any_schema(_: sqlite3.Connection) -> None:
    pass


def test_a_snapshot_is_one_file_that_brings_no_wal_with_it(database: Database, scratch: Path) -> None:
    database.apply(puts(2, 9))
    made = snapshots.make(database, scratch)
    with closing(sqlite3.connect(made.path)) as connection:
        assert pairs(connection) == pairs_after(9)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert names(scratch) == ["state.snapshot"]


def test_snapshots_made_while_entries_are_applied_are_each_of_one_index(
    database: Database, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "STEP_PAGES", 1)
    database.apply([LogEntry(2, 1, b"fill 1 1")])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            index = database.applied_index + 1
            database.apply([LogEntry(index, 1, b"put 5 v%d" % index)])
            database.checkpoint_if_needed()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(20):
            target = scratch / f"{number}.db"
            index, term = database.snapshot(target)
            assert snapshots.verify(target, any_schema) == (index, term)
            with closing(snapshots.open_frozen(target)) as copied:
                assert index == 2 or pairs(copied)[5] == b"v%d" % index
    finally:
        stop.set()
        writer.join()


def test_a_snapshot_that_cannot_be_written_leaves_nothing(database: Database, scratch: Path) -> None:
    with pytest.raises(StorageFailure):
        database.snapshot(scratch / "missing" / "state.snapshot")
    assert names(scratch) == []
    assert database.reader_stats().active == 0


def test_a_snapshot_that_cannot_be_synced_is_removed(
    database: Database, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_sync(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(snapshots, "_sync", no_sync)
    with pytest.raises(StorageFailure):
        database.snapshot(scratch / "state.snapshot")
    assert names(scratch) == []


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_damaged_snapshot_is_refused(database: Database, scratch: Path, page: int) -> None:
    database.apply([LogEntry(2, 1, b"fill 2000 100")])
    made = snapshots.make(database, scratch)
    with made.path.open("r+b") as file:
        file.seek((page - 1) * 4096 + (100 if page == 1 else 0))
        file.write(b"\xa5" * 2000)
    with pytest.raises(IntegrityError, match="is damaged"):
        snapshots.verify(made.path, any_schema)


def test_a_snapshot_that_was_cut_short_is_refused(database: Database, scratch: Path) -> None:
    database.apply([LogEntry(2, 1, b"fill 2000 100")])
    made = snapshots.make(database, scratch)
    with made.path.open("r+b") as file:
        file.truncate(made.size // 2)
    with pytest.raises(IntegrityError):
        snapshots.verify(made.path, any_schema)


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough for one" * 200])
def test_what_is_no_database_is_no_snapshot(scratch: Path, content: bytes) -> None:
    (scratch / "x").write_bytes(content)
    with pytest.raises(IntegrityError):
        snapshots.verify(scratch / "x", any_schema)


def test_a_database_without_a_schema_of_ours_is_no_snapshot(database: Database, scratch: Path) -> None:
    made = snapshots.make(database, scratch)
    with pytest.raises(IntegrityError, match="no schema"):
        snapshots.verify(made.path)


def test_a_snapshot_of_a_newer_software_is_refused_with_the_remedy(database: Database, scratch: Path) -> None:
    made = snapshots.make(database, scratch)
    with closing(sqlite3.connect(made.path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    with pytest.raises(InternalError) as caught:
        snapshots.verify(made.path)
    assert caught.value.next == "upgrade this coordinator"
