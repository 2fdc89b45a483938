"""Hands open chunks to clients on this host: the serving half of quorumfs/descriptors.py.

1. A listener in the abstract namespace under a drawn name, one thread per connection, bounded in all and per
   user: whoever is beyond is cut off and reads over gRPC.
2. A client shows that it has the key that `tell` gave it over gRPC, and sees the same of this node first.
3. What can be opened and says the right things of itself is handed over, read-only; all else is refused without
   a reason, as the client asks for the same over gRPC then. Nothing stays open here.
"""

from __future__ import annotations

import hmac
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from common import log
from datanode.store import layout
from datanode.store.chunks import ChunkStore
from datanode.transfer.meter import Meter
from quorumfs import descriptors
from quorumfs.errors import QuorumFSError
from quorumfs.ids import ChunkId
from quorumfs.mint import RandomBytes, system_random
from quorumfs.rpc.trust import proof
from quorumfs.v1 import chunks_pb2

CONNECTIONS_MAX = 128
CONNECTIONS_PER_USER_MAX = 64
HANDSHAKE_SECONDS = 2.0
IDLE_SECONDS = 60.0
STOP_SECONDS = 2.0
_RETRY_SECONDS = 0.1
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid
_REFUSED = bytes([descriptors.REFUSED])
_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class _Names:
    socket: bytes
    secret: bytes


class ShortCircuitServer:
    """One node's socket. `start`, `stop` by one thread; `tell` by any."""

    def __init__(
        self, node_id: str, store: ChunkStore, meter: Meter, random: RandomBytes = system_random
    ) -> None:
        self._store = store
        self._meter = meter
        self._random = random
        self._names = _Names(
            f"quorumfs/{node_id}/".encode() + random(16).hex().encode(), random(descriptors.KEY_BYTES)
        )
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, int] = {}
        self._users: Counter[int] = Counter()

    def tell(self) -> chunks_pb2.GetShortCircuitResponse:
        """What a client has to know, with a key of its own; empty unless this listens."""
        if self._listener is None or self._stopping.is_set():
            return chunks_pb2.GetShortCircuitResponse()
        ticket = self._random(descriptors.TICKET_BYTES)
        key = descriptors.key_of(self._names.secret, ticket)
        return chunks_pb2.GetShortCircuitResponse(socket=self._names.socket, ticket=ticket, key=key)

    def start(self) -> None:
        """Listen. Where that is not possible there are no short-circuit reads, and a warning says so."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.bind(b"\0" + self._names.socket)
            listener.listen(CONNECTIONS_MAX)
        except OSError as error:
            listener.close()
            _log.warning("short_circuit.unavailable", cause=str(error))
            return
        self._thread = threading.Thread(
            target=self._accept, args=(listener,), name="short-circuit", daemon=True
        )
        self._thread.start()
        self._listener = listener

    def stop(self) -> None:
        """Cut everybody off. What was handed over stays good. May be called again."""
        self._stopping.set()
        listener, self._listener = self._listener, None
        if listener is None or self._thread is None:
            return
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._thread.join(STOP_SECONDS)
        listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:  # out of descriptors, perhaps
                self._stopping.wait(_RETRY_SECONDS)
                continue
            if not self._admit(connection):
                connection.close()
                continue
            try:
                threading.Thread(
                    target=self._serve, args=(connection,), name="short-circuit-client", daemon=True
                ).start()
            except RuntimeError:  # no more threads
                self._let_go(connection)

    def _admit(self, connection: socket.socket) -> bool:
        try:
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return False
        user = _CREDENTIALS.unpack(raw)[1]
        with self._lock:
            full = len(self._connections) >= CONNECTIONS_MAX or self._users[user] >= CONNECTIONS_PER_USER_MAX
            if full or self._stopping.is_set():
                return False
            self._connections[connection] = user
            self._users[user] += 1
            return True

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(HANDSHAKE_SECONDS)
            if self._is_proven(connection):
                connection.settimeout(IDLE_SECONDS)
                while len(raw := connection.recv(descriptors.CHUNK_BYTES + 1)) == descriptors.CHUNK_BYTES:
                    self._answer(connection, ChunkId(raw))
        except OSError:
            pass  # it went away, or was silent for too long
        finally:
            self._let_go(connection)

    def _let_go(self, connection: socket.socket) -> None:
        with self._lock:
            self._users[self._connections.pop(connection)] -= 1
            self._users += Counter()  # forgets users without connections
        connection.close()

    def _is_proven(self, connection: socket.socket) -> bool:
        hello = connection.recv(descriptors.HELLO_BYTES + 1)
        if len(hello) != descriptors.HELLO_BYTES:
            return False
        ticket, nonce = hello[: descriptors.TICKET_BYTES], hello[descriptors.TICKET_BYTES :]
        key = descriptors.key_of(self._names.secret, ticket)
        own, name = self._random(descriptors.NONCE_BYTES), self._names.socket.hex()
        connection.sendall(own + proof(key, "server", nonce, own, name))
        shown = connection.recv(descriptors.PROOF_BYTES + 1)
        return hmac.compare_digest(shown, proof(key, "client", nonce, own, name))

    def _answer(self, connection: socket.socket, chunk: ChunkId) -> None:
        try:
            with self._store.open_reader(chunk) as opened:
                told = descriptors.Opened(
                    layout.HEADER_BYTES, opened.length, opened.checksums(0, opened.length)
                )
                self._meter.passed()  # before: whoever has a chunk in hand finds it counted
                socket.send_fds(connection, [descriptors.encode_opened(told)], [opened.descriptor])
        except QuorumFSError:
            connection.sendall(_REFUSED)
