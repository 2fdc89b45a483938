"""What every duty works with: questions to this member's state, and proposals, both waited for.

A duty runs on a thread of its own, so that it may block; services must not.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from coordinator.consensus import Consensus, Proposal
from quorumfs.clock import Clock
from quorumfs.errors import OutcomeUnknownError, QuorumFSError
from quorumfs.rpc.status import raise_for
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

T = TypeVar("T")

PROPOSE_SECONDS = 10.0
QUESTION_SECONDS = 10.0
PRINCIPAL = e.Principal(name="system")


class Desk:
    """Any duty's thread may call."""

    def __init__(self, consensus: Consensus, clock: Clock) -> None:
        self.consensus = consensus
        self._clock = clock

    def look(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Ask this member's applied state. Raises QuorumFSError."""
        found: list[T] = []

        def ask(tx: sqlite3.Connection) -> bytes:
            found.append(question(tx))
            return b""

        wait_for(lambda done: self.consensus.read_stale(ask, done), QUESTION_SECONDS, "a question")
        return found[0]

    def propose(self, commands: Sequence[e.SystemCommand]) -> Sequence[e.SystemResult.One]:
        """Have commands of the cluster itself applied, in one entry; what each left.

        Raises NotLeaderError, BusyError, TimedOutError (nothing happened), OutcomeUnknownError.
        """
        raw = e.SystemBatch(commands=commands).SerializeToString()
        answer = self._propose(e.Item(principal=PRINCIPAL, system=raw), len(commands), len(raw))
        return e.SystemResult.FromString(answer).results

    def change(self, ops: Sequence[n.Op], choices: Sequence[e.Choice] = ()) -> Sequence[n.Result]:
        """Have operations applied as a client has them, in one entry, at least once; what each left.

        Raises like `propose`, and the error of the first that was refused.
        """
        raw = n.Batch(ops=ops).SerializeToString()
        item = e.Item(principal=PRINCIPAL, choices=choices, batch=raw)
        answer = n.BatchResult.FromString(self._propose(item, len(ops), len(raw)))
        raise_for(answer.code, answer.error)
        for result in answer.results:
            raise_for(result.code, result.error)
        return answer.results

    def _propose(self, item: e.Item, operations: int, size_bytes: int) -> bytes:
        deadline = self._clock.monotonic() + PROPOSE_SECONDS
        proposal = Proposal(item, operations, size_bytes, deadline)
        return wait_for(
            lambda done: self.consensus.propose(proposal, done), PROPOSE_SECONDS * 1.5, "a proposal"
        )


def wait_for(
    ask: Callable[[Callable[[bytes | QuorumFSError], None]], None], seconds: float, what: str
) -> bytes:
    """Begin `ask` and wait for its answer. Raises what it was refused with, OutcomeUnknownError after
    `seconds`."""
    came = threading.Event()
    answers: list[bytes | QuorumFSError] = []

    def done(answer: bytes | QuorumFSError) -> None:
        answers.append(answer)
        came.set()

    ask(done)
    if not came.wait(seconds):
        raise OutcomeUnknownError(f"no answer to {what} of a duty in {seconds:g} s")
    answer = answers[0]
    if isinstance(answer, QuorumFSError):
        raise answer
    return answer


def failures(results: Sequence[e.SystemResult.One]) -> list[str]:
    """The messages of what was refused."""
    return [one.error.message or str(one.code) for one in results if one.code != t.ERROR_CODE_OK]
