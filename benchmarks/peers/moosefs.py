"""MooseFS, one master and three chunkservers, three copies of everything, durable: files and changelog are fsynced.

Debian has it: `apt-get install moosefs-master moosefs-chunkserver moosefs-client`. It needs root, to mount.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.peers.mounts import Mounted, Peer, free_ports, listens, missing_for_mounts, run, wait_for

PEER = Peer(
    "MooseFS",
    "apt-get install moosefs-master moosefs-chunkserver moosefs-client",
    lambda: missing_for_mounts("mfsmaster", "mfschunkserver", "mfsmount", "mfssetgoal"),
    lambda directory, address: MooseFS(directory, address),
)
COPIES = 3
_READY_SECONDS = 60.0
_EMPTY_METADATA = Path("/var/lib/mfs/metadata.mfs.empty")  # where the package puts it


class MooseFS(Mounted):
    """A running cluster and its mount; in a with-block."""

    name = "MooseFS"

    def __init__(self, directory: Path, address: str) -> None:
        self._daemons: list[subprocess.Popen[bytes]] = []
        super().__init__(directory, address)

    def server_pids(self) -> list[int]:
        return [one.pid for one in self._daemons]

    def _kill(self) -> None:
        for one in reversed(self._daemons):
            one.kill()
            one.wait()
        self._daemons.clear()

    def _start(self) -> None:
        to_chunkservers, to_clients, to_metaloggers, *ports = free_ports(self._address, 3 + COPIES)
        for name in ("master", "mount", *(f"disk-{k}" for k in range(COPIES))):
            (self._home / name).mkdir(parents=True)
        shutil.copy(_EMPTY_METADATA, self._home / "master" / "metadata.mfs")
        (self._home / "exports").write_text("* / rw,alldirs,admin,maproot=0:0\n* . rw\n", encoding="ascii")
        listening = {"CS": to_chunkservers, "CL": to_clients, "ML": to_metaloggers}
        self._daemon(
            "mfsmaster",
            "master",
            {
                "EXPORTS_FILENAME": self._home / "exports",
                "CHANGELOG_SAVE_MODE": 2,
                **{f"MATO{who}_LISTEN_HOST": self._address for who in listening},
                **{f"MATO{who}_LISTEN_PORT": port for who, port in listening.items()},
            },
        )
        for number, port in enumerate(ports):
            (self._home / f"disk-{number}.list").write_text(f"{self._home}/disk-{number}\n", encoding="utf-8")
            self._daemon(
                "mfschunkserver",
                f"chunkserver-{number}",
                {
                    "HDD_CONF_FILENAME": self._home / f"disk-{number}.list",
                    "HDD_FSYNC_BEFORE_CLOSE": 1,
                    "BIND_HOST": self._address,
                    "MASTER_HOST": self._address,
                    "MASTER_PORT": to_chunkservers,
                    "CSSERV_LISTEN_HOST": self._address,
                    "CSSERV_LISTEN_PORT": port,
                },
            )
        wait_for("the master of MooseFS", lambda: listens(self._address, to_clients), _READY_SECONDS)
        command = ["mfsmount", str(self.mount), "-f", "-H", self._address, "-P", str(to_clients)]
        self._mount = self._spawn(command, "mount")
        wait_for("the mount of MooseFS", self.mount.is_mount, _READY_SECONDS)
        self.directory.mkdir()
        run(["mfssetgoal", "-r", str(COPIES), str(self.directory)])
        run(["mfssettrashtime", "-r", "0", str(self.directory)])
        wait_for("three chunkservers of MooseFS", self._keeps_three_copies, _READY_SECONDS)

    def _keeps_three_copies(self) -> bool:
        """Whether a file is there as often as it is to be."""
        probe = self.directory / "probe"
        probe.write_bytes(b"probe")
        told = run(["mfscheckfile", str(probe)])
        probe.unlink()
        return f"chunks with {COPIES} copies:" in told

    def _daemon(self, program: str, name: str, settings: dict[str, object]) -> None:
        data = self._home / name
        data.mkdir(exist_ok=True)
        settings = {"WORKING_USER": "root", "WORKING_GROUP": "root", "DATA_PATH": data, **settings}
        config = self._home / f"{name}.cfg"
        config.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()), encoding="utf-8")
        self._daemons.append(self._spawn([program, "-f", "-c", str(config), "start"], name))

    def _spawn(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with open(self._home / f"{name}.log", "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
