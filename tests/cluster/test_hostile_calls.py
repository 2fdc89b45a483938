"""Every gRPC call of both kinds of node, with messages that a fuzzer made and with bytes that are none.

Whatever is sent, the answer is a refusal or an answer: no status UNKNOWN or INTERNAL, no traceback to the caller or in
a log, no crash, no memory that is not given back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture
from tests.support.agents import ask
from tests.support.calls import all_calls, answers
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

cluster = cluster_fixture()

CALLS = [
    pytest.param(role, method, id=f"{role}-{method.containing_service.name}.{method.name}")
    for role, method in all_calls()
]
CALL_SECONDS = 0.5
ANSWERS_MAX = 20
GROWTH_BYTES_MAX = 96 << 20

WORDS = (
    *("", "c1", "d1", "d9", "../..", "run", "pause", "resume", "start", "remove", "add", "labels", "drain"),
    *(
        "undrain",
        "end_maintenance",
        "debug",
        "info",
        "graceful",
        "/",
        "/a/b",
        "zone=a",
        "x" * 5000,
        "\x00",
        "ä\u2028",
    ),
)
FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, -1.0, 1e300, math.inf, -math.inf, math.nan]))
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_DOUBLE: FLOATS,
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: st.one_of(st.sampled_from(WORDS), st.text(max_size=40)),
    FieldDescriptor.TYPE_BYTES: st.one_of(
        st.binary(max_size=80),
        st.binary(min_size=16, max_size=16),
        st.sampled_from([b"/", b"/a", b"/a/../b"]),
    ),
}
UNSIGNED = {
    FieldDescriptor.TYPE_UINT32: 32,
    FieldDescriptor.TYPE_FIXED32: 32,
    FieldDescriptor.TYPE_UINT64: 64,
    FieldDescriptor.TYPE_FIXED64: 64,
}
SIGNED = {
    FieldDescriptor.TYPE_INT32: 32,
    FieldDescriptor.TYPE_SINT32: 32,
    FieldDescriptor.TYPE_SFIXED32: 32,
    FieldDescriptor.TYPE_ENUM: 32,
    FieldDescriptor.TYPE_INT64: 64,
    FieldDescriptor.TYPE_SINT64: 64,
    FieldDescriptor.TYPE_SFIXED64: 64,
}


def scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type in UNSIGNED:
        most = 2 ** UNSIGNED[field.type] - 1
        return st.one_of(st.integers(0, 9), st.sampled_from([most, most // 2]), st.integers(0, most))
    if field.type in SIGNED:
        half = 2 ** (SIGNED[field.type] - 1)
        return st.one_of(st.integers(-2, 9), st.sampled_from([-half, half - 1]))
    return SCALARS[field.type]


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 3) -> Message:
    """A message of this type, any fields of which are set to anything that they can carry."""
    made: Message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if not draw(st.booleans()) or (field.message_type is not None and depth == 0):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in draw(st.lists(st.sampled_from(WORDS), max_size=3)):
                getattr(made, field.name)[key] = draw(st.sampled_from(WORDS))
        elif field.is_repeated and field.message_type is not None:
            for one in draw(st.lists(messages(field.message_type, depth - 1), max_size=3)):
                getattr(made, field.name).append(one)
        elif field.is_repeated:
            getattr(made, field.name).extend(draw(st.lists(scalar(field), max_size=4)))
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(draw(messages(field.message_type, depth - 1)))
        else:
            setattr(made, field.name, draw(scalar(field)))
    return made


def harmless(method: MethodDescriptor, request: Message) -> bytes:
    """The request's bytes; without what an operator may do here, and which would end the test."""
    asked: Any = request
    match method.name:
        case "Shutdown":
            asked.mode, asked.cancel = "nonsense", False
        case "TransferLeadership":
            asked.to_node_id = asked.to_node_id or "nobody"
    return request.SerializeToString()


def check(channel: grpc.Channel, method: MethodDescriptor, sent: list[bytes]) -> None:
    try:
        list(answers(channel, method, sent, CALL_SECONDS, ANSWERS_MAX))
    except grpc.RpcError as error:
        told: Any = error
        words = str(told.details())
        assert "Traceback" not in words
        assert told.code() is not grpc.StatusCode.UNKNOWN, words
        assert told.code() is not grpc.StatusCode.INTERNAL, words


@pytest.fixture(scope="module")
def channels(cluster: LocalCluster) -> Iterator[dict[str, grpc.Channel]]:
    targets = {"coordinator": cluster.leader(), "datanode": "d1"}
    made = {
        role: grpc.insecure_channel(cluster.layout.node(node_id).address("grpc"))
        for role, node_id in targets.items()
    }
    yield made
    for channel in made.values():
        channel.close()


@pytest.fixture(scope="module")
def sizes(cluster: LocalCluster) -> dict[str, tuple[int, int]]:
    return lives(cluster)


def lives(cluster: LocalCluster) -> dict[str, tuple[int, int]]:
    """(process id, resident bytes) of every node."""
    return {
        one.node_id: (pid(cluster, one.node_id), resident(pid(cluster, one.node_id))) for one in cluster.nodes
    }


def pid(cluster: LocalCluster, node_id: str) -> int:
    found: int = ask(cluster.layout.node(node_id), "/status").json["pid"]
    return found


def resident(process: int) -> int:
    with open(f"/proc/{process}/statm") as statm:
        return int(statm.read().split()[1]) * 4096


@pytest.mark.parametrize(("role", "method"), CALLS)
def test_whatever_is_sent_is_answered_or_refused(
    channels: dict[str, grpc.Channel], sizes: object, role: str, method: MethodDescriptor
) -> None:
    @settings(
        max_examples=6,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(messages(method.input_type), min_size=1, max_size=3), st.binary(max_size=200))
    def run(requests: list[Message], raw: bytes) -> None:
        check(channels[role], method, [harmless(method, one) for one in requests])
        if method.name not in ("Shutdown", "TransferLeadership"):
            check(channels[role], method, [raw])

    run()


def test_the_nodes_are_the_same_as_before_and_work(
    cluster: LocalCluster, fs: Client, sizes: dict[str, tuple[int, int]]
) -> None:
    """Runs after all the others of this module."""
    for node_id, (process, size) in lives(cluster).items():
        assert process == sizes[node_id][0], f"{node_id} was started anew"
        assert size - sizes[node_id][1] < GROWTH_BYTES_MAX, (
            f"{node_id} grew by {size - sizes[node_id][1]} bytes"
        )
    fs.write_bytes("/after", b"x" * 100_000)
    assert fs.read_bytes("/after") == b"x" * 100_000
    assert surprises(cluster) == []
