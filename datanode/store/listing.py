"""Which names the disks have: learned directory by directory, when one is needed, and all of them soon after a start.

1. A node serves before it knows all that it holds. What it is asked of a chunk it answers from the chunk's directory
   (the first byte of the id, on every disk), which is listed then, if it was not before. So each answer is what it
   would be had everything been listed first; only figures of the whole (counts, bytes) tell what is known so far.
2. *Listed*: the names are in the index, and what a crash left half-written is removed. Nobody makes, renames or removes
   a file of a directory that is not listed: what is begun here is never taken for such a rest.
3. *Settled*: synced since it was listed. A killed process may have renamed and not synced: such a chunk can be read at
   once, as bytes prove themselves, but it is not told, acknowledged or counted on before its name is durable.
4. What was put aside lies in two directories a disk, listed together. The order in which disks are listed is theirs.
5. A directory that cannot be listed or synced fails its disk; what the others hold is known all the same.
6. Locks: the turn of a directory comes before the store's lock, never under it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from datanode.store.disk import TEMPORARY, Disk, is_shortage
from datanode.store.index import Index, Quarantined
from quorumfs.ids import ChunkId

SHARDS = 256


class Listing:
    """What is known of the names on these disks. Any thread; never under `lock`, the index's."""

    def __init__(self, disks: Sequence[Disk], index: Index, lock: threading.RLock) -> None:
        self._disks = disks
        self._index = index
        self._lock = lock
        self._listed = [_Once() for _ in range(SHARDS)]
        self._settled = [_Once() for _ in range(SHARDS)]
        self._aside = _Once()

    def list(self, shard: int) -> None:
        """The names of a directory (0..255) are in the index on return. Raises BusyError: nobody can say now."""
        self._listed[shard].do(lambda: self._list(shard))

    def settle(self, shard: int) -> None:
        """The same, and they are durable. Raises BusyError."""
        self.list(shard)
        self._settled[shard].do(lambda: self._settle(shard))

    def list_aside(self) -> None:
        """All that was put aside is in the index, and durably so, on return. Raises BusyError."""
        self._aside.do(self._list_aside)

    def know(self, chunk: ChunkId) -> None:
        """All that there is of a chunk, in its place or aside, is in the index, and durably so. Raises BusyError."""
        self.settle(chunk[0])
        self.list_aside()

    def advance(self) -> bool:
        """List or settle one directory more; whether any was left. Raises BusyError."""
        if not self._aside.done:
            self.list_aside()
            return True
        for steps, step in ((self._listed, self.list), (self._settled, self.settle)):
            for shard, once in enumerate(steps):
                if not once.done:
                    step(shard)
                    return True
        return False

    def finish(self) -> None:
        """Everything is listed and settled on return. Raises BusyError."""
        while self.advance():
            pass

    def _list(self, shard: int) -> None:
        found = [
            (chunk, number)
            for number, disk in enumerate(self._disks)
            if disk.usable
            for chunk in _chunks_in(disk, shard)
        ]
        with self._lock:
            for chunk, number in found:
                (self._index.add_other if chunk in self._index else self._index.add)(chunk, number)

    def _settle(self, shard: int) -> None:
        for disk in self._disks:
            if disk.writable:
                with _blaming(disk):
                    disk.sync_directory(disk.shard_path(shard))

    def _list_aside(self) -> None:
        for number, disk in enumerate(self._disks):
            if disk.writable:
                with _blaming(disk):
                    disk.sync_directory(disk.quarantine)
            if disk.usable:
                for chunk, found in _aside_on(number, disk):
                    with self._lock:
                        self._index.set_aside(chunk, found)


class _Once:
    """Something that is done once; all who need it wait for whoever does it. When it raises, the next one tries."""

    def __init__(self) -> None:
        self.done = False
        self._turn = threading.Lock()

    def do(self, work: Callable[[], None]) -> None:
        if self.done:
            return
        with self._turn:
            if not self.done:
                work()
                self.done = True


@contextmanager
def _blaming(disk: Disk) -> Iterator[None]:
    """A disk that refuses is failed. Raises BusyError when it is the process that is short of something."""
    try:
        yield
    except OSError as error:
        if is_shortage(error):
            raise disk.translate(error, f"listing {disk.path}") from error
        disk.fail(f"its chunks cannot be listed: {error}")


def _chunks_in(disk: Disk, shard: int) -> list[ChunkId]:
    """The sealed chunks of a directory. What a crash left is removed."""
    directory = disk.shard_path(shard)
    names: list[str] = []
    with _blaming(disk):
        names.extend(disk.files.names(directory))
    for name in names:
        if name.endswith(TEMPORARY) and disk.writable:
            with _blaming(disk):
                disk.files.remove(directory / name)
    return [chunk for chunk in map(_parse, names) if chunk is not None and chunk[0] == shard]


def _aside_on(number: int, disk: Disk) -> list[tuple[ChunkId, Quarantined]]:
    """What was put aside on a disk: what nobody condemned, then by condemnation, the oldest first."""
    condemned: list[tuple[int, int, ChunkId, bool]] = []
    found: list[tuple[ChunkId, Quarantined]] = []
    for corrupt, directory in ((False, disk.quarantine), (True, disk.corrupt)):
        names: list[str] = []
        with _blaming(disk):
            names.extend(disk.files.names(directory))
        for name in names:
            chunk, index, history = _parse_aside(name)
            if chunk is None:
                continue
            if index is not None:
                condemned.append((history, index, chunk, corrupt))
            elif corrupt:
                found.append((chunk, Quarantined(number, None, corrupt=True)))
    for history, index, chunk, corrupt in sorted(condemned):
        found.append((chunk, Quarantined(number, index, 0, history, corrupt)))
    return found


def _parse_aside(name: str) -> tuple[ChunkId | None, int | None, int]:
    """(chunk, condemn index, history) of a name in quarantine; versions before wrote no history (0). None: no chunk, or
    no index."""
    stem, dot, rest = name.partition(".")
    index, _, history = rest.partition(".")
    if not dot:
        return _parse(stem), None, 0
    if not index.isdecimal() or not (history or "0").isdecimal():
        return None, None, 0
    return _parse(stem), int(index), int(history or 0)


def _parse(name: str) -> ChunkId | None:
    """The chunk of that name; None for any other spelling than the one that is written here."""
    try:
        raw = bytes.fromhex(name)
    except ValueError:
        return None
    return ChunkId(raw) if len(raw) == 16 and raw.hex() == name else None
