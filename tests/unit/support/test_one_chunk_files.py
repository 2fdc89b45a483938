"""What logs tell of copies and deaths, for tests on real processes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.one_chunk_files import Mark


class Logs:
    """Of a cluster, as far as these tests read it."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {"c1": "", "d1": "", "d2": ""}
        nodes = {one: SimpleNamespace(node_id=one) for one in self._told}
        self.layout = SimpleNamespace(coordinator_nodes=[nodes["c1"]], datanodes=[nodes["d1"], nodes["d2"]])

    def log(self, node_id: str) -> str:
        return self._told[node_id]

    def tell(self, node_id: str, event: str, **fields: Any) -> None:
        self._told[node_id] += json.dumps({"event": event, "node_id": node_id, **fields}) + "\n"

    def copy(self, node_id: str, chunk: str) -> None:
        self.tell(node_id, "command.done", command="replicate", id=7, chunk=chunk)


@pytest.fixture
def logs() -> Any:
    return Logs()


def test_a_copy_that_is_told_twice_is_one_copy(logs: Any) -> None:
    logs.copy("d1", "aa")
    before = Mark.now(logs)
    logs.copy("d1", "bb")
    logs.copy("d1", "bb")
    logs.copy("d2", "bb")
    logs.tell("d2", "command.done", command="verify", id=8, chunk="cc")
    before.check_copies(logs, 2)
    assert before.copies_since(logs) == 2


def test_what_was_copied_before_and_is_copied_again_counts(logs: Any) -> None:
    """It was trimmed in between."""
    logs.copy("d1", "aa")
    before = Mark.now(logs)
    logs.copy("d1", "aa")
    before.check_copies(logs, 1)


def test_too_many_copies_are_told_apart_by_who_was_declared_dead(logs: Any) -> None:
    logs.tell("c1", "node.dead", node="d1")
    before = Mark.now(logs)
    logs.tell("c1", "node.dead", node="d2")
    logs.copy("d1", "aa")
    with pytest.raises(AssertionError, match="nobody but"):
        before.check_copies(logs, 0, dead=["d2"])
    with pytest.raises(AssertionError, match=r"declared dead in between: \['d2'\]"):
        before.check_copies(logs, 0)
    before.check_copies(logs, 1, dead=["d2"])
