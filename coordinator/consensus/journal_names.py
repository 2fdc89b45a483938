"""The journal by the names that PySyncObj calls it (pysyncobj/journal.py, 0.3.17). Forwarding, and nothing else."""

from __future__ import annotations

from typing import Protocol


class _Log(Protocol):
    """What the names stand for."""

    @property
    def first_index(self) -> int: ...

    @property
    def term(self) -> int: ...

    @property
    def voted_for(self) -> str | None: ...

    def __len__(self) -> int: ...

    def append(self, command: bytes, index: int, term: int) -> None: ...

    def truncate_from(self, index: int) -> None: ...

    def drop_to(self, index: int) -> None: ...

    def set_term(self, term: int, voted_for: str | None) -> None: ...

    def close(self) -> None: ...


class PySyncObjNames:
    """Mixed into the journal. A position counts from the first retained entry."""

    def add(self: _Log, command: bytes, idx: int, term: int) -> None:
        self.append(command, idx, term)

    def deleteEntriesFrom(self: _Log, entryFrom: int) -> None:  # noqa: N802, N803
        if entryFrom < len(self):
            self.truncate_from(self.first_index + entryFrom)

    def deleteEntriesTo(self: _Log, entryTo: int) -> None:  # noqa: N802, N803
        self.drop_to(self.first_index + min(entryTo, len(self) - 1))

    def clear(self) -> None:
        """Refused: a member that forgets its log may not go on as if it never had one."""
        raise ValueError("a journal is never cleared; `reset` makes it follow a snapshot")

    def setCurrentTerm(self: _Log, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        self.set_term(term, votedForNodeId)

    def getCurrentTerm(self: _Log) -> int:  # noqa: N802
        return self.term

    def getVotedForNodeId(self: _Log) -> str | None:  # noqa: N802
        return self.voted_for

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Nothing: SQLite's applied index is the durable lower bound."""

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        return 1

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """Nothing: everything is written when it is said."""

    def _destroy(self: _Log) -> None:
        self.close()
