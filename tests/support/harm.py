"""Plays the steps of a chaos plan against a running cluster: harm that is seen to be done, undone in its time, counted.

Thin: what happens when is `chaos_plan`'s; here are the effects. Nodes and sidecars are a `DevCluster`'s processes,
clients a `Crew`, and machines are cut off in a `Network` of the test's own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from quorumfs import Client
from quorumfs.errors import QuorumFSError
from quorumfs.local.cluster import DevCluster
from quorumfs.local.layout import Kind, ProcessSpec
from quorumfs.local.processes import last_lines
from quorumfs.testing import wait_for
from tests.support.chaos_plan import Step, cut_pairs, flaps
from tests.support.chunk_files import DAMAGE, spare_replica
from tests.support.crew import Crew
from tests.support.namespaces import Network, cut, flap
from tests.support.small_disk import fill

CLIENTS = ("k1", "k2", "k3")
MACHINES = ("k2", "k3")  # of clients that have one of their own
SHARED = {"k1": "d1"}  # of those that share a node's
WIRES = "the network"
LEADER_SECONDS = 30.0
DAMAGE_SECONDS = 60.0
FELT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Active:
    """A harm that lasts: since when, until when, and how it is undone."""

    began: float
    until: float
    step: Step
    targets: frozenset[str]
    undo: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.step} {', '.join(sorted(self.targets))}"


class Chaos:
    """Plays steps against a running cluster. One thread; `problems` is what should not have happened."""

    def __init__(
        self,
        cluster: DevCluster,
        crew: Crew,
        small: dict[str, Path],
        network: Network | None,
        story: TextIO,
    ) -> None:
        self._network = network
        self._cluster = cluster
        self._layout = cluster.layout()
        self._crew = crew
        self._small = small
        self._story = story
        self._began = time.monotonic()
        self._active: list[Active] = []
        self._damaged: list[str] = []
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self.disks = {node.node_id: self._layout.data_directory(node) for node in self._layout.datanodes}

    def play(self, steps: Sequence[Step], seconds: float) -> None:
        """All steps at their times; nothing is harmed any more on return, but not all has recovered yet."""
        for step in steps:
            self._pass_time(self._began + step.at)
            self._look_after()
            self._begin(step)
        self._pass_time(self._began + seconds)
        self.undo_all()
        self._look_after()

    def undo_all(self) -> None:
        while self._active:
            self._cut_short(self._active[0])

    def tell(self, line: str) -> None:
        self._story.write(f"{time.monotonic() - self._began:8.2f} {line}\n")
        self._story.flush()

    # --- one step --------------------------------------------------------------------------------------

    def _begin(self, step: Step) -> None:
        targets = self._targets(step)
        target = targets[0]
        match step.harm:
            case "kill" | "hang" | "restart" if step.role == "client":
                undo = self._harm_client(step.harm, target)
            case "kill" | "hang" | "restart":
                undo = self._harm_process(step.harm, self._spec(target))
            case "blackout":
                undo = self._black_out([self._spec(one) for one in targets])
            case "fill":
                undo = fill(self._small[target]).unlink
            case "partition":
                undo = self._partition(step)
            case _:
                self._damage(step, target)
                return
        self.done[str(step)] += step.harm != "partition"  # which counts when packets were seen to be lost
        now = time.monotonic()
        self._active.append(Active(now, now + step.seconds, step, frozenset(targets), undo))
        self.tell(f"{self._active[-1]} for {step.seconds:.1f} s")
        self._active.sort(key=lambda one: one.until)

    def _targets(self, step: Step) -> list[str]:
        """Who it is: none that is harmed already. When nobody is left, another harm ends early for it."""
        while True:
            candidates = self._candidates(step)
            free = [one for one in candidates if one not in self._harmed()]
            if free:
                return free if step.harm == "blackout" else [free[int(step.pick * len(free))]]
            in_the_way = [one for one in self._active if one.targets & {*candidates} or not candidates]
            if not in_the_way:
                raise AssertionError(f"there is nobody for {step}")
            self._cut_short(in_the_way[0])

    def _harmed(self) -> set[str]:
        return {target for one in self._active for target in one.targets}

    def _candidates(self, step: Step) -> list[str]:
        coordinators = [node.node_id for node in self._layout.coordinator_nodes]
        match step.role:
            case _ if step.harm == "partition":
                return [WIRES]
            case "leader":
                return [leader] if (leader := self._leader()) else []
            case "client":
                return [*CLIENTS]
            case "sidecar":
                return [f"{node.node_id}/sidecar" for node in self._layout.nodes]
            case "coordinator" | "coordinators":
                found = coordinators
            case "everybody":
                found = [target_of(spec) for spec in self._layout.processes()]
            case _:
                found = [*self.disks]
        return [one for one in found if one in self._small] if step.harm == "fill" else found

    def _leader(self) -> str:
        """Who leads; "" while there are harms that may keep anybody from it."""
        patience = 2.0 if self._active else LEADER_SECONDS
        with Client(self._layout.coordinators, timeout=2.0) as client:
            try:
                return wait_for(lambda: client.leader().node_id, patience, "a leader")
            except QuorumFSError:
                return ""

    def _undo(self, one: Active) -> None:
        self._active.remove(one)
        one.undo()
        self.tell(f"  over: {one}")

    def _cut_short(self, one: Active) -> None:
        """Undo it, once it has lasted long enough to be felt."""
        self._pass_time(one.began + min(one.step.seconds, FELT_SECONDS))
        if one in self._active:
            self._undo(one)

    def _pass_time(self, until: float) -> None:
        while (now := time.monotonic()) < until:
            if self._active and self._active[0].until <= now:
                self._undo(self._active[0])
            else:
                due = self._active[0].until if self._active else until
                time.sleep(max(0.0, min(due, until) - now))

    # --- kinds of harm ---------------------------------------------------------------------------------

    def _spec(self, target: str) -> ProcessSpec:
        node_id, _, sidecar = target.partition("/")
        kind: Kind = "sidecar" if sidecar else "node"
        return self._layout.process(self._layout.node(node_id), kind)

    def _harm_process(self, harm: str, spec: ProcessSpec) -> Callable[[], None]:
        processes, node_id, kind = self._cluster.processes, spec.node.node_id, spec.kind
        if harm == "hang":
            self._cluster.pause(node_id, kind)
            self._expect(processes.state(spec) == "paused", f"{spec.name} does not hang")
            return lambda: self._cluster.resume(node_id, kind)
        if harm == "kill":
            self._cluster.kill(node_id, kind)
        elif not self._cluster.stop(node_id, kind):
            self.problems.append(f"{spec.name} did not end by itself after SIGTERM")
        self._expect(processes.running(spec) is None, f"{spec.name} still runs")
        return lambda: self._cluster.start(node_id, kind)

    def _harm_client(self, harm: str, name: str) -> Callable[[], None]:
        if harm == "hang":
            self._crew.hang(name)
            return lambda: self._crew.resume(name)
        self._crew.kill(name)
        return lambda: self._crew.start(name)

    def _black_out(self, specs: Sequence[ProcessSpec]) -> Callable[[], None]:
        self._cluster.processes.kill(specs)

        def start() -> None:
            for spec in specs:
                self._cluster.start(spec.node.node_id, spec.kind)

        return start

    def _partition(self, step: Step) -> Callable[[], None]:
        network = self._network
        assert network is not None
        coordinators = [node.node_id for node in self._layout.coordinator_nodes]
        leader = self._leader() or coordinators[int(step.pick * len(coordinators))]
        pairs = cut_pairs(step.role, step.pick, leader, coordinators, [*self.disks], MACHINES)
        victims = sorted({target for _, target in pairs})
        before = sum(map(network.dropped, victims))
        self.tell(f"{step}: {leader} leads, {len(pairs)} pairs to {', '.join(victims)}")
        undo = flap(network, pairs, flaps(step.pick)) if step.role == "flapping" else cut(network, pairs)

        def mend() -> None:
            undo()
            lost = sum(map(network.dropped, victims)) - before
            self.tell(f"  {step}: {lost} packets were lost")
            self.done[str(step)] += lost > 0

        return mend

    def _damage(self, step: Step, node_id: str) -> None:
        """To a file that can be spared; waits until there is one."""
        nodes = [node_id, *(one for one in self.disks if one != node_id)]

        def one() -> tuple[str, Path] | None:
            return next(filter(None, (spare_replica(self.disks, n, self._damaged) for n in nodes)), None)

        if not one():  # for the sake of that all other harms end
            self.undo_all()
        chunk, file = wait_for(one, DAMAGE_SECONDS, "a chunk with three whole replicas")
        try:
            DAMAGE[step.harm](file)
        except FileNotFoundError:  # it was collected in this very moment
            return self._damage(step, node_id)
        self._damaged.append(chunk)
        self.done[str(step)] += 1
        self.tell(f"{step} {file}")
        return None

    # --- watching --------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        """What ended without our doing is a problem, and is started again."""
        harmed = self._harmed()
        for spec in self._layout.processes():
            if target_of(spec) not in harmed and self._cluster.processes.running(spec) is None:
                self._replace(spec)
        for name in CLIENTS:
            if name not in harmed and not self._crew.runs(name):
                self.problems.append(f"client {name} ended by itself: {self._crew.directory}/{name}.log")
                self._crew.start(name)

    def _replace(self, spec: ProcessSpec) -> None:
        words = last_lines(spec.log, 3)
        self.tell(f"{spec.name} ended by itself: {words}")
        self.problems.append(f"{spec.name} ended by itself: {words}")
        self._cluster.start(spec.node.node_id, spec.kind)

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.problems.append(otherwise)


def target_of(spec: ProcessSpec) -> str:
    """How steps name a process: c1, or c1/sidecar."""
    return spec.node.node_id + ("/sidecar" if spec.kind == "sidecar" else "")
