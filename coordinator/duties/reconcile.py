"""Brings what datanodes report and what the metadata says of replicas together.

Theory of operation
1. A report that agrees with the metadata costs nothing. What differs is written in batched entries.
2. Chunks that the metadata does not know are orphans or belong to an upload under way: not this duty's
   business.
3. A replica that is missing from an inventory is only doubted: the inventory was listed while commits went
   on. The node is told to verify that chunk, and its finding is written. The same for a replica that was
   corrupt and is listed again, and for a reader's complaint.
4. Every node is asked for a full inventory once per leadership and per start of its process; few at a time.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence

from common import log
from coordinator.duties.desk import Desk
from coordinator.metadata import queries
from coordinator.soft_state import Done, Inventory, Report, SoftState
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

REPORTS_PER_ENTRY = 1000
DOUBTS_PER_ROUND = 256
GATHERINGS_MAX = 8
IDLE_SECONDS = 0.25

_MISSING = (t.ERROR_CODE_CHUNK_NOT_FOUND, t.ERROR_CODE_NOT_FOUND)

_log = log.get(__name__)


class Reconcile:
    name = "reconcile"

    def __init__(self, desk: Desk, soft: SoftState) -> None:
        self._desk = desk
        self._soft = soft
        self._doubts: deque[tuple[str, bytes]] = deque()
        self._findings: deque[Report] = deque()
        self._busy = False

    def work(self) -> str:
        self._take_outcomes()
        written = self._write(self._soft.take_reports(REPORTS_PER_ENTRY), believe=False)
        findings = [self._findings.popleft() for _ in range(min(len(self._findings), REPORTS_PER_ENTRY))]
        written += self._write(findings, believe=True)
        inventory = self._soft.take_inventory()
        if inventory is not None:
            self._compare(inventory)
        doubted = self._order_verification()
        asked = [one for one in self._soft.wanting_inventory(GATHERINGS_MAX) if self._soft.gather(one)]
        self._busy = bool(written or inventory or self._findings)
        return f"wrote {written} replica states, doubted {doubted}, asked {len(asked)} nodes for inventories"

    def wait(self) -> float:
        return 0.0 if self._busy else IDLE_SECONDS

    def _write(self, reports: Sequence[Report], *, believe: bool) -> int:
        """Propose what differs from the metadata. `believe`: the node has just read the chunk's every
        block."""
        if not reports:
            return 0
        updates = self._desk.look(lambda tx: self._differences(tx, reports, believe))
        if updates:
            self._desk.propose([e.SystemCommand(update_replicas=e.UpdateReplicas(updates=updates))])
            _log.info("replicas.updated", count=len(updates))
        return len(updates)

    def _differences(
        self, tx: sqlite3.Connection, reports: Iterable[Report], believe: bool
    ) -> list[e.ReplicaUpdate]:
        updates = []
        chunks = {report.chunk for report in reports if len(report.chunk) == 16}
        known = queries.valid_chunk_ids(tx, chunks)
        for report in reports:
            if report.chunk not in known:
                continue
            there = {row.node_id: row for row in queries.replicas_of(tx, report.chunk)}
            mine = there.get(report.node_id)
            listed_again = report.state == t.REPLICA_STATE_LIVE and not believe
            if listed_again and mine is not None and mine.state == t.REPLICA_STATE_CORRUPT:
                self._doubts.append((report.node_id, report.chunk))
                continue
            if mine is None and report.state != t.REPLICA_STATE_LIVE:
                continue
            if mine is not None and mine.state == report.state and report.disk_id in ("", mine.disk_id):
                continue
            updates.append(
                e.ReplicaUpdate(
                    chunk=report.chunk,
                    node_id=report.node_id,
                    disk_id=report.disk_id or (mine.disk_id if mine is not None else ""),
                    state=t.ReplicaState.ValueType(report.state),
                )
            )
        return updates

    # Inventories

    def _compare(self, inventory: Inventory) -> None:
        node_id = inventory.node_id
        stored = self._desk.look(lambda tx: set(queries.chunks_on(tx, node_id)))
        absent = stored - inventory.live
        self._doubts.extend((node_id, chunk) for chunk in sorted(absent))
        new = sorted(inventory.live - stored)
        for start in range(0, len(new), REPORTS_PER_ENTRY):
            page = new[start : start + REPORTS_PER_ENTRY]
            reports = [
                Report(node_id, chunk, inventory.disks.get(chunk, ""), t.REPLICA_STATE_LIVE) for chunk in page
            ]
            self._write(reports, believe=False)
        self._write(inventory.troubled, believe=False)
        _log.info(
            "inventory.compared", node=node_id, live=len(inventory.live), absent=len(absent), new=len(new)
        )

    # Doubts

    def _order_verification(self) -> int:
        ordered = 0
        known = self._soft.known()
        while self._doubts and ordered < DOUBTS_PER_ROUND:
            node_id, chunk = self._doubts[0]
            if node_id not in known:  # forgotten since
                self._doubts.popleft()
                continue
            command = m.Command(verify=m.VerifyCommand(chunk=chunk))
            if not self._soft.order(node_id, "verify", command, chunk):
                break  # the node's queue is full: the next round goes on
            self._doubts.popleft()
            ordered += 1
        return ordered

    def _take_outcomes(self) -> None:
        for done in self._soft.take_done(("verify",)):
            finding = finding_of(done)
            if finding is not None:
                self._findings.append(finding)


def finding_of(done: Done) -> Report | None:
    """What a verification found; None when it found nothing out."""
    if done.outcome is None:
        return None
    if done.outcome.code == t.ERROR_CODE_OK:
        state = t.REPLICA_STATE_LIVE
    elif done.outcome.code == t.ERROR_CODE_CORRUPT:
        state = t.REPLICA_STATE_CORRUPT
    elif done.outcome.code in _MISSING:
        state = t.REPLICA_STATE_MISSING
    else:
        return None
    return Report(done.order.node_id, done.order.chunk, done.outcome.ack.disk_id, state)
