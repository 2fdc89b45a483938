"""The Membership service: registrations, heartbeats, inventories, and the view of the cluster.

Registrations and heartbeats are answered by the leader alone; others say who leads. Everything but GetCluster
needs a channel whose other end has proven the cluster's secret, and a node speaks for itself only.

A thousand datanodes are a thousand heartbeats a second, so they come over a stream per node: a call costs more
than a message of a stream. A stream has one heartbeat under way, and ends with the first that is
refused: then it is the node's turn to look for the leader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError

from common import log
from common.server import require_node
from coordinator.consensus import Leadership
from coordinator.metadata import queries
from coordinator.services import view
from coordinator.services.gateway import Gateway
from coordinator.services.tokens import TokenDesk
from coordinator.soft_state import SoftState, known_node
from quorumfs.errors import (
    BusyError,
    DuplicateNodeError,
    HistoryBehindError,
    InvalidArgumentError,
    PermissionDeniedError,
    QuorumFSError,
    Retry,
    WrongClusterError,
    make,
)
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import membership_pb2_grpc
from quorumfs.v1 import types_pb2 as t

SERVICE = "quorumfs.v1.Membership"
CONFIRM_SECONDS = 2.0

_log = log.get(__name__)


class MembershipService(membership_pb2_grpc.MembershipServicer):
    """All handlers run on the gRPC loop. `heartbeat_seconds` is what datanodes are told to keep to; `count` is told
    how each heartbeat was answered."""

    def __init__(
        self,
        gateway: Gateway,
        soft: SoftState,
        own: m.NodeView,
        heartbeat_seconds: float,
        tokens: TokenDesk,
        count: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._gateway = gateway
        self._tokens = tokens
        self._soft = soft
        self._own = own
        self._interval_ms = int(heartbeat_seconds * 1000)
        self._count = count
        self._streams: set[asyncio.Task[Any]] = set()
        self._entering: dict[str, tuple[e.RegisterNode, asyncio.Task[None]]] = {}
        self._common: tuple[tuple[object, ...], m.HeartbeatResponse] | None = None

    # Registration

    async def Register(self, request: m.RegisterRequest, context: Any) -> m.RegisterResponse:  # noqa: N802
        require_self(context, request.node.node_id)
        try:
            return await self._register(request)
        except QuorumFSError as error:
            detail = to_detail(error)
            tell = (
                _log.debug if error.retry is Retry.ELSEWHERE or error.retry is Retry.LATER else _log.warning
            )
            tell("node.refused", node=request.node.node_id, error=str(error))
            return m.RegisterResponse(code=detail.code, error=detail, leader=self._hint())

    async def _register(self, request: m.RegisterRequest) -> m.RegisterResponse:
        leadership = self._gateway.require_leadership()
        self._soft.require_leading()
        node = request.node
        self._check_cluster(request.cluster_id, node.node_id)
        await self._check_history(
            leadership, request.highest_epoch, request.highest_commit_index, node.node_id
        )
        refuse_duplicate(request, self._soft)
        if await self._is_news(request):
            await self._entered(e.RegisterNode(node=node, empty=request.empty))
        self._soft.registered(node.node_id, node.incarnation)
        known = self._soft.known_as(node.node_id)
        return m.RegisterResponse(
            code=t.ERROR_CODE_OK,
            cluster_id=self._gateway.consensus.identity.cluster_id,
            epoch=self._soft.epoch(),
            heartbeat_interval_ms=self._interval_ms,
            leader=self._hint(),
            commit_index=self._gateway.consensus.commit_index,
            labels=known.info.labels if known is not None else node.labels,
        )

    async def _entered(self, told: e.RegisterNode) -> None:
        """Wait for the entry of a registration. It is made to the end also when its caller waits no longer, and who
        says the same again waits for it: else, while a thousand come at once, each try of each would be one more."""
        node_id = told.node.node_id
        said, entering = self._entering.get(node_id, (None, None))
        if entering is None or said != told:
            entering = asyncio.create_task(self._enter(told))
            self._entering[node_id] = told, entering
            entering.add_done_callback(lambda done: self._has_entered(node_id, done))
        await asyncio.shield(entering)

    def _has_entered(self, node_id: str, done: asyncio.Task[None]) -> None:
        if self._entering.get(node_id, (None, None))[1] is done:
            del self._entering[node_id]
        if not done.cancelled():
            done.exception()  # of one for which nobody waits any more, nobody asks

    async def _enter(self, told: e.RegisterNode) -> None:
        node = told.node
        command = e.SystemCommand(register_node=told)
        done = await self._gateway.system(command)
        while done.code == t.ERROR_CODE_OK and not done.number:  # an entry takes some of its former replicas
            done = await self._gateway.system(command)
        if done.code != t.ERROR_CODE_OK:
            raise make(done.code, done.error.message, cause=done.error.cause, next=done.error.next)
        found = await self._gateway.ask(lambda tx: known_node(tx, node.node_id))
        if found is not None:
            self._soft.learn_known(*found)
        _log.info("node.registered", node=node.node_id, grpc=node.grpc, version=node.version)

    async def _is_news(self, request: m.RegisterRequest) -> bool:
        """Whether the registration says anything that the metadata does not: every node registers with
        every new leader, and that alone must not write an entry each."""
        node = request.node
        known = self._soft.known_as(node.node_id)
        if known is None or not same_node(known.info, node):
            return True
        if not request.empty:
            return False
        return bool(await self._gateway.ask(lambda tx: queries.chunks_on(tx, node.node_id, b"", 1)))

    def _check_cluster(self, cluster_id: str, node_id: str) -> None:
        ours = self._gateway.consensus.identity.cluster_id
        if cluster_id and cluster_id != ours:
            raise WrongClusterError(
                f"{node_id} belongs to another cluster",
                cause=f"its cluster is {cluster_id}, this one is {ours}",
                next="correct cluster.coordinators, or give the node an empty data directory",
                ids={"cluster_id": ours},
            )

    async def _check_history(
        self, leadership: Leadership, highest: t.Epoch, highest_commit_index: int, node_id: str
    ) -> None:
        """A node may have heard of more than this leader knows.

        Mostly this one was deposed a moment ago, and finds out here. But a leader that a majority still follows has
        lost what was acknowledged. Raises NotLeaderError, BusyError (a majority is silent), HistoryBehindError.
        """
        if not self._is_behind(leadership, highest, highest_commit_index):
            return
        try:
            await asyncio.wait_for(self._gateway.read(lambda tx: b""), CONFIRM_SECONDS)
        except TimeoutError:
            raise BusyError("this coordinator cannot tell whether it still leads") from None
        if self._gateway.leadership() != leadership:
            raise self._gateway.not_leader()
        if not self._is_behind(leadership, highest, highest_commit_index):
            return
        error = HistoryBehindError(
            f"this leader is behind what {node_id} has seen",
            cause=f"the node has heard of history {highest.history}, term {highest.term}, commit index "
            f"{highest_commit_index}; this leader has history {leadership.history}, term {leadership.term}, last "
            f"index {self._gateway.consensus.last_index}",
            next="the coordinators lost acknowledged state: restore a newer backup, or begin a new history",
        )
        if self._soft.raise_alarm("history_behind", str(error)):
            _log.error("history.behind", node=node_id, cause=error.cause)
        raise error

    def _is_behind(self, leadership: Leadership, highest: t.Epoch, highest_commit_index: int) -> bool:
        if highest.history != leadership.history:
            return highest.history > leadership.history
        last_index = self._gateway.consensus.last_index
        return highest.term > leadership.term or highest_commit_index > last_index

    # Heartbeats

    async def Heartbeat(self, request: m.HeartbeatRequest, context: Any) -> m.HeartbeatResponse:  # noqa: N802
        require_self(context, request.node_id)
        return await self._answer(request)

    async def HeartbeatStream(self, _: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802  in bytes
        """One node's heartbeats, and the answer to each, in bytes."""
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            while isinstance(raw := await context.read(), bytes):
                beat = parse_heartbeat(raw)
                require_self(
                    context, beat.node_id
                )  # each time: a proof does not last as long as a stream may
                answer = await self._answer(beat)
                await context.write(answer.SerializeToString())
                if answer.code != t.ERROR_CODE_OK:
                    return
        finally:
            self._streams.discard(task)

    async def end_streams(self) -> None:
        """This coordinator stops: nobody's stream keeps it."""
        for task in list(self._streams):
            task.cancel()

    async def _answer(self, beat: m.HeartbeatRequest) -> m.HeartbeatResponse:
        try:
            answer = await self._heartbeat(beat)
            self._count("ok" if answer.acknowledged_sequence else "register")
            return answer
        except QuorumFSError as error:
            self._count(error.code.name.lower())
            detail = to_detail(error)
            return m.HeartbeatResponse(code=detail.code, error=detail, leader=self._hint())

    async def _heartbeat(self, beat: m.HeartbeatRequest) -> m.HeartbeatResponse:
        leadership = self._gateway.require_leadership()
        self._check_cluster(beat.cluster_id, beat.node_id)
        await self._check_history(leadership, beat.highest_epoch, beat.highest_commit_index, beat.node_id)
        answer = m.HeartbeatResponse(commit_index=self._gateway.consensus.commit_index)
        answer.MergeFrom(self._told_to_all(leadership))
        if self._soft.heard(beat):
            answer.acknowledged_sequence = beat.sequence
            answer.commands.extend(self._soft.deliver(beat.node_id))
        else:  # its reports stay with it: nothing was acknowledged
            answer.commands.add(epoch=self._soft.epoch()).register.SetInParent()
        return answer

    def _told_to_all(self, leadership: Leadership) -> m.HeartbeatResponse:
        """What is the same in all answers of a leadership, as long as the members are: made once, not a thousand times
        a second."""
        members, epoch = self._gateway.members(), self._soft.epoch()
        made_of = (leadership, members, epoch)
        if self._common is None or any(a is not b for a, b in zip(self._common[0], made_of, strict=True)):
            told = m.HeartbeatResponse(
                code=t.ERROR_CODE_OK,
                epoch=epoch,
                interval_ms=self._interval_ms,
                leader=self._hint(),
                coordinators=members,
            )
            self._common = made_of, told
        return self._common[1]

    async def ReportInventory(self, request: m.InventoryPage, context: Any) -> m.InventoryResponse:  # noqa: N802
        require_self(context, request.node_id)
        try:
            self._gateway.require_leadership()
            self._check_cluster(request.cluster_id, request.node_id)
            if not self._soft.inventory_page(request):
                raise InvalidArgumentError(
                    "this page belongs to no inventory that is being gathered",
                    cause=f"gathering {request.gather_id}, page {request.page}",
                    next="begin again when the leader asks",
                )
        except QuorumFSError as error:
            detail = to_detail(error)
            return m.InventoryResponse(code=detail.code, error=detail, epoch=self._soft.epoch())
        return m.InventoryResponse(code=t.ERROR_CODE_OK, epoch=self._soft.epoch())

    # The view

    async def GetCluster(self, request: m.GetClusterRequest, context: Any) -> m.ClusterView:  # noqa: N802
        return await view.cluster_view(self._gateway, self._soft, self._own, request.selector, request.role)

    async def GetTokens(self, request: m.GetTokensRequest, context: Any) -> m.TokenTable:  # noqa: N802
        require_node(context)
        try:
            return m.TokenTable(tokens=await self._tokens.table(), observed_by=self._own.info.node_id)
        except QuorumFSError as error:
            return m.TokenTable(error=to_detail(error))

    def _hint(self) -> t.LeaderHint | None:
        leader = self._gateway.leader() if self._gateway.attached else None
        return view.hint_of(leader)


def same_node(stored: m.NodeInfo, told: m.NodeInfo) -> bool:
    """Whether `told` says nothing new of what is replicated; sizes are not. What operators said of its labels
    stays anyway."""

    def lasting(info: m.NodeInfo) -> tuple[object, ...]:
        disks = sorted((disk.disk_id, disk.path) for disk in info.disks)
        said = (info.node_uuid, info.role, info.grpc, info.http, info.version, info.host, info.incarnation)
        return (*said, disks)

    return lasting(stored) == lasting(told) and {*told.labels} <= {*stored.labels, *stored.dropped_labels}


def require_self(context: Any, node_id: str) -> None:
    """A node speaks for itself. Raises UnauthenticatedError, PermissionDeniedError."""
    caller = require_node(context)
    if caller != node_id:
        raise PermissionDeniedError(
            f"{caller} may not speak for {node_id}", cause="the channel was proven under another node id"
        )


def refuse_duplicate(request: m.RegisterRequest, soft: SoftState) -> None:
    """Two nodes under one id, or one node under two. Raises DuplicateNodeError.

    A node may come back with a new UUID (a replaced machine) only empty, and at another address (a moved one, or a
    twin) not as long as the one that was there may be alive.
    """
    node = request.node
    others = soft.known_with(node.node_uuid) - {node.node_id}
    if others:
        other_id = min(others)
        raise DuplicateNodeError(
            f"{node.node_id} has the identity of {other_id}",
            cause=f"both have UUID {node.node_uuid}: a copied data directory, or a changed node.id",
            next=f"give {node.node_id} an empty data directory, or call it {other_id} again",
        )
    mine = soft.known_as(node.node_id)
    if mine is None:
        return
    lives = soft.may_be_alive(node.node_id)
    if mine.info.node_uuid == node.node_uuid:
        if lives and mine.info.grpc != node.grpc:
            raise DuplicateNodeError(
                f"a twin of {node.node_id} is alive at {mine.info.grpc}, or was a moment ago",
                cause=f"both have UUID {node.node_uuid}: a copied data directory, or a node that was moved just now",
                next="stop one of them and empty its data directory; one that was moved is taken in soon",
            )
        return
    if lives or not request.empty:
        cause = (
            "that one is alive, or was a moment ago" if lives else "this one holds chunks of another identity"
        )
        raise DuplicateNodeError(
            f"another node is registered as {node.node_id}",
            cause=f"its UUID is {mine.info.node_uuid}, this one's {node.node_uuid}; {cause}",
            next=f"choose another node.id, or forget the old one: dfsctl node forget {node.node_id}",
        )


def parse_heartbeat(raw: bytes) -> m.HeartbeatRequest:
    """Raises InvalidArgumentError for what is none."""
    try:
        return m.HeartbeatRequest.FromString(raw)
    except DecodeError as error:
        raise InvalidArgumentError("the message is no heartbeat", cause=str(error)) from error


class _Handlers:
    """Takes what the generated code would register with a server."""

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The same once more."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.by_name.update(handlers)


def add_to_server(service: MembershipService, server: Any) -> None:
    """All calls as they are generated, but that the stream's messages are bytes: of what is no message the caller is
    told what it is."""
    generated = _Handlers()
    membership_pb2_grpc.add_MembershipServicer_to_server(service, cast(Any, generated))
    generated.by_name["HeartbeatStream"] = grpc.stream_stream_rpc_method_handler(service.HeartbeatStream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, generated.by_name),))
