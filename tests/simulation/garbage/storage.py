"""The datanodes, the clients and the operators of one run, beside the coordinators of `Cluster`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from coordinator.duties.collect import Collect
from tests.simulation.cluster import Cluster
from tests.simulation.garbage.calls import Calls
from tests.simulation.garbage.checker import Checker, Truth
from tests.simulation.garbage.datanode import DataProcess, Machine
from tests.simulation.garbage.fibres import Fibres
from tests.simulation.garbage.service import StorageService
from tests.simulation.marks import Marks
from tests.simulation.plan import Plan
from tests.simulation.process import Member, Process
from tests.simulation.world import World

RESTART_SECONDS_MAX = 1.5
POINTS_MAX = 60


class StorageCluster(Cluster):
    """Coordinators whose faces and duties are those of `StorageService`."""

    storage: Storage

    def ended(self, member: Member) -> None:
        super().ended(member)
        self.storage.fibres.sweep()

    def started(self, process: Process) -> None:
        super().started(process)
        self.services[process] = StorageService(process, self.storage)


class Door:
    """A coordinator as datanodes and clients reach it."""

    def __init__(self, process: Process, service: StorageService) -> None:
        self.later = process.later
        self.serve = service.serve


class Storage:
    """`grace_seconds`, `interval_seconds`, `quarantine_seconds`: as an operator has configured them."""

    grace_seconds = 3.0
    interval_seconds = 2.0
    quarantine_seconds = 5.0
    upload_ttl_seconds = 2.0

    def __init__(
        self, world: World, plan: Plan, directory: Path, datanodes: int, *, repairs: bool, rewrites: bool
    ) -> None:
        self.world = world
        self.directory = directory
        self.repairs = repairs
        self.rewrites = rewrites
        self.random: Random = world.stream("storage")
        self.totals: Counter[str] = Counter()
        self.fibres = Fibres()
        self.cluster = StorageCluster(world, plan, Marks())
        self.cluster.storage = self
        self.truth = Truth()
        self.cluster.history = self.truth
        self.checker = Checker(world, self.truth, int(self.grace_seconds * 1000), self.quarantine_seconds)
        self.calls = Calls(world, self._find)
        self.machines = {
            f"d{number}": Machine(self, f"d{number}", directory / f"d{number}")
            for number in range(1, datanodes + 1)
        }
        self.calm = False
        self.after_step: Callable[[Process, Collect], None] = lambda process, collect: None

    def _find(self, node_id: str) -> Any:
        machine = self.machines.get(node_id)
        if machine is not None:
            return machine.process
        process = self.cluster.members[node_id].process
        service = self.cluster.services.get(process) if process is not None else None
        if process is None or not isinstance(service, StorageService):
            return None
        return Door(process, service)

    def leader(self) -> tuple[Process, StorageService] | None:
        """Who leads, and its faces."""
        process = self.cluster.leader()
        service = self.cluster.services.get(process) if process is not None else None
        if process is None or not isinstance(service, StorageService):
            return None
        return process, service

    def begin(self) -> None:
        for machine in self.machines.values():
            self.world.after(self.random.random() * 0.3, machine.start)

    def ended(self, machine: Machine) -> None:
        """A datanode is gone; somebody starts it again."""
        self.fibres.sweep()
        self.world.after(self.random.random() * RESTART_SECONDS_MAX, self._restart, machine)

    def _restart(self, machine: Machine) -> None:
        risky = not self.calm and self.random.random() < 0.1
        machine.points_at_start = self.random.randrange(POINTS_MAX) if risky else None
        machine.start()
        machine.points_at_start = None

    def collecting(self, process: Process, collect: Collect) -> None:
        """The leader's collection has made a step."""
        self.after_step(process, collect)

    def running(self) -> list[DataProcess]:
        return [machine.process for machine in self.machines.values() if machine.process is not None]
