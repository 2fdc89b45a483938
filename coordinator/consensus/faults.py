"""What SQLite's errors mean for the replicated state: no room, a sick disk, or a damaged database.

Anything else that SQLite or Python says (a constraint, a wrong statement) is a bug of ours and stays as it is.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.consensus.files import SickStorage, StorageFailure, StorageFull, translated

# A full disk shows in the -shm file as SQLITE_IOERR_SHMSIZE: SQLite could not lengthen it.
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_SICK = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL}
)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class CorruptDatabase(SickStorage):
    """The state's SQLite file is not one that this member wrote. `file` says which."""

    def __init__(self, file: Path, cause: str) -> None:
        super().__init__(
            f"the state in {file} is damaged",
            cause=cause,
            next="check the disk, then let `dfsctl raft rejoin` refetch the state from the other members",
        )
        self.file = file


@contextmanager
def storage_faults(file: Path, message: str) -> Iterator[None]:
    """Raise StorageFull, StorageFailure or CorruptDatabase for what OSError and sqlite3.Error say of `file`.

    `message` says what was tried.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        fault = storage_fault(error, file, message)
        if fault is error:
            raise
        raise fault from error


def storage_fault(error: BaseException, file: Path, message: str) -> BaseException:
    """What `storage_faults` raises for an error; the error itself when it is none of storage."""
    if isinstance(error, sqlite3.Error):
        return fault_of(error, file, message)
    return translated(error, message) if isinstance(error, OSError) else error


def fault_of(error: sqlite3.Error, file: Path, message: str) -> Exception:
    """The fault of storage that an error of SQLite reports; the error itself when it reports none."""
    extended = getattr(error, "sqlite_errorcode", 0)
    primary = extended & 0xFF
    if extended in _FULL:
        return StorageFull(message, cause=str(error))
    if primary in _SICK:
        name = getattr(error, "sqlite_errorname", "SQLITE_IOERR")
        return StorageFailure(message, OSError(errno.EIO, f"{error} ({name})"))
    if primary in _DAMAGED:
        return CorruptDatabase(file, str(error))
    return error
