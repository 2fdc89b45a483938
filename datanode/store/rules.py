"""Whether an order to delete may be carried out here. Pure; the last guard before a chunk goes."""

from __future__ import annotations

from datanode.store.layout import Birth
from quorumfs.errors import SafetyGuardError
from quorumfs.ids import ChunkId


def check_quarantine(
    chunk: ChunkId, birth: Birth | None, condemn_index: int, history: int, void_below: int
) -> None:
    """Raises SafetyGuardError when the condemnation cannot mean this chunk. `birth` None: unreadable, may go.

    Indexes are compared only within one history: what a fork of the log means for older ones is for the
    leader to know, and chunks of a *later* history than the order's are never its business.
    """
    if condemn_index <= void_below:
        raise _refused(chunk, f"condemnations up to index {void_below} were voided by a restore")
    if birth is None:
        return
    if birth.history > history:
        raise _refused(chunk, f"it was born in history {birth.history}, the order is of {history}")
    if birth.history == history and birth.index >= condemn_index:
        raise _refused(chunk, f"it was born at index {birth.index}, condemned at {condemn_index}")


def _refused(chunk: ChunkId, cause: str) -> SafetyGuardError:
    return SafetyGuardError(
        f"chunk {chunk.hex()} is not deleted",
        cause=cause,
        next="the leader looks at the chunk again",
        ids={"chunk": chunk.hex()},
    )
