"""Exit codes, words and JSON of everything that goes wrong, and what a start costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from dfsctl.commands import dfsctl as root
from dfsctl.errors import in_words, printable, wants_json
from dfsctl.shell import Group
from quorumfs.errors import CLASS_OF, AlreadyExistsError, Exit, NoLeaderError, make

Dfsctl = Callable[..., Any]


@pytest.mark.parametrize("code", sorted(CLASS_OF))
def test_every_error_has_its_exit_code_words_and_json(dfsctl: Dfsctl, client: Any, code: int) -> None:
    error = make(code, "it did not work", cause="because", next="do this")
    client.fail["/x"] = error
    said = dfsctl("stat", "/x", "--output=json")
    assert said.code == int(error.exit_code)
    assert said.json == {"error": error.to_json()}
    assert said.err == "dfsctl: it did not work\n  cause: because\n  next:  do this\n"
    plain = dfsctl("stat", "/x")
    assert (plain.out, plain.err) == (b"", said.err)


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["ls", "--nonsense"],
        ["put", "x"],
        ["dev", "nonsense"],
        ["dev", "kill"],
        ["-o", "xml", "ls"],
        ["ls", "--timeout", "0"],
        ["trash", "restore", "x"],
    ],
)
def test_wrong_usage_is_exit_code_two_in_json_too(dfsctl: Dfsctl, argv: list[str]) -> None:
    said = dfsctl(*argv)
    assert (said.code, said.out) == (2, b"")
    assert "--help" in said.err
    as_json = dfsctl(*argv, "-o", "json")
    assert as_json.code == 2
    assert as_json.json["error"]["code"] == "invalid_argument"


def test_a_command_that_is_nearly_right_is_recognised(dfsctl: Dfsctl) -> None:
    assert "did you mean 'locate'" in dfsctl("locat").err
    assert "did you mean 'node drain'" in dfsctl("drain").err


def test_the_common_options_may_stand_anywhere(dfsctl: Dfsctl, client: Any) -> None:
    wanted = dfsctl("ls", "/", "-o", "json").out
    for argv in (
        ["-o", "json", "ls", "/"],
        ["--output", "json", "ls", "/"],
        ["ls", "-ojson", "/"],
        ["--coordinators", "x:1", "--timeout", "3", "ls", "-o", "json", "--coordinators", "y:2", "/"],
    ):
        assert dfsctl(*argv).out == wanted


def test_the_last_word_on_the_output_counts() -> None:
    assert wants_json(["-o", "json", "ls"])
    assert wants_json(["ls", "-ojson"])
    assert wants_json(["-o", "table", "ls", "--output=json"])
    assert not wants_json(["ls", "-o", "table"])
    assert not wants_json(["cat", "--", "-o", "json"])
    assert not wants_json([])


def test_a_surprise_is_one_line_and_its_trace_is_kept(
    dfsctl: Dfsctl, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.fail["/x"] = ZeroDivisionError("oh")
    said = dfsctl("stat", "/x", "-o", "json")
    assert said.code == 1
    assert said.json["error"]["code"] == "internal"
    assert "Traceback" not in said.err
    kept = tmp_path / ".cache/quorumfs/last-error.txt"
    assert str(kept) in said.err
    assert "ZeroDivisionError" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("QUORUMFS_DEBUG", "1")
    assert "Traceback" in dfsctl("stat", "/x").err


def test_a_reader_that_went_away_is_no_error(dfsctl: Dfsctl, client: Any) -> None:
    client.fail["/x"] = BrokenPipeError()
    said = dfsctl("cat", "/x")
    assert (said.code, said.err) == (141, "")


def test_the_client_is_closed_whatever_happens(dfsctl: Dfsctl, client: Any) -> None:
    client.fail["/x"] = NoLeaderError("nobody")
    dfsctl("stat", "/x")
    assert client.closed


def test_a_refusal_that_an_option_lifts_names_the_option(dfsctl: Dfsctl, client: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    client.put(tmp_path / "f", "/a")
    client.put(tmp_path / "f", "/b")
    for argv, code, option in (
        (["mkdir", "/no/such"], 3, "-p"),
        (["put", str(tmp_path / "f"), "/no/such"], 3, "-p"),
        (["mv", "/a", "/b"], 4, "--force"),
        (["cp", "/a", "/b"], 4, "--force"),
    ):
        said = dfsctl(*argv, "-o", "json")
        assert (said.code, option in said.json["error"]["next"]) == (code, True), argv


def test_what_takes_the_place_of_a_removed_file_is_overcome_by_options(dfsctl: Dfsctl, client: Any) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AlreadyExistsError("/a exists", next="name another place, or replace it")

    client.undelete = refuse
    for argv in (["undelete", "/a"], ["trash", "restore", "1"]):
        said = dfsctl(*argv, "-o", "json")
        assert said.code == 4
        assert all(option in said.json["error"]["next"] for option in ("--to", "--force")), argv


def test_a_choice_that_is_missing_is_said_in_one_line(dfsctl: Dfsctl) -> None:
    said = dfsctl("auth", "token", "create")
    assert said.code == 2
    assert "Choose from: metrics, viewer, operator, admin" in said.err
    assert "\\" not in said.err


def test_a_cause_of_several_lines_stays_below_its_word() -> None:
    error = NoLeaderError("m", cause="one\ntwo", next="n")
    assert in_words(error) == "dfsctl: m\n  cause: one\n    two\n  next:  n\n"
    assert error.exit_code is Exit.UNAVAILABLE


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\x1b[2Jb\udcff\n\u200b\u00e9") == "a\\x1b[2Jb\\udcff\\n\\u200b\u00e9"


def test_every_command_loads_and_explains_itself(dfsctl: Dfsctl) -> None:
    def visit(group: Group, path: list[str]) -> None:
        for name, row in group.table.items():
            said = dfsctl(*path, name, "--help")
            assert said.code == 0
            assert b"--output" in said.out
            if isinstance(row, Group):
                visit(row, [*path, name])
            else:
                found = group.get_command(click.Context(group), name)
                assert found is not None
                assert found.name == name

    visit(root, [])


@pytest.mark.parametrize(
    "argv", [["--help"], ["dev", "--help"], ["dev", "status"], ["version"], ["dev", "down"]]
)
def test_help_and_dev_status_load_no_grpc(argv: list[str], tmp_path: Path) -> None:
    program = (
        "import json, sys; from dfsctl.__main__ import run; "
        f"run({argv!r}); sys.stderr.write(json.dumps([m for m in ('grpc', 'rich') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"XDG_CACHE_HOME": str(tmp_path), "PATH": "/bin", "HOME": str(tmp_path)},
        cwd=Path(__file__).parents[3],
        timeout=60,
    )
    assert json.loads(done.stderr.splitlines()[-1]) == []


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("version >&-", 1, "stdout is closed"),
        ("put - /x <&-", 1, "stdin is closed"),
        ("ls relative 2>&-", 2, ""),
    ],
)
def test_a_closed_stream_is_said_in_words(line: str, code: int, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -m dfsctl {line}', sys.executable],
        capture_output=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        text=True,
        timeout=60,
    )
    assert (done.returncode, said in done.stderr) == (code, True)
    assert not list(tmp_path.rglob("last-error.txt"))


def test_the_version_is_told_without_a_command_and_without_a_cluster(dfsctl: Dfsctl) -> None:
    said = dfsctl("--version")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(b"dfsctl 0.")
