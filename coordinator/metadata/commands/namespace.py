"""The namespace: directories, links, names, attributes. Nothing here touches a file's content."""

from __future__ import annotations

from coordinator.metadata import lookup, tree
from coordinator.metadata.commands.files import (
    check_target,
    checked_mode,
    checked_replication,
    info_at,
)
from coordinator.metadata.context import NS_PER_MS, Context
from coordinator.metadata.places import Place, below, check_new, found_at, place_of, resolved
from coordinator.metadata.tree import DIRECTORY, FILE, SYMLINK, Inode
from quorumfs.errors import (
    AlreadyExistsError,
    CycleError,
    InvalidArgumentError,
    NotEmptyError,
    NotFoundError,
    PathNotADirectoryError,
    PreconditionFailedError,
    SafetyGuardError,
    TooLargeError,
)
from quorumfs.limits import SYMLINK_TARGET_BYTES_MAX
from quorumfs.paths import show
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

DIRECTORY_MODE_DEFAULT = 0o755
SYMLINK_MODE = 0o777
CHUNKS_MAX = 10_000
EXTENTS_MAX = 100_000


def mkdir(context: Context, request: n.MkdirRequest) -> n.Result:
    """Make a directory, with `parents` also those above it; then one that is there is fine."""
    mode = checked_mode(request.mode) or DIRECTORY_MODE_DEFAULT
    if request.parents:
        return _mkdir_all(context, request, mode)
    place = place_of(context, request.ref)
    if place.is_root or tree.child(context.tx, place.parent, place.name) is not None:
        raise AlreadyExistsError(f"{show(place.path)} exists")
    check_new(place)
    made = _add_directory(context, place, mode, request.mtime_ns or None)
    return n.Result(code=t.ERROR_CODE_OK, info=tree.info_of(made, place.path))


def _mkdir_all(context: Context, request: n.MkdirRequest, mode: int) -> n.Result:
    last, path, missing = lookup.locate_known(context.tx, request.ref)
    if last.type != DIRECTORY:
        raise PathNotADirectoryError(f"{show(path)} is no directory")
    check_new(Place(last.id, b"", below(path, b"/".join(missing)) if missing else path))
    for depth, name in enumerate(missing, 1):
        path = below(path, name)
        place = Place(last.id, name, path)
        wanted = mode if depth == len(missing) else DIRECTORY_MODE_DEFAULT
        last = _add_directory(context, place, wanted, request.mtime_ns or None)
    return n.Result(code=t.ERROR_CODE_OK, info=tree.info_of(last, path))


def _add_directory(context: Context, place: Place, mode: int, mtime_ns: int | None) -> Inode:
    made = _new(context, DIRECTORY, place, mode, mtime_ns, None)
    tree.add(context, made)
    return made


def symlink(context: Context, request: n.SymlinkRequest) -> n.Result:
    """Make a symbolic link, or with `replace` put one where a file or link is."""
    target = request.target
    if not 0 < len(target) <= SYMLINK_TARGET_BYTES_MAX or b"\0" in target:
        raise InvalidArgumentError(
            f"a link cannot point to '{show(target)}'",
            cause=f"1 to {SYMLINK_TARGET_BYTES_MAX} bytes without NUL",
        )
    place = place_of(context, request.ref)
    old = found_at(context, place)
    check_target(old, place, not request.replace, 0)
    mtime_ns = request.mtime_ns if request.HasField("mtime_ns") else None
    made = _new(context, SYMLINK, place, SYMLINK_MODE, mtime_ns, target)
    if old is not None:
        tree.detach(context, old, place.path)
    tree.add(context, made)
    return n.Result(code=t.ERROR_CODE_OK, info=tree.info_of(made, place.path))


def _new(
    context: Context, kind: int, place: Place, mode: int, mtime_ns: int | None, target: bytes | None
) -> Inode:
    """A directory or link that is not yet linked anywhere; without a time, as of this entry."""
    return Inode(
        context.totals.take_inode(),
        kind,
        place.parent,
        place.name,
        mode,
        context.wall_ms * NS_PER_MS if mtime_ns is None else mtime_ns,
        1,
        0,
        target,
        context.wall_ms,
    )


def delete(context: Context, request: n.DeleteRequest) -> n.Result:
    """Move a file, link or directory to the trash, or with `purge` past it: one row, whatever the size."""
    try:
        place = place_of(context, request.ref)
        old = found_at(context, place)
        if old is None:
            raise NotFoundError(f"{show(place.path)} does not exist")
    except NotFoundError:
        if request.missing_ok:
            return n.Result(code=t.ERROR_CODE_OK, removal=n.Removal())
        raise
    if place.is_root:
        raise SafetyGuardError("the root is not deleted", next="delete what is in it")
    _check_version(old, place, request.expected_version)
    if old.type == DIRECTORY and not request.recursive and tree.has_children(context, old.id):
        raise NotEmptyError(f"{show(place.path)} is not empty")
    trash = tree.detach(context, old, place.path, purge=request.purge)
    removal = n.Removal(trash_id=0 if request.purge else trash, removed=1)
    return n.Result(code=t.ERROR_CODE_OK, removal=removal)


def rename(context: Context, request: n.RenameRequest) -> n.Result:
    """Move a file, link or tree: one row, whatever the size. Onto itself: nothing happens."""
    source = place_of(context, getattr(request, "from"))
    moved = found_at(context, source)
    if moved is None:
        raise NotFoundError(f"{show(source.path)} does not exist")
    target = place_of(context, request.to)
    old = found_at(context, target)
    if source.is_root or target.is_root:
        raise SafetyGuardError("the root is neither moved nor replaced")
    if old is not None and old.id == moved.id:
        return n.Result(code=t.ERROR_CODE_OK, info=info_at(context, old, target.path))
    if old is not None and not request.replace:
        raise AlreadyExistsError(f"{show(target.path)} exists")
    if moved.type == DIRECTORY and moved.id in tree.upwards(context.tx, target.parent):
        raise CycleError(f"{show(target.path)} lies in {show(source.path)}")
    if old is not None and old.type == DIRECTORY and old.id in tree.upwards(context.tx, source.parent):
        raise CycleError(f"{show(source.path)} lies in {show(target.path)}")
    check_new(target)
    if old is not None:
        tree.detach(context, old, target.path)
    moved = tree.move(context, moved, target.parent, target.name)
    return n.Result(code=t.ERROR_CODE_OK, info=info_at(context, moved, target.path))


# Attributes


def set_attributes(context: Context, request: n.SetAttributesRequest) -> n.Result:
    """Change what is given; links are followed. A file keeps its version: its content is the same."""
    inode, path = resolved(context, request.ref)
    place = Place(inode.parent, inode.name, path)
    _check_version(inode, place, request.expected_version)
    changed = inode._replace(changed_wall_ms=context.wall_ms)
    if request.HasField("mode"):
        changed = changed._replace(mode=checked_mode(request.mode))
    if request.HasField("mtime_ns"):
        changed = changed._replace(mtime_ns=request.mtime_ns)
    if request.HasField("replication"):
        changed = changed._replace(
            replication=_checked_replication(context, inode, place, request.replication)
        )
    if changed.type != FILE:
        changed = changed._replace(version=inode.version + 1)
    tree.set_attributes(context, changed)
    if changed.replication != inode.replication:
        _want(context, changed.version, inode.replication, changed.replication)
    return n.Result(code=t.ERROR_CODE_OK, info=info_at(context, changed, path))


def _checked_replication(context: Context, inode: Inode, place: Place, replication: int) -> int:
    """Raises InvalidArgumentError, TooLargeError for a file of more chunks than an entry may touch, BusyError."""
    if inode.type != FILE:
        raise InvalidArgumentError(f"{show(place.path)} is no file", cause="only files have replicas")
    if not replication:
        raise InvalidArgumentError("a file has at least one replica")
    replication = checked_replication(context, replication)
    if replication < inode.replication:
        limit = EXTENTS_MAX
        counted = (
            "SELECT 1 FROM extent AS mine JOIN extent AS any ON any.chunk = mine.chunk WHERE mine.version = ?"
        )
    else:
        limit = CHUNKS_MAX
        counted = "SELECT DISTINCT chunk FROM extent WHERE version = ?"
    (number,) = context.execute(
        f"SELECT count(*) FROM ({counted} LIMIT ?)", (inode.version, limit + 1)
    ).fetchone()
    if number > limit:
        raise TooLargeError(
            f"{show(place.path)} has too many chunks for one entry", cause=f"more than {limit} are concerned"
        )
    context.spend(number)
    return replication


def _want(context: Context, version: int, before: int, now: int) -> None:
    """A chunk shall have as many replicas as the most demanding file that names it asks for."""
    if now > before:
        context.execute(
            "UPDATE chunk SET want = ?1 WHERE want < ?1 AND id IN (SELECT chunk FROM extent WHERE version = ?2)",
            (now, version),
        )
        return
    context.execute(
        "UPDATE chunk SET want = (SELECT max(replication) FROM extent"
        " JOIN version ON version.id = extent.version JOIN inode ON inode.id = version.inode"
        " WHERE extent.chunk = chunk.id)"
        " WHERE want = ? AND id IN (SELECT chunk FROM extent WHERE version = ?)",
        (before, version),
    )


def _check_version(inode: Inode, place: Place, expected: int) -> None:
    if expected and inode.version != expected:
        raise PreconditionFailedError(
            f"{show(place.path)} is not at version {expected}", cause=f"its version is {inode.version}"
        )
