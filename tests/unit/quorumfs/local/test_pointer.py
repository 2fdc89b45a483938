from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quorumfs.local import pointer
from quorumfs.local.layout import Layout, write_layout


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cluster_started_last_is_remembered_and_forgotten(tmp_path: Path) -> None:
    home = tmp_path / "one"
    home.mkdir()
    write_layout(Layout(home))
    pointer.remember(home)
    assert pointer.current_directory() == home
    pointer.forget(tmp_path / "another")
    assert pointer.current_directory() == home
    pointer.forget(home)
    assert pointer.current_directory() is None


def test_a_removed_cluster_is_nobodys(tmp_path: Path) -> None:
    pointer.remember(tmp_path / "gone")
    assert pointer.current_directory() is None
    assert pointer.current_coordinators() is None


def test_a_stopped_cluster_is_not_offered_and_a_killed_one_is(tmp_path: Path) -> None:
    home = tmp_path / "one"
    home.mkdir()
    layout = Layout(home)
    write_layout(layout)
    pointer.remember(home)
    assert pointer.current_coordinators() is None
    spec = layout.process(layout.node("c2"), "node")
    spec.pid_file.parent.mkdir()
    spec.pid_file.write_text('{"pid": 1, "start_ticks": -1, "boot": "never"}')
    assert pointer.current_coordinators() == layout.coordinators


def test_with_only_its_coordinators_stopped_it_is_still_the_one_that_is_meant(tmp_path: Path) -> None:
    home = tmp_path / "one"
    home.mkdir()
    layout = Layout(home)
    write_layout(layout)
    pointer.remember(home)
    sidecar = layout.process(layout.node("d1"), "sidecar")
    sidecar.pid_file.parent.mkdir()
    sidecar.pid_file.write_text('{"pid": 1, "start_ticks": -1, "boot": "never"}')
    assert pointer.current_coordinators() == layout.coordinators


def test_a_damaged_cluster_file_is_no_cluster(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{")
    pointer.remember(tmp_path)
    assert pointer.current_coordinators() is None


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert pointer.cache_home() == Path.home() / ".cache" / "quorumfs"


def test_asking_for_it_loads_no_grpc() -> None:
    program = "import sys, quorumfs.local as l; l.current_coordinators(); sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
