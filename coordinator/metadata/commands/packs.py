"""Packed files: a client has sealed a chunk with the bytes of many small files, and now makes the files.

1. The pack is a chunk of an open upload, as any other chunk that is not yet in use: GC leaves it alone, and when
   the upload ends it stands on the extents of its files, or is an orphan.
2. A file takes a range of it. Whether the bytes there are the file's is the client's word, as it is for every
   extent that is not a whole chunk; the file's checksum is kept for whoever reads it.
3. A refusal that concerns the pack, and not one file of it, is UPLOAD_GONE or CHUNK_NOT_FOUND: then the client sends
   the pack again.
"""

from __future__ import annotations

from coordinator.metadata import contents
from coordinator.metadata.context import Context
from quorumfs.errors import ChunkNotFoundError, InvalidArgumentError, UploadGoneError
from quorumfs.ids import ID_BYTES
from quorumfs.v1 import namespace_pb2 as n

_UPLOAD = "SELECT min_replicas FROM upload WHERE id = ?"
_PACK = "SELECT length, live, want FROM chunk WHERE id = ? AND upload = ? AND state = ?"


def check(context: Context, request: n.PutFileRequest, replication: int) -> int:
    """Whether the range may be a file of so many replicas; how many are wanted of its pack so far. Writes nothing.

    Raises InvalidArgumentError, UploadGoneError, ChunkNotFoundError.
    """
    packed = request.packed
    if request.body:
        raise InvalidArgumentError("a packed file has no body")
    length, live, want, least = _pack(context, packed)
    asked = max(least, min(context.setting("data.min_replicas"), replication))
    if live < asked:
        raise ChunkNotFoundError(
            f"chunk {packed.chunk.hex()} is durable on {live} datanodes",
            cause=f"this file asks for {asked}",
            next="send the pack again",
        )
    if not packed.length or packed.chunk_offset + packed.length > length:
        raise InvalidArgumentError(
            f"chunk {packed.chunk.hex()} has {length} bytes",
            cause=f"a file names {packed.length} from {packed.chunk_offset} on",
        )
    return want


def _pack(context: Context, packed: n.Packed) -> tuple[int, int, int, int]:
    """Like `Context.packs`; hundreds of files of an entry name the same. Raises like `check`."""
    key = packed.upload, packed.chunk
    known = context.packs.get(key)
    if known is not None:
        return known
    if len(packed.upload) != ID_BYTES or len(packed.chunk) != ID_BYTES:
        raise InvalidArgumentError("a packed file names an upload and a chunk of it")
    upload = context.execute(_UPLOAD, (packed.upload,)).fetchone()
    if upload is None:
        raise UploadGoneError("the upload of the pack is not open", next="send the pack again")
    row = context.execute(_PACK, (packed.chunk, packed.upload, contents.SEALED)).fetchone()
    if row is None:
        raise ChunkNotFoundError(
            f"chunk {packed.chunk.hex()} is no sealed one of this upload", next="hand it in first"
        )
    length, live, want = row
    found = context.packs[key] = length, live, want, upload[0]
    return found


def want(context: Context, packed: n.Packed, replication: int) -> None:
    """Of a pack as many replicas are wanted as of the file in it that asks for most."""
    context.execute("UPDATE chunk SET want = ?1 WHERE id = ?2 AND want < ?1", (replication, packed.chunk))
    context.packs.clear()
