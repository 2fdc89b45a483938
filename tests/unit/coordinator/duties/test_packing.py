"""The leader moves bodies from its metadata to datanodes, and touches nothing that changed meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from coordinator.decisions.packing import Rules
from coordinator.duties.packing import BUSY_SECONDS, IDLE_SECONDS, Packing
from quorumfs.checksum import crc32c
from quorumfs.errors import BusyError, NoPlacementError, NotLeaderError, UnavailableError
from quorumfs.frames import decode_write
from quorumfs.v1 import chunks_pb2
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import Coordinator
from tests.support.ops import clone, delete, put, ref, stat


class Datanodes:
    """A ChannelSource to datanodes that keep what they are sent, on all nodes of the pipeline."""

    def __init__(self) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.before_answer: Callable[[], object] = lambda: None
        self.broken: set[str] = set()

    def get(self, address: str) -> Any:
        return _Channel(self, address)

    def drop(self, address: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Channel:
    def __init__(self, nodes: Datanodes, address: str) -> None:
        self._nodes, self._address = nodes, address

    def stream_unary(self, path: str, request_serializer: Any, response_deserializer: Any) -> Any:
        return self

    def future(self, requests: Iterator[bytes]) -> Any:
        return _Call(self._nodes, self._address, requests)


class _Broken(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "Socket closed"

    def trailing_metadata(self) -> Any:
        return ()


class _Call:
    def __init__(self, nodes: Datanodes, address: str, requests: Iterator[bytes]) -> None:
        self._nodes, self._address, self._requests = nodes, address, requests

    def cancel(self) -> None:
        pass

    def result(self, timeout: float) -> chunks_pb2.WriteResponse:
        head = self._address.split(":")[0]
        if head in self._nodes.broken:
            raise _Broken
        messages = [decode_write(raw) for raw in self._requests]
        opening = messages[0].open
        assert opening is not None
        data = b"".join(bytes(one.data) for one in messages)
        self._nodes.chunks[opening.chunk] = data
        self._nodes.before_answer()
        row = [head, *(one.node_id for one in opening.pipeline)]
        acks = [t.ReplicaAck(node_id=one, disk_id=f"disk-{one}", durable=True) for one in row]
        return chunks_pb2.WriteResponse(replicas=acks)


@pytest.fixture
def nodes() -> Datanodes:
    return Datanodes()


@pytest.fixture
def duty(leader: Coordinator, nodes: Datanodes) -> Packing:
    leader.lead("d1", "d2", "d3")
    return make(leader, nodes)


def make(leader: Coordinator, nodes: Datanodes, threshold_bytes: int = 0) -> Packing:
    rules = Rules(threshold_bytes, age_ms=1 << 40, pack_bytes_min=1, pack_bytes_max=100)
    return Packing(leader.desk, leader.soft, nodes, "cluster", rules, lambda: 0.5, leader.clock)


def content(leader: Coordinator, nodes: Datanodes, path: bytes) -> bytes:
    """What a reader of the file gets."""
    from coordinator.metadata import queries

    layout = queries.answer(leader.db, n.ReadOp(layout=n.LayoutRequest(ref=ref(path)))).layout
    (extent,), (chunk,) = layout.extents, layout.chunks
    data = chunk.body if chunk.inline else nodes.chunks[chunk.chunk]
    return data[extent.chunk_offset : extent.chunk_offset + extent.length]


def rows(leader: Coordinator, query: str) -> list[tuple[Any, ...]]:
    return list(leader.db.execute(query).fetchall())


def test_bodies_move_to_datanodes_and_the_files_stay_the_same(
    leader: Coordinator, duty: Packing, nodes: Datanodes
) -> None:
    bodies = {b"/%d" % number: b"%d" % number * 10 for number in range(8)}
    leader.batch(*(put(path, body) for path, body in bodies.items()))
    leader.batch(clone(b"/0", b"/clone"), delete(b"/7"))
    before = {path: stat(leader.db, path).info for path in [*bodies][:7]}
    assert duty.work() == "moved 8 inline bodies of 8 to datanodes"
    assert duty.wait() == BUSY_SECONDS
    assert rows(leader, "SELECT count(*) FROM body") == [(0,)]
    assert {path: stat(leader.db, path).info for path in before} == before
    assert {path: content(leader, nodes, path) for path in before} == {path: bodies[path] for path in before}
    assert content(leader, nodes, b"/clone") == bodies[b"/0"]
    assert rows(leader, "SELECT want, live, upload FROM chunk") == [(3, 3, None)]
    assert rows(leader, "SELECT count(*) FROM upload") == [(0,)]
    assert duty.work() == "no inline bodies are to be moved"
    assert duty.wait() == IDLE_SECONDS


def test_packs_are_bounded_and_the_oldest_go_first(
    leader: Coordinator, duty: Packing, nodes: Datanodes
) -> None:
    for number in range(5):
        leader.batch(put(b"/%d" % number, b"%d" % number * 40))
    duty.work()
    assert [len(data) for data in nodes.chunks.values()] == [80]
    assert content(leader, nodes, b"/1") == b"1" * 40
    assert rows(leader, "SELECT count(*) FROM body") == [(3,)]
    duty.work()
    duty.work()
    assert rows(leader, "SELECT count(*) FROM body") == [(0,)]


def test_below_the_threshold_nothing_moves(leader: Coordinator, nodes: Datanodes) -> None:
    leader.lead("d1", "d2", "d3")
    duty = make(leader, nodes, threshold_bytes=10)
    leader.batch(put(b"/x", b"x" * 10))
    duty.work()
    assert nodes.chunks == {}
    leader.batch(put(b"/y", b"y"))
    duty.work()
    assert rows(leader, "SELECT count(*) FROM body") == [(0,)]


def test_files_that_change_while_their_bytes_travel_are_not_touched(
    leader: Coordinator, duty: Packing, nodes: Datanodes
) -> None:
    leader.batch(put(b"/stays", b"stays"), put(b"/changes", b"old"), put(b"/goes", b"goes"))

    def meanwhile() -> None:
        leader.batch(put(b"/changes", b"new"), delete(b"/goes", purge=True))
        leader.batch(n.Op(empty_trash=n.EmptyTrashRequest()))
        while leader.system(reap())[0].number:
            pass

    nodes.before_answer = meanwhile
    assert duty.work() == "moved 1 inline bodies of 3 to datanodes"
    assert content(leader, nodes, b"/stays") == b"stays"
    assert content(leader, nodes, b"/changes") == b"new"
    assert stat(leader.db, b"/changes").info.checksum == crc32c(b"new")


def reap() -> Any:
    from quorumfs.v1 import entries_pb2 as e

    return e.SystemCommand(reap_trash=e.ReapTrash(limit=100))


def test_a_leader_that_falls_leaves_the_bodies_where_they_are(
    leader: Coordinator, duty: Packing, nodes: Datanodes
) -> None:
    leader.batch(put(b"/x", b"body"))

    def fall() -> None:
        leader.consensus.refuse_with = NotLeaderError("c1 does not lead")

    nodes.before_answer = fall
    with pytest.raises(NotLeaderError):
        duty.work()
    assert content(leader, nodes, b"/x") == b"body"
    assert rows(leader, "SELECT count(*) FROM body") == [(1,)]
    assert rows(leader, "SELECT count(*) FROM upload") == [(1,)]  # it expires
    leader.consensus.refuse_with = None
    nodes.before_answer = lambda: None
    make(leader, nodes).work()  # of the next leadership
    assert rows(leader, "SELECT count(*) FROM body") == [(0,)]
    assert content(leader, nodes, b"/x") == b"body"


def test_without_room_on_datanodes_the_bodies_stay(leader: Coordinator, nodes: Datanodes) -> None:
    leader.lead("d1")
    duty = make(leader, nodes)
    leader.batch(put(b"/x", b"body"))
    with pytest.raises(NoPlacementError):
        duty.work()
    assert rows(leader, "SELECT count(*) FROM body") == [(1,)]
    assert rows(leader, "SELECT count(*) FROM upload") == [(0,)]


def test_a_node_that_breaks_is_avoided_the_next_time(leader: Coordinator, nodes: Datanodes) -> None:
    leader.lead("d1", "d2", "d3", "d4")
    duty = make(leader, nodes)
    leader.batch(put(b"/x", b"body"))
    nodes.broken = {"d1", "d2"}
    for _ in range(3):
        try:
            duty.work()
        except UnavailableError:
            continue
        break
    assert rows(leader, "SELECT count(*) FROM body") == [(0,)]


def test_a_body_that_is_not_what_was_written_stays_and_hinders_no_other(
    leader: Coordinator, duty: Packing, nodes: Datanodes
) -> None:
    leader.batch(put(b"/bad", b"bad"), put(b"/good", b"good"))
    leader.db.execute("UPDATE body SET bytes = x'626165' WHERE bytes = x'626164'")
    assert duty.work() == "moved 1 inline bodies of 2 to datanodes"
    assert duty.work() == "no inline bodies are to be moved"
    assert content(leader, nodes, b"/good") == b"good"


def test_a_busy_log_is_met_with_another_try(leader: Coordinator, duty: Packing, nodes: Datanodes) -> None:
    leader.batch(put(b"/x", b"body"))
    leader.consensus.refuse_with = BusyError("the queue is full")
    with pytest.raises(BusyError):
        duty.work()
    leader.consensus.refuse_with = None
    duty.work()
    assert rows(leader, "SELECT count(*) FROM body") == [(0,)]
