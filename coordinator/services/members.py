"""Changes of the Raft group's members, as operators ask for them: add, promote, remove, rejoin. The leader's work.

1. A coordinator that is added must be an empty one that waits. It becomes a learner under a new member UUID first, is
   told of it (Genesis with `join`), is brought up, and votes only when it has everything that is committed.
2. Each step is an entry of its own. Whoever asks again after a lost answer, or of the next leader, goes on from the
   step that was reached.
3. Nobody is removed when fewer than a majority of those that would remain answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from common import log
from coordinator.consensus import Configuration
from coordinator.services.gateway import Gateway
from quorumfs.errors import (
    InvalidArgumentError,
    PreconditionFailedError,
    SafetyGuardError,
    TimedOutError,
    UnavailableError,
)
from quorumfs.mint import RandomBytes, uuid_text
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc, raise_for
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import admin_pb2_grpc, membership_pb2_grpc
from quorumfs.v1 import membership_pb2 as m

CATCH_UP_SECONDS = 120.0
WHO_SECONDS = 1.5  # whoever waits at a terminal is told by then that nobody answers
PAUSE_SECONDS = 0.05
JOIN_TRIES_SECONDS = 10.0

_log = log.get(__name__)


class Members:
    """All methods run on the gRPC loop of the leader; others raise NotLeaderError. Each gives a sentence."""

    def __init__(
        self, gateway: Gateway, own: m.NodeView, trusted: Callable[[], ChannelSource], random: RandomBytes
    ) -> None:
        self._gateway = gateway
        self._own_id = own.info.node_id
        self._trusted = trusted
        self._random = random
        self._one = asyncio.Lock()

    async def change(self, action: str, member: m.Member) -> str:
        """Raises InvalidArgumentError for an unknown action, and what the action raises."""
        self._gateway.require_leadership()
        async with self._one:
            match action:
                case "add":
                    return await self.add(member.grpc)
                case "remove":
                    return await self.remove(member.node_id)
                case "rejoin":
                    return await self.rejoin(member.node_id)
                case other:
                    raise InvalidArgumentError(
                        f"members cannot be told to {other!r}", next="use add, remove or rejoin"
                    )

    async def add(self, address: str) -> str:
        """Add the coordinator that waits at the gRPC `address`, bring it up, and let it vote.

        Raises PreconditionFailedError when it is not an empty one, AlreadyExistsError, UnavailableError, TimedOutError
        (it stays a learner; the same again goes on).
        """
        waiting, empty = await asyncio.to_thread(self._who, address)
        known = self._configuration().find(waiting.node_id)
        if not empty and (known is None or known.grpc != address):
            raise PreconditionFailedError(
                f"the coordinator at {address} is not empty",
                cause=f"{waiting.node_id} belongs to a cluster",
                next="a coordinator joins with an empty node.data_dir",
            )
        if not empty and known is not None and not known.learner:
            return f"{waiting.node_id} votes"
        if known is None:
            waiting.member_uuid = uuid_text(self._random)
            await self._change(lambda now: now.with_learner(waiting))
            _log.info("member.added", node=waiting.node_id, uuid=waiting.member_uuid)
        elif not known.learner:
            raise PreconditionFailedError(
                f"{waiting.node_id} is a voting member, but the coordinator at {address} is empty",
                cause="its disk is gone, or another machine uses its name",
                next=f"dfsctl raft rejoin {waiting.node_id}",
            )
        if empty:
            await asyncio.to_thread(self._tell_to_join, address)
        return await self._promote(waiting.node_id)

    async def remove(self, node_id: str) -> str:
        """Raises NotFoundError, SafetyGuardError: too few would answer, or it leads itself."""
        if node_id == self._own_id:
            raise SafetyGuardError(f"{node_id} leads", next="dfsctl raft transfer, then again")
        after = self._configuration().without(node_id)
        answering = {one.node_id for one in self._gateway.consensus.status().members if one.connected}
        there = [voter for voter in after.voters if voter in answering]
        if len(there) * 2 <= len(after.voters):
            raise SafetyGuardError(
                f"without {node_id} there would be no quorum",
                cause=f"of {', '.join(after.voters)} only {', '.join(there) or 'nobody'} answers",
                next="start the others first",
            )
        await self._change(lambda now: now.without(node_id))
        _log.info("member.removed", node=node_id)
        return f"{node_id} is no member any more"

    async def rejoin(self, node_id: str) -> str:
        """Bring a member back that was started with an empty disk: as a new one, under its old name.

        Raises NotFoundError, and what `remove` and `add` raise.
        """
        known = self._configuration().find(node_id)
        if known is None:
            raise PreconditionFailedError(f"{node_id} is no member", next="dfsctl raft add HOST:PORT")
        waiting, empty = await asyncio.to_thread(self._who, known.grpc)
        if waiting.node_id != node_id:
            raise PreconditionFailedError(f"at {known.grpc} is {waiting.node_id}, not {node_id}")
        if empty:
            await self.remove(node_id)
        return await self.add(known.grpc)

    # Steps

    def _configuration(self) -> Configuration:
        return Configuration.of(self._gateway.members())

    async def _change(self, make: Callable[[Configuration], Configuration]) -> None:
        await self._gateway.change_members(make)

    async def _promote(self, node_id: str) -> str:
        deadline = asyncio.get_running_loop().time() + CATCH_UP_SECONDS
        while not self._has_caught_up(node_id):
            self._gateway.require_leadership()
            if asyncio.get_running_loop().time() >= deadline:
                raise TimedOutError(
                    f"{node_id} has not caught up in {CATCH_UP_SECONDS:g} s",
                    cause="it stays a learner and goes on",
                    next="the same command again waits once more",
                )
            await asyncio.sleep(PAUSE_SECONDS)
        await self._change(lambda now: now.promoted(node_id))
        _log.info("member.promoted", node=node_id)
        return f"{node_id} votes"

    def _has_caught_up(self, node_id: str) -> bool:
        status = self._gateway.consensus.status()
        found = next((one for one in status.members if one.node_id == node_id), None)
        return found is not None and found.match_index >= status.commit_index > 0

    def _who(self, address: str) -> tuple[m.Member, bool]:
        """The coordinator at `address` as it describes itself, and whether it is empty and waits. Blocks.

        Raises PreconditionFailedError when nobody answers there: this coordinator is asked rightly.
        """
        stub = admin_pb2_grpc.ControlStub(self._trusted().get(address))
        try:
            raft = stub.GetRaft(a.GetRaftRequest(), timeout=WHO_SECONDS)
        except grpc.RpcError as rpc_error:
            error = from_rpc(rpc_error, f"asking the coordinator at {address}", sent=False)
            if isinstance(error, (UnavailableError, TimedOutError)):
                raise PreconditionFailedError(
                    f"no coordinator answers at {address}", cause=str(error), next="start it, then again"
                ) from rpc_error
            raise error from rpc_error
        own = next((one.member for one in raft.members if one.member.node_id == raft.node_id), m.Member())
        member = m.Member(node_id=raft.node_id, raft=own.raft, grpc=own.grpc or address, http=own.http)
        return member, raft.state == "waiting"

    def _tell_to_join(self, address: str) -> None:
        """Blocks. Raises what the other coordinator refuses with."""
        identity = self._gateway.consensus.identity
        request = m.GenesisRequest(
            cluster_id=identity.cluster_id,
            history=identity.history,
            members=self._gateway.members(),
            wall_ms=identity.genesis.wall_ms,
            join=True,
        )
        stub = membership_pb2_grpc.ConsensusStub(self._trusted().get(address))
        try:
            answer = stub.Genesis(request, timeout=JOIN_TRIES_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc(error, f"telling {address} to join", sent=False) from error
        raise_for(answer.code, answer.error)
