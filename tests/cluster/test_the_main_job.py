"""The main job, as `make up` runs it: a cluster, a file, the leader killed, the file read back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quorumfs.local.cluster import DevCluster
from quorumfs.local.ports import free_base_port, is_free
from tests.support.commands import Dfsctl, finish
from tests.support.processes import is_alive

pytestmark = pytest.mark.cluster

READY_SECONDS = 15.0


class Stage:
    """A user's home, and in it the directory of a cluster that a tour has started."""

    def __init__(self, directory: Path) -> None:
        self.dfsctl = Dfsctl(directory / "home")
        self.directory = directory / "cluster"
        self.base_port = free_base_port(6)
        self.said: Any = None

    def dev(self, word: str, *more: str) -> Any:
        return self.dfsctl.well("dev", word, "--dir", str(self.directory), "-o", "json", *more).json

    def processes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.dev("status")["processes"]
        return found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("main-job"))
    try:
        made.dev("up", "--base-port", str(made.base_port))
        made.dev("down")
        made.said = made.dev("tour")
        yield made
    finally:
        cluster = DevCluster(made.directory)
        if cluster.exists:
            cluster.kill_everything()


def test_the_tour_leaves_a_running_cluster_and_says_what_it_saw(stage: Stage) -> None:
    tour = stage.said["tour"]
    assert tour["killed"] != tour["leader"]
    assert tour["size_bytes"] == 96 << 20
    assert tour["failover_seconds"] < READY_SECONDS
    assert {one["state"] for one in stage.said["processes"]} == {"running"}


def test_the_tour_tells_a_person_each_step(stage: Stage) -> None:
    said = stage.dfsctl.well("dev", "tour", "--mebibytes", "1", "--dir", str(stage.directory))
    for step in (
        r"cluster ready in [\d.]+ s: 127\.0\.0\.1:\d+,",
        r"stored /tour/sample: .* on d\d, d\d",
        r"killed the leader c\d",
        r"c\d leads; the first write was acknowledged after [\d.]+ s",
        r"read /tour/sample back: the same",
        r"c\d runs again",
        r"management\s+http://",
    ):
        assert re.search(step, said.text), f"{step} is not in {said.text}"


def test_a_client_finds_the_cluster_that_the_tour_left_behind(stage: Stage) -> None:
    names = {one["name"] for one in stage.dfsctl.well("ls", "/tour", "-o", "json").json}
    assert names == {"sample", "written-after-the-kill"}


def test_starting_again_changes_nothing(stage: Stage) -> None:
    before = {(one["node_id"], one["kind"]): one["pid"] for one in stage.processes()}
    stage.dev("up")
    assert {(one["node_id"], one["kind"]): one["pid"] for one in stage.processes()} == before


def test_dev_status_has_the_documented_shape(stage: Stage) -> None:
    status = stage.dev("status")
    assert status["dir"] == str(stage.directory)
    first = stage.base_port
    assert status["coordinators"] == ",".join(f"127.0.0.1:{first + 10 * k}" for k in range(3))
    processes = status["processes"]
    assert len(processes) == 12
    assert {(one["role"], one["kind"]) for one in processes} == {
        (role, kind) for role in ("coordinator", "datanode") for kind in ("node", "sidecar")
    }
    for one in processes:
        assert {"node_id", "role", "kind", "pid", "ports", "data_dir", "config", "state"} <= one.keys()
        assert Path(one["config"]).name == "node.toml"
        assert Path(one["config"]).is_file()
        assert Path(one["data_dir"]).is_dir()
    ports = {one["node_id"]: one["ports"] for one in processes if one["kind"] == "node"}
    assert ports["c2"] == {"grpc": first + 10, "raft": first + 11}
    assert ports["d1"] == {"grpc": first + 30}
    assert {one["ports"]["http"] for one in processes if one["kind"] == "sidecar"} == {
        first + 10 * k + 2 for k in range(6)
    }


def test_a_node_started_by_hand_from_its_file_is_the_same_node(stage: Stage) -> None:
    stage.dev("kill", "d2")
    assert {one["state"] for one in stage.processes() if one["node_id"] == "d2"} == {"dead", "running"}
    stage.dev("start", "d2")
    stage.dev("up")
    status = stage.dfsctl.well("status", "-o", "json").json
    assert {one["node_id"]: one["state"] for one in status["datanodes"]} == dict.fromkeys(
        ("d1", "d2", "d3"), "alive"
    )


def test_a_stopped_cluster_is_ready_again_within_fifteen_seconds(stage: Stage) -> None:
    assert stage.dev("down")["killed"] == []
    begun = time.monotonic()
    process = stage.dfsctl.start("dev", "up", "--dir", str(stage.directory), "-o", "json")
    code, err = finish(process)
    took = time.monotonic() - begun
    assert (code, err.count("Traceback")) == (0, 0), err
    assert took < READY_SECONDS
    assert stage.dfsctl.well("cat", "/tour/written-after-the-kill").out


def test_down_with_purge_leaves_no_process_and_no_file(stage: Stage) -> None:
    pids = [one["pid"] for one in stage.processes()]
    said = stage.dev("down", "--purge")
    assert said == {"dir": str(stage.directory), "killed": [], "purged": True}
    assert not stage.directory.exists()
    assert not [pid for pid in pids if is_alive(pid)]
    assert all(is_free(stage.base_port + k) for k in range(60))
    left = [path for path in (stage.dfsctl.home / "cache").rglob("*") if path.is_file()]
    assert left == [], "the user's cache remembers a cluster that is gone"
    assert json.loads(stage.dfsctl.well("dev", "down", "--dir", str(stage.directory), "-o", "json").out)
