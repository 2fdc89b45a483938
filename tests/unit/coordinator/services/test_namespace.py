"""The Namespace service over the real state machine, without Raft and without sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.decisions.liveness import Timing
from coordinator.services.gateway import Gateway
from coordinator.services.namespace import TYPED_OPS, TYPED_READS, NamespaceService
from coordinator.services.placing import Placer, open_uploads
from coordinator.soft_state import SoftState, known_nodes
from quorumfs.clock import ManualClock
from quorumfs.errors import BusyError, Code, InvalidArgumentError, NotLeaderError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.local_consensus import LocalConsensus
from tests.support.streamed import StreamContext


class Context:
    """What handlers ask of a call."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:9"

    def time_remaining(self) -> float | None:
        return None


CALL: Any = Context()


class Served:
    """One coordinator's Namespace, and what stands behind it."""

    def __init__(self, directory: Path) -> None:
        self.clock = ManualClock()
        self.consensus = LocalConsensus(directory, self.clock)
        self.soft = SoftState(self.clock, Timing(3, 30))
        self.gateway = Gateway(self.clock, "c1")
        placer = Placer(self.soft, lambda ids: open_uploads(self.gateway, ids), random.Random(1).random, 2)
        self.service = NamespaceService(self.gateway, self.soft, placer)
        self.begin(0)

    def begin(self, datanodes: int) -> None:
        for k in range(1, datanodes + 1):
            info = m.NodeInfo(
                node_id=f"d{k}",
                node_uuid=f"uuid-{k}",
                role=t.NODE_ROLE_DATANODE,
                grpc=f"127.0.0.1:7{k}",
                incarnation=1,
            )
            self.consensus.apply_system(e.SystemCommand(register_node=e.RegisterNode(node=info)))
        self.soft.begin(1, 1, known_nodes(self.consensus.writer))
        for k in range(1, datanodes + 1):
            self.beat(k)

    def beat(self, k: int, free_bytes: int = 1 << 40) -> None:
        self.soft.heard(
            m.HeartbeatRequest(
                node_id=f"d{k}",
                node_uuid=f"uuid-{k}",
                incarnation=1,
                disks=[t.DiskInfo(disk_id=f"disk{k}", free_bytes=free_bytes, state="ok")],
            )
        )

    def run(self, ask: Callable[[NamespaceService], Awaitable[Any]]) -> Any:
        async def go() -> Any:
            self.gateway.attach(self.consensus, asyncio.get_running_loop())  # type: ignore[arg-type]
            return await asyncio.wait_for(ask(self.service), 10)

        return asyncio.run(go())

    def do(self, *ops: n.Op, **fields: Any) -> n.BatchResult:
        raw = n.Batch(ops=ops, **fields).SerializeToString()
        return n.BatchResult.FromString(self.run(lambda service: service.do(raw, CALL)))

    def read(self, *ops: n.ReadOp, **fields: Any) -> n.ReadBatchResult:
        raw = n.ReadBatch(ops=ops, **fields).SerializeToString()
        return n.ReadBatchResult.FromString(self.run(lambda service: service.read(raw, CALL)))

    def open_upload(self, path: bytes = b"/f") -> bytes:
        result = self.do(n.Op(open_upload=n.OpenUploadRequest(ref=n.Ref(path=path))))
        assert result.results[0].code == Code.OK, result
        return result.results[0].upload.upload


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.consensus.close()


def mkdir(path: bytes) -> n.Op:
    return n.Op(mkdir=n.MkdirRequest(ref=n.Ref(path=path)))


def stat(path: bytes) -> n.ReadOp:
    return n.ReadOp(stat=n.StatRequest(ref=n.Ref(path=path)))


def test_each_operation_of_a_batch_has_its_own_result_in_order(served: Served) -> None:
    result = served.do(mkdir(b"/a"), mkdir(b"/a"), mkdir(b"/b"))
    assert result.code == Code.OK
    assert [one.code for one in result.results] == [Code.OK, Code.ALREADY_EXISTS, Code.OK]


def test_the_log_gets_the_bytes_as_they_came(served: Served) -> None:
    # Fields in an order in which no encoder of ours would write them.
    raw = n.Batch(request_id="r").SerializeToString() + n.Batch(ops=[mkdir(b"/a")]).SerializeToString()
    served.run(lambda service: service.do(raw, CALL))
    assert served.consensus.proposed[-1].item.batch == raw


def test_a_read_sees_the_write_before_it(served: Served) -> None:
    served.do(mkdir(b"/a"))
    result = served.read(stat(b"/a"), stat(b"/nothing"), tag=9)
    assert [one.code for one in result.results] == [Code.OK, Code.NOT_FOUND]
    assert result.tag == 9
    assert result.age_ms == 0


def test_the_same_bytes_in_a_session_take_effect_once(served: Served) -> None:
    opened = served.do(n.Op(open_session=n.OpenSessionRequest(client="test")))
    session = opened.results[0].session.session
    first = served.do(mkdir(b"/a"), session=session, slot=0, seq=1)
    again = served.do(mkdir(b"/a"), session=session, slot=0, seq=1)
    assert first.results[0].code == Code.OK
    assert again == first


def test_a_follower_names_the_leader_inside_the_answer(served: Served) -> None:
    served.consensus.depose("c2")
    result = served.do(mkdir(b"/a"), slot=3, seq=7)
    assert result.code == Code.NOT_LEADER
    assert result.error.leader.grpc == "127.0.0.1:20"
    assert (result.slot, result.seq) == (3, 7)
    assert served.read(stat(b"/")).error.leader.node_id == "c2"


def test_without_a_leader_a_follower_names_nobody(served: Served) -> None:
    served.consensus.depose(None)
    result = served.do(mkdir(b"/a"))
    assert result.code == Code.NOT_LEADER
    assert not result.error.HasField("leader")


def test_a_typed_call_at_a_follower_raises(served: Served) -> None:
    served.consensus.depose("c2")
    with pytest.raises(NotLeaderError) as caught:
        served.run(lambda service: service.typed("mkdir", n.MkdirRequest(ref=n.Ref(path=b"/a")), CALL))
    assert caught.value.leader is not None
    assert caught.value.leader.node_id == "c2"


def test_a_typed_call_is_a_batch_of_one(served: Served) -> None:
    made = served.run(lambda service: service.typed("mkdir", n.MkdirRequest(ref=n.Ref(path=b"/a")), CALL))
    assert made.code == Code.OK
    found = served.run(lambda service: service.typed_read("stat", n.StatRequest(ref=n.Ref(path=b"/a")), CALL))
    assert found.info.type == t.INODE_TYPE_DIRECTORY


def test_every_typed_face_of_the_wire_is_served() -> None:
    methods = n.DESCRIPTOR.services_by_name["Namespace"].methods_by_name
    batched = {"Do", "Read", "DoStream", "ReadStream", "KeepAlive", "ReportReplica"}
    assert set(methods) == {*TYPED_OPS, *TYPED_READS, *batched}
    for name, field in {**TYPED_OPS, **TYPED_READS}.items():
        carrier = n.Op if name in TYPED_OPS else n.ReadOp
        assert carrier.DESCRIPTOR.fields_by_name[field].message_type == methods[name].input_type


def test_bytes_that_are_no_batch_are_a_malformed_call(served: Served) -> None:
    with pytest.raises(InvalidArgumentError):
        served.run(lambda service: service.do(b"\xff\xff", CALL))


def test_a_full_queue_is_told_inside_the_answer(served: Served) -> None:
    served.consensus.refuse_with = BusyError("the queue is full")
    assert served.do(mkdir(b"/a")).code == Code.BUSY


def test_a_stale_read_is_answered_by_a_follower_and_says_how_old_it_may_be(served: Served) -> None:
    served.do(mkdir(b"/a"))
    served.consensus.depose("c2")
    served.consensus.age = 1.5
    result = served.read(stat(b"/a"), consistency=n.CONSISTENCY_STALE)
    assert result.results[0].code == Code.OK
    assert result.age_ms == 1500
    refused = served.read(stat(b"/a"), consistency=n.CONSISTENCY_STALE, max_staleness_ms=1000)
    assert refused.code == Code.PRECONDITION_FAILED


def test_a_question_whose_turn_comes_after_its_time_is_not_asked(served: Served, monkeypatch: Any) -> None:
    served.do(mkdir(b"/a"))
    at_once = served.consensus.read_stale

    def late(question: Any, done: Any) -> None:
        served.clock.advance(0.6)
        at_once(question, done)

    monkeypatch.setattr(served.consensus, "read_stale", late)
    for consistency in (n.CONSISTENCY_LINEARIZABLE, n.CONSISTENCY_STALE):
        assert served.read(stat(b"/a"), ttl_ms=500, consistency=consistency).code == Code.TIMED_OUT
        assert served.read(stat(b"/a"), ttl_ms=700, consistency=consistency).code == Code.OK
        assert served.read(stat(b"/a"), consistency=consistency).code == Code.OK


def test_an_allocation_gets_nodes_that_were_chosen_before_it_was_proposed(served: Served) -> None:
    served.begin(4)
    upload = served.open_upload()
    allocate = n.Op(allocate=n.AllocateRequest(upload=upload, count=2, size_hint=1000, exclude=["d2"]))
    result = served.do(allocate)
    chunks = result.results[0].allocation.chunks
    assert len(chunks) == 2
    for chunk in chunks:
        nodes = [replica.node_id for replica in chunk.replicas]
        assert len(set(nodes)) == 3
        assert "d2" not in nodes


def test_an_allocation_without_room_says_why_of_each_node(served: Served) -> None:
    served.begin(3)
    served.beat(1, free_bytes=10)
    upload = served.open_upload()
    for _ in range(31):
        served.clock.advance(1)
        served.beat(1, free_bytes=10)
    allocate = n.Op(allocate=n.AllocateRequest(upload=upload, count=1, size_hint=1000))
    result = served.do(mkdir(b"/before"), allocate, mkdir(b"/after"))
    assert [one.code for one in result.results] == [Code.OK, Code.NO_PLACEMENT, Code.OK]
    cause = result.results[1].error.cause
    assert "d1: full: 10 bytes" in cause
    assert "d2: dead" in cause
    assert "d3: dead" in cause


def test_a_sign_of_life_names_the_uploads_that_are_gone(served: Served) -> None:
    upload = served.open_upload()
    request = n.KeepAliveRequest(uploads=[upload, b"x" * 16])
    answer = served.run(lambda service: service.keep_alive(request, CALL))
    assert list(answer.gone) == [b"x" * 16]


def complain(served: Served, chunk: bytes, node_id: str) -> n.ReportReplicaResponse:
    request = n.ReportReplicaRequest(chunk=chunk, node_id=node_id, state=t.REPLICA_STATE_CORRUPT)
    answer = served.run(lambda service: service.report_replica(request, CALL))
    assert isinstance(answer, n.ReportReplicaResponse)
    return answer


def test_a_complaint_about_a_replica_makes_its_node_verify(served: Served) -> None:
    served.begin(3)
    allocate = n.AllocateRequest(upload=served.open_upload(), count=1, size_hint=1000)
    (chunk,) = served.do(n.Op(allocate=allocate)).results[0].allocation.chunks
    assert complain(served, chunk.chunk, chunk.replicas[0].node_id).code == Code.OK
    commands = served.soft.deliver(chunk.replicas[0].node_id)
    assert [one.verify.chunk for one in commands] == [chunk.chunk]


def test_a_complaint_about_what_nobody_has_costs_no_node_anything(served: Served) -> None:
    served.begin(1)
    assert complain(served, b"c" * 16, "d1").code == Code.NOT_FOUND
    assert complain(served, b"short", "d1").code == Code.INVALID_ARGUMENT
    assert served.soft.deliver("d1") == []


def test_signs_of_life_of_what_nobody_opened_are_not_kept(served: Served) -> None:
    upload = served.open_upload()
    made = served.do(n.Op(open_session=n.OpenSessionRequest(client="test")))
    session = made.results[0].session.session
    served.clock.advance(100)
    for uploads, number in (([upload, b"x" * 16], session), ([], 7), ([], 2**64 - 1)):
        request = n.KeepAliveRequest(uploads=uploads, session=number)
        assert served.run(lambda service, one=request: service.keep_alive(one, CALL)).code == Code.OK
    assert served.soft.lifeless_uploads([upload, b"x" * 16], 50) == [b"x" * 16]
    assert served.soft.lifeless_sessions([session, 7, 2**64 - 1], 50) == [7, 2**64 - 1]


def test_one_batch_does_not_give_the_same_room_away_twice(served: Served) -> None:
    served.begin(2)
    for k in (1, 2):
        served.beat(k, free_bytes=2500)
    upload = served.open_upload()
    allocate = n.Op(allocate=n.AllocateRequest(upload=upload, count=2, size_hint=1000))
    result = served.do(allocate, allocate)
    assert [one.code for one in result.results] == [Code.OK, Code.NO_PLACEMENT]


def test_answers_that_would_not_fit_into_a_message_are_refused_one_by_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.services.answers.ANSWER_BYTES_MAX", 1000)
    target = b"t" * 600
    served.do(*(n.Op(symlink=n.SymlinkRequest(ref=n.Ref(path=b"/%d" % k), target=target)) for k in range(3)))
    result = served.read(*(stat(b"/%d" % k) for k in range(3)), stat(b"/"))
    assert [one.code for one in result.results] == [Code.OK, Code.OK, Code.TOO_LARGE, Code.TOO_LARGE]
    assert result.results[2].error.next


def test_a_stream_answers_every_batch(served: Served) -> None:
    requests = [n.Batch(ops=[mkdir(b"/%d" % k)], slot=k, seq=1).SerializeToString() for k in range(20)]

    async def ask(service: NamespaceService) -> list[n.BatchResult]:
        stream: Any = StreamContext(requests)
        await service.do_stream(None, stream)
        return [n.BatchResult.FromString(raw) for raw in stream.written]

    answers = served.run(ask)
    assert len(answers) == 20
    assert all(one.results[0].code == Code.OK for one in answers)


def test_a_stream_refuses_a_batch_and_goes_on(served: Served) -> None:
    good = n.Batch(ops=[mkdir(b"/a")], slot=1, seq=1).SerializeToString()

    async def ask(service: NamespaceService) -> list[n.BatchResult]:
        stream: Any = StreamContext([n.Batch().SerializeToString(), good])
        await service.do_stream(None, stream)
        return [n.BatchResult.FromString(raw) for raw in stream.written]

    refused, done = sorted(served.run(ask), key=lambda one: len(one.results))
    assert refused.code == Code.INVALID_ARGUMENT
    assert done.results[0].code == Code.OK


def test_a_stream_places_chunks_and_answers_what_came_with_them(served: Served) -> None:
    served.begin(2)
    allocate = n.Op(allocate=n.AllocateRequest(upload=served.open_upload(), count=1, size_hint=1000))

    async def ask(service: NamespaceService) -> list[n.BatchResult]:
        stream: Any = StreamContext(
            n.Batch(ops=[op]).SerializeToString() for op in (allocate, mkdir(b"/beside"))
        )
        await service.do_stream(None, stream)
        return [n.BatchResult.FromString(raw) for raw in stream.written]

    assert [one.results[0].code for one in served.run(ask)] == [Code.OK, Code.OK]


def test_bytes_that_are_no_batch_end_the_stream(served: Served) -> None:
    async def ask(service: NamespaceService) -> None:
        stream: Any = StreamContext([b"\xff"])
        await service.do_stream(None, stream)

    with pytest.raises(InvalidArgumentError):
        served.run(ask)


def test_a_stream_answers_questions_and_refuses_those_it_may_not_answer(served: Served) -> None:
    served.do(mkdir(b"/a"))
    one, none = n.ReadBatch(ops=[stat(b"/a")]), n.ReadBatch()

    async def ask(service: NamespaceService) -> list[n.ReadBatchResult]:
        stream: Any = StreamContext(batch.SerializeToString() for batch in (none, one))
        await service.read_stream(None, stream)
        return [n.ReadBatchResult.FromString(raw) for raw in stream.written]

    refused, found = sorted(served.run(ask), key=lambda one: len(one.results))
    assert refused.code == Code.INVALID_ARGUMENT
    assert found.results[0].code == Code.OK
