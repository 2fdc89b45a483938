"""The state machine against a model: two replicas of one log agree, and both agree with a few lines of Python.

Tiny universes on purpose: with a handful of paths, two bodies and boundary times every interesting thing happens
soon.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.metadata import hashing, invariants, queries
from quorumfs.checksum import crc32c
from quorumfs.errors import Code
from quorumfs.limits import SESSION_TTL_MS, TRASH_RETENTION_MS, UPLOAD_TTL_MS
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support import ops
from tests.support.machines import Cluster, Replica, commit_of
from tests.support.namespace_model import Model, Node, Spot

PATHS = (b"/a", b"/b", b"/a/x", b"/a/y", b"/a/x/z", b"/b/x")
TARGETS = (b"/a", b"a", b"..", b"x", b"/b/x", b"../b", b"x/..", b"/a/x/..")
BODIES = (b"", b"one", b"other")
JUMPS = (1, UPLOAD_TTL_MS, SESSION_TTL_MS + 1, TRASH_RETENTION_MS)

paths = st.sampled_from(PATHS)
bodies = st.sampled_from(BODIES)


class Machines(RuleBasedStateMachine):
    """Every rule makes one entry. The second replica gets it too: at once, or after a restart, or by a snapshot."""

    @initialize()
    def begin(self) -> None:
        self.cluster = Cluster()
        self.twin = Replica()
        self.model = Model()
        self.model.now_ms = self.cluster.now_ms
        at_once = e.SetSetting(key="gc.grace_ms", value="0")
        self.cluster.system(e.SystemCommand(set_setting=at_once))
        self.sessions: list[int] = []
        self.sent: list[tuple[n.Batch, bytes]] = []
        self.uploads: list[tuple[bytes, Node, bytes, n.Allocation]] = []
        self.mkdir_with_parents(b"/a/x")
        self.put_file(b"/a/x/z", b"one", False)
        self.put_file(b"/a/y", b"one", False)

    def draw(self, data: Any) -> bytes:
        """A path: most often of something that is there, for from nothing nothing comes."""
        path: bytes = data.draw(st.sampled_from((*PATHS, *self.model.present() * 2)))
        return path

    def check(self, result: n.Result, expected: Code, spot: Spot | Code | None = None) -> None:
        """The outcome is the model's; what was made or moved is at `spot`, and is the same inode as before."""
        assert Code(result.code) == expected, (result, expected)
        if expected is Code.OK and isinstance(spot, Spot):
            node = spot.node
            assert node is not None
            assert result.info.path == spot.path
            node.inode = node.inode or result.info.id
            assert node.inode == result.info.id

    # Names

    @rule(path=paths, body=bodies, if_absent=st.booleans())
    def put_file(self, path: bytes, body: bytes, if_absent: bool) -> None:
        spot = self.model.spot(path)
        expected = self.model.put(spot, body, if_absent)
        self.check(self.cluster.one(ops.put(path, body, if_absent=if_absent)), expected, spot)

    @rule(path=paths)
    def mkdir(self, path: bytes) -> None:
        spot = self.model.spot(path)
        expected = self.model.mkdir(spot)
        self.check(self.cluster.one(ops.mkdir(path)), expected, spot)

    @rule(path=paths)
    def mkdir_with_parents(self, path: bytes) -> None:
        self.check(self.cluster.one(ops.mkdir(path, parents=True)), self.model.mkdir_all(path))

    @rule(path=paths, to=st.sampled_from(TARGETS), replace=st.booleans())
    def symlink(self, path: bytes, to: bytes, replace: bool) -> None:
        spot = self.model.spot(path)
        expected = self.model.symlink(spot, to, replace)
        self.check(self.cluster.one(ops.symlink(path, to, replace=replace)), expected, spot)

    @rule(data=st.data(), recursive=st.booleans(), purge=st.booleans())
    def delete(self, data: Any, recursive: bool, purge: bool) -> None:
        path = self.draw(data)
        expected = self.model.delete(self.model.spot(path), recursive, purge)
        self.check(self.cluster.one(ops.delete(path, recursive=recursive, purge=purge)), expected)

    @rule(data=st.data(), replace=st.booleans())
    def rename(self, data: Any, replace: bool) -> None:
        source, goal = self.draw(data), self.draw(data)
        spot = self.model.spot(goal)
        expected = self.model.rename(self.model.spot(source), spot, replace)
        self.check(self.cluster.one(ops.rename(source, goal, replace)), expected, spot)

    @rule(data=st.data(), replace=st.booleans())
    def clone(self, data: Any, replace: bool) -> None:
        source, goal = self.draw(data), self.draw(data)
        spot = self.model.spot(goal)
        expected = self.model.clone(self.model.spot(source), spot, replace)
        self.check(self.cluster.one(ops.clone(source, goal, replace)), expected, spot)

    @precondition(lambda self: self.model.trash)
    @rule(data=st.data(), elsewhere=st.none() | paths, replace=st.booleans())
    def undelete(self, data: Any, elsewhere: bytes | None, replace: bool) -> None:
        path = data.draw(st.sampled_from((*(row.path for row in self.model.trash), PATHS[0])))
        spot = self.model.spot(elsewhere or path)
        expected = self.model.undelete(path, elsewhere or path, replace)
        to = n.Ref(path=elsewhere) if elsewhere else None
        self.check(self.cluster.one(ops.undelete(path, to=to, replace=replace)), expected, spot)

    @rule(older_than_ms=st.sampled_from((0, 1, TRASH_RETENTION_MS, 2**64 - 1)))
    def empty_trash(self, older_than_ms: int) -> None:
        result = self.cluster.one(n.Op(empty_trash=n.EmptyTrashRequest(older_than_ms=older_than_ms)))
        assert result.removal.removed == self.model.empty_trash(older_than_ms)

    @rule(path=paths, replication=st.sampled_from((1, 2, 5)))
    def set_replication(self, path: bytes, replication: int) -> None:
        """Nothing that the model knows of; the invariants look at what chunks want."""
        self.cluster.one(ops.set_attributes(path, replication=replication))

    # Uploads

    @rule(path=paths, count=st.integers(1, 2))
    def open_upload(self, path: bytes, count: int) -> None:
        opened = self.cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=n.Ref(path=path))))
        spot = self.model.spot(path)
        if isinstance(spot, Code) or (spot.node is not None and spot.node.is_directory):
            self.check(opened, spot if isinstance(spot, Code) else Code.IS_A_DIRECTORY)
            return
        choice = e.Choice(placements=[e.Placement(node_ids=["d1", "d2"])] * count)
        request = n.AllocateRequest(upload=opened.upload.upload, count=count)
        allocated = self.cluster.one(n.Op(allocate=request), choices=[choice])
        self.check(allocated, Code.OK)
        self.uploads.append((opened.upload.upload, spot.directory, spot.name, allocated.allocation))

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), durable=st.booleans())
    def commit(self, data: Any, durable: bool) -> None:
        self._commit(data.draw(st.integers(0, len(self.uploads) - 1)), durable)

    def _commit(self, number: int, durable: bool) -> None:
        upload, directory, name, allocation = self.uploads.pop(number)
        lengths = [3] * len(allocation.chunks)
        request = commit_of(upload, allocation, lengths, ("d1", "d2") if durable else ("d1",))
        result = self.cluster.one(n.Op(commit_upload=request))
        if Code(result.code) is Code.UPLOAD_GONE:
            return
        spot = self.model.spot_in(directory, name)  # it may have been moved since, or deleted
        if not durable:
            self.check(result, Code.PRECONDITION_FAILED)
        else:
            self.check(result, self.model.put(spot or Code.NOT_FOUND, bytes(sum(lengths)), False), spot)

    @precondition(lambda self: self.uploads)
    @rule(purge=st.booleans())
    def the_directory_of_an_upload_goes(self, purge: bool) -> None:
        _, directory, name, _ = self.uploads[-1]
        spot = self.model.spot_in(directory, name)
        if spot is not None and len(spot.above) > 1:
            path = b"/".join(name for name, _ in spot.above)
            expected = self.model.delete(self.model.spot(path), True, purge)
            self.check(self.cluster.one(ops.delete(path, recursive=True, purge=purge)), expected)
            self._commit(len(self.uploads) - 1, True)

    @precondition(lambda self: self.uploads)
    @rule()
    def abort(self) -> None:
        upload, *_ = self.uploads.pop()
        self.cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))

    # Sessions

    @rule()
    def open_session(self) -> None:
        made = self.cluster.one(n.Op(open_session=n.OpenSessionRequest(client="test")))
        self.sessions.append(made.session.session)

    @precondition(lambda self: self.sessions)
    @rule(path=paths, body=bodies)
    def put_in_session(self, path: bytes, body: bytes) -> None:
        session = self.sessions[-1]
        seq = 1 + max((batch.seq for batch, _ in self.sent if batch.session == session), default=0)
        op = ops.put(path, body, if_absent=True)
        batch = n.Batch(session=session, slot=0, seq=seq, ops=[op])
        raw = batch.SerializeToString()
        first, second = self.cluster.entry(e.Item(batch=raw), e.Item(batch=raw))
        assert first == second  # twice in one entry: done once
        result = n.BatchResult.FromString(first)
        if Code(result.code) is Code.SESSION_EXPIRED:
            self.sessions.remove(session)
            return
        spot = self.model.spot(path)
        self.check(result.results[0], self.model.put(spot, body, True), spot)
        self.sent.append((batch, first))

    @precondition(lambda self: self.sent)
    @rule()
    def retry_the_last(self) -> None:
        """The same bytes again, however late: the first answer, or the session is gone; never done twice."""
        batch, first = self.sent[-1]
        (raw,) = self.cluster.entry(e.Item(batch=batch.SerializeToString()))
        assert raw == first or Code(n.BatchResult.FromString(raw).code) is Code.SESSION_EXPIRED

    @precondition(lambda self: len(self.sent) > 1)
    @rule()
    def retry_an_old_one(self) -> None:
        batch, _ = self.sent[-2]
        if batch.session == self.sent[-1][0].session:
            code = Code(self.cluster.batch(batch).code)
            assert code in (Code.STALE_SEQUENCE, Code.SESSION_EXPIRED)

    # Time and the cluster's own commands

    @rule(jump=st.sampled_from(JUMPS))
    def time_passes(self, jump: int) -> None:
        self.cluster.now_ms += jump
        self.model.now_ms = self.cluster.now_ms
        db = self.cluster.replica.db
        self.cluster.system(e.SystemCommand(tick=e.Tick()))
        uploads = queries.open_uploads_past(db, self.cluster.now_ms, 10)
        sessions = queries.sessions_past(db, self.cluster.now_ms, 10)
        self.cluster.system(e.SystemCommand(expire_uploads=e.ExpireUploads(uploads=uploads)))
        self.cluster.system(e.SystemCommand(expire_sessions=e.ExpireSessions(sessions=sessions)))

    @rule(limit=st.sampled_from((1, 2, 100)))
    def reap(self, limit: int) -> None:
        self.cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=limit)))
        self.model.empty_trash(TRASH_RETENTION_MS)

    @rule(node=st.sampled_from(("d1", "d2")), state=st.sampled_from((0, 2, 3, 4)))
    def replicas_change(self, node: str, state: int) -> None:
        rows = self.cluster.replica.db.execute("SELECT id FROM chunk ORDER BY id LIMIT 3").fetchall()
        updates = [
            e.ReplicaUpdate(chunk=row[0], node_id=node, state=t.ReplicaState.ValueType(state)) for row in rows
        ]
        self.cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=updates)))

    @rule(empty=st.booleans())
    def node_registers_again(self, empty: bool) -> None:
        self.cluster.register("d2", empty=empty)
        held = "SELECT count(*) FROM replica JOIN node ON node.key = replica.node WHERE node_id = 'd2'"
        assert not empty or self.cluster.replica.db.execute(held).fetchone() == (0,)

    @rule()
    def garbage_goes(self) -> None:
        db = self.cluster.replica.db
        orphans = [row[0] for row in db.execute("SELECT chunk FROM orphan ORDER BY chunk LIMIT 2")]
        self.cluster.system(e.SystemCommand(condemn=e.CondemnChunks(chunks=orphans, cycle=1)))
        removals = [
            e.ReplicaUpdate(chunk=chunk, node_id=f"d{k}", state=t.REPLICA_STATE_MISSING)
            for chunk in orphans
            for k in (1, 2, 3)
        ]
        self.cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=removals)))
        for removal in removals:
            removal.state = t.REPLICA_STATE_UNSPECIFIED
        self.cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=removals)))
        self.cluster.system(e.SystemCommand(forget_chunks=e.ForgetChunks(chunks=orphans)))

    @rule(raw=st.binary(max_size=30))
    def garbage_bytes_change_nothing(self, raw: bytes) -> None:
        before = self._rows()
        garbage = b"\xff" + raw  # a type of field that there is not
        results = self.cluster.entry(e.Item(batch=garbage), e.Item(system=garbage), e.Item())
        assert len(results) == 3
        assert self._rows() == before

    def _rows(self) -> list[Any]:
        """Everything but the row that counts entries."""
        db = self.cluster.replica.db
        names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'raft_state' ORDER BY name"
        tables = [name for (name,) in db.execute(names)]
        return [sorted(db.execute(f"SELECT * FROM {name}"), key=repr) for name in tables]

    # The second replica

    @rule()
    def the_twin_catches_up(self) -> None:
        for index in range(self.twin.index + 1, len(self.cluster.log) + 2):
            self.twin.apply(index, self.cluster.log[index - 2])

    @rule()
    def the_twin_restarts(self) -> None:
        self.twin = Replica(self.twin.image())

    @rule()
    def the_twin_installs_a_snapshot(self) -> None:
        self.twin = Replica(self.cluster.replica.image())

    @rule()
    def the_twin_rolls_a_transaction_back(self) -> None:
        if self.twin.index > len(self.cluster.log):
            return
        before = hashing.state_hash(self.twin.db)
        self.twin.db.execute("BEGIN")
        index = self.twin.index + 1
        self.twin.machine.apply(self.twin.db, index, 1, self.cluster.log[index - 2])
        self.twin.db.execute("ROLLBACK")
        assert hashing.state_hash(self.twin.db) == before

    @invariant()
    def everything_agrees(self) -> None:
        if not hasattr(self, "cluster"):
            return
        assert invariants.violations(self.cluster.replica.db) == []
        if self.twin.index == len(self.cluster.log) + 1:
            assert hashing.state_hash(self.twin.db) == hashing.state_hash(self.cluster.replica.db)
        assert ops.trash_paths(self.cluster.replica.db) == [row.path for row in self.model.trash]
        self._compare(self.model.root, b"/")

    def _compare(self, node: Node, path: bytes) -> None:
        asked = n.ReadOp(list=n.ListRequest(ref=n.Ref(path=path)))
        listing = queries.answer(self.cluster.replica.db, asked).listing
        assert [entry.name for entry in listing.entries] == sorted(node.children)
        for entry in listing.entries:
            child = node.children[entry.name]
            assert child.inode in (0, entry.id)
            assert (entry.type == t.INODE_TYPE_DIRECTORY) == child.is_directory
            assert entry.target == (child.target or b"")
            if child.is_directory:
                self._compare(child, (path if path != b"/" else b"") + b"/" + entry.name)
            elif child.body is not None:
                assert (entry.size, entry.checksum) == (len(child.body), crc32c(child.body))

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.the_twin_catches_up()
            self.everything_agrees()


TestMachines = Machines.TestCase
TestMachines.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
