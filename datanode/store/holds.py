"""Deletes that are void: for some chunks, condemnations at or below a log index no longer count.

1. Restoring a chunk voids what condemned it (docs/decisions/0008). An order to delete may still be on its way, so the
   restore is written down here, on the chunk's disk, before it is answered. Records are appended and synced,
   each with its own CRC; a torn last one was never answered and is cut off at the next start. One that is damaged with
   good ones behind it was answered, and is lost: that is told, and those behind it count.
2. An index belongs to a history. A hold of an earlier one says that somebody restored the chunk in a log that the
   present leader may not have seen: it stands until that leader says that an operator has released the chunk.
3. `holds.log`, of versions before, knows no histories; it is read and not written any more. What it has counts by the
   index alone.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from common import log
from datanode.store.disk import Disk
from quorumfs.checksum import crc32c
from quorumfs.ids import ChunkId

FILE = "holds-2.log"
OLD_FILE = "holds.log"
UNKNOWN = 0
"""The history of a hold that an earlier version wrote."""

_OLD_RECORD = struct.Struct("<16sQ")
_RECORD = struct.Struct("<16sQQ")
_CRC = struct.Struct("<I")
_log = log.get(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Hold:
    """Condemnations up to the index are void; in that history, and in later ones all that are not released."""

    history: int
    void_below_index: int


def encode(chunk: ChunkId, hold: Hold) -> bytes:
    body = _RECORD.pack(chunk, hold.history, hold.void_below_index)
    return body + _CRC.pack(crc32c(body))


def decode(raw: bytes) -> tuple[dict[ChunkId, Hold], int]:
    """({chunk: the last hold}, where the last good record ends in bytes)."""
    return _decode(raw, _RECORD)


def damaged(raw: bytes) -> int:
    """How many records do not match their CRC."""
    return sum(body is None for _, body in _records(raw, _RECORD))


def decode_old(raw: bytes) -> dict[ChunkId, Hold]:
    """What the file of a version before says."""
    return _decode(raw, _OLD_RECORD)[0]


def _decode(raw: bytes, record: struct.Struct) -> tuple[dict[ChunkId, Hold], int]:
    found: dict[ChunkId, Hold] = {}
    end = 0
    for behind, body in _records(raw, record):
        if body is None:
            continue
        chunk, *numbers = record.unpack(body)
        hold = Hold(*numbers) if record is _RECORD else Hold(UNKNOWN, *numbers)
        found[ChunkId(chunk)] = max(hold, found.get(ChunkId(chunk), hold))
        end = behind
    return found, end


def _records(raw: bytes, record: struct.Struct) -> Iterator[tuple[int, bytes | None]]:
    """(where it ends, its body) of each whole record; None: it does not match its CRC."""
    size = record.size + _CRC.size
    for at in range(0, len(raw) - size + 1, size):
        body = raw[at : at + record.size]
        matches = crc32c(body) == _CRC.unpack_from(raw, at + record.size)[0]
        yield at + size, body if matches else None


class Holds:
    """The holds of one disk. Thread-safe."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._holds: dict[ChunkId, Hold] = {}
        self._end = 0

    def load(self) -> None:
        """Raises OSError if the file is there and cannot be read."""
        raw = self._read(FILE)
        found, self._end = decode(raw)
        if lost := damaged(raw[: self._end]):
            _log.error("holds.damaged", path=str(self._disk.path / FILE), lost=lost)
        self._holds = {**decode_old(self._read(OLD_FILE)), **found}

    def _read(self, name: str) -> bytes:
        try:
            return (self._disk.path / name).read_bytes()
        except FileNotFoundError:
            return b""

    def of(self, chunk: ChunkId) -> Hold | None:
        return self._holds.get(chunk)

    def add(self, chunk: ChunkId, hold: Hold) -> None:
        """Durable on return; nothing happens when a later one stands. Raises OSError."""
        with self._lock:
            before = self._holds.get(chunk)
            if before is not None and hold <= before:
                return
            path = self._disk.path / FILE
            with path.open("r+b" if path.exists() else "x+b", buffering=0) as file:
                record = encode(chunk, hold)
                self._disk.files.write(file.fileno(), record, self._end)
                self._disk.files.sync_data(file.fileno())
            if self._end == 0:
                self._disk.sync_directory(self._disk.path)
            self._end += len(record)
            self._holds[chunk] = hold
