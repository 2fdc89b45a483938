"""What goes wrong with datanodes, with the network to them, and with leaders in the middle of a collection; and the
operators, who restore from quarantine, release, propose nonsense, back up and restore the metadata.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.consensus.configuration import Configuration
from coordinator.consensus.journal import Journal
from coordinator.consensus.standing import CONFIGURATION
from coordinator.duties.collect import Collect
from quorumfs.errors import QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from tests.simulation.garbage.datanode import DataProcess
from tests.simulation.garbage.disks import FREE_BYTES
from tests.simulation.garbage.fibres import run_now
from tests.simulation.garbage.service import FibreDesk, StorageService
from tests.simulation.monitor import Monitor
from tests.simulation.process import DIRECTORY, Process
from tests.simulation.stage import Backup

if TYPE_CHECKING:
    from tests.simulation.garbage.storage import Storage

LEADER_DIES = 0.004  # after a step of its collection
RESTORE_AFTER_SECONDS = 4.0
CATCH_UP_SECONDS = 6.0


class Harm:
    """`begin` and `heal`."""

    def __init__(self, storage: Storage, pause: float, *, pressure: bool, set_back: bool) -> None:
        self._storage = storage
        self._world = storage.world
        self._random = storage.world.stream("harm")
        self._pause = pause
        self._healed = False
        self._undo: dict[int, Callable[[], None]] = {}
        self._number = 0
        self._images: dict[str, Path] = {}
        self._coordinator: tuple[str, Backup] | None = None  # whose disk that was
        self._set_back_at = 0.0
        self._faults: tuple[Callable[[], None], ...] = (
            self._crash,
            self._crash,
            self._crash_at_a_point,
            self._crash_at_a_point,
            self._cut_off,
            self._cut_off,
            self._cut_from_one,
            self._pause_one,
            self._set_back,
            self._propose_nonsense,
            self._propose_nonsense,
            self._restore_from_quarantine,
            self._restore_from_quarantine,
            self._release,
        )
        if pressure:
            self._faults += (self._fill, self._fill)
        if set_back:
            self._faults += (self._set_back_a_coordinator, self._set_back_a_coordinator)
        storage.after_step = self._after_step

    def begin(self) -> None:
        self._soon()

    def _soon(self) -> None:
        self._world.after(self._random.expovariate(1 / self._pause), self._next)

    def heal(self) -> None:
        self._healed = self._storage.calm = self._storage.calls.calm = True
        for undo in list(self._undo.values()):
            undo()
        for machine in self._storage.machines.values():
            machine.start()
            if machine.process is not None:
                machine.process.points_left = None

    def _next(self) -> None:
        if self._healed:
            return
        self._soon()
        fault = self._random.choice(self._faults)
        self._world.tell("", fault.__name__.strip("_").upper())
        fault()

    def _for_a_while(self, seconds_max: float, undo: Callable[[], None]) -> None:
        self._number += 1
        number = self._number
        self._undo[number] = undo
        self._world.after(self._random.random() * seconds_max, self._end, number)

    def _end(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            undo()

    # Datanodes

    def _anybody(self) -> DataProcess | None:
        running = self._storage.running()
        return self._random.choice(running) if running else None

    def _crash(self) -> None:
        process = self._anybody()
        if process is not None:
            process.machine.crash(power=self._random.random() < 0.6)

    def _crash_at_a_point(self) -> None:
        process = self._anybody()
        if process is not None:
            process.points_left = self._random.randrange(30)

    def _cut(self, directions: set[tuple[str, str]]) -> None:
        cut = self._storage.calls.cut
        fresh = directions - cut
        cut |= fresh
        self._for_a_while(6.0, partial(cut.difference_update, fresh))

    def _around(self, node_id: str, others: list[str]) -> set[tuple[str, str]]:
        out, back = {(node_id, one) for one in others}, {(one, node_id) for one in others}
        return self._random.choice((out | back, out | back, out, back))

    def _cut_off(self) -> None:
        """A datanode sees no coordinator."""
        process = self._anybody()
        if process is not None:
            self._cut(self._around(process.node_id, list(self._storage.cluster.node_ids)))

    def _cut_from_one(self) -> None:
        """A coordinator sees none of the datanodes, or not one."""
        machines = sorted(self._storage.machines)
        some = machines if self._random.random() < 0.5 else [self._random.choice(machines)]
        self._cut(self._around(self._random.choice(self._storage.cluster.node_ids), some))

    def _pause_one(self) -> None:
        process = self._anybody()
        if process is not None and not process.paused:
            process.paused = True
            self._for_a_while(3.0, process.resume)

    def _set_back(self) -> None:
        """A machine is off, and its disk is what it was some time before, or is kept for another time."""
        process = self._anybody()
        if process is None:
            return
        machine = process.machine
        machine.crash(power=False)
        if machine.node_id in self._images and self._random.random() < 0.7:
            machine.set_back(self._images[machine.node_id])
        else:
            self._images[machine.node_id] = machine.image()

    def _fill(self) -> None:
        """A disk has no room, whatever is purged on it."""
        process = self._anybody()
        if process is None:
            return
        process.files.spare_bytes = 0
        self._storage.checker.pressed.add(process.node_id)

        def undo() -> None:
            process.files.spare_bytes = FREE_BYTES
            self._storage.checker.pressed.discard(process.node_id)

        self._for_a_while(3.0, undo)

    # Coordinators

    def _set_back_a_coordinator(self) -> None:
        """A coordinator is off, and its disk is what it was some time before, or is kept for another time; always the
        same one, and never before it has had time to catch up: more than one is a lost majority."""
        members = self._storage.cluster.members
        belonging = [one for one in members.values() if one.belongs]
        if len(belonging) < 3 or any(one.process is None for one in belonging):
            return
        if self._coordinator is None:
            member = self._random.choice(belonging)
        else:
            found = [one for one in belonging if one.uuid == self._coordinator[0]]
            if not found or self._world.now - self._set_back_at < CATCH_UP_SECONDS:
                return
            (member,) = found
        member.crash(power=False)
        member.disk.point = member.disk.spend = lambda *_: None
        if self._coordinator is None:
            self._coordinator = member.uuid, Backup(copy.deepcopy(member.disk), member.image)
            return
        backup = self._coordinator[1]
        member.disk, member.image = copy.deepcopy(backup.disk), backup.image
        self._storage.cluster.monitor.forgive(member.uuid)
        self._storage.totals["coordinators set back"] += 1
        self._set_back_at = self._world.now

    # Leaders

    def _after_step(self, process: Process, collect: Collect) -> None:
        if not self._healed and collect.phase() and self._random.random() < LEADER_DIES:
            self._world.tell("", "THE LEADER DIES", phase=collect.phase())
            self._storage.totals[f"leaders that died in {collect.phase()}"] += 1
            self._world.after(0.0, self._kill, process)

    @staticmethod
    def _kill(process: Process) -> None:
        if process.alive:
            process.member.crash(power=False)

    def _as_leader(self, work: Callable[[StorageService], None]) -> None:
        found = self._storage.leader()
        if found is None:
            return
        process, service = found

        def run() -> None:
            try:
                work(service)
            except QuorumFSError as error:
                self._world.tell(process.node_id, "operator refused", cause=error.code.name)

        self._storage.fibres.spawn(process, run)

    def _propose_nonsense(self) -> None:
        """A leader's view is so old, or its software so wrong, that it names every chunk."""

        def work(service: StorageService) -> None:
            desk = FibreDesk(service)
            chunks = desk.look(
                lambda tx: [row[0] for row in tx.execute("SELECT id FROM chunk ORDER BY id LIMIT 50")]
            )
            command = self._random.choice(
                (
                    e.SystemCommand(condemn=e.CondemnChunks(chunks=chunks, cycle=1)),
                    e.SystemCommand(forget_chunks=e.ForgetChunks(chunks=chunks)),
                    e.SystemCommand(
                        adopt=e.AdoptChunks(
                            chunks=[e.AdoptChunks.One(chunk=one, node_ids=["d1"], length=5) for one in chunks]
                        )
                    ),
                )
            )
            desk.propose([command])

        self._as_leader(work)

    # Operators

    def restore_at_once(self, chunk: bytes) -> None:
        """A node has put it aside; the orders to the others are on their way."""
        if not self._healed:
            self._world.after(0.0, self._restore, chunk)

    def _restore_from_quarantine(self) -> None:
        found = [chunk for process in self._storage.running() for chunk, _ in process.store.condemned()]
        if found:
            self._restore(self._random.choice(sorted(found)))

    def _restore(self, chunk: bytes) -> None:
        def work(service: StorageService) -> None:
            told = run_now(service.operators.restore([chunk]))
            if ";" not in told.partition("held; ")[2]:  # every node has answered
                self._storage.checker.keep(chunk)

        self._as_leader(work)

    def _release(self) -> None:
        """Everything that is held may go."""

        def work(service: StorageService) -> None:
            held = FibreDesk(service).look(
                lambda tx: [row[0] for row in tx.execute("SELECT chunk FROM orphan WHERE hold > 0")]
            )
            if held:
                self._storage.checker.release(held)
                run_now(service.operators.release(held[:50]))

        self._as_leader(work)

    # Backups

    def back_up(self) -> None:
        """Keep the metadata as it is now."""
        self._storage.checker.backed_up()
        self._backup = self._storage.truth.image()
        self._term = self._storage.truth.records[-1].term
        self._world.tell("", "BACKS UP", index=self._backup[0])

    def restore(self) -> None:
        """All coordinators are lost; c1 begins anew from the backup, as the only member of a new history."""
        cluster = self._storage.cluster
        self._world.tell("", "ALL COORDINATORS ARE LOST")
        for member in cluster.members.values():
            member.crash(power=True)
            member.wipe()
        self._storage.calls.sever()
        cluster.monitor = Monitor()
        index, image = self._backup
        self._storage.truth.fork(index, image)
        self._storage.checker.forked()
        self._world.after(RESTORE_AFTER_SECONDS, self._begin_history, index, image)

    def _begin_history(self, index: int, image: bytes) -> None:
        self._storage.checker.begun()
        member = self._storage.cluster.members["c1"]
        member.history += 1
        alone = m.Member(node_id="c1", member_uuid=f"uuid-c1-{member.history}")
        member.accept([alone])
        member.image = image
        journal = Journal.open(DIRECTORY / "raft", member.disk, _NoClock(), segment_bytes=16 << 10)
        journal.reset(index, self._term)
        journal.set_term(self._term + 1, None)
        journal.append(CONFIGURATION + Configuration.of([alone]).encode(), index + 1, self._term + 1)
        journal.sync()
        journal.close()
        self._storage.totals["backups restored"] += 1
        self._world.tell("c1", "RESTORED", index=index, history=member.history)
        member.start()


class _NoClock:
    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 0
