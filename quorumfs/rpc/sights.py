"""What asking each coordinator once who leads has shown: whom to ask next, in which order, and whether to wait. Pure.

1. Each is asked for a moment only. Who is named as leader is asked next; only the leader itself says that it leads.
2. Who answered stands before who did not: the first request does not go to one that hangs.
3. When a majority has heard no leader for longer than an election takes, or does not run at all, nobody is about to
   lead, and nothing is to be waited for. One that is still starting, or names somebody, speaks against it; one that is
   silent may only be far away, and tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from quorumfs import limits
from quorumfs.errors import QuorumFSError
from quorumfs.rpc.status import from_rpc, is_composed, status_of, was_refused
from quorumfs.v1 import admin_pb2

_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Sights:
    """One look at `known`. `leader`: the address of the one that says that it leads. `said`: by address, in words, what
    each of the others said or that it did not."""

    def __init__(self, known: Sequence[str]) -> None:
        self._open = list(known)
        self._majority = len(known) // 2 + 1
        self._witnesses = 0
        self._well: list[str] = []
        self._silent: list[str] = []
        self.said: dict[str, str] = {}
        self._is_settled = True
        self.leader: str | None = None

    def next(self) -> str | None:
        """Whom to ask; None: enough is known."""
        return None if self.leader is not None or not self._open else self._open.pop(0)

    def answered(self, address: str, view: admin_pb2.LeaderView) -> None:
        """What the coordinator there said."""
        self._well.append(address)
        if view.leader.node_id and view.leader.node_id == view.observed_by:
            self.leader = address
        elif view.leader.grpc:
            self._is_settled = False
            self.said[address] = f"{view.observed_by or address} takes {view.leader.node_id} for the leader"
            self._ask_next(view.leader.grpc)
        else:
            self._is_settled = self._is_settled and view.age_seconds >= limits.LEADERLESS_SECONDS
            who = view.observed_by or address
            self.said[address] = f"{who} has heard no leader for {view.age_seconds:.0f} s"
            self._witnesses += 1

    def failed(self, address: str, error: grpc.RpcError | QuorumFSError) -> None:
        """It did not say."""
        self._silent.append(address)
        if isinstance(error, QuorumFSError) or is_composed(error) or status_of(error) not in _GONE:
            self._is_settled = False
            told = error if isinstance(error, QuorumFSError) else from_rpc(error, "it", sent=False)
            self.said[address] = f"{address}: {told}"
        else:
            gone = was_refused(error)
            self.said[address] = f"{address} {'does not run' if gone else 'does not answer'}"
            self._witnesses += gone

    def in_order(self) -> list[str]:
        """All of them: who answered, who was not asked, who was silent."""
        return [*self._well, *self._open, *self._silent]

    @property
    def told(self) -> dict[str, str]:
        """Of `said`, by those that answered."""
        return {address: self.said[address] for address in self._well if address in self.said}

    def leaderless(self) -> str:
        """Why it is certain that nobody leads; empty when it is not."""
        sure = self._well and self._is_settled and self.leader is None and self._witnesses >= self._majority
        return "; ".join(self.said.values()) if sure else ""

    def _ask_next(self, address: str) -> None:
        if address not in self._well and address not in self._silent:
            self._open = [address, *(one for one in self._open if one != address)]
