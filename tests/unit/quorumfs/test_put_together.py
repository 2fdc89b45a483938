"""Small files of several threads in one chunk and one message, over a cluster in memory: who travels together, for how
long their upload is open, and what becomes of each when something fails."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from quorumfs import Client, limits
from quorumfs.checksum import crc32c
from quorumfs.clock import ManualClock
from quorumfs.errors import (
    AlreadyExistsError,
    NoSpaceError,
    OutcomeUnknownError,
    QuorumFSError,
    UnavailableError,
)
from quorumfs.limits import KIB
from quorumfs.ops import NewFile
from quorumfs.pack import PackFile
from quorumfs.put_together import PutTogether
from quorumfs.v1 import namespace_pb2 as pb
from quorumfs.watchdog import Watchdog
from tests.support.shortage import no_more_threads
from tests.unit.quorumfs.fakes import Cluster, Node, StreamUnary, refused, timed_out

RANDOM = random.Random(17)
SIZE = 64 * KIB
WRITE = "/quorumfs.v1.Chunks/Write"


class World:
    """A client whose small files go together, on a clock that stands."""

    def __init__(self, *, chunk_size: int = 1 << 21, turn_seconds: float = 20.0) -> None:
        self.cluster = Cluster(chunk_size=chunk_size, inline_max=0)
        self.clock = ManualClock()
        self.fs = Client("c1:1,c2:1,c3:1", channels=self.cluster.net)
        self.fs._together.close()
        self.together = PutTogether(
            self.fs._uploader, self.fs.namespace, clock=self.clock, turn_seconds=turn_seconds
        )
        self.fs._together = self.together
        self.held = threading.Event()  # a message that makes files has reached the leader ...
        self.go = threading.Event()  # ... and waits for this one
        self.files: dict[str, bytes] = {}

    def put(self, path: str, size: int = SIZE, *, if_absent: bool = False) -> None:
        data = RANDOM.randbytes(size)
        self.fs.write_bytes(path, data, if_absent=if_absent)
        self.files[path] = data

    def fail(self, path: str) -> None:
        """Put a file whose chunk no datanode takes."""
        failing = self.together._open
        assert failing is not None
        failing.sender.cancel()
        with pytest.raises(UnavailableError):
            self.put(path)

    def hold(self) -> None:
        """Keep the next message that makes files from the leader until `go`."""

        def before(where: str, path: str, raw: bytes) -> None:
            if makes_packed(path, raw):
                self.cluster.net.before = lambda *_: None
                self.held.set()
                assert self.go.wait(20)

        self.cluster.net.before = before

    def hold_chunk(self) -> None:
        """Keep the next chunk from the datanodes until `go`."""
        nodes = self.cluster.nodes.values()

        def write(node: Node, requests: Iterator[bytes]) -> Any:
            for one in nodes:
                self.cluster.net.servers[one.address][WRITE] = one.write
            self.held.set()
            assert self.go.wait(20)
            return node.write(requests)

        for one in nodes:
            self.cluster.net.servers[one.address][WRITE] = partial(write, one)

    def one_failed_another_under_way(self) -> tuple[bytes, Caller]:
        """An upload of which a chunk failed, and a caller whose chunk is under way in another until `go`."""
        self.put("/alone")
        self.put("/0")
        (upload,) = self.cluster.uploads
        self.fail("/1")
        self.hold_chunk()
        storing = Caller(self, "/2", SIZE)
        assert self.held.wait(20)
        return upload, storing

    def put_meanwhile(self, paths: list[str], size: int = SIZE) -> list[Caller]:
        """Callers that come, all of them, while `/under-way` is: it is the first of what is returned."""
        self.put("/alone")
        self.hold()
        callers = [Caller(self, "/under-way", SIZE)]
        assert self.held.wait(20)
        for path in paths:
            callers.append(Caller(self, path, size))
            queued(self.together, len(callers) - 1)
        return callers

    def all_ended(self, callers: list[Caller]) -> list[QuorumFSError | None]:
        self.go.set()
        return [one.ended() for one in callers]

    def chunks(self) -> Counter[bytes]:
        """Chunk -> how many files it holds."""
        return Counter(extent.chunk for file in self.cluster.names.values() for extent in file.extents)

    def packs_open(self) -> int:
        names = [one["request"].ref.path for one in self.cluster.uploads.values()]
        return sum(name.startswith(b"/.quorumfs-pack-") for name in names)

    def messages(self) -> list[list[str]]:
        """The operations of each message that made files together."""
        sent = [pb.Batch.FromString(raw) for _, name, raw in self.cluster.net.calls if name == "Do"]
        kinds = [[str(op.WhichOneof("op")) for op in batch.ops] for batch in sent]
        return [one for one in kinds if "put_file" in one and "add_extents" in one]


class Caller(threading.Thread):
    def __init__(self, world: World, path: str, size: int) -> None:
        super().__init__(daemon=True)
        self._world, self._path, self._size = world, path, size
        self._error: QuorumFSError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._world.put(self._path, self._size, if_absent=True)
        except QuorumFSError as error:
            self._error = error

    def ended(self) -> QuorumFSError | None:
        self.join(20)
        assert not self.is_alive()
        return self._error


def makes_packed(path: str, raw: bytes) -> bool:
    ops = pb.Batch.FromString(raw).ops if path.endswith("/Do") else ()
    return any(op.put_file.HasField("packed") for op in ops)


def queued(together: PutTogether, count: int) -> None:
    """Wait until `count` callers wait for their turn."""
    wait_for(lambda: len(together._combiner._queue) == count)


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(4000):
        if condition():
            return
        pause.wait(0.005)
    pytest.fail("it did not come")


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.go.set()
    made.fs.close()


def test_files_that_come_while_one_is_under_way_share_a_chunk_and_a_message(world: World) -> None:
    callers = world.put_meanwhile([f"/{number}" for number in range(7)])
    assert world.all_ended(callers) == [None] * 8
    assert sorted(world.chunks().values()) == [1, 1, 7]
    assert world.messages() == [["add_extents", "put_file"], ["add_extents", *["put_file"] * 7]]
    assert {path: world.fs.read_bytes(path) for path in world.files} == world.files


def test_one_caller_alone_makes_a_file_with_one_message_under_an_upload_that_stays(world: World) -> None:
    for number in range(9):
        world.put(f"/{number}")
    assert sorted(world.chunks().values()) == [1] * 9
    assert Counter(world.cluster.applied) == {
        "open_session": 1,
        "put_file": 8,
        "open_upload": 2,
        "allocate": 1 + 1 + 2,
        "commit_upload": 1,
        "add_extents": 8,
    }
    assert {path: world.fs.read_bytes(path) for path in world.files} == world.files


def test_a_file_that_comes_after_a_silence_has_an_upload_of_its_own(world: World) -> None:
    for number in range(3):
        world.put(f"/{number}")
        world.clock.advance(limits.TOGETHER_SILENCE_SECONDS)
    assert world.messages() == []
    assert world.cluster.uploads == {}


def test_what_may_not_share_a_chunk_has_an_upload_of_its_own(world: World, tmp_path: Path) -> None:
    world.put("/first")
    world.put("/large", limits.TOGETHER_BYTES_MAX + 1)
    world.put("/empty", 0)
    world.fs.put(RANDOM.randbytes(SIZE), "/replicas", replication=2)
    assert world.messages() == []
    path = tmp_path / "file"
    path.write_bytes(RANDOM.randbytes(limits.TOGETHER_BYTES_MAX))
    world.fs.put(path, "/local")
    assert world.messages() == [["add_extents", "put_file"]]
    assert world.fs.read_bytes("/local") == path.read_bytes()


def test_a_file_that_is_larger_than_a_chunk_has_several() -> None:
    world = World(chunk_size=SIZE)
    with world.fs:
        world.put("/first")
        world.put("/larger", SIZE + 1)
        assert world.messages() == []
        assert len(world.cluster.names[b"/larger"].extents) == 2
        assert world.fs.read_bytes("/larger") == world.files["/larger"]


def test_the_message_that_finds_the_upload_old_ends_it(world: World) -> None:
    world.put("/alone")
    world.put("/0")
    assert world.packs_open() == 1
    seconds = 0.0
    while seconds <= limits.TOGETHER_UPLOAD_SECONDS:
        world.clock.advance(1.0)
        seconds += 1.0
        world.put(f"/{seconds}")
    assert world.messages()[-1] == ["add_extents", "put_file", "abort_upload"]
    assert world.packs_open() == 0
    world.put("/next")
    assert world.packs_open() == 1
    assert {path: world.fs.read_bytes(path) for path in world.files} == world.files


def test_an_old_upload_under_which_nothing_is_stored_any_more_is_ended_by_the_sign_of_life(
    world: World,
) -> None:
    world.put("/alone")
    world.put("/0")
    world.clock.advance(limits.TOGETHER_UPLOAD_SECONDS)
    (upload,) = world.cluster.uploads
    world.together._tend([upload])
    assert world.packs_open() == 1
    assert [name for _, name, _ in world.cluster.net.calls].count("KeepAlive") == 1
    world.clock.advance(0.1)
    world.together._tend([upload])
    assert world.packs_open() == 0
    assert world.fs.read_bytes("/0") == world.files["/0"]


def test_a_sign_of_life_takes_no_upload_away_from_who_stores_under_it(world: World) -> None:
    world.put("/alone")
    world.put("/0")
    (upload,) = world.cluster.uploads
    world.hold_chunk()
    storing = Caller(world, "/1", SIZE)
    assert world.held.wait(20)
    world.clock.advance(limits.TOGETHER_UPLOAD_SECONDS + 1)
    world.together._tend([upload])
    assert world.packs_open() == 1
    assert world.all_ended([storing]) == [None]
    assert world.packs_open() == 0


def test_a_chunk_without_all_its_replicas_is_protected_no_longer_than_needed(world: World) -> None:
    world.put("/alone")
    world.cluster.nodes["d2"].refuses = NoSpaceError("it is full")
    world.put("/0")
    assert world.messages() == [["add_extents", "put_file", "abort_upload"]]
    assert world.cluster.uploads == {}
    assert world.fs.read_bytes("/0") == world.files["/0"]


def test_a_refusal_is_its_own_files(world: World) -> None:
    world.put("/1")
    callers = world.put_meanwhile([f"/{number}" for number in range(3)])
    errors = world.all_ended(callers)
    assert [type(error) for error in errors] == [type(None), type(None), AlreadyExistsError, type(None)]
    assert {path: world.fs.read_bytes(path) for path in world.files} == world.files


def test_a_failure_of_the_chunk_is_told_to_all_and_nothing_is_made(world: World) -> None:
    callers = world.put_meanwhile(["/0", "/1"])

    def refuse(where: str, path: str, raw: bytes) -> None:
        ops = pb.Batch.FromString(raw).ops if path.endswith("/Do") else ()
        if any(op.HasField("allocate") for op in ops):
            raise NoSpaceError("no disk has room")

    world.cluster.net.after = refuse
    for node in world.cluster.nodes.values():
        node.refuses = NoSpaceError("it is full")
    failing = world.together._open
    assert failing is not None
    failing.sender.cancel()  # of what comes: no minute of patience
    errors = world.all_ended(callers)
    assert errors[0] is None
    assert [type(error) for error in errors[1:]] == [UnavailableError, UnavailableError]
    assert errors[1] is not errors[2]
    assert set(world.cluster.names) == {b"/alone", b"/under-way"}
    world.cluster.net.after = lambda *_: None
    for node in world.cluster.nodes.values():
        node.refuses = None
    world.put("/0")
    assert world.fs.read_bytes("/0") == world.files["/0"]


def test_the_upload_of_a_chunk_that_failed_is_ended_for_the_sake_of_those_before_it(world: World) -> None:
    world.put("/alone")
    world.put("/0")
    (upload,) = world.cluster.uploads
    world.fail("/1")
    assert world.packs_open() == 1
    world.put("/2")
    assert world.packs_open() == 2

    def nobody(where: str, path: str, raw: bytes) -> None:
        raise refused()

    world.cluster.net.before = nobody
    world.fs.coordinator.timeout = 0.1
    world.together._end([upload], 0.1)
    world.cluster.net.before = lambda *_: None
    assert upload in world.cluster.uploads
    world.together._tend([upload])  # again, now that a leader hears it
    assert world.packs_open() == 1
    assert upload not in world.cluster.uploads
    assert world.together._left == set()


def test_the_upload_of_a_chunk_that_failed_is_ended_though_others_store_all_the_time(world: World) -> None:
    upload, storing = world.one_failed_another_under_way()
    world.together._tend([upload])
    assert upload not in world.cluster.uploads
    assert world.together._left == set()
    assert world.all_ended([storing]) == [None]
    assert {path: world.fs.read_bytes(path) for path in world.files} == world.files


def test_a_client_that_is_closed_while_files_are_stored_ends_the_uploads_of_those_that_failed(
    world: World,
) -> None:
    upload, storing = world.one_failed_another_under_way()
    world.fs.close()
    assert upload not in world.cluster.uploads
    world.all_ended([storing])


def test_what_no_thread_could_be_started_for_was_not_stored_and_all_who_travelled_are_told_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers = world.put_meanwhile(["/0", "/1"])

    def start_no_thread(*_: object) -> object:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(StreamUnary, "future", start_no_thread)
        errors = world.all_ended(callers)
    assert errors[0] is None
    assert [type(error) for error in errors[1:]] == [UnavailableError, UnavailableError]
    assert set(world.cluster.names) == {b"/alone", b"/under-way"}
    world.put("/0")
    assert world.fs.read_bytes("/0") == world.files["/0"]


def test_an_upload_that_cannot_be_kept_alive_is_not_used_and_is_ended(world: World) -> None:
    world.put("/alone")
    with no_more_threads("quorumfs-keep-alive"), pytest.raises(UnavailableError):
        world.put("/0")
    assert world.packs_open() == 1
    world.fs.close()
    assert world.packs_open() == 0


def test_an_answer_that_never_comes_is_unknown_to_all_who_travelled(world: World) -> None:
    world.fs.coordinator.timeout = 0.2
    callers = world.put_meanwhile(["/0", "/1"])

    def lose(where: str, path: str, raw: bytes) -> None:
        if makes_packed(path, raw) and len(pb.Batch.FromString(raw).ops) == 3:
            raise timed_out()

    world.cluster.net.after = lose
    errors = world.all_ended(callers)
    assert errors[0] is None
    assert [type(error) for error in errors[1:]] == [OutcomeUnknownError, OutcomeUnknownError]
    assert world.cluster.applied.count("abort_upload") == 0  # it could only confuse


@pytest.mark.parametrize("harm", ["gone", "lost"])
def test_a_chunk_that_is_refused_is_sent_again_under_another_upload(world: World, harm: str) -> None:
    callers = world.put_meanwhile(["/0", "/1"])

    def before(where: str, path: str, raw: bytes) -> None:
        if makes_packed(path, raw):
            world.cluster.net.before = lambda *_: None
            ops = pb.Batch.FromString(raw).ops
            if harm == "gone":
                world.cluster.uploads.clear()
            else:
                world.cluster.lost.update(op.put_file.packed.chunk for op in ops[1:])

    world.cluster.net.before = before
    assert world.all_ended(callers) == [None] * 3
    assert {path: world.fs.read_bytes(path) for path in world.files} == world.files
    assert not world.cluster.lost & set(world.chunks())
    assert world.cluster.applied.count("commit_upload") == 1  # none went by itself


def test_files_whose_chunk_is_always_refused_go_by_themselves(world: World) -> None:
    world.put("/alone")

    def before(where: str, path: str, raw: bytes) -> None:
        if makes_packed(path, raw):
            world.cluster.lost.update(op.put_file.packed.chunk for op in pb.Batch.FromString(raw).ops[1:])

    world.cluster.net.before = before
    world.put("/0")
    assert len(world.messages()) == 3
    assert world.cluster.applied.count("commit_upload") == 2
    assert world.fs.read_bytes("/0") == world.files["/0"]


def test_who_waits_too_long_for_its_turn_goes_by_itself() -> None:
    world = World(turn_seconds=0.05)
    with world.fs:
        world.put("/alone")
        world.hold_chunk()
        first = Caller(world, "/under-way", SIZE)
        assert world.held.wait(20)
        world.put("/0")  # though nothing has moved
        assert world.cluster.applied.count("commit_upload") == 2
        assert world.all_ended([first]) == [None]
        assert {path: world.fs.read_bytes(path) for path in world.files} == world.files


def test_progress_is_told_when_the_file_is_there(world: World) -> None:
    world.put("/alone")
    told: list[int] = []
    world.fs.put(RANDOM.randbytes(SIZE), "/0", progress=told.append)
    assert world.messages() != []
    assert told == [SIZE]


def test_a_client_that_is_closed_leaves_no_upload_open(world: World) -> None:
    world.put("/alone")
    world.put("/0")
    assert world.packs_open() == 1
    world.fs.close()
    assert world.packs_open() == 0


def test_a_client_that_is_closed_while_files_are_stored_ends_them(world: World) -> None:
    callers = world.put_meanwhile(["/0"])
    world.fs.close()
    errors = world.all_ended(callers)
    assert isinstance(errors[1], UnavailableError)
    assert "/0" not in world.files


def test_a_client_that_is_closed_while_a_chunk_is_stored_ends_its_upload_as_soon_as_that_is_over(
    world: World,
) -> None:
    world.put("/alone")
    world.put("/0")
    current = world.together._open
    assert current is not None
    world.hold_chunk()
    storing = Caller(world, "/1", SIZE)
    assert world.held.wait(20)
    closing = threading.Thread(target=world.fs.close)
    closing.start()
    wait_for(lambda: current.sender._targets.closed)
    world.all_ended([storing])
    closing.join(20)
    assert not closing.is_alive()
    assert world.packs_open() == 0


def test_who_had_its_turn_when_the_client_was_closed_opens_no_upload(world: World) -> None:
    world.put("/alone")
    world.put("/0")
    world.together.finish()
    data = RANDOM.randbytes(SIZE)
    (answer,) = world.together._store_all(0, [PackFile(NewFile(b"/1"), data, crc32c(data))], 1.0)
    assert isinstance(answer, UnavailableError)
    assert world.packs_open() == 0
    assert b"/1" not in world.cluster.names


def test_a_client_without_another_thread_is_closed_all_the_same(world: World) -> None:
    world.put("/alone")
    world.put("/0")
    world.fs.coordinator._streams._watchdog = Watchdog()  # the other one's thread may run still
    with no_more_threads("quorumfs-watchdog"):
        world.fs.close()
    with pytest.raises(UnavailableError, match="closed"):
        world.fs.stat("/0")
