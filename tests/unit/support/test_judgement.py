from __future__ import annotations

import math

from tests.support.judgement import judge
from tests.support.recorder import Call


def call(
    kind: str,
    began: float,
    ended: float,
    content: str = "",
    outcome: str = "done",
    name: str = "a",
    to: str = "",
) -> Call:
    path = "/x" if kind == "list" else f"/x/{name}"
    return Call("k1", 1, kind, path, to and f"/x/{to}", content, began, ended, outcome)


def wrong(*calls: Call) -> bool:
    verdict = judge(calls)
    assert verdict.open == []
    return bool(verdict.wrong)


PUT = call("put", 0, 1, "11")


def test_what_was_stored_is_read_and_listed() -> None:
    assert not wrong(PUT, call("get", 2, 3, "11"), call("list", 2, 3, "a"))


def test_an_acknowledged_file_that_is_lost_is_found() -> None:
    assert wrong(PUT, call("get", 2, 3, outcome="absent"))
    assert wrong(PUT, call("list", 2, 3, ""))


def test_a_deleted_file_that_is_back_is_found() -> None:
    assert wrong(PUT, call("delete", 2, 3), call("get", 4, 5, "11"))


def test_bytes_that_nobody_wrote_are_found_and_named() -> None:
    verdict = judge([PUT, call("get", 2, 3, "99")])
    assert "nobody wrote" in verdict.wrong[0]
    assert verdict.guilty["/x"]


def test_what_was_refused_must_not_have_happened() -> None:
    refused = call("put", 2, 3, "22", "refused")
    assert not wrong(PUT, refused, call("get", 4, 5, "11"))
    assert wrong(PUT, refused, call("get", 4, 5, "22"))


def test_what_is_unknown_may_happen_late_or_never_but_once() -> None:
    unknown = call("put", 0, math.inf, "22", "unknown")
    assert not wrong(PUT, unknown, call("get", 2, 3, "11"), call("get", 4, 5, "22"))
    assert not wrong(PUT, unknown, call("get", 2, 3, "11"))
    assert wrong(PUT, unknown, call("get", 2, 3, "22"), call("put", 4, 5, "33"), call("get", 6, 7, "22"))


def test_a_rename_takes_a_name_away_and_gives_another_at_once() -> None:
    moved = call("rename", 2, 5, to="b")
    assert not wrong(PUT, moved, call("get", 6, 7, "11", name="b"), call("get", 6, 7, outcome="absent"))
    assert wrong(PUT, moved, call("list", 3, 4, "a,b"))
    assert wrong(PUT, moved, call("list", 3, 4, ""))
    assert wrong(PUT, call("rename", 2, 3, outcome="absent", to="b"))


def test_a_create_finds_what_is_there_even_if_it_is_the_same() -> None:
    assert not wrong(PUT, call("create", 2, 3, "11", "exists"))
    assert wrong(PUT, call("create", 2, 3, "11"))
    assert wrong(call("create", 0, 1, "11", "exists"))


def test_a_read_that_failed_says_nothing() -> None:
    assert not wrong(PUT, call("get", 2, 3, outcome="refused"))
    assert judge([call("get", 2, math.inf, outcome="unknown")]).calls == 0


def test_directories_are_judged_by_themselves() -> None:
    other = Call("k1", 1, "put", "/y/a", "", "22", 0, 1, "done")
    verdict = judge([PUT, other, call("get", 2, 3, "11")])
    assert (verdict.directories, verdict.calls, verdict.wrong) == (2, 3, [])
