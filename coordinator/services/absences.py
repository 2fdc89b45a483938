"""Who may be stopped now: the leader knows who is away, and remembers for a while whom it let go."""

from __future__ import annotations

import asyncio

from coordinator.decisions.absence import Picture, why_not_leave, why_not_without
from coordinator.metadata import departures
from coordinator.services import view
from coordinator.services.gateway import Gateway
from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.errors import InvalidArgumentError, NotFoundError, SafetyGuardError
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

RESERVED_SECONDS_MAX = 7200.0
NODES_MAX = 1000


class Absences:
    """Runs on the gRPC loop. What is reserved is lost with the leadership: by then those nodes are away."""

    def __init__(self, gateway: Gateway, soft: SoftState, own: m.NodeView, clock: Clock) -> None:
        self._gateway = gateway
        self._soft = soft
        self._own = own
        self._clock = clock
        self._reserved: dict[str, float] = {}
        self._one = asyncio.Lock()  # what one was let go for, the next is to know

    async def reserve(self, request: a.ReserveAbsenceRequest) -> str:
        """Raises SafetyGuardError with the reason, NotFoundError, NotLeaderError."""
        self._gateway.require_leadership()
        self._soft.require_leading()
        leaving = set(request.node_ids)
        if request.back and not leaving:  # somebody is through, and asks for nobody else
            for node_id in request.back:
                self._reserved.pop(node_id, None)
            return f"{', '.join(sorted(request.back))} are back"
        if not leaving or len(leaving) > NODES_MAX or not 0 <= request.seconds <= RESERVED_SECONDS_MAX:
            raise InvalidArgumentError(
                f"name 1 to {NODES_MAX} nodes, for up to {RESERVED_SECONDS_MAX:g} seconds"
            )
        async with self._one:
            return await self._reserve(request, leaving)

    async def _reserve(self, request: a.ReserveAbsenceRequest, leaving: set[str]) -> str:
        for node_id in request.back:
            self._reserved.pop(node_id, None)
        picture = await self._picture(leaving)
        limit = request.max_unavailable or None
        reason = why_not_leave(picture, leaving, request.among, limit)
        if not reason:
            gone = {*picture.away, *self._soft.gone()}
            alone = await self._gateway.ask(lambda tx: departures.held_only_by(tx, leaving, gone))
            reason = why_not_without(alone, picture.away - leaving - picture.voters)
        if reason:
            raise SafetyGuardError(
                f"{', '.join(sorted(leaving))} may not be stopped now",
                cause=reason,
                next="wait until the others are back and repair is through (dfsctl status), or stop fewer at once",
            )
        until = self._clock.monotonic() + request.seconds
        self._reserved.update(dict.fromkeys(leaving, until))
        return f"{', '.join(sorted(leaving))} may be stopped"

    async def _picture(self, leaving: set[str]) -> Picture:
        now = self._clock.monotonic()
        self._reserved = {node: until for node, until in self._reserved.items() if until > now}
        seen = await view.cluster_view(self._gateway, self._soft, self._own, "")
        known = {one.info.node_id for one in seen.nodes}
        unknown = sorted(leaving - known)
        if unknown:
            raise NotFoundError(f"there is no node {unknown[0][:63]!a}", next="dfsctl node ls")
        silent = {one.info.node_id for one in seen.nodes if one.state != t.NODE_STATE_ALIVE}
        voters = frozenset(one.node_id for one in self._gateway.members() if not one.learner)
        return Picture(voters, frozenset(silent | self._reserved.keys()))
