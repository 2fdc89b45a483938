"""Which chunks lie on which disk, in memory: built from file names alone, so that a start reads no chunk.

1. 256 dictionaries, by the first byte of the id, like the directories: a page of a listing sorts one of them.
2. A value is one int: `size << 8 | disk number`. The size is that of the file, 0 until it has been measured;
   a sealed file is never empty. About 150 bytes of memory per chunk.
3. A chunk may lie on several disks: one failed, the chunk was copied anew, and after a restart both are there. One
   counts; the others are known beside it, and the next of them takes its place when it goes.
4. Files put aside are kept apart, all that there are of a chunk: condemned by an index of a history, or corrupt, or
   both. The first of them is the one to bring back, if any can be.

Not thread-safe: the store calls under its lock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from quorumfs.ids import ChunkId

DISKS_MAX = 255


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file put aside. `condemn_index` is None for one with wrong bytes that nobody has condemned; `history`: of that
    index, 0: unknown. `corrupt`: it has wrong bytes, and never comes back."""

    disk: int
    condemn_index: int | None
    size: int = 0
    history: int = 0
    corrupt: bool = False

    def is_file_of(self, other: Quarantined) -> bool:
        """Whether both are the same file, whatever is known of its size."""
        return replace(self, size=0) == replace(other, size=0)


class Index:
    def __init__(self) -> None:
        self._shards: list[dict[ChunkId, int]] = [{} for _ in range(256)]
        self._others: dict[ChunkId, dict[int, int]] = {}  # disk number -> size
        self._quarantined: dict[ChunkId, tuple[Quarantined, ...]] = {}
        self._quarantined_bytes = [0] * DISKS_MAX
        self._condemned = [0] * DISKS_MAX
        self._used = [0] * DISKS_MAX
        self._counts = [0] * DISKS_MAX

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def __contains__(self, chunk: ChunkId) -> bool:
        return chunk in self._shards[chunk[0]]

    def disk_of(self, chunk: ChunkId) -> int | None:
        value = self._shards[chunk[0]].get(chunk)
        return None if value is None else value & 0xFF

    def disks_of(self, chunk: ChunkId) -> list[int]:
        """All with a copy, first the one that counts."""
        number = self.disk_of(chunk)
        return [] if number is None else [number, *self._others.get(chunk, ())]

    def add(self, chunk: ChunkId, disk: int, size: int = 0) -> None:
        """A sealed chunk; this disk counts from now on. Known again on the same: only its size is learned."""
        shard = self._shards[chunk[0]]
        old = shard.get(chunk)
        if old is not None and old & 0xFF != disk:
            self._others.setdefault(chunk, {})[old & 0xFF] = old >> 8
        elif old is not None:
            self._drop(old)
        self._drop_other(chunk, disk)
        shard[chunk] = size << 8 | disk
        self._counts[disk] += 1
        self._used[disk] += size

    def add_other(self, chunk: ChunkId, disk: int) -> None:
        """Another copy of a chunk that is known."""
        if disk not in self.disks_of(chunk):
            self._others.setdefault(chunk, {})[disk] = 0
            self._counts[disk] += 1

    def prefer(self, chunk: ChunkId, disk: int) -> None:
        """That one of its disks counts."""
        size = self._others.get(chunk, {}).get(disk)
        if size is not None:
            self.add(chunk, disk, size)

    def remove(self, chunk: ChunkId) -> None:
        """The copy that counts is gone; another takes its place, if there is one."""
        shard = self._shards[chunk[0]]
        value = shard.pop(chunk, None)
        if value is not None:
            self._drop(value)
        if chunk in self._others:
            disk, size = next(iter(self._others[chunk].items()))
            self._drop_other(chunk, disk)
            self.add(chunk, disk, size)

    def measured(self, chunk: ChunkId, disk: int, size: int) -> None:
        """The file's size is now known; nothing happens if the chunk has gone or moved meanwhile."""
        if self._shards[chunk[0]].get(chunk) == disk:
            self.add(chunk, disk, size)
        elif self._others.get(chunk, {}).get(disk) == 0:
            self._others[chunk][disk] = size
            self._used[disk] += size

    def unmeasured(self, shard: int) -> list[tuple[ChunkId, int]]:
        """(chunk, disk) of the copies in a shard (0..255) whose size is not known."""
        found = [(chunk, value) for chunk, value in self._shards[shard].items() if value < 256]
        for chunk, others in self._others.items():
            if chunk[0] == shard:
                found += [(chunk, disk) for disk, size in others.items() if not size]
        return found

    def unmeasured_aside(self, shard: int) -> list[tuple[ChunkId, Quarantined]]:
        """The same of those that were put aside."""
        return [
            (chunk, found)
            for chunk, files in self._quarantined.items()
            for found in files
            if chunk[0] == shard and not found.size
        ]

    def used_bytes(self, disk: int) -> int:
        return self._used[disk]

    def count(self, disk: int) -> int:
        return self._counts[disk]

    def set_aside(self, chunk: ChunkId, found: Quarantined) -> None:
        """One more file; the same again: its size is learned."""
        self.take_back(chunk, found)
        files = (*self._quarantined.get(chunk, ()), found)
        self._quarantined[chunk] = files if len(files) == 1 else tuple(sorted(files, key=_last))
        self._quarantined_bytes[found.disk] += found.size
        self._condemned[found.disk] += found.condemn_index is not None

    def take_back(self, chunk: ChunkId, found: Quarantined) -> None:
        """Forget a file that was put aside."""
        left = []
        for one in self._quarantined.get(chunk, ()):
            if one.is_file_of(found):
                self._quarantined_bytes[one.disk] -= one.size
                self._condemned[one.disk] -= one.condemn_index is not None
            else:
                left.append(one)
        if left:
            self._quarantined[chunk] = tuple(left)
        else:
            self._quarantined.pop(chunk, None)

    def aside(self, chunk: ChunkId) -> Quarantined | None:
        """The file to bring back; one with wrong bytes when there is no other."""
        files = self._quarantined.get(chunk)
        return files[0] if files else None

    def all_aside(self, chunk: ChunkId) -> tuple[Quarantined, ...]:
        return self._quarantined.get(chunk, ())

    def condemned(self, disk: int | None = None, history: int | None = None) -> list[tuple[ChunkId, int]]:
        """(chunk, condemn index) of what was put aside by order, on one disk or all, in one history or all; in that
        order."""
        return [
            (chunk, found.condemn_index)
            for chunk, files in self._quarantined.items()
            for found in files
            if found.condemn_index is not None
            and disk in (None, found.disk)
            and history in (None, found.history)
        ]

    def corrupt(self, disk: int | None = None) -> list[ChunkId]:
        """Chunks of which wrong bytes that nobody has condemned were put aside, on one disk or all."""
        return [
            chunk
            for chunk, files in self._quarantined.items()
            if any(one.condemn_index is None and disk in (None, one.disk) for one in files)
        ]

    def quarantined_bytes(self, disk: int) -> int:
        return self._quarantined_bytes[disk]

    def condemned_count(self, disk: int) -> int:
        return self._condemned[disk]

    def after(self, chunk: bytes, limit: int, shard: int) -> list[ChunkId]:
        """Up to `limit` sealed chunks of a shard whose ids come after `chunk` (empty: from the first), in order."""
        ids = sorted(self._shards[shard])
        start = bisect_right(ids, chunk) if chunk else 0
        return ids[start : start + limit]

    def quarantined_after(self, chunk: bytes, limit: int) -> list[ChunkId]:
        return sorted(found for found in self._quarantined if not chunk or found > chunk)[:limit]

    def __iter__(self) -> Iterator[ChunkId]:
        for shard in self._shards:
            yield from shard

    def _drop_other(self, chunk: ChunkId, disk: int) -> None:
        others = self._others.get(chunk, {})
        if disk in others:
            self._drop(others.pop(disk) << 8 | disk)
            if not others:
                del self._others[chunk]

    def _drop(self, value: int) -> None:
        disk = value & 0xFF
        self._counts[disk] -= 1
        self._used[disk] -= value >> 8


def _last(found: Quarantined) -> tuple[bool, int, int]:
    """Of what can come back, what was condemned last comes first."""
    return found.corrupt, -found.history, -(found.condemn_index or 0)
