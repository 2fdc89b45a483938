"""Trees of files: the odd things that they may hold, and a comparison that misses none of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from random import Random

DAY_NS = 24 * 3600 * 10**9
NOT_OURS = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__")


@dataclass(frozen=True)
class Leaf:
    """One entry of a tree; `content` is a digest, a link's target, or nothing."""

    kind: str
    mode: int
    mtime_ns: int
    content: str


def read_tree(root: Path) -> dict[str, Leaf]:
    """Everything below `root`, and itself as ".", by relative path; links are not followed."""
    found = {".": _leaf(root)}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            found[str(path.relative_to(root))] = _leaf(path)
    return found


def differences(before: dict[str, Leaf], after: dict[str, Leaf]) -> list[str]:
    """What is not the same, one line each; empty: the trees are identical."""
    return [
        f"{name!r}: {before.get(name)} became {after.get(name)}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def copy_standard_library(target: Path) -> int:
    """This Python's own library, without caches and installed packages. Returns the number of files."""
    shutil.copytree(sysconfig.get_path("stdlib"), target, symlinks=True, ignore=NOT_OURS)
    return sum(len(files) for _, _, files in os.walk(target))


def build_odd_tree(root: Path) -> None:
    """Empty directories, links of all kinds, odd names, sizes at every border, odd modes and times."""
    dice = Random(7)
    for name in ("empty", "deep/er/and/empty", "kept/private", "sticky", "links"):
        (root / name).mkdir(parents=True)
    sizes = (0, 1, 4095, 16 << 10, (16 << 10) + 1, 64 << 10, (64 << 10) + 1, 1 << 20, (1 << 20) - 1)
    for number, size in enumerate(sizes):
        (root / "kept" / f"{size} bytes").write_bytes(dice.randbytes(size))
        (root / "kept" / f"{size} bytes").chmod((0o400, 0o644, 0o755, 0o4755, 0o600, 0o666)[number % 6])
    names = (
        "with space",
        "-dash",
        "new\nline",
        "tab\t",
        "snow \u2603",
        "\u00e9",
        "e\u0301",
        ".hidden",
        "n" * 255,
    )
    for name in names:
        (root / name).write_bytes(name.encode())
    for name, target in (
        ("inside", "../kept/1 bytes"),
        ("dangling", "nowhere/at/all"),
        ("outside", "/etc/hostname"),
        ("directory", "../kept"),
        ("itself", "itself"),
    ):
        (root / "links" / name).symlink_to(target)
    (root / "kept" / "private").chmod(0o700)
    (root / "sticky").chmod(0o1777)
    _age(root)


def _age(root: Path) -> None:
    """Times that need every digit: of nanoseconds, at the epoch, before it, far ahead; directories last."""
    times = (1, 0, -DAY_NS - 1, 1_234_567_890_123_456_789, 4_102_444_800 * 10**9 + 999_999_999)
    found = [Path(directory, name) for directory, names, files in os.walk(root) for name in (*names, *files)]
    for number, path in enumerate(sorted(found, key=lambda path: (-len(path.parts), path))):
        os.utime(path, ns=(0, times[number % len(times)]), follow_symlinks=False)
    os.utime(root, ns=(0, times[3]))


def _leaf(path: Path) -> Leaf:
    status = path.lstat()
    kind, content = "other", ""
    if stat.S_ISLNK(status.st_mode):
        kind, content = "symlink", os.readlink(path)
    elif stat.S_ISDIR(status.st_mode):
        kind = "directory"
    elif stat.S_ISREG(status.st_mode):
        kind, content = "file", sha256(path)
    return Leaf(kind, stat.S_IMODE(status.st_mode), status.st_mtime_ns, content)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_noise(path: Path, length: int) -> str:
    """A file of bytes that no compression helps with, made block by block. Returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for done in range(0, length, 1 << 20):
            block = os.urandom(min(1 << 20, length - done))
            file.write(block)
            digest.update(block)
    return digest.hexdigest()
