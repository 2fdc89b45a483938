"""Signals, exit codes and what a supervisor is told; the notify socket itself is in tests/cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from common.lifecycle import ExitCode, Lifecycle


def test_a_stop_keeps_its_first_reason() -> None:
    life = Lifecycle({})
    assert not life.wait(0)
    life.stop("SIGTERM")
    life.stop("another")
    assert life.wait(0)
    assert life.reason == "SIGTERM"


def test_a_process_begins_anew_by_its_supervisor_or_by_itself() -> None:
    begun: list[str] = []
    alone = Lifecycle({}, lambda: begun.append("anew"))
    assert alone.ended(ExitCode.OK) == ExitCode.OK
    alone.again = True
    assert alone.ended(ExitCode.SICK_DISK) == ExitCode.SICK_DISK, "a sick disk would be sick again"
    assert begun == []
    alone.ended(ExitCode.OK)
    assert begun == ["anew"]
    watched = Lifecycle({"NOTIFY_SOCKET": "/run/nobody"}, lambda: begun.append("wrongly"))
    watched.again = True
    assert watched.ended(ExitCode.OK) == ExitCode.AGAIN
    assert begun == ["anew"]


def test_a_process_that_nobody_supervises_tells_nobody() -> None:
    life = Lifecycle({})
    assert life.notify("READY=1") is False
    assert life.watchdog_seconds is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_per_period(environ: dict[str, str], expected: float | None) -> None:
    assert Lifecycle(environ).watchdog_seconds == expected


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_fatal_ends_the_process_with_its_code_from_any_thread() -> None:
    done = run(
        "import threading\n"
        "from common import log\n"
        "from common.lifecycle import fatal\n"
        "log.setup('info', 'json')\n"
        "thread = threading.Thread(target=fatal, args=('fsync failed', 74))\n"
        "thread.start(); thread.join(); print('not reached')\n"
    )
    assert done.returncode == ExitCode.SICK_DISK
    assert '"process.fatal"' in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_process_to_stop(number: int) -> None:
    done = run(
        "import os\n"
        "from common.lifecycle import Lifecycle\n"
        "life = Lifecycle({}); life.install()\n"
        f"os.kill(os.getpid(), {int(number)})\n"
        "print(life.wait(10), life.reason)\n"
    )
    assert done.stdout.split() == ["True", signal.Signals(number).name]


def test_a_second_interrupt_ends_it_at_once() -> None:
    done = run(
        "import os, signal\n"
        "from common.lifecycle import Lifecycle\n"
        "life = Lifecycle({}); life.install()\n"
        "os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)\n"
        "life.stopping.wait(10); print('not reached')\n"
    )
    assert done.returncode == 128 + signal.SIGINT


def test_a_signal_that_comes_while_the_main_thread_holds_a_lock_ends_the_process_in_order() -> None:
    program = (
        "import os, signal\n"
        "from common.lifecycle import Lifecycle\n"
        "life = Lifecycle({})\n"
        "life.install()\n"
        "with life.stopping._cond:\n"  # as inside `wait`
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert life.wait(10)\n"
        "print(life.reason)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.returncode) == ("SIGTERM\n", 0)


def test_a_hangup_has_the_configuration_read_again_and_ends_nothing() -> None:
    done = run(
        "import os, signal, threading\n"
        "from common.lifecycle import Lifecycle\n"
        "life = Lifecycle({}); life.install()\n"
        "heard = threading.Semaphore(0)\n"
        "def reload():\n"
        "    heard.release()\n"
        "    raise OSError('the file is gone')\n"
        "for wanted in (lambda: None, reload, reload):\n"
        "    life.on_reload = wanted\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    assert wanted is not reload or heard.acquire(timeout=10)\n"
        "print(life.stopping.is_set())\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(life.wait(10), life.reason)\n"
    )
    assert done.stdout.split() == ["False", "True", "SIGTERM"]
