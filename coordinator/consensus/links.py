"""The Raft port: one authenticated TCP connection to each peer, driven by the Raft loop alone.

1. Of two members the one with the greater id dials; so there is one connection a pair. A newer connection of the
   same peer replaces the older, whose bytes are dropped: messages of one peer never overtake each other.
2. Strangers get a fixed number of places, a fixed number of bytes and a fixed time; the oldest stranger goes first
   when places run out. Nothing is parsed before the proof (handshake.py).
3. Work per turn is bounded for every connection, so that a flood on one cannot starve the others or the timers.
4. What is sent waits in a bounded buffer. A peer that does not read overfills it and loses the connection;
   Raft sends again what was lost.
5. An idle connection carries an empty frame every half second; one that is silent for two is dead (a peer that
   was stopped or cut off still accepts TCP).

Only `wake` may be called by another thread. What `on_message` raises goes through: the loop ends with it.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from common import log
from coordinator.consensus import handshake as shake
from coordinator.consensus.messages import MalformedMessageError, Message, decode, encode
from coordinator.consensus.names import Names
from quorumfs.clock import Clock
from quorumfs.errors import UnavailableError
from quorumfs.limits import MIB
from quorumfs.mint import RandomBytes

DIAL_PAUSE_SECONDS = 0.1
PROOF_SECONDS = 2.0
PING_SECONDS = 0.5
SILENCE_SECONDS = 2.0
NEVER_SECONDS = 1e9
STRANGERS_MAX = 64
ACCEPTS_PER_TURN = 16
READ_BYTES_PER_TURN = 1 * MIB
OUT_BYTES_MAX = 16 * MIB

_log = log.get(__name__)

OnMessage = Callable[[str, Message], None]
OnChange = Callable[[str, bool], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """A member as the port knows it; `uuid` is that of its disk's identity, `address` host:port."""

    node_id: str
    uuid: str
    address: str


@dataclass(slots=True, eq=False)
class _Connection:
    """A socket and what was said on it. `want`: bytes of the next step of the handshake; 0 once proven."""

    sock: socket.socket
    dialled: bool
    began: float
    peer: str = ""
    want: int = 0
    nonce: bytes = b""
    client_nonce: bytes = b""
    connecting: bool = False
    early: bytearray = field(default_factory=bytearray)
    out: deque[bytes] = field(default_factory=deque)
    out_bytes: int = 0
    heard: float = 0.0
    sent: float = 0.0
    sealer: shake.Sealer | None = None
    opener: shake.Opener | None = None
    events: int = 0

    @property
    def proven(self) -> bool:
        return self.opener is not None


class TcpLinks:
    """See the module. `set_peers` says who the other members are; until then there are none."""

    def __init__(
        self,
        host: str,
        port: int,
        own: Peer,
        cluster_id: str,
        secret: bytes,
        clock: Clock,
        random: RandomBytes,
    ) -> None:
        self._address = (host, port)
        self._own = own
        self._own_id = own.node_id
        self._cluster_id = cluster_id
        self._secret = secret
        self._clock = clock
        self._random = random
        self._names = Names(clock, self.wake)
        self._closed = False
        self._peers: dict[str, Peer] = {}
        self._dial_at: dict[str, float] = {}
        self._heard_last: dict[str, float] = {}  # of peers whose connection is over
        self._selector = selectors.DefaultSelector()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self._connections: set[_Connection] = set()
        self._strangers: deque[_Connection] = deque()
        self._links: dict[str, _Connection] = {}
        self._blocked: frozenset[str] = frozenset()
        self._on_message: OnMessage = lambda peer, message: None
        self._on_change: OnChange = lambda peer, connected: None
        self.refused = 0

    # The loop's side

    def start(self, on_message: OnMessage, on_change: OnChange) -> None:
        """Listen. Raises UnavailableError when the port is taken."""
        self._on_message, self._on_change = on_message, on_change
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._address)
            listener.listen(128)
        except OSError as error:
            listener.close()
            host, port = self._address
            raise UnavailableError(
                f"the Raft port {host}:{port} cannot be opened",
                cause=os.strerror(error.errno or 0),
                next="stop the process that has it, or set raft.port",
            ) from error
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def poll(self, seconds: float) -> None:
        """Wait up to `seconds` for something to do, and do a bounded piece of it."""
        for key, events in self._selector.select(max(0.0, seconds)):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fd == self._wake_fd:
                os.eventfd_read(self._wake_fd)
            elif key.data in self._connections:
                self._serve(key.data, events)
        self._keep_time()

    def wake(self) -> None:
        """End a `poll` that waits. Any thread; after `close` nobody waits."""
        if not self._closed:
            os.eventfd_write(self._wake_fd, 1)

    def send(self, peer: str, message: Message) -> bool:
        """Queue a message; False when there is no connection to the peer, or it stopped reading."""
        link = self._links.get(peer)
        if link is None or link.sealer is None:
            return False
        if peer in self._blocked:
            return True
        self._put(link, link.sealer.seal(encode(message)))
        return link in self._connections

    def room(self, peer: str) -> int:
        """Bytes that may still be queued for the peer."""
        link = self._links.get(peer)
        return 0 if link is None else max(0, OUT_BYTES_MAX // 4 - link.out_bytes)

    def connected(self, peer: str) -> bool:
        return peer in self._links

    def heard_age(self, peer: str, now: float) -> float:
        """Seconds since anything came from the peer, also on a connection that is over; a large number: never yet."""
        link = self._links.get(peer)
        heard = self._heard_last.get(peer) if link is None else link.heard
        return NEVER_SECONDS if heard is None else max(0.0, now - heard)

    def set_peers(self, peers: Iterable[Peer]) -> None:
        """The other members are these from now on; connections to others end."""
        before = self._peers
        self._peers = {peer.node_id: peer for peer in peers}
        self._heard_last = {peer: at for peer, at in self._heard_last.items() if peer in self._peers}
        dialled = self._dialled_peers()
        self._dial_at = {peer: self._dial_at.get(peer, 0.0) for peer in dialled}
        for peer in [peer for peer in self._links if self._peers.get(peer) != before.get(peer)]:
            self._close(self._links[peer], "it is no member any more, or another one")

    def block(self, peers: frozenset[str]) -> None:
        """Fault hook: lose everything from and to these peers, without a word; their connections fall silent."""
        self._blocked = peers

    def close(self) -> None:
        self._closed = True
        for connection in list(self._connections):
            self._close(connection, "the node stops")
        if self._listener is not None:
            self._listener.close()
        self._selector.close()
        os.close(self._wake_fd)

    def _dialled_peers(self) -> list[str]:
        return sorted(peer for peer in self._peers if self._own_id > peer)

    # Connections come and go

    def _accept(self) -> None:
        listener = self._listener
        for _ in range(ACCEPTS_PER_TURN):
            try:
                if listener is None:
                    return
                sock, _address = listener.accept()
            except OSError:  # nobody waits, gone again, or no descriptor is free: the next turn tries again
                return
            if len(self._strangers) >= STRANGERS_MAX:
                self._close(self._strangers[0], "too many strangers")
            connection = _Connection(sock, dialled=False, began=self._clock.monotonic())
            connection.want = shake.HELLO_BYTES
            self._strangers.append(connection)
            self._register(connection, selectors.EVENT_READ)

    def _dial(self, peer: str) -> None:
        name, _, port = self._peers[peer].address.rpartition(":")
        now = self._clock.monotonic()
        host = self._names.look(name.strip("[]"))
        if host is None:
            self._dial_at[peer] = now + DIAL_PAUSE_SECONDS
            return
        self._dial_at[peer] = now + PROOF_SECONDS
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection = _Connection(sock, dialled=True, began=now, peer=peer, connecting=True)
        connection.want = shake.CHALLENGE_BYTES
        connection.nonce = self._random(shake.NONCE_BYTES)
        self._register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        try:
            code = sock.connect_ex((host, int(port)))
        except OSError as error:
            code = error.errno or errno.EHOSTUNREACH
        if code not in (0, errno.EINPROGRESS):
            self._close(connection, os.strerror(code))

    def _register(self, connection: _Connection, events: int) -> None:
        connection.sock.setblocking(False)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.heard = connection.sent = self._clock.monotonic()
        connection.events = events
        self._connections.add(connection)
        self._selector.register(connection.sock, events, connection)

    def _close(self, connection: _Connection, why: str) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._selector.unregister(connection.sock)
        connection.sock.close()
        if connection in self._strangers:
            self._strangers.remove(connection)
        if connection.dialled and not connection.proven and connection.peer in self._dial_at:
            self._dial_at[connection.peer] = self._clock.monotonic() + DIAL_PAUSE_SECONDS
        if self._links.get(connection.peer) is connection:
            del self._links[connection.peer]
            self._heard_last[connection.peer] = connection.heard
            if connection.peer in self._dial_at:
                self._dial_at[connection.peer] = self._clock.monotonic() + DIAL_PAUSE_SECONDS
            _log.info("link.lost", peer=connection.peer, cause=why)
            self._on_change(connection.peer, False)

    def _keep_time(self) -> None:
        now = self._clock.monotonic()
        for peer, at in self._dial_at.items():
            if now >= at and peer not in self._links:
                self._dial(peer)
        for connection in list(self._connections):
            if not connection.proven:
                if now - connection.began > PROOF_SECONDS:
                    self._close(connection, "it proved nothing in time")
            elif now - connection.heard > SILENCE_SECONDS:
                self._close(connection, f"silent for {SILENCE_SECONDS:g} s")
            elif now - connection.sent > PING_SECONDS and connection.sealer is not None:
                self._put(connection, connection.sealer.seal(b""))

    # Bytes

    def _serve(self, connection: _Connection, events: int) -> None:
        if connection.connecting and events & selectors.EVENT_WRITE:
            self._connected(connection)
        elif events & selectors.EVENT_WRITE:
            self._flush(connection)
        if events & selectors.EVENT_READ and connection in self._connections:
            self._receive(connection)

    def _connected(self, connection: _Connection) -> None:
        code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._close(connection, os.strerror(code))
            return
        connection.connecting = False
        self._watch(connection)
        peer = self._peers.get(connection.peer)
        if peer is None:
            self._close(connection, "it is no member any more")
            return
        route = shake.route(self._cluster_id, self._own_id, self._own.uuid, peer.node_id, peer.uuid)
        self._put(connection, shake.hello(route, self._own_id, connection.nonce))

    def _receive(self, connection: _Connection) -> None:
        size = connection.want - len(connection.early) if connection.want else READ_BYTES_PER_TURN
        try:
            data = connection.sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._close(connection, os.strerror(error.errno or 0))
            return
        if not data:
            self._close(connection, "the other end closed it")
            return
        if connection.peer not in self._blocked:
            connection.heard = self._clock.monotonic()
        try:
            if connection.opener is not None:
                self._take(connection, connection.opener.feed(data))
            else:
                connection.early += data
                if len(connection.early) == connection.want:
                    self._prove(connection, bytes(connection.early))
        except (shake.RefusedError, MalformedMessageError) as error:
            self.refused += 1
            _log.warning("link.refused", peer=connection.peer or "a stranger", cause=str(error))
            self._close(connection, str(error))

    def _take(self, connection: _Connection, bodies: list[bytes]) -> None:
        for body in bodies:
            if body and connection.peer not in self._blocked:
                self._on_message(connection.peer, decode(body))
            if connection not in self._connections:
                return

    def _prove(self, connection: _Connection, raw: bytes) -> None:
        """One step of the handshake; see handshake.py for the order."""
        connection.early.clear()
        secret = self._secret
        if connection.dialled:
            shown, server_nonce = shake.answer(secret, connection.peer, connection.nonce, raw)
            self._put(connection, shown)
            self._establish(connection, connection.nonce, server_nonce)
        elif not connection.nonce:
            connection.peer, connection.client_nonce = shake.read_hello(raw, self._route_from)
            if connection.peer not in self._peers or self._own_id > connection.peer:
                raise shake.RefusedError(f"{connection.peer!r} is no member that dials this one")
            connection.nonce = self._random(shake.NONCE_BYTES)
            connection.want = shake.PROOF_BYTES
            self._put(
                connection,
                shake.challenge(secret, self._own_id, connection.client_nonce, connection.nonce),
            )
        else:
            shake.check_answer(secret, self._own_id, connection.client_nonce, connection.nonce, raw)
            self._establish(connection, connection.client_nonce, connection.nonce)

    def _route_from(self, peer_id: str) -> bytes:
        peer = self._peers.get(peer_id, Peer(peer_id, "", ""))
        return shake.route(self._cluster_id, peer_id, peer.uuid, self._own_id, self._own.uuid)

    def _establish(self, connection: _Connection, client_nonce: bytes, server_nonce: bytes) -> None:
        of_client, of_server = shake.keys(self._secret, client_nonce, server_nonce)
        mine, theirs = (of_client, of_server) if connection.dialled else (of_server, of_client)
        connection.sealer, connection.opener = shake.Sealer(mine), shake.Opener(theirs)
        connection.want = 0
        if connection in self._strangers:
            self._strangers.remove(connection)
        if connection.peer in self._blocked:
            self._close(connection, "it is cut off")
            return
        older = self._links.get(connection.peer)
        if older is not None:
            self._close(older, "a newer connection of the same peer")
        self._links[connection.peer] = connection
        _log.info("link.made", peer=connection.peer, dialled=connection.dialled)
        self._on_change(connection.peer, True)

    def _put(self, connection: _Connection, data: bytes) -> None:
        connection.out.append(data)
        connection.out_bytes += len(data)
        connection.sent = self._clock.monotonic()
        if connection.out_bytes > OUT_BYTES_MAX:
            self._close(connection, "it does not read what it is sent")
        elif len(connection.out) == 1:
            self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        out = connection.out
        try:
            while out:
                sent = connection.sock.send(out[0])
                connection.out_bytes -= sent
                if sent < len(out[0]):
                    out[0] = out[0][sent:]
                    break
                out.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._close(connection, os.strerror(error.errno or 0))
            return
        self._watch(connection)

    def _watch(self, connection: _Connection) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.out else 0)
        if events != connection.events and connection in self._connections:
            connection.events = events
            self._selector.modify(connection.sock, events, connection)
