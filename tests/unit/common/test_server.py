"""The loop of the asynchronous server; what it serves is in tests/cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from common.server import AsyncServer

PATIENCE_SECONDS = 20.0


class Turns:
    def __init__(self) -> None:
        self.number = 0
        self.more = threading.Semaphore(0)

    def __call__(self) -> None:
        self.number += 1
        self.more.release()


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def server(turns: Turns) -> Iterator[AsyncServer]:
    one = AsyncServer("127.0.0.1", 0, [], node_id="c1", secret=lambda: b"s" * 32, turned=turns)
    one.start()
    yield one
    one.stop(0.0)


def test_the_loop_tells_that_it_turns_and_does_not_while_something_holds_it(
    server: AsyncServer, turns: Turns
) -> None:
    for _ in range(3):
        assert turns.more.acquire(timeout=PATIENCE_SECONDS)
    holds, let_go = threading.Event(), threading.Event()

    async def hold() -> int:
        before = turns.number
        holds.set()
        let_go.wait(PATIENCE_SECONDS)
        return turns.number - before

    held = server.submit(hold())
    assert holds.wait(PATIENCE_SECONDS)
    before = turns.number
    assert not threading.Event().wait(0.3)
    assert turns.number == before
    let_go.set()
    assert held.result(PATIENCE_SECONDS) == 0
    while turns.number == before:
        assert turns.more.acquire(timeout=PATIENCE_SECONDS)
