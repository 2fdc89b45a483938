"""gunicorn's threaded worker, made safe against slow and hostile clients and quick to stop.

What stock gthread leaves open, and how it is closed here:
1. A connection takes a thread before its request has arrived. Here it is gathered in the poller, where it costs
   a small buffer (`gathering.py`), also after the first on a connection that is kept.
2. Every request has a deadline, from the first byte to the end of its answer; whoever is late is cut off. A log
   stream lifts its own; the kernel's send timeout bounds it.
3. When there are too many connections, no more are accepted. Here the one that has been sending its request for
   longest makes room: an honest one is done in milliseconds.
4. An unreadable request is answered in HTML. Here in the JSON that every error has.
5. A stop waits for open streams. Here they are ended first, and the process dies with its parent.

The overridden methods are private to gunicorn 27: the pin in pyproject.toml and the cluster tests hold them.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.http import errors as http_errors
from gunicorn.workers.gthread import TConn, ThreadWorker

from common import log
from sidecar import limits
from sidecar.errors import http_error_json
from sidecar.gathering import Refused, judge

PR_SET_PDEATHSIG = 1
RECEIVE_BYTES = 16 << 10
SHORT_OF_DESCRIPTORS_SECONDS = 0.05
STOP_LINGER_SECONDS = 0.2  # gunicorn gives a kept-alive connection two seconds when it stops

_STATUS_OF_ERROR: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (http_errors.LimitRequestLine, HTTPStatus.REQUEST_URI_TOO_LONG),
    (http_errors.LimitRequestHeaders, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    (http_errors.UnsupportedTransferCoding, HTTPStatus.NOT_IMPLEMENTED),
    (http_errors.ExpectationFailed, HTTPStatus.EXPECTATION_FAILED),
    (http_errors.ParseException, HTTPStatus.BAD_REQUEST),
)


class Deadlines:
    """Until when each connection's request must be over. Threads enter and leave; the poller reaps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[int, tuple[float, socket.socket]] = {}

    def enter(self, key: int, connection: socket.socket, until: float) -> None:
        with self._lock:
            self._until[key] = (until, connection)

    def leave(self, key: int) -> None:
        with self._lock:
            self._until.pop(key, None)

    def reap(self, now: float) -> int:
        """Cuts every connection whose time is over; its thread then finds it closed. Returns how many."""
        with self._lock:
            late = [key for key, (until, _) in self._until.items() if until <= now]
            connections = [self._until.pop(key)[1] for key in late]
            for connection in connections:
                # Under the lock: after `leave` the descriptor may be another connection's.
                _cut(connection)
        return len(connections)


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """One connection, with what has arrived of its next request."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.arrived = bytearray()
        self.refused: Refused | None = None
        self.is_last = False

    def take_in(self) -> bool:
        """Receive what is there; whether the request is whole, or to be refused. Raises OSError at its end."""
        received = self.sock.recv(RECEIVE_BYTES)
        if not received:
            raise ConnectionResetError(errno.ECONNRESET, "it was closed")
        self.arrived += received
        verdict = judge(self.arrived)
        if verdict is None:
            return False
        if isinstance(verdict, Refused):
            self.refused = verdict
        else:
            # What came behind it is not waited for: nobody has to send requests ahead.
            self.is_last = len(self.arrived) > verdict.size_bytes
            del self.arrived[verdict.size_bytes :]
        self.data_ready = True
        return True

    def hand_over(self) -> None:
        """Give the gathered request to the parser."""
        self.sock.setblocking(True)
        self.init()
        self.parser.unreader.unread(bytes(self.arrived))
        self.arrived.clear()


class SidecarWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadlines = Deadlines()

    def init_process(self) -> None:
        die_with_parent(self.ppid)
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi: Any = with_lift(self.app.wsgi())

    def accept(self, listener: Any) -> None:
        """Takes a connection into the poller, where it waits for its first byte."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room()
                time.sleep(SHORT_OF_DESCRIPTORS_SECONDS)  # the listener stays readable meanwhile
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        set_send_timeout(client, limits.SEND_STALL_SECONDS)
        connection = Connection(self.cfg, client, address, listener.getsockname())
        self.poller.register(connection.sock, selectors.EVENT_READ)
        self._gather(connection)
        if self.nr_conns >= self.worker_connections:
            self._make_room()

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        """The next request on a kept connection begins."""
        self.keepalived_conns.remove(conn)
        self._gather(conn)
        self.on_pending_socket_readable(conn, client)

    def on_pending_socket_readable(self, conn: Any, client: Any) -> None:
        """More of a request has come; when it is whole, a thread takes it."""
        if conn not in self.pending_conns:
            return  # it made room for another one in this very round
        try:
            if not conn.take_in():
                return
        except BlockingIOError:
            return
        except OSError:
            self.pending_conns.remove(conn)
            self._drop(conn)
            return
        self.pending_conns.remove(conn)
        self.poller.unregister(client)
        self.enqueue_req(conn)

    def _gather(self, conn: Any) -> None:
        conn.timeout = time.monotonic() + limits.HEADER_SECONDS
        self.pending_conns.append(conn)
        self.poller.modify(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _make_room(self) -> None:
        if self.pending_conns:
            self._drop(self.pending_conns.popleft())

    def _drop(self, conn: Any) -> None:
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def handle(self, conn: Any) -> Any:
        key = id(conn)
        self._deadlines.enter(key, conn.sock, time.monotonic() + limits.HEADER_SECONDS)
        try:
            if conn.refused is not None:
                conn.sock.setblocking(True)
                answer_error(conn.sock, conn.refused.status)
                return False
            conn.hand_over()
            return super().handle(conn) and not conn.is_last
        finally:
            self._deadlines.leave(key)

    def handle_request(self, req: Any, conn: Any) -> Any:
        conn_key = id(conn)
        _lifts.of_thread = partial(self._deadlines.leave, conn_key)
        return super().handle_request(req, conn)

    def murder_pending(self) -> None:
        """Called by the poller's loop at least every second."""
        super().murder_pending()
        cut = self._deadlines.reap(time.monotonic())
        if cut:
            log.get("sidecar").warning("http.slow_clients_cut", connections=cut)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM. What needs locks is left to the loop: a signal may come while one is held."""
        if self.alive:
            self.method_queue.defer(self._end_streams)
        super().handle_exit(sig, frame)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        status = next((status for kind, status in _STATUS_OF_ERROR if isinstance(exc, kind)), None)
        if status is None:
            log.get("sidecar").error("http.failed", exc_info=exc)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        answer_error(client, status)

    def _end_streams(self) -> None:
        self.app.end_streams()

    def _cap_keepalive(self, deadline: float) -> None:
        soon = min(deadline, time.monotonic() + STOP_LINGER_SECONDS)
        super()._cap_keepalive(soon)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, soon)


class _Lifts(threading.local):
    """How the request of this thread lifts its deadline; nothing to lift outside of one."""

    def __init__(self) -> None:
        self.of_thread: Callable[[], None] = lambda: None


_lifts = _Lifts()


def with_lift(application: Any) -> Any:
    """`application`, whose environment says how the request lifts its deadline."""

    def lifted(environ: dict[str, Any], start_response: Any) -> Any:
        environ[limits.LIFT_DEADLINE] = _lifts.of_thread
        return application(environ, start_response)

    return lifted


def answer_error(client: socket.socket, status: HTTPStatus) -> None:
    """Write the whole answer, without waiting; the connection is not used any more."""
    body = json.dumps({"error": http_error_json(status, status.phrase)}).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        util.write_nonblock(client, head.encode() + body)
    except OSError:
        pass  # the client is gone, and nothing is left to tell it


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent dies, so that a killed agent frees its port at once."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def set_send_timeout(connection: socket.socket, seconds: int) -> None:
    """A send that moves nothing for so long fails: the reader is cut off."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, 0))


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already
