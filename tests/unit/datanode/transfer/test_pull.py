"""A copy from another node: nothing counts that was not verified, and one bad source leads to the next."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from datanode.store.chunks import ChunkStore
from datanode.store.holds import Hold
from datanode.store.rules import Condemnation
from datanode.transfer.pull import Puller
from quorumfs.checksum import crc32c
from quorumfs.clock import ManualClock
from quorumfs.errors import NoSpaceError, PreconditionFailedError, SafetyGuardError, UnavailableError
from quorumfs.ids import ChunkId
from quorumfs.limits import MIB
from quorumfs.rpc.circuit import Circuits
from quorumfs.rpc.status import error_metadata
from quorumfs.v1 import chunks_pb2
from quorumfs.v1.types_pb2 import ChunkBirth
from tests.unit.datanode.store.fakes import FlakyFiles, content, flip, opened, put, temporaries
from tests.unit.datanode.transfer.rows import BrokenCall, address, frames

CHUNK = ChunkId(b"c" * 16)
DATA = random.Random(1).randbytes(2 * MIB + 9)


class Frames:
    """A call with a streamed answer."""

    def __init__(self, messages: list[bytes], breaks: bool) -> None:
        self._messages = iter(messages)
        self._breaks = breaks
        self.cancelled = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._messages
        if self._breaks:
            raise BrokenCall

    def cancel(self) -> None:
        self.cancelled = True


class Source:
    """A datanode as a channel: what it says it has, and what it sends."""

    def __init__(
        self,
        messages: list[bytes],
        *,
        says: bytes = DATA,
        breaks: bool = False,
        refuses: grpc.RpcError | None = None,
    ) -> None:
        self.refuses = refuses  # whatever it is asked
        self.asked = 0
        self.info = chunks_pb2.ChunkInfo(
            chunk=CHUNK,
            upload=b"u" * 16,
            birth=ChunkBirth(history=1, index=7, cluster_ms=9),
            length=len(says),
            checksum=crc32c(says),
        )
        self.stream = Frames(messages, breaks)

    def unary_unary(self, method: str, **_: object) -> Any:
        return lambda request, timeout: self._stat()

    def _stat(self) -> chunks_pb2.ChunkInfo:
        self.asked += 1
        if self.refuses is not None:
            raise self.refuses
        return self.info

    stream_unary = unary_unary  # the generated stub makes all its calls at once

    def unary_stream(self, method: str, **_: object) -> Any:
        return lambda request, timeout: self.stream


class Sources:
    def __init__(self, **found: Source | Exception) -> None:
        self.found = {f"{name}.example:7500": one for name, one in found.items()}

    def get(self, where: str) -> Any:
        one = self.found[where]
        if isinstance(one, Exception):
            raise one
        return one

    def drop(self, where: str) -> None: ...

    def close(self) -> None: ...


def puller_of(store: ChunkStore, sources: Sources, clock: ManualClock | None = None) -> Puller:
    return Puller(store, sources, Circuits(clock or ManualClock(), lambda: 0.999))


def damaged() -> list[bytes]:
    first, *rest = frames(DATA)
    return [first[:-7] + b"\0" + first[-6:], *rest]


@pytest.mark.parametrize(
    "bad",
    [
        UnavailableError("the connections were closed"),
        ValueError("not an address"),
        Source([], breaks=True),
        Source(frames(DATA)[:1], breaks=True),
        Source(frames(DATA)[:1]),
        Source(damaged()),
        Source([b"\xff\xff"]),
        Source(frames(DATA + DATA)),
        Source(frames(DATA)[1:]),
        Source([], says=b"other"),
    ],
)
def test_a_source_that_will_not_do_leads_to_the_next(tmp_path: Path, bad: Source | Exception) -> None:
    with opened(tmp_path) as (store, _):
        puller = puller_of(store, Sources(d1=bad, d2=Source(frames(DATA))))
        info = puller.pull(CHUNK, [address("d1"), address("d2")], len(DATA), crc32c(DATA))
        assert content(store, CHUNK) == DATA
        assert (info.header.birth.index, temporaries(tmp_path)) == (7, [])


def test_without_a_good_source_nothing_is_kept_and_each_is_named(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        puller = puller_of(store, Sources(d1=Source(damaged()), d2=Source([], says=b"other")))
        with pytest.raises(UnavailableError) as refused:
            puller.pull(CHUNK, [address("d1"), address("d2")], len(DATA), crc32c(DATA))
        assert "d1: " in refused.value.cause
        assert "d2: it holds other content" in refused.value.cause
        assert (len(store), temporaries(tmp_path)) == (0, [])


SILENT = BrokenCall(grpc.StatusCode.DEADLINE_EXCEEDED)


class Refusal(BrokenCall):
    """An error that the node composed: it is there."""

    def trailing_metadata(self) -> Any:
        return error_metadata(UnavailableError("its disk does not answer"))


def pulled(puller: Puller, number: int, *sources: str) -> str:
    """Another chunk from these; why not, or nothing."""
    chunk = ChunkId(number.to_bytes(16, "big"))
    try:
        puller.pull(chunk, [address(one) for one in sources], len(DATA), crc32c(DATA))
    except UnavailableError as error:
        return error.cause
    return ""


def test_a_source_that_hangs_costs_its_deadline_now_and_then_and_not_for_every_chunk(tmp_path: Path) -> None:
    clock = ManualClock()
    hung = Source([], refuses=SILENT)
    with opened(tmp_path) as (store, _):
        sources = Sources(d1=hung)
        puller = puller_of(store, sources, clock)
        for number in range(5):
            sources.found["d2.example:7500"] = Source(frames(DATA))  # its stream is read once
            assert pulled(puller, number, "d1", "d2") == ""
        assert hung.asked == 1
        clock.advance(1.0)  # the first pause is over
        assert "d1: " in pulled(puller, 9, "d1")
        assert hung.asked == 2


def test_when_no_source_is_called_because_all_were_silent_the_outcome_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        puller = puller_of(store, Sources(d1=Source([], refuses=SILENT), d2=Source([], refuses=SILENT)))
        assert "deadline" in pulled(puller, 1, "d1", "d2")
        why = pulled(puller, 2, "d1", "d2")
        assert why.count("was not called") == 2
        assert "did not answer" in why


def test_a_source_that_breaks_off_is_left_alone_and_one_that_refuses_or_lies_is_not(tmp_path: Path) -> None:
    cases = {
        "breaks": (Source(frames(DATA)[:1], breaks=True), True),
        "refuses": (Source([], refuses=Refusal()), False),
        "other": (Source([], says=b"other"), False),
        "damaged": (Source(damaged()), False),
    }
    with opened(tmp_path) as (store, _):
        puller = puller_of(store, Sources(**{name: source for name, (source, _) in cases.items()}))
        for name, (_, left_alone) in cases.items():
            assert pulled(puller, 1, name)
            assert ("was not called" in pulled(puller, 2, name)) is left_alone, name


def test_a_damaged_replica_that_is_here_already_is_replaced(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        flip(Path(put(store, CHUNK, DATA).file), 5000)
        puller_of(store, Sources(d2=Source(frames(DATA)))).pull(
            CHUNK, [address("d2")], len(DATA), crc32c(DATA)
        )
        assert content(store, CHUNK) == DATA


def test_what_the_own_disk_cannot_do_is_said_as_it_is(tmp_path: Path) -> None:
    files = FlakyFiles()
    with opened(tmp_path, files=files) as (store, _):
        puller = puller_of(store, Sources(d2=Source(frames(DATA))))
        files.fail["write"] = 28
        with pytest.raises(NoSpaceError):
            puller.pull(CHUNK, [address("d2")], len(DATA), crc32c(DATA))
        files.fail.clear()
        assert temporaries(tmp_path) == []


def test_a_chunk_that_was_condemned_here_is_not_copied_back(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        store.quarantine(CHUNK, Condemnation(50, 1))
        puller = puller_of(store, Sources(d2=Source(frames(DATA))))
        with pytest.raises(PreconditionFailedError, match="condemned"):
            puller.pull(CHUNK, [address("d2")], len(DATA), crc32c(DATA))


def test_what_lies_on_a_disk_that_failed_is_copied_onto_another(tmp_path: Path) -> None:
    with opened(tmp_path / "a", tmp_path / "b") as (store, _):
        before = put(store, CHUNK, DATA)
        failed = next(disk for disk in store.disks if disk.disk_id == before.disk_id)
        failed.fail("its controller says so")
        info = puller_of(store, Sources(d2=Source(frames(DATA)))).pull(
            CHUNK, [address("d2")], len(DATA), crc32c(DATA)
        )
        assert info.disk_id not in ("", before.disk_id)
        assert store.where(CHUNK)[0] == info.disk_id
        assert content(store, CHUNK) == DATA


def test_what_was_deleted_here_and_is_wanted_again_comes_back_from_quarantine(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        put(store, CHUNK, DATA)
        store.quarantine(CHUNK, Condemnation(50, 1))
        store.unquarantine(CHUNK, Hold(1, 49))  # who says so does not know of the deletion
        assert CHUNK not in store
        store.unquarantine(CHUNK, Hold(1, 60))
        info = puller_of(store, Sources()).pull(CHUNK, [], len(DATA), crc32c(DATA))
        assert (info.header.length, content(store, CHUNK)) == (len(DATA), DATA)
        with pytest.raises(SafetyGuardError):
            store.quarantine(CHUNK, Condemnation(60, 1))  # an order to delete it from before
        assert store.quarantine(CHUNK, Condemnation(61, 1))


def test_what_was_never_deleted_here_is_left_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        store.unquarantine(CHUNK, Hold(1, 60))
        put(store, CHUNK, DATA)
        store.unquarantine(CHUNK, Hold(1, 60))
        assert content(store, CHUNK) == DATA
