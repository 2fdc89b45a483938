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
from quorumfs.errors import OutcomeUnknownError
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


@dataclass(frozen=True, slots=True)
class Ahead:
    """An entry that is not committed yet, but about to be."""

    entry: LogEntry


Job = Committed | Install | MakeDurable | Ahead


class Applier:
    """`put` from the Raft loop; `work` from the one thread that writes. Numbers may be read by any thread.

    `on_work` is called when there is something to do at once, `on_progress` after each piece of work, `on_installed`
    with (index, term) of an installed snapshot.
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
        self._jobs: deque[Job] = deque()  # the loop appends, the applier takes
        self._in_hand: deque[Job] = deque()  # the applier's own: taken, not done yet
        self._hooks: list[Callable[[], None]] = []
        self._bytes_put = 0  # written by the loop only
        self._bytes_done = 0  # written by the applier only
        self.durable_index = 0
        self.disk_full = False
        self.progress = 0  # pieces of work done

    def subscribe(self, hook: Callable[[], None]) -> None:
        """`hook` is called after the answers of each group were given."""
        self._hooks.append(hook)

    def put(self, job: Job, *, at_once: bool = True) -> None:
        """`at_once`: have it done now, with all that was put before; else whoever puts it sees to that later."""
        if isinstance(job, Committed):
            self._bytes_put += job.size_bytes
        self._jobs.append(job)
        if at_once:
            self._on_work()

    def try_next(self, entry: LogEntry) -> None:
        """Have `entry` tried beforehand, which is not committed yet, unless there is other work."""
        self._jobs.append(Ahead(entry))
        self._on_work()

    @property
    def fills_group(self) -> bool:
        """Whether what waits is as much as one piece of work takes."""
        return len(self._jobs) >= GROUP_ENTRIES_MAX or self.backlog_bytes >= GROUP_BYTES_MAX

    @property
    def waits(self) -> bool:
        """Whether `work` has something to do: also to find out whether a full disk has room again."""
        return bool(self._jobs or self._in_hand or self.disk_full)

    @property
    def backlog_bytes(self) -> int:
        return self._bytes_put - self._bytes_done

    def work(self) -> bool:
        """Do a piece of what waits; False when the disk is full, and the same is to be tried again later.

        Raises StorageFailure and whatever `apply` raises: then nothing more may be done here.
        """
        if not self._in_hand:
            self._take()
            if not self._in_hand and not self._jobs and not self.disk_full:
                return True  # an entry was tried: nobody waits for that
        has_work = bool(self._in_hand)
        try:
            if has_work:
                self._do()
            elif self.disk_full:  # met by a checkpoint: what it is for is done and answered
                self._database.checkpoint_if_needed()
        except StorageFull as error:
            if not self.disk_full:
                _log.error("apply.disk_full", cause=str(error))
            self.disk_full = True
            if has_work and not self._in_hand:  # done and answered: it was the checkpoint that found no room
                self._tell_progress()
            return False
        if self.disk_full:
            _log.info("apply.room_again")
        self.disk_full = False
        self._tell_progress()
        return True

    def _tell_progress(self) -> None:
        self.progress += 1  # before it is told: who looks at it then sees this piece
        self._on_progress()

    def _take(self) -> None:
        """A group of entries, or one job of another kind."""
        size = 0
        while self._jobs and len(self._in_hand) < GROUP_ENTRIES_MAX and size < GROUP_BYTES_MAX:
            job = self._jobs[0]
            if isinstance(job, Ahead):
                self._jobs.popleft()
                if not (self._jobs or self._in_hand or self.disk_full):  # else it may be committed by now
                    self._database.try_next(job.entry)
                continue
            if not isinstance(job, Committed):
                if not self._in_hand:
                    self._in_hand.append(self._jobs.popleft())
                return
            self._in_hand.append(self._jobs.popleft())
            size += job.size_bytes

    def _do(self) -> None:
        """What is in hand; it stays there until it is done."""
        first = self._in_hand[0]
        if isinstance(first, MakeDurable):
            self.durable_index = self._database.make_durable()
        elif isinstance(first, Install):
            self._install(first)
        else:
            self._apply([job for job in self._in_hand if isinstance(job, Committed)])
        self._in_hand.clear()

    def _apply(self, group: Sequence[Committed]) -> None:
        answers = self._database.apply([job.entry for job in group])
        for job, results in zip(group, answers, strict=True):
            if job.entry.configuration is not None:
                for waiting in job.waiting:
                    waiting.done(b"")
            elif job.waiting and results is not None:
                for waiting, result in zip(job.waiting, results, strict=True):
                    waiting.done(result)
            else:
                for waiting in job.waiting:
                    waiting.done(_came_otherwise(job.entry.index))
        self._in_hand.clear()
        self._bytes_done += sum(job.size_bytes for job in group)
        for hook in self._hooks:
            hook()
        self._database.checkpoint_if_needed()

    def _install(self, job: Install) -> None:
        if job.index > self._database.applied_index:
            self._database.install(job.file, job.index, job.term)
            self.durable_index = job.index
            self._on_installed(job.index, job.term)
        else:
            job.file.unlink(missing_ok=True)
            self._on_installed(0, 0)


def _came_otherwise(index: int) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "the result of the operation is not known here",
        cause=f"it was done by entry {index}, which came to this coordinator with a snapshot",
    )
