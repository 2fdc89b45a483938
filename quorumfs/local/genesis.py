"""Makes a cluster out of empty coordinators, once (`dfsctl cluster init`, `dev up`).

1. Ask every coordinator whether it is empty. All must answer: who is left out now would have to join later.
2. Send all of them the same request: cluster id, first history, members with fresh UUIDs.
3. A run that was interrupted between two of them is finished with the request that the first ones accepted,
   never with a new one. From outside, a coordinator that was not reached looks like one that lost its disk:
   so that is done only when the caller knows the request, or asks for it (`complete`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc

from quorumfs.errors import (
    AlreadyExistsError,
    InternalError,
    PreconditionFailedError,
    QuorumFSError,
    SafetyGuardError,
    UnavailableError,
)
from quorumfs.limits import RPC_DEADLINE_SECONDS
from quorumfs.mint import RandomBytes, system_random, uuid_text
from quorumfs.rpc.channels import ChannelSource
from quorumfs.rpc.status import from_rpc, raise_for
from quorumfs.v1 import admin_pb2, admin_pb2_grpc, membership_pb2, membership_pb2_grpc

FIRST_HISTORY = 1
_RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Seat:
    """One coordinator as the operator named it: its gRPC address, and what is known of it beside that."""

    grpc: str
    node_id: str = ""
    raft: str = ""
    http: str = ""


def found(
    seats: Sequence[Seat],
    channels: ChannelSource,
    *,
    deadline_seconds: float,
    wall_ms: int,
    expected: membership_pb2.GenesisRequest | None = None,
    complete: bool = False,
    keep: Callable[[membership_pb2.GenesisRequest], None] = lambda request: None,
    give_up: Callable[[], None] = lambda: None,
    random: RandomBytes = system_random,
) -> membership_pb2.GenesisRequest:
    """Make the cluster; durable on every coordinator on return. Returns what they run by.

    `expected`: the request of an earlier run of ours, which is finished. `keep` is called with a new request
    before anybody gets it. Coordinators that do not answer yet are asked again until the deadline, and before
    each new try `give_up` may raise what makes it pointless.
    Raises AlreadyExistsError when they all belong to a cluster, SafetyGuardError when only some do,
    UnavailableError when one does not answer.
    """
    ask = _Asking(channels, time.monotonic() + deadline_seconds, give_up)
    answers = {seat: _probe(seat, ask) for seat in seats}
    empty = [seat for seat in seats if answers[seat].empty]
    request = _accepted(answers)
    if not empty and request is not None and not _same(request, expected):
        raise AlreadyExistsError(
            "these coordinators belong to a cluster already",
            cause=f"cluster {request.cluster_id}",
            next="dfsctl status shows it",
        )
    if request is None:
        request = expected or _new_request(seats, answers, channels, wall_ms, random)
        keep(request)
    elif empty and not (complete or _same(request, expected)):
        raise _half_made(request, empty)
    # At once: each of them makes its database before it answers.
    with ThreadPoolExecutor(max(1, len(empty)), thread_name_prefix="genesis") as pool:
        for sent in [pool.submit(_send, seat, request, ask) for seat in empty]:
            sent.result()
    return request


@dataclass(frozen=True, slots=True)
class _Asking:
    """How the coordinators are asked: again and again until the deadline."""

    channels: ChannelSource
    deadline: float
    give_up: Callable[[], None]

    def __call__(self, seat: Seat, request: membership_pb2.GenesisRequest) -> membership_pb2.GenesisResponse:
        stub = membership_pb2_grpc.ConsensusStub(self.channels.get(seat.grpc))
        while True:
            left = self.deadline - time.monotonic()
            try:
                return stub.Genesis(request, timeout=max(0.1, min(RPC_DEADLINE_SECONDS, left)))
            except grpc.RpcError as error:
                if not _is_passing(error) or left <= 0:
                    failure = from_rpc(error, f"asking the coordinator at {seat.grpc}", sent=False)
                    raise _not_there(seat, failure) from error
            self.give_up()
            time.sleep(_RETRY_SECONDS)


def _probe(seat: Seat, ask: _Asking) -> membership_pb2.GenesisResponse:
    answer = ask(seat, membership_pb2.GenesisRequest(probe=True))
    if answer.empty or answer.cluster_id or answer.accepted.cluster_id:
        return answer
    raise_for(answer.code, answer.error)
    raise InternalError(f"{seat.grpc} says neither that it is empty nor to which cluster it belongs")


def _send(seat: Seat, request: membership_pb2.GenesisRequest, ask: _Asking) -> None:
    # Sent again after a broken call: a coordinator that has accepted these very bytes says OK again.
    answer = ask(seat, request)
    if _same(answer.accepted, request):
        return
    raise_for(answer.code, answer.error)


def _is_passing(error: grpc.RpcError) -> bool:
    """Whether it may only not be up yet."""
    code = getattr(error, "code", None)
    passing = (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    )
    return callable(code) and code() in passing


def _not_there(seat: Seat, failure: QuorumFSError) -> QuorumFSError:
    if not isinstance(failure, UnavailableError):
        return failure
    return UnavailableError(
        f"the coordinator at {seat.grpc} does not answer",
        cause=failure.cause or failure.message,
        next="start all coordinators first; the cluster is made of those that --coordinators names",
    )


def _accepted(
    answers: Mapping[Seat, membership_pb2.GenesisResponse],
) -> membership_pb2.GenesisRequest | None:
    """What the non-empty ones run by. PreconditionFailedError when they belong to different clusters."""
    by_cluster: dict[str, list[str]] = {}
    request = None
    for seat, answer in answers.items():
        if answer.empty:
            continue
        by_cluster.setdefault(answer.cluster_id or answer.accepted.cluster_id, []).append(seat.grpc)
        if request is None or not request.members:
            request = answer.accepted
            request.cluster_id = request.cluster_id or answer.cluster_id
    if len(by_cluster) > 1:
        raise PreconditionFailedError(
            "these coordinators belong to different clusters",
            cause="; ".join(f"{cluster}: {', '.join(seats)}" for cluster, seats in by_cluster.items()),
        )
    return request


def _same(request: membership_pb2.GenesisRequest, expected: membership_pb2.GenesisRequest | None) -> bool:
    return expected is not None and request.cluster_id == expected.cluster_id


def _half_made(request: membership_pb2.GenesisRequest, empty: Sequence[Seat]) -> SafetyGuardError:
    return SafetyGuardError(
        "some of these coordinators belong to a cluster, others are empty",
        cause=f"cluster {request.cluster_id}; empty: {', '.join(seat.grpc for seat in empty)}",
        next="after an interrupted `cluster init`: --complete; one that lost its disk must rejoin instead",
    )


def _new_request(
    seats: Sequence[Seat],
    answers: Mapping[Seat, membership_pb2.GenesisResponse],
    channels: ChannelSource,
    wall_ms: int,
    random: RandomBytes,
) -> membership_pb2.GenesisRequest:
    members = [_member(seat, answers[seat], channels, random) for seat in seats]
    for field in ("node_id", "raft", "grpc"):
        values = [getattr(member, field) for member in members]
        if len(set(values)) < len(values):
            raise PreconditionFailedError(
                f"two of these coordinators have the same {field}", cause=", ".join(values)
            )
    return membership_pb2.GenesisRequest(
        cluster_id=uuid_text(random), history=FIRST_HISTORY, members=members, wall_ms=wall_ms
    )


def _member(
    seat: Seat, answer: membership_pb2.GenesisResponse, channels: ChannelSource, random: RandomBytes
) -> membership_pb2.Member:
    seat = seat if seat.raft and seat.http else _complete_seat(seat, answer.node_id, channels)
    node_id = answer.node_id or seat.node_id
    if seat.node_id and node_id != seat.node_id:
        raise PreconditionFailedError(
            f"{seat.grpc} is not {seat.node_id}", cause=f"it says it is {node_id}: another cluster's node?"
        )
    return membership_pb2.Member(
        node_id=node_id, member_uuid=uuid_text(random), raft=seat.raft, grpc=seat.grpc, http=seat.http
    )


def _complete_seat(seat: Seat, node_id: str, channels: ChannelSource) -> Seat:
    """Ask the coordinator itself under which addresses it is reached."""
    what = f"asking the coordinator at {seat.grpc} for its addresses"
    try:
        status = admin_pb2_grpc.AdminStub(channels.get(seat.grpc)).GetStatus(
            admin_pb2.GetStatusRequest(), timeout=RPC_DEADLINE_SECONDS
        )
        view = membership_pb2_grpc.MembershipStub(channels.get(seat.grpc)).GetCluster(
            membership_pb2.GetClusterRequest(), timeout=RPC_DEADLINE_SECONDS
        )
    except grpc.RpcError as error:
        raise from_rpc(error, what, sent=False) from error
    raft = [one.member.raft for one in status.raft.members if one.member.node_id == node_id]
    raft += [node.raft for node in view.nodes if node.info.node_id == node_id]
    raft = [address for address in raft if address]
    if not raft:
        raise InternalError(f"{what}: it does not name its Raft address")
    return Seat(grpc=status.node.grpc or seat.grpc, node_id=node_id, raft=raft[0], http=status.node.http)
