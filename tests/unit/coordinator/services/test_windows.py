"""Streams: bounded windows, answers as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from coordinator.services.windows import STREAM_WINDOW, Begin, Tell, windowed
from tests.support.streamed import StreamContext


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(coroutine, 10)

    return asyncio.run(bounded())


def in_tasks(one: Callable[[bytes], Coroutine[Any, Any, bytes]]) -> Begin:
    """Each request has a task of its own."""
    return lambda raw, tell: asyncio.ensure_future(one(raw))


def serve(context: StreamContext, begin: Begin, window: int = STREAM_WINDOW) -> Awaitable[None]:
    return windowed(context.read, context.write, begin, window)


async def some_turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def cancel(waiting: asyncio.Future[None]) -> None:
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await some_turns()


def test_every_request_of_a_stream_is_answered() -> None:
    async def one(raw: bytes) -> bytes:
        await asyncio.sleep(0)
        return raw.upper()

    async def go() -> list[bytes]:
        context = StreamContext([b"a", b"b", b"c"])
        await serve(context, in_tasks(one))
        return context.written

    assert sorted(run(go())) == [b"A", b"B", b"C"]


def test_an_answer_that_is_known_at_once_is_told_at_once() -> None:
    async def go() -> list[bytes]:
        context = StreamContext([b"%d" % k for k in range(20)])
        await serve(context, lambda raw, tell: tell(raw), window=2)
        return context.written

    assert run(go()) == [b"%d" % k for k in range(20)]


def test_a_stream_without_requests_ends() -> None:
    async def go() -> list[bytes]:
        context = StreamContext([])
        await serve(context, lambda raw, tell: tell(raw))
        return context.written

    assert run(go()) == []


def test_a_stream_whose_requests_ended_waits_for_the_answers_under_way() -> None:
    async def go() -> list[bytes]:
        told: list[Tell] = []
        context = StreamContext([b"a", b"b"])
        serving = asyncio.ensure_future(serve(context, lambda raw, tell: told.append(tell)))
        await some_turns()
        for number, tell in enumerate(told):
            assert not serving.done()
            tell(b"%d" % number)
            await some_turns()
        await serving
        return context.written

    assert run(go()) == [b"0", b"1"]


def test_a_quick_answer_overtakes_a_slow_one() -> None:
    async def go() -> list[bytes]:
        slow = asyncio.Event()

        async def one(raw: bytes) -> bytes:
            if raw == b"slow":
                await slow.wait()
            return raw

        context = StreamContext([b"slow", b"quick"])
        serving = asyncio.ensure_future(serve(context, in_tasks(one)))
        await some_turns()
        assert context.written == [b"quick"]
        slow.set()
        await serving
        return context.written

    assert run(go()) == [b"quick", b"slow"]


def test_a_stream_is_read_no_further_than_its_window() -> None:
    async def go() -> list[int]:
        told: list[Tell] = []
        context = StreamContext([b"%d" % k for k in range(100)])
        serving = asyncio.ensure_future(serve(context, lambda raw, tell: told.append(tell), window=4))
        await some_turns()
        counts = [len(context.taken)]
        told[0](b"answer")
        await some_turns()
        counts.append(len(context.taken))
        await cancel(serving)
        return counts

    assert run(go()) == [5, 6]  # four under way, one in hand


def test_answers_that_nobody_takes_hold_their_places() -> None:
    async def go() -> int:
        context = StreamContext([b"%d" % k for k in range(100)])
        context.may_write.clear()
        serving = asyncio.ensure_future(serve(context, lambda raw, tell: tell(raw), window=4))
        await some_turns()
        await cancel(serving)
        return len(context.taken)

    assert run(go()) == 6  # one is being written, four wait, one in hand


def test_a_request_that_raises_ends_the_stream_with_its_error() -> None:
    async def one(raw: bytes) -> bytes:
        raise ValueError(raw)

    with pytest.raises(ValueError, match="a"):
        run(serve_all([b"a", b"b"], in_tasks(one)))


def test_a_request_that_cannot_be_begun_ends_the_stream_with_its_error_after_the_answers_before_it() -> None:
    def begin(raw: bytes, tell: Tell) -> None:
        if raw == b"bad":
            raise ValueError(raw)
        tell(raw)

    written: list[bytes] = []
    with pytest.raises(ValueError, match="bad"):
        run(serve_all([b"a", b"bad", b"b"], begin, written))
    assert written == [b"a"]


async def serve_all(requests: list[bytes], begin: Begin, written: list[bytes] | None = None) -> None:
    context = StreamContext(requests)
    try:
        await serve(context, begin)
    finally:
        if written is not None:
            written += context.written


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

        serving = asyncio.ensure_future(serve(StreamContext([b"a", b"b", b"c"]), in_tasks(one)))
        await some_turns()
        await cancel(serving)
        return cancelled

    assert run(go()) == 3


def test_nothing_reads_on_when_the_caller_has_gone_away() -> None:
    async def go() -> int:
        context = StreamContext([b"a"], ends=False)
        told: list[Tell] = []
        serving = asyncio.ensure_future(serve(context, lambda raw, tell: told.append(tell)))
        await some_turns()
        await cancel(serving)
        told[0](b"late")
        assert context.written == []
        return len(asyncio.all_tasks())

    async def nothing() -> int:
        return len(asyncio.all_tasks())

    assert run(go()) == run(nothing())
