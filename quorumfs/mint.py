"""Makes identifiers from a passed-in source, so that a simulation makes the same ones again."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from quorumfs.ids import ID_BYTES

RandomBytes = Callable[[int], bytes]

system_random: RandomBytes = secrets.token_bytes


def derived_id(seed: bytes, item: int, op: int, k: int) -> bytes:
    """The k-th id of an op in a log entry: the first 16 bytes of SHA-256(seed, item, op, k).

    Every replica computes the same. `item`, `op`, `k` are below 2**32.
    """
    numbers = item.to_bytes(4, "big") + op.to_bytes(4, "big") + k.to_bytes(4, "big")
    return hashlib.sha256(seed + numbers).digest()[:ID_BYTES]


def uuid_text(random: RandomBytes = system_random) -> str:
    """A random (version 4) UUID in its usual spelling, from the given source."""
    raw = bytearray(random(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
