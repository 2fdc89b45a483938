"""The contract of `Files`, which the real one and the one in memory both keep; and what the latter loses."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest

from coordinator.consensus.files import (
    DirectoryLock,
    Files,
    RealFiles,
    StorageFailure,
    StorageFull,
    translated,
)
from quorumfs.errors import PreconditionFailedError
from tests.support.fake_files import FakeFiles, PowerCut


@pytest.fixture(params=["real", "in memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, Path]:
    files: Files = RealFiles() if request.param == "real" else FakeFiles(Random(1))
    directory = tmp_path / "a" / "b"
    files.make_directory(directory)
    return files, directory


def test_a_file_gives_back_what_was_written(disk: tuple[Files, Path]) -> None:
    files, directory = disk
    fd = files.create(directory / "x")
    files.write(fd, b"hello", 0)
    files.write(fd, memoryview(b"world"), 600)
    assert files.size(fd) == 605
    assert files.read(fd, 5, 0) == b"hello"
    assert files.read(fd, 10, 595) == b"\0\0\0\0\0world"
    assert files.read(fd, 10, 700) == b""
    files.sync_data(fd)
    files.forget_cached(fd)
    files.close(fd)
    again = files.open(directory / "x")
    assert files.read(again, 5, 600) == b"world"
    files.close(again)


def test_names_are_sorted_and_follow_creating_renaming_and_removing(disk: tuple[Files, Path]) -> None:
    files, directory = disk
    for name in ("b", "a", "c"):
        files.close(files.create(directory / name))
    files.rename(directory / "a", directory / "z")
    files.rename(directory / "b", directory / "c")
    files.make_directory(directory / "below")
    files.make_directory(directory / "below")
    files.sync_directory(directory)
    assert files.names(directory) == ["below", "c", "z"]
    files.remove(directory / "c")
    assert files.names(directory) == ["below", "z"]


def test_a_removed_file_can_be_read_by_who_has_it_open(disk: tuple[Files, Path]) -> None:
    files, directory = disk
    fd = files.create(directory / "x")
    files.write(fd, b"data", 0)
    files.remove(directory / "x")
    assert files.read(fd, 4, 0) == b"data"
    files.close(fd)


def test_what_is_missing_or_there_already_is_refused(disk: tuple[Files, Path]) -> None:
    files, directory = disk
    files.close(files.create(directory / "x"))
    with pytest.raises(FileExistsError):
        files.create(directory / "x")
    with pytest.raises(FileNotFoundError):
        files.open(directory / "y")
    with pytest.raises(FileNotFoundError):
        files.remove(directory / "y")
    with pytest.raises(FileNotFoundError):
        files.names(directory / "nowhere")


def test_a_directory_is_locked_by_one_until_it_lets_go(disk: tuple[Files, Path]) -> None:
    files, directory = disk
    lock = DirectoryLock(directory, files)
    with pytest.raises(PreconditionFailedError, match="in use"):
        DirectoryLock(directory, files)
    lock.release()
    lock.release()
    DirectoryLock(directory, files).release()


def test_real_files_are_for_their_owner_only(tmp_path: Path) -> None:
    files = RealFiles()
    files.close(files.create(tmp_path / "x"))
    files.close(files.open_locked(tmp_path / "lock"))
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("x", "lock")] == [0o600, 0o600]


def test_an_error_means_full_or_failed() -> None:
    assert isinstance(translated(OSError(errno.ENOSPC, "no space"), "x"), StorageFull)
    assert isinstance(translated(OSError(errno.EDQUOT, "quota"), "x"), StorageFull)
    failed = translated(OSError(errno.EIO, "I/O error"), "the log cannot be written")
    assert isinstance(failed, StorageFailure)
    assert str(failed).startswith("the log cannot be written: I/O error; check the disk")


# What the files in memory lose

ROOT = Path("/")


def written(files: FakeFiles, sectors: int) -> int:
    fd = files.create(ROOT / "x")
    files.write(fd, b"a" * (512 * sectors), 0)
    files.sync_data(fd)
    files.sync_directory(ROOT)
    return fd


def test_a_crash_keeps_what_was_synced_and_loses_the_rest_by_sectors() -> None:
    outcomes = set()
    for seed in range(200):
        files = FakeFiles(Random(seed))
        fd = written(files, 4)
        files.write(fd, b"b" * 1024, 512)
        files.crash()
        content = files.content(ROOT / "x")
        assert content[:512] == b"a" * 512
        assert content[1536:] == b"a" * 512
        outcomes.add((bytes(content[512:514]), bytes(content[1024:1026])))
    assert {(b"aa", b"aa"), (b"aa", b"bb"), (b"bb", b"aa"), (b"bb", b"bb"), (b"\0\0", b"bb")} <= outcomes


def test_a_crash_keeps_or_loses_each_name_that_was_not_synced() -> None:
    outcomes = set()
    for seed in range(50):
        files = FakeFiles(Random(seed))
        written(files, 1)
        files.rename(ROOT / "x", ROOT / "y")
        files.create(ROOT / "z")
        files.crash()
        outcomes.add(tuple(files.names(ROOT)))
    assert outcomes == {("x",), ("y",), ("x", "z"), ("y", "z")}


def test_the_end_of_the_process_loses_nothing_but_descriptors_and_locks() -> None:
    files = FakeFiles(Random(1))
    fd = written(files, 1)
    files.write(fd, b"b", 0)
    files.open_locked(ROOT / "lock")
    files.kill()
    with pytest.raises(OSError, match="descriptor"):
        files.read(fd, 1, 0)
    files.open_locked(ROOT / "lock")
    assert files.content(ROOT / "x")[:1] == b"b"


def test_a_failed_sync_leaves_clean_pages_that_are_not_on_the_disk() -> None:
    files = FakeFiles(Random(1))
    fd = written(files, 1)
    files.write(fd, b"b", 0)
    files.fail_next("sync_data", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        files.sync_data(fd)
    files.sync_data(fd)
    assert files.read(fd, 1, 0) == b"b"
    files.forget_cached(fd)
    assert files.read(fd, 1, 0) == b"a"


def test_a_full_disk_takes_no_growth_but_what_has_its_place() -> None:
    files = FakeFiles(Random(1), capacity_bytes=600)
    fd = written(files, 1)
    with pytest.raises(OSError, match="No space"):
        files.write(fd, b"b" * 200, 512)
    files.write(fd, b"b" * 512, 0)


def test_power_goes_before_the_change_that_was_named() -> None:
    files = FakeFiles(Random(1))
    fd = written(files, 1)
    files.die_before = files.changes + 2
    files.write(fd, b"b", 0)
    with pytest.raises(PowerCut):
        files.sync_data(fd)
