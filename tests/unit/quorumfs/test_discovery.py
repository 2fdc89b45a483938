"""Where the cluster is: the first of argument, environment, file and local cluster that says anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from quorumfs.discovery import find_coordinators
from quorumfs.errors import InvalidArgumentError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / ".config" / "quorumfs" / "client.toml"
    path.parent.mkdir(parents=True)
    return path


def local() -> str:
    return "127.0.0.1:9"


def nobody() -> None:
    return None


def test_the_first_that_says_anything_decides(tmp_path: Path, file: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert find_coordinators(None, home, local) == ("127.0.0.1:9",)
    file.write_text('coordinators = ["f1:1", "f2:2"]\n')
    assert find_coordinators(None, home, local) == ("f1:1", "f2:2")
    variable = {**home, "QUORUMFS_COORDINATORS": "e1:1, e2:2,e1:1"}
    assert find_coordinators(None, variable, local) == ("e1:1", "e2:2")
    assert find_coordinators("a1:1", variable, local) == ("a1:1",)
    assert find_coordinators(["a1:1", "[::1]:2"], variable, local) == ("a1:1", "[::1]:2")


def test_the_configuration_directory_may_be_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "xdg" / "quorumfs"
    elsewhere.mkdir(parents=True)
    (elsewhere / "client.toml").write_text('coordinators = "x1:1,x2:2"\n')
    environment = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert find_coordinators(None, environment, nobody) == ("x1:1", "x2:2")


def test_nothing_known_is_told_with_all_that_was_tried(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no coordinator") as caught:
        find_coordinators(None, {"HOME": str(tmp_path)}, nobody)
    assert "QUORUMFS_COORDINATORS" in caught.value.cause
    assert "dev up" in caught.value.next


@pytest.mark.parametrize("given", ["c1", "c1:", ":7400", "c1:port", "c1:0", "c1:70000", "c1:७"])
def test_what_is_no_address_is_refused_with_its_source(given: str) -> None:
    with pytest.raises(InvalidArgumentError, match="argument"):
        find_coordinators(f"good:1,{given}", {}, nobody)


@pytest.mark.parametrize("text", ["coordinators = 5", "coordinators = []", "nonsense", "other = 1", "\xff"])
def test_a_bad_file_is_named_and_not_passed_over(tmp_path: Path, file: Path, text: str) -> None:
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidArgumentError, match=r"client\.toml"):
        find_coordinators(None, {"HOME": str(tmp_path)}, local)


def test_that_the_last_local_cluster_is_down_is_not_told_as_if_none_ran(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as failure:
        find_coordinators(None, {"HOME": str(tmp_path)}, lambda: None)
    assert "started last" in failure.value.cause
    assert "--dir" in failure.value.next
