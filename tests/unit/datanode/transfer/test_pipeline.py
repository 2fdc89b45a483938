"""What a write asks for, who comes next, whether it is worth going on. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datanode.transfer import pipeline
from quorumfs import limits
from quorumfs.errors import Code, InvalidArgumentError, UnavailableError, WrongClusterError
from quorumfs.limits import REPLICATION_MAX
from quorumfs.v1.chunks_pb2 import WriteOpen
from quorumfs.v1.types_pb2 import NodeAddress, ReplicaAck
from tests.unit.datanode.transfer.rows import CHUNK, address


def read(message: WriteOpen | None, cluster_id: str = "mine") -> pipeline.Opening:
    return pipeline.read_opening(message, "d1", cluster_id)


def wanted(*behind: NodeAddress, **fields: object) -> WriteOpen:
    return WriteOpen(chunk=CHUNK, upload=b"u" * 16, pipeline=behind, **fields)  # type: ignore[arg-type]


def test_each_node_passes_on_what_is_left_of_the_row() -> None:
    first = read(wanted(address("d2"), address("d3"), min_replicas=2))
    second = pipeline.passed_on(first, keeps_own=True)
    assert [one.node_id for one in second.pipeline] == ["d3"]
    assert second.min_replicas == 1
    assert pipeline.passed_on(first, keeps_own=False).min_replicas == 2


@pytest.mark.parametrize(("told", "soon"), [("", True), ("d1", True), ("d2", False)])
def test_a_replica_is_read_soon_unless_another_one_is_read_first(told: str, soon: bool) -> None:
    first = read(wanted(address("d2"), read_first=told))
    assert first.read_soon is soon
    assert pipeline.passed_on(first, keeps_own=True).read_first == told


@pytest.mark.parametrize(
    ("min_replicas", "keeps", "alive", "worth"),
    [
        (2, True, True, True),
        (2, True, False, False),
        (1, True, False, True),
        (2, False, True, True),
        (3, False, True, False),
        (0, False, False, False),
    ],
)
def test_a_write_goes_on_while_enough_replicas_can_come_of_it(
    min_replicas: int, keeps: bool, alive: bool, worth: bool
) -> None:
    opening = read(wanted(address("d2"), address("d3"), min_replicas=min_replicas))
    assert pipeline.worth_going_on(opening, keeps, alive) is worth


def test_a_foreign_clusters_write_is_refused() -> None:
    with pytest.raises(WrongClusterError):
        read(wanted(cluster_id="theirs"))
    assert read(wanted(cluster_id="mine")).behind == ()
    assert read(wanted(cluster_id="theirs"), cluster_id="").behind == ()  # it does not know its own yet


@pytest.mark.parametrize(
    "message",
    [
        None,
        WriteOpen(),
        WriteOpen(chunk=b"short", upload=b"u" * 16),
        WriteOpen(chunk=CHUNK, upload=b"short"),
        wanted(address("d1")),
        wanted(address("d2"), address("d2", 7501)),
        wanted(address("d2"), NodeAddress(node_id="d3", grpc="d2.example:7500")),
        wanted(*(address(f"n{k}") for k in range(REPLICATION_MAX))),
    ],
)
def test_an_opening_that_makes_no_sense_is_refused(message: WriteOpen | None) -> None:
    with pytest.raises(InvalidArgumentError):
        read(message)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":1",
        "unix:/run/x",
        "unix:1",
        "dns:1",
        "dns:///h:1",
        "a:1:2",
        "h:123456",
        "h :1",
        "::1:5",
    ],
)
def test_a_client_cannot_have_a_connection_made_to_anything_but_host_and_port(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="host:port"):
        read(wanted(NodeAddress(node_id="d2", grpc=text)))


@pytest.mark.parametrize("text", ["127.0.0.1:7500", "[::1]:7500", "d2:1", "d2.storage_net.example:65535"])
def test_the_addresses_that_nodes_have_are_taken(text: str) -> None:
    assert read(wanted(NodeAddress(node_id="d2", grpc=text))).behind[0].grpc == text


@given(st.text(max_size=40))
def test_any_other_address_is_refused_and_nothing_else_happens(text: str) -> None:
    try:
        read(wanted(NodeAddress(node_id="d2", grpc=text)))
    except InvalidArgumentError:
        return
    host, _, port = text.rpartition(":")
    assert host
    assert port.isdecimal()


def test_the_first_of_a_lost_row_is_to_blame_and_the_others_were_only_cut_off() -> None:
    first, second = pipeline.lost_acks([address("d2"), address("d3")], UnavailableError("gone"))
    assert (first.node_id, first.error.message) == ("d2", "gone")
    assert "d2 before it" in second.error.cause
    assert pipeline.lost_acks([], UnavailableError("gone")) == []


def test_who_is_not_mentioned_in_an_answer_is_not_durable() -> None:
    given_by_row = [ReplicaAck(node_id="d3", durable=True), ReplicaAck(node_id="stranger", durable=True)]
    acks = pipeline.complete_acks([address("d2"), address("d3")], given_by_row)
    assert [(ack.node_id, ack.durable) for ack in acks] == [("d2", False), ("d3", True)]
    assert acks[0].error.code == Code.UNAVAILABLE


def test_a_node_gives_up_on_the_next_before_the_one_in_front_gives_up_on_it() -> None:
    for row in range(1, limits.REPLICATION_MAX):
        assert limits.stall_seconds(row + 1) - limits.stall_seconds(row) >= 1.0
        assert limits.seal_seconds(row + 1) - limits.seal_seconds(row) >= limits.STALL_SECONDS
