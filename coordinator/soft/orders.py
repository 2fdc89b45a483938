"""Commands that wait for a node's next heartbeat, and what became of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from coordinator.soft.values import Done, Order
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

COMMANDS_PER_NODE_MAX = 4096
COMMANDS_PER_HEARTBEAT_MAX = 64
COMMAND_SECONDS = 10.0
"""What had no outcome for so long is sent again: the answer that carried it may have been lost. A node that has it
waits on with it (a command has a number), so it may be shorter than the work."""
COPY_SECONDS_MAX = 1800.0
"""A copy that had no outcome for so long since it was told is given up, though its node lives: longer than a copy that
ends takes. Whoever gave the order looks for another place; what is made after all is reported as any other."""
INVENTORY = "full_inventory"  # has no outcome but its pages
LABELS = "set_labels"  # has none but the labels that the next heartbeats tell
ONCE = (INVENTORY, LABELS)
"""Handed out once, then forgotten: what does not come of it is noticed otherwise."""


@dataclass(slots=True)
class _Waiting:
    order: Order
    command: m.Command
    sent_at: float | None = None
    first_sent_at: float | None = None

    def is_late(self, now: float) -> bool:
        copies = self.command.WhichOneof("command") == "replicate"
        return copies and self.first_sent_at is not None and now - self.first_sent_at >= COPY_SECONDS_MAX


class OrderBook:
    """Numbers are unique over all leaderships of a history: the term is part of them."""

    def __init__(self, epoch: t.Epoch) -> None:
        self._epoch = epoch
        self._count = 0
        self._waiting: dict[str, dict[int, _Waiting]] = {}
        self._queued: set[tuple[str, str, bytes]] = set()
        self._done: deque[Done] = deque()

    def next_number(self) -> int:
        self._count += 1
        return (self._epoch.term & 0xFFFFFFFF) << 32 | self._count

    def put(self, node_id: str, kind: str, command: m.Command, chunk: bytes, source: str) -> bool:
        """Queue a command, once per kind and chunk; False when the node's queue is full."""
        key = (node_id, kind, chunk)
        if key in self._queued:
            return True
        waiting = self._waiting.setdefault(node_id, {})
        if len(waiting) >= COMMANDS_PER_NODE_MAX:
            return False
        command.id = self.next_number()
        command.epoch.CopyFrom(self._epoch)
        waiting[command.id] = _Waiting(Order(command.id, node_id, kind, chunk, source), command)
        self._queued.add(key)
        return True

    def deliver(self, node_id: str, now: float) -> list[m.Command]:
        """What goes into one answer, oldest first; what had no outcome for COMMAND_SECONDS goes again, but for copies
        that never end."""
        for late in [one for one in self._waiting.get(node_id, {}).values() if one.is_late(now)]:
            self._give_up(node_id, late.order.id)
        due = [
            waiting
            for waiting in self._waiting.get(node_id, {}).values()
            if waiting.sent_at is None or now - waiting.sent_at >= COMMAND_SECONDS
        ][:COMMANDS_PER_HEARTBEAT_MAX]
        for waiting in due:
            waiting.sent_at = now
            if waiting.first_sent_at is None:
                waiting.first_sent_at = now
            if waiting.order.kind in ONCE:
                self._take(node_id, waiting.order.id)
        return [waiting.command for waiting in due]

    def settle(self, node_id: str, outcomes: Iterable[m.CommandOutcome]) -> None:
        """Outcomes came; one that nobody waits for (told twice) is ignored."""
        for outcome in outcomes:
            waiting = self._take(node_id, outcome.id)
            if waiting is not None:
                self._done.append(Done(waiting.order, outcome, waiting.first_sent_at))

    def give_up(self, node_id: str) -> None:
        """The node is dead or began anew: its orders end without an outcome."""
        for number in list(self._waiting.get(node_id, {})):
            self._give_up(node_id, number)

    def _give_up(self, node_id: str, number: int) -> None:
        waiting = self._take(node_id, number)
        if waiting is not None and waiting.order.kind not in ONCE:
            self._done.append(Done(waiting.order, None, waiting.first_sent_at))

    def _take(self, node_id: str, number: int) -> _Waiting | None:
        waiting = self._waiting.get(node_id, {}).pop(number, None)
        if waiting is not None:
            self._queued.discard((node_id, waiting.order.kind, waiting.order.chunk))
        return waiting

    def is_waiting(self, node_id: str, kind: str, chunk: bytes) -> bool:
        """Whether such an order has no outcome yet."""
        return (node_id, kind, chunk) in self._queued

    def running(self, kind: str) -> list[Order]:
        """Orders of a kind without an outcome, delivered or not."""
        return [
            waiting.order
            for queue in self._waiting.values()
            for waiting in queue.values()
            if waiting.order.kind == kind
        ]

    def unsent(self, kind: str) -> list[Order]:
        """Orders of a kind that no answer has carried yet."""
        return [
            waiting.order
            for queue in self._waiting.values()
            for waiting in queue.values()
            if waiting.order.kind == kind and waiting.sent_at is None
        ]

    def take_back(self, order: Order) -> bool:
        """Forget an order, unless an answer has carried it by now: then False."""
        waiting = self._waiting.get(order.node_id, {}).get(order.id)
        if waiting is None or waiting.sent_at is not None:
            return False
        self._take(order.node_id, order.id)
        return True

    def take_done(self, kinds: Collection[str]) -> list[Done]:
        taken = [done for done in self._done if done.order.kind in kinds]
        self._done = deque(done for done in self._done if done.order.kind not in kinds)
        return taken
