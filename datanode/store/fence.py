"""What a datanode must never forget about leaders: the epoch it obeys and the commits it has heard of.

1. A leadership is an epoch (history, term), history first. The highest one is written to the disks and synced
   *before* anything of it is obeyed; a lower one is refused for ever, also after a restart.
2. The highest commit index heard belongs to the history obeyed. On the disk it may lag by a few seconds
   between orders: it is written with the next epoch, before every delete, and by a duty of its own
   (`settle`), never by whoever only heard it: a slow disk must not hold up heartbeats.
3. Every disk keeps a copy; the highest of all copies counts, so that one lost disk forgets nothing.
4. A copy is the same record twice, written in place one after the other, each synced. A torn write spoils only
   what nothing relied on yet; damage to either leaves its twin; and a full disk has room for it.
5. `incarnation` grows with every start of the process: a late heartbeat of an earlier life is told by it.
   While it cannot be written down nothing is obeyed, though what lies here can be read.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from common import log
from datanode.store.disk import Disk
from quorumfs.checksum import crc32c
from quorumfs.errors import FencedError, UnavailableError

FILE = "node.state"
SLOT_BYTES = 4096

_MAGIC = b"QFSNODE\x01"
_RECORD = struct.Struct("<8sQQQQ")
_CRC = struct.Struct("<I")
_log = log.get(__name__)


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
    """One of the two slots of a copy."""
    body = _RECORD.pack(_MAGIC, record.history, record.term, record.commit_index, record.incarnation)
    return (body + _CRC.pack(crc32c(body))).ljust(SLOT_BYTES, b"\0")


def decode(raw: bytes) -> NodeRecord | None:
    """The record of a copy, the higher of its two; None when both are damaged."""
    found: NodeRecord | None = None
    for slot in (raw[:SLOT_BYTES], raw[SLOT_BYTES : 2 * SLOT_BYTES]):
        one = _decode_slot(slot)
        if one is not None:
            found = one if found is None else found.joined(one)
    return found


def _decode_slot(raw: bytes) -> NodeRecord | None:
    if len(raw) != SLOT_BYTES:
        return None
    body = raw[: _RECORD.size]
    magic, *numbers = _RECORD.unpack(body)
    if magic != _MAGIC or crc32c(body) != _CRC.unpack_from(raw, _RECORD.size)[0]:
        return None
    return NodeRecord(*numbers)


class ForgottenError(UnavailableError):
    """Every copy of the node's record is damaged or gone."""


class EpochStore:
    """The persisted fence of this node. Thread-safe."""

    def __init__(self, disks: Sequence[Disk]) -> None:
        self._disks = disks
        self._lock = threading.Lock()  # guards memory only
        self._writing = threading.Lock()  # held while the disks are written
        self._record = NodeRecord()  # as it is on the disks
        self._kept = False
        self._heard_commit_index = 0
        self._told_commit_index = 0

    def load(self) -> None:
        """Read all copies and begin a new incarnation.

        Raises ForgottenError when no copy is left of those there were. When they are good but cannot be
        written (a disk that is read-only), nothing is obeyed until they can.
        """
        copies = [_read(disk) for disk in self._disks]
        found = [copy for copy in copies if copy is not None]
        if not found:
            raise ForgottenError(
                "nobody knows which leader this node obeyed last",
                cause="; ".join(f"{disk.path}: {disk.health()[1] or 'no record'}" for disk in self._disks),
                next=f"put {FILE} back from a copy, or empty the data directories to begin as a new node",
            )
        for copy in found:
            self._record = self._record.joined(copy)
        self._record = replace(self._record, incarnation=self._record.incarnation + 1)
        self._heard_commit_index = self._record.commit_index
        try:
            with self._writing:
                self._save(self._record)
        except UnavailableError as error:
            _log.error("fence.not_kept", cause=str(error), next=error.next)

    @property
    def epoch(self) -> tuple[int, int]:
        """(history, term) of the highest leadership obeyed."""
        return self._record.epoch

    @property
    def commit_index(self) -> int:
        """The highest committed log index any leader of this history has told."""
        return self._heard_commit_index

    @property
    def told_commit_index(self) -> int:
        """What the leader obeyed told last; below `commit_index` when it knows less than others did."""
        return self._told_commit_index

    @property
    def incarnation(self) -> int:
        return self._record.incarnation

    def obey(self, epoch: EpochLike) -> None:
        """Returns when `epoch` is the highest and durably so.

        Raises FencedError for a lower one, UnavailableError when no disk takes it.
        """
        wanted = (epoch.history, epoch.term)
        if wanted == self._record.epoch and self._kept:
            return
        with self._writing:
            if wanted < self._record.epoch:
                raise FencedError(
                    f"epoch {wanted[0]}/{wanted[1]} is refused",
                    cause=f"this node obeys epoch {self._record.history}/{self._record.term} already",
                    next="this leader has been deposed; it steps down",
                )
            if wanted > self._record.epoch or not self._kept:
                self._save(self._newest().obeying(*wanted))

    def heard(self, epoch: EpochLike, commit_index: int) -> None:
        """The leader of `epoch` has told its commit index; on the disk with the next `settle`. Never waits."""
        with self._lock:
            if (epoch.history, epoch.term) != self._record.epoch:
                return  # a higher one is obeyed meanwhile
            self._told_commit_index = commit_index
            self._heard_commit_index = max(self._heard_commit_index, commit_index)

    def settle(self) -> None:
        """What was heard is durable on return. Before every delete. Raises UnavailableError."""
        with self._writing:
            newest = self._newest()
            if newest != self._record or not self._kept:
                self._save(newest)

    def _newest(self) -> NodeRecord:
        with self._lock:
            return replace(self._record, commit_index=self._heard_commit_index)

    def _save(self, record: NodeRecord) -> None:
        """Write to every writable disk; one must succeed. `_writing` is held: obeying waits for the disk."""
        content, written, reason = encode(record), 0, "no disk can be written"
        for disk in self._disks:
            if not disk.writable:
                continue
            try:
                _write(disk, content)
                written += 1
            except OSError as error:
                reason = str(disk.translate(error, "writing the node's record"))
        if not written:
            raise UnavailableError(
                "the node's record could not be written",
                cause=reason,
                next="free space on a disk of this node or replace it; nothing was obeyed",
            )
        with self._lock:
            if record.epoch != self._record.epoch:
                self._told_commit_index = 0
                self._heard_commit_index = record.commit_index
            self._record, self._kept = record, True


def _write(disk: Disk, content: bytes) -> None:
    path = disk.path / FILE
    try:
        disk.files.overwrite(path, content, (0, SLOT_BYTES))
    except FileNotFoundError:
        disk.files.replace_file(path, content * 2)


def _read(disk: Disk) -> NodeRecord | None:
    """The copy on one disk: that of a new node begins at zero; None when there is none to be had."""
    if not disk.usable:
        return None
    try:
        found = decode((disk.path / FILE).read_bytes())
    except FileNotFoundError:
        # A node that has joined a cluster had one: this disk is new, or somebody took its record away.
        return None if disk.identity is not None and disk.identity.cluster_id else NodeRecord()
    except OSError as error:
        disk.fail(f"{FILE} cannot be read: {error}")
        return None
    if found is None:
        disk.fail(f"{disk.path / FILE} is damaged")
    return found
