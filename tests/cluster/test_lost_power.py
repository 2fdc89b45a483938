"""The disks of the tests that cut the power: whether they lose what was not synced, and only that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.power import Disk, require_power_cuts


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


@pytest.fixture
def disk(tmp_path: Path, directory: Path) -> Iterator[Disk]:
    require_power_cuts(tmp_path)
    made = Disk(directory)
    try:
        yield made
    finally:
        made.close()


def test_what_was_synced_is_there_when_the_power_returns_and_what_was_not_is_gone(
    disk: Disk, directory: Path
) -> None:
    with open(directory / "synced", "wb", buffering=0) as file:
        file.write(b"kept")
        os.fsync(file.fileno())
    (directory / "not synced").write_bytes(b"lost")
    disk.lose_power()
    disk.return_power()
    assert (directory / "synced").read_bytes() == b"kept"
    assert not (directory / "not synced").exists()


def test_the_power_returns_though_another_mount_namespace_still_has_the_disk(
    disk: Disk, directory: Path
) -> None:
    with subprocess.Popen(
        ["unshare", "--mount", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(b"it runs\n")
        other.stdin.flush()
        other.stdout.readline()
        disk.lose_power()
        disk.return_power()
        (directory / "file").write_bytes(b"written")
        other.stdin.close()
