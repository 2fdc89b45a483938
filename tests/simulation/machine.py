"""What survives the end of a process: a machine's disk and the database's image on it. And the clocks of its boots."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from coordinator.consensus.entry_writer import Answers
from coordinator.consensus.files import StorageFull
from coordinator.consensus.interfaces import LogEntry
from coordinator.metadata import hashing, migrations
from coordinator.metadata.machine import Machine
from tests.simulation.history import History
from tests.simulation.plan import Plan
from tests.simulation.world import World
from tests.support.fake_files import FakeFiles
from tests.support.memory_database import MemoryDatabase

IMAGES_MAX = 6
WALL_MS = 1_700_000_000_000


class Clock:
    """A machine's clocks as of one boot: true time, shifted, at its own rate. `spent`: seconds that the step under
    way has taken so far."""

    def __init__(self, world: World, rate: float, shift: float) -> None:
        self._world = world
        self.rate = rate
        self._shift = shift
        self.spent = 0.0
        self.wall_shift_ms = 0
        self._latest = 0.0

    def monotonic(self) -> float:
        self._latest = max(self._latest, (self._world.now + self.spent) * self.rate + self._shift)
        return self._latest

    def wall_ms(self) -> int:
        return WALL_MS + self.wall_shift_ms + int(self._world.now * 1000)


class Disk(FakeFiles):
    """Files in memory whose syncs take time; `point` is called before each change."""

    def __init__(self, random: Random, plan: Plan) -> None:
        super().__init__(random)
        self._chance = random
        self._plan = plan
        self.point: Callable[[], None] = lambda: None
        self.spend: Callable[[float], None] = lambda seconds: None

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self.point()
        super().write(fd, data, offset)

    def sync_data(self, fd: int) -> None:
        self.point()
        super().sync_data(fd)
        plan = self._plan
        self.spend(plan.sync_seconds * self._chance.random() * 2)
        if plan.slow_sync_chance and self._chance.random() < plan.slow_sync_chance:
            self.spend(self._chance.uniform(0.05, 1.5))

    def fill(self, spare_bytes: int) -> None:
        """Nobody gets more than `spare_bytes` from now on."""
        self.capacity_bytes = self.used_bytes() + spare_bytes

    def free(self) -> None:
        self.capacity_bytes = None

    def forget_failures(self) -> None:
        """What was to fail soon does not."""
        self._failures.clear()

    def fail_soon(self, random: Random) -> None:
        """A write or a sync answers EIO before long."""
        self.fail_next(random.choice(("sync_data", "sync_data", "write")), errno.EIO, random.randrange(6))


class RecordingMachine(Machine):
    """The production state machine; the history is told of everything it does with what is committed. `full`: the disk
    has no room; `trying`: what it does now is not committed yet."""

    def __init__(self, node_id: str, history: History) -> None:
        super().__init__(migrations.upgrade)
        self._node_id = node_id
        self._history = history
        self.full = False
        self.trying = False
        self._tried: tuple[int, int, bytes, list[bytes]] | None = None
        self._configuration: list[bytes] = []

    def apply(self, tx: object, index: int, term: int, entry: bytes) -> list[bytes]:
        if self.full:
            raise StorageFull("the state cannot grow")
        results = super().apply(tx, index, term, entry)  # type: ignore[arg-type]
        if self.trying:
            self._tried = index, term, entry, results
        else:
            self._history.applied(self._node_id, index, term, entry, results)
        return results

    def committed(self, entries: Sequence[LogEntry]) -> None:
        """These are about to be applied: if what was tried is among them, that is as good as done."""
        tried, self._tried = self._tried, None
        if tried is not None and any((one.index, one.term, one.data) == tried[:3] for one in entries):
            self._history.applied(self._node_id, *tried)

    def answered(self, entry: LogEntry, answers: Sequence[bytes]) -> None:
        """These are the answers to an entry, which the history knows by now."""
        self._history.applied(self._node_id, entry.index, entry.term, entry.data, list(answers))

    def skip(self, tx: object, index: int, term: int) -> None:
        super().skip(tx, index, term)  # type: ignore[arg-type]
        self._history.applied(self._node_id, index, term, None, self._configuration)

    def configure(self, tx: object, index: int, term: int, configuration: bytes) -> None:
        self._configuration = [configuration]
        super().configure(tx, index, term, configuration)  # type: ignore[arg-type]
        self._configuration = []


class Image:
    """A snapshot as the file that was fetched."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_bytes(self) -> bytes:
        return self._content

    def unlink(self, missing_ok: bool = False) -> None:
        self._content = b""


class SimDatabase(MemoryDatabase):
    """Some of the states since the last durable one are kept: a power cut leaves any of them."""

    def __init__(
        self, image: bytes, machine: RecordingMachine, random: Random, point: Callable[[], None]
    ) -> None:
        self.machine = machine
        self._random = random
        self._point = point
        self.installs = 0
        super().__init__(machine, hashing.state_hash, image=image)

    def try_next(self, entry: LogEntry) -> None:
        self._point()
        self.machine.trying = True
        try:
            super().try_next(entry)
        finally:
            self.machine.trying = False
        self._point()

    def apply(self, entries: Sequence[LogEntry]) -> Sequence[Answers]:
        self._point()
        self.machine.committed(entries)
        answers = super().apply(entries)
        for entry, given in zip(entries, answers, strict=True):
            if given is not None:
                self.machine.answered(entry, given)
        if len(self._images) < IMAGES_MAX and self._random.random() < 0.02:
            self._images.append(self.image())
        self._point()
        return answers

    def make_durable(self) -> int:
        self._point()
        index = super().make_durable()
        self._point()
        return index

    def install(self, file: Path, index: int, term: int) -> None:
        self._point()
        super().install(file, index, term)
        self.installs += 1
        self._point()

    def hashes(self) -> dict[int, bytes]:
        """The whole states' hashes that HashAt entries asked for."""
        return dict(self._hashes)


def empty_image() -> bytes:
    """The database of a member that has applied nothing. Made once: it takes a migration."""
    if not _EMPTY:
        made = MemoryDatabase(Machine(migrations.upgrade), hashing.state_hash)
        _EMPTY.append(made.image())
        made.close()
    return _EMPTY[0]


_EMPTY: list[bytes] = []
