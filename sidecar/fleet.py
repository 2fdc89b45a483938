"""Questions about the cluster that any node's agent answers: who belongs, the Raft group, garbage collection.

1. A coordinator's agent asks its own node first; a datanode's agent asks the coordinators, the leader first.
2. "Not leader" and silence lead on to the next one, within a budget of time. Only the leader hears the datanodes: of
   the nodes' health, and of what the collection does, a follower's answer is told when the leader does not give one.
3. Many askers share one answer; when nobody answers, the last good one is told, with its age.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from quorumfs.clock import Clock
from quorumfs.errors import Code, NoLeaderError, OutcomeUnknownError, QuorumFSError, make
from quorumfs.v1 import admin_pb2, namespace_pb2, types_pb2
from sidecar import limits
from sidecar.leader_tracking import LeaderTracker
from sidecar.methods import (
    GET_BALANCE,
    GET_CLUSTER_STATUS,
    GET_DURABILITY,
    GET_GC,
    GET_RAFT,
    GET_REPAIR,
    READ,
)
from sidecar.node_link import NodeLink, Told
from sidecar.settings import Settings
from sidecar.shared import Shared
from sidecar.transport import Method, RefusedError, SilentError, Transport, call, call_alive

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

FLEET_BUDGET_SECONDS = limits.NODE_DEADLINE_SECONDS + limits.PEER_DEADLINE_SECONDS


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Response]):
    told: Told[Response] | None
    error: QuorumFSError | None


class Question(Generic[Response]):
    """One question with its shared answer and the last good one. Any thread may call."""

    def __init__(self, ask: Callable[[], Told[Response]], clock: Clock) -> None:
        self._ask = ask
        self._shared: Shared[Outcome[Response]] = Shared(self._outcome, clock)

    def answer(self) -> tuple[Told[Response], QuorumFSError | None]:
        """The newest answer there is, and why there is no newer one. Raises QuorumFSError if none is."""
        outcome = self._shared.fresh(limits.READ_FRESH_SECONDS, FLEET_BUDGET_SECONDS).value
        if outcome.told is None:
            raise outcome.error or NoLeaderError("nobody has answered yet")
        return outcome.told, outcome.error

    def _outcome(self) -> Outcome[Response]:
        try:
            return Outcome(self._ask(), None)
        except QuorumFSError as error:
            before = self._shared.latest()
            return Outcome(None if before is None else before.value.told, error)


class Fleet:
    """`transport` carries the callers' tokens; `own` this agent's own questions, whose answers it shares among those
    whom it has let in: with the proof that it belongs to the cluster."""

    def __init__(
        self,
        settings: Settings,
        link: NodeLink,
        tracker: LeaderTracker,
        transport: Transport,
        own: Transport,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._link = link
        self._tracker = tracker
        self._transport = transport
        self._own = own
        self._clock = clock
        self.cluster = Question(self._ask_cluster, clock)
        self.raft = Question(self._ask_raft, clock)
        self.gc = Question(self._ask_gc, clock)
        self.gc_cycles = Question(lambda: self._ask_gc(cycles=True), clock)
        self.durability = Question(self._ask_durability, clock)
        self.repair = Question(self._ask_repair, clock)
        self.balance = Question(self._ask_balance, clock)

    def read(
        self, op: namespace_pb2.ReadOp
    ) -> tuple[Told[namespace_pb2.ReadBatchResult], QuorumFSError | None]:
        """A question about files: by the leader, behind its barrier; while nobody leads by any coordinator, as old as
        it says, with the reason. Raises what the question was refused with, NoLeaderError."""
        deadline = self._clock.monotonic() + limits.BARRIER_BUDGET_SECONDS
        batch = namespace_pb2.ReadBatch(ops=[op], ttl_ms=int(limits.BARRIER_BUDGET_SECONDS * 1000))
        try:
            return self._read(batch, deadline), None
        except QuorumFSError as error:
            if error.code not in (Code.NO_LEADER, Code.UNAVAILABLE):
                raise
            batch.consistency = namespace_pb2.CONSISTENCY_STALE
            return self._read(batch, deadline + limits.PEER_DEADLINE_SECONDS), error

    def _read(self, batch: namespace_pb2.ReadBatch, deadline: float) -> Told[namespace_pb2.ReadBatchResult]:
        failures: list[QuorumFSError] = []
        for address in self._coordinators():
            remaining = deadline - self._clock.monotonic()
            if remaining <= 0:
                break
            seconds = min(remaining, limits.PEER_DEADLINE_SECONDS)
            try:
                answer = call(self._transport, address, READ, batch, seconds)
                _raise_told(answer.error)
            except QuorumFSError as error:
                failures.append(error)
                continue
            _raise_told(answer.results[0].error)
            now = self._clock.monotonic() - answer.age_ms / 1000
            return Told(answer, now, self._clock.wall_ms() - answer.age_ms, address)
        raise _nobody(str(READ), failures)

    def ask_leader_first(
        self,
        method: Method[Request, Response],
        request: Request,
        stale: Request,
        error_of: Callable[[Response], types_pb2.ErrorDetail],
        age_ms_of: Callable[[Response], int],
        token: str,
    ) -> tuple[Told[Response], QuorumFSError | None]:
        """What the leader tells; while nobody leads, what any coordinator does when it is asked `stale`, as old as it
        says, with the reason. Raises what the question was refused with, NoLeaderError."""
        try:
            answer, who = self._order(method, request, error_of, token, changes=False)
            return Told(answer, self._clock.monotonic(), self._clock.wall_ms(), who), None
        except QuorumFSError as error:
            if error.code not in (Code.NO_LEADER, Code.UNAVAILABLE):
                raise
            return self._ask_stale(method, stale, error_of, age_ms_of, token), error

    def _ask_stale(
        self,
        method: Method[Request, Response],
        stale: Request,
        error_of: Callable[[Response], types_pb2.ErrorDetail],
        age_ms_of: Callable[[Response], int],
        token: str = "",
    ) -> Told[Response]:
        failures: list[QuorumFSError] = []
        for address in self._coordinators():
            transport = self._transport if token else self._own
            try:
                answer = call(transport, address, method, stale, limits.PEER_DEADLINE_SECONDS, token)
                _raise_told(error_of(answer))
            except QuorumFSError as error:
                failures.append(error)
                continue
            age_ms = age_ms_of(answer)
            at = self._clock.monotonic() - age_ms / 1000
            return Told(answer, at, max(0, self._clock.wall_ms() - age_ms), address)
        raise _nobody(str(method), failures)

    def order(
        self,
        method: Method[Request, Response],
        request: Request,
        error_of: Callable[[Response], types_pb2.ErrorDetail],
        token: str,
        *,
        changes: bool = True,
    ) -> Response:
        """What only the leader does, or tells; whoever leads is found. Raises the leader's refusal, NoLeaderError, and
        OutcomeUnknownError when a change was sent and no answer came."""
        return self._order(method, request, error_of, token, changes=changes)[0]

    def _order(
        self,
        method: Method[Request, Response],
        request: Request,
        error_of: Callable[[Response], types_pb2.ErrorDetail],
        token: str,
        *,
        changes: bool,
    ) -> tuple[Response, str]:
        """`order`, with the address of who answered."""
        deadline = self._clock.monotonic() + limits.ORDER_BUDGET_SECONDS
        failures: list[QuorumFSError] = []
        for address in self._coordinators():
            remaining = deadline - self._clock.monotonic()
            if remaining <= 0:
                break
            try:
                answer = call_alive(self._transport, address, method, request, remaining, token)
                _raise_told(error_of(answer))
                return answer, address
            except (SilentError, RefusedError) as error:
                if changes and error.was_sent:
                    raise OutcomeUnknownError(
                        f"{address} did not answer {method}",
                        cause=error.cause,
                        next="look whether it happened before you ask for it again",
                    ) from error
                failures.append(error)
            except QuorumFSError as error:
                if error.code not in (Code.NOT_LEADER, Code.UNAVAILABLE, Code.NO_LEADER):
                    raise
                failures.append(error)
        raise _nobody(str(method), failures)

    def _coordinators(self) -> list[str]:
        """Those that answer, the leader first. One that hangs is asked nothing: it does not lead, and would carry an
        order out, if ever, when it is past. Raises NoLeaderError."""
        silent = self._tracker.silent()
        own = self._settings.is_coordinator and self._link.observe().answers
        there = [one for one in self._tracker.candidates() if one not in silent]
        if own and self._settings.grpc not in there:
            there.append(self._settings.grpc)
        if not there:
            raise NoLeaderError("no coordinator answers", cause="; ".join(self._tracker.find().reasons))
        return there

    def _ask_cluster(self) -> Told[admin_pb2.ClusterStatus]:
        return self._ask_leading(
            GET_CLUSTER_STATUS,
            admin_pb2.GetClusterStatusRequest(),
            lambda found: found.error,
            lambda found: (found.view.authoritative, found.view.leader),
        )

    def _ask_leading(
        self,
        method: Method[Request, Response],
        request: Request,
        error_of: Callable[[Response], types_pb2.ErrorDetail],
        leading: Callable[[Response], tuple[bool, types_pb2.LeaderHint]],
    ) -> Told[Response]:
        """What the leader says, else what a follower does. `leading`: whether it leads, and who does."""
        begun = self._clock.monotonic()
        told = self._ask(method, request, error_of)
        is_authoritative, leader = leading(told.value)
        remaining = begun + FLEET_BUDGET_SECONDS - self._clock.monotonic()
        if is_authoritative or not leader.grpc or remaining <= 0:
            return told
        seconds = min(remaining, limits.PEER_DEADLINE_SECONDS)
        try:
            answer = call(self._own, leader.grpc, method, request, seconds)
        except QuorumFSError:
            return told
        if error_of(answer).code or not leading(answer)[0]:
            return told
        return Told(answer, self._clock.monotonic(), self._clock.wall_ms(), leader.grpc)

    def _ask_raft(self) -> Told[admin_pb2.RaftStatus]:
        return self._ask(GET_RAFT, admin_pb2.GetRaftRequest(), lambda found: types_pb2.ErrorDetail())

    def _ask_gc(self, *, cycles: bool = False) -> Told[admin_pb2.GcStatus]:
        return self._ask_leading(
            GET_GC,
            admin_pb2.GetGcRequest(cycles=cycles),
            lambda found: found.error,
            lambda found: (found.authoritative, found.leader),
        )

    def _ask_durability(self) -> Told[admin_pb2.Durability]:
        request = admin_pb2.GetDurabilityRequest(problems=limits.PROBLEMS_MAX)
        return self._ask(GET_DURABILITY, request, lambda found: found.error)

    def _ask_repair(self) -> Told[admin_pb2.RepairStatus]:
        """By the leader; while nobody leads, what any coordinator's tables say: how much waits."""
        error_of: Callable[[admin_pb2.RepairStatus], types_pb2.ErrorDetail] = lambda found: found.error  # noqa: E731
        try:
            return self._ask(GET_REPAIR, admin_pb2.GetRepairRequest(), error_of)
        except QuorumFSError:
            stale = admin_pb2.GetRepairRequest(stale=True)
            return self._ask_stale(GET_REPAIR, stale, error_of, lambda found: found.age_ms)

    def _ask_balance(self) -> Told[admin_pb2.BalanceStatus]:
        return self._ask(GET_BALANCE, admin_pb2.GetBalanceRequest(), lambda found: found.error)

    def _ask(
        self,
        method: Method[Request, Response],
        request: Request,
        error_of: Callable[[Response], types_pb2.ErrorDetail],
    ) -> Told[Response]:
        deadline = self._clock.monotonic() + FLEET_BUDGET_SECONDS
        failures: list[QuorumFSError] = []
        for ask in self._sources(method, request):
            remaining = deadline - self._clock.monotonic()
            if remaining <= 0:
                break
            try:
                who, answer = ask(remaining)
                _raise_told(error_of(answer))
                return Told(answer, self._clock.monotonic(), self._clock.wall_ms(), who)
            except QuorumFSError as error:
                failures.append(error)
        raise _nobody(str(method), failures)

    def _sources(
        self, method: Method[Request, Response], request: Request
    ) -> Sequence[Callable[[float], tuple[str, Response]]]:
        def own(_: float) -> tuple[str, Response]:
            return self._link.node_id, self._link.ask(method, request)

        def peer(address: str) -> Callable[[float], tuple[str, Response]]:
            def ask(remaining: float) -> tuple[str, Response]:
                seconds = min(remaining, limits.PEER_DEADLINE_SECONDS)
                return address, call(self._own, address, method, request, seconds)

            return ask

        peers = [peer(address) for address in self._tracker.candidates()]
        return [own, *peers] if self._settings.is_coordinator else peers


def _raise_told(detail: types_pb2.ErrorDetail) -> None:
    if detail.code:
        raise make(detail.code, detail.message, cause=detail.cause, next=detail.next)


def _nobody(what: str, failures: Sequence[QuorumFSError]) -> QuorumFSError:
    refusals = [error for error in failures if error.code is not Code.NOT_LEADER]
    if len(failures) == 1 and refusals:
        return failures[0]
    return NoLeaderError(
        f"no coordinator answered {what}",
        cause="; ".join(str(error) for error in failures) or "none is known",
    )
