"""The web pages as files: all there, nothing inline, nothing from elsewhere; and the two endpoints made for them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from quorumfs.errors import NotFoundError, NotLeaderError
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import admin_pb2, namespace_pb2, types_pb2
from sidecar.app import create_app
from sidecar.views.ui import pages
from tests.unit.sidecar.fakes import C1, C2, C3, FakeNode, agent, leader_view, status, well


def client(nodes: dict[str, FakeNode], **kwargs: Any) -> FlaskClient:
    return create_app(agent(nodes, **kwargs)).test_client()


def of(name: str) -> str:
    return pages()[name].content.decode()


def test_the_pages_are_served_with_a_policy_that_allows_nothing_inline_and_nothing_from_elsewhere() -> None:
    tested = client({})
    for path in ("/ui/", *(f"/ui/{name}" for name in pages())):
        answer = tested.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        again = tested.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
    assert tested.get("/ui/").mimetype == "text/html"
    assert tested.get("/ui/app.js").mimetype == "text/javascript"
    assert tested.get("/ui").headers["Location"].endswith("/ui/")
    first = tested.get("/")
    assert (first.status_code, first.headers["Location"]) == (302, "ui/")


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "..%2fapp.py", "%2e%2e%2fui.py", "../__init__.py", "style.css/", "%00", "__init__.py"],
)
def test_nothing_but_the_pages_files_is_served(name: str) -> None:
    assert client({}).get(f"/ui/{name}").status_code == 404


def test_no_page_has_anything_inline() -> None:
    html = of("index.html")
    assert not re.search(r"<style|style=|\son\w+=|javascript:|<script(?![^>]*src=)", html)
    for name in pages():
        if name.endswith(".js"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|style:", of(name)
            ), name


def test_whatever_the_pages_name_is_served_and_nothing_is_from_elsewhere() -> None:
    named = set(re.findall(r'(?:src|href)="([\w.]+\.(?:js|css|svg))"', of("index.html")))
    for name in pages():
        if name.endswith(".js"):
            named |= set(re.findall(r'from "\./([\w.]+)"', of(name)))
        addresses = set(re.findall(r"https?://[\w.]+", of(name)))
        assert addresses <= {"http://www.w3.org"}, "the namespace of SVG is a name, not a place"
    assert named | {"index.html"} == set(pages())


def test_a_token_never_comes_into_an_address() -> None:
    assert "sessionStorage" in of("api.js")
    for name in pages():
        assert not re.search(r"localStorage|document\.cookie|[?&]token=", of(name)), name


def listing(*names: bytes, age_ms: int = 0) -> namespace_pb2.ReadBatchResult:
    result = namespace_pb2.ReadBatchResult(age_ms=age_ms)
    found = result.results.add().listing
    found.directory.path = b"/data"
    for name in names:
        found.entries.add(name=name, type=types_pb2.INODE_TYPE_FILE, size=5, replication=3, mode=0o600)
    return result


def test_a_directory_is_listed_by_the_leader() -> None:
    leader = FakeNode({"Read": listing(b"a", "\u00e4".encode())})
    answer = client({C1: leader, "127.0.0.1:7500": well()}).get("/v1/files?path=/data&limit=2&after=0")
    assert answer.status_code == 200
    assert answer.json is not None
    assert [one["path"] for one in answer.json["entries"]] == ["/data/a", "/data/\u00e4"]
    assert answer.json["current"] is True
    ((_, asked),) = leader.asked
    assert asked.consistency == namespace_pb2.CONSISTENCY_LINEARIZABLE
    assert (asked.ops[0].list.ref.path, asked.ops[0].list.after, asked.ops[0].list.limit) == (
        b"/data",
        b"0",
        2,
    )


def test_without_a_leader_a_directory_is_told_as_old_as_it_is() -> None:
    def read(asked: namespace_pb2.ReadBatch) -> namespace_pb2.ReadBatchResult:
        if asked.consistency == namespace_pb2.CONSISTENCY_STALE:
            return listing(b"a", age_ms=9_000)
        return namespace_pb2.ReadBatchResult(error=to_detail(NotLeaderError("c2 does not lead")))

    answer = client({C2: FakeNode({"Read": read}), "127.0.0.1:7500": well()}).get("/v1/files")
    assert answer.status_code == 200
    assert answer.json is not None
    assert (answer.json["current"], answer.json["age_seconds"]) == (False, 9.0)
    assert "does not lead" in answer.json["reason"]
    assert answer.json["observed_by"] == C2


@pytest.mark.parametrize(
    ("query", "expected"),
    [("path=relative", 400), ("path=/a/../b", 400), ("limit=0", 400), ("limit=x", 400), ("path=/gone", 404)],
)
def test_a_bad_question_about_files_is_refused(query: str, expected: int) -> None:
    gone = namespace_pb2.ReadBatchResult(
        results=[namespace_pb2.ReadResult(error=to_detail(NotFoundError("/gone is not there")))]
    )
    for path in ("/v1/files", "/v1/files/layout"):
        if "limit" in query and "layout" in path:
            continue
        tested = client({C1: FakeNode({"Read": gone}), "127.0.0.1:7500": well()})
        assert tested.get(f"{path}?{query}").status_code == expected


def test_what_the_collection_does_is_told_by_the_leader_not_by_a_follower_that_cannot_know() -> None:
    """A follower tells no cycle and no quarantine; its answer alone would look as if there were none."""
    hint = types_pb2.LeaderHint(node_id="c3", grpc=C3)
    follower = well(GetStatus=status(leader_view("c3", C3), node_id="c1"))
    follower.answers["GetGc"] = admin_pb2.GcStatus(state="idle", leader=hint)
    leader = FakeNode({"GetGc": admin_pb2.GcStatus(state="running", quarantined=4, authoritative=True)})
    answer = client({C1: follower, C3: leader}, role="coordinator").get("/v1/gc")
    assert answer.json is not None
    assert (answer.json["state"], answer.json["quarantined"], answer.json["observed_by"]) == (
        "running",
        4,
        C3,
    )
