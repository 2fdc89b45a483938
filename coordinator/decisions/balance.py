"""Which replicas move from fuller datanodes to emptier ones. Pure.

Theory of operation
1. How full a node is: what its chunks take of what it can hold, on disks that can be written, or could but for their
   being full. It takes part when it is alive, heard, and nothing was said against it: draining, emptied and maintained
   nodes neither give nor take.
2. There is something to do while a node is fuller than the mean by more than the threshold, or emptier. Who is fuller
   than the mean gives, the fullest first; who is emptier takes, the emptiest first.
3. A move is a copy. What goes after it is what trimming decides, so a move is planned only where that is the replica on
   a node that gives: failure domains are respected here because they are there.
4. No move makes its destination fuller than its source is then: the spread shrinks with every move, and there is an
   end.
5. Only chunks that have what they want and nothing else on its way are moved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from coordinator.decisions.liveness import Liveness
from coordinator.decisions.placement import IN_MAINTENANCE, LEAVING, Candidate
from coordinator.decisions.trim import Held, trim

DESTINATIONS_TRIED = 8


@dataclass(frozen=True, slots=True)
class Rules:
    """`threshold`: of what a node can hold, from 0 to 1; at most `moves_max` moves in one plan."""

    threshold: float
    moves_max: int


@dataclass(frozen=True, slots=True)
class Move:
    chunk: bytes
    length: int
    source: str
    destination: str


def taking_part(candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
    return {
        node_id: one
        for node_id, one in candidates.items()
        if one.heard and one.liveness is Liveness.ALIVE and one.intent == "normal" and one.room_bytes > 0
    }


def mean_share(nodes: Collection[Candidate]) -> float:
    room = sum(one.room_bytes for one in nodes)
    return sum(one.used_bytes for one in nodes) / room if room else 0.0


def givers(candidates: Mapping[str, Candidate], threshold: float) -> list[str]:
    """The nodes that are to give, the fullest first; none when all are within the threshold."""
    nodes = taking_part(candidates).values()
    mean = mean_share(nodes)
    if all(abs(one.used_share - mean) <= threshold for one in nodes):
        return []
    fuller = [one for one in nodes if one.used_share > mean]
    return [one.node_id for one in sorted(fuller, key=lambda one: (-one.used_share, one.node_id))]


def excess_bytes(candidates: Mapping[str, Candidate]) -> int:
    """How much would have to move for all to be equally full."""
    nodes = taking_part(candidates).values()
    mean = mean_share(nodes)
    return sum(max(0, one.used_bytes - round(mean * one.room_bytes)) for one in nodes)


def may_go_on(held: Held, destination: str, candidates: Mapping[str, Candidate]) -> bool:
    """Whether a move that was begun can be made: there is somebody to take the chunk, and somebody to give it, now or
    when a node is heard again. One in maintenance, or that leaves, gives none: nobody knows for how long."""
    taker = candidates.get(destination)
    if taker is None or taker.liveness is Liveness.DEAD or taker.intent != "normal" or held.want <= 0:
        return False
    givers = [candidates[node_id] for node_id in held.live if node_id in candidates]
    return any(
        one.liveness is not Liveness.DEAD and one.intent not in (*LEAVING, IN_MAINTENANCE) for one in givers
    )


def plan(chunks: Iterable[Held], candidates: Mapping[str, Candidate], rules: Rules) -> list[Move]:
    """Moves that bring the nodes together, of these chunks, as if each were done before the next is planned."""
    nodes = dict(candidates)
    moves: list[Move] = []
    for held in chunks:
        giving = givers(nodes, rules.threshold)
        if not giving or len(moves) >= rules.moves_max:
            break
        move = _move(held, nodes, giving)
        if move is not None:
            moves.append(move)
            nodes[move.source] = _changed(nodes[move.source], -move.length)
            nodes[move.destination] = _changed(nodes[move.destination], move.length)
    return moves


def _move(held: Held, nodes: Mapping[str, Candidate], giving: Collection[str]) -> Move | None:
    if held.want <= 0 or len(held.live) != held.want or held.lost or held.leaving or held.others:
        return None
    if not {*held.live} & {*giving}:
        return None
    part = taking_part(nodes)
    mean = mean_share(part.values())
    emptier = [
        one
        for one in part.values()
        if one.used_share < mean and one.node_id not in held.live and one.largest_free_bytes >= held.length
    ]
    emptier.sort(key=lambda one: (one.used_share, one.node_id))
    for one in emptier[:DESTINATIONS_TRIED]:
        after = {**nodes, one.node_id: _changed(one, held.length)}
        decided = trim(replace(held, live=(*held.live, one.node_id)), after)
        if decided is None or len(decided.drop) != 1 or decided.drop[0] not in giving:
            continue
        source = _changed(nodes[decided.drop[0]], -held.length)
        if source.used_share >= after[one.node_id].used_share:
            return Move(held.chunk, held.length, source.node_id, one.node_id)
    return None


def _changed(one: Candidate, by_bytes: int) -> Candidate:
    return replace(
        one,
        used_bytes=max(0, one.used_bytes + by_bytes),
        free_bytes=max(0, one.free_bytes - by_bytes),
        largest_free_bytes=max(0, one.largest_free_bytes - max(0, by_bytes)),
    )
