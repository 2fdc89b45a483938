"""From the asyncio loop of the gRPC server to consensus and back.

Theory of operation
1. Handlers run on one asyncio loop; consensus answers on its own threads (`raft`, `apply`, `read-*`).
2. An answer is put into a queue; the loop is woken once per commit group (and once per burst of reads),
   not once per answer: a wake-up costs more than an answer.
3. A caller that went away does not cancel a proposal: it stays in the log. Nobody listens any more when the
   answer comes.
4. Before genesis there is nothing behind the gateway; every question is refused with that reason.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from common import log
from coordinator.consensus import Configuration, Consensus, Leadership, Proposal
from quorumfs.clock import Clock
from quorumfs.errors import Leader, NotLeaderError, QuorumFSError, TimedOutError, UnavailableError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m

T = TypeVar("T")

Answer = bytes | QuorumFSError
Question = Callable[[sqlite3.Connection], bytes]
Told = Callable[[Answer], None]
"""Called once, on the loop, with what became of it."""

_log = log.get(__name__)


class Completions:
    """Answers on their way to who waits on one loop. `put` and `wake` from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[tuple[Told, Answer]] = deque()
        self._woken = False

    def put(self, told: Told, answer: Answer) -> None:
        self._queue.append((told, answer))

    def wake(self) -> None:
        """Have the loop take what waits. A burst of calls wakes it once."""
        if self._woken or not self._queue:
            return
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._queue.clear()

    def _drain(self) -> None:
        self._woken = False  # before the queue is read: who puts after this wakes again
        while self._queue:
            told, answer = self._queue.popleft()
            try:
                told(answer)
            except Exception:  # noqa: BLE001  a bug that costs one its answer must not cost those behind it theirs
                _log.error("answer.failed", exc_info=True)


def settling(future: asyncio.Future[bytes]) -> Told:
    """Makes an answer the result of `future`, unless who waited for it has gone."""

    def told(answer: Answer) -> None:
        if future.done():
            return
        if isinstance(answer, QuorumFSError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    return told


class Gateway:
    """What handlers know of consensus. Methods are called on the loop, `attach` before the first of them."""

    def __init__(self, clock: Clock, node_id: str) -> None:
        self._clock = clock
        self._node_id = node_id
        self._consensus: Consensus | None = None
        self._completions: Completions | None = None
        self._attached_at = clock.monotonic()
        self.waits = "waits for genesis: dfsctl cluster init makes the cluster"
        self.founding = True

    def returning(self) -> None:
        """This node is a member from before; there is just nothing to ask yet."""
        self.waits = "starts: it reads its log and its database"
        self.founding = False

    def without_room(self, reason: str) -> None:
        """This node cannot start yet: its disk is full."""
        self.waits = f"waits for room, its disk is full: {reason}"
        self.founding = False

    def attach(self, consensus: Consensus, loop: asyncio.AbstractEventLoop) -> None:
        """From now on there is a replica to ask."""
        self._completions = Completions(loop)
        consensus.subscribe_group(self._completions.wake)
        self._attached_at = self._clock.monotonic()
        self._consensus = consensus

    @property
    def attached(self) -> bool:
        return self._consensus is not None

    @property
    def consensus(self) -> Consensus:
        """Raises UnavailableError before genesis, and until a member that starts has read its log."""
        if self._consensus is None:
            raise UnavailableError(
                f"{self._node_id} takes no part in a cluster yet",
                cause=f"it {self.waits}",
                next="ask another coordinator",
            )
        return self._consensus

    def require_attached(self) -> None:
        """Raises UnavailableError as `consensus` does."""
        _ = self.consensus

    def leadership(self) -> Leadership | None:
        """Of this member, when it leads."""
        return self.consensus.leadership()

    def members(self) -> Sequence[m.Member]:
        return self.consensus.members()

    def leader(self) -> Leader | None:
        """Who leads, as far as this member knows."""
        consensus = self.consensus
        leader_id = consensus.leader_id()
        for member in consensus.members():
            if member.node_id == leader_id:
                return Leader(member.node_id, member.grpc, member.http, consensus.term)
        return None

    def may_tell(self, *, stale: bool) -> tuple[bool, int]:
        """Whether this member tells it as the leader, and how old what it knows is otherwise, in milliseconds. Raises
        NotLeaderError when only the leader's word will do."""
        if self.leadership() is not None:
            return True, 0
        if not stale:
            raise self.not_leader()
        return False, int(min(self.consensus.state_age() * 1000, 2**62))

    def leaderless_seconds(self) -> float:
        """How long this member has known of no leader, at most: since one was heard, it led itself, or began."""
        consensus = self.consensus
        began = self._clock.monotonic() - self._attached_at
        return max(0.0, min(consensus.heard_age(), consensus.state_age(), began))

    def not_leader(self) -> QuorumFSError:
        """The refusal of a member that does not lead, with the leader's addresses when it knows them."""
        leader = self.leader()
        if leader is None or leader.node_id == self._node_id:
            return NotLeaderError(
                f"{self._node_id} does not lead", cause="it knows of no leader; an election may be under way"
            )
        return NotLeaderError(
            f"{self._node_id} does not lead",
            cause=f"{leader.node_id} does",
            next=f"ask {leader.grpc}",
            leader=leader,
        )

    def require_leadership(self) -> Leadership:
        """Raises NotLeaderError unless this member leads."""
        leadership = self.leadership()
        if leadership is None:
            raise self.not_leader()
        return leadership

    async def propose(self, item: e.Item, operations: int, size_bytes: int, ttl_seconds: float) -> bytes:
        """Propose one item; its result once it is committed and applied here.

        Raises NotLeaderError, BusyError, TimedOutError (nothing was proposed),
        OutcomeUnknownError (it may yet happen).
        """
        future = self._future()
        self.submit(item, operations, size_bytes, ttl_seconds, settling(future))
        return await future

    def submit(self, item: e.Item, operations: int, size_bytes: int, ttl_seconds: float, told: Told) -> None:
        """Like `propose`, for who is told: with the result, or the error. Raises only when it begins nothing."""
        proposal = Proposal(item, operations, size_bytes, self._clock.monotonic() + ttl_seconds)
        self.consensus.propose(proposal, self._grouped(told))

    async def system(self, command: e.SystemCommand, ttl_seconds: float = 5.0) -> e.SystemResult.One:
        """Propose one command of the cluster itself; what it left. Raises like `propose`."""
        raw = e.SystemBatch(commands=[command]).SerializeToString()
        result = await self.propose(e.Item(system=raw), 1, len(raw), ttl_seconds)
        return e.SystemResult.FromString(result).results[0]

    async def read(self, question: Question, ttl_seconds: float | None = None) -> bytes:
        """Ask the leader's state: the answer is not older than the call. Raises like `propose`; TimedOutError when
        its turn comes later than `ttl_seconds` from now, for then nobody waits for it any more."""
        future = self._future()
        self.submit_read(question, ttl_seconds, settling(future))
        return await future

    async def read_stale(self, question: Question, ttl_seconds: float | None = None) -> bytes:
        """Ask this member's state as it is. Raises TimedOutError like `read`."""
        future = self._future()
        self.submit_read(question, ttl_seconds, settling(future), stale=True)
        return await future

    def submit_read(
        self, question: Question, ttl_seconds: float | None, told: Told, *, stale: bool = False
    ) -> None:
        """Like `read`, or `read_stale`, for who is told. Raises only when it begins nothing."""
        ask = self.consensus.read_stale if stale else self.consensus.read
        ask(self._in_time(question, ttl_seconds), self._single(told))

    async def ask(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Like `read_stale`, for answers that are no bytes."""
        found: list[T] = []

        def question(tx: sqlite3.Connection) -> bytes:
            found.append(fn(tx))
            return b""

        await self.read_stale(question)
        return found[0]

    async def change_members(self, make: Callable[[Configuration], Configuration]) -> None:
        """Have the leader change the Raft group's members. Raises like `propose`, and what `make` raises."""
        future = self._future()
        self.consensus.change_members(make, self._single(settling(future)))
        await future

    def _in_time(self, question: Question, ttl_seconds: float | None) -> Question:
        if ttl_seconds is None:
            return question
        deadline = self._clock.monotonic() + ttl_seconds

        def ask(tx: sqlite3.Connection) -> bytes:
            if self._clock.monotonic() >= deadline:
                raise TimedOutError(
                    "the question waited too long", cause="its deadline passed before its turn"
                )
            return question(tx)

        return ask

    def _future(self) -> asyncio.Future[bytes]:
        return asyncio.get_running_loop().create_future()

    def _grouped(self, told: Told) -> Callable[[Answer], None]:
        """Who gives the answer tells the group's hook when it is through; a refusal comes alone."""
        completions = self._ready()

        def done(answer: Answer) -> None:
            completions.put(told, answer)
            if isinstance(answer, QuorumFSError):
                completions.wake()

        return done

    def _single(self, told: Told) -> Callable[[Answer], None]:
        completions = self._ready()

        def done(answer: Answer) -> None:
            completions.put(told, answer)
            completions.wake()

        return done

    def _ready(self) -> Completions:
        if self._completions is None:
            raise UnavailableError(f"{self._node_id} is only starting")
        return self._completions
