"""Bytes in and out: put, get, cat, head, tail."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from dfsctl.errors import LocalError, advised, printable
from dfsctl.local_tree import refuse_existing
from dfsctl.output import show
from dfsctl.progress import meter
from dfsctl.remote import below, clean, full_entry, name_of, parent_of
from dfsctl.shell import Settings, command, settings
from dfsctl.trees import Wishes, get_tree, put_file, put_tree
from quorumfs.errors import InvalidArgumentError, NotFoundError
from quorumfs.limits import MIB, REPLICATION_MAX

if TYPE_CHECKING:
    from quorumfs import Client

_PIECE_BYTES = 1 * MIB
_TAIL_BYTES = 64 * 1024


class _LocalPath(click.Path):
    """A path as the shell gives it; an empty one is a variable that is not set, and not the present directory."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, allow_dash=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("the path is empty; for the present directory say .", param, ctx)
        return super().convert(value, param, ctx)


local_source = click.argument("source", metavar="LOCAL", type=_LocalPath())


@command()
@local_source
@click.argument("target", metavar="REMOTE")
@click.option("-r", "--recursive", is_flag=True, help="A tree: LOCAL's children become children of REMOTE.")
@click.option("--no-clobber", is_flag=True, help="Refuse to replace what is there (exit code 4).")
@click.option("-p", "--parents", is_flag=True, help="Make missing directories above REMOTE.")
@click.option(
    "--replication", type=click.IntRange(1, REPLICATION_MAX), default=None, help="Replicas of each chunk."
)
def put(
    source: Path, target: str, recursive: bool, no_clobber: bool, parents: bool, replication: int | None
) -> None:
    """Store a local file, stdin (-), or with -r a tree. What is there is replaced atomically.

    A REMOTE that ends in / is a directory: the file keeps its name in it.
    """
    given = settings()
    wishes = Wishes(no_clobber, parents, replication or 0)
    is_stdin = str(source) == "-"
    if is_stdin and sys.stdin is None:
        raise LocalError("stdin is closed", next="pipe something into it, or name a file")
    mode = 0 if is_stdin else source.stat().st_mode
    if target.endswith("/") and not is_stdin and not stat.S_ISDIR(mode):
        target = below(target, source.name)
    path = clean(target)
    if stat.S_ISDIR(mode) and not recursive:
        raise InvalidArgumentError(f"{printable(str(source))} is a directory", next="add -r to store a tree")
    if not is_stdin and not stat.S_ISDIR(mode):
        _require_plain(source, mode)
    with given.client() as client:
        if stat.S_ISDIR(mode):
            done = put_tree(client, source, path, wishes, lambda total: meter(given, path, total))
            show(given, done, lambda: ())
            return
        if parents:
            client.makedirs(parent_of(path))
        with advised(NotFoundError, "add -p to make what is missing above it"):
            status = _put_one(given, client, source, path, wishes, is_stdin)
    show(given, full_entry(status), lambda: ())


def _put_one(given: Settings, client: Client, source: Path, path: str, wishes: Wishes, is_stdin: bool) -> Any:
    if not is_stdin:
        with meter(given, path, source.stat().st_size) as progress:
            return put_file(client, source, path, wishes, progress)
    with meter(given, path, None) as progress:
        return client.put(
            sys.stdin.buffer,
            path,
            if_absent=wishes.no_clobber,
            replication=wishes.replication,
            progress=progress.file(),
        )


def _require_plain(source: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InvalidArgumentError(
            f"{printable(str(source))} is neither a file nor a directory",
            cause="sockets, pipes and devices cannot be stored",
            next="pipe its content into: dfsctl put - REMOTE",
        )


@command()
@click.argument("source", metavar="REMOTE")
@click.argument("target", metavar="[LOCAL]", default=".", type=_LocalPath())
@click.option("-r", "--recursive", is_flag=True, help="A tree: REMOTE's children become children of LOCAL.")
@click.option("--no-clobber", is_flag=True, help="Refuse to replace what is there (exit code 4).")
@click.option("-p", "--parents", is_flag=True, help="Make missing directories above LOCAL.")
def get(source: str, target: Path, recursive: bool, no_clobber: bool, parents: bool) -> None:
    """Fetch a file (LOCAL - is stdout), or with -r a tree. Nothing is written through links."""
    given = settings()
    path = clean(source)
    if str(target) == "-":
        _write_out(given, (path,))
        return
    with given.client() as client:
        status = client.stat(path)
        if status.is_directory and not recursive:
            raise InvalidArgumentError(f"{printable(path)} is a directory", next="add -r to fetch a tree")
        if status.is_directory:
            wishes = Wishes(no_clobber, parents)
            done = get_tree(client, path, target, wishes, lambda total: meter(given, path, total))
            show(given, done, lambda: ())
            return
        target = target / name_of(path) if target.is_dir() and not target.is_symlink() else target
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        if no_clobber:
            refuse_existing(target)
        with meter(given, path, status.size_bytes) as progress:
            got = client.get(path, target, progress=progress.file())
    show(given, {**full_entry(got), "local": os.fspath(target)}, lambda: ())


@command()
@click.argument("paths", metavar="REMOTE...", nargs=-1, required=True)
def cat(paths: tuple[str, ...]) -> None:
    """Write files to stdout, one after the other."""
    _write_out(settings(), tuple(clean(path) for path in paths))


def _write_out(given: Settings, paths: tuple[str, ...]) -> None:
    out = sys.stdout.buffer
    with given.client() as client:
        for path in paths:
            with client.open(path, "rb") as file:
                _copy(file, out)
    out.flush()


def _copy(file: BinaryIO | io.BufferedReader, out: BinaryIO, most: int | None = None) -> None:
    left = most
    while left is None or left > 0:
        data = file.read(_PIECE_BYTES if left is None else min(_PIECE_BYTES, left))
        if not data:
            return
        out.write(data)
        left = None if left is None else left - len(data)


lines_option = click.option("-n", "--lines", type=click.IntRange(min=0), default=10, help="How many lines.")
bytes_option = click.option(
    "-c", "--bytes", "count", type=click.IntRange(min=0), help="How many bytes instead."
)


@command()
@click.argument("path", metavar="REMOTE")
@lines_option
@bytes_option
def head(path: str, lines: int, count: int | None) -> None:
    """The first lines (10) or bytes of a file; no more of it is read."""
    with settings().client() as client, client.open(clean(path), "rb") as file:
        out = sys.stdout.buffer
        if count is not None:
            _copy(file, out, count)
        else:
            for _ in range(lines):
                line = file.readline()
                if not line:
                    break
                out.write(line)
        out.flush()


@command()
@click.argument("path", metavar="REMOTE")
@lines_option
@bytes_option
def tail(path: str, lines: int, count: int | None) -> None:
    """The last lines (10) or bytes of a file; only its end is read."""
    with settings().client() as client, client.open(clean(path), "rb") as file:
        size = file.seek(0, io.SEEK_END)
        start = max(0, size - count) if count is not None else start_of_last_lines(file, size, lines)
        file.seek(start)
        _copy(file, sys.stdout.buffer, size - start)
        sys.stdout.buffer.flush()


def start_of_last_lines(file: BinaryIO | io.BufferedReader, size: int, lines: int) -> int:
    """Where the last `lines` lines of a file of `size` bytes begin; read backwards, block by block."""
    if lines == 0 or size == 0:
        return size
    ends: deque[int] = deque()  # where lines begin, nearest to the end of the file last
    block_end = size - 1  # a newline at the very end ends the last line, and begins none
    while block_end > 0 and len(ends) < lines:
        block_start = max(0, block_end - _TAIL_BYTES)
        file.seek(block_start)
        block = file.read(block_end - block_start)
        at = len(block)
        while len(ends) < lines and (at := block.rfind(b"\n", 0, at)) >= 0:
            ends.appendleft(block_start + at + 1)
        block_end = block_start
    return ends[0] if len(ends) == lines else 0
