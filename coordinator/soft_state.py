"""What a leader knows and does not replicate: heartbeats, loads, commands, inventories, signs of life.

Theory of operation
1. It belongs to one leadership. `begin` empties it, `end` throws it away; outside of a leadership every
   question is answered as by somebody who knows nothing.
2. Nothing in here is needed for safety. What is lost with it comes back: nodes report again within a
   heartbeat, a new leader asks for full inventories, orders again what had no outcome, and gives every
   node, upload and session its full time from the beginning of its own leadership.
3. Times are monotonic seconds of receipt by this process; a node's own clock is never believed.
4. Silence counts only while this process listens: not while nothing in it looked or heard, nor while the loop on which
   heartbeats, and signs of life, arrive did not turn.
5. Everything is bounded; what does not fit is dropped and asked for again (a full inventory).

Any thread may call any method; each takes one lock for a short time and does no I/O under it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from coordinator.decisions.liveness import Liveness, Timing
from coordinator.decisions.placement import Candidate
from coordinator.metadata.queries import LostDisk
from coordinator.soft.candidates import candidate
from coordinator.soft.inventories import Inventories
from coordinator.soft.orders import COPY_SECONDS_MAX, INVENTORY, LABELS, OrderBook
from coordinator.soft.roster import Roster
from coordinator.soft.signs import Promises, Signs
from coordinator.soft.silence import Heard, Silence
from coordinator.soft.tables import known_node, known_nodes, lost_disks, node_table
from coordinator.soft.touched import Touched
from coordinator.soft.values import (
    Done,
    Inventory,
    KnownNode,
    NodeTable,
    Order,
    Pulse,
    Report,
    Transition,
)
from quorumfs.clock import Clock
from quorumfs.errors import BusyError, DuplicateNodeError
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

__all__ = [
    "Done",
    "Inventory",
    "KnownNode",
    "NodeTable",
    "Order",
    "Pulse",
    "Report",
    "SoftState",
    "Transition",
    "known_node",
    "known_nodes",
    "node_table",
]

REPORTS_MAX = 200_000
INHERITED_SECONDS = 5.0
NO_DISKS: frozenset[str] = frozenset()
CANDIDATE_SECONDS = 1.0  # how long what placement sees of a silent node may be used again


@dataclass(slots=True)
class _Node(Heard):
    """The soft half of one node."""

    node_uuid: str = ""
    incarnation: int = 0  # of the process that speaks for it; 0: none has yet
    sequence: int = 0
    load: m.NodeLoad = field(default_factory=m.NodeLoad)
    disks: tuple[t.DiskInfo, ...] = ()
    disk_states: tuple[tuple[str, str], ...] = ()
    lost: tuple[KnownNode, frozenset[LostDisk]] | None = None  # as of that row; until its disks change
    candidate: tuple[KnownNode, int, Candidate] | None = (
        None  # as of that row and promise; until it is heard again
    )
    answers_probes: bool = False  # since it was heard last
    copying: dict[bytes, float] = field(default_factory=dict)  # chunk -> since when it tells of a copy
    inherited: dict[bytes, float] = field(
        default_factory=dict
    )  # chunk -> until when its copy counts as under way


class SoftState:
    """See the module. `timing` in seconds; `clock` is the process's. `deaf_until`: given the time, until when nobody
    could be heard (see `Turning`)."""

    def __init__(
        self, clock: Clock, timing: Timing, deaf_until: Callable[[float], float] = lambda now: -math.inf
    ) -> None:
        self._clock = clock
        self._timing = timing
        self._deaf_until = deaf_until
        self._lock = threading.Lock()
        self._epoch = t.Epoch()
        self._clear()

    def _clear(self) -> None:
        self._roster = Roster()
        self._silence = Silence(self._clock, self._timing, self._deaf_until)
        self._nodes: dict[str, _Node] = {}
        self._orders = OrderBook(self._epoch)
        self._inventories = Inventories()
        self._reports: deque[Report] = deque()
        self._uploads: Signs[bytes] = Signs()
        self._sessions: Signs[int] = Signs()
        self._promises = Promises()
        self._touched = Touched()
        self._alarms: dict[str, tuple[str, int]] = {}

    # Leadership

    def begin(self, history: int, term: int, nodes: Iterable[KnownNode], index: int = 0) -> None:
        """A leadership of this member begins: everything anew. `nodes`: the node table as of the log's `index`."""
        roster = Roster(nodes, index)
        with self._lock:
            self._epoch = t.Epoch(history=history, term=term)
            self._clear()
            self._roster = roster
            self._silence.begin()

    def end(self) -> None:
        with self._lock:
            self._epoch = t.Epoch()
            self._clear()

    def epoch(self) -> t.Epoch:
        """Of the present leadership; zero when there is none."""
        with self._lock:
            return self._epoch

    @property
    def leading(self) -> bool:
        return self._silence.leading_since is not None

    def require_leading(self) -> None:
        """Raises BusyError before `begin` and after `end`."""
        if self._silence.leading_since is None:
            raise BusyError("this coordinator has only just begun to lead, or leads no more")

    # Nodes

    def set_known(self, table: NodeTable) -> None:
        """Take the node table over, unless a newer one came first; soft halves of forgotten nodes go."""
        with self._lock:
            if self._silence.leading_since is None or not self._roster.take(table):
                return
            for node_id in [one for one in self._nodes if one not in self._roster]:
                del self._nodes[node_id]
                self._orders.give_up(node_id)
                self._inventories.want(node_id)

    def learn_known(self, node: KnownNode, index: int) -> None:
        """Take one row of the node table over, as of the log's `index`, unless it is known as of later. A thousand
        nodes that register at once must not read the whole table each."""
        with self._lock:
            if self._silence.leading_since is not None:
                self._roster.learn(node, index)

    def known(self) -> dict[str, KnownNode]:
        """All of them, copied: whoever wants one asks `known_as`."""
        with self._lock:
            return dict(self._roster.nodes)

    def known_as(self, node_id: str) -> KnownNode | None:
        """The node that is registered under this id."""
        with self._lock:
            return self._roster.get(node_id)

    def known_with(self, node_uuid: str) -> frozenset[str]:
        """The ids under which this UUID is registered."""
        with self._lock:
            return frozenset(self._roster.with_uuid(node_uuid))

    def registered(self, node_id: str, incarnation: int) -> None:
        """A registration was accepted. Another process than before begins anew; the same one keeps its orders (its
        first heartbeat to a new leader may come before the registration), and tells again what it has."""
        with self._lock:
            node, known = self._nodes.setdefault(node_id, _Node()), self._roster.get(node_id)
            node_uuid = known.info.node_uuid if known is not None else ""
            if (node_uuid, incarnation) != (node.node_uuid, node.incarnation):
                self._begin_incarnation(node_id, node, node_uuid, incarnation)
            self._inventories.want(node_id)

    def heard(self, beat: m.HeartbeatRequest) -> bool:
        """Take in a heartbeat. True: accepted; False: the node must register first.

        Raises DuplicateNodeError when another process or machine uses the same node id, BusyError when the
        leadership is so young that the node table was not read yet.
        """
        now = self._clock.monotonic()
        with self._lock:
            self.require_leading()
            known = self._roster.get(beat.node_id)
            if known is None:
                return False
            if known.info.node_uuid != beat.node_uuid:
                raise duplicate(beat, f"the registered one has UUID {known.info.node_uuid}")
            node = self._nodes.setdefault(beat.node_id, _Node())
            if beat.incarnation < node.incarnation:
                raise duplicate(beat, "a later start of this node has been heard already")
            if beat.incarnation > node.incarnation:
                self._begin_incarnation(beat.node_id, node, beat.node_uuid, beat.incarnation)
            self._silence.awake(now)
            before = self._silence.leading_since if node.last_heard is None else node.last_heard
            node.pulse(self._timing, now)
            node.answers_probes = False
            if beat.sequence < node.sequence:
                return True  # overtaken on the way: a later one has told the same and more
            node.sequence = beat.sequence
            node.load, node.disks, node.candidate = beat.load, tuple(beat.disks), None
            states = tuple((disk.disk_id, disk.state) for disk in node.disks)
            if states != node.disk_states:
                node.disk_states, node.lost = states, None
            self._inherit(beat, node, now)
            self._take_delta(beat, before)
            self._orders.settle(beat.node_id, beat.outcomes)
            self._tell_labels(beat, known)
            return True

    def _tell_labels(self, beat: m.HeartbeatRequest, known: KnownNode) -> None:
        """Operators changed what the node tells of itself: the answer to this heartbeat says so. Again with each, until
        the node has understood."""
        told, wanted = dict(beat.labels), dict(known.info.labels)
        if told == wanted:
            return
        news = {key: value for key, value in wanted.items() if told.get(key) != value}
        change = m.SetLabelsCommand(labels=news, remove=sorted(told.keys() - wanted.keys()))
        self._orders.put(beat.node_id, LABELS, m.Command(set_labels=change), b"", "")

    def _begin_incarnation(self, node_id: str, node: _Node, node_uuid: str, incarnation: int) -> None:
        """Orders and inventories of the process before are void. If there was none in this leadership, nobody got the
        orders yet, and they wait on."""
        if node.incarnation:
            self._orders.give_up(node_id)
        node.node_uuid, node.incarnation = node_uuid, incarnation
        node.sequence = 0
        self._inventories.want(node_id)

    def _inherit(self, beat: m.HeartbeatRequest, node: _Node, now: float) -> None:
        """Copies that a leader before this one ordered. They count a little longer than they are told of: until what
        they made is in the metadata. One that never ends is given up as those that this leader ordered."""
        if beat.load.copying or node.copying:
            node.copying = {chunk: node.copying.get(chunk, now) for chunk in beat.load.copying}
        for chunk, since in node.copying.items():
            late = now - since >= COPY_SECONDS_MAX
            if not late and not self._orders.is_waiting(beat.node_id, "replicate", chunk):
                node.inherited[chunk] = now + INHERITED_SECONDS
        if node.inherited:
            node.inherited = {chunk: until for chunk, until in node.inherited.items() if until > now}

    def _take_delta(self, beat: m.HeartbeatRequest, since: float | None) -> None:
        """`since`: when the heartbeat before it was heard, whose end this one waited for; or the leadership began."""
        if len(self._reports) + len(beat.delta) > REPORTS_MAX:
            self._inventories.want(beat.node_id)
            return
        self._reports.extend(
            Report(beat.node_id, one.chunk, one.disk_id, one.state, one.length, one.checksum, since)
            for one in beat.delta
        )

    def judge(self) -> list[Transition]:
        """Let time pass: each datanode's state anew; returns what changed."""
        with self._lock:
            if self._silence.leading_since is None:
                return []
            changes = []
            now, since = self._silence.now()
            longest = {Liveness.ALIVE: -math.inf, Liveness.SUSPECT: -math.inf}
            for node_id in self._roster.datanodes:
                node = self._nodes.setdefault(node_id, _Node())
                after, silence = self._silence.judge(node, now, since)
                if after is not node.was:
                    changes.append(Transition(node_id, node.was, after, silence))
                    node.was = after
                if after in longest and silence > longest[after]:
                    longest[after] = silence
            self._silence.expect(now, longest[Liveness.ALIVE], longest[Liveness.SUSPECT])
            return changes

    def seconds_until_change(self) -> float:
        """Until a datanode is suspect, or dead, that is not heard until then, as of the last `judge`."""
        with self._lock:
            return self._silence.seconds_until_change()

    def seconds_until_death(self) -> float:
        """Until a datanode is dead that was suspect by the last `judge`, and is not heard until then."""
        with self._lock:
            return self._silence.seconds_until_death()

    def pulse(self, node_id: str) -> Pulse:
        """What is known of a node's health now."""
        with self._lock:
            return self._pulse_of(node_id, self._roster.get(node_id), *self._silence.now())

    def pulses(self) -> dict[str, Pulse]:
        """The same of all datanodes."""
        with self._lock:
            now, since = self._silence.now()
            return {
                node_id: self._pulse_of(node_id, known, now, since)
                for node_id, known in self._roster.datanodes.items()
            }

    def _pulse_of(self, node_id: str, known: KnownNode | None, now: float, since: float) -> Pulse:
        node = self._nodes.get(node_id) or _Node()
        liveness, silence = self._silence.judge(node, now, since)
        lost = self._lost_disks(known, node) if known is not None else ()
        ids = frozenset(disk.disk_id for disk in lost) if lost else NO_DISKS
        return Pulse(liveness, silence, node.last_heard is not None, node.load, node.disks, ids)

    def gone(self) -> frozenset[str | LostDisk]:
        """Whose replicas count as lost: nodes that are dead, and disks that failed or were taken out of nodes that are
        there. Nothing of a node in maintenance: it comes back. Empty outside of a leadership."""
        with self._lock:
            found: set[str | LostDisk] = set()
            now, since = self._silence.now()
            for node_id, known in self._roster.datanodes.items():
                node = self._nodes.get(node_id) or _Node()
                if known.intent == t.NODE_INTENT_MAINTENANCE:
                    continue
                if (
                    self._silence.leading_since is not None
                    and self._silence.judge(node, now, since)[0] is Liveness.DEAD
                ):
                    found.add(node_id)
                else:
                    found.update(self._lost_disks(known, node))
            return frozenset(found)

    @staticmethod
    def _lost_disks(known: KnownNode, node: _Node) -> frozenset[LostDisk]:
        """Those that its last heartbeat did not tell of, or called failed; what is read-only or full can be read."""
        if node.lost is None or node.lost[0] is not known:
            node.lost = known, lost_disks(known, node.disk_states)
        return node.lost[1]

    def probed(self, node_id: str, answers: bool) -> bool:
        """A node whose heartbeats are late was asked whether it is there. Whether that is news."""
        with self._lock:
            node = self._nodes.get(node_id)
            if node is None or node.answers_probes == answers:
                return False
            node.answers_probes = answers
            return True

    def is_cut_off(self, node_id: str) -> bool:
        """Whether it answers when it is asked, though its heartbeats do not come."""
        with self._lock:
            node = self._nodes.get(node_id)
            return node is not None and node.answers_probes

    def may_be_alive(self, node_id: str) -> bool:
        """False when the node is dead, or has been silent for `suspect_seconds` in which this leader could have heard
        it: whatever would harm a living node waits for that. A node that is not registered is not alive."""
        with self._lock:
            if node_id not in self._roster:
                return False
            liveness, silence = self._silence.judge(self._nodes.get(node_id) or _Node(), *self._silence.now())
            return liveness is not Liveness.DEAD and silence < self._timing.suspect_seconds

    def recently_heard(self, node_id: str) -> bool:
        """True when the node sent a heartbeat to this leader less than `suspect_seconds` ago."""
        with self._lock:
            node = self._nodes.get(node_id)
            if node is None or node.last_heard is None:
                return False
            return self._clock.monotonic() - node.last_heard < self._timing.suspect_seconds

    def candidates(self) -> dict[str, Candidate]:
        """All datanodes as placement and repair see them; free space is less what was promised lately.

        Raises BusyError outside of a leadership.
        """
        with self._lock:
            self.require_leading()
            now, since = self._silence.now()
            promised = self._promises.sums(now)
            found = {}
            for node_id, known in self._roster.datanodes.items():
                node = self._nodes.get(node_id) or _Node()
                how = self._silence.judge(node, now, since)
                found[node_id] = self._candidate(known, node, promised.get(node_id, 0), *how)
            return found

    def _candidate(
        self, known: KnownNode, node: _Node, promised: int, liveness: Liveness, silence: float
    ) -> Candidate:
        if node.candidate is not None:
            of, then_promised, one = node.candidate
            young = silence - one.heartbeat_age_seconds < CANDIDATE_SECONDS
            if of is known and then_promised == promised and one.liveness is liveness and young:
                return one
        one = candidate(
            known,
            liveness,
            silence,
            heard=node.last_heard is not None,
            disks=node.disks,
            load=node.load,
            promised_bytes=promised,
        )
        node.candidate = known, promised, one
        return one

    def promise(self, node_ids: Iterable[str], size_bytes: int) -> None:
        """Space that was just given away; heartbeats will show it soon, until then it is subtracted."""
        with self._lock:
            self._promises.add(node_ids, size_bytes, self._clock.monotonic())

    # Commands

    def order(
        self, node_id: str, kind: str, command: m.Command, chunk: bytes = b"", source: str = ""
    ) -> bool:
        """Queue a command for a node's next heartbeat answer; sets its id and epoch.

        The same kind for the same chunk is queued once. False: the queue is full, the node unknown, or nobody
        leads here.
        """
        with self._lock:
            if self._silence.leading_since is None or node_id not in self._roster:
                return False
            return self._orders.put(node_id, kind, command, chunk, source)

    def order_verification(self, node_id: str, chunk: bytes) -> bool:
        """Have the node read every block of its replica, and tell what it finds; as `order`."""
        return self.order(node_id, "verify", m.Command(verify=m.VerifyCommand(chunk=chunk)), chunk)

    def deliver(self, node_id: str) -> list[m.Command]:
        """The commands for one heartbeat answer; one that had no outcome for a while goes again."""
        with self._lock:
            now = self._clock.monotonic()
            commands = self._orders.deliver(node_id, now)
            if any(command.WhichOneof("command") == INVENTORY for command in commands):
                self._inventories.delivered(node_id, now)
            return commands

    def inherited(self) -> list[tuple[str, bytes]]:
        """(node, chunk) of copies under way that this leadership did not order."""
        with self._lock:
            now = self._clock.monotonic()
            return [
                (node_id, chunk)
                for node_id, node in self._nodes.items()
                for chunk, until in node.inherited.items()
                if until > now and not self._orders.is_waiting(node_id, "replicate", chunk)
            ]

    def running(self, kind: str) -> list[Order]:
        """Orders of a kind that have no outcome yet."""
        with self._lock:
            return self._orders.running(kind)

    def unsent(self, kind: str) -> list[Order]:
        """Orders of a kind that no answer to a heartbeat has carried yet."""
        with self._lock:
            return self._orders.unsent(kind)

    def take_back(self, order: Order) -> bool:
        """Forget an order that nobody has heard of; False: it is too late for that."""
        with self._lock:
            return self._orders.take_back(order)

    def withdraw(self, node_id: str) -> None:
        """Give up the orders of a node, as when it is dead."""
        with self._lock:
            self._orders.give_up(node_id)
            self._inventories.want(node_id)

    def take_done(self, kinds: Collection[str]) -> list[Done]:
        """Orders of these kinds that came to an end since the last call."""
        with self._lock:
            return self._orders.take_done(kinds)

    # Replicas: what datanodes say they have

    def take_reports(self, limit: int) -> list[Report]:
        with self._lock:
            return [self._reports.popleft() for _ in range(min(limit, len(self._reports)))]

    @property
    def waiting_reports(self) -> int:
        """How many reports nobody has taken yet."""
        return len(self._reports)

    def wanting_inventory(self) -> list[str]:
        """Datanodes that are heard and shall send a full inventory now; not too many send together."""
        with self._lock:
            now, since = self._silence.now()

            def is_heard(node_id: str) -> bool:
                node = self._nodes[node_id]
                return (
                    node.last_heard is not None
                    and self._silence.judge(node, now, since)[0] is not Liveness.DEAD
                )

            return self._inventories.wanting(self._nodes, is_heard, now)

    def want_inventory(self, node_id: str) -> None:
        """What was reported of this node could not be kept: it shall tell everything again."""
        with self._lock:
            self._inventories.want(node_id)

    def gather(self, node_id: str) -> bool:
        """Order a full inventory from a node."""
        with self._lock:
            node = self._nodes.get(node_id)
            if node is None or self._silence.leading_since is None:
                return False
            gather_id = self._orders.next_number()
            command = m.Command(full_inventory=m.FullInventoryCommand(gather_id=gather_id))
            self._inventories.begin(node_id, gather_id, node.incarnation, self._clock.monotonic())
            queued = self._orders.put(node_id, INVENTORY, command, gather_id.to_bytes(8, "big"), "")
            if not queued:
                self._inventories.want(node_id)
            return queued

    def inventory_page(self, page: m.InventoryPage) -> bool:
        """Take in one page. False: it belongs to no gathering that runs; the node need not go on."""
        with self._lock:
            node, known = self._nodes.get(page.node_id), self._roster.get(page.node_id)
            if node is None or known is None or known.info.node_uuid != page.node_uuid:
                return False
            return self._inventories.page(page, node.incarnation, self._clock.monotonic())

    def ask_inventories(self, node_ids: Iterable[str]) -> None:
        """The collection wants these nodes to tell everything anew; `collected` has what came."""
        with self._lock:
            self._inventories.ask(node_ids)

    def collected(self) -> list[Inventory]:
        """Inventories of gatherings that began after `ask_inventories`, whole, each once."""
        with self._lock:
            return self._inventories.collect()

    def take_inventory(self) -> Inventory | None:
        with self._lock:
            return self._inventories.take()

    def touched(self, node_id: str, chunks: Collection[bytes]) -> None:
        """The node deleted these replicas, or brought them back, on an order just now."""
        with self._lock:
            self._touched.note(node_id, chunks, self._clock.monotonic())

    def touched_since(self, node_id: str, chunk: bytes, since: float) -> bool:
        """Whether that happened at that time or later: what the node found before says nothing."""
        with self._lock:
            return self._touched.since(node_id, chunk, since)

    # Signs of life

    def keep_alive(self, uploads: Iterable[bytes], session: int) -> None:
        now = self._clock.monotonic()
        with self._lock:
            for upload in uploads:
                self._uploads.note(upload, now)
            if session:
                self._sessions.note(session, now)

    def lifeless_uploads(self, uploads: Iterable[bytes], ttl_seconds: float) -> list[bytes]:
        """Those without a sign of life for `ttl_seconds` of this leadership. What is named is forgotten."""
        with self._lock:
            if self._silence.leading_since is None:
                return []
            now = self._clock.monotonic()
            since = max(self._silence.leading_since, self._deaf_until(now))
            return self._uploads.take_silent(uploads, ttl_seconds, since, now)

    def lifeless_sessions(self, sessions: Iterable[int], ttl_seconds: float) -> list[int]:
        with self._lock:
            if self._silence.leading_since is None:
                return []
            now = self._clock.monotonic()
            since = max(self._silence.leading_since, self._deaf_until(now))
            return self._sessions.take_silent(sessions, ttl_seconds, since, now)

    # Alarms

    def raise_alarm(self, code: str, message: str) -> bool:
        """True when it was not raised before."""
        with self._lock:
            new = code not in self._alarms
            since = self._clock.wall_ms() if new else self._alarms[code][1]
            self._alarms[code] = (message, since)
            return new

    def clear_alarm(self, code: str) -> bool:
        with self._lock:
            return self._alarms.pop(code, None) is not None

    def alarms(self) -> list[tuple[str, str, int]]:
        """(code, message, since in wall milliseconds)."""
        with self._lock:
            return [(code, message, since) for code, (message, since) in sorted(self._alarms.items())]


def duplicate(beat: m.HeartbeatRequest, why: str) -> DuplicateNodeError:
    return DuplicateNodeError(
        f"two nodes call themselves {beat.node_id}",
        cause=f"this one has UUID {beat.node_uuid}, start {beat.incarnation}; {why}",
        next="stop one of them, or give it another node.id and an empty data directory",
        ids={"node_id": beat.node_id, "node_uuid": beat.node_uuid},
    )
