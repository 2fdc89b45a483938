"""What this coordinator knows of the cluster, as it is shown: nodes, leader, Raft."""

from __future__ import annotations

import time

from coordinator.consensus import MemberState, RaftState
from coordinator.metadata.machine import FORMAT
from coordinator.services.answers import STATE_OF
from coordinator.services.gateway import Gateway
from coordinator.soft_state import KnownNode, SoftState, known_nodes
from quorumfs import selectors
from quorumfs.errors import Leader
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

COORDINATOR_SUSPECT_SECONDS = 3.0
COORDINATOR_DEAD_SECONDS = 30.0


def hint_of(leader: Leader | None) -> t.LeaderHint | None:
    if leader is None:
        return None
    return t.LeaderHint(node_id=leader.node_id, grpc=leader.grpc, http=leader.http, term=leader.term)


async def cluster_view(
    gateway: Gateway,
    soft: SoftState,
    own: m.NodeView,
    selector: str,
    role: t.NodeRole.ValueType = t.NODE_ROLE_UNSPECIFIED,
) -> m.ClusterView:
    """The nodes of a role that match `selector` (all, when empty), from this member's state, without a barrier.

    Before genesis it holds this node alone. Raises InvalidArgumentError for a bad selector.
    """
    wanted = selectors.parse(selector) if selector else None
    result = m.ClusterView(observed_by=own.info.node_id, observed_wall_ms=time.time_ns() // 1_000_000)
    if not gateway.attached:
        result.nodes.append(own)
        return result
    consensus = gateway.consensus
    state = consensus.status()
    result.cluster_id = consensus.identity.cluster_id
    result.term = state.term
    result.index = state.applied_index
    result.authoritative = gateway.leadership() is not None
    leader = hint_of(gateway.leader())
    if leader is not None:
        result.leader.CopyFrom(leader)
    for known in await nodes(gateway, role):
        name = t.NodeRole.Name(known.info.role).removeprefix("NODE_ROLE_").lower()
        if wanted is None or wanted.matches(selectors.selectable(known.info.labels, name)):
            result.nodes.append(node_view(known, gateway, soft, state, own))
    return result


async def nodes(gateway: Gateway, role: t.NodeRole.ValueType = t.NODE_ROLE_UNSPECIFIED) -> list[KnownNode]:
    """The node table, and those members that it does not list yet (the first moments of a cluster); of a role only,
    if one is given."""
    known = await gateway.ask(lambda tx: known_nodes(tx, role))
    listed = {node.info.node_id for node in known}
    young = [
        KnownNode(
            m.NodeInfo(
                node_id=member.node_id,
                node_uuid=member.member_uuid,
                role=t.NODE_ROLE_COORDINATOR,
                grpc=member.grpc,
                http=member.http,
            )
        )
        for member in gateway.members()
        if member.node_id not in listed and role != t.NODE_ROLE_DATANODE
    ]
    return sorted([*known, *young], key=lambda node: (node.info.role, node.info.node_id))


def node_view(
    known: KnownNode, gateway: Gateway, soft: SoftState, state: RaftState, own: m.NodeView
) -> m.NodeView:
    node_id = known.info.node_id
    view = m.NodeView(info=known.info, intent=known.intent)
    if known.maintenance_until_ms:
        left_ms = known.maintenance_until_ms - gateway.consensus.cluster_ms()
        view.maintenance_seconds = max(0, left_ms) / 1000
    view.raft = next((one.raft for one in gateway.members() if one.node_id == node_id), "")
    if node_id == own.info.node_id:
        view.info.MergeFrom(m.NodeInfo(version=own.info.version, started_wall_ms=own.info.started_wall_ms))
        view.state = t.NODE_STATE_ALIVE
        return view
    if not known.is_datanode:
        _add_coordinator(view, node_id, state)
    elif soft.leading:
        pulse = soft.pulse(node_id)
        view.state = STATE_OF[pulse.liveness]
        view.heartbeat_age_seconds = pulse.age_seconds
        view.load.CopyFrom(pulse.load)
        if pulse.disks:
            del view.info.disks[:]
            view.info.disks.extend(pulse.disks)
    return view


def _add_coordinator(view: m.NodeView, node_id: str, state: RaftState) -> None:
    """A coordinator's health as Raft tells it: only a leader hears from all."""
    member = next((one for one in state.members if one.member.node_id == node_id), None)
    if member is None:
        return
    view.heartbeat_age_seconds = member.heard_age
    view.state = state_of(member)


def state_of(member: MemberState) -> t.NodeState.ValueType:
    """A lost connection is doubt at once: nobody may be stopped because a dead one was heard a moment ago."""
    if member.connected and member.heard_age < COORDINATOR_SUSPECT_SECONDS:
        return t.NODE_STATE_ALIVE
    return t.NODE_STATE_SUSPECT if member.heard_age < COORDINATOR_DEAD_SECONDS else t.NODE_STATE_DEAD


def raft_status(gateway: Gateway, own: m.NodeView) -> a.RaftStatus:
    """This member's Raft, or that it waits for genesis (with its own address, for which genesis asks). One that reads
    its log, or waits for room, is starting: it must not be taken for an empty one."""
    if not gateway.attached:
        me = m.Member(node_id=own.info.node_id, raft=own.raft, grpc=own.info.grpc, http=own.info.http)
        word = "waiting" if gateway.founding else "starting"
        return a.RaftStatus(node_id=own.info.node_id, state=word, members=[a.RaftMember(member=me)])
    state = gateway.consensus.status()
    index, rows, rolling = gateway.consensus.state_hash()
    return a.RaftStatus(
        node_id=own.info.node_id,
        state=state.state,
        term=state.term,
        leader=hint_of(gateway.leader()),
        commit_index=state.commit_index,
        applied_index=state.applied_index,
        last_index=state.last_index,
        base_index=state.base_index,
        history=gateway.consensus.identity.history,
        format=FORMAT,
        schema_revision=gateway.consensus.schema_revision(),
        tick_age_seconds=state.tick_age,
        journal_bytes=state.journal_bytes,
        queue_ops=state.queue_ops,
        queue_bytes=state.queue_bytes,
        boot_counter=state.boot_counter,
        state_hash=a.StateHash.One(node_id=own.info.node_id, index=index, hash=rows, rolling=rolling),
        members=[
            a.RaftMember(
                member=one.member,
                match_index=one.match_index,
                heard_age_seconds=one.heard_age,
                connected=one.connected,
            )
            for one in state.members
        ],
    )
