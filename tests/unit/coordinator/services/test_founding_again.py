"""Genesis told to a coordinator that is a member already, and what one says of itself that cannot start yet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import patch

from coordinator.consensus import Identity
from coordinator.services import view
from coordinator.services.consensus import ConsensusService
from coordinator.services.gateway import Gateway
from quorumfs.clock import SystemClock
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

CLUSTER = "0123abcd-0000-4000-8000-0123456789ab"
MEMBERS = [m.Member(node_id=f"c{k}", member_uuid=f"u{k}", grpc=f"h{k}:1", raft=f"h{k}:2") for k in (1, 2, 3)]


def member(directory: Path) -> tuple[Gateway, Identity, ConsensusService]:
    """c3, whose identity was read and whose log cannot be: its disk is full."""
    identity = Identity.accept(
        directory, m.GenesisRequest(cluster_id=CLUSTER, history=1, members=MEMBERS), "c3"
    )
    gateway = Gateway(SystemClock(), "c3")
    gateway.returning()
    gateway.without_room("no space left")
    service = ConsensusService(gateway, "c3", directory, lambda: identity, lambda request: identity)
    return gateway, identity, service


def join(service: ConsensusService, uuid: str) -> m.GenesisResponse:
    members = [*MEMBERS[:2], m.Member(node_id="c3", member_uuid=uuid, grpc="h3:1", raft="h3:2", learner=True)]
    request = m.GenesisRequest(cluster_id=CLUSTER, history=1, members=members, join=True)
    with patch("coordinator.services.consensus.require_node"):
        return asyncio.run(service.Genesis(request, None))


def test_a_member_that_waits_for_room_does_not_say_that_it_is_empty(tmp_path: Path) -> None:
    gateway, _, _ = member(tmp_path)
    own = m.NodeView(raft="h3:2")
    own.info.node_id = "c3"
    assert view.raft_status(gateway, own).state == "starting"
    assert view.raft_status(Gateway(SystemClock(), "c3"), own).state == "waiting"


def test_who_has_accepted_does_not_say_that_it_is_empty_while_it_starts(tmp_path: Path) -> None:
    gateway, accepted = Gateway(SystemClock(), "c3"), list[Identity]()

    def accept(request: m.GenesisRequest) -> Identity:
        accepted.append(Identity.accept(tmp_path, request, "c3"))
        return accepted[0]

    service = ConsensusService(gateway, "c3", tmp_path, lambda: accepted[0] if accepted else None, accept)
    own = m.NodeView(raft="h3:2")
    own.info.node_id = "c3"
    assert view.raft_status(gateway, own).state == "waiting"
    assert join(service, "u9").code == t.ERROR_CODE_OK
    assert view.raft_status(gateway, own).state == "starting"


def test_who_has_a_log_joins_under_no_other_uuid(tmp_path: Path) -> None:
    _, identity, service = member(tmp_path)
    assert join(service, identity.member_uuid).code == t.ERROR_CODE_OK
    refused = join(service, "u9")
    assert refused.code == t.ERROR_CODE_ALREADY_EXISTS
    assert "u3, not u9" in refused.error.cause
