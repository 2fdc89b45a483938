"""A local file appears whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

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
