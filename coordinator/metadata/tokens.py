"""Questions about access tokens. Pure."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenRow:
    """`expires_ms`: replicated time; 0: never. `revoked`: 1 or 0."""

    token_id: str
    name: str
    role: str
    hash: bytes
    created_wall_ms: int
    expires_ms: int
    revoked: int


def token_rows(tx: sqlite3.Connection) -> list[TokenRow]:
    """All there are, the oldest first."""
    rows = tx.execute(
        "SELECT token_id, name, role, hash, created_wall_ms, expires_ms, revoked FROM token"
        " ORDER BY created_wall_ms, token_id"
    )
    return [TokenRow(*row) for row in rows]


def is_good(row: TokenRow, now_ms: int) -> bool:
    """Whether it opens anything at this replicated time."""
    return not row.revoked and (row.expires_ms == 0 or now_ms < row.expires_ms)
