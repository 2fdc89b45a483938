"""put, get, cat, head, tail against a cluster in memory."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dfsctl.files import start_of_last_lines
from quorumfs.errors import NoLeaderError, NotFoundError, OutcomeUnknownError
from quorumfs.values import FileType

Dfsctl = Callable[..., Any]
NS = 1_234_567_890_123_456_789


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with all that has to be kept."""
    root = tmp_path / "source"
    (root / "sub/empty").mkdir(parents=True)
    (root / "sub/text").write_bytes(b"hello\n")
    (root / "\u00fcn\u00ef\ncode").write_bytes(b"name")
    (root / "link").symlink_to("sub/.//text")
    (root / "dangling").symlink_to("/nowhere")
    (root / "zero").write_bytes(b"")
    (root / "sub/text").chmod(0o751)
    (root / "zero").chmod(0o604)
    (root / "sub").chmod(0o711)
    for number, path in enumerate(sorted(root.rglob("*")), 1):
        os.utime(path, ns=(NS + number, NS + number), follow_symlinks=False)
    os.utime(root / "zero", ns=(0, 0))
    os.utime(root, ns=(NS, NS))
    return root


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything of a tree that has to come back."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        if path.is_symlink():
            kept: tuple[object, ...] = ("link", os.readlink(path))
        elif path.is_dir():
            kept = ("dir", stat.S_IMODE(status.st_mode))
        else:
            kept = ("file", stat.S_IMODE(status.st_mode), path.read_bytes())
        found[str(path.relative_to(root))] = (*kept, status.st_mtime_ns)
    return found


def test_a_tree_comes_back_as_it_went_in(dfsctl: Dfsctl, source: Path, tmp_path: Path) -> None:
    before = picture(source)
    put = dfsctl("put", "-r", str(source), "/x")
    assert (put.code, put.out, put.err) == (0, b"", "")
    got = dfsctl("get", "-r", "/x", str(tmp_path / "copy"))
    assert (got.code, got.out, got.err) == (0, b"", "")
    assert picture(tmp_path / "copy") == before == picture(source)


def test_the_children_of_a_tree_become_children_of_an_existing_target(
    dfsctl: Dfsctl, client: Any, source: Path, tmp_path: Path
) -> None:
    client.mkdir("/x")
    client.nodes["/x"].mode = 0o700
    said = dfsctl("put", "-r", str(source), "/x", "-o", "json")
    assert said.json == {"path": "/x", "files": 3, "directories": 2, "symlinks": 2, "size_bytes": 10}
    assert "/x/sub/text" in client.nodes
    assert client.nodes["/x"].mode == 0o700
    (tmp_path / "copy").mkdir(mode=0o750)
    assert dfsctl("get", "-r", "/x", str(tmp_path / "copy"), "-o", "json").json["files"] == 3
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o750


def test_parents_are_made_only_when_asked_for(dfsctl: Dfsctl, source: Path, tmp_path: Path) -> None:
    assert dfsctl("put", "-r", str(source), "/no/x").code == 3
    assert dfsctl("put", "-rp", str(source), "/no/x").code == 0
    assert dfsctl("put", str(source / "zero"), "/nor/x").code == 3
    assert dfsctl("put", "-p", str(source / "zero"), "/nor/x").code == 0
    assert dfsctl("get", "-r", "/no/x", str(tmp_path / "a/b")).code == 3
    assert dfsctl("get", "-rp", "/no/x", str(tmp_path / "a/b")).code == 0
    assert dfsctl("get", "/nor/x", str(tmp_path / "c/d")).code == 3
    assert dfsctl("get", "-p", "/nor/x", str(tmp_path / "c/d")).code == 0


def test_an_empty_local_path_is_a_mistake_and_not_the_present_directory(dfsctl: Dfsctl, client: Any) -> None:
    for argv in (("put", "-r", "", "/x"), ("put", "", "/x"), ("get", "/x", "")):
        said = dfsctl(*argv)
        assert said.code == 2
        assert "empty" in said.err
    assert list(client.nodes) == ["/"]


def test_a_tree_with_a_bad_name_is_refused_whole(dfsctl: Dfsctl, client: Any, source: Path) -> None:
    (source / "sub" / os.fsdecode(b"bad\xff\n")).write_bytes(b"")
    said = dfsctl("put", "-r", str(source), "/x")
    assert said.code == 2
    assert "sub/bad\\udcff\\n" in said.err
    assert list(client.nodes) == ["/"]


def test_a_tree_with_a_socket_or_pipe_is_refused_whole(dfsctl: Dfsctl, client: Any, source: Path) -> None:
    os.mkfifo(source / "sub/pipe")
    said = dfsctl("put", "-r", str(source), "/x")
    assert said.code == 2
    assert "pipe" in said.err
    assert list(client.nodes) == ["/"]
    assert dfsctl("put", str(source / "sub/pipe"), "/x").code == 2


def test_nothing_is_put_through_a_remote_link(dfsctl: Dfsctl, client: Any, source: Path) -> None:
    client.mkdir("/victim")
    client.symlink("/victim", "/x")
    assert dfsctl("put", "-r", str(source), "/x").code == 4
    client.mkdir("/y")
    client.symlink("/victim", "/y/sub")
    assert dfsctl("put", "-r", str(source), "/y").code == 4
    assert not [name for name in client.nodes if name.startswith("/victim/")]


def test_nothing_is_got_through_a_local_link(dfsctl: Dfsctl, source: Path, tmp_path: Path) -> None:
    dfsctl("put", "-r", str(source), "/x")
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/sub").symlink_to(victim)
    said = dfsctl("get", "-r", "/x", str(tmp_path / "copy"))
    assert said.code == 4
    assert "links" in said.err
    (tmp_path / "way").symlink_to(victim)
    assert dfsctl("get", "-r", "/x", str(tmp_path / "way")).code == 4
    (victim / "precious").write_bytes(b"keep")
    (tmp_path / "name").symlink_to(victim / "precious")
    assert dfsctl("get", "/x/sub/text", str(tmp_path / "name")).code == 0
    assert (victim / "precious").read_bytes() == b"keep"
    assert os.listdir(victim) == ["precious"]


def test_a_hostile_name_from_the_cluster_does_not_leave_the_target(
    dfsctl: Dfsctl, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = SimpleNamespace(
        name="../escape",
        is_symlink=False,
        is_directory=False,
        mode=0o644,
        modified_ns=NS,
        size_bytes=0,
        target="",
    )
    monkeypatch.setattr(client, "iterate", lambda *_: iter([entry]))
    assert dfsctl("get", "-r", "/", str(tmp_path / "copy")).code == 2
    assert not (tmp_path / "escape").exists()


def test_a_directory_wants_r(dfsctl: Dfsctl, client: Any, source: Path) -> None:
    assert dfsctl("put", str(source), "/x").code == 2
    assert dfsctl("get", "/", "x").code == 2


def test_no_clobber_refuses_what_is_there(dfsctl: Dfsctl, client: Any, source: Path, tmp_path: Path) -> None:
    assert dfsctl("put", str(source / "zero"), "/f").code == 0
    assert dfsctl("put", "--no-clobber", str(source / "sub/text"), "/f").code == 4
    assert client.nodes["/f"].data == b""
    assert dfsctl("put", str(source / "sub/text"), "/f").code == 0
    (tmp_path / "here").write_bytes(b"old")
    assert dfsctl("get", "--no-clobber", "/f", str(tmp_path / "here")).code == 4
    assert (tmp_path / "here").read_bytes() == b"old"


def test_a_file_keeps_its_mode_and_time_even_when_they_are_zero(
    dfsctl: Dfsctl, client: Any, source: Path
) -> None:
    assert dfsctl("put", str(source / "zero"), "/f").code == 0
    assert (client.nodes["/f"].mode, client.nodes["/f"].mtime_ns) == (0o604, 0)


def test_a_missing_local_file_is_not_found(dfsctl: Dfsctl, tmp_path: Path) -> None:
    said = dfsctl("put", str(tmp_path / "none"), "/x", "-o", "json")
    assert said.code == 3
    assert said.json["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["x", "../x", "/a/../b", "/" + "n" * 256, "/a/\udcff", "", "/a\0b"])
def test_a_bad_remote_path_is_a_usage_error(dfsctl: Dfsctl, source: Path, path: str) -> None:
    for argv in (
        ["put", str(source / "zero"), path],
        ["get", path],
        ["cat", path],
        ["ls", path],
        ["rm", path],
    ):
        said = dfsctl(*argv)
        assert said.code == 2, argv
        assert said.err.isprintable() or "\n" in said.err


def test_a_target_ending_in_a_slash_keeps_the_files_name(dfsctl: Dfsctl, client: Any, source: Path) -> None:
    client.mkdir("/d")
    assert dfsctl("put", str(source / "sub/text"), "/d/").code == 0
    assert client.nodes["/d/text"].data == b"hello\n"


def test_get_into_a_directory_keeps_the_files_name(
    dfsctl: Dfsctl, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dfsctl("put", str(source / "sub/text"), "/text")
    monkeypatch.chdir(tmp_path)
    assert dfsctl("get", "/text").code == 0
    assert (tmp_path / "text").read_bytes() == b"hello\n"


def test_single_failures_of_a_tree_are_told_and_the_others_go_on(
    dfsctl: Dfsctl, client: Any, source: Path
) -> None:
    client.fail["/x/zero"] = NotFoundError("a strange thing")
    said = dfsctl("put", "-r", str(source), "/x", "-o", "json")
    assert said.code == 8
    assert "/x/zero: a strange thing" in said.json["error"]["cause"]
    assert client.nodes["/x/sub/text"].data == b"hello\n"


def test_without_a_leader_a_tree_is_given_up(dfsctl: Dfsctl, client: Any, source: Path) -> None:
    client.fail["/x/zero"] = NoLeaderError("nobody leads")
    assert dfsctl("put", "-r", str(source), "/x").code == 5


def test_an_unknown_outcome_is_not_called_a_failure(dfsctl: Dfsctl, client: Any, source: Path) -> None:
    client.fail["/f"] = OutcomeUnknownError("commit /f: no answer came back")
    said = dfsctl("put", str(source / "zero"), "/f", "-o", "json")
    assert (said.code, said.json["error"]["code"]) == (11, "outcome_unknown")


def test_an_interrupt_ends_quietly(dfsctl: Dfsctl, client: Any, source: Path) -> None:
    client.fail["/x"] = KeyboardInterrupt()
    said = dfsctl("put", "-r", str(source), "/x")
    assert (said.code, said.out, said.err) == (130, b"", "")
    assert client.closed


def test_stdin_is_stored(dfsctl: Dfsctl, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"piped")))
    assert dfsctl("put", "-", "/f").code == 0
    assert client.nodes["/f"].data == b"piped"


def test_cat_gives_the_bytes_of_all_files(dfsctl: Dfsctl, client: Any, source: Path) -> None:
    client.put(source / "sub/text", "/a")
    client.nodes["/b"] = type(client.nodes["/a"])(FileType.FILE, data=b"\x00\xff")
    assert dfsctl("cat", "/a", "/b").out == b"hello\n\x00\xff"
    assert dfsctl("get", "/b", "-").out == b"\x00\xff"
    assert dfsctl("cat", "/").code == 4


def test_head_and_tail_by_lines_and_bytes(dfsctl: Dfsctl, client: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"".join(b"line %d\n" % k for k in range(20_000)))
    client.put(tmp_path / "f", "/f")
    assert dfsctl("head", "-n", "2", "/f").out == b"line 0\nline 1\n"
    assert dfsctl("head", "-c", "3", "/f").out == b"lin"
    assert dfsctl("tail", "-n", "2", "/f").out == b"line 19998\nline 19999\n"
    assert dfsctl("tail", "-n", "15000", "/f").out.startswith(b"line 5000\n")
    assert dfsctl("tail", "-c", "4", "/f").out == b"999\n"


@pytest.mark.parametrize("text", [b"", b"\n", b"a", b"a\n", b"a\nb", b"a\nb\n", b"\n\n\n", b"a\n\nb\n"])
@pytest.mark.parametrize("lines", [0, 1, 2, 5])
def test_the_last_lines_are_those_that_splitting_gives(text: bytes, lines: int) -> None:
    start = start_of_last_lines(io.BytesIO(text), len(text), lines)
    wanted = text.splitlines(keepends=True)[-lines:] if lines else []
    assert text[start:] == b"".join(wanted)


@pytest.mark.parametrize("flags", [(), ("-r",)])
def test_a_target_that_ends_in_a_slash_is_a_directory(
    dfsctl: Dfsctl, client: Any, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    file = tmp_path / "name"
    file.write_bytes(b"1")
    assert dfsctl("mkdir", "/d").code == 0
    assert dfsctl("put", *flags, str(file), "/d/").code == 0
    assert dfsctl("put", *flags, str(file), "/").code == 0
    assert {"/d/name", "/name"} <= set(client.nodes)
