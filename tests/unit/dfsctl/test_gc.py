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


def test_nobody_reads_the_notation_of_a_programming_language(dfsctl: Dfsctl, coordinator: Any) -> None:
    report = admin_pb2.GcReport(outcome="done", would_condemn=[b"c" * 16], seconds=1.0924301650002235)
    report.void_nodes.extend(["d1", "d2"])
    status = admin_pb2.GcStatus(
        state="idle", last_cycle=report, accounting=[admin_pb2.DiskClasses(node_id="d1")]
    )
    coordinator.answers = {
        "Control.RunGc": report,
        "Control.ControlGc": status,
        "Control.GetGc": status,
    }
    assert "void_nodes     d1, d2" in dfsctl("gc", "run", "--dry-run").text.splitlines()
    for word in ("status", "pause", "resume"):
        said = dfsctl("gc", word).text
        assert "seconds=1.1," in said
        assert not set("[]{}'") & set(said), said


def test_a_chunk_that_nobody_knows_is_not_found_and_called_unknown(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.ExplainChunk"] = admin_pb2.ChunkStory(chunk=b"c" * 16, state="unknown")
    said = dfsctl("gc", "explain", "63" * 16, "-o", "json")
    assert (said.code, said.json["state"], said.json["error"]["code"]) == (3, "unknown", "not_found")
    said = dfsctl("gc", "explain", "63" * 16)
    assert (said.code, said.text) == (3, "")
    assert "is unknown" in said.err


def test_a_cycle_that_is_only_begun_has_no_result(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.RunGc"] = admin_pb2.GcReport(outcome="running", ticket=3)
    said = dfsctl("gc", "run")
    assert (said.code, "is begun" in said.text, "0" in said.text) == (0, True, False)
    assert "dfsctl gc status" in said.text
    told = dfsctl("gc", "run", "-o", "json").json
    assert (told["outcome"], told["ticket"]) == ("running", 3)


def test_a_cycle_that_a_pause_has_ended_is_no_success(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.RunGc"] = admin_pb2.GcReport(outcome="paused", ticket=3)
    said = dfsctl("gc", "run", "--wait")
    assert said.code == 4
    assert "dfsctl gc resume" in said.err
