"""Paths and trees of the cluster, as the commands need them: pure but for the questions to the client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dfsctl.errors import printable
from dfsctl.output import time_of_ns
from quorumfs import paths
from quorumfs.errors import InvalidPathError, PathNotADirectoryError

if TYPE_CHECKING:
    from quorumfs import Client, FileStatus


def clean(path: str) -> str:
    """The path in its one spelling. Raises InvalidPathError: relative, `..`, not UTF-8, too long."""
    return os.fsdecode(paths.join(paths.split(os.fsencode(path))))


def below(directory: str, *names: str) -> str:
    """The path of what lies below a directory."""
    return "/".join((directory.rstrip("/"), *names))


def parent_of(path: str) -> str:
    return clean(path).rsplit("/", 1)[0] or "/"


def name_of(path: str) -> str:
    return clean(path).rsplit("/", 1)[1]


def check_names(names: list[tuple[str, ...]], directory: str) -> None:
    """Judge all paths of a tree before any of it is sent. Raises InvalidPathError that lists the bad."""
    bad = []
    for parts in names:
        try:
            clean(below(directory, *parts))
        except InvalidPathError as error:
            bad.append(f"{printable('/'.join(parts))}: {error.cause or error.message}")
    if bad:
        more = [f"and {len(bad) - 10} more"] if len(bad) > 10 else []
        raise InvalidPathError(
            f"{len(bad)} names cannot be stored; nothing was sent"
            if len(bad) > 1
            else "a name cannot be stored",
            cause="\n".join([*bad[:10], *more]),
        )


def walk(client: Client, path: str) -> Iterator[FileStatus]:
    """Everything below a directory, each directory before what is in it, links not followed."""
    for entry in client.iterate(path):
        yield entry
        if entry.is_directory:
            yield from walk(client, below(path, entry.name))


def require_directory(status: FileStatus, path: str) -> None:
    """Raises PathNotADirectoryError unless `path` itself, and no link of that name, is a directory."""
    if not status.is_directory:
        raise PathNotADirectoryError(
            f"{printable(path)} is not a directory",
            cause=f"a {status.type} is there, and nothing is written through links",
        )


def entry(status: FileStatus) -> dict[str, Any]:
    """One file or directory as `ls` shows it."""
    found: dict[str, Any] = {
        "path": status.path,
        "name": status.name,
        "type": str(status.type),
        "size_bytes": status.size_bytes,
        "modified": time_of_ns(status.modified_ns),
        "replication": status.replication,
        "mode": f"{status.mode:04o}",
    }
    return {**found, "target": status.target} if status.is_symlink else found


def full_entry(status: FileStatus) -> dict[str, Any]:
    """One file or directory as `stat` shows it."""
    return {
        **entry(status),
        "id": status.id,
        "version": status.version,
        "checksum": f"{status.checksum:08x}" if status.is_file else None,
        "modified_ns": status.modified_ns,
    }
