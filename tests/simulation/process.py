"""A member: the machine that survives, and the process that runs on it, made of production parts.

Threads of production are events here: the loop (`turn`), the applier (`work`), readers, the thread that makes spare
segments, the one that fetches a snapshot. `point` stands between any two effects of a thread: there another thread
may come in between, and there the machine may lose power.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.consensus.configuration import Configuration
from coordinator.consensus.core import Core, Outside, Reading
from coordinator.consensus.files import CorruptJournal, SickStorage, StorageFailure, StorageFull
from coordinator.consensus.identity import Identity
from coordinator.consensus.journal import Journal
from coordinator.consensus.leadership import Leadership
from coordinator.consensus.memory import CHANCE_BITS, DurableMemory, boot_number
from coordinator.consensus.messages import Message
from coordinator.consensus.reading import answer_one
from coordinator.metadata import queries
from quorumfs.v1 import membership_pb2 as m
from tests.simulation.machine import (
    Clock,
    Disk,
    Image,
    RecordingMachine,
    SimDatabase,
    empty_image,
)
from tests.simulation.network import SimWire
from tests.simulation.world import Violation
from tests.support.fake_files import PowerCut

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

TURN_SECONDS_MAX = 0.1
TURN_SECONDS_MIN = 0.00005
FULL_DISK_SECONDS = 0.5
THREAD_SECONDS = 0.0002
HISTORY = 1
DIRECTORY = Path("/")


class Member:
    """A machine. `process` is what runs on it now."""

    def __init__(self, cluster: Cluster, node_id: str) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.random = cluster.world.stream(f"machine {node_id}")
        self.uuid = ""
        self.wipe()
        self.process: Process | None = None
        self.boots = 0
        self.history = HISTORY
        self.points_at_start: int | None = None  # how far the next start comes before power is lost
        self.sick = False  # the disk is about to fail, or has
        self.full = False
        skew = cluster.plan.clock_skew
        self.clock_rate = 1.0 + self.random.uniform(-skew, skew)

    @property
    def belongs(self) -> bool:
        """Whether it has the identity of a member."""
        return bool(self.uuid)

    def wipe(self) -> None:
        """The disk is empty: nobody, who waits."""
        self.uuid = ""
        self.disk = Disk(self.random, self.cluster.plan)
        self.image = empty_image()
        self.last_process: Process | None = None  # the last one that came so far as to open its log
        self.applied = 0  # the highest index that was ever applied here

    def accept(self, members: Sequence[m.Member]) -> None:
        """Become the member of this name, as a genesis or the request to join says."""
        self.uuid = next(one.member_uuid for one in members if one.node_id == self.node_id)
        request = m.GenesisRequest(cluster_id="simulated", history=self.history, members=members)
        self.disk.point = self.disk.spend = lambda *_: None
        Identity.accept(DIRECTORY, request, self.node_id, self.disk)

    def start(self) -> None:
        if self.process is not None or not self.belongs:
            return
        self.boots += 1
        process = Process(self)
        self.disk.point, self.disk.spend = process.point, process.spend
        self.cluster.world.tell(self.node_id, "starts", boot=self.boots)
        process.guarded(process.start)

    def crash(self, *, power: bool) -> None:
        """The process ends without a word; with `power`, the machine does."""
        process, self.process = self.process, None
        if process is None:
            return
        world = self.cluster.world
        world.tell(self.node_id, "loses power" if power else "is killed")
        self.cluster.totals["crashes"] += 1
        process.alive = False
        self.image = process.left_behind(power)
        self.cluster.ended(self)
        self.cluster.network.ended(self.node_id, said=not power)
        if power:
            self.disk.crash()
        else:
            self.disk.kill()

    def stop(self) -> None:
        """The process ends in order, as `Consensus.stop` does it."""
        process = self.process
        if process is None:
            return
        self.cluster.world.tell(self.node_id, "stops")
        process.guarded(process.end)
        if self.process is process:
            self.process = None
            process.alive = False
            self.image = process.left_behind(False)
            self.cluster.ended(self)
            self.cluster.network.ended(self.node_id, said=True)
            self.disk.kill()


class Process:
    """One run of a member. `core` and the rest are there once `start` is through."""

    def __init__(self, member: Member) -> None:
        cluster = member.cluster
        self.member = member
        self.cluster = cluster
        self.world = cluster.world
        self.node_id = member.node_id
        self.alive = True
        self.paused = False
        self.random = cluster.world.stream(f"process {member.node_id} {member.boots}")
        self.clock = Clock(cluster.world, member.clock_rate, self.random.uniform(0, 1e6))
        self.wire = SimWire(cluster.network, self)
        self.machine = RecordingMachine(member.node_id, cluster.history)
        self.points_left = member.points_at_start
        self.stall = 0.0
        self.apply_lag = cluster.plan.apply_lag
        self._interleaving = cluster.plan.interleaving
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._turn_at = math.inf
        self._busy_until = 0.0
        self._applying = self._apply_soon = self._turning = self._preparing = False
        self.spare_seconds = 0.0  # what a disk under load takes to make a segment
        self.core: Core
        self.identity: Identity
        self.database: SimDatabase
        self.journal: Journal

    # Life

    def start(self) -> None:
        member, cluster = self.member, self.cluster
        member.process = self
        self.machine.full = member.full
        identity = Identity.load(DIRECTORY, self.node_id, member.disk)
        if identity is None:
            raise Violation(f"{self.node_id} has forgotten that it is a member")
        self.identity = identity
        self.database = SimDatabase(member.image, self.machine, self.random, self.point)
        self.journal = Journal.open(
            DIRECTORY / "raft",
            member.disk,
            self.clock,
            segment_bytes=cluster.plan.segment_bytes,
            cache_bytes=cluster.plan.cache_bytes,
            random=self.random.randbytes,
        )
        cluster.monitor.recovered(self)
        member.last_process = self
        memory = DurableMemory(DIRECTORY, member.disk)
        self.core = Core(
            self.node_id,
            self._applied_configuration(),
            member.history,
            self.journal,
            self.database,
            self.wire,
            self.clock,
            self.random.random,
            self.random.randbytes,
            cluster.plan.timing,
            cluster.plan.keep_bytes,
            Outside(
                self._answer,
                self._fetch,
                self._applied_configuration,
                self._work_soon,
                self._prepare_soon,
                self._on_leadership,
            ),
            memory,
            boot_number(identity.boot_counter + memory.boots_ahead, self.random.getrandbits(CHANCE_BITS)),
            cluster.plan.read_lease,
        )
        self.core.start()
        cluster.started(self)
        self.wake()

    def _applied_configuration(self) -> Configuration:
        with self.database.reader() as tx:
            applied = queries.members(tx)
        return Configuration.of(applied or self.identity.members)

    def end(self) -> None:
        self.core.end()
        self.journal.close()

    def left_behind(self, power: bool) -> bytes:
        """The database's image that the next start finds."""
        if not hasattr(self, "database"):
            return self.member.image
        return self.database.crash(lambda count: self.random.randrange(count) if power else count - 1)

    def guarded(self, run: Callable[[], object]) -> None:
        """Run a piece of a thread as this process; what it raises ends the process, or the simulation."""
        cluster = self.cluster
        before, cluster.current = cluster.current, self
        try:
            run()
        except PowerCut:
            cluster.marks.hit("power was lost during a start", self not in cluster.services)
            self.member.crash(power=True)
        except (StorageFailure, CorruptJournal) as error:
            if isinstance(error, CorruptJournal) or not self.member.sick:
                raise Violation(f"{self.node_id}: {error}") from error
            self.world.tell(self.node_id, "exits with 74", error=error)
            cluster.marks.hit("a failing disk ended the process")
            self.member.crash(power=self.random.random() < 0.5)
        except StorageFull as error:
            if self in cluster.services or not self.member.full:
                raise Violation(f"{self.node_id} ends: {error}") from error
            cluster.marks.hit("a full disk prevented a start")
            self.member.crash(power=False)
        except (Violation, KeyboardInterrupt):
            raise
        except Exception as error:
            sick = isinstance(error, SickStorage)
            raise Violation(f"{self.node_id} ends: {'sick ' if sick else ''}{error!r}") from error
        finally:
            cluster.current = before

    # Points

    def point(self) -> None:
        """Between two effects. Raises PowerCut."""
        if self.points_left is not None:
            self.points_left -= 1
            if self.points_left < 0:
                self.points_left = None
                raise PowerCut
        if self.stall and self._turning:
            self.clock.spent += self.stall
            self.stall = 0.0
        if self._turning and not self._applying and self._interleaving > self.random.random():
            self._work()

    def spend(self, seconds: float) -> None:
        """The loop waits for the disk; what other threads wait for holds nobody up."""
        if self._turning:
            self.clock.spent += seconds

    def spent(self) -> float:
        return self.clock.spent

    def sends(self, peer: str, message: Message) -> None:
        self.cluster.monitor.sends(self, peer, message)

    def link_lost(self, peer: str) -> None:
        self.cluster.monitor.link_lost(self, peer)

    def receives(self, peer: str, message: Message) -> None:
        self.cluster.monitor.receives(self, peer, message)

    def pause(self) -> None:
        self.paused = True
        self.cluster.network.fell_silent(self.node_id)

    def resume(self) -> None:
        self.paused = False
        waiting, self._waiting = self._waiting, []
        for action, arguments in waiting:
            self.world.after(0.0, self._run, action, arguments)
        self.wake()

    def later(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """As another thread of this process, if it lives then."""
        self.world.after(seconds, self._run, action, arguments)

    def _run(self, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self.alive:
            return
        if self.paused:
            self._waiting.append((action, arguments))
        else:
            self.guarded(lambda: action(*arguments))

    # The loop

    def wake(self) -> None:
        self._turn_by(self.world.now + THREAD_SECONDS * self.random.random())

    def _turn_by(self, when: float) -> None:
        when = max(when, self._busy_until)
        if when < self._turn_at:
            self._turn_at = when
            self.world.at(when, self._turn_if_due, when)

    def _turn_if_due(self, when: float) -> None:
        if not self.alive or when != self._turn_at:
            return
        self._turn_at = math.inf
        if self.world.now < self._busy_until:  # woken while it was at work
            self._turn_by(self._busy_until)
        elif not self.paused:
            self.guarded(self._turn)

    def _turn(self) -> None:
        self.clock.spent = 0.0
        self._turning = True
        try:
            self.core.turn(TURN_SECONDS_MAX)
            self.cluster.monitor.turned(self)
        finally:
            self._turning = False
        self._busy_until = self.world.now + self.clock.spent
        self.clock.spent = 0.0
        self._turn_by(self._busy_until + TURN_SECONDS_MIN + self.wire.patience / self.clock.rate)

    # Other threads

    def _work_soon(self) -> None:
        if not self._apply_soon:
            self._apply_soon = True
            self.later(self.apply_lag * self.random.random() * 2, self._apply)

    def _apply(self) -> None:
        self._apply_soon = False
        applier = self.core.applier
        if not applier.waits:
            return
        if not self._work():
            self._apply_soon = True
            self.later(FULL_DISK_SECONDS, self._apply)
        elif applier.waits:
            self._work_soon()

    def _work(self) -> bool:
        self._applying = True
        database, installs = self.database, self.database.installs
        before = database.applied_index
        try:
            return self.core.applier.work()
        finally:
            self._applying = False
            if database.installs > installs and self.cluster.plan.faults and self.random.random() < 0.3:
                self.points_left = self.random.randrange(4)
            self.cluster.marks.hit(
                "a start applied again what the state had lost", before < self.member.applied
            )
            self.member.applied = max(self.member.applied, database.applied_index)

    def _prepare_soon(self) -> None:
        if self._preparing:
            return
        if self.spare_seconds == 0.0 and self.random.random() < 0.5:
            self.journal.prepare()
            return
        slow = self.cluster.plan.faults and self.random.random() < 0.002
        takes = self.spare_seconds or self.random.random() * (4.0 if slow else 0.02)
        self._preparing = True
        self.later(takes, self._prepare)

    def _prepare(self) -> None:
        self._preparing = False
        self.journal.prepare()

    def _answer(self, readings: Sequence[Reading]) -> None:
        self.later(self.random.random() * 0.002, self._read, readings)

    def _read(self, readings: Sequence[Reading]) -> None:
        with self.database.reader() as tx:
            answers = [answer_one(one.question, tx) for one in readings]
        for reading, answer in zip(readings, answers, strict=True):
            reading.done(answer)

    def _fetch(self, leader_id: str, at_least: int, on_done: Callable[[Any], None]) -> None:
        self.later(self.random.random() * 0.05, self._take_snapshot, leader_id, at_least, on_done)

    def _take_snapshot(self, leader_id: str, at_least: int, on_done: Callable[[Any], None]) -> None:
        """The other member makes a copy now; it takes a while to come, or does not come."""
        source = self.cluster.members[leader_id].process
        found = None
        if (
            source is not None
            and not self.cluster.network.is_cut(leader_id, self.node_id)
            and not source.paused
        ):
            database = source.database
            if database.applied_index >= at_least and self.random.random() > 0.1:
                found = (Image(database.image()), database.applied_index, database.applied_term)
        seconds = self.random.choice((0.01, 0.1, 0.5, 2.0)) * self.random.random()
        self.later(seconds, self._arrive, leader_id, found, on_done)

    def _arrive(self, leader_id: str, found: Any, on_done: Callable[[Any], None]) -> None:
        on_done(None if self.cluster.network.is_cut(leader_id, self.node_id) else found)

    def _on_leadership(self, leadership: Leadership | None) -> None:
        self.cluster.leadership_changed(self, leadership)
