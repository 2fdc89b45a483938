"""One seed from its beginning to its verdict.

Faults rain for as long as the plan says; then everything is undone, and within bounded time the cluster must be well
by itself: one leads, all have applied the same, everybody was answered, and a new change and a question go through.
At last the states are compared, with each other and with the model.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from coordinator.metadata import hashing, invariants, queries
from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.simulation import linearizability
from tests.simulation import model as models
from tests.simulation.cluster import Cluster
from tests.simulation.marks import EVENTS, Marks, watched_log, watching
from tests.simulation.plan import Plan, limits_of, plan_of
from tests.simulation.process import Process
from tests.simulation.world import Violation, World

CALM_SECONDS = 2.0
WELL_SECONDS_MAX = 30.0
LOOK_SECONDS = 0.25
SETTLED_SECONDS = 3.0  # whoever has waited so long for an answer when all is well waits for ever
AUDIT_SECONDS = 2.5
GENESIS_SECONDS_MAX = 10.0
EXPECTED_ERRORS = ("apply.disk_full",)


@dataclass
class Report:
    """What became of a seed. `violation` empty: every promise held."""

    seed: int
    digest: str = ""
    violation: str = ""
    story: list[str] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)


def run_seed(seed: int, seconds: float | None = None, plan: Plan | None = None) -> Report:
    """Simulate a seed. `seconds`: of faults, instead of what the seed chooses."""
    plan = plan or plan_of(seed, seconds)
    report, marks = Report(seed), Marks()
    world = World(seed)
    simulation = _Simulation(Cluster(world, plan, marks))
    with limits_of(plan), watched_log(simulation.logged), watching(marks):
        try:
            simulation.run()
        except Violation as violation:
            report.violation = str(violation)
            if violation.__cause__ is not None:
                report.violation += f" <- {violation.__cause__!r}"
    report.digest, report.story = world.digest(), list(world.story)
    report.totals, report.marks = simulation.totals(), marks.hits
    return report


class _Simulation:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world

    def run(self) -> None:
        world, cluster = self._world, self._cluster
        cluster.begin()
        self._wait_for(lambda: cluster.totals["genesis"] > 0, GENESIS_SECONDS_MAX, "the genesis")
        cluster.nemesis.begin()
        world.after(AUDIT_SECONDS, self._audit)
        world.run_until(world.now + cluster.plan.seconds)
        world.tell("", "CALM")
        cluster.nemesis.heal()
        world.run_until(world.now + CALM_SECONDS)
        for client in cluster.clients:
            client.stopping = True
        self._wait_for(self._is_well, WELL_SECONDS_MAX, "being well")
        self._check_end()

    def logged(self, level: int, event: str, fields: dict[str, Any]) -> None:
        """An event of the coordinators' log."""
        cluster = self._cluster
        process = cluster.current
        cluster.marks.hit(EVENTS.get(event, f"event {event}"))
        self._world.tell(process.node_id if process else "", event, **fields)
        if event == "snapshot.installed":
            cluster.totals["snapshot installs"] += 1
        full = process is not None and process.member.full
        if level >= logging.ERROR and not (event in EXPECTED_ERRORS and full):
            raise Violation(f"an error was logged: {event} {fields}")

    def _audit(self) -> None:
        """Have the whole state hashed by everybody at one index, now and then."""
        cluster = self._cluster
        self._world.after(AUDIT_SECONDS, self._audit)
        cluster.monitor.check_waiting(self._world.now)
        for process in cluster.running():
            cluster.history.hashed(process.node_id, process.database.hashes())
        leader = cluster.leader()
        if leader is not None:
            command = e.SystemCommand(hash_at=e.HashAt(nonce=self._world.steps))
            leader.later(0.0, cluster.services[leader].system, [command], lambda answer: None)

    # Getting well

    def _wait_for(self, condition: Any, seconds: float, what: str) -> None:
        deadline = self._world.now + seconds
        while not condition():
            if self._world.now >= deadline:
                raise Violation(f"stuck: {what} has not come in {seconds:g} s: {self._standings()}")
            self._world.run_until(self._world.now + LOOK_SECONDS)

    def _is_well(self) -> bool:
        cluster = self._cluster
        if any(client.busy for client in cluster.clients) or cluster.leader() is None:
            return False
        belonging = cluster.belonging()
        processes = [process for process in cluster.running() if process.node_id in belonging]
        if len(processes) < len(belonging):
            return False
        applied = {process.database.applied_index for process in processes}
        committed = {process.core.replica.commit_index() for process in processes}
        return applied == committed == {cluster.history.last_index}

    def _standings(self) -> str:
        lines = []
        for process in self._cluster.running():
            replica = process.core.replica
            lines.append(
                f"{process.node_id} role {replica.role()} term {replica.term()} commit {replica.commit_index()} "
                f"applied {process.database.applied_index} log to {process.journal.last_index}"
            )
        busy = sum(client.busy for client in self._cluster.clients)
        return "; ".join([*lines, f"{busy} clients' threads busy"])

    # The end

    def _check_end(self) -> None:
        cluster = self._cluster
        history = cluster.history
        history.check_outcomes()
        cluster.monitor.check_waiting(self._world.now, SETTLED_SECONDS)
        belonging = cluster.belonging()
        well = [process for process in cluster.running() if process.node_id in belonging]
        hashes = {process.node_id: self._state_of(process) for process in well}
        if len(set(hashes.values())) != 1:
            raise Violation(f"the members' states differ: {hashes}")
        for process in cluster.running():
            history.hashed(process.node_id, process.database.hashes())
        self._check_state(well[0])
        if cluster.plan.registers:
            cluster.totals["inconclusive histories"] += linearizability.check(history.calls)

    @staticmethod
    def _state_of(process: Process) -> str:
        with process.database.reader() as tx:
            return hashing.state_hash(tx).hex()

    def _check_state(self, process: Process) -> None:
        view = self._cluster.history.model.view
        with process.database.reader() as tx:
            broken = invariants.violations(tx)
            found = _walk(tx, b"/")
        if broken:
            raise Violation(f"the state is broken: {broken}")
        if found != view:
            raise Violation(f"the state is {found}, the model's is {view}")

    def totals(self) -> Counter[str]:
        cluster = self._cluster
        history, totals = cluster.history, cluster.totals
        totals["operations"], totals["reads"] = history.operations, history.reads
        totals["entries"] = history.last_index
        totals["repeated batches"] = history.model.repeated
        outcomes = Counter(call.outcome for call in history.calls if call.change is not None)
        totals.update({f"changes {outcome}": number for outcome, number in outcomes.items()})
        cluster.marks.hit("a retry got the stored answer", history.model.repeated)
        cluster.marks.hit("a session expired", history.model.expired_sessions)
        return totals


def _walk(tx: Any, path: bytes) -> dict[bytes, models.Seen]:
    """All names of a state, as readers are told of them."""
    found: dict[bytes, models.Seen] = {}
    listing = queries.answer(tx, n.ReadOp(list=n.ListRequest(ref=n.Ref(path=path))))
    if Code(listing.code) is not Code.OK:
        raise Violation(f"{path!r} cannot be listed: {listing.error}")
    for one in listing.listing.entries:
        below = path.rstrip(b"/") + b"/" + one.name
        found[below] = models.seen_of(one)
        if found[below][0] == "directory":
            found.update(_walk(tx, below))
    return found
