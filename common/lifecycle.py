"""The life of a daemon's process: signals as events, systemd's notifications, exit codes.

One `Lifecycle` per process, made in its main thread. Nothing here knows what the daemon does.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from enum import IntEnum
from types import FrameType
from typing import NoReturn

from common import log

_log = log.get(__name__)


class ExitCode(IntEnum):
    """How a daemon ends; units name 74 in RestartPreventExitStatus, and AGAIN in RestartForceExitStatus."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    SICK_DISK = 74
    AGAIN = 75


class Lifecycle:
    """Signals, notifications and the end of the process. `stopping` is set once the process shall end."""

    def __init__(
        self, environ: Mapping[str, str] = os.environ, begin_anew: Callable[[], None] | None = None
    ) -> None:
        self.stopping = threading.Event()
        self.reason = ""
        self.again = False  # begin anew after the end; a signal that ends the process takes it back
        self.on_reload: Callable[[], object] = lambda: None  # what SIGHUP asks for
        self._begin_anew = begin_anew or exec_anew
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watchdog_seconds = _watchdog_seconds(environ)
        self._interrupts = 0
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def install(self) -> None:
        """Take SIGTERM and SIGINT (set `stopping`), SIGHUP (`on_reload`, on a thread of its own) and SIGUSR2 (all
        threads' stacks on stderr). Main thread.

        A second SIGINT ends the process at once.
        """
        threading.Thread(target=self._hear_signals, name="signals", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        faulthandler.register(signal.SIGUSR2, all_threads=True)

    def stop(self, reason: str) -> None:
        """Ask the process to end in order; the first reason is kept."""
        if not self.stopping.is_set():
            self.reason = reason
            self.stopping.set()

    def ended(self, code: int) -> int:
        """What the process exits with, now that everything is stopped.

        One that shall begin anew is started by its supervisor (systemd) for the code AGAIN; without one it replaces
        itself, under the same process id, by what its command line starts now: this does not return then.
        """
        if not self.again or code != ExitCode.OK:
            return code
        if self._address:
            return ExitCode.AGAIN
        self._begin_anew()
        return ExitCode.AGAIN

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the process shall end; False when `seconds` went by first."""
        return self.stopping.wait(seconds)

    @property
    def watchdog_seconds(self) -> float | None:
        """How often to call `notify_watchdog` (half of what systemd allows); None when it is not watched."""
        return self._watchdog_seconds

    def notify_ready(self, status: str = "") -> None:
        self.notify("READY=1", *([f"STATUS={status}"] if status else []))

    def notify_status(self, status: str) -> None:
        self.notify(f"STATUS={status}")

    def notify_watchdog(self) -> None:
        """Only after real progress: a stuck process must not pet its watchdog."""
        self.notify("WATCHDOG=1")

    def notify_stopping(self, status: str = "") -> None:
        self.notify("STOPPING=1", *([f"STATUS={status}"] if status else []))

    def notify(self, *assignments: str) -> bool:
        """Send `NAME=value` lines to $NOTIFY_SOCKET (a path, or `@name` for an abstract socket).

        False when there is none or the supervisor does not listen, which is never this process's problem.
        """
        if not self._address:
            return False
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        text = "\n".join(one.replace("\n", " ") for one in assignments)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1.0)
                sender.connect(address)
                sender.send(text.encode())
        except OSError as error:
            _log.debug("lifecycle.notify_failed", cause=str(error))
            return False
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                os._exit(128 + number)
        # This may run while the main thread holds any lock, that of `stopping` or of logging too. Of all that
        # could be called here only SimpleQueue.put is made for it.
        self._signals.put(number)

    def _hear_signals(self) -> None:
        while True:
            number = self._signals.get()
            if number == signal.SIGHUP:
                self._reload()
                continue
            name = signal.Signals(number).name
            self.again = False
            self.stop(name)

    def _reload(self) -> None:
        try:
            self.on_reload()
        except Exception as error:  # noqa: BLE001  the thread's outermost frame: a stop must still be heard
            _log.error("config.reload_failed", exc_info=error)


def exec_anew() -> None:
    """Replace this process by a new one of the same command line."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def fatal(message: str, code: int = ExitCode.FAILURE) -> NoReturn:
    """Log `message` and end the process now, from any thread: no cleanup, no flush of half-done work.

    For what must not go on: a failed fsync, an entry that cannot be applied, a thread without which the
    node would only look alive.
    """
    _log.error("process.fatal", reason=message, exit_code=int(code))
    try:
        sys.stderr.flush()
    finally:
        os._exit(int(code))


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if not microseconds.isdecimal() or int(microseconds) == 0 or not for_us:
        return None
    return int(microseconds) / 2e6
