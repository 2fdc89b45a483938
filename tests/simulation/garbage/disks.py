"""Disks of simulated datanodes: real directories, whose syncs cost nothing, and which lose power between two effects.

What was renamed and not yet synced is there after a power cut, or is not. Bytes of a file that was never given its
name are gone with the process anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from datanode.store.files import Files
from tests.support.fake_files import PowerCut

TOTAL_BYTES = 1 << 30
FREE_BYTES = 1 << 29


class SimFiles(Files):
    """Of one start of a process. `point` is called before each change, and may raise PowerCut; after that nothing
    changes any more."""

    def __init__(self, point: Callable[[], None], random: Random) -> None:
        self._point = point
        self._random = random
        self._dead = False
        self._unsynced: list[tuple[Path, Path]] = []
        self.spare_bytes = FREE_BYTES

    def _step(self) -> None:
        if self._dead:
            raise PowerCut
        try:
            self._point()
        except PowerCut:
            self._dead = True
            raise

    def lose_power(self) -> None:
        """Of the renames that were not synced, any may not have happened."""
        self._dead = True
        for old, new in reversed(self._unsynced):
            if new.exists() and not old.exists() and self._random.random() < 0.5:
                new.rename(old)
        self._unsynced.clear()

    def create(self, path: Path) -> int:
        self._step()
        return super().create(path)

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._step()
        super().write(fd, data, offset)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)
        self._unsynced.append((old, new))

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)

    def sync_data(self, fd: int) -> None:
        self._step()

    def sync_directory(self, path: Path) -> None:
        self._unsynced = [one for one in self._unsynced if one[1].parent != path]

    def replace_file(self, path: Path, content: bytes) -> None:
        self._step()
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(content)
        temporary.replace(path)

    def space(self, path: Path) -> tuple[int, int]:
        return TOTAL_BYTES, self.spare_bytes
