"""When the WAL is emptied, where a reader comes between."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from coordinator.consensus.database import open_writer
from coordinator.consensus.files import RealFiles
from coordinator.consensus.readers import open_reader
from coordinator.consensus.wal import Wal
from quorumfs.clock import ManualClock

PORTION_BYTES = 256 << 10


class Overtaken:
    """A writer's connection. While `reader` is set, a checkpoint that empties the WAL leaves what one leaves that this
    reader overtook: all is in the database, and the reader, which began at the end of the WAL, holds it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.reader: sqlite3.Connection | None = None

    def execute(self, statement: str) -> sqlite3.Cursor:
        if self.reader is not None and "RESTART" in statement:
            self.reader.execute("BEGIN")
            self.reader.execute("SELECT count(*) FROM filled").fetchone()
            statement = "PRAGMA wal_checkpoint(PASSIVE)"
        return self._connection.execute(statement)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "state-1.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE filled (bytes BLOB)")
    return tmp_path / "state-1.db"


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_writer(path)) as connection:
        connection.execute("SELECT count(*) FROM filled").fetchone()
        yield connection


def fill(writer: sqlite3.Connection, size_bytes: int = PORTION_BYTES // 4) -> None:
    writer.execute("INSERT INTO filled VALUES (zeroblob(?))", (size_bytes,))


def test_a_reader_that_overtakes_the_emptying_does_not_let_the_wal_grow_for_ever(
    path: Path, writer: sqlite3.Connection
) -> None:
    connection = Overtaken(writer)
    wal = Wal(connection, path, RealFiles(), PORTION_BYTES, ManualClock(), lambda _: nullcontext())  # type: ignore[arg-type]
    with closing(wal), closing(open_reader(path)) as reader:
        connection.reader = reader
        while not wal.checkpoint_if_needed():
            fill(writer)
        connection.reader = None
        assert wal.size_bytes == 0  # nothing came behind what is emptied yet
        fill(writer)
        assert wal.may_have_grown()
        assert wal.size_bytes > PORTION_BYTES
        assert wal.checkpoint_if_needed()
        assert wal.size_bytes > PORTION_BYTES  # the reader holds it
        reader.execute("COMMIT")
        largest = 0
        for _ in range(40):
            fill(writer)
            wal.checkpoint_if_needed()
            largest = max(largest, path.with_name("state-1.db-wal").stat().st_size)
        assert largest < 4 * PORTION_BYTES


def test_an_emptied_wal_is_empty_until_it_is_written_to(path: Path, writer: sqlite3.Connection) -> None:
    wal = Wal(writer, path, RealFiles(), PORTION_BYTES, ManualClock(), lambda _: nullcontext())
    with closing(wal):
        for _ in range(3):
            while not wal.checkpoint_if_needed():
                fill(writer)
            assert wal.size_bytes == 0
            assert not wal.may_have_grown()
            fill(writer)
            assert not wal.may_have_grown()
            assert 0 < wal.size_bytes < PORTION_BYTES
