"""A backup of the metadata as it lies on a disk: a directory with one database and a manifest that describes it.

1. `state.sqlite` is the state of one coordinator as of one applied index, byte for byte as it was sent; any SQLite
   opens it. `manifest.json` says of which cluster, history and index it is, its size and SHA-256, and has a digest over
   itself.
2. A backup is written under another name and renamed when it is whole and on the disk: what has the name is a backup.
3. It holds every path, small bodies, and the hashes of tokens: only its owner may read it. It has no chunks, and not
   the cluster's secret.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quorumfs.errors import AlreadyExistsError, FormatTooNewError, IntegrityError, NotFoundError
from quorumfs.v1 import admin_pb2 as a

DATABASE = "state.sqlite"
MANIFEST = "manifest.json"
FORMAT = 1
_MANIFEST_BYTES_MAX = 64 * 1024


def receive(pieces: Iterable[a.BackupPiece], directory: Path) -> a.BackupManifest:
    """Write what a coordinator sends to the new `directory`, durably; what it is.

    Raises AlreadyExistsError when something has that name, IntegrityError when it came damaged or cut off, OSError.
    Nothing is left behind then.
    """
    if directory.exists() or directory.is_symlink():
        raise AlreadyExistsError(
            f"{directory} exists",
            cause="a backup is never written over anything",
            next="name another directory",
        )
    unfinished = directory.with_name(f".{directory.name}.unfinished-{os.getpid()}")
    unfinished.mkdir(mode=0o700)
    try:
        manifest = _receive_database(pieces, unfinished / DATABASE)
        write_manifest(manifest, unfinished)
        _sync_directory(unfinished)
        unfinished.rename(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _sync_directory(directory.absolute().parent)
    return manifest


def _receive_database(pieces: Iterable[a.BackupPiece], path: Path) -> a.BackupManifest:
    manifest = a.BackupManifest()
    digest, size = hashlib.sha256(), 0
    with open(path, "xb", opener=_private) as file:
        for piece in pieces:
            if piece.HasField("manifest"):
                manifest.CopyFrom(piece.manifest)
            digest.update(piece.data)
            file.write(piece.data)
            size += len(piece.data)
        file.flush()
        os.fsync(file.fileno())
    if not manifest.cluster_id or (size, digest.digest()) != (manifest.size_bytes, manifest.sha256):
        raise IntegrityError(
            "the backup arrived damaged",
            cause=f"{size} bytes came of {manifest.size_bytes}; length or SHA-256 are not as said",
            next="make it again",
        )
    return manifest


def read_manifest(directory: Path) -> a.BackupManifest:
    """What the backup in `directory` says that it is; its database is not looked at.

    Raises NotFoundError, IntegrityError, FormatTooNewError, OSError.
    """
    path = directory / MANIFEST
    try:
        with open(path, "rb") as file:
            raw = file.read(_MANIFEST_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"{directory} is no backup", cause=f"it has no {MANIFEST}", next="dfsctl backup create makes one"
        ) from None
    try:
        found: dict[str, Any] = dict(json.loads(raw))
        digest = found.pop("digest")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"it cannot be read: {error!r}") from error
    if digest != _digest(found):
        raise _damaged(path, "it does not match its digest")
    if found.get("format") != FORMAT:
        raise FormatTooNewError(
            f"{directory} was made by a later version",
            cause=f"format {found.get('format')}, this version knows {FORMAT}",
            next="use the version that made it, or a later one",
        )
    try:
        manifest = a.BackupManifest(sha256=bytes.fromhex(found["sha256"]))
        for name in (*_TEXTS, *_NUMBERS):
            setattr(manifest, name, found[name])
        return manifest
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, f"a field is missing or wrong: {error!r}") from error


def write_manifest(manifest: a.BackupManifest, directory: Path) -> None:
    """Say in the new file of `directory` what lies there; durable on return. Raises FileExistsError, OSError."""
    with open(directory / MANIFEST, "xb", opener=_private) as file:
        file.write(json.dumps(_signed(manifest), indent=2).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def as_json(manifest: a.BackupManifest) -> dict[str, Any]:
    """For people and scripts (docs/dfsctl.md)."""
    created = datetime.fromtimestamp(manifest.created_wall_ms / 1000, UTC)
    return {
        **{name: getattr(manifest, name) for name in (*_TEXTS, *_NUMBERS)},
        "created_at": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "sha256": manifest.sha256.hex(),
    }


_TEXTS = ("cluster_id", "schema_revision", "node_id", "version")
_NUMBERS = ("format", "history", "index", "term", "created_wall_ms", "size_bytes")


def _signed(manifest: a.BackupManifest) -> dict[str, Any]:
    fields = as_json(manifest)
    return {**fields, "digest": _digest(fields)}


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _damaged(path: Path, cause: str) -> IntegrityError:
    return IntegrityError(f"{path} is damaged", cause=cause, next="use another backup")
