"""A node's data on a small file system of its own, and how to fill it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quorumfs.testing import LocalCluster

TMPFS_BYTES = 96 << 20


@contextmanager
def small_disk(cluster: LocalCluster, node_id: str, size_bytes: int = TMPFS_BYTES) -> Iterator[Path]:
    """The node's data on a file system of its own; the node is stopped before and after."""
    data = cluster.layout.data_directory(cluster.layout.node(node_id))
    kept = data.with_name("kept")
    cluster.stop(node_id)
    data.rename(kept)
    data.mkdir()
    try:
        mount(data, size_bytes)
    except OSError as error:
        data.rmdir()
        kept.rename(data)
        cluster.start_node(node_id)
        pytest.skip(str(error))
    shutil.copytree(kept, data, dirs_exist_ok=True)
    try:
        yield data
    finally:
        cluster.stop(node_id)
        shutil.copytree(data, kept, dirs_exist_ok=True)
        unmount(data)
        data.rmdir()
        kept.rename(data)


def mount(directory: Path, size_bytes: int) -> None:
    """An empty file system of that size there. Raises OSError with the reason where that cannot be."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"no file system can be mounted here: {done.stderr.strip()}")


def unmount(directory: Path) -> None:
    """What lies on it is gone."""
    subprocess.run(["umount", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Leave no room."""
    ballast = directory / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast
