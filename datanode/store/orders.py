"""Orders of a leader that destroy or bring back, carried out behind the fence.

The epoch is obeyed durably before anything else; then every chunk is judged on its own (`rules.py`), so that
one refusal does not hold up the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from datanode.store.chunks import ChunkStore
from datanode.store.fence import EpochLike, EpochStore
from datanode.store.holds import Hold
from datanode.store.rules import Condemnation, HeldError
from quorumfs.errors import HistoryBehindError, QuorumFSError
from quorumfs.ids import ChunkId


@dataclass(slots=True)
class Outcome:
    """What became of each chunk. `error` is the last reason why one was refused; `held`: of those refused, what waits
    for an operator's release."""

    done: list[ChunkId] = field(default_factory=list)
    absent: list[ChunkId] = field(default_factory=list)
    refused: list[ChunkId] = field(default_factory=list)
    held: list[ChunkId] = field(default_factory=list)
    error: QuorumFSError | None = None


class Orders:
    """Deletes and restores. Any thread."""

    def __init__(self, store: ChunkStore, fence: EpochStore) -> None:
        self._store = store
        self._fence = fence

    def delete(
        self,
        epoch: EpochLike,
        condemned: Sequence[tuple[ChunkId, int]],
        commit_index: int | None = None,
        fork_index: int | None = None,
        released: Collection[ChunkId] = (),
    ) -> Outcome:
        """Quarantine (chunk, condemn index) each. `commit_index`, `fork_index`: the leader's, where it told it;
        `released`: what may go though the leader's log cannot have seen all of it.

        Raises FencedError for a lower epoch, HistoryBehindError for a leader that knows less of the log than
        this node has heard of: its metadata may be a backup, and what it takes for garbage may be new.
        """
        self._fence.obey(epoch)
        if commit_index is not None and commit_index < self._fence.commit_index:
            raise HistoryBehindError(
                "a delete was refused: the leader's log is behind",
                cause=f"it is at index {commit_index}, this node has heard of {self._fence.commit_index}",
                next="wait for the leader to catch up; if it was restored from a backup, begin a new history",
            )
        self._fence.settle()
        outcome = Outcome()
        for chunk, condemn_index in condemned:
            condemned_by = Condemnation(condemn_index, epoch.history, fork_index, chunk in released)
            try:
                gone = self._store.quarantine(chunk, condemned_by)
                (outcome.done if gone else outcome.absent).append(chunk)
            except QuorumFSError as error:
                outcome.refused.append(chunk)
                outcome.error = error
                if isinstance(error, HeldError):
                    outcome.held.append(chunk)
        return outcome

    def restore(self, epoch: EpochLike, chunks: Sequence[ChunkId], void_below_index: int) -> Outcome:
        """Bring chunks back from quarantine; deletes condemned at or below the index are void from now on.

        Raises FencedError.
        """
        self._fence.obey(epoch)
        hold = Hold(epoch.history, void_below_index)
        outcome = Outcome()
        for chunk in chunks:
            try:
                back = self._store.restore(chunk, hold)
                (outcome.done if back else outcome.absent).append(chunk)
            except QuorumFSError as error:
                outcome.refused.append(chunk)
                outcome.error = error
        return outcome
