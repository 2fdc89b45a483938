"""Many datanodes in one process, as their coordinators know them: connections, proofs, heartbeats, inventories.

Run as a child (children.py) with `{"address", "secret_file", "nodes"}`. Each node has a connection of its own, and
does what `common.cluster` does: it registers, sends a heartbeat at every interval (jitter and all), tells everything it
holds when it is asked to, and asks for the coordinators and the tokens now and then. Only their disks are not there.

Commands: `register` (all; answers when all are), `hold` (`ids_file`, 16 bytes each: what they hold, three replicas of
each chunk), `inventories` (answers when every node has told its own since the last `hold`), `run` (`seconds`,
`changes`: how many replicas every heartbeat reports; what came of the heartbeats that were due meanwhile).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.children import serve
from benchmarks.restoring import CHUNK_BYTES, CHUNK_CHECKSUM
from common.cluster.following import JITTER
from common.cluster.transport import HEARTBEAT
from common.cluster.watching import DATANODE_ASKS, DEADLINE_SECONDS, FRESH_SECONDS
from common.token_book import KEEP_SECONDS
from quorumfs.ids import ID_BYTES
from quorumfs.limits import HEARTBEAT_SECONDS, RPC_DEADLINE_SECONDS
from quorumfs.mint import system_random
from quorumfs.rpc.channels import OPTIONS
from quorumfs.rpc.trust import NONCE_BYTES, TOKEN_METADATA, proof, read_secret
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import membership_pb2_grpc
from quorumfs.v1 import types_pb2 as t

REPLICAS = 3
DISKS = ("disk0", "disk1")
AT_ONCE_MAX = 16  # nodes that connect, prove themselves and register
_BEAT_SECONDS = 2 * HEARTBEAT_SECONDS
_AGAIN_SECONDS = 0.5
_WAIT_SECONDS = 600.0

Metadata = tuple[tuple[str, bytes], ...]


def node_name(number: int) -> str:
    return f"sim{number:05d}"


def held_by(number: int, nodes: int, ids: Sequence[bytes]) -> list[bytes]:
    """What that node holds: three nodes next to each other have the same chunk."""
    return sorted(one for k in range(REPLICAS) for one in ids[(number - k) % nodes :: nodes])


@dataclass(slots=True)
class Seen:
    """What became of heartbeats. Milliseconds; `late`: from when it was due to its answer."""

    late: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    sent_late: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)  # nodes
    reports: int = 0

    def fail(self, what: str) -> None:
        self.failures[what] = self.failures.get(what, 0) + 1


class Simulated:
    """One datanode. All on the herd's loop."""

    def __init__(self, herd: Herd, number: int) -> None:
        self._herd = herd
        self.node_id = node_name(number)
        self._random = random.Random(number)
        self._info = m.NodeInfo(
            node_id=self.node_id,
            node_uuid=f"uuid-{self.node_id}",
            role=t.NODE_ROLE_DATANODE,
            grpc=f"127.0.0.1:{1 + number}",  # nothing is asked of it
            version="bench",
            incarnation=1,
            disks=self._disks(),
        )
        self._channel = grpc.aio.insecure_channel(herd.address, options=OPTIONS)
        self._stub: Any = membership_pb2_grpc.MembershipStub(self._channel)
        self._begin: Any = self._channel.stream_stream(f"{HEARTBEAT}Stream")
        self._stream: Any = None
        self._token: Metadata = ()
        self._epoch = t.Epoch()
        self._commit_index = 0
        self._sequence = 0
        self.registered = asyncio.Event()
        self.told = asyncio.Event()
        self.ids: list[bytes] = []
        self._place = 0
        self._moved: dict[bytes, int] = {}  # to which disk
        self._untold: list[m.ReplicaReport] = []
        self._telling: asyncio.Task[None] | None = None

    def hold(self, ids: list[bytes]) -> None:
        self.ids, self._place = ids, self._random.randrange(max(1, len(ids)))
        self.told.clear()

    def _disks(self) -> list[t.DiskInfo]:
        return [
            t.DiskInfo(
                disk_id=one,
                path=f"/{one}",
                state="ok",
                total_bytes=1 << 40,
                free_bytes=1 << 39,
                used_bytes=1 << 39,
            )
            for one in DISKS
        ]

    async def live(self) -> None:
        """For ever."""
        due = time.monotonic()
        while True:
            await asyncio.sleep(due - time.monotonic())
            try:
                if not self.registered.is_set():
                    await self._come()
                    due = time.monotonic() + self._random.random() * HEARTBEAT_SECONDS
                    continue
                began = time.monotonic()
                await self._beat(due)
                due = began + HEARTBEAT_SECONDS * (1 - JITTER * self._random.random())
            except TimeoutError:
                self._herd.seen.fail("DEADLINE_EXCEEDED")
                due = time.monotonic() + _AGAIN_SECONDS * (1 + self._random.random())
            except grpc.aio.AioRpcError as error:
                self._herd.seen.fail(error.code().name)
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    self._token = ()
                    self.registered.clear()
                due = time.monotonic() + _AGAIN_SECONDS * (1 + self._random.random())

    async def watch(self) -> None:
        """Who the coordinators are, asked for as datanodes ask."""
        await self.registered.wait()
        while True:
            await asyncio.sleep(FRESH_SECONDS * (0.8 + 0.2 * self._random.random()))
            try:
                await self._stub.GetCluster(DATANODE_ASKS, timeout=DEADLINE_SECONDS)
            except grpc.aio.AioRpcError as error:
                self._herd.seen.fail(f"view: {error.code().name}")

    async def ask_tokens(self) -> None:
        """For the tokens that there are, as every node does."""
        await self.registered.wait()
        while True:
            await asyncio.sleep(KEEP_SECONDS * (0.5 + self._random.random()))
            try:
                await self._stub.GetTokens(
                    m.GetTokensRequest(), timeout=DEADLINE_SECONDS, metadata=self._token
                )
            except grpc.aio.AioRpcError as error:
                self._herd.seen.fail(f"tokens: {error.code().name}")

    async def _prove(self) -> None:
        stub: Any = membership_pb2_grpc.TrustStub(self._channel)
        nonce = system_random(NONCE_BYTES)
        hello = await stub.Hello(
            m.HelloRequest(node_id=self.node_id, nonce=nonce), timeout=RPC_DEADLINE_SECONDS
        )
        mine = proof(self._herd.secret, "client", nonce, hello.nonce, hello.node_id)
        request = m.ProveRequest(node_id=self.node_id, server_nonce=hello.nonce, proof=mine)
        answer = await stub.Prove(request, timeout=RPC_DEADLINE_SECONDS)
        self._token = ((TOKEN_METADATA, answer.token),)

    async def _come(self) -> None:
        """Few come for the first time in the same instant: a thousand machines take longer than that to start, and the
        herd's own core would be what is late."""
        if self._token and self._epoch.term:
            await self._register()
            return
        async with self._herd.coming:
            if not self._token:
                await self._prove()
            await self._register()

    async def _register(self) -> None:
        request = m.RegisterRequest(
            cluster_id=self._herd.cluster_id,
            node=self._info,
            highest_epoch=self._epoch,
            highest_commit_index=self._commit_index,
            empty=not self.ids,
        )
        answer = await self._stub.Register(request, timeout=_BEAT_SECONDS, metadata=self._token)
        if answer.code != t.ERROR_CODE_OK:
            self._herd.seen.fail(answer.error.message)
            return
        self._herd.cluster_id = answer.cluster_id
        self._obey(answer.epoch, answer.commit_index)
        self._sequence = 0
        self.registered.set()

    async def _beat(self, due: float) -> None:
        self._sequence += 1
        delta = self._delta()
        request = m.HeartbeatRequest(
            cluster_id=self._herd.cluster_id,
            node_id=self.node_id,
            node_uuid=self._info.node_uuid,
            incarnation=1,
            sequence=self._sequence,
            load=m.NodeLoad(rss_bytes=1 << 28),
            disks=self._disks(),
            delta=delta,
            highest_epoch=self._epoch,
            highest_commit_index=self._commit_index,
            version="bench",
        )
        seen, sent = self._herd.seen, time.monotonic()
        answer = await asyncio.wait_for(self._exchange(request), _BEAT_SECONDS)
        came = time.monotonic()
        if answer.code != t.ERROR_CODE_OK:
            seen.fail(answer.error.message)
            self.registered.clear()
            return
        if (answer.epoch.history, answer.epoch.term) != (self._epoch.history, self._epoch.term):
            self.registered.clear()
        self._obey(answer.epoch, answer.commit_index)
        if answer.acknowledged_sequence == self._sequence:
            self._untold = []
            seen.acknowledged.add(self.node_id)
            seen.reports += len(delta)
        seen.late.append((came - due) * 1e3)
        seen.took.append((came - sent) * 1e3)
        seen.sent_late.append((sent - due) * 1e3)
        for command in answer.commands:
            match command.WhichOneof("command"):
                case "register":
                    self.registered.clear()
                case "full_inventory":
                    self._telling = asyncio.create_task(self._tell(command.full_inventory.gather_id))
                case other:
                    seen.fail(f"ordered: {other}")

    async def _exchange(self, request: m.HeartbeatRequest) -> m.HeartbeatResponse:
        """Over the node's stream, which is begun anew after it broke. Raises AioRpcError."""
        if self._stream is None or self._stream.done():
            self._stream = self._begin(metadata=self._token)
        stream: Any = self._stream
        try:
            await stream.write(request.SerializeToString())
            answer = await stream.read()
        except asyncio.InvalidStateError:  # gRPC's word for a stream that ended meanwhile
            answer = None
        except BaseException:
            stream.cancel()
            self._stream = None
            raise
        if isinstance(answer, bytes):
            return m.HeartbeatResponse.FromString(answer)
        self._stream = None
        return m.HeartbeatResponse(
            error=t.ErrorDetail(message="the stream ended"), code=t.ERROR_CODE_UNAVAILABLE
        )

    def _delta(self) -> list[m.ReplicaReport]:
        """Of the replicas that change, one was moved to the node's other disk, the others were sealed just now, which
        the metadata knows from their upload's commit. What is not acknowledged is told again."""
        if self._untold or not self.ids:
            return self._untold
        for number in range(self._herd.changes):
            chunk = self.ids[self._place % len(self.ids)]
            self._place += 1
            if number == 0:
                self._moved[chunk] = 1 - self._moved.get(chunk, 0)
            disk_id = DISKS[self._moved.get(chunk, 0)]
            told = m.ReplicaReport(chunk=chunk, state=t.REPLICA_STATE_LIVE, disk_id=disk_id)
            if number:
                told.length, told.checksum = CHUNK_BYTES, CHUNK_CHECKSUM
            self._untold.append(told)
        return self._untold

    async def _tell(self, gather_id: int) -> None:
        page = m.InventoryPage(
            cluster_id=self._herd.cluster_id,
            node_id=self.node_id,
            node_uuid=self._info.node_uuid,
            incarnation=1,
            gather_id=gather_id,
            last=True,
            ids=b"".join(self.ids),
        )
        try:
            answer = await self._stub.ReportInventory(
                page, timeout=RPC_DEADLINE_SECONDS, metadata=self._token
            )
        except grpc.aio.AioRpcError as error:
            self._herd.seen.fail(f"inventory: {error.code().name}")
            return
        if answer.code == t.ERROR_CODE_OK:
            self.told.set()

    def _obey(self, epoch: t.Epoch, commit_index: int) -> None:
        self._epoch, self._commit_index = epoch, commit_index


class Herd:
    """All of them, on a loop of their own."""

    def __init__(self, address: str, secret: bytes, nodes: int) -> None:
        self.address = address
        self.secret = secret
        self.cluster_id = ""
        self.changes = 0
        self.seen = Seen()
        self.coming = asyncio.Semaphore(AT_ONCE_MAX)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="herd", daemon=True).start()
        self._nodes: list[Simulated] = self._on_loop(self._make(nodes))
        self._tasks: list[asyncio.Task[None]] = []

    def _on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_WAIT_SECONDS)

    async def _make(self, nodes: int) -> list[Simulated]:
        return [Simulated(self, number) for number in range(nodes)]

    def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        verbs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "register": lambda _: self._on_loop(self._register()),
            "hold": self._hold,
            "inventories": lambda _: self._on_loop(self._inventories()),
            "run": self._run,
        }
        return verbs[command["verb"]](command)

    async def _register(self) -> dict[str, Any]:
        began = time.monotonic()
        if not self._tasks:
            self._tasks = [asyncio.create_task(one.live()) for one in self._nodes]
            self._tasks += [asyncio.create_task(one.watch()) for one in self._nodes]
            self._tasks += [asyncio.create_task(one.ask_tokens()) for one in self._nodes]
        for one in self._nodes:
            await one.registered.wait()
        return {"seconds": time.monotonic() - began}

    def _hold(self, command: dict[str, Any]) -> dict[str, Any]:
        raw = Path(command["ids_file"]).read_bytes()
        ids = [raw[k : k + ID_BYTES] for k in range(0, len(raw), ID_BYTES)]
        for number, one in enumerate(self._nodes):
            one.hold(held_by(number, len(self._nodes), ids))
        return {}

    async def _inventories(self) -> dict[str, Any]:
        began = time.monotonic()
        for one in self._nodes:
            await one.told.wait()
        return {"seconds": time.monotonic() - began}

    def _run(self, command: dict[str, Any]) -> dict[str, Any]:
        self.changes = command["changes"]
        self.seen = seen = Seen()
        began = time.monotonic()
        time.sleep(command["seconds"])
        self.seen, self.changes = Seen(), 0
        return {
            "seconds": time.monotonic() - began,
            "late_ms": sorted(seen.late),
            "took_ms": sorted(seen.took),
            "sent_late_ms": sorted(seen.sent_late),
            "failures": seen.failures,
            "acknowledged": len(seen.acknowledged),
            "reports": seen.reports,
        }


def main() -> None:
    config = json.loads(sys.argv[1])
    herd = Herd(config["address"], read_secret(config["secret_file"]), config["nodes"])
    serve(herd.handle)


if __name__ == "__main__":
    main()
