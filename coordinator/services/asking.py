"""One question to many datanodes, for somebody who waits for the answer: who is late is left out, and no one else.

Each has a thread of its own kind here, so that nodes that hang keep neither each other's answers nor other services'
work waiting for a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from common import log
from quorumfs.errors import QuorumFSError, TimedOutError
from quorumfs.limits import RPC_SECONDS_FIRST

NODE_SECONDS = 0.9  # an operator has an answer in two seconds, whoever hangs
THREADS_MAX = 64

assert NODE_SECONDS < RPC_SECONDS_FIRST  # else who asked the coordinator has given up before

T = TypeVar("T")
_log = log.get(__name__)


class Questions:
    """Runs on the gRPC loop. `ask` blocks, in a thread, and raises QuorumFSError."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="ask-node")

    async def of_one(self, node: str, ask: Callable[[str], T]) -> T:
        """What the node answers, or raises. Raises TimedOutError when it is late."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, ask, node)
        await asyncio.wait([future], timeout=NODE_SECONDS)
        if not future.done():
            future.cancel()
            raise TimedOutError(f"{node} did not answer within {NODE_SECONDS} s")
        return future.result()

    async def of_each(self, nodes: Sequence[str], ask: Callable[[str], T]) -> dict[str, T]:
        """What each node answers, all asked at once; of those that refuse, or are late, nothing. What has come when
        the time is over counts, however late this loop gets to it."""
        loop = asyncio.get_running_loop()
        asked = {one: loop.run_in_executor(self._threads, ask, one) for one in nodes}
        if asked:
            await asyncio.wait(asked.values(), timeout=NODE_SECONDS)
        answers: dict[str, T] = {}
        for one, future in asked.items():
            if not future.done():
                future.cancel()
                _log.info("node.late", node=one, seconds=NODE_SECONDS)
                continue
            try:
                answers[one] = future.result()
            except QuorumFSError as error:
                _log.info("node.refused", node=one, error=str(error))
        return answers
