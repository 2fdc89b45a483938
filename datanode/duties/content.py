"""What this datanode tells the leader: load, disks, changes, outcomes, and on demand everything it holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from common.memory import resident_bytes
from datanode.duties.commands import Outcomes
from datanode.store.chunks import ChunkStore
from datanode.store.delta import Change, ReplicaChange
from datanode.transfer.admission import Gate
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

DELTA_PER_HEARTBEAT = 2000
INVENTORY_PAGE_IDS = 2_000  # 32 kB, less than half a millisecond of the leader's loop
MARKS_MAX = 16

_STATE = {
    ReplicaChange.SEALED: t.REPLICA_STATE_LIVE,
    ReplicaChange.CORRUPT: t.REPLICA_STATE_CORRUPT,
    ReplicaChange.MISSING: t.REPLICA_STATE_MISSING,
}


class Content:
    """The HeartbeatContent of a datanode. Heartbeat thread, except `inventory`."""

    def __init__(
        self,
        store: ChunkStore,
        outcomes: Outcomes,
        writes: Gate,
        reads: Gate,
        copying: Callable[[], Sequence[bytes]] = tuple,
    ) -> None:
        self._store = store
        self._outcomes = outcomes
        self._writes = writes
        self._reads = reads
        self._copying = copying
        self._delta_marks = _Marks()
        self._outcome_marks = _Marks()
        self._cpu = (time.monotonic(), time.process_time())

    def load(self) -> m.NodeLoad:
        return m.NodeLoad(
            write_streams=self._writes.inside,
            read_streams=self._reads.inside,
            rss_bytes=resident_bytes(),
            cpu_fraction=self._cpu_fraction(),
            copying=self._copying(),
        )

    def disks(self) -> Sequence[t.DiskInfo]:
        return self._store.usage()

    def take_delta(self, sequence: int) -> Sequence[m.ReplicaReport]:
        changes, mark = self._store.delta.pending(DELTA_PER_HEARTBEAT)
        self._delta_marks.put(sequence, mark)
        return [_report(change) for change in changes]

    def outcomes(self, sequence: int) -> Sequence[m.CommandOutcome]:
        found, mark = self._outcomes.pending()
        self._outcome_marks.put(sequence, mark)
        return found

    def acknowledged(self, sequence: int) -> None:
        self._store.delta.acknowledge(self._delta_marks.reached(sequence))
        self._outcomes.acknowledge(self._outcome_marks.reached(sequence))

    def inventory(self) -> Iterator[m.InventoryPage]:
        """All sealed chunks by their ids, in order."""
        after = b""
        while ids := self._store.ids(after, INVENTORY_PAGE_IDS):
            yield m.InventoryPage(ids=b"".join(ids))
            after = ids[-1]

    def holds_nothing(self) -> bool:
        return self._store.holds_nothing()

    def _cpu_fraction(self) -> float:
        """Cores in use since it was asked last."""
        now = (time.monotonic(), time.process_time())
        (before_at, before_cpu), self._cpu = self._cpu, now
        return (now[1] - before_cpu) / max(now[0] - before_at, 1e-3)


class _Marks:
    """Which mark went out with which heartbeat; only the last few can still be acknowledged."""

    def __init__(self) -> None:
        self._marks: dict[int, int] = {}

    def put(self, sequence: int, mark: int) -> None:
        self._marks[sequence] = mark
        while len(self._marks) > MARKS_MAX:
            del self._marks[next(iter(self._marks))]

    def reached(self, sequence: int) -> int:
        """The mark of heartbeat `sequence`; it and the earlier ones are forgotten. 0 if it is unknown."""
        mark = self._marks.get(sequence, 0)
        self._marks = {one: kept for one, kept in self._marks.items() if one > sequence}
        return mark


def _report(change: Change) -> m.ReplicaReport:
    report = m.ReplicaReport(
        chunk=change.chunk,
        state=_STATE[change.state],
        disk_id=change.disk_id,
        length=change.length,
        checksum=change.checksum,
    )
    if change.birth is not None:
        report.birth.history = change.birth.history
        report.birth.index = change.birth.index
        report.birth.cluster_ms = change.birth.cluster_ms
    return report
