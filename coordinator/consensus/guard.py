"""What a follower does with append_entries, as a value. Pure; Raft paper, section 5.3, read strictly.

PySyncObj truncates its log to the message's previous index whenever a message arrives, also a stale or a doubled
one, believes the leader's commit index over entries that it has not compared, and raises nextIndex again on late
refusals. Here: only a conflict truncates; what is acknowledged, and what may be committed, ends at the last index
that was compared with this very leader; a conflict at or below the own commit index is a broken invariant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Entry = tuple[bytes, int, int]
"""(command, index, term), as PySyncObj has them."""


class BrokenInvariantError(Exception):
    """What Raft rules out has happened. The process must end: going on would spread it."""


class LogView(Protocol):
    """`first_index` is the base: an entry that is committed, whose predecessors are gone."""

    @property
    def first_index(self) -> int: ...

    @property
    def last_index(self) -> int: ...

    def term_at(self, index: int) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Follow:
    """First truncate, then append, then acknowledge `verified`.

    `matched` False: nothing is changed, and the leader is asked to go on from `verified` + 1.
    """

    matched: bool
    verified: int
    truncate_from: int | None = None
    append: tuple[Entry, ...] = ()


def follow(
    log: LogView, commit_index: int, previous: int, previous_term: int, entries: Sequence[Entry]
) -> Follow:
    """Decide. Raises BrokenInvariantError when committed entries contradict the leader's."""
    first = log.first_index
    if previous < first:
        skipped = first - previous
        if len(entries) < skipped:
            return Follow(
                True, previous + len(entries)
            )  # all of it lies before the base: committed, so equal
        previous, previous_term = first, entries[skipped - 1][2]
        entries = entries[skipped:]
        if log.term_at(first) != previous_term:
            raise BrokenInvariantError(f"the leader has another entry at the compacted index {first}")
    if previous > log.last_index or log.term_at(previous) != previous_term:
        if previous <= commit_index:
            raise BrokenInvariantError(f"the leader has another entry at the committed index {previous}")
        return Follow(False, commit_index)
    known = 0
    for _, index, term in entries:
        if index > log.last_index or log.term_at(index) != term:
            break
        known += 1
    new = tuple(entries[known:])
    conflict = previous + known + 1
    if not new or conflict > log.last_index:
        return Follow(True, previous + len(entries), append=new)
    if conflict <= commit_index:
        raise BrokenInvariantError(f"the leader asks to truncate the committed index {conflict}")
    return Follow(True, previous + len(entries), truncate_from=conflict, append=new)
