"""Who this member is: the record `identity.json` in a coordinator's data directory.

1. It is written once, when the node accepts a genesis: cluster, history, its name and its UUID as a member, and the
   genesis request as it came. It never becomes another's: a directory belongs to one member of one cluster.
2. `boot_counter` grows with every start, durably, before the start goes on. The others remember it, and what this
   member had acknowledged: who comes back with less is known by that.
3. A directory that has a log or a database, but no identity, is not an empty one. Starting as new over it would
   forget votes and acknowledged entries; so it is refused, and so is a record that is damaged or somebody else's.
"""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from coordinator.consensus.files import Files, RealFiles, translated
from quorumfs.errors import (
    AlreadyExistsError,
    FormatTooNewError,
    IntegrityError,
    PreconditionFailedError,
    SafetyGuardError,
)
from quorumfs.v1 import membership_pb2 as m

FILE = "identity.json"
FORMAT = 1

_TEXTS = ("cluster_id", "node_id", "member_uuid", "members", "genesis")
_NUMBERS = ("format", "history", "boot_counter")
_LOG_DIRECTORY = "raft"
_REJOIN = (
    "put it back from a copy of this directory, or empty the directory and let `dfsctl raft rejoin` refetch"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """`members` are those that it began with; later changes are in the log. `boot_counter` is 1 at the first start."""

    cluster_id: str
    history: int
    node_id: str
    member_uuid: str
    members: tuple[m.Member, ...]
    genesis: m.GenesisRequest
    boot_counter: int

    @staticmethod
    def load(directory: Path, node_id: str = "", files: Files | None = None) -> Identity | None:
        """Who the directory belongs to, counting this start; None for a directory that holds nothing of a member.

        The new `boot_counter` is durable on return. `node_id`: who it must be, if given.
        Raises IntegrityError for a damaged record, FormatTooNewError, SafetyGuardError for state without an
        identity or of another node; StorageFailure, StorageFull.
        """
        files = files or RealFiles()
        path = directory / FILE
        try:
            raw = read_record(path, files)
            if raw is None:
                _refuse_state(directory, files)
                return None
            found = decode(raw, path)
            if node_id and found.node_id != node_id:
                raise SafetyGuardError(
                    f"{directory} belongs to another member",
                    cause=f"it is {found.node_id}'s, and this node is {node_id}",
                    next="give each node its own directory (node.data_dir) and keep its name (node.id)",
                )
            identity = replace(found, boot_counter=found.boot_counter + 1)
            write_record(path, encode(identity), files)
        except OSError as error:
            raise translated(error, f"{path} cannot be read or counted up") from error
        return identity

    @staticmethod
    def accept(
        directory: Path, request: m.GenesisRequest, node_id: str, files: Files | None = None
    ) -> Identity:
        """Become the member `node_id` of the request's cluster; durable on return.

        Raises AlreadyExistsError when the directory has an identity, SafetyGuardError when it has state without
        one, PreconditionFailedError when the request does not name this node; StorageFailure, StorageFull.
        """
        files = files or RealFiles()
        path = directory / FILE
        own = [one for one in request.members if one.node_id == node_id]
        if len(own) != 1 or not own[0].member_uuid:
            raise PreconditionFailedError(
                f"{node_id} does not accept this genesis",
                cause=f"its members are {[one.node_id for one in request.members]}",
                next="the request must name this node once, with a member UUID",
            )
        genesis = m.GenesisRequest()
        genesis.CopyFrom(request)
        identity = Identity(
            request.cluster_id,
            request.history,
            node_id,
            own[0].member_uuid,
            tuple(genesis.members),
            genesis,
            boot_counter=1,
        )
        try:
            files.make_directory(directory)
            if FILE in files.names(directory):
                raise AlreadyExistsError(
                    f"{node_id} belongs to a cluster already",
                    cause=f"{path} exists",
                    next="genesis is for empty coordinators",
                )
            _refuse_state(directory, files)
            write_record(path, encode(identity), files)
        except OSError as error:
            raise translated(error, f"{path} cannot be written") from error
        return identity


def encode(identity: Identity) -> bytes:
    """The content of the file: JSON for people, with a digest over its fields."""
    fields = {
        "format": FORMAT,
        "cluster_id": identity.cluster_id,
        "history": identity.history,
        "node_id": identity.node_id,
        "member_uuid": identity.member_uuid,
        "boot_counter": identity.boot_counter,
        "members": base64.b64encode(
            m.Configuration(members=identity.members).SerializeToString(deterministic=True)
        ).decode(),
        "genesis": base64.b64encode(identity.genesis.SerializeToString(deterministic=True)).decode(),
    }
    return json.dumps({**fields, "sha256": digest(fields)}, indent=2).encode() + b"\n"


def decode(raw: bytes, path: Path) -> Identity:
    """Raises IntegrityError for damage, FormatTooNewError for a record of a later version."""
    try:
        found: dict[str, Any] = dict(json.loads(raw))
        signature = found.pop("sha256")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"it cannot be read: {error!r}") from error
    if signature != digest(found):
        raise _damaged(path, "it does not match its digest")
    if found.get("format") != FORMAT:
        raise FormatTooNewError(
            f"{path} was written by a later version",
            cause=f"format {found.get('format')}, this version knows {FORMAT}",
            next="start the version that wrote it, or a later one",
        )
    try:
        if any(type(found[key]) is not str for key in _TEXTS) or any(
            type(found[k]) is not int for k in _NUMBERS
        ):
            raise _damaged(path, "a field is not of its type")
        genesis = m.GenesisRequest.FromString(base64.b64decode(found["genesis"], validate=True))
        members = m.Configuration.FromString(base64.b64decode(found["members"], validate=True)).members
    except (KeyError, ValueError, DecodeError) as error:
        raise _damaged(path, f"a field is missing or wrong: {error!r}") from error
    return Identity(
        found["cluster_id"],
        found["history"],
        found["node_id"],
        found["member_uuid"],
        tuple(members),
        genesis,
        found["boot_counter"],
    )


def read_record(path: Path, files: Files) -> bytes | None:
    """The content of a small file, None when it is not there. Raises OSError."""
    try:
        fd = files.open(path)
    except FileNotFoundError:
        return None
    try:
        return files.read(fd, files.size(fd), 0)
    finally:
        files.close(fd)


def write_record(path: Path, content: bytes, files: Files) -> None:
    """`path` holds `content`, durably, or still what it held before: never a part. Raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    with suppress(FileNotFoundError):
        files.remove(temporary)
    fd = files.create(temporary)
    try:
        files.write(fd, content, 0)
        files.sync_data(fd)
    finally:
        files.close(fd)
    files.rename(temporary, path)
    files.sync_directory(path.parent)


def _refuse_state(directory: Path, files: Files) -> None:
    """Raises SafetyGuardError when a directory without an identity holds a log or a database."""
    try:
        names = files.names(directory)
    except FileNotFoundError:
        return
    found = [name for name in names if name.startswith("state-") or name == "CURRENT"]
    if _LOG_DIRECTORY in names:
        logs = files.names(directory / _LOG_DIRECTORY)
        found += [f"{_LOG_DIRECTORY}/{name}" for name in logs if name.startswith("segment-")]
    if found:
        raise SafetyGuardError(
            f"{directory} holds the state of a member, but {FILE} is missing",
            cause=f"found {', '.join(found[:3])}",
            next=_REJOIN,
        )


def digest(fields: dict[str, Any]) -> str:
    """Over all fields of the record but itself."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, cause: str) -> IntegrityError:
    return IntegrityError(f"{path} is damaged", cause=cause, next=_REJOIN)
