"""Exactly once: a session, its slots, and the rule that a change in doubt is only ever repeated as it was.

1. A change travels as `Batch{session, slot, seq, ops}`, serialized once. Every repetition sends these bytes;
   the state machine answers a (session, slot, seq) it has already applied with the stored result.
2. `seq` of a slot is used up by an answer only. A batch that was refused as a whole changed nothing, so its
   number is free for the next.
3. A batch whose fate is unknown keeps its session from being used again: the next change opens a new one,
   and the old one expires. What was in flight is reported as unknown, never sent under another session.
4. A session that expired while nothing was in flight is replaced without anybody noticing.
5. An opening of a session in doubt leaves a session that nobody uses and that expires; the change itself was
   never sent, so it is refused, not unknown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import (
    InternalError,
    NoLeaderError,
    OutcomeUnknownError,
    QuorumFSError,
    SessionExpiredError,
)
from quorumfs.rpc.status import raise_for
from quorumfs.v1 import namespace_pb2

_SESSIONS_PER_BATCH_MAX = 3


class Refused(Exception):  # noqa: N818  it carries an error, and never leaves the library
    """A batch was not answered with results.

    `in_doubt`: some sending of these bytes may have taken effect.
    """

    def __init__(self, error: QuorumFSError, in_doubt: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.in_doubt = in_doubt


SendBytes = Callable[[int, bytes, str, float], namespace_pb2.BatchResult]
"""Sends a serialized Batch (lane, bytes, what it is, seconds) to the leader until it is answered OK; raises
Refused."""


@dataclass(slots=True)
class _Session:
    number: int
    next_seq: dict[int, int] = field(default_factory=dict)


class SessionSlots:
    """Sends changes exactly once within the life of a session, which it opens when it is first needed.

    One batch at a time per slot; different slots may be used by different threads at once.
    """

    def __init__(self, send: SendBytes, client_name: str, ttl_ms: int, clock: Clock | None = None) -> None:
        self._send = send
        self._client_name = client_name
        self._ttl_ms = ttl_ms
        self._clock = clock or SystemClock()
        self._session: _Session | None = None
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        """The open session, 0 if there is none."""
        session = self._session
        return session.number if session else 0

    def send(self, slot: int, ops: Sequence[namespace_pb2.Op], patience: float) -> list[namespace_pb2.Result]:
        """One Result per op, in order, within `patience` seconds.

        Raises OutcomeUnknownError when it may have happened.
        """
        what = _describe(ops)
        deadline = self._clock.monotonic() + patience
        for last_try in (*([False] * (_SESSIONS_PER_BATCH_MAX - 1)), True):
            session = self._open(slot, deadline)
            seq = session.next_seq.get(slot, 1)
            batch = namespace_pb2.Batch(
                session=session.number, slot=slot, seq=seq, ttl_ms=self._ttl_ms, ops=ops
            )
            left = deadline - self._clock.monotonic()
            try:
                answer = self._send(slot, batch.SerializeToString(), what, left)
            except Refused as refused:
                error = refused.error
                if refused.in_doubt:
                    self._abandon(session)
                    raise _unknown(error, what) from error
                if isinstance(error, OutcomeUnknownError):  # expired, or out of step: of no use any more
                    self._abandon(session)
                    if isinstance(error, SessionExpiredError) and not last_try:
                        continue
                raise error from refused
            except BaseException:  # an interrupt: these bytes may be under way under this number
                self._abandon(session)
                raise
            if len(answer.results) != len(ops):
                self._abandon(session)
                raise OutcomeUnknownError(
                    f"{what}: the answer does not fit the request",
                    cause=f"{len(answer.results)} results for {len(ops)} operations",
                )
            session.next_seq[slot] = seq + 1
            return list(answer.results)
        raise AssertionError("the last try returns or raises")

    def _open(self, slot: int, deadline: float) -> _Session:
        with self._lock:
            if self._session is None:
                self._session = _Session(self._open_new(slot, deadline))
            return self._session

    def _open_new(self, slot: int, deadline: float) -> int:
        op = namespace_pb2.Op(open_session=namespace_pb2.OpenSessionRequest(client=self._client_name))
        raw = namespace_pb2.Batch(slot=slot, ttl_ms=self._ttl_ms, ops=[op]).SerializeToString()
        try:
            answer = self._send(slot, raw, "open a session", deadline - self._clock.monotonic())
        except Refused as refused:
            error = refused.error
            if isinstance(error, OutcomeUnknownError):  # of the opening alone
                error = NoLeaderError("no session was opened; nothing was changed", cause=str(error))
            raise error from refused
        for result in answer.results:
            raise_for(result.code, result.error)
        if len(answer.results) != 1 or not answer.results[0].session.session:
            raise InternalError("no session was opened; nothing was changed", cause="the answer holds none")
        return answer.results[0].session.session

    def _abandon(self, session: _Session) -> None:
        with self._lock:
            if self._session is session:
                self._session = None


def _describe(ops: Sequence[namespace_pb2.Op]) -> str:
    kinds = [str(op.WhichOneof("op")).replace("_", " ") for op in ops[:3]]
    more = f" and {len(ops) - 3} more" if len(ops) > 3 else ""
    return ", ".join(kinds) + more


def _unknown(error: QuorumFSError, what: str) -> OutcomeUnknownError:
    if isinstance(error, OutcomeUnknownError):
        return error
    return OutcomeUnknownError(f"{what}: it may or may not have happened", cause=str(error))
