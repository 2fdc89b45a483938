"""One question of a client on its way to the leader: the rules of the real client, with events instead of waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quorumfs.errors import OutcomeUnknownError, QuorumFSError, UnavailableError
from quorumfs.rpc.coordinator import _leaves_doubt, _outcome
from quorumfs.rpc.leader import Route, Step
from quorumfs.rpc.status import from_detail
from quorumfs.v1 import namespace_pb2 as n

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

TRY_SECONDS_MAX = 3.0


class Exchange:
    """`on_end` gets the answer's bytes, or the error and whether it may have happened.

    `changes`: the bytes are a Batch, and a lost answer leaves doubt. `anybody`: a follower will do.
    """

    def __init__(
        self,
        cluster: Cluster,
        raw: bytes,
        route: Route,
        patience: float,
        on_end: Callable[[str, bytes, QuorumFSError | None, bool], None],
        *,
        changes: bool,
    ) -> None:
        self._cluster = cluster
        self._raw = raw
        self._route = route
        self._deadline = cluster.world.now + patience
        self._on_end = on_end
        self._changes = changes
        self._try_seconds = cluster.plan.try_seconds
        self._in_doubt = False
        self._number = 0
        self._last: QuorumFSError = UnavailableError("nobody was asked")

    def begin(self, step: Step | None = None) -> None:
        self._go(step or self._route.begin())

    def _go(self, step: Step) -> None:
        self._cluster.world.after(step.wait_seconds, self._ask, step.address)

    def _ask(self, address: str) -> None:
        world = self._cluster.world
        if world.now >= self._deadline:
            self._on_end(address, b"", self._last, self._in_doubt)
            return
        self._number += 1
        number = self._number
        self._cluster.call(
            address,
            self._raw,
            self._changes,
            lambda answer: self._answered(number, address, answer),
            lambda: self._refused(number, address),
        )
        world.after(self._try_seconds, self._timed_out, number, address)

    def _answered(self, number: int, address: str, raw: bytes) -> None:
        if number != self._number:
            return
        self._number += 1
        answer: Any = (n.BatchResult if self._changes else n.ReadBatchResult).FromString(raw)
        if not answer.code:
            self._on_end(address, raw, None, False)
            return
        self._failed(address, from_detail(answer.error), transport=False)

    def _refused(self, number: int, address: str) -> None:
        """There was no connection: nothing was sent."""
        if number == self._number:
            self._number += 1
            self._failed(address, UnavailableError(f"{address} cannot be reached"), transport=True)

    def _timed_out(self, number: int, address: str) -> None:
        if number != self._number:
            return
        self._number += 1
        self._try_seconds = min(self._try_seconds * 2, TRY_SECONDS_MAX)
        if self._changes:
            error: QuorumFSError = OutcomeUnknownError(f"no answer of {address}")
        else:
            error = UnavailableError(f"no answer of {address}")
        self._failed(address, error, transport=True)

    def _failed(self, address: str, error: QuorumFSError, *, transport: bool) -> None:
        self._last = error
        self._in_doubt = self._in_doubt or (self._changes and _leaves_doubt(error))
        outcome, hint = _outcome(error, transport=transport)
        if outcome is None:
            self._on_end(address, b"", error, self._in_doubt)
            return
        step = self._route.after(address, outcome, hint.grpc if hint else None, self._cluster.client_chance())
        self._go(step)
