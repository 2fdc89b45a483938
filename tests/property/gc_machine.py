"""The garbage collection against a model: what is needed stays, what is not goes, whatever happens in between.

Real metadata, real duties, real rules of datanodes; the datanodes' disks, the network and time are the machine's. The
model knows in three tables why each chunk must stay, and since when one may go.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.duties import cycle
from coordinator.metadata import garbage, invariants
from coordinator.services.collection import CollectionDesk
from quorumfs.errors import BusyError, Code, NotFoundError
from quorumfs.limits import GC_QUARANTINE_MS
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.support.datanodes import born
from tests.support.farm import GRACE_SECONDS, INTERVAL_SECONDS, NODES, Farm
from tests.support.local_consensus import Image

PATHS = (b"/a", b"/b", b"/c")
GRACE_MS = int(GRACE_SECONDS * 1000)

Upload: TypeAlias = tuple[
    bytes, n.Allocation, tuple[str, ...]
]  # its id, what was allocated, where its bytes lie

nodes = st.sampled_from(NODES)
some_nodes = st.sampled_from((("d1", "d2"), ("d2", "d3"), NODES))


@dataclass(frozen=True)
class Backup:
    """The metadata's image, the ids of its chunks, and the model as it was then."""

    image: Image
    chunks: set[bytes]
    files: dict[bytes, bytes]
    uploads: list[Upload]
    garbage: dict[bytes, int]
    held: set[bytes]


def chunk_of(upload: Upload) -> bytes:
    return bytes(upload[1].chunks[0].chunk)


class Collection(RuleBasedStateMachine):
    """One rule is one thing that happens; a cycle goes on by a few steps at a time."""

    @initialize()
    def begin(self) -> None:
        self.small_pages = patch.object(cycle, "PER_ENTRY", 1)  # more steps, between which things can happen
        self.small_pages.start()
        self.directory = tempfile.TemporaryDirectory(prefix="gc-machine-")
        self.farm = Farm(Path(self.directory.name))
        leader = self.farm.leader
        leader.db.execute("PRAGMA synchronous = OFF")
        self.desk = CollectionDesk(
            leader.gateway,
            leader.soft,
            lambda: self.farm.nodes,
            lambda: self.farm.collect,
            leader.clock,
            grace_seconds=GRACE_SECONDS,
            interval_seconds=INTERVAL_SECONDS,
        )
        self.farm.nodes.void = self._void
        self.number = 0
        self.files: dict[bytes, bytes] = {}  # path -> chunk
        self.uploads: list[Upload] = []
        self.places: dict[bytes, set[str]] = {}  # chunk -> nodes on which its bytes were written
        self.held: dict[bytes, set[str]] = {}  # chunk -> nodes on which it must stay
        self.garbage: dict[bytes, int] = {}  # chunk -> since when (ms) it may be counted as such
        self.old: list[Any] = []  # duties of leaders that were deposed
        self.backups: list[Backup] = []

    def teardown(self) -> None:
        if not hasattr(self, "farm"):
            return
        try:
            self.everything_goes_in_the_end()
        finally:
            self.farm.leader.consensus.close()
            self.directory.cleanup()
            self.small_pages.stop()

    @property
    def now_ms(self) -> int:
        return int(self.farm.leader.consensus.cluster_ms())

    def _void(self) -> set[str]:
        running = self.farm.collect._running
        return set(running[1].report.void) if running is not None else set()

    # Files

    @rule(path=st.sampled_from(PATHS), where=some_nodes)
    def store(self, path: bytes, where: tuple[str, ...]) -> None:
        """A file, and what it replaces is purged."""
        chunk = self.farm.store(path, *where)
        self.places[chunk] = set(where)
        if path in self.files:
            self.farm.leader.batch(n.Op(empty_trash=n.EmptyTrashRequest()))
            self.farm.leader.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=1000)))
            self.garbage[self.files[path]] = self.now_ms
        self.files[path] = chunk

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        path = data.draw(st.sampled_from(sorted(self.files)))
        self.farm.remove(path)
        self.garbage[self.files.pop(path)] = self.now_ms

    @rule(where=some_nodes)
    def open_upload(self, where: tuple[str, ...]) -> None:
        self.number += 1
        upload, made = self.farm.open(b"/upload-%d" % self.number, *where)
        self.places[made.chunks[0].chunk] = set(where)
        self.uploads.append((upload, made, where))

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def commit(self, data: Any) -> None:
        """However late, it is a file: nobody has condemned or deleted a chunk of an open upload."""
        upload, made, where = self.uploads.pop(data.draw(st.integers(0, len(self.uploads) - 1)))
        assert self.farm.commit(upload, made, *where) is Code.OK
        self.files[b"/upload-%d" % self.number] = made.chunks[0].chunk
        self._rename(made.chunks[0].chunk)

    def _rename(self, chunk: bytes) -> None:
        """The path of a chunk is that of its upload: the model asks, so that rules may come in any order."""
        path = b"/upload-%d" % self.number
        (row,) = self.farm.leader.db.execute(
            "SELECT inode.name FROM extent JOIN version ON version.id = extent.version"
            " JOIN inode ON inode.id = version.inode WHERE chunk = ?",
            (chunk,),
        ).fetchall()
        del self.files[path]
        self.files[b"/" + row[0]] = chunk

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), late=st.none() | nodes)
    def abort(self, data: Any, late: str | None) -> None:
        """`late`: a writer that does not know of it seals the chunk on one more node."""
        upload, made, _ = self.uploads.pop(data.draw(st.integers(0, len(self.uploads) - 1)))
        chunk = made.chunks[0].chunk
        self.farm.leader.batch(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))
        if made.chunks[0].birth.history < self.farm.history:
            self.held[chunk] = set(self.farm.on(chunk))  # the lost history may have made a file of it
        else:
            self.garbage[chunk] = self.now_ms
        if late is not None:
            birth = made.chunks[0].birth
            found = born(birth.history, birth.index, birth.cluster_ms)
            self.farm.nodes[late].chunks[chunk] = found

    # Strays

    def _new_id(self) -> bytes:
        self.number += 1
        return b"stray%011d" % self.number

    @rule(where=some_nodes)
    def stray(self, where: tuple[str, ...]) -> None:
        """Of this log, and in no table."""
        chunk = self.farm.stray(self._new_id(), *where)
        self.garbage[chunk] = self.now_ms

    @rule(where=some_nodes, history=st.sampled_from((0, 99)))
    def stray_of_another_log(self, where: tuple[str, ...], history: int) -> None:
        chunk = self.farm.stray(self._new_id(), *where, history=history)
        self.held[chunk] = set(where)

    # Time, nodes, leaders

    @rule(seconds=st.sampled_from((1.0, GRACE_SECONDS / 2, GRACE_SECONDS, 20 * GRACE_SECONDS)))
    def time_passes(self, seconds: float) -> None:
        self.farm.pass_time(seconds)

    @rule(node=nodes)
    def a_node_is_cut_off(self, node: str) -> None:
        self.farm.nodes[node].reachable = False

    @rule(node=nodes)
    def a_node_comes_back(self, node: str) -> None:
        self.farm.nodes[node].reachable = True

    @rule()
    def a_leader_is_elected(self) -> None:
        self.old = [*self.old[-1:], self.farm.collect]
        self.farm.elect()

    @precondition(lambda self: self.old)
    @rule(steps=st.integers(1, 20))
    def a_deposed_leader_goes_on(self, steps: int) -> None:
        for _ in range(steps):
            self.old[-1].work()

    @rule(node=nodes, entries=st.sampled_from((3, 1000)))
    def a_node_hears_of_a_log_that_was_lost(self, node: str, entries: int) -> None:
        self.farm.nodes[node].commit_index += entries

    # Backups

    @rule()
    def a_backup_is_made(self) -> None:
        image = self.farm.leader.consensus.backup()
        chunks = {row[0] for row in image.state.execute("SELECT id FROM chunk")}
        uploads = [(upload, made, where) for upload, made, where in self.uploads]
        self.backups = [
            *self.backups[-1:],
            Backup(image, chunks, dict(self.files), uploads, dict(self.garbage), set(self.held)),
        ]

    @precondition(lambda self: self.backups)
    @rule(which=st.sampled_from((0, -1)))
    def a_backup_is_restored(self, which: int) -> None:
        """What lies on a disk and the backup does not know must stay until somebody releases it; what it knows is
        needed, or garbage, as it was then, as far as it is still there."""
        backup = self.backups[which]
        self.farm.restore_backup(backup.image, self.farm.history + 1)
        there = {chunk for node in self.farm.nodes.nodes.values() for chunk in node.chunks}
        touched = {chunk for node in self.farm.nodes.nodes.values() for chunk in node.quarantine}
        restored = {chunk for node in self.farm.nodes.nodes.values() for chunk in node.void_below}
        self.held = {chunk: set(self.farm.on(chunk)) for chunk in there - backup.chunks | backup.held & there}
        self.files = dict(backup.files)
        self.uploads = [one for one in backup.uploads if set(one[2]) <= set(self.farm.on(chunk_of(one)))]
        known = [*self.files.values(), *map(chunk_of, self.uploads)]
        self.places = {chunk: set(self.farm.on(chunk)) for chunk in known}
        self.held |= {
            chunk: {one for one in self.farm.on(chunk) if chunk in self.farm.nodes[one].holds}
            for chunk in backup.garbage
            if chunk in restored & there
        }
        known_garbage = backup.garbage.keys() & backup.chunks - touched - restored
        self.garbage = {chunk: backup.garbage[chunk] for chunk in known_garbage}
        self.old = []

    # The collection

    @rule(dry_run=st.booleans())
    def a_cycle_is_asked_for(self, dry_run: bool) -> None:
        with suppress(BusyError):
            self.farm.collect.request(dry_run=dry_run)

    @rule(steps=st.sampled_from((1, 3, 10, 40)))
    def the_collection_goes_on(self, steps: int) -> None:
        for _ in range(steps):
            self.farm.step()

    @rule()
    def a_cycle_runs(self) -> None:
        with suppress(BusyError):
            self.farm.cycle()

    @rule()
    def all_is_proposed_to_be_condemned_by_mistake(self) -> None:
        chunks = [row[0] for row in self.farm.leader.db.execute("SELECT id FROM chunk")]
        self.farm.leader.system(e.SystemCommand(condemn=e.CondemnChunks(chunks=chunks, cycle=1)))

    @rule()
    def all_is_proposed_to_be_adopted_by_mistake(self) -> None:
        chunks = [row[0] for row in self.farm.leader.db.execute("SELECT id FROM chunk")]
        ones = [e.AdoptChunks.One(chunk=chunk, node_ids=self.farm.on(chunk), length=5) for chunk in chunks]
        self.farm.leader.system(e.SystemCommand(adopt=e.AdoptChunks(chunks=ones)))

    @rule()
    def all_is_proposed_to_be_forgotten_by_mistake(self) -> None:
        chunks = [row[0] for row in self.farm.leader.db.execute("SELECT id FROM chunk")]
        self.farm.leader.system(e.SystemCommand(forget_chunks=e.ForgetChunks(chunks=chunks)))

    @precondition(lambda self: self.garbage)
    @rule(data=st.data())
    def restore(self, data: Any) -> None:
        """From quarantine, or before it came there: it stays from now on where it is."""
        chunk = data.draw(st.sampled_from(sorted(self.garbage)))
        try:
            self.farm.leader.run(lambda: self.desk.restore([chunk]))
        except NotFoundError:
            return
        del self.garbage[chunk]
        reachable = {one for one in self.farm.on(chunk) if self.farm.nodes[one].reachable}
        self.held[chunk] = reachable

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        chunk = data.draw(st.sampled_from(sorted(self.held)))
        try:
            self.farm.leader.run(lambda: self.desk.release([chunk]))
        except NotFoundError:  # it waits for no release: what had it has not come to tell yet
            pass
        row = self.farm.leader.db.execute("SELECT hold FROM orphan WHERE chunk = ?", (chunk,)).fetchone()
        if row is not None and row[0] <= 0:
            del self.held[chunk]
            self.garbage[chunk] = self.now_ms

    # What must hold

    @invariant()
    def what_is_needed_is_where_it_was(self) -> None:
        if not hasattr(self, "farm"):
            return
        needed = dict(self.held)
        for chunk in [*self.files.values(), *(made.chunks[0].chunk for _, made, _ in self.uploads)]:
            needed[chunk] = self.places[chunk]
        for chunk, where in needed.items():
            assert where <= set(self.farm.on(chunk)), f"{chunk!r} is gone from {where}"

    @invariant()
    def nothing_goes_before_its_grace_is_over(self) -> None:
        if not hasattr(self, "farm"):
            return
        for node in self.farm.nodes.nodes.values():
            for chunk in node.quarantine:
                since = self.garbage.get(chunk)
                assert since is None or self.now_ms - since >= GRACE_MS or self._was_restored(chunk), chunk

    def _was_restored(self, chunk: bytes) -> bool:
        """Away on a node that did not answer when it was restored elsewhere, and released since."""
        return any(chunk in node.void_below for node in self.farm.nodes.nodes.values())

    def _was_restored_in_an_earlier_history(self, chunk: bytes) -> bool:
        holds = [node.holds[chunk] for node in self.farm.nodes.nodes.values() if chunk in node.holds]
        return any(hold.history < self.farm.history for hold in holds)

    @invariant()
    def the_metadata_is_whole(self) -> None:
        if hasattr(self, "farm"):
            assert invariants.violations(self.farm.leader.db) == []

    @invariant()
    def what_a_node_has_not_confirmed_is_not_forgotten(self) -> None:
        if not hasattr(self, "farm"):
            return
        for chunk, where in self.places.items():
            left = where & set(self.farm.on(chunk))
            assert not left or self.farm.state(chunk) != "unknown", f"{chunk!r} lies on {left}"

    @invariant()
    def what_lies_in_quarantine_has_its_story(self) -> None:
        """Until its time is over; a backup does not know what happened after it."""
        if not hasattr(self, "farm") or self.farm.history > 1 or self.now_ms >= GC_QUARANTINE_MS:
            return
        for node in self.farm.nodes.nodes.values():
            for chunk in node.quarantine:
                assert garbage.story(self.farm.leader.db, chunk).since_index > 0, (
                    f"{chunk!r}: nobody knows it"
                )

    def check(self) -> None:
        """All invariants, for plays."""
        self.what_is_needed_is_where_it_was()
        self.nothing_goes_before_its_grace_is_over()
        self.the_metadata_is_whole()
        self.what_a_node_has_not_confirmed_is_not_forgotten()
        self.what_lies_in_quarantine_has_its_story()

    def everything_is_collected(self) -> None:
        """All cycles that it takes, with nobody away."""
        for _ in range(3):
            self.farm.cycle()
            self.farm.pass_time(GRACE_SECONDS)
        self.check()

    def everything_goes_in_the_end(self) -> None:
        """Once every node answers: within a grace and two cycles, and what is needed is there."""
        index = self.farm.leader.consensus.status().commit_index
        for node in self.farm.nodes.nodes.values():
            node.reachable = True
            node.commit_index = min(node.commit_index, index)
        self.farm.elect()
        self.farm.cycle()
        self.farm.pass_time(GRACE_SECONDS)
        report = self.farm.cycle()
        assert report.outcome == "done", report
        assert not report.void, report
        for chunk in self.garbage:
            if self._was_restored_in_an_earlier_history(chunk):
                continue  # it waits for a release
            assert self.farm.on(chunk) == [], f"{chunk!r} is still there"
            assert self.farm.state(chunk) == "unknown"
        self.check()
