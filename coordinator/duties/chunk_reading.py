"""How duties read bytes from datanodes: as a client does, every block verified, from whichever replica is good."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.soft_state import SoftState
from quorumfs.clock import Clock
from quorumfs.nearness import Nearness
from quorumfs.read_chunk import ChunkReader
from quorumfs.rpc.channels import ChannelSource
from quorumfs.suspects import Suspects
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from quorumfs.watchdog import Watchdog


def reading(
    channels: ChannelSource, soft: SoftState, clock: Clock
) -> Callable[[n.ChunkLocation, int, int], bytes]:
    """Reads so many bytes of a chunk from an offset on. Raises QuorumFSError. A replica that fails is verified."""

    def report(chunk: bytes, node_id: str, state: t.ReplicaState.ValueType, detail: str) -> None:
        soft.order_verification(node_id, chunk)

    reader = ChunkReader(
        channels, Suspects(clock), Watchdog(clock), report, nearness=Nearness(""), clock=clock
    )

    def read(chunk: n.ChunkLocation, offset: int, length: int) -> bytes:
        return b"".join(bytes(part) for part in reader.read(chunk, offset, length, lambda: None))

    return read
