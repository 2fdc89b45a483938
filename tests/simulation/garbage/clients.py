"""Clients of the datanodes: they upload, some of them slowly, overwrite, delete, and die in the middle of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quorumfs.checksum import combine, crc32c
from quorumfs.errors import Code, QuorumFSError, UnavailableError
from quorumfs.rpc.leader import Route
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.simulation.exchange import Exchange
from tests.simulation.garbage import fibres
from tests.simulation.garbage.fibres import Ended
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.garbage.storage import Storage

KINDS = ("put", "put", "put", "slow put", "slow put", "delete", "purge")
EDITS = (*KINDS, "edit", "edit", "slow edit", "clone", "clone", "undelete")
PATHS = tuple(b"/f%d" % number for number in range(6))
BATCH_TTL_MS = 2000
CALL_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 0.3
PATIENCE_SECONDS = 4.0


class Refused(Exception):  # noqa: N818
    """An operation was answered, with this code."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


class Uploader:
    """A process of its own, with one thread. One that dies is followed by another under the same name."""

    def __init__(self, storage: Storage, number: int) -> None:
        self.storage = storage
        self.node_id = f"u{number}"
        self.alive = True
        self.stopping = False
        self.random = storage.world.stream(f"uploader {number}")
        self._leader: str | None = None
        self._kept: set[bytes] = set()
        self._made = 0

    def later(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        self.storage.world.after(seconds, self._run, action, arguments)

    def _run(self, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self.alive:
            action(*arguments)

    def begin(self) -> None:
        self.storage.fibres.spawn(self, self._live, self.random.random())
        self.storage.fibres.spawn(self, self._keep_alive, self.random.random())

    # One thing after another

    def _live(self) -> None:
        while not self.stopping:
            kind = self.random.choice(EDITS if self.storage.rewrites else KINDS)
            path = self.random.choice(PATHS)
            try:
                if kind in ("delete", "purge"):
                    self.delete(path, purge=kind == "purge")
                elif kind == "clone":
                    self.clone(path, self.random.choice(PATHS))
                elif kind == "undelete":
                    self._do(n.Op(undelete=n.UndeleteRequest(original_path=path)))
                elif kind.endswith("edit"):
                    self.edit(path, self._pause(slow=kind == "slow edit"))
                else:
                    self.put(path, self._pause(slow=kind == "slow put"))
            except Refused as refused:
                self.storage.totals[f"refused {refused.code.name.lower()}"] += 1
            except QuorumFSError as error:
                self.storage.totals[f"failed {error.code.name.lower()}"] += 1
            except Ended:
                if not self.alive:
                    raise
                self._kept.clear()
                self.storage.totals["clients that died"] += 1
            fibres.sleep(self.random.expovariate(2.0))

    def _pause(self, *, slow: bool) -> float:
        """Between the pieces of an upload: longer than any grace, sometimes."""
        grace = self.storage.grace_seconds
        return self.random.choice((grace / 2, grace * 1.5)) if slow else self.random.random() * 0.2

    def put(self, path: bytes, pause: float, *, mortal: bool = True) -> list[bytes]:
        """A file; its chunks. Raises Refused, QuorumFSError."""
        opened = self._do(n.Op(open_upload=n.OpenUploadRequest(ref=n.Ref(path=path))))
        commit = n.CommitUploadRequest(upload=opened.upload.upload)
        self._store_file(commit, pause, mortal)
        self.storage.totals["files stored"] += 1
        self.storage.totals["files stored slowly"] += pause > self.storage.grace_seconds
        return [one.chunk for one in commit.chunks]

    def edit(self, path: bytes, pause: float) -> None:
        """Keep the beginning of a file, and put something behind it. Raises Refused, QuorumFSError."""
        opening = n.OpenUploadRequest(ref=n.Ref(path=path), from_current=True)
        commit = n.CommitUploadRequest(upload=self._do(n.Op(open_upload=opening)).upload.upload)
        base, extents = self.storage.checker.base_of(commit.upload)
        kept = self.random.randint(1, 3)
        for offset, length, chunk, chunk_offset in extents:
            length = min(length, kept - offset)
            if length > 0:
                content = self.storage.checker.contents[chunk][chunk_offset : chunk_offset + length]
                commit.extents.add(offset=offset, length=length, chunk=chunk, chunk_offset=chunk_offset)
                commit.checksum = combine(commit.checksum, crc32c(content), length)
                commit.size += length
        try:
            self._store_file(commit, pause, mortal=True)
        except Refused as refused:
            lacks = refused.code in (Code.CHUNK_NOT_FOUND, Code.INVALID_ARGUMENT, Code.CHUNK_CONDEMNED)
            own = [
                one.chunk for one in commit.chunks
            ]  # a restore may have forgotten that they were allocated
            checker = self.storage.checker
            if lacks and checker.is_version(base) and checker.are_allocated(own):
                raise Violation(f"what an upload began from is not there: {refused.code.name}") from refused
            raise
        self.storage.totals["files edited"] += 1

    def clone(self, source: bytes, goal: bytes) -> None:
        to = n.Ref(path=goal)
        request = n.CloneRequest(to=to, replace=True, **{"from": n.Ref(path=source)})
        self._do(n.Op(clone=request))
        self.storage.totals["files cloned"] += 1

    def _store_file(self, commit: n.CommitUploadRequest, pause: float, mortal: bool) -> None:
        """Put chunks behind what it has, and make it a file."""
        careless = mortal and self.random.random() < 0.15  # keeps nothing alive, and goes on all the same
        if not careless:
            self._kept.add(commit.upload)
        try:
            self._send(commit, pause, mortal)
            self._do(n.Op(commit_upload=commit))
        finally:
            self._kept.discard(commit.upload)

    def _send(self, commit: n.CommitUploadRequest, pause: float, mortal: bool) -> None:
        upload = commit.upload
        for _ in range(self.random.choice((1, 1, 2))):
            request = n.AllocateRequest(upload=upload, count=1, size_hint=64)
            allocated = self._do(n.Op(allocate=request)).allocation.chunks[0]
            self._made += 1
            content = b"%s.%d" % (self.node_id.encode(), self._made)
            acks = self._store(upload, allocated, content, pause, mortal)
            checksum = crc32c(content)
            commit.chunks.add(chunk=allocated.chunk, length=len(content), checksum=checksum, replicas=acks)
            commit.extents.add(offset=commit.size, length=len(content), chunk=allocated.chunk)
            commit.checksum = combine(commit.checksum, checksum, len(content))
            commit.size += len(content)

    def _store(
        self, upload: bytes, allocated: n.AllocatedChunk, content: bytes, pause: float, mortal: bool
    ) -> list[t.ReplicaAck]:
        nodes = [one.node_id for one in allocated.replicas]
        acks = []
        for node_id in nodes:
            begin = (allocated.chunk, upload, allocated.birth, len(content))
            self._call(node_id, "begin", begin)
        fibres.sleep(pause)
        for node_id in nodes:
            if mortal and self.random.random() < 0.04:
                raise Ended
            ack = self._call(node_id, "seal", (allocated.chunk, content))
            if ack is not None:
                acks.append(ack)
        return acks

    def delete(self, path: bytes, *, purge: bool) -> None:
        request = n.DeleteRequest(ref=n.Ref(path=path), missing_ok=True, purge=purge)
        self._do(n.Op(delete=request))
        self.storage.totals["files deleted"] += 1

    # Calls

    def _call(self, node_id: str, method: str, request: Any, seconds: float = CALL_SECONDS) -> Any:
        """What a node answers; None: it did not work."""
        try:
            return self.storage.calls(self, node_id, method, request, seconds)
        except QuorumFSError:
            return None

    def _do(self, op: n.Op) -> n.Result:
        """At least once, by whoever leads. Raises Refused, QuorumFSError."""
        self._made += 1
        batch = n.Batch(ops=[op], ttl_ms=BATCH_TTL_MS, request_id=f"{self.node_id}.{self._made}")
        raw = batch.SerializeToString()
        known = list(self.storage.cluster.node_ids)
        self.random.shuffle(known)
        route = Route(known, self._leader)

        def ask(done: fibres.Done) -> None:
            def end(address: str, answer: bytes, error: QuorumFSError | None, in_doubt: bool) -> None:
                done((address, answer, error))

            Exchange(
                self.storage.cluster, raw, route, PATIENCE_SECONDS, lambda *found: end(*found), changes=True
            ).begin()

        address, answer, error = fibres.wait(ask)
        if error is not None:
            raise UnavailableError(str(error)) if not isinstance(error, QuorumFSError) else error
        self._leader = address
        (result,) = n.BatchResult.FromString(answer).results
        if result.code:
            raise Refused(Code(result.code))
        return result

    def _keep_alive(self) -> None:
        while True:
            fibres.sleep(self.storage.upload_ttl_seconds / 5)
            if self._kept:
                self._tell_leader(n.KeepAliveRequest(uploads=sorted(self._kept)))

    def _tell_leader(self, request: n.KeepAliveRequest) -> None:
        """Whoever leads by now."""
        known = [one for one in (self._leader, *self.storage.cluster.node_ids) if one is not None]
        for address in dict.fromkeys(known):
            answer = self._call(address, "KeepAlive", request, KEEP_ALIVE_SECONDS)
            if answer is not None and answer.code == Code.OK:
                self._leader = address
                return
