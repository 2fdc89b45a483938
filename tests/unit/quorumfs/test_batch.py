"""The coalescer: who travels together, and that nobody is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from quorumfs.batch import Combiner
from quorumfs.errors import (
    InvalidArgumentError,
    OutcomeUnknownError,
    QuorumFSError,
    TimedOutError,
    UnavailableError,
)


class Server:
    """Answers op with op * 10; can be held, and can refuse."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.refuse: Callable[[list[int]], QuorumFSError | None] = lambda _: None

    def send(self, lane: int, ops: list[int]) -> list[int]:
        self.batches.append(list(ops))
        self.entered.release()
        assert self.go.wait(20)
        error = self.refuse(ops)
        if error:
            raise error
        return [op * 10 for op in ops]


def combiner(
    server: Server, *, lanes: int = 1, ops_max: int = 100, size_max: int = 1000
) -> Combiner[int, int]:
    return Combiner(server.send, lanes=lanes, ops_max=ops_max, size_max=size_max)


class Caller(threading.Thread):
    def __init__(self, target: Combiner[int, int], ops: list[int], size: int = 1) -> None:
        super().__init__(daemon=True)
        self.target, self.ops, self.size = target, ops, size
        self.answers: list[int] | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answers = self.target.run(self.ops, self.size, 20)
        except QuorumFSError as error:
            self.error = error

    def ended(self) -> Caller:
        self.join(20)
        assert not self.is_alive()
        return self


def queued(target: Combiner[int, int], count: int) -> None:
    """Wait until `count` callers wait in line."""
    deadline = threading.Event()
    for _ in range(2000):
        if len(target._queue) == count:
            return
        deadline.wait(0.005)
    pytest.fail(f"{len(target._queue)} of {count} callers wait")


def test_one_caller_alone_sends_at_once() -> None:
    server = Server()
    assert combiner(server).run([1, 2], 2) == [10, 20]
    assert server.batches == [[1, 2]]


def test_callers_that_come_meanwhile_travel_together() -> None:
    server = Server()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    others = [Caller(target, [n]) for n in range(2, 12)]
    queued(target, 10)
    server.go.set()
    assert first.ended().answers == [10]
    assert [caller.ended().answers for caller in others] == [[n * 10] for n in range(2, 12)]
    assert [len(batch) for batch in server.batches] == [1, 10]
    assert all(caller.answers == [caller.ops[0] * 10] for caller in others)


def test_a_message_holds_no_more_than_its_limits() -> None:
    server = Server()
    target = combiner(server, ops_max=4, size_max=100)
    server.go.clear()
    first = Caller(target, [0])
    server.entered.acquire()
    small = [Caller(target, [n, n]) for n in range(1, 4)]
    large = Caller(target, [9], size=99)
    queued(target, 4)
    server.go.set()
    for caller in (first, *small, large):
        assert caller.ended().answers == [op * 10 for op in caller.ops]
    assert all(len(batch) <= 4 for batch in server.batches)


def test_an_error_reaches_all_that_travelled_together_each_its_own_object() -> None:
    server = Server()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    others = [Caller(target, [n]) for n in (2, 3)]
    queued(target, 2)
    server.refuse = lambda ops: UnavailableError("gone", cause="x") if len(ops) > 1 else None
    server.go.set()
    errors = [caller.ended().error for caller in others]
    assert first.ended().answers == [10]
    assert [type(error) for error in errors] == [UnavailableError, UnavailableError]
    assert errors[0] is not errors[1]


def test_a_message_that_is_refused_is_sent_again_one_caller_at_a_time() -> None:
    server = Server()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    others = [Caller(target, [n]) for n in (2, 3, 4)]
    queued(target, 3)
    server.refuse = lambda ops: InvalidArgumentError("3 is bad") if 3 in ops else None
    server.go.set()
    first.ended()
    by_op = {caller.ops[0]: caller.ended() for caller in others}
    assert by_op[2].answers == [20]
    assert by_op[4].answers == [40]
    assert isinstance(by_op[3].error, InvalidArgumentError)


def test_a_message_whose_outcome_is_unknown_is_not_taken_apart() -> None:
    server = Server()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    others = [Caller(target, [n]) for n in (2, 3)]
    queued(target, 2)
    server.refuse = lambda ops: OutcomeUnknownError("lost") if len(ops) > 1 else None
    server.go.set()
    first.ended()
    assert all(isinstance(caller.ended().error, OutcomeUnknownError) for caller in others)
    assert len(server.batches) == 2


def test_who_waits_too_long_for_its_turn_is_told_that_nothing_was_sent() -> None:
    server = Server()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    with pytest.raises(TimedOutError):
        target.run([2], 1, 0.01)
    server.go.set()
    first.ended()
    assert server.batches == [[1]]
    assert target.run([3], 1) == [30]


def test_an_interrupted_sender_leaves_nobody_waiting_and_the_lane_free() -> None:
    server = Server()
    target = combiner(server)

    def interrupt(ops: list[int]) -> QuorumFSError | None:
        if ops == [1]:
            raise KeyboardInterrupt
        return None

    server.refuse = interrupt
    with pytest.raises(KeyboardInterrupt):
        target.run([1], 1)
    assert target.run([2], 1) == [20]


@pytest.mark.parametrize("lanes", [1, 3])
def test_many_threads_each_get_their_own_answers(lanes: int) -> None:
    server = Server()
    target = combiner(server, lanes=lanes)
    wrong: list[int] = []

    def work(base: int) -> None:
        for n in range(base, base + 100):
            if target.run([n, n + 1], 2) != [n * 10, n * 10 + 10]:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(k * 1000,), daemon=True) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert sum(map(len, server.batches)) == 8 * 100 * 2
    assert len(target._free) == lanes
