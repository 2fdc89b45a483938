"""Whether this agent serves, found out as a client would: by asking its own port. Its watchdog is fed by the answers.

A question to itself takes the whole way: the listening socket, the poller, a thread, the application. Any answer
counts, also one that says that the node is down, or that a token is wanted: only an agent that gives none shall be
ended.
"""

from __future__ import annotations

import http.client
import ipaddress
from collections.abc import Callable

from common import log
from common.lifecycle import Lifecycle
from sidecar import limits
from sidecar.targets import ALIVE_PATH

_log = log.get("sidecar")


class Pulse:
    """A duty (common/workers.py); made where systemd watches the process. `ask` raises OSError when none answers."""

    name = "watchdog"

    def __init__(self, lifecycle: Lifecycle, ask: Callable[[], None], every_seconds: float) -> None:
        self._lifecycle = lifecycle
        self._ask = ask
        self._every_seconds = min(every_seconds, limits.OWN_QUESTION_SECONDS)

    def work(self) -> str:
        try:
            self._ask()
        except (OSError, http.client.HTTPException) as error:
            _log.warning("sidecar.no_answer", cause=str(error) or type(error).__name__)
            return f"this agent does not answer itself: {error}"
        self._lifecycle.notify_watchdog()
        return "this agent answers"

    def wait(self) -> float:
        return self._every_seconds


def ask_own_port(host: str, port: int) -> None:
    """Returns when an answer has come. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection(own_host(host), port, timeout=limits.OWN_ANSWER_SECONDS)
    try:
        connection.request("GET", ALIVE_PATH, headers={"Connection": "close"})
        connection.getresponse().read(limits.TARGET_ANSWER_BYTES_MAX)
    finally:
        connection.close()


def own_host(host: str) -> str:
    """Where a listener of `host` is reached from here: of all addresses, the loopback one."""
    bare = host.strip("[]")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return bare
    if not address.is_unspecified:
        return bare
    return "127.0.0.1" if address.version == 4 else "::1"
