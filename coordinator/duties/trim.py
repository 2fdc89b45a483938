"""Takes away replicas that are more than a chunk wants: after `setrep`, when a dead node returned, after a move.

Theory of operation
1. The metadata first: an entry makes the replica DELETING. From then on it is in no layout and does not count. `apply`
   looks again whether it is more than enough.
2. Then its node is told to delete it (it goes to quarantine there), behind the fence, with the index of a state that
   says so; then an entry removes the location. Whoever leads next finds what is DELETING in the metadata and goes on.
3. Before either, each node that is to keep its replica is asked whether it has it, by the header. One that has not is
   told to verify, and nothing is taken until that is cleared up.
4. While it leaves, the others may be lost: then it is taken back, by an order that voids the deletion, an entry that
   makes it MISSING, and a verification, after which it counts again. The node alone says whether its bytes are
   still there, and before it has voided what it was told nobody asks: the deletion may be on its way, or under way.
5. A round reads a page of all chunks and does little; pages go round. What cannot be done now does not keep others
   waiting.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from common import log
from coordinator.decisions import trim
from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import Candidate
from coordinator.decisions.trim import Held
from coordinator.duties.desk import Desk
from coordinator.duties.holders import Holders, Orders
from coordinator.metadata import excess, queries
from coordinator.metadata.excess import Page
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import NotLeaderError, QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

LOOK_AT = 20_000
PER_ROUND = 64
NEXT_MAX = 10_000
TOLD_SECONDS = 2.0
BUSY_SECONDS = 0.05
IDLE_SECONDS = 1.0
LOOK_SHARE = 20  # looking for what is too much takes so small a part of the time, while it finds nothing

_log = log.get(__name__)


@dataclass(slots=True)
class Figures:
    """What was trimmed in this leadership, in replicas. Read by any thread."""

    deleted: int = 0


class TrimDuty:
    """Of one leadership, whose `epoch` goes with every order. One thread."""

    name = "trim"

    def __init__(self, desk: Desk, soft: SoftState, holders: Holders, clock: Clock, epoch: t.Epoch) -> None:
        self._desk = desk
        self._clock = clock
        self._taken: deque[tuple[float, str, int]] = deque()  # when, from whom, how many bytes
        self._soft = soft
        self._holders = holders
        self._epoch = epoch
        self._after = b""
        self._leaving_after: dict[str, bytes] = {}
        self._pause = IDLE_SECONDS
        self._next: deque[bytes] = deque(maxlen=NEXT_MAX)
        self._silent: set[str] = set()  # of this round
        self.figures = Figures()

    def look_at(self, chunks: Collection[bytes]) -> None:
        """These have too many replicas, perhaps: look at them before their turn. Any thread."""
        self._next.extend(chunks)

    def work(self) -> str:
        self._silent.clear()
        candidates = self._soft.candidates()
        went = self._go_on(candidates, self._leaving(candidates))
        page = self._next_page()
        found = {one.chunk: _held(one) for one in [*self._named(), *page.chunks]}
        marked = self._mark(candidates, list(found.values()))
        if marked:
            went += self._go_on(candidates, marked, has_looked=True)
        found_some = bool(went or marked or self._next)
        self._pause = (
            BUSY_SECONDS if found_some else max(self._pause, BUSY_SECONDS if page.after else IDLE_SECONDS)
        )
        return f"{len(marked)} chunks had too many replicas, {went} replicas went"

    def wait(self) -> float:
        return self._pause

    # What is too much

    def _next_page(self) -> Page:
        gone, after = self._soft.gone(), self._after
        began = self._clock.monotonic()
        page = self._desk.look(lambda tx: excess.too_many(tx, after, LOOK_AT, PER_ROUND, gone))
        self._pause = LOOK_SHARE * (self._clock.monotonic() - began)
        self._after = page.after
        return page

    def _named(self) -> list[excess.Replicated]:
        chunks = dict.fromkeys(self._next.popleft() for _ in range(min(PER_ROUND, len(self._next))))
        gone = self._soft.gone()
        return self._desk.look(lambda tx: excess.replicated(tx, chunks, gone)) if chunks else []

    def _mark(self, candidates: Mapping[str, Candidate], found: Sequence[Held]) -> list[bytes]:
        """Have the log say what is to go; the chunks of it."""
        replicas: list[e.TrimReplicas.One] = []
        reckoned = self._reckoned(candidates)
        for held in found:
            decided = trim.trim(held, reckoned)
            if decided is None or not self._have(held, decided.keep):
                continue
            for node_id in decided.drop:
                replicas.append(e.TrimReplicas.One(chunk=held.chunk, node_id=node_id))
                reckoned[node_id] = _less(reckoned[node_id], held.length)
                self._taken.append((self._clock.monotonic(), node_id, held.length))
        if not replicas:
            return []
        self._propose(e.SystemCommand(trim=e.TrimReplicas(replicas=replicas)))
        return list(dict.fromkeys(one.chunk for one in replicas))

    # What is on its way out

    def _leaving(self, candidates: Mapping[str, Candidate]) -> list[bytes]:
        """The next few chunks of each node that leave it; those of the dead may have to be taken back."""
        after = dict(self._leaving_after)
        pages = self._desk.look(
            lambda tx: {
                one: excess.leaving(tx, one, after.get(one, b""), PER_ROUND)
                for one in excess.nodes_with_leaving(tx)
                if one in candidates
            }
        )
        self._leaving_after = {one: page[-1] for one, page in pages.items() if len(page) == PER_ROUND}
        return list(dict.fromkeys(chunk for page in pages.values() for chunk in page))

    def _go_on(
        self, candidates: Mapping[str, Candidate], chunks: Collection[bytes], *, has_looked: bool = False
    ) -> int:
        """Delete, or take back, what leaves of these chunks; how many replicas went. `has_looked`: in this round, at
        those who keep theirs."""
        if not chunks:
            return 0
        gone = self._soft.gone()
        index, found = self._desk.look(
            lambda tx: (queries.applied_index(tx), excess.replicated(tx, chunks, gone))
        )
        orders: dict[str, list[tuple[bytes, int]]] = {}
        back: list[tuple[bytes, str]] = []
        for held in map(_held, found):
            verdict = trim.judge(held, candidates)
            alive = [one for one in verdict.back if candidates[one].liveness is Liveness.ALIVE]
            back += [(held.chunk, node_id) for node_id in alive]
            if verdict.go and (has_looked or self._have(held, verdict.keep)):
                for node_id in verdict.go:
                    if candidates[node_id].liveness is Liveness.ALIVE:
                        orders.setdefault(node_id, []).append((held.chunk, index))
        self._take_back(back)
        return sum(self._delete(node_id, condemned) for node_id, condemned in orders.items())

    def _delete(self, node_id: str, condemned: Sequence[tuple[bytes, int]]) -> int:
        if self._soft.epoch() != self._epoch:
            raise NotLeaderError("the leadership of this duty is over")
        commit_index = self._desk.consensus.commit_index
        try:
            released = frozenset(chunk for chunk, _ in condemned)  # files refer to them, and others have them
            orders = Orders(self._epoch, commit_index, condemned, released=released)
            deleted = self._holders.delete(node_id, orders)
        except QuorumFSError as error:
            _log.info("trim.not_deleted", node=node_id, chunks=len(condemned), cause=str(error))
            return 0
        if deleted.refused:
            _log.warning("trim.refused", node=node_id, chunks=len(deleted.refused), cause=deleted.why)
        if not deleted.gone:
            return 0
        self._soft.touched(node_id, deleted.gone)
        updates = [
            e.ReplicaUpdate(chunk=chunk, node_id=node_id, only_if=t.REPLICA_STATE_DELETING)
            for chunk in sorted(deleted.gone)
        ]
        self._propose(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=updates)))
        self.figures.deleted += len(updates)
        _log.info("trim.deleted", node=node_id, replicas=len(updates))
        return len(updates)

    def _take_back(self, replicas: Sequence[tuple[bytes, str]]) -> None:
        if not replicas:
            return
        index = self._desk.look(queries.applied_index)
        voided = [one for one in replicas if self._has_voided(*one, index)]
        if not voided:
            return
        updates = [
            e.ReplicaUpdate(
                chunk=chunk,
                node_id=node_id,
                state=t.REPLICA_STATE_MISSING,
                only_if=t.REPLICA_STATE_DELETING,
            )
            for chunk, node_id in voided
        ]
        self._propose(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=updates)))
        for chunk, node_id in voided:
            self._soft.order_verification(node_id, chunk)
        _log.warning("trim.taken_back", replicas=len(voided), first=voided[0][0].hex())

    def _has_voided(self, chunk: bytes, node_id: str, index: int) -> bool:
        """Whether the node carries out no order to delete the chunk any more, of those up to now; that is durable."""
        if node_id in self._silent:
            return False
        try:
            restored = self._holders.restore(node_id, self._epoch, [chunk], index)
        except QuorumFSError as error:
            self._silent.add(node_id)
            _log.info("trim.not_restored", node=node_id, chunk=chunk.hex(), cause=str(error))
            return False
        if restored.refused:
            _log.info("trim.not_restored", node=node_id, chunk=chunk.hex(), cause=restored.why)
            return False
        self._soft.touched(node_id, [chunk])
        return True

    def _reckoned(self, candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
        """Less what was taken from them and heartbeats have not told yet: not all is taken from the fullest."""
        while self._taken and self._clock.monotonic() - self._taken[0][0] > TOLD_SECONDS:
            self._taken.popleft()
        taken: Counter[str] = Counter()
        for _, node_id, length in self._taken:
            taken[node_id] += length
        found = dict(candidates)
        for node_id in taken.keys() & found.keys():
            found[node_id] = _less(found[node_id], taken[node_id])
        return found

    # Small things

    def _have(self, held: Held, nodes: Sequence[str]) -> bool:
        """Whether each of these nodes has the chunk, as far as headers tell."""
        return all(self._has(held, node_id) for node_id in nodes)

    def _has(self, held: Held, node_id: str) -> bool:
        if node_id in self._silent:
            return False
        try:
            found = self._holders.find(node_id, held.chunk)
        except QuorumFSError as error:
            self._silent.add(node_id)
            _log.info("trim.holder_silent", node=node_id, cause=str(error))
            return False
        if (
            found is None
            or found.quarantined
            or (found.length, found.checksum) != (held.length, held.checksum)
        ):
            _log.warning("trim.holder_lacks", node=node_id, chunk=held.chunk.hex())
            self._soft.order_verification(node_id, held.chunk)
            return False
        return True

    def _propose(self, command: e.SystemCommand) -> None:
        """Raises NotLeaderError when the leadership is not this duty's any more."""
        if self._soft.epoch() != self._epoch:
            raise NotLeaderError("the leadership of this duty is over")
        self._desk.propose([command])


def _less(one: Candidate, length: int) -> Candidate:
    return replace(one, used_bytes=max(0, one.used_bytes - length))


def _held(one: excess.Replicated) -> Held:
    return Held(one.chunk, one.length, one.checksum, one.want, one.live, one.lost, one.leaving)
