"""A consensus of one member without Raft: the real state machine on a real SQLite file, applied at once.

Services and duties are tested against it; it promises what `coordinator.consensus.Consensus` promises as long
as nobody fails. `lead` and `depose` change who leads.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from coordinator.metadata import migrations
from coordinator.metadata.machine import Machine
from quorumfs.clock import ManualClock
from quorumfs.errors import NotLeaderError, QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m

MEMBERS = tuple(
    m.Member(
        node_id=f"c{k}",
        member_uuid=f"member-{k}",
        raft=f"127.0.0.1:{k}1",
        grpc=f"127.0.0.1:{k}0",
        http=f"127.0.0.1:{k}2",
    )
    for k in (1, 2, 3)
)
CLUSTER_ID = "5b5c0b6e-0000-4000-8000-000000000001"

Done = Callable[[Any], None]


@dataclass(frozen=True)
class Image:
    """What a backup holds."""

    state: sqlite3.Connection
    index: int
    cluster_ms: int


class LocalConsensus:
    """Everything happens on the caller's thread."""

    def __init__(self, directory: Path, clock: ManualClock) -> None:
        self._clock = clock
        self._path = directory / "state.db"
        self.writer = connect(self._path)
        self._machine = Machine(migrations.upgrade)
        self._lock = threading.RLock()
        self._index = self._entries = 1
        self._began = clock.monotonic()
        self._hooks: list[Callable[[], None]] = []
        self._listeners: list[Callable[[Any], None]] = []
        self._leadership: Any = SimpleNamespace(history=1, term=1)
        self._leader_id: str | None = "c1"
        self.heard = self.age = 0.0
        self.proposed: list[Any] = []
        self.refuse_with: QuorumFSError | None = None
        self.identity = SimpleNamespace(
            cluster_id=CLUSTER_ID, history=1, members=MEMBERS, node_id="c1", member_uuid="member-1"
        )
        self.writer.execute("BEGIN")
        migrations.upgrade(self.writer, migrations.head())
        self.writer.execute("COMMIT")
        self.apply_system(
            e.SystemCommand(init=e.InitCluster(cluster_id=CLUSTER_ID, history=1, members=MEMBERS))
        )

    # Who leads

    def lead(self, term: int) -> None:
        self._leadership, self._leader_id = SimpleNamespace(history=1, term=term), "c1"
        for listener in self._listeners:
            listener(self._leadership)

    def depose(self, leader_id: str | None) -> None:
        self._leadership, self._leader_id = None, leader_id
        for listener in self._listeners:
            listener(None)

    def leadership(self) -> Any:
        return self._leadership

    def leader_id(self) -> str | None:
        return self._leader_id

    def members(self) -> tuple[m.Member, ...]:
        return MEMBERS

    def heard_age(self) -> float:
        return self.heard

    def state_age(self) -> float:
        return self.age

    def subscribe(self, listener: Callable[[Any], None]) -> None:
        self._listeners.append(listener)
        listener(self._leadership)

    def subscribe_group(self, hook: Callable[[], None]) -> None:
        self._hooks.append(hook)

    def status(self) -> Any:
        return SimpleNamespace(
            state="leader" if self._leadership else "follower",
            term=1,
            commit_index=self._index,
            applied_index=self._index,
            last_index=self._index,
            base_index=0,
            tick_age=0.0,
            journal_bytes=0,
            queue_ops=0,
            queue_bytes=0,
            longest_fsync_seconds=0.0,
            wal_bytes=0,
            longest_checkpoint_seconds=0.0,
            boot_counter=1,
            members=[],
            disk_full=False,
        )

    @property
    def term(self) -> int:
        return int(self.status().term)

    @property
    def commit_index(self) -> int:
        return int(self.status().commit_index)

    @property
    def last_index(self) -> int:
        return int(self.status().last_index)

    def schema_revision(self) -> str:
        return migrations.FIRST

    # Entries and questions

    def cluster_ms(self) -> int:
        return 1 + int((self._clock.monotonic() - self._began) * 1000)

    def state_hash(self) -> tuple[int, bytes, bytes]:
        return self.last_index, b"", bytes(32)

    def propose(self, proposal: Any, done: Done) -> None:
        if self.refuse_with is not None:
            done(self.refuse_with)
            return
        if self._leadership is None:
            done(NotLeaderError("c1 does not lead"))
            return
        self.proposed.append(proposal)
        done(self.apply(proposal.item))
        for hook in self._hooks:
            hook()

    def apply(self, item: e.Item) -> bytes:
        with self._lock:
            self._index += 1
            self._entries += 1
            entry = e.Entry(
                format=1,
                stamp=e.Stamp(cluster_ms=self.cluster_ms(), wall_ms=self._clock.wall_ms()),
                seed=self._entries.to_bytes(16, "big"),  # never twice, whatever is restored
                items=[item],
            )
            self.writer.execute("BEGIN")
            (result,) = self._machine.apply(self.writer, self._index, 1, entry.SerializeToString())
            self.writer.execute("COMMIT")
            return bytes(result)

    def apply_system(self, *commands: e.SystemCommand) -> e.SystemResult:
        raw = e.SystemBatch(commands=commands).SerializeToString()
        return e.SystemResult.FromString(self.apply(e.Item(system=raw)))

    def read(self, question: Callable[[sqlite3.Connection], bytes], done: Done) -> None:
        if self._leadership is None:
            done(NotLeaderError("c1 does not lead"))
            return
        self.read_stale(question, done)

    def read_stale(self, question: Callable[[sqlite3.Connection], bytes], done: Done) -> None:
        with self._lock:
            try:
                answer: Any = question(self.writer)
            except QuorumFSError as error:
                answer = error
        done(answer)

    # Backups

    def backup(self) -> Image:
        """The state as it is."""
        copied = sqlite3.connect(":memory:", isolation_level=None)
        self.writer.backup(copied)
        return Image(copied, self._index, self.cluster_ms())

    def restore(self, image: Image, history: int) -> None:
        """Go on from an older state, in another history; replicated time goes on from there too."""
        image.state.backup(self.writer)
        self._machine = Machine(migrations.upgrade)
        self._index = image.index
        self._began = self._clock.monotonic() - image.cluster_ms / 1000
        self._leadership = SimpleNamespace(history=history, term=1)
        init = e.InitCluster(cluster_id=CLUSTER_ID, history=history, members=MEMBERS)
        self.apply_system(e.SystemCommand(init=init))

    def close(self) -> None:
        self.writer.close()


def connect(path: Path) -> sqlite3.Connection:
    """As the database opens it: explicit transactions, usable from any thread."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection
