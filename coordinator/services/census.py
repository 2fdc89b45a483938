"""How many files and chunks there are, and how many of these are hurt, counted only so often.

While a node or a disk is gone, counting reads all replicas that it had: a second for a million. Whoever asks in between
gets the last count; it is never counted twice at once.
"""

from __future__ import annotations

import asyncio

from coordinator.metadata import queries
from coordinator.metadata.queries import ChunkCounts, LostDisk
from coordinator.services.gateway import Gateway
from quorumfs.clock import Clock

SHARE = 20  # a count that took a second holds for so many
SECONDS_MAX = 60.0


class Census:
    """All methods run on the gRPC loop."""

    def __init__(self, gateway: Gateway, clock: Clock) -> None:
        self._gateway = gateway
        self._clock = clock
        self._one = asyncio.Lock()
        self._last: tuple[frozenset[str | LostDisk], ChunkCounts] | None = None
        self._until = 0.0

    async def counts(self, gone: frozenset[str | LostDisk]) -> ChunkCounts:
        """As of now, or of a moment ago; replicas that are `gone` count as lost. Raises like `Gateway.ask`."""
        async with self._one:
            began = self._clock.monotonic()
            if self._last is not None and self._last[0] == gone and began < self._until:
                return self._last[1]
            found = await self._gateway.ask(lambda tx: queries.chunk_counts(tx, gone))
            ended = self._clock.monotonic()
            self._last, self._until = (gone, found), ended + min(SECONDS_MAX, SHARE * (ended - began))
            return found
