"""Whole trees in and out: `put -r` and `get -r`.

1. What a tree consists of is known, and every name judged, before anything is sent or written.
2. Directories come first, one level after the other; then small files, hundreds in a message; then large files and
   links, several at a time; at last the directories' modes and times, the deepest first, because what goes into a
   directory changes its time.
3. A directory that was there keeps its own mode and time only if it is the target itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfsctl.local_tree import Entry, LocalTree, refuse_existing, safe_name, walk
from dfsctl.parallel import Failure, failure_of, for_each, raise_failures
from dfsctl.progress import Meter
from dfsctl.remote import below, check_names, require_directory
from quorumfs.errors import AlreadyExistsError, NotFoundError, QuorumFSError
from quorumfs.limits import PACKED_FILE_BYTES_MAX
from quorumfs.local_file import NewLocalFile

if TYPE_CHECKING:
    from quorumfs import Client

MeterFor = Callable[[int], Any]
"""Given the bytes in all, a context manager that gives a Meter."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options of `put` and `get` say."""

    no_clobber: bool = False
    parents: bool = False
    replication: int = 0


Chosen = Callable[[Entry], bool]
"""Which files and links of a tree are wanted."""


def everything(entry: Entry) -> bool:
    return True


def put_tree(
    client: Client,
    source: Path,
    target: str,
    wishes: Wishes,
    meter_for: MeterFor,
    chosen: Chosen = everything,
) -> dict[str, Any]:
    """Make the children of `source` children of `target`, which is made if missing. Returns the counts.

    Of files and links only those that are `chosen`; directories are all made, and get their modes and times."""
    entries = [entry for entry in walk(source) if entry.kind == "directory" or chosen(entry)]
    check_names([entry.parts for entry in entries if entry.parts], target)
    made = _make_target(client, target, wishes)
    directories = [entry for entry in entries if entry.kind == "directory"]
    for level in _levels(directories):
        _all_or_nothing(level, lambda entry: _make_directory(client, target, entry), "stored")
    content = [entry for entry in entries if entry.kind != "directory"]
    small = [entry for entry in content if _is_small(entry)]
    with meter_for(sum(entry.size for entry in content)) as meter:
        failures = _put_small(client, source, target, small, wishes, meter)
        failures += for_each(
            [entry for entry in content if not _is_small(entry)],
            lambda entry: _put_entry(client, source, target, entry, wishes, meter),
            lambda entry: below(target, *entry.parts),
        )
    finished = [entry for entry in directories if entry.parts or made]
    for level in reversed(_levels(finished)):
        _all_or_nothing(level, lambda entry: _finish_directory(client, target, entry), "finished")
    raise_failures(failures, len(content) - len(failures), "stored")
    return _counts(target, entries)


def get_tree(
    client: Client,
    source: str,
    target: Path,
    wishes: Wishes,
    meter_for: MeterFor,
    chosen: Chosen = everything,
) -> dict[str, Any]:
    """Make the children of `source` children of the local `target`, which is made if missing."""
    entries = [entry for entry in remote_walk(client, source) if entry.kind == "directory" or chosen(entry)]
    if wishes.parents:
        target.parent.mkdir(parents=True, exist_ok=True)
    with LocalTree(target) as tree:
        directories = [entry for entry in entries if entry.kind == "directory"]
        for entry in directories:
            if entry.parts:
                tree.make_directory(entry.parts)
        content = [entry for entry in entries if entry.kind != "directory"]
        small = [entry for entry in content if _fits_a_pack(entry)]
        with meter_for(sum(entry.size for entry in content)) as meter:
            failures = _get_small(client, source, tree, small, wishes, meter)
            failures += for_each(
                [entry for entry in content if not _fits_a_pack(entry)],
                lambda entry: _get_entry(client, source, tree, entry, wishes, meter),
                lambda entry: below(source, *entry.parts),
            )
        tree.finish_directories([entry for entry in directories if entry.parts or tree.made])
    raise_failures(failures, len(content) - len(failures), "fetched")
    return _counts(str(target), entries)


# --- in ---------------------------------------------------------------------------------------------------


def _make_target(client: Client, target: str, wishes: Wishes) -> bool:
    """Whether the target had to be made."""
    try:
        require_directory(client.stat(target, follow=False), target)
    except NotFoundError:
        client.mkdir(target, parents=wishes.parents)
        return True
    return False


def _make_directory(client: Client, target: str, entry: Entry) -> None:
    if not entry.parts:
        return
    path = below(target, *entry.parts)
    client.mkdir(path, parents=True)
    # `parents` is content with what is there: see that it is a directory and no link to one.
    require_directory(client.stat(path, follow=False), path)


def _is_small(entry: Entry) -> bool:
    """Whether it travels with many others. A mode or time of 0 has to be said on its own (see `put_file`)."""
    return _fits_a_pack(entry) and bool(entry.mode and entry.mtime_ns)


def _put_small(
    client: Client, source: Path, target: str, entries: list[Entry], wishes: Wishes, meter: Meter
) -> list[Failure]:
    failed: dict[str, QuorumFSError | OSError] = {}
    client.put_many(
        ((below(target, *entry.parts), source.joinpath(*entry.parts)) for entry in entries),
        if_absent=wishes.no_clobber,
        replication=wishes.replication,
        failed=failed,
        progress=meter.file(),
    )
    return [failure_of(path, error) for path, error in failed.items()]


def _put_entry(client: Client, source: Path, target: str, entry: Entry, wishes: Wishes, meter: Meter) -> None:
    path = below(target, *entry.parts)
    if entry.kind == "symlink":
        client.symlink(entry.target, path, modified_ns=entry.mtime_ns, replace=not wishes.no_clobber)
    else:
        put_file(client, source.joinpath(*entry.parts), path, wishes, meter)


def put_file(client: Client, source: Path, path: str, wishes: Wishes, meter: Meter) -> Any:
    """Store one local file with its mode and time."""
    status = source.stat()
    stored = client.put(
        source,
        path,
        if_absent=wishes.no_clobber,
        replication=wishes.replication,
        progress=meter.file(),
    )
    mode = status.st_mode & 0o7777
    if mode and status.st_mtime_ns:
        return stored
    # On the wire 0 means "the default": a mode or time that really is 0 has to be said explicitly.
    return client.set_attributes(path, mode=mode, modified_ns=status.st_mtime_ns)


def _finish_directory(client: Client, target: str, entry: Entry) -> None:
    client.set_attributes(below(target, *entry.parts), mode=entry.mode, modified_ns=entry.mtime_ns)


# --- out --------------------------------------------------------------------------------------------------


def remote_walk(client: Client, source: str) -> list[Entry]:
    """All of a remote tree, one level after the other."""
    top = client.stat(source)
    require_directory(top, source)
    found = [Entry((), "directory", top.mode, top.modified_ns)]
    level = list(found)
    while level:
        pages: dict[tuple[str, ...], list[Entry]] = {}

        def look(entry: Entry, pages: dict[tuple[str, ...], list[Entry]] = pages) -> None:
            pages[entry.parts] = _entries_in(client, source, entry.parts)

        _all_or_nothing(level, look, "listed")
        inside = [entry for parent in level for entry in pages[parent.parts]]
        found += inside
        level = [entry for entry in inside if entry.kind == "directory"]
    return found


def _entries_in(client: Client, source: str, parts: tuple[str, ...]) -> list[Entry]:
    return [
        Entry(
            (*parts, safe_name(one.name)),
            "symlink" if one.is_symlink else "directory" if one.is_directory else "file",
            one.mode,
            one.modified_ns,
            one.size_bytes,
            one.target,
        )
        for one in client.iterate(below(source, *parts) or "/")
    ]


def _get_small(
    client: Client, source: str, tree: LocalTree, entries: list[Entry], wishes: Wishes, meter: Meter
) -> list[Failure]:
    failures: list[Failure] = []
    wanted: dict[str, Entry] = {}
    for entry in entries:
        path = below(source, *entry.parts)
        try:
            if wishes.no_clobber:
                refuse_existing(tree.root.joinpath(*entry.parts))
        except AlreadyExistsError as error:
            failures.append(Failure(path, error))
        else:
            wanted[path] = entry
    failed: dict[str, QuorumFSError] = {}
    for path, status, content in client.iterate_many(list(wanted), failed=failed):
        try:
            with tree.place(wanted[path].parts) as place, NewLocalFile(place) as file:
                file.write(content)
                file.publish(status.mode, status.modified_ns, fsync=False)
        except (QuorumFSError, OSError) as error:
            failures.append(failure_of(path, error))
        meter.file()(len(content))
    return failures + [failure_of(path, error) for path, error in failed.items()]


def _get_entry(
    client: Client, source: str, tree: LocalTree, entry: Entry, wishes: Wishes, meter: Meter
) -> None:
    if wishes.no_clobber:
        refuse_existing(tree.root.joinpath(*entry.parts))
    if entry.kind == "symlink":
        tree.make_link(entry.parts, entry.target, entry.mtime_ns)
        return
    with tree.place(entry.parts) as path:
        client.get(below(source, *entry.parts), path, progress=meter.file())


# --- both -------------------------------------------------------------------------------------------------


def _fits_a_pack(entry: Entry) -> bool:
    return entry.kind == "file" and entry.size <= PACKED_FILE_BYTES_MAX


def _levels(directories: Iterable[Entry]) -> list[list[Entry]]:
    """By depth, the top first."""
    by_depth = sorted(directories, key=lambda entry: len(entry.parts))
    return [list(level) for _, level in groupby(by_depth, key=lambda entry: len(entry.parts))]


def _all_or_nothing(entries: list[Entry], work: Callable[[Entry], None], what: str) -> None:
    """Directories: when one of them fails there is no use in going on."""
    failures: list[Failure] = for_each(entries, work, lambda entry: "/".join(entry.parts) or "/")
    if failures and all(isinstance(one.error, AlreadyExistsError) for one in failures):
        raise failures[0].error
    raise_failures(failures, len(entries) - len(failures), what)


def _counts(path: str, entries: list[Entry]) -> dict[str, Any]:
    kinds = [entry.kind for entry in entries if entry.parts]
    return {
        "path": path,
        "files": kinds.count("file"),
        "directories": kinds.count("directory"),
        "symlinks": kinds.count("symlink"),
        "size_bytes": sum(entry.size for entry in entries if entry.kind == "file"),
    }
