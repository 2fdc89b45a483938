from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from dfsctl.local_tree import Entry, LocalTree, safe_name, walk
from quorumfs.errors import InvalidArgumentError, PathIsADirectoryError, PathNotADirectoryError
from quorumfs.local_file import NewLocalFile

NS = 1_234_567_890_123_456_789


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What an attacker would like to have written: a directory beside the tree."""
    outside = tmp_path / "outside"
    outside.mkdir()
    return outside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def write(tree: LocalTree, parts: tuple[str, ...], data: bytes = b"new", mode: int = 0o640) -> None:
    with tree.place(parts) as path, NewLocalFile(path) as file:
        file.write(data)
        file.publish(mode, NS, False)


def test_a_walk_lists_parents_before_children_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "b/empty").mkdir(parents=True)
    (tmp_path / "b/file").write_bytes(b"abc")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "loop").symlink_to(".//b/..")
    (tmp_path / "b/file").chmod(0o4751)
    os.utime(tmp_path / "b/file", ns=(NS, NS))
    found = {one.parts: one for one in walk(tmp_path)}
    assert next(iter(found)) == ()
    assert list(found).index(("b",)) < list(found).index(("b", "file"))
    assert found["b", "file"] == Entry(("b", "file"), "file", 0o4751, NS, 3)
    assert found["loop",].target == ".//b/.."
    assert found["b", "empty"].kind == "directory"
    assert len(found) == 6


def test_what_is_no_file_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.close()
    with pytest.raises(InvalidArgumentError) as caught:
        walk(tmp_path)
    assert "pipe" in caught.value.cause
    assert "socket" in caught.value.cause


def test_a_file_appears_whole_with_its_mode_and_time(root: Path) -> None:
    with LocalTree(root) as tree:
        write(tree, ("f",), mode=0o604)
    status = (root / "f").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o604, NS)
    assert os.listdir(root) == ["f"]


def test_an_error_names_the_file_as_people_know_it(root: Path) -> None:
    with LocalTree(root) as tree, pytest.raises(FileNotFoundError) as caught, tree.place(("f",)) as path:
        Path(path).read_bytes()
    assert caught.value.filename == str(root / "f")


def test_a_link_where_a_file_goes_is_replaced_and_not_followed(root: Path, outside: Path) -> None:
    root.mkdir()
    (outside / "victim").write_bytes(b"precious")
    (root / "f").symlink_to(outside / "victim")
    with LocalTree(root) as tree:
        write(tree, ("f",))
    assert (outside / "victim").read_bytes() == b"precious"
    assert not (root / "f").is_symlink()


def test_a_link_where_a_directory_goes_is_refused(root: Path, outside: Path) -> None:
    root.mkdir()
    (root / "d").symlink_to(outside)
    with LocalTree(root) as tree:
        with pytest.raises(PathNotADirectoryError):
            tree.make_directory(("d",))
        with pytest.raises(PathNotADirectoryError):
            write(tree, ("d", "f"))
        with pytest.raises(PathNotADirectoryError):
            tree.make_link(("d", "l"), "x", NS)
        with pytest.raises(PathNotADirectoryError):
            tree.finish_directories([Entry(("d",), "directory", 0o777, NS)])
    assert os.listdir(outside) == []


def test_a_root_that_is_a_link_or_a_file_is_refused(tmp_path: Path, root: Path, outside: Path) -> None:
    root.symlink_to(outside)
    with pytest.raises(PathNotADirectoryError):
        LocalTree(root)
    (tmp_path / "file").touch()
    with pytest.raises(PathNotADirectoryError):
        LocalTree(tmp_path / "file")


def test_the_parents_of_the_root_are_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LocalTree(tmp_path / "no/root")


def test_a_link_keeps_its_target_and_time_and_replaces_a_file(root: Path) -> None:
    root.mkdir()
    (root / "l").write_bytes(b"old")
    with LocalTree(root) as tree:
        tree.make_link(("l",), "../.././x", NS)
    assert os.readlink(root / "l") == "../.././x"
    assert (root / "l").lstat().st_mtime_ns == NS


def test_a_file_does_not_replace_a_directory(root: Path) -> None:
    (root / "d").mkdir(parents=True)
    with LocalTree(root) as tree:
        with pytest.raises(PathIsADirectoryError):
            write(tree, ("d",))
        with pytest.raises(PathIsADirectoryError):
            tree.make_link(("d",), "x", NS)
    assert os.listdir(root) == ["d"]


def test_directories_get_their_times_after_their_children(root: Path) -> None:
    with LocalTree(root) as tree:
        tree.make_directory(("d",))
        tree.make_directory(("d", "e"))
        write(tree, ("d", "e", "f"))
        tree.finish_directories(
            [
                Entry((), "directory", 0o755, NS),
                Entry(("d",), "directory", 0o500, NS + 1),
                Entry(("d", "e"), "directory", 0o711, NS + 2),
            ]
        )
    assert [(root / p).stat().st_mtime_ns - NS for p in (".", "d", "d/e")] == [0, 1, 2]
    assert stat.S_IMODE((root / "d/e").stat().st_mode) == 0o711
    (root / "d").chmod(0o700)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b"])
def test_a_name_from_the_cluster_that_would_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        safe_name(name)
