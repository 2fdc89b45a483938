"""A local file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from quorumfs.errors import InvalidArgumentError
from quorumfs.local_file import NewLocalFile


def test_it_is_published_whole_with_mode_and_time(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_text("old")
    with NewLocalFile(target) as file:
        file.write(b"new ")
        file.write(memoryview(b"content"))
        assert target.read_text() == "old"
        file.publish(0o640, 1_000_000_000, fsync=True)
    status = target.stat()
    assert (target.read_text(), stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (
        "new content",
        0o640,
        1_000_000_000,
    )
    assert os.listdir(tmp_path) == ["x"]


def test_unpublished_it_leaves_nothing(tmp_path: Path) -> None:
    with NewLocalFile(tmp_path / "x") as file:
        file.write(b"half")
    assert os.listdir(tmp_path) == []


def test_it_is_made_private_and_beside_its_target_even_for_the_longest_name(tmp_path: Path) -> None:
    with NewLocalFile(tmp_path / ("n" * 255)) as file:
        (made,) = tmp_path.iterdir()
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        file.publish(0o644, 0, fsync=False)
    assert os.listdir(tmp_path) == ["n" * 255]


def test_a_directory_in_its_place_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with NewLocalFile(tmp_path / "x") as file, pytest.raises(IsADirectoryError):
        file.publish(0o644, 0, fsync=False)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("by_link", [False, True])
def test_a_pipe_or_device_is_refused_and_stays_what_it_is(tmp_path: Path, by_link: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    target = tmp_path / ("link" if by_link else "pipe")
    with pytest.raises(InvalidArgumentError, match="pipe"), NewLocalFile(target):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    assert stat.S_ISLNK((tmp_path / "link").lstat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_a_link_to_a_file_or_to_nothing_is_still_replaced(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    (tmp_path / "link").symlink_to("other")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    names = ("link", "dangling", "circle")
    for name in names:
        with NewLocalFile(tmp_path / name) as file:
            file.write(b"new")
            file.publish(0o644, 0, fsync=False)
    assert (tmp_path / "other").read_text() == "kept"
    assert [(tmp_path / name).read_text() for name in names] == ["new"] * 3


def test_an_error_names_the_target_and_not_the_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "no/such/x"
    with pytest.raises(FileNotFoundError) as failure, NewLocalFile(missing):
        pass
    assert failure.value.filename == str(missing)

    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as failure, NewLocalFile(tmp_path / "x") as file:
        file.write(b"bytes")
    assert (failure.value.errno, failure.value.filename) == (errno.ENOSPC, str(tmp_path / "x"))
    assert os.listdir(tmp_path) == []
