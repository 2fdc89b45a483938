"""A datanode's heartbeats: register, tell, obey, and find the leader again whenever it is lost.

One thread, one call at a time. `turn` does one call and says how long to wait; the thread only repeats it.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from common import log
from common.cluster.content import Agenda
from common.cluster.following import Event, Following, judge
from common.cluster.inventory import InventoryReport
from common.cluster.leader_tracker import LeaderTracker
from common.cluster.transport import Transport
from common.lifecycle import fatal
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import (
    Code,
    FencedError,
    InternalError,
    Leader,
    NotLeaderError,
    QuorumFSError,
    WrongClusterError,
)
from quorumfs.limits import SUSPECT_SECONDS
from quorumfs.rpc.status import leader_of, raise_for
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

DEADLINE_SECONDS_MIN = 0.5
INTERVAL_SECONDS_MIN = 0.05
INTERVAL_SECONDS_MAX = 60.0
CONTENT_RETRY_SECONDS = 1.0
REGISTER_AGAIN_FRACTION = 0.2
HURRY_GAP_SECONDS = 0.05  # a burst of news is one heartbeat
STUCK_SECONDS = 30.0
SILENT_INTERVALS = 3
_log = log.get(__name__)


class Heartbeats:
    """The loop. `start`, `stop` once; `hurry`, and the properties, from any thread."""

    def __init__(
        self,
        agenda: Agenda,
        transport: Transport,
        tracker: LeaderTracker,
        describe: Callable[[], m.NodeInfo],
        coordinators: Sequence[str],
        cluster_id: str,
        *,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._agenda = agenda
        self._transport = transport
        self._tracker = tracker
        self._describe = describe
        self._clock = clock or SystemClock()
        self._chance = chance
        self._following = Following(coordinators)
        self._inventory = InventoryReport(agenda, transport, self.header, lambda: self._following.address)
        self._interval_seconds = agenda.heartbeat_seconds
        self._sequence = 0
        self._ended: Counter[str] = Counter()
        self._registered_under: tuple[int, int] | None = None
        self.cluster_id = cluster_id
        self.trouble = ""
        self._acknowledged_at: float | None = None
        self._accepted_at = 0.0
        self._silent: frozenset[str] = frozenset()
        self._last_kind: Code | None = None
        self._turned_at = self._due_at = self._clock.monotonic()
        self._wake = threading.Condition()
        self._hurry = False
        self._advice = ""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    # The thread

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 3.0) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._inventory.stop()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def hurry(self) -> None:
        """Something is worth telling: send the next heartbeat now, if the leader is known."""
        with self._wake:
            self._hurry = True
            self._wake.notify_all()

    def advise(self, address: str) -> None:
        """Somebody outside says that the coordinator at `address` leads; used by the next call of a search."""
        with self._wake:
            self._advice = address

    @property
    def registered(self) -> bool:
        """Whether a leader has accepted this node, and has answered it lately: it counts as alive there."""
        if self._registered_under is None:
            return False
        silence = self._clock.monotonic() - self._accepted_at
        return silence < max(SUSPECT_SECONDS, SILENT_INTERVALS * self._interval_seconds)

    def sent(self) -> dict[str, int]:
        """How many heartbeats were sent, by how they ended: see `Event`; 0 is told too."""
        return {event.value: self._ended[event.value] for event in Event}

    def _must_register(self) -> bool:
        return self._registered_under is None

    @property
    def age_seconds(self) -> float | None:
        """Since a leader last acknowledged a heartbeat; None before the first."""
        at = self._acknowledged_at
        return None if at is None else max(0.0, self._clock.monotonic() - at)

    @property
    def silent(self) -> frozenset[str]:
        """Addresses of coordinators that did not answer when they were asked last. While no leader is known all are
        asked again and again."""
        return self._silent

    @property
    def turning(self) -> bool:
        """Whether the loop makes its turns, or has not begun; not whether anybody answers."""
        if self._thread.ident is None:
            return True
        return self._thread.is_alive() and self._clock.monotonic() - self._due_at < STUCK_SECONDS

    def _run(self) -> None:
        try:
            pause = 0.0
            while self._rest(pause):
                pause = self.turn()
                self._due_at = self._clock.monotonic() + pause
        except Exception as error:  # noqa: BLE001  outermost frame: a node without heartbeats only looks alive
            if self._stopping:
                return  # its channels were closed under it
            _log.error("heartbeat.died", exc_info=error)
            fatal(f"the heartbeat thread ended: {error!r}")

    def _rest(self, seconds: float) -> bool:
        with self._wake:
            known = not self._following.searching
            self._wake.wait_for(lambda: self._stopping or (self._hurry and known), max(0.0, seconds))
            if self._hurry:
                gap = self._turned_at + HURRY_GAP_SECONDS - self._clock.monotonic()
                self._wake.wait_for(lambda: self._stopping, max(0.0, gap))
            self._hurry = False
            return not self._stopping

    # One turn

    def turn(self) -> float:
        """One call to a coordinator, and what follows from its answer. Returns seconds until the next."""
        began = self._turned_at = self._clock.monotonic()
        self._take_advice()
        address = self._following.address
        hint: Leader | None = None
        beats = not self._must_register()
        try:
            if self._must_register():
                self._register(address)
                interval = 0.0  # the heartbeat that carries the reports follows at once
            else:
                self._beat(address)
                interval = self._interval_seconds - (self._clock.monotonic() - began)
                if self._must_register():
                    interval = min(interval, self._interval_seconds * REGISTER_AGAIN_FRACTION)
            event = Event.ACCEPTED
            self._accepted_at = self._clock.monotonic()
            self._note(event, None)
        except QuorumFSError as error:
            event, hint, interval = judge(error), error.leader, 0.0
            self._note(event, error)
        except OSError as error:  # the content's disks; the leader has nothing to do with it
            _log.warning("heartbeat.not_sent", cause=str(error))
            return CONTENT_RETRY_SECONDS
        self._ended[event.value] += beats
        self._learn(event, hint, address)
        heard = self._silent - {address}
        self._silent = heard | {address} if event is Event.SILENT else heard
        named, now = hint.grpc if hint else None, self._clock.monotonic()
        return self._following.after(event, named, max(0.0, interval), self._chance(), now).wait_seconds

    def _take_advice(self) -> None:
        with self._wake:
            advice, self._advice = self._advice, ""
        if advice:
            self._following.advise(advice)

    def _learn(self, event: Event, hint: Leader | None, address: str) -> None:
        """What the end of a call says about who leads, and whether this node belongs."""
        if event is Event.REFUSED:
            self._registered_under = None  # whatever it was before, this node does not belong now
        if hint is not None:
            self._tracker.observe(hint, "hint")
        elif event in (Event.SILENT, Event.NOT_LEADER):
            self._tracker.lost(address)

    def _note(self, event: Event, error: QuorumFSError | None) -> None:
        """Tell the log when how it goes has changed; the rest is for debugging. Who does not lead explains nothing
        while who does refuses this node."""
        if event is Event.NOT_LEADER and self._following.refused:
            return
        self.trouble = str(error) if error is not None else ""
        kind = error.code if error is not None else Code.OK
        changed, self._last_kind = kind is not self._last_kind, kind
        if error is None:
            if changed:
                _log.info("heartbeat.accepted", coordinator=self._following.address)
            return
        loud = event is Event.REFUSED or error.code is Code.UNAUTHENTICATED
        say = _log.debug if not changed else _log.error if loud else _log.info
        say(
            "heartbeat.failed",
            coordinator=self._following.address,
            outcome=event.value,
            cause=self.trouble,
            next=error.next,
        )

    @property
    def _deadline_seconds(self) -> float:
        return max(DEADLINE_SECONDS_MIN, 2 * self._interval_seconds)

    def highest_epoch(self) -> t.Epoch:
        history, term = self._agenda.epochs.epoch
        return t.Epoch(history=history, term=term)

    def header(self) -> m.InventoryPage:
        """An inventory page of this node without anything on it."""
        node = self._describe()
        return m.InventoryPage(
            cluster_id=self.cluster_id,
            node_id=node.node_id,
            node_uuid=node.node_uuid,
            incarnation=self._agenda.epochs.incarnation,
            highest_epoch=self.highest_epoch(),
        )

    def _register(self, address: str) -> None:
        node = self._describe()
        request = m.RegisterRequest(
            cluster_id=self.cluster_id,
            node=node,
            highest_epoch=self.highest_epoch(),
            highest_commit_index=self._agenda.epochs.commit_index,
            empty=self._agenda.content.holds_nothing(),
        )
        request.node.incarnation = self._agenda.epochs.incarnation
        if not request.node.disks:
            request.node.disks.extend(self._agenda.content.disks())
        answer = self._transport.register(address, request, self._deadline_seconds)
        self._check(answer.code, answer.error, answer.leader, address)
        self._accept_cluster(answer.cluster_id)
        epoch = self._obey(answer.epoch, answer.commit_index, address)
        self._adopt_interval(answer.heartbeat_interval_ms)
        self._registered_under = epoch
        self._believe(answer.leader, epoch)
        _log.info("node.registered", coordinator=address, history=epoch[0], term=epoch[1])
        if dict(answer.labels) != dict(node.labels):
            self._agenda.apply_labels(dict(answer.labels))
        if answer.send_full_inventory:
            self._inventory.begin(0)

    def _beat(self, address: str) -> None:
        self._sequence += 1
        answer = self._transport.heartbeat(address, self._heartbeat(), self._deadline_seconds)
        self._check(answer.code, answer.error, answer.leader, address)
        epoch = self._obey(answer.epoch, answer.commit_index, address)
        self._believe(answer.leader, epoch)
        self._adopt_interval(answer.interval_ms)
        self._following.learn(member.grpc for member in answer.coordinators)
        if answer.acknowledged_sequence == self._sequence:
            self._acknowledged_at = self._clock.monotonic()
            self._agenda.content.acknowledged(self._sequence)
        if epoch != self._registered_under:
            self._registered_under = None  # another leadership: it gets a registration of its own
        self._take_commands(answer.commands, epoch)

    def _heartbeat(self) -> m.HeartbeatRequest:
        node, content = self._describe(), self._agenda.content
        load = content.load()  # first: a copy that is made meanwhile is then in both, never in neither
        return m.HeartbeatRequest(
            cluster_id=self.cluster_id,
            node_id=node.node_id,
            node_uuid=node.node_uuid,
            incarnation=self._agenda.epochs.incarnation,
            sequence=self._sequence,
            load=load,
            disks=content.disks(),
            delta=content.take_delta(self._sequence),
            outcomes=content.outcomes(self._sequence),
            highest_epoch=self.highest_epoch(),
            highest_commit_index=self._agenda.epochs.commit_index,
            version=node.version,
            labels=dict(node.labels),
        )

    def _check(self, code: int, error: t.ErrorDetail, leader: t.LeaderHint, address: str) -> None:
        """Raise the error of an answer, with the leader that the answer names."""
        try:
            raise_for(code, error)
        except QuorumFSError as refusal:
            hinted = leader_of(leader)
            if refusal.leader is None and hinted is not None and hinted.grpc != address:
                refusal.leader = hinted
            raise

    def _accept_cluster(self, cluster_id: str) -> None:
        if not cluster_id:
            raise InternalError("the leader accepted this node but named no cluster")
        if self.cluster_id and cluster_id != self.cluster_id:
            raise WrongClusterError(
                "this node belongs to another cluster",
                cause=f"its cluster is {self.cluster_id}, the coordinator's is {cluster_id}",
                next="correct cluster.coordinators",
            )
        if not self.cluster_id:
            self._agenda.learn_cluster_id(cluster_id)
            self.cluster_id = cluster_id
            _log.info("cluster.joined", cluster_id=cluster_id)

    def _obey(self, epoch: t.Epoch, commit_index: int, address: str) -> tuple[int, int]:
        """Make the answer's epoch durable before anything of it counts. NotLeaderError for a lower one."""
        try:
            self._agenda.epochs.obey(epoch)
        except FencedError as error:
            raise NotLeaderError(f"{address} was deposed", cause=error.cause) from error
        self._agenda.epochs.heard(epoch, commit_index)
        return epoch.history, epoch.term

    def _believe(self, hint: t.LeaderHint, epoch: tuple[int, int]) -> None:
        leader = leader_of(hint)
        if leader is None:
            leader = Leader(node_id="", grpc=self._following.address, term=epoch[1])
        self._tracker.observe(leader, "heartbeat", epoch[1])

    def _adopt_interval(self, interval_ms: int) -> None:
        if interval_ms:
            self._interval_seconds = min(max(interval_ms / 1000, INTERVAL_SECONDS_MIN), INTERVAL_SECONDS_MAX)

    def _take_commands(self, commands: Sequence[m.Command], epoch: tuple[int, int]) -> None:
        for_node: list[m.Command] = []
        for command in commands:
            if (command.epoch.history, command.epoch.term) != epoch:
                _log.warning("command.stale", command=command.id, term=command.epoch.term)
            elif command.WhichOneof("command") == "register":
                self._registered_under = None
            elif command.WhichOneof("command") == "full_inventory":
                self._inventory.begin(command.full_inventory.gather_id)
            else:
                for_node.append(command)
        if for_node:
            self._agenda.obey_commands(for_node)
