"""Replicas of which the metadata and their node say different things: the node is told to look at the bytes."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Generic, TypeVar

from coordinator.decisions.liveness import Liveness
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock

DOUBTS_PER_NODE_MAX = 50_000
ORDERS_PER_NODE = 64  # in one round; a heartbeat's answer has no room for more

T = TypeVar("T")


class Doubts:
    """By node, so that one with many does not keep the others waiting. One thread.

    What is beyond the bound, and all of a node that dies, is dropped: the node is asked for a full inventory again.
    """

    def __init__(self, soft: SoftState) -> None:
        self._soft = soft
        self._of: dict[str, dict[bytes, None]] = {}
        self._again: set[str] = set()

    def add(self, node_id: str, chunk: bytes) -> None:
        chunks = self._of.setdefault(node_id, {})
        if len(chunks) < DOUBTS_PER_NODE_MAX or chunk in chunks:
            chunks[chunk] = None
        else:
            self._again.add(node_id)

    def order(self) -> int:
        """Tell the nodes to verify, as far as their queues have room; how many orders there were."""
        ordered = 0
        for node_id, chunks in list(self._of.items()):
            dead = self._soft.pulse(node_id).liveness is Liveness.DEAD
            if dead or self._soft.known_as(node_id) is None:
                chunks.clear()
                self._again.discard(node_id)
            ordered += self._order(node_id, chunks)
            if not chunks:
                del self._of[node_id]
                if node_id in self._again:
                    self._again.remove(node_id)
                    self._soft.want_inventory(node_id)
        return ordered

    def _order(self, node_id: str, chunks: dict[bytes, None]) -> int:
        ordered = 0
        for chunk in list(islice(chunks, ORDERS_PER_NODE)):
            if not self._soft.order_verification(node_id, chunk):
                break
            del chunks[chunk]
            ordered += 1
        return ordered


class Later(Generic[T]):
    """What is to be looked at again after `seconds`, in order. Bounded; one thread."""

    def __init__(self, clock: Clock, seconds: float, most: int) -> None:
        self._clock = clock
        self._seconds = seconds
        self._most = most
        self._waiting: deque[tuple[float, T]] = deque()

    def put(self, item: T) -> bool:
        """False when there is no room."""
        if len(self._waiting) >= self._most:
            return False
        self._waiting.append((self._clock.monotonic() + self._seconds, item))
        return True

    def take(self, limit: int) -> list[T]:
        """Those whose time has come."""
        now = self._clock.monotonic()
        taken: list[T] = []
        while self._waiting and self._waiting[0][0] <= now and len(taken) < limit:
            taken.append(self._waiting.popleft()[1])
        return taken
