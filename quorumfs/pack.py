"""Packs: one chunk for many small files, and the upload that protects it until they are made.

1. The bytes of the files stand in the chunk one after the other; each file is a range of it.
2. One upload serves all packs of a call. It has a name in the root at which nothing ever appears: it is aborted at
   the end, and then its chunks stand on their files alone. Those without files are garbage, as is all of it when
   the client dies and the upload expires.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from quorumfs.errors import QuorumFSError
from quorumfs.keepalive import KeepAlive
from quorumfs.namespace import Namespace
from quorumfs.ops import NewFile
from quorumfs.send_chunks import ChunkSender, before_the_commit
from quorumfs.sources import BytesSource
from quorumfs.store_chunk import Tally
from quorumfs.upload import Uploader
from quorumfs.v1 import namespace_pb2

_FEW_PACKS = 4


@dataclass(frozen=True, slots=True)
class PackFile:
    """A small file that is to be stored."""

    new: NewFile
    body: bytes
    checksum: int


@dataclass(frozen=True, slots=True)
class StoredPack:
    """A sealed chunk, and which range of it each file is, in their order."""

    chunk: namespace_pb2.SealedChunk
    ranges: tuple[namespace_pb2.Packed, ...]

    @property
    def upload(self) -> bytes:
        return self.ranges[0].upload


class PackUpload:
    """Stores packs with so many replicas, under one upload at a time. Any thread may call; `close` once, at last."""

    def __init__(
        self, uploader: Uploader, namespace: Namespace, keep_alive: KeepAlive, replication: int
    ) -> None:
        self._uploader = uploader
        self._namespace = namespace
        self._keep_alive = keep_alive
        self._replication = replication
        self._held = ExitStack()
        self._open: tuple[bytes, ChunkSender] | None = None
        self._opened: list[bytes] = []
        self._packs = 0
        self._lock = threading.Lock()

    def store(self, files: Sequence[PackFile], patience_seconds: float, more: bool = False) -> StoredPack:
        """Their bytes as a chunk, durable on enough datanodes; no file is made yet. `more`: another pack follows for
        sure; then chunks are allocated for more than this one at once, the more, the more packs there were.

        Raises NoPlacementError, NoSpaceError, UploadGoneError, UnavailableError, NoLeaderError and the like.
        """
        upload, sender = self._current()
        data = b"".join(file.body for file in files)
        (body,) = BytesSource(data).bodies(len(data))
        sender.expect(self._ahead() if more else 1, len(data))
        try:
            sealed = sender.send(body, patience_seconds)
        except QuorumFSError:
            self.renew(upload)  # its sender may have given up for good
            raise
        return StoredPack(sealed, layout(upload, sealed.chunk, [len(file.body) for file in files]))

    def _ahead(self) -> int:
        with self._lock:
            self._packs += 1
            return 2 if self._packs <= _FEW_PACKS else 4

    def renew(self, upload: bytes) -> None:
        """`upload` is of no more use: the next pack opens another."""
        with self._lock:
            if self._open is not None and self._open[0] == upload:
                self._open = None

    def cancel(self) -> None:
        """End what is under way."""
        with self._lock:
            current = self._open
        if current is not None:
            current[1].cancel()

    def _current(self) -> tuple[bytes, ChunkSender]:
        with self._lock:
            if self._open is None:
                name = b"/.quorumfs-pack-" + secrets.token_hex(8).encode()
                with before_the_commit():
                    opened = self._namespace.open_upload(NewFile(name, replication=self._replication))
                self._opened.append(opened.upload)
                self._held.enter_context(self._keep_alive.holding(opened.upload))
                self._open = opened.upload, self._uploader.sender(opened, Tally(None))
            return self._open

    def close(self) -> None:
        """End the uploads. One that cannot be ended now expires by itself."""
        with self._lock:
            self._held.close()
            opened, self._opened, self._open = self._opened, [], None
        for upload in opened:
            with suppress(QuorumFSError):
                self._namespace.abort(upload)


def layout(upload: bytes, chunk: bytes, lengths: Sequence[int]) -> tuple[namespace_pb2.Packed, ...]:
    """One range per length, one after the other from the beginning of the chunk."""
    ranges = []
    at = 0
    for length in lengths:
        ranges.append(namespace_pb2.Packed(upload=upload, chunk=chunk, chunk_offset=at, length=length))
        at += length
    return tuple(ranges)
