"""How much is measured in a run, and where."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Plan:
    """`directory` is on the disk that is measured; everything below it is removed again."""

    directory: Path
    rounds: int  # samples of each system, in turns
    seconds: float  # of one sample of a closed loop
    kills: int  # of a leader
    file_bytes: int  # of the large file
    files: int  # in the namespace that is restarted
    small_files: int  # of a set that goes in and out
    chunks: int  # that the garbage collection looks at
    datanodes: int  # whose heartbeats one leader gets
    stored_chunks: int  # over which a datanode is started

    @classmethod
    def full(cls, directory: Path) -> Plan:
        return cls(
            directory,
            rounds=5,
            seconds=4.0,
            kills=30,
            file_bytes=1 << 30,
            files=1_000_000,
            small_files=2000,
            chunks=1_000_000,
            datanodes=1000,
            stored_chunks=100_000,
        )

    @classmethod
    def quick(cls, directory: Path) -> Plan:
        return cls(
            directory,
            rounds=3,
            seconds=2.0,
            kills=10,
            file_bytes=256 << 20,
            files=100_000,
            small_files=500,
            chunks=100_000,
            datanodes=200,
            stored_chunks=20_000,
        )

    @staticmethod
    def say(what: str) -> None:
        """Progress, for whoever waits."""
        sys.stderr.write(f"bench: {what}\n")
        sys.stderr.flush()
