"""Threads that answer questions on this member's state, each burst in one read transaction."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from common import log
from coordinator.consensus.interfaces import Answer, Done, Question
from quorumfs.errors import BusyError, InternalError, QuorumFSError, UnavailableError

BURST_MAX = 64
WAITING_MAX = 20_000

_log = log.get(__name__)


class ReaderThreads:
    """`open_reader` gives a read transaction. Any thread may `ask`."""

    def __init__(
        self, open_reader: Callable[[], AbstractContextManager[sqlite3.Connection]], count: int
    ) -> None:
        self._open_reader = open_reader
        self._work = threading.Condition()
        self._waiting: deque[tuple[Question, Done]] = deque()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"read-{number}", daemon=True)
            for number in range(1, count + 1)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """End the threads; what waits is refused."""
        with self._work:
            self._stopping = True
            left = list(self._waiting)
            self._waiting.clear()
            self._work.notify_all()
        for _, done in left:
            done(UnavailableError("this coordinator stops"))
        for thread in self._threads:
            if thread.is_alive():
                thread.join(seconds)

    def ask(self, question: Question, done: Done) -> None:
        self.ask_all([(question, done)])

    def ask_all(self, asked: Sequence[tuple[Question, Done]]) -> None:
        """Queue questions; each is answered once, also when it is refused because too many wait."""
        with self._work:
            refused = self._stopping or len(self._waiting) + len(asked) > WAITING_MAX
            if not refused:
                self._waiting.extend(asked)
                self._work.notify()
        if refused:
            for _, done in asked:
                done(
                    BusyError("too many questions wait at this coordinator", next="try again a little later")
                )

    def _run(self) -> None:
        while True:
            with self._work:
                while not self._waiting and not self._stopping:
                    self._work.wait()
                if self._stopping:
                    return
                burst = [self._waiting.popleft() for _ in range(min(BURST_MAX, len(self._waiting)))]
                if self._waiting:
                    self._work.notify()
            self._answer(burst)

    def _answer(self, burst: Sequence[tuple[Question, Done]]) -> None:
        answers: list[Answer] = []
        try:
            with self._open_reader() as tx:
                for question, _ in burst:
                    answers.append(answer_one(question, tx))
        except QuorumFSError as error:
            answers += [error] * (len(burst) - len(answers))
        except (sqlite3.Error, OSError) as error:
            _log.error("read.failed", error=repr(error))
            missing = len(burst) - len(answers)
            answers += [InternalError("this coordinator's state cannot be read", cause=str(error))] * missing
        for (_, done), answer in zip(burst, answers, strict=True):
            done(answer)


def answer_one(question: Question, tx: sqlite3.Connection) -> Answer:
    """Run one question; what it raises becomes its answer and spoils no other's."""
    try:
        return question(tx)
    except QuorumFSError as error:
        return error
    except Exception as error:  # noqa: BLE001  a bug in one question must not end the thread of all
        _log.error("question.failed", error=repr(error))
        return InternalError("the question could not be answered", cause=repr(error))
