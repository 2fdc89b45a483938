"""The chunks on the datanodes' disks, looked at from outside: which files there are, whether they are the same, and
how one of them is damaged."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

_SEALED = re.compile(r"[0-9a-f]{32}")


def sealed(disks: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Chunk -> node id -> its file. `disks`: node id -> data directory. What is in quarantine does not count."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for node_id, directory in disks.items():
        for file in directory.rglob("chunks/??/*"):
            if _SEALED.fullmatch(file.name):
                found[file.name][node_id] = file
    return found


def unequal(disks: Mapping[str, Path]) -> list[str]:
    """The chunks whose replicas are not the same file, byte for byte. One that goes meanwhile is no matter."""
    return [chunk for chunk, files in sealed(disks).items() if len({*_contents(files.values())}) > 1]


def spare_replica(disks: Mapping[str, Path], node_id: str, spared: Iterable[str]) -> tuple[str, Path] | None:
    """A chunk and its file on a node, of which two other nodes have the same: damaging it can lose nothing.

    Not of `spared`: of a chunk that was damaged before, the next replica might be the last good one.
    """
    kept = {*spared}
    for chunk, files in sorted(sealed(disks).items()):
        if chunk in kept or node_id not in files:
            continue
        mine = [*_contents([files[node_id]])]
        others = [*_contents(file for other, file in files.items() if other != node_id)]
        if mine and mine[0] and others.count(mine[0]) >= 2:
            return chunk, files[node_id]
    return None


def flip(file: Path) -> None:
    with file.open("r+b") as opened:
        middle = file.stat().st_size // 2
        opened.seek(middle)
        (byte,) = opened.read(1)
        opened.seek(middle)
        opened.write(bytes([byte ^ 0x10]))


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def remove(file: Path) -> None:
    file.unlink()


DAMAGE: Mapping[str, Callable[[Path], None]] = {"flip": flip, "truncate": truncate, "remove": remove}


def _contents(files: Iterable[Path]) -> Iterable[bytes]:
    for file in files:
        try:
            yield file.read_bytes()
        except FileNotFoundError:
            continue
