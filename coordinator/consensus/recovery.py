"""Reads a journal back after any end of the process or the machine, or says why it cannot be trusted.

1. Frames are read in the order of their chain. Every segment but the last must lead up to its successor's first
   frame: the successor's header names the last one's number and checksum.
2. In the last segment the chain ends somewhere, at a seal if the last sync returned. If there is a whole frame or
   seal anywhere behind, numbered higher than the one that should be there, the disk has lost or changed what it had:
   that is bit rot, and never cut. If there is none, what lies there is the torn rest of a frame whose sync never
   returned: nobody was told of it, and it is overwritten by zeros before anything else is written. (The last synced
   frame, damaged before its seal reached the disk too, looks the same: then this member has less than it
   acknowledged. A command may quote frames of its own journal, but none that is numbered higher than its own.)
3. What the process wrote, but did not sync before it died, may still lie in the page cache only. It is synced
   before it is believed; and it is read from the disk, not from a cache that a failed sync left clean.
4. The oldest segment says what the log was when it began: which entries there were, not what. All of those must be
   gone by the end of the last segment, or a segment that held them is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common import log
from coordinator.consensus.files import CorruptJournal, Files
from coordinator.consensus.records import (
    SECTOR_BYTES,
    DamagedError,
    Frame,
    Header,
    Kind,
    Record,
    decode_header,
    decode_last,
    decode_vote,
    find_frame,
    padded,
    read_frame,
    read_records,
)
from coordinator.consensus.retained import NOWHERE, Retained
from coordinator.consensus.segments import Segment, segment_name
from quorumfs.checksum import crc32c

_SEGMENT = re.compile(r"segment-(\d{16})\.log")
_SPARE = re.compile(r"spare-\d+\.tmp")

_log = log.get(__name__)


class Replay:
    """The log and the term as the records say, applied one after another."""

    def __init__(self, retained: Retained) -> None:
        self.retained = retained
        self.term = 0
        self.voted_for: str | None = None

    def apply(self, record: Record, segment: int) -> None:
        """Raises DamagedError for a record that cannot follow the ones before."""
        retained, index, term = self.retained, record.index, record.term
        match record.kind:
            case Kind.ENTRY:
                _expect(index == retained.last_index + 1 and term >= retained.last_term, record)
                retained.append(term, segment, record.offset, bytes(record.payload))
                retained.trim_cache(index)
            case Kind.TRUNCATE:
                _expect(retained.first_index < index <= retained.last_index, record)
                retained.truncate_from(index)
            case Kind.BASE:
                known = retained.term_at(index)
                _expect(known is not None and (known == term or retained.home(index)[0] == NOWHERE), record)
                retained.drop_to(index, term)
            case Kind.RESET:
                retained.restart(index, term, segment, record.offset, bytes(record.payload))
            case Kind.HARD:
                vote = decode_vote(record.payload)
                _expect(term > self.term or (term == self.term and self.voted_for in (None, vote)), record)
                self.term, self.voted_for = term, vote
            case Kind.START:
                self._start(record)
            case Kind.END:
                raise DamagedError(record.offset, f"the segment after {segment} is missing")
            case Kind.SEAL:
                raise DamagedError(record.offset, "a seal among other records")

    def _start(self, record: Record) -> None:
        """The oldest segment says what was before it; any other what its predecessors have told already."""
        retained, last = self.retained, decode_last(record.payload)
        _expect(record.index <= last, record)
        if not len(retained):
            retained.begin_unknown(record.index, record.term, last)
        first = retained.first_index
        found = (first, retained.term_at(first), retained.last_index)
        _expect(found == (record.index, record.term, last), record)


def _expect(holds: bool, record: Record) -> None:
    if not holds:
        raise DamagedError(
            record.offset,
            f"{record.kind.name} of index {record.index}, term {record.term} does not follow from what precedes it",
        )


@dataclass(frozen=True, slots=True)
class Recovered:
    """A journal as its files say. `segments` are open, oldest first; the next frame goes to `offset` of the last,
    with `sequence`, behind the frame whose checksum is `chain`."""

    journal_id: bytes
    segments: list[Segment]
    offset: int
    sequence: int
    chain: int
    term: int
    voted_for: str | None


def segment_numbers(names: Sequence[str]) -> list[int]:
    """Of the segments among these files, in their order."""
    return [int(found[1]) for name in names if (found := _SEGMENT.fullmatch(name))]


def recover(directory: Path, files: Files, retained: Retained) -> Recovered | None:
    """Read the journal in `directory` into `retained`; None when there is none.

    Raises CorruptJournal; OSError when the files cannot be read, or the tail not be synced or cut.
    """
    names = files.names(directory)
    for name in names:
        if _SPARE.fullmatch(name):
            files.remove(directory / name)
    numbers = segment_numbers(names)
    if not numbers:
        return None
    files.sync_directory(directory)
    opened: list[Segment] = []
    try:
        return _Reader(directory, files, retained, opened).read(numbers)
    except BaseException:
        for one in opened:
            with suppress(OSError):
                files.close(one.fd)
        raise


class _Reader:
    """One reading of all segments. `opened` gets every segment as soon as it has a descriptor."""

    def __init__(self, directory: Path, files: Files, retained: Retained, opened: list[Segment]) -> None:
        self._directory = directory
        self._files = files
        self._replay = Replay(retained)
        self._opened = opened

    def read(self, numbers: list[int]) -> Recovered:
        headers = [self._open(number) for number in numbers]
        last = self._opened[-1]
        self._files.sync_data(last.fd)
        self._files.forget_cached(last.fd)
        for k, (segment, (header, _)) in enumerate(zip(self._opened, headers, strict=True)):
            expected = numbers[0] + k
            if segment.number != expected:
                raise CorruptJournal(self._directory / segment_name(expected), 0, "this segment is missing")
            if header.journal_id != headers[0][0].journal_id:
                raise CorruptJournal(segment.path, 0, "the segment belongs to another journal")
        sequence, chain, offset = headers[0][0].first_sequence, headers[0][0].chain, 0
        for k, segment in enumerate(self._opened):
            header, header_crc = headers[k]
            if (header.first_sequence, header.chain) != (sequence, chain):
                raise CorruptJournal(segment.path, 0, "the segment does not continue the one before it")
            following = headers[k + 1][0] if k + 1 < len(headers) else None
            sequence, chain, offset = self._read_segment(segment, header, header_crc, following)
        self._check_complete()
        return Recovered(
            headers[0][0].journal_id,
            self._opened,
            offset,
            sequence,
            chain,
            self._replay.term,
            self._replay.voted_for,
        )

    def _open(self, number: int) -> tuple[Header, int]:
        path = self._directory / segment_name(number)
        fd = self._files.open(path)
        segment = Segment(number, path, fd, self._files.size(fd))
        self._opened.append(segment)
        try:
            header, crc = decode_header(self._files.read(fd, SECTOR_BYTES, 0))
        except DamagedError as error:
            raise CorruptJournal(path, error.offset, error.cause) from error
        if header.segment != number:
            raise CorruptJournal(path, 0, f"the file holds segment {header.segment}")
        if header.size != segment.size:
            raise CorruptJournal(path, 0, f"the file has {segment.size} bytes, not {header.size}")
        return header, crc

    def _read_segment(
        self, segment: Segment, header: Header, chain: int, following: Header | None
    ) -> tuple[int, int, int]:
        """(sequence of the next frame, checksum of the last, offset of the end)."""
        seed = crc32c(header.journal_id)
        data = memoryview(self._files.read(segment.fd, segment.size, 0))
        offset, sequence, sealed = SECTOR_BYTES, header.first_sequence, 0
        while following is None or sequence < following.first_sequence:
            frame = read_frame(data, offset, seed)
            if frame is None or (frame.sequence, frame.previous) != (sequence, chain):
                break
            if not self._apply(segment, data, frame):
                sealed = frame.end
                break
            offset, sequence, chain = frame.end, sequence + 1, frame.crc
        ended_early = following is not None and sequence < following.first_sequence
        if ended_early or sequence == header.first_sequence:
            raise CorruptJournal(segment.path, offset, f"frame {sequence} is not what was written")
        if following is None:
            self._end(segment, data, sealed or offset, sequence, seed)
        return sequence, chain, offset

    def _apply(self, segment: Segment, data: memoryview, frame: Frame) -> bool:
        """False for a seal, which is no part of the chain: the next frame takes its place."""
        try:
            for record in read_records(data, frame):
                if record.kind is Kind.SEAL:
                    return False
                self._replay.apply(record, segment.number)
        except (DamagedError, ValueError) as error:
            offset = error.offset if isinstance(error, DamagedError) else frame.offset
            raise CorruptJournal(segment.path, offset, str(error)) from error
        return True

    def _end(self, segment: Segment, data: memoryview, offset: int, sequence: int, seed: int) -> None:
        """The chain of the last segment and its seal end at `offset`: nothing, or a torn frame, may lie behind."""
        rest = bytes(data[offset:]).rstrip(b"\0")
        if not rest:
            return
        later = find_frame(data, offset, sequence + 1, seed)
        if later is not None:
            raise CorruptJournal(
                segment.path,
                offset,
                f"frame {sequence} is not what was written, but frame {later.sequence} follows at offset "
                f"{later.offset}",
            )
        self._files.write(segment.fd, bytes(padded(len(rest))), offset)
        self._files.sync_data(segment.fd)
        _log.warning("journal.tail_cut", file=str(segment.path), offset=offset, bytes=len(rest))

    def _check_complete(self) -> None:
        retained, oldest = self._replay.retained, self._opened[0]
        if not len(retained) or retained.home(retained.first_index)[0] == NOWHERE:
            raise CorruptJournal(
                oldest.path,
                SECTOR_BYTES,
                f"the log holds entry {retained.first_index}, but the segments before {oldest.number} are missing",
            )
