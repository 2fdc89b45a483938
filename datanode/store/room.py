"""Room for new chunks out of the quarantine: under pressure it goes first, oldest first, before a write is refused.

What an operator could have restored is gone then before its time: that is counted, told and logged. What an earlier
history of the log condemned has its whole time: a restored backup may refer to it, and brings it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from common import log
from datanode.store.disk import Disk
from quorumfs.errors import UnavailableError
from quorumfs.ids import ChunkId

PURGES_AT_ONCE_MAX = 256

_log = log.get(__name__)


class Quarantine(Protocol):
    """The store, as far as its quarantine goes."""

    def spare_on(self, number: int) -> Iterable[tuple[ChunkId, int | None]]:
        """(chunk, condemn index) of what may go on a disk: wrong bytes first (None), then what the present history has
        put in quarantine, oldest first."""
        ...

    def purge(self, chunk: ChunkId, condemn_index: int | None) -> bool: ...


class EarlyPurges:
    """What had to go before its time. Any thread."""

    def __init__(self, disks: Sequence[Disk], quarantine: Quarantine) -> None:
        self._disks = disks
        self._quarantine = quarantine
        self.counts = [0] * len(disks)

    def make_room(self, number: int, needed_bytes: int) -> bool:
        """Purge on this disk until so much is free above the reserve; whether it is."""
        disk = self._disks[number]
        if not disk.writable:
            return False
        purged = 0
        for chunk, condemn_index in self._quarantine.spare_on(number):
            if purged >= PURGES_AT_ONCE_MAX or disk.space()[1] >= needed_bytes:
                break
            try:
                purged += self._quarantine.purge(chunk, condemn_index)
            except UnavailableError:
                break
        if purged:
            self.counts[number] += purged
            _log.warning("quarantine.purged_early", path=str(disk.path), chunks=purged, needed=needed_bytes)
        return disk.space()[1] >= needed_bytes
