"""The network between members, and each member's end of it: the `Wire` that the production loop drives.

Two kinds of network, one a seed:
1. `tcp`: a connection a pair, in order. A direction that is cut holds what is sent until it is healed; after two
   seconds of silence the receiving end closes the connection, and all that was under way is lost. The member with the
   greater id dials again and again. What the other end does not learn (a cut, a lost machine) it finds out by silence.
2. `wild`: every message for itself: lost, late, doubled, overtaken, also from before the end of a process.

A member learns of everything in `poll`, in the order in which it arrived. Messages travel as the production bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coordinator.consensus.links import Peer
from coordinator.consensus.messages import Message, decode, encode
from tests.simulation.plan import Plan
from tests.simulation.world import Violation, World

SILENCE_SECONDS = 2.0
PING_SECONDS = 0.5
DIAL_SECONDS = 0.1
LATE_SECONDS = 1.5
SENDS_PER_TURN_MAX = 20_000


@dataclass(eq=False)
class Connection:
    """Of one pair. Per sender: when its last message arrives, what a cut holds back, and bytes under way."""

    pair: tuple[str, str]
    arrives: dict[str, float] = field(default_factory=dict)
    held: dict[str, deque[bytes]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def other(self, node: str) -> str:
        return self.pair[1] if node == self.pair[0] else self.pair[0]


class Owner(Protocol):
    """The process at one end."""

    node_id: str
    paused: bool

    def wake(self) -> None: ...

    def point(self) -> None: ...

    def sends(self, peer: str, message: Message) -> None: ...

    def receives(self, peer: str, message: Message) -> None: ...

    def link_lost(self, peer: str) -> None: ...

    def spent(self) -> float: ...


class SimWire:
    """One process's end: what production calls `Wire`. `patience`: how long the last poll would have waited."""

    def __init__(self, network: Network, owner: Owner) -> None:
        self._network = network
        self._owner = owner
        self._links: dict[str, Connection | None] = {}
        self._inbox: deque[tuple[str, Connection | None, str, bytes]] = deque()
        self._on_message: Callable[[str, Message], None]
        self._on_change: Callable[[str, bool], None]
        self.peers: set[str] = set()
        self.patience = 0.0
        self.sent = 0

    def start(
        self, on_message: Callable[[str, Message], None], on_change: Callable[[str, bool], None]
    ) -> None:
        self._on_message, self._on_change = on_message, on_change
        self._network.started(self._owner.node_id, self)

    def put(self, kind: str, connection: Connection | None, peer: str, raw: bytes = b"") -> None:
        """Something has arrived: a message, an opened connection, or a closed one."""
        self._inbox.append((kind, connection, peer, raw))
        self._owner.wake()

    @property
    def paused(self) -> bool:
        return self._owner.paused

    # What production calls

    def send(self, peer: str, message: Message) -> bool:
        if peer not in self._links:
            return False
        self._owner.point()
        self.sent += 1
        if self.sent > SENDS_PER_TURN_MAX:
            raise Violation("the loop sends without end")
        connection = self._links.get(peer)
        raw = encode(message)
        self._owner.sends(peer, message)
        if not self._network.transmit(connection, self._owner.node_id, peer, raw, self._owner.spent()):
            self._close(peer, connection)
            return False
        return True

    def room(self, peer: str) -> int:
        return self._network.room(self._links.get(peer), self._owner.node_id) if peer in self._links else 0

    def connected(self, peer: str) -> bool:
        return peer in self._links

    def poll(self, seconds: float) -> None:
        self.sent = 0
        self.patience = seconds
        self._owner.point()
        for _ in range(self._network.plan.poll_items):
            if not self._inbox:
                break
            self._take(*self._inbox.popleft())
            self.patience = 0.0  # it does not wait beyond what it got

    def wake(self) -> None:
        self._owner.wake()

    def set_peers(self, peers: Iterable[Peer]) -> None:
        self.peers = {peer.node_id for peer in peers}
        for peer in [one for one in self._links if one not in self.peers]:
            self._close(peer, self._links[peer])
        self._network.meet(self._owner.node_id, self)

    # Inside

    def _take(self, kind: str, connection: Connection | None, peer: str, raw: bytes) -> None:
        if kind == "message":
            if peer in self._links and self._links[peer] is connection:
                message = decode(raw)
                self._owner.receives(peer, message)
                self._on_message(peer, message)
        elif kind == "opened":
            if peer not in self.peers:
                return
            if peer in self._links:
                self._lose(peer)
            self._links[peer] = connection
            self._on_change(peer, True)
        elif peer in self._links and self._links[peer] is connection:
            self._lose(peer)

    def _lose(self, peer: str) -> None:
        del self._links[peer]
        self._owner.link_lost(peer)
        self._on_change(peer, False)

    def _close(self, peer: str, connection: Connection | None) -> None:
        """This end wants it no more."""
        if peer in self._links and self._links[peer] is connection:
            if connection is not None:
                self._network.hang_up(connection, self._owner.node_id)
            self._lose(peer)


class Network:
    """All connections. `blocked` holds the directions (from, to) that carry nothing now."""

    def __init__(self, world: World, plan: Plan, nodes: Sequence[str]) -> None:
        self.world = world
        self.plan = plan
        self.nodes = tuple(nodes)
        self.blocked: set[tuple[str, str]] = set()
        self.late = False
        self.holds: Callable[[str, str, bytes], bool] = lambda sender, receiver, raw: False
        """In a wild network: whoever says True to a message has taken it, and may `deliver` it later."""
        self._random = world.stream("network")
        self._wires: dict[str, SimWire] = {}
        self._silent_since: dict[tuple[str, str], float] = {}
        self._ends: dict[
            tuple[str, str], Connection
        ] = {}  # (owner, peer) -> the connection, as the kernel has it
        self._dialling: set[tuple[str, str]] = set()

    # Processes

    def started(self, node: str, wire: SimWire) -> None:
        self._wires[node] = wire
        for peer in self.nodes:
            known = self._ends.get((peer, node))
            if known is not None:  # of a process that ended without a word; the next ping finds out
                self.world.after(PING_SECONDS * self._random.random(), self._ping, known, peer)
        self.meet(node, wire)

    def meet(self, node: str, wire: SimWire) -> None:
        """Let it have connections to all of its peers."""
        if self._wires.get(node) is not wire:
            return
        for peer in sorted(wire.peers):
            if not self.plan.wild:
                self._dial_soon(node, peer)
            elif not wire.connected(peer):
                wire.put("opened", None, peer)

    def ended(self, node: str, *, said: bool) -> None:
        """The process is gone. `said`: its system closes the connections; else nobody is told."""
        self._wires.pop(node, None)
        for peer in self.nodes:
            connection = self._ends.pop((node, peer), None)
            if connection is not None:
                if said:
                    self._fin(connection, node)
                self._watch(node, peer)

    def fell_silent(self, node: str) -> None:
        """The process is paused: it sends nothing, and reads nothing."""
        for peer in self.nodes:
            if peer != node:
                self._watch(node, peer)

    def _is_silent(self, node: str, peer: str) -> bool:
        wire = self._wires.get(node)
        return (node, peer) in self.blocked or wire is None or wire.paused

    # Faults

    def is_cut(self, one: str, other: str) -> bool:
        """Whether these two cannot talk in both directions."""
        return (one, other) in self.blocked or (other, one) in self.blocked

    def block(self, *directions: tuple[str, str]) -> None:
        for direction in directions:
            if direction not in self.blocked:
                self.blocked.add(direction)
                self._watch(*direction)

    def unblock(self, *directions: tuple[str, str]) -> None:
        for sender, receiver in directions:
            if (sender, receiver) not in self.blocked:
                continue
            self.blocked.discard((sender, receiver))
            connection = self._ends.get((sender, receiver))
            if connection is not None:
                for raw in connection.held.pop(sender, ()):
                    self._deliver_later(connection, sender, receiver, raw, 0.0)

    def reset(self, node: str, peer: str) -> None:
        """The connection breaks; both ends learn it."""
        connection = self._ends.get((node, peer))
        if connection is not None:
            self.hang_up(connection, node)
            self._closed(connection, node)

    # Bytes

    def room(self, connection: Connection | None, sender: str) -> int:
        if connection is None:
            return self.plan.send_buffer_bytes
        return max(0, self.plan.send_buffer_bytes - connection.bytes.get(sender, 0))

    def transmit(
        self, connection: Connection | None, sender: str, receiver: str, raw: bytes, spent: float
    ) -> bool:
        """False: the connection is over, because the other end does not read."""
        if connection is None:
            self._transmit_wild(sender, receiver, raw, spent)
            return True
        if connection.bytes.get(sender, 0) > 4 * self.plan.send_buffer_bytes:
            return False
        connection.bytes[sender] = connection.bytes.get(sender, 0) + len(raw)
        if (sender, receiver) in self.blocked:
            connection.held.setdefault(sender, deque()).append(raw)
        else:
            self._deliver_later(connection, sender, receiver, raw, spent)
        return True

    def _deliver_later(
        self, connection: Connection, sender: str, receiver: str, raw: bytes, spent: float
    ) -> None:
        when = max(self.world.now + spent + self._latency(), connection.arrives.get(sender, 0.0))
        connection.arrives[sender] = when
        self.world.at(when, self._deliver, connection, sender, receiver, raw)

    def _deliver(self, connection: Connection, sender: str, receiver: str, raw: bytes) -> None:
        if self._ends.get((receiver, sender)) is not connection:
            if receiver in self._wires:  # its system knows of no such connection, and says so
                self._fin(connection, receiver)
            return
        if (sender, receiver) in self.blocked or connection.held.get(sender):
            connection.held.setdefault(sender, deque()).append(raw)
            return
        connection.bytes[sender] -= len(raw)
        self._arrive(connection, sender, receiver, raw)

    def _arrive(self, connection: Connection | None, sender: str, receiver: str, raw: bytes) -> None:
        self.world.trace(sender.encode(), receiver.encode(), raw)
        wire = self._wires.get(receiver)
        if wire is not None:
            wire.put("message", connection, sender, raw)

    def _transmit_wild(self, sender: str, receiver: str, raw: bytes, spent: float) -> None:
        if self.holds(sender, receiver, raw):
            return
        plan, random = self.plan, self._random
        copies = 1 + (random.random() < plan.doubling)
        for _ in range(copies):
            if random.random() >= plan.loss:
                self.world.after(spent + self._latency(), self.deliver, sender, receiver, raw)

    def deliver(self, sender: str, receiver: str, raw: bytes) -> None:
        """A message without a connection arrives."""
        if (sender, receiver) not in self.blocked:
            self._arrive(None, sender, receiver, raw)

    def _latency(self) -> float:
        plan, random = self.plan, self._random
        if random.random() < (0.5 if self.late else plan.delay_chance):
            return random.random() ** 2 * LATE_SECONDS * (1.0 if plan.wild or self.late else 0.1)
        return plan.latency * (0.5 + random.random())

    # Connections

    def hang_up(self, connection: Connection, node: str) -> None:
        """`node` has closed its end."""
        peer = connection.other(node)
        if self._ends.get((node, peer)) is connection:
            del self._ends[(node, peer)]
        self._fin(connection, node)
        self._dial_soon(node, peer)

    def _fin(self, connection: Connection, node: str) -> None:
        peer = connection.other(node)
        if (node, peer) not in self.blocked:
            self.world.after(self._latency(), self._closed, connection, peer)

    def _closed(self, connection: Connection, node: str) -> None:
        """The end of `node` finds the connection closed."""
        peer = connection.other(node)
        if self._ends.get((node, peer)) is not connection:
            return
        del self._ends[(node, peer)]
        wire = self._wires.get(node)
        if wire is not None:
            wire.put("closed", connection, peer)
        self._dial_soon(node, peer)

    def _ping(self, connection: Connection, node: str) -> None:
        peer = connection.other(node)
        if self._ends.get((peer, node)) is not connection and not self.is_cut(node, peer):
            self._closed(connection, node)

    def _watch(self, silent: str, listener: str) -> None:
        """`silent` sends nothing to `listener` any more: when that lasts, `listener` closes its end."""
        if self.plan.wild or silent == listener:
            return
        since = self.world.now
        self._silent_since[(silent, listener)] = since
        self.world.after(SILENCE_SECONDS, self._judge_silence, silent, listener, since)

    def _judge_silence(self, silent: str, listener: str, since: float) -> None:
        if self._silent_since.get((silent, listener)) != since:
            return
        connection = self._ends.get((listener, silent))
        known = self._ends.get((silent, listener)) is connection
        if connection is not None and (self._is_silent(silent, listener) or not known):
            self._fin(connection, listener)
            self._closed(connection, listener)

    def _dial_soon(self, one: str, other: str) -> None:
        pair = (min(one, other), max(one, other))
        if pair not in self._dialling and not self.plan.wild:
            self._dialling.add(pair)
            self.world.after(DIAL_SECONDS * (0.5 + self._random.random()), self._dial, pair)

    def _dial(self, pair: tuple[str, str]) -> None:
        """The member with the greater id tries."""
        acceptor, dialler = pair
        self._dialling.discard(pair)
        if dialler not in self._wires or (dialler, acceptor) in self._ends:
            return
        if not self._reachable(pair):
            self._dial_soon(*pair)
            return
        connection = Connection(pair)
        self._open(connection, dialler, acceptor)
        proven = connection.arrives[dialler] = self.world.now + self._latency()
        self.world.at(proven, self._accept, connection, acceptor, dialler)

    def _accept(self, connection: Connection, acceptor: str, dialler: str) -> None:
        """The dialler has proven itself, if it still can; what it sends comes behind that."""
        if self._ends.get((dialler, acceptor)) is not connection:
            return
        if acceptor in self._wires and self._reachable(connection.pair):
            self._open(connection, acceptor, dialler)
        else:
            self.world.after(SILENCE_SECONDS, self._closed, connection, dialler)

    def _reachable(self, pair: tuple[str, str]) -> bool:
        ways = (pair, pair[::-1])
        return all(not self._is_silent(one, other) and other in self._wires[one].peers for one, other in ways)

    def _open(self, connection: Connection, node: str, peer: str) -> None:
        self._ends[(node, peer)] = connection
        self._wires[node].put("opened", connection, peer)
