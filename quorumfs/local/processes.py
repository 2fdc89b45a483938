"""Starts, finds and ends the processes of a local cluster.

1. What runs is asked of /proc, never remembered. A pid file holds the pid, its start time and the boot it
   belongs to, so that a pid which the kernel gave to somebody else is never signalled.
2. A process that somebody started by hand from a node's file is found by its command line and treated alike.
3. Every daemon leads a session of its own: it survives our terminal, and SIGKILL reaches its workers too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from quorumfs.errors import TimedOutError, UnavailableError
from quorumfs.local.layout import ProcessSpec

State = Literal["running", "paused", "stopped", "dead"]

# glibc would otherwise give the pages of every frame back to the kernel and fault them in again.
MALLOC_ENVIRONMENT: Mapping[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "134217728",
    "MALLOC_TOP_PAD_": "16777216",
    "MALLOC_ARENA_MAX": "1",
}
_POLL_SECONDS = 0.02
_COLLECT_SECONDS = 1.0
_SIGNAL_SECONDS = 10.0
_CMDLINE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Running:
    """A process as /proc shows it. `start_ticks` since the boot; together with the pid it is unique."""

    pid: int
    start_ticks: int
    state: str  # one letter, as in proc(5)

    @property
    def paused(self) -> bool:
        return self.state in "Tt"


class Spawner(Protocol):
    def __call__(
        self, argv: list[str], log: Path, directory: Path, environment: Mapping[str, str]
    ) -> int: ...


class Processes:
    """The effects. `spawn` and `find_script` come in so that tests start nothing."""

    def __init__(
        self,
        spawn: Spawner | None = None,
        find_script: Callable[[str], str] | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        self._spawn = spawn or spawn_detached
        self._find_script = find_script or console_script
        self._proc = proc

    def running(self, spec: ProcessSpec) -> Running | None:
        """The process of `spec`, if it lives; a zombie does not."""
        return self._by_pid_file(spec) or self._by_command_line(spec)

    def state(self, spec: ProcessSpec) -> State:
        """`dead`: it ended without being asked to."""
        found = self.running(spec)
        if found is not None:
            return "paused" if found.paused else "running"
        return "dead" if spec.pid_file.exists() else "stopped"

    def start(self, spec: ProcessSpec) -> Running:
        """Start it and write its pid file. Raises UnavailableError when its program is not installed."""
        script = self._find_script(spec.script)
        argv = [script, "--config", str(spec.config)]
        pid = self._spawn(argv, spec.log, spec.config.parent, daemon_environment(os.environ))
        found = self._read(pid)
        if found is None:
            raise UnavailableError(
                f"{spec.name} ended as soon as it was started", cause=last_lines(spec.log) or "it left no log"
            )
        self._write_pid_file(spec, found)
        return found

    def send(self, spec: ProcessSpec, number: signal.Signals) -> bool:
        """Send a signal; SIGKILL, SIGSTOP, SIGCONT go to its whole group. False: it does not run.

        The kernel stops and continues a process a moment after it was asked to: those two are waited for.
        """
        found = self.running(spec)
        if found is None:
            return False
        whole = number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT)
        try:
            if whole and os.getpgid(found.pid) == found.pid:
                os.killpg(found.pid, number)
            else:
                os.kill(found.pid, number)
        except ProcessLookupError:
            return False
        if number in (signal.SIGSTOP, signal.SIGCONT):
            self._wait_paused(spec, number is signal.SIGSTOP)
        return True

    def _wait_paused(self, spec: ProcessSpec, paused: bool) -> None:
        """Until it is paused, or is not, or has ended. Raises TimedOutError."""
        deadline = time.monotonic() + _SIGNAL_SECONDS
        while (found := self.running(spec)) is not None and found.paused != paused:
            if time.monotonic() >= deadline:
                raise TimedOutError(
                    f"{spec.name} is {'not ' if paused else 'still '}paused {_SIGNAL_SECONDS:g} s after the signal",
                    next="a process that waits for a disk cannot be paused: look at dmesg",
                )
            time.sleep(_POLL_SECONDS)

    def stop(self, specs: Iterable[ProcessSpec], deadline_seconds: float) -> list[ProcessSpec]:
        """SIGTERM to all of them, SIGKILL to those that are still there at the deadline, which are returned.

        None of them runs on return, and their pid files are gone.
        """
        specs = list(specs)
        ended = self._pids(specs)
        asked = [spec for spec in specs if self.send(spec, signal.SIGTERM) or spec.pid_file.exists()]
        for spec in asked:  # a paused one cannot hear SIGTERM
            found = self.running(spec)
            if found is not None and found.paused:
                self.send(spec, signal.SIGCONT)
        left = self._wait_gone(asked, deadline_seconds)
        for spec in left:
            self.send(spec, signal.SIGKILL)
        self._require_gone(left)
        self._wait_collected(ended)
        for spec in asked:
            spec.pid_file.unlink(missing_ok=True)
        return left

    def kill(self, specs: Iterable[ProcessSpec]) -> None:
        """SIGKILL to all at once; none runs on return. Their pid files stay: they are dead, not stopped."""
        specs = list(specs)
        ended = self._pids(specs)
        killed = [spec for spec in specs if self.send(spec, signal.SIGKILL)]
        self._require_gone(killed)
        self._wait_collected(ended)

    def _require_gone(self, specs: list[ProcessSpec]) -> None:
        left = self._wait_gone(specs, 10.0)
        if left:
            raise TimedOutError(
                "processes do not end",
                cause=", ".join(spec.name for spec in left) + " are still there 10 s after SIGKILL",
                next="a process that waits for a disk cannot be killed: look at dmesg",
            )

    def _wait_gone(self, specs: Iterable[ProcessSpec], deadline_seconds: float) -> list[ProcessSpec]:
        deadline = time.monotonic() + deadline_seconds
        left = list(specs)
        while True:
            left = [spec for spec in left if self.running(spec) is not None]
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(_POLL_SECONDS)

    def _pids(self, specs: Iterable[ProcessSpec]) -> list[Running]:
        return [found for spec in specs if (found := self.running(spec)) is not None]

    def _wait_collected(self, ended: Iterable[Running]) -> None:
        """Give their parents a moment to take them off the process table: who looks should not find them."""
        deadline = time.monotonic() + _COLLECT_SECONDS
        left = list(ended)
        while left and time.monotonic() < deadline:
            left = [one for one in left if self._is_listed(one)]
            if left:
                time.sleep(_POLL_SECONDS)

    def _is_listed(self, one: Running) -> bool:
        fields = self._stat(one.pid)
        return bool(fields) and int(fields[19]) == one.start_ticks

    # --- what /proc says -------------------------------------------------------------------------------

    def _by_pid_file(self, spec: ProcessSpec) -> Running | None:
        try:
            said = json.loads(spec.pid_file.read_text(encoding="utf-8"))
            pid, ticks, boot = int(said["pid"]), int(said["start_ticks"]), str(said["boot"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if boot != self._boot():
            return None
        found = self._read(pid)
        return found if found is not None and found.start_ticks == ticks else None

    def _by_command_line(self, spec: ProcessSpec) -> Running | None:
        """One that was started by hand. Of a master and its forked workers, which look alike, the oldest."""
        wanted = os.path.realpath(spec.config)
        found = [
            running
            for entry in self._proc.iterdir()
            if entry.name.isdecimal() and self._runs(entry, spec.script, wanted)
            if (running := self._read(int(entry.name))) is not None
        ]
        return min(found, key=lambda one: (one.start_ticks, one.pid), default=None)

    def _runs(self, entry: Path, script: str, config: str) -> bool:
        try:
            with open(entry / "cmdline", "rb") as file:
                raw = file.read(_CMDLINE_BYTES_MAX)
            if script.encode() not in raw:
                return False
            argv = [os.fsdecode(one) for one in raw.rstrip(b"\0").split(b"\0")]
            directory = (entry / "cwd").readlink()
        except OSError:  # it ended meanwhile, or belongs to somebody else
            return False
        if script not in (Path(one).name for one in argv[:3]):
            return False
        given = [argv[k + 1] for k in range(len(argv) - 1) if argv[k] == "--config"]
        given += [one.removeprefix("--config=") for one in argv if one.startswith("--config=")]
        return any(os.path.realpath(directory / one) == config for one in given)

    def _read(self, pid: int) -> Running | None:
        """The process of that pid; None when there is none, or only what its parent has not collected yet."""
        fields = self._stat(pid)
        if not fields:
            return None
        if fields[0] in "ZX" and int(fields[17]) <= 1:  # with more, other threads still hold files and ports
            _collect(pid)
            return None
        return Running(pid=pid, start_ticks=int(fields[19]), state=fields[0])

    def _stat(self, pid: int) -> list[str]:
        """What follows the name in proc(5)'s `stat`, from the state on; nothing when there is no such pid."""
        try:
            stat = (self._proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return stat[stat.rindex(")") + 2 :].split()

    def _boot(self) -> str:
        try:
            return (self._proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return ""

    def _write_pid_file(self, spec: ProcessSpec, running: Running) -> None:
        body = {"pid": running.pid, "start_ticks": running.start_ticks, "boot": self._boot()}
        new = spec.pid_file.with_name(spec.pid_file.name + ".new")
        new.write_text(json.dumps(body) + "\n", encoding="utf-8")
        new.replace(spec.pid_file)


def console_script(name: str) -> str:
    """The program `name` beside this interpreter, else on PATH. Raises UnavailableError."""
    for directory in (Path(sys.executable).parent, Path(sys.argv[0]).absolute().parent):
        beside = directory / name
        if beside.is_file() and os.access(beside, os.X_OK):
            return str(beside)
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(
            f"the program {name} is not installed",
            cause=f"it is neither beside {sys.executable} nor on PATH",
            next="pip install 'quorumfs[server]'",
        )
    return found


def daemon_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a daemon is started with: ours, with the allocator's settings, and without our own variables.

    A node's file is the whole truth about it; QUORUMFS_GRPC__PORT of a shell would give all nodes one port.
    """
    kept = {key: value for key, value in environ.items() if not key.startswith("QUORUMFS_")}
    return {**kept, **MALLOC_ENVIRONMENT}


def spawn_detached(argv: list[str], log: Path, directory: Path, environment: Mapping[str, str]) -> int:
    """Start `argv` in a session of its own, stdout and stderr appended to `log`. Returns its pid."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
    # It is meant to outlive us; /proc says how it is. Popen must not warn that nobody waited for it.
    process.returncode = 0
    return process.pid


def last_lines(log: Path, count: int = 12) -> str:
    """The end of a log file; "" when there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16_384))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-count:])


def _collect(pid: int) -> None:
    """Take a dead child off the process table; others' children are their parents' business."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
