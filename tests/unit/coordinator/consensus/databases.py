"""Databases of the fake machine on a real disk, and what a crash leaves of them."""

import shutil
from pathlib import Path
from typing import Any

from coordinator.consensus.database import Database
from coordinator.consensus.files import Files
from quorumfs.clock import Clock
from tests.support.fake_machine import FakeMachine, hash_of_pairs, pairs


def opened(
    directory: Path,
    *,
    machine: Any = None,
    files: Files | None = None,
    clock: Clock | None = None,
    checkpoint_bytes: int = 1 << 20,
) -> Database:
    directory.mkdir(parents=True, exist_ok=True)
    return Database.open(
        directory,
        machine or FakeMachine(),
        files=files,
        clock=clock,
        checkpoint_bytes=checkpoint_bytes,
        state_hash=hash_of_pairs,
    )


def content(database: Database) -> dict[int, bytes]:
    with database.reader() as tx:
        return pairs(tx)


def killed(directory: Path, to: Path) -> Path:
    """A copy of what a process leaves that dies now: all it has written, without SQLite's shared memory."""
    shutil.copytree(directory, to, ignore=shutil.ignore_patterns("*-shm"))
    return to


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
