"""Whether nodes may be stopped together. Pure.

1. A majority of the voters stays.
2. Every chunk keeps a replica on a node that stays.
3. Of a group that is worked on, at most so many are away at once, with those that are already.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Picture:
    """`away`: who does not answer now, or was promised to go. `voters`: the Raft group's."""

    voters: frozenset[str]
    away: frozenset[str]


def why_not_leave(
    picture: Picture, leaving: Collection[str], among: Collection[str], unavailable_max: int | None
) -> str:
    """Why these may not leave now, of what can be said without looking at chunks; empty: they may."""
    gone = picture.away | set(leaving)
    staying = picture.voters - gone
    majority = len(picture.voters) // 2 + 1
    if picture.voters & set(leaving) and len(staying) < majority:
        return (
            f"of {len(picture.voters)} voting coordinators {_names(staying)} would stay, and {majority} are"
            " needed for a quorum" + _already(picture.voters & picture.away - set(leaving))
        )
    group = set(among) | set(leaving)
    if unavailable_max is not None and len(group & gone) > unavailable_max:
        return (
            f"{len(group & gone)} of {len(group)} nodes would be away at once ({_names(group & gone)}), and"
            f" max_unavailable is {unavailable_max}"
        )
    return ""


def why_not_without(chunks_alone: int, away: Collection[str]) -> str:
    """The same, of chunks that only the leaving nodes hold."""
    if not chunks_alone:
        return ""
    what = "1 chunk has" if chunks_alone == 1 else f"{chunks_alone} chunks have"
    return f"{what} no replica on any other node that is there" + _already(away)


def _already(away: Collection[str]) -> str:
    return f"; away are {_names(away)}" if away else ""


def _names(nodes: Collection[str]) -> str:
    return ", ".join(sorted(nodes)) or "none"
