"""`dfsctl` in a process of its own, with a hand on its wire: at one exact stage it does harm to the cluster.

    python stages.py STAGE CLUSTER_DIRECTORY REPORT_FILE dfsctl-arguments...

1. A stage is a place in the client (a change of a kind is about to be sent, the n-th frame of a chunk is being
   made or was received) and a deed (kill the leader, kill a datanode of the pipeline, lose the answer).
2. It happens once, and is then written to the report file, so that a test knows that it did.
3. Everything else is dfsctl as it is installed. What it imports of this house is what dfsctl imports.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from quorumfs import read_chunk, sources, store_chunk
from quorumfs.local.cluster import DevCluster
from quorumfs.rpc import streams
from quorumfs.rpc.broken import BrokenStreamError
from quorumfs.rpc.coordinator import Coordinator
from quorumfs.rpc.streams import BatchStreams
from quorumfs.short_circuit import SHORT_CIRCUIT_VARIABLE
from quorumfs.v1 import namespace_pb2

FRAME = 11  # in the middle: after the first window of a stream, before the end of a small chunk
UNHEARD_SECONDS = 0.4  # long enough for the kernel to take a request whose receiver is stopped

Exchange = Callable[[float], bytes]


class Scene:
    """One stage of one command. `act` takes it up at most once."""

    def __init__(self, directory: Path, report: Path) -> None:
        self.cluster = DevCluster(directory)
        self._report = report
        self._taken = False
        self._lock = threading.Lock()
        self.pipeline: list[str] = []  # the nodes of the first chunk that is sent
        self.read_from = ""
        self.frames = 0

    def take(self) -> bool:
        with self._lock:
            first, self._taken = not self._taken, True
        return first

    def count_frame(self) -> bool:
        """Whether this is the frame at which it happens."""
        with self._lock:
            self.frames += 1
            return self.frames == FRAME

    def leader(self) -> tuple[str, str]:
        """(node id, address) of who leads now."""
        asking = Coordinator(self.cluster.layout().coordinators.split(","))
        try:
            found = asking.leader()
            return found.node_id, found.grpc
        finally:
            asking.close()

    def kill(self, node_id: str) -> None:
        self.write(node_id)  # first: the command may be over before this thread has seen the node's end
        self.cluster.kill(node_id)

    def pause(self, node_id: str) -> None:
        self.write(node_id)
        self.cluster.pause(node_id)

    def kill_leader(self) -> None:
        self.kill(self.leader()[0])

    def write(self, victim: str) -> None:
        self._report.write_text(json.dumps({"victim": victim}))


# --- places -----------------------------------------------------------------------------------------------


def when_changing(kind: str, deed: Callable[[Scene, str, Exchange, float], bytes]) -> Callable[[Scene], None]:
    """Before a change of this kind goes to the leader: `deed` sends it, or does not."""
    return _at_exchange(streams_path("Do"), lambda raw: kind in _kinds(namespace_pb2.Batch, raw), deed)


def when_reading(kind: str, deed: Callable[[Scene, str, Exchange, float], bytes]) -> Callable[[Scene], None]:
    """Before a question of this kind, the only one that is asked, goes to the leader."""
    return _at_exchange(streams_path("Read"), lambda raw: kind in _kinds(namespace_pb2.ReadBatch, raw), deed)


def when_sending_a_chunk(deed: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """When the n-th frame of chunks is made."""

    def install(scene: Scene) -> None:
        encode, store = sources.encode_frame, store_chunk.ChunkStorer.store

        def counting(*given: Any) -> bytes:
            if scene.count_frame():
                deed(scene)
            return encode(*given)

        def remembering(self: Any, target: Any, nodes: Any, body: Any) -> Any:
            scene.pipeline = scene.pipeline or [node.node_id for node in nodes]
            return store(self, target, nodes, body)

        sources.encode_frame = counting
        store_chunk.ChunkStorer.store = remembering  # type: ignore[method-assign]

    return install


def when_receiving_a_chunk(deed: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """When the n-th frame of chunks was received, over gRPC: a file on this machine sends none."""

    def install(scene: Scene) -> None:
        os.environ[SHORT_CIRCUIT_VARIABLE] = "off"
        decode, read = read_chunk.decode_frame, read_chunk.ChunkReader._from_replica

        def counting(raw: Any) -> Any:
            if scene.count_frame():
                deed(scene)
            return decode(raw)

        def remembering(self: Any, replica: Any, *given: Any) -> Iterator[memoryview]:
            scene.read_from = scene.read_from or replica.node_id
            return read(self, replica, *given)

        read_chunk.decode_frame = counting
        read_chunk.ChunkReader._from_replica = remembering  # type: ignore[method-assign]

    return install


def _at_exchange(
    path: str, wanted: Callable[[bytes], bool], deed: Callable[[Scene, str, Exchange, float], bytes]
) -> Callable[[Scene], None]:
    def install(scene: Scene) -> None:
        original = BatchStreams.exchange

        def exchange(
            self: BatchStreams, lane: int, address: str, to: str, raw: bytes, timeout: float
        ) -> bytes:
            def send(seconds: float) -> bytes:
                return original(self, lane, address, to, raw, seconds)

            if to == path and wanted(raw) and (victim := _leader_at(scene, address)) and scene.take():
                return deed(scene, victim, send, timeout)
            return send(timeout)

        streams.BatchStreams.exchange = exchange  # type: ignore[method-assign]

    return install


def streams_path(method: str) -> str:
    return f"/quorumfs.v1.Namespace/{method}"


def _kinds(message: Any, raw: bytes) -> set[str]:
    return {op.WhichOneof("op") for op in message.FromString(raw).ops}


def _leader_at(scene: Scene, address: str) -> str:
    """The leader's id, if `address` is its; else ""."""
    node_id, grpc_address = scene.leader()
    return node_id if grpc_address == address else ""


# --- deeds ------------------------------------------------------------------------------------------------


def kill_before(scene: Scene, victim: str, send: Exchange, timeout: float) -> bytes:
    """The leader dies, then the request goes to where it was."""
    scene.kill(victim)
    return send(timeout)


def kill_unheard(scene: Scene, victim: str, send: Exchange, timeout: float) -> bytes:
    """The request reaches a stopped leader, which dies without having read it."""
    scene.cluster.pause(victim)
    try:
        return send(UNHEARD_SECONDS)
    finally:
        scene.kill(victim)


def stop_unheard(scene: Scene, victim: str, send: Exchange, timeout: float) -> bytes:
    """The request waits in the socket of a stopped leader, which is deposed meanwhile and wakes up later."""
    scene.pause(victim)
    return send(timeout)


def kill_after(scene: Scene, victim: str, send: Exchange, timeout: float) -> bytes:
    """The request was carried out; the leader dies, and its answer is lost."""
    send(timeout)
    scene.kill(victim)
    raise BrokenStreamError(grpc.StatusCode.UNAVAILABLE, "the answer was lost")


def kill_of_pipeline(place: int) -> Callable[[Scene], None]:
    return lambda scene: scene.kill(scene.pipeline[place])


def pause_of_pipeline(place: int) -> Callable[[Scene], None]:
    return lambda scene: scene.pause(scene.pipeline[place])


STAGES: dict[str, Callable[[Scene], None]] = {
    "before-open": when_changing("open_upload", kill_before),
    "before-allocate": when_changing("allocate", kill_before),
    "before-commit": when_changing("commit_upload", kill_before),
    "commit-unheard": when_changing("commit_upload", kill_unheard),
    "commit-heard-too-late": when_changing("commit_upload", stop_unheard),
    "commit-unanswered": when_changing("commit_upload", kill_after),
    "put-file-unanswered": when_changing("put_file", kill_after),
    "sending-leader": when_sending_a_chunk(Scene.kill_leader),
    "sending-first": when_sending_a_chunk(kill_of_pipeline(0)),
    "sending-middle": when_sending_a_chunk(kill_of_pipeline(1)),
    "sending-last": when_sending_a_chunk(kill_of_pipeline(-1)),
    "sending-first-hangs": when_sending_a_chunk(pause_of_pipeline(0)),
    "sending-middle-hangs": when_sending_a_chunk(pause_of_pipeline(1)),
    "before-layout": when_reading("layout", kill_before),
    "receiving-leader": when_receiving_a_chunk(Scene.kill_leader),
    "receiving-source": when_receiving_a_chunk(lambda scene: scene.kill(scene.read_from)),
    "receiving-source-hangs": when_receiving_a_chunk(lambda scene: scene.pause(scene.read_from)),
}


def main() -> None:
    stage, directory, report, *argv = sys.argv[1:]
    STAGES[stage](Scene(Path(directory), Path(report)))
    from dfsctl.__main__ import run

    sys.exit(int(run(argv)))


if __name__ == "__main__":
    main()
