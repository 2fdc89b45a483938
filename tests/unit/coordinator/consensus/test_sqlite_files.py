"""Which file is the state, when the power may go at every step."""

import errno
from pathlib import Path
from random import Random

import pytest

from coordinator.consensus.faults import CorruptDatabase
from coordinator.consensus.files import StorageFailure, StorageFull
from coordinator.consensus.sqlite_files import SqliteFiles
from tests.support.fake_files import FakeFiles, PowerCut

HOME = Path("/c1")


def disk(seed: int = 1) -> FakeFiles:
    files = FakeFiles(Random(seed))
    files.make_directory(HOME)
    return files


def incoming(files: FakeFiles, content: bytes) -> Path:
    """A file as a transfer leaves it: whole for every process, certain for nobody."""
    path = HOME / "incoming"
    fd = files.create(path)
    files.write(fd, content, 0)
    files.close(fd)
    return path


def adopt(files: FakeFiles, content: bytes) -> Path:
    return SqliteFiles(HOME, files).adopt(incoming(files, content))


def state(files: FakeFiles) -> bytes | None:
    path = SqliteFiles(HOME, files).current()
    return None if path is None else bytes(files.content(path))


def test_an_empty_directory_has_no_state() -> None:
    assert SqliteFiles(HOME, disk()).current() is None


def test_every_state_gets_a_name_that_was_never_used() -> None:
    files = disk()
    assert adopt(files, b"one").name == "state-1.db"
    assert adopt(files, b"two").name == "state-2.db"
    files.remove(HOME / "state-1.db")
    assert adopt(files, b"three").name == "state-3.db"
    assert state(files) == b"three"


@pytest.mark.parametrize("seed", range(30))
def test_an_adopted_state_survives_a_power_cut(seed: int) -> None:
    files = disk(seed)
    for content in (b"first" * 400, b"second" * 400):
        adopt(files, content)
        files.crash()
        assert state(files) == content


@pytest.mark.parametrize("seed", range(30))
def test_a_power_cut_at_any_step_leaves_the_old_state_or_the_new_one_whole(seed: int) -> None:
    old, new = b"old" * 700, b"new" * 700
    files = disk(seed)
    adopt(files, old)
    before = files.changes
    adopt(files, b"x")
    steps = files.changes - before
    for step in range(1, steps + 1):
        files = disk(seed * 100 + step)
        adopt(files, old)
        files.die_before = files.changes + step
        with pytest.raises(PowerCut):
            adopt(files, new)
        files.crash()
        held = SqliteFiles(HOME, files)
        found = state(files)
        assert found in (old, new)
        held.remove_leftovers(held.current())
        files.crash()
        assert state(files) == found


@pytest.mark.parametrize("seed", range(30))
def test_a_first_state_that_was_interrupted_is_whole_or_not_there(seed: int) -> None:
    for step in range(1, 12):
        files = disk(seed * 100 + step)
        files.die_before = files.changes + step
        try:
            adopt(files, b"first" * 400)
        except PowerCut:
            files.crash()
        held = SqliteFiles(HOME, files)
        assert state(files) in (None, b"first" * 400)
        held.remove_leftovers(held.current())


def test_a_full_disk_changes_nothing_and_the_same_file_can_be_adopted_later() -> None:
    files = disk()
    adopt(files, b"old")
    file = incoming(files, b"new")
    held = SqliteFiles(HOME, files)
    for call in ("create", "write"):
        files.fail_next(call, errno.ENOSPC)
        with pytest.raises(StorageFull):
            held.adopt(file)
        assert state(files) == b"old"
    held.adopt(file)
    assert state(files) == b"new"


@pytest.mark.parametrize("call", ["sync_data", "sync_directory"])
def test_a_sync_that_fails_is_a_sick_disk(call: str) -> None:
    files = disk()
    file = incoming(files, b"new")
    files.fail_next(call, errno.EIO)
    with pytest.raises(StorageFailure):
        SqliteFiles(HOME, files).adopt(file)


def test_a_snapshot_whose_sync_found_no_room_is_not_adopted_by_a_second_try() -> None:
    files = disk()
    adopt(files, b"old")
    file = incoming(files, b"new")
    held = SqliteFiles(HOME, files)
    files.fail_next("sync_data", errno.ENOSPC)
    with pytest.raises(StorageFailure):
        held.adopt(file)
    files.crash()
    assert state(files) == b"old"


def test_a_start_sees_what_the_disk_has_after_a_sync_that_failed() -> None:
    files = disk()
    current = adopt(files, b"on the disk")
    wal = current.with_name(f"{current.name}-wal")
    fd = files.create(wal)
    files.sync_directory(HOME)
    files.write(fd, b"frames", 0)
    files.fail_next("sync_data", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        files.sync_data(fd)
    files.kill()
    assert files.content(wal) == b"frames"
    SqliteFiles(HOME, files).settle(current)
    assert files.content(wal) == bytes(6)
    assert state(files) == b"on the disk"
    assert files.open_descriptors() == 0


def test_leftovers_are_what_belongs_to_no_current_state() -> None:
    files = disk()
    adopt(files, b"one")
    current = adopt(files, b"two")
    for name in (
        "state-2.db-wal",
        "state-1.db-wal",
        "state-9.db-journal",
        "CURRENT.tmp",
        "state-x.db",
        "log",
    ):
        files.close(files.create(HOME / name))
    removed = SqliteFiles(HOME, files).remove_leftovers(current)
    assert removed == ["CURRENT.tmp", "state-1.db", "state-1.db-wal", "state-9.db-journal"]
    assert files.names(HOME) == ["CURRENT", "log", "state-2.db", "state-2.db-wal", "state-x.db"]


def test_a_lost_pointer_or_a_lost_state_is_damage() -> None:
    files = disk()
    adopt(files, b"one")
    current = adopt(files, b"two")
    files.remove(current)
    with pytest.raises(CorruptDatabase, match="it is not there"):
        state(files)
    files.remove(HOME / "CURRENT")
    adopt(files, b"three")
    files.remove(HOME / "CURRENT")
    with pytest.raises(CorruptDatabase, match="CURRENT is missing"):
        state(files)
