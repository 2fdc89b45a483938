"""The coalescer: callers that come while a batch is under way share the next. No timer, no thread.

1. A caller that finds a free lane sends at once, in its own thread, everything that waits.
2. The others wait. When the lane is free again its sender hands it to the first of them, who sends for all.
3. One caller alone therefore waits for nobody; many callers fill the messages by themselves.

A lane has one batch under way; it is a slot of the session for changes. Several lanes may be open, but more
than one gained nothing when measured: smaller batches, the same work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from quorumfs.errors import OutcomeUnknownError, QuorumFSError, Retry, TimedOutError, make

Op = TypeVar("Op")
Answer = TypeVar("Answer")


@dataclass(eq=False, slots=True)
class _Waiter(Generic[Op, Answer]):
    ops: Sequence[Op]
    size: int
    woken: threading.Event = field(default_factory=threading.Event)
    lane: int | None = None  # it sends next, on this lane
    answers: list[Answer] | None = None
    error: QuorumFSError | None = None


class Combiner(Generic[Op, Answer]):
    """Puts the operations of many threads into few messages.

    `send(lane, ops)` returns one answer per op, in order, or raises QuorumFSError; it runs in the thread of
    one of the callers. A caller's own operations stay together and in order.
    """

    def __init__(
        self,
        send: Callable[[int, list[Op]], list[Answer]],
        *,
        lanes: int = 1,
        ops_max: int,
        size_max: int,
    ) -> None:
        self._send = send
        self._ops_max = ops_max
        self._size_max = size_max
        self._lock = threading.Lock()
        self._free = list(range(lanes))
        self._queue: deque[_Waiter[Op, Answer]] = deque()

    def run(self, ops: Sequence[Op], size: int, timeout: float | None = None) -> list[Answer]:
        """The answers to `ops` (at most `ops_max`, `size` bytes together).

        Raises what `send` raised, and TimedOutError when nothing was sent within `timeout` seconds.
        """
        me: _Waiter[Op, Answer] = _Waiter(ops, size)
        with self._lock:
            if self._free:
                me.lane = self._free.pop()
            else:
                self._queue.append(me)
        if me.lane is None:
            self._wait(me, timeout)
        if me.lane is not None:
            self._lead(me, me.lane)
        if me.error is not None:
            raise me.error
        assert me.answers is not None
        return me.answers

    def _wait(self, me: _Waiter[Op, Answer], timeout: float | None) -> None:
        """Until `me` has its answers, or is to lead."""
        if me.woken.wait(timeout):
            return
        with self._lock:
            if me in self._queue:
                self._queue.remove(me)
                raise TimedOutError(
                    "nothing was sent", cause=f"the requests before it took all of {timeout:g} s"
                )
        me.woken.wait()  # it travels in a batch whose sender has a deadline of its own

    def _lead(self, me: _Waiter[Op, Answer], lane: int) -> None:
        with self._lock:
            group = self._company(me)
        try:
            self._carry(lane, group)
        finally:
            self._pass_on(lane)
            for waiter in group:
                if waiter.answers is None and waiter.error is None:
                    # Only a bug or an interrupt of the sending thread leads here.
                    waiter.error = OutcomeUnknownError(
                        "the request's fate is unknown", cause="its sender ended"
                    )
                waiter.woken.set()

    def _pass_on(self, lane: int) -> None:
        with self._lock:
            if not self._queue:
                self._free.append(lane)
                return
            heir = self._queue.popleft()
            heir.lane = lane
        heir.woken.set()

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
        try:
            answers = self._send(lane, [op for waiter in group for op in waiter.ops])
        except QuorumFSError as error:
            if len(group) > 1 and error.retry is Retry.NEVER and not isinstance(error, OutcomeUnknownError):
                # The whole message was refused, so nothing happened: one of them must not spoil the rest.
                for waiter in group:
                    self._carry(lane, [waiter])
                return
            for waiter in group:
                waiter.error = _copy(error)
            return
        at = 0
        for waiter in group:
            waiter.answers = answers[at : at + len(waiter.ops)]
            at += len(waiter.ops)


def _copy(error: QuorumFSError) -> QuorumFSError:
    """The same error as a new object: threads that raise one object spoil each other's traceback."""
    copy = make(
        error.code, error.message, cause=error.cause, next=error.next, leader=error.leader, ids=error.ids
    )
    copy.__cause__ = error
    return copy
