"""What a run of chaos does, and when: a value that follows from the seed. Pure.

Harms are cards. A deck has every card once and is shuffled; a run plays whole decks, so that however short it is
every kind of harm to every role happens. Who is meant is decided when a card is played (the leader is whoever leads
then), by the number in it, so that the same seed meets the same nodes as far as the cluster is the same.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

PACE_SECONDS = 3.0  # between two cards, at least, when more than one deck is played
PARTITION_SECONDS = 6.0  # and between two partitions, of which there is one at a time

ROLES: Mapping[str, tuple[str, ...]] = {
    "kill": ("leader", "coordinator", "datanode", "sidecar", "client"),
    "hang": ("leader", "coordinator", "datanode", "sidecar", "client"),
    "restart": ("leader", "coordinator", "datanode", "sidecar"),
    "blackout": ("coordinators", "everybody"),
    "fill": ("coordinator", "datanode"),
    "flip": ("datanode",),
    "truncate": ("datanode",),
    "remove": ("datanode",),
    "partition": ("leader", "mute", "deaf", "follower", "datanodes", "minority", "groups", "flapping"),
}
"""Harm -> whom it is done to. kill: SIGKILL; hang: SIGSTOP; restart: SIGTERM; blackout: SIGKILL to many at once; fill:
no room on the disk; flip, truncate, remove: to the file of a chunk; partition: see `cut_pairs`."""

SECONDS: Mapping[str, tuple[float, float]] = {
    "kill": (0.2, 6.0),
    "hang": (0.5, 9.0),
    "restart": (0.0, 2.0),
    "blackout": (0.2, 2.0),
    "fill": (2.0, 8.0),
    "partition": (2.0, 8.0),
}
"""How long a harm lasts, from and to; what is not here is done at once and stays."""


FLAP_SECONDS = (1.0, 3.0)
FLAPPING_SECONDS_MIN = 6.0

Pair = tuple[str, str]
"""(from, to): what the first sends does not reach the second."""


@dataclass(frozen=True, slots=True)
class Step:
    """A card with its time: `at` seconds from the beginning for `seconds`; `pick` in [0, 1) chooses among many."""

    at: float
    seconds: float
    harm: str
    role: str
    pick: float

    def __str__(self) -> str:
        return f"{self.harm} {self.role}"


def make_plan(seed: int, seconds: float, harms: Collection[str]) -> tuple[Step, ...]:
    """The steps in order, spread over `seconds`: every card of these harms as often as every other."""
    dice = random.Random(f"chaos {seed}")
    cards = [(harm, role) for harm in sorted(harms) for role in ROLES[harm]]
    partitions = len(ROLES["partition"]) if "partition" in harms else 0
    decks = max(1, int(seconds / max(len(cards) * PACE_SECONDS, partitions * PARTITION_SECONDS)))
    pause = seconds / (decks * len(cards))
    steps: list[Step] = []
    for _ in range(decks):
        dice.shuffle(cards)
        for harm, role in cards:
            at = (len(steps) + dice.random()) * pause
            shortest, longest = SECONDS.get(harm, (0.0, 0.0))
            if role == "flapping":
                shortest, longest = FLAPPING_SECONDS_MIN, FLAPPING_SECONDS_MIN + longest
            steps.append(Step(at, dice.uniform(shortest, longest), harm, role, dice.random()))
    return tuple(steps)


def flaps(pick: float) -> Iterator[float]:
    """How long a flapping link is cut, whole, cut, ..."""
    dice = random.Random(f"flaps {pick}")
    while True:
        yield dice.uniform(*FLAP_SECONDS)


def cut_pairs(
    shape: str,
    pick: float,
    leader: str,
    coordinators: Sequence[str],
    datanodes: Sequence[str],
    clients: Sequence[str],
) -> frozenset[Pair]:
    """What a partition of that shape cuts, between machines.

    leader: from and to the other coordinators; mute: only what the leader sends them; deaf: only what they send it;
    follower: leader and one of them; datanodes: leader and at least two datanodes, which clients reach; minority: the
    leader with a client and some datanodes, from all others; groups: any two groups, both ways or one; flapping: one of
    these.
    """
    dice = random.Random(f"{shape} {pick}")
    others = [one for one in coordinators if one != leader]
    everybody = [*coordinators, *datanodes, *clients]
    match shape:
        case "mute":
            return _between([leader], others)
        case "deaf":
            return _between(others, [leader])
        case "leader":
            return _both([leader], others)
        case "follower":
            return _both([leader], [dice.choice(others)])
        case "datanodes":
            return _both([leader], dice.sample(datanodes, dice.randint(2, len(datanodes))))
        case "minority":
            some = dice.sample(datanodes, dice.randint(1, len(datanodes) - 1))
            few = [leader, dice.choice(clients), *some]
            return _both(few, [one for one in everybody if one not in few])
        case "groups":
            dice.shuffle(everybody)
            size = dice.randint(1, len(everybody) - 1)
            direction = dice.choice((_both, _both, _between))
            return direction(everybody[:size], everybody[size:])
        case "flapping":
            other = dice.choice([one for one in ROLES["partition"] if one != "flapping"])
            return cut_pairs(other, pick, leader, coordinators, datanodes, clients)
    raise ValueError(f"no partition has the shape {shape!r}")


def _between(sources: Iterable[str], targets: Sequence[str]) -> frozenset[Pair]:
    return frozenset((source, target) for source in sources for target in targets)


def _both(some: Sequence[str], others: Sequence[str]) -> frozenset[Pair]:
    return _between(some, others) | _between(others, some)
