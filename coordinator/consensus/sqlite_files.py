"""Which SQLite file is the state: its name, the pointer to it, and the atomic change to another one.

Theory of operation
1. The state is `state-<n>.db` with SQLite's companions `-wal` and `-shm`; the file `CURRENT` holds that name.
   Nothing else says which it is.
2. Another state gets a new number and never an old name: SQLite would replay a `-wal` that was left behind into
   whatever database bears its name.
3. `adopt` first makes everything durable that the pointer will lead to; the rename of the pointer is the moment of
   change, and is durable on return. A crash leaves the old state or the new one, and files that no pointer
   names, which the next start removes.
4. A sync that once failed may have left in the system's cache, as if it were clean, what the disk does not have.
   `settle` lets a start see the disk.
5. A state without a pointer is not taken for an empty directory: only the file of a creation that was
   interrupted before anything was applied is.

The file of an open database is never opened here: closing any descriptor of it would drop SQLite's locks.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from coordinator.consensus.faults import CorruptDatabase, storage_faults
from coordinator.consensus.files import Files, StorageFailure

POINTER = "CURRENT"
_POINTER_DRAFT = "CURRENT.tmp"
_OURS = re.compile(r"state-([1-9][0-9]*)\.db(-wal|-shm|-journal)?")
_NAME_BYTES_MAX = 64


class SqliteFiles:
    """The states in one directory. The writer's thread only."""

    def __init__(self, directory: Path, files: Files) -> None:
        self.directory = directory
        self.files = files

    def current(self) -> Path | None:
        """The file of the state; None when there is none and nothing says that there was.

        Raises CorruptDatabase when a state lies there that no pointer names, or none that it names.
        """
        with storage_faults(self.directory, f"reading which state is current in {self.directory}"):
            names = self.files.names(self.directory)
            if POINTER in names:
                return self._named_by_pointer(names)
        found = [name for name in names if _OURS.fullmatch(name)]
        if found and found != ["state-1.db"]:
            raise CorruptDatabase(self.directory / found[0], f"{POINTER} is missing, but a state is there")
        return None

    def _named_by_pointer(self, names: list[str]) -> Path:
        pointer = self.directory / POINTER
        raw = _content(self.files, pointer)
        name = raw.decode("ascii", "replace").rstrip("\n")
        match = _OURS.fullmatch(name)
        if match is None or match[2]:
            raise CorruptDatabase(pointer, f"it names {name!r}, which is no state")
        if name not in names:
            raise CorruptDatabase(self.directory / name, f"{POINTER} names it, but it is not there")
        return self.directory / name

    def interrupted_creation(self) -> Path | None:
        """The file that a first start may have left before its pointer was written."""
        found = self.directory / "state-1.db"
        return found if found.name in self.files.names(self.directory) else None

    def settle(self, state: Path) -> None:
        """Let what is read of `state` from now on be what the disk has. Before anybody opens it as a database.

        Raises StorageFailure.
        """
        with storage_faults(state, f"syncing {state}"):
            for path in (state, state.with_name(f"{state.name}-wal")):
                with suppress(FileNotFoundError):
                    fd = self.files.open(path)
                    try:
                        self.files.sync_data(fd)
                        self.files.forget_cached(fd)
                    finally:
                        self.files.close(fd)

    def adopt(self, file: Path) -> Path:
        """Let the content of `file` be the state from now on, durably; its new name.

        `file` is a whole SQLite file without companions on the same file system; it is moved. Raises
        StorageFull (nothing was changed) and StorageFailure (either state may be the current one).
        """
        target = self.directory / f"state-{self._next_number()}.db"
        draft = self.directory / _POINTER_DRAFT
        with storage_faults(target, f"making {file} the state"):
            try:
                sync_file(self.files, file)
            except (
                OSError
            ) as error:  # for want of room as well: a second one would succeed without having written
                raise StorageFailure(f"{file} cannot be synced", error) from error
            self._write_draft(draft, target.name)
            self.files.rename(file, target)
            self.files.sync_directory(self.directory)
            self.files.rename(draft, self.directory / POINTER)
            self.files.sync_directory(self.directory)
        return target

    def _next_number(self) -> int:
        matches = (_OURS.fullmatch(name) for name in self.files.names(self.directory))
        return 1 + max((int(match[1]) for match in matches if match), default=0)

    def _write_draft(self, draft: Path, name: str) -> None:
        with suppress(FileNotFoundError):
            self.files.remove(draft)
        fd = self.files.create(draft)
        try:
            self.files.write(fd, f"{name}\n".encode("ascii"), 0)
            self.files.sync_data(fd)
        finally:
            self.files.close(fd)

    def remove_leftovers(self, current: Path | None) -> list[str]:
        """Remove what belongs to no current state; the names that were removed."""
        keep = "" if current is None else current.name
        removed = []
        with storage_faults(self.directory, f"clearing {self.directory} of states that are not current"):
            for name in self.files.names(self.directory):
                match = _OURS.fullmatch(name)
                stale = match is not None and f"state-{match[1]}.db" != keep
                if stale or name == _POINTER_DRAFT:
                    self.files.remove(self.directory / name)
                    removed.append(name)
        return removed

    def sync_directory(self) -> None:
        """The names of the current state and its companions are on the disk on return. Raises OSError."""
        self.files.sync_directory(self.directory)

    def remove(self, state: Path) -> None:
        """Remove a former state, which nobody has open any more; what cannot be removed now, a start removes."""
        for companion in ("-wal", "-shm", ""):
            with suppress(OSError):
                self.files.remove(state.with_name(state.name + companion))


def sync_file(files: Files, path: Path) -> None:
    """The content of `path` is on the disk on return. Not for the file of an open database."""
    fd = files.open(path)
    try:
        files.sync_data(fd)
    finally:
        files.close(fd)


def _content(files: Files, path: Path) -> bytes:
    fd = files.open(path)
    try:
        return files.read(fd, _NAME_BYTES_MAX, 0)
    finally:
        files.close(fd)
