"""File objects: `QuorumReader` reads anywhere in one version, `QuorumWriter` makes a new one at its close."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from quorumfs.errors import QuorumFSError
from quorumfs.limits import FRAME_BYTES, INLINE_BYTES_MAX, KIB
from quorumfs.sources import BytesSource, Source, StreamSource
from quorumfs.values import FileStatus

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from quorumfs.download import OpenedFile

BUFFER_BYTES = 256 * KIB
_PIPE_BYTES = 4 * FRAME_BYTES

Store = Callable[[Source], FileStatus]
"""Stores all of a source, and says what became of it."""


class QuorumReader(io.RawIOBase):
    """The raw stream of a file: reads, seeks, knows its size. Wrap it in io.BufferedReader.

    It reads the version that was there when it was opened. Reading on from where the last read ended reads
    ahead; a read elsewhere asks only for what it needs. One thread at a time.
    """

    def __init__(self, file: OpenedFile, status: FileStatus) -> None:
        super().__init__()
        self.status = status
        self.name = status.path
        self.mode = "rb"
        self._file = file
        self._at = 0
        self._stream: Iterator[memoryview] | None = None
        self._stream_end = 0
        self._rest = memoryview(b"")
        self._rest_at = 0
        self._sequential_from = -1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}.get(whence)
        if base is None:
            raise ValueError(f"whence {whence} is not one of 0, 1, 2")
        if base + offset < 0:
            raise ValueError(f"there is nothing at {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._check_open()
        view = memoryview(buffer).cast("B")
        if not len(view) or self._at >= self._file.size:
            return 0
        if self._stream is None and (count := self._file.read_into(self._at, view)):
            self._at += count
            self._sequential_from = self._at
            return count
        piece = self._piece(len(view))
        count = min(len(piece), len(view))
        view[:count] = piece[:count]
        self._advance(piece, count)
        return count

    def readall(self) -> bytes:
        self._check_open()
        self._drop_stream()
        data = self._file.read_whole(self._at)
        self._at += len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            self._drop_stream()
        super().close()

    def _piece(self, wanted: int) -> memoryview:
        """Some bytes at the current place, at least one."""
        if self._rest and self._rest_at == self._at:
            return self._rest
        if self._stream is None or self._rest_at != self._at or self._at >= self._stream_end:
            self._open_stream(wanted)
        assert self._stream is not None
        try:
            return next(self._stream)
        except BaseException:
            self._drop_stream()  # it has ended: the next read begins another
            raise

    def _open_stream(self, wanted: int) -> None:
        self._drop_stream()
        sequential = self._at == self._sequential_from or wanted >= self._file.size - self._at
        length = None if sequential else max(wanted, BUFFER_BYTES)
        self._stream = self._file.read(self._at, length)
        self._stream_end = self._file.size if length is None else min(self._file.size, self._at + length)

    def _advance(self, piece: memoryview, count: int) -> None:
        self._at += count
        self._rest = piece[count:]
        self._rest_at = self._sequential_from = self._at

    def _drop_stream(self) -> None:
        stream, self._stream = self._stream, None
        self._rest = memoryview(b"")
        close: Any = getattr(stream, "close", None)
        if close is not None:
            close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")


class QuorumWriter(io.BufferedIOBase):
    """Writes a new version of a file, which appears whole when this is closed, or not at all.

    `close` returns when the file is durable and visible, and raises what went wrong otherwise. An exception
    inside a with-block, `abort()`, or being forgotten without `close` leaves what was there. One thread at a
    time. After `close`, `status` says what was stored.
    """

    def __init__(self, path: str, store: Store) -> None:
        super().__init__()
        self.name = path
        self.mode = "wb"
        self.status: FileStatus | None = None
        self._store = store
        self._head = bytearray()  # until it is clear that the file is not a small one
        self._pipe: _Pipe | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._written = 0
        self._aborted = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: ReadableBuffer, /) -> int:
        if self.closed:
            raise ValueError("the file is closed")
        view = memoryview(data).cast("B")
        if self._aborted:
            return len(view)  # a wrapper that flushes what nobody wants any more
        self._written += len(view)
        if self._pipe is None and len(self._head) + len(view) <= INLINE_BYTES_MAX:
            self._head += view
            return len(view)
        if self._pipe is None:
            self._begin()
        assert self._pipe is not None
        for start in range(0, len(view), FRAME_BYTES):
            if not self._pipe.write(bytes(view[start : start + FRAME_BYTES])):
                self._raise_error()
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        try:
            if not self._aborted:
                self._finish()
        finally:
            super().close()

    def abort(self) -> None:
        """Leave what was there; nothing of this becomes visible. Then close."""
        if self.closed or self._aborted:
            return
        self._aborted = True
        self._head.clear()
        if self._pipe is not None:
            self._pipe.break_off()
        if self._thread is not None:
            self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        self.close()

    def __del__(self) -> None:
        # IOBase would close, and so publish, a file that its writer never finished.
        if hasattr(self, "_aborted") and not self.closed:
            self.abort()
            self.close()

    def _begin(self) -> None:
        self._pipe = _Pipe()
        self._pipe.write(bytes(self._head))
        self._head.clear()
        self._thread = threading.Thread(target=self._run, name="quorumfs-writer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        assert self._pipe is not None
        try:
            self.status = self._store(StreamSource(self._pipe))
        except BaseException as error:  # noqa: BLE001  raised again in the thread that writes
            self._error = error
        finally:
            self._pipe.close_reader()

    def _finish(self) -> None:
        if self._pipe is None or self._thread is None:
            self.status = self._store(BytesSource(self._head))
            return
        self._pipe.end()
        self._thread.join()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            self._aborted = True
            raise self._error


class TextWriter(io.TextIOWrapper):
    """Text over a QuorumWriter; an exception inside the with-block, or being forgotten, aborts it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abort()
        self.close()

    def __del__(self) -> None:
        self._abort()

    def _abort(self) -> None:
        writer = self.buffer
        if isinstance(writer, QuorumWriter):
            writer.abort()


class BrokenOffError(QuorumFSError):
    """The writer of a file gave up; only its own uploading thread ever sees this."""


class _Pipe:
    """A bounded pipe from the thread that writes to the one that uploads."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._changed = threading.Condition()
        self._ended = False
        self._broken = False
        self._reading = True

    def write(self, data: bytes) -> bool:
        """Wait for room, put `data` in. False when nobody reads any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._held < _PIPE_BYTES or not self._reading)
            if not self._reading:
                return False
            if data:
                self._pieces.append(data)
                self._held += len(data)
                self._changed.notify_all()
            return True

    def read(self, count: int) -> bytes:
        """At most `count` bytes; empty at the end. Raises BrokenOffError."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._ended or self._broken)
            if self._broken:
                raise BrokenOffError("the file was given up by its writer")
            if not self._pieces:
                return b""
            data = self._pieces.popleft()
            if len(data) > count:
                self._pieces.appendleft(data[count:])
                data = data[:count]
            self._held -= len(data)
            self._changed.notify_all()
            return data

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def break_off(self) -> None:
        with self._changed:
            self._broken = True
            self._changed.notify_all()

    def close_reader(self) -> None:
        with self._changed:
            self._reading = False
            self._changed.notify_all()
