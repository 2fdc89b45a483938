"""What the garbage collection must never do, and what it must have done in the end, watched on every disk.

The truth is the state that the log makes, applied here entry by entry as soon as any member has applied it, and what
the disks hold. Rules:
1. A chunk that goes into quarantine is condemned and nothing else: no file, no open upload, no hold refers to it. Or it
   is a replica beyond the wish that the log says is being deleted, and enough others are there.
2. No deposed leader is obeyed, and no leader who knows less of the log than the node has heard of.
3. What was restored from quarantine stays there until an operator releases it; so does what a restored backup does
   not know, and what its open uploads may have become.
4. Nothing is condemned before it was garbage for the whole grace, by replicated time: counted here from when the log
   first said so.
5. A sealed chunk survives every crash of its node.
6. What lies in quarantine lies there for its time, and a chunk is not forgotten while a node has a copy that it had
   when the chunk was condemned.
7. In the end what is needed has a copy, and nothing else lies on any disk; that takes a grace and two cycles.
8. Whatever chunks its extents name by now: a file has the bytes that were stored.
9. Where repair and trimming run every chunk has in the end as many replicas as it wants, each with its bytes, and the
   log tells of no others. Until then the log may take for a while what a node has deleted for a replica.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from coordinator.consensus.interfaces import LogEntry
from coordinator.metadata import hashing, migrations
from coordinator.metadata.contents import CONDEMNED, RELEASED, RESTORED
from coordinator.metadata.machine import Machine
from datanode.store.holds import Hold
from quorumfs.checksum import crc32c
from quorumfs.v1 import types_pb2 as t
from tests.simulation.history import FIRST_INDEX, History
from tests.simulation.machine import empty_image
from tests.simulation.model import Model, View
from tests.simulation.world import Violation, World
from tests.support.memory_database import MemoryDatabase

GRACE_SLACK_MS = 700  # between two looks
HARMED_SECONDS = 10.0
GHOST_SECONDS = 1.0  # an entry that was on its way, and a look of the node

_NEEDED = (
    "SELECT DISTINCT extent.chunk FROM extent JOIN chunk ON chunk.id = extent.chunk WHERE chunk.home = 0"
)
_FILES = (
    "SELECT version.id, version.checksum, length, chunk, chunk_offset FROM extent"
    " JOIN version ON version.id = extent.version WHERE version.inode IS NOT NULL ORDER BY version.id, file_offset"
)
_IN_USE = "SELECT id, want FROM chunk WHERE state = 1 AND home = 0 AND upload IS NULL AND want > 0"
_LIVE = (
    "SELECT node_id, replica.chunk FROM replica JOIN node ON node.key = replica.node"
    " JOIN chunk ON chunk.id = replica.chunk"
    f" WHERE replica.state = {t.REPLICA_STATE_LIVE}"
    " AND chunk.state = 1 AND home = 0 AND want > 0 AND chunk.upload IS NULL"
)
_REPLICAS = "SELECT node_id, replica.state FROM replica JOIN node ON node.key = replica.node WHERE chunk = ?"
_REPLICA = (
    "SELECT replica.state FROM replica JOIN node ON node.key = replica.node WHERE chunk = ? AND node_id = ?"
)


class NoModel(Model):
    """The names are not what is looked at here."""

    def apply(self, entry: bytes, results: list[bytes]) -> None:
        self.view: View = {}


class Truth(History):
    """The history, and the state that it makes."""

    def __init__(self) -> None:
        super().__init__(model=NoModel())
        self.database = _opened(empty_image())

    def applied(self, node_id: str, index: int, term: int, entry: bytes | None, results: list[bytes]) -> None:
        before = self.last_index
        super().applied(node_id, index, term, entry, results)
        if self.last_index > before:
            configuration = results[0] if entry is None and results else None
            self.database.apply([LogEntry(index, term, entry, configuration)])

    @contextmanager
    def tx(self) -> Iterator[sqlite3.Connection]:
        with self.database.reader() as tx:
            yield tx

    def image(self) -> tuple[int, bytes]:
        """The index, and the state as of it."""
        return self.last_index, self.database.image()

    def fork(self, index: int, image: bytes) -> None:
        """Another history goes on from here."""
        del self.records[index - FIRST_INDEX :]
        del self.views[index - FIRST_INDEX + 1 :]
        self.hashes = {one: found for one, found in self.hashes.items() if one <= index}
        self.floor = min(self.floor, index)
        self.database.close()
        self.database = _opened(image)


class Checker:
    """Datanodes report here what they have done; whoever runs the world calls `look` now and then."""

    def __init__(self, world: World, truth: Truth, grace_ms: int, quarantine_seconds: float) -> None:
        self._world = world
        self._truth = truth
        self._grace_ms = grace_ms
        self._quarantine_seconds = quarantine_seconds
        self.on_quarantined: Callable[[bytes], None] = lambda chunk: None
        self.totals: Counter[str] = Counter()
        self._lost_histories = 0  # they are numbered from 1
        self.disks: dict[str, set[bytes]] = defaultdict(set)
        self.contents: dict[bytes, bytes] = {}  # of every chunk that was ever sealed
        self.released: set[bytes] = set()
        self.foreign: set[bytes] = set()
        self.kept: set[bytes] = set()
        self.pressed: set[str] = set()  # nodes whose disks have no room
        self.recalled: set[bytes] = set()  # what a restored log refers to, and lies in quarantine
        self.void: dict[tuple[str, bytes], Hold] = {}
        self._heard: dict[str, tuple[int, int]] = {}
        self._aside_since: dict[tuple[str, bytes], float] = {}
        self._holders: dict[bytes, set[str]] = {}  # of what is condemned, as they were then
        self._expected: dict[str, set[bytes]] = {}
        self._garbage_since: dict[bytes, int] = {}
        self._condemned: set[bytes] = set()
        self._harmed: dict[bytes, float] = {}
        self._set_back: set[str] = set()
        self._ghosts: dict[tuple[str, bytes], float] = {}  # since when the log has them
        self._backup: tuple[dict[bytes, int], set[bytes]] = {}, set()

    # Datanodes

    def sealed(self, node_id: str, chunk: bytes) -> None:
        self.disks[node_id].add(bytes(chunk))
        self.totals["sealed"] += 1

    def restored(self, node_id: str, chunk: bytes, hold: Hold) -> None:
        self.disks[node_id].add(bytes(chunk))
        key = node_id, bytes(chunk)
        self._aside_since.pop(key, None)
        self.void[key] = max(hold, self.void.get(key, hold))
        self.totals["restored"] += 1

    def purged(self, node_id: str, chunk: bytes) -> None:
        self.totals["purged"] += 1
        since = self._aside_since.pop((node_id, bytes(chunk)), None)
        if since is None or self._world.now - since >= self._quarantine_seconds * 0.9:  # clocks differ
            return
        if node_id not in self.pressed:
            raise Violation(f"{node_id} purges {chunk.hex()} after {self._world.now - since:.1f} s")
        self.totals["purged under pressure"] += 1
        there = set().union(*self.disks.values(), (one for _, one in self._aside_since))
        if chunk in self.recalled and chunk not in there:
            raise Violation(f"{node_id} purges {chunk.hex()}, to which the restored log refers")

    def obeyed(self, node_id: str, epoch: tuple[int, int]) -> None:
        if epoch < self._heard.get(node_id, (0, 0)):
            raise Violation(f"{node_id} obeys epoch {epoch} after {self._heard[node_id]}")
        self._heard[node_id] = epoch

    def quarantined(self, node_id: str, chunk: bytes, condemn_index: int, history: int) -> None:
        chunk = bytes(chunk)
        self.disks[node_id].discard(chunk)
        self._aside_since[node_id, chunk] = self._world.now
        if chunk in self._holders:
            self._holders[chunk].discard(node_id)
        self.totals["quarantined"] += 1
        self._world.tell(node_id, "quarantines", chunk=chunk.hex()[:8], condemned_at=condemn_index)
        self.on_quarantined(chunk)
        hold = self.void.get((node_id, chunk))
        if hold is not None and (history, condemn_index) <= (hold.history, hold.void_below_index):
            raise Violation(f"{node_id} deletes {chunk.hex()} by a condemnation that a restore has voided")
        if chunk in self.kept and self._hold_of(chunk) != RELEASED:
            raise Violation(f"{node_id} deletes {chunk.hex()}, which an operator has restored")
        if self._is_of_a_lost_history(node_id, history):
            if not any(chunk in held for held in self.disks.values()):
                self.foreign.discard(chunk)
            return  # what it was judged by is lost as well
        if chunk in self.foreign and chunk not in self.released:
            raise Violation(f"{node_id} deletes {chunk.hex()}, which the restored log has not seen")
        with self._truth.tx() as tx:
            self._judge(tx, node_id, chunk)

    def _is_of_a_lost_history(self, node_id: str, history: int) -> bool:
        """Whether a leader gave the order whose coordinators are lost, to a node that has heard of none since: it was
        on its way when they went."""
        return self._heard.get(node_id, (0, 0))[0] <= history <= self._lost_histories

    def _hold_of(self, chunk: bytes) -> int | None:
        with self._truth.tx() as tx:
            row = tx.execute("SELECT hold FROM orphan WHERE chunk = ?", (chunk,)).fetchone()
        return row[0] if row is not None else None

    def _judge(self, tx: sqlite3.Connection, node_id: str, chunk: bytes) -> None:
        row = tx.execute("SELECT state, upload FROM chunk WHERE id = ?", (chunk,)).fetchone()
        if row is None:
            return  # forgotten: every holder had confirmed, and this is a copy that came later
        state, upload = row
        if upload is not None:
            raise Violation(f"{node_id} deletes {chunk.hex()}, whose upload is open")
        extent = tx.execute("SELECT 1 FROM extent WHERE chunk = ? LIMIT 1", (chunk,)).fetchone()
        replica = tx.execute(_REPLICA, (chunk, node_id)).fetchone()
        is_trimmed = replica is None or replica[0] == t.REPLICA_STATE_DELETING
        if extent is None:
            hold = tx.execute("SELECT hold FROM orphan WHERE chunk = ?", (chunk,)).fetchone()
            taken_back = hold is not None and hold[0] == RESTORED and chunk not in self.kept
            if state != CONDEMNED and not taken_back and not is_trimmed:
                # what is taken back: the order was older than the restore, which follows it
                raise Violation(f"{node_id} deletes {chunk.hex()}, which is not condemned (hold {hold})")
            return
        if not is_trimmed:
            raise Violation(f"{node_id} deletes {chunk.hex()}, to which files refer (state {replica[0]})")
        (want,) = tx.execute("SELECT want FROM chunk WHERE id = ?", (chunk,)).fetchone()
        others = [one for one, held in self.disks.items() if chunk in held]
        self.totals["trimmed"] += 1
        if len(others) < want and not self._is_harmed(chunk):
            raise Violation(f"{node_id} gives {chunk.hex()} away; only {others} have it, {want} are wanted")

    # Their machines

    def crashed(self, node_id: str) -> None:
        self._expected[node_id] = set(self.disks[node_id])

    def set_back(self, node_id: str) -> None:
        """What it learned since is lost, and nobody's fault."""
        self._set_back.add(node_id)
        self.totals["disks set back"] += 1

    def started(self, node_id: str, chunks: Iterable[bytes], epoch: tuple[int, int]) -> None:
        found = {bytes(chunk) for chunk in chunks}
        expected = self._expected.pop(node_id, set())
        if node_id in self._set_back:
            self._set_back.discard(node_id)
            self._harmed.update(dict.fromkeys(self.disks[node_id] - found, self._world.now))
            for holders in self._holders.values():
                holders.discard(node_id)
            self._aside_since = {key: at for key, at in self._aside_since.items() if key[0] != node_id}
            self._heard[node_id] = epoch
            self.void = {key: hold for key, hold in self.void.items() if key[0] != node_id}
        elif expected - found:
            raise Violation(
                f"{node_id} has lost {[one.hex() for one in sorted(expected - found)]} in a crash"
            )
        elif epoch < self._heard.get(node_id, (0, 0)):
            raise Violation(f"{node_id} has forgotten that it obeyed {self._heard[node_id]}")
        self.disks[node_id] = found

    def _is_harmed(self, chunk: bytes) -> bool:
        at = self._harmed.get(chunk)
        return at is not None and self._world.now - at < HARMED_SECONDS

    # Operators

    def keep(self, chunk: bytes) -> None:
        """An operator has restored it, and was told that it is held. What files refer to wants no hold."""
        hold = self._hold_of(chunk)
        if hold is not None and hold != RELEASED:  # another operator may have done that meanwhile
            self._world.tell("", "is kept", chunk=chunk.hex()[:8], hold=hold)
            self.kept.add(chunk)

    def release(self, chunks: Iterable[bytes]) -> None:
        chunks = list(chunks)
        self._world.tell("", "are released", chunks=[one.hex()[:8] for one in chunks])
        self.released.update(chunks)
        self.kept.difference_update(chunks)

    def backed_up(self) -> None:
        """The truth is copied as it is now."""
        self.look()
        self._backup = dict(self._garbage_since), set(self._condemned)

    def forked(self) -> None:
        """The truth is an older state of another history: what it does not know is evidence to ask about."""
        there = set().union(*self.disks.values())
        with self._truth.tx() as tx:
            known = {row[0] for row in tx.execute("SELECT id FROM chunk WHERE upload IS NULL")}
            needed = {row[0] for row in tx.execute(_NEEDED)}
        self._lost_histories += 1
        self.foreign |= there - known
        self.released.clear()
        self.kept.clear()
        self._garbage_since, self._condemned = self._backup
        self._holders = {chunk: set() for chunk in self._condemned}
        aside = {chunk for _, chunk in self._aside_since}
        self._harmed.update(dict.fromkeys(needed - there - aside, self._world.now))
        self.recalled = (needed & aside) - there

    def begun(self) -> None:
        """The other history begins: what was purged until then it could not have brought back."""
        self.recalled &= {chunk for _, chunk in self._aside_since}
        with self._truth.tx() as tx:
            needed = {row[0] for row in tx.execute(_NEEDED)}
        there = set().union(*self.disks.values())
        self._harmed.update(dict.fromkeys(needed - there - self.recalled, self._world.now))

    # Now and then

    def look(self) -> None:
        with self._truth.tx() as tx:
            now_ms = tx.execute("SELECT cluster_ms FROM raft_state").fetchone()[0]
            needed = {row[0] for row in tx.execute(_NEEDED)}
            orphans = {
                row[0]: (row[1], row[2])
                for row in tx.execute("SELECT chunk, condemned_index, hold FROM orphan")
            }
            files = tx.execute(_FILES).fetchall()
            live = {(node_id, bytes(chunk)) for node_id, chunk in tx.execute(_LIVE)}
        self._look_at_contents(files)
        self._look_at_ghosts(live)
        self._look_at_grace(orphans, now_ms)
        there = set().union(*self.disks.values()) if self.disks else set()
        expected = set().union(*self._expected.values()) if self._expected else set()
        lost = sorted(needed - there - expected - self._harmed.keys() - self.recalled)
        if lost:
            raise Violation(f"nobody has {[one.hex() for one in lost]}, to which files refer")

    def _look_at_ghosts(self, live: set[tuple[str, bytes]]) -> None:
        """Replicas that count, and that their node has put aside. A restored log may not know better."""
        there = {key for key in live & self._aside_since.keys() if key[1] not in self.disks[key[0]]}
        if self._lost_histories:
            there.clear()
        self._ghosts = {key: self._ghosts.get(key, self._world.now) for key in sorted(there)}
        for (node_id, chunk), since in self._ghosts.items():
            if self._world.now - since > GHOST_SECONDS:
                raise Violation(f"{chunk.hex()} counts as live on {node_id}, which has deleted it")

    def _look_at_contents(self, rows: Sequence[tuple[int, int, int, bytes, int]]) -> None:
        found: dict[int, bytes] = {}
        checksums = {}
        for version, checksum, length, chunk, offset in rows:
            part = self.contents.get(chunk, b"")[offset : offset + length]
            found[version], checksums[version] = found.get(version, b"") + part, checksum
        self.foreign.difference_update(
            chunk for _, _, _, chunk, _ in rows
        )  # an upload that went on became a file
        for version, content in found.items():
            if crc32c(content) != checksums[version]:
                raise Violation(f"a file has other bytes than were stored: version {version} has {content!r}")

    def base_of(self, upload: bytes) -> tuple[int, list[tuple[int, int, bytes, int]]]:
        """The version that an open upload began from, 0 without one, and its extents (offset, length, chunk, chunk
        offset), as its client is told."""
        with self._truth.tx() as tx:
            row = tx.execute("SELECT base_version FROM upload WHERE id = ?", (upload,)).fetchone()
            base = int(row[0]) if row else 0
            extents = tx.execute(
                "SELECT file_offset, length, chunk, chunk_offset FROM extent WHERE version = ?"
                " ORDER BY file_offset",
                (base,),
            ).fetchall()
        return base, extents

    def are_allocated(self, chunks: Sequence[bytes]) -> bool:
        """Whether the metadata knows all of them."""
        with self._truth.tx() as tx:
            return all(tx.execute("SELECT 1 FROM chunk WHERE id = ?", (one,)).fetchone() for one in chunks)

    def is_version(self, version: int) -> bool:
        with self._truth.tx() as tx:
            return tx.execute("SELECT 1 FROM version WHERE id = ?", (version,)).fetchone() is not None

    def _look_at_grace(self, orphans: dict[bytes, tuple[int, int]], now_ms: int) -> None:
        for chunk, (condemned_index, hold) in orphans.items():
            if hold > 0:
                self._garbage_since.pop(chunk, None)
                self._condemned.discard(chunk)
                continue
            since = self._garbage_since.setdefault(chunk, now_ms)
            if condemned_index and chunk not in self._condemned:
                self._condemned.add(chunk)
                self._holders[chunk] = {one for one, held in self.disks.items() if chunk in held}
                self.totals["condemned"] += 1
                if now_ms - since < self._grace_ms - GRACE_SLACK_MS:
                    raise Violation(
                        f"{chunk.hex()} was condemned {now_ms - since} ms after it became garbage"
                    )
            if not condemned_index:
                self._condemned.discard(chunk)
        for chunk in self._garbage_since.keys() - orphans.keys():
            del self._garbage_since[chunk]
        for chunk in sorted(self._condemned - orphans.keys()):
            left = sorted(one for one in self._holders[chunk] if chunk in self.disks[one])
            if left:
                raise Violation(f"{chunk.hex()} is forgotten, and {left} have it still")
        self._condemned &= orphans.keys()

    # The end

    def uploads(self) -> int:
        with self._truth.tx() as tx:
            return int(tx.execute("SELECT count(*) FROM upload").fetchone()[0])

    def is_file(self, name: bytes) -> bool:
        """Whether a file of this name has chunks."""
        with self._truth.tx() as tx:
            row = tx.execute(
                "SELECT 1 FROM inode JOIN extent ON extent.version = inode.version WHERE name = ?", (name,)
            ).fetchone()
        return row is not None

    def cycle(self) -> int:
        """The number of the last cycle that was begun."""
        with self._truth.tx() as tx:
            row = tx.execute("SELECT value FROM setting WHERE key = 'gc.cycle'").fetchone()
        return int(row[0]) if row else 0

    def leftovers(self) -> list[str]:
        """What lies on disks and is neither needed nor held, and what the log has not forgotten."""
        with self._truth.tx() as tx:
            needed = {row[0] for row in tx.execute(_NEEDED)}
            held = {row[0] for row in tx.execute("SELECT chunk FROM orphan WHERE hold > 0")}
            orphans = {row[0] for row in tx.execute("SELECT chunk FROM orphan WHERE hold <= 0")}
        found = [
            f"{chunk.hex()} on {node_id}"
            for node_id, chunks in sorted(self.disks.items())
            for chunk in sorted(chunks - needed - held)
        ]
        return found + [f"{chunk.hex()} in the log" for chunk in sorted(orphans)]

    def missing(self) -> list[str]:
        """Held and foreign chunks that are nowhere, though nobody released them; and those of files of a restored log
        that lay in quarantine and did not come back."""
        there = set().union(*self.disks.values())
        with self._truth.tx() as tx:
            needed = {row[0] for row in tx.execute(_NEEDED)}
        wanted = (self.foreign - self.released) | (self.recalled & needed)
        return [one.hex() for one in sorted(wanted - there - self._harmed.keys())]

    def unsettled(self) -> list[str]:
        """Sealed chunks in use with more, fewer or other replicas than they want, as the log or as the disks have it.
        What is on no disk any more, and in no quarantine, is passed over: harm can be so great."""
        aside = {chunk for _, chunk in self._aside_since}
        with self._truth.tx() as tx:
            found = []
            for chunk, want in tx.execute(_IN_USE).fetchall():
                held = {one for one, chunks in self.disks.items() if chunk in chunks}
                told = dict(tx.execute(_REPLICAS, (chunk,)))
                live = {one for one, state in told.items() if state == t.REPLICA_STATE_LIVE}
                if (held or chunk in aside) and not (len(told) == len(live) == want and live <= held):
                    states = {one: t.ReplicaState.Name(state) for one, state in told.items()}
                    found.append(f"{chunk.hex()} wants {want}: {states}, files on {sorted(held)}")
        return found


def _opened(image: bytes) -> MemoryDatabase:
    machine: Any = Machine(migrations.upgrade)
    return MemoryDatabase(machine, hashing.state_hash, image=image)
