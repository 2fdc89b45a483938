"""Operations and questions of the namespace in one line each, for tests that drive the state machine."""

from __future__ import annotations

import sqlite3
from typing import Any

from coordinator.metadata import queries
from quorumfs.checksum import crc32c
from quorumfs.v1 import namespace_pb2 as n


def ref(path: bytes, base: int = 0) -> n.Ref:
    return n.Ref(path=path, base=base)


def put(path: bytes, body: bytes = b"", **fields: Any) -> n.Op:
    fields.setdefault("checksum", crc32c(body))
    return n.Op(put_file=n.PutFileRequest(ref=ref(path), body=body, **fields))


def mkdir(path: bytes, **fields: Any) -> n.Op:
    return n.Op(mkdir=n.MkdirRequest(ref=ref(path), **fields))


def delete(path: bytes, **fields: Any) -> n.Op:
    return n.Op(delete=n.DeleteRequest(ref=ref(path), **fields))


def rename(source: bytes, target: bytes, replace: bool = False) -> n.Op:
    return n.Op(rename=n.RenameRequest(to=ref(target), replace=replace, **{"from": ref(source)}))


def clone(source: bytes, target: bytes, replace: bool = False) -> n.Op:
    return n.Op(clone=n.CloneRequest(to=ref(target), replace=replace, **{"from": ref(source)}))


def symlink(path: bytes, target: bytes, **fields: Any) -> n.Op:
    return n.Op(symlink=n.SymlinkRequest(ref=ref(path), target=target, **fields))


def set_attributes(path: bytes, **fields: Any) -> n.Op:
    return n.Op(set_attributes=n.SetAttributesRequest(ref=ref(path), **fields))


def undelete(path: bytes, **fields: Any) -> n.Op:
    return n.Op(undelete=n.UndeleteRequest(original_path=path, **fields))


def stat(db: sqlite3.Connection, path: bytes, follow: bool = False) -> n.ReadResult:
    return queries.answer(db, n.ReadOp(stat=n.StatRequest(ref=ref(path), follow=follow)))


def names(db: sqlite3.Connection, path: bytes) -> list[bytes]:
    """What is in a directory."""
    found = queries.answer(db, n.ReadOp(list=n.ListRequest(ref=ref(path))))
    return [one.name for one in found.listing.entries]


def trash_paths(db: sqlite3.Connection) -> list[bytes]:
    """Where the things in the trash were, oldest first."""
    found = queries.answer(db, n.ReadOp(list_trash=n.ListTrashRequest()))
    return [one.path for one in found.trash.entries]
