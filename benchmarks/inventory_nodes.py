"""Datanodes that say that they are there, and what they hold: in a process of their own, so that what they do at an
inventory holds up no caller that is measured. Of calls they answer one: there is nothing in their quarantine.

Config: `secret` (the file), `coordinators`, `ids` (a file of chunk ids in order, dealt out to the nodes in turns).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc

from benchmarks.children import serve
from common.cluster import ClusterNode
from common.cluster.content import Agenda
from common.cluster.transport import GrpcTransport
from common.server import Service, ThreadedServer
from datanode.duties.content import INVENTORY_PAGE_IDS
from quorumfs.ids import ID_BYTES
from quorumfs.rpc.trust import TrustedChannels, read_secret
from quorumfs.v1 import chunks_pb2 as pb
from quorumfs.v1 import chunks_pb2_grpc
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

NODES = ("d1", "d2", "d3")
HEARTBEAT_SECONDS = 0.2


class Quarantine(chunks_pb2_grpc.ChunksServicer):
    """Is empty; that is asked by leaders of a restored log."""

    def List(self, request: pb.ListChunksRequest, context: grpc.ServicerContext) -> pb.ListChunksResponse:  # noqa: N802
        return pb.ListChunksResponse()


_QUARANTINE = Service("quorumfs.v1.Chunks", Quarantine(), chunks_pb2_grpc.add_ChunksServicer_to_server)


class Node:
    """A datanode that says that it is there, and what it holds."""

    def __init__(self, secret: Path, coordinators: Sequence[str], node_id: str, ids: Sequence[bytes]) -> None:
        self._ids = ids
        self._epoch = (0, 0)
        key = read_secret(secret)
        self._channels = TrustedChannels(key, node_id)
        self._server = ThreadedServer(
            "127.0.0.1", 0, [_QUARANTINE], node_id=node_id, secret=lambda: key, control_threads=2
        )
        port = self._server.start()
        info = m.NodeInfo(
            node_id=node_id,
            node_uuid=f"bench-{node_id}",
            role=t.NODE_ROLE_DATANODE,
            grpc=f"127.0.0.1:{port}",
            incarnation=1,
            disks=self.disks(),
        )
        agenda = Agenda(self, self, lambda _: None, lambda _: None, lambda _: None, HEARTBEAT_SECONDS)
        self._agent = ClusterNode.for_datanode(
            lambda: info, coordinators, GrpcTransport(self._channels), agenda
        )
        self.start = self._agent.start

    def stop(self) -> None:
        self._agent.stop()
        self._server.stop(0.0)
        self._channels.close()

    # HeartbeatContent

    def load(self) -> m.NodeLoad:
        return m.NodeLoad()

    def disks(self) -> Sequence[t.DiskInfo]:
        return [
            t.DiskInfo(
                disk_id="disk",
                path="/disk",
                state="ok",
                total_bytes=1 << 40,
                free_bytes=1 << 39,
                used_bytes=1 << 39,
            )
        ]

    def take_delta(self, sequence: int) -> Sequence[m.ReplicaReport]:
        return []

    def outcomes(self, sequence: int) -> Sequence[m.CommandOutcome]:
        return []

    def acknowledged(self, sequence: int) -> None:
        pass

    def inventory(self) -> Iterator[m.InventoryPage]:
        for first in range(0, len(self._ids), INVENTORY_PAGE_IDS):
            yield m.InventoryPage(ids=b"".join(self._ids[first : first + INVENTORY_PAGE_IDS]))

    def holds_nothing(self) -> bool:
        return False

    # EpochStore: whoever leads is obeyed

    @property
    def epoch(self) -> tuple[int, int]:
        return self._epoch

    @property
    def commit_index(self) -> int:
        return 0

    @property
    def incarnation(self) -> int:
        return 1

    def obey(self, epoch: t.Epoch) -> None:
        self._epoch = (epoch.history, epoch.term)

    def heard(self, epoch: t.Epoch, commit_index: int) -> None:
        pass


def main() -> None:
    config = json.loads(sys.argv[1])
    raw = Path(config["ids"]).read_bytes()
    ids = [raw[at : at + ID_BYTES] for at in range(0, len(raw), ID_BYTES)]
    nodes = [
        Node(Path(config["secret"]), config["coordinators"].split(","), name, ids[k :: len(NODES)])
        for k, name in enumerate(NODES)
    ]
    for node in nodes:
        node.start()
    serve(lambda command: {})


if __name__ == "__main__":
    main()
