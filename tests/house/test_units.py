"""The systemd units: systemd takes them as they are, and they set what the launcher sets."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from common.lifecycle import ExitCode
from quorumfs.local.processes import MALLOC_ENVIRONMENT
from tests.house.generate import ROOT

UNITS = ROOT / "deploy" / "systemd"
NAMES = ("quorumfs-coordinator.service", "quorumfs-datanode.service", "quorumfs-sidecar@.service")


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_there_is_a_unit_for_each_daemon() -> None:
    assert sorted(path.name for path in UNITS.iterdir()) == sorted(NAMES)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_has_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    for daemon in ("coordinator", "datanode", "sidecar"):
        program = tmp_path / f"quorumfs-{daemon}"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    copies = []
    for name in NAMES:
        for instance in ("@coordinator.", "@datanode.") if "@." in name else ("@.",):
            copy = tmp_path / name.replace("@.", instance)
            copy.write_text((UNITS / name).read_text().replace("/opt/quorumfs/bin", str(tmp_path)))
            copies.append(str(copy))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *copies],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


EXPOSURE_MAX = (
    2.0  # of 10; systemd's own words for less than 2.5 are "OK", and a unit without any sandbox has 9.6
)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_little_that_a_daemon_could_harm(name: str) -> None:
    limit = f"--threshold={EXPOSURE_MAX * 10:.0f}"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", limit, str(UNITS / name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_unit_sets_the_allocator_as_the_launcher_does(name: str) -> None:
    environment = dict(one.split("=", 1) for one in settings(name)["Environment"])
    assert environment.items() >= MALLOC_ENVIRONMENT.items()


def test_an_agent_may_keep_the_tokens_beside_its_nodes_data() -> None:
    """Else one that starts while all coordinators are down can judge nobody."""
    found = settings("quorumfs-sidecar@.service")
    assert found["ReadWritePaths"] == ["-/var/lib/quorumfs/%i"]
    for role in ("coordinator", "datanode"):
        config = (ROOT / "deploy" / "config" / f"{role}.toml").read_text()
        assert f'data_dir = "/var/lib/quorumfs/{role}"' in config


@pytest.mark.parametrize("name", NAMES)
def test_a_sick_disk_and_a_refused_configuration_are_not_started_again(name: str) -> None:
    (codes,) = settings(name)["RestartPreventExitStatus"]
    assert {int(code) for code in codes.split()} == {ExitCode.SICK_DISK, ExitCode.USAGE}


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_runs_an_installed_program_as_nobody_of_importance(name: str) -> None:
    found = settings(name)
    assert re.fullmatch(
        r"/opt/quorumfs/bin/quorumfs-\w+ --config /etc/quorumfs/[\w%]+\.toml", found["ExecStart"][0]
    )
    assert found["User"] == ["quorumfs"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["Type"] == ["notify"]
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
