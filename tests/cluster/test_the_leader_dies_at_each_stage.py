"""One file in or out, and at one exact stage of it a node dies or hangs: the same command succeeds, silently.

The client is `dfsctl` with a hand on its wire (tests/support/stages.py). Every put says --no-clobber, so that
a change that was carried out twice would be refused the second time.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from quorumfs import Client
from quorumfs.testing import LocalCluster, cluster_fixture
from tests.support import stages
from tests.support.commands import Dfsctl, Said
from tests.support.trees import sha256, write_noise

pytestmark = pytest.mark.cluster

MIB = 1 << 20
LARGE_BYTES = 40 * MIB + 12_345  # one chunk, longer than all windows on its way
SMALL_BYTES = 9_000  # its body travels in the metadata
SOURCE = "/source"

CHANGES = [
    "before-open",
    "before-allocate",
    "before-commit",
    "commit-unheard",
    "commit-heard-too-late",
    "commit-unanswered",
]
SENDING = [stage for stage in stages.STAGES if stage.startswith("sending-")]
READING = ["before-layout", *(stage for stage in stages.STAGES if stage.startswith("receiving-"))]

cluster = cluster_fixture()


def test_every_stage_has_a_case() -> None:
    assert {*CHANGES, *SENDING, *READING, "put-file-unanswered"} == set(stages.STAGES)


@dataclass
class Desk:
    """Runs dfsctl with one stage of harm, and puts the cluster together again."""

    cluster: LocalCluster
    directory: Path
    stored: dict[str, str] = field(default_factory=dict)  # path -> SHA-256
    runs: int = 0

    def run(self, stage: str, *argv: str) -> tuple[Said, str]:
        """What the command said, and the node that was harmed."""
        self.runs += 1
        report = self.directory / f"report-{self.runs}"
        program = [sys.executable, stages.__file__, stage, str(self.cluster.directory), str(report)]
        staged = Dfsctl(self.directory / "home", self.cluster.coordinators, program)
        try:
            said = staged(*argv)
            victim = json.loads(report.read_text())["victim"] if report.exists() else ""
        finally:
            self._put_together()
        return said, victim

    def _put_together(self) -> None:
        """Wake what hangs, start what is dead; the stages do no other harm."""
        for process in self.cluster.local.status()["processes"]:
            if process["state"] == "paused":
                self.cluster.resume(process["node_id"], process["kind"])
        self.cluster.start_all()

    def sample(self, length: int) -> tuple[Path, str]:
        path = self.directory / f"sample-{length}"
        return path, sha256(path) if path.exists() else write_noise(path, length)

    def put(self, stage: str, length: int) -> str:
        """Store a file through `stage`; it must succeed silently. Returns who was harmed."""
        source, digest = self.sample(length)
        path = f"/{stage}"
        said, victim = self.run(stage, "put", "--no-clobber", str(source), path)
        assert (said.code, said.err) == (0, ""), f"{stage}: {said.code} {said.err}"
        assert victim, f"the stage {stage} was never reached"
        self.stored[path] = digest
        return victim


@pytest.fixture(scope="module")
def desk(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = Desk(cluster, tmp_path_factory.mktemp("stages"))
    source, digest = made.sample(LARGE_BYTES)
    with cluster.client() as fs:
        fs.put(source, SOURCE)
    made.stored[SOURCE] = digest
    return made


def fetch(fs: Client, desk: Desk, path: str) -> str:
    copy = desk.directory / "copy"
    fs.get(path, copy)
    return sha256(copy)


@pytest.mark.parametrize("stage", CHANGES)
def test_a_put_survives_the_leader(desk: Desk, fs: Client, stage: str) -> None:
    victim = desk.put(stage, LARGE_BYTES)
    assert victim.startswith("c")
    assert fetch(fs, desk, f"/{stage}") == desk.stored[f"/{stage}"]


def test_a_small_put_survives_the_leader_whose_answer_was_lost(desk: Desk, fs: Client) -> None:
    desk.put("put-file-unanswered", SMALL_BYTES)
    assert fetch(fs, desk, "/put-file-unanswered") == desk.stored["/put-file-unanswered"]


@pytest.mark.parametrize("stage", SENDING)
def test_a_put_survives_a_node_in_the_middle_of_a_chunk(desk: Desk, fs: Client, stage: str) -> None:
    victim = desk.put(stage, LARGE_BYTES)
    assert victim.startswith("c" if "leader" in stage else "d")
    assert fetch(fs, desk, f"/{stage}") == desk.stored[f"/{stage}"]


@pytest.mark.parametrize("stage", READING)
def test_a_get_survives_a_node(desk: Desk, stage: str, tmp_path: Path) -> None:
    said, victim = desk.run(stage, "get", SOURCE, str(tmp_path / "copy"))
    assert (said.code, said.err) == (0, ""), f"{stage}: {said.code} {said.err}"
    assert victim.startswith("d" if "source" in stage else "c")
    assert sha256(tmp_path / "copy") == desk.stored[SOURCE]
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_all_of_it_is_whole_at_the_end_and_no_name_is_there_twice(desk: Desk, fs: Client) -> None:
    assert {entry.path for entry in fs.list("/")} == set(desk.stored)
    assert {path: fetch(fs, desk, path) for path in desk.stored} == desk.stored
    assert len({one["hash"] for one in hashes(desk)}) == 1


def hashes(desk: Desk) -> list[dict[str, str]]:
    found: list[dict[str, str]] = (
        Dfsctl(desk.directory / "home", desk.cluster.coordinators).well("raft", "hash", "-o", "json").json
    )
    assert len(found) == 3
    return found
