"""The window of a stream: how many of its requests are under way at once, and answers as they become
known.

One task reads and begins, the call's own writes. A request needs no task of its own: what is begun tells its answer
when it has one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio

STREAM_WINDOW = 8

Tell = Callable[[bytes], None]
Begin = Callable[[bytes, Tell], "asyncio.Future[bytes] | None"]
"""Begins to serve a request. Its answer is told, once, on the loop, perhaps at once; or a future is returned that gives
it. What is raised ends the stream."""


async def windowed(
    read: Callable[[], Awaitable[Any]],
    write: Callable[[bytes], Awaitable[None]],
    begin: Begin,
    window: int = STREAM_WINDOW,
) -> None:
    """Serve a stream: at most `window` of its requests are under way. `read` and `write` are those of its context.

    A request that raises ends the stream with its error. When the caller goes away, what waits is cancelled.
    """
    under_way = _Window(window)
    reader = asyncio.ensure_future(_read(read, begin, under_way))
    try:
        while (answer := await under_way.next()) is not None:
            await write(answer)
    finally:
        reader.cancel()
        under_way.cancel()


async def _read(read: Callable[[], Awaitable[Any]], begin: Begin, under_way: _Window) -> None:
    try:
        while (raw := await read()) is not grpc.aio.EOF:
            await under_way.room()
            future = begin(raw, under_way.tell)
            if future is not None:
                under_way.follow(future)
    except Exception as error:  # noqa: BLE001  whatever it is, the stream ends with it
        under_way.tell(error)
    else:
        under_way.all_begun()


class _Window:
    """What one stream has under way, and the answers that wait to be written."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._under_way = 0  # with those whose answer waits
        self._no_more = False
        self._answers: deque[bytes | BaseException] = deque()
        self._futures: set[asyncio.Future[bytes]] = set()
        self._news: asyncio.Future[None] | None = None
        self._vacancy: asyncio.Future[None] | None = None

    async def room(self) -> None:
        """Take a place, when there is one."""
        while self._under_way >= self._size:
            self._vacancy = asyncio.get_running_loop().create_future()
            await self._vacancy
        self._under_way += 1

    def tell(self, answer: bytes | BaseException) -> None:
        """The answer to one request, or what ends the stream."""
        self._answers.append(answer)
        _wake(self._news)

    def follow(self, future: asyncio.Future[bytes]) -> None:
        """The answer is what `future` gives."""
        self._futures.add(future)
        future.add_done_callback(self._followed)

    def all_begun(self) -> None:
        self._no_more = True
        _wake(self._news)

    async def next(self) -> bytes | None:
        """The next answer, whose place is free; None when all are given. Raises what ends the stream."""
        while not self._answers:
            if self._no_more and not self._under_way:
                return None
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        answer = self._answers.popleft()
        self._under_way -= 1
        _wake(self._vacancy)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()

    def _followed(self, future: asyncio.Future[bytes]) -> None:
        self._futures.discard(future)
        if not future.cancelled():
            self.tell(future.exception() or future.result())


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
