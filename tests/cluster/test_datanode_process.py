"""A real datanode and its agent, from the sample configuration, as far as they go without coordinators."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar import limits

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "deploy" / "config" / "datanode.toml"

pytestmark = pytest.mark.cluster


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        threading.Event().wait(0.05)
    return found


class Machine:
    """A directory with a node's file, and the processes started from it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.grpc, self.http = free_port(), free_port()
        nobody = free_port()
        text = SAMPLE.read_text()
        for pattern, new in (
            (r"/var/lib/quorumfs/datanode", "data"),
            (r"/etc/quorumfs/", ""),
            (r"/srv/quorumfs/", "disks/"),
            (r"10\.0\.0\.\d:7400", f"127.0.0.1:{nobody}"),
            (r"# port = 7500", f"port = {self.grpc}"),
            (r"# port = 7502", f"port = {self.http}"),
        ):
            text, count = re.subn(pattern, new, text)
            assert count
        self.file = directory / "node.toml"
        self.file.write_text(text)
        secret = directory / "cluster.secret"
        secret.write_text("ab" * 32)
        secret.chmod(0o600)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, program: str, descriptors: int = 0, **environ: str) -> subprocess.Popen[bytes]:
        def limit() -> None:
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        log = self.directory / f"{program}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / program), "--config", str(self.file)],
                env={**os.environ, "HOME": str(self.directory), **environ},
                cwd=self.directory,
                stdout=output,
                stderr=output,
                preexec_fn=limit,
            )
        self.processes.append(process)
        return process

    def get(self, path: str, timeout: float = 5.0) -> tuple[int, str]:
        """(status, body); status 0 when nobody answers."""
        return self._ask(urllib.request.Request(f"http://127.0.0.1:{self.http}{path}"), timeout)

    def post(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.http}{path}"
        headers = {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(url, b"{}", headers, method="POST"), 10.0)

    def _ask(self, request: urllib.request.Request, timeout: float) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def node_state(self) -> str:
        status, body = self.get("/health")
        return str(json.loads(body)["node"]["state"]) if status else "no agent"

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.end()


def test_a_node_without_coordinators_lives_is_not_ready_and_says_why(machine: Machine) -> None:
    machine.start("quorumfs-datanode")
    machine.start("quorumfs-sidecar")
    until(lambda: machine.node_state() == "ok")
    status, body = machine.get("/health")
    reasons = json.loads(body)["reasons"]
    assert status == 503
    assert any(reason.startswith("leader: ") for reason in reasons)
    assert any(reason.startswith("registered: ") for reason in reasons)
    assert machine.get("/health/live")[0] == 200
    assert machine.get("/health/ready")[0] == 503
    assert machine.get("/leader")[0] == 503
    status, body = machine.get("/status")
    told = json.loads(body)
    assert (status, told["state"], told["node_id"]) == (200, "waiting_for_genesis", "d1")
    assert [Path(disk["path"]).name for disk in told["disks"]] == ["disk0", "disk1"]
    status, body = machine.get("/metrics")
    assert status == 200
    assert "quorumfs_node_up{" in body
    assert "quorumfs_disk_ok{" in body
    # gunicorn would make a socket in the home directory with which it can be steered.
    assert [path for path in machine.directory.rglob("*") if path.is_socket()] == []


def test_the_agent_says_hung_down_and_well_as_it_is_and_shutdown_ends_the_node_with_0(
    machine: Machine,
) -> None:
    node = machine.start("quorumfs-datanode")
    agent = machine.start("quorumfs-sidecar")
    until(lambda: machine.node_state() == "ok")
    node.send_signal(signal.SIGSTOP)
    until(lambda: machine.node_state() == "hung", 5.0)
    assert machine.get("/health/live")[0] == 503
    began = time.monotonic()
    assert [machine.get(path)[0] for path in ("/status", "/leader", "/metrics")] == [200, 503, 200]
    assert machine.post("/shutdown")[0] == 504
    assert time.monotonic() - began < 6.0
    node.send_signal(signal.SIGCONT)
    until(lambda: machine.node_state() == "ok", 5.0)
    status, body = machine.post("/shutdown")
    assert (status, json.loads(body)["state"]) == (202, "draining")
    assert node.wait(15) == 0
    until(lambda: machine.node_state() == "down", 5.0)
    node = machine.start("quorumfs-datanode")
    until(lambda: machine.node_state() == "ok")
    node.kill()
    node.wait(10)
    until(lambda: machine.node_state() == "down", 5.0)
    assert json.loads(machine.get("/status")[1])["node_id"] == "d1"
    agent.terminate()
    assert agent.wait(15) == 0


@pytest.mark.parametrize("program", ["quorumfs-datanode", "quorumfs-sidecar"])
def test_the_supervisor_hears_ready_then_signs_of_life_then_stopping(machine: Machine, program: str) -> None:
    path = machine.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(path))
        supervisor.settimeout(20)
        process = machine.start(program, NOTIFY_SOCKET=str(path), WATCHDOG_USEC="600000")
        assert supervisor.recv(1000).startswith(b"READY=1\nSTATUS=")
        assert [supervisor.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        process.terminate()
        heard = supervisor.recv(1000)
        while heard == b"WATCHDOG=1":
            heard = supervisor.recv(1000)
        assert heard.startswith(b"STOPPING=1")
        assert process.wait(15) == 0


def test_slow_clients_are_cut_off_and_health_answers_meanwhile(machine: Machine) -> None:
    machine.start("quorumfs-sidecar")
    until(lambda: machine.get("/health")[0])
    slow = [socket.create_connection(("127.0.0.1", machine.http)) for _ in range(500)]
    try:
        for number, connection in enumerate(slow):
            connection.settimeout(limits.HEADER_SECONDS + 5)
            if number % 2:
                connection.sendall(b"POST /shutdown HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n")
        for _ in range(5):
            began = time.monotonic()
            assert machine.get("/health")[0] == 503
            assert time.monotonic() - began < 1.5
        assert all(is_over(connection) for connection in slow)
        assert machine.get("/health")[0] == 503
    finally:
        for connection in slow:
            connection.close()


def is_over(connection: socket.socket) -> bool:
    """Whether the other side ends it, with or without an answer before."""
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_a_node_short_of_descriptors_still_says_how_it_is(machine: Machine) -> None:
    node = machine.start("quorumfs-datanode", descriptors=64)
    machine.start("quorumfs-sidecar")
    until(lambda: machine.node_state() == "ok")
    idle = [socket.create_connection(("127.0.0.1", machine.grpc)) for _ in range(200)]
    try:
        for _ in range(10):
            assert machine.node_state() == "ok"
            assert machine.get("/health/live")[0] == 200
            threading.Event().wait(0.2)
    finally:
        for connection in idle:
            connection.close()
    assert node.poll() is None
    assert machine.post("/shutdown")[0] == 202
    assert node.wait(15) == 0


def test_a_port_in_use_is_said_in_one_sentence(machine: Machine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", machine.grpc))
        taken.listen()
        assert machine.start("quorumfs-datanode").wait(20) == 1
    log = (machine.directory / "quorumfs-datanode.log").read_text()
    assert f"cannot listen on port {machine.grpc} of 127.0.0.1" in log
    assert "Traceback" not in log


def test_a_node_whose_disks_do_not_say_who_it_is_is_not_started_again(machine: Machine) -> None:
    node = machine.start("quorumfs-datanode")
    record = machine.directory / "disks" / "disk0" / "disk.json"
    until(record.exists)
    node.terminate()
    assert node.wait(15) == 0
    for disk in ("disk0", "disk1"):
        path = machine.directory / "disks" / disk / "disk.json"
        path.write_bytes(path.read_bytes().replace(b"node_uuid", b"node_uuix"))
    assert machine.start("quorumfs-datanode").wait(20) == 74
    assert "no disk says who this node is" in (machine.directory / "quorumfs-datanode.log").read_text()


def test_a_hangup_has_node_and_agent_read_their_file_again_and_ends_neither(machine: Machine) -> None:
    node = machine.start("quorumfs-datanode")
    agent = machine.start("quorumfs-sidecar")
    until(lambda: machine.node_state() == "ok")

    def told(program: str, event: str) -> list[Any]:
        lines = (machine.directory / f"{program}.log").read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in found if one["event"] == event]

    text = machine.file.read_text()
    machine.file.write_text(re.sub(r"(?m)^\[log\]$", '[log]\nlevel = "debug"', text))
    for process, program in ((node, "quorumfs-datanode"), (agent, "quorumfs-sidecar")):
        process.send_signal(signal.SIGHUP)
        (found,) = until(lambda program=program: told(program, "config.reloaded"))  # type: ignore[misc]
        assert (found["changed"], found["needs_restart"]) == ({"log.level": ["info", "debug"]}, [])
    until(lambda: len(told("quorumfs-sidecar", "sidecar.ready")) == 2)
    until(lambda: machine.node_state() == "ok")
    assert json.loads(machine.get("/logs/level")[1])["level"] == "debug"
    machine.file.write_text(text + "nonsense")
    for process, program in ((node, "quorumfs-datanode"), (agent, "quorumfs-sidecar")):
        process.send_signal(signal.SIGHUP)
        assert until(lambda program=program: told(program, "config.refused"))  # type: ignore[misc]
    assert machine.node_state() == "ok"
    for process in (agent, node):
        process.terminate()
        assert process.wait(15) == 0
