"""Copies of the state in one file: made while the state is served, described, and verified on arrival.

A snapshot is an SQLite file without companions, in the journal mode DELETE. What index it has is in it. It must be
trusted only after its SHA-256 and `verify` agree; nothing here makes it the state (database.py does).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

from coordinator.consensus.entry_writer import position_of
from coordinator.consensus.status import SnapshotFile
from coordinator.metadata import migrations
from quorumfs.errors import IntegrityError

STEP_PAGES = 1000
PIECE_BYTES = 1 << 20

SchemaKnown = Callable[[sqlite3.Connection], None]
"""Raises QuorumFSError when the schema of a database is not one of this software."""


class Source(Protocol):
    def snapshot(self, target: Path) -> tuple[int, int]: ...


def make(database: Source, directory: Path) -> SnapshotFile:
    """Copy the state into a new file in `directory` and describe it; durable on return. Any thread.

    Raises StorageFull and StorageFailure; then nothing is left behind.
    """
    path = directory / "state.snapshot"
    index, term = database.snapshot(path)
    return SnapshotFile(path, index, term, sha256_of(path), path.stat().st_size)


def copy(reader: sqlite3.Connection, target: Path) -> None:
    """Write what a read transaction sees to the new file `target`; durable on return.

    Pages are copied a few at a time and without the interpreter's lock, so that other threads go on; all are of
    the one state that the transaction sees. Raises sqlite3.Error, OSError; the unfinished file is removed.
    """
    try:
        with closing(sqlite3.connect(target, isolation_level=None)) as copied:
            copied.execute("PRAGMA synchronous = OFF")
            copied.execute("PRAGMA journal_mode = OFF")
            reader.backup(copied, pages=STEP_PAGES)
            copied.execute("PRAGMA journal_mode = DELETE")
        _sync(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def verify(path: Path, schema_known: SchemaKnown | None = None) -> tuple[int, int]:
    """The (index, term) of a snapshot whose structure is sound and whose schema this software knows.

    Raises IntegrityError when it is damaged, QuorumFSError when a newer software made it.
    """
    check_schema = schema_known or known_schema
    try:
        with closing(open_frozen(path)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise _damaged(path, str(found))
            check_schema(connection)
            at = position_of(connection)
            return at.index, at.term
    except sqlite3.Error as error:
        raise _damaged(path, str(error)) from error


def known_schema(connection: sqlite3.Connection) -> None:
    """Raises QuorumFSError unless the database has a schema that this software has scripts for."""
    revision = migrations.current_revision(connection)
    if not revision:
        raise IntegrityError("the snapshot is damaged", cause="it names no schema")
    migrations.lineage(revision)


def open_frozen(path: Path) -> sqlite3.Connection:
    """Read a file that nobody changes and that has no companions. Raises sqlite3.Error."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def sha256_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _damaged(path: Path, cause: str) -> IntegrityError:
    return IntegrityError(
        f"the snapshot {path.name} is damaged", cause=cause, next="it is fetched again from the leader"
    )


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
