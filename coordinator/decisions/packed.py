"""Many chunk ids in little memory: sorted, one behind the other, 16 bytes each.

Pages are taken apart and compared by C, not by loops of Python: whoever waits for the interpreter waits for less than
a millisecond.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import islice
from operator import lt
from struct import Struct

from quorumfs.ids import ID_BYTES

PAGE_IDS = 1024
_ID = Struct(f"{ID_BYTES}s")


class PackedIds(Set[bytes], Sequence[bytes]):
    """A set of ids, in order. Immutable. A million take 16 MB; as a frozenset of bytes they would take 100."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes | bytearray = b"") -> None:
        """`raw` is sorted and has nothing twice: see `in_order`. It is kept, not copied, and must not change."""
        self._raw = raw

    @classmethod
    def of(cls, ids: Iterable[bytes]) -> PackedIds:
        return cls(b"".join(sorted(set(ids))))

    def __len__(self) -> int:
        return len(self._raw) // ID_BYTES

    def __getitem__(self, at: int) -> bytes:  # type: ignore[override]  # no slices: see `between`
        if not 0 <= at < len(self):
            raise IndexError(at)
        return bytes(self._raw[at * ID_BYTES : (at + 1) * ID_BYTES])

    def __iter__(self) -> Iterator[bytes]:
        for first in range(0, len(self), PAGE_IDS):
            yield from self._page(first, min(first + PAGE_IDS, len(self)))

    def __contains__(self, chunk: object) -> bool:
        if not isinstance(chunk, bytes):
            return False
        at = bisect_left(self, chunk)
        return at < len(self) and self[at] == chunk

    def between(self, after: bytes, through: bytes | None) -> list[bytes]:
        """Those behind `after`, up to and with `through` (None: to the end), in order."""
        first = bisect_right(self, after)
        last = len(self) if through is None else bisect_right(self, through)
        return self._page(first, last)

    def _page(self, first: int, last: int) -> list[bytes]:
        return split(memoryview(self._raw)[first * ID_BYTES : last * ID_BYTES])


class Walk:
    """Goes through the ids once, a page at a time; where it is it need not look for."""

    __slots__ = ("_at", "_ids")

    def __init__(self, ids: PackedIds) -> None:
        self._ids = ids
        self._at = 0

    def take(self, through: bytes | None) -> list[bytes]:
        """Those behind what was taken before, up to and with `through` (None: to the end), in order."""
        first, last = self._at, len(self._ids)
        if through is not None:
            step = PAGE_IDS
            while first + step < last and self._ids[first + step] <= through:
                step *= 2
            last = bisect_right(self._ids, through, first, min(first + step, last))
        self._at = last
        return self._ids._page(first, last) if last > first else []


def split(raw: bytes | memoryview) -> list[bytes]:
    """The ids in `raw`; a rest that is no whole id is left away."""
    whole = len(raw) - len(raw) % ID_BYTES
    return [one for (one,) in _ID.iter_unpack(memoryview(raw)[:whole])]


def in_order(ids: Sequence[bytes], after: bytes = b"") -> bool:
    """Whether every id comes behind the one before it, and the first behind `after`."""
    return not ids or (ids[0] > after and all(map(lt, ids, islice(ids, 1, None))))
