"""Mutual proof of the cluster's secret on a Raft connection, and the framing after it. Values in, bytes out; no I/O.

1. The one who dialled sends a Hello of fixed size: magic, table version, digest of (cluster id, both members' ids
   and UUIDs), its nonce. Nothing of variable length is read from a stranger, and nothing is parsed before the size and
   the magic are right.
2. The listener answers with its nonce and its proof; the dialler checks it before it shows its own, so that nothing
   is proven to a stranger who only listens. Then the listener confirms.
3. Both ends derive one key per direction from the secret and both nonces. Every frame carries a keyed BLAKE2b over
   (its number in this direction, its bytes): a frame cannot be forged, replayed, dropped, reordered, or moved to
   another connection. There is no secrecy: that comes with certificates.
4. Any deviation closes the connection. What was received up to a bad frame had been proven and stays.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable

from coordinator.consensus.messages import TABLE_VERSION
from quorumfs.limits import RAFT_FRAME_BYTES_MAX
from quorumfs.rpc.trust import proof

MAGIC = b"QFSRAFT1"
NONCE_BYTES = 32
PROOF_BYTES = 32
TAG_BYTES = 16
NAME_BYTES_MAX = 64

_HELLO = struct.Struct(f">8sH{NAME_BYTES_MAX}s32s{NONCE_BYTES}s")
_HEAD = struct.Struct(">I")
HELLO_BYTES = _HELLO.size
CHALLENGE_BYTES = NONCE_BYTES + PROOF_BYTES
HEAD_BYTES = _HEAD.size + TAG_BYTES


class RefusedError(Exception):
    """The other end is not who it should be, or sent what it must not: close the connection."""


def hello(route: bytes, own_id: str, nonce: bytes) -> bytes:
    return _HELLO.pack(MAGIC, TABLE_VERSION, own_id.encode(), route, nonce)


def read_hello(raw: bytes, route_from: Callable[[str], bytes]) -> tuple[str, bytes]:
    """(id of who dialled, its nonce). Raises RefusedError: not ours, another cluster or disk, another table.

    `route_from` gives the route that a member of that id has to know.
    """
    magic, version, name, route, nonce = _HELLO.unpack(raw)
    if magic != MAGIC:
        raise RefusedError("it does not speak this protocol")
    if version != TABLE_VERSION:
        raise RefusedError(f"it speaks version {version} of the messages, not {TABLE_VERSION}")
    try:
        peer_id = name.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise RefusedError("its node id is not ASCII") from None
    if not hmac.compare_digest(route, route_from(peer_id)):
        raise RefusedError(f"{peer_id!r} means another cluster, or is not the member of that name")
    return peer_id, nonce


def challenge(secret: bytes, own_id: str, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """The listener's answer to a Hello."""
    return server_nonce + proof(secret, "server", client_nonce, server_nonce, own_id)


def answer(secret: bytes, peer_id: str, client_nonce: bytes, raw: bytes) -> tuple[bytes, bytes]:
    """(the dialler's proof, the listener's nonce). Raises RefusedError when the listener proved nothing."""
    server_nonce, shown = raw[:NONCE_BYTES], raw[NONCE_BYTES:]
    if not hmac.compare_digest(shown, proof(secret, "server", client_nonce, server_nonce, peer_id)):
        raise RefusedError("it does not know the cluster's secret")
    return proof(secret, "client", client_nonce, server_nonce, peer_id), server_nonce


def check_answer(secret: bytes, own_id: str, client_nonce: bytes, server_nonce: bytes, shown: bytes) -> None:
    """Raises RefusedError unless the dialler proved the secret."""
    if not hmac.compare_digest(shown, proof(secret, "client", client_nonce, server_nonce, own_id)):
        raise RefusedError("it does not know the cluster's secret")


class Sealer:
    """Makes the frames of one direction."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._number = 0

    def seal(self, body: bytes) -> bytes:
        tag = _tag(self._key, self._number, body)
        self._number += 1
        return _HEAD.pack(len(body)) + tag + body


class Opener:
    """Takes the frames of one direction out of what arrives."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._number = 0
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that are complete now. Raises RefusedError for a frame that is too long or not genuine."""
        buffer = self._buffer
        buffer += data
        bodies = []
        position = 0
        while len(buffer) - position >= HEAD_BYTES:
            (length,) = _HEAD.unpack_from(buffer, position)
            if length > RAFT_FRAME_BYTES_MAX:
                raise RefusedError(f"a frame of {length} bytes; at most {RAFT_FRAME_BYTES_MAX}")
            end = position + HEAD_BYTES + length
            if len(buffer) < end:
                break
            tag = bytes(buffer[position + _HEAD.size : position + HEAD_BYTES])
            body = bytes(buffer[position + HEAD_BYTES : end])
            if not hmac.compare_digest(tag, _tag(self._key, self._number, body)):
                raise RefusedError("a frame that is not genuine, or not the next one")
            self._number += 1
            position = end
            bodies.append(body)
        del buffer[:position]
        return bodies


def keys(secret: bytes, client_nonce: bytes, server_nonce: bytes) -> tuple[bytes, bytes]:
    """(of what the dialler sends, of what the listener sends)."""
    both = client_nonce + server_nonce
    return (
        hmac.digest(secret, b"quorumfs-raft-client" + both, "sha256"),
        hmac.digest(secret, b"quorumfs-raft-server" + both, "sha256"),
    )


def route(cluster_id: str, from_id: str, from_uuid: str, to_id: str, to_uuid: str) -> bytes:
    """What both ends of a connection must agree on before anything else: who means whom, in which cluster."""
    text = "\0".join((cluster_id, from_id, from_uuid, to_id, to_uuid)).encode()
    return hashlib.sha256(text).digest()


def _tag(key: bytes, number: int, body: bytes) -> bytes:
    mac = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=TAG_BYTES, key=key)
    mac.update(body)
    return mac.digest()
