"""The node table as soft state wants it, and what follows for a node's disks from what it tells."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from coordinator.metadata import queries
from coordinator.metadata.queries import FailedDisk, LostDisk
from coordinator.soft.values import KnownNode, NodeTable
from quorumfs.v1 import types_pb2 as t


def node_table(tx: sqlite3.Connection) -> NodeTable:
    """The node table with the index that it is as of."""
    return NodeTable(queries.applied_index(tx), tuple(known_nodes(tx)))


def known_nodes(
    tx: sqlite3.Connection, role: t.NodeRole.ValueType = t.NODE_ROLE_UNSPECIFIED
) -> list[KnownNode]:
    """The node table as soft state wants it; of a role only, if one is given."""
    return [_known(row) for row in queries.node_rows(tx, role)]


def known_node(tx: sqlite3.Connection, node_id: str) -> tuple[KnownNode, int] | None:
    """One row of it, and the index that it is as of."""
    row = queries.node_row(tx, node_id)
    return None if row is None else (_known(row), queries.applied_index(tx))


def _known(row: queries.NodeRow) -> KnownNode:
    return KnownNode(row.info, row.intent, row.disk_ids, row.maintenance_until_ms)


def lost_disks(known: KnownNode, told: Iterable[tuple[str, str]]) -> frozenset[LostDisk]:
    """Of the disks that a node ever had, those that it does not tell of, or calls failed. `told`: ids and states; of a
    node that was not heard, and of one in maintenance, none is lost."""
    states = dict(told)
    if not states or known.intent == t.NODE_INTENT_MAINTENANCE:
        return frozenset()
    node_id = known.info.node_id
    failed = (FailedDisk(node_id, one) for one in known.disk_ids if states.get(one) == "failed")
    absent = (LostDisk(node_id, one) for one in known.disk_ids if one not in states)
    return frozenset([*failed, *absent])
