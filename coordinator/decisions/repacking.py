"""Which sparse chunks go into the next pack. Pure (docs/decisions/0012)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Sparse(Protocol):
    """`length`, `live_bytes` in bytes; `want`: replicas."""

    @property
    def length(self) -> int: ...

    @property
    def live_bytes(self) -> int: ...

    @property
    def want(self) -> int: ...


def choose(found: Sequence[Sparse], pack_bytes_max: int) -> list[int]:
    """The numbers of those that are rewritten together: they want the same number of replicas, fit into one pack, and
    give back the most; one that is too large for any pack by itself is left alone."""
    groups: dict[int, list[int]] = {}
    order = sorted(range(len(found)), key=lambda at: (found[at].live_bytes - found[at].length, at))
    for at in order:
        if found[at].live_bytes <= pack_bytes_max:
            groups.setdefault(found[at].want, []).append(at)
    best: list[int] = []
    best_dead = 0
    for _, group in sorted(groups.items()):
        chosen, size, dead = [], 0, 0
        for at in group:
            one = found[at]
            if size + one.live_bytes > pack_bytes_max:
                continue
            chosen.append(at)
            size += one.live_bytes
            dead += one.length - one.live_bytes
        if dead > best_dead:
            best, best_dead = chosen, dead
    return sorted(best)
