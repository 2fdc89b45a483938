"""Gives chunks that lack replicas new ones: datanodes copy from each other, ordered by heartbeat answers.

1. Nothing counts before the destination has verified and sealed its copy and said so: then an entry adds the
   replica, and is proposed until it is in the log.
2. A copy that failed is planned anew after a pause that grows with every failure of that chunk. Its source may be
   what is wrong: it is told to verify its replica.
3. A node in maintenance is expected back: nothing is copied because of its silence, unless nobody else has a chunk.
4. A disk that failed, or was taken out, of a node that is alive is as good as dead: its replicas are made anew, also on
   another disk of the same node when no other node is left. Nobody reads from it, unless nobody else has a chunk; what
   then cannot be read is found to be corrupt, and missing.
5. What lies on nodes that leave is copied like what lacks replicas, after it.
6. An order is taken back when its chunk lacks nothing any more, as when a node that was dead returns: as long as it
   waits for its datanode's heartbeat. What a datanode was told it does; trimming takes what is too much then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common import log
from coordinator.decisions.placement import Chance
from coordinator.decisions.repair import (
    FULL_BYTES,
    Copy,
    Damaged,
    Plan,
    Running,
    plan,
    pressing,
    silent,
    unheard,
    weigh,
)
from coordinator.duties.backlog import Backlog, Survey
from coordinator.duties.desk import Desk
from coordinator.metadata import queries
from coordinator.metadata.queries import Apart, Gone
from coordinator.soft.apart import apart
from coordinator.soft_state import Done, SoftState
from quorumfs.backoff import Backoff
from quorumfs.clock import Clock
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

AT_ONCE_MAX = 256
RESTING_MAX = 10_000
UPDATES_PER_ENTRY = 1000
SOURCE_IN_DOUBT = (t.ERROR_CODE_CORRUPT, t.ERROR_CODE_CHUNK_NOT_FOUND, t.ERROR_CODE_UNAVAILABLE)
BUSY_SECONDS = 0.25
IDLE_SECONDS = 1.0
LOST_ALARM = "chunks_missing"
DESPERATE_ALARM = "chunks_on_failed_disks"

_log = log.get(__name__)


@dataclass(slots=True)
class Figures:
    """What repair did in this leadership, and what is to be done; in chunks. Read by any thread."""

    pending: int = 0
    missing: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0


class Budget:
    """A token bucket of bytes: `per_second`, at most a second's worth saved; may go into debt by one
    chunk."""

    def __init__(self, per_second: float, clock: Clock) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = per_second
        self._at = clock.monotonic()

    @property
    def per_second(self) -> float:
        return self._per_second

    def change(self, per_second: float) -> None:
        """From now on so much. Any thread."""
        self._per_second = per_second

    def may_spend(self) -> bool:
        now = self._clock.monotonic()
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        return self._left > 0

    def spend(self, number: int) -> None:
        self._left -= number


class Rests:
    """Chunks whose copy failed: each rests before it is tried again, longer each time."""

    def __init__(self, clock: Clock, chance: Chance) -> None:
        self._clock = clock
        self._chance = chance
        self._backoff = Backoff(first_seconds=2.0, most_seconds=60.0)
        self._rests: dict[bytes, tuple[int, float]] = {}

    def failed(self, chunk: bytes) -> None:
        failures, _ = self._rests.pop(chunk, (0, 0.0))
        if len(self._rests) >= RESTING_MAX:
            del self._rests[next(iter(self._rests))]
        until = self._clock.monotonic() + self._backoff.delay(failures, self._chance())
        self._rests[chunk] = (failures + 1, until)

    def over(self, chunk: bytes) -> None:
        """It was copied."""
        self._rests.pop(chunk, None)

    def clear(self) -> None:
        """All are tried again; how often they failed is forgotten."""
        self._rests.clear()

    def rests(self, chunk: bytes) -> bool:
        return self._rests.get(chunk, (0, 0.0))[1] > self._clock.monotonic()


class Repair:
    name = "repair"

    def __init__(
        self,
        desk: Desk,
        soft: SoftState,
        chance: Chance,
        budget: Budget,
        per_node: int,
        clock: Clock,
        count: Callable[[str, int], None] = lambda what, number: None,
    ) -> None:
        self._desk = desk
        self._soft = soft
        self._chance = chance
        self._budget = budget
        self._per_node = per_node
        self._count = count
        self._backlog = Backlog(clock)
        self._rests = Rests(clock, chance)
        self._made: list[tuple[Done, e.ReplicaUpdate]] = []
        self._lengths: dict[bytes, int] = {}
        self._hurried = threading.Event()
        self.figures = Figures()

    def hurry(self) -> None:
        """Look anew with the next round, and try again what waits after a failure. Any thread."""
        self._hurried.set()

    def work(self) -> str:
        if self._hurried.is_set():
            self._hurried.clear()
            self._rests.clear()
            self._backlog.look_anew()
        running = self._running()
        self._take_outcomes()
        self._write_made()
        candidates, gone = self._soft.candidates(), self._soft.gone()
        young = unheard(candidates)
        if young:
            return f"waits to hear of {', '.join(young)}"
        index, rows = self._desk.look(
            lambda tx: (queries.applied_index(tx), self._backlog.page(tx, gone, apart(candidates)))
        )
        running = self._take_back(running, gone, apart(candidates))
        damaged = [
            Damaged(
                row.chunk,
                row.length,
                row.checksum,
                row.want,
                row.live,
                row.others,
                row.leaving,
                row.last_resort,
            )
            for row in rows
            if not self._rests.rests(row.chunk)
        ]
        running += self._inherited(damaged)
        absent = silent(candidates)
        if absent:
            damaged = [one for one in damaged if pressing(one, candidates)]
        decided = plan(
            damaged,
            candidates,
            running,
            per_node=self._per_node,
            at_once=AT_ONCE_MAX,
            chance=self._chance,
            weight=weigh,
        )
        ordered = self._order(decided, index)
        survey = self._backlog.survey
        self._tell_lost(survey)
        self.figures.running = len(running) + ordered
        self.figures.pending = max(0, survey.under_replicated + survey.moving - self.figures.running)
        self.figures.missing = survey.missing
        if not rows:
            return "every chunk has its replicas"
        return (
            f"{survey.under_replicated} chunks lack replicas, {survey.moving} are to be moved: "
            f"ordered {ordered}, running {len(running)}"
            + (f"; all but last copies wait to hear of {', '.join(absent)}" if absent else "")
        )

    def _running(self) -> list[Running]:
        """Copies without an outcome. To be asked before outcomes are taken: what ends after that is neither an order
        that runs nor in the metadata, and would be ordered again."""
        return [
            Running(one.chunk, one.node_id, one.source, weigh(self._lengths.get(one.chunk, FULL_BYTES)))
            for one in self._soft.running("replicate")
        ]

    def _take_back(self, running: list[Running], gone: Gone, away: Apart) -> list[Running]:
        """Orders that nobody has heard of and nobody needs any more; those that run on."""
        unsent = self._soft.unsent("replicate")
        if not unsent:
            return running
        chunks = dict.fromkeys(one.chunk for one in unsent)
        damaged = self._desk.look(lambda tx: queries.damaged_chunks(tx, chunks, gone, away))
        needed = {one.chunk for one in damaged}
        back = {
            (one.chunk, one.node_id)
            for one in unsent
            if one.chunk not in needed and self._soft.take_back(one)
        }
        for chunk, node_id in back:
            self._lengths.pop(chunk, None)
            _log.info("repair.taken_back", chunk=chunk.hex(), destination=node_id)
        return [one for one in running if (one.chunk, one.destination) not in back]

    def _inherited(self, damaged: Sequence[Damaged]) -> list[Running]:
        """Copies of what is damaged that a leader before this one ordered, as their nodes tell, and that are not in the
        metadata yet. Of the rest that nodes tell nothing is waited for: it was made, or balancing moves it."""
        there = {one.chunk: one.live for one in damaged}
        return [
            Running(chunk, node_id, "")
            for node_id, chunk in self._soft.inherited()
            if chunk in there and node_id not in there[chunk]
        ]

    def wait(self) -> float:
        """What a node held does not wait for a long pause to end when it is called dead."""
        if self.figures.running:
            return BUSY_SECONDS
        return max(BUSY_SECONDS, min(IDLE_SECONDS, self._soft.seconds_until_death()))

    def _order(self, decided: Plan, index: int) -> int:
        """`index`: of the state that wants the copies. What was deleted at a destination before that is void."""
        known = self._soft.known()
        ordered = 0
        for copy in decided.copies:
            if not self._budget.may_spend():
                break
            sources = [known[node].info for node in copy.sources if node in known]
            command = m.Command(
                replicate=m.ReplicateCommand(
                    chunk=copy.chunk,
                    length=copy.length,
                    checksum=copy.checksum,
                    void_below_index=index,
                    sources=[
                        t.NodeAddress(node_id=one.node_id, grpc=one.grpc, http=one.http) for one in sources
                    ],
                )
            )
            if self._soft.order(copy.destination, "replicate", command, copy.chunk, copy.sources[0]):
                self._note(copy)
                ordered += 1
        return ordered

    def _note(self, copy: Copy) -> None:
        self._budget.spend(copy.length)
        self._soft.promise([copy.destination], copy.length)
        self._lengths[copy.chunk] = copy.length
        _log.info(
            "repair.ordered", chunk=copy.chunk.hex(), source=copy.sources[0], destination=copy.destination
        )

    def _tell_lost(self, survey: Survey) -> None:
        self._tell_desperate(survey.on_failed_disks)
        if not survey.missing:
            self._soft.clear_alarm(LOST_ALARM)
            return
        first = survey.lost.hex() if survey.lost is not None else "(healed since)"
        message = f"{survey.missing} chunks have no readable replica, {first} among them"
        if self._soft.raise_alarm(LOST_ALARM, message):
            _log.error("repair.no_source", chunks=survey.missing, first=first)

    def _tell_desperate(self, chunks: int) -> None:
        if not chunks:
            self._soft.clear_alarm(DESPERATE_ALARM)
            return
        message = (
            f"{chunks} chunks have replicas on failed disks only; repair copies from there what can be read"
        )
        if self._soft.raise_alarm(DESPERATE_ALARM, message):
            _log.warning("repair.last_resort", chunks=chunks)

    def _take_outcomes(self) -> None:
        for done in self._soft.take_done(("replicate",)):
            length = self._lengths.pop(done.order.chunk, 0)
            if done.outcome is not None and done.outcome.code == t.ERROR_CODE_OK:
                self._made.append((done, _added(done, done.outcome)))
                self._rests.over(done.order.chunk)
                self.figures.done += 1
                self._count("done", 1)
                self._count("bytes", length)
                continue
            self.figures.failed += 1
            self._count("failed", 1)
            self._rests.failed(done.order.chunk)
            self._tell_failed(done)

    def _write_made(self) -> None:
        """What was copied stays here until the log has it: raises, and is called again. Its node may have told of it
        before, and have deleted it again by now: then it is to look."""
        while self._made:
            page = self._made[:UPDATES_PER_ENTRY]
            updates = [update for done, update in page if not self._touched(done)]
            if updates:
                self._desk.propose([e.SystemCommand(update_replicas=e.UpdateReplicas(updates=updates))])
            for done, _ in page:
                if self._touched(done):
                    self._soft.order_verification(done.order.node_id, done.order.chunk)
            del self._made[: len(page)]
            _log.info("repair.done", replicas=len(updates))

    def _touched(self, done: Done) -> bool:
        since = done.sent_at
        return since is not None and self._soft.touched_since(done.order.node_id, done.order.chunk, since)

    def _tell_failed(self, done: Done) -> None:
        cause = "no outcome came" if done.outcome is None else done.outcome.error.message
        _log.warning(
            "repair.failed", chunk=done.order.chunk.hex(), destination=done.order.node_id, cause=cause
        )
        if done.outcome is not None and done.outcome.code in SOURCE_IN_DOUBT:
            self._soft.order_verification(done.order.source, done.order.chunk)


def _added(done: Done, outcome: m.CommandOutcome) -> e.ReplicaUpdate:
    return e.ReplicaUpdate(
        chunk=done.order.chunk,
        node_id=done.order.node_id,
        disk_id=outcome.ack.disk_id,
        state=t.REPLICA_STATE_LIVE,
    )
