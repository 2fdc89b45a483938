"""Repair, trimming, balancing and reconciling against each other, under nodes and leaders that come and go.

Real metadata, real duties, real rules of datanodes; disks, network and time are the machine's. What is checked at every
deletion: as many whole copies as are wanted are left on nodes that answer. What is checked in the end: every chunk lies
on as many nodes as are wanted, and where the metadata says, and nowhere else.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.decisions.collection import Birth, Found
from coordinator.duties.balance import BalanceDuty
from coordinator.duties.holders import Deleted, Orders
from coordinator.duties.reconcile import Reconcile
from coordinator.duties.repair import Budget, Repair
from coordinator.duties.trim import TrimDuty
from coordinator.metadata import invariants, queries
from coordinator.soft_state import known_nodes, node_table
from quorumfs.checksum import crc32c
from quorumfs.errors import QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import DEAD_SECONDS, Coordinator
from tests.support.datanodes import Datanode, Datanodes, tell
from tests.support.ops import ref

ZONES = {"d1": "a", "d2": "a", "d3": "b", "d4": "b", "d5": "c"}
NODES = tuple(ZONES)
LENGTH = 5
ROOM_BYTES = 100
WHOLE = Found(Birth(1, 1, 0), LENGTH, crc32c(bytes(LENGTH)))
ROUNDS_MAX = 400
INTENTS = (
    t.NODE_INTENT_NORMAL,
    t.NODE_INTENT_NORMAL,
    t.NODE_INTENT_DRAINING,
    t.NODE_INTENT_MAINTENANCE,
    t.NODE_INTENT_DECOMMISSIONING,
)

nodes = st.sampled_from(NODES)


class Watched(Datanodes):
    """Looks at every deletion: see the module."""

    def __init__(self, machine: Replicas) -> None:
        super().__init__(*NODES)
        self._machine = machine

    def delete(self, node_id: str, orders: Orders) -> Deleted:
        before = {chunk for chunk, _ in orders.condemned if chunk in self[node_id].chunks}
        done = super().delete(node_id, orders)
        for chunk in before - self[node_id].chunks.keys():
            self._machine.check_deleted(chunk)
        return done


class Replicas(RuleBasedStateMachine):
    """One rule is one thing that happens: one unit of one duty, one heartbeat of a node, one fault."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="replica-machine-")
        self.leader = Coordinator(Path(self.directory.name))
        self.leader.db.execute("PRAGMA synchronous = OFF")
        self.nodes: Datanodes = Watched(self)
        self.files: dict[bytes, tuple[bytes, int]] = {}  # path -> chunk, wanted
        self.old: list[TrimDuty | BalanceDuty] = []  # of leaders that were deposed
        self.random = random.Random(1).random
        self.leader.lead(*NODES, **{node_id: {"zone": zone} for node_id, zone in ZONES.items()})
        self.term = 1
        self._make_duties()

    def teardown(self) -> None:
        if not hasattr(self, "leader"):
            return
        try:
            self.everything_is_as_wanted_in_the_end()
        finally:
            self.leader.consensus.close()
            self.directory.cleanup()

    def _make_duties(self) -> None:
        leader = self.leader
        desk, soft, clock = leader.desk, leader.soft, leader.clock
        self.reconcile = Reconcile(desk, soft, clock)
        self.repair = Repair(desk, soft, self.random, Budget(1e9, clock), 4, clock)
        self.trim = TrimDuty(desk, soft, self.nodes, clock, soft.epoch())
        self.balance = BalanceDuty(desk, soft, self.random, clock, self.trim.look_at)

    # What is asked for

    @rule(where=st.sets(nodes, min_size=2, max_size=3))
    def store(self, where: set[str]) -> None:
        if len(self.files) >= 6:
            return
        path = b"/%d" % len(self.files)
        chunk = self.leader.store(path, *sorted(where))
        for node_id in where:
            self.nodes[node_id].chunks[chunk] = WHOLE
        self.files[path] = chunk, 3

    @precondition(lambda self: self.files)
    @rule(data=st.data(), wanted=st.integers(1, 4))
    def want(self, data: Any, wanted: int) -> None:
        path = data.draw(st.sampled_from(sorted(self.files)))
        self.leader.batch(n.Op(set_attributes=n.SetAttributesRequest(ref=ref(path), replication=wanted)))
        self.files[path] = self.files[path][0], wanted

    @rule(state=st.sampled_from((0, 1, 1, 2)))
    def balancing(self, state: int) -> None:
        command = e.SetSetting(key="balance.state", value=str(state))
        self.leader.system(e.SystemCommand(set_setting=command))

    @rule(node_id=nodes, intent=st.sampled_from(INTENTS))
    def an_operator_says_of_a_node(self, node_id: str, intent: t.NodeIntent.ValueType) -> None:
        """Drain it, let it rest, move it off, use it again: whatever it was before."""
        command = e.SetNode(
            node_id=node_id, set_intent=True, intent=intent, maintenance_until_cluster_ms=1 << 40
        )
        self.leader.system(e.SystemCommand(set_node=command))
        self.leader.soft.set_known(node_table(self.leader.db))

    # What happens

    @rule(node_id=nodes)
    def cut_off(self, node_id: str) -> None:
        """Two at a time at most, so that something can be done."""
        if sum(not one.reachable for one in self.nodes.nodes.values()) < 2:
            self.nodes[node_id].reachable = False

    @rule(node_id=nodes)
    def come_back(self, node_id: str) -> None:
        self.nodes[node_id].reachable = True

    @precondition(lambda self: self.files)
    @rule(data=st.data(), node_id=nodes)
    def lose(self, data: Any, node_id: str) -> None:
        """A replica vanishes, and nobody hears of it; never the last."""
        chunk, _ = self.files[data.draw(st.sampled_from(sorted(self.files)))]
        if len(self._holders(chunk)) > 2:
            self.nodes[node_id].chunks.pop(chunk, None)

    @rule(seconds=st.sampled_from((1, 4, int(DEAD_SECONDS) + 2)))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.leader.clock.advance(1.0)
            for node_id in NODES:
                self.beat(node_id)
            self.leader.soft.judge()

    @rule(node_id=nodes)
    def beat(self, node_id: str) -> None:
        """A heartbeat, and what it is told to do; the next tells what came of it."""
        node = self.nodes[node_id]
        if not node.reachable:
            return
        commands = self._tell(node)
        node.hear(self.leader.soft.epoch(), self.leader.consensus.status().commit_index)
        outcomes = [one for command in commands if (one := self._carry_out(node, command)) is not None]
        if outcomes:
            self._tell(node, outcomes)

    def _tell(self, node: Datanode, outcomes: Sequence[m.CommandOutcome] = ()) -> list[m.Command]:
        used = LENGTH * len(node.chunks)
        disk = t.DiskInfo(
            disk_id=f"disk-{node.node_id}", used_bytes=used, free_bytes=ROOM_BYTES - used, state="ok"
        )
        return self.leader.beat(node.node_id, disks=[disk], outcomes=outcomes)

    def _carry_out(self, node: Datanode, command: m.Command) -> m.CommandOutcome | None:
        node.obey(command.epoch)
        code = t.ERROR_CODE_CHUNK_NOT_FOUND
        match command.WhichOneof("command"):
            case "full_inventory":
                tell(self.leader, node, command.full_inventory.gather_id)
                return None
            case "verify" if command.verify.chunk in node.chunks:
                code = t.ERROR_CODE_OK
            case "replicate":
                code = self._replicate(node, command)
        ack = t.ReplicaAck(node_id=node.node_id, disk_id=f"disk-{node.node_id}", durable=True)
        return m.CommandOutcome(id=command.id, code=code, ack=ack)

    def _replicate(self, node: Datanode, command: m.Command) -> t.ErrorCode.ValueType:
        order = command.replicate
        aside = node.quarantine.get(order.chunk)
        if aside is not None and aside[0] > order.void_below_index:
            return t.ERROR_CODE_PRECONDITION_FAILED
        if aside is not None:
            node.restore(command.epoch, [order.chunk], order.void_below_index)
        for source in order.sources:
            other = self.nodes[source.node_id]
            if other.reachable and order.chunk in other.chunks:
                node.chunks[order.chunk] = other.chunks[order.chunk]
                return t.ERROR_CODE_OK
        return t.ERROR_CODE_OK if order.chunk in node.chunks else t.ERROR_CODE_UNAVAILABLE

    # Who works

    @rule()
    def reconciles(self) -> None:
        self.reconcile.work()

    @rule()
    def repairs(self) -> None:
        self.repair.work()

    @rule()
    def trims(self) -> None:
        self.trim.work()

    @rule()
    def balances(self) -> None:
        self.balance.work()

    @rule()
    def another_leads(self) -> None:
        self.old = [*self.old[-4:], self.trim, self.balance]
        self.term += 1
        index = queries.applied_index(self.leader.db)
        self.leader.soft.begin(1, self.term, known_nodes(self.leader.db), index)
        self._make_duties()

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def a_deposed_leader_goes_on(self, data: Any) -> None:
        """With what it knows; whatever it tries, nothing is deleted that is needed."""
        with suppress(QuorumFSError):
            data.draw(st.sampled_from(self.old)).work()

    # What holds

    def check_deleted(self, chunk: bytes) -> None:
        wanted = next(wanted for one, wanted in self.files.values() if one == chunk)
        left = [node_id for node_id in self._holders(chunk) if self.nodes[node_id].reachable]
        assert len(left) >= wanted, f"{len(left)} of {wanted} copies are left where somebody answers"

    @invariant()
    def the_metadata_is_sound(self) -> None:
        if hasattr(self, "leader"):
            assert invariants.violations(self.leader.db) == []

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "files"):
            assert all(self._holders(chunk) for chunk, _ in self.files.values())

    def _holders(self, chunk: bytes) -> list[str]:
        return [node.node_id for node in self.nodes.nodes.values() if chunk in node.chunks]

    def everything_is_as_wanted_in_the_end(self) -> None:
        for node in self.nodes.nodes.values():
            node.reachable = True
            self.an_operator_says_of_a_node(node.node_id, t.NODE_INTENT_NORMAL)
        self.balancing(1)
        self.another_leads()  # every node tells all that it has
        for _ in range(ROUNDS_MAX):
            self.time_passes(1)
            for duty in (self.reconcile, self.repair, self.trim, self.balance):
                duty.work()
            if self._is_as_wanted():
                return
        states = {
            path: (self.leader.replicas(chunk), self._holders(chunk))
            for path, (chunk, _) in self.files.items()
        }
        raise AssertionError(f"it does not come to rest: {states}")

    def _is_as_wanted(self) -> bool:
        """As many live replicas as wanted, and each where the metadata says, and nowhere else."""
        for chunk, wanted in self.files.values():
            rows = {node for node, state in self.leader.replicas(chunk).items() if state == "live"}
            if len(rows) != wanted or rows != set(self._holders(chunk)):
                return False
        return queries.chunk_counts(self.leader.db, ()).under_replicated == 0
