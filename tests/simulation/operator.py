"""An operator who adds and removes coordinators, by the rules of `coordinator/services/members.py`.

Spare machines become members: a learner under a new UUID, told to join, brought up, made a voter. Members are removed,
their machines wiped some time later, and may come back as new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coordinator.consensus.configuration import Configuration
from coordinator.consensus.core import Change
from quorumfs.errors import QuorumFSError
from quorumfs.v1 import membership_pb2 as m
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

PAUSE_SECONDS = 0.8
VOTERS_MIN = 2
WIPE_SECONDS = 3.0


class Operator:
    """One step at a time, of the leader as he finds it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._random = cluster.world.stream("operator")
        self._made = 0
        self._leaving: set[str] = set()
        self._rests = False

    def begin(self) -> None:
        if self._cluster.plan.spares:
            self._world.after(self._random.expovariate(1 / PAUSE_SECONDS), self._next)

    def heal(self) -> None:
        """No change is begun any more; whoever was told nothing yet is told."""
        self._rests = True

    def _next(self) -> None:
        self.begin()
        leader = self._cluster.leader()
        if leader is None:
            return
        self._tell_learners()
        self._sweep(leader)
        if not self._rests:
            step = self._random.choice((self._add, self._promote, self._promote, self._remove))
            step(leader, leader.core.replica.configurations.current)

    def _change(
        self, leader: Process, make: Callable[[Configuration], Configuration], then: Callable[[], None]
    ) -> None:
        def done(answer: bytes | QuorumFSError) -> None:
            if not isinstance(answer, QuorumFSError):
                self._cluster.totals["member changes"] += 1
                then()

        watched = self._cluster.monitor.proposed(leader, done)
        leader.later(0.0, leader.core.change_members, Change(make, watched))

    def _add(self, leader: Process, now: Configuration) -> None:
        free = [
            member
            for member in self._cluster.members.values()
            if now.find(member.node_id) is None and not member.belongs and member.node_id not in self._leaving
        ]
        if not free:
            return
        node_id = self._random.choice(free).node_id
        self._made += 1
        learner = m.Member(node_id=node_id, member_uuid=f"uuid-{node_id}-{self._made}")
        self._world.tell("", "ADDS", node=node_id)
        self._change(leader, lambda found: found.with_learner(learner), self._tell_learners)

    def _tell_learners(self) -> None:
        """Empty machines that the leader has as learners are told to join; voters are never empty."""
        leader = self._cluster.leader()
        if leader is None:
            return
        now = leader.core.replica.configurations.current
        for one in now.members:
            member = self._cluster.members[one.node_id]
            if one.learner and not member.belongs and leader.core.replica.configurations.last_index == 0:
                member.accept(now.members)
                member.start()

    def _promote(self, leader: Process, now: Configuration) -> None:
        replica = leader.core.replica
        ready = [
            one.node_id
            for one in now.members
            if one.learner and replica.progress[one.node_id].match >= replica.commit_index()
        ]
        if ready:
            node_id = self._random.choice(ready)
            self._world.tell("", "PROMOTES", node=node_id)
            self._change(leader, lambda found: found.promoted(node_id), lambda: None)

    def _remove(self, leader: Process, now: Configuration) -> None:
        """Not the leader, and not when too few of the others answer."""
        node_id = self._random.choice(now.ids)
        if node_id == leader.node_id:
            return
        voters = now.without(node_id).voters
        there = [one for one in voters if one == leader.node_id or leader.wire.connected(one)]
        if len(voters) < VOTERS_MIN or len(there) * 2 <= len(voters):
            return
        self._world.tell("", "REMOVES", node=node_id)
        uuid = self._cluster.members[node_id].uuid

        def removed() -> None:
            self._leaving.add(node_id)
            self._world.after(self._random.random() * WIPE_SECONDS, self._wipe, node_id, uuid)

        self._change(leader, lambda found: found.without(node_id), removed)

    def _sweep(self, leader: Process) -> None:
        """Who was removed, though nobody was told that it worked, is wiped as well."""
        configurations = leader.core.replica.configurations
        for member in self._cluster.members.values():
            gone = configurations.current.find(member.node_id) is None and configurations.last_index == 0
            if (
                gone
                and member.belongs
                and member.node_id not in self._leaving
                and self._random.random() < 0.2
            ):
                self._wipe(member.node_id, member.uuid)

    def _wipe(self, node_id: str, uuid: str) -> None:
        member = self._cluster.members[node_id]
        self._leaving.discard(node_id)
        if member.uuid == uuid:
            member.crash(power=True)
            member.wipe()
