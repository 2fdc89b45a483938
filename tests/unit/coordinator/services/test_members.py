"""Changes of the Raft group's members, as the leader makes them of an operator's word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.consensus import Configuration
from coordinator.services.members import Members
from quorumfs.mint import system_random
from quorumfs.v1 import membership_pb2 as m


class Gateway:
    """Of a leader whose group does at once what it is told."""

    def __init__(self, *members: m.Member) -> None:
        self.group = Configuration.of(members)

    def require_leadership(self) -> None: ...

    def members(self) -> tuple[m.Member, ...]:
        return self.group.members

    async def change_members(self, make: Callable[[Configuration], Configuration]) -> None:
        self.group = make(self.group)

    @property
    def consensus(self) -> Any:
        there = [SimpleNamespace(node_id=one, connected=True, match_index=5) for one in self.group.ids]
        return SimpleNamespace(status=lambda: SimpleNamespace(members=there, commit_index=5))


@pytest.mark.parametrize("learner", [False, True])
def test_a_member_that_lost_its_disk_comes_back_under_a_new_uuid(
    monkeypatch: pytest.MonkeyPatch, learner: bool
) -> None:
    """A learner too: under the old one it would be taken for a disk that was set back, and counted by nobody."""
    gateway = Gateway(
        m.Member(node_id="c1", member_uuid="uuid-1"),
        m.Member(node_id="c2", member_uuid="uuid-2"),
        m.Member(node_id="c3", member_uuid="uuid-3", grpc="c3:1", learner=learner),
    )
    own = m.NodeView()
    own.info.node_id = "c1"
    members = Members(gateway, own, lambda: pytest.fail("asked"), system_random)  # type: ignore[arg-type]
    monkeypatch.setattr(members, "_who", lambda address: (m.Member(node_id="c3", grpc=address), True))
    monkeypatch.setattr(members, "_tell_to_join", lambda address: None)
    assert asyncio.run(members.rejoin("c3")) == "c3 votes"
    found = gateway.group.find("c3")
    assert found is not None
    assert found.member_uuid != "uuid-3"
    assert not found.learner
