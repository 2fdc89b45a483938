"""etcd, three members on loopback, its defaults (fsync on) unless told otherwise: puts, linearizable gets, failover.

The load comes from etcd's own Go client (etcdload/main.go), compiled when it is first needed: a Python client would
be measured instead of etcd. Debian has all of it: `apt-get install etcd-server golang-go golang-etcd-server-dev`.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.children import WorkloadError
from benchmarks.systems import KNOWN_NAMES, Shape, Started
from benchmarks.tally import Load, combine

INSTALL = "apt-get install etcd-server golang-go golang-etcd-server-dev"
TUNED = ("--heartbeat-interval", "30", "--election-timeout", "300")
"""Milliseconds, close to our own: for the failover."""

_HERE = Path(__file__).resolve().parent
_SOURCE = _HERE / "etcdload" / "main.go"
_PROGRAM = _HERE / "build" / "etcdload"
_GO_PACKAGES = Path("/usr/share/gocode")  # where Debian puts the sources of Go packages
_READY_SECONDS = 30.0
_BUILD_SECONDS = 600
_CONNECTIONS = {1: 1, 16: 4, 256: 16}
_VALUE_BYTES = 144


def missing() -> str:
    """Why etcd cannot be measured here; "" when it can."""
    if shutil.which("etcd") is None:
        return f"etcd is not installed; {INSTALL}"
    if _built():
        return ""
    if shutil.which("go") is None or not (_GO_PACKAGES / "src/go.etcd.io/etcd/clientv3").is_dir():
        return f"its Go client cannot be compiled here; {INSTALL}"
    return ""


class Etcd:
    """A running group; in a with-block. `options`: further arguments of every member."""

    name = "etcd"

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        _build()
        directory.mkdir(parents=True)
        self._directory = directory
        self._options = list(options)
        self._ports = _free_ports(6)
        self._members: dict[int, subprocess.Popen[bytes]] = {}
        self._runs = 0
        try:
            for number in range(3):
                self.start(number)
            self.wait_ready()
            _run([*self._load_command(), "-fill", "-keys", str(KNOWN_NAMES)])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Etcd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all members."""
        for process in self._members.values():
            process.kill()
            process.wait()

    def start(self, number: int) -> None:
        """Start a member, again if it was killed."""
        if number in self._members:
            self._members[number].wait()
        client = [f"http://127.0.0.1:{port}" for port in self._ports[:3]]
        peer = [f"http://127.0.0.1:{port}" for port in self._ports[3:]]
        group = ",".join(f"m{k}={url}" for k, url in enumerate(peer))
        with open(self._directory / f"m{number}.log", "ab") as log:
            self._members[number] = subprocess.Popen(
                [
                    *("etcd", "--name", f"m{number}", "--data-dir", str(self._directory / f"m{number}")),
                    *("--listen-client-urls", client[number], "--advertise-client-urls", client[number]),
                    *("--listen-peer-urls", peer[number], "--initial-advertise-peer-urls", peer[number]),
                    *("--initial-cluster", group, *self._options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def processes(self) -> Mapping[str, Sequence[int]]:
        leader = self.leader()
        pids = {number: process.pid for number, process in self._members.items()}
        return {
            "leader": [pids[leader]],
            "followers": [pid for number, pid in pids.items() if number != leader],
        }

    def load(self, verb: str, shape: Shape, seconds: float, started: Started) -> Load:
        self._runs += 1
        command = [
            *self._load_command(),
            *("-verb", "put" if verb == "create" else "get", "-seconds", str(seconds)),
            *("-callers", str(shape.callers), "-connections", str(_CONNECTIONS.get(shape.callers, 4))),
            *("-size", str(_VALUE_BYTES), "-prefix", f"/run-{self._runs}/", "-keys", str(KNOWN_NAMES)),
        ]
        with ExitStack() as stack:
            said = stack.enter_context(open(self._directory / "load.log", "ab"))
            loads = [
                stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said))
                for _ in range(shape.processes)
            ]
            started()
            return combine([json.loads(one.communicate(timeout=seconds + 60)[0]) for one in loads])

    # --- failover --------------------------------------------------------------------------------------

    def leader(self) -> int:
        """The member that leads. Raises WorkloadError when none does for long."""
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            for number in self._members:
                status = self._post(number, "/v3/maintenance/status", {}, 2.0)
                if status is not None and status.get("leader") == status["header"]["member_id"]:
                    return number
            time.sleep(0.05)
        raise WorkloadError("no member of etcd leads")

    def kill(self, number: int) -> None:
        """SIGKILL; it may take a moment to be gone."""
        self._members[number].kill()

    def wait_ready(self) -> None:
        """Until every member takes a put."""
        deadline = time.monotonic() + _READY_SECONDS
        while not all(self.put(number, 2.0) for number in range(3)):
            if time.monotonic() > deadline:
                raise WorkloadError("etcd does not become ready")
            time.sleep(0.1)

    def put(self, number: int, seconds: float) -> bool:
        """One put through that member; False when it was not acknowledged in time."""
        text = base64.b64encode(b"failover").decode()
        return self._post(number, "/v3/kv/put", {"key": text, "value": text}, seconds) is not None

    def _post(self, number: int, path: str, body: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[number], timeout=seconds)
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            content = answer.read()
            found: dict[str, Any] = json.loads(content)
            return found if answer.status == http.HTTPStatus.OK else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def _load_command(self) -> list[str]:
        endpoints = ",".join(f"127.0.0.1:{port}" for port in self._ports[:3])
        return [str(_PROGRAM), "-endpoints", endpoints]


def _built() -> bool:
    return _PROGRAM.is_file() and _PROGRAM.stat().st_mtime >= _SOURCE.stat().st_mtime


def _build() -> None:
    if _built():
        return
    _PROGRAM.parent.mkdir(exist_ok=True)
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(_GO_PACKAGES), "GOFLAGS": ""}
    _run(["go", "build", "-o", str(_PROGRAM), str(_SOURCE)], environment)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
    )
    if done.returncode:
        raise WorkloadError(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
