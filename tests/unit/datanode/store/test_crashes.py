"""Kill the process before each change to the disk, start again, and look what is there."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

from datanode.store.files import Files
from datanode.store.holds import Hold
from datanode.store.rules import Condemnation
from quorumfs.ids import ChunkId
from tests.unit.datanode.store.fakes import FlakyFiles, Killed, content, opened, put, temporaries

KEPT = ChunkId(b"k" * 16)
CHUNK = ChunkId(b"c" * 16)
DATA = random.Random(1).randbytes(200_000)


def killed_at(path: Path, steps: int, act: str) -> bool:
    """Run `act` with death before its `steps`-th change; whether it was acknowledged."""
    files = FlakyFiles()
    with contextlib.suppress(Killed), opened(path, files=files) as (store, _):
        if act != "put":
            files_dead_from(files, None)
        files_dead_from(files, steps)
        match act:
            case "put":
                put(store, CHUNK, DATA)
            case "quarantine":
                store.quarantine(KEPT, Condemnation(99, 1))
            case "restore":
                store.restore(KEPT, Hold(1, 99))
        return True
    return False


def files_dead_from(files: FlakyFiles, steps: int | None) -> None:
    files.die_before = None if steps is None else len(files.steps) + steps


def test_a_chunk_is_whole_or_absent_wherever_the_process_dies(tmp_path: Path) -> None:
    for steps in range(10):
        root = tmp_path / str(steps)
        with opened(root) as (store, _):
            put(store, KEPT, b"old")
        acknowledged = killed_at(root, steps, "put")
        with opened(root, files=Files()) as (store, _):
            assert temporaries(root) == []
            assert content(store, KEPT) == b"old"
            if acknowledged:
                assert CHUNK in store
            if CHUNK in store:
                assert content(store, CHUNK) == DATA
            put(store, CHUNK, DATA)
    assert acknowledged


def test_a_delete_or_restore_is_done_or_not_wherever_the_process_dies(tmp_path: Path) -> None:
    for steps in range(8):
        root = tmp_path / str(steps)
        with opened(root) as (store, _):
            put(store, KEPT, DATA)
        deleted = killed_at(root, steps, "quarantine")
        with opened(root) as (store, _):
            gone = KEPT not in store
            assert gone or not deleted
            assert store.ids(b"", 9, quarantined=True) == ([KEPT] if gone else [])
            if not gone:
                store.quarantine(KEPT, Condemnation(99, 1))
        restored = killed_at(root, steps, "restore")
        with opened(root) as (store, _):
            assert KEPT in store or not restored
            store.restore(KEPT, Hold(1, 99))
            assert content(store, KEPT) == DATA
    assert deleted
    assert restored
