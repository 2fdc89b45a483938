"""What the garbage collection makes of what it was told: pure; the log decides in the end (docs/decisions/0008).

`nodes` are always those whose inventory counts in this cycle; whoever is void appears in none of these arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from coordinator.decisions.packed import PackedIds, Walk

SHRINK_CHUNKS_MIN = 100
"""So many unexplained chunks are no alarm, whatever part of all they are."""


@dataclass(frozen=True, slots=True)
class Birth:
    history: int
    index: int
    cluster_ms: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a chunk's header on a disk says; `quarantined`: it is out of the way already."""

    birth: Birth
    length: int
    checksum: int
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class Restored:
    """`count`: how many of the chunks are there now. `refused`: what could not be brought back; `why` is the last
    reason."""

    count: int
    refused: frozenset[bytes] = frozenset()
    why: str = ""


def absent(
    known: Iterable[bytes], listed: Mapping[str, Walk], through: bytes | None
) -> dict[bytes, list[str]]:
    """Chunks that nodes listed and that are not `known`, with who listed them.

    `known` are all that the metadata has behind the page before, up to `through` (None: to the end); each node's walk
    has come as far, and goes on.
    """
    have = frozenset(known)
    found: dict[bytes, list[str]] = {}
    for node_id in sorted(listed):
        ids = listed[node_id].take(through)
        if not have.issuperset(ids):
            for chunk in sorted(set(ids).difference(have)):
                found.setdefault(chunk, []).append(node_id)
    return found


def unrecorded(chunk: bytes, recorded: Collection[str], listed: Mapping[str, PackedIds]) -> list[str]:
    """Nodes that listed an orphan though the metadata does not know that they have it."""
    return [node_id for node_id in sorted(listed) if node_id not in recorded and chunk in listed[node_id]]


def may_adopt(found: Found | None, history: int, mark_index: int) -> bool:
    """Whether a stray is one: what was born in this history after the mark has its row by now."""
    if found is None or found.quarantined:
        return False
    return found.birth.history != history or found.birth.index <= mark_index


def is_of_this_history(found: Found, history: int) -> bool:
    """Whether the log knew of the chunk, and so is proof that nothing refers to it. What is not waits for an operator,
    and no cycle can condemn it: it is no evidence against the metadata."""
    return found.birth.history == history


def unexplained_strays(found: int, examined: int, unexplained: int) -> int:
    """Of all that were `found`, reckoned by those whose headers were read: ids are random, so they stand for the rest.
    What waits for the next cycle because there is so much is no more evidence than what was looked at."""
    return unexplained + max(0, found - examined) * unexplained // max(examined, 1)


def shrinks(unexplained: int, chunks: int, percent: float) -> bool:
    """Whether so much garbage that nothing explains is evidence against the metadata, not against the chunks.

    `chunks`: all that the metadata knows, and the strays of this cycle.
    """
    return unexplained > SHRINK_CHUNKS_MIN and unexplained * 100 > percent * max(chunks, 1)


def deletions(
    condemned: Iterable[tuple[bytes, int, Collection[str]]], nodes: Collection[str]
) -> dict[str, list[tuple[bytes, int]]]:
    """Node -> (chunk, index of its condemnation), for all that it may hold. Void nodes get none."""
    orders: dict[str, list[tuple[bytes, int]]] = {}
    for chunk, index, holders in condemned:
        for node_id in holders:
            if node_id in nodes:
                orders.setdefault(node_id, []).append((chunk, index))
    return orders


@dataclass(frozen=True, slots=True)
class Room:
    """What a disk reports, or several together, in bytes."""

    total: int
    free: int
    used: int
    quarantined: int

    def __add__(self, other: Room) -> Room:
        return Room(
            self.total + other.total,
            self.free + other.free,
            self.used + other.used,
            self.quarantined + other.quarantined,
        )


@dataclass(frozen=True, slots=True)
class Classes:
    """Every byte of a node's disks, in one class each: together they are `room.total`, unless its last heartbeat is
    older than what the metadata says."""

    room: Room
    referenced: int
    uploading: int
    orphan: int
    condemned: int
    unaccounted: int
    other: int


def account(rooms: Mapping[str, Room], placed: Mapping[tuple[str, str], int]) -> Classes:
    """`rooms`: by disk; one that failed has no total, and what lies there is in no class. `placed`: bytes of content by
    what holds their chunks and by the disk (`metadata.garbage.Placed.lengths`)."""
    there = {disk_id for disk_id, room in rooms.items() if room.total}
    room = sum((rooms[disk_id] for disk_id in sorted(there)), Room(0, 0, 0, 0))
    lengths: Counter[str] = Counter()
    for (kind, disk_id), length in placed.items():
        if disk_id in there or disk_id not in rooms:
            lengths[kind] += length
    known = sum(lengths.values())
    return Classes(
        room,
        lengths["referenced"],
        lengths["uploading"],
        lengths["orphan"],
        lengths["condemned"],
        max(0, room.used - known),
        max(0, room.total - room.free - room.quarantined - max(room.used, known)),
    )
