"""Carries out what the leader ordered in answers to heartbeats, and keeps what came of it until it is told.

1. Two lanes: `orders` for what is quick (delete, restore, scrub, labels), `copies` for what reads or moves the
   bytes of a chunk. A long copy never holds up a delete. Both are bounded; what does not fit is answered as
   busy.
2. A command is known by its epoch and number. One that waits or runs, or that ended and whose outcome no leader has
   acknowledged yet, is not taken again: the leader repeats what was silent for long, and what ended while a heartbeat
   was under way is told with the next. One that was done and told is harmless to do again.
3. The epoch is obeyed anew when a command's turn comes: a leader deposed meanwhile commands nothing.
4. A leader that dies takes with it what it was told and had not written down yet. So a copy that is made is told as one
   under way for a while longer: until the next leader has this node's inventory, nobody else is to make it as well.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from common import log
from datanode.duties.upkeep import ScrubDuty
from datanode.store.chunks import ChunkStore
from datanode.store.fence import EpochStore
from datanode.store.holds import Hold
from datanode.store.orders import Orders, Outcome
from datanode.transfer.pull import Puller
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import BusyError, IntegrityError, InternalError, InvalidArgumentError, QuorumFSError
from quorumfs.ids import ChunkId, chunk_id
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

WAITING_MAX = 1024
OUTCOMES_MAX = 4096
OUTCOMES_PER_HEARTBEAT = 512
IDLE_SECONDS = 3600.0  # woken when a command comes
MADE_SECONDS = 10.0
MADE_MAX = 1024
_log = log.get(__name__)

_LONG = ("replicate", "verify")

Key = tuple[int, int, int]
"""Of a command: the history and term of its leader, and its number."""


class Lane:
    """Commands that wait, in order. Thread-safe."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._waiting: deque[m.Command] = deque()

    def put(self, command: m.Command) -> bool:
        """False when it is full."""
        with self._lock:
            if len(self._waiting) >= WAITING_MAX:
                return False
            self._waiting.append(command)
            return True

    def take(self) -> m.Command | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None


class Outcomes:
    """What came of commands, kept until a heartbeat that told it was acknowledged. Thread-safe, bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._serial = 0
        self._kept: dict[int, tuple[Key, m.CommandOutcome]] = {}
        self._untold: Counter[Key] = Counter()  # whose outcomes are kept

    def add(self, key: Key, outcome: m.CommandOutcome) -> None:
        with self._lock:
            self._serial += 1
            self._kept[self._serial] = key, outcome
            self._untold[key] += 1
            if len(self._kept) > OUTCOMES_MAX:  # the leader repeats what it has heard nothing of
                self._drop(next(iter(self._kept)))

    def _drop(self, serial: int) -> None:
        key, _ = self._kept.pop(serial)
        self._untold[key] -= 1
        if not self._untold[key]:
            del self._untold[key]

    def has(self, key: Key) -> bool:
        """Whether what came of a command is kept, and will be told."""
        with self._lock:
            return key in self._untold

    def pending(self) -> tuple[list[m.CommandOutcome], int]:
        """The oldest, and the mark to acknowledge them with."""
        with self._lock:
            chosen = list(islice(self._kept.items(), OUTCOMES_PER_HEARTBEAT))
        return [outcome for _, (_, outcome) in chosen], chosen[-1][0] if chosen else 0

    def acknowledge(self, mark: int) -> None:
        with self._lock:
            for serial in [one for one in self._kept if one <= mark]:
                self._drop(serial)


class Executor(Protocol):
    """Carries out one command; its acknowledgement, or None. Raises QuorumFSError."""

    def __call__(self, command: m.Command) -> t.ReplicaAck | None: ...


class Commands:
    """The two lanes and what came of them. `accept` from the heartbeat thread; it never waits."""

    def __init__(self, execute: Executor, outcomes: Outcomes, clock: Clock | None = None) -> None:
        self.orders = Lane("orders")
        self.copies = Lane("copies")
        self.outcomes = outcomes
        self.wake: Callable[[], None] = lambda: None  # there is something to do
        self.tell: Callable[[], None] = lambda: None  # there is something to tell the leader
        self._execute = execute
        self._lock = threading.Lock()
        self._known: set[Key] = set()
        self._copying: dict[Key, bytes] = {}
        self._clock = clock or SystemClock()
        self._made: dict[bytes, float] = {}  # copies, and until when they are told; in that order

    def accept(self, commands: Sequence[m.Command]) -> None:
        """Queue what is new; the rest is waiting or under way already, or has ended and will be told."""
        for command in commands:
            with self._lock:
                if _key(command) in self._known or self.outcomes.has(_key(command)):
                    continue
                self._known.add(_key(command))
                if command.WhichOneof("command") == "replicate":
                    self._copying[_key(command)] = command.replicate.chunk
            lane = self.copies if command.WhichOneof("command") in _LONG else self.orders
            if not lane.put(command):
                busy = BusyError("the command was not taken", cause=f"{WAITING_MAX} wait in {lane.name}")
                self._finish(
                    command, m.CommandOutcome(id=command.id, code=error_code(busy), error=to_detail(busy))
                )
        if commands:
            self.wake()

    def carry_out(self, command: m.Command) -> m.CommandOutcome:
        """Do it, and keep what came of it."""
        kind = command.WhichOneof("command") or "nothing"
        try:
            ack = self._execute(command)
            outcome = m.CommandOutcome(id=command.id, code=t.ERROR_CODE_OK, ack=ack)
            _log.info("command.done", command=kind, id=command.id, **_about(command))
        except QuorumFSError as error:
            outcome = m.CommandOutcome(id=command.id, code=error_code(error), error=to_detail(error))
            _log.warning("command.failed", command=kind, id=command.id, **_about(command), cause=str(error))
        except Exception as error:
            failure = InternalError(f"the command {kind} failed", cause=repr(error))
            self._finish(
                command,
                m.CommandOutcome(id=command.id, code=error_code(failure), error=to_detail(failure)),
            )
            raise
        self._finish(command, outcome)
        return outcome

    def _finish(self, command: m.Command, outcome: m.CommandOutcome) -> None:
        self.outcomes.add(_key(command), outcome)  # first: a command is always known, or has an outcome
        with self._lock:
            self._known.discard(_key(command))
            copied = self._copying.pop(_key(command), None)
            if copied is not None and outcome.code == t.ERROR_CODE_OK:
                self._made.pop(copied, None)
                self._made[copied] = self._clock.monotonic() + MADE_SECONDS
                if len(self._made) > MADE_MAX:
                    del self._made[next(iter(self._made))]
        self.tell()

    def copying(self) -> list[bytes]:
        """Chunks whose copy was ordered and has no outcome yet, or was made a moment ago. A new leader counts with
        them: the one before may not have written down what it was told. Any thread."""
        with self._lock:
            now = self._clock.monotonic()
            self._made = {chunk: until for chunk, until in self._made.items() if until > now}
            return sorted({*self._copying.values(), *self._made})


class LaneDuty:
    """One thread that works a lane off."""

    def __init__(self, name: str, lane: Lane, commands: Commands) -> None:
        self.name = name
        self._lane = lane
        self._commands = commands
        self._idle = True

    def work(self) -> str:
        command = self._lane.take()
        self._idle = command is None
        if command is None:
            return "nothing was ordered"
        outcome = self._commands.carry_out(command)
        kind = command.WhichOneof("command")
        return f"{kind} {command.id}: {t.ErrorCode.Name(outcome.code).removeprefix('ERROR_CODE_').lower()}"

    def wait(self) -> float:
        return IDLE_SECONDS if self._idle else 0.0


@dataclass(frozen=True, slots=True)
class Hands:
    """Carries commands out with the store, the puller and the scrubber."""

    node_id: str
    store: ChunkStore
    fence: EpochStore
    orders: Orders
    puller: Puller
    scrub: ScrubDuty
    change_labels: Callable[[Mapping[str, str], Sequence[str]], None]

    def __call__(self, command: m.Command) -> t.ReplicaAck | None:
        """Raises FencedError when the command's leader has been deposed, and what the work itself raises."""
        self.fence.obey(command.epoch)
        match command.WhichOneof("command"):
            case "replicate":
                return self._replicate(command.replicate, command.epoch.history)
            case "delete":
                chunk = chunk_id(command.delete.chunk)
                told = self.fence.told_commit_index
                return self._ack(
                    chunk,
                    self.orders.delete(command.epoch, [(chunk, command.delete.condemn_index)], told),
                )
            case "restore":
                chunk = chunk_id(command.restore.chunk)
                return self._ack(
                    chunk,
                    self.orders.restore(command.epoch, [chunk], command.restore.void_below_index),
                )
            case "verify":
                return self._verify(chunk_id(command.verify.chunk))
            case "scrub":
                self.scrub.control(stop=command.scrub.stop, bytes_per_second=command.scrub.bytes_per_second)
                return None
            case "set_labels":
                self.change_labels(command.set_labels.labels, command.set_labels.remove)
                return None
            case other:
                raise InvalidArgumentError(f"this node does not know the command {other}")

    def _replicate(self, order: m.ReplicateCommand, history: int) -> t.ReplicaAck:
        chunk = chunk_id(order.chunk)
        self.store.unquarantine(chunk, Hold(history, order.void_below_index))
        info = self.puller.pull(chunk, order.sources, order.length, order.checksum)
        return t.ReplicaAck(node_id=self.node_id, disk_id=info.disk_id, durable=True)

    def _verify(self, chunk: ChunkId) -> t.ReplicaAck:
        verdict = self.store.verify(chunk)
        if not verdict.ok:
            self.store.mark_corrupt(chunk, verdict.inode)
            if chunk in self.store:  # on another disk
                verdict = self.store.verify(chunk)
        if not verdict.ok:
            raise IntegrityError(f"chunk {chunk.hex()} is damaged", cause=verdict.detail)
        return t.ReplicaAck(node_id=self.node_id, disk_id=self.store.where(chunk)[0], durable=True)

    def _ack(self, chunk: ChunkId, outcome: Outcome) -> t.ReplicaAck:
        """Done and absent are both what was wanted of a delete; a refusal says why."""
        if outcome.error is not None:
            raise outcome.error
        return t.ReplicaAck(node_id=self.node_id, durable=chunk in outcome.done)


def error_code(error: QuorumFSError) -> t.ErrorCode.ValueType:
    return t.ErrorCode.ValueType(error.code)


def _about(command: m.Command) -> dict[str, str]:
    """Which chunk it is about, for the log; of most kinds there is one."""
    kind = command.WhichOneof("command")
    chunk = getattr(getattr(command, kind), "chunk", b"") if kind is not None else b""
    return {"chunk": chunk.hex()} if chunk else {}


def _key(command: m.Command) -> Key:
    return command.epoch.history, command.epoch.term, command.id
