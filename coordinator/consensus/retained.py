"""What a member keeps in memory of its log: where each entry lies, and the newest commands. No I/O.

1. Per entry 24 bytes in compact arrays: term, segment, offset, and how many payload bytes the log has up to its end
   (so that "the newest 32 MiB" is one binary search). Commands stay on the disk, but for the newest ones.
2. An entry that is not on the disk yet lies in segment 0, at its offset in the frame that is being gathered.
   `place` gives all of them their home at once.
3. The cache holds the commands of a suffix of the log: whatever is not in it is on the disk.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

NOWHERE = 0


class Retained:
    """Entries `first_index` to `last_index`; never empty once `restart` was called."""

    def __init__(self, cache_bytes: int) -> None:
        self._cache_bytes_max = cache_bytes
        self._cache: dict[int, bytes] = {}
        self._cache_bytes = 0
        self._cached_from = 1
        self._clear(0)

    def _clear(self, first_index: int) -> None:
        self._terms = array("Q")
        self._segments = array("I")
        self._offsets = array("I")
        self._ends = array("Q")
        self._before = 0  # payload bytes of entries dropped at the front
        self.first_index = first_index

    def __len__(self) -> int:
        return len(self._terms)

    @property
    def last_index(self) -> int:
        return self.first_index + len(self._terms) - 1

    @property
    def last_term(self) -> int:
        return self.term(self.last_index)

    @property
    def payload_bytes(self) -> int:
        return self._ends[-1] - self._before if self._ends else 0

    def term(self, index: int) -> int:
        """Of an entry that is retained."""
        return self._terms[index - self.first_index]

    def term_at(self, index: int) -> int | None:
        """The same; None for an entry that is not."""
        at = index - self.first_index
        return self._terms[at] if 0 <= at < len(self._terms) else None

    def home(self, index: int) -> tuple[int, int, int]:
        """(segment, offset of the record, bytes of the payload)."""
        at = index - self.first_index
        before = self._ends[at - 1] if at else self._before
        return self._segments[at], self._offsets[at], self._ends[at] - before

    # Changes

    def restart(self, index: int, term: int, segment: int, offset: int, command: bytes) -> None:
        """The log is this one entry."""
        self._clear(index)
        self._cache.clear()
        self._cache_bytes = 0
        self._cached_from = index
        self.append(term, segment, offset, command)

    def append(self, term: int, segment: int, offset: int, command: bytes) -> None:
        end = self._ends[-1] if self._ends else self._before
        self._terms.append(term)
        self._segments.append(segment)
        self._offsets.append(offset)
        self._ends.append(end + len(command))
        self._cache[self.last_index] = command
        self._cache_bytes += len(command)

    def begin_unknown(self, first_index: int, term: int, last_index: int) -> None:
        """Entries of which nothing is known but that they were, and the term of the first; all are nowhere."""
        self._clear(first_index)
        number = last_index - first_index + 1
        self._terms = array("Q", [term]) + array("Q", [0]) * (number - 1)
        self._segments = array("I", [NOWHERE]) * number
        self._offsets = array("I", [0]) * number
        self._ends = array("Q", [0]) * number
        self._cached_from = last_index + 1

    def truncate_from(self, index: int) -> None:
        """Entry `index` and all behind it are gone."""
        at = index - self.first_index
        for gone in range(max(index, self._cached_from), self.last_index + 1):
            self._cache_bytes -= len(self._cache.pop(gone))
        self._cached_from = min(self._cached_from, index)
        for column in (self._terms, self._segments, self._offsets, self._ends):
            del column[at:]

    def drop_to(self, index: int, term: int) -> None:
        """Entry `index`, which is of `term`, is the first from now on."""
        at = index - self.first_index
        self._before = self._ends[at - 1] if at else self._before
        for column in (self._terms, self._segments, self._offsets, self._ends):
            del column[:at]
        self._terms[0] = term
        self.first_index = index
        while self._cached_from < index:
            self._forget_oldest()

    def place(self, index: int, segment: int, offset: int) -> None:
        """The entries from `index` on are on the disk, in the frame at `offset` of `segment`."""
        at = index - self.first_index
        here = self._offsets[at:]
        self._segments[at:] = array("I", [segment]) * len(here)
        self._offsets[at:] = array("I", [offset + one for one in here])

    # Commands

    @property
    def cached_from(self) -> int:
        """The commands from this index on are in memory."""
        return self._cached_from

    def cached(self, index: int) -> bytes:
        return self._cache[index]

    def trim_cache(self, synced_index: int) -> None:
        """Forget the oldest commands beyond the bound, but none that is not on the disk."""
        while self._cache_bytes > self._cache_bytes_max and self._cached_from <= synced_index:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._cache_bytes -= len(self._cache.pop(self._cached_from, b""))
        self._cached_from += 1

    # Amounts

    def keeping(self, payload_bytes: int) -> int:
        """The least index from which on the log holds at most `payload_bytes`, the last index at most."""
        surplus = self._ends[-1] - payload_bytes
        at = bisect_left(self._ends, surplus) + 1 if surplus > self._before else 0
        return self.first_index + min(at, len(self._ends) - 1)

    def through(self, index: int, payload_bytes: int, count: int) -> int:
        """The last index of a run from `index` of at most so many bytes and entries; at least `index`."""
        at = index - self.first_index
        before = self._ends[at - 1] if at else self._before
        fits = bisect_right(self._ends, before + payload_bytes, at) - 1
        return self.first_index + max(at, min(fits, at + count - 1))
