"""Deletes that are void: for some chunks, condemnations at or below a log index no longer count.

Restoring a chunk voids what condemned it (decisions 20). An order to delete may still be on its way, so the
restore is written down here, on the chunk's disk, before it is answered. Records are appended and synced,
each with its own CRC; a torn last one was never answered and is cut off at the next start.
"""

from __future__ import annotations

import struct
import threading

from datanode.store.disk import Disk
from quorumfs.checksum import crc32c
from quorumfs.ids import ChunkId

FILE = "holds.log"

_RECORD = struct.Struct("<16sQ")
_CRC = struct.Struct("<I")
_SIZE = _RECORD.size + _CRC.size


def encode(chunk: ChunkId, void_below_index: int) -> bytes:
    body = _RECORD.pack(chunk, void_below_index)
    return body + _CRC.pack(crc32c(body))


def decode(raw: bytes) -> tuple[dict[ChunkId, int], int]:
    """({chunk: highest void index}, length in bytes of the good beginning)."""
    found: dict[ChunkId, int] = {}
    for at in range(0, len(raw) - _SIZE + 1, _SIZE):
        body = raw[at : at + _RECORD.size]
        if crc32c(body) != _CRC.unpack_from(raw, at + _RECORD.size)[0]:
            return found, at
        chunk, index = _RECORD.unpack(body)
        found[ChunkId(chunk)] = max(index, found.get(ChunkId(chunk), 0))
    return found, len(raw) - len(raw) % _SIZE


class Holds:
    """The holds of one disk. Thread-safe."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._indexes: dict[ChunkId, int] = {}
        self._end = 0

    def load(self) -> None:
        """Raises OSError if the file is there and cannot be read."""
        try:
            raw = (self._disk.path / FILE).read_bytes()
        except FileNotFoundError:
            raw = b""
        self._indexes, self._end = decode(raw)

    def void_below(self, chunk: ChunkId) -> int:
        """Condemnations of `chunk` at or below this index are void; 0 if there is no hold."""
        return self._indexes.get(chunk, 0)

    def add(self, chunk: ChunkId, void_below_index: int) -> None:
        """Durable on return. Raises OSError."""
        with self._lock:
            if void_below_index <= self._indexes.get(chunk, 0):
                return
            path = self._disk.path / FILE
            with path.open("r+b" if path.exists() else "x+b", buffering=0) as file:
                record = encode(chunk, void_below_index)
                self._disk.files.write(file.fileno(), record, self._end)
                self._disk.files.sync_data(file.fileno())
            if self._end == 0:
                self._disk.sync_directory(self._disk.path)
            self._end += len(record)
            self._indexes[chunk] = void_below_index
