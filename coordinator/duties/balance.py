"""Moves replicas from fuller datanodes to emptier ones, when an operator has said so.

Theory of operation
1. Whether it runs, how fast, and how even is even enough are replicated settings; a move is a PENDING replica at its
   destination, in the metadata before anything is ordered. So whoever leads next goes on with it; what a destination
   tells that it copies already, for the leader before, is not ordered again.
2. Copy: the destination is ordered to fetch the chunk, verifies and seals it. Switch: an entry makes it LIVE. Delete:
   there is one replica too many then, and trimming takes that of the fuller node, by its own rules.
3. A move that fails, or can no more be made, is dropped with an entry; its chunk rests for a while. What a pause finds
   under way is finished.
4. Plans are made in batches: the next one when all moves of the last are done, what they left was trimmed, and
   heartbeats have told how full the nodes are now.
5. When nobody is too full or too empty any more, or nothing that could move is left, it ends itself.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from common import log
from coordinator.decisions import balance
from coordinator.decisions.balance import Move, Rules
from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import Candidate, Chance
from coordinator.decisions.trim import Held, counting
from coordinator.duties.desk import Desk
from coordinator.duties.repair import Budget, Rests
from coordinator.metadata import excess, queries, settings
from coordinator.metadata.excess import Pending, Replicated
from coordinator.soft_state import Order, SoftState
from quorumfs.clock import Clock
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

OFF, RUNNING, PAUSED = 0, 1, 2

MOVES_AT_ONCE = 256
PER_NODE = 8
FAILURES_MAX = 3
CHUNKS_PER_PAGE = 500
PAGES_PER_ROUND = 4
PLAN_MOVES_MAX = 1000
PLAN_CHUNKS_MAX = 20_000
SETTLE_SECONDS = 3.0
TRIMMED_SECONDS = 60.0
BUSY_SECONDS = 0.25
IDLE_SECONDS = 2.0

ORDER = "move"

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What operators have said. `index`: of the state that says so."""

    state: int
    bytes_per_second: int
    threshold: float
    index: int


@dataclass(slots=True)
class Figures:
    """What was moved in this leadership. Read by any thread."""

    moving: int = 0
    moved: int = 0
    moved_bytes: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Batch:
    """What the last moves left to be trimmed, and until when that is waited for."""

    chunks: set[bytes] = field(default_factory=set)
    until: float = 0.0
    settled_at: float = 0.0


class BalanceDuty:
    """Of one leadership. `trim_next` hears of chunks that have one replica too many now. `plan` from any thread."""

    name = "balance"

    def __init__(
        self,
        desk: Desk,
        soft: SoftState,
        chance: Chance,
        clock: Clock,
        trim_next: Callable[[Collection[bytes]], None] = lambda chunks: None,
    ) -> None:
        self._desk = desk
        self._soft = soft
        self._clock = clock
        self._trim_next = trim_next
        self._rests = Rests(clock, chance)
        self._budget = Budget(1.0, clock)
        self._bytes_per_second = 0
        self._batch = _Batch()
        self._after: dict[str, bytes] = {}  # how far a giver's chunks were looked through
        self._done: list[tuple[bytes, str, str, bool]] = []  # chunk, node, disk, and whether it is there
        self._lengths: dict[bytes, int] = {}  # of the chunks that are ordered
        self._failures: Counter[bytes] = Counter()
        self._found = False  # moves, since all chunks were looked through
        self._resting = False  # some chunks that could move perhaps failed just now
        self._state = OFF
        self._running: list[Order] = []
        self.figures = Figures()

    def work(self) -> str:
        self._running = self._soft.running(
            ORDER
        )  # before outcomes are taken: what ends after that is not done yet
        self._take_outcomes()
        wish, begun = self._desk.look(lambda tx: (read(tx), excess.pending(tx, MOVES_AT_ONCE)))
        self._state = wish.state
        pending = self._write_done(begun)
        if wish.state == OFF:
            return self._abandon(pending)
        candidates = self._soft.candidates()
        self.figures.moving = len(pending)
        if wish.bytes_per_second != self._bytes_per_second:
            self._bytes_per_second = wish.bytes_per_second
            self._budget = Budget(float(wish.bytes_per_second), self._clock)
        if wish.state == PAUSED:
            return f"paused, {len(pending)} moves are left"
        if pending:
            return f"{len(pending)} moves to go, ordered {self._order(pending, candidates, wish.index)}"
        return self._begin(candidates, wish)

    def wait(self) -> float:
        return IDLE_SECONDS if self._state == OFF else BUSY_SECONDS

    def plan(self) -> list[Move]:
        """What would be moved as things are, up to PLAN_MOVES_MAX moves; changes nothing. Raises QuorumFSError."""
        candidates, gone = self._soft.candidates(), self._soft.gone()
        wish = self._desk.look(read)
        rules = Rules(wish.threshold, PLAN_MOVES_MAX)

        def ask(tx: sqlite3.Connection) -> list[Held]:
            held: dict[bytes, Held] = {}
            for node_id in balance.givers(candidates, wish.threshold):
                if len(held) < PLAN_CHUNKS_MAX:
                    chunks = queries.chunks_on(tx, node_id, b"", PLAN_CHUNKS_MAX - len(held))
                    held.update((one.chunk, held_of(one)) for one in excess.replicated(tx, chunks, gone))
            return list(held.values())

        return balance.plan(self._desk.look(ask), candidates, rules)

    # Moves under way

    def _order(self, pending: Sequence[Pending], candidates: Mapping[str, Candidate], index: int) -> int:
        known = self._soft.known()
        ordered = {*((one.node_id, one.chunk) for one in self._running), *self._soft.inherited()}
        busy = [one.node_id for one in self._running]
        number = 0
        for one in pending:
            chunk = one.replicas.chunk
            if not balance.may_go_on(held_of(one.replicas), one.node_id, candidates):
                self._done.append((chunk, one.node_id, "", False))
                continue
            sources = [known[source.node_id].info for source in counting(one.replicas.live, candidates)]
            if (one.node_id, chunk) in ordered or not sources or busy.count(one.node_id) >= PER_NODE:
                continue
            if not candidates[one.node_id].heard:  # what it copies already is not known yet
                continue
            if not self._budget.may_spend():
                break
            command = m.Command(
                replicate=m.ReplicateCommand(
                    chunk=chunk,
                    length=one.replicas.length,
                    checksum=one.replicas.checksum,
                    void_below_index=index,
                    sources=[
                        t.NodeAddress(node_id=info.node_id, grpc=info.grpc, http=info.http)
                        for info in sources
                    ],
                )
            )
            if self._soft.order(one.node_id, ORDER, command, chunk, sources[0].node_id):
                self._budget.spend(one.replicas.length)
                self._lengths[chunk] = one.replicas.length
                busy.append(one.node_id)
                number += 1
        return number

    def _take_outcomes(self) -> None:
        for done in self._soft.take_done((ORDER,)):
            outcome = done.outcome
            there = outcome is not None and outcome.code == t.ERROR_CODE_OK
            disk_id = outcome.ack.disk_id if outcome is not None else ""
            self._done.append((done.order.chunk, done.order.node_id, disk_id, there))

    def _write_done(self, pending: Sequence[Pending]) -> Sequence[Pending]:
        """What came of moves stays here until the log has it; the moves that are left. What is not PENDING any more was
        settled otherwise."""
        waiting = {(one.replicas.chunk, one.node_id) for one in pending}
        updates = [
            e.ReplicaUpdate(
                chunk=chunk,
                node_id=node_id,
                disk_id=disk_id,
                state=t.REPLICA_STATE_LIVE if there else t.REPLICA_STATE_UNSPECIFIED,
                only_if=t.REPLICA_STATE_PENDING,
            )
            for chunk, node_id, disk_id, there in self._done
            if (chunk, node_id) in waiting
        ]
        if updates:
            self._desk.propose([e.SystemCommand(update_replicas=e.UpdateReplicas(updates=updates))])
        for chunk, node_id, _, there in self._done:
            length = self._lengths.pop(chunk, 0)
            if there:
                self.figures.moved += 1
                self.figures.moved_bytes += length
                self._rests.over(chunk)
            else:
                self.figures.failed += 1
                self._rests.failed(chunk)
                self._failures[chunk] += 1
                _log.warning("balance.move_dropped", chunk=chunk.hex(), destination=node_id)
        settled = {(chunk, node_id) for chunk, node_id, _, _ in self._done}
        self._done.clear()
        return [one for one in pending if (one.replicas.chunk, one.node_id) not in settled]

    def _abandon(self, pending: Sequence[Pending]) -> str:
        """Nobody wants the moves any more."""
        if not pending:
            self.figures.moving = 0
            return "off"
        updates = [
            e.ReplicaUpdate(chunk=one.replicas.chunk, node_id=one.node_id, only_if=t.REPLICA_STATE_PENDING)
            for one in pending
        ]
        self._desk.propose([e.SystemCommand(update_replicas=e.UpdateReplicas(updates=updates))])
        return f"off: {len(updates)} moves were dropped"

    # New ones

    def _begin(self, candidates: Mapping[str, Candidate], wish: Wish) -> str:
        waits = self._waits(candidates)
        if waits:
            return waits
        giving = balance.givers(candidates, wish.threshold)
        moves = self._plan(giving, candidates, Rules(wish.threshold, MOVES_AT_ONCE))
        if moves:
            self._found = True
            begun = [e.BeginMoves.One(chunk=one.chunk, node_id=one.destination) for one in moves]
            self._desk.propose([e.SystemCommand(begin_moves=e.BeginMoves(moves=begun))])
            now = self._clock.monotonic()
            self._batch = _Batch({one.chunk for one in moves}, now + TRIMMED_SECONDS)
            _log.info("balance.begun", moves=len(moves), bytes=sum(one.length for one in moves))
            return f"began {len(moves)} moves"
        if any(node_id in self._after for node_id in giving) or self._resting:
            return "looked through chunks that cannot move now"
        if giving and self._found:
            self._found = False
            return "looks through all chunks again"
        self._desk.propose([e.SystemCommand(set_setting=e.SetSetting(key="balance.state", value=str(OFF)))])
        _log.info("balance.ended", too_full=giving)
        return "over: " + ("what is left cannot move" if giving else "all are within the threshold")

    def _waits(self, candidates: Mapping[str, Candidate]) -> str:
        """What the next batch waits for; empty: nothing."""
        if any(one.liveness is Liveness.ALIVE and not one.heard for one in candidates.values()):
            return "waits for heartbeats"
        now, batch = self._clock.monotonic(), self._batch
        if batch.chunks:
            gone = self._soft.gone()
            found = self._desk.look(lambda tx: excess.replicated(tx, batch.chunks, gone))
            batch.chunks = {one.chunk for one in found if one.leaving or len(one.live) > one.want}
            if batch.chunks and now < batch.until:
                self._trim_next(batch.chunks)
                return f"{len(batch.chunks)} moved chunks are to be trimmed"
            batch.chunks = set()
            batch.settled_at = now + SETTLE_SECONDS
        return "waits for heartbeats" if now < batch.settled_at else ""

    def _plan(self, giving: Sequence[str], candidates: Mapping[str, Candidate], rules: Rules) -> list[Move]:
        """Out of the next pages of the chunks of whoever gives. `_after` keeps the place; a node that was looked
        through to its end is left out of it."""
        gone = self._soft.gone()
        self._resting = False
        for node_id in giving:
            for _ in range(PAGES_PER_ROUND):
                after = self._after.pop(node_id, b"")
                page = partial(queries.chunks_on, node_id=node_id, after=after, limit=CHUNKS_PER_PAGE)
                chunks = self._desk.look(page)
                found = self._desk.look(partial(excess.replicated, chunks=chunks, gone=gone))
                moves = balance.plan(self._able(found), candidates, rules)
                if len(chunks) == CHUNKS_PER_PAGE:
                    self._after[node_id] = chunks[-1]
                if moves:
                    return moves
                if len(chunks) < CHUNKS_PER_PAGE:
                    break
        return []

    def _able(self, found: Sequence[Replicated]) -> list[Held]:
        """Without those that failed too often in this leadership, and those that rest after a failure."""
        able = [one for one in found if self._failures[one.chunk] < FAILURES_MAX]
        awake = [held_of(one) for one in able if not self._rests.rests(one.chunk)]
        self._resting = self._resting or len(awake) < len(able)
        return awake


def read(tx: sqlite3.Connection) -> Wish:
    held = settings.load(tx)
    return Wish(
        held["balance.state"],
        held["balance.bytes_per_second"],
        held["balance.threshold_percent"] / 100,
        queries.applied_index(tx),
    )


def held_of(one: Replicated) -> Held:
    return Held(one.chunk, one.length, one.checksum, one.want, one.live, one.lost, one.leaving, one.others)
