"""Whether a change of the access tokens would shut everybody out, or open the cluster. Pure.

1. The first token is an admin's: with any other nobody could make a second one.
2. The last good admin token is not revoked while others are: it would be the end of administration. A new one first.
3. Revoked and ended tokens still count as tokens: when all are gone, nothing opens by itself, and a node's own secret
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


def why_not_create(good: Collection[Standing], is_admin: bool) -> str:
    """Why a token of this kind cannot be made now; empty: it can."""
    if is_admin or any(one.is_admin for one in good):
        return ""
    return "no admin token is good, and nobody else could make, list or revoke tokens"


def why_not_revoke(good: Collection[Standing], token_id: str) -> str:
    """Why this token cannot be revoked now; empty: it can."""
    others = [one for one in good if one.token_id != token_id]
    is_admin = any(one.token_id == token_id and one.is_admin for one in good)
    if not is_admin or any(one.is_admin for one in others):
        return ""
    return "it is the last admin token that is good, and without one nobody can make, list or revoke tokens"
