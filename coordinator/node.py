"""The coordinator process, put together.

1. The gRPC server starts first: an empty coordinator answers Admin, GetCluster and Consensus.Genesis while it
   waits to become a member (state `waiting_for_genesis`). It never votes before that.
2. With an identity on the disk, from before or by genesis, the replica starts: database, Raft, and the
   gateway through which the services reach them. On a full disk it waits for room, not ready, and goes on by itself.
3. When this member leads, `Tenure` begins soft state and the duties; when it leads no more, both end.
4. The end: the leadership is handed over, the server answers what it has and takes nothing new, then Raft and
   the database stop.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from common import log
from common.admin import AsyncAdminService
from common.cluster import ClusterNode, State
from common.config import NodeConfig
from common.faults import cuts_of, opener_of
from common.lifecycle import Lifecycle, fatal
from common.log_buffer import LogBuffer
from common.metrics import Metrics
from common.reload import Takers
from common.server import AsyncServer, Service
from common.token_book import KeepTokens, TokenBook
from common.workers import Worker, Workers
from coordinator.consensus import Consensus, ConsensusSettings, Identity, Leadership, SnapshotFile
from coordinator.consensus.database import Database
from coordinator.consensus.files import StorageFull
from coordinator.decisions.liveness import Liveness, with_margin
from coordinator.decisions.packing import Rules
from coordinator.duties.balance import BalanceDuty
from coordinator.duties.chunk_reading import reading
from coordinator.duties.collect import Collect
from coordinator.duties.cycle import Policy
from coordinator.duties.departures import Departures
from coordinator.duties.desk import Desk
from coordinator.duties.enrol import Enrol
from coordinator.duties.expiry import Expiry
from coordinator.duties.genesis import Genesis
from coordinator.duties.holders import RemoteHolders
from coordinator.duties.liveness import LivenessDuty
from coordinator.duties.packing import Packing
from coordinator.duties.probe import HealthProber, ProbeDuty
from coordinator.duties.reap import Reap
from coordinator.duties.reconcile import Reconcile
from coordinator.duties.repack import Figures as RepackFigures
from coordinator.duties.repack import Repack
from coordinator.duties.repack import Rules as RepackRules
from coordinator.duties.repair import Budget, Repair
from coordinator.duties.settings import Settings
from coordinator.duties.tenure import Tenure
from coordinator.duties.tick import Tick
from coordinator.duties.trim import TrimDuty
from coordinator.gauges import Recent, add_gauges, add_gc_gauges, add_live_gauges, add_repair_gauges
from coordinator.metadata import migrations
from coordinator.metadata.machine import Machine
from coordinator.metrics import CoordinatorMetrics, Sample
from coordinator.services import membership, namespace, view
from coordinator.services.asking import NODE_SECONDS
from coordinator.services.backups import Backups
from coordinator.services.balancing import BalanceDesk
from coordinator.services.collection import CollectionDesk
from coordinator.services.consensus import ConsensusService
from coordinator.services.control import ControlService
from coordinator.services.durability import DurabilityDesk
from coordinator.services.events import EventBook
from coordinator.services.face import CoordinatorFace
from coordinator.services.fetching import fetch_snapshot
from coordinator.services.gateway import Gateway
from coordinator.services.hashes import Hashes
from coordinator.services.members import Members
from coordinator.services.membership import MembershipService
from coordinator.services.namespace import NamespaceService
from coordinator.services.nodes import NodeDesk
from coordinator.services.placing import Placer, open_uploads
from coordinator.services.tokens import TokenDesk
from coordinator.soft.turning import Turning
from coordinator.soft_state import SoftState, Transition
from quorumfs import __version__, limits
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import BusyError, NoSpaceError, UnavailableError
from quorumfs.mint import system_random
from quorumfs.rpc.channels import Channels
from quorumfs.rpc.circuit import Circuits
from quorumfs.rpc.trust import TrustedChannels, read_secret
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import admin_pb2_grpc, membership_pb2_grpc
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

POLL_SECONDS = 0.1
DRAIN_SECONDS = 2.0
FULL_DISK_SECONDS = 0.5  # between two tries to start on a disk without room
VIEW_SECONDS = 5.0

_log = log.get(__name__)


class CoordinatorNode:
    """One coordinator. `run` in the main thread; the rest from any."""

    def __init__(self, config: NodeConfig, lifecycle: Lifecycle, buffer: LogBuffer) -> None:
        self._config = config
        self._lifecycle = lifecycle
        self._clock: Clock = SystemClock()
        self._chance = random.SystemRandom().random
        self._directory = config.node.data_dir
        self._own = own_view(config, self._clock)
        node_id = config.node.id
        self._secret: Callable[[], bytes] = lambda: read_secret(config.cluster.secret_file)
        self._metrics = Metrics(__version__, "coordinator")
        self._figures = CoordinatorMetrics(self._metrics.registry)
        life = config.membership
        timing = with_margin(life.suspect_seconds, life.dead_seconds, life.heartbeat_seconds)
        turning = Turning(self._clock, timing.suspect_seconds)
        self._soft = SoftState(self._clock, timing, turning.deaf_until)
        self._gateway = Gateway(self._clock, node_id)
        self._identity: Identity | None = None
        self._database: Database | None = None
        self._consensus: Consensus | None = None
        self._tenure: Tenure | None = None
        self._repair: Repair | None = None
        self._repair_budget = Budget(config.repair.bytes_per_second, self._clock)
        self._reconcile: Reconcile | None = None
        self._collect: Collect | None = None
        self._repack: Repack | None = None
        self._departures: Departures | None = None
        self._balance: BalanceDuty | None = None
        self._workers = Workers()
        self._agent = ClusterNode.for_coordinator(self._describe, self._read_view, clock=self._clock)
        self._starting = threading.Lock()
        self._full_until: float | None = None  # the disk had no room to start; then it is tried again
        self._channels: TrustedChannels | None = None
        self._circuits = Circuits(self._clock, self._chance)  # to datanodes
        self._cuts = cuts_of(config)
        self._data_channels = Channels(opener=opener_of(self._cuts))  # to datanodes, as a client has them
        self._face = CoordinatorFace(
            self,
            self._gateway,
            self._soft,
            self._own,
            lifecycle,
            self._trusted,
            self._clock,
            turning.age_seconds,
            security_mode=config.security.mode,
        )
        self._tokens = TokenDesk(self._gateway, system_random, lambda: self._book.refresh())
        self._book = TokenBook(self._read_tokens, self._clock)
        self._server = AsyncServer(
            config.grpc.host,
            config.grpc.port,
            self._services(buffer),
            node_id=node_id,
            secret=self._secret,
            metrics=self._metrics,
            security_mode=config.security.mode,
            book=self._book,
            turned=turning.turned,
        )
        add_gauges(self._figures, self._gateway, self._soft)
        add_repair_gauges(self._figures, self._soft, lambda: self._repair)
        add_live_gauges(self._figures, self._rewriting)
        add_gc_gauges(self._figures, Recent(lambda: self._server.submit(self._collection.figures())))
        self._figures.gauges.add(
            "quorumfs_replica_reports_waiting",
            "Replicas that were reported and are not compared with the metadata yet.",
            self._reports_waiting,
        )

    # The process

    def run(self) -> int:
        """Serve until the process is asked to end; returns the exit code. Raises QuorumFSError at the
        start."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._server.start()
        try:
            self._start_if_there_is_room()
            self._agent.start()
            self._lifecycle.notify_ready(self.state)
            self._watch()
        finally:
            self._stop()
        return 0

    def takers(self) -> Takers:
        """What of the configuration may change while this runs."""
        return {
            "repair.bytes_per_second": lambda new: self._repair_budget.change(new.repair.bytes_per_second)
        }

    def _watch(self) -> None:
        """Until the end: tell the agent who leads, the health service how we are, systemd that we live."""
        ready_before = False
        pet_every = self._lifecycle.watchdog_seconds
        pet_at = self._clock.monotonic()
        while not self._lifecycle.wait(POLL_SECONDS):
            if self._full_until is not None and self._clock.monotonic() >= self._full_until:
                self._start_if_there_is_room()
            health = self._face.health()
            if self._gateway.attached:
                self._agent.observe_leader(self._gateway.leader(), self._gateway.consensus.term)
                self._agent.set_ready(health.live)
            if health.ready != ready_before:
                ready_before = health.ready
                self._server.set_serving(health.ready)
                self._lifecycle.notify_status(self.state + (", ready" if health.ready else ""))
            if pet_every is not None and health.live and self._clock.monotonic() >= pet_at:
                self._lifecycle.notify_watchdog()
                pet_at = self._clock.monotonic() + pet_every

    def _stop(self) -> None:
        """Leadership first, so that clients lose no time; then the server; then what it stood on."""
        self._lifecycle.notify_stopping(self._lifecycle.reason)
        _log.info("node.stopping", reason=self._lifecycle.reason)
        self._agent.begin_stopping()
        self.hand_over()
        self._server.submit(self._members.end_streams())
        self._server.stop(DRAIN_SECONDS)
        if self._tenure is not None:
            self._tenure.stop()
        self._workers.stop()
        self._agent.stop()
        if self._consensus is not None:
            self._consensus.stop(transfer=False)
        if self._channels is not None:
            self._channels.close()
        self._data_channels.close()
        _log.info("node.stopped")

    def hand_over(self) -> bool:
        """Give the leadership to another member, if this one has it; True when another leads."""
        consensus = self._consensus
        if consensus is None or consensus.leadership() is None:
            return False
        if not consensus.transfer(None):
            _log.warning("leadership.kept", cause="no follower was ready in time")
            return False
        return True

    # The replica

    def accept(self, request: m.GenesisRequest) -> Identity:
        """Become a member of a new cluster; durable on return, and the replica runs, or will as soon as the disk has
        room for it. Raises NoSpaceError: nothing was accepted."""
        with self._starting:
            try:
                identity = Identity.accept(self._directory, request, self._config.node.id)
            except StorageFull as error:
                raise NoSpaceError(error.message, cause=error.cause, next=error.next) from error
            self._identity = identity
            try:
                self._start_replica(identity)
            except StorageFull as error:
                self._wait_for_room(error)
            return identity

    def _start_if_there_is_room(self) -> None:
        """Start what the directory says that there is. A full disk is waited for: the others go on meanwhile, this
        member says why it is not ready, and no supervisor has to try again."""
        with self._starting:
            try:
                if self._identity is None:
                    self._identity = Identity.load(self._directory, self._config.node.id)
                if self._identity is None:
                    _log.info("genesis.awaited", grpc=self._own.info.grpc)
                else:
                    if self._full_until is None:
                        self._gateway.returning()
                    self._start_replica(self._identity)
                self._full_until = None
            except StorageFull as error:
                self._wait_for_room(error)

    def _wait_for_room(self, error: StorageFull) -> None:
        if self._full_until is None:
            _log.warning("node.no_room", reason=error.message, cause=error.cause, next=error.next)
        self._gateway.without_room(f"{error.message}: {error.cause}")
        self._full_until = self._clock.monotonic() + FULL_DISK_SECONDS

    def _start_replica(self, identity: Identity) -> None:
        """Raises StorageFull: then nothing is open, and it may be tried again."""
        database = Database.open(self._directory, Machine(migrations.upgrade))
        try:
            consensus = self._consensus_over(database, identity)
        except BaseException:
            database.close()
            raise
        self._run_replica(database, consensus, identity)

    def _consensus_over(self, database: Database, identity: Identity) -> Consensus:
        return Consensus(
            settings=settings_of(self._config),
            database=database,
            identity=identity,
            directory=self._directory,
            secret=self._secret(),
            clock=self._clock,
            random=system_random,
            fatal=fatal,
            fetch_snapshot=self._fetch_snapshot,
        )

    def _run_replica(self, database: Database, consensus: Consensus, identity: Identity) -> None:
        self._database, self._consensus = database, consensus
        consensus.observe(self._figures.synced, self._figures.proposed)
        desk = Desk(consensus, self._clock)
        self._tenure = Tenure(desk, self._soft, lambda leadership: self._duties(desk, identity, leadership))
        self._gateway.attach(consensus, self._server.loop)
        consensus.start()
        self._tenure.start()
        enrol = Enrol(desk, self._describe, self._gateway.leader, self._trusted(), identity.cluster_id)
        self._workers.add(enrol)
        self._workers.add(KeepTokens(self._book))
        if self._cuts is not None:
            self._cuts.also(consensus.block)
            self._workers.add(self._cuts)
        self._workers.start()
        self._agent.joined(identity.cluster_id)
        _log.info("replica.started", cluster=identity.cluster_id, members=len(identity.members))

    def _fetch_snapshot(self, address: str, at_least_index: int, into: Path) -> SnapshotFile:
        return fetch_snapshot(self._trusted(), address, self._own.info.node_id, at_least_index, into)

    def _trusted(self) -> TrustedChannels:
        if self._channels is None:
            self._channels = TrustedChannels(
                self._secret(), self._own.info.node_id, opener=opener_of(self._cuts)
            )
        return self._channels

    def _duties(self, desk: Desk, identity: Identity, leadership: Leadership) -> Sequence[Worker]:
        """Fresh ones for every leadership."""
        config, soft = self._config, self._soft
        epoch = t.Epoch(history=leadership.history, term=leadership.term)
        self._repair = Repair(
            desk,
            soft,
            self._chance,
            self._repair_budget,
            config.repair.parallel,
            self._clock,
            self._figures.repaired,
        )
        self._collect = Collect(
            desk,
            soft,
            self._holders(),
            self._clock,
            Policy(config.gc.shrink_guard_percent),
            epoch,
            config.gc.interval_seconds,
            self._figures.collected,
            self._figures.cycle,
        )
        self._repack = Repack(
            desk,
            soft,
            self._data_channels,
            reading(self._data_channels, soft, self._clock),
            identity.cluster_id,
            RepackRules(config.packing.live_percent_min, limits.PACK_BYTES_MAX, config.gc.interval_seconds),
            self._chance,
            self._clock,
        )
        self._departures = Departures(desk, soft, self._clock)
        self._reconcile = Reconcile(desk, soft, self._clock)
        trim = TrimDuty(desk, soft, self._holders(), self._clock, epoch)
        self._balance = BalanceDuty(desk, soft, self._chance, self._clock, trim.look_at)
        return [
            Genesis(desk, identity.cluster_id, leadership.history, identity.members),
            Settings(desk, replicated_settings(config)),
            Tick(desk),
            Reap(desk),
            Expiry(desk, soft, config.upload.ttl_seconds, config.session.ttl_seconds),
            LivenessDuty(soft, self._node_changed),
            ProbeDuty(soft, HealthProber(self._data_channels), self._clock),
            self._reconcile,
            self._repair,
            self._departures,
            Packing(
                desk,
                soft,
                self._data_channels,
                identity.cluster_id,
                packing_rules(config),
                self._chance,
                self._clock,
            ),
            self._repack,
            self._collect,
            trim,
            self._balance,
        ]

    def _rewriting(self) -> RepackFigures | None:
        return self._repack.figures if self._repack is not None and self._soft.leading else None

    def _holders(self) -> RemoteHolders:
        return RemoteHolders(self._trusted(), self._address_of, self._circuits)

    def _holders_for_operators(self) -> RemoteHolders:
        return RemoteHolders(self._trusted(), self._address_of, self._circuits, NODE_SECONDS)

    def _address_of(self, node_id: str) -> str | None:
        known = self._soft.known_as(node_id)
        return known.info.grpc if known is not None else None

    # What the faces ask

    @property
    def state(self) -> str:
        if self._face.draining and not self._lifecycle.stopping.is_set():
            return State.DRAINING.value
        if self._full_until is not None and not self._lifecycle.stopping.is_set():
            return State.STARTING.value
        return self._agent.state.value

    def duties(self) -> list[a.Duty]:
        """This node's own, and the leader's when it leads."""
        leading = self._tenure.duties if self._tenure is not None else None
        return [*self._workers.duties(), *self._agent.duties.duties(), *(leading.duties() if leading else [])]

    def control_duty(self, name: str, action: str) -> a.Duty:
        leading = self._tenure.duties if self._tenure is not None else None
        if leading is not None and name not in [one.name for one in self._workers.duties()]:
            return leading.control(name, action)
        return self._workers.control(name, action)

    def _node_changed(self, change: Transition) -> None:
        self._figures.transition(change.after.value)
        if change.after in (Liveness.ALIVE, Liveness.RETURNING):
            self._circuits.ended(change.node_id, None)
        leading = self._tenure.duties if self._tenure is not None else None
        if change.after is Liveness.DEAD and leading is not None:
            leading.wake(Repair.name)  # its replicas are missed from now on

    def repair_now(self) -> None:
        """Raises BusyError when this member does not lead, or has only just begun to."""
        repair = self._repair
        leading = self._tenure.duties if self._tenure is not None else None
        if repair is None or leading is None:
            raise BusyError("this coordinator has only just begun to lead, or leads no more")
        repair.hurry()
        leading.wake(repair.name)

    def repair_status(self) -> a.RepairStatus:
        repair = self._repair
        if repair is None:
            return a.RepairStatus()
        figures = repair.figures
        return a.RepairStatus(
            pending=figures.pending,
            running=figures.running,
            done=figures.done,
            failed=figures.failed,
            bytes_per_second=self._repair_budget.per_second,
        )

    def _reports_waiting(self) -> Sequence[Sample]:
        reconcile = self._reconcile
        return [((), float(reconcile.waiting))] if reconcile is not None and self._soft.leading else []

    def _departure_rate(self, node_id: str) -> float | None:
        departures = self._departures
        return departures.rate(node_id) if departures is not None and self._soft.leading else None

    def _describe(self) -> m.NodeInfo:
        info = m.NodeInfo()
        info.CopyFrom(self._own.info)
        if self._identity is not None:
            info.node_uuid = self._identity.member_uuid
        return info

    def _read_view(self) -> m.ClusterView:
        asked: Future[m.ClusterView] = self._server.submit(
            view.cluster_view(self._gateway, self._soft, self._own, "")
        )
        return asked.result(VIEW_SECONDS)

    def _read_tokens(self) -> Sequence[t.TokenInfo]:
        asked: Future[Sequence[t.TokenInfo]] = self._server.submit(self._tokens.table())
        try:
            return asked.result(VIEW_SECONDS)
        except TimeoutError:
            raise UnavailableError("the tokens are not told", cause="the database does not answer") from None

    def _services(self, buffer: LogBuffer) -> list[Service]:
        gateway, soft, own, config = self._gateway, self._soft, self._own, self._config
        placer = Placer(soft, lambda ids: open_uploads(gateway, ids), self._chance, config.data.min_replicas)
        hashes = Hashes(gateway, own, self._trusted)
        collection = self._collection = CollectionDesk(
            gateway,
            soft,
            self._holders_for_operators,
            lambda: self._collect if soft.leading else None,
            self._clock,
            rewriting=self._rewriting,
            grace_seconds=config.gc.grace_seconds,
            interval_seconds=config.gc.interval_seconds,
        )
        control = ControlService(
            gateway,
            soft,
            own,
            hashes,
            Members(gateway, own, self._trusted, system_random),
            self._clock,
            collection=collection,
            nodes=NodeDesk(gateway, soft, self._departure_rate),
            tokens=self._tokens,
            durability=DurabilityDesk(gateway, soft, self._holders_for_operators, self._clock),
            balancing=BalanceDesk(gateway, soft, lambda: self._balance if soft.leading else None),
            backups=Backups(gateway, own.info.node_id, self._directory, self._clock),
            events=EventBook(buffer, own.info.node_id),
            repair_status=self.repair_status,
            repair_now=self.repair_now,
            alarms=self._face.alarms,
        )
        self._members = MembershipService(
            gateway,
            soft,
            own,
            config.membership.heartbeat_seconds,
            self._tokens,
            self._figures.heartbeat,
        )
        founding = ConsensusService(
            gateway, own.info.node_id, self._directory, lambda: self._identity, self.accept
        )
        return [
            Service(
                namespace.SERVICE,
                NamespaceService(gateway, soft, placer),
                lambda service, server: server.add_generic_rpc_handlers((namespace.handler(service),)),
            ),
            Service(membership.SERVICE, self._members, membership.add_to_server),
            Service("quorumfs.v1.Consensus", founding, membership_pb2_grpc.add_ConsensusServicer_to_server),
            Service("quorumfs.v1.Control", control, admin_pb2_grpc.add_ControlServicer_to_server),
            AsyncAdminService(self._face, self._metrics, buffer).as_service(),
        ]


def own_view(config: NodeConfig, clock: Clock) -> m.NodeView:
    """This node as it describes itself; `state` is alive, for it answers."""
    now = clock.wall_ms()
    info = m.NodeInfo(
        node_id=config.node.id,
        role=t.NODE_ROLE_COORDINATOR,
        grpc=config.grpc.advertise,
        http=config.http.advertise,
        version=__version__,
        labels=config.node.labels,
        host=socket.gethostname(),
        started_wall_ms=now,
        incarnation=now,
    )
    return m.NodeView(info=info, state=t.NODE_STATE_ALIVE, raft=config.raft.advertise)


def replicated_settings(config: NodeConfig) -> dict[str, int]:
    """What of the configuration `apply` goes by, under its replicated keys."""
    data = config.data
    return {
        "data.chunk_size_bytes": data.chunk_size_bytes,
        "data.replication": data.replication,
        "data.min_replicas": data.min_replicas,
        "data.inline_bytes_max": data.inline_bytes_max,
        "data.inline_budget_bytes": data.inline_budget_bytes,
        "session.ttl_ms": int(config.session.ttl_seconds * 1000),
        "upload.ttl_ms": int(config.upload.ttl_seconds * 1000),
        "trash.retention_ms": int(config.trash.retention_seconds * 1000),
        "gc.grace_ms": int(config.gc.grace_seconds * 1000),
        "gc.quarantine_ms": int(config.gc.quarantine_seconds * 1000),
    }


def packing_rules(config: NodeConfig) -> Rules:
    """When bodies leave the metadata."""
    return Rules(
        threshold_bytes=config.packing.threshold_bytes,
        age_ms=int(config.packing.age_seconds * 1000),
        pack_bytes_min=limits.PACK_AGED_BYTES_MIN,
        pack_bytes_max=limits.PACK_BYTES_MAX,
    )


def settings_of(config: NodeConfig) -> ConsensusSettings:
    """What consensus needs of the configuration."""
    raft = config.raft
    return ConsensusSettings(
        host=raft.host,
        port=raft.port,
        heartbeat_seconds=raft.heartbeat_seconds,
        election_seconds_min=raft.election_seconds_min,
        election_seconds_max=raft.election_seconds_max,
        read_lease=raft.read_lease,
    )
