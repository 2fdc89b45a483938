"""ls, stat, tree, find, du, df, locate, mkdir, mv, cp, rm, setrep, trash: what they print and refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quorumfs.errors import UnavailableError

Dfsctl = Callable[..., Any]


@pytest.fixture(autouse=True)
def some_files(client: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    client.mkdir("/data/sub", parents=True)
    client.put(tmp_path / "f", "/data/a.txt")
    client.put(tmp_path / "f", "/data/sub/b.png")
    client.symlink("a.txt", "/data/link")
    client.nodes["/data/a.txt"].mtime_ns = 1_700_000_000_123_456_789
    client.nodes["/data/a.txt"].mode = 0o640


def test_ls_has_the_documented_shape(dfsctl: Dfsctl) -> None:
    (entry, link, sub) = dfsctl("ls", "/data", "-o", "json").json
    assert entry == {
        "path": "/data/a.txt",
        "name": "a.txt",
        "type": "file",
        "size_bytes": 5,
        "modified": "2023-11-14T22:13:20.123Z",
        "replication": 3,
        "mode": "0640",
    }
    assert (link["type"], link["target"]) == ("symlink", "a.txt")
    assert (sub["type"], sub["path"]) == ("directory", "/data/sub")


def test_ls_for_people(dfsctl: Dfsctl) -> None:
    assert dfsctl("ls", "/data").text.splitlines() == ["a.txt", "link", "sub/"]
    assert dfsctl("ls").text == "data/\n"
    assert dfsctl("ls", "/data/a.txt").text == "a.txt\n"
    assert "/data/sub/b.png" in dfsctl("ls", "-R", "/").text
    long = dfsctl("ls", "-l", "/data").text
    assert "-rw-r-----" in long
    assert "link -> a.txt" in long


def test_control_characters_do_not_reach_the_terminal(dfsctl: Dfsctl, client: Any) -> None:
    client.mkdir("/data/\x1b[31mred\n")
    for argv in (["ls", "/data"], ["ls", "-l", "/data"], ["tree", "/"], ["find", "/"], ["ls", "/no\x1b"]):
        said = dfsctl(*argv)
        assert "\x1b" not in said.text + said.err, argv
    assert dfsctl("ls", "/data", "-o", "json").json[0]["name"] == "\x1b[31mred\n"


def test_stat_shows_the_link_itself_unless_told_to_follow(dfsctl: Dfsctl) -> None:
    data = dfsctl("stat", "/data/a.txt", "-o", "json").json
    assert data["checksum"] == "9a71bb4c"
    assert {"id", "version", "path", "type"} <= set(data)
    assert dfsctl("stat", "/data/link", "-o", "json").json["type"] == "symlink"
    assert dfsctl("stat", "-L", "/data/link", "-o", "json").json["type"] == "file"


def test_what_is_missing_is_exit_code_three(dfsctl: Dfsctl) -> None:
    for verb in ("stat", "ls", "cat", "du", "find", "tree", "locate", "rm", "undelete"):
        said = dfsctl(verb, "/nothing", "-o", "json")
        assert (said.code, said.json["error"]["code"]) == (3, "not_found"), verb
        assert said.err.startswith("dfsctl: ")


def test_tree_and_find_and_du(dfsctl: Dfsctl) -> None:
    assert dfsctl("tree", "/data").text.splitlines() == [
        "data",
        "\u251c\u2500\u2500 a.txt",
        "\u251c\u2500\u2500 link -> a.txt",
        "\u2514\u2500\u2500 sub",
        "    \u2514\u2500\u2500 b.png",
    ]
    assert (
        dfsctl("tree", "/", "-o", "json").json["children"][0]["children"][2]["children"][0]["name"] == "b.png"
    )
    assert dfsctl("find", "/", "--name", "*.png").text == "/data/sub/b.png\n"
    assert dfsctl("find", "/", "--type", "d").text == "/\n/data\n/data/sub\n"
    assert dfsctl("du", "/data", "-o", "json").json == [
        {"path": "/data", "size_bytes": 10, "files": 2, "directories": 1, "symlinks": 1}
    ]
    assert dfsctl("df", "-o", "json").json["free_bytes"] == 5300


def test_locate_names_the_file_on_the_node(dfsctl: Dfsctl, client: Any) -> None:
    data = dfsctl("locate", "/data/a.txt", "-o", "json").json
    (extent,) = data["extents"]
    assert (extent["offset"], extent["length"], extent["chunk"], extent["chunk_offset"]) == (
        0,
        5,
        "ab" * 16,
        0,
    )
    (replica,) = extent["replicas"]
    assert (replica["node_id"], replica["state"], replica["file"]) == ("d1", "live", "/disk/abab.chunk")
    client.coordinator.answers["Chunks.Stat"] = UnavailableError("d1 is down")
    said = dfsctl("locate", "/data/a.txt", "-o", "json")
    assert said.code == 0
    assert said.json["extents"][0]["replicas"][0]["file"] is None


def test_mkdir_refuses_an_existing_directory_unless_p(dfsctl: Dfsctl, client: Any) -> None:
    assert dfsctl("mkdir", "/data").code == 4
    assert dfsctl("mkdir", "-p", "/data").code == 0
    assert dfsctl("mkdir", "/a/b").code == 3
    assert dfsctl("mkdir", "-p", "/a/b", "/c").code == 0
    assert "/a/b" in client.nodes


def test_mv_and_cp_refuse_an_existing_target_unless_forced(dfsctl: Dfsctl, client: Any) -> None:
    for verb in ("mv", "cp"):
        assert dfsctl(verb, "/data/a.txt", "/data/sub/b.png").code == 4
    assert dfsctl("cp", "/data/a.txt", "/copy").code == 0
    assert dfsctl("mv", "--force", "/data/a.txt", "/data/sub/b.png").code == 0
    assert "/data/a.txt" not in client.nodes


def test_rm_wants_r_for_a_tree_and_never_takes_the_root(dfsctl: Dfsctl, client: Any) -> None:
    assert dfsctl("rm", "/data").code == 4
    assert dfsctl("rm", "-r", "/").code == 10
    assert dfsctl("rm", "-f", "/nothing").code == 0
    assert dfsctl("rm", "-r", "/data", "-o", "json").json == [{"path": "/data", "trash_id": 1}]
    assert list(client.nodes) == ["/"]


def test_purge_leaves_no_trash(dfsctl: Dfsctl, client: Any) -> None:
    assert dfsctl("rm", "--purge", "/data/a.txt", "-o", "json").json[0]["trash_id"] is None
    assert client.trash == []


def test_the_trash_gives_back(dfsctl: Dfsctl, client: Any) -> None:
    dfsctl("rm", "/data/a.txt")
    (item,) = dfsctl("trash", "ls", "-o", "json").json
    assert (item["path"], item["trash_id"], item["expires_in_seconds"]) == ("/data/a.txt", 1, 60.0)
    assert item["deleted"].endswith("Z")
    assert dfsctl("trash", "restore", "1", "--to", "/back").code == 0
    assert client.nodes["/back"].data == b"hello"
    dfsctl("rm", "/back")
    assert dfsctl("undelete", "/back").code == 0


def test_the_trash_is_not_emptied_without_yes(dfsctl: Dfsctl, client: Any) -> None:
    dfsctl("rm", "/data/a.txt")
    assert dfsctl("trash", "empty").code == 10
    assert len(client.trash) == 1
    assert dfsctl("trash", "empty", "--yes", "-o", "json").json == {"removed": 1}


def test_setrep_changes_a_file_or_all_below(dfsctl: Dfsctl, client: Any) -> None:
    assert dfsctl("setrep", "2", "/data/a.txt").code == 0
    assert dfsctl("setrep", "1", "/data").code == 2
    assert dfsctl("setrep", "-R", "1", "/data", "-o", "json").json["files"] == 2
    assert client.nodes["/data/sub/b.png"].replication == 1
    assert dfsctl("setrep", "99", "/data/a.txt").code == 2
