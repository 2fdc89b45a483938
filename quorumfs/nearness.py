"""Which replica to read first: nearest first, ties spread. Pure, but for the zone that is learned."""

from __future__ import annotations

from collections.abc import Collection

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
        count = len(chunk.replicas)
        spread = int.from_bytes(chunk.chunk[:4], "little")
        ranked = sorted(
            (
                replica.state != types_pb2.REPLICA_STATE_LIVE,
                replica.node_id in suspects,
                replica.node_state not in _ALIVE,
                self.distance(replica),
                (place + spread) % count,
                place,
            )
            for place, replica in enumerate(chunk.replicas)
            if replica.grpc and replica.node_id not in without
        )
        return [chunk.replicas[rank[-1]] for rank in ranked]
