"""Applies committed entries to the database, answers who waits for them, and does what needs its only writer.

The work comes in order from the Raft loop; `work` does some of it: in production on the thread `apply`, in the
simulation wherever the schedule says. A full disk is waited out with the same entries; everything else that
fails ends the process, because this member would be another state machine than its peers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import log
from coordinator.consensus.files import StorageFull
from coordinator.consensus.interfaces import DatabaseDoor, LogEntry
from coordinator.consensus.proposals import Waiting
from quorumfs.limits import ENTRY_BYTES_MAX

GROUP_ENTRIES_MAX = 64
GROUP_BYTES_MAX = ENTRY_BYTES_MAX
BACKLOG_BYTES_MAX = 64 << 20

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Committed:
    """An entry to apply, and those who wait for its items, one per item; none when it came from elsewhere."""

    entry: LogEntry
    waiting: Sequence[Waiting] = ()

    @property
    def size_bytes(self) -> int:
        return len(self.entry.data or b"")


@dataclass(frozen=True, slots=True)
class Install:
    """A snapshot to become the state, unless it is older than what is there."""

    file: Path
    index: int
    term: int


class MakeDurable:
    """The database shall survive a power cut with all that was applied before this."""


Job = Committed | Install | MakeDurable


class Applier:
    """`put` from the Raft loop; `work` from the one thread that writes. Numbers may be read by any thread.

    `on_work` is called when there is something to do, `on_progress` after each piece of work, `on_installed` with
    (index, term) of an installed snapshot.
    """

    def __init__(
        self,
        database: DatabaseDoor,
        on_work: Callable[[], None],
        on_progress: Callable[[], None],
        on_installed: Callable[[int, int], None],
    ) -> None:
        self._database = database
        self._on_work = on_work
        self._on_progress = on_progress
        self._on_installed = on_installed
        self._jobs: deque[Job] = deque()
        self._hooks: list[Callable[[], None]] = []
        self.durable_index = 0
        self.backlog_bytes = 0
        self.disk_full = False

    def subscribe(self, hook: Callable[[], None]) -> None:
        """`hook` is called after the answers of each group were given."""
        self._hooks.append(hook)

    def put(self, job: Job) -> None:
        if isinstance(job, Committed):
            self.backlog_bytes += job.size_bytes
        self._jobs.append(job)
        self._on_work()

    @property
    def waits(self) -> bool:
        return bool(self._jobs)

    def work(self) -> bool:
        """Do a piece of what waits; False when the disk is full, and the same is to be tried again later.

        Raises StorageFailure and whatever `apply` raises: then nothing more may be done here.
        """
        if not self._jobs:
            return True
        job = self._jobs[0]
        try:
            if isinstance(job, Committed):
                self._apply()
            else:
                self._jobs.popleft()
                self._do(job)
        except StorageFull as error:
            if not self.disk_full:
                _log.error("apply.disk_full", cause=str(error))
            self.disk_full = True
            return False
        if self.disk_full:
            _log.info("apply.room_again")
        self.disk_full = False
        self._on_progress()
        return True

    def _apply(self) -> None:
        group: list[Committed] = []
        size = 0
        for job in self._jobs:
            if not isinstance(job, Committed) or len(group) == GROUP_ENTRIES_MAX or size >= GROUP_BYTES_MAX:
                break
            group.append(job)
            size += job.size_bytes
        answers = self._database.apply([job.entry for job in group])
        for job, results in zip(group, answers, strict=True):
            self._jobs.popleft()
            if job.entry.configuration is not None:
                for waiting in job.waiting:
                    waiting.done(b"")
            elif job.waiting and results is not None:
                for waiting, result in zip(job.waiting, results, strict=True):
                    waiting.done(result)
        self.backlog_bytes -= size
        for hook in self._hooks:
            hook()
        self._database.checkpoint_if_needed()

    def _do(self, job: Install | MakeDurable) -> None:
        if isinstance(job, MakeDurable):
            self.durable_index = self._database.make_durable()
        elif job.index > self._database.applied_index:
            self._database.install(job.file, job.index, job.term)
            self.durable_index = job.index
            self._on_installed(job.index, job.term)
        else:
            job.file.unlink(missing_ok=True)
            self._on_installed(0, 0)
