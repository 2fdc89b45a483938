"""Entries of the log with their commands: from memory, or from where they lie on the disk, checked again."""

from __future__ import annotations

from coordinator.consensus.frame_log import FrameLog
from coordinator.consensus.records import Kind, Record, record_size
from coordinator.consensus.retained import Retained
from quorumfs.limits import MIB

Entry = tuple[bytes, int, int]
"""(command, index, term)."""

READ_BYTES = 1 * MIB
"""What one read takes in at most; entries that lie close together come with one."""


class EntryReader:
    """Reads what is retained. Raises CorruptJournal, StorageFailure."""

    def __init__(self, log: FrameLog, retained: Retained) -> None:
        self._log = log
        self._retained = retained
        self._base: Entry | None = None

    def base(self) -> Entry:
        """The first entry. Kept: PySyncObj looks at it all the time."""
        index = self._retained.first_index
        term = self._retained.term(index)
        if self._base is None or self._base[1:] != (index, term):
            self._base = self.read(index, index + 1)[0]
        return self._base

    def read(self, start: int, stop: int) -> list[Entry]:
        """The entries of the indexes from `start` to before `stop`; all are retained."""
        retained = self._retained
        found: list[Entry] = []
        cached_from = min(stop, max(start, retained.cached_from))
        while start < cached_from:
            run = self._read_run(start, cached_from)
            found += run
            start += len(run)
        found += [(retained.cached(index), index, retained.term(index)) for index in range(cached_from, stop)]
        return found

    def _read_run(self, start: int, stop: int) -> list[Entry]:
        number, begin, payload = self._retained.home(start)
        offsets, length = [begin], record_size(payload)
        for index in range(start + 1, stop):
            segment, offset, payload = self._retained.home(index)
            if segment != number or offset + record_size(payload) - begin > READ_BYTES:
                break
            offsets.append(offset)
            length = offset + record_size(payload) - begin
        records = self._log.read(number, offsets, length)
        return [self._entry(one, start + k, number, offsets[k]) for k, one in enumerate(records)]

    def _entry(self, record: Record, index: int, number: int, offset: int) -> Entry:
        term = self._retained.term(index)
        if record.kind not in (Kind.ENTRY, Kind.RESET) or (record.index, record.term) != (index, term):
            raise self._log.corrupt(number, offset, f"entry {index} of term {term} is not there any more")
        return bytes(record.payload), index, term
