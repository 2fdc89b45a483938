"""Hashes: the same state and log have the same hash, another has another, however a member puts it in words."""

from __future__ import annotations

import pytest

from coordinator.metadata import context, hashing
from quorumfs.errors import Code, QuorumFSError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.machines import Cluster, Replica
from tests.support.ops import mkdir, put


def hash_of(cluster: Cluster) -> bytes:
    return hashing.state_hash(cluster.replica.db)


def test_a_snapshot_has_the_hash_of_its_original(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/a"), put(b"/a/x", b"body"))
    assert hashing.state_hash(Replica(cluster.replica.image()).db) == hash_of(cluster)


def test_rows_have_one_order_whatever_the_order_in_which_they_came() -> None:
    hashes = set()
    for keys in ((1, 2), (2, 1)):
        db = Cluster().replica.db
        for key in keys:
            db.execute(
                "INSERT INTO disk (key, node, disk_id, path) VALUES (?, 1, ?, 'x')", (key + 9, str(key))
            )
        hashes.add(hashing.state_hash(db))
    assert len(hashes) == 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE inode SET mode = mode + 1",
        "UPDATE inode SET name = x'00' WHERE id = 1",
        "DELETE FROM node WHERE key = 1",
        "INSERT INTO alarm VALUES ('a', 'b', 1)",
        "UPDATE chunk SET upload = x''",
        "UPDATE slot SET result = x'1009'",
        "CREATE TABLE other (id INTEGER PRIMARY KEY)",
        "ALTER TABLE alarm ADD COLUMN other",
    ],
)
def test_every_change_of_the_state_changes_its_hash(cluster: Cluster, change: str) -> None:
    cluster.one(put(b"/x", b"body"))
    session = cluster.one(n.Op(open_session=n.OpenSessionRequest())).session.session
    cluster.batch(n.Batch(session=session, seq=1))
    other = Replica(cluster.replica.image())
    other.db.execute(change)
    assert hashing.state_hash(other.db) != hash_of(cluster)


def test_a_text_is_hashed_to_its_end(cluster: Cluster) -> None:
    hashes = set()
    for path in ("/a\0b", "/a\0c", "/a"):
        cluster.replica.db.execute("UPDATE disk SET path = ?", (path,))
        hashes.add(hash_of(cluster))
    cluster.replica.db.execute("UPDATE disk SET path = '/disk'")
    assert len(hashes) == 3


def reworded(error: QuorumFSError) -> t.ErrorDetail:
    return t.ErrorDetail(code=t.ErrorCode.ValueType(error.code), message="in other words")


def test_members_that_word_a_refusal_differently_are_the_same_state_machine(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = Replica(cluster.replica.image())
    session = cluster.one(n.Op(open_session=n.OpenSessionRequest())).session.session
    stored = n.Batch(session=session, seq=1, ops=[put(b"/no/x"), mkdir(b"/a")])
    results = [cluster.batch(stored).results[0], cluster.batch(stored).results[0]]
    assert cluster.batch(n.Batch(session=session, seq=9)).code == Code.STALE_SEQUENCE
    assert cluster.system(e.SystemCommand(forget_node=e.ForgetNode(node_id="d9"))).code == Code.NOT_FOUND
    cluster.entry(e.Item(batch=b"\xff"), e.Item(system=b"\xff"))
    monkeypatch.setattr(context, "detail_of", reworded)
    first = twin.index + 1
    told = [twin.apply(first + k, entry) for k, entry in enumerate(cluster.log[first - 2 :])]
    other = n.BatchResult.FromString(told[1][0]).results[0]
    assert (other.code, other.error.message) == (results[0].code, "in other words")
    assert n.BatchResult.FromString(told[2][0]).results[0] == other  # what this member stored
    assert twin.machine.rolling == cluster.replica.machine.rolling
    assert hashing.state_hash(twin.db) == hash_of(cluster)


def test_members_of_other_outcomes_are_not_the_same() -> None:
    entry, code = b"entry", t.ERROR_CODE_NOT_FOUND
    refused = n.BatchResult(results=[n.Result(code=code)]).SerializeToString()
    done = n.BatchResult(results=[n.Result()]).SerializeToString()
    rolled = {
        hashing.roll(b"", index, log, [hashing.outcome(one) for one in outcomes])
        for index, log, outcomes in (
            (1, entry, [refused]),
            (1, entry, [done]),
            (1, entry, [done, refused]),
            (1, entry, [refused, done]),
            (1, b"other", [refused]),
            (2, entry, [refused]),
        )
    }
    assert len(rolled) == 6
