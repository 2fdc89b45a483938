"""Where the bytes of an upload come from, cut into bodies of chunks that can be sent any number of times.

A source that can be read again at an offset (a file, bytes) holds nothing in memory but the frame being sent.
One that cannot (a pipe, a socket, a decompressor) is read one chunk ahead: its encoded frames stay in memory
until the chunk is durable, and its chunks are smaller.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from quorumfs.checksum import Buffer, block_checksums
from quorumfs.errors import PreconditionFailedError
from quorumfs.frames import encode_frame
from quorumfs.limits import STREAM_CHUNK_BYTES, WRITE_FRAME_BYTES


@dataclass(frozen=True, slots=True)
class Frame:
    """An encoded frame, the checksums of its blocks, and how many bytes of data it carries."""

    wire: bytes
    table: bytes
    length: int


class Body(Protocol):
    """The content of one chunk."""

    @property
    def length(self) -> int: ...

    def frames(self) -> Iterator[Frame]:
        """All frames from the start, one of up to WRITE_FRAME_BYTES; every call begins anew.

        Raises OSError, PreconditionFailedError."""
        ...


class Source(Protocol):
    """The content of one file."""

    @property
    def size(self) -> int | None:
        """Bytes in all, if that is known beforehand."""
        ...

    @property
    def replayable(self) -> bool:
        """Whether `bodies` may be called again."""
        ...

    def whole(self, most: int) -> bytes | None:
        """All of it when it has at most `most` bytes; None when it has more. To be called first."""
        ...

    def bodies(self, chunk_size: int) -> Iterator[Body]:
        """The chunks in order, none empty, each of at most `chunk_size` bytes."""
        ...


def open_source(given: Any) -> tuple[Source, Callable[[], None]]:
    """The source that `given` means, and how to close it: bytes, a path, or a binary file object.

    A file object is read from its position to its end, and stays open. Raises OSError, TypeError.
    """
    match given:
        case bytes() | bytearray() | memoryview():
            return BytesSource(given), _nothing
        case str() | os.PathLike():
            fd = os.open(given, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _of_descriptor(fd, given)
            except BaseException:
                os.close(fd)
                raise
        case io.BytesIO():
            view = given.getbuffer()[given.tell() :]
            source = BytesSource(view)
            view.release()
            return source, source.release
        # Others that have a descriptor may give different bytes than it does (gzip).
        case io.FileIO() | io.BufferedReader() if _is_plain_file(given):
            return FileSource(given.fileno(), given.tell()), _nothing
        case _ if hasattr(given, "read") and not isinstance(given, io.TextIOBase):
            return StreamSource(given), _nothing
    raise TypeError(f"bytes, a path or a binary file object is asked for, not {type(given).__name__}")


class BytesSource:
    """Bytes in memory; never copied but into frames."""

    replayable = True

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data).cast("B")
        self.size: int | None = len(self._view)

    def whole(self, most: int) -> bytes | None:
        return bytes(self._view) if len(self._view) <= most else None

    def release(self) -> None:
        """Let go of the bytes, so that their owner may change their size again."""
        self._view.release()

    def bodies(self, chunk_size: int) -> Iterator[Body]:
        for start in range(0, len(self._view), chunk_size):
            yield _BytesBody(self._view[start : start + chunk_size])


@dataclass(frozen=True, slots=True)
class _BytesBody:
    view: memoryview

    @property
    def length(self) -> int:
        return len(self.view)

    def frames(self) -> Iterator[Frame]:
        for start in range(0, len(self.view), WRITE_FRAME_BYTES):
            yield _encode(start, self.view[start : start + WRITE_FRAME_BYTES])


class FileSource:
    """A plain file from `start` to the end it has now, read by descriptor and offset."""

    replayable = True

    def __init__(self, fd: int, start: int = 0) -> None:
        self._fd = fd
        self._start = start
        self._length = max(0, os.fstat(fd).st_size - start)
        self.size: int | None = self._length

    def whole(self, most: int) -> bytes | None:
        if self._length > most:
            return None
        data = b"".join(self._read_all())
        if len(data) != self._length:
            raise _changed()
        return data

    def bodies(self, chunk_size: int) -> Iterator[Body]:
        for start in range(0, self._length, chunk_size):
            yield _FileBody(self._fd, self._start + start, min(chunk_size, self._length - start))

    def _read_all(self) -> Iterator[bytes]:
        at = 0
        while at < self._length:
            piece = os.pread(self._fd, self._length - at, self._start + at)
            if not piece:
                return
            at += len(piece)
            yield piece


@dataclass(frozen=True, slots=True)
class _FileBody:
    fd: int
    start: int
    length: int

    def frames(self) -> Iterator[Frame]:
        # One buffer per pass: a pass that was given up may still be reading into its own.
        buffer = memoryview(bytearray(min(WRITE_FRAME_BYTES, self.length)))
        for offset in range(0, self.length, WRITE_FRAME_BYTES):
            view = buffer[: min(WRITE_FRAME_BYTES, self.length - offset)]
            filled = 0
            while filled < len(view):
                count = os.preadv(self.fd, [view[filled:]], self.start + offset + filled)
                if not count:
                    raise _changed()
                filled += count
            yield _encode(offset, view)


class StreamSource:
    """Anything with `read`; one chunk is held in memory at a time by whoever holds its body."""

    replayable = False

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._pending = b""  # read already, not yet given away
        self.size: int | None = None

    def whole(self, most: int) -> bytes | None:
        self._pending = self._read(most + 1)
        if len(self._pending) > most:
            return None
        data, self._pending = self._pending, b""
        return data

    def bodies(self, chunk_size: int) -> Iterator[Body]:
        chunk_size = min(chunk_size, STREAM_CHUNK_BYTES)
        while True:
            frames: list[Frame] = []
            length = 0
            while length < chunk_size:
                data = self._read(min(WRITE_FRAME_BYTES, chunk_size - length))
                if data:
                    frames.append(_encode(length, data))
                    length += len(data)
                if len(data) < WRITE_FRAME_BYTES:
                    break
            if frames:
                yield _FramesBody(frames, length)
            if length < chunk_size:
                return

    def _read(self, count: int) -> bytes:
        """`count` bytes, fewer only at the end."""
        parts = []
        if self._pending:
            parts.append(self._pending[:count])
            self._pending = self._pending[count:]
        missing = count - sum(map(len, parts))
        while missing:
            data = self._stream.read(missing)
            if data is None:
                raise BlockingIOError("the stream to be stored has nothing to give and does not wait")
            if not isinstance(data, bytes | bytearray | memoryview):
                raise TypeError(f"a binary stream is asked for; it gave {type(data).__name__}")
            if not data:
                break
            parts.append(bytes(data))
            missing -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class _FramesBody:
    encoded: list[Frame]
    length: int

    def frames(self) -> Iterator[Frame]:
        return iter(self.encoded)


def _encode(offset: int, data: Buffer) -> Frame:
    table = block_checksums(data)
    return Frame(encode_frame(offset, data, table), table, len(data))


def _of_descriptor(fd: int, path: Any) -> tuple[Source, Callable[[], None]]:
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(21, "Is a directory", os.fspath(path))
    if stat.S_ISREG(status.st_mode) and not _hides_its_size(fd):
        return FileSource(fd), lambda: os.close(fd)
    stream = io.FileIO(fd, "r")
    return StreamSource(stream), stream.close


def _is_plain_file(file: io.FileIO | io.BufferedReader) -> bool:
    raw = file.raw if isinstance(file, io.BufferedReader) else file
    try:
        if not isinstance(raw, io.FileIO):
            return False
        return stat.S_ISREG(os.fstat(raw.fileno()).st_mode) and not _hides_its_size(raw.fileno())
    except (OSError, ValueError):
        return False


def _hides_its_size(fd: int) -> bool:
    """Whether a plain file has bytes though its size is 0, as those of /proc do: it is read to its end instead."""
    return os.fstat(fd).st_size == 0 and bool(os.pread(fd, 1, 0))


def _changed() -> PreconditionFailedError:
    return PreconditionFailedError(
        "the file to be stored changed while it was read", cause="it became shorter", next="store it again"
    )


def _nothing() -> None:
    pass
