"""How coordinators are, as one member sees the others."""

from __future__ import annotations

import pytest

from coordinator.consensus import MemberState
from coordinator.services.view import state_of
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t


@pytest.mark.parametrize(
    ("connected", "heard_age", "expected"),
    [
        (True, 0.1, t.NODE_STATE_ALIVE),
        (True, 5.0, t.NODE_STATE_SUSPECT),
        (False, 0.1, t.NODE_STATE_SUSPECT),
        (False, 40.0, t.NODE_STATE_DEAD),
        (False, 1e9, t.NODE_STATE_DEAD),
    ],
)
def test_a_coordinator_is_alive_only_while_its_connection_stands(
    connected: bool, heard_age: float, expected: t.NodeState.ValueType
) -> None:
    assert state_of(MemberState(m.Member(node_id="c2"), 0, heard_age, connected)) == expected
