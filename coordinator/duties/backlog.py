"""Which chunks repair looks at next: the worst at once, and all others in turn.

Theory of operation
1. There may be a million chunks that lack replicas, and of some of them nothing can be done now: no node takes another
   copy. A round looks at few, always at those with the fewest copies, and at a page of the others that goes round: what
   cannot be repaired does not keep the rest waiting.
2. What lacks replicas by the metadata is read from an index, page by page. What lacks them because nodes or disks are
   gone is read from all the replicas that these had: a *survey*, made when that set changes, and from then on only
   so often that it takes a small part of the time. What is to be moved off nodes that leave comes after what is hurt.
3. A survey grows old: each chunk is looked at again before anything is done for it, and is dropped from the list when
   it lacks nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from coordinator.metadata import queries
from coordinator.metadata.queries import Apart, DamagedChunk, Gone, LostDisk
from quorumfs.clock import Clock

WORST = 400
IN_TURN = 200
LISTED_MAX = 200_000
SURVEY_SECONDS_MIN = 1.0
SURVEY_SHARE = 50  # a survey that took a second is made again after so many

_BEGINNING = (0, b"")
NOBODY = Apart()


@dataclass(frozen=True, slots=True)
class Survey:
    """How much lacks replicas. `lost`: one of the `missing`, which have none on any node and disk that is there;
    `on_failed_disks`: have them on disks that failed only.
    `moving`: lacks none yet, but would without nodes that leave."""

    under_replicated: int = 0
    missing: int = 0
    lost: bytes | None = None
    moving: int = 0
    on_failed_disks: int = 0


class Backlog:
    """Of one leadership. One thread; `page` as a question to the metadata."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gone: frozenset[str | LostDisk] = frozenset()
        self._apart = Apart()
        self._due = clock.monotonic()
        self._listed: list[bytes] = []  # endangered by what is gone, fewest copies first
        self._place = 0
        self._cursor = _BEGINNING
        self.survey = Survey()

    def page(self, tx: sqlite3.Connection, gone: Gone, apart: Apart = NOBODY) -> list[DamagedChunk]:
        """Chunks that lack replicas now, when those that are `gone` are lost, and those `apart` count for less."""
        self._survey(tx, frozenset(gone), apart)
        wanting = [*queries.wanting_chunks(tx, _BEGINNING, WORST), *self._next_wanting(tx)]
        listed = self._next_listed()
        chunks = dict.fromkeys([chunk for _, chunk in wanting] + listed)
        found = queries.damaged_chunks(tx, chunks, gone, apart)
        self._drop({*listed} - {one.chunk for one in found})
        return found

    def look_anew(self) -> None:
        """The next page begins with a survey."""
        self._due = self._clock.monotonic()

    def _survey(self, tx: sqlite3.Connection, gone: frozenset[str | LostDisk], apart: Apart) -> None:
        began = self._clock.monotonic()
        unchanged = (gone, apart) == (self._gone, self._apart)
        if unchanged and began < self._due:
            return
        counts = queries.chunk_counts(tx, gone)
        lost = queries.a_lost_chunk(tx, gone) if counts.missing else None
        moving, first = queries.moving(tx, gone, apart, LISTED_MAX)
        self.survey = Survey(counts.under_replicated, counts.missing, lost, moving, counts.on_failed_disks)
        self._listed = [*queries.endangered_chunks(tx, gone, LISTED_MAX), *first]
        self._place = min(self._place, len(self._listed)) if unchanged else 0
        self._gone, self._apart = gone, apart
        ended = self._clock.monotonic()
        self._due = ended + max(SURVEY_SECONDS_MIN, SURVEY_SHARE * (ended - began))

    def _next_wanting(self, tx: sqlite3.Connection) -> list[tuple[int, bytes]]:
        rows = queries.wanting_chunks(tx, self._cursor, IN_TURN)
        self._cursor = rows[-1] if len(rows) == IN_TURN else _BEGINNING
        return rows

    def _next_listed(self) -> list[bytes]:
        worst = self._listed[:WORST]
        if self._place < len(worst) or self._place >= len(self._listed):
            self._place = len(worst)
        turn = self._listed[self._place : self._place + IN_TURN]
        self._place += len(turn)
        return worst + turn

    def _drop(self, healed: Collection[bytes]) -> None:
        """They are among those that `_next_listed` gave."""
        if not healed:
            return
        before = sum(chunk in healed for chunk in self._listed[: self._place])
        self._listed = [chunk for chunk in self._listed if chunk not in healed]
        self._place -= before
