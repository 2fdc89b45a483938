"""The rewriting of sparse chunks against a model: every file keeps its bytes, and in the end nothing dead stays.

Real metadata and the real choice of what is rewritten; what chunks consist of is the machine's. A leader looks, writes,
switches and closes, and between any two of these everything else may happen. Disks lose a chunk as soon as the log has
condemned it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.decisions.repacking import choose
from coordinator.metadata import garbage, invariants, sparse
from quorumfs.checksum import crc32c
from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support import ops
from tests.support.machines import Cluster

PATHS = (b"/a", b"/b", b"/c", b"/d")
NODES = ("d1", "d2", "d3")
PACK_BYTES_MAX = 12
GRACE_MS = 1000
ALL = 101
"""Percent alive below which every chunk is sparse, also one that is wholly alive."""

paths = st.sampled_from(PATHS)


@dataclass
class Rewrite:
    """A pack of a leader; `stored`: its bytes are on disks and handed in."""

    upload: bytes
    made: n.AllocatedChunk
    content: bytes
    ranges: list[e.RepackChunks.Range]
    stored: bool = False


@dataclass
class Edit:
    """An upload that began from a file's version: what it will be, and of what extents."""

    upload: bytes
    path: bytes
    base: int
    extents: list[t.Extent] = field(default_factory=list)
    content: bytes = b""


class Repacking(RuleBasedStateMachine):
    """One rule is one thing that happens."""

    @initialize()
    def begin(self) -> None:
        self.cluster = Cluster()
        self.db = self.cluster.replica.db
        for key, value in (("gc.grace_ms", GRACE_MS), ("trash.retention_ms", 10**9)):
            self.cluster.system(e.SystemCommand(set_setting=e.SetSetting(key=key, value=str(value))))
        self.number = 0
        self.disks: dict[bytes, bytes] = {}  # sealed chunk -> its bytes
        self.content: dict[int, bytes] = {}  # version -> the file's bytes
        self.rewrites: list[Rewrite] = []
        self.edits: list[Edit] = []

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.everything_dead_goes_in_the_end()

    def _fresh(self, length: int) -> bytes:
        """Bytes that are nowhere else."""
        self.number += 1
        return (b"%06d" % self.number * (length // 6 + 1))[-length:] if length else b""

    # Files

    def _open(self, path: bytes, **fields: Any) -> bytes:
        opening = n.OpenUploadRequest(ref=ops.ref(path), **fields)
        return bytes(self.cluster.one(n.Op(open_upload=opening)).upload.upload)

    def _allocate(self, upload: bytes) -> n.AllocatedChunk:
        choice = e.Choice(placements=[e.Placement(node_ids=NODES)])
        request = n.AllocateRequest(upload=upload, count=1)
        return self.cluster.one(n.Op(allocate=request), choices=[choice]).allocation.chunks[0]

    def _store(self, upload: bytes, made: n.AllocatedChunk, content: bytes) -> None:
        """Onto disks, and handed in."""
        acks = [t.ReplicaAck(node_id=node, disk_id=f"disk-{node}", durable=True) for node in NODES]
        sealed = n.SealedChunk(chunk=made.chunk, length=len(content), checksum=crc32c(content), replicas=acks)
        request = n.AddExtentsRequest(upload=upload, chunks=[sealed])
        assert self.cluster.one(n.Op(add_extents=request)).code == Code.OK
        self.disks[bytes(made.chunk)] = content

    def _close(self, upload: bytes) -> None:
        self.cluster.one(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))

    def _version(self, path: bytes) -> int:
        """Of the file at a path; 0: there is none."""
        return int(ops.stat(self.db, path).info.version)

    @rule(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), first=st.integers(0, 3))
    def files_are_stored_in_a_pack(self, sizes: list[int], first: int) -> None:
        content = self._fresh(sum(sizes))
        upload = self._open(b"/.pack")
        made = self._allocate(upload)
        self._store(upload, made, content)
        at = 0
        for number, size in enumerate(sizes):
            path, body = PATHS[(first + number) % len(PATHS)], content[at : at + size]
            packed = n.Packed(upload=upload, chunk=made.chunk, chunk_offset=at, length=size)
            done = self.cluster.one(ops.put(path, packed=packed, checksum=crc32c(body)))
            assert done.code == Code.OK
            self.content[done.info.version] = body
            at += size
        self._close(upload)

    @rule(path=paths, purge=st.booleans())
    def remove(self, path: bytes, purge: bool) -> None:
        self.cluster.one(ops.delete(path, purge=purge))

    @rule(path=paths)
    def undelete(self, path: bytes) -> None:
        self.cluster.one(ops.undelete(path))

    @rule()
    def the_trash_is_emptied(self) -> None:
        self.cluster.one(n.Op(empty_trash=n.EmptyTrashRequest()))

    @rule(limit=st.sampled_from((1, 1000)))
    def the_reaper_goes_on(self, limit: int) -> None:
        self.cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=limit)))

    @rule(source=paths, goal=paths)
    def clone(self, source: bytes, goal: bytes) -> None:
        before = self._version(source)
        done = self.cluster.one(ops.clone(source, goal, replace=True))
        if done.code == Code.OK:
            self.content[self._version(goal)] = self.content[before]

    @rule(path=paths, wanted=st.integers(1, 3))
    def set_replication(self, path: bytes, wanted: int) -> None:
        self.cluster.one(ops.set_attributes(path, replication=wanted))

    # Uploads that begin from what is there

    @rule(path=paths, kept=st.integers(1, 4), added=st.integers(0, 3))
    def an_edit_begins(self, path: bytes, kept: int, added: int) -> None:
        """It keeps the beginning of the file, as it is laid out now, and adds something."""
        base = self._version(path)
        if not base:
            return
        edit = Edit(self._open(path, from_current=True), path, base, content=self.content[base][:kept])
        rows = self.db.execute(
            "SELECT file_offset, length, chunk, chunk_offset FROM extent"
            " WHERE version = ? AND file_offset < ? ORDER BY file_offset",
            (base, kept),
        ).fetchall()
        for offset, length, chunk, chunk_offset in rows:
            length = min(length, kept - offset)
            edit.extents.append(
                t.Extent(offset=offset, length=length, chunk=chunk, chunk_offset=chunk_offset)
            )
        if added:
            made, more = self._allocate(edit.upload), self._fresh(added)
            self._store(edit.upload, made, more)
            edit.extents.append(t.Extent(offset=len(edit.content), length=added, chunk=made.chunk))
            edit.content += more
        self.edits.append(edit)

    @precondition(lambda self: self.edits)
    @rule(which=st.integers(0, 9))
    def an_edit_hands_in_its_extents(self, which: int) -> None:
        """Perhaps twice: an answer was lost."""
        edit = self.edits[which % len(self.edits)]
        request = n.AddExtentsRequest(upload=edit.upload, extents=edit.extents)
        self._check(edit, self.cluster.one(n.Op(add_extents=request)))

    @precondition(lambda self: self.edits)
    @rule(which=st.integers(0, 9), abort=st.booleans())
    def an_edit_ends(self, which: int, abort: bool) -> None:
        edit = self.edits.pop(which % len(self.edits))
        if abort:
            self._close(edit.upload)
            return
        commit = n.CommitUploadRequest(
            upload=edit.upload,
            extents=edit.extents,
            size=len(edit.content),
            checksum=crc32c(edit.content),
        )
        done = self.cluster.one(n.Op(commit_upload=commit))
        if self._check(edit, done):
            self.content[done.info.version] = edit.content
        else:
            self._close(edit.upload)

    def _check(self, edit: Edit, done: n.Result) -> bool:
        """Only when what it began from is gone for good may it be refused."""
        there = self.db.execute("SELECT 1 FROM version WHERE id = ?", (edit.base,)).fetchone()
        assert done.code == Code.OK or there is None, done
        return done.code == Code.OK

    # The leader that rewrites

    @rule(percent=st.sampled_from((50, ALL, ALL)), look_at=st.sampled_from((1, 100)))
    def a_leader_looks(self, percent: int, look_at: int) -> None:
        """What it has read is what it will write."""
        found = sparse.sparse(self.db, b"", look_at, 100, percent).chunks
        chosen = [found[at] for at in choose(found, PACK_BYTES_MAX)]
        if not chosen or len(self.rewrites) >= 3:
            return
        upload = self._open(b"/.repack", replication=chosen[0].want)
        content, ranges = b"", []
        made = self._allocate(upload)
        for one in chosen:
            for part in one.ranges:
                ranges.append(
                    e.RepackChunks.Range(
                        chunk=one.chunk,
                        offset=part.offset,
                        length=part.length,
                        into=made.chunk,
                        into_offset=len(content),
                    )
                )
                content += self.disks[one.chunk][part.offset : part.offset + part.length]
        self.rewrites.append(Rewrite(upload, made, content, ranges))

    @precondition(lambda self: self.rewrites)
    @rule(which=st.integers(0, 9))
    def a_leader_writes_its_pack(self, which: int) -> None:
        one = self.rewrites[which % len(self.rewrites)]
        if not one.stored and self._is_open(one.upload):
            self._store(one.upload, one.made, one.content)
            one.stored = True

    def _is_open(self, upload: bytes) -> bool:
        return self.db.execute("SELECT 1 FROM upload WHERE id = ?", (upload,)).fetchone() is not None

    @precondition(lambda self: self.rewrites)
    @rule(which=st.integers(0, 9), first=st.integers(0, 3), most=st.sampled_from((1, 100)))
    def a_leader_switches(self, which: int, first: int, most: int) -> None:
        """Some of it, perhaps again, perhaps by mistake before the pack is written: the log decides."""
        one = self.rewrites[which % len(self.rewrites)]
        ranges = one.ranges[first : first + most]
        done = self.cluster.system(e.SystemCommand(repack=e.RepackChunks(upload=one.upload, ranges=ranges)))
        assert done.code == Code.OK or not self._is_open(one.upload), done
        assert one.stored or not done.number, "extents name a chunk that nobody has"

    @precondition(lambda self: self.rewrites)
    @rule(which=st.integers(0, 9), forgets=st.booleans())
    def a_leader_closes(self, which: int, forgets: bool) -> None:
        """Or its upload expires; a leader that was deposed does not know, and may go on."""
        at = which % len(self.rewrites)
        self._close(self.rewrites[at].upload)
        if forgets:
            self.rewrites.pop(at)

    # The collection

    @rule(ms=st.sampled_from((1, GRACE_MS)))
    def time_passes(self, ms: int) -> None:
        self.cluster.now_ms += ms
        self.cluster.system(e.SystemCommand(tick=e.Tick()))

    @rule()
    def the_collection_condemns_and_deletes(self) -> None:
        """Every chunk there is is proposed: the log decides."""
        chunks = garbage.chunk_ids(self.db, b"", 1000)
        self.cluster.system(e.SystemCommand(condemn=e.CondemnChunks(chunks=chunks, cycle=1)))
        condemned = [one.chunk for one in garbage.condemned(self.db, b"", 1000)]
        for chunk in condemned:
            self.disks.pop(chunk, None)
            updates = [e.ReplicaUpdate(chunk=chunk, node_id=node) for node in NODES]
            self.cluster.system(e.SystemCommand(update_replicas=e.UpdateReplicas(updates=updates)))
        self.cluster.system(e.SystemCommand(forget_chunks=e.ForgetChunks(chunks=condemned)))

    # What must hold

    @invariant()
    def every_file_has_its_bytes(self) -> None:
        if not hasattr(self, "cluster"):
            return
        rows = self.db.execute(
            "SELECT version.id, length, chunk, chunk_offset FROM extent JOIN version ON version.id = extent.version"
            " WHERE version.inode IS NOT NULL ORDER BY version.id, file_offset"
        )
        found: dict[int, bytes] = {}
        for version, length, chunk, offset in rows:
            assert chunk in self.disks, f"version {version} refers to a chunk that nobody has"
            found[version] = found.get(version, b"") + self.disks[chunk][offset : offset + length]
        for version, content in found.items():
            assert content == self.content[version], f"version {version} has other bytes"

    @invariant()
    def the_metadata_is_whole(self) -> None:
        if hasattr(self, "cluster"):
            assert invariants.violations(self.db) == []

    @invariant()
    def chunks_want_as_many_replicas_as_their_files(self) -> None:
        if not hasattr(self, "cluster"):
            return
        row = self.db.execute(
            "SELECT hex(chunk.id), want, replication FROM extent JOIN chunk ON chunk.id = extent.chunk"
            " JOIN version ON version.id = extent.version JOIN inode ON inode.id = version.inode"
            " WHERE want < replication AND upload IS NULL"
        ).fetchone()
        assert row is None, row

    def check(self) -> None:
        self.every_file_has_its_bytes()
        self.the_metadata_is_whole()
        self.chunks_want_as_many_replicas_as_their_files()

    def everything_dead_goes_in_the_end(self) -> None:
        """No chunk has dead bytes, and no disk anything else."""
        for edit in self.edits:
            self._close(edit.upload)
        for one in self.rewrites:
            self._close(one.upload)
        self.edits, self.rewrites = [], []
        self.cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=10_000)))
        while sparse.sparse(self.db, b"", 1000, 1000, 100).chunks:
            before = len(self.db.execute("SELECT DISTINCT chunk FROM extent").fetchall())
            self.a_leader_looks(100, 1000)
            if not self.rewrites:
                break  # what is left fits into no pack
            self.a_leader_writes_its_pack(0)
            self.a_leader_switches(0, 0, 100)
            self.a_leader_closes(0, forgets=True)
            self.check()
            assert len(self.db.execute("SELECT DISTINCT chunk FROM extent").fetchall()) <= before
        self.time_passes(GRACE_MS)
        self.the_collection_condemns_and_deletes()
        needed = {row[0] for row in self.db.execute("SELECT DISTINCT chunk FROM extent")}
        assert self.disks.keys() == needed
        left = self.db.execute("SELECT count(*) FROM orphan").fetchone()
        assert left == (0,)
        self.check()
