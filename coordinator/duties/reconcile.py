"""Brings what datanodes report and what the metadata says of replicas together.

Theory of operation
1. A report that agrees with the metadata costs nothing. What differs is written in batched entries, and kept here until
   the log has it: the node was told that its report has arrived and will not say it again.
2. Chunks that the metadata does not know are garbage: not this duty's business. A chunk whose upload is under way is
   sealed on its nodes before the client hands it in: such a report waits a little and then mostly agrees.
3. What was heard second hand is only doubted: a replica that is missing from an inventory (which was listed while
   commits went on), one that was corrupt or missing and is listed again, a reader's complaint. The node is told to
   verify that chunk, and its finding is written. A replica sealed just now, with the right length and checksum, is
   believed at once.
4. A replica that is being deleted is the business of whoever deletes it: reports about it are passed over. What a node
   may have found before it deleted the replica, or brought it back, is doubted, however it came: an inventory takes its
   time, a report may wait for the end of its upload, an outcome for a heartbeat.
5. A replica that was corrupt stays so in the metadata while its node has it at its place. Once its chunk is whole
   without it the node is told to look: it has put the bytes aside, and says that they are not there. What is not there,
   and not wanted there any more, is forgotten: should it turn up again, its node will say so.
6. Inventories name chunks and no disks. When a node loses a disk, it is told to look at those of its replicas of which
   nobody else has said where they lie: until then they count, and might be on that disk.
7. Every node is asked for a full inventory once per leadership and per start of its process; few at a time.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from common import log
from coordinator.duties.desk import Desk
from coordinator.duties.doubts import Doubts, Later
from coordinator.metadata import queries
from coordinator.metadata.queries import ChunkRow, LostDisk, ReplicaRow
from coordinator.soft_state import Done, Inventory, Report, SoftState
from quorumfs.clock import Clock
from quorumfs.errors import QuorumFSError
from quorumfs.ids import ID_BYTES
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

REPORTS_PER_ENTRY = 1000
STORED_PER_PAGE = 500
IDLE_SECONDS = 0.25
REST_SHARE = 4.0
REST_SECONDS_MAX = 0.1
"""After a unit of work it rests so many times as long as that took, up to so many seconds: a report that comes alone is
written at once, thousands a second in few entries."""
PAGE_PAUSE_SECONDS = 0.005
OVER = object()
EARLY_SECONDS = 5.0
EARLY_MAX = 100_000
UNDECIDED_SECONDS = 30.0
UNDECIDED_MAX = 10_000
HEALED_SECONDS = 10.0  # between two looks through what is corrupt or missing
HEALED_PER_LOOK = 200
UNPLACED_SECONDS = 10.0  # between two looks at what lies nobody knows where, on nodes that lost a disk
UNPLACED_LOOK_AT = 5000

_CORRUPT, _MISSING = t.REPLICA_STATE_CORRUPT, t.REPLICA_STATE_MISSING
_NOT_THERE = (_CORRUPT, _MISSING)
_NOT_FOUND = (t.ERROR_CODE_CHUNK_NOT_FOUND, t.ERROR_CODE_NOT_FOUND)

_log = log.get(__name__)


@dataclass(slots=True)
class Differences:
    """What follows from some reports."""

    updates: list[e.ReplicaUpdate] = field(default_factory=list)
    doubts: list[Report] = field(default_factory=list)
    early: list[Report] = field(default_factory=list)


class Reconcile:
    name = "reconcile"

    def __init__(self, desk: Desk, soft: SoftState, clock: Clock) -> None:
        self._desk = desk
        self._soft = soft
        self._doubts = Doubts(soft)
        self._fresh: deque[Report] = deque()
        self._findings: deque[Report] = deque()
        self._listed: deque[Report] = deque()  # out of inventories
        self._early: Later[Report] = Later(clock, EARLY_SECONDS, EARLY_MAX)
        self._undecided: Later[Done] = Later(clock, UNDECIDED_SECONDS, UNDECIDED_MAX)
        self._comparing: Iterator[None] | None = None
        self._compared = False  # something, in the last unit
        self._busy = False
        self._took = 0.0
        self._clock = clock
        self._healed_due = clock.monotonic()
        self._healed_after = dict.fromkeys(_NOT_THERE, (b"", ""))
        self._unplaced_due = clock.monotonic()
        self._unplaced_after: dict[str, bytes] = {}

    def work(self) -> str:
        began = self._clock.monotonic()
        self._take_outcomes()
        self._fresh.extend(self._soft.take_reports(max(0, REPORTS_PER_ENTRY - len(self._fresh))))
        self._fresh.extend(self._early.take(REPORTS_PER_ENTRY))
        written = self._write_some(self._fresh, believe=False)
        written += self._write_some(self._findings, believe=True)
        written += self._write_some(self._listed, believe=False)
        self._go_on_comparing()
        self._settle_healed()
        self._doubt_unplaced()
        doubted = self._doubts.order()
        asked = [one for one in self._soft.wanting_inventory() if self._soft.gather(one)]
        self._busy = bool(written or self._fresh or self._findings or self._listed)
        self._took = self._clock.monotonic() - began
        return f"wrote {written} replica states, doubted {doubted}, asked {len(asked)} nodes for inventories"

    def wait(self) -> float:
        if self._busy:  # a leader that dies takes with it what was reported and not written
            return (
                0.0 if self.waiting >= REPORTS_PER_ENTRY else min(REST_SECONDS_MAX, REST_SHARE * self._took)
            )
        return PAGE_PAUSE_SECONDS if self._compared else IDLE_SECONDS

    @property
    def waiting(self) -> int:
        """Reports that came and were not compared with the metadata yet. Any thread."""
        own = len(self._fresh) + len(self._findings) + len(self._listed)
        return own + self._soft.waiting_reports

    def _settle_healed(self) -> None:
        """A page each of the replicas that are corrupt, and missing, and that their chunks do well without."""
        if self._clock.monotonic() < self._healed_due:
            return
        for chunk, node_id in self._healed(_CORRUPT):
            self._doubts.add(node_id, chunk)
        forgotten = [
            e.ReplicaUpdate(chunk=chunk, node_id=node_id, only_if=_MISSING)
            for chunk, node_id in self._healed(_MISSING)
        ]
        if forgotten:
            self._desk.propose([e.SystemCommand(update_replicas=e.UpdateReplicas(updates=forgotten))])
            _log.info("replicas.forgotten", count=len(forgotten))
        if not any(chunk for chunk, _ in self._healed_after.values()):
            self._healed_due = self._clock.monotonic() + HEALED_SECONDS

    def _healed(self, state: t.ReplicaState.ValueType) -> list[tuple[bytes, str]]:
        after, gone = self._healed_after[state], self._soft.gone()
        found, self._healed_after[state] = self._desk.look(
            lambda tx: queries.healed_elsewhere(tx, state, after, HEALED_PER_LOOK, gone)
        )
        return found

    def _doubt_unplaced(self) -> None:
        """A page of each node that lost a disk; without a pause until all of them were looked through."""
        if self._clock.monotonic() < self._unplaced_due:
            return
        hurt = {one.node_id for one in self._soft.gone() if isinstance(one, LostDisk)}
        places = self._unplaced_after or dict.fromkeys(hurt, b"")
        self._unplaced_after = {}
        for node_id in sorted(hurt & places.keys()):
            page = partial(queries.unplaced, node_id=node_id, after=places[node_id], limit=UNPLACED_LOOK_AT)
            found, after = self._desk.look(page)
            for chunk in found:
                self._doubts.add(node_id, chunk)
            if after:
                self._unplaced_after[node_id] = after
        if not self._unplaced_after:
            self._unplaced_due = self._clock.monotonic() + UNPLACED_SECONDS

    # Reports

    def _write_some(self, waiting: deque[Report], *, believe: bool) -> int:
        """Propose what differs from the metadata; `waiting` loses what the log has. `believe`: the node has just read
        the chunk's every block."""
        reports = list(islice(waiting, REPORTS_PER_ENTRY))
        if not reports:
            return 0
        looked_at = self._clock.monotonic()
        found = self._desk.look(lambda tx: differences(tx, reports, believe, self._soft.touched_since))
        if found.updates:
            self._desk.propose([e.SystemCommand(update_replicas=e.UpdateReplicas(updates=found.updates))])
            _log.info("replicas.updated", count=len(found.updates))
        for update in found.updates:
            if self._soft.touched_since(update.node_id, update.chunk, looked_at):
                self._doubts.add(update.node_id, update.chunk)
        for _ in reports:
            waiting.popleft()
        for one in found.doubts:
            self._doubts.add(one.node_id, one.chunk)
        for one in found.early:
            if not self._early.put(one):
                self._soft.want_inventory(one.node_id)
        return len(found.updates)

    # Inventories

    def _go_on_comparing(self) -> None:
        """One page of the inventory at hand, or of the next: what the metadata says of a million replicas is no single
        piece of work. The next does not wait because this one was short: a thousand nodes have one each."""
        self._compared = False
        if self._comparing is None:
            inventory = self._soft.take_inventory()
            if inventory is None:
                return
            self._comparing = self._compare(inventory)
        self._compared = True
        comparing, self._comparing = self._comparing, None  # an error ends it
        if next(comparing, OVER) is not OVER:
            self._comparing = comparing

    def _compare(self, inventory: Inventory) -> Iterator[None]:
        node_id, live = inventory.node_id, inventory.live
        absent = new = 0
        after = b""
        for page in self._stored(node_id):
            listed = live.between(after, page[-1])
            new += self._take_listed(inventory, set(listed).difference(page))
            for chunk in sorted(set(page).difference(listed)):
                self._doubts.add(node_id, chunk)
                absent += 1
            after = page[-1]
            if len(page) == STORED_PER_PAGE:
                yield
        new += self._take_listed(inventory, live.between(after, None))
        self._listed.extend(inventory.troubled)
        _log.info("inventory.compared", node=node_id, live=len(live), absent=absent, new=new)

    def _take_listed(self, inventory: Inventory, chunks: Collection[bytes]) -> int:
        self._listed.extend(
            Report(
                inventory.node_id,
                chunk,
                inventory.disks.get(chunk, ""),
                t.REPLICA_STATE_LIVE,
                since=inventory.since,
            )
            for chunk in sorted(chunks)
        )
        return len(chunks)

    def _stored(self, node_id: str) -> Iterable[Sequence[bytes]]:
        """What the metadata says is on a node, in pages of their own transactions. A failure asks for all anew."""
        after = b""

        def ask(tx: sqlite3.Connection) -> Sequence[bytes]:
            return queries.chunks_on(tx, node_id, after, STORED_PER_PAGE)

        try:
            while page := self._desk.look(ask):
                yield page
                after = page[-1]
        except QuorumFSError:
            self._soft.want_inventory(node_id)
            raise

    # Findings

    def _take_outcomes(self) -> None:
        for again in self._undecided.take(UNDECIDED_MAX):
            self._doubts.add(again.order.node_id, again.order.chunk)
        for done in self._soft.take_done(("verify",)):
            finding = finding_of(done)
            if finding is not None:
                self._findings.append(finding)
            elif done.outcome is not None and not self._undecided.put(done):
                self._soft.want_inventory(done.order.node_id)


def differences(
    tx: sqlite3.Connection,
    reports: Iterable[Report],
    believe: bool,
    touched_since: Callable[[str, bytes, float], bool],
) -> Differences:
    """What the metadata has to learn from `reports`, what is doubtful, and what came too early.

    Of several about one replica the last counts: it was deleted, say, and sealed anew.
    """
    found = Differences()
    reports = {(one.node_id, one.chunk): one for one in reports}.values()
    chunks = queries.chunk_rows(tx, {one.chunk for one in reports if len(one.chunk) == ID_BYTES})
    for report in reports:
        chunk = chunks.get(report.chunk)
        if chunk is None:
            continue
        if not chunk.sealed:
            if chunk.under_way and report.state == t.REPLICA_STATE_LIVE:
                found.early.append(report)
            continue
        there = {row.node_id: row for row in queries.replicas_of(tx, report.chunk)}
        mine, since = there.get(report.node_id), report.since
        if _says_nothing(report, mine):
            continue
        if since is not None and touched_since(report.node_id, report.chunk, since):
            found.doubts.append(report)
        else:
            _judge(found, report, chunk, mine, believe)
    return found


def _says_nothing(report: Report, mine: ReplicaRow | None) -> bool:
    """Of what is being deleted; that something is not there where nobody says it is, or is only promised."""
    if mine is None:
        return report.state != t.REPLICA_STATE_LIVE
    promised = mine.state == t.REPLICA_STATE_PENDING
    return mine.state == t.REPLICA_STATE_DELETING or (promised and report.state == _MISSING)


def _judge(
    found: Differences, report: Report, chunk: ChunkRow, mine: ReplicaRow | None, believe: bool
) -> None:
    state = report.state
    if state == t.REPLICA_STATE_LIVE and report.length:
        believe = True  # sealed just now
        if (report.length, report.checksum) != (chunk.length, chunk.checksum):
            state = _CORRUPT  # whole, and something else
    if mine is None and state != t.REPLICA_STATE_LIVE:
        return
    if mine is not None and mine.state == state and report.disk_id in ("", mine.disk_id):
        return
    if state == t.REPLICA_STATE_LIVE and mine is not None and mine.state in _NOT_THERE and not believe:
        found.doubts.append(report)
        return
    disk_id = report.disk_id or (mine.disk_id if mine is not None else "")
    found.updates.append(
        e.ReplicaUpdate(chunk=report.chunk, node_id=report.node_id, disk_id=disk_id, state=state)
    )


def finding_of(done: Done) -> Report | None:
    """What a verification found; None when it found nothing out."""
    if done.outcome is None:
        return None
    if done.outcome.code == t.ERROR_CODE_OK:
        state = t.REPLICA_STATE_LIVE
    elif done.outcome.code == t.ERROR_CODE_CORRUPT:
        state = _CORRUPT
    elif done.outcome.code in _NOT_FOUND:
        state = _MISSING
    else:
        return None
    return Report(done.order.node_id, done.order.chunk, done.outcome.ack.disk_id, state, since=done.sent_at)
