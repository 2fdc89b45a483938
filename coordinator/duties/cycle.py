"""One cycle of the garbage collection, in steps: recall, gather, mark, examine, adopt, condemn, sweep, account
(docs/decisions/0008). A dry run goes from gather to condemn, without adopt, and writes nothing.

1. A step is one page, one entry or one call. Between steps the thread may be stopped, and clients come first.
2. Whatever is read here only proposes. `apply` looks at the state as it is then, and a node at what it knows.
3. A node is *void* once it is dead, silent, refuses, or tells nonsense: from then on nothing that it told counts, and
   it gets no orders before the next cycle.
4. Any error of the metadata ends the cycle; the next one begins from nothing. What was condemned and not yet deleted
   is in the log: the next cycle finds it there.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from common import log
from coordinator.decisions import collection
from coordinator.decisions.collection import Found, Room
from coordinator.decisions.liveness import Liveness
from coordinator.decisions.packed import PackedIds, Walk
from coordinator.duties.desk import Desk
from coordinator.duties.holders import Deleted, Holders, Orders
from coordinator.metadata import garbage
from coordinator.metadata.garbage import Held
from coordinator.soft.cycles import SHRINK_GUARD, Report
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import HistoryBehindError, NotLeaderError, PreconditionFailedError, QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

IDS_PER_PAGE = 500  # half a millisecond of this thread: whoever waits for the interpreter waits no longer
PER_ENTRY = 500
STRAYS_PER_CYCLE = 100_000
WOULD_CONDEMN_MAX = 10_000
TOLD_AGAIN_MAX = 4  # an order that heartbeats have overtaken
GATHER_SECONDS = 60.0  # without an inventory of any node
LOOK_SECONDS = 0.1
BUSY_SECONDS = 0.005
FOREGROUND_SECONDS = 0.2  # after what was written
LOOKING_SECONDS = 0.05  # after a page that was only read
ALARM_OF_ANOTHER_LOG = "gc_chunks_of_another_log"

T = TypeVar("T")
_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator has chosen; the grace is a replicated setting."""

    shrink_guard_percent: float = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a node listed, and when that was here."""

    live: PackedIds
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one leadership: nodes whose quarantine was looked through, and what each node listed last."""

    recalled: set[str] = field(default_factory=set)
    seen: dict[str, Seen] = field(default_factory=dict)


class Cycle:
    """`epoch`: of the leadership that runs it; `memory`: what its cycles leave to each other. One thread; other threads
    may read `report`."""

    def __init__(
        self,
        desk: Desk,
        soft: SoftState,
        holders: Holders,
        clock: Clock,
        policy: Policy,
        epoch: t.Epoch,
        memory: Memory,
        *,
        dry_run: bool,
    ) -> None:
        self._desk = desk
        self._soft = soft
        self._holders = holders
        self._clock = clock
        self._policy = policy
        self._epoch = epoch
        self._memory = memory
        self._fork_index = 0
        self._released: frozenset[bytes] = frozenset()
        self._listed: dict[str, PackedIds] = {}
        self._unexplained = 0  # strays, without those of other histories: these are held, and never condemned
        self.report = Report(dry_run)

    def steps(self) -> Iterator[float]:
        """Each `next` is a step; it gives the pause, in seconds, before the one after. Raises QuorumFSError."""
        self._fork_index = self._now().fork_index
        if not self.report.dry_run:
            yield from self._recall()  # it deletes nothing: so neither a pause nor a guard stands before it
        self._begin()
        yield from self._gather()
        strays = yield from self._mark()
        found = yield from self._look_at(strays)
        if not self._guard():
            return
        if not self.report.dry_run:
            yield from self._adopt(found)
        yield from self._condemn()
        if not self.report.dry_run:
            yield from self._sweep()
            yield from self._forget()
            self._tell_of_held()
            yield from self._account()
        self.report.outcome = "done"

    def _begin(self) -> None:
        now = self._now()
        self.report.cycle = now.cycle
        if now.paused:
            raise self._paused()
        if not self.report.dry_run:
            self.report.cycle = now.cycle + 1
            self._propose(
                e.SystemCommand(set_setting=e.SetSetting(key="gc.cycle", value=str(self.report.cycle)))
            )

    def _now(self) -> garbage.Cluster:
        now = self._desk.look(garbage.cluster)
        if now is None or now.history != self._epoch.history:
            raise PreconditionFailedError("the metadata is not of this leadership's history yet")
        return now

    # Gather

    def _gather(self) -> Iterator[float]:
        self.report.phase = "gather"
        nodes = {node_id for node_id, known in self._soft.known().items() if known.is_datanode}
        waiting = {node_id for node_id in nodes if self._is_there(node_id)} - self.report.void.keys()
        for node_id in sorted(nodes - waiting - self.report.void.keys()):
            self._void(node_id, "it sends no heartbeats")
        self._soft.ask_inventories(waiting)
        until = self._clock.monotonic() + GATHER_SECONDS
        while waiting:
            came = self._soft.collected()
            for one in came:
                self._listed[one.node_id] = one.live
                self._memory.seen[one.node_id] = Seen(one.live, self._clock.wall_ms())
                self.report.gathered += len(one.live)
                waiting.discard(one.node_id)
            if came:
                until = self._clock.monotonic() + GATHER_SECONDS
            for node_id in [one for one in sorted(waiting) if not self._is_there(one)]:
                self._void(node_id, "it sends no heartbeats any more")
                waiting.remove(node_id)
            if self._clock.monotonic() >= until:
                for node_id in sorted(waiting):
                    self._void(node_id, "its inventory did not come")
                break
            if waiting:
                yield LOOK_SECONDS

    def _is_there(self, node_id: str) -> bool:
        pulse = self._soft.pulse(node_id)
        return pulse.heard and pulse.liveness is not Liveness.DEAD

    def _void(self, node_id: str, why: str) -> None:
        """Nothing that it told counts any more."""
        self._listed.pop(node_id, None)
        self.report.void[node_id] = why
        _log.warning("gc.node_void", node=node_id, cause=why)

    # Mark

    def _mark(self) -> Generator[float, None, dict[bytes, list[str]]]:
        """The strays, with who listed them: what nodes have and no table has."""
        yield self._enter("mark")
        self.report.mark_index = self._now().index
        strays: dict[bytes, list[str]] = {}
        walks = {node_id: Walk(listed) for node_id, listed in self._listed.items()}
        after = b""
        while True:
            page = self._desk.look(partial(garbage.chunk_ids, after=after, limit=IDS_PER_PAGE))
            self.report.marked += len(page)
            through = page[-1] if len(page) == IDS_PER_PAGE else None
            found = collection.absent(page, walks, through)
            self.report.strays += len(found)
            room = STRAYS_PER_CYCLE - len(strays)
            strays.update(list(found.items())[:room])
            if through is None:
                return strays
            after = through
            yield self._rest()

    def _look_at(self, strays: dict[bytes, list[str]]) -> Generator[float, None, list[e.AdoptChunks.One]]:
        """What may be adopted: strays, by their headers, and orphans with holders that are in no table."""
        yield self._enter("examine")
        adopt: list[e.AdoptChunks.One] = []
        number, unexplained = self.report.strays, 0
        for chunk, nodes in strays.items():
            found = self._find(chunk, nodes)
            still = [node_id for node_id in nodes if node_id in self._listed]
            if collection.may_adopt(found, self._epoch.history, self.report.mark_index) and still:
                assert found is not None
                adopt.append(_adoption(chunk, still, found))
                unexplained += collection.is_of_this_history(found, self._epoch.history)
            else:
                self.report.strays -= 1
            yield 0.0
        self._unexplained = collection.unexplained_strays(number, len(strays), unexplained)
        after = b""
        while page := self._desk.look(partial(garbage.orphans, after=after, limit=IDS_PER_PAGE)):
            for one in page:
                more = collection.unrecorded(one.chunk, one.node_ids, self._listed)
                if more:
                    adopt.append(e.AdoptChunks.One(chunk=one.chunk, node_ids=more))
            after = page[-1].chunk
            yield self._rest()
        return adopt

    def _find(self, chunk: bytes, nodes: Sequence[str]) -> Found | None:
        """What the first node that answers has of it. One that does not answer is void."""
        for node_id in nodes:
            if node_id not in self._listed:
                continue
            try:
                found = self._holders.find(node_id, chunk)
            except QuorumFSError as error:
                self._void(node_id, str(error))
                continue
            if found is not None:
                return found
        return None

    def _guard(self) -> bool:
        """False: the cycle ends here. Nothing was written so far."""
        counts = self._desk.look(garbage.counts)
        chunks = self._desk.look(garbage.chunk_count) + self._unexplained
        unexplained = counts.unexplained + self._unexplained
        if not collection.shrinks(unexplained, chunks, self._policy.shrink_guard_percent):
            self._soft.clear_alarm(SHRINK_GUARD)
            return True
        self.report.outcome = "stopped"
        self.report.reason = (
            f"{unexplained} of {chunks} chunks are garbage that no delete, overwrite or abort explains: more than "
            f"{self._policy.shrink_guard_percent:g} %"
        )
        message = f"{self.report.reason}. Is the metadata older than the chunks? gc.shrink_guard_percent is the bound."
        if not self.report.dry_run and self._soft.raise_alarm(SHRINK_GUARD, message):
            _log.error("gc.stopped", reason=self.report.reason)
        return False

    # What a restored log has lost

    def _recall(self) -> Iterator[float]:
        """Bring back what files refer to and a node has in quarantine: the log of a later history went back behind the
        entries that deleted it. Once in a leadership for each node."""
        yield self._enter("recall")
        if not self._fork_index:
            return
        nodes = {node_id for node_id, known in self._soft.known().items() if known.is_datanode}
        for node_id in sorted(
            node_id for node_id in nodes - self._memory.recalled if self._is_there(node_id)
        ):
            yield from self._recall_from(node_id)

    def _recall_from(self, node_id: str) -> Iterator[float]:
        """Whatever goes wrong at the node makes it void; what goes wrong with the metadata ends the cycle. What a disk
        does not give back holds up nothing else, and is tried again by every cycle."""
        after, whole = b"", True
        while True:
            try:
                page = self._holders.quarantined(node_id, after, PER_ENTRY)
            except QuorumFSError as error:
                self._void(node_id, str(error))
                return
            if not page:
                break
            needed = self._desk.look(partial(garbage.needed, chunks=page, node_id=node_id))
            if needed:
                index = self._now().index
                try:
                    restored = self._holders.restore(node_id, self._epoch, needed, index)
                except QuorumFSError as error:
                    self._void(node_id, str(error))
                    return
                self.report.recalled += restored.count
                whole = whole and not restored.refused
                _log.warning(
                    "gc.recalled",
                    node=node_id,
                    chunks=restored.count,
                    first=needed[0].hex(),
                    refused=len(restored.refused),
                    cause=restored.why,
                )
            after = page[-1]
            yield self._pause()
        if whole:
            self._memory.recalled.add(node_id)

    # What is written

    def _adopt(self, found: Sequence[e.AdoptChunks.One]) -> Iterator[float]:
        yield self._enter("adopt")
        for first in range(0, len(found), PER_ENTRY):
            page = [
                one
                for one in found[first : first + PER_ENTRY]
                if any(node_id in self._listed for node_id in one.node_ids)
            ]
            self.report.adopted += self._propose(e.SystemCommand(adopt=e.AdoptChunks(chunks=page)))[0]
            yield self._pause()

    def _condemn(self) -> Iterator[float]:
        yield self._enter("condemn")
        after = b""
        while page := self._page(partial(garbage.due, after=after, limit=PER_ENTRY)):
            self.report.candidates += len(page)
            if self.report.dry_run:
                room = WOULD_CONDEMN_MAX - len(self.report.would_condemn)
                self.report.would_condemn += page[:room]
            else:
                command = e.CondemnChunks(chunks=page, cycle=self.report.cycle)
                self.report.condemned += self._propose(e.SystemCommand(condemn=command))[0]
            after = page[-1]
            yield self._pause()

    def _sweep(self) -> Iterator[float]:
        """Delete what is condemned, of this cycle and of those before, and forget what nobody has any more."""
        yield self._enter("sweep")
        after = b""
        while page := self._page(partial(garbage.condemned, after=after, limit=PER_ENTRY)):
            orders = collection.deletions(
                [(one.chunk, one.condemned_index, one.node_ids) for one in page], self._listed.keys()
            )
            self._released = frozenset(one.chunk for one in page if one.released)
            gone: dict[str, Collection[bytes]] = {}
            held: set[bytes] = set()
            for node_id, condemned in orders.items():
                deleted = self._delete(node_id, condemned)
                gone[node_id] = deleted.gone
                held |= deleted.held
                yield 0.0
            self._write_gone(page, gone)
            if held:
                self._hold(sorted(held))
            after = page[-1].chunk
            yield self._pause()

    def _forget(self) -> Iterator[float]:
        """What is remembered of chunks that have left the quarantine: some at each entry."""
        while self._desk.look(garbage.has_outlived):
            self._propose(e.SystemCommand(forget_chunks=e.ForgetChunks()))
            yield self._pause()

    def _delete(self, node_id: str, condemned: Sequence[tuple[bytes, int]]) -> Deleted:
        try:
            deleted = self._order(node_id, condemned)
        except QuorumFSError as error:
            self._void(node_id, str(error))
            return Deleted()
        if deleted.refused:
            _log.warning("gc.refused", node=node_id, chunks=len(deleted.refused), cause=deleted.why)
        return deleted

    def _order(self, node_id: str, condemned: Sequence[tuple[bytes, int]]) -> Deleted:
        """While an order is on its way its node may hear, in the answer to a heartbeat, of what was committed since:
        then it is told that this leader knows that too. Who is behind in earnest has nothing newer to tell."""
        again = TOLD_AGAIN_MAX
        while True:
            commit_index = self._desk.consensus.commit_index
            orders = Orders(self._epoch, commit_index, condemned, self._fork_index, self._released)
            try:
                return self._holders.delete(node_id, orders)
            except HistoryBehindError:
                if not again or self._desk.consensus.commit_index <= commit_index:
                    raise
                again -= 1

    def _write_gone(self, page: Sequence[Held], gone: dict[str, Collection[bytes]]) -> None:
        removed = [
            e.ReplicaUpdate(chunk=chunk, node_id=node_id)
            for node_id, chunks in gone.items()
            for chunk in sorted(chunks)
        ]
        free = [
            one.chunk for one in page if all(one.chunk in gone.get(node_id, ()) for node_id in one.node_ids)
        ]
        if not removed and not free:
            return
        done = self._propose(
            e.SystemCommand(update_replicas=e.UpdateReplicas(updates=removed)),
            e.SystemCommand(forget_chunks=e.ForgetChunks(chunks=free)),
        )
        self.report.deleted += done[1]

    def _hold(self, chunks: Sequence[bytes]) -> None:
        """A node knows of them what this log does not: they wait for an operator."""
        self._propose(e.SystemCommand(restore=e.RestoreChunks(chunks=chunks)))
        _log.warning("gc.held", chunks=len(chunks), first=chunks[0].hex())

    def _account(self) -> Iterator[float]:
        """What the disks of the nodes that counted are full of."""
        yield self._enter("account")
        for node_id in sorted(self._listed):
            placed: Counter[tuple[str, str]] = Counter()
            after: bytes | None = b""
            while after is not None:
                page = self._desk.look(
                    partial(garbage.placed, node_id=node_id, after=after, limit=IDS_PER_PAGE)
                )
                placed.update(page.lengths)
                after = page.last
                yield self._rest()
            rooms = {
                disk.disk_id: Room(disk.total_bytes, disk.free_bytes, disk.used_bytes, disk.quarantined_bytes)
                for disk in self._soft.pulse(node_id).disks
            }
            self.report.accounting[node_id] = collection.account(rooms, placed)

    def _tell_of_held(self) -> None:
        """An alarm as long as chunks wait that this log has not seen: a restored backup, a lost majority."""
        held = self._desk.look(garbage.counts).of_another_log
        if not held:
            self._soft.clear_alarm(ALARM_OF_ANOTHER_LOG)
            return
        message = (
            f"{held} chunks on the disks were born in a log that this one has not seen, and stay: were the "
            "coordinators restored from something older? dfsctl gc candidates --held; gc release when they may go."
        )
        if self._soft.raise_alarm(ALARM_OF_ANOTHER_LOG, message):
            _log.warning("gc.of_another_log", chunks=held)

    # Small things

    def _enter(self, phase: str) -> float:
        """The next phase; whoever stops between two steps can stop here."""
        self.report.phase = phase
        return 0.0

    def _page(self, question: Callable[[sqlite3.Connection], list[T]]) -> list[T]:
        """A page, unless an operator has paused the collection meanwhile: then the cycle ends."""

        def ask(tx: sqlite3.Connection) -> list[T] | None:
            now = garbage.cluster(tx)
            return None if now is None or now.paused else question(tx)

        found = self._desk.look(ask)
        if found is None:
            raise self._paused()
        return found

    def _paused(self) -> QuorumFSError:
        self.report.outcome = "paused"
        return PreconditionFailedError("the collection is paused", next="dfsctl gc resume")

    def _propose(self, *commands: e.SystemCommand) -> list[int]:
        """What each left. Raises NotLeaderError when the leadership is not this cycle's any more."""
        if self._soft.epoch() != self._epoch:
            raise NotLeaderError("the leadership that began this cycle is over")
        return [one.number for one in self._desk.propose(commands)]

    def _pause(self) -> float:
        return FOREGROUND_SECONDS if self._desk.consensus.status().queue_ops else BUSY_SECONDS

    def _rest(self) -> float:
        return LOOKING_SECONDS if self._desk.consensus.status().queue_ops else BUSY_SECONDS


def _adoption(chunk: bytes, nodes: Sequence[str], found: Found) -> e.AdoptChunks.One:
    birth = t.ChunkBirth(
        history=found.birth.history, index=found.birth.index, cluster_ms=found.birth.cluster_ms
    )
    return e.AdoptChunks.One(
        chunk=chunk, node_ids=nodes, birth=birth, length=found.length, checksum=found.checksum
    )
