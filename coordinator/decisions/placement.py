"""Which datanodes take the replicas of a new chunk. Pure: chance comes in as a function.

Theory of operation
1. Every replica on a different node. Always.
2. A node that must not take data (wrong role, excluded by the client, draining, dead, full, failed disks) is
   refused with the rule that refused it; the refusals are what the caller shows when nothing can be placed.
3. Who remains is of one of three tiers: *ready*; *second* (slow, overloaded, or not heard yet by a young
   leader); *suspect*. Ready nodes are used first, second ones to reach the wanted number, suspect ones
   only to reach the minimum: a stalled node in a pipeline costs a client seconds, one replica less costs a
   repair.
4. Within a tier the next replica goes where the failure domains (zone, rack, host) hold the fewest
   replicas so far, those that the chunk has already included, and among equals by chance, weighted by free space
   (Efraimidis and Spirakis, 2006: the smallest of -log(chance) / weight).
5. The first replica lies on the client's host when a ready node runs there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from coordinator.decisions.liveness import Liveness

Chance = Callable[[], float]

SLOW_STREAMS_MIN = 64
IN_MAINTENANCE = "in maintenance"
"""What `Candidate.intent` says of a node that is away for a while."""
DECOMMISSIONING, DECOMMISSIONED = "decommissioning", "decommissioned"
"""And of one that is being emptied, or is empty."""
LEAVING = frozenset({DECOMMISSIONING, DECOMMISSIONED})
"""Of a node whose replicas are to be elsewhere as well."""


class Tier(Enum):
    READY = 0
    SECOND = 1
    SUSPECT = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """One datanode as placement sees it. Sizes in bytes; `disk_free_bytes` None: not heard yet."""

    node_id: str
    liveness: Liveness = Liveness.ALIVE
    takes_data: bool = True
    intent: str = "normal"
    heard: bool = True
    heartbeat_age_seconds: float = 0.0
    free_bytes: int = 0
    largest_free_bytes: int = 0
    used_bytes: int = 0
    disk_trouble: str = ""
    write_streams: int = 0
    zone: str = ""
    rack: str = ""
    host: str = ""

    @property
    def used_share(self) -> float:
        """Of what it can hold, how much its chunks take; from 0 to 1. What lies in quarantine is on its way out."""
        return self.used_bytes / self.room_bytes if self.room_bytes > 0 else 1.0

    @property
    def room_bytes(self) -> int:
        """What its chunks take and could take."""
        return self.used_bytes + self.free_bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """`replicas` of a chunk of `size_bytes`; fewer than `minimum` is no placement. `beside`: nodes that have one."""

    replicas: int
    minimum: int
    size_bytes: int
    exclude: frozenset[str] = frozenset()
    near_host: str = ""
    beside: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    node_id: str
    rule: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`node_ids` in pipeline order, empty when there is no placement; `refusals` names every node not
    usable."""

    node_ids: tuple[str, ...]
    refusals: tuple[Refusal, ...]

    def explain(self) -> str:
        """The refusals as one sentence part, for an error's cause."""
        if not self.refusals:
            return "no datanode is registered"
        return "; ".join(f"{refusal.node_id}: {refusal.rule}" for refusal in self.refusals)


def place(candidates: Collection[Candidate], wanted: Wanted, chance: Chance) -> Decision:
    """Choose nodes for one chunk's replicas.

    With fewer usable nodes than `wanted.replicas` but at least `wanted.minimum`, the answer is shorter and
    repair completes it. With fewer than that `node_ids` is empty and every candidate is in `refusals`.
    """
    usable: dict[Tier, list[Candidate]] = {tier: [] for tier in Tier}
    refusals: list[Refusal] = []
    for candidate in sorted(candidates, key=lambda one: one.node_id):
        rule = refusal_rule(candidate, wanted)
        if rule:
            refusals.append(Refusal(candidate.node_id, rule))
        else:
            usable[tier_of(candidate)].append(candidate)
    chosen: list[Candidate] = []
    _fill(chosen, usable[Tier.READY], wanted.replicas, wanted, chance)
    _fill(chosen, usable[Tier.SECOND], wanted.replicas, wanted, chance)
    _fill(chosen, usable[Tier.SUSPECT], wanted.minimum, wanted, chance)
    if len(chosen) >= max(1, wanted.minimum):
        return Decision(tuple(one.node_id for one in chosen), tuple(refusals))
    lacking = f"usable, but {wanted.minimum} nodes are needed and only {len(chosen)} can take a replica"
    refusals.extend(Refusal(one.node_id, lacking) for one in chosen)
    return Decision((), tuple(sorted(refusals, key=lambda one: one.node_id)))


def refusal_rule(candidate: Candidate, wanted: Wanted) -> str:
    """Why this node cannot take the chunk, or "" when it can."""
    if not candidate.takes_data:
        return "not a datanode"
    if candidate.node_id in wanted.exclude:
        return "excluded by the client, whom it just failed"
    if candidate.intent != "normal":
        return f"{candidate.intent}: takes no new data"
    if candidate.liveness is Liveness.DEAD:
        return f"dead: last heartbeat {candidate.heartbeat_age_seconds:.1f} s ago"
    if candidate.liveness is Liveness.RETURNING:
        return "returning: heard again, but not long enough to be trusted with new data"
    if candidate.disk_trouble:
        return f"no usable disk: {candidate.disk_trouble}"
    if candidate.heard and candidate.largest_free_bytes < wanted.size_bytes:
        return (
            f"full: {candidate.largest_free_bytes} bytes free on its emptiest disk, "
            f"{wanted.size_bytes} needed"
        )
    if candidate.heard and candidate.free_bytes < wanted.size_bytes:
        return f"full: {candidate.free_bytes} bytes free after what is promised, {wanted.size_bytes} needed"
    return ""


def tier_of(candidate: Candidate) -> Tier:
    if candidate.liveness is Liveness.SUSPECT:
        return Tier.SUSPECT
    if not candidate.heard or candidate.write_streams >= SLOW_STREAMS_MIN:
        return Tier.SECOND
    return Tier.READY


def _fill(
    chosen: list[Candidate], tier: Sequence[Candidate], number: int, wanted: Wanted, chance: Chance
) -> None:
    """Move nodes of one tier to `chosen` until there are `number`, spreading over failure domains."""
    toll = {one.node_id: -math.log(1.0 - chance()) / max(1, one.free_bytes) for one in tier}
    rest = list(tier)
    while rest and len(chosen) < number:
        near_counts = not chosen and wanted.near_host != ""
        best = min(
            rest,
            key=lambda one: (
                near_counts and one.host != wanted.near_host,
                *crowding(one, [*wanted.beside, *chosen]),
                toll[one.node_id],
                one.node_id,
            ),
        )
        rest.remove(best)
        chosen.append(best)


def crowding(one: Candidate, there: Sequence[Candidate]) -> tuple[int, int, int]:
    """How many replicas share this node's zone, rack, host; an unlabelled domain is shared with nobody.

    `there`: the nodes that have or get one.
    """
    zone = sum(1 for other in there if one.zone and other.zone == one.zone)
    rack = sum(1 for other in there if one.rack and (other.zone, other.rack) == (one.zone, one.rack))
    host = sum(1 for other in there if one.host and other.host == one.host)
    return zone, rack, host
