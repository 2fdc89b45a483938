"""Moves a large file, in a process of its own: `put`, `get`, `read` by the library, and the same by plain files.

`read` is a short-circuit read, `read over gRPC` is not; `loopback read` is what a bare socket gives (its source is a
port, its target a size), `raw chain` what bare sockets write to three disks (its target are ports). `mounted read` is a
`local read` of a file that this machine's page cache does not hold, so that it comes from the servers. `object put` and
`object read` are those of an object store, whose place (objects.py) is the target, or the source. Pieces are of 1 MiB,
of a `long` read 4 MiB, and read into memory that begins at a page, of a `plain` read into memory as malloc gives it for
a large bytearray (README.md).

Run as a child (children.py) with `{"coordinators": "host:port,..."}`; a command is `{"verb", "source", "target"}`.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import loopback, raw_chain
from benchmarks.children import serve
from benchmarks.objects import Objects
from benchmarks.tally import Stopwatch
from quorumfs import Client
from quorumfs.allocator import keep_freed_memory

_PIECE_BYTES = 1 << 20
_LONG_PIECE_BYTES = 4 << 20
_BEHIND_PAGE_BYTES = 16  # where malloc, as it comes, puts what is large
_OBJECT = "large"


class Transfers:
    """One Client, as `dfsctl` has one, with its allocator's thresholds."""

    def __init__(self, coordinators: str) -> None:
        self._client = Client(coordinators)
        self._over_grpc = Client(coordinators, short_circuit=False)

    def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        verbs: dict[str, Callable[[str, str], object]] = {
            "put": self._client.put,
            "get": self._client.get,
            "read": lambda source, _: read_remote(self._client, source),
            "read over gRPC": lambda source, _: read_remote(self._over_grpc, source),
            "long read": lambda source, _: read_remote(self._client, source, _LONG_PIECE_BYTES),
            "plain read": lambda source, _: read_remote(self._client, source, behind_page=_BEHIND_PAGE_BYTES),
            "loopback read": loopback.fetch,
            "raw chain": raw_chain.store,
            "local write": write_through,
            "local read": read_local,
            "long local read": lambda source, _: read_local(source, "", _LONG_PIECE_BYTES),
            "plain local read": lambda source, _: read_local(source, "", behind_page=_BEHIND_PAGE_BYTES),
            "mounted read": read_local,
            "object put": lambda source, place: Objects(place).put_file(_OBJECT, source),
            "object read": lambda place, _: Objects(place).get(_OBJECT),
        }
        verb = verbs[command["verb"]]
        if command["verb"] == "mounted read":
            forget_pages(command["source"])
        watch = Stopwatch()
        verb(command["source"], command["target"])
        wall_seconds, cpu_seconds = watch.read()
        return {"wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds}


def read_remote(client: Client, source: str, piece_bytes: int = _PIECE_BYTES, behind_page: int = 0) -> None:
    """All of it, verified, into memory that is used again."""
    with client.open(source, "rb") as file, _memory(piece_bytes, behind_page) as piece:
        while file.readinto(piece):
            pass


def write_through(source: str, target: str) -> None:
    """A copy by read and write, fsynced: one replica, no checksum, no network."""
    with open(source, "rb", buffering=0) as file, open(target, "wb", buffering=0) as copy:
        while piece := file.read(_PIECE_BYTES):
            copy.write(piece)
        os.fsync(copy.fileno())


def read_local(source: str, _: str, piece_bytes: int = _PIECE_BYTES, behind_page: int = 0) -> None:
    """All of a file from the page cache."""
    with open(source, "rb", buffering=0) as file, _memory(piece_bytes, behind_page) as piece:
        while file.readinto(piece):
            pass


@contextmanager
def _memory(size: int, behind_page: int) -> Iterator[memoryview]:
    """`size` bytes that begin so many behind the beginning of a page."""
    with mmap.mmap(-1, size + behind_page) as pages, memoryview(pages) as whole, whole[behind_page:] as piece:
        yield piece


def forget_pages(path: str) -> None:
    """This machine's page cache holds nothing of the file any more, as far as it has been written back."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def make_source(path: Path, size: int) -> None:
    """A file of random bytes, in the page cache."""
    with open(path, "wb") as file:
        for _ in range(0, size, _PIECE_BYTES):
            file.write(os.urandom(_PIECE_BYTES))


def main() -> None:
    keep_freed_memory()
    serve(Transfers(json.loads(sys.argv[1])["coordinators"]).handle)


if __name__ == "__main__":
    main()
