"""Looking at the namespace: ls, stat, tree, find, du, df, locate."""

from __future__ import annotations

import stat as modes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from dfsctl.errors import printable
from dfsctl.output import cell, pairs, show, size, table
from dfsctl.parallel import NODE_SECONDS, THREADS
from dfsctl.remote import below, clean, entry, full_entry, walk
from dfsctl.shell import command, settings
from quorumfs.errors import QuorumFSError, TimedOutError, UnavailableError

if TYPE_CHECKING:
    from quorumfs import Client, FileStatus
    from quorumfs.values import Location, ReplicaPlace

_TYPE_BITS = {"file": modes.S_IFREG, "directory": modes.S_IFDIR, "symlink": modes.S_IFLNK}


@command()
@click.argument("paths", metavar="[REMOTE]...", nargs=-1)
@click.option("-l", "--long", is_flag=True, help="Mode, replication, size and time as well.")
@click.option("-R", "--recursive", is_flag=True, help="All that is below, too.")
def ls(paths: tuple[str, ...], long: bool, recursive: bool) -> None:
    """List directories (default: /) or files, in byte order of their names."""
    given = settings()
    found: list[FileStatus] = []
    with given.client() as client:
        for path in paths or ("/",):
            found += _listed(client, clean(path), recursive)
    data = [entry(one) for one in found]
    by_path = recursive or len(paths) > 1
    show(given, data, lambda: _long_lines(found, by_path) if long else _names(found, by_path))


def _listed(client: Client, path: str, recursive: bool) -> list[FileStatus]:
    status = client.stat(path)
    if not status.is_directory:
        return [status]
    return list(walk(client, path) if recursive else client.iterate(path))


def _names(found: list[FileStatus], by_path: bool) -> Iterator[str]:
    for one in found:
        yield printable(one.path if by_path else one.name) + ("/" if one.is_directory else "")


def _long_lines(found: list[FileStatus], by_path: bool) -> list[str]:
    rows = (
        (
            modes.filemode(_TYPE_BITS[str(one.type)] | one.mode),
            one.replication if one.is_file else None,
            one.size_bytes,
            entry(one)["modified"],
            (one.path if by_path else one.name) + (f" -> {one.target}" if one.is_symlink else ""),
        )
        for one in found
    )
    return table(("MODE", "REPL", "BYTES", "MODIFIED", "NAME"), rows)


@command()
@click.argument("path", metavar="REMOTE")
@click.option("-L", "--follow", is_flag=True, help="Of a link: what it leads to.")
def stat(path: str, follow: bool) -> None:
    """Everything about one path."""
    given = settings()
    with given.client() as client:
        data = full_entry(client.stat(clean(path), follow=follow))
    show(given, data, lambda: pairs(data.items()))


@command()
@click.argument("path", metavar="[REMOTE]", default="/")
def tree(path: str) -> None:
    """A directory as a tree."""
    given = settings()
    with given.client() as client:
        top = clean(path)
        data = _branch(client, client.stat(top), top)
    show(given, data, lambda: _tree_lines(data, "", ""))


def _branch(client: Client, status: FileStatus, path: str) -> dict[str, Any]:
    found = entry(status)
    if status.is_directory:
        found["children"] = [_branch(client, one, below(path, one.name)) for one in client.iterate(path)]
    return found


def _tree_lines(branch: dict[str, Any], first: str, rest: str) -> Iterator[str]:
    arrow = f" -> {printable(branch['target'])}" if "target" in branch else ""
    yield f"{first}{printable(branch['name'] or '/')}{arrow}"
    children = branch.get("children", [])
    for number, child in enumerate(children):
        last = number == len(children) - 1
        yield from _tree_lines(
            child,
            rest + ("\u2514\u2500\u2500 " if last else "\u251c\u2500\u2500 "),
            rest + ("    " if last else "\u2502   "),
        )


@command()
@click.argument("path", metavar="[REMOTE]", default="/")
@click.option("--name", "pattern", metavar="GLOB", help="Only names that match, as *.png.")
@click.option("--type", "kind", type=click.Choice(["f", "d", "l"]), help="Only files, directories or links.")
def find(path: str, pattern: str | None, kind: str | None) -> None:
    """Paths below a directory that match, the directory itself included."""
    given = settings()
    wanted = {"f": "file", "d": "directory", "l": "symlink", None: None}[kind]
    with given.client() as client:
        top = clean(path)
        status = client.stat(top)
        found = [
            one
            for one in (status, *(walk(client, top) if status.is_directory else ()))
            if (pattern is None or fnmatchcase(one.name, pattern)) and wanted in (None, str(one.type))
        ]
    show(given, [entry(one) for one in found], lambda: (printable(one.path) for one in found))


@command()
@click.argument("paths", metavar="[REMOTE]...", nargs=-1)
def du(paths: tuple[str, ...]) -> None:
    """Bytes of all files below each path, before replication."""
    given = settings()
    data = []
    with given.client() as client:
        for path in paths or ("/",):
            data.append(_sum(client, clean(path)))
    show(
        given,
        data,
        lambda: table(
            ("BYTES", "", "FILES", "DIRECTORIES", "PATH"),
            ((d["size_bytes"], size(d["size_bytes"]), d["files"], d["directories"], d["path"]) for d in data),
        ),
    )


def _sum(client: Client, path: str) -> dict[str, Any]:
    status = client.stat(path)
    kinds = {"file": 0, "directory": 0, "symlink": 0}
    size_bytes = 0
    for one in walk(client, path) if status.is_directory else [status]:
        kinds[str(one.type)] += 1
        size_bytes += one.size_bytes if one.is_file else 0
    return {
        "path": path,
        "size_bytes": size_bytes,
        "files": kinds["file"],
        "directories": kinds["directory"],
        "symlinks": kinds["symlink"],
    }


@command()
def df() -> None:
    """Room in the cluster, and what is in it."""
    given = settings()
    with given.client() as client:
        found = client.statfs()
    data = {
        "total_bytes": found.total_bytes,
        "used_bytes": found.used_bytes,
        "free_bytes": found.free_bytes,
        "logical_bytes": found.logical_bytes,
        "inline_bytes": found.inline_bytes,
        "files": found.files,
        "directories": found.directories,
        "chunks": found.chunks,
    }
    shown = ((key.replace("_bytes", ""), size(v) if key.endswith("_bytes") else v) for key, v in data.items())
    show(given, data, lambda: pairs(shown))


@command()
@click.argument("path", metavar="REMOTE")
def locate(path: str) -> None:
    """Where each piece of a file lies: extent, chunk, replicas, and their files on the nodes."""
    given = settings()
    where = clean(path)
    with given.client() as client:
        status = client.stat(where)
        extents = client.locate(where)
        files = _files_of(client, extents)
    data = {
        "path": status.path or where,
        "size_bytes": status.size_bytes,
        "extents": [_extent(one, files) for one in extents],
    }
    show(given, data, lambda: _extent_lines(data))


Files = dict[tuple[str, str], tuple[str | None, str]]
"""(node id, chunk) -> where it lies on that node, and why that is not known."""


def _files_of(client: Client, extents: list[Location]) -> Files:
    """Ask every node that holds a replica; one that does not answer is no error here, and is not asked again."""
    silent: dict[str, str] = {}
    wanted = {(place.node_id, one.chunk): place for one in extents for place in one.replicas}
    with ThreadPoolExecutor(THREADS, thread_name_prefix="dfsctl") as pool:
        asked = {key: pool.submit(_file_of, client, place, key[1], silent) for key, place in wanted.items()}
    return {key: future.result() for key, future in asked.items()}


def _file_of(
    client: Client, place: ReplicaPlace, chunk: str, silent: dict[str, str]
) -> tuple[str | None, str]:
    from quorumfs.v1 import chunks_pb2

    if place.node_id in silent:
        return None, silent[place.node_id]
    request = chunks_pb2.StatChunkRequest(chunk=bytes.fromhex(chunk))
    try:
        info = client.coordinator.call("Chunks.Stat", request, NODE_SECONDS, address=place.grpc)
    except (TimedOutError, UnavailableError) as error:
        silent[place.node_id] = str(error)
        return None, str(error)
    except QuorumFSError as error:
        return None, str(error)
    return info.file or None, ""


def _extent(one: Location, files: Files) -> dict[str, Any]:
    replicas = []
    for place in one.replicas:
        file, error = files[place.node_id, one.chunk]
        replica: dict[str, Any] = {
            "node_id": place.node_id,
            "state": place.state,
            "file": file,
            "disk_id": place.disk_id,
        }
        replicas.append({**replica, "error": error} if error else replica)
    return {
        "offset": one.offset,
        "length": one.length,
        "chunk": one.chunk,
        "chunk_offset": one.chunk_offset,
        "inline": one.inline,
        "replicas": replicas,
    }


def _extent_lines(data: dict[str, Any]) -> Iterator[str]:
    yield f"{printable(data['path'])}  {data['size_bytes']} bytes"
    for one in data["extents"]:
        yield f"  {one['offset']}+{one['length']}  chunk {one['chunk']}+{one['chunk_offset']}"
        if one["inline"]:
            yield "    in the metadata, on every coordinator"
        for replica in one["replicas"]:
            yield f"    {replica['node_id']}  {replica['state']}  {cell(replica['file'])}"
