"""A question to datanodes for somebody who waits: who is late is left out, and named where only one was asked."""

from __future__ import annotations

import asyncio
import threading

import pytest

from coordinator.services import asking
from coordinator.services.asking import Questions
from quorumfs.errors import TimedOutError, UnavailableError


def test_who_hangs_is_left_out_however_many_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "NODE_SECONDS", 0.1)
    let_go = threading.Event()
    hung = [f"d{number}" for number in range(20)]

    def ask(node: str) -> str:
        if node in hung:
            let_go.wait(30.0)
        if node == "refuses":
            raise UnavailableError("it refuses")
        return node.upper()

    async def questions() -> dict[str, str]:
        desk = Questions()
        try:
            with pytest.raises(TimedOutError, match="d3 did not answer"):
                await desk.of_one("d3", ask)
            assert await desk.of_one("well", ask) == "WELL"
            return await desk.of_each([*hung, "refuses", "well"], ask)
        finally:
            let_go.set()

    assert asyncio.run(questions()) == {"well": "WELL"}
