"""A coordinator's faces for datanodes, uploads and operators, and the leader's duties: production code on fibres."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

from coordinator.consensus.leadership import Leadership
from coordinator.decisions.liveness import Timing
from coordinator.duties.balance import BalanceDuty
from coordinator.duties.collect import Collect
from coordinator.duties.cycle import Policy
from coordinator.duties.expiry import Expiry
from coordinator.duties.genesis import Genesis
from coordinator.duties.holders import RemoteHolders
from coordinator.duties.liveness import LivenessDuty
from coordinator.duties.reap import Reap
from coordinator.duties.reconcile import Reconcile
from coordinator.duties.repair import Budget, Repair
from coordinator.duties.tick import Tick
from coordinator.duties.trim import TrimDuty
from coordinator.services import intake
from coordinator.services.collection import CollectionDesk
from coordinator.services.membership import MembershipService
from coordinator.services.namespace import NamespaceService
from coordinator.services.placing import Placer, open_uploads
from coordinator.soft_state import SoftState, node_table
from quorumfs.errors import Leader, NotLeaderError, QuorumFSError
from quorumfs.rpc.status import raise_for
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.simulation.garbage import fibres
from tests.simulation.garbage.calls import answered
from tests.simulation.garbage.fibres import run_now
from tests.simulation.garbage.rewriting import rewriting
from tests.simulation.service import Reply, Service

if TYPE_CHECKING:
    from tests.simulation.garbage.storage import Storage
    from tests.simulation.process import Process

HEARTBEAT_SECONDS = 0.3
TIMING = Timing(1.0, 3.0)
STEP_SECONDS_MIN = 0.002
STEP_SECONDS_MAX = 0.5
RETRY_SECONDS = 0.2
COPIES_BYTES_PER_SECOND = 1 << 30


class StorageService(Service):
    """Everything runs as a thread of `process`."""

    def __init__(self, process: Process, storage: Storage) -> None:
        super().__init__(process)
        self._storage = storage
        self._soft = SoftState(process.clock, TIMING)
        gateway: Any = Gateway(self)
        self.gateway = gateway
        chance = process.random.random
        placer = Placer(self._soft, lambda uploads: open_uploads(gateway, uploads), chance, 2)
        own = m.NodeView(info=m.NodeInfo(node_id=process.node_id))
        nothing: Any = Mock()
        self._membership = MembershipService(gateway, self._soft, own, HEARTBEAT_SECONDS, nothing)
        self._namespace = NamespaceService(gateway, self._soft, placer)
        self.collect: Collect | None = None
        self.holders = SimHolders(process, storage)
        self.operators = CollectionDesk(
            gateway,
            self._soft,
            lambda: self.holders,
            lambda: self.collect,
            process.clock,
            grace_seconds=storage.grace_seconds,
            interval_seconds=storage.interval_seconds,
        )

    # Faces

    def do(self, raw: bytes, reply: Reply) -> None:
        batch = intake.parse_batch(raw)

        def handle() -> None:
            reply(run_now(self._namespace._do(raw, batch, "", None)))

        self._storage.fibres.spawn(self._process, handle)

    def serve(self, caller: str, method: str, request: Any, answer: Callable[[Any], None]) -> None:
        context = SimpleNamespace(node_id=caller, peer=lambda: caller)
        face = self._namespace.keep_alive if method == "KeepAlive" else getattr(self._membership, method)

        def handle() -> None:
            answer(answered(lambda: run_now(face(request, context))))

        self._storage.fibres.spawn(self._process, handle)

    # Duties

    def _begin(self, leadership: Leadership) -> None:
        self._storage.fibres.spawn(self._process, lambda: self._begin_on_fibre(leadership))

    def _begin_on_fibre(self, leadership: Leadership) -> None:
        process, soft, storage = self._process, self._soft, self._storage
        desk: Any = FibreDesk(self)
        table = desk.look(node_table)
        if process.core.leadership != leadership:
            return
        soft.begin(leadership.history, leadership.term, table.nodes, table.index)
        epoch = t.Epoch(history=leadership.history, term=leadership.term)
        holders: Any = SimHolders(process, storage)
        self.collect = Collect(
            desk, soft, holders, process.clock, Policy(100.0), epoch, storage.interval_seconds
        )
        upload_ttl, session_ttl = self._ttl_seconds
        members = [m.Member(node_id=one, member_uuid=f"uuid-{one}") for one in storage.cluster.node_ids]
        duties: list[Any] = [
            Genesis(desk, "simulated", leadership.history, members),
            Expiry(desk, soft, upload_ttl, session_ttl),
            Tick(desk),
            Reap(desk),
            LivenessDuty(soft),
            Reconcile(desk, soft, process.clock),
            self.collect,
        ]
        if storage.repairs:
            budget = Budget(COPIES_BYTES_PER_SECOND, process.clock)
            trim = TrimDuty(desk, soft, holders, process.clock, epoch)
            duties += [
                Repair(desk, soft, process.random.random, budget, 2, process.clock),
                trim,
                BalanceDuty(desk, soft, process.random.random, process.clock, trim.look_at),
            ]
        if storage.rewrites:
            duties.append(rewriting(process, storage, desk, soft))
        for duty in duties:
            storage.fibres.spawn(process, lambda duty=duty: self._repeat(leadership, duty))

    def _repeat(self, leadership: Leadership, duty: Any) -> None:
        process = self._process
        while process.core.leadership == leadership:
            try:
                duty.work()
                pause = duty.wait()
            except QuorumFSError:
                pause = RETRY_SECONDS
            if duty is self.collect:
                self._storage.collecting(process, duty)
            fibres.sleep(STEP_SECONDS_MIN + min(pause, STEP_SECONDS_MAX) * (0.5 + process.random.random()))


class Gateway:
    """What handlers know of consensus: waits as a fibre, and never gives anything up to a loop."""

    attached = True

    def __init__(self, service: StorageService) -> None:
        self._service = service
        self._process = service._process
        self.consensus = Consensus(service)

    def leadership(self) -> Leadership | None:
        return self._process.core.leadership

    def require_leadership(self) -> Leadership:
        found = self.leadership()
        if found is None:
            raise self.not_leader()
        return found

    def members(self) -> Sequence[m.Member]:
        return [m.Member(node_id=one, grpc=one) for one in self._process.cluster.node_ids]

    def leader(self) -> Leader | None:
        leader_id = self._process.core.replica.leader_id()
        return Leader(leader_id, leader_id) if leader_id else None

    def not_leader(self) -> QuorumFSError:
        leader = self.leader()
        me = leader is not None and leader.node_id == self._process.node_id
        return NotLeaderError(f"{self._process.node_id} does not lead", leader=None if me else leader)

    async def propose(self, item: e.Item, operations: int, size_bytes: int, ttl_seconds: float) -> bytes:
        answer: bytes = fibres.wait(
            lambda done: self._service._propose(item, operations, size_bytes, ttl_seconds, done)
        )
        return answer

    async def system(self, command: e.SystemCommand, ttl_seconds: float = 5.0) -> e.SystemResult.One:
        raw = e.SystemBatch(commands=[command]).SerializeToString()
        result = await self.propose(e.Item(system=raw), 1, len(raw), ttl_seconds)
        return e.SystemResult.FromString(result).results[0]

    async def read(self, question: Callable[[Any], bytes]) -> bytes:
        core = self._process.core
        answer: bytes = fibres.wait(lambda done: core.read(question, done))
        return answer

    async def ask(self, question: Callable[[Any], Any]) -> Any:
        return look(self._service, question)


class Consensus:
    """The part of the production door that duties and faces look at."""

    def __init__(self, service: StorageService) -> None:
        self._process = service._process
        self.identity = SimpleNamespace(cluster_id="simulated")

    def cluster_ms(self) -> int:
        return int(self._process.core.now_ms())

    @property
    def term(self) -> int:
        return self._process.core.replica.term()

    @property
    def commit_index(self) -> int:
        return self._process.core.replica.commit_index()

    @property
    def last_index(self) -> int:
        return self._process.core.journal.last_index

    def status(self) -> Any:
        core = self._process.core
        return SimpleNamespace(
            queue_ops=core.queue.operations,
            commit_index=core.replica.commit_index(),
            last_index=core.journal.last_index,
            term=core.replica.term(),
        )


class FibreDesk:
    """What duties work with; they wait for what they ask and propose."""

    def __init__(self, service: StorageService) -> None:
        self._service = service
        self.consensus = Consensus(service)

    def look(self, question: Callable[[Any], Any]) -> Any:
        return look(self._service, question)

    def propose(self, commands: Sequence[e.SystemCommand]) -> Sequence[e.SystemResult.One]:
        answer = fibres.wait(lambda done: self._service.system(commands, done))
        return e.SystemResult.FromString(answer).results

    def change(self, ops: Sequence[n.Op], choices: Sequence[e.Choice] = ()) -> Sequence[n.Result]:
        raw = n.Batch(ops=ops).SerializeToString()
        item = e.Item(choices=choices, batch=raw)
        answer = fibres.wait(lambda done: self._service._propose(item, len(ops), len(raw), 2.0, done))
        result = n.BatchResult.FromString(answer)
        raise_for(result.code, result.error)
        for one in result.results:
            raise_for(one.code, one.error)
        return result.results


class SimHolders(RemoteHolders):
    """The production calls to datanodes, over the simulated network."""

    def __init__(self, process: Process, storage: Storage) -> None:
        nobody: Any = None
        super().__init__(nobody, lambda node_id: node_id, nobody)
        self._process = process
        self._storage = storage

    def _call(self, node_id: str, method: str, request: Any, seconds: float = 1.0) -> Any:
        return self._storage.calls(self._process, node_id, method, request, min(seconds, 1.5))


def look(service: StorageService, question: Callable[[Any], Any]) -> Any:
    """Ask the applied state, as a reader's thread does."""
    process = service._process

    def read(done: fibres.Done) -> None:
        with process.database.reader() as tx:
            found = answered(lambda: question(tx))
        done(found)

    return fibres.wait(lambda done: process.later(process.random.random() * 0.002, read, done))
