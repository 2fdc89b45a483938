"""The composition root of a datanode, to be read as a story: who it is, what it holds, whom it serves, what
it does by itself, how it ends. Everything is made here and handed on; nothing below reaches up.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Collection, Sequence

import grpc

import quorumfs
from common import credentials, log
from common.access import TOKENS_FILE_NAME
from common.admin import AdminService
from common.cluster import Agenda, ClusterNode, GrpcTransport
from common.config import NodeConfig
from common.faults import cuts_of, opener_of
from common.lifecycle import Lifecycle
from common.log_buffer import LogBuffer
from common.metrics import Metrics
from common.reload import Takers
from common.server import ThreadedServer
from common.token_book import KeepTokens, TokenBook, ask_in_turn
from common.workers import Worker, Workers
from datanode.duties.answering import Answers
from datanode.duties.commands import Commands, Hands, LaneDuty, Outcomes
from datanode.duties.content import Content
from datanode.duties.upkeep import (
    ListDuty,
    MeasureDuty,
    PurgeDuty,
    ScrubDuty,
    ScrubFigures,
    SettleDuty,
    VerifyDuty,
)
from datanode.metrics import DatanodeMetrics
from datanode.services.chunks import ChunksService
from datanode.services.face import DRAIN_SECONDS_DEFAULT, DatanodeFace, Drain, Labels
from datanode.services.short_circuit import ShortCircuitServer
from datanode.store import layout
from datanode.store.chunks import ChunkStore
from datanode.store.direct import Pieces
from datanode.store.fence import EpochStore
from datanode.store.opening import open_disks
from datanode.store.orders import Orders
from datanode.store.scrub import Scrubber
from datanode.transfer.admission import DATA_THREADS, READS_MAX, WRITES_MAX, Gate
from datanode.transfer.meter import Meter
from datanode.transfer.peers import PeerChannels
from datanode.transfer.pull import Puller
from datanode.transfer.receive import Receiver
from datanode.transfer.send import Sender
from datanode.transfer.watch import StreamWatch
from quorumfs.clock import SystemClock
from quorumfs.errors import Leader
from quorumfs.rpc.channels import Channels
from quorumfs.rpc.circuit import Circuits
from quorumfs.rpc.status import from_rpc
from quorumfs.rpc.trust import read_secret
from quorumfs.v1 import admin_pb2, membership_pb2, membership_pb2_grpc
from quorumfs.v1.types_pb2 import NODE_ROLE_DATANODE, TokenInfo

STOP_SECONDS = 2.0
ALIVE_SECONDS = 5.0
TOKENS_SECONDS = 0.8
_log = log.get(__name__)


class Datanode:
    """One datanode in this process. `start`, then `run` until it shall end, then `stop`; one thread."""

    def __init__(self, config: NodeConfig, lifecycle: Lifecycle, buffer: LogBuffer) -> None:
        """Takes the disks. Raises QuorumFSError when it cannot be the node that it is configured to be."""
        self._config = config
        self._lifecycle = lifecycle
        self._started_at, self._started_wall_ms = time.monotonic(), time.time_ns() // 1_000_000
        self._check_secret()

        # Who it is and what it holds.
        direct_io = config.storage.direct_io
        pieces = Pieces() if direct_io != "off" else None
        self._disks = open_disks(config.storage.data_dirs, config.storage.reserve_bytes, pieces=pieces)
        self._fence = EpochStore(self._disks.disks)
        self._store = ChunkStore(
            self._disks.disks, lambda: self._fence.epoch[0], all_direct=direct_io == "all"
        )
        self._store.load()
        self._fence.load()
        self._labels = Labels(config.node.labels)

        # Whom it calls: other datanodes for bytes, coordinators with a proof of the secret.
        cuts = cuts_of(config)
        opener = opener_of(cuts)
        self._channels = PeerChannels(Channels(credentials.channel_credentials(config), opener))
        self._trusted = credentials.SecretChannels(
            config.cluster.secret_file,
            config.node.id,
            credentials.channel_credentials(config),
            opener=opener,
        )

        # Bytes in and out.
        self._writes, self._reads = Gate("writes", WRITES_MAX), Gate("reads", READS_MAX)
        self._watch, self._meter = StreamWatch(), Meter()
        puller = Puller(self._store, self._channels, Circuits(SystemClock(), random.random))
        self._short_circuit = (
            ShortCircuitServer(config.node.id, self._store, self._meter)
            if config.storage.short_circuit
            else None
        )

        # What it does by itself, and for the leader.
        scrubber = Scrubber(self._store)
        scrubber.load()
        scrub = self._scrub = ScrubDuty(
            scrubber,
            self._used_bytes,
            config.scrub.period_seconds,
            config.scrub.bytes_per_second,
            SystemClock(),
        )
        hands = Hands(
            config.node.id,
            self._store,
            self._fence,
            Orders(self._store, self._fence),
            puller,
            scrub,
            self._labels.change,
        )
        commands = Commands(hands, Outcomes())
        content = Content(self._store, commands.outcomes, self._writes, self._reads, commands.copying)
        lanes: list[Worker] = [LaneDuty("orders", commands.orders, commands)]
        lanes += [LaneDuty(f"copies-{k}", commands.copies, commands) for k in range(config.repair.parallel)]
        purge = self._purge = PurgeDuty(
            self._store,
            config.gc.quarantine_seconds,
            self._is_registered,
            SystemClock(),
            lambda: self._fence.epoch[0],
        )
        quiet: list[Worker] = [
            ListDuty(self._store, SystemClock()),
            scrub,
            VerifyDuty(self._store),
            MeasureDuty(self._store),
            SettleDuty(self._fence),
            purge,
        ]
        answers = Answers(self._disks.disks, SystemClock())
        self._workers = Workers([*lanes, *quiet, *answers.duties])
        commands.wake = self._workers_waker([lane.name for lane in lanes])
        scrub.wake = lambda: self._workers.wake(scrub.name)

        # Its place in the cluster.
        self._transport = GrpcTransport(self._trusted)
        self._cluster = ClusterNode.for_datanode(
            self.describe,
            config.cluster.coordinators,
            self._transport,
            Agenda(
                content,
                self._fence,
                commands.accept,
                self._disks.join,
                self._labels.replace,
                config.membership.heartbeat_seconds,
            ),
            self._disks.cluster_id,
        )
        commands.tell = self._cluster.hurry
        self._book = TokenBook(self._read_tokens, SystemClock(), config.node.data_dir / TOKENS_FILE_NAME)
        self._workers.add(KeepTokens(self._book))
        if cuts is not None:
            self._workers.add(cuts)
        self._drain = Drain([self._writes, self._reads], self._cluster, lifecycle)

        # What it serves.
        metrics = Metrics(quorumfs.__version__, "datanode")
        DatanodeMetrics(
            metrics.registry,
            self._store,
            self._fence,
            self._meter,
            self._writes,
            self._reads,
            self._cluster.sent,
            answers.waits,
        )
        face = self._face = DatanodeFace(
            describe=self.describe,
            cluster=self._cluster,
            store=self._store,
            fence=self._fence,
            load=content.load,
            node_labels=self._labels,
            workers=self._workers,
            drain=self._drain,
            lifecycle=lifecycle,
            channels=self._trusted,
            security_mode=config.security.mode,
            warnings=credentials.warnings(config),
            started_at=self._started_at,
            scrub=lambda: scrub_status(scrub.figures()),
            answers=answers,
        )
        chunks = ChunksService(
            config.node.id,
            self._store,
            self._fence,
            self._receiver(),
            Sender(self._store, self._reads, self._watch, self._meter),
            puller,
            self._writes,
            self._reads,
            self._short_circuit,
        )
        self._server = ThreadedServer(
            config.grpc.host,
            config.grpc.port,
            [chunks.as_service(), AdminService(face, metrics, buffer).as_service()],
            node_id=config.node.id,
            secret=lambda: read_secret(config.cluster.secret_file),
            metrics=metrics,
            security_mode=config.security.mode,
            credentials=credentials.server_credentials(config),
            book=self._book,
            data_threads=DATA_THREADS,
        )

    def _read_tokens(self) -> Sequence[TokenInfo]:
        """From the leader, or any other coordinator."""
        known = [*self._cluster.nodes.coordinators(), *self._config.cluster.coordinators]
        asked = who_knows_tokens(self._cluster.leader, known, self._cluster.silent)

        def ask(address: str) -> membership_pb2.TokenTable:
            stub = membership_pb2_grpc.MembershipStub(self._trusted.get(address))
            try:
                return stub.GetTokens(membership_pb2.GetTokensRequest(), timeout=TOKENS_SECONDS)
            except grpc.RpcError as error:
                raise from_rpc(error, f"question about tokens to {address}", sent=False) from error

        return ask_in_turn(asked, ask)

    def _is_registered(self) -> bool:
        """Whether a leader acknowledges this node now."""
        heartbeats = self._cluster.heartbeats
        return heartbeats is not None and heartbeats.registered

    def _workers_waker(self, names: Sequence[str]) -> Callable[[], None]:
        def wake() -> None:
            for name in names:
                self._workers.wake(name)

        return wake

    def _receiver(self) -> Receiver:
        return Receiver(
            self._config.node.id,
            lambda: self._disks.cluster_id,
            self._store,
            self._channels,
            self._writes,
            self._watch,
            self._meter,
        )

    def start(self) -> None:
        """Serve, then report for duty. Raises UnavailableError when the port is in use."""
        self._server.start()
        if self._short_circuit is not None:
            self._short_circuit.start()
        self._watch.start()
        self._server.set_serving(True)  # from here on any chunk is found; the whole is listed by a duty
        self._workers.start()
        self._cluster.start()
        self._lifecycle.notify_ready(f"{self._config.node.id} serves its chunks")
        _log.info(
            "node.started",
            node_uuid=self._disks.node_uuid,
            cluster_id=self._disks.cluster_id,
            disks=[f"{disk.path}: {disk.state} {disk.error}".strip() for disk in self._store.usage()],
        )

    def takers(self) -> Takers:
        """What of the configuration may change while this runs."""

        def pace(new: NodeConfig) -> None:
            self._scrub.configure(new.scrub.period_seconds, new.scrub.bytes_per_second)

        return {
            "scrub.period_seconds": pace,
            "scrub.bytes_per_second": pace,
            "gc.quarantine_seconds": lambda new: self._purge.configure(new.gc.quarantine_seconds),
        }

    def run(self) -> None:
        """Return when the process shall end. Until then, tell the supervisor while heartbeats are sent and disks
        answer."""
        every = min(self._lifecycle.watchdog_seconds or ALIVE_SECONDS, ALIVE_SECONDS)
        while not self._lifecycle.wait(every):
            if all(check.ok for check in self._face.liveness() if check.liveness):
                self._lifecycle.notify_watchdog()

    def stop(self) -> None:
        """Let streams end (bounded), stop serving, stop telling, give the disks back. Again is harmless."""
        self._lifecycle.notify_stopping(self._lifecycle.reason)
        self._server.set_serving(False)
        self._cluster.begin_stopping()
        drained = self._drain.wait(DRAIN_SECONDS_DEFAULT)
        if self._short_circuit is not None:
            self._short_circuit.stop()
        self._server.stop(STOP_SECONDS)
        self._cluster.stop()
        self._workers.stop()
        self._watch.stop()
        self._transport.close()
        self._trusted.close()
        self._channels.close()
        self._disks.close()
        _log.info("node.stopped", reason=self._lifecycle.reason, drained=drained)

    def describe(self) -> membership_pb2.NodeInfo:
        """Who this node is, now."""
        config = self._config
        return membership_pb2.NodeInfo(
            node_id=config.node.id,
            node_uuid=self._disks.node_uuid,
            role=NODE_ROLE_DATANODE,
            grpc=config.grpc.advertise,
            http=config.http.advertise,
            version=quorumfs.__version__,
            labels=self._labels.get(),
            disks=self._store.usage(),
            host=socket.gethostname(),
            started_wall_ms=self._started_wall_ms,
            format=layout.FORMAT,
            incarnation=self._fence.incarnation,
        )

    def _used_bytes(self) -> int:
        return sum(disk.used_bytes for disk in self._store.usage())

    def _check_secret(self) -> None:
        """A secret that others can read is refused at once; a missing one may still come."""
        if self._config.cluster.secret_file.exists():
            read_secret(self._config.cluster.secret_file)
        else:
            _log.warning("secret.missing", file=str(self._config.cluster.secret_file))


def who_knows_tokens(leader: Leader | None, known: Sequence[str], silent: Collection[str]) -> list[str]:
    """Whom to ask for the tokens, the leader first. Not those that hang: a caller waits for this before it is judged,
    and what was told last does as well. Heartbeats try them all the while, and they count again once they answer."""
    wanted = dict.fromkeys([*([leader.grpc] if leader else []), *known])
    return [one for one in wanted if one not in silent]


def scrub_status(figures: ScrubFigures) -> admin_pb2.ScrubStatus:
    return admin_pb2.ScrubStatus(
        stopped=figures.stopped,
        round=figures.round,
        progress=figures.progress,
        bytes=figures.bytes,
        corrupt=figures.corrupt,
        bytes_per_second=figures.bytes_per_second,
    )
