"""The chain of frames on its segments: gathers records, makes a frame of them, puts it on the disk. No meaning.

1. One `sync` is one frame, one write, one fdatasync. A frame that does not fit into the current segment goes whole
   into the spare, which becomes the current one first; its first frame says what the log is there, so that nobody
   needs the segments before it to understand what follows.
2. Soon after a sync has returned, a *seal* is written behind its frame, without a sync: the next frame takes its
   place. A seal proves that the frame before it was durable, so that its damage is not taken for a torn write. The
   absence of a seal says nothing.
3. `fits` is asked before a record is gathered. What was gathered fits, by that.
4. Whatever the disk refuses, in any call and on any thread, is the end: `check` raises it for ever after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from coordinator.consensus.files import CorruptJournal, SickStorage, StorageFailure
from coordinator.consensus.records import (
    FRAME_HEAD_BYTES,
    DamagedError,
    FrameBuilder,
    Header,
    Kind,
    Record,
    encode_header,
    padded,
    read_record,
    record_size,
)
from coordinator.consensus.segments import Segments
from coordinator.consensus.status import FsyncStats
from quorumfs.checksum import crc32c
from quorumfs.clock import Clock
from quorumfs.limits import MIB

FRAME_BYTES_MAX = 4 * MIB
ROOM_BYTES_MIN = 2 * MIB

Beginning = Callable[[FrameBuilder], object]
"""Puts into a segment's first frame what the log is there."""


@dataclass(slots=True)
class _Place:
    """Where the chain ends: the number of the next frame, and the checksum of the last."""

    sequence: int
    chain: int


class FrameLog:
    """For one thread. `journal_id` is in every header, and every frame's checksum begins with it."""

    def __init__(
        self, segments: Segments, clock: Clock, journal_id: bytes, sequence: int = 1, chain: int = 0
    ) -> None:
        self.segments = segments
        self.fsync = FsyncStats(0, 0.0, 0.0)
        self.on_fsync: Callable[[float], None] = lambda seconds: None
        self.on_wait: Callable[[], None] = lambda: None  # the disk is about to be waited for
        self.closed = False
        self.wants_seal = False
        self._clock = clock
        self._journal_id = journal_id
        self._seed = crc32c(journal_id)
        self._end = _Place(sequence, chain)
        self._frame = FrameBuilder(self._seed)
        self._frame_bytes_max = min(FRAME_BYTES_MAX, segments.capacity)
        self._room_bytes_min = min(ROOM_BYTES_MIN, segments.capacity // 2)
        self._failure: SickStorage | None = None

    # Room

    @property
    def dirty(self) -> bool:
        return bool(self._frame)

    def has_room(self) -> bool:
        """Whether there is a place behind what is gathered, for at least ROOM_BYTES_MIN in frames."""
        segments, gathered = self.segments, padded(self._frame.bytes)
        if gathered <= segments.room and segments.has_spare:
            return True
        room = segments.capacity if segments.has_spare else segments.room
        return room >= gathered + self._room_bytes_min

    def takes(self, payload_bytes: int) -> bool:
        """Whether any frame could ever hold such a record."""
        return padded(FRAME_HEAD_BYTES + record_size(payload_bytes)) <= self._frame_bytes_max

    def fits(self, payload_bytes: int, keep: float | None = None) -> bool:
        """Whether one more record has a place in the frame that is being gathered, and that frame on the disk.

        `keep`: the record may use the reserve for a full disk, all but this share of it.
        """
        size = padded(self._frame.bytes + record_size(payload_bytes))
        if size > self._frame_bytes_max:
            return False
        if size <= self.segments.room or self.segments.has_spare:
            return True
        return keep is not None and size <= self.segments.reserve(keep)

    # Writing

    def gather(self, kind: Kind, index: int, term: int, payload: bytes = b"") -> int:
        """The record's offset from the beginning of the frame that the next `sync` writes."""
        return self._frame.add(kind, index, term, payload)

    def sync(self, beginning: Beginning) -> tuple[int, int]:
        """Write what is gathered; (segment, offset) of its frame. Durable on return. Raises StorageFailure.

        `beginning` tells a new segment what the log was at the last sync. A seal is owed (`wants_seal`).
        """
        with self.failing("the Raft log cannot be written"):
            if padded(self._frame.bytes) > self.segments.room and self.segments.has_spare:
                self.begin_segment(self.segments.current.number + 1, beginning)
            frame, crc = self._frame.finish(self._end.sequence, self._end.chain)
            offset = self.segments.write(frame)
            self.on_wait()
            began = self._clock.monotonic()
            self.segments.sync()
            self._count_fsync(self._clock.monotonic() - began)
            self._end = _Place(self._end.sequence + 1, crc)
            self.wants_seal = True
        return self.segments.current.number, offset

    def seal(self) -> None:
        """Say behind the last frame that it was synced. Raises OSError."""
        self.segments.mark(self._mark(Kind.SEAL))
        self.wants_seal = False

    def _mark(self, kind: Kind) -> bytes:
        mark = FrameBuilder(self._seed)
        mark.add(kind, 0, 0)
        return mark.finish(self._end.sequence, self._end.chain)[0]

    def begin_segment(self, number: int, beginning: Beginning) -> None:
        """Go on in the spare segment. Durable on return; raises OSError."""
        sequence, chain = self._end.sequence, self._end.chain
        header = Header(self._journal_id, number, self.segments.segment_bytes, sequence, chain)
        sector, header_crc = encode_header(header)
        first = FrameBuilder(self._seed)
        beginning(first)
        frame, crc = first.finish(sequence, header_crc)
        self.segments.begin(number, sector + frame, self._mark(Kind.END))
        self._end = _Place(sequence + 1, crc)

    def _count_fsync(self, seconds: float) -> None:
        known = self.fsync
        self.fsync = FsyncStats(
            known.count + 1, known.seconds_total + seconds, max(known.seconds_max, seconds)
        )
        self.on_fsync(seconds)

    # Reading

    def read(self, number: int, offsets: list[int], length: int) -> list[Record]:
        """The records at `offsets` (ascending) of segment `number`, which all end `length` behind the first.

        Raises CorruptJournal, StorageFailure.
        """
        begin = offsets[0]
        with self.failing("the Raft log cannot be read"):
            data = memoryview(self.segments.read(number, begin, length))
        try:
            return [read_record(data, offset - begin) for offset in offsets]
        except DamagedError as error:
            raise self.corrupt(number, begin + error.offset, error.cause) from error

    # Failing

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.closed:
            raise ValueError("the journal is closed")

    @property
    def failed(self) -> bool:
        return self._failure is not None

    @contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """Whatever the disk refuses in here is the end of this journal."""
        try:
            yield
        except OSError as error:
            self._failure = StorageFailure(what, error)
            raise self._failure from error

    def corrupt(self, number: int, offset: int, cause: str) -> CorruptJournal:
        """The end as well: what is to be raised."""
        self._failure = failure = CorruptJournal(self.segments.path(number), offset, cause)
        return failure
