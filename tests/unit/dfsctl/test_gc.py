"""gc: what is listed, and what a person reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quorumfs.v1 import admin_pb2

Dfsctl = Callable[..., Any]


def test_a_list_of_the_quarantine_that_lacks_a_node_is_partial_and_says_so(
    dfsctl: Dfsctl, coordinator: Any
) -> None:
    story = admin_pb2.ChunkStory(chunk=b"c" * 16, quarantined_on=["d1"])
    coordinator.answers["Control.ListCandidates"] = admin_pb2.Candidates(chunks=[story])
    assert dfsctl("gc", "quarantine", "ls").code == 0
    coordinator.answers["Control.ListCandidates"].silent_nodes.append("d2")
    said = dfsctl("gc", "quarantine", "ls", "-o", "json")
    assert (said.code, [one["chunk"] for one in said.json]) == (8, [b"c".hex() * 16])
    assert "d2 did not tell" in said.err
