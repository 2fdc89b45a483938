"""From a path to an inode, and back. Reads only; shared by commands and queries.

1. Names of a request are judged by `quorumfs.paths`; "." and ".." never come from there. Targets of symbolic links may
   hold both: ".." goes to the parent, and stays at the root.
2. Links in the middle of a path are always followed, the last one only when asked. After SYMLINK_HOPS_MAX links, or
   STEPS_MAX names in their targets together, the path is refused: it runs in a circle, or somebody built it to take
   long.
3. `base` of a Ref must be a directory that is in the tree, at most STEPS_MAX below the root. Refusals are raised; the
   machine and the queries turn them into results.
4. Trees that are moved into one another may become deeper than any path. Ways up end after STEPS_MAX names.
"""

from __future__ import annotations

import sqlite3

from coordinator.metadata.tree import DETACHED, DIRECTORY, SYMLINK, Inode, by_id, child
from quorumfs import paths
from quorumfs.errors import (
    CycleError,
    InvalidPathError,
    NotFoundError,
    PathNotADirectoryError,
)
from quorumfs.ids import ROOT_INODE
from quorumfs.limits import PATH_BYTES_MAX, PATH_DEPTH_MAX, SYMLINK_HOPS_MAX
from quorumfs.v1 import namespace_pb2 as n

_TRASH_PATH = "SELECT path FROM trash WHERE inode = ?"
INODE_MAX = 2**63 - 1
STEPS_MAX = 2 * PATH_DEPTH_MAX
_TOP = Inode(ROOT_INODE, DIRECTORY, DETACHED, b"", 0, 0, 0, 0, None, 0)
"""Stands for the root on the way down, which every path begins with; its row is read only when it is the answer."""


def locate(tx: sqlite3.Connection, ref: n.Ref, *, follow: bool) -> tuple[Inode, bytes]:
    """The inode at `ref` and its own absolute path, links resolved; `follow`: if it is a link, what it points at.

    Raises NotFoundError, PathNotADirectoryError, InvalidPathError, CycleError.
    """
    start, names = beginning(tx, ref)
    links = _Links(ref)
    found = _walk(tx, start, names, links, follow=follow)
    return found, paths.join(names) if ref.base == 0 and not links.hops else path_of(tx, found)


Directories = dict[bytes, int]
"""Directories by their own path, for as long as nothing changes: of one read transaction."""


def parted(ref: n.Ref) -> tuple[bytes, bytes, bytes] | None:
    """A path, that of its directory, and the name in it, as `ref` spells them; None when it is not so simple."""
    path = ref.path
    above, slash, name = path.rpartition(b"/")
    return (path, above, name) if slash and name and len(path) <= PATH_BYTES_MAX and not ref.base else None


def learn(directories: Directories, ref: n.Ref, parent: int, path: bytes) -> None:
    """Note in which directory, `parent`, `locate` has found an inode at `path`."""
    parts = parted(ref)
    if parts is not None and path == parts[0]:  # neither links nor doubled slashes on the way
        directories[parts[1]] = parent


def locate_parent(tx: sqlite3.Connection, ref: n.Ref) -> tuple[Inode, bytes, bytes]:
    """The directory of `ref`, the name in it, which need not be there, and the absolute path of both.

    Without a name `ref` is where it begins: the root, or the base; then the name is empty and the directory is that
    itself. Raises like `resolve`.
    """
    start, names = beginning(tx, ref)
    if not names:
        return start, b"", path_of(tx, start)
    links = _Links(ref)
    directory = _walk(tx, start, names[:-1], links, follow=True)
    if directory.type != DIRECTORY:
        raise PathNotADirectoryError(f"the parent of {_shown(ref)} is no directory")
    if ref.base == 0 and not links.hops:
        return directory, names[-1], paths.join(names)
    above = path_of(tx, directory)
    return directory, names[-1], above.rstrip(b"/") + b"/" + names[-1]


def locate_known(tx: sqlite3.Connection, ref: n.Ref) -> tuple[Inode, bytes, tuple[bytes, ...]]:
    """As far as `ref` is there, links followed: the inode, its path, and the names that are missing below it.

    Raises like `resolve`; a dangling link on the way counts as not found.
    """
    current, names = beginning(tx, ref)
    path = path_of(tx, current)
    links = _Links(ref)
    for position, name in enumerate(names):
        found = child(tx, current.id, name) if current.type == DIRECTORY else None
        if found is None:
            return current, path, names[position:]
        if found.type == SYMLINK:
            found = _walk(tx, current, (name,), links, follow=True)
            path = path_of(tx, found)
        else:
            path = path.rstrip(b"/") + b"/" + name
        current = found
    return current, path, ()


def path_of(tx: sqlite3.Connection, inode: Inode) -> bytes:
    """The absolute path of an inode; of one in the trash, where it was; of one far too deep, its end."""
    names: list[bytes] = []
    while inode.id != ROOT_INODE and len(names) < STEPS_MAX:
        if inode.parent == DETACHED:
            row = tx.execute(_TRASH_PATH, (inode.id,)).fetchone()
            above: bytes = row[0] if row else b"/" + inode.name
            return above + b"".join(b"/" + name for name in reversed(names))
        names.append(inode.name)
        parent = by_id(tx, inode.parent)
        if parent is None:
            break
        inode = parent
    return paths.join(reversed(names))


def is_in_tree(tx: sqlite3.Connection, inode: Inode) -> bool:
    """Whether the root is above it, not the trash. Raises InvalidPathError when it is too deep to tell."""
    for _ in range(STEPS_MAX):
        if inode.id == ROOT_INODE:
            return True
        parent = by_id(tx, inode.parent) if inode.parent != DETACHED else None
        if parent is None:
            return False
        inode = parent
    raise InvalidPathError("the directory is too deep", cause=f"more than {STEPS_MAX} are above it")


def beginning(tx: sqlite3.Connection, ref: n.Ref) -> tuple[Inode, tuple[bytes, ...]]:
    """Where the way of `ref` begins, and the names from there on; of the root no more than its id and type when
    there are names. Raises like `resolve`."""
    if ref.base == 0:
        names = paths.split(ref.path)
        return _TOP if names else _root(tx), names
    if ref.path.startswith(b"/"):
        raise InvalidPathError(f"{_shown(ref)} is absolute", cause="a path below a base is relative")
    base = by_id(tx, ref.base) if ref.base <= INODE_MAX else None
    if base is None or not is_in_tree(tx, base):
        raise NotFoundError(f"the directory of inode {ref.base} is not there")
    if base.type != DIRECTORY:
        raise PathNotADirectoryError(f"inode {ref.base} is no directory")
    return base, paths.split_relative(ref.path)


class _Links:
    """The links that were followed on the way of a ref; raises CycleError when they are too many."""

    __slots__ = ("hops", "ref", "steps")

    def __init__(self, ref: n.Ref) -> None:
        self.ref = ref
        self.hops = 0
        self.steps = 0

    def follow(self, target: bytes) -> list[bytes]:
        """The names of a link's target."""
        names = [name for name in target.split(b"/") if name not in (b"", b".")]
        self.hops += 1
        self.steps += len(names)
        if self.hops > SYMLINK_HOPS_MAX or self.steps > STEPS_MAX:
            raise CycleError(
                f"{_shown(self.ref)} runs in a circle",
                cause=f"its links lead through more than {SYMLINK_HOPS_MAX} links or {STEPS_MAX} names",
            )
        return names


def _walk(
    tx: sqlite3.Connection, start: Inode, names: tuple[bytes, ...], links: _Links, *, follow: bool
) -> Inode:
    ref = links.ref
    current = start
    ahead = list(reversed(names))
    while ahead:
        name = ahead.pop()
        if current.type != DIRECTORY:
            raise PathNotADirectoryError(
                f"{_shown(ref)} leads through something that is no directory",
                cause=f"{paths.show(current.name)} is a file",
            )
        if name == b"..":
            current = _above(tx, current)
            continue
        found = child(tx, current.id, name)
        if found is None:
            raise NotFoundError(f"{_shown(ref)} is not there", cause=f"nothing is called {paths.show(name)}")
        if found.type == SYMLINK and (ahead or follow):
            target = found.target or b""
            if target.startswith(b"/"):
                current = _TOP
            ahead.extend(reversed(links.follow(target)))
            continue
        current = found
    return _root(tx) if current is _TOP else current


def _above(tx: sqlite3.Connection, directory: Inode) -> Inode:
    parent = by_id(tx, directory.parent) if directory.parent != DETACHED else None
    return parent or _TOP


def _root(tx: sqlite3.Connection) -> Inode:
    root = by_id(tx, ROOT_INODE)
    assert root is not None
    return root


def _shown(ref: n.Ref) -> str:
    return paths.show(ref.path) if ref.base == 0 else f"{paths.show(ref.path)} below inode {ref.base}"
