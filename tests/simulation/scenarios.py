"""Directed plays: what chance brings about too rarely, step by step, under the same monitors and checks.

A `Stage` is a cluster without faults and without impatience; the play cuts, kills and holds messages back. Each play
is a promise kept, and some of them are where a planted bug (mutations.py) shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from coordinator.consensus.messages import decode
from coordinator.consensus.replica import Timing
from quorumfs.errors import QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from tests.simulation.cluster import Cluster
from tests.simulation.marks import Marks, watched_log
from tests.simulation.plan import Plan, limits_of, plan_of
from tests.simulation.process import Process
from tests.simulation.world import Violation, World

CALM = {
    "spares": 0,
    "timing": Timing(0.05, 0.25, 0.5),
    "latency": 0.001,
    "loss": 0.0,
    "doubling": 0.0,
    "delay_chance": 0.0,
    "send_buffer_bytes": 1 << 20,
    "poll_items": 64,
    "segment_bytes": 64 * 1024,
    "keep_bytes": 1 << 20,
    "cache_bytes": 1 << 20,
    "sync_seconds": 0.0002,
    "slow_sync_chance": 0.0,
    "interleaving": 0.0,
    "apply_lag": 0.0002,
    "clock_skew": 0.001,
    "batch_entries": 512,
    "window": 1024,
    "group_entries": 64,
    "entry_ops": 1024,
    "queue_ops": 20_000,
    "backlog_bytes": 1 << 20,
    "rolling": 4096,
    "clients": 0,
}

Held = Callable[[str, str, dict[str, Any]], bool]


class Stage:
    """A calm cluster of founders c1, c2, ... `wild`: no connections, so that messages may be held one by one."""

    def __init__(self, seed: int, *, members: int = 3, wild: bool = False, **changes: Any) -> None:
        plan: Plan = replace(plan_of(seed), members=members, wild=wild, **{**CALM, **changes})
        self.world = World(seed)
        self.marks = Marks()
        self.cluster = Cluster(self.world, plan, self.marks)
        self.events: list[tuple[str, str]] = []
        self._held: list[tuple[str, str, bytes]] = []
        self._holds: Held = lambda sender, receiver, message: False
        self._stack = ExitStack()
        self._stack.enter_context(limits_of(plan))
        self._stack.enter_context(watched_log(self._logged))

    def __enter__(self) -> Stage:
        self.cluster.network.holds = self._is_held
        self.cluster.begin()
        self.until(lambda: self.cluster.totals["genesis"] > 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _logged(self, level: int, event: str, fields: dict[str, Any]) -> None:
        process = self.cluster.current
        self.events.append((process.node_id if process else "", event))
        self.world.tell(process.node_id if process else "", event, **fields)

    # Time

    def run(self, seconds: float) -> None:
        self.world.run_until(self.world.now + seconds)

    def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        deadline = self.world.now + seconds
        while not condition():
            if self.world.now > deadline:
                raise Violation("stuck: " + "; ".join(list(self.world.story)[-5:]))
            self.run(0.01)

    # Who is there

    def __getitem__(self, node_id: str) -> Process:
        process = self.cluster.members[node_id].process
        assert process is not None, f"{node_id} does not run"
        return process

    @property
    def leader(self) -> Process:
        """Waits for one."""
        self.until(lambda: self.cluster.leader() is not None)
        leader = self.cluster.leader()
        assert leader is not None
        return leader

    def others(self, *node_ids: str) -> list[str]:
        return [one for one in self.cluster.node_ids if one not in node_ids]

    def let_lead(self, node_id: str) -> Process:
        """Whoever leads hands over until this one does."""
        import threading

        from coordinator.consensus.core import Transfer

        while self.leader.node_id != node_id:
            leader = self.leader
            wish = Transfer(node_id, leader.clock.monotonic() + 2.0, threading.Event())
            leader.core.transfer(wish)
            self.until(wish.done.is_set)
            self.run(0.5)
        return self.leader

    # The network

    def cut(self, one: str, other: str) -> None:
        self.cluster.network.block((one, other), (other, one))

    def heal(self, one: str, other: str) -> None:
        self.cluster.network.unblock((one, other), (other, one))

    def isolate(self, node_id: str) -> None:
        for other in self.others(node_id):
            self.cut(node_id, other)

    def rejoin(self, node_id: str) -> None:
        for other in self.others(node_id):
            self.heal(node_id, other)

    def hold(self, which: Held) -> None:
        """Messages of which `which` (sender, receiver, message) says so do not arrive until `release`."""
        self._holds = which

    def release(self) -> None:
        """Stop holding; what was held arrives now."""
        self._holds = lambda sender, receiver, message: False
        held, self._held = self._held, []
        for sender, receiver, raw in held:
            self.cluster.network.deliver_held(sender, receiver, raw)

    def _is_held(self, sender: str, receiver: str, raw: bytes) -> bool:
        if not self._holds(sender, receiver, decode(raw)):
            return False
        self._held.append((sender, receiver, raw))
        return True

    # Work

    def write(self, process: Process, count: int = 1) -> list[bytes | QuorumFSError]:
        """Propose `count` entries at a member, one after another in time; the list fills with the answers."""
        answers: list[bytes | QuorumFSError] = []
        service = self.cluster.services[process]
        for number in range(count):
            command = e.SystemCommand(hash_at=e.HashAt(nonce=number))
            process.later(0.005 * number, service.system, [command], answers.append)
        return answers

    def read(self, process: Process) -> list[Any]:
        """Ask a member for the applied index behind a barrier; the list gets the answer."""
        answers: list[Any] = []

        def question(tx: Any) -> bytes:
            return str(tx.execute("SELECT applied_index FROM raft_state").fetchone()[0]).encode()

        process.later(0.0, process.core.read, question, answers.append)
        return answers

    def last_indexes(self, node_ids: Iterable[str]) -> list[int]:
        return [self[one].journal.last_index for one in node_ids]

    def happened(self, event: str) -> int:
        return sum(one == event for _, one in self.events)


# Elections


def a_member_that_returns_deposes_nobody(seed: int) -> None:
    """Cut off for seconds, it has asked in vain; its return changes neither leader nor term."""
    with Stage(seed) as stage:
        leader = stage.leader
        term = leader.core.replica.term()
        away = stage.others(leader.node_id)[0]
        stage.isolate(away)
        stage.run(4.0)
        stage.rejoin(away)
        stage.run(3.0)
        _expect((stage.leader.node_id, stage.leader.core.replica.term()), (leader.node_id, term))


def a_member_that_hears_only_a_follower_deposes_nobody(seed: int) -> None:
    """Leader and one follower do not see each other, the other follower sees both."""
    with Stage(seed) as stage:
        leader = stage.leader
        term = leader.core.replica.term()
        stage.cut(leader.node_id, stage.others(leader.node_id)[0])
        stage.run(6.0)
        _expect((stage.leader.node_id, stage.leader.core.replica.term()), (leader.node_id, term))


def a_restarted_member_grants_nothing_at_once(seed: int) -> None:
    """A follower restarts while the other one is cut off from the leader, and asks: the leader stays."""
    with Stage(seed) as stage:
        leader = stage.leader
        term = leader.core.replica.term()
        asking, restarting = stage.others(leader.node_id)
        stage.cut(leader.node_id, asking)
        stage.run(2.5)
        for _ in range(5):
            stage[restarting].member.crash(power=True)
            stage.run(0.05)
            stage.cluster.members[restarting].start()
            stage.run(1.0)
        _expect((stage.leader.node_id, stage.leader.core.replica.term()), (leader.node_id, term))


def a_leader_cut_off_steps_down(seed: int) -> None:
    """Within two election timeouts; and answers no read meanwhile."""
    with Stage(seed) as stage:
        leader = stage.leader
        stage.isolate(leader.node_id)
        answers = stage.read(leader)
        stage.run(1.0)
        _expect(leader.core.replica.leads(), False)
        _expect([answer for answer in answers if isinstance(answer, bytes)], [])


# Replication


def an_acknowledgement_of_an_old_leadership_counts_nothing(seed: int) -> None:
    """c2 acknowledges entries of c1's first term, and its answer is late; they are replaced, and c1 leads again."""
    with Stage(seed, members=5, wild=True) as stage:
        stage.let_lead("c1")
        term = stage["c1"].core.replica.term()
        for other in ("c3", "c4", "c5"):
            stage.cut("c1", other)
            stage.cut("c2", other)
        stage.hold(
            lambda sender, receiver, message: (
                (sender, receiver) == ("c2", "c1")
                and message["type"] == "next_node_idx"
                and message["term"] == term
            )
        )
        stage.write(stage["c1"], 40)
        stage.until(lambda: stage["c2"].journal.last_index > stage["c1"].core.replica.commit_index() + 10)
        stage.until(lambda: stage.leader.node_id in ("c3", "c4", "c5"))
        stage.cut("c1", "c2")
        for other in ("c3", "c4", "c5"):
            stage.heal("c1", other)
        stage.until(lambda: stage["c1"].journal.last_index == stage.leader.journal.last_index)
        stage.let_lead("c1")
        stage.hold_all_but_heartbeats("c1", "c2", "c3", "c4")
        stage.write(stage["c1"], 60)
        stage.run(0.4)
        stage.release_from("c2")
        stage.run(1.0)


def _expect(found: object, expected: object) -> None:
    if found != expected:
        raise Violation(f"found {found!r}, not {expected!r}")


NEVER = math.inf
