"""What an operator may choose about the Raft group's member on this node."""

from __future__ import annotations

from dataclasses import dataclass

from quorumfs.errors import InvalidArgumentError
from quorumfs.limits import (
    ENTRY_BYTES_MAX,
    MIB,
    RAFT_ELECTION_SECONDS_MAX,
    RAFT_ELECTION_SECONDS_MIN,
    RAFT_HEARTBEAT_SECONDS,
)


@dataclass(frozen=True, slots=True)
class ConsensusSettings:
    """Times in seconds. `node_id` is the identity's unless given here.

    `journal_keep_bytes` of log stay behind what SQLite has made durable, so that a member that was away for
    a while needs no snapshot.
    """

    host: str
    port: int
    node_id: str = ""
    heartbeat_seconds: float = RAFT_HEARTBEAT_SECONDS
    election_seconds_min: float = RAFT_ELECTION_SECONDS_MIN
    election_seconds_max: float = RAFT_ELECTION_SECONDS_MAX
    read_lease: bool = True
    journal_segment_bytes: int = 16 * MIB
    journal_keep_bytes: int = 64 * MIB
    reader_threads: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_seconds * 3 < self.election_seconds_min < self.election_seconds_max:
            raise InvalidArgumentError(
                "the Raft times do not fit together",
                cause=f"heartbeat {self.heartbeat_seconds:g} s, "
                f"election {self.election_seconds_min:g} to {self.election_seconds_max:g} s",
                next="the shortest election timeout must be longer than three heartbeats",
            )
        if self.journal_segment_bytes < 2 * ENTRY_BYTES_MAX:
            raise InvalidArgumentError(
                "a journal segment must hold at least two entries",
                cause=f"{self.journal_segment_bytes} bytes are less than {2 * ENTRY_BYTES_MAX}",
            )
