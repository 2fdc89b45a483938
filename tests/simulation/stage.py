"""A cluster for directed plays: calm, patient, without clients; who plays cuts, kills, and holds messages back."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from coordinator.consensus import records
from coordinator.consensus.configuration import Configuration
from coordinator.consensus.core import TRANSFER_SECONDS, Change, Transfer
from coordinator.consensus.messages import Message, decode
from coordinator.consensus.standing import Timing
from quorumfs.errors import QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from tests.simulation.cluster import Cluster
from tests.simulation.machine import Disk
from tests.simulation.marks import Marks, watched_log, watching
from tests.simulation.plan import limits_of, plan_of
from tests.simulation.process import Member, Process
from tests.simulation.world import Violation, World
from tests.support.fake_files import PowerCut

CALM: dict[str, Any] = {
    "spares": 0,
    "timing": Timing(0.05, 0.25, 0.5),
    "latency": 0.001,
    "loss": 0.0,
    "doubling": 0.0,
    "delay_chance": 0.0,
    "send_buffer_bytes": 1 << 20,
    "poll_items": 64,
    "segment_bytes": 64 << 10,
    "keep_bytes": 1 << 20,
    "cache_bytes": 1 << 20,
    "sync_seconds": 0.0002,
    "slow_sync_chance": 0.0,
    "interleaving": 0.0,
    "apply_lag": 0.0002,
    "clock_skew": 0.001,
    "batch_entries": 512,
    "window": 1024,
    "group_entries": 64,
    "entry_ops": 1024,
    "queue_ops": 20_000,
    "backlog_bytes": 1 << 20,
    "rolling": 4096,
    "read_lease": True,
    "clients": 0,
    "faults": (),
}

HITS: Counter[str] = Counter()
"""The marks of all plays of this process."""

Holds = Callable[[str, str, Message], bool]


def expect(found: object, expected: object) -> None:
    if found != expected:
        raise Violation(f"found {found!r}, not {expected!r}")


@dataclass(frozen=True)
class Backup:
    """A machine as it was when no process ran on it."""

    disk: Disk
    image: bytes


class Stage:
    """Founders are c1, c2, ... `wild`: no connections, so that messages can be held one by one. To be entered."""

    def __init__(self, seed: int, *, members: int = 3, wild: bool = False, **changes: Any) -> None:
        plan = replace(plan_of(seed), members=members, wild=wild, **{**CALM, **changes})
        self.world = World(seed)
        self.cluster = Cluster(self.world, plan, Marks())
        self.sent: list[tuple[str, str, str]] = []  # (sender, receiver, type)
        self._events: list[str] = []
        self._held: list[tuple[str, str, bytes]] = []
        self._holds: Holds = lambda sender, receiver, message: False
        self._stack = ExitStack()
        self._stack.enter_context(limits_of(plan))
        self._stack.enter_context(watched_log(self._logged))
        self._stack.enter_context(watching(self.cluster.marks))

    def __enter__(self) -> Stage:
        self.cluster.network.holds = self._take
        self._listen()
        self.cluster.nemesis.rests()
        self.cluster.begin()
        self.until(lambda: self.cluster.totals["genesis"] > 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        HITS.update(self.cluster.marks.hits)

    def _logged(self, level: int, event: str, fields: dict[str, Any]) -> None:
        process = self.cluster.current
        node_id = process.node_id if process else ""
        self._events.append(f"{node_id} {event}")
        self.world.tell(node_id, event, **fields)

    def _listen(self) -> None:
        monitor, sends = self.cluster.monitor, self.cluster.monitor.sends

        def heard(process: Process, peer: str, message: Message) -> None:
            self.sent.append((process.node_id, peer, message["type"]))
            sends(process, peer, message)

        monitor.sends = heard  # type: ignore[method-assign]

    # Time

    def run(self, seconds: float) -> None:
        self.world.run_until(self.world.now + seconds)

    def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        deadline = self.world.now + seconds
        while not condition():
            if self.world.now > deadline:
                raise Violation("the play is stuck: " + " | ".join(list(self.world.story)[-6:]))
            self.run(0.005)

    def settle(self) -> None:
        """Everything is undone; all agree before long."""
        self.release()
        cluster = self.cluster
        cluster.network.unblock(*list(cluster.network.blocked))
        for member in cluster.members.values():
            member.start()
        self.until(lambda: cluster.leader() is not None and self.all_agree())

    def all_agree(self) -> bool:
        running = self.cluster.running()
        ends = {(one.database.applied_index, one.core.replica.commit_index()) for one in running}
        last = self.cluster.history.last_index
        return len(running) == len(self.cluster.node_ids) and ends == {(last, last)}

    # Who is there

    def __getitem__(self, node_id: str) -> Process:
        process = self.cluster.members[node_id].process
        assert process is not None, f"{node_id} does not run"
        return process

    def leader(self) -> Process:
        """Waits for one."""
        self.until(lambda: self.cluster.leader() is not None)
        found = self.cluster.leader()
        assert found is not None
        return found

    def others(self, *node_ids: str) -> list[str]:
        return [one for one in self.cluster.node_ids if one not in node_ids]

    def let_lead(self, node_id: str) -> Process:
        """Whoever leads hands over, until this one does."""
        while (leader := self.leader()).node_id != node_id:
            wish = Transfer(node_id, leader.clock.monotonic() + TRANSFER_SECONDS, threading.Event())
            leader.core.transfer(wish)
            self.until(wish.done.is_set)
            self.until(lambda: self.cluster.leader() is not None)
        return self[node_id]

    def let_lead_soon(self, node_id: str) -> None:
        """Whoever leads is asked to hand over to this one."""
        self.ask_to_lead(self.leader().node_id, node_id)

    def ask_to_lead(self, leader_id: str, node_id: str, seconds: float = TRANSFER_SECONDS) -> None:
        """This leader is asked to hand over, for so long."""
        leader = self[leader_id]
        leader.core.transfer(Transfer(node_id, leader.clock.monotonic() + seconds, threading.Event()))

    def happened(self, node_id: str, event: str) -> bool:
        """Whether the log of this member told of it."""
        return f"{node_id} {event}" in self._events

    # What is done to them

    def cut(self, one: str, *others: str) -> None:
        for other in others:
            self.cluster.network.block((one, other), (other, one))

    def lose(self, node_id: str, peer: str) -> None:
        """This one learns that its connection to a peer is broken; the peer does not."""
        process = self[node_id]
        process.link_lost(peer)
        process.core.replica.link_changed(peer, False)

    def lease_left(self, node_id: str) -> float:
        """For how many seconds this leader may answer without a round."""
        process = self[node_id]
        return process.core.replica.beats.lease_until - process.clock.monotonic()

    def heal(self, one: str, *others: str) -> None:
        for other in others:
            self.cluster.network.unblock((one, other), (other, one))

    def hold(self, holds: Holds) -> None:
        """Messages of which `holds` (sender, receiver, message) is true wait for `release`. Wild networks only."""
        self._holds = holds

    @property
    def held(self) -> int:
        return len(self._held)

    def release(self, sender: str | None = None, *, twice: bool = False) -> None:
        """What was held (of one sender) arrives now; of everybody: nothing is held any more."""
        now = [one for one in self._held if sender in (None, one[0])]
        self._held = [one for one in self._held if one not in now]
        if sender is None:
            self._holds = lambda sender, receiver, message: False
        for one in now * (2 if twice else 1):
            self.cluster.network.deliver(*one)

    def drop(self) -> None:
        """What was held is lost; nothing is held any more."""
        self._held.clear()
        self.release()

    def _take(self, sender: str, receiver: str, raw: bytes) -> bool:
        if not self._holds(sender, receiver, decode(raw)):
            return False
        self._held.append((sender, receiver, raw))
        return True

    def crash(self, *node_ids: str) -> None:
        for node_id in node_ids:
            self.cluster.members[node_id].crash(power=True)

    def start(self, *node_ids: str) -> None:
        for node_id in node_ids:
            self.cluster.members[node_id].start()

    def cut_power_in_a_long_frame(self, node_id: str) -> Callable[[], bool]:
        """The machine loses power when it has written a frame of the log of several sectors and not synced it; only the
        first of them is on its disk. The answer tells whether that has happened."""
        disk = self.cluster.members[node_id].disk
        write, sync_data = disk.write, disk.sync_data
        torn: list[int] = []

        def watched_write(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
            write(fd, data, offset)
            if not torn and bytes(data[:4]) == records._FRAME_MAGIC and len(data) > 2 * records.SECTOR_BYTES:
                torn.append(fd)

        def watched_sync(fd: int) -> None:
            if fd in torn:
                disk.keeps = 1
                del disk.write, disk.sync_data
                raise PowerCut
            sync_data(fd)

        disk.write, disk.sync_data = watched_write, watched_sync  # type: ignore[method-assign]
        return lambda: disk.keeps is not None

    def back_up(self, node_id: str) -> Backup:
        """Copy a machine that is off."""
        member = self._member_that_is_off(node_id)
        member.disk.point = member.disk.spend = lambda *_: None
        return Backup(copy.deepcopy(member.disk), member.image)

    def set_back(self, node_id: str, backup: Backup) -> None:
        """The machine, which is off, is what it was."""
        member = self._member_that_is_off(node_id)
        member.disk, member.image = copy.deepcopy(backup.disk), backup.image
        self.cluster.monitor.forgive(member.uuid)

    def _member_that_is_off(self, node_id: str) -> Member:
        member = self.cluster.members[node_id]
        assert member.process is None, f"{node_id} runs"
        return member

    # Work

    def write(self, node_id: str, count: int = 1, message: str = "written") -> list[bytes | QuorumFSError]:
        """Propose `count` entries, one after another; the list fills with the answers."""
        answers: list[bytes | QuorumFSError] = []
        process = self[node_id]
        for number in range(count):
            raw = [e.SystemCommand(set_alarm=e.SetAlarm(code=f"{node_id}.{number}", message=message))]
            process.later(0.01 * number, self.cluster.services[process].system, raw, answers.append)
        return answers

    def write_through(self, node_id: str, count: int = 1) -> None:
        """The same, until all are acknowledged."""
        answers = self.write(node_id, count)
        self.until(lambda: len(answers) == count)
        refused = [one for one in answers if not isinstance(one, bytes)]
        assert not refused, refused

    def write_until(self, node_id: str, condition: Callable[[], object], most: int = 2000) -> None:
        """One entry after another until `condition` holds."""
        for _ in range(most):
            if condition():
                return
            self.write(node_id)
            self.run(0.002)
        raise AssertionError(f"not after {most} entries")

    def change_members(self, node_id: str, make: Callable[[Configuration], Configuration]) -> list[object]:
        """Propose another configuration; the list gets the answer."""
        answers: list[object] = []
        process = self[node_id]
        process.later(0.0, process.core.change_members, Change(make, answers.append))
        return answers

    def add_learner(self, node_id: str) -> None:
        """A spare machine becomes a member that does not vote, and starts."""
        leader = self.leader().node_id
        learner = m.Member(node_id=node_id, member_uuid=f"uuid-{node_id}")
        added = self.change_members(leader, lambda now: now.with_learner(learner))
        self.until(lambda: added)
        machine = self.cluster.members[node_id]
        machine.accept(self[leader].core.replica.configurations.current.members)
        machine.start()

    def add_voter(self, node_id: str) -> None:
        """A spare machine becomes a member that votes, as the operator's command does it."""
        self.add_learner(node_id)
        leader = self.leader().node_id
        progress = self[leader].core.replica.progress
        self.until(lambda: progress[node_id].match >= self[leader].core.replica.commit_index())
        promoted = self.change_members(leader, lambda now: now.promoted(node_id))
        self.until(lambda: promoted)

    def read(self, node_id: str) -> list[bytes | QuorumFSError]:
        """Ask behind a barrier for the applied index; the list gets the answer."""
        answers: list[bytes | QuorumFSError] = []

        def question(tx: Any) -> bytes:
            return str(tx.execute("SELECT applied_index FROM raft_state").fetchone()[0]).encode()

        process = self[node_id]
        process.later(0.0, process.core.read, question, answers.append)
        return answers
