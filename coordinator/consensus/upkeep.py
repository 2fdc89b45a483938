"""What a member does for its log besides writing it: segments ahead, compaction, and snapshots that come from a leader.

Part of the loop, like the rest of the core; what other threads tell waits in queues here until the loop takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from common import log
from coordinator.consensus.applier import Applier, Install, MakeDurable
from coordinator.consensus.configuration import Configuration
from coordinator.consensus.files import StorageFull
from coordinator.consensus.interfaces import DatabaseDoor
from coordinator.consensus.journal import Journal
from coordinator.consensus.replica import Replica
from quorumfs.clock import Clock

UPKEEP_SECONDS = 0.5
FETCH_PAUSE_SECONDS = 2.0  # after a snapshot that could not be had: each try costs the leader a copy

Fetched = tuple[Path, int, int]
"""A verified snapshot, and the index and term that it is of."""
Fetch = Callable[[str, int, Callable[[Fetched | None], None]], None]
"""Have the leader's snapshot of at least this index; the last argument is told what came of it, on any thread."""

_log = log.get(__name__)


class Upkeep:
    """`installed` from the applier's thread; the rest from the loop. `due_at`: when `work` has something to do."""

    def __init__(
        self,
        replica: Replica,
        journal: Journal,
        applier: Applier,
        database: DatabaseDoor,
        clock: Clock,
        keep_bytes: int,
        fetch: Fetch,
        applied_configuration: Callable[[], Configuration],
        prepare_journal: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self.keep_bytes = keep_bytes
        self.due_at = clock.monotonic()
        self._replica = replica
        self._journal = journal
        self._applier = applier
        self._database = database
        self._clock = clock
        self._outside_fetch = fetch
        self._applied_configuration = applied_configuration
        self._prepare_journal = prepare_journal
        self._wake = wake
        self._installed: deque[tuple[int, int]] = deque()
        self._fetched: deque[Fetched | None] = deque()
        self._fetching = False
        self._fetch_at = 0.0
        self._durable_asked = 0  # what was applied then

    def work(self) -> None:
        """Twice a second: a spare segment (at once where there is none), compaction, a snapshot that is needed."""
        now = self._clock.monotonic()
        if now < self.due_at:
            if self._journal.wants_spare:
                self._prepare_journal()
            return
        self.due_at = now + UPKEEP_SECONDS
        self._prepare_journal()
        self._compact()
        self._fetch()

    def _compact(self) -> None:
        """Drop what SQLite can no longer lose, but keep a margin for members that were away."""
        journal, applier = self._journal, self._applier
        if journal.payload_bytes <= self.keep_bytes:
            return
        upto = min(applier.durable_index, journal.index_keeping(self.keep_bytes // 2))
        if upto > journal.first_index:
            with suppress(StorageFull):  # the next one finds it as it was
                journal.drop_to(upto)
        elif applier.durable_index >= self._durable_asked < self._database.applied_index:
            self._durable_asked = self._database.applied_index
            applier.put(MakeDurable())

    # Snapshots

    def _fetch(self) -> None:
        wanted, self._replica.wanted_snapshot = self._replica.wanted_snapshot, None
        if wanted is None or self._fetching or wanted[1] <= self._replica.handed_index():
            return
        if self._clock.monotonic() < self._fetch_at:
            return
        self._fetching = True
        _log.info("snapshot.wanted", leader=wanted[0], index=wanted[1])
        self._outside_fetch(*wanted, self._on_fetched)

    def _on_fetched(self, found: Fetched | None) -> None:
        """Any thread: the snapshot is there, or could not be had."""
        self._fetched.append(found)
        self._wake()

    def installed(self, index: int, term: int) -> None:
        """The state became a snapshot of (index, term); index 0: it was not newer than the state."""
        self._installed.append((index, term))
        self._wake()

    def take_installed(self) -> None:
        """Have what came installed, and the log begin at what is."""
        while self._fetched:
            found = self._fetched.popleft()
            if found is None:
                self._fetching = False
                self._fetch_at = self._clock.monotonic() + FETCH_PAUSE_SECONDS
            elif self._replica.leads():  # what it has proposed since must be applied here, to be answered
                self._fetching = False
                found[0].unlink(missing_ok=True)
            else:
                self._applier.put(Install(*found))
        while self._installed:
            index, term = self._installed[0]
            if index:
                try:
                    self._replica.installed(index, term, self._applied_configuration())
                except StorageFull:
                    return  # the log begins there when there is room again
                _log.info("snapshot.installed", index=index, term=term)
            self._installed.popleft()
            self._fetching = False
