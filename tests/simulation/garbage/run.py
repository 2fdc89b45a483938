"""One seed of the simulation with datanodes, from its beginning to its verdict."""

from __future__ import annotations

import logging
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from coordinator.duties import balance, collect, cycle
from coordinator.metadata import hashing, invariants
from coordinator.soft import inventories, orders
from datanode.duties import content
from quorumfs.errors import Code, QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from tests.simulation.garbage import fibres
from tests.simulation.garbage.calls import on_fibres
from tests.simulation.garbage.clients import Refused, Uploader
from tests.simulation.garbage.nemesis import Harm
from tests.simulation.garbage.storage import Storage
from tests.simulation.marks import watched_log
from tests.simulation.plan import Plan, limits_of, plan_of
from tests.simulation.process import Process
from tests.simulation.simulation import Report
from tests.simulation.world import Violation, World

GENESIS_SECONDS_MAX = 10.0
LOOK_SECONDS = 0.25
CALM_SECONDS = 2.0
WELL_SECONDS_MAX = 30.0
CYCLE_SECONDS_MAX = 25.0
SETTLED_SECONDS_MAX = 60.0
BALANCE_PAUSE_SECONDS = 2.0
BALANCED_SHARE = 1e-7
EXPECTED_ERRORS = ("disk.failed", "gc.stopped", "history.behind", "repair.no_source")
SETTINGS = {"data.replication": 2, "data.min_replicas": 2, "trash.retention_ms": 500}


@dataclass(frozen=True)
class Scale:
    """What a seed chooses beside the plan of the coordinators."""

    datanodes: int
    uploaders: int
    repairs: bool
    restores: bool
    rewrites: bool
    pressure: bool
    survivors: bool
    set_back: bool
    harm_pause: float
    balances: bool = False  # operators start balancing again and again
    hasty: bool = False  # operators restore a chunk at the moment when its first holder deletes it


def scale_of(seed: int) -> Scale:
    random = Random(f"storage {seed}")
    return Scale(
        datanodes=random.choice((3, 3, 4)),
        uploaders=random.choice((2, 3)),
        repairs=random.random() < 0.5,
        restores=random.random() < 0.3,
        harm_pause=random.choice((0.6, 1.2, 2.5)),
        rewrites=random.random() < 0.6,
        pressure=random.random() < 0.4,
        set_back=random.random() < 0.3,
        survivors=random.random() < 0.5,
        balances=Random(f"balances {seed}").random() < 0.6,
    )


def storage_plan(seed: int, seconds: float | None = None) -> Plan:
    """The coordinators' plan: as ever, without clients of theirs, and with faults that leave some work to be done."""
    plan = plan_of(seed, seconds)
    return replace(
        plan,
        members=3,
        spares=0,
        clients=0,
        registers=False,
        seconds=seconds or Random(f"seconds {seed}").choice((15.0, 20.0, 30.0)),
        fault_pause=max(plan.fault_pause, 2.0),
        loss=min(plan.loss, 0.02),
        sync_seconds=min(plan.sync_seconds, 0.001),
        apply_lag=min(plan.apply_lag, 0.005),
        segment_bytes=64 << 10,
        entry_ops=1024,
        queue_ops=20_000,
        session_ttl_ms=3_600_000,
        upload_ttl_ms=int(Storage.upload_ttl_seconds * 1000),
        interleaving=min(plan.interleaving, 0.02),
    )


def run_storage_seed(
    seed: int, seconds: float | None = None, plan: Plan | None = None, scale: Scale | None = None
) -> Report:
    """Simulate a seed. `seconds`: of faults, instead of what the seed chooses."""
    plan, scale = plan or storage_plan(seed, seconds), scale or scale_of(seed)
    report = Report(seed)
    with tempfile.TemporaryDirectory(prefix="qfs-sim-", dir=_memory()) as directory:
        world = World(seed)
        storage = Storage(
            world,
            plan,
            Path(directory),
            scale.datanodes,
            repairs=scale.repairs,
            rewrites=scale.rewrites,
        )
        run = StorageRun(storage, scale)
        with small_limits(plan), ExitStack() as stack:
            stack.callback(storage.fibres.close)
            stack.callback(lambda: [machine.crash(power=False) for machine in storage.machines.values()])
            for room in ("coordinator", "datanode", "common"):
                stack.enter_context(watched_log(run.logged, room))
            try:
                run.run()
            except Violation as violation:
                report.violation = str(violation)
                if violation.__cause__ is not None:
                    report.violation += f" <- {violation.__cause__!r}"
    report.digest, report.story = world.digest(), list(world.story)
    report.totals = storage.totals + storage.checker.totals
    report.totals["entries"] = storage.truth.last_index
    return report


def _memory() -> str | None:
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() else None


def small_limits(plan: Plan) -> ExitStack:
    """Pages of a few chunks, cycles of seconds."""
    stack = ExitStack()
    stack.enter_context(limits_of(plan))
    stack.enter_context(on_fibres())
    for module, name, value in (
        (collect, "FIRST_SECONDS", 1.0),
        (cycle, "IDS_PER_PAGE", 5),
        (cycle, "PER_ENTRY", 2),
        (cycle, "GATHER_SECONDS", 3.0),
        (cycle, "FOREGROUND_SECONDS", 0.02),
        (cycle, "LOOKING_SECONDS", 0.005),
        (inventories, "PAGE_SECONDS", 3.0),
        (orders, "COMMAND_SECONDS", 3.0),
        (content, "INVENTORY_PAGE_IDS", 4),
        (balance, "SETTLE_SECONDS", 0.5),
        (balance, "TRIMMED_SECONDS", 5.0),
        (balance, "read", _minded),
    ):
        stack.enter_context(patch.object(module, name, value))
    return stack


_read_wish = balance.read


def _minded(tx: sqlite3.Connection) -> balance.Wish:
    """A few bytes of what a disk can hold are too much of a difference."""
    return replace(_read_wish(tx), threshold=BALANCED_SHARE)


class StorageRun:
    """The parts of a run; plays take them one by one."""

    def __init__(self, storage: Storage, scale: Scale) -> None:
        self.storage = storage
        self.world = storage.world
        self._scale = scale
        self.harm = Harm(storage, scale.harm_pause, pressure=scale.pressure, set_back=scale.set_back)
        if scale.hasty:
            storage.checker.on_quarantined = self.harm.restore_at_once
        self.uploaders = [Uploader(storage, number) for number in range(1, scale.uploaders + 1)]

    def logged(self, level: int, event: str, fields: dict[str, Any]) -> None:
        process: Any = self.storage.cluster.current
        shown = {key: value for key, value in fields.items() if key not in ("cause", "path")}
        self.world.tell(process.node_id if process else "", event, **shown)
        if event == "balance.begun":
            self.storage.totals["moves"] += fields["moves"]
        member = getattr(process, "member", None)
        full = member is not None and member.full and event == "apply.disk_full"
        if level >= logging.ERROR and event not in EXPECTED_ERRORS and not full:
            raise Violation(f"an error was logged: {event} {fields}")

    def run(self) -> None:
        world, plan = self.world, self.storage.cluster.plan
        self.begin()
        for one in self.uploaders:
            one.begin()
        self.storage.cluster.nemesis.begin()
        self.harm.begin()
        if self._scale.balances and self._scale.repairs:
            world.after(BALANCE_PAUSE_SECONDS, self._balance)
        if self._scale.restores:
            world.after(plan.seconds * 0.3, self.harm.back_up)
            world.after(plan.seconds * 0.6, self._restore)
        self.run_for(plan.seconds)
        self.heal()
        self.end()

    def begin(self) -> None:
        """Everybody starts, and the cluster is made."""
        self.storage.cluster.begin()
        self.storage.begin()
        self.wait_for(lambda: self.storage.cluster.totals["genesis"], GENESIS_SECONDS_MAX, "the genesis")
        wanted = {**SETTINGS, "gc.grace_ms": int(self.storage.grace_seconds * 1000)}
        commands = [
            e.SystemCommand(set_setting=e.SetSetting(key=key, value=str(value)))
            for key, value in wanted.items()
        ]
        answers: list[Any] = []

        def ask() -> bool:
            found = self.storage.leader()
            if found is not None:
                found[0].later(0.0, found[1].system, commands, answers.append)
            self.run_for(0.3)
            return any(isinstance(one, bytes) for one in answers)

        self.wait_for(ask, GENESIS_SECONDS_MAX, "the settings")

    def _balance(self) -> None:
        """An operator says it again, as it ends by itself; until all are to be well."""
        if self.storage.calm:
            return
        found = self.storage.leader()
        if found is not None:
            start = e.SystemCommand(set_setting=e.SetSetting(key="balance.state", value=str(balance.RUNNING)))
            found[0].later(0.0, found[1].system, [start], lambda answer: None)
        self.world.after(BALANCE_PAUSE_SECONDS, self._balance)

    def _restore(self) -> None:
        """Clients die with the coordinators, or go on with what they were about."""
        if self._scale.survivors:
            self.harm.restore()
            return
        for one in self.uploaders:
            one.alive = False
        self.storage.fibres.sweep()
        self.harm.restore()
        self.uploaders = [Uploader(self.storage, number + 10) for number in range(len(self.uploaders))]
        for one in self.uploaders:
            one.begin()

    def run_for(self, seconds: float) -> None:
        """Let time pass, and look now and then."""
        until = self.world.now + seconds
        while self.world.now < until:
            self.world.run_until(min(until, self.world.now + LOOK_SECONDS))
            self.storage.checker.look()

    def wait_for(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        deadline = self.world.now + seconds
        while not condition():
            if self.world.now >= deadline:
                raise Violation(f"stuck: {what} has not come in {seconds:g} s")
            self.run_for(LOOK_SECONDS)

    # The end

    def heal(self) -> None:
        """Nothing is wrong any more; all are well before long."""
        self.world.tell("", "CALM")
        self.harm.heal()
        self.storage.cluster.nemesis.heal()
        for one in self.uploaders:
            one.stopping = True
        self.run_for(CALM_SECONDS)
        self.wait_for(self._is_well, WELL_SECONDS_MAX, "being well")

    def _is_well(self) -> bool:
        found = self.storage.leader()
        if found is None or len(self.storage.running()) < len(self.storage.machines):
            return False
        soft = found[1]._soft
        return all(soft.recently_heard(node_id) for node_id in self.storage.machines)

    def end(self) -> None:
        """A slow upload is through, and what is not needed is gone in a grace and two cycles."""
        checker, storage = self.storage.checker, self.storage
        self._store_slowly()
        self.wait_for(lambda: not checker.uploads(), WELL_SECONDS_MAX, "the end of all uploads")
        self._whole_cycle()
        self.run_for(storage.grace_seconds * 1.3 + 0.5)
        self._whole_cycle()
        checker.look()
        left = checker.leftovers()
        if left:
            raise Violation(f"after a grace and two cycles there is left: {left}")
        missing = checker.missing()
        if missing:
            raise Violation(f"nobody has {missing}, which wait for an operator")
        if storage.repairs:
            self._settle()
        self._check_members()

    def _settle(self) -> None:
        deadline = self.world.now + SETTLED_SECONDS_MAX
        while left := self.storage.checker.unsettled():
            if self.world.now >= deadline:
                raise Violation(f"not settled in {SETTLED_SECONDS_MAX:g} s: {left}")
            self.run_for(LOOK_SECONDS)

    def _store_slowly(self) -> None:
        """Slower than the grace, and than the time to live of an upload."""
        last = Uploader(self.storage, 99)
        told: list[str] = []

        def store() -> None:
            while not told:
                try:
                    last.put(b"/slow", self.storage.grace_seconds * 1.5, mortal=False)
                    told.append("")
                except Refused as refused:
                    if refused.code is Code.UPLOAD_GONE:
                        told.append(str(refused))
                except QuorumFSError:
                    pass  # a leader that has just begun; again
                fibres.sleep(0.1)

        self.storage.fibres.spawn(last, store)
        self.storage.fibres.spawn(last, last._keep_alive)
        self.wait_for(lambda: told, WELL_SECONDS_MAX, "a slow upload")
        last.alive = False
        if told[0] and not self.storage.checker.is_file(
            b"slow"
        ):  # else it was asked twice, as nobody answered
            raise Violation(f"a slow upload was refused: {told[0]}")

    def _whole_cycle(self) -> None:
        """From its beginning to its end, with every node counted, by whoever leads then."""
        before = self.storage.checker.cycle()

        def done() -> bool:
            found = self.storage.leader()
            last = found[1].collect.last if found is not None and found[1].collect is not None else None
            return last is not None and last.cycle > before and last.outcome == "done" and not last.void

        self.wait_for(done, CYCLE_SECONDS_MAX, f"a whole cycle after {before}")

    def _check_members(self) -> None:
        """All coordinators come to the same state, which is whole, and every replica has its bytes."""
        cluster, truth = self.storage.cluster, self.storage.truth

        def belonging() -> list[Process]:
            return [one for one in cluster.running() if one.node_id in cluster.belonging()]

        def alike() -> bool:
            return {one.database.applied_index for one in belonging()} == {truth.last_index}

        self.wait_for(alike, WELL_SECONDS_MAX, "the same index everywhere")
        hashes = set()
        for process in belonging():
            with process.database.reader() as tx:
                hashes.add(hashing.state_hash(tx))
        with truth.tx() as tx:
            hashes.add(hashing.state_hash(tx))
            broken = invariants.violations(tx)
        if len(hashes) > 1:
            raise Violation("the coordinators' states differ")
        if broken:
            raise Violation(f"the state is broken: {broken}")
        for one in self.storage.running():
            bad = [chunk.hex() for chunk in one.store.ids(b"", 1 << 20) if not one.store.verify(chunk).ok]
            if bad:
                raise Violation(f"{one.node_id} has damaged chunks: {bad}")
