"""The checker of histories itself: what it lets pass, and what it does not."""

from __future__ import annotations

import math

from quorumfs.errors import Code
from tests.simulation.linearizability import Content, Event, is_linearizable

ONE, OTHER = (1, 11), (1, 22)


def put(began: float, ended: float, content: Content, code: Code | None = Code.OK) -> Event:
    return Event(began, ended, "put_file", content, False, code)


def stat(began: float, ended: float, content: Content) -> Event:
    code = Code.OK if content else Code.NOT_FOUND
    return Event(began, ended, "stat", None, False, code, content)


def test_what_was_written_is_read() -> None:
    assert is_linearizable([put(0, 1, ONE), stat(2, 3, ONE)])


def test_a_read_that_misses_an_acknowledged_write_is_found() -> None:
    assert is_linearizable([put(0, 1, ONE), stat(2, 3, None)]) is False


def test_a_read_during_a_write_may_see_either() -> None:
    assert is_linearizable([put(0, 5, ONE), stat(1, 2, None)])
    assert is_linearizable([put(0, 5, ONE), stat(1, 2, ONE)])


def test_reads_do_not_go_back() -> None:
    assert is_linearizable([put(0, 5, ONE), stat(1, 2, ONE), stat(3, 4, None)]) is False


def test_an_unknown_write_may_happen_late_or_never() -> None:
    unknown = put(0, math.inf, ONE, None)
    assert is_linearizable([unknown, put(1, 2, OTHER), stat(3, 4, OTHER)])
    assert is_linearizable([unknown, put(1, 2, OTHER), stat(3, 4, ONE)])
    assert is_linearizable([unknown, put(1, 2, OTHER), stat(3, 4, ONE), stat(5, 6, OTHER)]) is False
