"""The settings that are replicated, because `apply` goes by them: their keys, bounds and defaults."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quorumfs import limits
from quorumfs.errors import InvalidArgumentError

YEAR_MS = 366 * 86_400_000
DIGITS_MAX = 20


@dataclass(frozen=True, slots=True)
class Known:
    """A setting: a whole number between two bounds, both of which it may be."""

    default: int
    least: int
    most: int


KNOWN: Mapping[str, Known] = {
    "data.chunk_size_bytes": Known(limits.CHUNK_SIZE_BYTES, limits.BLOCK_BYTES, limits.CHUNK_SIZE_BYTES_MAX),
    "data.replication": Known(limits.REPLICATION_DEFAULT, 1, limits.REPLICATION_MAX),
    "data.min_replicas": Known(limits.MIN_REPLICAS_DEFAULT, 1, limits.REPLICATION_MAX),
    "data.inline_bytes_max": Known(limits.INLINE_BYTES_MAX, 0, limits.BATCH_BYTES_MAX // 2),
    "data.inline_budget_bytes": Known(limits.INLINE_BUDGET_BYTES, 0, 1 << 50),
    "session.ttl_ms": Known(limits.SESSION_TTL_MS, 1, YEAR_MS),
    "upload.ttl_ms": Known(limits.UPLOAD_TTL_MS, 1, YEAR_MS),
    "trash.retention_ms": Known(limits.TRASH_RETENTION_MS, 0, 10 * YEAR_MS),
    "gc.grace_ms": Known(limits.GC_GRACE_MS, 0, YEAR_MS),
    "gc.quarantine_ms": Known(limits.GC_QUARANTINE_MS, 0, YEAR_MS),
    "gc.paused": Known(0, 0, 1),
    "gc.cycle": Known(0, 0, 2**62),  # the number of the last one that was begun
    "balance.state": Known(0, 0, 2),  # off, running, paused
    "balance.bytes_per_second": Known(limits.BALANCE_BYTES_PER_SECOND, 1, 2**62),
    "balance.threshold_percent": Known(limits.BALANCE_THRESHOLD_PERCENT, 1, 50),
}


def load(tx: sqlite3.Connection) -> dict[str, int]:
    """Every known setting as it is now."""
    return of(tx.execute("SELECT key, value FROM setting ORDER BY key"))


def of(rows: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Every known setting, where `rows` are those of `setting`."""
    found = {key: known.default for key, known in KNOWN.items()}
    found.update((key, int(value)) for key, value in rows)
    return found


def check(key: str, value: str) -> str:
    """The value as it is stored. Raises InvalidArgumentError for an unknown key or a value out of bounds."""
    known = KNOWN.get(key)
    if known is None:
        raise InvalidArgumentError(
            f"no setting {key[:64]!a} is replicated", next=f"known: {', '.join(KNOWN)}"
        )
    whole = value.isascii() and value.isdigit() and len(value) <= DIGITS_MAX
    if not whole or not known.least <= int(value) <= known.most:
        raise InvalidArgumentError(
            f"{key} cannot be {value[:64]!a}",
            cause=f"it is a whole number from {known.least} to {known.most}",
        )
    return str(int(value))
