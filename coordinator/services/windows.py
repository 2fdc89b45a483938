"""The window of a stream: how many of its requests are under way at once, and answers as they become
known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

STREAM_WINDOW = 8


async def windowed(
    requests: AsyncIterator[bytes], one: Callable[[bytes], Awaitable[bytes]], window: int = STREAM_WINDOW
) -> AsyncGenerator[bytes, None]:
    """Answers of a stream: at most `window` requests are under way, each a task of its own.

    A request that raises ends the stream with its error. When the caller goes away, what waits is cancelled.
    """
    under_way: set[asyncio.Future[bytes]] = set()
    answered: asyncio.Queue[asyncio.Future[bytes] | None] = asyncio.Queue()
    room = asyncio.Semaphore(window)

    async def read() -> None:
        async for raw in requests:
            await room.acquire()
            task = asyncio.ensure_future(one(raw))
            under_way.add(task)
            task.add_done_callback(answered.put_nowait)
        if under_way:
            await asyncio.wait(set(under_way))

    reader = asyncio.ensure_future(read())
    reader.add_done_callback(lambda _: answered.put_nowait(None))
    try:
        while (task := await answered.get()) is not None:
            under_way.discard(task)
            room.release()
            yield task.result()
        reader.result()
    finally:
        reader.cancel()
        for task in under_way:
            task.cancel()
