"""An open sealed chunk: ranges of its data and their stored checksums. Who uses the data verifies it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from datanode.store import layout
from datanode.store.disk import Disk
from datanode.store.layout import BLOCK_BYTES, HEADER_BYTES, Header
from quorumfs import limits
from quorumfs.checksum import CHECKSUM_BYTES, verify_blocks
from quorumfs.errors import IntegrityError
from quorumfs.ids import ChunkId


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of reading every byte. `first_bad_offset` means something only when not `ok`.

    `inode`: the file that was read; 0 if that cannot be told.
    """

    ok: bool
    length: int = 0
    checksum: int = 0
    detail: str = ""
    first_bad_offset: int = 0
    inode: int = 0


class ChunkReader:
    """Used by one thread at a time; keeps a descriptor open until closed."""

    def __init__(self, disk: Disk, fd: int, header: Header, table: bytes) -> None:
        self.header = header
        self._disk = disk
        self._fd = fd
        self._table = table

    @property
    def length(self) -> int:
        return self.header.length

    @property
    def descriptor(self) -> int:
        """Of the whole file, for reading; good until this is closed."""
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of the data at `offset`. Raises IntegrityError when they cannot be had."""
        try:
            data = self._disk.files.read(self._fd, length, HEADER_BYTES + offset)
        except OSError as error:
            raise self._disk.translate_read(error, self.header.chunk) from error
        if len(data) != length:
            raise _torn(self.header.chunk, f"{len(data)} of {length} bytes at {offset}")
        return data

    def checksums(self, offset: int, length: int) -> bytes:
        """The stored checksums of the blocks of [offset, offset + length); `offset` begins a block."""
        first = offset // BLOCK_BYTES
        last = -(-(offset + length) // BLOCK_BYTES)
        return self._table[first * CHECKSUM_BYTES : last * CHECKSUM_BYTES]

    def first_bad(self, offset: int, length: int) -> int | None:
        """Where the first block of a range is that does not match its stored checksum; None if all do.

        `offset` begins a block. Raises IntegrityError when the disk does not give the bytes.
        """
        bad = verify_blocks(self.read(offset, length), self.checksums(offset, length))
        return None if bad is None else offset + bad * BLOCK_BYTES

    def verify(self) -> Verdict:
        """Read everything. The table composes to the chunk's checksum (opening has seen to it), so good
        blocks are the good whole."""
        for offset in range(0, self.length, limits.FRAME_BYTES):
            try:
                bad = self.first_bad(offset, min(limits.FRAME_BYTES, self.length - offset))
            except IntegrityError as error:
                return Verdict(False, self.length, self.header.checksum, str(error), offset)
            if bad is not None:
                detail = f"the block at {bad} does not match its checksum"
                return Verdict(False, self.length, self.header.checksum, detail, bad)
        return Verdict(True, self.length, self.header.checksum)

    def close(self) -> None:
        if self._fd >= 0:
            self._disk.files.close(self._fd)
            self._fd = -1

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_chunk(disk: Disk, fd: int, chunk: ChunkId) -> ChunkReader:
    """A reader over `fd`, which it owns from here on, also when this raises.

    Raises IntegrityError for a file that is torn, damaged, or another chunk's; BusyError.
    """
    began = time.monotonic()
    try:
        header = layout.decode_header(disk.files.read(fd, HEADER_BYTES, 0), chunk)
        size = disk.files.size(fd)
        if size != layout.file_size(header.length):
            raise _torn(chunk, f"{size} bytes, {layout.file_size(header.length)} expected")
        raw = disk.files.read(fd, layout.trailer_size(header.length), HEADER_BYTES + header.length)
        disk.took("read", time.monotonic() - began)
        return ChunkReader(disk, fd, header, layout.decode_trailer(raw, header))
    except OSError as error:
        disk.files.close(fd)
        raise disk.translate_read(error, chunk) from error
    except BaseException:
        disk.files.close(fd)
        raise


def _torn(chunk: ChunkId, cause: str) -> IntegrityError:
    return IntegrityError(
        f"the file of chunk {chunk.hex()} is not whole here",
        cause=cause,
        next="read another replica; this one is checked and replaced",
        ids={"chunk": chunk.hex()},
    )
