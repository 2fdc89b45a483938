"""Full inventories on their way: who shall send one, who is sending, what arrived whole."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from coordinator.decisions.packed import PackedIds, in_order, split
from coordinator.soft.values import Inventory, Report
from quorumfs.ids import ID_BYTES
from quorumfs.limits import RPC_DEADLINE_SECONDS
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

PAGE_SECONDS = 3 * RPC_DEADLINE_SECONDS
"""A gathering without a page for so long is given up. Counted from when the order went out, or from the page before: a
node makes a page in a moment, gives the call that tells it RPC_DEADLINE_SECONDS, and ends at the first that fails. So
after twice that nothing comes any more; the third is for a machine that has other work. An order whose answer was lost
costs as much."""
AT_ONCE_MIN = 8
AT_ONCE_MAX = 64
SMALL_IDS = 20_000  # an inventory up to this is told in a moment, and takes no memory to speak of


@dataclass(slots=True)
class _Gathering:
    gather_id: int
    incarnation: int
    until: float
    since: float
    next_page: int = 0
    count: int = 0  # of ids and replicas told
    ids: bytearray = field(
        default_factory=bytearray
    )  # in order; grows by pages, and is never copied as a whole
    through: bytes = b""
    live: set[bytes] = field(default_factory=set)  # those told one by one
    disks: dict[bytes, str] = field(default_factory=dict)
    troubled: list[Report] = field(default_factory=list)


class Inventories:
    """An inventory counts only whole: every page in order, and their ids too, of one gathering of one process.

    The collection gets one of its own for each node that it asked: of a gathering that began after it asked.

    Each that arrives small lets one more node tell at the same time, up to AT_ONCE_MAX; one that is large takes that
    back. So a thousand nodes are through in a minute, and the inventories of millions never lie in memory together.
    """

    def __init__(self) -> None:
        self._asked: set[str] = set()
        self._collected: dict[str, Inventory] = {}
        self._told: set[str] = set()  # nodes whose inventory came, or is coming
        self._running: dict[str, _Gathering] = {}
        self._whole: deque[Inventory] = deque()
        self._at_once = AT_ONCE_MIN

    def want(self, node_id: str) -> None:
        """What is known of the node's replicas is incomplete: it shall tell everything again."""
        self._running.pop(node_id, None)
        self._told.discard(node_id)

    def wanting(self, nodes: Iterable[str], is_heard: Callable[[str], bool], now: float) -> list[str]:
        """Of the nodes that are heard, those to ask now, so that not too many tell together. Who has told, or cannot
        be asked yet, is not looked at: this is asked again with every page that is compared."""
        for node_id in [one for one, gathering in self._running.items() if gathering.until <= now]:
            self.want(node_id)
        room = max(0, self._at_once - len(self._running))
        untold = (node_id for node_id in nodes if node_id not in self._told and is_heard(node_id))
        return list(islice(untold, room))

    def begin(self, node_id: str, gather_id: int, incarnation: int, now: float) -> None:
        """The node is to be told to send its inventory; `delivered` when it was."""
        self._running[node_id] = _Gathering(gather_id, incarnation, math.inf, now)
        self._told.add(node_id)

    def delivered(self, node_id: str, now: float) -> None:
        """The order has gone out, with the answer to a heartbeat."""
        gathering = self._running.get(node_id)
        if gathering is not None and gathering.until == math.inf:
            gathering.until = now + PAGE_SECONDS

    def page(self, page: m.InventoryPage, incarnation: int, now: float) -> bool:
        """Take in one page. False: it belongs to nothing that runs (old, out of order, of a process
        before)."""
        if page.gather_id == 0 and page.page == 0:  # unasked, as after a registration
            self.begin(page.node_id, 0, page.incarnation, now)
        gathering = self._running.get(page.node_id)
        if gathering is None or gathering.gather_id != page.gather_id:
            return False
        if page.incarnation != incarnation or page.page > gathering.next_page:
            self.want(page.node_id)
            return False
        if page.page < gathering.next_page:
            return True  # a page sent again after a lost answer
        gathering.next_page += 1
        gathering.count += len(page.ids) // ID_BYTES + len(page.replicas)
        if gathering.count > SMALL_IDS:
            self._at_once = AT_ONCE_MIN
        gathering.until = now + PAGE_SECONDS
        if not _take(gathering, page):
            self.want(page.node_id)
            return False
        if page.last:
            del self._running[page.node_id]
            if gathering.count <= SMALL_IDS:
                self._at_once = min(AT_ONCE_MAX, self._at_once + 1)
            self._finish(_inventory(page.node_id, gathering))
        return True

    def _finish(self, inventory: Inventory) -> None:
        self._whole.append(inventory)
        if inventory.node_id in self._asked:
            self._asked.remove(inventory.node_id)
            self._collected[inventory.node_id] = inventory

    def ask(self, node_ids: Iterable[str]) -> None:
        """The collection wants to know everything anew, of these nodes and of no others."""
        self._asked = set(node_ids)
        self._collected.clear()
        for node_id in sorted(self._asked):
            self.want(node_id)

    def collect(self) -> list[Inventory]:
        """Those of the nodes asked that came whole since the last call."""
        found = list(self._collected.values())
        self._collected.clear()
        return found

    def take(self) -> Inventory | None:
        """The oldest that arrived whole."""
        return self._whole.popleft() if self._whole else None


def _take(gathering: _Gathering, page: m.InventoryPage) -> bool:
    """False when its ids are not in order: then nothing of it is evidence."""
    ids = split(page.ids)
    if len(page.ids) % ID_BYTES or not in_order(ids, gathering.through):
        return False
    if ids:
        gathering.ids += page.ids
        gathering.through = ids[-1]
    for one in page.replicas:
        if one.state == t.REPLICA_STATE_LIVE:
            gathering.live.add(one.chunk)
            gathering.disks[one.chunk] = one.disk_id
        else:
            gathering.troubled.append(Report(page.node_id, one.chunk, one.disk_id, one.state))
    return True


def _inventory(node_id: str, gathering: _Gathering) -> Inventory:
    live = PackedIds(gathering.ids)
    if gathering.live:
        live = PackedIds.of([*live, *gathering.live])
    troubled = tuple(gathering.troubled)
    return Inventory(node_id, gathering.gather_id, live, gathering.disks, troubled, gathering.since)
