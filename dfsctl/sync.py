"""`dfsctl sync`: one tree made like another, of which only what differs is sent.

1. Both trees are listed whole, and compared by name: kind, size, time and mode, or with --checksum the content.
2. What differs is sent as `put -r` and `get -r` do it. What the source does not have stays, unless --delete says so; in
   the cluster it then goes to the trash, here it is removed.
3. A directory where the source has a file, or the other way round, is in the way: with --delete it is removed first.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfsctl.local_tree import Entry, Parts, walk
from dfsctl.output import show
from dfsctl.parallel import for_each, raise_failures
from dfsctl.progress import meter
from dfsctl.remote import below, clean
from dfsctl.shell import command, settings
from dfsctl.trees import Wishes, get_tree, put_tree, remote_walk
from quorumfs.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from quorumfs import Client

PIECE_BYTES = 1 << 20
Same = Callable[[Entry, Entry], bool]


@dataclass(frozen=True, slots=True)
class Plan:
    """`send`: files and links of the source that the target lacks, or has otherwise; `in_the_way`: of the target, of
    another kind; `gone`: of the target alone, without what lies below another of these."""

    send: tuple[Entry, ...]
    same: int
    in_the_way: tuple[Entry, ...]
    gone: tuple[Entry, ...]


def compare(source: Sequence[Entry], target: Sequence[Entry], same: Same) -> Plan:
    """Pure but for `same`, which is asked about files of the same size only, and about no others."""
    there = {entry.parts: entry for entry in target}
    wanted = {entry.parts for entry in source}
    send, in_the_way, equal = [], [], 0
    for entry in source:
        other = there.get(entry.parts)
        if other is not None and other.kind != entry.kind and "directory" in (other.kind, entry.kind):
            in_the_way.append(other)
            other = None
        if entry.kind == "directory":
            continue
        if other is not None and other.kind == entry.kind and _is_same(entry, other, same):
            equal += 1
        else:
            send.append(entry)
    gone = [entry for entry in target if entry.parts not in wanted]
    return Plan(tuple(send), equal, tuple(in_the_way), tuple(_topmost(gone, in_the_way)))


def _is_same(entry: Entry, other: Entry, same: Same) -> bool:
    if entry.kind == "symlink":
        return entry.target == other.target
    return entry.size == other.size and same(entry, other)


def _topmost(gone: Iterable[Entry], in_the_way: Iterable[Entry]) -> list[Entry]:
    """Without those below another one: the whole directory goes."""
    roots = {entry.parts for entry in in_the_way}
    found = []
    for entry in sorted(gone, key=lambda one: len(one.parts)):
        if not any(entry.parts[:depth] in roots for depth in range(1, len(entry.parts))):
            found.append(entry)
            roots.add(entry.parts)
    return found


def by_time(entry: Entry, other: Entry) -> bool:
    return (entry.mtime_ns, entry.mode) == (other.mtime_ns, other.mode)


@command("sync")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option(
    "--down", is_flag=True, help="SRC is in the cluster, DST a local directory; else the other way."
)
@click.option("--delete", is_flag=True, help="Remove from DST what SRC does not have.")
@click.option("--checksum", is_flag=True, help="Compare contents, and not sizes and times.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
def sync(source: str, target: str, down: bool, delete: bool, checksum: bool, dry_run: bool) -> None:
    """Make the children of DST those of SRC, sending only what differs. DST is made if it is missing."""
    given = settings()
    with given.client() as client:
        trees = _Down(client, source, target) if down else _Up(client, source, target)
        before, after = trees.listed()
        same = trees.same_content if checksum else by_time
        plan = compare(before, after, same)
        if plan.in_the_way and not delete:
            raise AlreadyExistsError(
                f"{len(plan.in_the_way)} entries of the target are in the way",
                cause=", ".join("/".join(one.parts) for one in plan.in_the_way[:10]),
                next="--delete removes them",
            )
        removed = [*plan.in_the_way, *(plan.gone if delete else ())]
        if not dry_run:
            trees.remove(removed)
            trees.send({entry.parts for entry in plan.send}, lambda total: meter(given, target, total))
    data: dict[str, Any] = {
        "source": source,
        "target": target,
        "sent": len(plan.send),
        "size_bytes": sum(entry.size for entry in plan.send if entry.kind == "file"),
        "unchanged": plan.same,
        "removed": len(removed),
        "dry_run": dry_run,
    }
    if dry_run:
        data["changes"] = [
            *({"action": "remove", "path": "/".join(one.parts)} for one in removed),
            *({"action": "send", "path": "/".join(one.parts)} for one in plan.send),
        ]
    show(given, data, lambda: _lines(data))


def _lines(data: dict[str, Any]) -> Iterable[str]:
    for change in data.get("changes", ()):
        yield f"{change['action']:6}  {change['path']}"
    yield (
        f"{data['sent']} sent ({data['size_bytes']} bytes), {data['unchanged']} unchanged, {data['removed']} removed"
        + (": nothing was done" if data["dry_run"] else "")
    )


class _Up:
    """From here into the cluster."""

    def __init__(self, client: Client, source: str, target: str) -> None:
        self._client, self._local, self._remote = client, Path(source), clean(target)

    def listed(self) -> tuple[list[Entry], list[Entry]]:
        return _walk_local(self._local), _walk_remote(self._client, self._remote)

    def same_content(self, entry: Entry, other: Entry) -> bool:
        return _same_content(self._client, self._local, self._remote, entry.parts)

    def remove(self, entries: Sequence[Entry]) -> None:
        failures = for_each(
            entries,
            lambda entry: self._client.delete(below(self._remote, *entry.parts), recursive=True),
            lambda entry: below(self._remote, *entry.parts),
        )
        raise_failures(failures, len(entries) - len(failures), "removed")

    def send(self, wanted: set[Parts], meter_for: Any) -> None:
        put_tree(
            self._client, self._local, self._remote, Wishes(), meter_for, lambda entry: entry.parts in wanted
        )


class _Down:
    """Out of the cluster to here."""

    def __init__(self, client: Client, source: str, target: str) -> None:
        self._client, self._remote, self._local = client, clean(source), Path(target)

    def listed(self) -> tuple[list[Entry], list[Entry]]:
        there = _walk_local(self._local) if self._local.exists() else []
        return remote_walk(self._client, self._remote), there

    def same_content(self, entry: Entry, other: Entry) -> bool:
        return _same_content(self._client, self._local, self._remote, entry.parts)

    def remove(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            path = self._local.joinpath(*entry.parts)
            if entry.kind == "directory":
                shutil.rmtree(path)  # follows no link
            else:
                path.unlink()

    def send(self, wanted: set[Parts], meter_for: Any) -> None:
        get_tree(
            self._client, self._remote, self._local, Wishes(), meter_for, lambda entry: entry.parts in wanted
        )


def _walk_local(root: Path) -> list[Entry]:
    if not root.is_dir():
        raise InvalidArgumentError(f"{root} is no directory", next="put and get take single files")
    return walk(root)


def _walk_remote(client: Client, root: str) -> list[Entry]:
    try:
        return remote_walk(client, root)
    except NotFoundError:
        return []


def _same_content(client: Client, local: Path, remote: str, parts: Parts) -> bool:
    return client.stat(below(remote, *parts), follow=False).checksum == checksum_of(local.joinpath(*parts))


def checksum_of(file: Path) -> int:
    """CRC32C of a local file's content."""
    from quorumfs.checksum import crc32c

    value = 0
    with open(file, "rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            value = crc32c(piece, value)
    return value
