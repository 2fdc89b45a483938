"""GlusterFS, one volume of three bricks that are copies of each other.

Debian has it: `apt-get install glusterfs-server glusterfs-client attr`. It needs root, to mount, and that no other
glusterd runs here: the volume's daemons are found by its command line tool, which knows one socket.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from benchmarks.peers.mounts import Mounted, Peer, missing_for_mounts, run, wait_for

PEER = Peer(
    "GlusterFS",
    "apt-get install glusterfs-server glusterfs-client attr",
    lambda: _missing(),
    lambda directory, address: GlusterFS(directory, address),
)
COPIES = 3
_PORT = 24007  # of glusterd; clients ask nowhere else
_READY_SECONDS = 60.0


def _missing() -> str:
    absent = missing_for_mounts("glusterd", "glusterfs", "gluster")
    if absent:
        return absent
    running = [pid for pid in _pids() if _command(pid)[:1] and Path(_command(pid)[0]).name == "glusterd"]
    return f"another glusterd runs here, process {running[0]}" if running else ""


class GlusterFS(Mounted):
    """A running volume and its mount; in a with-block."""

    name = "GlusterFS"
    _daemon: subprocess.Popen[bytes] | None = None

    def server_pids(self) -> list[int]:
        """The daemon, the bricks, the one that heals."""
        mount = self.client_pids()
        return [pid for pid in _pids() if pid not in mount and self._is_ours(_command(pid))]

    def _is_ours(self, command: list[str]) -> bool:
        if "gluster" not in Path((command or [""])[0]).name:
            return False
        return self._address in command or any(str(self._home) in argument for argument in command)

    def _kill(self) -> None:
        for pid in self.server_pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()

    def _start(self) -> None:
        bricks = [self._home / f"brick-{number}" for number in range(COPIES)]
        for made in (self.mount, self._home / "state", self._home / "logs", *bricks):
            made.mkdir(parents=True)
        options = {
            "working-directory": self._home / "state",
            "transport-type": "socket",
            "transport.socket.bind-address": self._address,
            "transport.socket.listen-port": _PORT,
            "max-port": 60999,
        }
        lines = [f"    option {key} {value}" for key, value in options.items()]
        config = self._home / "glusterd.vol"
        config.write_text(
            "\n".join(["volume management", "    type mgmt/glusterd", *lines, "end-volume", ""]),
            encoding="utf-8",
        )
        self._daemon = self._spawn(
            [
                "glusterd",
                "-N",
                "-f",
                str(config),
                "-p",
                f"{self._home}/glusterd.pid",
                "-l",
                f"{self._home}/logs/daemon",
            ]
        )
        gluster = ["gluster", "--mode=script"]
        wait_for("glusterd", lambda: "uuid" in run([*gluster, "pool", "list"]).lower(), _READY_SECONDS)
        places = [f"{self._address}:{brick}" for brick in bricks]
        run([*gluster, "volume", "create", "files", "replica", str(COPIES), *places, "force"])
        run([*gluster, "volume", "start", "files"])
        self._mount = self._spawn(
            [
                *("glusterfs", "-N", f"--volfile-server={self._address}", "--volfile-id=files"),
                *(f"--log-file={self._home}/logs/mount", str(self.mount)),
            ]
        )
        wait_for("the mount of GlusterFS", self._is_whole, _READY_SECONDS)

    def _is_whole(self) -> bool:
        """Whether a file comes to lie on all bricks."""
        if not self.mount.is_mount():
            return False
        self.directory.mkdir(exist_ok=True)
        probe = self.directory / "probe"
        probe.write_bytes(b"probe")
        copies = [(self._home / f"brick-{number}/files/probe").exists() for number in range(COPIES)]
        probe.unlink()
        return all(copies)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with open(self._home / "logs" / f"{command[0]}.out", "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command(pid: int) -> list[str]:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
    except OSError:
        return []
