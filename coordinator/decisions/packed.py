"""Many chunk ids in little memory: sorted, one behind the other, 16 bytes each."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import pairwise

from quorumfs.ids import ID_BYTES


class PackedIds(Set[bytes], Sequence[bytes]):
    """A set of ids, in order. Immutable. A million take 16 MB; as a frozenset of bytes they would take 100."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes = b"") -> None:
        """`raw` is sorted and has nothing twice: see `in_order`."""
        self._raw = raw

    @classmethod
    def of(cls, ids: Iterable[bytes]) -> PackedIds:
        return cls(b"".join(sorted(set(ids))))

    def __len__(self) -> int:
        return len(self._raw) // ID_BYTES

    def __getitem__(self, at: int) -> bytes:  # type: ignore[override]  # no slices: see `between`
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._raw[at * ID_BYTES : (at + 1) * ID_BYTES]

    def __iter__(self) -> Iterator[bytes]:
        return (self._raw[at : at + ID_BYTES] for at in range(0, len(self._raw), ID_BYTES))

    def __contains__(self, chunk: object) -> bool:
        if not isinstance(chunk, bytes):
            return False
        at = bisect_left(self, chunk)
        return at < len(self) and self[at] == chunk

    def between(self, after: bytes, through: bytes | None) -> list[bytes]:
        """Those behind `after`, up to and with `through` (None: to the end), in order."""
        first = bisect_right(self, after)
        last = len(self) if through is None else bisect_right(self, through)
        return [self[at] for at in range(first, last)]


def split(raw: bytes) -> list[bytes]:
    """The ids in `raw`; a rest that is no whole id is left away."""
    whole = len(raw) - len(raw) % ID_BYTES
    return [raw[at : at + ID_BYTES] for at in range(0, whole, ID_BYTES)]


def in_order(ids: Sequence[bytes], after: bytes = b"") -> bool:
    """Whether every id comes behind the one before it, and the first behind `after`."""
    if not ids:
        return True
    return ids[0] > after and all(one < two for one, two in pairwise(ids))
