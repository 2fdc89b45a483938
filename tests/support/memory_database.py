"""The replicated state in memory, for the simulation: what a crash leaves is an image of the caller's choice.

It promises what `coordinator.consensus.database.Database` promises, one test holds both to it, except that all is done
by one thread: a reader must end before the next entry is applied.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from coordinator.consensus.entry_writer import Answers, EntryWriter, StateMachine, position_of
from coordinator.consensus.interfaces import LogEntry
from quorumfs.errors import UnavailableError

HASHES_MAX = 16

StateHash = Callable[[sqlite3.Connection], bytes]


class MemoryDatabase:
    """A new one is empty, at index 1, and durable.

    `keep_images`: remember the state after every `apply`, so that a crash may leave any of them; otherwise it
    leaves the last durable state or the newest.
    """

    def __init__(
        self,
        machine: StateMachine,
        state_hash: StateHash,
        *,
        image: bytes | None = None,
        keep_images: bool = False,
    ) -> None:
        self._machine = machine
        self._state_hash = state_hash
        self._keep_images = keep_images
        self._hashes: dict[int, bytes] = {}
        self._closed = False
        self._stand_on(_opened(_empty(machine) if image is None else image))

    @classmethod
    def from_image(
        cls, image: bytes, machine: StateMachine, state_hash: StateHash, *, keep_images: bool = False
    ) -> MemoryDatabase:
        """What a start finds on the disk that `image` is."""
        return cls(machine, state_hash, image=image, keep_images=keep_images)

    def _stand_on(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._entries = EntryWriter(connection, self._machine, self._hash)
        self._durable_index = self._entries.at.index
        self._images = [self.image()]

    def _hash(self, index: int) -> None:
        self._hashes[index] = self._state_hash(self._connection)
        while len(self._hashes) > HASHES_MAX:
            del self._hashes[next(iter(self._hashes))]

    # DatabaseDoor

    @property
    def applied_index(self) -> int:
        return self._entries.at.index

    @property
    def applied_term(self) -> int:
        return self._entries.at.term

    @property
    def durable_index(self) -> int:
        return self._durable_index

    def cluster_ms(self) -> int:
        return self._entries.at.cluster_ms

    def rolling_at(self, index: int) -> bytes | None:
        return self._entries.rolling_at(index)

    def hash_at(self, index: int) -> bytes | None:
        return self._hashes.get(index)

    def apply(self, entries: Sequence[LogEntry]) -> Sequence[Answers]:
        answers = self._entries.apply(entries)
        if self._keep_images:
            self._images.append(self.image())
        return answers

    def try_next(self, entry: LogEntry) -> None:
        self._entries.try_next(entry)

    def make_durable(self) -> int:
        self._images = [self.image()]
        self._durable_index = self.applied_index
        return self._durable_index

    def checkpoint_if_needed(self) -> bool:
        return False

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        if self._closed:
            raise UnavailableError("the database is closed")
        self._entries.forget_tried()  # here readers are on the writer's connection
        self._connection.execute("PRAGMA query_only = 1")
        try:
            yield self._connection
        finally:
            self._connection.execute("PRAGMA query_only = 0")

    def snapshot(self, target: Path) -> tuple[int, int]:
        target.write_bytes(self.image())
        return self.applied_index, self.applied_term

    def install(self, file: Path, index: int, term: int) -> None:
        if index <= self.applied_index:
            raise ValueError(
                f"a snapshot of index {index} is not newer than the applied {self.applied_index}"
            )
        found = _opened(file.read_bytes())
        at = position_of(found)
        if (at.index, at.term) != (index, term):
            found.close()
            raise ValueError(f"the snapshot is of {(at.index, at.term)}, not of {(index, term)}")
        self._entries.forget_tried()
        self._connection.close()
        self._stand_on(found)
        file.unlink()

    def close(self) -> None:
        self._closed = True
        self._connection.close()

    # The disk of the simulation

    def image(self) -> bytes:
        """The state as it is now."""
        self._entries.forget_tried()
        return self._connection.serialize()

    def crash(self, choose: Callable[[int], int]) -> bytes:
        """End without a word; the image that is left, for `from_image`: the `choose(count)`-th of `count`
        possible ones, from the last durable state to the newest."""
        images = self._images if self._images[-1] == self.image() else [*self._images, self.image()]
        left = images[choose(len(images))]
        self.close()
        return left


def _opened(image: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(
        ":memory:", isolation_level=None, cached_statements=512, check_same_thread=False
    )
    connection.deserialize(image)
    return connection


def _empty(machine: StateMachine) -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("BEGIN")
        machine.create(connection)
        connection.execute("COMMIT")
        return connection.serialize()
