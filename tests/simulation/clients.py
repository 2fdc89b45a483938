"""What clients want of the cluster: a few names, many hands, and no mercy with sessions that are in doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quorumfs.checksum import crc32c
from quorumfs.errors import OutcomeUnknownError, QuorumFSError, SessionExpiredError
from quorumfs.rpc.leader import Route
from quorumfs.v1 import namespace_pb2 as n
from tests.simulation.exchange import Exchange
from tests.simulation.history import Call
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

PATHS = (b"/a", b"/b", b"/d", b"/d/x", b"/d/y", b"/d/e", b"/d/e/z", b"/a/x")
REGISTERS = (b"/r1", b"/r2", b"/r3")
BATCH_TTL_MS = 2000


@dataclass(eq=False)
class Session:
    number: int
    next_seq: dict[int, int] = field(default_factory=dict)


class Client:
    """A process with the library in it: one session, several slots, and who led last."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.random = cluster.world.stream(f"client {name}")
        self.leader: str | None = None
        self.uploads: list[bytes] = []
        self.versions: dict[bytes, int] = {}
        self.stopping = False
        self._session: Session | None = None
        self._opening = False
        self._made = 0
        self.busy = 0

    def start(self) -> None:
        for slot in range(self.cluster.plan.slots):
            self.busy += 1
            self.cluster.world.after(self.random.random() * 0.2, self._next, slot)

    # One thing after another, in each slot

    def _next(self, slot: int) -> None:
        if self.stopping:
            self.busy -= 1
        elif self.random.random() < self.cluster.plan.read_share:
            self._read(slot)
        elif self._session is None:
            self._open(slot)
        else:
            self._change(slot, self._session)

    def _again(self, slot: int) -> None:
        plan = self.cluster.plan
        pause = self.random.expovariate(1 / plan.think) if plan.think else 0.0
        self.cluster.world.after(pause + 0.0005, self._next, slot)

    def _patience(self) -> float:
        return self.cluster.plan.patience * self.random.uniform(0.2, 1.0)

    def _route(self) -> Route:
        known = list(self.cluster.node_ids)
        self.random.shuffle(known)
        return Route(known, self.leader)

    # Changes

    def _open(self, slot: int) -> None:
        if self._opening:
            self.cluster.world.after(0.02, self._next, slot)
            return
        self._opening = True
        op = n.Op(open_session=n.OpenSessionRequest(client=self.name))
        self._send(slot, n.Batch(slot=slot, ttl_ms=BATCH_TTL_MS, ops=[op]), self._opened)

    def _opened(self, slot: int, call: Call, error: QuorumFSError | None, in_doubt: bool) -> None:
        self._opening = False
        if error is not None:
            self._give_up(call, "unknown" if in_doubt else "refused")
        elif call.result is not None and not call.result.results[0].code:
            self._session = Session(call.result.results[0].session.session)
        self._again(slot)

    def _change(self, slot: int, session: Session) -> None:
        seq = session.next_seq.get(slot, 1)
        count = self.random.randint(1, self.cluster.plan.ops_max)
        ops = [self._op() for _ in range(count)]
        batch = n.Batch(session=session.number, slot=slot, seq=seq, ttl_ms=BATCH_TTL_MS, ops=ops)

        def changed(slot: int, call: Call, error: QuorumFSError | None, in_doubt: bool) -> None:
            self._changed(slot, session, call, error, in_doubt)

        self._send(slot, batch, changed)

    def _changed(
        self, slot: int, session: Session, call: Call, error: QuorumFSError | None, in_doubt: bool
    ) -> None:
        """As SessionSlots decides."""
        if error is None:
            session.next_seq[slot] = session.next_seq.get(slot, 1) + 1
            self._learn(call)
        elif in_doubt:
            self._abandon(session)
            self._give_up(call, "unknown")
        else:
            if isinstance(error, OutcomeUnknownError):
                self._abandon(session)
                if not isinstance(error, SessionExpiredError):
                    raise Violation(f"{self.name} is out of step without any doubt: {error}")
            self._give_up(call, "refused")
        self._again(slot)

    def _send(
        self,
        slot: int,
        batch: n.Batch,
        on_end: Callable[[int, Call, QuorumFSError | None, bool], None],
    ) -> None:
        self._made += 1
        batch.request_id = f"{self.name}.{self._made}"
        raw = batch.SerializeToString()
        history = self.cluster.history
        call = history.begin(self.name, raw, self.cluster.world.now, batch)

        def end(address: str, answer: bytes, error: QuorumFSError | None, in_doubt: bool) -> None:
            if error is None:
                self.leader = address
                history.changed(call, answer, self.cluster.world.now)
            on_end(slot, call, error, in_doubt)

        Exchange(self.cluster, raw, self._route(), self._patience(), end, changes=True).begin()

    def _abandon(self, session: Session) -> None:
        if self._session is session:
            self._session = None

    def _give_up(self, call: Call, outcome: str) -> None:
        self.cluster.history.given_up(call, outcome, self.cluster.world.now)

    def _learn(self, call: Call) -> None:
        assert call.change is not None
        assert call.result is not None
        for op, result in zip(call.change.ops, call.result.results, strict=True):
            if result.upload.upload:
                self.uploads.append(result.upload.upload)
            if op.HasField("put_file") and not result.code:
                self.versions[op.put_file.ref.path] = result.info.version

    # Reads

    def _read(self, slot: int) -> None:
        plan, history = self.cluster.plan, self.cluster.history
        stale = self.random.random() < plan.stale_share
        count = 1 if plan.registers else self.random.randint(1, 3)
        batch = n.ReadBatch(ops=[self._question() for _ in range(count)], request_id=self.name)
        if stale:
            batch.consistency = n.CONSISTENCY_STALE
            batch.max_staleness_ms = self.random.choice((0, 300))
        raw = batch.SerializeToString()
        call = history.begin(self.name, raw, self.cluster.world.now, batch)
        call.stale = stale

        def end(address: str, answer: bytes, error: QuorumFSError | None, in_doubt: bool) -> None:
            if error is not None:
                self._give_up(call, "refused")
            else:
                found = n.ReadBatchResult.FromString(answer)
                history.answered(call, found, self.cluster.world.now)
                self.leader = self.leader if stale else address
            self._again(slot)

        route = self._route() if not stale else Route([self.random.choice(self.cluster.node_ids)])
        Exchange(self.cluster, raw, route, self._patience(), end, changes=False).begin()

    def _question(self) -> n.ReadOp:
        if self.cluster.plan.registers:
            return n.ReadOp(stat=n.StatRequest(ref=n.Ref(path=self.random.choice(REGISTERS))))
        path = self.random.choice(PATHS)
        if self.random.random() < 0.3:
            return n.ReadOp(list=n.ListRequest(ref=n.Ref(path=self.random.choice((b"/", b"/d", path)))))
        return n.ReadOp(stat=n.StatRequest(ref=n.Ref(path=path)))

    # What is changed

    def _op(self) -> n.Op:
        random = self.random
        if self.cluster.plan.registers:
            path = random.choice(REGISTERS)
            if random.random() < 0.25:
                return n.Op(delete=n.DeleteRequest(ref=n.Ref(path=path), purge=True))
            return self._put(path, if_absent=random.random() < 0.3)
        path = random.choice(PATHS)
        kind = random.choice(("put", "put", "put", "put if", "mkdir", "delete", "rename", "open", "commit"))
        if kind == "put if":
            return self._put(path, expected_version=self.versions.get(path, 0))
        if kind == "mkdir":
            return n.Op(mkdir=n.MkdirRequest(ref=n.Ref(path=path)))
        if kind == "delete":
            request = n.DeleteRequest(ref=n.Ref(path=path), recursive=random.random() < 0.3)
            request.purge, request.missing_ok = random.random() < 0.5, random.random() < 0.3
            return n.Op(delete=request)
        if kind == "rename":
            target = n.Ref(path=random.choice(PATHS))
            made = n.RenameRequest(to=target, replace=random.random() < 0.5, **{"from": n.Ref(path=path)})
            return n.Op(rename=made)
        if kind == "open":
            absent = random.random() < 0.3
            return n.Op(open_upload=n.OpenUploadRequest(ref=n.Ref(path=path), if_absent=absent))
        if kind == "commit" and self.uploads:
            upload = self.uploads.pop(random.randrange(len(self.uploads)))
            return n.Op(commit_upload=n.CommitUploadRequest(upload=upload))
        return self._put(path, if_absent=random.random() < 0.2)

    def _put(self, path: bytes, *, if_absent: bool = False, expected_version: int = 0) -> n.Op:
        self._made += 1
        body = f"{self.name}.{self._made}".encode()
        return n.Op(
            put_file=n.PutFileRequest(
                ref=n.Ref(path=path),
                body=body,
                checksum=crc32c(body),
                if_absent=if_absent,
                expected_version=expected_version,
            )
        )
