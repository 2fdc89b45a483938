"""The node table in memory: who is registered, and under which UUID."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from coordinator.soft.values import KnownNode, NodeTable


class Roster:
    """Rows of the node table, as of the log's index or, for rows that were read alone, of a later one.

    A question about one node costs the same however many there are: a thousand register with every new leader.
    """

    def __init__(self, nodes: Iterable[KnownNode] = (), index: int = 0) -> None:
        self._index = index
        self._read_alone: dict[str, int] = {}  # rows newer than the table: as of which index
        self._set({node.info.node_id: node for node in nodes})

    def _set(self, nodes: dict[str, KnownNode]) -> None:
        self._nodes = nodes
        self._datanodes = {node_id: node for node_id, node in nodes.items() if node.is_datanode}
        self._by_uuid: dict[str, set[str]] = {}
        for node_id, node in nodes.items():
            self._by_uuid.setdefault(node.info.node_uuid, set()).add(node_id)

    def take(self, table: NodeTable) -> bool:
        """Take the whole table over; False: a newer one came first."""
        if table.index < self._index:
            return False
        self._read_alone = {one: index for one, index in self._read_alone.items() if index > table.index}
        nodes = {node.info.node_id: node for node in table.nodes}
        nodes.update((one, self._nodes[one]) for one in self._read_alone)
        self._index = table.index
        self._set(nodes)
        return True

    def learn(self, node: KnownNode, index: int) -> None:
        """Take one row over, unless it is known as of later."""
        node_id = node.info.node_id
        if index < max(self._index, self._read_alone.get(node_id, 0)):
            return
        before = self._nodes.get(node_id)
        if before is not None:
            self._by_uuid[before.info.node_uuid].discard(node_id)
        self._by_uuid.setdefault(node.info.node_uuid, set()).add(node_id)
        self._nodes[node_id] = node
        if node.is_datanode:
            self._datanodes[node_id] = node
        else:
            self._datanodes.pop(node_id, None)
        self._read_alone[node_id] = index

    def get(self, node_id: str) -> KnownNode | None:
        return self._nodes.get(node_id)

    def with_uuid(self, node_uuid: str) -> Collection[str]:
        """The ids under which this UUID is registered: more than one only while a row is older than another."""
        return self._by_uuid.get(node_uuid, ())

    @property
    def nodes(self) -> Mapping[str, KnownNode]:
        """All of them; not to be kept."""
        return self._nodes

    @property
    def datanodes(self) -> Mapping[str, KnownNode]:
        return self._datanodes

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._nodes
