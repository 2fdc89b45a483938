"""Files: whole small ones, clones, attributes, and the one way in which a file's content is replaced."""

from __future__ import annotations

from coordinator.metadata import contents, tree
from coordinator.metadata.commands import packs
from coordinator.metadata.context import NS_PER_MS, Context
from coordinator.metadata.places import Place, check_new, found_at, place_of
from coordinator.metadata.tree import DIRECTORY, FILE, Inode
from quorumfs.checksum import crc32c
from quorumfs.errors import (
    AlreadyExistsError,
    InlineBudgetError,
    IntegrityError,
    InvalidArgumentError,
    NotFoundError,
    PathIsADirectoryError,
    PreconditionFailedError,
    TooLargeError,
)
from quorumfs.limits import REPLICATION_MAX
from quorumfs.paths import show
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

MODE_MAX = 0o7777
MODE_DEFAULT = 0o644
MODE_KEPT = -1
CLONE_EXTENTS_MAX = 10_000


def put_file(context: Context, request: n.PutFileRequest) -> n.Result:
    """A whole small file in one entry; atomic over what is there."""
    place = place_of(context, request.ref)
    parent, name, path = place
    if context.arrivals.holds(parent, name):
        context.settle()
    key = bytearray(name)
    old = tree.probe(context.tx, parent, key)
    check_target(old, place, request.if_absent, request.expected_version)
    mode = checked_mode(request.mode) if request.mode else MODE_KEPT
    replication = checked_replication(context, request.replication)
    checksum = request.checksum
    packed = request.packed if request.HasField("packed") else None
    body = request.body
    if packed is not None:
        if packs.check(context, request, replication) < replication:
            packs.want(context, packed, replication)
        size = packed.length
    else:
        size = len(body)
        _check_body(context, place, body, checksum, replication)
    # Nothing refuses from here on.
    inode = target_inode(context, old)
    totals = context.totals
    version = totals.take_version()
    extent = None
    if packed is not None:
        extent = (version, 0, size, packed.chunk, packed.chunk_offset)
    elif body:
        extent = (version, 0, size, contents.new_inline_chunk(context, body, checksum, replication), 0)
    if old is not None:
        contents.add_version(context, version, inode, size, checksum)
        if extent is not None:
            contents.add_extent(context, extent)
        file = Inode(inode, FILE, parent, name, mode, request.mtime_ns, version, replication, None, 0)
        return publish(context, place, old, file, size, checksum)
    wall_ms = context.wall_ms
    if mode == MODE_KEPT:
        mode = MODE_DEFAULT
    mtime_ns = request.mtime_ns or wall_ms * NS_PER_MS
    totals.files += 1
    totals.logical_bytes += size
    arrived = (inode, parent, key, mode, mtime_ns, version, replication, wall_ms)
    context.arrivals.add(arrived, name, size, checksum, context.index, extent)
    result = n.Result(code=t.ERROR_CODE_OK)
    info = result.info  # like tree.tell, without the detour over an Inode
    info.id = inode
    info.type = FILE
    info.name = name
    info.mode = mode
    info.mtime_ns = mtime_ns
    info.replication = replication
    info.version = version
    if size:
        info.size = size
        info.checksum = checksum
    info.changed_wall_ms = wall_ms
    info.parent = parent
    info.path = path
    return result


def _check_body(context: Context, place: Place, body: bytes, checksum: int, replication: int) -> None:
    """Raises IntegrityError, TooLargeError, InlineBudgetError."""
    if crc32c(body) != checksum:
        raise IntegrityError(f"the body of {show(place.path)} does not match its checksum")
    if body:
        _check_inline(context, place, len(body), replication)


def _check_inline(context: Context, place: Place, length: int, replication: int) -> None:
    """Raises TooLargeError, InlineBudgetError: then the client sends the bytes to datanodes."""
    most = context.setting("data.inline_bytes_max")
    if length > most:
        raise TooLargeError(
            f"{show(place.path)} is too large for the metadata",
            cause=f"{length} bytes; at most {most}",
            next="upload it to datanodes",
        )
    wanted = min(context.setting("data.min_replicas"), replication)
    if context.majority < wanted:
        raise InlineBudgetError(
            "the metadata takes no bodies",
            cause=f"{context.majority} coordinators are a majority, not {wanted}",
        )
    if context.totals.inline_bytes + length > context.setting("data.inline_budget_bytes"):
        raise InlineBudgetError("the metadata has no room for bodies", next="upload it to datanodes")
    _ = context.history  # a chunk's birth wants it: refused before anything is written


def clone(context: Context, request: n.CloneRequest) -> n.Result:
    """A file of its own that shares the chunks of another."""
    source_place = place_of(context, getattr(request, "from"))
    source = found_at(context, source_place)
    if source is None:
        raise NotFoundError(f"{show(source_place.path)} does not exist")
    if source.type != FILE:
        raise PathIsADirectoryError(f"{show(source_place.path)} is no file", next="clone what is in it")
    place = place_of(context, request.to)
    old = tree.child(context.tx, place.parent, place.name)
    check_target(old, place, not request.replace, 0)
    size, checksum = content_of(context, source.version)
    if old is not None and old.id == source.id:
        return n.Result(code=t.ERROR_CODE_OK, info=tree.info_of(old, place.path, size, checksum))
    _check_extents(context, source, source_place)
    inode = target_inode(context, old)
    version = contents.new_version(context, inode, size, checksum)
    context.execute(
        "INSERT INTO extent (version, file_offset, length, chunk, chunk_offset)"
        " SELECT ?, file_offset, length, chunk, chunk_offset FROM extent WHERE version = ?",
        (version, source.version),
    )
    file = source._replace(id=inode, parent=place.parent, name=place.name, mtime_ns=0, version=version)
    return publish(context, place, old, file, size, checksum)


def _check_extents(context: Context, file: Inode, place: Place) -> None:
    """Raises TooLargeError, BusyError."""
    (number,) = context.execute(
        "SELECT count(*) FROM (SELECT 1 FROM extent WHERE version = ? LIMIT ?)",
        (file.version, CLONE_EXTENTS_MAX + 1),
    ).fetchone()
    if number > CLONE_EXTENTS_MAX:
        raise TooLargeError(
            f"{show(place.path)} has too many extents for one entry",
            cause=f"more than {CLONE_EXTENTS_MAX}",
            next="copy it through a client: dfsctl get, dfsctl put",
        )
    context.spend(number)


# What every new content goes through


def check_target(old: Inode | None, place: Place, if_absent: bool, expected_version: int) -> None:
    """Whether new content may come to `place`, where `old` is. Raises AlreadyExistsError,
    PathIsADirectoryError, PreconditionFailedError, InvalidPathError."""
    if place.is_root:
        raise PathIsADirectoryError("/ is a directory")
    if old is not None:
        if if_absent:
            raise AlreadyExistsError(f"{show(place.path)} exists")
        if old.type == DIRECTORY:
            raise PathIsADirectoryError(f"{show(place.path)} is a directory")
    if expected_version and (old is None or old.type != FILE or old.version != expected_version):
        there = f"its version is {old.version}" if old is not None else "it does not exist"
        raise PreconditionFailedError(
            f"{show(place.path)} is not at version {expected_version}", cause=there, next="read it again"
        )
    if old is None:
        check_new(place)


def target_inode(context: Context, old: Inode | None) -> int:
    """The inode that new content gets: the file's own, or a new one."""
    return old.id if old is not None and old.type == FILE else context.totals.take_inode()


def publish(
    context: Context, place: Place, old: Inode | None, file: Inode, size: int, checksum: int
) -> n.Result:
    """Make `file`, whose version is complete, visible at `place` instead of `old`, which `check_target` has
    let pass. Nothing refuses from here on."""
    kept = old if old is not None and old.type == FILE else None
    mode = file.mode
    if mode == MODE_KEPT:
        mode = kept.mode if kept is not None else MODE_DEFAULT
    file = file._replace(
        mode=mode,
        mtime_ns=file.mtime_ns or context.wall_ms * NS_PER_MS,
        changed_wall_ms=context.wall_ms,
    )
    context.totals.logical_bytes += size
    if kept is not None:
        tree.replace_content(context, kept, file, place.path)
    else:
        if old is not None:
            tree.detach(context, old, place.path)
        tree.add(context, file)
    result = n.Result(code=t.ERROR_CODE_OK)
    tree.tell(result.info, file, place.path, size, checksum)
    return result


def content_of(context: Context, version: int) -> tuple[int, int]:
    """Size and checksum of a version."""
    size, checksum = context.execute("SELECT size, checksum FROM version WHERE id = ?", (version,)).fetchone()
    return size, checksum


def info_at(context: Context, inode: Inode, path: bytes) -> n.FileInfo:
    """What answers tell of an inode, its content's size and checksum included."""
    size = checksum = 0
    if inode.type == FILE:
        size, checksum = content_of(context, inode.version)
    return tree.info_of(inode, path, size, checksum)


def checked_mode(mode: int) -> int:
    if mode > MODE_MAX:
        raise InvalidArgumentError(f"{mode:o} are no permission bits", cause=f"at most {MODE_MAX:o}")
    return mode


def checked_replication(context: Context, replication: int) -> int:
    """What a file asks for, or the cluster's default. Raises InvalidArgumentError."""
    if replication > REPLICATION_MAX:
        raise InvalidArgumentError(f"a chunk has at most {REPLICATION_MAX} replicas, not {replication}")
    return replication or context.setting("data.replication")
