"""Which disk was in which directory: kept on every disk, so that the others know what is missing.

An empty directory in `storage.data_dirs` is a new disk, or the place of one that is not mounted. Taken for new, the
latter would fill the disk below, and hide what it wrote as soon as the right one is mounted. So a directory that had a
disk stays unused when it has none, until somebody says that this is meant: by a file `new-disk` in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from common import log
from datanode.store.disk import Disk
from quorumfs.checksum import crc32c

FILE = "disks.json"
NEW = "new-disk"
FORMAT = 1

_log = log.get(__name__)


def refuse_empty(disks: Sequence[Disk]) -> None:
    """Fail each disk that has no identity though its directory had a disk that is in no other now."""
    known: dict[str, str] = {}
    for disk in disks:
        if disk.identity is not None:
            known.update(_read(disk))
    here = {disk.disk_id for disk in disks if disk.identity is not None}
    for disk in disks:
        missing = known.get(str(disk.path))
        if disk.identity is not None or missing is None or missing in here:
            continue
        if disk.health()[0] == "ok" and not (disk.path / NEW).exists():
            disk.fail(
                f"disk {missing} was in {disk.path}, which is empty now: mount it; if it is gone for good,"
                f" touch {disk.path / NEW} and start the node again"
            )


def remember(disks: Sequence[Disk]) -> None:
    """Write on every disk which ones there are. What a failed one held before stays known."""
    able = [disk for disk in disks if disk.writable]
    known: dict[str, str] = {}
    for disk in able:
        known.update(_read(disk))
    for disk in able:
        known = {path: disk_id for path, disk_id in known.items() if disk_id != disk.disk_id}
        known[str(disk.path)] = disk.disk_id
    configured = {str(disk.path) for disk in disks}
    known = {path: disk_id for path, disk_id in known.items() if path in configured}
    for disk in able:
        _write(disk, known)


def _read(disk: Disk) -> Mapping[str, str]:
    """Nothing when it cannot be read: then nobody knows better, and the directory counts as before."""
    try:
        found = json.loads((disk.path / FILE).read_bytes())
        known = {str(path): str(disk_id) for path, disk_id in found["disks"].items()}
        if found["format"] == FORMAT and found["crc32c"] == _digest(known):
            return known
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("disk.neighbours_unknown", path=str(disk.path), cause=str(error))
        return {}
    _log.warning("disk.neighbours_unknown", path=str(disk.path), cause="its record is damaged")
    return {}


def _write(disk: Disk, known: Mapping[str, str]) -> None:
    try:
        if _read(disk) != known:
            record = {"format": FORMAT, "disks": known, "crc32c": _digest(known)}
            disk.files.replace_file(disk.path / FILE, json.dumps(record, indent=2).encode() + b"\n")
        if (disk.path / NEW).exists():
            disk.files.remove(disk.path / NEW)
    except OSError as error:
        disk.translate(
            error, f"noting the disks of this node in {disk.path}"
        )  # which marks what is wrong with it


def _digest(known: Mapping[str, str]) -> str:
    return f"{crc32c(json.dumps(known, sort_keys=True).encode()):08x}"
