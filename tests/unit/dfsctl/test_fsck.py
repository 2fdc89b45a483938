"""`dfsctl fsck`: the report, the comparison of every datanode, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quorumfs.errors import PreconditionFailedError
from quorumfs.v1 import admin_pb2, membership_pb2, types_pb2

Dfsctl = Callable[..., Any]
LOST = b"l" * 16
VIEW = membership_pb2.ClusterView(
    nodes=[
        membership_pb2.NodeView(info=membership_pb2.NodeInfo(node_id=node_id, role=role))
        for node_id, role in (
            ("d1", types_pb2.NODE_ROLE_DATANODE),
            ("c1", types_pb2.NODE_ROLE_COORDINATOR),
        )
    ]
)
KEPT = [admin_pb2.KeptChunks(want=3, number=3, chunks=2, bytes=10)]
WHOLE = admin_pb2.Durability(copies=KEPT, zones=KEPT, racks=KEPT, hosts=KEPT, chunks=2, inline_chunks=1)


@pytest.fixture
def well(coordinator: Any) -> Any:
    coordinator.answers = {
        "Control.GetDurability": WHOLE,
        "Membership.GetCluster": VIEW,
        "Control.ExamineNode": admin_pb2.NodeExamination(listed=2, recorded=2),
    }
    return coordinator


def test_a_cluster_that_is_well_has_the_documented_shape(dfsctl: Dfsctl, well: Any) -> None:
    said = dfsctl("fsck", "-o", "json")
    assert said.code == 0
    assert said.json == {
        "ok": True,
        "chunks": 2,
        "inline_chunks": 1,
        "inline_bytes": 0,
        "under_replicated": 0,
        "missing": 0,
        "copies": [{"want": 3, "live": 3, "chunks": 2, "size_bytes": 10}],
        **{
            kind: [{"want": 3, "number": 3, "chunks": 2, "size_bytes": 10}]
            for kind in ("zones", "racks", "hosts")
        },
        "problems": [],
        "age_seconds": 0.0,
        "nodes": [
            {
                "node_id": "d1",
                "error": None,
                "listed": 2,
                "recorded": 2,
                "missing": [],
                "missing_total": 0,
                "strays": [],
                "strays_total": 0,
                "unrecorded": [],
                "unrecorded_total": 0,
            }
        ],
    }
    assert "2 chunks on datanodes" in dfsctl("fsck").text


def test_pages_are_put_together_and_a_missing_replica_is_exit_code_nine(dfsctl: Dfsctl, well: Any) -> None:
    pages = [
        admin_pb2.NodeExamination(listed=2, recorded=3, missing=[LOST], next=LOST),
        admin_pb2.NodeExamination(listed=1, recorded=0, strays=[b"s" * 16]),
    ]
    well.answers["Control.ExamineNode"] = iter(pages)
    said = dfsctl("fsck", "-o", "json")
    assert said.code == 9
    (node,) = said.json["nodes"]
    assert (node["listed"], node["recorded"]) == (3, 3)
    assert (node["missing"], node["strays_total"]) == ([LOST.hex()], 1)
    assert said.json["ok"] is False
    asked = [request.after for method, request, _ in well.asked if method == "Control.ExamineNode"]
    assert asked == [b"", LOST]


def test_a_chunk_that_cannot_be_read_is_named_with_its_files(dfsctl: Dfsctl, well: Any) -> None:
    lacking = admin_pb2.LackingChunk(chunk=LOST, length=5, want=3, others=["d1"], paths=["/x"])
    well.answers["Control.GetDurability"] = admin_pb2.Durability(
        chunks=1, lacking=[lacking], lacking_total=1, missing_total=1
    )
    said = dfsctl("fsck", "--quick", "-o", "json")
    assert said.code == 9
    assert said.json["problems"][0]["paths"] == ["/x"]
    assert (said.json["missing"], said.json["under_replicated"], said.json["nodes"]) == (1, 0, [])
    assert "/x" in dfsctl("fsck", "--quick").text


def test_a_node_that_cannot_be_compared_is_exit_code_eight(dfsctl: Dfsctl, well: Any) -> None:
    well.answers["Control.ExamineNode"] = PreconditionFailedError("d1 is not heard")
    said = dfsctl("fsck", "-o", "json")
    assert said.code == 8
    assert "d1 is not heard" in said.json["nodes"][0]["error"]
    assert said.json["ok"] is False
