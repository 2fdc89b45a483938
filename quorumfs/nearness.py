"""Which replica to read first: nearest first, ties spread. Pure, but for the zone that is learned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from quorumfs.v1 import namespace_pb2, types_pb2

ZONE_VARIABLE = "QUORUMFS_ZONE"
_ALIVE = (types_pb2.NODE_STATE_ALIVE, types_pb2.NODE_STATE_UNSPECIFIED)
SAME_HOST, SAME_ZONE, ELSEWHERE = range(3)


class Nearness:
    """Where this client is. `zone`: empty until a replica on the same host tells it. Any thread may call."""

    def __init__(self, host: str, zone: str = "") -> None:
        self.host = host
        self._zone = zone

    def distance(self, replica: namespace_pb2.ReplicaLocation) -> int:
        """SAME_HOST, SAME_ZONE or ELSEWHERE."""
        if self.host and replica.host == self.host:
            self._zone = self._zone or replica.zone
            return SAME_HOST
        return SAME_ZONE if self._zone and replica.zone == self._zone else ELSEWHERE

    def order(
        self, chunk: namespace_pb2.ChunkLocation, suspects: Collection[str], without: Collection[str]
    ) -> list[namespace_pb2.ReplicaLocation]:
        """The replicas of `chunk` that may be asked, best first, but for those on the nodes `without`.

        Ties are spread by the chunk's id, the same for every client: a chunk is then in one node's page cache.
        """
        turn = _turn(chunk.chunk, len(chunk.replicas))
        ranked = sorted(
            (
                replica.state != types_pb2.REPLICA_STATE_LIVE,
                replica.node_id in suspects,
                replica.node_state not in _ALIVE,
                self.distance(replica),
                turn(place),
                place,
            )
            for place, replica in enumerate(chunk.replicas)
            if replica.grpc and replica.node_id not in without
        )
        return [chunk.replicas[rank[-1]] for rank in ranked]


def read_first(chunk: bytes, row: Sequence[types_pb2.NodeAddress], is_here: Callable[[str], bool]) -> str:
    """Of the nodes that are to hold a chunk, the one that a reader where its writer is will ask first, and most others
    as well. `is_here`: whether an address is of this machine."""
    nodes = sorted(row, key=lambda node: node.node_id)  # as the metadata tells them
    turn = _turn(chunk, len(nodes))
    places = range(len(nodes))
    here = [place for place in places if is_here(nodes[place].grpc)]
    return nodes[min(here or places, key=turn)].node_id


def _turn(chunk: bytes, count: int) -> Callable[[int], int]:
    """When the replica at a place has its turn among equals."""
    spread = int.from_bytes(chunk[:4], "little")
    return lambda place: (place + spread) % count
