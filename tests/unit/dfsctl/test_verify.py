"""verify: what is asked of whom, what counts as a problem, and what it does to the exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dfsctl import verify
from quorumfs.checksum import crc32c
from quorumfs.errors import (
    BusyError,
    ChunkNotFoundError,
    IntegrityError,
    QuorumFSError,
    UnavailableError,
)
from quorumfs.v1 import chunks_pb2
from quorumfs.values import FileType, Location
from tests.unit.dfsctl.conftest import FakeClient, Node

Dfsctl = Callable[..., Any]
DATA = b"the file's content"
GOOD = chunks_pb2.VerifyChunkResponse(ok=True, length=len(DATA), checksum=crc32c(DATA))


@pytest.fixture(autouse=True)
def a_file(client: FakeClient) -> None:
    client.nodes["/a"] = Node(FileType.FILE, data=DATA)
    client.coordinator.answers["Chunks.Verify"] = GOOD


def test_a_good_file_is_exit_code_zero(dfsctl: Dfsctl, client: FakeClient) -> None:
    said = dfsctl("verify", "/a", "-o", "json")
    assert said.code == 0
    assert said.json == {
        "path": "/a",
        "ok": True,
        "files": 1,
        "size_bytes": len(DATA),
        "replicas": 1,
        "problems": [],
    }
    method, request, options = client.coordinator.asked[-1]
    assert (method, request.chunk.hex(), options["address"]) == ("Chunks.Verify", "ab" * 16, "127.0.0.1:1")
    assert "all good" in dfsctl("verify", "/a").text


@pytest.mark.parametrize(
    ("answer", "problem", "code"),
    [
        (chunks_pb2.VerifyChunkResponse(ok=False, detail="block 3", first_bad_offset=196608), "corrupt", 9),
        (chunks_pb2.VerifyChunkResponse(ok=True, length=len(DATA), checksum=1), "corrupt", 9),
        (IntegrityError("its header is damaged"), "corrupt", 9),
        (ChunkNotFoundError("no such chunk"), "missing", 9),
        (UnavailableError("refused"), "unchecked", 8),
    ],
)
def test_a_problem_is_told_and_decides_the_exit_code(
    dfsctl: Dfsctl, client: FakeClient, answer: Any, problem: str, code: int
) -> None:
    client.coordinator.answers["Chunks.Verify"] = answer
    said = dfsctl("verify", "/a", "-o", "json")
    assert said.code == code
    assert said.json["ok"] is False
    assert [(one["node_id"], one["problem"]) for one in said.json["problems"]] == [("d1", problem)]
    assert said.err.startswith("dfsctl: 1 replicas")


def test_a_busy_node_is_asked_again(dfsctl: Dfsctl, client: FakeClient, monkeypatch: Any) -> None:
    answers: list[Any] = [BusyError("full"), BusyError("full"), GOOD]

    def call(method: str, *_: Any, **__: Any) -> Any:
        answer = answers.pop(0) if method == "Chunks.Verify" else None
        if isinstance(answer, QuorumFSError):
            raise answer
        return answer

    client.coordinator.call = call
    monkeypatch.setattr(verify.time, "sleep", lambda _: None)
    assert dfsctl("verify", "/a").code == 0


def test_a_chunk_in_the_metadata_is_checked_by_reading_it(dfsctl: Dfsctl, client: FakeClient) -> None:
    inline = Location(0, len(DATA), "cd" * 16, 0, len(DATA), crc32c(DATA), True, ())
    client.locate = lambda path: [inline]  # type: ignore[method-assign]
    assert dfsctl("verify", "/a").code == 0
    client.fail["/a"] = IntegrityError("the body is damaged")
    client.stat = lambda path: client._status("/a", client.nodes["/a"])  # type: ignore[method-assign]
    assert dfsctl("verify", "/a").code == 9


def test_a_chunk_without_any_replica_is_missing(dfsctl: Dfsctl, client: FakeClient) -> None:
    lost = Location(0, len(DATA), "cd" * 16, 0, len(DATA), 0, False, ())
    client.locate = lambda path: [lost]  # type: ignore[method-assign]
    said = dfsctl("verify", "/a", "-o", "json")
    assert (said.code, said.json["problems"][0]["problem"]) == (9, "missing")


def test_a_directory_wants_r_and_gives_all_below_it(dfsctl: Dfsctl, client: FakeClient) -> None:
    client.nodes["/d"] = Node(FileType.DIRECTORY)
    client.nodes["/d/x"] = Node(FileType.FILE, data=DATA)
    client.nodes["/d/y"] = Node(FileType.FILE, data=DATA)
    assert dfsctl("verify", "/d").code == 2
    assert dfsctl("verify", "-r", "/d", "-o", "json").json["files"] == 2


def test_a_chunk_that_many_files_share_is_checked_once_and_told_of_each(
    dfsctl: Dfsctl, client: FakeClient
) -> None:
    client.nodes["/d"] = Node(FileType.DIRECTORY)
    for name in "xyz":
        client.nodes[f"/d/{name}"] = Node(FileType.FILE, data=DATA)
    said = dfsctl("verify", "-r", "/d", "-o", "json")
    assert (said.json["files"], said.json["replicas"]) == (3, 1)
    assert [method for method, *_ in client.coordinator.asked].count("Chunks.Verify") == 1
    client.coordinator.answers["Chunks.Verify"] = chunks_pb2.VerifyChunkResponse(ok=False, detail="block 3")
    said = dfsctl("verify", "-r", "/d", "-o", "json")
    assert [one["path"] for one in said.json["problems"]] == ["/d/x", "/d/y", "/d/z"]
