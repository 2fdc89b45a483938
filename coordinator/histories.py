"""The number of a history that begins beside another: by a restored backup, by a survivor of a lost majority.

Datanodes obey the highest. Two that begin at the same place must not share a number: by history, index and time the one
would take the chunks of the other for its own garbage. Nobody can ask who else has begun one: hence the random step.
"""

from __future__ import annotations

from quorumfs.mint import RandomBytes

HISTORY_MAX = 2**40
STEP_MAX = 2**20


def later(known: int, random: RandomBytes) -> int:
    """A number above `known`, the highest that is known."""
    return known + 1 + int.from_bytes(random(4), "big") % STEP_MAX
