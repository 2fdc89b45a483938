"""Which chunks to copy, from where, to where: fewest copies first, bounded per node. Pure.

Theory of operation
1. A source is a verified LIVE replica on a node that answers (alive, or suspect when nothing better is
   left). A corrupt, missing, pending or unverified replica is never a source.
2. A chunk needs copies when fewer LIVE replicas than wanted lie on nodes that are not dead. Chunks with
   one copy come before chunks with two. A node in maintenance comes back: its replicas count as there, unless nobody
   else has one. What lies on a node that leaves is a source like any other, and does not count.
3. Copies that are on their way count, so that nothing is copied twice; a node takes at most `per_node` of
   them at once, as destination or as source. Of small chunks more wait at a node (`weigh`): most of the time of such a
   copy would be the way of its order and of its outcome, by heartbeats.
4. The destination comes from placement among nodes that are alive, away from every node that has a replica in
   any state: a slow one only when no other can take it, and among equals where zone, rack and host have the fewest
   of the replicas that stay or are on their way. Only when no other node is left, one that has a
   corrupt or missing replica, or one on a disk that failed, gets a good one in its place: three datanodes must heal
   a rotten block and a lost disk. Where a replica is being deleted none is put.
5. When no such replica is left, one on a disk that failed is read as long as it can be: one copy, from which the others
   are made; what it gives is verified like any other.
6. A chunk with no source left is named in `lost`, never dropped silently.
7. Copies that a former leader ordered, and that nodes say they are making, are among those on their way. A young leader
   orders nothing while a node counts as alive that it has not heard: the node may be making the very copy, or have made
   it. After `suspect_seconds` such a node counts as suspect: until it is heard or dead only what has one copy left, or
   none, is copied. Nodes of a busy machine may need longer than that to find the next leader.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import IN_MAINTENANCE, LEAVING, Candidate, Chance, Wanted, place


@dataclass(frozen=True, slots=True)
class Damaged:
    """A committed chunk that may lack replicas. `live`: nodes with a verified replica; `leaving`: those whose replica
    is being deleted; `others`: nodes with any other; of these, `last_resort` have it on a disk that failed."""

    chunk: bytes
    length: int
    checksum: int
    replication: int
    live: tuple[str, ...]
    others: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    last_resort: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    chunk: bytes
    length: int
    checksum: int
    sources: tuple[str, ...]
    destination: str


@dataclass(frozen=True, slots=True)
class Running:
    """A copy that was ordered and has no outcome yet."""

    chunk: bytes
    destination: str
    source: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    copies: tuple[Copy, ...]
    lost: tuple[bytes, ...]
    waiting: int  # chunks that need a copy and get none in this round


FULL_BYTES = 8 << 20
SMALL_PER_FULL = 16


def weigh(length: int) -> float:
    """How much of a place a copy of so many bytes takes among the `per_node` of a node: 1 from FULL_BYTES on."""
    return min(1.0, max(1 / SMALL_PER_FULL, length / FULL_BYTES))


def plan(
    damaged: Iterable[Damaged],
    candidates: Mapping[str, Candidate],
    running: Collection[Running],
    *,
    per_node: int,
    at_once: int,
    chance: Chance,
    weight: Callable[[int], float] = lambda length: 1.0,
) -> Plan:
    """The next copies to order; at most `at_once` together with those that run."""
    under_way = Counter(one.chunk for one in running)
    busy: defaultdict[str, float] = defaultdict(float)
    for other in running:
        busy[other.destination] += other.weight
        busy[other.source] += other.weight
    heading = {(one.chunk, one.destination) for one in running}
    room = at_once - len(running)
    copies: list[Copy] = []
    lost: list[bytes] = []
    waiting = 0
    for one in sorted(damaged, key=lambda one: (len(_reachable(one.live, candidates)), one.chunk)):
        sources = _reachable(one.live, candidates)
        lacking = _lacking(one, sources, candidates)
        if not sources:
            sources, lacking = _reachable(one.last_resort, candidates), 1
        if not sources:
            lost.append(one.chunk)
            continue
        if lacking <= under_way[one.chunk]:
            continue
        copy = None if room <= 0 else _copy(one, sources, candidates, busy, heading, per_node, chance)
        if copy is None:
            waiting += 1
            continue
        copies.append(copy)
        room -= 1
        busy[copy.destination] += weight(one.length)
        busy[copy.sources[0]] += weight(one.length)
    return Plan(tuple(copies), tuple(lost), waiting)


def unheard(candidates: Mapping[str, Candidate]) -> list[str]:
    """The nodes that a young leader waits for before it orders anything."""
    return sorted(
        one.node_id for one in candidates.values() if one.liveness is Liveness.ALIVE and not one.heard
    )


def silent(candidates: Mapping[str, Candidate]) -> list[str]:
    """The nodes that never spoke to this leader and are not dead yet: what is not `pressing` waits for them."""
    return sorted(
        one.node_id for one in candidates.values() if one.liveness is Liveness.SUSPECT and not one.heard
    )


def pressing(one: Damaged, candidates: Mapping[str, Candidate]) -> bool:
    """Whether the chunk has one copy left, or none."""
    return len(_reachable(one.live, candidates)) <= 1


def _reachable(nodes: Sequence[str], candidates: Mapping[str, Candidate]) -> list[str]:
    """The nodes that can serve as a source, the healthiest first."""
    known = [candidates[node] for node in nodes if node in candidates]
    rank = {Liveness.ALIVE: 0, Liveness.RETURNING: 1, Liveness.SUSPECT: 2}
    usable = [one for one in known if one.liveness in rank]
    return [one.node_id for one in sorted(usable, key=lambda one: (rank[one.liveness], one.node_id))]


def _lacking(one: Damaged, sources: Collection[str], candidates: Mapping[str, Candidate]) -> int:
    """How many copies the chunk needs; copies under way are among them."""
    staying = _staying(sources, candidates)
    lacking = one.replication - len(staying) - len(_resting(one.live, candidates))
    return lacking if staying else max(lacking, 1)


def _staying(nodes: Iterable[str], candidates: Mapping[str, Candidate]) -> list[str]:
    """Those of the nodes that neither leave nor are in maintenance."""
    return [
        node
        for node in nodes
        if candidates[node].intent not in LEAVING and candidates[node].intent != IN_MAINTENANCE
    ]


def _resting(nodes: Iterable[str], candidates: Mapping[str, Candidate]) -> list[str]:
    """Those of the nodes that are in maintenance, and come back."""
    return [node for node in nodes if node in candidates and candidates[node].intent == IN_MAINTENANCE]


def _copy(
    one: Damaged,
    sources: Sequence[str],
    candidates: Mapping[str, Candidate],
    busy: Mapping[str, float],
    heading: Collection[tuple[bytes, str]],
    per_node: int,
    chance: Chance,
) -> Copy | None:
    """One more replica of one chunk, or None when no node has room for the work now."""
    idle = sorted(
        (source for source in sources if busy.get(source, 0) < per_node), key=lambda node: busy.get(node, 0)
    )
    if not idle:
        return None
    under_way = {node for chunk, node in heading if chunk == one.chunk}
    full = {node for node, number in busy.items() if number >= per_node}
    there = {*_staying(sources, candidates), *_resting(one.live, candidates), *under_way}
    beside = tuple(candidates[node] for node in sorted(there) if node in candidates)
    destination = _destination(one, beside, under_way, full, candidates, chance)
    if not destination:
        return None
    order = [*idle, *(source for source in sources if source not in idle)]
    return Copy(one.chunk, one.length, one.checksum, tuple(order), destination)


def _destination(
    damaged: Damaged,
    beside: tuple[Candidate, ...],
    under_way: Collection[str],
    full: Collection[str],
    candidates: Mapping[str, Candidate],
    chance: Chance,
) -> str:
    """Where the copy goes; empty when no node can take it now. `beside`: nodes with the other replicas."""
    alive = [node for node in candidates.values() if node.liveness is Liveness.ALIVE]
    taken = {*damaged.live, *damaged.leaving, *under_way}
    holders = {*taken, *damaged.others}

    def choose(without: Collection[str]) -> str:
        decision = place(alive, Wanted(1, 1, damaged.length, frozenset(without), beside=beside), chance)
        return decision.node_ids[0] if decision.node_ids else ""

    found = choose(holders | {*full})
    if found or choose(holders):
        return found  # or it waits for a node that is busy
    return choose(taken | {*full})
