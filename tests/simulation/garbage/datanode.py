"""A simulated datanode: the machine that survives, and the process on it, made of production parts.

Store, fence, orders, commands, heartbeats, inventories, the purge of the quarantine and the gRPC face are production
code; threads are fibres, the network is `Calls`, the disk a real directory that can lose power between two effects.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from common.cluster import heartbeats as heartbeats_module
from common.cluster.content import Agenda
from common.cluster.heartbeats import Heartbeats
from common.cluster.inventory import InventoryReport
from common.cluster.leader_tracker import LeaderTracker
from datanode.duties.commands import Commands, Hands, LaneDuty, Outcomes
from datanode.duties.content import Content
from datanode.duties.upkeep import PurgeDuty, SettleDuty
from datanode.services.chunks import ChunksService
from datanode.store.chunks import ChunkStore
from datanode.store.disk import Disk
from datanode.store.fence import EpochLike, EpochStore
from datanode.store.holds import Hold
from datanode.store.layout import Birth, Header
from datanode.store.opening import open_disks
from datanode.store.rules import Condemnation
from datanode.store.writer import ChunkInfo, ChunkWriter
from datanode.transfer.admission import Gate
from quorumfs.checksum import block_checksums, crc32c
from quorumfs.errors import QuorumFSError, UnavailableError
from quorumfs.ids import ChunkId, UploadId
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t
from tests.simulation.garbage import fibres
from tests.simulation.garbage.calls import answered
from tests.simulation.garbage.disks import SimFiles
from tests.simulation.machine import Clock
from tests.simulation.world import Violation
from tests.support.fake_files import PowerCut

if TYPE_CHECKING:
    from tests.simulation.garbage.storage import Storage

HEARTBEAT_SECONDS = 0.3
LANE_SECONDS = 0.05
START_SECONDS = 0.02
ORDER_METHODS = ("Delete", "Restore", "Stat", "List")


class Machine:
    """`process` is what runs on it now. `directory`: its disk, as a real one."""

    def __init__(self, storage: Storage, node_id: str, directory: Path) -> None:
        self.storage = storage
        self.node_id = node_id
        self.directory = directory
        self.random = storage.world.stream(f"machine {node_id}")
        self.process: DataProcess | None = None
        self.starts = 0
        self.points_at_start: int | None = None

    def start(self) -> None:
        if self.process is None:
            self.starts += 1
            self.storage.world.tell(self.node_id, "starts", start=self.starts)
            process = DataProcess(self)
            self.process = process
            process.guarded(process.start)

    def crash(self, *, power: bool) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        self.storage.world.tell(self.node_id, "loses power" if power else "is killed")
        self.storage.totals["crashes of datanodes"] += 1
        process.alive = False
        process.let_go()
        if power:
            process.files.lose_power()
        self.storage.checker.crashed(self.node_id)
        self.storage.ended(self)

    def image(self) -> Path:
        """A copy of its disk as it is now, of a machine that is off."""
        copied = self.directory.with_name(f"{self.directory.name}.{self.starts}")
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(self.directory, copied)
        return copied

    def set_back(self, image: Path) -> None:
        """The disk is what it was."""
        shutil.rmtree(self.directory)
        shutil.copytree(image, self.directory)
        self.storage.checker.set_back(self.node_id)


class WatchedStore(ChunkStore):
    """The production store; the checker hears of what it does."""

    watch: DataProcess

    def _publish(self, disk: Disk, temporary: Path, header: Header) -> ChunkInfo:
        info = super()._publish(disk, temporary, header)
        self.watch.checker.sealed(self.watch.node_id, header.chunk)
        return info

    def quarantine(self, chunk: ChunkId, condemned: Condemnation) -> bool:
        gone = super().quarantine(chunk, condemned)
        if gone:
            self.watch.checker.quarantined(self.watch.node_id, chunk, condemned.index, condemned.history)
        return gone

    def restore(self, chunk: ChunkId, hold: Hold) -> bool:
        back = super().restore(chunk, hold)
        if back:
            self.watch.checker.restored(self.watch.node_id, chunk, hold)
        return back

    def purge(self, chunk: ChunkId, condemn_index: int) -> bool:
        gone = super().purge(chunk, condemn_index)
        if gone:
            self.watch.checker.purged(self.watch.node_id, chunk)
        return gone


class WatchedFence(EpochStore):
    watch: DataProcess

    def obey(self, epoch: EpochLike) -> None:
        super().obey(epoch)
        self.watch.checker.obeyed(self.watch.node_id, (epoch.history, epoch.term))


class SimContent(Content):
    """What of the real one depends on the machine that simulates is left away."""

    def load(self) -> m.NodeLoad:
        return m.NodeLoad(copying=self._copying())

    def disks(self) -> Sequence[t.DiskInfo]:
        return _named(super().disks(), "")


def _named(disks: Sequence[t.DiskInfo], path: str) -> list[t.DiskInfo]:
    """Under a path that is the same in every run."""
    for disk in disks:
        disk.path = path
    return list(disks)


class DataProcess:
    """One run of a datanode."""

    def __init__(self, machine: Machine) -> None:
        storage = machine.storage
        self.machine = machine
        self.storage = storage
        self.checker = storage.checker
        self.node_id = machine.node_id
        self.alive = True
        self.paused = False
        self.random = storage.world.stream(f"process {machine.node_id} {machine.starts}")
        skew = storage.cluster.plan.clock_skew
        rate = 1.0 + self.random.uniform(-skew, skew)
        self.clock = Clock(storage.world, rate, self.random.uniform(0, 1e6))
        self.points_left = machine.points_at_start
        self.files = SimFiles(self.point, self.random)
        self.writers: dict[bytes, ChunkWriter] = {}
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._disks: Any = None

    # Life

    def start(self) -> None:
        self._disks = open_disks([self.machine.directory], 0, self.files, self.random.randbytes)
        fence = WatchedFence(self._disks.disks)
        store = WatchedStore(self._disks.disks, lambda: fence.epoch[0])
        store.watch = fence.watch = self
        store.load()
        fence.load()
        self.store, self.fence = store, fence
        self.checker.started(self.node_id, store.ids(b"", 1 << 20), fence.epoch)
        service = self._service()
        outcomes = Outcomes()
        hands = Hands(self.node_id, store, fence, service._orders, Pull(self), _NOBODY, lambda *_: None)
        self.commands = commands = Commands(hands, outcomes, self.clock)
        content = SimContent(store, outcomes, Gate("writes", 8), Gate("reads", 8), commands.copying)
        self.heartbeats = Heartbeats(
            Agenda(content, fence, commands.accept, self._disks.join, lambda labels: None, HEARTBEAT_SECONDS),
            Transport(self),
            LeaderTracker(self.node_id, self.clock),
            self.describe,
            self.storage.cluster.node_ids,
            self._disks.cluster_id,
            clock=self.clock,
            chance=self.random.random,
        )
        self.heartbeats._inventory = Inventory(self, self.heartbeats._inventory)
        purge = PurgeDuty(
            store,
            self.storage.quarantine_seconds,
            lambda: self.heartbeats.registered,
            self.clock,
            lambda: self.fence.epoch[0],
        )
        self._serve = service
        self.storage.fibres.spawn(self, self._beat, START_SECONDS * self.random.random())
        lanes = (
            LaneDuty("orders", commands.orders, commands),
            LaneDuty("copies", commands.copies, commands),
        )
        for duty in (*lanes, purge, SettleDuty(fence)):
            self.storage.fibres.spawn(self, partial(self._repeat, duty), self.random.random())

    def _service(self) -> ChunksService:
        nothing: Any = None
        return ChunksService(
            self.node_id, self.store, self.fence, nothing, nothing, nothing, nothing, nothing, None
        )

    def describe(self) -> m.NodeInfo:
        return m.NodeInfo(
            node_id=self.node_id,
            node_uuid=self._disks.node_uuid,
            role=t.NODE_ROLE_DATANODE,
            grpc=self.node_id,
            host=self.node_id,
            disks=_named(self.store.usage(), self.node_id),
            incarnation=self.fence.incarnation,
        )

    def _beat(self) -> None:
        while True:
            fibres.sleep(max(0.005, self.heartbeats.turn()))

    def _repeat(self, duty: Any) -> None:
        while True:
            duty.work()
            fibres.sleep(max(LANE_SECONDS, min(duty.wait(), 1.0) * (0.5 + self.random.random())))

    def let_go(self) -> None:
        """The system closes what a process that ends had open."""
        for writer in self.writers.values():
            if writer._fd >= 0:
                os.close(writer._fd)
        self.writers.clear()
        for disk in self._disks.disks if self._disks is not None else ():
            disk.close()

    # As a host

    def point(self) -> None:
        """Between two effects. Raises PowerCut."""
        if self.points_left is not None:
            self.points_left -= 1
            if self.points_left < 0:
                self.points_left = None
                raise PowerCut

    def guarded(self, run: Callable[[], object]) -> None:
        cluster: Any = self.storage.cluster
        before, cluster.current = cluster.current, self
        try:
            run()
        except PowerCut:
            self.machine.crash(power=True)
        except (Violation, KeyboardInterrupt):
            raise
        except Exception as error:
            raise Violation(f"{self.node_id} ends: {error!r}") from error
        finally:
            cluster.current = before

    def later(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        self.storage.world.after(seconds, self._run, action, arguments)

    def _run(self, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self.alive:
            return
        if self.paused:
            self._waiting.append((action, arguments))
        else:
            self.guarded(lambda: action(*arguments))

    def resume(self) -> None:
        self.paused = False
        waiting, self._waiting = self._waiting, []
        for action, arguments in waiting:
            self.storage.world.after(0.0, self._run, action, arguments)

    # What it serves

    def serve(self, caller: str, method: str, request: Any, answer: Callable[[Any], None]) -> None:
        if method in ORDER_METHODS:
            context = SimpleNamespace(node_id=caller)
            answer(answered(lambda: getattr(self._serve, method)(request, context)))
        else:
            answer(answered(lambda: getattr(self, f"_{method}")(*request)))

    def _begin(self, chunk: bytes, upload: bytes, birth: t.ChunkBirth, length: int) -> None:
        """The stream of a writer is opened."""
        old = self.writers.pop(chunk, None)
        if old is not None:
            old.abort()
        born = Birth(birth.history, birth.index, birth.cluster_ms)
        self.writers[chunk] = self.store.begin(ChunkId(chunk), UploadId(upload), born, length)

    def _seal(self, chunk: bytes, content: bytes) -> t.ReplicaAck:
        """Its last frame has come."""
        writer = self.writers.pop(chunk, None)
        if writer is None:
            raise UnavailableError("the stream is broken")
        writer.append(0, content, block_checksums(content))
        info = writer.seal(len(content), crc32c(content))
        self.checker.contents[bytes(chunk)] = bytes(content)
        return t.ReplicaAck(node_id=self.node_id, disk_id=info.disk_id, durable=True)

    def _read(self, chunk: bytes) -> tuple[Header, bytes]:
        with self.store.open_reader(ChunkId(chunk)) as reader:
            return reader.header, reader.read(0, reader.length)


class Pull:
    """The production puller's part, over the simulated network."""

    def __init__(self, process: DataProcess) -> None:
        self._process = process

    def pull(self, chunk: ChunkId, sources: Any, length: int, checksum: int) -> ChunkInfo:
        process = self._process
        if chunk in process.store:
            return process.store.info(chunk)
        for source in sources:
            try:
                header, content = process.storage.calls(process, source.node_id, "read", (chunk,), 1.0)
            except QuorumFSError:
                continue
            writer = process.store.begin(chunk, header.upload, header.birth, length)
            writer.append(0, content, block_checksums(content))
            return writer.seal(length, checksum)
        raise UnavailableError("the chunk could not be copied from anywhere")


class Transport:
    """To the coordinators."""

    def __init__(self, process: DataProcess) -> None:
        self._process = process

    def _ask(self, address: str, method: str, request: Any, seconds: float) -> Any:
        sent = type(request).FromString(request.SerializeToString())
        return self._process.storage.calls(self._process, address, method, sent, seconds)

    def register(self, address: str, request: m.RegisterRequest, seconds: float) -> m.RegisterResponse:
        answer: m.RegisterResponse = self._ask(address, "Register", request, seconds)
        return answer

    def heartbeat(self, address: str, request: m.HeartbeatRequest, seconds: float) -> m.HeartbeatResponse:
        answer: m.HeartbeatResponse = self._ask(address, "Heartbeat", request, seconds)
        return answer

    def report(self, address: str, page: m.InventoryPage, seconds: float) -> m.InventoryResponse:
        answer: m.InventoryResponse = self._ask(address, "ReportInventory", page, seconds)
        return answer

    def cluster(self, address: str, request: m.GetClusterRequest, seconds: float) -> m.ClusterView:
        raise UnavailableError("nobody asks for the view here")


class Inventory(InventoryReport):
    """Its thread is a fibre."""

    def __init__(self, process: DataProcess, real: InventoryReport) -> None:
        super().__init__(real._agenda, real._transport, real._header, real._leader_address)
        self._process = process

    def begin(self, gather_id: int) -> None:
        self._generation += 1
        generation = self._generation

        def tell() -> None:
            try:
                self.send(gather_id, lambda: self._generation != generation)
            except QuorumFSError as error:
                self._process.storage.world.tell(
                    self._process.node_id, "inventory not told", cause=error.code.name
                )

        self._process.storage.fibres.spawn(self._process, tell)


_NOBODY: Any = SimpleNamespace(control=lambda **_: None)

assert heartbeats_module.INTERVAL_SECONDS_MIN <= HEARTBEAT_SECONDS
