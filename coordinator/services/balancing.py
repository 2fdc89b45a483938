"""What operators ask of the balancing, and tell it. The leader answers: it alone hears how full the datanodes are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from coordinator.decisions import balance
from coordinator.decisions.balance import Move
from coordinator.metadata import settings
from coordinator.services.gateway import Gateway
from coordinator.soft_state import SoftState
from quorumfs.errors import BusyError, InvalidArgumentError, PreconditionFailedError, make
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

STATES = ("off", "running", "paused")
THRESHOLD = "balance.threshold_percent"
THROTTLE = "balance.bytes_per_second"


class Figures(Protocol):
    moving: int
    moved: int
    moved_bytes: int
    failed: int


class Balancing(Protocol):
    """The leader's duty: see `coordinator.duties.balance.BalanceDuty`. `plan` blocks, and raises QuorumFSError."""

    @property
    def figures(self) -> Figures: ...

    def plan(self) -> Sequence[Move]: ...


class BalanceDesk:
    """All methods run on the gRPC loop and raise QuorumFSError. `duty`: the leader's; None: another leads."""

    def __init__(self, gateway: Gateway, soft: SoftState, duty: Callable[[], Balancing | None]) -> None:
        self._gateway = gateway
        self._soft = soft
        self._duty = duty

    async def status(self, *, plan: bool = False) -> a.BalanceStatus:
        self._gateway.require_leadership()
        duty = self._duty()
        if duty is None:
            raise BusyError("this coordinator has only just begun to lead")
        held = await self._gateway.ask(settings.load)
        candidates, figures = self._soft.candidates(), duty.figures
        part = balance.taking_part(candidates)
        status = a.BalanceStatus(
            state=STATES[held["balance.state"]],
            bytes_per_second=held[THROTTLE],
            threshold_percent=held[THRESHOLD],
            moving=figures.moving,
            moved=figures.moved,
            moved_bytes=figures.moved_bytes,
            failed=figures.failed,
            excess_bytes=balance.excess_bytes(candidates),
        )
        for node_id, one in sorted(candidates.items()):
            status.nodes.add(
                node_id=node_id,
                used_bytes=one.used_bytes,
                room_bytes=one.room_bytes,
                takes_part=node_id in part,
            )
        for move in await asyncio.to_thread(duty.plan) if plan else ():
            status.moves.add(
                chunk=move.chunk, length=move.length, source=move.source, destination=move.destination
            )
        return status

    async def control(self, request: a.ControlBalanceRequest) -> a.BalanceStatus:
        self._gateway.require_leadership()
        state = STATES[(await self._gateway.ask(settings.load))["balance.state"]]
        wanted = _next_state(request.action, state)
        if request.threshold_percent:
            await self._set(THRESHOLD, request.threshold_percent)
        if request.bytes_per_second:
            await self._set(THROTTLE, request.bytes_per_second)
        await self._set("balance.state", STATES.index(wanted))
        return await self.status()

    async def _set(self, key: str, value: int) -> None:
        done = await self._gateway.system(
            e.SystemCommand(set_setting=e.SetSetting(key=key, value=str(value)))
        )
        if done.code != t.ERROR_CODE_OK:
            raise make(done.code, done.error.message, cause=done.error.cause, next=done.error.next)


def _next_state(action: str, state: str) -> str:
    match action:
        case "start":
            return "running"
        case "pause" | "resume" if state == "off":
            raise PreconditionFailedError(
                f"there is nothing to {action}", cause="balancing is off", next="dfsctl balance start"
            )
        case "pause":
            return "paused"
        case "resume":
            return "running"
        case other:
            raise InvalidArgumentError(
                f"balancing cannot be told to {other[:64]!a}", cause="start, pause, resume"
            )
