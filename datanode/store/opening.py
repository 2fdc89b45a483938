"""Opens a node's disks together: who the node is, which disks are its own, which are new or strangers.

One unusable disk degrades the node; it goes on with the others and says so. It does not go on when nobody can
say who it is: a disk that cannot be read might hold the identity that a new one would contradict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datanode.store import identity, mounts
from datanode.store.direct import Pieces
from datanode.store.disk import Disk
from datanode.store.files import Files
from datanode.store.identity import DiskIdentity
from quorumfs.errors import PreconditionFailedError, UnavailableError, WrongClusterError
from quorumfs.mint import RandomBytes, system_random, uuid_text


class NoDiskError(UnavailableError):
    """No disk of this node can be used, or none says who it is: a sick disk, or one that is not mounted."""


class NodeDisks:
    """The disks of this node and whose they are. `disks` has one for each configured directory, in order."""

    def __init__(self, disks: Sequence[Disk], owner: DiskIdentity) -> None:
        self.disks = list(disks)
        self.node_uuid = owner.node_uuid
        self.cluster_id = owner.cluster_id

    def join(self, cluster_id: str) -> None:
        """The cluster has taken this node; written on every disk. WrongClusterError for another one."""
        if self.cluster_id == cluster_id:
            return
        if self.cluster_id:
            raise WrongClusterError(
                f"this node belongs to cluster {self.cluster_id}",
                cause=f"cluster {cluster_id} claims it",
                next="check cluster.coordinators, or give the node empty data directories",
            )
        for disk in self.disks:
            if disk.writable and disk.identity is not None:
                disk.adopt(replace(disk.identity, cluster_id=cluster_id))
        if not any(disk.writable for disk in self.disks):
            raise _none_usable(self.disks)
        self.cluster_id = cluster_id

    def close(self) -> None:
        """Give the directories free."""
        for disk in self.disks:
            disk.close()


def open_disks(
    paths: Sequence[Path],
    reserve_bytes: int = 0,
    files: Files | None = None,
    random: RandomBytes = system_random,
    pieces: Pieces | None = None,
) -> NodeDisks:
    """All of `paths`, locked, identified, with their directories made. `pieces`: see Disk.

    Raises PreconditionFailedError when another process uses one of them, NoDiskError when none is usable or
    when one cannot be read and the others are new. Nothing stays locked when it raises.
    """
    files = files or Files()
    disks: list[Disk] = []
    try:
        for path in paths:
            disks.append(Disk(path, files, reserve_bytes, pieces))
            disks[-1].open()
        owner = _owner(disks, random)
        mounts.refuse_empty(disks)
        for disk in disks:
            _settle(disk, owner, random)
        mounts.remember(disks)
        if not any(disk.usable for disk in disks):
            raise _none_usable(disks)
    except (PreconditionFailedError, NoDiskError):
        for disk in disks:
            disk.close()
        raise
    return NodeDisks(disks, owner)


def _owner(disks: Sequence[Disk], random: RandomBytes) -> DiskIdentity:
    known = identity.owner_of([disk.identity for disk in disks if disk.identity is not None])
    if known is not None:
        return known
    if any(disk.health()[0] != "ok" for disk in disks):
        raise _none_usable(disks)
    return DiskIdentity("", uuid_text(random), "")


def _settle(disk: Disk, owner: DiskIdentity, random: RandomBytes) -> None:
    if disk.health()[0] == "failed":
        return
    if disk.identity is None:
        disk.adopt(DiskIdentity(owner.cluster_id, owner.node_uuid, uuid_text(random)))
        return
    refusal = identity.judge(disk.identity, owner, disk.path)
    if refusal is not None:
        disk.refuse(str(refusal))
    else:
        disk.adopt(replace(disk.identity, cluster_id=owner.cluster_id))


def _none_usable(disks: Sequence[Disk]) -> NoDiskError:
    reasons = "; ".join(f"{disk.path}: {disk.health()[1] or disk.health()[0]}" for disk in disks)
    return NoDiskError(
        "no disk says who this node is",
        cause=reasons,
        next="mount the disks of this node, or correct storage.data_dirs",
    )
