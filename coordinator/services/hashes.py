"""State hashes of all members at one index: the alarm for members that have come apart.

A HashAt entry marks an index; every member hashes its state as it is right after that entry. Asked is each member over
gRPC, in parallel; one that does not answer, or was not heard lately, is said to be silent, not to agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from coordinator.services.gateway import Gateway
from coordinator.services.view import COORDINATOR_SUSPECT_SECONDS
from quorumfs.errors import QuorumFSError, UnavailableError, make
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import admin_pb2_grpc
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

LOCAL_SECONDS = 20.0
PEER_SECONDS = LOCAL_SECONDS + 2.0
PAUSE_SECONDS = 0.02
RECONNECT_SECONDS = 0.7


class Hashes:
    """All methods run on the gRPC loop. `trusted` gives channels that prove this node's membership."""

    def __init__(self, gateway: Gateway, own: m.NodeView, trusted: Callable[[], ChannelSource]) -> None:
        self._gateway = gateway
        self._node_id = own.info.node_id
        self._trusted = trusted

    async def everywhere(self) -> list[a.StateHash.One]:
        """Mark an index and hash there on all members. Raises like `Gateway.propose`: the leader must be asked."""
        marked = await self._gateway.system(e.SystemCommand(hash_at=e.HashAt(nonce=0)))
        if marked.code != t.ERROR_CODE_OK:
            raise make(marked.code, marked.error.message, cause=marked.error.cause, next=marked.error.next)
        members = self._gateway.members()
        return list(await asyncio.gather(*(self._of(member, marked.number) for member in members)))

    async def local(self, index: int) -> a.StateHash.One:
        """This member's hash at an index that was marked; waits until it is made. Raises UnavailableError."""
        deadline = asyncio.get_running_loop().time() + LOCAL_SECONDS
        while (found := self._gateway.consensus.hash_at(index)) is None:
            if asyncio.get_running_loop().time() >= deadline:
                raise UnavailableError(
                    f"{self._node_id} has no hash of index {index}",
                    cause="it has not come so far, has forgotten it, or nobody marked that index",
                )
            await asyncio.sleep(PAUSE_SECONDS)
        rows, rolling = found
        return a.StateHash.One(node_id=self._node_id, index=index, hash=rows, rolling=rolling)

    async def _of(self, member: m.Member, index: int) -> a.StateHash.One:
        try:
            if member.node_id == self._node_id:
                return await self.local(index)
            self._require_heard(member)
            try:
                return await asyncio.to_thread(self._ask, member, index)
            except (
                UnavailableError
            ):  # a channel whose other end was away a moment ago has not noticed its return
                await asyncio.sleep(RECONNECT_SECONDS)
                return await asyncio.to_thread(self._ask, member, index)
        except QuorumFSError as error:
            return a.StateHash.One(node_id=member.node_id, index=index, error=str(error))

    def _require_heard(self, member: m.Member) -> None:
        """Raises UnavailableError: a member that hangs would take the whole time that hashing may."""
        for one in self._gateway.consensus.status().members:
            if one.node_id == member.node_id and one.heard_age >= COORDINATOR_SUSPECT_SECONDS:
                heard = "never" if one.heard_age > 1e8 else f"{one.heard_age:.0f} s ago"
                raise UnavailableError(f"{member.node_id} was not asked", cause=f"it was last heard {heard}")

    def _ask(self, member: m.Member, index: int) -> a.StateHash.One:
        stub = admin_pb2_grpc.ControlStub(self._trusted().get(member.grpc))
        try:
            answer = stub.GetStateHash(a.GetStateHashRequest(index=index, local=True), timeout=PEER_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc(error, f"asking {member.node_id} for its hash", sent=False) from error
        if answer.HasField("error") or not answer.members:
            raise UnavailableError(f"{member.node_id} has no hash", cause=answer.error.message)
        return answer.members[0]
