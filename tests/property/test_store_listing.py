"""A store that has just been started answers as one that has listed everything, whatever it is asked first."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from datanode.store.chunks import ChunkStore
from datanode.store.files import Files
from datanode.store.holds import Hold
from datanode.store.opening import open_disks
from datanode.store.rules import Condemnation
from quorumfs.errors import ChunkNotFoundError, PreconditionFailedError
from quorumfs.ids import ChunkId
from tests.unit.datanode.store.fakes import content, flip, put, temporaries

CHUNKS = [ChunkId(bytes([shard]) * 15 + bytes([k])) for shard in (0, 7, 255) for k in (1, 2)]
chunks = st.sampled_from(CHUNKS)


class Unsynced(Files):
    """Restarts here are of the process: a sync is only waited for."""

    def sync_data(self, fd: int) -> None: ...

    def sync_directory(self, path: Path) -> None: ...


class Restarts(RuleBasedStateMachine):
    """`sealed`, `condemned` and `corrupt` are what must be known; nothing is listed but by what is asked, and by steps
    of the duty."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="store-listing-")
        self.path = Path(self.directory.name)
        self.sealed: set[ChunkId] = set()
        self.condemned: dict[ChunkId, int] = {}
        self.corrupt: set[ChunkId] = set()
        self.index = 100
        self._start()

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.disks.close()
            self.directory.cleanup()

    def _start(self) -> None:
        self.disks = open_disks([self.path], files=Unsynced())
        self.store = ChunkStore(self.disks.disks)
        self.store.load()

    @rule(left=st.none() | chunks)
    def restart(self, left: ChunkId | None) -> None:
        """Killed; perhaps while it wrote a chunk."""
        self.disks.close()
        if left is not None:
            shard = self.path / "chunks" / f"{left[0]:02x}"
            (shard / f"{left.hex()}.1.tmp").write_bytes(b"half")
        self._start()

    @rule(steps=st.integers(1, 300))
    def the_duty_goes_on(self, steps: int) -> None:
        for _ in range(steps):
            self.store.listing.advance()

    @rule(chunk=chunks)
    def write(self, chunk: ChunkId) -> None:
        try:
            put(self.store, chunk, chunk)
        except PreconditionFailedError:
            assert chunk in self.condemned
        else:
            assert chunk not in self.condemned
            self.sealed.add(chunk)

    @rule(chunk=chunks)
    def delete(self, chunk: ChunkId) -> None:
        self.index += 1
        gone = self.store.quarantine(chunk, Condemnation(self.index, 1))
        assert gone == (chunk in self.sealed or chunk in self.corrupt)
        if chunk in self.sealed:
            self.sealed.discard(chunk)
            self.condemned[chunk] = self.index
        self.corrupt.discard(chunk)

    @rule(chunk=chunks)
    def restore(self, chunk: ChunkId) -> None:
        back = self.store.restore(chunk, Hold(1, 1))
        assert back == (chunk in self.sealed or chunk in self.condemned)
        if chunk not in self.sealed and self.condemned.pop(chunk, None) is not None:
            self.sealed.add(chunk)

    @rule(chunk=chunks)
    def purge(self, chunk: ChunkId) -> None:
        index = self.condemned.pop(chunk, None)
        if index is not None:
            assert self.store.purge(chunk, index)

    @rule(chunk=chunks)
    def decay(self, chunk: ChunkId) -> None:
        if chunk in self.sealed:
            flip(self.path / "chunks" / f"{chunk[0]:02x}" / chunk.hex(), 4096)
            verdict = self.store.verify(chunk)
            assert not verdict.ok
            self.store.mark_corrupt(chunk, verdict.inode)
            self.sealed.discard(chunk)
            self.corrupt.add(chunk)

    @rule(chunk=chunks)
    def read(self, chunk: ChunkId) -> None:
        found = None
        with suppress(ChunkNotFoundError):
            found = content(self.store, chunk)
        assert found == (chunk if chunk in self.sealed else None)

    @rule(chunk=chunks)
    def ask(self, chunk: ChunkId) -> None:
        assert (chunk in self.store) == (chunk in self.sealed)
        assert self.store.has_file(chunk) == (chunk in {*self.sealed, *self.condemned, *self._wrong()})

    def _wrong(self) -> set[ChunkId]:
        return set(self.store.ids(b"", 99, quarantined=True))

    @rule(after=chunks, limit=st.integers(1, 9))
    def list_a_page(self, after: ChunkId, limit: int) -> None:
        assert self.store.ids(after, limit) == sorted(one for one in self.sealed if one > after)[:limit]
        assert self.store.ids(b"", limit) == sorted(self.sealed)[:limit]

    @rule()
    def look_into_quarantine(self) -> None:
        assert set(self.condemned.items()) <= set(self.store.condemned())
        assert set(self.store.corrupt()) == self.corrupt
        assert {*self.condemned, *self.corrupt} <= self._wrong()

    @rule()
    def register(self) -> None:
        assert self.store.holds_nothing() == (not self.sealed and not self._wrong())

    @rule()
    def all_is_counted_in_the_end(self) -> None:
        self.store.listing.finish()
        assert len(self.store) == len(self.sealed)
        assert temporaries(self.path) == []


TestRestarts = Restarts.TestCase
TestRestarts.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
