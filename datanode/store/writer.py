"""A chunk on its way to the disk: blocks verified as they come, sealed at the end, or nothing.

1. Data goes to a temporary name, in order, each block checked against the checksum that came with it before
   it counts. Every 8 MiB the kernel is told to begin writing back, so that the final sync has little to do. What nobody
   is likely to read soon goes past the page cache instead (direct.py).
2. `seal` writes trailer and header, syncs the file, and hands it to the store to be named and counted.
3. Whatever goes wrong, the temporary file is removed; what a crash leaves is removed at the next start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datanode.store import layout
from datanode.store.disk import Disk
from datanode.store.layout import BLOCK_BYTES, HEADER_BYTES, Birth, Header
from quorumfs import limits
from quorumfs.checksum import compose, verify_blocks
from quorumfs.errors import IntegrityError, InvalidArgumentError, TooLargeError
from quorumfs.ids import ChunkId, UploadId

WRITE_BACK_BYTES = 8 * limits.MIB


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """A replica on this node. `file` is its absolute path."""

    header: Header
    disk_id: str
    file: str
    quarantined: bool = False


Publish = Callable[[Disk, Path, Header], ChunkInfo]


class ChunkWriter:
    """One chunk being written by one thread. Ends with `seal` or `abort`; both may be called again."""

    def __init__(
        self,
        disk: Disk,
        path: Path,
        identity: tuple[ChunkId, UploadId, Birth],
        promised_bytes: int,
        publish: Publish,
        direct_bytes: int = 0,
    ) -> None:
        """Creates the file. `direct_bytes`: so many come, and may go past the page cache.

        Raises NoSpaceError, BusyError, UnavailableError.
        """
        self.disk = disk
        self.length = 0
        self._chunk, self._upload, self._birth = identity
        self._path = path
        self._promised_bytes = 0
        self._publish = publish
        self._table = bytearray()
        self._handed_back = 0
        self._fd = -1
        self._promise(promised_bytes)
        try:
            self._fd = disk.files.create(path)
        except OSError as error:
            self._give_up_promise()
            raise disk.translate(error, self._doing("beginning")) from error
        self._direct = disk.direct.begin(self._fd, HEADER_BYTES, direct_bytes) if disk.direct else None

    def append(self, offset: int, data: bytes | memoryview, block_checksums: bytes | memoryview) -> None:
        """The next bytes, with the CRC32C of each of their blocks. Only the last may end inside a block.

        Raises InvalidArgumentError out of order, IntegrityError for a block that does not match, NoSpaceError
        and UnavailableError when the disk refuses. After any error nothing can follow but `abort`.
        """
        self._check_place(offset, len(data))
        bad = verify_blocks(data, block_checksums)
        if bad is not None:
            raise IntegrityError(
                f"bytes of chunk {self._chunk.hex()} were damaged on their way here",
                cause=f"the block at {offset + bad * BLOCK_BYTES} does not match its checksum",
                next="send the chunk again",
            )
        missing = layout.file_size(offset + len(data)) - self._promised_bytes
        if missing > 0:  # more comes than was announced
            self._promise(max(missing, WRITE_BACK_BYTES))
        try:
            if self._direct is not None:
                self._direct.append(data)
            else:
                self.disk.files.write(self._fd, data, HEADER_BYTES + offset)
        except OSError as error:
            raise self.disk.translate(error, self._doing("writing")) from error
        self._table += block_checksums
        self.length += len(data)
        self._write_back()

    def seal(self, length: int, checksum: int) -> ChunkInfo:
        """The chunk is whole, durable and known on return: file and directory entry are synced.

        Raises IntegrityError if length or checksum are not those of what came, PreconditionFailedError if
        the id is sealed here with other content, NoSpaceError or UnavailableError when the disk refuses.
        """
        began = time.monotonic()
        try:
            self._check_whole(length, checksum)
            header = Header(self._chunk, self._upload, self._birth, length, checksum)
            try:
                self._write_sealed(header)
            except OSError as error:
                raise self.disk.translate(error, self._doing("sealing")) from error
            self._close()
            info = self._publish(self.disk, self._path, header)
        except BaseException:
            self.abort()
            raise
        self._give_up_promise()
        self.disk.took("write", time.monotonic() - began)
        return info

    def abort(self) -> None:
        """Nothing of it remains. Never raises: a file that cannot be removed goes at the next start."""
        self._close()
        self._give_up_promise()
        try:
            self.disk.files.remove(self._path)
        except OSError:
            pass

    def _check_place(self, offset: int, length: int) -> None:
        if self._fd < 0:
            raise InvalidArgumentError(self._doing("writing"), cause="the chunk has ended already")
        if offset != self.length or offset % BLOCK_BYTES:
            raise InvalidArgumentError(
                self._doing("writing"), cause=f"bytes at {offset} came where {self.length} was next"
            )
        if offset + length > limits.CHUNK_SIZE_BYTES_MAX:
            raise TooLargeError(
                self._doing("writing"), cause=f"more than {limits.CHUNK_SIZE_BYTES_MAX} bytes were sent"
            )

    def _check_whole(self, length: int, checksum: int) -> None:
        if self._fd < 0:
            raise InvalidArgumentError(self._doing("sealing"), cause="the chunk has ended already")
        if length != self.length or compose(self._table, length) != checksum:
            raise IntegrityError(
                f"chunk {self._chunk.hex()} did not arrive whole",
                cause=f"{self.length} of {length} bytes came, or other ones than were meant",
                next="send the chunk again",
            )

    def _write_sealed(self, header: Header) -> None:
        files = self.disk.files
        if self._direct is not None:
            self._direct.finish()
        files.write(self._fd, layout.encode_trailer(self._chunk, self._table), HEADER_BYTES + self.length)
        files.write(self._fd, layout.encode_header(header), 0)
        began = time.monotonic()
        files.sync_data(self._fd)
        self.disk.took("sync", time.monotonic() - began)

    def _write_back(self) -> None:
        if self._direct is not None:
            return
        ready = self.length - self._handed_back
        if ready >= WRITE_BACK_BYTES:
            self.disk.files.start_writing_back(self._fd, HEADER_BYTES + self._handed_back, ready)
            self._handed_back = self.length

    def _close(self) -> None:
        if self._direct is not None:
            self._direct.let_go()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                self.disk.files.close(fd)
            except (
                OSError
            ) as error:  # the descriptor is gone all the same; Linux reports late write errors here
                self.disk.fail(f"closing {self._path.name}: {error}")

    def _promise(self, size_bytes: int) -> None:
        self.disk.promise(size_bytes)
        self._promised_bytes += size_bytes

    def _give_up_promise(self) -> None:
        self.disk.release(self._promised_bytes)
        self._promised_bytes = 0

    def _doing(self, what: str) -> str:
        return f"{what} chunk {self._chunk.hex()}"
