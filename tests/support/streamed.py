"""The context of a served stream, without a server: what it was sent, and what it wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc.aio


class StreamContext:
    """Gives `requests` one by one, then, with `ends`, the end. What is written waits for `may_write`."""

    def __init__(self, requests: Iterable[bytes], *, ends: bool = True) -> None:
        self._requests = iter(requests)
        self._ends = ends
        self.taken: list[bytes] = []
        self.written: list[bytes] = []
        self.may_write = asyncio.Event()
        self.may_write.set()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:9"

    async def read(self) -> object:
        await asyncio.sleep(0)
        for raw in self._requests:
            self.taken.append(raw)
            return raw
        if not self._ends:
            await asyncio.Event().wait()
        return grpc.aio.EOF

    async def write(self, answer: bytes) -> None:
        await self.may_write.wait()
        self.written.append(answer)
