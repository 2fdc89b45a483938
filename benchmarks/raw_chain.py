"""Chunks along a chain of bare sockets onto three disks, durable: what the replicated write would cost without gRPC.

`python -m benchmarks.raw_chain DIR` is one node: it serves until its stdin ends, and prints its port first. A chunk
comes as frames of 1 MiB with their CRC32C, is passed on to the next node, verified, written, and fdatasynced before
the answer, which comes after that of the node behind. The sender has as many chunks in flight as our client.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import ROOT
from datanode.store.files import Files
from quorumfs.checksum import crc32c
from quorumfs.limits import CHUNK_SIZE_BYTES, CHUNKS_IN_FLIGHT
from quorumfs.local.processes import MALLOC_ENVIRONMENT

_PIECE_BYTES = 1 << 20
_WRITE_BACK_BYTES = 8 << 20
_SECONDS_MAX = 120.0
_FRAME = struct.Struct("<IIQ")  # length, CRC32C, offset; length 0 ends the chunk
_OPENING = struct.Struct("<I")
_DONE = b"ok"


@dataclass(frozen=True, slots=True)
class ChainNode:
    """A process that keeps chunks."""

    pid: int
    port: int


@contextmanager
def chain_of(directories: Sequence[Path]) -> Iterator[list[ChainNode]]:
    """A node for each directory, which is made; all are gone at the end of the block."""
    with ExitStack() as stack:
        yield [stack.enter_context(_node(directory)) for directory in directories]


@contextmanager
def _node(directory: Path) -> Iterator[ChainNode]:
    directory.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.raw_chain", str(directory)]
    environment = {**os.environ, **MALLOC_ENVIRONMENT}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield ChainNode(process.pid, int(process.stdout.readline()))
        finally:
            process.stdin.close()


def store(source: str, ports: str) -> None:
    """All of the file `source` along the nodes at `ports` ("1,2,3"), each chunk beginning at another one."""
    row = [int(port) for port in ports.split(",")]
    size = os.path.getsize(source)  # noqa: PTH202
    with open(source, "rb", buffering=0) as file, ThreadPoolExecutor(CHUNKS_IN_FLIGHT) as pool:
        starts = range(0, size, CHUNK_SIZE_BYTES)
        turns = [row[k % len(row) :] + row[: k % len(row)] for k in range(len(starts))]
        stops = [min(size, start + CHUNK_SIZE_BYTES) for start in starts]
        list(
            pool.map(lambda start, stop, turn: _send(file.fileno(), start, stop, turn), starts, stops, turns)
        )


def _send(fd: int, start: int, stop: int, row: Sequence[int]) -> None:
    piece = memoryview(bytearray(_PIECE_BYTES))
    with _connect(row[0], f"{start:020d}", row[1:]) as connection:
        for at in range(start, stop, _PIECE_BYTES):
            view = piece[: min(_PIECE_BYTES, stop - at)]
            if os.preadv(fd, [view], at) != len(view):
                raise EOFError("the source became shorter")
            _send_all(connection, _FRAME.pack(len(view), crc32c(view), at - start), view)
        connection.sendall(_FRAME.pack(0, 0, 0))
        _expect_done(connection)


def _connect(port: int, name: str, behind: Sequence[int]) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), _SECONDS_MAX)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = json.dumps([name, list(behind)]).encode()
    connection.sendall(_OPENING.pack(len(body)) + body)
    return connection


def _send_all(connection: socket.socket, head: bytes, data: memoryview) -> None:
    sent = connection.sendmsg([head, data])
    if sent < len(head):
        connection.sendall(head[sent:])
        sent = len(head)
    connection.sendall(data[sent - len(head) :])


def _expect_done(connection: socket.socket) -> None:
    if connection.recv(len(_DONE), socket.MSG_WAITALL) != _DONE:
        raise EOFError("the chain broke")


def _receive(connection: socket.socket, view: memoryview) -> memoryview:
    got = 0
    while got < len(view):
        count = connection.recv_into(view[got:], len(view) - got, socket.MSG_WAITALL)
        if not count:
            raise EOFError("the sender went away")
        got += count
    return view


def _serve(connection: socket.socket, directory: Path) -> None:
    files = Files()
    head, piece = memoryview(bytearray(_FRAME.size)), memoryview(bytearray(_PIECE_BYTES))
    with connection, ExitStack() as stack:
        (length,) = _OPENING.unpack(_receive(connection, memoryview(bytearray(_OPENING.size))))
        name, behind = json.loads(bytes(_receive(connection, memoryview(bytearray(length)))))
        next_one = stack.enter_context(_connect(behind[0], name, behind[1:])) if behind else None
        temporary = directory / f"{name}.tmp"
        fd = files.create(temporary)
        stack.callback(files.close, fd)
        handed_back = 0
        while True:
            length, checksum, offset = _FRAME.unpack(_receive(connection, head))
            if not length:
                break
            data = _receive(connection, piece[:length])
            if next_one is not None:
                _send_all(next_one, bytes(head), data)
            if crc32c(data) != checksum:
                raise ValueError("a frame does not match its checksum")
            files.write(fd, data, offset)
            if offset + length - handed_back >= _WRITE_BACK_BYTES:
                files.start_writing_back(fd, handed_back, offset + length - handed_back)
                handed_back = offset + length
        if next_one is not None:
            next_one.sendall(bytes(head))
        files.sync_data(fd)
        files.rename(temporary, directory / name)
        if next_one is not None:
            _expect_done(next_one)
        connection.sendall(_DONE)


def main() -> None:
    directory = Path(sys.argv[1])

    def accept(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(connection, directory), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        os.read(0, 1)


if __name__ == "__main__":
    main()
