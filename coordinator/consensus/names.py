"""Host names of peers, looked up on a thread of their own: a slow name server must not stop the Raft loop."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable

from quorumfs.clock import Clock

FRESH_SECONDS = 30.0


class Names:
    """`look` never blocks. `wake` is called, on another thread, when a name was found."""

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._found: dict[str, str] = {}
        self._asked_at: dict[str, float] = {}

    def look(self, host: str) -> str | None:
        """The address of `host`, as last found; None while none was found yet."""
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            pass
        now = self._clock.monotonic()
        if now - self._asked_at.get(host, -FRESH_SECONDS) >= FRESH_SECONDS:
            self._asked_at[host] = now
            threading.Thread(target=self._ask, args=(host,), name="names", daemon=True).start()
        return self._found.get(host)

    def _ask(self, host: str) -> None:
        try:
            rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            self._asked_at[host] = self._clock.monotonic() - FRESH_SECONDS + 1.0  # again in a second
            return
        self._found[host] = str(rows[0][4][0])
        self._wake()
