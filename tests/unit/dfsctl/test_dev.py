"""`dfsctl dev`: what a person is told of a node's two processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dfsctl import dev

Dfsctl = Callable[..., Any]


class FakeCluster:
    """Its nodes run; what else is said stands in `state`."""

    def __init__(self) -> None:
        self.state = {("d1", "node"): "dead", ("d1", "sidecar"): "dead"}

    def start(self, node_id: str, kind: str) -> None:
        self.state[node_id, kind] = "running"

    def status(self) -> dict[str, Any]:
        return {
            "processes": [
                {"node_id": node_id, "kind": kind, "state": state}
                for (node_id, kind), state in self.state.items()
            ]
        }


def test_who_starts_a_node_is_told_that_its_sidecar_does_not_run(
    dfsctl: Dfsctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster()
    monkeypatch.setattr(dev, "cluster_at_hand", lambda given: cluster)
    said = dfsctl("dev", "start", "d1")
    assert (said.code, said.text) == (0, "d1: running\n")
    assert "its sidecar is dead: dfsctl dev start d1 --sidecar" in said.err
    said = dfsctl("dev", "start", "d1", "--sidecar")
    assert (said.text, said.err) == ("d1 (sidecar): running\n", "")
