"""Streams: bounded windows, answers as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from coordinator.services.windows import windowed


async def from_list(values: list[bytes], taken: list[bytes] | None = None) -> AsyncIterator[bytes]:
    for value in values:
        if taken is not None:
            taken.append(value)
        yield value


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(coroutine, 10)

    return asyncio.run(bounded())


def test_every_request_of_a_stream_is_answered() -> None:
    async def one(raw: bytes) -> bytes:
        await asyncio.sleep(0)
        return raw.upper()

    async def go() -> list[bytes]:
        return [answer async for answer in windowed(from_list([b"a", b"b", b"c"]), one)]

    assert sorted(run(go())) == [b"A", b"B", b"C"]


def test_a_quick_answer_overtakes_a_slow_one() -> None:
    async def go() -> list[bytes]:
        slow = asyncio.Event()

        async def one(raw: bytes) -> bytes:
            if raw == b"slow":
                await slow.wait()
            return raw

        answers = windowed(from_list([b"slow", b"quick"]), one)
        first = await anext(answers)
        slow.set()
        return [first, *[answer async for answer in answers]]

    assert run(go()) == [b"quick", b"slow"]


def test_a_stream_is_read_no_further_than_its_window() -> None:
    async def go() -> int:
        never = asyncio.Event()
        taken: list[bytes] = []

        async def one(raw: bytes) -> bytes:
            await never.wait()
            return raw

        answers = windowed(from_list([b"%d" % k for k in range(100)], taken), one, window=4)
        waiting = asyncio.ensure_future(anext(answers))
        for _ in range(50):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return len(taken)

    assert run(go()) == 5  # four under way, one in hand


def test_a_request_that_raises_ends_the_stream_with_its_error() -> None:
    async def one(raw: bytes) -> bytes:
        raise ValueError(raw)

    async def go() -> None:
        async for _ in windowed(from_list([b"a", b"b"]), one):
            pass

    with pytest.raises(ValueError, match="a"):
        run(go())


def test_what_is_under_way_is_cancelled_when_the_caller_goes_away() -> None:
    async def go() -> int:
        cancelled = 0

        async def one(raw: bytes) -> bytes:
            nonlocal cancelled
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                raise
            return raw

        answers = windowed(from_list([b"a", b"b", b"c"]), one)
        waiting = asyncio.ensure_future(anext(answers))
        for _ in range(20):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)
        return cancelled

    assert run(go()) == 3
