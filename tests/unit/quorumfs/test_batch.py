"""The coalescer: who travels together, and that nobody is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from quorumfs.batch import Alarm, Combiner
from quorumfs.clock import ManualClock
from quorumfs.errors import (
    InvalidArgumentError,
    OutcomeUnknownError,
    QuorumFSError,
    TimedOutError,
    UnavailableError,
)
from tests.support.shortage import no_more_threads


class Server:
    """Answers op with op * 10; can be held, and can refuse."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.refuse: Callable[[list[int]], QuorumFSError | None] = lambda _: None

    def send(self, lane: int, ops: list[int], patience: float) -> list[int]:
        assert patience > 0
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
    def __init__(
        self, target: Combiner[int, int], ops: list[int], size: int = 1, seconds: float = 20
    ) -> None:
        super().__init__(daemon=True)
        self.target, self.ops, self.size, self.seconds = target, ops, size, seconds
        self.answers: list[int] | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answers = self.target.run(self.ops, self.size, self.seconds)
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
    assert combiner(server).run([1, 2], 2, 20) == [10, 20]
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
    assert target.run([3], 1, 20) == [30]


def test_an_interrupted_sender_leaves_nobody_waiting_and_the_lane_free() -> None:
    server = Server()
    target = combiner(server)

    def interrupt(ops: list[int]) -> QuorumFSError | None:
        if ops == [1]:
            raise KeyboardInterrupt
        return None

    server.refuse = interrupt
    with pytest.raises(KeyboardInterrupt):
        target.run([1], 1, 20)
    assert target.run([2], 1, 20) == [20]


@pytest.mark.parametrize("lanes", [1, 3])
def test_many_threads_each_get_their_own_answers(lanes: int) -> None:
    server = Server()
    target = combiner(server, lanes=lanes)
    wrong: list[int] = []

    def work(base: int) -> None:
        for n in range(base, base + 100):
            if target.run([n, n + 1], 2, 20) != [n * 10, n * 10 + 10]:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(k * 1000,), daemon=True) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert sum(map(len, server.batches)) == 8 * 100 * 2
    assert len(target._free) == lanes


def test_an_interrupted_caller_does_not_take_the_lane_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    wait = Alarm.wait

    def interrupted(alarm: Alarm, timeout: float) -> bool:
        if threading.current_thread() is threading.main_thread():
            server.go.set()
            assert wait(alarm, 20), "the lane was handed over"
            raise KeyboardInterrupt
        return wait(alarm, timeout)

    monkeypatch.setattr(Alarm, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        target.run([2], 1, 20)
    monkeypatch.undo()
    first.ended()
    assert target.run([3], 1, 20) == [30]


@pytest.mark.parametrize("when", ["before the answer", "after the answer"])
def test_an_interrupted_caller_does_not_keep_those_from_waking_that_travelled_with_it(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    server = Server()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    wait = Alarm.wait
    behind: list[Caller] = []

    def interrupted(alarm: Alarm, timeout: float) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return wait(alarm, timeout)
        behind.extend(Caller(target, [number]) for number in (4, 5))
        queued(target, 4)
        held = threading.Event()
        server.go, go = held, server.go
        go.set()  # the first is through; what waits travels together, led by the second
        server.entered.acquire()
        if when == "after the answer":
            held.set()
            assert wait(alarm, 20)
        else:
            threading.Timer(0.0, held.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(Alarm, "wait", interrupted)
    second = Caller(target, [2])
    queued(target, 1)
    with pytest.raises(KeyboardInterrupt):
        target.run([3], 1, 20)
    assert [one.ended().answers for one in (first, second, *behind)] == [[10], [20], [40], [50]]
    assert target.run([6], 1, 20) == [60]


def test_a_crowd_that_travelled_together_is_woken_to_the_last() -> None:
    server = Server()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [0])
    server.entered.acquire()
    crowd = [Caller(target, [number]) for number in range(1, 40)]
    queued(target, len(crowd))
    server.go.set()
    assert [one.ended().answers for one in (first, *crowd)] == [[number * 10] for number in range(40)]
    assert len(server.batches) == 2


def test_a_caller_that_nobody_wakes_finds_its_answers_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    second = Caller(target, [2])  # it will lead the two others
    queued(target, 1)
    others = [Caller(target, [number], seconds=0.2) for number in (3, 4)]
    queued(target, 3)
    monkeypatch.setattr("quorumfs.batch._LOOK_SECONDS", 0.01)
    monkeypatch.setattr(
        "quorumfs.batch.pairwise", lambda threads: ()
    )  # as if one was interrupted at the worst moment
    server.go.set()
    assert [one.ended().answers for one in (first, second, *others)] == [[10], [20], [30], [40]]


class SlowToWake:
    """Threads with these operations that, once woken, do not come further until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ops: int) -> None:
        self.may_go = {op: threading.Event() for op in ops}
        wait = Alarm.wait

        def slowly(alarm: Alarm, timeout: float) -> bool:
            woken = wait(alarm, timeout)
            caller = threading.current_thread()
            if isinstance(caller, Caller) and caller.ops[0] in self.may_go:
                assert self.may_go[caller.ops[0]].wait(20)
            return woken

        monkeypatch.setattr(Alarm, "wait", slowly)


def test_threads_that_ask_again_at_once_travel_together_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    target = combiner(server)
    slow = SlowToWake(monkeypatch, 3, 4)
    callers = travelled_together(server, target, 2, 3, 4)
    assert callers[0].ended().answers == [20]
    again = [Caller(target, [5]), Caller(target, [6])]
    queued(target, 2)
    slow.may_go[3].set()
    slow.may_go[4].set()
    assert [one.ended().answers for one in (*callers, *again)] == [[20], [30], [40], [50], [60]]
    assert [sorted(batch) for batch in server.batches] == [[1], [2, 3, 4], [5, 6]]
    assert target.run([7], 1, 20) == [70]


def test_a_large_crowd_of_threads_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorumfs.batch._ENOUGH", 3)  # one before them, and three
    server = Server()
    target = combiner(server)
    slow = SlowToWake(monkeypatch, 3, 4)
    callers = travelled_together(server, target, 2, 3, 4)
    assert callers[0].ended().answers == [20]
    assert target.run([5], 1, 20) == [50]
    slow.may_go[3].set()
    slow.may_go[4].set()
    assert [one.ended().answers for one in callers] == [[20], [30], [40]]


def travelled_together(server: Server, target: Combiner[int, int], *ops: int) -> list[Caller]:
    """Callers whose operations were in one message, led by the first; another caller's 1 went before them."""
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    callers = []
    for count, op in enumerate(ops, 1):
        callers.append(Caller(target, [op]))
        queued(target, count)
    server.go.set()
    server.entered.acquire()
    assert first.ended().answers == [10]
    return callers


# ---- callers that may not wait ---------------------------------------------------------------------------


class Told:
    """What callers that only submitted were told, by their operation."""

    def __init__(self) -> None:
        self.answers: dict[int, list[int] | None] = {}
        self.errors: dict[int, QuorumFSError] = {}
        self.all = threading.Semaphore(0)

    def call(self, op: int) -> tuple[list[int], int, Callable[..., object]]:
        def done(answers: list[int] | None, error: QuorumFSError | None) -> None:
            self.answers[op] = answers
            if error is not None:
                self.errors[op] = error
            self.all.release()

        return [op], 1, done

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.all.acquire(timeout=20)


def test_what_is_submitted_together_travels_together() -> None:
    server, told = Server(), Told()
    target = combiner(server)
    target.submit((told.call(n) for n in range(5)), 20)
    told.wait(5)
    assert server.batches == [[0, 1, 2, 3, 4]]
    assert told.answers == {n: [n * 10] for n in range(5)}
    target.close()


def test_submitted_and_waiting_callers_share_messages() -> None:
    server, told = Server(), Told()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    target.submit([told.call(2)], 20)
    queued(target, 1)
    waiting = Caller(target, [3])
    queued(target, 2)
    server.go.set()
    told.wait(1)
    assert (first.ended().answers, waiting.ended().answers) == ([10], [30])
    assert server.batches == [[1], [2, 3]]
    assert target.run([4], 1, 20) == [40], "the lane came back"
    target.close()


def test_a_submitted_call_whose_turn_comes_too_late_is_told_that_nothing_was_sent() -> None:
    server, told, clock = Server(), Told(), ManualClock()
    target: Combiner[int, int] = Combiner(server.send, lanes=1, ops_max=9, size_max=9, clock=clock)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    target.submit([told.call(2)], 5)
    clock.advance(6)
    server.go.set()
    told.wait(1)
    first.ended()
    assert isinstance(told.errors[2], TimedOutError)
    assert server.batches == [[1]]
    target.close()


def test_closed_it_refuses_what_is_submitted() -> None:
    server, told = Server(), Told()
    target = combiner(server)
    target.close()
    target.submit([told.call(n) for n in range(3000)], 20)
    told.wait(3000)
    assert all(isinstance(error, UnavailableError) for error in told.errors.values())
    assert server.batches == []


def test_what_was_told_that_nothing_was_sent_for_want_of_a_thread_is_not_sent_later() -> None:
    server = Server()
    target, told = combiner(server), Told()
    with no_more_threads("quorumfs-batches"):
        target.submit([told.call(1)], 20)
    target.submit([told.call(2)], 20)
    told.wait(2)
    assert told.answers == {1: None, 2: [20]}
    assert isinstance(told.errors[1], UnavailableError)
    assert server.batches == [[2]]
    target.close()


def test_who_is_told_gets_its_turn_before_the_lane_goes_on() -> None:
    """Two halves of a crowd find together, instead of taking turns."""
    server, told = Server(), Told()
    target = combiner(server)
    loop: list[Callable[[], None]] = []
    waiting = threading.Semaphore(0)

    def later(go: Callable[[], None]) -> None:
        loop.append(go)
        waiting.release()

    server.go.clear()
    target.submit([told.call(1)], 20, later)
    server.entered.acquire()
    target.submit([told.call(2)], 20, later)
    server.go.set()
    told.wait(1)
    assert waiting.acquire(timeout=20)
    target.submit([told.call(3)], 20, later)
    loop.pop()()
    told.wait(2)
    assert server.batches == [[1], [2, 3]]
    assert waiting.acquire(timeout=20)
    loop.pop()()
    assert target.run([4], 1, 20) == [40]
    target.close()


def test_a_thread_that_waits_is_not_kept_waiting_for_coroutines() -> None:
    server, told = Server(), Told()
    target = combiner(server)
    server.go.clear()
    target.submit([told.call(1)], 20, lambda go: pytest.fail("a thread waits"))
    server.entered.acquire()
    caller = Caller(target, [2])
    queued(target, 1)
    server.go.set()
    assert caller.ended().answers == [20]
    target.close()


def test_closing_refuses_who_waits_for_a_turn() -> None:
    server = Server()
    target = combiner(server)
    server.go.clear()
    first = Caller(target, [1])
    server.entered.acquire()
    second = Caller(target, [2])
    queued(target, 1)
    target.close()
    assert isinstance(second.ended().error, UnavailableError)
    server.go.set()
    assert first.ended().answers == [10]
    with pytest.raises(UnavailableError):
        target.run([3], 1, 20)
