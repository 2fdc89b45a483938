"""A leader with its collection, and datanodes in memory: enough to let cycles run step by step, by hand."""

from __future__ import annotations

from pathlib import Path

from coordinator.duties.collect import Collect
from coordinator.duties.cycle import Policy
from coordinator.duties.reconcile import Reconcile
from coordinator.metadata import garbage
from coordinator.soft.cycles import Report
from coordinator.soft_state import node_table
from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.support.coordinator import Coordinator
from tests.support.datanodes import Datanodes, born
from tests.support.local_consensus import Image
from tests.support.machines import commit_of
from tests.support.ops import delete

NODES = ("d1", "d2", "d3")
GRACE_SECONDS = 100.0
INTERVAL_SECONDS = 1000.0
STEPS_MAX = 2000


class Farm:
    """`policy` None: as configured by default."""

    def __init__(self, directory: Path, policy: Policy | None = None) -> None:
        self.leader = Coordinator(directory)
        self.nodes = Datanodes(*NODES)
        self.policy = policy or Policy()
        self.term = 0
        self.history = 1
        self.ended: list[str] = []
        self.leader.lead(*NODES)
        setting = e.SetSetting(key="gc.grace_ms", value=str(int(GRACE_SECONDS * 1000)))
        self.leader.system(e.SystemCommand(set_setting=setting))
        self.elect()

    def elect(self) -> Collect:
        """The next leadership begins: soft state and duties anew; nodes hear of it with their next heartbeats."""
        self.term += 1
        table = node_table(self.leader.db)
        self.leader.soft.begin(self.history, self.term, table.nodes, table.index)
        leader = self.leader
        self.reconcile = Reconcile(leader.desk, leader.soft, leader.clock)
        self.collect = Collect(
            leader.desk,
            leader.soft,
            self.nodes,
            leader.clock,
            self.policy,
            leader.soft.epoch(),
            INTERVAL_SECONDS,
            ended=lambda outcome, seconds: self.ended.append(outcome),
        )
        self.nodes.beat(leader)
        return self.collect

    def restore_backup(self, image: Image, history: int) -> None:
        """The coordinators go on from an older state, and every datanode registers again."""
        self.history = history
        self.leader.consensus.restore(image, history)
        self.elect()

    # Running

    def step(self, collect: Collect | None = None) -> None:
        """One unit of the duty, and what happens around it meanwhile."""
        duty = collect or self.collect
        duty.work()
        self.leader.clock.advance(max(duty.wait(), 0.01))
        self.nodes.beat(self.leader)
        self.reconcile.work()
        self.nodes.beat(self.leader)

    def cycle(self, *, dry_run: bool = False) -> Report:
        """A whole cycle on demand; its report."""
        ticket = self.collect.request(dry_run=dry_run)
        return self.finish(ticket)

    def finish(self, ticket: int) -> Report:
        for _ in range(STEPS_MAX):
            self.step()
            report = self.collect.report(ticket)
            if report is not None and report.outcome != "running":
                return report
        raise AssertionError("the cycle does not end")

    def step_until(self, phase: str) -> None:
        """Run the cycle that was asked for up to a phase."""
        for _ in range(STEPS_MAX):
            if self.collect.phase() == phase:
                return
            self.step()
        raise AssertionError(f"it never came to {phase}")

    def pass_time(self, seconds: float) -> None:
        self.leader.clock.advance(seconds)
        self.leader.system(e.SystemCommand(tick=e.Tick()))
        self.nodes.beat(self.leader)

    # Files and chunks

    def open(self, path: bytes, *nodes: str) -> tuple[bytes, n.Allocation]:
        """An upload of one chunk whose bytes lie on these nodes, and nowhere else; not committed."""
        upload = self.leader.opened(path)
        made = self.leader.allocated(upload, 5, nodes=NODES)
        birth = made.chunks[0].birth
        for node_id in nodes or NODES:
            found = born(birth.history, birth.index, birth.cluster_ms)
            self.nodes[node_id].chunks[made.chunks[0].chunk] = found
        return upload, made

    def commit(self, upload: bytes, made: n.Allocation, *nodes: str) -> Code:
        commit = commit_of(upload, made, [5], nodes or NODES)
        (done,) = self.leader.batch(n.Op(commit_upload=commit))
        return Code(done.code)

    def store(self, path: bytes, *nodes: str) -> bytes:
        """A file of one chunk."""
        upload, made = self.open(path, *nodes)
        assert self.commit(upload, made, *nodes) is Code.OK
        return made.chunks[0].chunk

    def remove(self, path: bytes) -> None:
        """For good: its chunks are orphans."""
        self.leader.batch(delete(path, purge=True))
        self.leader.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=1000)))

    def stray(self, chunk: bytes, *nodes: str, index: int = 1, history: int | None = None) -> bytes:
        """A chunk that lies on nodes and in no table; of this history unless told otherwise."""
        for node_id in nodes:
            self.nodes[node_id].chunks[chunk] = born(self.history if history is None else history, index)
        return chunk

    def on(self, chunk: bytes) -> list[str]:
        """The nodes that have it, not in quarantine."""
        return [node.node_id for node in self.nodes.nodes.values() if chunk in node.chunks]

    def state(self, chunk: bytes) -> str:
        return garbage.story(self.leader.db, chunk).state
