"""Whether an order to delete may be carried out here. Pure; the last guard before a chunk goes."""

from __future__ import annotations

from dataclasses import dataclass

from datanode.store.holds import UNKNOWN, Hold
from datanode.store.layout import Birth
from quorumfs.errors import SafetyGuardError
from quorumfs.ids import ChunkId


class HeldError(SafetyGuardError):
    """The chunk stays until an operator has released it."""


@dataclass(frozen=True, slots=True)
class Condemnation:
    """Why a chunk is to go: the index of the entry, in which history. `fork_index`: where that began, None if it was
    not told. `released`: an operator has said so, or the log refers to other copies of the chunk."""

    index: int
    history: int
    fork_index: int | None = None
    released: bool = False


def check_quarantine(chunk: ChunkId, birth: Birth | None, condemned: Condemnation, hold: Hold | None) -> None:
    """Raises SafetyGuardError when the condemnation cannot mean this chunk; HeldError, of those, when an operator has
    to say so first. `birth` None: unreadable, may go.

    Indexes are compared only within one history. What was born or restored in an earlier one, behind the index where
    the order's history left it, is nothing that the order's log can have seen. Chunks of a *later* history than the
    order's are never its business.
    """
    history = condemned.history
    if hold is not None:
        _check_hold(chunk, hold, condemned)
    if birth is None:
        return
    forked = condemned.fork_index is not None and birth.index > condemned.fork_index
    if birth.history < history and forked and not condemned.released:
        raise _held(chunk, f"it was born in history {birth.history} at index {birth.index}, behind its end")
    if birth.history > history:
        raise _refused(chunk, f"it was born in history {birth.history}, the order is of {history}")
    if birth.history == history and birth.index >= condemned.index:
        raise _refused(chunk, f"it was born at index {birth.index}, condemned at {condemned.index}")


def _check_hold(chunk: ChunkId, hold: Hold, condemned: Condemnation) -> None:
    if hold.history in (UNKNOWN, condemned.history):
        if condemned.index <= hold.void_below_index and not (hold.history == UNKNOWN and condemned.released):
            raise _refused(
                chunk, f"condemnations up to index {hold.void_below_index} were voided by a restore"
            )
    elif hold.history < condemned.history and not condemned.released:
        raise _held(chunk, f"it was restored from quarantine in history {hold.history}")


def _held(chunk: ChunkId, cause: str) -> HeldError:
    return HeldError(
        f"chunk {chunk.hex()} is not deleted",
        cause=cause,
        next="dfsctl gc release when it may go",
        ids={"chunk": chunk.hex()},
    )


def _refused(chunk: ChunkId, cause: str) -> SafetyGuardError:
    return SafetyGuardError(
        f"chunk {chunk.hex()} is not deleted",
        cause=cause,
        next="the leader looks at the chunk again",
        ids={"chunk": chunk.hex()},
    )
