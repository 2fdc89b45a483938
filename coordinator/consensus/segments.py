"""The segment files of a journal: which there are, where the next frame goes, and room for it made beforehand.

1. A segment is made as a *spare*, `spare-<n>.tmp`: zeros, synced, so that a later fdatasync writes data and no
   metadata, and so that a full disk is met here and nowhere else. A spare that a crash left is removed at open.
2. A spare becomes the current segment when its header and first frame are in it and synced; then it gets its name,
   and the directory is synced. So what has a segment's name is whole up to its first frame, always.
3. After that the older one gets an END mark, without a sync: a segment that has one has a successor, and if that
   cannot be found it was lost. Its absence says nothing.
4. Segments whose entries are all gone are removed oldest first, the directory synced after each: those that are
   there are always consecutive.
5. The last bytes of a segment are a reserve for terms, votes and compaction on a full disk.

`prepare` may run in a thread of its own (it writes a whole segment, and removes files); all else belongs to one
thread. Errors leave as OSError; whoever calls says what they mean.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coordinator.consensus.files import FULL, SHORT, Files
from coordinator.consensus.records import SECTOR_BYTES
from quorumfs.limits import GIB, KIB, MIB

RESERVE_BYTES = 64 * KIB
SEGMENT_BYTES_MIN = 16 * KIB
SEGMENT_BYTES_MAX = 1 * GIB
_ZEROS = bytes(1 * MIB)


@dataclass(slots=True)
class Segment:
    """An open segment file. `size` in bytes."""

    number: int
    path: Path
    fd: int
    size: int


def segment_name(number: int) -> str:
    return f"segment-{number:016d}.log"


def reserve_of(size: int) -> int:
    """Bytes at the end of a segment of `size` that only control records may use."""
    return min(RESERVE_BYTES, size // 8 // SECTOR_BYTES * SECTOR_BYTES)


class Segments:
    """The files of one journal, in its directory."""

    def __init__(self, directory: Path, files: Files, segment_bytes: int) -> None:
        self._directory = directory
        self._files = files
        self.segment_bytes = segment_bytes
        self._live: dict[int, Segment] = {}
        self.current = Segment(0, directory, -1, 0)  # none yet
        self._offset = 0
        self._lock = threading.Lock()  # of what follows: shared with `prepare`
        self._dead: list[Segment] = []
        self._spare: Segment | None = None
        self._spares_made = 0
        self._full = False  # the disk had no room for a spare the last time
        self._preparing = False
        self._closed = False

    # What there is

    def adopt(self, found: list[Segment], offset: int) -> None:
        """These are the segments, oldest first; the next frame goes to `offset` of the last."""
        self._live = {one.number: one for one in found}
        self.current = found[-1]
        self._offset = offset

    @property
    def disk_bytes(self) -> int:
        with self._lock:
            spare = [self._spare] if self._spare is not None else []
            return sum(one.size for one in [*self._live.values(), *self._dead, *spare])

    @property
    def has_spare(self) -> bool:
        return self._spare is not None

    @property
    def disk_full(self) -> bool:
        """There is no spare because the disk had no room for one; otherwise it is only not made yet."""
        return self._full and self._spare is None

    @property
    def room(self) -> int:
        """Bytes for frames of entries in the current segment."""
        size = self.current.size
        return size - SECTOR_BYTES - reserve_of(size) - self._offset

    def reserve(self, keep: float) -> int:
        """Bytes for control frames in the current segment, all but the share `keep` of the reserve."""
        size = self.current.size
        return size - SECTOR_BYTES - int(keep * reserve_of(size)) - self._offset

    @property
    def capacity(self) -> int:
        """Bytes for frames of entries in a new segment, behind its header and first frame."""
        return self.segment_bytes - 3 * SECTOR_BYTES - reserve_of(self.segment_bytes)

    # Frames

    def write(self, frame: bytes) -> int:
        """Put a frame behind the others of the current segment; its offset. Not synced."""
        offset = self._offset
        self._files.write(self.current.fd, frame, offset)
        self._offset = offset + len(frame)
        return offset

    def mark(self, frame: bytes) -> None:
        """Put a frame where the next one will go."""
        self._files.write(self.current.fd, frame, self._offset)

    def sync(self) -> None:
        self._files.sync_data(self.current.fd)

    def read(self, number: int, offset: int, length: int) -> bytes:
        return self._files.read(self._live[number].fd, length, offset)

    def path(self, number: int) -> Path:
        return self._live[number].path

    # New segments

    def begin(self, number: int, beginning: bytes, end_frame: bytes = b"") -> None:
        """Make the spare the current segment; durable on return. `end_frame` goes into the one before."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is None:
            raise ValueError("there is no spare segment")
        self._files.write(spare.fd, beginning, 0)
        self._files.sync_data(spare.fd)
        path = self._directory / segment_name(number)
        self._files.rename(spare.path, path)
        self._files.sync_directory(self._directory)
        if self._live:
            self.mark(end_frame)
        segment = Segment(number, path, spare.fd, spare.size)
        with self._lock:
            self._live[number] = segment
        self.current, self._offset = segment, len(beginning)

    def retire(self, first_needed: int) -> None:
        """The segments before `first_needed` hold nothing that is retained; `prepare` removes them."""
        with self._lock:
            for number in [one for one in self._live if one < first_needed]:
                self._dead.append(self._live.pop(number))

    def prepare(self) -> bool:
        """See to it that there is a spare, then remove what is retired. False: no room for a spare now.

        May run beside the thread that owns the journal; two at once is one too many, the second does nothing.
        """
        with self._lock:
            if self._preparing or self._closed:
                return self._spare is not None
            self._preparing = True
        try:
            made = self._spare is not None or self._make_spare()  # first: the log may be waiting for it
            if self._remove_dead():
                made = made or self._make_spare()  # what was removed may have made room
            self._full = not made
            return made
        finally:
            self._finish_preparing()

    def _finish_preparing(self) -> None:
        with self._lock:
            self._preparing = False
            if self._closed:
                self._close_all()

    def _remove_dead(self) -> bool:
        """Whether there were any."""
        found = bool(self._dead)
        while self._dead:
            oldest = self._dead[0]
            with suppress(FileNotFoundError):
                self._files.remove(oldest.path)
            self._files.sync_directory(self._directory)
            with self._lock:
                self._files.close(self._dead.pop(0).fd)
        return found

    def _make_spare(self) -> bool:
        self._spares_made += 1
        path = self._directory / f"spare-{self._spares_made}.tmp"
        fd = -1
        try:
            fd = self._files.create(path)
            self._fill(fd)
        except OSError as error:
            if fd >= 0:
                self._files.close(fd)
                with suppress(OSError):
                    self._files.remove(path)
            if error.errno in FULL | SHORT:
                return False
            raise
        with self._lock:
            self._spare = Segment(0, path, fd, self.segment_bytes)
        return True

    def _fill(self, fd: int) -> None:
        for offset in range(0, self.segment_bytes, len(_ZEROS)):
            self._files.write(fd, _ZEROS[: self.segment_bytes - offset], offset)
        self._files.sync_data(fd)

    def close(self) -> None:
        """Close all descriptors; a spare is left to the next open."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if not self._preparing:
                    self._close_all()

    def _close_all(self) -> None:
        spare = [self._spare] if self._spare is not None else []
        for one in [*self._live.values(), *self._dead, *spare]:
            self._files.close(one.fd)
        self._live, self._dead, self._spare = {}, [], None
