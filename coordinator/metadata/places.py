"""Where a request wants to change something: a directory that is in the tree, and a name in it."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.metadata import lookup, tree
from coordinator.metadata.context import Context
from coordinator.metadata.tree import DETACHED, Inode
from quorumfs.errors import InvalidPathError, NotFoundError
from quorumfs.ids import ROOT_INODE
from quorumfs.limits import PATH_BYTES_MAX, PATH_DEPTH_MAX
from quorumfs.paths import check_name, join, show
from quorumfs.v1 import namespace_pb2 as n


class Place(NamedTuple):
    """A name in a directory, and the absolute path of both. The root is at no name of the parent 0."""

    parent: int
    name: bytes
    path: bytes

    @property
    def is_root(self) -> bool:
        return self.parent == DETACHED and not self.name


def place_of(context: Context, ref: n.Ref) -> Place:
    """The place that `ref` names; links are followed on the way, not at the end. What is there is not looked at. An
    entry often names many places in one directory: it is looked up once.

    Raises NotFoundError, PathNotADirectoryError, InvalidPathError, CycleError.
    """
    above, slash, last = ref.path.rpartition(b"/")
    plain = bool(slash and last) and not ref.base and len(ref.path) <= PATH_BYTES_MAX
    known = context.directories.get(above) if plain else None
    if known is not None:
        check_name(last)
        return Place(known[0], last, below(known[1], last))
    context.settle()
    directory, name, path = lookup.locate_parent(context.tx, ref)
    if not name:
        return Place(directory.parent, directory.name, path)
    if plain:
        context.directories[above] = directory.id, path[: -len(name) - 1] or b"/"
    return Place(directory.id, name, path)


def place_under(context: Context, parent: int, name: bytes) -> Place:
    """A name in a directory that was found earlier. Raises NotFoundError when that is not in the tree any more."""
    directory = tree.by_id(context.tx, parent)
    if directory is None or not lookup.is_in_tree(context.tx, directory):
        raise NotFoundError(f"the directory of {show(name)} is gone", cause="it was deleted meanwhile")
    return Place(parent, name, below(lookup.path_of(context.tx, directory), name))


def former_place(context: Context, parent: int, name: bytes) -> Place:
    """Like `place_under`, to tell of afterwards: a directory that is gone is no obstacle."""
    directory = tree.by_id(context.tx, parent)
    above = lookup.path_of(context.tx, directory) if directory is not None else b"/"
    return Place(parent, name, below(above, name))


def found_at(context: Context, place: Place) -> Inode | None:
    """What is at a place; links are not followed."""
    if place.is_root:
        return tree.there(context.tx, ROOT_INODE)
    return tree.child(context.tx, place.parent, place.name)


def resolved(context: Context, ref: n.Ref) -> tuple[Inode, bytes]:
    """What is at `ref`, links followed, and its path. Raises like `place_of`."""
    return lookup.locate(context.tx, ref, follow=True)


def check_new(place: Place) -> None:
    """Raises InvalidPathError when no path could name what is to be made at a place."""
    if len(place.path) > PATH_BYTES_MAX or place.path.count(b"/") > PATH_DEPTH_MAX:
        raise InvalidPathError(
            f"{show(place.path)} is too long or too deep",
            cause=f"at most {PATH_BYTES_MAX} bytes and {PATH_DEPTH_MAX} names",
        )


def below(path: bytes, name: bytes) -> bytes:
    """The path of a name in the directory at `path`."""
    return join((name,)) if path == b"/" else path + b"/" + name
