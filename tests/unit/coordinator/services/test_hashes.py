"""State hashes: one index, every member, and no answer counted as agreement."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.services import hashes
from coordinator.services.hashes import Hashes
from quorumfs.errors import BusyError, NotLeaderError, UnavailableError
from quorumfs.v1 import admin_pb2 as a
from tests.support.coordinator import Coordinator


class Peers:
    """Channels whose other ends are functions: address -> the answer to GetStateHash, or an error."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.asked: list[tuple[str, a.GetStateHashRequest, float]] = []

    def get(self, address: str) -> Any:
        return _Channel(self, address)


class _Channel:
    def __init__(self, peers: Peers, address: str) -> None:
        self.peers, self.address = peers, address

    def unary_unary(self, path: str, *_: Any, **__: Any) -> Any:
        def call(request: Any, timeout: float) -> Any:
            assert path == "/quorumfs.v1.Control/GetStateHash"
            self.peers.asked.append((self.address, request, timeout))
            answers = self.peers.answers[self.address]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def told(node_id: str, rows: bytes = b"rows", index: int = 3) -> a.StateHash:
    return a.StateHash(members=[a.StateHash.One(node_id=node_id, index=index, hash=rows, rolling=b"roll")])


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
def served(leader: Coordinator, peers: Peers, monkeypatch: pytest.MonkeyPatch) -> Hashes:
    monkeypatch.setattr("quorumfs.v1.admin_pb2_grpc.ControlStub", _Stub)
    monkeypatch.setattr(hashes, "RECONNECT_SECONDS", 0.0)
    made: dict[int, tuple[bytes, bytes]] = {}
    leader.consensus.hash_at = made.get
    leader.consensus.hashes = made
    return Hashes(leader.gateway, leader.own, lambda: peers)  # type: ignore[arg-type, return-value]


class _Stub:
    """As the generated one, of the one method that is used."""

    def __init__(self, channel: Any) -> None:
        self.GetStateHash = channel.unary_unary("/quorumfs.v1.Control/GetStateHash")


def mark(leader: Coordinator) -> int:
    """The index that the next HashAt will have, hashed here."""
    index = leader.consensus.status().applied_index + 1
    leader.consensus.hashes[index] = (b"rows", b"roll")
    return int(index)


def test_every_member_is_asked_for_the_same_marked_index(
    leader: Coordinator, served: Hashes, peers: Peers
) -> None:
    index = mark(leader)
    peers.answers = {"127.0.0.1:20": [told("c2")], "127.0.0.1:30": [told("c3", b"other")]}
    found = leader.run(served.everywhere)
    assert [(one.node_id, one.hash, one.error) for one in found] == [
        ("c1", b"rows", ""),
        ("c2", b"rows", ""),
        ("c3", b"other", ""),
    ]
    assert found[0].index == index
    assert {(request.index, request.local) for _, request, _ in peers.asked} == {(index, True)}


def test_a_member_that_does_not_answer_is_said_to_be_silent(
    leader: Coordinator, served: Hashes, peers: Peers
) -> None:
    mark(leader)
    refusal = a.StateHash()
    refusal.error.message = "it has not come so far"
    peers.answers = {"127.0.0.1:20": [UnavailableError("c2 is away")], "127.0.0.1:30": [refusal]}
    found = {one.node_id: one for one in leader.run(served.everywhere)}
    assert (found["c2"].hash, found["c2"].error) == (b"", "c2 is away")
    assert "it has not come so far" in found["c3"].error
    assert found["c1"].hash == b"rows"


def test_a_member_that_was_away_a_moment_ago_is_asked_once_more(
    leader: Coordinator, served: Hashes, peers: Peers
) -> None:
    mark(leader)
    peers.answers = {
        "127.0.0.1:20": [UnavailableError("c2 is away"), told("c2")],
        "127.0.0.1:30": [told("c3")],
    }
    assert [one.error for one in leader.run(served.everywhere)] == ["", "", ""]


def test_only_the_leader_can_mark(leader: Coordinator, served: Hashes) -> None:
    leader.consensus.depose("c2")
    with pytest.raises(NotLeaderError):
        leader.run(served.everywhere)
    leader.consensus.lead(2)
    leader.consensus.refuse_with = BusyError("the queue is full")
    with pytest.raises(BusyError):
        leader.run(served.everywhere)


def test_a_hash_that_is_still_being_made_is_waited_for(leader: Coordinator, served: Hashes) -> None:
    asked: list[int] = []

    def later(index: int) -> tuple[bytes, bytes] | None:
        asked.append(index)
        return (b"rows", b"roll") if len(asked) == 3 else None

    leader.consensus.hash_at = later
    found = leader.run(lambda: served.local(7))
    assert (found.node_id, found.index, found.hash, found.rolling) == ("c1", 7, b"rows", b"roll")


def test_an_index_that_nobody_marked_is_not_waited_for_without_end(
    leader: Coordinator, served: Hashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "LOCAL_SECONDS", 0.0)
    with pytest.raises(UnavailableError, match="no hash of index 9"):
        leader.run(lambda: served.local(9))


def test_a_member_is_given_longer_than_it_waits_itself() -> None:
    assert hashes.PEER_SECONDS > hashes.LOCAL_SECONDS
