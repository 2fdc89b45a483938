"""Who owns a disk: the record `disk.json`, and the judgement over several of them. Pure.

1. A disk belongs to one node (its UUID) of one cluster. Both are written when the disk is first used; the
   cluster's id follows when the node has been registered the first time.
2. The first usable disk of the configuration says who the node is. A disk of another node or another cluster
   is refused with the reason: it may have been plugged into the wrong machine, and its chunks are not ours.
3. A record that does not match its checksum is refused, never replaced: it may stand in front of good chunks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quorumfs.checksum import crc32c
from quorumfs.errors import (
    DuplicateNodeError,
    FormatTooNewError,
    IntegrityError,
    QuorumFSError,
    WrongClusterError,
)

FILE = "disk.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """What `disk.json` says. `cluster_id` is empty until the node has been registered."""

    cluster_id: str
    node_uuid: str
    disk_id: str
    format: int = FORMAT


def encode(identity: DiskIdentity) -> bytes:
    """The content of the file: JSON for people, with a checksum over its fields."""
    fields = {
        "format": identity.format,
        "cluster_id": identity.cluster_id,
        "node_uuid": identity.node_uuid,
        "disk_id": identity.disk_id,
    }
    return json.dumps({**fields, "crc32c": _digest(fields)}, indent=2).encode() + b"\n"


def decode(raw: bytes, path: Path) -> DiskIdentity:
    """Raises IntegrityError for damage, FormatTooNewError for a record of a later version."""
    try:
        found = json.loads(raw)
        fields = {key: found[key] for key in ("format", "cluster_id", "node_uuid", "disk_id")}
        digest = found["crc32c"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"it cannot be read: {error!r}") from error
    if digest != _digest(fields):
        raise _damaged(path, "it does not match its checksum")
    identity = DiskIdentity(fields["cluster_id"], fields["node_uuid"], fields["disk_id"], fields["format"])
    if identity.format != FORMAT:
        raise FormatTooNewError(
            f"{path} was written by a later version",
            cause=f"format {identity.format}, this version knows {FORMAT}",
            next="start the version that wrote it, or a later one",
        )
    return identity


def judge(identity: DiskIdentity, owner: DiskIdentity, path: Path) -> QuorumFSError | None:
    """Why the disk at `path` may not be used beside `owner`, the node's first disk; None if it may."""
    if identity.node_uuid != owner.node_uuid:
        return DuplicateNodeError(
            f"the disk {path} belongs to another node",
            cause=f"its node UUID is {identity.node_uuid}, this node's is {owner.node_uuid}",
            next="mount it where it belongs, or empty it if its chunks are no longer needed",
        )
    if identity.cluster_id and owner.cluster_id and identity.cluster_id != owner.cluster_id:
        return WrongClusterError(
            f"the disk {path} belongs to another cluster",
            cause=f"its cluster is {identity.cluster_id}, this node's is {owner.cluster_id}",
            next="mount it where it belongs, or empty it if its chunks are no longer needed",
        )
    return None


def owner_of(identities: Sequence[DiskIdentity]) -> DiskIdentity | None:
    """Who the node is by its disks, in the order of the configuration; None when all are new."""
    if not identities:
        return None
    first = identities[0]
    own = (
        other.cluster_id for other in identities if other.node_uuid == first.node_uuid and other.cluster_id
    )
    return first if first.cluster_id else replace(first, cluster_id=next(own, ""))


def _digest(fields: dict[str, object]) -> str:
    return f"{crc32c(json.dumps(fields, sort_keys=True).encode()):08x}"


def _damaged(path: Path, cause: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged",
        cause=cause,
        next="check the disk; if its chunks are not needed, empty the directory and start again",
    )
