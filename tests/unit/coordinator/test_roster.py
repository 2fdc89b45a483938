"""The node table in memory, beside a plain dict that is made anew each time."""

from __future__ import annotations

import random

from coordinator.soft.roster import Roster
from coordinator.soft.values import KnownNode, NodeTable
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t


def node(node_id: str, node_uuid: str, role: t.NodeRole.ValueType = t.NODE_ROLE_DATANODE) -> KnownNode:
    return KnownNode(m.NodeInfo(node_id=node_id, node_uuid=node_uuid, role=role))


def test_a_uuid_is_found_under_every_id_that_has_it_and_no_other() -> None:
    roster = Roster([node("d1", "a"), node("d2", "b")], 10)
    assert set(roster.with_uuid("a")) == {"d1"}
    roster.learn(node("d3", "a"), 11)
    assert set(roster.with_uuid("a")) == {"d1", "d3"}
    roster.learn(node("d1", "c"), 12)
    assert set(roster.with_uuid("a")) == {"d3"}
    assert set(roster.with_uuid("c")) == {"d1"}
    assert roster.take(NodeTable(13, (node("d2", "b"),)))
    assert not roster.with_uuid("a")
    assert set(roster.with_uuid("b")) == {"d2"}


def test_learning_a_node_copies_no_table() -> None:
    """A thousand are learned one by one."""
    roster = Roster([node("d1", "a")], 10)
    before = roster.nodes
    roster.learn(node("d2", "b"), 11)
    assert roster.nodes is before
    assert list(before) == ["d1", "d2"]


def test_whatever_comes_in_whatever_order_the_indexes_say_what_the_rows_say() -> None:
    chance = random.Random(7)
    roles = (t.NODE_ROLE_DATANODE, t.NODE_ROLE_COORDINATOR)
    roster = Roster()

    def some() -> KnownNode:
        return node(f"n{chance.randrange(6)}", f"u{chance.randrange(4)}", chance.choice(roles))

    for index in range(500):
        age = index - chance.randrange(5)
        if chance.random() < 0.2:
            rows = {one.info.node_id: one for one in (some() for _ in range(3))}
            roster.take(NodeTable(age, tuple(rows.values())))
        else:
            roster.learn(some(), age)
        rows_now = roster.nodes
        assert dict(roster.datanodes) == {key: one for key, one in rows_now.items() if one.is_datanode}
        for number in range(4):
            there = {key for key, one in rows_now.items() if one.info.node_uuid == f"u{number}"}
            assert set(roster.with_uuid(f"u{number}")) == there
