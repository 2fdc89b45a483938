"""In what order nodes are restarted. Pure.

1. Coordinators that follow, one at a time: a quorum stays.
2. Datanodes, one failure domain after the other, up to `max_unavailable` of it at once: what lies in one domain has
   replicas in others. A domain is a zone, else a rack, else a host; a node without these labels is one of its own.
3. The leader last, so that leadership moves once; who that is, is looked at before each wave.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

DOMAINS = ("zone", "rack", "host")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A node that is still to be restarted."""

    node_id: str
    is_coordinator: bool
    labels: Mapping[str, str]

    @property
    def domain(self) -> str:
        named = (f"{key}={self.labels[key]}" for key in DOMAINS if self.labels.get(key))
        return next(named, f"node {self.node_id}")


def next_wave(waiting: Sequence[Waiting], leader: str, max_unavailable: int) -> list[str]:
    """The ids of those to be restarted now, together; empty when nobody waits."""
    followers = sorted(one.node_id for one in waiting if one.is_coordinator and one.node_id != leader)
    if followers:
        return followers[:1]
    datanodes = [one for one in waiting if not one.is_coordinator]
    if datanodes:
        domain = min(one.domain for one in datanodes)
        return sorted(one.node_id for one in datanodes if one.domain == domain)[:max_unavailable]
    return [one.node_id for one in waiting]


def still(waiting: Sequence[Waiting], done: Collection[str]) -> list[Waiting]:
    return [one for one in waiting if one.node_id not in done]
