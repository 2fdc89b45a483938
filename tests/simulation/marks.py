"""Marks of coverage: branches that are rare, by name, and how it is noticed that one was taken.

Production code has no marks. A mark is an event of the log, or a production function watched from outside for the
length of a run. A simulation that never takes a branch says nothing of it: so the tests ask for all of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from coordinator.consensus import replica as replica_module
from coordinator.consensus.applier import Applier, Install
from coordinator.consensus.core import Core
from coordinator.consensus.entry_reader import EntryReader
from coordinator.consensus.entry_writer import EntryWriter
from coordinator.consensus.frame_log import FrameLog
from coordinator.consensus.journal import Journal
from coordinator.consensus.progress import Progress
from coordinator.consensus.proposals import ProposalQueue
from coordinator.consensus.replica import Replica
from coordinator.consensus.standing import CANDIDATE, LEADER
from coordinator.consensus.upkeep import Upkeep
from quorumfs.errors import BusyError

EVENTS = {
    "log.truncated": "a conflict truncated the log",
    "journal.superseded": "the state had overtaken the journal",
    "snapshot.installed": "a snapshot was installed",
    "journal.tail_cut": "a torn tail was cut",
    "leadership.lost": "a leader without a majority stepped down",
    "apply.disk_full": "applying waited for room",
    "apply.room_again": "applying went on when there was room",
}

WATCHED = (
    "a failing disk ended the process",
    "a snapshot was older than the state",
    "a snapshot could not be had",
    "a leadership was handed over",
    "a transfer was not possible in time",
    "a vote was refused in the boot wait",
    "a vote was refused because a leader is heard",
    "a vote was refused by a leader in contact",
    "a vote was refused by a full disk",
    "a candidate did not win",
    "a late refusal was ignored",
    "an answer of another term was ignored",
    "an acknowledgement was dropped with its term",
    "a message held nothing new",
    "a message reached before the base",
    "a follower was sent back",
    "a proposal was under way when the leadership ended",
    "a proposal waited when the leadership ended",
    "a barrier was under way when the leadership ended",
    "a question was answered under the lease",
    "a question waited for a barrier",
    "a proposal expired in the queue",
    "the queue was full",
    "a full disk refused a proposal",
    "a proposal waited for the next segment of the log",
    "a full disk took nothing of a leader's entries",
    "a retry got the stored answer",
    "a session expired",
    "a commit waited for this member's own disk",
    "an entry that was tried was committed",
    "another entry came than the one that was tried",
    "the log was compacted",
    "the log went on in another segment",
    "an old entry was read from the disk",
    "a leader's window was full",
    "a start applied again what the state had lost",
    "power was lost during a start",
    "a full disk prevented a start",
)

ALL = tuple(EVENTS.values()) + WATCHED


class Marks:
    """Which were hit, how often."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()

    def hit(self, name: str, happened: object = True) -> None:
        if happened:
            self.hits[name] += 1

    def missing(self) -> list[str]:
        return [name for name in ALL if not self.hits[name]]


class LogWatch(logging.Handler):
    """Hands every event of the coordinators' log to `on_event` (level, event, fields)."""

    def __init__(self, on_event: Callable[[int, str, dict[str, Any]], None]) -> None:
        super().__init__(logging.INFO)
        self._on_event = on_event

    def emit(self, record: logging.LogRecord) -> None:
        self._on_event(record.levelno, record.getMessage(), getattr(record, "_fields", {}))


@contextmanager
def watched_log(
    on_event: Callable[[int, str, dict[str, Any]], None], room: str = "coordinator"
) -> Iterator[None]:
    """The log of a room goes to `on_event` and nowhere else within the block."""
    logger, handler = logging.getLogger(room), LogWatch(on_event)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def watching(marks: Marks) -> Iterator[None]:
    """Production functions are watched within the block."""
    with ExitStack() as stack:
        for owner, name, make in _WATCHES:
            stack.enter_context(patch.object(owner, name, make(marks, getattr(owner, name))))
        yield


Make = Callable[[Marks, Callable[..., Any]], Callable[..., Any]]


def _before(look: Callable[..., None]) -> Make:
    """Watch a function by calling `look(marks, *arguments)` first."""

    def make(marks: Marks, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            look(marks, *arguments, **named)
            return original(*arguments, **named)

        return watched

    return make


def _after(look: Callable[..., None]) -> Make:
    """Watch a function by calling `look(marks, result, *arguments)` when it has returned."""

    def make(marks: Marks, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            look(marks, result, *arguments, **named)
            return result

        return watched

    return make


def _may_vote(marks: Marks, granted: bool, replica: Any) -> None:
    if granted:
        return
    now = replica._clock.monotonic()
    if now < replica._mute_until:
        marks.hit("a vote was refused in the boot wait")
    elif not replica.journal.has_room():
        marks.hit("a vote was refused by a full disk")
    elif replica.leads():
        marks.hit("a vote was refused by a leader in contact")
    else:
        marks.hit("a vote was refused because a leader is heard")


def _set_state(marks: Marks, replica: Any, role: int) -> None:
    marks.hit("a candidate did not win", replica.role() == CANDIDATE and role != LEADER)


def _refused(marks: Marks, progress: Progress, go_on_from: int, beat: int, last_beat: int) -> None:
    marks.hit("a late refusal was ignored", beat <= progress.deaf_until_beat)


def _receive(marks: Marks, replica: Any, peer: str, message: dict[str, Any]) -> None:
    if message["type"] == "next_node_idx":
        marks.hit("an answer of another term was ignored", message["term"] != replica.term())
    elif message["type"] == "append_entries":
        full = message["entries"] and not replica.journal.has_room()
        marks.hit("a full disk took nothing of a leader's entries", full)


def _release(marks: Marks, replica: Any) -> None:
    dropped = any(term != replica.term() for term, _, _ in replica._acks)
    marks.hit("an acknowledgement was dropped with its term", dropped)


def _follow(marks: Marks, plan: Any, log: Any, commit: int, previous: int, term: int, entries: Any) -> None:
    marks.hit("a message held nothing new", entries and plan.matched and not plan.append)
    marks.hit("a message reached before the base", entries and previous < log.first_index)
    marks.hit("a follower was sent back", not plan.matched)


def _end_leadership(marks: Marks, core: Any) -> None:
    marks.hit("a proposal was under way when the leadership ended", core._waiting)
    marks.hit("a proposal waited when the leadership ended", len(core.queue))
    marks.hit("a barrier was under way when the leadership ended", core._barriers)


def _applied(marks: Marks, writer: EntryWriter, entries: Any) -> None:
    fresh = [entry for entry in entries if entry.index > writer.at.index]
    if writer._tried is not None and fresh:
        same = fresh[0] == writer._tried.entry
        marks.hit("an entry that was tried was committed", same)
        marks.hit("another entry came than the one that was tried", not same)


def _answered(marks: Marks, original: Callable[..., Any]) -> Callable[..., Any]:
    def watched(core: Any, question: Any, done: Any) -> Any:
        waited = len(core._reads)
        result = original(core, question, done)
        if len(core._reads) > waited:
            marks.hit("a question waited for a barrier")
        elif core.leadership is not None:
            marks.hit("a question was answered under the lease")
        return result

    return watched


def _end_transfer(marks: Marks, core: Any, *, given: bool) -> None:
    marks.hit(
        "a leadership was handed over" if given else "a transfer was not possible in time", core._transfer
    )


def _fetched(marks: Marks, upkeep: Any, found: Any) -> None:
    marks.hit("a snapshot could not be had", found is None)


def _install(marks: Marks, applier: Any, job: Install) -> None:
    older = job.index <= applier._database.applied_index
    marks.hit("a snapshot was older than the state", older)


def _expired(marks: Marks, expired: list[Any], queue: ProposalQueue, now: float) -> None:
    marks.hit("a proposal expired in the queue", expired)


def _put(marks: Marks, original: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*arguments: Any) -> Any:
        try:
            return original(*arguments)
        except BusyError:
            marks.hit("the queue was full")
            raise

    return watched


def _propose(marks: Marks, core: Any, proposal: Any, done: Any) -> None:
    if core.leadership is not None:
        marks.hit("a full disk refused a proposal", core.disk_full)
        marks.hit(
            "a proposal waited for the next segment of the log",
            not core.disk_full and not core.journal.has_room(),
        )


def _hand_over(marks: Marks, replica: Any) -> None:
    marks.hit(
        "a commit waited for this member's own disk", replica.commit_index() > replica.journal.synced_index
    )


def _drop_to(marks: Marks, journal: Journal, index: int) -> None:
    marks.hit("the log was compacted", index > journal.first_index)


def _begin_segment(marks: Marks, log: FrameLog, number: int, beginning: Any) -> None:
    marks.hit("the log went on in another segment", number > 1)


def _read(marks: Marks, reader: Any, start: int, stop: int) -> None:
    marks.hit("an old entry was read from the disk", start < reader._retained.cached_from)


def _more(marks: Marks, may: bool, replica: Any, peer: str) -> None:
    progress = replica.progress[peer]
    behind = progress.match and progress.next <= replica.journal.last_index
    marks.hit("a leader's window was full", behind and not progress.window)


_WATCHES: tuple[tuple[Any, str, Make], ...] = (
    (Replica, "_may_vote", _after(_may_vote)),
    (Replica, "_SyncObj__setState", _before(_set_state)),
    (Progress, "refused", _before(_refused)),
    (Replica, "receive", _before(_receive)),
    (Replica, "release", _before(_release)),
    (replica_module, "follow", _after(_follow)),
    (Core, "_end_leadership", _before(_end_leadership)),
    (Core, "read", _answered),
    (Core, "_end_transfer", _before(_end_transfer)),
    (Upkeep, "_on_fetched", _before(_fetched)),
    (Applier, "_install", _before(_install)),
    (ProposalQueue, "take_expired", _after(_expired)),
    (ProposalQueue, "put", _put),
    (Core, "propose", _before(_propose)),
    (Replica, "_hand_over", _before(_hand_over)),
    (EntryWriter, "apply", _before(_applied)),
    (Journal, "drop_to", _before(_drop_to)),
    (FrameLog, "begin_segment", _before(_begin_segment)),
    (EntryReader, "read", _before(_read)),
    (Replica, "_may_send_more", _after(_more)),
)
