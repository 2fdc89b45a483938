"""DevCluster with processes that exist only in a table."""

from __future__ import annotations

import json
import os
import signal
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from quorumfs.errors import InvalidArgumentError, PreconditionFailedError, TimedOutError, UnavailableError
from quorumfs.local import cluster as module
from quorumfs.local import genesis, pointer, readiness
from quorumfs.local.cluster import Asked, DevCluster
from quorumfs.local.layout import ProcessSpec, read_layout
from quorumfs.local.processes import Processes, Running, State
from quorumfs.v1.membership_pb2 import GenesisRequest


class FakeProcesses(Processes):
    """Starts nothing; remembers in which order it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, State] = {}
        self.done: list[str] = []
        self.stillborn: set[str] = set()

    def running(self, spec: ProcessSpec) -> Running | None:
        state = self.state(spec)
        return Running(1000, 1, "T" if state == "paused" else "S") if state in ("running", "paused") else None

    def state(self, spec: ProcessSpec) -> State:
        return self.states.get(spec.name, "stopped")

    def start(self, spec: ProcessSpec) -> Running:
        self.done.append(f"start {spec.name}")
        spec.log.write_text(f"{spec.name} says hello\n")
        self.states[spec.name] = "dead" if spec.name in self.stillborn else "running"
        return Running(1000, 1, "S")

    def send(self, spec: ProcessSpec, number: signal.Signals) -> bool:
        self.done.append(f"{number.name} {spec.name}")
        if self.running(spec) is None:
            return False
        self.states[spec.name] = "paused" if number is signal.SIGSTOP else "running"
        return True

    def stop(self, specs: Iterable[ProcessSpec], deadline_seconds: float) -> list[ProcessSpec]:
        for spec in specs:
            self.done.append(f"stop {spec.name}")
            self.states[spec.name] = "stopped"
        return []

    def kill(self, specs: Iterable[ProcessSpec]) -> None:
        for spec in specs:
            self.states[spec.name] = "dead"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The requests by which clusters were made; nothing listens, everything is ready at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    requests: list[Any] = []

    def found(seats: Any, channels: Any, *, keep: Any, expected: Any, **_: Any) -> GenesisRequest:
        request = expected or GenesisRequest(cluster_id="new")
        keep(request)
        requests.append(request)
        return request

    monkeypatch.setattr(genesis, "found", found)
    monkeypatch.setattr(readiness, "lacking", lambda *_: [])
    monkeypatch.setattr(module.ports, "require_free", lambda specs: [spec.name for spec in specs])
    return requests


@pytest.fixture
def cluster(made: list[Any], tmp_path: Path) -> DevCluster:
    return DevCluster(tmp_path / "dev", FakeProcesses())


def fakes(cluster: DevCluster) -> FakeProcesses:
    assert isinstance(cluster.processes, FakeProcesses)
    return cluster.processes


def test_up_writes_secret_and_files_then_starts_nodes_before_sidecars(
    cluster: DevCluster, made: list[Any]
) -> None:
    layout = cluster.up(Asked(1, 2, 9000))
    assert layout.secret_file.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(layout.secret_file.read_text())) == 32
    assert tomllib.loads((cluster.directory / "d1/node.toml").read_text())["grpc"]["port"] == 9010
    assert fakes(cluster).done == [
        f"start {name}" for name in ("c1", "d1", "d2", "c1's sidecar", "d1's sidecar", "d2's sidecar")
    ]
    assert len(made) == 1
    assert read_layout(cluster.directory).genesis_done
    assert pointer.current_directory() == cluster.directory
    assert cluster.directory.stat().st_mode & 0o077 == 0


def test_up_again_starts_only_what_does_not_run_and_makes_no_second_cluster(
    cluster: DevCluster, made: list[Any]
) -> None:
    cluster.up(Asked(1, 1))
    secret = (cluster.directory / "cluster.secret").read_bytes()
    cluster.kill("d1")
    fakes(cluster).done.clear()
    cluster.up()
    assert fakes(cluster).done == ["start d1"]
    assert len(made) == 1
    assert (cluster.directory / "cluster.secret").read_bytes() == secret


def test_a_genesis_that_was_interrupted_is_finished_with_its_own_request(
    cluster: DevCluster, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = genesis.found

    def broken(*arguments: Any, **more: Any) -> Any:
        whole(*arguments, **more)
        raise UnavailableError("the coordinator at c1 does not answer")

    monkeypatch.setattr(genesis, "found", broken)
    with pytest.raises(TimedOutError, match="does not answer"):
        cluster.up(Asked(1, 0))
    monkeypatch.setattr(genesis, "found", whole)
    cluster.up()
    assert made[0] == made[1]
    assert read_layout(cluster.directory).genesis != ""


def test_hand_edited_files_are_left_alone_until_settings_are_given(cluster: DevCluster) -> None:
    cluster.up(Asked(1, 1))
    path = cluster.directory / "d1/node.toml"
    path.write_text(path.read_text() + "\n# mine\n")
    cluster.up()
    assert "# mine" in path.read_text()


def test_settings_that_running_nodes_do_not_take_are_not_passed_over(
    cluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_check_configuration", lambda layout: None)
    said: list[str] = []
    cluster.up(warn=said.append)
    cluster.up(warn=said.append)
    assert said == []
    cluster.up(Asked(overrides={"gc.grace_seconds": "5"}), warn=said.append)
    assert len(said) == 1
    assert said[0].startswith("c1, c2, c3, d1, d2, d3 ran already")


def test_labels_given_later_are_written(cluster: DevCluster) -> None:
    cluster.up(Asked(1, 1))
    cluster.up(Asked(labels={"zone": ("a",)}))
    assert 'zone = "a"' in (cluster.directory / "d1/node.toml").read_text()


def test_overrides_are_judged_by_the_daemons_before_anything_starts(
    cluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(argv: list[str], **_: Any) -> Any:
        return type("Done", (), {"returncode": 2, "stdout": "gc.nonsense: unknown key", "stderr": ""})

    monkeypatch.setattr(module, "console_script", lambda name: name)
    monkeypatch.setattr(module.subprocess, "run", judge)
    with pytest.raises(InvalidArgumentError) as caught:
        cluster.up(Asked(overrides={"gc.nonsense": "5"}))
    assert "unknown key" in caught.value.cause
    assert fakes(cluster).done == []
    assert not cluster.directory.exists()
    cluster.up(Asked(1, 1))
    with pytest.raises(InvalidArgumentError):
        cluster.up(Asked(overrides={"gc.nonsense": "5"}))
    assert read_layout(cluster.directory).overrides == {}
    assert "nonsense" not in (cluster.directory / "c1/node.toml").read_text()


def test_a_taken_port_is_told_before_anything_is_written(
    cluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(_: object) -> None:
        raise PreconditionFailedError("port 7400 is in use")

    monkeypatch.setattr(module.ports, "require_free", taken)
    with pytest.raises(PreconditionFailedError):
        cluster.up()
    assert not cluster.exists
    assert not cluster.directory.exists()


@pytest.mark.parametrize("asked", [Asked(coordinators=3), Asked(base_port=9000), Asked(datanodes=1)])
def test_a_cluster_keeps_its_shape(cluster: DevCluster, asked: Asked) -> None:
    cluster.up(Asked(1, 2))
    with pytest.raises(PreconditionFailedError):
        cluster.up(asked)


def test_a_cluster_grows_by_datanodes(cluster: DevCluster) -> None:
    cluster.up(Asked(1, 1, 9000))
    layout = cluster.up(Asked(datanodes=3))
    assert [node.base_port for node in layout.datanodes] == [9010, 9020, 9030]
    assert "start d3" in fakes(cluster).done


def test_what_ended_while_starting_is_named_with_its_last_words(
    cluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "lacking", lambda *_: ["d2: not registered as alive"])
    fakes(cluster).stillborn = {"d2"}
    with pytest.raises(UnavailableError, match="d2 ended while starting") as caught:
        cluster.up(Asked(1, 2))
    assert "d2 says hello" in caught.value.cause


def test_what_is_late_is_named_with_its_last_words(
    cluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "lacking", lambda *_: ["d2: not registered as alive"])
    with pytest.raises(TimedOutError, match="d2: not registered") as caught:
        cluster.up(Asked(1, 2), deadline_seconds=0.1)
    assert "d2 says hello" in caught.value.cause
    assert "d1 says hello" not in caught.value.cause


def test_down_goes_sidecars_datanodes_coordinators(cluster: DevCluster) -> None:
    cluster.up(Asked(1, 1))
    fakes(cluster).done.clear()
    assert cluster.down() == []
    assert fakes(cluster).done == ["stop c1's sidecar", "stop d1's sidecar", "stop d1", "stop c1"]
    assert cluster.exists


def test_purge_removes_what_is_ours_and_nothing_else(cluster: DevCluster) -> None:
    cluster.up(Asked(1, 1))
    (cluster.directory / "notes").write_text("mine")
    cluster.down(purge=True)
    assert os.listdir(cluster.directory) == ["notes"]
    assert pointer.current_directory() is None
    cluster.up(Asked(1, 1))
    (cluster.directory / "notes").unlink()
    cluster.down(purge=True)
    assert not cluster.directory.exists()


def test_status_has_the_documented_shape(cluster: DevCluster) -> None:
    cluster.up(Asked(1, 1, 9000))
    cluster.pause("d1")
    cluster.kill("d1", "sidecar")
    status = cluster.status()
    assert json.loads(json.dumps(status)) == status
    assert (status["dir"], status["coordinators"]) == (str(cluster.directory), "127.0.0.1:9000")
    by_name = {(one["node_id"], one["kind"]): one for one in status["processes"]}
    assert by_name["c1", "node"] | {"log": ""} == {
        "node_id": "c1",
        "role": "coordinator",
        "kind": "node",
        "pid": 1000,
        "ports": {"grpc": 9000, "raft": 9001},
        "data_dir": str(cluster.directory / "c1/data"),
        "config": str(cluster.directory / "c1/node.toml"),
        "log": "",
        "state": "running",
    }
    assert by_name["d1", "node"]["state"] == "paused"
    assert (by_name["d1", "sidecar"]["state"], by_name["d1", "sidecar"]["pid"]) == ("dead", None)


def test_what_does_not_run_cannot_be_paused(cluster: DevCluster) -> None:
    cluster.up(Asked(1, 1))
    cluster.stop("d1")
    with pytest.raises(PreconditionFailedError, match="d1 does not run"):
        cluster.pause("d1")
    cluster.start("d1")
    cluster.start("d1")
    assert fakes(cluster).done[-1] == "start d1"
    cluster.pause("d1")
    cluster.resume("d1")
