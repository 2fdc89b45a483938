"""Datanodes in memory, as the leader's duties see them: heartbeats, inventories, orders. Their rules are the real."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from coordinator.decisions.collection import Birth, Found, Restored
from coordinator.duties.holders import Deleted, Orders
from datanode.store import rules
from datanode.store.holds import Hold
from datanode.store.layout import Birth as StoredBirth
from quorumfs.errors import (
    FencedError,
    HistoryBehindError,
    SafetyGuardError,
    UnavailableError,
)
from quorumfs.ids import ChunkId
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import Coordinator


@dataclass
class Datanode:
    node_id: str
    chunks: dict[bytes, Found] = field(default_factory=dict)
    quarantine: dict[bytes, tuple[int, Found]] = field(default_factory=dict)  # with the condemn index
    holds: dict[bytes, Hold] = field(default_factory=dict)
    epoch: tuple[int, int] = (0, 0)
    commit_index: int = 0
    reachable: bool = True
    stuck: set[bytes] = field(default_factory=set)  # on a disk that cannot be written
    page_ids: int = 1000
    heard: tuple[int, int] = (0, 0)  # as `epoch`, whatever `obey` makes of it

    @property
    def void_below(self) -> dict[bytes, int]:
        return {chunk: hold.void_below_index for chunk, hold in self.holds.items()}

    def obey(self, epoch: t.Epoch) -> None:
        told = (epoch.history, epoch.term)
        if told < self.epoch:
            raise FencedError(f"{self.node_id} obeys a later leader")
        if told[0] > self.epoch[0]:
            self.commit_index = 0  # a new history counts its commits from its own fork
        self.epoch = told

    def hear(self, epoch: t.Epoch, commit_index: int) -> None:
        """What the answer to a heartbeat says."""
        self.obey(epoch)
        self.heard = max(self.heard, (epoch.history, epoch.term))
        self.commit_index = max(self.commit_index, commit_index)

    def check_log(self, commit_index: int) -> None:
        if commit_index < self.commit_index:
            raise HistoryBehindError(f"{self.node_id} has heard of more")

    def delete(self, orders: Orders) -> Deleted:
        self.obey(orders.epoch)
        self.check_log(orders.commit_index)
        told = (orders.epoch.history, orders.epoch.term)
        assert told >= self.heard, f"{self.node_id} obeyed a leader that was deposed"
        assert orders.commit_index >= self.commit_index, f"{self.node_id} obeyed a leader that knows less"
        gone, refused, held, why = set(), set(), set(), ""
        for chunk, index in orders.condemned:
            try:
                self._quarantine(
                    chunk,
                    rules.Condemnation(
                        index, orders.epoch.history, orders.fork_index, chunk in orders.released
                    ),
                )
                gone.add(chunk)
            except SafetyGuardError as error:
                refused.add(chunk)
                why = str(error)
                if isinstance(error, rules.HeldError):
                    held.add(chunk)
        return Deleted(frozenset(gone), frozenset(refused), why, frozenset(held))

    def _quarantine(self, chunk: bytes, condemned: rules.Condemnation) -> None:
        found = self.chunks.get(chunk)
        if found is None:
            return
        born = StoredBirth(found.birth.history, found.birth.index, found.birth.cluster_ms)
        rules.check_quarantine(ChunkId(chunk), born, condemned, self.holds.get(chunk))
        del self.chunks[chunk]
        self.quarantine[chunk] = (condemned.index, found)

    def restore(self, epoch: t.Epoch, chunks: Sequence[bytes], void_below: int) -> int:
        self.obey(epoch)
        back = 0
        for chunk in chunks:
            if chunk in self.quarantine:
                self.chunks[chunk] = self.quarantine.pop(chunk)[1]
            if chunk in self.chunks:
                hold = Hold(epoch.history, void_below)
                self.holds[chunk] = max(hold, self.holds.get(chunk, hold))
                back += 1
        return back


class Datanodes:
    """All of them, as `Holders`. `before_orders` is called before any order is carried out."""

    def __init__(self, *node_ids: str) -> None:
        self.nodes = {node_id: Datanode(node_id) for node_id in node_ids}
        self.before_orders: Callable[[], None] = lambda: None
        self.void: Callable[[], Collection[str]] = tuple  # nodes that must get no orders now
        self.orders = 0

    def __getitem__(self, node_id: str) -> Datanode:
        return self.nodes[node_id]

    def _reach(self, node_id: str) -> Datanode:
        node = self.nodes[node_id]
        if not node.reachable:
            raise UnavailableError(f"{node_id} does not answer")
        return node

    def find(self, node_id: str, chunk: bytes) -> Found | None:
        node = self._reach(node_id)
        if chunk in node.quarantine:
            return replace(node.quarantine[chunk][1], quarantined=True)
        return node.chunks.get(chunk)

    def quarantined(self, node_id: str, after: bytes, limit: int) -> list[bytes]:
        return [chunk for chunk in sorted(self._reach(node_id).quarantine) if chunk > after][:limit]

    def delete(self, node_id: str, orders: Orders) -> Deleted:
        self.before_orders()
        node = self._reach(node_id)
        assert node_id not in self.void(), f"{node_id} is void and got an order"
        self.orders += 1
        return node.delete(orders)

    def restore(self, node_id: str, epoch: t.Epoch, chunks: Sequence[bytes], void_below: int) -> Restored:
        node = self._reach(node_id)
        stuck = frozenset(chunk for chunk in chunks if chunk in node.stuck)
        count = node.restore(epoch, [chunk for chunk in chunks if chunk not in stuck], void_below)
        return Restored(count, stuck, "its disk is read-only" if stuck else "")

    # What they do by themselves

    def beat(self, leader: Coordinator) -> None:
        """Each that is reachable sends a heartbeat, and what the leader asked for in its answer."""
        for node in self.nodes.values():
            if not node.reachable or node.node_id not in leader.soft.known():
                continue
            commands = leader.beat(node.node_id)
            node.hear(leader.soft.epoch(), leader.consensus.status().commit_index)
            outcomes = []
            for command in commands:
                match command.WhichOneof("command"):
                    case "full_inventory":
                        tell(leader, node, command.full_inventory.gather_id)
                    case "verify":
                        there = command.verify.chunk in node.chunks
                        code = t.ERROR_CODE_OK if there else t.ERROR_CODE_CHUNK_NOT_FOUND
                        outcomes.append(m.CommandOutcome(id=command.id, code=code))
            if outcomes:
                leader.beat(node.node_id, outcomes=outcomes)


def tell(leader: Coordinator, node: Datanode, gather_id: int) -> None:
    """A full inventory, in pages."""
    ids = sorted(node.chunks)
    pages = [ids[k : k + node.page_ids] for k in range(0, len(ids), node.page_ids)] or [[]]
    for number, page in enumerate(pages):
        leader.soft.inventory_page(
            m.InventoryPage(
                node_id=node.node_id,
                node_uuid=f"uuid-{node.node_id}",
                incarnation=1,
                gather_id=gather_id,
                page=number,
                last=number == len(pages) - 1,
                ids=b"".join(page),
            )
        )


def born(history: int = 1, index: int = 1, cluster_ms: int = 0, length: int = 5) -> Found:
    return Found(Birth(history, index, cluster_ms), length, 7)
