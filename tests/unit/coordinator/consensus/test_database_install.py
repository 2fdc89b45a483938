"""A snapshot becomes the state: atomically, durably, and under readers."""

from pathlib import Path

import pytest

from coordinator.consensus import snapshots
from coordinator.consensus.database import Database
from coordinator.consensus.files import RealFiles, StorageFailure, StorageFull
from coordinator.consensus.interfaces import LogEntry
from coordinator.consensus.status import SnapshotFile
from tests.support.fake_machine import pairs, pairs_after, puts
from tests.support.waiting import eventually
from tests.unit.coordinator.consensus.databases import content, killed, names, opened

OLD, NEW = 10, 30


class Killed(BaseException):
    """The process ends here."""


class Steps(RealFiles):
    """Counts what changes the disk, and ends the process before or after one of them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.kill_at: int | None = None
        self.fail_with: OSError | None = None

    def _step(self, name: str, *arguments: object) -> object:
        if len(self.done) == self.kill_at:
            raise self.fail_with or Killed(name)
        self.done.append(name)
        return getattr(super(), name)(*arguments)

    def create(self, path: Path) -> int:
        return self._step("create", path)  # type: ignore[return-value]

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._step("write", fd, data, offset)

    def sync_data(self, fd: int) -> None:
        self._step("sync_data", fd)

    def rename(self, old: Path, new: Path) -> None:
        self._step("rename", old, new)

    def remove(self, path: Path) -> None:
        self._step("remove", path)

    def sync_directory(self, path: Path) -> None:
        self._step("sync_directory", path)


def snapshot_in(directory: Path, tmp_path: Path, index: int = NEW) -> SnapshotFile:
    source = opened(tmp_path / "source")
    source.apply(puts(2, index))
    made = snapshots.make(source, directory)
    source.close()
    return made


def old_state(directory: Path, files: RealFiles | None = None) -> Database:
    database = opened(directory, files=files)
    database.apply(puts(2, OLD))
    database.make_durable()
    return database


def test_an_installed_snapshot_is_the_state_after_a_kill_and_the_old_file_is_gone(tmp_path: Path) -> None:
    database = old_state(tmp_path / "c1")
    made = snapshot_in(tmp_path / "c1", tmp_path)
    database.install(made.path, NEW, 1)
    assert names(tmp_path / "c1") == ["CURRENT", "state-2.db", "state-2.db-shm", "state-2.db-wal"]
    again = opened(killed(tmp_path / "c1", tmp_path / "killed"))
    assert (again.applied_index, content(again)) == (NEW, pairs_after(NEW))
    again.close()
    database.apply(puts(NEW + 1, NEW + 5))
    database.close()
    again = opened(tmp_path / "c1")
    assert (again.applied_index, content(again)) == (NEW + 5, pairs_after(NEW + 5))
    again.close()


def test_a_reader_of_the_former_state_goes_on_and_its_file_goes_with_it(tmp_path: Path) -> None:
    database = old_state(tmp_path / "c1")
    made = snapshot_in(tmp_path / "c1", tmp_path)
    with database.reader() as tx:
        database.install(made.path, NEW, 1)
        database.apply(puts(NEW + 1, NEW + 2))
        assert content(database) == pairs_after(NEW + 2)
        assert pairs(tx) == pairs_after(OLD)
        assert "state-1.db" in names(tmp_path / "c1")
    assert not [name for name in names(tmp_path / "c1") if name.startswith("state-1.")]
    database.close()


def test_a_hash_that_was_asked_of_the_former_state_is_still_made(tmp_path: Path) -> None:
    database = old_state(tmp_path / "c1")
    made = snapshot_in(tmp_path / "c1", tmp_path)
    database.apply([LogEntry(OLD + 1, 1, b"mark")])
    database.install(made.path, NEW, 1)
    eventually(lambda: database.hash_at(OLD + 1) is not None)
    database.close()


def steps_of_an_install(tmp_path: Path) -> list[str]:
    files = Steps()
    database = old_state(tmp_path / "counted", files)
    before = len(files.done)
    database.install(snapshot_in(tmp_path / "counted", tmp_path).path, NEW, 1)
    database.close()
    return files.done[before:]


def test_a_kill_at_any_step_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    steps = steps_of_an_install(tmp_path)
    found = []
    for number in range(len(steps)):
        directory = tmp_path / f"c{number}"
        files = Steps()
        database = old_state(directory, files)
        made = snapshot_in(directory, tmp_path / f"for-{number}")
        files.kill_at = len(files.done) + number
        with pytest.raises(Killed):
            database.install(made.path, NEW, 1)
        files.kill_at = None
        again = opened(killed(directory, tmp_path / f"killed-{number}"))
        assert content(again) == pairs_after(again.applied_index)
        found.append(again.applied_index)
        again.apply(puts(again.applied_index + 1, NEW + 3))
        again.close()
        left = [name for name in names(tmp_path / f"killed-{number}") if name != "state.snapshot"]
        assert left in (["CURRENT", "state-1.db"], ["CURRENT", "state-2.db"])
        database.close()
    moment = steps.index("rename", steps.index("rename") + 1)
    assert found == [OLD] * (moment + 1) + [NEW] * (len(steps) - moment - 1)


def test_a_full_disk_before_the_change_leaves_everything_and_it_can_be_tried_again(tmp_path: Path) -> None:
    files = Steps()
    database = old_state(tmp_path / "c1", files)
    made = snapshot_in(tmp_path / "c1", tmp_path)
    files.kill_at = len(files.done) + steps_of_an_install(tmp_path).index("write")
    files.fail_with = OSError(28, "No space left on device")
    with pytest.raises(StorageFull):
        database.install(made.path, NEW, 1)
    database.apply(puts(OLD + 1, OLD + 2))
    assert content(database) == pairs_after(OLD + 2)
    files.kill_at = None
    database.install(made.path, NEW, 1)
    assert content(database) == pairs_after(NEW)
    database.close()


def test_a_sync_that_fails_in_an_install_ends_the_writing(tmp_path: Path) -> None:
    files = Steps()
    database = old_state(tmp_path / "c1", files)
    made = snapshot_in(tmp_path / "c1", tmp_path)
    files.kill_at = len(files.done) + steps_of_an_install(tmp_path).index("sync_directory")
    files.fail_with = OSError(5, "Input/output error")
    with pytest.raises(StorageFailure):
        database.install(made.path, NEW, 1)
    with pytest.raises(Exception, match="nothing more can be written"):
        database.apply(puts(OLD + 1, OLD + 2))
    database.close()
