"""From the loop to consensus and back: answers on other threads, callers that went away, wake-ups that are few."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from coordinator.services.gateway import Completions, Gateway, settling
from quorumfs.clock import ManualClock
from quorumfs.errors import BusyError, NotLeaderError, UnavailableError
from quorumfs.v1 import entries_pb2 as e
from tests.support.coordinator import Coordinator


def test_answers_of_another_thread_come_through_in_one_wake_up() -> None:
    async def go() -> list[Any]:
        loop = asyncio.get_running_loop()
        woken: list[None] = []
        real = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *given: (woken.append(None), real(*given))[1]  # type: ignore[method-assign, assignment]
        completions = Completions(loop)
        futures = [loop.create_future() for _ in range(100)]

        def answer() -> None:
            for number, future in enumerate(futures):
                completions.put(settling(future), BusyError("no") if number % 2 else b"%d" % number)
                completions.wake()

        thread = threading.Thread(target=answer)
        thread.start()
        thread.join()
        found = await asyncio.gather(*futures, return_exceptions=True)
        assert len(woken) == 1
        return found

    found = asyncio.run(go())
    assert found[0] == b"0"
    assert isinstance(found[1], BusyError)
    assert len(found) == 100


def test_who_went_away_gets_no_answer_and_disturbs_nobody() -> None:
    async def go() -> bytes:
        loop = asyncio.get_running_loop()
        completions = Completions(loop)
        gone, here = loop.create_future(), loop.create_future()
        gone.cancel()
        completions.put(settling(gone), b"late")
        completions.put(settling(here), b"answer")
        completions.wake()
        return await here

    assert asyncio.run(go()) == b"answer"


def test_who_cannot_be_told_its_answer_keeps_nobody_elses_back() -> None:
    def fails(_: Any) -> None:
        raise ValueError("a bug")

    async def go() -> bytes:
        loop = asyncio.get_running_loop()
        completions = Completions(loop)
        here = loop.create_future()
        completions.put(fails, b"lost")
        completions.put(settling(here), b"answer")
        completions.wake()
        return await asyncio.wait_for(here, 5)

    assert asyncio.run(go()) == b"answer"


def test_an_answer_after_the_loops_end_is_dropped() -> None:
    async def make() -> tuple[Completions, asyncio.Future[bytes]]:
        loop = asyncio.get_running_loop()
        return Completions(loop), loop.create_future()

    completions, future = asyncio.run(make())
    completions.put(settling(future), b"late")
    completions.wake()
    assert not future.done()


def test_before_genesis_every_question_says_why() -> None:
    gateway = Gateway(ManualClock(), "c1")
    assert not gateway.attached
    with pytest.raises(UnavailableError, match="genesis"):
        gateway.leader()
    gateway.returning()
    with pytest.raises(UnavailableError, match="log"):
        gateway.leadership()


def test_a_refusal_comes_back_though_no_group_is_through(leader: Coordinator) -> None:
    leader.consensus.refuse_with = BusyError("the queue is full")
    with pytest.raises(BusyError):
        leader.run(lambda: leader.gateway.system(e.SystemCommand(tick=e.Tick())))


def test_a_member_that_follows_nobody_names_nobody(leader: Coordinator) -> None:
    leader.consensus.depose(None)

    async def refuse() -> None:
        leader.gateway.require_leadership()

    with pytest.raises(NotLeaderError, match="election") as caught:
        leader.run(refuse)
    assert caught.value.leader is None


def test_a_question_that_fails_fails_its_asker_alone(leader: Coordinator) -> None:
    def fail(tx: object) -> int:
        raise BusyError("no")

    async def both() -> tuple[Any, Any]:
        return tuple(
            await asyncio.gather(
                leader.gateway.ask(fail), leader.gateway.ask(lambda tx: 7), return_exceptions=True
            )
        )  # type: ignore[return-value]

    refused, answered = leader.run(both)
    assert isinstance(refused, BusyError)
    assert answered == 7
