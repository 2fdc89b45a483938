"""The units that are shipped, unchanged, under a systemd of the test's own: deploy/README.md from its first step on.

One coordinator and one datanode with their agents, as the user `quorumfs`, in all of their sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.house.generate import ROOT
from tests.support.own_systemd import INSTALLATION, SYSTEMD, OwnSystemd, why_not
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

COORDINATOR, DATANODE = "quorumfs-coordinator", "quorumfs-datanode"
AGENTS = ("quorumfs-sidecar@coordinator", "quorumfs-sidecar@datanode")
NODES = (COORDINATOR, DATANODE)
PATIENCE_SECONDS = 120.0
WATCHDOG_SECONDS = 5
POST = """
import json, sys
from urllib.request import Request, urlopen
urlopen(Request(sys.argv[1], sys.argv[2].encode(), json.loads(sys.argv[3])), timeout=30).read()
"""
SECRET = "/etc/quorumfs/cluster.secret"


class Machine:
    """With everything installed; `run` and `dfsctl` are an operator's shell."""

    def __init__(self, own: OwnSystemd) -> None:
        self.run = own.run
        self.write = own.write
        self._token = ""

    def dfsctl(self, *words: str, user: str = "root", check: bool = True) -> str:
        known = ["QUORUMFS_COORDINATORS=127.0.0.1:7400", f"QUORUMFS_TOKEN={self._token}"]
        who = ["runuser", "-u", user, "--"] if user != "root" else []
        return self.run("env", *known[: 2 if self._token else 1], *who, "dfsctl", *words, check=check).stdout

    def told(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).stdout.strip()

    def is_active(self, unit: str) -> bool:
        return self.told(unit, "ActiveState") == "active"

    def is_begun_anew(self, unit: str, former: str) -> None:
        """Soon, and by systemd itself."""
        eventually(
            lambda: self.is_active(unit) and self.told(unit, "MainPID") not in ("0", former), PATIENCE_SECONDS
        )
        assert int(self.told(unit, "NRestarts")) >= 1

    def post(self, url: str, body: dict[str, str]) -> None:
        """To an agent, with the admin's token."""
        heads = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        self.run(f"{INSTALLATION}/bin/python3", "-c", POST, url, json.dumps(body), json.dumps(heads))

    def is_ready(self, port: int) -> bool:
        """Whether the agent at this port finds its node ready."""
        asked = (
            f"from urllib.request import urlopen; urlopen('http://127.0.0.1:{port}/health/ready', timeout=30)"
        )
        try:
            self.run(f"{INSTALLATION}/bin/python3", "-c", asked)
        except AssertionError:
            return False
        return True

    def install(self) -> None:
        """Steps 1 to 5."""
        self.run(
            "useradd",
            "--system",
            "--home-dir",
            "/var/lib/quorumfs",
            "--shell",
            "/usr/sbin/nologin",
            "quorumfs",
        )
        self.run("install", "-d", "-m", "0750", "-o", "root", "-g", "quorumfs", "/etc/quorumfs")
        units = [
            f"{INSTALLATION}/source/deploy/systemd/{unit.name}"
            for unit in (ROOT / "deploy/systemd").iterdir()
        ]
        self.run("install", "-m", "0644", *units, "/etc/systemd/system/")
        self.run("systemctl", "daemon-reload")
        self.dfsctl("cluster", "init", "--make-secret", "--secret-file", SECRET)
        self.run("chown", "quorumfs:quorumfs", SECRET)
        self._node("coordinator")
        self.dfsctl("cluster", "init", "--secret-file", SECRET, user="quorumfs")
        token = ["auth", "token", "create", "--role", "admin", "--name", "root", "--secret-file", SECRET]
        made = self.dfsctl(*token, "-o", "json", user="quorumfs")
        self._token = str(json.loads(made)["token"])
        owner = ["-m", "0700", "-o", "quorumfs", "-g", "quorumfs"]
        self.run("install", "-d", *owner, "/srv/quorumfs/disk0")
        self._node("datanode")

    def _node(self, role: str) -> None:
        """Its sample configuration with one coordinator on this machine and one copy of everything; then started."""
        lines = []
        for line in (ROOT / "deploy" / "config" / f"{role}.toml").read_text().splitlines():
            if line.startswith("coordinators = "):
                line = 'coordinators = ["127.0.0.1:7400"]'
            elif line.startswith("data_dirs = "):
                line = 'data_dirs = ["/srv/quorumfs/disk0"]'
            elif line.startswith(("# replication = ", "# min_replicas = ")):
                line = line.partition("=")[0].removeprefix("# ") + "= 1"
            lines.append(line)
        self.write(f"/etc/quorumfs/{role}.toml", "\n".join(lines) + "\n", mode=0o640)
        self.run("chgrp", "quorumfs", f"/etc/quorumfs/{role}.toml")
        self.dfsctl("config", "check", f"/etc/quorumfs/{role}.toml")
        self.run("systemctl", "enable", "--now", f"quorumfs-{role}", f"quorumfs-sidecar@{role}")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with OwnSystemd() as own:
        made = Machine(own)
        made.install()
        yield made


def test_a_file_goes_through_the_installed_cluster(machine: Machine) -> None:
    for unit in (*NODES, *AGENTS):
        assert machine.is_active(unit), unit
    machine.dfsctl("put", "--no-clobber", str(SYSTEMD), "/file")
    machine.dfsctl("get", "/file", "/run/file")
    machine.run("cmp", "/run/file", str(SYSTEMD))
    assert '"node_id": "d1"' in machine.dfsctl("locate", "/file", "-o", "json")


def test_nobody_has_to_be_root(machine: Machine) -> None:
    for unit in (*NODES, *AGENTS):
        pid = machine.told(unit, "MainPID")
        assert machine.run("ps", "-o", "user=", "-p", pid).stdout.strip() == "quorumfs", unit
        status = machine.run("cat", f"/proc/{pid}/status").stdout
        assert "CapEff:\t0000000000000000" in status, unit
        assert "Seccomp:\t2" in status, unit


@pytest.mark.parametrize("unit", [*AGENTS, *NODES])
def test_a_reload_is_taken_without_a_restart(machine: Machine, unit: str) -> None:
    before = machine.told(unit, "MainPID")
    machine.run("systemctl", "reload", unit)
    assert machine.is_active(unit)
    assert machine.told(unit, "MainPID") == before


@pytest.mark.parametrize("unit", [*AGENTS, *NODES])
def test_who_is_killed_is_started_again(machine: Machine, unit: str) -> None:
    before = machine.told(unit, "MainPID")
    machine.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", unit)
    machine.is_begun_anew(unit, before)


@pytest.mark.parametrize(("unit", "port"), [(DATANODE, 7502), (COORDINATOR, 7402)])
def test_a_node_that_ends_to_begin_anew_is_started_again_by_systemd(
    machine: Machine, unit: str, port: int
) -> None:
    eventually(lambda: machine.is_ready(port), PATIENCE_SECONDS)
    before = machine.told(unit, "MainPID")
    machine.post(f"http://127.0.0.1:{port}/shutdown", {"mode": "restart"})
    machine.is_begun_anew(unit, before)


@pytest.mark.parametrize("unit", [DATANODE, AGENTS[1]])
def test_the_watchdog_ends_who_stands_still_and_starts_it_again(machine: Machine, unit: str) -> None:
    machine.run("mkdir", "-p", f"/run/systemd/system/{unit}.service.d")
    quick = f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\nTimeoutAbortSec={WATCHDOG_SECONDS}\n"
    machine.write(f"/run/systemd/system/{unit}.service.d/watchdog.conf", quick)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", unit)
    before = machine.told(unit, "MainPID")
    machine.run("systemctl", "kill", "--signal=STOP", unit)
    machine.is_begun_anew(unit, before)


def test_a_refused_configuration_is_not_tried_again(machine: Machine) -> None:
    file = "/etc/quorumfs/datanode.toml"
    good = machine.run("cat", file).stdout
    machine.run("systemctl", "stop", DATANODE)
    machine.write(file, good.replace("[node]", "[node]\nnonsense = 1", 1), mode=0o640)
    machine.run("systemctl", "start", DATANODE, check=False)
    assert machine.told(DATANODE, "ActiveState") == "failed"
    assert machine.told(DATANODE, "ExecMainStatus") == "2"
    machine.write(file, good, mode=0o640)
    machine.run("systemctl", "start", DATANODE)


def test_all_stop_when_they_are_told_to(machine: Machine) -> None:
    for unit in (*AGENTS, DATANODE, COORDINATOR):
        machine.run("systemctl", "stop", unit)
        assert machine.told(unit, "ActiveState") == "inactive", unit
        assert (machine.told(unit, "Result"), machine.told(unit, "ExecMainStatus")) == ("success", "0"), unit
