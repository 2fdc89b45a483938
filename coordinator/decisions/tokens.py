"""Whether revoking a token would shut everybody out. Pure.

1. The last good admin token is not revoked: it would be the end of administration. A new one first.
2. Revoked and ended tokens still count as tokens: when all are gone, nothing opens by itself, and a node's own secret
   (`dfsctl auth token create --secret-file`) is the way back in.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """One token that is good now."""

    token_id: str
    is_admin: bool


def why_not_revoke(good: Collection[Standing], token_id: str) -> str:
    """Why this token cannot be revoked now; empty: it can."""
    others = [one for one in good if one.token_id != token_id]
    is_admin = any(one.token_id == token_id and one.is_admin for one in good)
    if not is_admin or any(one.is_admin for one in others):
        return ""
    return "it is the last admin token that is good, and without one nobody can make, list or revoke tokens"
