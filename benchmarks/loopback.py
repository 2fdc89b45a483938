"""A file over loopback TCP, as fast as the kernel can: sendfile on one side, recv_into and CRC32C on the other.

`python -m benchmarks.loopback FILE` serves it to whoever connects, until its stdin ends; it prints its port first.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.children import ROOT
from quorumfs.checksum import crc32c

_PIECE_BYTES = 1 << 20
_SECONDS_MAX = 120.0


@contextmanager
def serving(source: Path) -> Iterator[str]:
    """The port of a process that serves the file."""
    command = [sys.executable, "-m", "benchmarks.loopback", str(source)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin
        assert server.stdout
        try:
            yield server.stdout.readline().decode().strip()
        finally:
            server.stdin.close()


def fetch(port: str, size_bytes: str) -> None:
    """All of the file, checked as it comes, into memory that is used again."""
    size = int(size_bytes)
    piece = memoryview(mmap.mmap(-1, _PIECE_BYTES))  # begins at a page, as all that is read into here
    with socket.create_connection(("127.0.0.1", int(port)), _SECONDS_MAX) as connection:
        while size:
            wanted = min(size, _PIECE_BYTES)
            got = connection.recv_into(piece, wanted, socket.MSG_WAITALL)
            if not got:
                raise EOFError(f"{size} bytes did not come")
            crc32c(piece[:got])
            size -= got


def _serve(listener: socket.socket, path: str) -> None:
    while True:
        connection, _ = listener.accept()
        with connection, open(path, "rb") as file:
            connection.sendfile(file)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, sys.argv[1]), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        os.read(0, 1)


if __name__ == "__main__":
    main()
