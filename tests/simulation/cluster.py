"""The members, the network and the clients of one run, and what they tell each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from coordinator.consensus.leadership import Leadership
from quorumfs.errors import QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from tests.simulation.clients import Client
from tests.simulation.history import History
from tests.simulation.marks import Marks
from tests.simulation.monitor import Monitor
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.plan import Plan
from tests.simulation.process import Member, Process
from tests.simulation.service import Service
from tests.simulation.world import World

if TYPE_CHECKING:
    from random import Random

REQUEST_LOSS = 0.01
GENESIS_SECONDS = 0.3


class Cluster:
    """Built, not begun. `totals` counts what the run was made of; `current`: the process that runs just now."""

    def __init__(self, world: World, plan: Plan, marks: Marks) -> None:
        self.world = world
        self.plan = plan
        self.marks = marks
        self.totals: Counter[str] = Counter()
        self.history = History()
        self.monitor = Monitor()
        self.current: Process | None = None
        self.node_ids = [f"c{number}" for number in range(1, plan.members + plan.spares + 1)]
        founders = self.node_ids[: plan.members]
        self.genesis_members = [m.Member(node_id=one, member_uuid=f"uuid-{one}") for one in founders]
        self.network = Network(world, plan, self.node_ids)
        self.members = {node_id: Member(self, node_id) for node_id in self.node_ids}
        self.services: dict[Process, Service] = {}
        self.clients = [Client(self, f"k{number}") for number in range(1, plan.clients + 1)]
        self.nemesis = Nemesis(self)
        self.led: tuple[str, int] | None = None
        self._random: Random = world.stream("calls")

    def client_chance(self) -> float:
        return self._random.random()

    # Members

    def ended(self, member: Member) -> None:
        self.nemesis.ended(member)

    def started(self, process: Process) -> None:
        self.services = {one: service for one, service in self.services.items() if one.alive}
        self.services[process] = Service(process)

    def leadership_changed(self, process: Process, leadership: Leadership | None) -> None:
        service = self.services.get(process)
        if service is not None:
            service.leadership_changed(leadership)
        if leadership is None:
            self.world.tell(process.node_id, "leads no more")
            return
        self.world.tell(process.node_id, "leads", term=leadership.term)
        self.totals["leaderships"] += 1
        if self.led is not None and self.led[0] != process.node_id:
            self.totals["leader changes"] += 1
        self.led = process.node_id, leadership.term

    def leader(self) -> Process | None:
        """The one that leads, of several the newest."""
        leading = [process for process in self.running() if process.core.leadership is not None]
        return max(leading, key=lambda process: process.core.replica.term(), default=None)

    def running(self) -> list[Process]:
        """The processes that came so far as to turn."""
        found = [self.members[node_id].process for node_id in self.node_ids]
        return [process for process in found if process is not None and process in self.services]

    def belonging(self) -> list[str]:
        """The members by the newest configuration that a leader goes by."""
        leader = self.leader()
        return list(leader.core.replica.configurations.current.ids) if leader is not None else []

    # Clients

    def call(
        self,
        address: str,
        raw: bytes,
        changes: bool,
        reply: Callable[[bytes], None],
        refused: Callable[[], None],
    ) -> None:
        """Ask a member; `reply` gets its answer, `refused` is called when nothing listens there."""
        if self._random.random() >= REQUEST_LOSS:
            self.world.after(self._latency(), self._arrived, address, raw, changes, reply, refused)

    def _arrived(
        self,
        address: str,
        raw: bytes,
        changes: bool,
        reply: Callable[[bytes], None],
        refused: Callable[[], None],
    ) -> None:
        process = self.members[address].process
        if process is None or process not in self.services:
            self.world.after(self._latency(), refused)
            return
        service = self.services[process]

        def answer(answer: bytes) -> None:
            if self._random.random() >= REQUEST_LOSS:
                self.world.after(self._latency(), reply, answer)

        process.later(0.0, service.do if changes else service.read, raw, answer)

    def _latency(self) -> float:
        return 0.0002 + 0.002 * self._random.random()

    # Genesis

    def begin(self) -> None:
        """Start everybody, and make the cluster; the clients come when that is acknowledged."""
        for one in self.genesis_members:
            self.members[one.node_id].accept(self.genesis_members)
            self.world.after(self._random.random() * 0.2, self.members[one.node_id].start)
        self.world.after(GENESIS_SECONDS, self._genesis)

    def _genesis(self) -> None:
        leader = self.leader()
        self.world.after(GENESIS_SECONDS, self._genesis_again)
        if leader is None:
            return
        service, plan = self.services[leader], self.plan
        init = e.InitCluster(cluster_id="simulated", history=1, members=self.genesis_members)
        commands = [
            e.SystemCommand(init=init),
            *(
                e.SystemCommand(set_setting=e.SetSetting(key=key, value=str(value)))
                for key, value in (
                    ("session.ttl_ms", plan.session_ttl_ms),
                    ("upload.ttl_ms", plan.upload_ttl_ms),
                    ("data.min_replicas", min(2, plan.members // 2 + 1)),
                )
            ),
        ]
        leader.later(0.0, service.system, commands, self._genesis_done)

    def _genesis_again(self) -> None:
        if not self.totals["genesis"]:
            self._genesis()

    def _genesis_done(self, answer: bytes | QuorumFSError) -> None:
        if isinstance(answer, QuorumFSError) or self.totals["genesis"]:
            return
        self.totals["genesis"] = 1
        for client in self.clients:
            client.start()
