"""Who is to blame when a row of datanodes breaks."""

from __future__ import annotations

import pytest

from quorumfs.errors import Code
from quorumfs.store_chunk import blamed
from quorumfs.v1 import types_pb2

ROW = ("d1", "d2", "d3")
GOOD = None
CUT = Code.UNAVAILABLE  # cut off, given up, or not reached: the code is the same


def acks(*codes: Code | None) -> list[types_pb2.ReplicaAck]:
    return [
        types_pb2.ReplicaAck(node_id=node, durable=True)
        if code is None
        else types_pb2.ReplicaAck(
            node_id=node, error=types_pb2.ErrorDetail(code=types_pb2.ErrorCode.ValueType(code))
        )
        for node, code in zip(ROW, codes, strict=False)
    ]


@pytest.mark.parametrize(
    ("codes", "guilty"),
    [
        ((GOOD, GOOD, GOOD), set()),
        ((GOOD, CUT, CUT), {"d2"}),  # not reached; d3 stood behind it
        ((GOOD, GOOD, CUT), {"d3"}),
        ((CUT, Code.TIMED_OUT, CUT), {"d2"}),  # d1 gave up, d3 was cut off
        ((GOOD, Code.TIMED_OUT, CUT), {"d2"}),
        ((Code.NO_SPACE, GOOD, GOOD), {"d1"}),  # it relays for the others
        ((Code.NO_SPACE, CUT, CUT), {"d1", "d2"}),
        ((GOOD, Code.NO_SPACE, GOOD), {"d2"}),
        ((GOOD, Code.NO_SPACE, Code.NO_SPACE), {"d2", "d3"}),
        ((CUT, CUT, CUT), {"d2"}),
        ((GOOD, GOOD), {"d3"}),  # the row did not say what became of it
        ((), {"d1"}),
    ],
)
def test_only_who_broke_the_row_is_to_blame(codes: tuple[Code | None, ...], guilty: set[str]) -> None:
    assert blamed(ROW, acks(*codes)) == guilty
