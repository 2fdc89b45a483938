"""A stub that follows the leader. What callers see of a failover is time, not errors.

1. Changes (`do`) are combined with those of other threads, sent in a session over a stream, and repeated as
   the same bytes until they are answered or the deadline is over; then the outcome is unknown, or, when
   nothing ever left, refused.
2. Reads (`read`) are repeated freely. Linearizable by default: by the leader; stale on request: by anybody.
3. One try has a short time limit, so that a stopped leader is left before its successor is elected.
4. Until some leader was reached once, the patience is shorter, and still shorter until anybody answered: a
   wrong address is a mistake, not a failover.
5. With `fail_fast`, for people who wait at a terminal, it is shortest while every address refuses connections; and
   before the first contact all are asked who leads, each for a moment only: one that hangs is left at once, and when a
   majority has heard no leader for longer than an election takes, or does not run, that is the answer.
6. With `fail_fast`, a question to operators' services (`call`, `leader_view`) looks around until somebody leads, but no
   longer than QUESTION_SECONDS: then the answer is that nobody does, and what each of them said. Files wait as ever,
   and so does a question that nobody answered at all: they may be far away.

Any thread may call; the only shared state is who led last.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from quorumfs import limits
from quorumfs.batch import Combiner, Done, Later
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import (
    BusyError,
    Code,
    InternalError,
    Leader,
    NoLeaderError,
    NoSpaceError,
    NotLeaderError,
    OutcomeUnknownError,
    QuorumFSError,
    Retry,
    TimedOutError,
    UnavailableError,
)
from quorumfs.ops import BATCH_ROOM_BYTES, messages
from quorumfs.questions import encode_batch
from quorumfs.rpc import methods
from quorumfs.rpc.channels import Channels, ChannelSource
from quorumfs.rpc.leader import Outcome, Route, Step
from quorumfs.rpc.session import Refused, SessionSlots
from quorumfs.rpc.sights import Sights
from quorumfs.rpc.status import WRONG_PORT, from_rpc, leader_of, raise_for, status_of, was_never_sent
from quorumfs.rpc.streams import BatchStreams
from quorumfs.v1 import admin_pb2, membership_pb2, namespace_pb2, types_pb2

Reply = TypeVar("Reply")

_DO = "/quorumfs.v1.Namespace/Do"
_READ = "/quorumfs.v1.Namespace/Read"
_READ_BATCH_OPS_MAX = 256
_BATCH_TTL_MS = int(limits.RPC_DEADLINE_SECONDS * 1000)
_ENTRY_PAUSE_SECONDS = 0.05
_LOOK_PAUSE_SECONDS = 0.1


class Coordinator:
    """The coordinators of one cluster, seen as one. See the module's rules.

    `addresses`: host:port of some coordinators, the others are learnt. `channels` stays the caller's own when
    it is given, and is closed with this object otherwise. `token` is sent as a bearer token. `fail_fast`: see rule 5.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        channels: ChannelSource | None = None,
        *,
        timeout: float = limits.CLIENT_DEADLINE_SECONDS,
        token: str | None = None,
        client_name: str = "",
        batches_in_flight: int = 1,
        fail_fast: bool = False,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        if not addresses:
            raise NoLeaderError("no coordinator is known", cause="the list of coordinators is empty")
        self.timeout = timeout
        self._fail_fast = fail_fast
        self._known = list(dict.fromkeys(addresses))
        self._owns_channels = channels is None
        self._channels: ChannelSource = channels if channels is not None else Channels()
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._clock = clock or SystemClock()
        self._chance = chance
        self._closed = threading.Event()
        self._pause = pause or self._closed.wait
        self._leader: str | None = None
        self._answering: str | None = None
        self._reached = False
        self._listens = False  # whether anything took a connection at all
        self._lock = threading.Lock()
        self._callables: dict[tuple[str, str], tuple[grpc.Channel, Any]] = {}
        self._streams = BatchStreams(self._channels, self._call, self._metadata)
        lanes = max(1, min(batches_in_flight, limits.CLIENT_SLOTS_MAX))
        self._lane_alone = lanes  # behind those of the coalescers
        self._asks_alone = threading.Lock()
        self._session = SessionSlots(
            self._send_batch, client_name or _client_name(), _BATCH_TTL_MS, self._clock
        )
        self._changes: Combiner[namespace_pb2.Op, namespace_pb2.Result] = Combiner(
            self._session.send,
            lanes=lanes,
            ops_max=limits.BATCH_OPS_MAX,
            size_max=BATCH_ROOM_BYTES,
            clock=self._clock,
        )
        self._reads: Combiner[bytes, namespace_pb2.ReadResult] = Combiner(
            lambda lane, ops, patience: self._ask(
                "read (stat)", encode_batch(ops), len(ops), patience, lane=lane
            ),
            lanes=lanes,
            ops_max=_READ_BATCH_OPS_MAX,
            size_max=limits.BATCH_BYTES_MAX,
            clock=self._clock,
        )

    # ---- changes and reads -------------------------------------------------------------------------------

    def do(self, ops: Sequence[namespace_pb2.Op], timeout: float | None = None) -> list[namespace_pb2.Result]:
        """Carry out `ops` in order, each exactly once; one Result each, in order. Durable on return.

        Not atomic: each Result has its own code. More than one message holds is sent as several, one after
        the other. `timeout`: seconds for each message, instead of this object's. An operation alone for which its log
        entry had no room is carried out by a later one.
        Raises OutcomeUnknownError, NoLeaderError, TimedOutError for the message as a whole.
        """
        if len(ops) == 1:
            return [self._do_one(ops[0], self.timeout if timeout is None else timeout)]
        results: list[namespace_pb2.Result] = []
        for part, size in messages(ops):
            results += self._changes.run(part, size, self.timeout if timeout is None else timeout)
        return results

    def _do_one(self, op: namespace_pb2.Op, patience: float) -> namespace_pb2.Result:
        deadline = self._clock.monotonic() + patience
        (message,) = messages([op])
        while True:
            (result,) = self._changes.run(*message, patience)
            patience = deadline - self._clock.monotonic() - _ENTRY_PAUSE_SECONDS
            if int(result.code) != Code.BUSY or patience <= 0:
                return result
            self._pause(_ENTRY_PAUSE_SECONDS)

    def submit(
        self,
        calls: Sequence[tuple[namespace_pb2.Op, Done[namespace_pb2.Result]]],
        later: Later | None = None,
    ) -> None:
        """Carry out one operation for each of many callers, who are told from another thread; returns at once.

        Like `do` in all else: exactly once, coalesced with everybody's (`later`: of the coalescer's rule 5),
        within this object's timeout.
        """
        self._changes.submit((((op,), op.ByteSize() + 4, done) for op, done in calls), self.timeout, later)

    def submit_reads(
        self,
        calls: Sequence[tuple[bytes, Done[namespace_pb2.ReadResult]]],
        later: Later | None = None,
    ) -> None:
        """Like `submit`, for linearizable stats, serialized (see `quorumfs.questions`)."""
        self._reads.submit((((op,), len(op) + 4, done) for op, done in calls), self.timeout, later)

    def read(
        self,
        ops: Sequence[namespace_pb2.ReadOp],
        consistency: namespace_pb2.Consistency.ValueType = namespace_pb2.CONSISTENCY_LINEARIZABLE,
    ) -> list[namespace_pb2.ReadResult]:
        """Answers to `ops` as of one moment; one ReadResult each, with its own code.

        Linearizable by default. CONSISTENCY_STALE asks any coordinator, needs no leader, and may be old.
        """
        if consistency != namespace_pb2.CONSISTENCY_LINEARIZABLE or len(ops) != 1:
            return self._read(ops, consistency, self.timeout)
        if ops[0].WhichOneof("op") != "stat":  # pages and layouts are large: alone in their message
            return self._read_alone(ops, self.timeout)
        question = ops[0].SerializeToString()
        return self._reads.run([question], len(question) + 4, self.timeout)

    def keep_alive(self, uploads: Sequence[bytes]) -> list[bytes]:
        """A sign of life for open uploads and the session; returns the uploads that are gone."""
        request = namespace_pb2.KeepAliveRequest(uploads=uploads, session=self._session.number)
        reply = self.call("Namespace.KeepAlive", request, limits.RPC_DEADLINE_SECONDS)
        return list(reply.gone)

    def report_replica(
        self, chunk: bytes, node_id: str, state: types_pb2.ReplicaState.ValueType, detail: str
    ) -> None:
        """Tell the leader that a replica is corrupt or missing, so that it is verified and healed."""
        request = namespace_pb2.ReportReplicaRequest(chunk=chunk, node_id=node_id, state=state, detail=detail)
        self.call("Namespace.ReportReplica", request, limits.RPC_DEADLINE_SECONDS, repeatable=True)

    # ---- everything else a coordinator serves ------------------------------------------------------------

    def call(
        self,
        method: str,
        request: Message,
        deadline: float | None = None,
        *,
        leader: bool = True,
        address: str | None = None,
        repeatable: bool | None = None,
    ) -> Any:
        """The reply to a unary call such as "Control.GetRaft", whose `code` and `error` are checked.

        `leader`: ask the leader, whoever it is by now; else the first coordinator that answers. `address`:
        ask exactly this node, once. `deadline`: seconds. `repeatable`: whether it may be sent again when the
        answer was lost; by default calls that only look are, others end as OutcomeUnknownError.
        """
        route = methods.find(method)
        may_repeat = route.only_looks if repeatable is None else repeatable
        raw = request.SerializeToString()
        patience = self.timeout if deadline is None else deadline

        def ask(node: str, timeout: float) -> Any:
            reply = self._invoke(node, route.path, route.reply, raw, timeout)
            methods.check(reply)
            if leader and address is None:
                methods.require_leader(reply)
            return reply

        if address is not None:
            try:
                return ask(address, patience)
            except grpc.RpcError as error:
                raise from_rpc(error, f"{method} at {address}", sent=not may_repeat) from error
        try:
            return self._follow(
                method,
                ask,
                patience,
                changes=not may_repeat,
                once=not may_repeat,
                anybody=not leader,
                asks=route.only_looks,
            )
        except Refused as refused:
            raise refused.error from refused.error.__cause__

    def stream(
        self, method: str, request: Message, deadline: float, *, address: str | None = None
    ) -> Iterator[Any]:
        """The replies to a call that streams them, such as "Control.CreateBackup", of the leader or of `address`.
        Asked once."""
        route = methods.find(method)
        address = address or self.leader().grpc
        call: Any = self._channels.get(address).unary_stream(
            route.path, request_serializer=None, response_deserializer=route.reply.FromString
        )
        try:
            yield from call(request.SerializeToString(), timeout=deadline, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc(error, f"{method} at {address}", sent=False) from error

    def control(self, method: str, request: Message, leader: bool = True, **options: Any) -> Any:
        """`call` under the name of operators' tools: "Control.GetGc", "Admin.GetStatus", ..."""
        return self.call(method, request, leader=leader, **options)

    def cluster_view(self, selector: str = "", *, leader: bool = True) -> membership_pb2.ClusterView:
        """What the leader (else: any coordinator) knows of members and nodes."""
        request = membership_pb2.GetClusterRequest(selector=selector)
        view: membership_pb2.ClusterView = self.call("Membership.GetCluster", request, leader=leader)
        return view

    def leader_view(self) -> admin_pb2.LeaderView:
        """The leader as it says itself: no answer of a follower that has not noticed a death.

        Raises NoLeaderError when there is none within FIRST_CONTACT_SECONDS, or sooner: see rule 6.
        """
        route = methods.find("Admin.GetLeader")

        def ask(node: str, timeout: float) -> admin_pb2.LeaderView:
            view: admin_pb2.LeaderView = self._invoke(node, route.path, route.reply, b"", timeout)
            if view.leader.node_id and view.leader.node_id == view.observed_by:
                return view
            raise NotLeaderError(f"{node} does not lead", leader=leader_of(view.leader))

        patience = min(self.timeout, limits.FIRST_CONTACT_SECONDS)
        try:
            return self._follow("ask who leads", ask, patience, changes=False, asks=True)
        except Refused as refused:
            raise refused.error from refused.error.__cause__

    def leader(self) -> Leader:
        """Who leads now. Raises NoLeaderError."""
        found = leader_of(self.leader_view().leader)
        if found is None:
            raise NoLeaderError("no leader has an address")
        return found

    @property
    def known(self) -> tuple[str, ...]:
        """The coordinators' addresses known so far."""
        with self._lock:
            return tuple(self._known)

    @property
    def answering(self) -> str | None:
        """The address that answered last, whether it led or not; None when nobody has yet."""
        return self._answering

    def close(self) -> None:
        """End what waits, close the channels that were made here. May be called again."""
        self._closed.set()
        self._streams.close()
        self._changes.close()
        self._reads.close()
        if self._owns_channels:
            self._channels.close()

    # ---- inside ------------------------------------------------------------------------------------------

    def _send_batch(self, lane: int, raw: bytes, what: str, patience: float) -> namespace_pb2.BatchResult:
        def ask(node: str, timeout: float) -> namespace_pb2.BatchResult:
            reply = namespace_pb2.BatchResult.FromString(
                self._streams.exchange(lane, node, _DO, raw, timeout)
            )
            raise_for(reply.code, reply.error)
            return reply

        return self._follow(what, ask, patience, changes=True)

    def _read(
        self,
        ops: Sequence[namespace_pb2.ReadOp],
        consistency: namespace_pb2.Consistency.ValueType,
        patience: float,
        *,
        lane: int | None = None,
    ) -> list[namespace_pb2.ReadResult]:
        raw = namespace_pb2.ReadBatch(ops=ops, consistency=consistency).SerializeToString()
        what = f"read ({ops[0].WhichOneof('op') if ops else 'nothing'})"
        stale = consistency == namespace_pb2.CONSISTENCY_STALE
        return self._ask(what, raw, len(ops), patience, lane=lane, anybody=stale)

    def _read_alone(
        self, ops: Sequence[namespace_pb2.ReadOp], patience: float
    ) -> list[namespace_pb2.ReadResult]:
        """Over the stream that is kept for such questions, by one thread at a time; the others make calls of their own
        meanwhile: nobody waits for another's page."""
        if not self._asks_alone.acquire(blocking=False):
            return self._read(ops, namespace_pb2.CONSISTENCY_LINEARIZABLE, patience)
        try:
            return self._read(ops, namespace_pb2.CONSISTENCY_LINEARIZABLE, patience, lane=self._lane_alone)
        finally:
            self._asks_alone.release()

    def _ask(
        self,
        what: str,
        raw: bytes,
        count: int,
        patience: float,
        *,
        lane: int | None = None,
        anybody: bool = False,
    ) -> list[namespace_pb2.ReadResult]:
        """The answers to the `count` questions of the ReadBatch `raw`. `lane`: whose stream to use; None: a call of its
        own."""

        def ask(node: str, timeout: float) -> namespace_pb2.ReadBatchResult:
            answer = (
                self._call(node, _READ, raw, timeout)
                if lane is None
                else self._streams.exchange(lane, node, _READ, raw, timeout)
            )
            reply = namespace_pb2.ReadBatchResult.FromString(answer)
            raise_for(reply.code, reply.error)
            if len(reply.results) != count:
                raise InternalError(f"{node} answered {len(reply.results)} of {count} questions")
            return reply

        try:
            return list(self._follow(what, ask, patience, changes=False, anybody=anybody).results)
        except Refused as refused:
            raise refused.error from refused.error.__cause__

    def _follow(
        self,
        what: str,
        ask: Callable[[str, float], Reply],
        patience: float,
        *,
        changes: bool,
        once: bool = False,
        anybody: bool = False,
        asks: bool = False,
    ) -> Reply:
        """The first good reply of `ask(address, timeout)` on the way to the leader. Raises Refused.

        `changes`: a lost answer leaves doubt. `once`: and must then not be repeated. `asks`: see rule 6.
        """
        unknown = not self._reached and (self._answering is None or not anybody)
        if self._fail_fast and unknown:
            if asks and not anybody:
                self._look_for_leader(what, patience)
            elif len(self.known) > 1:
                self._look_around(what, anybody, limits.LOOK_SECONDS)
        begun = self._clock.monotonic()
        route = Route(self.known, None if anybody else self._leader)
        step = route.begin()
        in_doubt = False
        try_seconds = limits.RPC_SECONDS_FIRST
        last: QuorumFSError | None = None
        while True:
            if step.wait_seconds:
                self._pause(step.wait_seconds)
            left = begun + self._patience(patience) - self._clock.monotonic()
            if left <= 0 or self._closed.is_set():
                raise Refused(self._gave_up(what, last, in_doubt), in_doubt)
            try:
                reply = ask(step.address, min(try_seconds, left))
            except grpc.RpcError as rpc_error:
                never = was_never_sent(rpc_error)
                self._listens = self._listens or not never
                sent = changes and not never
                last = from_rpc(rpc_error, f"{what} at {step.address}", sent)
                outcome, hint = _outcome(last, transport=True)
                if status_of(rpc_error) is grpc.StatusCode.DEADLINE_EXCEEDED:
                    try_seconds = min(try_seconds * 2, limits.RPC_DEADLINE_SECONDS)
            except QuorumFSError as error:
                last = error
                self._answering = step.address
                outcome, hint = _outcome(error, transport=False)
            else:
                self._reached_at(step.address, anybody)
                return reply
            in_doubt = in_doubt or (changes and _leaves_doubt(last))
            if outcome is None or (once and in_doubt):
                raise Refused(last, in_doubt)
            step = self._next_step(route, step, outcome, hint)

    def _look_for_leader(self, what: str, patience: float) -> None:
        """Look around until one leads: rule 6. Raises Refused with the last word of each when none does in time."""
        until = self._clock.monotonic() + min(patience, limits.QUESTION_SECONDS)
        said: dict[str, str] = {}
        told: dict[
            str, str
        ] = {}  # by those that answered: late the next time, they have said it all the same
        seconds = limits.LOOK_SECONDS
        while True:
            found = self._look_around(what, False, seconds, until)
            told.update(found.told)
            said.update({**found.said, **told})
            if found.leader is not None or self._answering is None:
                return
            seconds = limits.LOOK_AGAIN_SECONDS
            if self._clock.monotonic() + _LOOK_PAUSE_SECONDS >= until or self._closed.is_set():
                raise Refused(self._leaderless(what, "; ".join(said.values())), False)
            self._pause(_LOOK_PAUSE_SECONDS)

    def _look_around(self, what: str, anybody: bool, seconds: float, until: float | None = None) -> Sights:
        """Who answers within `seconds` each, and who leads: those that do are asked first from now on. Raises Refused
        when nobody has led for long."""
        route = methods.find("Admin.GetLeader")
        found = Sights(self.known)
        while (address := found.next()) is not None:
            left = seconds if until is None else min(seconds, until - self._clock.monotonic())
            if left <= 0:
                break
            try:
                view = self._invoke(address, route.path, route.reply, b"", left)
            except (grpc.RpcError, QuorumFSError) as error:
                found.failed(address, error)
                self._listens = self._listens or not (
                    isinstance(error, grpc.RpcError) and was_never_sent(error)
                )
            else:
                self._answering = address
                found.answered(address, view)
                if anybody:
                    break
        with self._lock:
            ordered = found.in_order()
            self._known = [*ordered, *(one for one in self._known if one not in ordered)]
            if not self._reached:
                self._leader = found.leader or self._leader
        if not anybody and len(self.known) > 1 and (words := found.leaderless()):
            raise Refused(self._leaderless(what, words), False)
        return found

    def _leaderless(self, what: str, words: str) -> NoLeaderError:
        return NoLeaderError(f"{what}: no leader was found among {', '.join(self.known)}", cause=words)

    def _next_step(self, route: Route, step: Step, outcome: Outcome, hint: Leader | None) -> Step:
        if outcome is Outcome.BUSY:
            self._reached_at(step.address, anybody=False)
        return route.after(step.address, outcome, hint.grpc if hint else None, self._chance())

    def _patience(self, wanted: float) -> float:
        if self._reached:
            return wanted
        if self._answering is not None:
            return min(wanted, limits.FIRST_CONTACT_SECONDS)
        patient = self._listens or not self._fail_fast
        return min(wanted, limits.FIRST_ANSWER_SECONDS if patient else limits.NOBODY_SECONDS)

    def _gave_up(self, what: str, last: QuorumFSError | None, in_doubt: bool) -> QuorumFSError:
        cause = str(last) if last else "the connections were closed"
        if in_doubt:
            return OutcomeUnknownError(f"{what}: no answer within the time limit", cause=cause)
        if isinstance(last, NoSpaceError):
            return last
        asked = ", ".join(self.known)
        if isinstance(last, BusyError | TimedOutError) and self._reached:
            return TimedOutError(f"{what}: the leader did not get to it in time", cause=cause)
        advice = WRONG_PORT if last is not None and last.next == WRONG_PORT else ""
        return NoLeaderError(f"{what}: no leader was found among {asked}", cause=cause, next=advice)

    def _reached_at(self, address: str, anybody: bool) -> None:
        with self._lock:
            self._answering = address
            if address not in self._known:
                self._known.append(address)
            if anybody:
                return
            self._leader = address
            first, self._reached = not self._reached, True
            alone = len(self._known) == 1
        if first and alone:
            self._learn(address)

    def _learn(self, address: str) -> None:
        """Ask the only coordinator we know for the others, so that its death is not the end."""
        route = methods.find("Membership.GetCluster")
        try:
            view = self._invoke(address, route.path, route.reply, b"", limits.RPC_SECONDS_FIRST)
        except (grpc.RpcError, QuorumFSError):
            return  # it works without; the next new client tries again
        found = [
            node.info.grpc
            for node in view.nodes
            if node.info.role == types_pb2.NODE_ROLE_COORDINATOR and node.info.grpc
        ]
        with self._lock:
            self._known = list(dict.fromkeys([*self._known, *found]))

    def _invoke(self, address: str, path: str, reply: type[Message], raw: bytes, timeout: float) -> Any:
        return reply.FromString(self._call(address, path, raw, timeout))

    def _call(self, address: str, path: str, raw: bytes, timeout: float) -> bytes:
        """One unary call of serialized messages. Raises grpc.RpcError, UnavailableError."""
        channel = self._channels.get(address)
        kept = self._callables.get((address, path))
        if kept is None or kept[0] is not channel:
            made: Any = channel.unary_unary(path, request_serializer=None, response_deserializer=None)
            kept = (channel, made)
            self._callables[address, path] = kept
        try:
            answer: bytes = kept[1](raw, timeout=timeout, metadata=self._metadata)
        except ValueError as error:  # gRPC's word for a channel that was closed
            raise UnavailableError(f"no call to {address}", cause=str(error)) from error
        return answer


def _outcome(error: QuorumFSError, *, transport: bool) -> tuple[Outcome | None, Leader | None]:
    """How the way goes on after `error`; None: it ends here."""
    if isinstance(error, NotLeaderError | NoLeaderError):
        return Outcome.NOT_LEADER, error.leader
    if isinstance(
        error, BusyError | NoSpaceError
    ):  # a leader whose disk is full hands over, or has room again
        return Outcome.BUSY, None
    if isinstance(error, UnavailableError):
        return Outcome.SILENT, error.leader
    if isinstance(error, TimedOutError):
        return (Outcome.SILENT if transport else Outcome.BUSY), None
    if isinstance(error, OutcomeUnknownError) and error.retry is Retry.SAME_BYTES:
        return (Outcome.SILENT, None) if transport else (Outcome.BUSY, None)
    if transport and isinstance(error, InternalError):
        return Outcome.SILENT, None
    return None, None


def _leaves_doubt(error: QuorumFSError) -> bool:
    return isinstance(error, OutcomeUnknownError) and error.retry is Retry.SAME_BYTES


def _client_name() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"
