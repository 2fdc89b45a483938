"""Uploads and downloads against a cluster in memory, with faults at every place."""

from __future__ import annotations

import io
import random
import threading
from typing import Any

import pytest

from quorumfs import limits
from quorumfs.checksum import crc32c
from quorumfs.clock import ManualClock
from quorumfs.download import OpenedFile
from quorumfs.errors import (
    AlreadyExistsError,
    IntegrityError,
    NoPlacementError,
    NoSpaceError,
    OutcomeUnknownError,
    PreconditionFailedError,
    QuorumFSError,
    TooLargeError,
    UnavailableError,
)
from quorumfs.keepalive import KeepAlive
from quorumfs.limits import KIB, MIB
from quorumfs.namespace import Namespace
from quorumfs.nearness import Nearness
from quorumfs.ops import NewFile
from quorumfs.read_chunk import ChunkReader
from quorumfs.rpc.coordinator import Coordinator
from quorumfs.sources import BytesSource, Source, StreamSource
from quorumfs.suspects import Suspects
from quorumfs.upload import Uploader
from quorumfs.v1 import namespace_pb2, types_pb2
from quorumfs.watchdog import Watchdog
from tests.unit.quorumfs.fakes import Cluster, Node, broken

DATA = random.Random(5).randbytes(5 * MIB + 777)  # three chunks of 2 MiB
PATH = b"/f"


class World:
    def __init__(self, datanodes: int = 3) -> None:
        self.cluster = Cluster(datanodes)
        self.clock = ManualClock()
        self.lock = threading.Lock()
        self.suspects = Suspects(self.clock)
        self.watchdog = Watchdog()
        stub = Coordinator(
            self.cluster.coordinators,
            self.cluster.net,
            clock=self.clock,
            chance=lambda: 0.5,
            pause=self.pause,
        )
        self.namespace = Namespace(stub)
        self.keep_alive = KeepAlive(stub.keep_alive)
        self.uploader = Uploader(
            self.namespace,
            self.cluster.net,
            self.suspects,
            self.keep_alive,
            lambda: "the-cluster",
            clock=self.clock,
            chance=lambda: 0.5,
            pause=self.pause,
        )
        self.reader = ChunkReader(
            self.cluster.net,
            self.suspects,
            self.watchdog,
            stub.report_replica,
            nearness=Nearness("here"),
            clock=self.clock,
            chance=lambda: 0.5,
            pause=self.pause,
        )

    def pause(self, seconds: float) -> None:
        with self.lock:
            self.clock.advance(seconds)

    def node(self, k: int) -> Node:
        return self.cluster.nodes[f"d{k}"]

    def put(self, data: bytes = DATA, source: Source | None = None, **options: Any) -> namespace_pb2.FileInfo:
        progress = options.pop("progress", None)
        return self.uploader.upload(source or BytesSource(data), NewFile(PATH, **options), progress)

    def open(self) -> OpenedFile:
        return OpenedFile(self.namespace, self.reader, PATH)

    def get(self, offset: int = 0, length: int | None = None) -> bytes:
        return b"".join(self.open().read(offset, length))

    def replicas(self) -> list[int]:
        """How many nodes hold each chunk of the file."""
        chunks = [extent.chunk for extent in self.cluster.names[PATH].extents]
        return [sum(chunk in node.chunks for node in self.cluster.nodes.values()) for chunk in chunks]


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.keep_alive.close()
    made.watchdog.close()


# ---- uploads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16 * KIB, 16 * KIB + 1, 2 * MIB, 2 * MIB + 1, len(DATA)])
@pytest.mark.parametrize("kind", [BytesSource, lambda data: StreamSource(io.BytesIO(data))])
def test_what_was_put_comes_back(world: World, size: int, kind: Any) -> None:
    data = DATA[:size]
    info = world.put(source=kind(data))
    assert (info.size, info.checksum) == (size, crc32c(data))
    assert world.get() == data
    assert ("put_file" in world.cluster.applied) == (size <= 16 * KIB)


def test_a_chunk_that_is_called_durable_before_it_was_sent_whole_is_stored_again() -> None:
    world = World()
    for k in (1, 2, 3):
        world.node(k).hasty = True
    world.put()
    assert world.get() == DATA


def test_a_large_file_has_its_replicas_and_leaves_no_upload_open(world: World) -> None:
    world.put()
    assert world.replicas() == [3, 3, 3]
    assert not world.cluster.uploads
    assert world.cluster.applied.count("allocate") == 1


def test_a_writer_tells_which_replica_is_read_first(world: World) -> None:
    world.put()
    told = {chunk: first for node in world.cluster.nodes.values() for chunk, first in node.read_first.items()}
    assert len(told) == 3
    for chunk, location in world.cluster.sealed.items():
        location.replicas.sort(key=lambda replica: replica.node_id)  # as the metadata tells them
        assert Nearness("here").order(location, (), ())[0].node_id == told[chunk]


def test_without_room_in_the_metadata_a_small_file_goes_to_datanodes(world: World) -> None:
    world.cluster.inline_max = 0
    assert world.put(b"small").size == 5
    assert world.get() == b"small"
    assert world.replicas() == [3]
    assert world.put(b"").size == 0


def test_what_the_metadata_did_not_take_is_not_offered_to_it_for_a_while(world: World) -> None:
    def offered(size: int) -> bool:
        before = world.cluster.applied.count("put_file")
        world.put(DATA[:size])
        assert world.get() == DATA[:size]
        return world.cluster.applied.count("put_file") > before

    world.cluster.inline_max = 0
    assert offered(4 * KIB)
    assert not offered(1)  # the budget is spent
    assert offered(0)
    world.clock.advance(limits.INLINE_REFUSED_SECONDS)
    assert offered(4 * KIB)
    world.cluster.inline_max = 16 * KIB
    world.clock.advance(limits.INLINE_REFUSED_SECONDS)
    assert offered(16 * KIB)
    assert world.cluster.uploads == {}


def test_a_body_that_is_too_large_for_the_metadata_says_nothing_of_smaller_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_file(new: NewFile, body: bytes, checksum: int) -> namespace_pb2.FileInfo:
        tried.append(len(body))
        if len(body) > 8 * KIB:
            raise TooLargeError("at most 8 KiB")
        return as_before(new, body, checksum)

    tried: list[int] = []
    as_before = world.namespace.put_file
    monkeypatch.setattr(world.namespace, "put_file", put_file)
    for size in (9 * KIB, 10 * KIB, 8 * KIB, 9 * KIB):
        world.put(DATA[:size])
        assert world.get() == DATA[:size]
    assert tried == [9 * KIB, 8 * KIB]


def test_progress_reaches_the_size_and_no_more(world: World) -> None:
    seen: list[int] = []
    world.node(1).stop_after = 1
    world.put(progress=seen.append)
    assert seen[-1] == max(seen) == len(DATA)


def test_conditions_and_attributes_travel(world: World) -> None:
    info = world.put(mode=0o600, mtime_ns=12345)
    assert (info.mode, info.mtime_ns) == (0o600, 12345)
    with pytest.raises(AlreadyExistsError):
        world.put(if_absent=True)
    with pytest.raises(PreconditionFailedError):
        world.put(b"x", expected_version=99)
    assert world.get() == DATA
    assert not world.cluster.uploads


def test_a_datanode_that_dies_in_a_chunk_is_avoided_and_the_chunk_sent_under_a_new_id() -> None:
    world = World(4)
    victim = world.node(4)  # the head of the first pipeline
    victim.stop_after = 1
    world.put(DATA[: 2 * MIB])
    assert world.get() == DATA[: 2 * MIB]
    assert world.replicas() == [3]
    assert (victim.writes, victim.chunks) == (1, {})
    assert world.cluster.applied.count("allocate") == 2


def test_several_chunks_in_flight_survive_the_death_of_a_datanode() -> None:
    world = World(4)
    world.node(2).stop_after = 1
    world.put()
    assert world.get() == DATA
    assert all(count >= 2 for count in world.replicas())
    assert not world.node(2).chunks


@pytest.mark.parametrize("kind", [BytesSource, lambda data: StreamSource(io.BytesIO(data))])
def test_with_only_three_nodes_one_dead_is_done_without(world: World, kind: Any) -> None:
    world.cluster.net.down.add("d1:1")
    world.put(source=kind(DATA))
    assert world.replicas() == [2, 2, 2]
    assert world.get() == DATA


def test_a_stalled_datanode_is_given_up(world: World) -> None:
    world.node(1).stalled = True
    world.put()
    assert world.replicas() == [2, 2, 2]


def test_enough_durable_replicas_count_and_the_failed_one_is_avoided(world: World) -> None:
    world.node(3).refuses = NoSpaceError("full")
    world.put()
    assert all(count >= 2 for count in world.replicas())
    assert "d3" in world.suspects.current()


def test_too_few_replicas_are_an_error_that_names_the_reasons(world: World) -> None:
    for k in (2, 3):
        world.node(k).refuses = NoSpaceError("the disk is full")
    with pytest.raises(UnavailableError, match="full"):
        world.put()
    assert not world.cluster.uploads
    assert PATH not in world.cluster.names


def test_without_enough_datanodes_it_waits_a_bounded_time() -> None:
    world = World(1)
    begun = world.clock.now
    with pytest.raises(NoPlacementError):
        world.put()
    assert world.clock.now - begun < limits.STORE_CHUNK_SECONDS * 2.5
    assert not world.cluster.uploads


def test_a_node_that_comes_in_time_saves_the_upload() -> None:
    world = World(1)
    pause = world.pause

    def later(seconds: float) -> None:
        if world.clock.now > 1020 and len(world.cluster.nodes) < 3:
            world.cluster.add_node(f"d{len(world.cluster.nodes) + 1}")
        pause(seconds)

    world.uploader._pause = later
    world.put()
    assert world.get() == DATA


def test_a_source_that_fails_aborts_the_upload_and_its_error_is_told(world: World) -> None:
    class Failing:
        def __init__(self) -> None:
            self.left = 3 * MIB

        def read(self, size: int) -> bytes:
            if self.left <= 0:
                raise OSError("the disk is on fire")
            self.left -= size
            return bytes(size)

    with pytest.raises(OSError, match="fire"):
        world.put(source=StreamSource(Failing()))
    assert not world.cluster.uploads


def test_a_file_that_shrinks_aborts_the_upload(world: World, tmp_path: Any) -> None:
    import os

    from quorumfs.sources import FileSource

    path = tmp_path / "x"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        source = FileSource(file.fileno())
        os.truncate(path, MIB)
        with pytest.raises(PreconditionFailedError, match="changed"):
            world.put(source=source)
    assert not world.cluster.uploads


def test_a_commit_whose_answer_is_lost_is_repeated_and_happens_once(world: World) -> None:
    lost: list[int] = []

    def lose(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do") and not lost:
            batch = namespace_pb2.Batch.FromString(raw)
            if any(op.HasField("commit_upload") for op in batch.ops):
                lost.append(1)
                raise broken()

    world.cluster.net.after = lose
    world.put()
    assert lost
    assert world.cluster.applied.count("commit_upload") == 1
    assert world.get() == DATA


def test_a_commit_whose_answer_never_comes_is_unknown_and_is_not_aborted(world: World) -> None:
    def lose(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do"):
            batch = namespace_pb2.Batch.FromString(raw)
            if any(op.HasField("commit_upload") for op in batch.ops):
                world.pause(5)
                raise broken()

    world.cluster.net.after = lose
    with pytest.raises(OutcomeUnknownError):
        world.put()
    assert "abort_upload" not in world.cluster.applied


@pytest.mark.parametrize("step", ["open_upload", "allocate", "add_extents"])
def test_before_the_commit_a_lost_answer_means_that_nothing_was_stored(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quorumfs.upload._EXTENTS_BYTES", 1)

    def lose(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do") and any(
            op.HasField(step)  # type: ignore[arg-type]  one of Op's fields
            for op in namespace_pb2.Batch.FromString(raw).ops
        ):
            world.pause(5)
            raise broken()

    world.cluster.net.after = lose
    with pytest.raises(UnavailableError, match="not stored"):
        world.put()
    assert PATH not in world.cluster.names


def test_an_upload_that_fails_in_a_lost_cluster_is_not_aborted_for_long(world: World) -> None:
    world.put(b"once reached")

    def vanish(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do") and namespace_pb2.Batch.FromString(raw).ops[0].HasField("allocate"):
            world.cluster.net.down.update(world.cluster.coordinators)

    world.cluster.net.before = vanish
    begun = world.clock.now
    with pytest.raises(UnavailableError):
        world.put()
    assert world.clock.now - begun < limits.CLIENT_DEADLINE_SECONDS + limits.RPC_DEADLINE_SECONDS + 5


def test_a_condemned_chunk_is_sent_again_under_a_new_id(world: World) -> None:
    def condemn(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do"):
            for op in namespace_pb2.Batch.FromString(raw).ops:
                if op.HasField("commit_upload") and not world.cluster.condemned:
                    world.cluster.condemned.add(op.commit_upload.chunks[1].chunk)

    world.cluster.net.before = condemn
    world.put()
    assert world.get() == DATA
    assert world.cluster.applied.count("open_upload") == 1
    assert world.cluster.applied.count("commit_upload") == 2


def test_many_extents_are_handed_in_before_the_commit() -> None:
    world = World()
    world.cluster.chunk_size = 64 * KIB
    limit = 3000  # bytes of extents and acknowledgements
    import quorumfs.upload

    old, quorumfs.upload._EXTENTS_BYTES = quorumfs.upload._EXTENTS_BYTES, limit
    try:
        world.put()
    finally:
        quorumfs.upload._EXTENTS_BYTES = old
    assert world.cluster.applied.count("add_extents") > 2
    assert world.get() == DATA


def test_an_upload_survives_a_change_of_leader_at_every_operation() -> None:
    for nth in range(1, 6):
        world = World()
        seen = 0

        def fail_over(where: str, path: str, raw: bytes, nth: int = nth, world: World = world) -> None:
            nonlocal seen
            if path.endswith("/Do"):
                seen += 1
                if seen == nth:
                    world.cluster.net.down.add(where)
                    world.cluster.leader = "c2:1"
                    raise broken()

        world.cluster.net.after = fail_over
        world.put()
        assert world.get() == DATA
        world.keep_alive.close()
        world.watchdog.close()


# ---- downloads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 10),
        (100, 1),
        (2 * MIB - 5, 10),
        (64 * KIB, 64 * KIB),
        (5 * MIB, 9999),
        (3, None),
        (len(DATA), 5),
        (9 * MIB, 1),
    ],
)
def test_a_range_gives_exactly_its_bytes(world: World, offset: int, length: int | None) -> None:
    world.put()
    end = len(DATA) if length is None else offset + length
    assert world.get(offset, length) == DATA[offset:end]


def test_a_small_range_asks_only_for_its_blocks(world: World) -> None:
    world.put()
    world.get(2 * MIB + 200 * KIB, 10)
    asked = [read for node in world.cluster.nodes.values() for read in node.reads]
    assert asked == [(192 * KIB, 64 * KIB)]


def test_a_flipped_byte_is_read_from_another_replica_and_reported(world: World) -> None:
    world.put()
    extent = world.cluster.names[PATH].extents[1]
    victim = _preferred(world, extent.chunk)
    data = bytearray(victim.chunks[extent.chunk])
    data[MIB + 70_000] ^= 1
    victim.chunks[extent.chunk] = bytes(data)
    assert world.get() == DATA
    report = world.cluster.reports[0]
    assert (report.node_id, report.chunk, report.state) == (
        victim.node_id,
        extent.chunk,
        types_pb2.REPLICA_STATE_CORRUPT,
    )


def test_a_missing_chunk_is_read_elsewhere_and_reported(world: World) -> None:
    world.put()
    chunk = world.cluster.names[PATH].extents[0].chunk
    victim = _preferred(world, chunk)
    del victim.chunks[chunk]
    assert world.get() == DATA
    assert world.cluster.reports[0].state == types_pb2.REPLICA_STATE_MISSING


def test_with_no_good_replica_left_it_is_an_integrity_error_never_wrong_bytes(world: World) -> None:
    world.put()
    chunk = world.cluster.names[PATH].extents[2].chunk
    for node in world.cluster.nodes.values():
        data = bytearray(node.chunks[chunk])
        data[5] ^= 1
        node.chunks[chunk] = bytes(data)
    got = bytearray()

    def read() -> None:
        for piece in world.open().read(0):
            got.extend(piece)

    with pytest.raises(IntegrityError, match="no good replica"):
        read()
    assert bytes(got) == DATA[: len(got)]


def test_another_chunk_with_checksums_of_its_own_is_not_believed(world: World) -> None:
    world.put()
    chunk = world.cluster.names[PATH].extents[0].chunk
    victim = _preferred(world, chunk)
    victim.lies[chunk] = bytes(2 * MIB)
    with pytest.raises(IntegrityError, match="whole"):
        world.get()
    assert world.get() == DATA, "the next try reads from another node"


def test_a_stream_that_breaks_goes_on_at_the_same_offset_elsewhere(world: World) -> None:
    world.put()
    for node in world.cluster.nodes.values():
        node.stop_reading_after = 1
    node_3 = world.node(3)
    node_3.stop_reading_after = None
    assert world.get() == DATA


def test_a_stalled_datanode_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put()
    monkeypatch.setattr(limits, "READ_STALL_SECONDS", 0.05)
    world.node(1).stalled = True
    assert world.get() == DATA
    assert "d1" in world.suspects.current() or not world.node(1).reads


def test_all_datanodes_down_is_unavailable_after_a_bounded_time(world: World) -> None:
    world.put()
    world.cluster.net.down.update(node.address for node in world.cluster.nodes.values())
    begun = world.clock.now
    with pytest.raises(UnavailableError):
        world.get(0, MIB)  # one chunk, one thread: two would both move the clock
    assert world.clock.now - begun < limits.READ_CHUNK_SECONDS + 5


def test_datanodes_that_come_back_in_time_save_the_read(world: World) -> None:
    world.put()
    world.cluster.net.down.update(node.address for node in world.cluster.nodes.values())

    def back(seconds: float) -> None:
        world.pause(seconds)
        if world.clock.now > 1005:
            world.cluster.net.down.clear()

    world.reader._pause = back
    assert world.get() == DATA


def test_an_opened_file_stays_what_it_was_when_it_is_replaced(world: World) -> None:
    world.put()
    opened = world.open()
    world.put(b"new")
    assert b"".join(opened.read(0)) == DATA
    assert world.get() == b"new"


def test_a_chunk_that_moved_into_another_is_found_again(world: World) -> None:
    world.put(b"inline body")
    opened = world.open()
    file = world.cluster.names[PATH]
    old = file.extents[0].chunk
    packed, body = b"P" * 16, b"-----inline body"
    for node in world.cluster.nodes.values():
        node.chunks[packed] = body
    world.cluster.original[packed] = body
    location = namespace_pb2.ChunkLocation(chunk=packed, length=len(body), checksum=crc32c(body))
    for node in world.cluster.nodes.values():
        location.replicas.add(node_id=node.node_id, grpc=node.address, state=types_pb2.REPLICA_STATE_LIVE)
    world.cluster.sealed[packed] = location
    file.extents[0] = types_pb2.Extent(offset=0, length=11, chunk=packed, chunk_offset=5)
    # the opened file still believes in a chunk that no datanode has
    part = opened._parts[0]
    gone = namespace_pb2.ChunkLocation(chunk=old, length=11, replicas=location.replicas)
    opened._parts[0] = type(part)(0, 11, gone, 0)
    assert b"".join(opened.read(0)) == b"inline body"
    assert world.get() == b"inline body"


def test_a_damaged_inline_body_is_an_integrity_error(world: World) -> None:
    world.put(b"inline body")
    world.cluster.sealed[world.cluster.names[PATH].extents[0].chunk].body = b"inlime body"
    with pytest.raises(IntegrityError):
        world.get()


def test_a_gap_in_the_layout_is_an_integrity_error_and_not_a_short_read(world: World) -> None:
    world.put()
    del world.cluster.names[PATH].extents[1]
    with pytest.raises(IntegrityError, match="gap"):
        world.get()


def test_a_reader_of_this_machines_files_that_stops_early_ends_its_threads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put()
    monkeypatch.setattr(world.reader, "is_here", lambda chunk: True)
    stream = world.open().read(0)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  it is a generator
    deadline = threading.Event()
    for _ in range(400):
        if not _reading_ahead():
            return
        deadline.wait(0.01)
    pytest.fail("a thread that reads ahead is left")


def test_each_part_is_asked_for_once_before_the_one_in_front_ends_and_without_a_thread(world: World) -> None:
    world.put()
    stream = world.open().read(0)
    first = bytes(next(stream))
    assert len(world.cluster.net.streamed) == 2
    assert not _reading_ahead()
    assert first + b"".join(stream) == DATA
    assert len(world.cluster.net.streamed) == 3


def test_what_was_asked_for_and_is_not_read_is_cancelled(world: World) -> None:
    world.put()
    stream = world.open().read(0)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  it is a generator
    assert [call.cancelled.is_set() for call in world.cluster.net.streamed] == [True, True]


def test_a_part_that_was_asked_of_a_node_that_failed_meanwhile_is_read_elsewhere(world: World) -> None:
    world.put()
    stream = world.open().read(0)
    first = bytes(next(stream))
    asked = world.cluster.net.streamed[1]
    world.suspects.add([_preferred(world, world.cluster.names[PATH].extents[1].chunk).node_id])
    assert first + b"".join(stream) == DATA
    assert asked.cancelled.is_set()
    assert len(world.cluster.net.streamed) == 4


def _reading_ahead() -> bool:
    return any(thread.name == "quorumfs-read-ahead" for thread in threading.enumerate())


def test_the_nearest_replica_is_asked_first(world: World) -> None:
    world.put(DATA[:MIB])
    chunk = world.cluster.names[PATH].extents[0].chunk
    for node in world.cluster.nodes.values():
        node.reads.clear()
    for replica in world.cluster.sealed[chunk].replicas:
        replica.host = "here" if replica.node_id == "d2" else "there"
    world.get()
    assert [len(world.node(k).reads) for k in (1, 2, 3)] == [0, 1, 0]


def test_an_error_of_the_leader_while_reading_ahead_reaches_the_reader(world: World) -> None:
    world.put()
    opened = world.open()
    world.cluster.names[PATH].extents.clear()
    opened._parts.clear()
    opened._starts.clear()
    with pytest.raises(QuorumFSError):
        b"".join(opened.read(0))


def _preferred(world: World, chunk: bytes) -> Node:
    """The node that a reader asks first for `chunk`."""
    from quorumfs.read_chunk import _Attempt

    replica = world.reader._choose(world.cluster.sealed[chunk], _Attempt())
    assert replica is not None
    return world.cluster.nodes[replica.node_id]
