"""What a datanode must never forget about leaders: the epoch it obeys and the commits it has heard of.

1. A leadership is an epoch (history, term), history first. The highest one is written to the disks and synced
   *before* anything of it is obeyed; a lower one is refused for ever, also after a restart (decisions 16).
2. The highest commit index heard belongs to the history obeyed. On the disk it may lag by a few seconds
   between orders: it is written with the next epoch, before every delete, and every `LAG_SECONDS`.
3. Every disk keeps a copy; the highest of all copies counts, so that one lost disk forgets nothing.
4. `incarnation` grows with every start of the process: a late heartbeat of an earlier life is told by it.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from datanode.store.disk import Disk
from quorumfs.checksum import crc32c
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import FencedError, UnavailableError

FILE = "node.state"
LAG_SECONDS = 10.0

_MAGIC = b"QFSNODE\x01"
_RECORD = struct.Struct("<8sQQQQ")
_CRC = struct.Struct("<I")


class EpochLike(Protocol):
    """`quorumfs.v1.types_pb2.Epoch`, or anything shaped like it."""

    @property
    def history(self) -> int: ...

    @property
    def term(self) -> int: ...


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """The highest of everything. Nothing in it ever goes back."""

    history: int = 0
    term: int = 0
    commit_index: int = 0
    incarnation: int = 0

    @property
    def epoch(self) -> tuple[int, int]:
        return self.history, self.term

    def joined(self, other: NodeRecord) -> NodeRecord:
        """The higher of each; epochs are compared as pairs, commit indexes within their history."""
        history, term = max(self.epoch, other.epoch)
        heard = (one.commit_index for one in (self, other) if one.history == history)
        return NodeRecord(history, term, max(heard), max(self.incarnation, other.incarnation))

    def obeying(self, history: int, term: int) -> NodeRecord:
        """The record under a higher epoch. A new history counts its commits from its own fork."""
        commit_index = self.commit_index if history == self.history else 0
        return replace(self, history=history, term=term, commit_index=commit_index)


def encode(record: NodeRecord) -> bytes:
    body = _RECORD.pack(_MAGIC, record.history, record.term, record.commit_index, record.incarnation)
    return body + _CRC.pack(crc32c(body))


def decode(raw: bytes) -> NodeRecord | None:
    """The record, or None for damaged bytes."""
    if len(raw) != _RECORD.size + _CRC.size:
        return None
    body = raw[: _RECORD.size]
    magic, *numbers = _RECORD.unpack(body)
    if magic != _MAGIC or crc32c(body) != _CRC.unpack_from(raw, _RECORD.size)[0]:
        return None
    return NodeRecord(*numbers)


class EpochStore:
    """The persisted fence of this node. Thread-safe."""

    def __init__(self, disks: Sequence[Disk], clock: Clock | None = None) -> None:
        self._disks = disks
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._record = NodeRecord()
        self._told_commit_index = 0
        self._saved_commit_index = 0
        self._saved_at = self._clock.monotonic()

    def load(self) -> None:
        """Read all copies and begin a new incarnation. Raises UnavailableError if it cannot be written."""
        with self._lock:
            for disk in self._disks:
                self._record = self._record.joined(_read(disk))
            self._save(replace(self._record, incarnation=self._record.incarnation + 1))

    @property
    def epoch(self) -> tuple[int, int]:
        """(history, term) of the highest leadership obeyed."""
        return self._record.epoch

    @property
    def commit_index(self) -> int:
        """The highest committed log index any leader has told."""
        return self._record.commit_index

    @property
    def told_commit_index(self) -> int:
        """What the leader told last; below `commit_index` when it knows less of the log than others did."""
        return self._told_commit_index

    @property
    def incarnation(self) -> int:
        return self._record.incarnation

    def obey(self, epoch: EpochLike) -> None:
        """Returns when `epoch` is the highest and durably so. Raises FencedError for a lower one."""
        wanted = (epoch.history, epoch.term)
        if wanted == self._record.epoch:
            return
        with self._lock:
            if wanted < self._record.epoch:
                raise FencedError(
                    f"epoch {wanted[0]}/{wanted[1]} is refused",
                    cause=f"this node obeys epoch {self._record.history}/{self._record.term} already",
                    next="this leader has been deposed; it steps down",
                )
            if wanted > self._record.epoch:
                self._save(self._record.obeying(*wanted))

    def heard(self, commit_index: int) -> None:
        """A leader has told its commit index. On the disk within LAG_SECONDS of further calls."""
        with self._lock:
            self._told_commit_index = commit_index
            if commit_index > self._record.commit_index:
                self._record = replace(self._record, commit_index=commit_index)
            behind = self._record.commit_index > self._saved_commit_index
            if behind and self._clock.monotonic() - self._saved_at >= LAG_SECONDS:
                self._save(self._record)

    def settle(self) -> None:
        """What was heard is durable on return. Before every delete."""
        with self._lock:
            if self._record.commit_index > self._saved_commit_index:
                self._save(self._record)

    def _save(self, record: NodeRecord) -> None:
        """Write to every writable disk; one must succeed. The lock is held: obeying waits for the disk."""
        content, written, reason = encode(record), 0, "no disk can be written"
        for disk in self._disks:
            if not disk.writable:
                continue
            try:
                disk.files.replace_file(disk.path / FILE, content)
                written += 1
            except OSError as error:
                reason = str(disk.translate(error, "writing the node's record"))
        if not written:
            raise UnavailableError(
                "the node's record could not be written",
                cause=reason,
                next="free space on a disk of this node or replace it; nothing was obeyed",
            )
        self._record = record
        self._saved_commit_index = record.commit_index
        self._saved_at = self._clock.monotonic()


def _read(disk: Disk) -> NodeRecord:
    """The copy on one disk; nothing when there is none. A damaged copy counts as none: there are others."""
    if not disk.usable:
        return NodeRecord()
    try:
        found = decode((disk.path / FILE).read_bytes())
    except FileNotFoundError:
        return NodeRecord()
    except OSError as error:
        disk.fail(f"{FILE} cannot be read: {error}")
        return NodeRecord()
    if found is None:
        disk.fail(f"{disk.path / FILE} is damaged")
        return NodeRecord()
    return found
