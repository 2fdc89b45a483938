"""What a member says of itself: plain values for whoever shows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quorumfs.v1 import membership_pb2 as m


@dataclass(frozen=True, slots=True)
class MemberState:
    """One member as seen from here. `match_index` is known to the leader only; `heard_age` in seconds."""

    member: m.Member
    match_index: int
    heard_age: float
    connected: bool

    @property
    def node_id(self) -> str:
        return self.member.node_id


@dataclass(frozen=True, slots=True)
class FsyncStats:
    """Since the start of the process."""

    count: int
    seconds_total: float
    seconds_max: float


@dataclass(frozen=True, slots=True)
class RaftState:
    """`state`: leader, follower, candidate, learner or waiting. `wal_bytes`, `longest_checkpoint_seconds`: of the
    database (wal.py); `fsync`: of the journal."""

    node_id: str
    state: str
    term: int
    leader_id: str | None
    commit_index: int
    applied_index: int
    last_index: int
    base_index: int
    members: tuple[MemberState, ...]
    history: int
    tick_age_seconds: float
    journal_bytes: int
    queue_ops: int
    queue_bytes: int
    boot_counter: int
    fsync: FsyncStats
    wal_bytes: int
    longest_checkpoint_seconds: float
    disk_full: bool = False

    @property
    def tick_age(self) -> float:
        return self.tick_age_seconds

    @property
    def longest_fsync_seconds(self) -> float:
        return self.fsync.seconds_max


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A complete copy of the state in one file; `sha256` of its bytes, `size` in bytes."""

    path: Path
    index: int
    term: int
    sha256: bytes
    size: int
