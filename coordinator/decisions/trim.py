"""Which replicas of a chunk are more than enough, and which of those on their way out may go, or must stay. Pure.

Theory of operation
1. A copy *counts* when it is LIVE, on a disk that is there, on a node that is alive and is not being emptied or
   maintained. What is elsewhere may come back, and what is going anyway protects nobody.
2. As many as wanted count, always: only what is beyond is taken. Those that count stay in as many zones as before, or
   in as many as replicas are wanted, if that is fewer; racks and hosts likewise, as far as that can be had.
3. What goes first: replicas on lost disks and on nodes that are being emptied; then, among those that cost no failure
   domain, the one on the fullest node. Balancing plans by this very function.
4. A replica on its way out goes on only while as many as wanted count without it. When there are fewer even with all
   that may come back, it is taken back; in between it waits. What nothing refers to any more (wants 0) is the
   collection's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import IN_MAINTENANCE, LEAVING, Candidate


@dataclass(frozen=True, slots=True)
class Held:
    """A sealed chunk and the nodes with a replica: `live`; `lost`, the same on disks that are not there; `leaving`, on
    their way out; `others`, in any other state."""

    chunk: bytes
    length: int
    checksum: int
    want: int
    live: tuple[str, ...]
    lost: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trim:
    """`drop` may go when each of `keep` turns out to have its replica."""

    drop: tuple[str, ...]
    keep: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """On replicas that leave: `go` when each of `keep` has its replica; `back`: they are needed."""

    go: tuple[str, ...] = ()
    back: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


def counting(nodes: Sequence[str], candidates: Mapping[str, Candidate]) -> list[Candidate]:
    """Those of `nodes` whose live replica counts (1). A node that this leader has not heard yet is none of them."""
    return [
        one
        for one in _known(nodes, candidates)
        if one.heard and one.liveness is Liveness.ALIVE and one.intent not in (*LEAVING, IN_MAINTENANCE)
    ]


def trim(held: Held, candidates: Mapping[str, Candidate]) -> Trim | None:
    """What of `held` is too much; None when nothing is."""
    kept = counting(held.live, candidates)
    if held.want <= 0 or len(kept) < held.want:
        return None
    drop = [node_id for node_id in held.lost if node_id in candidates]
    drop += [one.node_id for one in _known(held.live, candidates) if _may_be_emptied(one)]
    zones = min(held.want, len(_zones(kept)))
    while len(kept) > held.want:
        choice = _superfluous(kept, zones)
        if choice is None:
            break
        kept.remove(choice)
        drop.append(choice.node_id)
    if not drop:
        return None
    return Trim(tuple(drop), tuple(one.node_id for one in kept))


def judge(held: Held, candidates: Mapping[str, Candidate]) -> Verdict:
    """What becomes of those that leave (4)."""
    if held.want <= 0 or not held.leaving:
        return Verdict()
    kept = counting(held.live, candidates)
    if len(kept) >= held.want:
        return Verdict(go=held.leaving, keep=tuple(one.node_id for one in kept))
    return Verdict(back=held.leaving) if len(_hoped(held.live, candidates)) < held.want else Verdict()


def _known(nodes: Sequence[str], candidates: Mapping[str, Candidate]) -> list[Candidate]:
    return [candidates[node_id] for node_id in nodes if node_id in candidates]


def _may_be_emptied(one: Candidate) -> bool:
    return one.liveness is Liveness.ALIVE and one.intent in LEAVING


def _hoped(nodes: Sequence[str], candidates: Mapping[str, Candidate]) -> list[str]:
    """Those that count, or will when they are heard again."""
    return [
        one.node_id
        for one in _known(nodes, candidates)
        if one.intent not in LEAVING and (one.liveness is not Liveness.DEAD or one.intent == IN_MAINTENANCE)
    ]


def _superfluous(kept: Sequence[Candidate], zones: int) -> Candidate | None:
    """The one to go next, so that what remains lies in `zones` zones; None when nobody can."""

    def order(one: Candidate) -> tuple[int, int, float, str]:
        rest = [other for other in kept if other is not one]
        return (
            -len(_racks(rest)),
            -len(_hosts(rest)),
            -one.used_share,
            one.node_id,
        )

    able = [one for one in kept if len(_zones([other for other in kept if other is not one])) >= zones]
    return min(able, key=order, default=None)


def _zones(nodes: Collection[Candidate]) -> set[str]:
    """An unlabelled domain is shared with nobody."""
    return {one.zone or f"/{one.node_id}" for one in nodes}


def _racks(nodes: Collection[Candidate]) -> set[tuple[str, str]]:
    return {(one.zone, one.rack or f"/{one.node_id}") for one in nodes}


def _hosts(nodes: Collection[Candidate]) -> set[str]:
    return {one.host or f"/{one.node_id}" for one in nodes}
