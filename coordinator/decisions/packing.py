"""Which inline bodies the leader moves to datanodes next. Pure.

1. All are candidates when they take more than `threshold_bytes` together; otherwise those that are old enough.
2. A pack has one number of replicas: of the candidates those that ask for the same, the oldest first; of several such
   groups the largest goes.
3. Old bodies wait until they are worth a pack. Too many bytes do not wait, and neither do so many bodies that nobody
   looks at those behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Body:
    """An inline chunk of `length` bytes, `want` replicas, born at `birth_ms` of cluster time."""

    chunk: bytes
    length: int
    want: int
    birth_ms: int


@dataclass(frozen=True, slots=True)
class Rules:
    threshold_bytes: int
    age_ms: int
    pack_bytes_min: int
    pack_bytes_max: int


def choose(
    inline_bytes: int, oldest: Sequence[Body], is_all: bool, now_ms: int, rules: Rules
) -> Sequence[Body]:
    """The bodies of the next pack, in its order; none when there is nothing to do.

    `oldest`: the oldest bodies first; `is_all`: there are no others.
    """
    is_over = inline_bytes > rules.threshold_bytes
    groups: dict[int, list[Body]] = {}
    for body in oldest:
        if is_over or now_ms - body.birth_ms >= rules.age_ms:
            groups.setdefault(body.want, []).append(body)
    if not groups:
        return ()
    group = max(groups.values(), key=lambda one: (sum(body.length for body in one), -one[0].want))
    pack: list[Body] = []
    size = 0
    for body in group:
        if pack and size + body.length > rules.pack_bytes_max:
            break
        pack.append(body)
        size += body.length
    return pack if is_over or not is_all or size >= rules.pack_bytes_min else ()
