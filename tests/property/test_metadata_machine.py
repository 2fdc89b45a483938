"""The state machine against a model: two replicas of one log agree, and both agree with a few lines of Python.

Tiny universes on purpose: with four paths, two bodies and boundary times every interesting thing happens soon.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
from tests.support.machines import Cluster, Replica, commit_of

PATHS = (b"/a", b"/b", b"/a/x", b"/a/y", b"/a/x/z")
BODIES = (b"", b"one", b"other")
JUMPS = (1, UPLOAD_TTL_MS, SESSION_TTL_MS + 1, TRASH_RETENTION_MS)

paths = st.sampled_from(PATHS)
bodies = st.sampled_from(BODIES)


@dataclass
class Node:
    """A file (body) or a directory (children)."""

    body: bytes | None = None
    children: dict[bytes, Node] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return self.body is None


class Model:
    """The namespace as a dictionary would have it; every method gives the code of the outcome."""

    def __init__(self) -> None:
        self.root = Node()
        self.trash: list[tuple[bytes, Node]] = []

    def find(self, path: bytes) -> Node | None:
        node: Node | None = self.root
        for name in path.split(b"/")[1:]:
            node = node.children.get(name) if node is not None and node.is_directory else None
        return node

    def parent(self, path: bytes) -> Node | Code:
        above, _, _ = path.rpartition(b"/")
        node: Node = self.root
        for name in above.split(b"/")[1:]:
            if not node.is_directory:
                return Code.NOT_A_DIRECTORY
            if name not in node.children:
                return Code.NOT_FOUND
            node = node.children[name]
        return node if node.is_directory else Code.NOT_A_DIRECTORY

    def place(self, path: bytes) -> tuple[Node, bytes] | Code:
        parent = self.parent(path)
        return parent if isinstance(parent, Code) else (parent, path.rpartition(b"/")[2])

    def put(self, path: bytes, body: bytes, if_absent: bool) -> Code:
        place = self.place(path)
        if isinstance(place, Code):
            return place
        parent, name = place
        old = parent.children.get(name)
        if old is not None:
            if if_absent:
                return Code.ALREADY_EXISTS
            if old.is_directory:
                return Code.IS_A_DIRECTORY
            self.trash.append((path, old))
        parent.children[name] = Node(body)
        return Code.OK

    def mkdir(self, path: bytes) -> Code:
        place = self.place(path)
        if isinstance(place, Code):
            return place
        parent, name = place
        if name in parent.children:
            return Code.ALREADY_EXISTS
        parent.children[name] = Node()
        return Code.OK

    def delete(self, path: bytes, recursive: bool, purge: bool) -> Code:
        place = self.place(path)
        if isinstance(place, Code):
            return place
        parent, name = place
        old = parent.children.get(name)
        if old is None:
            return Code.NOT_FOUND
        if old.is_directory and old.children and not recursive:
            return Code.NOT_EMPTY
        del parent.children[name]
        if not purge:
            self.trash.append((path, old))
        return Code.OK

    def rename(self, source: bytes, target: bytes, replace: bool) -> Code:
        origin, goal = self.place(source), self.place(target)
        if isinstance(origin, Code):
            return origin
        if origin[1] not in origin[0].children:
            return Code.NOT_FOUND
        if isinstance(goal, Code):
            return goal
        moved, old = origin[0].children[origin[1]], goal[0].children.get(goal[1])
        if old is moved:
            return Code.OK
        if old is not None and not replace:
            return Code.ALREADY_EXISTS
        if target.startswith(source + b"/") or (old is not None and source.startswith(target + b"/")):
            return Code.CYCLE
        if old is not None:
            self.trash.append((target, old))
        del origin[0].children[origin[1]]
        goal[0].children[goal[1]] = moved
        return Code.OK

    def clone(self, source: bytes, target: bytes, replace: bool) -> Code:
        origin = self.place(source)
        if isinstance(origin, Code):
            return origin
        node = origin[0].children.get(origin[1])
        if node is None:
            return Code.NOT_FOUND
        if node.is_directory:
            return Code.IS_A_DIRECTORY
        if source == target and replace:
            return Code.OK
        assert node.body is not None
        return self.put(target, node.body, not replace)

    def undelete(self, path: bytes, replace: bool) -> Code:
        found = next((row for row in reversed(self.trash) if row[0] == path), None)
        if found is None:
            return Code.NOT_FOUND
        place = self.place(path)
        if isinstance(place, Code):
            return place
        parent, name = place
        if name in parent.children:
            if not replace:
                return Code.ALREADY_EXISTS
            self.trash.append((path, parent.children[name]))
        self.trash.remove(found)
        parent.children[name] = found[1]
        return Code.OK


class Machines(RuleBasedStateMachine):
    """Every rule makes one entry. The second replica gets it too: at once, or after a restart, or by a snapshot."""

    @initialize()
    def begin(self) -> None:
        self.cluster = Cluster()
        self.twin = Replica()
        self.model = Model()
        self.sessions: list[int] = []
        self.sent: list[tuple[n.Batch, bytes]] = []
        self.uploads: list[tuple[bytes, bytes, n.Allocation]] = []

    def check(self, result: n.Result, expected: Code) -> None:
        assert Code(result.code) == expected, (result, expected)

    # Names

    @rule(path=paths, body=bodies, if_absent=st.booleans())
    def put_file(self, path: bytes, body: bytes, if_absent: bool) -> None:
        request = n.PutFileRequest(
            ref=n.Ref(path=path), body=body, checksum=crc32c(body), if_absent=if_absent
        )
        self.check(self.cluster.one(n.Op(put_file=request)), self.model.put(path, body, if_absent))

    @rule(path=paths)
    def mkdir(self, path: bytes) -> None:
        request = n.MkdirRequest(ref=n.Ref(path=path))
        self.check(self.cluster.one(n.Op(mkdir=request)), self.model.mkdir(path))

    @rule(path=paths, recursive=st.booleans(), purge=st.booleans())
    def delete(self, path: bytes, recursive: bool, purge: bool) -> None:
        request = n.DeleteRequest(ref=n.Ref(path=path), recursive=recursive, purge=purge)
        self.check(self.cluster.one(n.Op(delete=request)), self.model.delete(path, recursive, purge))

    @rule(source=paths, goal=paths, replace=st.booleans())
    def rename(self, source: bytes, goal: bytes, replace: bool) -> None:
        request = n.RenameRequest(to=n.Ref(path=goal), replace=replace, **{"from": n.Ref(path=source)})
        self.check(self.cluster.one(n.Op(rename=request)), self.model.rename(source, goal, replace))

    @rule(source=paths, goal=paths, replace=st.booleans())
    def clone(self, source: bytes, goal: bytes, replace: bool) -> None:
        request = n.CloneRequest(to=n.Ref(path=goal), replace=replace, **{"from": n.Ref(path=source)})
        self.check(self.cluster.one(n.Op(clone=request)), self.model.clone(source, goal, replace))

    @rule(path=paths, replace=st.booleans())
    def undelete(self, path: bytes, replace: bool) -> None:
        request = n.UndeleteRequest(original_path=path, replace=replace)
        self.check(self.cluster.one(n.Op(undelete=request)), self.model.undelete(path, replace))

    @rule()
    def empty_trash(self) -> None:
        self.check(self.cluster.one(n.Op(empty_trash=n.EmptyTrashRequest())), Code.OK)
        self.model.trash.clear()

    # Uploads

    @rule(path=paths, count=st.integers(1, 2))
    def open_upload(self, path: bytes, count: int) -> None:
        opened = self.cluster.one(n.Op(open_upload=n.OpenUploadRequest(ref=n.Ref(path=path))))
        if opened.code:
            return
        choice = e.Choice(placements=[e.Placement(node_ids=["d1", "d2"])] * count)
        request = n.AllocateRequest(upload=opened.upload.upload, count=count)
        allocated = self.cluster.one(n.Op(allocate=request), choices=[choice])
        self.check(allocated, Code.OK)
        self.uploads.append((opened.upload.upload, path, allocated.allocation))

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), durable=st.booleans())
    def commit(self, data: Any, durable: bool) -> None:
        upload, _, allocation = self.uploads.pop(data.draw(st.integers(0, len(self.uploads) - 1)))
        lengths = [3] * len(allocation.chunks)
        request = commit_of(upload, allocation, lengths, ("d1", "d2") if durable else ("d1",))
        result = self.cluster.one(n.Op(commit_upload=request))
        if Code(result.code) is Code.UPLOAD_GONE:
            return
        if not durable:
            self.check(result, Code.PRECONDITION_FAILED)
        elif not result.code:
            # Its directory may have been moved since it was opened: the result says where the file is now.
            self.check(result, self.model.put(result.info.path, bytes(sum(lengths)), False))

    @precondition(lambda self: self.uploads)
    @rule()
    def abort(self) -> None:
        upload, _, _ = self.uploads.pop()
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
        request = n.PutFileRequest(ref=n.Ref(path=path), body=body, checksum=crc32c(body), if_absent=True)
        batch = n.Batch(session=session, slot=0, seq=seq, ops=[n.Op(put_file=request)])
        result = self.cluster.batch(batch)
        if Code(result.code) is Code.SESSION_EXPIRED:
            self.sessions.remove(session)
            return
        self.check(result.results[0], self.model.put(path, body, True))
        self.sent.append((batch, result.SerializeToString(deterministic=True)))

    @precondition(lambda self: self.sent)
    @rule()
    def retry_the_last(self) -> None:
        """The same bytes again, however late: the first answer, or the session is gone; never done twice."""
        batch, first = self.sent[-1]
        again = self.cluster.batch(batch)
        assert (
            Code(again.code) is Code.SESSION_EXPIRED or again.SerializeToString(deterministic=True) == first
        )

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
        db = self.cluster.replica.db
        self.cluster.system(e.SystemCommand(tick=e.Tick()))
        uploads = queries.open_uploads_past(db, self.cluster.now_ms, 10)
        sessions = queries.sessions_past(db, self.cluster.now_ms, 10)
        self.cluster.system(e.SystemCommand(expire_uploads=e.ExpireUploads(uploads=uploads)))
        self.cluster.system(e.SystemCommand(expire_sessions=e.ExpireSessions(sessions=sessions)))

    @rule(limit=st.sampled_from((1, 2, 100)))
    def reap(self, limit: int) -> None:
        self.cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=limit)))
        listed = queries.answer(self.cluster.replica.db, n.ReadOp(list_trash=n.ListTrashRequest()))
        kept = [entry.path for entry in listed.trash.entries]
        self.model.trash = [row for row in self.model.trash if row[0] in kept]
        assert sorted(kept) == sorted(path for path, _ in self.model.trash)

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
        before = hashing.state_hash(self.cluster.replica.db)
        self.cluster.entry(e.Item(batch=raw + b"\xff"), e.Item(system=raw + b"\xff"), e.Item())
        assert before != b""

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
        self._compare(self.model.root, b"/")

    def _compare(self, node: Node, path: bytes) -> None:
        asked = n.ReadOp(list=n.ListRequest(ref=n.Ref(path=path)))
        listing = queries.answer(self.cluster.replica.db, asked).listing
        assert [entry.name for entry in listing.entries] == sorted(node.children)
        for entry in listing.entries:
            child = node.children[entry.name]
            assert (entry.type == t.INODE_TYPE_DIRECTORY) == child.is_directory
            below = (path if path != b"/" else b"") + b"/" + entry.name
            if child.is_directory:
                self._compare(child, below)
            else:
                assert child.body is not None
                assert (entry.size, entry.checksum) == (len(child.body), crc32c(child.body))

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.the_twin_catches_up()
            self.everything_agrees()


TestMachines = Machines.TestCase
TestMachines.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
