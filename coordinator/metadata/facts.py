"""What nearly every entry asks for and hardly any changes: the settings, the members, the history. One statement reads
them all; what it says is worked out once for the same rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from coordinator.metadata import settings
from quorumfs.v1 import membership_pb2 as m

_SETTING, _MEMBER, _CLUSTER = range(3)
_READ = (
    f"SELECT {_SETTING}, key, value FROM setting"
    f" UNION ALL SELECT {_MEMBER}, node_id, member FROM member"
    f" UNION ALL SELECT {_CLUSTER}, '', history FROM cluster WHERE id = 1"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """`majority`: how many coordinators have what is committed, at least; `history`: None before the cluster is
    initialised."""

    settings: Mapping[str, int]
    majority: int
    history: int | None


def load(tx: sqlite3.Connection) -> Facts:
    """As the tables have them now."""
    return _facts(tuple(tx.execute(_READ)))


@lru_cache(maxsize=16)
def _facts(rows: tuple[tuple[int, str, Any], ...]) -> Facts:
    """Of nothing but the rows, so that it does not matter whether it is made again or was kept."""
    found: dict[int, list[tuple[str, Any]]] = {_SETTING: [], _MEMBER: [], _CLUSTER: []}
    for kind, key, value in rows:
        found[kind].append((key, value))
    voters = [raw for _, raw in found[_MEMBER] if not m.Member.FromString(raw).learner]
    history = next((int(value) for _, value in found[_CLUSTER]), None)
    return Facts(settings.of(found[_SETTING]), len(voters) // 2 + 1, history)
