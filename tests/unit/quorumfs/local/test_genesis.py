"""Genesis against coordinators that are a few lines each."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from quorumfs.errors import (
    AlreadyExistsError,
    PreconditionFailedError,
    QuorumFSError,
    SafetyGuardError,
    UnavailableError,
)
from quorumfs.local.genesis import Seat, found
from quorumfs.v1 import admin_pb2, membership_pb2


class Down(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "connection refused"


class FakeCoordinator:
    def __init__(self, node_id: str, port: int) -> None:
        self.node_id = node_id
        self.grpc = f"127.0.0.1:{port}"
        self.accepted: membership_pb2.GenesisRequest | None = None
        self.silent_calls = 0

    @property
    def seat(self) -> Seat:
        return Seat(self.grpc, self.node_id, self.grpc + "1", self.grpc + "2")

    def answer(self, path: str, request: Any) -> Any:
        if self.silent_calls:
            self.silent_calls -= 1
            raise Down
        if path.endswith("/GetStatus"):
            raft = admin_pb2.RaftStatus(
                members=[{"member": membership_pb2.Member(node_id=self.node_id, raft=self.grpc + "1")}]
            )
            node = membership_pb2.NodeInfo(node_id=self.node_id, grpc=self.grpc, http=self.grpc + "2")
            return admin_pb2.NodeStatus(node=node, raft=raft)
        if path.endswith("/GetCluster"):
            return membership_pb2.ClusterView()
        if not request.probe:
            self.accepted = request
        accepted = self.accepted
        return membership_pb2.GenesisResponse(
            empty=accepted is None,
            node_id=self.node_id,
            cluster_id=accepted.cluster_id if accepted else "",
            accepted=accepted,
        )


class FakeChannels:
    """A ChannelSource whose channels are the coordinators themselves."""

    def __init__(self, *coordinators: FakeCoordinator) -> None:
        self.coordinators = {one.grpc: one for one in coordinators}

    def get(self, address: str) -> Any:
        coordinator = self.coordinators[address]

        class Channel:
            def unary_unary(self, path: str, *_: Any, **__: Any) -> Any:
                return lambda request, timeout: coordinator.answer(path, request)

            unary_stream = stream_stream = unary_unary

        return Channel()

    def drop(self, address: str) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def three() -> list[FakeCoordinator]:
    return [FakeCoordinator(f"c{k}", 7000 + k) for k in (1, 2, 3)]


def make(three: list[FakeCoordinator], **more: Any) -> membership_pb2.GenesisRequest:
    seats = more.pop("seats", [one.seat for one in three])
    return found(seats, FakeChannels(*three), deadline_seconds=more.pop("deadline", 5.0), wall_ms=7, **more)


def test_all_get_the_same_request_which_is_kept_before(three: list[FakeCoordinator]) -> None:
    kept: list[tuple[str, bool]] = []

    def keep(request: membership_pb2.GenesisRequest) -> None:
        kept.append((request.cluster_id, any(one.accepted for one in three)))

    request = make(three, keep=keep)
    assert [one.accepted for one in three] == [request] * 3
    assert kept == [(request.cluster_id, False)]
    assert [one.node_id for one in request.members] == ["c1", "c2", "c3"]
    assert len({one.member_uuid for one in request.members}) == 3


def test_a_coordinator_that_is_not_up_yet_is_waited_for(three: list[FakeCoordinator]) -> None:
    three[1].silent_calls = 2
    make(three)
    assert three[1].accepted is not None


def test_one_that_never_answers_is_named_and_nobody_is_touched(three: list[FakeCoordinator]) -> None:
    three[2].silent_calls = 10_000
    with pytest.raises(UnavailableError, match="7003"):
        make(three, deadline=0.2)
    assert [one.accepted for one in three] == [None] * 3


def test_giving_up_is_the_callers_word(three: list[FakeCoordinator]) -> None:
    three[0].silent_calls = 10_000

    def give_up() -> None:
        raise UnavailableError("c1 ended while starting")

    with pytest.raises(UnavailableError, match="ended while starting"):
        make(three, give_up=give_up)


def test_a_cluster_is_not_made_twice(three: list[FakeCoordinator]) -> None:
    make(three)
    with pytest.raises(AlreadyExistsError):
        make(three)


def test_an_interrupted_run_is_finished_with_its_own_request(three: list[FakeCoordinator]) -> None:
    first = make(three)
    three[2].accepted = None
    assert make(three, expected=first) == first
    assert three[2].accepted == first


def test_a_coordinator_that_came_back_empty_is_not_let_in_by_accident(three: list[FakeCoordinator]) -> None:
    first = make(three)
    three[1].accepted = None
    with pytest.raises(SafetyGuardError, match="others are empty") as caught:
        make(three)
    assert "7002" in caught.value.cause
    assert make(three, complete=True).cluster_id == first.cluster_id


def test_members_of_different_clusters_make_none(three: list[FakeCoordinator]) -> None:
    for one in three[:2]:
        one.accepted = membership_pb2.GenesisRequest(cluster_id=one.node_id)
    with pytest.raises(PreconditionFailedError, match="different clusters"):
        make(three)


def test_a_node_that_is_somebody_else_is_refused(three: list[FakeCoordinator]) -> None:
    three[0].node_id = "x9"
    seats = [Seat(three[0].grpc, "c1", "r", "h"), *(one.seat for one in three[1:])]
    with pytest.raises(PreconditionFailedError, match="is not c1"):
        make(three, seats=seats)


def test_two_with_one_name_are_refused(three: list[FakeCoordinator]) -> None:
    three[1].node_id = "c1"
    with pytest.raises(QuorumFSError, match="same node_id"):
        make(three)


def test_addresses_that_the_operator_did_not_give_are_asked_for(three: list[FakeCoordinator]) -> None:
    request = make(three, seats=[Seat(one.grpc) for one in three])
    assert [one.raft for one in request.members] == [one.grpc + "1" for one in three]
