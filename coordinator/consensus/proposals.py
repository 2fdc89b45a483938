"""Proposals that wait for the log, and how they become one entry.

1. The queue is bounded in operations and in bytes; what does not fit is refused at once.
2. What still waits at its deadline is refused: nothing of it was proposed.
3. The leader takes many at once into one entry. An item is encoded by the thread that brings it, and the
   entry is put together from encoded items: protobuf allows the parts of a message to be concatenated.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

from coordinator.consensus.interfaces import Done
from quorumfs.errors import BusyError, QuorumFSError, TimedOutError, TooLargeError
from quorumfs.limits import ENTRY_BYTES_MAX, ENTRY_OPS_MAX, QUEUE_BYTES_MAX, QUEUE_OPS_MAX
from quorumfs.v1 import entries_pb2
from quorumfs.varint import varint

ENTRY_FORMAT = 1
SEED_BYTES = 16
_ITEM_TAG = bytes([entries_pb2.Entry.ITEMS_FIELD_NUMBER << 3 | 2])
_ITEM_OVERHEAD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Proposal:
    """Something to be done by all. `deadline` is clock.monotonic(): still queued then, it is refused."""

    item: entries_pb2.Item
    operations: int
    size_bytes: int
    deadline: float


@dataclass(slots=True, eq=False)
class Waiting:
    """A proposal on its way, with its encoded item. `bytes` counts what it takes of an entry."""

    encoded: bytes
    operations: int
    deadline: float
    done: Done

    @property
    def size_bytes(self) -> int:
        return len(self.encoded) + _ITEM_OVERHEAD_BYTES


class ProposalQueue:
    """First in, first out. Any thread may `put`; one thread takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Waiting] = deque()
        self._earliest = math.inf
        self.operations = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, proposal: Proposal, done: Done) -> None:
        """Raises TooLargeError, BusyError; then `done` is not called."""
        encoded = proposal.item.SerializeToString()
        waiting = Waiting(encoded, max(1, proposal.operations), proposal.deadline, done)
        if waiting.size_bytes > ENTRY_BYTES_MAX or waiting.operations > ENTRY_OPS_MAX:
            raise TooLargeError(
                "the batch is too large for one log entry",
                cause=f"{waiting.size_bytes} bytes and {waiting.operations} operations; "
                f"{ENTRY_BYTES_MAX} and {ENTRY_OPS_MAX} are the most",
                next="send it in smaller batches",
            )
        with self._lock:
            if (
                self.operations + waiting.operations > QUEUE_OPS_MAX
                or self.size_bytes + waiting.size_bytes > QUEUE_BYTES_MAX
            ):
                raise BusyError(
                    "the leader's queue is full",
                    cause=f"{self.operations} operations, {self.size_bytes} bytes wait",
                    next="try again a little later",
                )
            self._queue.append(waiting)
            self.operations += waiting.operations
            self.size_bytes += waiting.size_bytes
            self._earliest = min(self._earliest, waiting.deadline)

    def take(self) -> list[Waiting]:
        """As many as fit into one entry, oldest first; none when none wait."""
        taken: list[Waiting] = []
        operations = size = 0
        with self._lock:
            while self._queue:
                first = self._queue[0]
                operations += first.operations
                size += first.size_bytes
                if taken and (operations > ENTRY_OPS_MAX or size > ENTRY_BYTES_MAX):
                    break
                taken.append(self._queue.popleft())
                self.operations -= first.operations
                self.size_bytes -= first.size_bytes
            if not self._queue:
                self._earliest = math.inf
        return taken

    def take_expired(self, now: float) -> list[Waiting]:
        """Those whose deadline has passed; they must be refused."""
        if now < self._earliest:
            return []
        with self._lock:
            expired = [one for one in self._queue if one.deadline <= now]
            kept = [one for one in self._queue if one.deadline > now]
            self._queue = deque(kept)
            self.operations = sum(one.operations for one in kept)
            self.size_bytes = sum(one.size_bytes for one in kept)
            self._earliest = min((one.deadline for one in kept), default=math.inf)
        return expired

    def take_all(self) -> list[Waiting]:
        with self._lock:
            taken = list(self._queue)
            self._queue.clear()
            self.operations = self.size_bytes = 0
            self._earliest = math.inf
        return taken


def expired_error() -> QuorumFSError:
    return TimedOutError(
        "the proposal waited too long",
        cause="its deadline passed before it entered the log; nothing happened",
    )


def build_entry(waiting: list[Waiting], cluster_ms: int, wall_ms: int, seed: bytes) -> bytes:
    """The bytes of an entries_pb2.Entry with one item per proposal, in order."""
    head = entries_pb2.Entry(
        format=ENTRY_FORMAT,
        stamp=entries_pb2.Stamp(cluster_ms=cluster_ms, wall_ms=wall_ms),
        seed=seed,
    ).SerializeToString()
    parts = [head]
    for one in waiting:
        parts += (_ITEM_TAG, varint(len(one.encoded)), one.encoded)
    return b"".join(parts)
