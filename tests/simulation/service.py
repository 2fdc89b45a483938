"""A member's faces as clients reach them: the production checks, answers and duties around the simulated loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from coordinator.consensus.leadership import Leadership
from coordinator.consensus.proposals import Proposal
from coordinator.decisions.liveness import Timing
from coordinator.duties.expiry import Expiry
from coordinator.duties.reap import Reap
from coordinator.duties.tick import Tick
from coordinator.services import answers, intake
from coordinator.soft_state import SoftState, known_nodes
from quorumfs.errors import Leader, NotLeaderError, PreconditionFailedError, QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n

if TYPE_CHECKING:
    from tests.simulation.process import Process

Reply = Callable[[bytes], None]

DUTY_SECONDS_MAX = 0.7
SYSTEM_SECONDS = 2.0


class Service:
    """Everything runs as a thread of `process`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        plan = process.cluster.plan
        self._soft = SoftState(process.clock, Timing(3.0, 30.0))
        self._ttl_seconds = (plan.upload_ttl_ms / 1000, plan.session_ttl_ms / 1000)

    # Clients

    def do(self, raw: bytes, reply: Reply) -> None:
        """A Batch; `reply` gets a serialized BatchResult, whatever happens."""
        batch = intake.parse_batch(raw)

        def done(answer: bytes | QuorumFSError) -> None:
            reply(answers.refused_batch(answer, batch) if isinstance(answer, QuorumFSError) else answer)

        try:
            self._require_leadership()
            intake.admit(raw, batch)
        except QuorumFSError as error:
            done(error)
            return
        if batch.session:
            self._soft.keep_alive((), batch.session)
        item = e.Item(principal=e.Principal(name="anonymous"), batch=raw)
        self._propose(item, len(batch.ops), len(raw), intake.ttl_seconds(batch, None), done)

    def read(self, raw: bytes, reply: Reply) -> None:
        """A ReadBatch; `reply` gets a serialized ReadBatchResult."""
        batch = intake.parse_read(raw)

        def done(answer: bytes | QuorumFSError) -> None:
            reply(answers.refused_read(answer, batch) if isinstance(answer, QuorumFSError) else answer)

        try:
            intake.admit_read(raw, batch)
            if batch.consistency == n.CONSISTENCY_STALE:
                self._read_stale(batch, done)
            else:
                self._require_leadership()
                self._process.core.read(answers.question(batch, self._soft, 0), done)
        except QuorumFSError as error:
            done(error)

    def _read_stale(self, batch: n.ReadBatch, done: Callable[[bytes], None]) -> None:
        core = self._process.core
        age_ms = int(min(core.state_age() * 1000, 2**62))
        if batch.max_staleness_ms and age_ms > batch.max_staleness_ms:
            raise PreconditionFailedError("this coordinator's state is older than was allowed")
        with self._process.database.reader() as tx:
            done(answers.question(batch, self._soft, age_ms)(tx))

    def system(
        self, commands: Sequence[e.SystemCommand], done: Callable[[bytes | QuorumFSError], None]
    ) -> None:
        """Propose commands of the cluster itself."""
        raw = e.SystemBatch(commands=commands).SerializeToString()
        self._propose(e.Item(system=raw), len(commands), len(raw), SYSTEM_SECONDS, done)

    def _propose(
        self,
        item: e.Item,
        operations: int,
        size_bytes: int,
        ttl_seconds: float,
        done: Callable[[bytes | QuorumFSError], None],
    ) -> None:
        deadline = self._process.clock.monotonic() + ttl_seconds
        waiting = self._process.cluster.monitor.proposed(self._process, done)
        self._process.core.propose(Proposal(item, operations, size_bytes, deadline), waiting)

    def _require_leadership(self) -> None:
        core = self._process.core
        if core.leadership is None:
            leader_id = core.replica.leader_id()
            known = leader_id is not None and leader_id != self._process.node_id
            raise NotLeaderError(
                f"{self._process.node_id} does not lead",
                leader=Leader(leader_id, leader_id) if known and leader_id else None,
            )

    # Duties

    def leadership_changed(self, leadership: Leadership | None) -> None:
        """On the loop: the thread `tenure` does the rest."""
        if leadership is None:
            self._soft.end()
        else:
            self._process.later(self._process.random.random() * 0.01, self._begin, leadership)

    def _begin(self, leadership: Leadership) -> None:
        if self._process.core.leadership != leadership:
            return
        with self._process.database.reader() as tx:
            self._soft.begin(leadership.history, leadership.term, known_nodes(tx))
        desk: Any = Desk(self)
        upload_ttl, session_ttl = self._ttl_seconds
        for duty in (Expiry(desk, self._soft, upload_ttl, session_ttl), Tick(desk), Reap(desk)):
            self._process.later(
                DUTY_SECONDS_MAX * self._process.random.random(), self._work, leadership, duty
            )

    def _work(self, leadership: Leadership, duty: Expiry | Tick | Reap) -> None:
        if self._process.core.leadership != leadership:
            return
        duty.work()
        wait = min(duty.wait(), DUTY_SECONDS_MAX) * (0.5 + self._process.random.random())
        self._process.later(wait, self._work, leadership, duty)


class Desk:
    """What duties work with; nobody waits for what is proposed here."""

    def __init__(self, service: Service) -> None:
        self._service = service
        core = service._process.core
        self.consensus = SimpleNamespace(
            cluster_ms=core.now_ms, status=lambda: SimpleNamespace(queue_ops=core.queue.operations)
        )

    def look(self, question: Callable[[Any], Any]) -> Any:
        with self._service._process.database.reader() as tx:
            return question(tx)

    def propose(self, commands: Sequence[e.SystemCommand]) -> Sequence[e.SystemResult.One]:
        self._service.system(commands, lambda answer: None)
        return [e.SystemResult.One() for _ in commands]
