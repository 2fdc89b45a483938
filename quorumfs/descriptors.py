"""The messages of a short-circuit read: a datanode hands a client on its own host an open chunk.

On a SOCK_SEQPACKET connection to the abstract name that `Chunks.GetShortCircuit` told, with its ticket and key:

    client   hello    ticket, nonce
    server   answer   nonce, proof          it is the node that gave the ticket
    client   proof                          it is who was given the key
    client   chunk id                       any number of times, one after the other
    server   status, and if that is OPENED: where the data lies, length, block checksums, and one descriptor

1. Proofs are those of rpc/trust.py, with the ticket's key as the secret.
2. Any other status, and any surprise, means: read over gRPC. Reasons are told there.
3. Whoever receives believes nothing: the table has to compose to the checksum in the metadata.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from quorumfs import limits
from quorumfs.checksum import CHECKSUM_BYTES, block_count
from quorumfs.errors import InvalidArgumentError
from quorumfs.ids import ID_BYTES

TICKET_BYTES = 16
NONCE_BYTES = 32
KEY_BYTES = PROOF_BYTES = hashlib.sha256().digest_size
HELLO_BYTES = TICKET_BYTES + NONCE_BYTES
ANSWER_BYTES = NONCE_BYTES + PROOF_BYTES
CHUNK_BYTES = ID_BYTES

OPENED = 0
REFUSED = 1

_OPENED = struct.Struct("<BIQ")  # status, where the data begins in the file, its length
REPLY_BYTES_MAX = _OPENED.size + CHECKSUM_BYTES * block_count(limits.CHUNK_SIZE_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Opened:
    """What comes with a descriptor: `length` bytes of data at `data_offset` of the file, and their table."""

    data_offset: int
    length: int
    table: bytes


def key_of(secret: bytes, ticket: bytes) -> bytes:
    """The key of one client, which cannot be told from those of others."""
    return hmac.digest(secret, b"quorumfs short-circuit\0" + ticket, "sha256")


def encode_opened(opened: Opened) -> bytes:
    return _OPENED.pack(OPENED, opened.data_offset, opened.length) + opened.table


def decode_reply(raw: bytes) -> Opened | None:
    """What a server answered to a chunk's id; None when it refused. Raises InvalidArgumentError."""
    if raw[:1] == bytes([REFUSED]) and len(raw) == 1:
        return None
    if len(raw) < _OPENED.size or raw[0] != OPENED:
        raise InvalidArgumentError("a short-circuit answer cannot be read", cause=f"it has {len(raw)} bytes")
    _, data_offset, length = _OPENED.unpack_from(raw)
    table = raw[_OPENED.size :]
    if length > limits.CHUNK_SIZE_BYTES_MAX or len(table) != CHECKSUM_BYTES * block_count(length):
        raise InvalidArgumentError(
            "a short-circuit answer cannot be read",
            cause=f"{len(table)} bytes of checksums for {length} bytes of data",
        )
    return Opened(data_offset, length, table)
