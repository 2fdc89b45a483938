"""Quiet duties over the store: list all names, scrub everything, verify suspects, learn file sizes, keep what was
heard of leaders, remove what has been in quarantine for long enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common import log
from datanode.store.chunks import ChunkStore
from datanode.store.fence import EpochStore
from datanode.store.scrub import Scrubber, verify_suspect
from quorumfs.clock import Clock
from quorumfs.ids import ChunkId
from quorumfs.limits import CHUNK_SIZE_BYTES

SAVE_EVERY_BYTES = 1 << 30
SUSPECT_PAUSE_SECONDS = 1.0
REST_SECONDS_MAX = 3600.0
REST_LOOK_SECONDS = 10.0
MEASURE_PAUSE_SECONDS = 3600.0
LISTED_SECONDS = 3600.0  # nothing is left to do
LIST_REST_SECONDS_MAX = 0.1
SETTLE_SECONDS = 10.0  # of commits heard may be forgotten in a crash
PURGE_SECONDS = 30.0
PURGES_PER_UNIT = 1000
ROOM_BYTES = 2 * CHUNK_SIZE_BYTES
_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class ScrubFigures:
    """`progress` of the round, 0 to 1: ids are random, so the last one read says it. The rest: of this round."""

    stopped: bool
    round: int
    progress: float
    bytes: int
    corrupt: int
    bytes_per_second: float


class ListDuty:
    """Lists what lies on the disks after a start, one directory per unit; who needs one before is not kept waiting. It
    rests as long as a unit took: nobody waits for the whole, and callers want the interpreter."""

    name = "list"

    def __init__(self, store: ChunkStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._made_at = clock.monotonic()
        self._rest_seconds = 0.0
        self._done = False

    def work(self) -> str:
        began = self._clock.monotonic()
        more = self._store.listing.advance()
        self._rest_seconds = min(LIST_REST_SECONDS_MAX, self._clock.monotonic() - began)
        if more:
            return f"{len(self._store)} chunks so far"
        if not self._done:
            took = self._clock.monotonic() - self._made_at
            _log.info("chunks.listed", chunks=len(self._store), took_ms=round(1000 * took))
        self._done = True
        return f"{len(self._store)} chunks"

    def wait(self) -> float:
        return LISTED_SECONDS if self._done else self._rest_seconds


class ScrubDuty:
    """Reads and verifies one chunk per unit, then rests so long that the bound on bytes per second holds.

    The pace is what the period asks for, at most the bound; a bound too low for the period is told once a
    round. Rests are bounded, so where there is little to read it is read more often than that. A rest is reckoned
    anew while it lasts: just after a start the sizes of most files are not known yet, and the pace of a disk that
    seems empty would be none.
    """

    name = "scrub"

    def __init__(
        self,
        scrubber: Scrubber,
        used_bytes: Callable[[], int],
        period_seconds: float,
        bytes_per_second_max: int,
        clock: Clock,
    ) -> None:
        self._scrubber = scrubber
        self._clock = clock
        self._used_bytes = used_bytes
        self._period_seconds = period_seconds
        self._most = bytes_per_second_max
        self._asked: int | None = None  # an operator's or leader's pace; 0: stopped
        self._rest_seconds = 0.0
        self._read_at = clock.monotonic()
        self._read_bytes = 0  # for which it rests
        self._unsaved_bytes = 0
        self.wake: Callable[[], None] = lambda: None

    def control(self, *, stop: bool, bytes_per_second: int = 0) -> None:
        """Stop, or go on at a pace of one's own choice (0: the configured one)."""
        self._asked = 0 if stop else (bytes_per_second or None)
        self._read_bytes = 0
        self.wake()

    def configure(self, period_seconds: float, bytes_per_second_max: int) -> None:
        """The configured pace from now on; an order's goes before it. Any thread."""
        self._period_seconds, self._most = period_seconds, bytes_per_second_max
        self.wake()

    def figures(self) -> ScrubFigures:
        """Where the walk is. Any thread."""
        position = self._scrubber.position
        return ScrubFigures(
            stopped=self._asked == 0,
            round=position.round,
            progress=int(position.cursor[:8], 16) / 2**32 if position.cursor else 0.0,
            bytes=position.bytes,
            corrupt=position.corrupt,
            bytes_per_second=0.0 if self._asked == 0 else self._pace(),
        )

    def work(self) -> str:
        if self._asked == 0:
            self._rest_seconds = SUSPECT_PAUSE_SECONDS
            return "stopped by order"
        if rest := self._rest():
            self._rest_seconds = rest
            return "rests"
        step = self._scrubber.step()
        self._read_at, self._read_bytes = self._clock.monotonic(), step.bytes
        self._rest_seconds = self._pause_after_round() if step.chunk is None else self._rest()
        if not step.ok and step.chunk is not None:
            _log.error("chunk.corrupt", chunk=step.chunk.hex(), found_by="scrub")
        self._remember(step.bytes, round_over=step.chunk is None)
        if step.chunk is None:
            return f"round {self._scrubber.position.round} is over"
        verdict = "is good" if step.ok else "is damaged and was put aside"
        return f"chunk {step.chunk.hex()} {verdict}"

    def wait(self) -> float:
        return self._rest_seconds

    def _pace(self) -> float:
        """Bytes per second."""
        if self._asked:
            return float(self._asked)
        wanted = self._used_bytes() / self._period_seconds
        return min(float(self._most), max(wanted, 1.0))

    def _rest(self) -> float:
        """Seconds until it may read again, or should look again whether it may."""
        whole = min(REST_SECONDS_MAX, self._read_bytes / self._pace())
        left = self._read_at + whole - self._clock.monotonic()
        return min(REST_LOOK_SECONDS, max(0.0, left))

    def _pause_after_round(self) -> float:
        if self._used_bytes() / self._period_seconds > self._most:
            _log.warning(
                "scrub.behind",
                period_seconds=self._period_seconds,
                bytes_per_second=self._most,
                used_bytes=self._used_bytes(),
            )
        return min(60.0, self._period_seconds)

    def _remember(self, read_bytes: int, *, round_over: bool) -> None:
        self._unsaved_bytes += read_bytes
        if round_over or self._unsaved_bytes >= SAVE_EVERY_BYTES:
            self._scrubber.save()
            self._unsaved_bytes = 0


class VerifyDuty:
    """Reads whole what somebody could not read, and puts it aside if it is damaged."""

    name = "verify"

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._idle = True

    def work(self) -> str:
        found = verify_suspect(self._store)
        self._idle = found is None
        if found is None:
            return "no chunk is suspected"
        chunk, ok = found
        if not ok:
            _log.error("chunk.corrupt", chunk=chunk.hex(), found_by="verify")
        return f"chunk {chunk.hex()} {'is good' if ok else 'is damaged and was put aside'}"

    def wait(self) -> float:
        return SUSPECT_PAUSE_SECONDS if self._idle else 0.0


class MeasureDuty:
    """Learns the sizes of the files that the start took from their names alone, one directory per unit."""

    name = "measure"

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._shard = 0

    def work(self) -> str:
        measured = self._store.measure(self._shard)
        self._shard = (self._shard + 1) % 256
        return f"{measured} sizes learned"

    def wait(self) -> float:
        return 0.02 if self._shard else MEASURE_PAUSE_SECONDS


class SettleDuty:
    """Writes down what was heard of commits, so that heartbeats never wait for a disk."""

    name = "settle"

    def __init__(self, fence: EpochStore) -> None:
        self._fence = fence

    def work(self) -> str:
        self._fence.settle()
        return f"commit index {self._fence.commit_index} is kept"

    def wait(self) -> float:
        return SETTLE_SECONDS


class PurgeDuty:
    """Removes condemned chunks that have lain in quarantine for the configured time.

    Time counts only while a leader acknowledges this node (`counts`), and in steps no longer than twice the
    pause: no clock that jumps, no machine that slept, and no cluster without a leader, in which nobody could
    restore anything, shortens it. A restart of the process begins it anew, and so does a new `history` of the
    log: it may have gone back behind a deletion, and want the chunk again. Wrong bytes stay, unless their chunk is
    condemned: they may be the last that is left of it. After the same time they make way first when a disk has no room:
    nobody here knows whether there is a good replica, but repair has had its time, and somebody could look.
    """

    name = "purge"

    def __init__(
        self,
        store: ChunkStore,
        quarantine_seconds: float,
        counts: Callable[[], bool],
        clock: Clock,
        history: Callable[[], int],
    ) -> None:
        self._store = store
        self._history = history
        self._counted_in = history()
        self._quarantine_seconds = quarantine_seconds
        self._counts = counts
        self._clock = clock
        self._age_seconds = 0.0
        self._looked_at = clock.monotonic()
        self._since: dict[tuple[ChunkId, int], float] = {}
        self._corrupt_since: dict[ChunkId, float] = {}
        self._more = False

    def configure(self, quarantine_seconds: float) -> None:
        """So long from now on, also for what lies there already. Any thread."""
        self._quarantine_seconds = quarantine_seconds

    def work(self) -> str:
        self._let_time_pass()
        history = self._history()
        if history != self._counted_in:
            self._counted_in, self._since, self._corrupt_since = history, {}, {}
        found = self._store.condemned()
        self._since = {one: self._since.get(one, self._age_seconds) for one in found}
        due = [
            one for one, since in self._since.items() if self._age_seconds - since >= self._quarantine_seconds
        ]
        self._age_corrupt()
        self._make_room()
        self._more = len(due) > PURGES_PER_UNIT
        purged = [one for one in due[:PURGES_PER_UNIT] if self._store.purge(*one)]
        if purged:
            _log.info("quarantine.purged", chunks=len(purged), left=len(found) - len(purged))
        return f"{len(purged)} purged, {len(found) - len(purged)} in quarantine"

    def _age_corrupt(self) -> None:
        now = self._age_seconds
        self._corrupt_since = {one: self._corrupt_since.get(one, now) for one in self._store.corrupt()}
        self._store.worthless = frozenset(
            one for one, since in self._corrupt_since.items() if now - since >= self._quarantine_seconds
        )

    def _make_room(self) -> None:
        """So that the next chunk finds room, and disks do not count as full for what nobody needs."""
        if self._counts():
            for number in range(len(self._store.disks)):
                self._store.early.make_room(number, ROOM_BYTES)

    def wait(self) -> float:
        return 0.2 if self._more else min(PURGE_SECONDS, max(1.0, self._quarantine_seconds / 4))

    def _let_time_pass(self) -> None:
        now = self._clock.monotonic()
        if self._counts():
            self._age_seconds += min(now - self._looked_at, 2 * PURGE_SECONDS)
        self._looked_at = now
