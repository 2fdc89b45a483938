"""The coalescer: callers that come while a batch is under way share the next. No timer.

1. A caller that finds a free lane sends at once, in its own thread, everything that waits.
2. The others wait. When the lane is free again its sender hands it to the first of them, who sends for all.
3. One caller alone therefore waits for nobody; many callers fill the messages by themselves.
4. A caller that may not wait (a coroutine) submits: when its turn to send comes, a thread of ours does it.
   Callers of both kinds travel in the same messages.
5. Coroutines are told before the lane goes on, and it goes on when they had their turn: those that ask again
   at once travel with those that came meanwhile, where otherwise two halves would take turns for ever. Not
   when so many came meanwhile that their message gains nothing by more.
6. Threads that travelled together are woken one by the other, not all at once: a crowd that wants the GIL costs
   more than the work that it was woken for. For the reason of rule 5 the last of them hands the lane on. A crowd,
   counted by the last two messages, is not waited for: it takes so long to wake that the servers would idle.

A lane has one batch under way; it is a slot of the session for changes. Several lanes may be open, but more
than one gained nothing when measured: smaller batches, the same work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Generic, TypeVar

from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import (
    OutcomeUnknownError,
    QuorumFSError,
    Retry,
    TimedOutError,
    UnavailableError,
    make,
)

_LOOK_SECONDS = 1.0  # how often a thread that waits beyond its time looks for itself
_ENOUGH = 64  # callers in a message: more make each of them hardly cheaper

Op = TypeVar("Op")
Answer = TypeVar("Answer")


Done = Callable[[list[Answer] | None, QuorumFSError | None], object]
"""Called once, from any thread, with the answers or the error."""

Later = Callable[[Callable[[], None]], None]
"""Has what it is given called soon, when all who were told until now had time to ask again."""


class Alarm:
    """An Event for one thread that waits and one that sets, at half the cost."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Once."""
        self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Whether it was set within `timeout` seconds."""
        return self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))


@dataclass(eq=False, slots=True)
class _Waiter(Generic[Op, Answer]):
    ops: Sequence[Op]
    size: int
    deadline: float
    alarm: Alarm | None  # of a thread that waits ...
    done: Done[Answer] | None = None  # ... or whom to tell
    later: Later | None = None
    follower: _Waiter[Op, Answer] | None = None  # whom it wakes when it is woken
    holds: int | None = None  # a lane that it hands on then
    gone: bool = False  # its thread waits no more, and is to wake nobody
    lane: int | None = None  # it sends next, on this lane
    answers: list[Answer] | None = None
    error: QuorumFSError | None = None

    @property
    def is_settled(self) -> bool:
        return self.answers is not None or self.error is not None

    def tell(self) -> None:
        """Its fate is known."""
        if self.alarm is not None:
            self.alarm.set()
        elif self.done is not None:
            self.done(self.answers, self.error)


class Combiner(Generic[Op, Answer]):
    """Puts the operations of many threads into few messages.

    `send(lane, ops, patience)` returns one answer per op, in order, within `patience` seconds, or raises
    QuorumFSError; it runs in the thread of one of the callers. A caller's own operations stay together and in
    order.
    """

    def __init__(
        self,
        send: Callable[[int, list[Op], float], list[Answer]],
        *,
        lanes: int = 1,
        ops_max: int,
        size_max: int,
        clock: Clock | None = None,
    ) -> None:
        self._send = send
        self._clock = clock or SystemClock()
        self._ops_max = ops_max
        self._size_max = size_max
        self._lock = threading.Lock()
        self._free = list(range(lanes))
        self._queue: deque[_Waiter[Op, Answer]] = deque()
        self._former = 0  # callers in the last message that was sent
        self._closed = False
        # Threads are made when something is submitted, and no more of them than lanes.
        self._carriers = ThreadPoolExecutor(lanes, thread_name_prefix="quorumfs-batches")

    def run(self, ops: Sequence[Op], size: int, timeout: float) -> list[Answer]:
        """The answers to `ops` (at most `ops_max`, `size` bytes together), within `timeout` seconds in all.

        Raises what `send` raised, and TimedOutError when its turn did not come in time.
        """
        alarm = Alarm()
        me: _Waiter[Op, Answer] = _Waiter(ops, size, self._clock.monotonic() + timeout, alarm)
        with self._lock:
            if self._closed:
                raise _closed()
            if self._free:
                me.lane = self._free.pop()
            else:
                self._queue.append(me)
        if me.lane is None:
            self._wait(me, alarm, timeout)
        if me.lane is not None:
            self._lead(me, me.lane)
        if me.error is not None:
            raise me.error
        assert me.answers is not None
        return me.answers

    def submit(
        self,
        calls: Iterable[tuple[Sequence[Op], int, Done[Answer]]],
        timeout: float,
        later: Later | None = None,
    ) -> None:
        """Like `run` for many callers at once, (ops, size, done) each; returns at once.

        They travel together as far as a message holds them. Once closed they get UnavailableError. `later`:
        of rule 5; without it the lane goes on at once.
        """
        deadline = self._clock.monotonic() + timeout
        with self._lock:
            for ops, size, done in calls:
                self._queue.append(_Waiter(ops, size, deadline, None, done, later))
            lane = self._free.pop() if self._free else None
        if lane is not None:
            self._pass_on(lane)

    def close(self) -> None:
        """Refuse who waits for a turn, and who comes. What is under way ends by itself. May be called again."""
        with self._lock:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
        for waiter in waiting:
            waiter.error = _closed()
            waiter.tell()
        self._carriers.shutdown(wait=False)

    def _wait(self, me: _Waiter[Op, Answer], alarm: Alarm, timeout: float) -> None:
        """Until `me` has its answers, or is to lead; then its follower is woken."""
        try:
            if not alarm.wait(timeout):
                if self._leave_queue(me):
                    raise _too_late()
                # It travels in a batch whose sender has a deadline of its own. Who was to wake it may have
                # been interrupted.
                while not me.is_settled and not alarm.wait(_LOOK_SECONDS):
                    pass
                self._step_out(me)
        except BaseException:  # an interrupt of this thread must not take a lane with it
            if not self._leave_queue(me) and me.lane is not None:
                self._pass_on(me.lane)
            self._step_out(me)
            raise
        finally:
            if me.holds is not None:
                self._pass_on(me.holds)
            if me.follower is not None:
                me.follower.tell()

    def _step_out(self, me: _Waiter[Op, Answer]) -> None:
        """From now on it gets no follower; one that it has is its to wake."""
        with self._lock:
            me.gone = True

    def _leave_queue(self, me: _Waiter[Op, Answer]) -> bool:
        """Whether `me` was still waiting in line; it is not any more."""
        with self._lock:
            if me not in self._queue:
                return False
            self._queue.remove(me)
            return True

    def _lead(self, me: _Waiter[Op, Answer], lane: int) -> None:
        with self._lock:
            group = self._company(me)
            self._former, crowd = len(group), len(group) + self._former
        try:
            self._carry(lane, group)
        finally:
            if me.later is None and crowd <= _ENOUGH:
                self._tell(group, lane)
            elif me.later is None or self._enough_wait():
                self._pass_on(lane)
                self._tell(group)
            else:
                self._tell(group)
                me.later(partial(self._pass_on, lane))

    def _tell(self, group: list[_Waiter[Op, Answer]], holds: int | None = None) -> None:
        """All of `group` have their answers or their error; its first is the sender itself, or a coroutine's.

        `holds`: the lane that the last of the threads among them hands on.
        """
        for waiter in group:
            if waiter.answers is None and waiter.error is None:
                # Only a bug or an interrupt of the sending thread leads here.
                waiter.error = OutcomeUnknownError("the request's fate is unknown", cause="its sender ended")
        with self._lock:
            threads = [one for one in group[1:] if one.alarm is not None and not one.gone]
            for one, follower in pairwise(threads):
                one.follower = follower
            if threads:
                threads[-1].holds = holds
        if threads:
            threads[0].tell()
        elif holds is not None:
            self._pass_on(holds)
        for waiter in group:
            if waiter.done is not None:
                waiter.done(waiter.answers, waiter.error)

    def _enough_wait(self) -> bool:
        """Whether the next message is worth sending at once: it is large, or a thread waits for it."""
        with self._lock:
            return len(self._queue) >= _ENOUGH or (bool(self._queue) and self._queue[0].alarm is not None)

    def _pass_on(self, lane: int) -> None:
        """The lane is free: the first who waits leads it, by itself or in a thread of ours."""
        while True:
            with self._lock:
                if not self._queue:
                    self._free.append(lane)
                    return
                heir = self._queue.popleft()
                heir.lane = lane
            if heir.alarm is not None:
                heir.alarm.set()
                return
            turn = threading.Lock()
            try:
                self._carriers.submit(self._lead_once, turn, heir, lane)
            except RuntimeError:
                # Closed meanwhile; or no thread could be started, and the executor has it all the same.
                if not turn.acquire(blocking=False):
                    return
                heir.error = _closed() if self._closed else _no_thread()
                heir.tell()
            else:
                return

    def _lead_once(self, turn: threading.Lock, heir: _Waiter[Op, Answer], lane: int) -> None:
        """Unless `heir` was told meanwhile that nothing was sent."""
        if turn.acquire(blocking=False):
            self._lead(heir, lane)

    def _company(self, leader: _Waiter[Op, Answer]) -> list[_Waiter[Op, Answer]]:
        """Who travels with `leader`: from the head of the queue, as many as the message holds."""
        group = [leader]
        count, size = len(leader.ops), leader.size
        while self._queue:
            first = self._queue[0]
            count += len(first.ops)
            size += first.size
            if count > self._ops_max or size > self._size_max:
                break
            group.append(self._queue.popleft())
        return group

    def _carry(self, lane: int, group: list[_Waiter[Op, Answer]]) -> None:
        patience = max(waiter.deadline for waiter in group) - self._clock.monotonic()
        if patience <= 0:  # of callers that only submitted: nobody took them out of the queue
            for waiter in group:
                waiter.error = _too_late()
            return
        try:
            answers = self._send(lane, [op for waiter in group for op in waiter.ops], patience)
        except QuorumFSError as error:
            if len(group) > 1 and error.retry is Retry.NEVER and not isinstance(error, OutcomeUnknownError):
                # The whole message was refused, so nothing happened: one of them must not spoil the rest.
                for waiter in group:
                    self._carry(lane, [waiter])
                return
            for waiter in group:
                waiter.error = copy_of(error)
            return
        at = 0
        for waiter in group:
            waiter.answers = answers[at : at + len(waiter.ops)]
            at += len(waiter.ops)


def _closed() -> UnavailableError:
    return UnavailableError("nothing was sent", cause="the connections were closed")


def _no_thread() -> UnavailableError:
    return UnavailableError("nothing was sent", cause="this process could start no thread for it")


def _too_late() -> TimedOutError:
    return TimedOutError("nothing was sent", cause="the requests before it took all of its time")


def copy_of(error: QuorumFSError) -> QuorumFSError:
    """The same error as a new object: threads that raise one object spoil each other's traceback."""
    copy = make(
        error.code, error.message, cause=error.cause, next=error.next, leader=error.leader, ids=error.ids
    )
    copy.__cause__ = error
    return copy
