"""Sessions: who asks again with the same bytes gets the same answer.

1. A session has slots; a slot has at most one batch outstanding and keeps the result of its last.
2. `seq` of a slot begins at 1 and grows by one. The last number again, with the same bytes, gets the stored
   result; with other bytes, or any other number, it is refused: that client is out of step with itself.
3. A session lives for its time since its last batch. It ends by an entry, and with it all that its slots
   remember: what was in flight is then unknown, and is refused under the old number for ever.
"""

from __future__ import annotations

import hashlib

from coordinator.metadata.context import Context
from quorumfs.errors import InvalidArgumentError, SessionExpiredError, StaleSequenceError
from quorumfs.limits import SESSION_SLOTS_MAX
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t

DIGEST_BYTES = 8
CLIENT_CHARACTERS_MAX = 256
NUMBER_MAX = 2**63 - 1

_SESSION = "SELECT 1 FROM session WHERE id = ?"
_KNOWN = (
    "SELECT seq, digest FROM session LEFT JOIN slot ON slot.session = session.id AND slot.slot = ?2"
    " WHERE session.id = ?1"
)
_RESULT = "SELECT result FROM slot WHERE session = ? AND slot = ?"
_REMEMBER = (
    "INSERT OR REPLACE INTO slot (session, slot, seq, digest, result, used_ms) VALUES (?, ?, ?, ?, ?, ?)"
)
_OPEN = "INSERT INTO session (id, client, ttl_ms, opened_ms) VALUES (?, ?, ?, ?)"
_PAST = (
    "SELECT 1 FROM session WHERE id = ?1 AND ?2 >= ttl_ms"
    " + max(opened_ms, coalesce((SELECT max(used_ms) FROM slot WHERE session = ?1), 0))"
)


def recall(context: Context, batch: n.Batch, raw: bytes) -> bytes | None:
    """The stored BatchResult of a batch that was applied before; None for the next of its slot.

    Raises SessionExpiredError, StaleSequenceError, InvalidArgumentError (a slot out of bounds).
    """
    session, slot, seq = batch.session, batch.slot, batch.seq
    row = context.execute(_KNOWN, (session, slot)).fetchone() if session <= NUMBER_MAX else None
    if row is None:
        raise SessionExpiredError(
            f"session {session:x} is not open",
            cause="it expired, was closed, or never was",
            next="open a session; whether what was in flight took effect is unknown",
        )
    if slot >= SESSION_SLOTS_MAX:
        raise InvalidArgumentError(f"a session has {SESSION_SLOTS_MAX} slots", cause=f"slot {slot} was named")
    last, digest = row if row[0] is not None else (0, None)
    if seq == last + 1:
        return None
    if seq == last and digest == _digest(raw):
        stored: bytes = context.execute(_RESULT, (session, slot)).fetchone()[0]
        return stored
    cause = "other bytes were applied under this number" if seq == last else f"the last applied was {last}"
    raise StaleSequenceError(f"batch {seq} of slot {slot} does not come now", cause=cause)


def remember(context: Context, batch: n.Batch, raw: bytes, result: bytes) -> None:
    """Keep the result of a batch until the next of its slot. Nothing is kept of a session that it closed."""
    session = batch.session
    if context.ended and context.execute(_SESSION, (session,)).fetchone() is None:
        return
    context.execute(_REMEMBER, (session, batch.slot, batch.seq, _digest(raw), result, context.now_ms))


def open_session(context: Context, request: n.OpenSessionRequest) -> n.Result:
    session = _free_number(context)
    ttl_ms = request.ttl_ms or context.setting("session.ttl_ms")
    ttl_ms = min(ttl_ms, context.setting("session.ttl_ms"))
    context.execute(_OPEN, (session, request.client[:CLIENT_CHARACTERS_MAX], ttl_ms, context.now_ms))
    made = n.SessionInfo(session=session, ttl_ms=ttl_ms, slots=SESSION_SLOTS_MAX)
    return n.Result(code=t.ERROR_CODE_OK, session=made)


def close_session(context: Context, request: n.CloseSessionRequest) -> n.Result:
    """End a session; one that is not open is ended already."""
    if request.session <= NUMBER_MAX:
        _end(context, request.session)
    return n.Result(code=t.ERROR_CODE_OK)


def expire(context: Context, command: e.ExpireSessions) -> int:
    """End those sessions whose time is over as of this entry; how many. A batch may have come in between."""
    ended = 0
    for session in command.sessions:
        if session <= NUMBER_MAX and context.execute(_PAST, (session, context.now_ms)).fetchone():
            _end(context, session)
            ended += 1
    return ended


def _end(context: Context, session: int) -> None:
    context.ended = True
    context.execute("DELETE FROM slot WHERE session = ?", (session,))
    context.execute("DELETE FROM session WHERE id = ?", (session,))


def _free_number(context: Context) -> int:
    """63 bits of chance out of the entry's seed: never 0, never one that is open."""
    k = 0
    while True:
        number = int.from_bytes(context.derived_id(k)[:8], "big") & NUMBER_MAX
        if number and context.execute(_SESSION, (number,)).fetchone() is None:
            return number
        k += 1


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()[:DIGEST_BYTES]
