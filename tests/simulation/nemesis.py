"""What goes wrong, when, and for how long. `heal` undoes everything; the cluster has to get well alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from coordinator.consensus.core import TRANSFER_SECONDS, Transfer
from tests.simulation.operator import Operator
from tests.simulation.process import Member, Process

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

RESTART_SECONDS_MAX = 2.5
POINTS_MAX = 80


class Nemesis:
    """`begin` and `heal`; in between a fault every now and then, several at once if it comes so."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._random = cluster.world.stream("nemesis")
        self._healed = False
        self._quiet = False
        self._undo: dict[int, Callable[[], None]] = {}
        self._number = 0
        self._operator = Operator(cluster)
        self._faults: dict[str, Callable[[], None]] = {
            "crash": lambda: self._crash(self._anybody()),
            "crash the leader": lambda: self._crash(self._leader()),
            "crash at a point": self._crash_at_a_point,
            "crash all": self._crash_all,
            "stop": self._stop,
            "isolate": lambda: self._isolate(self._anybody()),
            "isolate the leader": lambda: self._isolate(self._leader()),
            "halves": self._halves,
            "one way": self._one_way,
            "bridge": self._bridge,
            "flapping": self._flapping,
            "reset": self._reset,
            "pause": lambda: self._pause(self._anybody()),
            "pause the leader": lambda: self._pause(self._leader()),
            "stall": self._stall,
            "slow applying": self._slow_applying,
            "failing disk": self._failing_disk,
            "full disk": lambda: self._full_disk(self._anybody()),
            "full disk of the leader": lambda: self._full_disk(self._leader()),
            "transfer": self._transfer,
            "late messages": self._late_messages,
            "wall clock": self._wall_clock,
        }

    def begin(self) -> None:
        self._operator.begin()
        self._soon()

    def _soon(self) -> None:
        self._world.after(self._random.expovariate(1 / self._cluster.plan.fault_pause), self._next)

    def heal(self) -> None:
        """Nothing is wrong any more, from the outside."""
        self._healed = True
        for undo in list(self._undo.values()):
            undo()
        for member in self._cluster.members.values():
            member.disk.forget_failures()
            member.start()
            if member.process is not None:
                member.process.points_left = None
        self._operator.heal()

    def rests(self) -> None:
        """Nobody but the play decides what goes wrong, and who starts again."""
        self._healed = self._quiet = True

    def ended(self, member: Member) -> None:
        """A process is gone; somebody starts it again."""
        if self._quiet:
            return
        self._world.after(self._random.random() ** 2 * RESTART_SECONDS_MAX, self._restart, member)

    def _restart(self, member: Member) -> None:
        if member.process is None:
            member.sick = False
            member.points_at_start = (
                self._random.randrange(POINTS_MAX) if self._random.random() < 0.1 else None
            )
            member.start()
            member.points_at_start = None

    # Choosing

    def _next(self) -> None:
        if self._healed:
            return
        self._soon()
        name = self._random.choice(self._cluster.plan.faults)
        self._world.tell("", name.upper())
        self._faults[name]()

    def _for_a_while(self, seconds_max: float, undo: Callable[[], None]) -> None:
        self._number += 1
        number = self._number
        self._undo[number] = undo
        self._world.after(self._random.random() * seconds_max, self._end, number)

    def _end(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            undo()

    def _anybody(self) -> Process | None:
        running = self._cluster.running()
        return self._random.choice(running) if running else None

    def _leader(self) -> Process | None:
        return self._cluster.leader() or self._anybody()

    def _pair(self) -> tuple[str, str] | None:
        nodes = [process.node_id for process in self._cluster.running()]
        if len(nodes) < 2:
            return None
        one, other = self._random.sample(nodes, 2)
        return one, other

    # Ends of processes

    def _crash(self, process: Process | None) -> None:
        if process is not None:
            process.member.crash(power=self._random.random() < 0.6)

    def _crash_all(self) -> None:
        power = self._random.random() < 0.7
        for process in self._cluster.running():
            process.member.crash(power=power)

    def _crash_at_a_point(self) -> None:
        process = self._anybody()
        if process is not None:
            process.points_left = self._random.randrange(POINTS_MAX)

    def _stop(self) -> None:
        """In order: the leadership is handed over first, if that is possible."""
        process = self._anybody()
        if process is None:
            return
        deadline = process.clock.monotonic() + TRANSFER_SECONDS
        wish = Transfer(None, deadline, threading.Event())
        if process.core.leadership is not None:
            process.core.transfer(wish)
        else:
            wish.done.set()
        self._stop_when_transferred(process, wish, self._world.now + TRANSFER_SECONDS)

    def _stop_when_transferred(self, process: Process, wish: Transfer, deadline: float) -> None:
        if not process.alive or process.paused:
            return
        if wish.done.is_set() or self._world.now >= deadline:
            process.member.stop()
        else:
            self._world.after(0.02, self._stop_when_transferred, process, wish, deadline)

    # The network

    def _cut(self, directions: list[tuple[str, str]], seconds_max: float) -> None:
        network = self._cluster.network
        fresh = [one for one in directions if one not in network.blocked]
        network.block(*fresh)
        self._for_a_while(seconds_max, partial(network.unblock, *fresh))

    def _around(self, node: str) -> list[tuple[str, str]]:
        others = [one for one in self._cluster.node_ids if one != node]
        return [(node, one) for one in others] + [(one, node) for one in others]

    def _isolate(self, process: Process | None) -> None:
        if process is not None:
            self._cut(self._around(process.node_id), 5.0)

    def _halves(self) -> None:
        nodes = list(self._cluster.node_ids)
        self._random.shuffle(nodes)
        middle = len(nodes) // 2
        ways = [(a, b) for a in nodes[:middle] for b in nodes[middle:]]
        self._cut(ways + [(b, a) for a, b in ways], 5.0)

    def _one_way(self) -> None:
        process = self._leader() if self._random.random() < 0.4 else self._anybody()
        if process is None:
            return
        around = self._around(process.node_id)
        out = self._random.random() < 0.5
        ways = [way for way in around if (way[0] == process.node_id) == out]
        if ways and self._random.random() < 0.5:
            ways = [self._random.choice(ways)]
        self._cut(ways, 4.0)

    def _bridge(self) -> None:
        """Two do not see each other, the others see both."""
        pair = self._pair()
        if pair is not None:
            self._cut([pair, pair[::-1]], 6.0)

    def _flapping(self) -> None:
        pair = self._pair()
        if pair is not None:
            self._flap(pair, self._random.randint(4, 12))

    def _flap(self, pair: tuple[str, str], times: int) -> None:
        if self._healed or not times:
            return
        self._cut([pair, pair[::-1]], 0.4)
        self._world.after(self._random.random() * 0.6, self._flap, pair, times - 1)

    def _reset(self) -> None:
        pair = self._pair()
        if pair is not None:
            self._cluster.network.reset(*pair)

    def _late_messages(self) -> None:
        network = self._cluster.network
        network.late = True

        def undo() -> None:
            network.late = False

        self._for_a_while(1.0, undo)

    # Time

    def _pause(self, process: Process | None) -> None:
        if process is None or process.paused:
            return
        process.pause()
        self._for_a_while(self._random.choice((0.3, 1.0, 4.0)), process.resume)

    def _stall(self) -> None:
        process = self._anybody()
        if process is not None:
            process.stall = self._random.uniform(0.1, 2.0)

    def _slow_applying(self) -> None:
        process = self._anybody()
        if process is None:
            return
        before, process.apply_lag = process.apply_lag, self._random.uniform(0.2, 1.5)

        def undo() -> None:
            process.apply_lag = min(before, self._cluster.plan.apply_lag)

        self._for_a_while(4.0, undo)

    def _wall_clock(self) -> None:
        """Somebody sets a clock, by up to a month."""
        process = self._anybody()
        if process is not None:
            process.clock.wall_shift_ms += self._random.randrange(-30, 30) * 86_400_000

    # Disks

    def _failing_disk(self) -> None:
        process = self._anybody()
        if process is not None and sum(one.sick for one in self._cluster.members.values()) == 0:
            process.member.sick = True
            process.member.disk.fail_soon(self._random)

    def _full_disk(self, process: Process | None) -> None:
        if process is None or process.member.full:
            return
        member = process.member
        plan = self._cluster.plan
        member.disk.fill(self._random.choice((0, plan.segment_bytes, 2 * plan.segment_bytes)))
        member.full = True
        if self._random.random() < 0.4:
            process.machine.full = True

        def undo() -> None:
            member.full = False
            member.disk.free()
            if member.process is not None:
                member.process.machine.full = False

        self._for_a_while(5.0, undo)

    # Wishes

    def _transfer(self) -> None:
        leader = self._cluster.leader()
        if leader is None:
            return
        to = self._random.choice([None, *leader.core.replica.peers])
        leader.core.transfer(Transfer(to, leader.clock.monotonic() + TRANSFER_SECONDS, threading.Event()))
