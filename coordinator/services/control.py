"""The Control service: what operators ask of coordinators, and tell them.

Questions are answered by any coordinator from its own state (the answer says whether its member leads);
mutations by the leader alone, as entries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

from common import log
from coordinator.services import view
from coordinator.services.absences import Absences
from coordinator.services.answers import space
from coordinator.services.backups import Backups
from coordinator.services.balancing import BalanceDesk
from coordinator.services.census import Census
from coordinator.services.collection import CollectionDesk
from coordinator.services.durability import DurabilityDesk
from coordinator.services.events import EventBook
from coordinator.services.gateway import Gateway
from coordinator.services.hashes import Hashes
from coordinator.services.members import Members
from coordinator.services.nodes import NodeDesk
from coordinator.services.tokens import TokenDesk
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import (
    NotFoundError,
    PreconditionFailedError,
    QuorumFSError,
)
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import admin_pb2_grpc
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

TRANSFER_SECONDS = 5.0

_log = log.get(__name__)


class ControlService(admin_pb2_grpc.ControlServicer):
    """All handlers run on the gRPC loop. `repair_status` and `alarms` tell what this node's duties know."""

    def __init__(
        self,
        gateway: Gateway,
        soft: SoftState,
        own: m.NodeView,
        hashes: Hashes,
        members: Members,
        clock: Clock,
        *,
        collection: CollectionDesk,
        nodes: NodeDesk,
        tokens: TokenDesk,
        durability: DurabilityDesk,
        balancing: BalanceDesk,
        backups: Backups,
        events: EventBook,
        repair_status: Callable[[], a.RepairStatus],
        repair_now: Callable[[], None],
        alarms: Callable[[], Sequence[a.Alarm]],
    ) -> None:
        self._gateway = gateway
        self._soft = soft
        self._own = own
        self._hashes = hashes
        self._members = members
        self._census = Census(gateway, clock)
        self._collection = collection
        self._nodes = nodes
        self._tokens = tokens
        self._durability = durability
        self._absences = Absences(gateway, soft, own, clock)
        self._balancing = balancing
        self._backups = backups
        self._events = events
        self._repair_status = repair_status
        self._repair_now = repair_now
        self._alarms = alarms

    # Questions

    async def GetClusterStatus(self, request: a.GetClusterStatusRequest, context: Any) -> a.ClusterStatus:  # noqa: N802
        gateway, soft = self._gateway, self._soft
        status = a.ClusterStatus(
            view=await view.cluster_view(gateway, soft, self._own, ""),
            raft=view.raft_status(gateway, self._own),
            gc=await self._collection.status(),
            alarms=self._alarms(),
        )
        if not gateway.attached:
            return status
        counts = await self._census.counts(soft.gone())
        for name in ("files", "directories", "chunks", "under_replicated", "missing", "corrupt"):
            setattr(status, name, getattr(counts, name))
        room = space(soft)
        status.total_bytes, status.used_bytes, status.free_bytes = room.total, room.used, room.free
        return status

    async def GetRaft(self, request: a.GetRaftRequest, context: Any) -> a.RaftStatus:  # noqa: N802
        return view.raft_status(self._gateway, self._own)

    async def GetStateHash(self, request: a.GetStateHashRequest, context: Any) -> a.StateHash:  # noqa: N802
        try:
            if request.local:
                return a.StateHash(members=[await self._hashes.local(request.index)])
            return a.StateHash(members=await self._hashes.everywhere())
        except QuorumFSError as error:
            return a.StateHash(error=to_detail(error))

    async def GetGc(self, request: a.GetGcRequest, context: Any) -> a.GcStatus:  # noqa: N802
        try:
            return await (self._collection.cycles() if request.cycles else self._collection.status())
        except QuorumFSError as error:
            return a.GcStatus(error=to_detail(error))

    async def ExplainChunk(self, request: a.ExplainChunkRequest, context: Any) -> a.ChunkStory:  # noqa: N802
        try:
            return await self._collection.explain(request.chunk, stale=request.stale)
        except QuorumFSError as error:
            return a.ChunkStory(chunk=request.chunk, error=to_detail(error))

    async def ListCandidates(self, request: a.ListCandidatesRequest, context: Any) -> a.Candidates:  # noqa: N802
        try:
            return await self._collection.candidates(request)
        except QuorumFSError as error:
            return a.Candidates(error=to_detail(error))

    async def GetBalance(self, request: a.GetBalanceRequest, context: Any) -> a.BalanceStatus:  # noqa: N802
        try:
            return await self._balancing.status(plan=request.plan)
        except QuorumFSError as error:
            return a.BalanceStatus(error=to_detail(error))

    async def GetRepair(self, request: a.GetRepairRequest, context: Any) -> a.RepairStatus:  # noqa: N802
        try:
            leads, age_ms = self._gateway.may_tell(stale=request.stale)
            if not leads:
                counts = await self._census.counts(self._soft.gone())
                return a.RepairStatus(pending=counts.under_replicated, age_ms=age_ms)
        except QuorumFSError as error:
            return a.RepairStatus(error=to_detail(error))
        return self._leaders_repair()

    def _leaders_repair(self) -> a.RepairStatus:
        status = self._repair_status()
        status.authoritative = True
        return status

    async def GetDecommission(self, request: a.GetDecommissionRequest, context: Any) -> a.Decommissions:  # noqa: N802
        try:
            return await self._nodes.decommissions(request)
        except QuorumFSError as error:
            return a.Decommissions(error=to_detail(error))

    async def GetDurability(self, request: a.GetDurabilityRequest, context: Any) -> a.Durability:  # noqa: N802
        try:
            return await self._durability.report(request)
        except QuorumFSError as error:
            return a.Durability(error=to_detail(error))

    async def ExamineNode(self, request: a.ExamineNodeRequest, context: Any) -> a.NodeExamination:  # noqa: N802
        try:
            return await self._durability.examine(request)
        except QuorumFSError as error:
            return a.NodeExamination(error=to_detail(error))

    # Orders

    async def TransferLeadership(  # noqa: N802
        self, request: a.TransferLeadershipRequest, context: Any
    ) -> a.ActionResponse:
        return await self._act(self._transfer(request.to_node_id))

    async def _transfer(self, to: str) -> str:
        self._gateway.require_leadership()
        voters = [one.node_id for one in self._gateway.members() if not one.learner]
        others = [one for one in voters if one != self._own.info.node_id]
        if to and to not in others:
            raise NotFoundError(f"{to} is no other coordinator that votes", cause=", ".join(others))
        consensus = self._gateway.consensus
        if not await asyncio.to_thread(consensus.transfer, to or None):
            raise PreconditionFailedError("the leadership stays here", cause="no follower was ready in time")
        for _ in range(int(TRANSFER_SECONDS / 0.02)):
            leader = self._gateway.leader()
            if leader is not None and leader.node_id != self._own.info.node_id:
                return f"{leader.node_id} leads"
            await asyncio.sleep(0.02)
        return "handed over; the new leader is not known here yet"

    async def SetNode(self, request: a.SetNodeRequest, context: Any) -> a.ActionResponse:  # noqa: N802
        return await self._act(self._nodes.set_node(request))

    async def ForgetNode(self, request: a.ForgetNodeRequest, context: Any) -> a.ActionResponse:  # noqa: N802
        return await self._act(self._nodes.forget(request))

    async def ReserveAbsence(self, request: a.ReserveAbsenceRequest, context: Any) -> a.ActionResponse:  # noqa: N802
        return await self._act(self._absences.reserve(request))

    async def _act(self, action: Any) -> a.ActionResponse:
        try:
            detail: str = await action
        except QuorumFSError as error:
            refusal = to_detail(error)
            return a.ActionResponse(code=refusal.code, error=refusal)
        _log.info("control.done", detail=detail)
        return a.ActionResponse(code=t.ERROR_CODE_OK, detail=detail)

    async def RunRepair(self, request: a.RunRepairRequest, context: Any) -> a.RepairStatus:  # noqa: N802
        try:
            self._gateway.require_leadership()
            self._repair_now()
        except QuorumFSError as error:
            return a.RepairStatus(error=to_detail(error))
        return self._leaders_repair()

    async def ControlScrub(self, request: a.ControlScrubRequest, context: Any) -> a.ActionResponse:  # noqa: N802
        return await self._act(self._nodes.scrub(request))

    async def ChangeMember(self, request: a.ChangeMemberRequest, context: Any) -> a.ActionResponse:  # noqa: N802
        return await self._act(self._members.change(request.action, request.member))

    async def RunGc(self, request: a.RunGcRequest, context: Any) -> a.GcReport:  # noqa: N802
        try:
            return await self._collection.run(request)
        except QuorumFSError as error:
            return a.GcReport(outcome="refused", error=to_detail(error))

    async def ControlGc(self, request: a.ControlGcRequest, context: Any) -> a.GcStatus:  # noqa: N802
        try:
            self._gateway.require_leadership()
            return await self._collection.control(request)
        except QuorumFSError as error:
            return a.GcStatus(error=to_detail(error))

    async def RestoreQuarantined(  # noqa: N802
        self, request: a.RestoreQuarantinedRequest, context: Any
    ) -> a.ActionResponse:
        chunks = list(request.chunks)
        action = self._collection.release if request.release else self._collection.restore
        return await self._act(action(chunks))

    async def ControlBalance(self, request: a.ControlBalanceRequest, context: Any) -> a.BalanceStatus:  # noqa: N802
        try:
            return await self._balancing.control(request)
        except QuorumFSError as error:
            return a.BalanceStatus(error=to_detail(error))

    async def CreateBackup(self, request: a.CreateBackupRequest, context: Any) -> Any:  # noqa: N802
        async for piece in self._backups.pieces():
            yield piece

    async def ControlToken(self, request: a.ControlTokenRequest, context: Any) -> a.ControlTokenResponse:  # noqa: N802
        try:
            return await self._tokens.control(request)
        except QuorumFSError as error:
            refusal = to_detail(error)
            return a.ControlTokenResponse(code=refusal.code, error=refusal)

    async def ListEvents(self, request: a.ListEventsRequest, context: Any) -> Any:  # noqa: N802
        if not request.follow:
            for event in self._events.present(request.after_id):
                yield event
            return
        async with aclosing(self._events.follow(request.after_id)) as events:
            async for event in events:
                yield event
