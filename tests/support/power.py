"""A machine's disk that loses what was not synced when the power goes: ext4 on a file, shut down without its journal.

`FS_IOC_GOINGDOWN` stops the file system at once, without writing anything back. The next mount finds what the disk
had, and replays the file system's own journal, as after a real power cut. Wants root, loop devices and ext4.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

IMAGE_BYTES = 4 << 30  # sparse
_GOINGDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125  # _IOR('X', 125, __u32), linux/fs.h and ext4.h
_WITHOUT_JOURNAL = struct.pack("I", 2)


class Disk:
    """The file system below `directory`; what was there is copied in. Call `close` when nothing runs there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._image = directory.with_name(directory.name + ".img")
        before = directory.with_name(directory.name + ".before")
        with open(self._image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        _run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1", str(self._image))
        directory.rename(before)
        directory.mkdir()
        self._mount()
        shutil.copytree(before, directory, dirs_exist_ok=True)
        os.sync()

    def lose_power(self) -> None:
        """Nothing is written to the disk any more."""
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, _GOINGDOWN, _WITHOUT_JOURNAL)
        finally:
            os.close(directory)

    def return_power(self) -> None:
        """What was synced is there. Nothing may run on it."""
        _run("umount", str(self._directory))
        self._mount()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._directory)], check=False)
        self._image.unlink(missing_ok=True)

    def _mount(self) -> None:
        """By a loop device that nobody has had: in the mount namespaces of others, made meanwhile, the disk without
        power lives on, and `mount -o loop` would give it back."""
        loop = _run("losetup", "--find", "--show", str(self._image)).strip()
        try:
            _run("mount", loop, str(self._directory))
        finally:
            _run("losetup", "--detach", loop)  # when it is unmounted


def require_power_cuts(scratch: Path) -> None:
    """Skip, with the reason, where a disk cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk of its own wants root")
    directory = scratch / "disk"
    directory.mkdir()
    try:
        disk = Disk(directory)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {getattr(error, 'stderr', '') or error}")
    disk.lose_power()
    disk.close()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
