"""Uploads, sessions and maintenance end when their time is over, and not before."""

from __future__ import annotations

import pytest

from coordinator.duties.expiry import Expiry
from coordinator.metadata import queries
from quorumfs.errors import Code
from quorumfs.limits import SESSION_TTL_MS, UPLOAD_TTL_MS
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.support.coordinator import Coordinator

UPLOAD_SECONDS, SESSION_SECONDS = UPLOAD_TTL_MS / 1000, SESSION_TTL_MS / 1000


@pytest.fixture
def duty(leader: Coordinator) -> Expiry:
    leader.lead()
    return Expiry(leader.desk, leader.soft, UPLOAD_SECONDS, SESSION_SECONDS)


def session(leader: Coordinator) -> int:
    (made,) = leader.batch(n.Op(open_session=n.OpenSessionRequest(client="test")))
    assert made.code == Code.OK
    return made.session.session


def test_nothing_ends_before_its_time(leader: Coordinator, duty: Expiry) -> None:
    leader.opened(b"/x")
    session(leader)
    leader.clock.advance(UPLOAD_SECONDS - 1)
    assert duty.work() == "nothing to expire"


def test_an_upload_and_a_session_without_a_sign_of_life_end(leader: Coordinator, duty: Expiry) -> None:
    upload, number = leader.opened(b"/x"), session(leader)
    leader.clock.advance(UPLOAD_SECONDS)
    duty.work()
    assert queries.open_uploads(leader.db, [upload]) == set()
    assert not queries.is_session(leader.db, number)
    assert duty.work() == "nothing to expire"


def test_a_sign_of_life_to_this_leader_is_enough(leader: Coordinator, duty: Expiry) -> None:
    upload, number = leader.opened(b"/x"), session(leader)
    leader.clock.advance(UPLOAD_SECONDS - 1)
    leader.soft.keep_alive([upload], number)
    leader.clock.advance(UPLOAD_SECONDS - 1)
    assert duty.work() == "nothing to expire"
    leader.clock.advance(1)
    duty.work()
    assert queries.open_uploads(leader.db, [upload]) == set()


def test_a_new_leader_gives_everything_its_full_time_again(leader: Coordinator, duty: Expiry) -> None:
    upload = leader.opened(b"/x")
    leader.clock.advance(UPLOAD_SECONDS - 1)
    leader.begin()
    leader.clock.advance(UPLOAD_SECONDS - 1)
    assert duty.work() == "nothing to expire"
    assert queries.open_uploads(leader.db, [upload]) == {upload}


def test_those_that_live_by_signs_alone_do_not_hide_the_dead(
    leader: Coordinator, duty: Expiry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.duties.expiry.PER_ENTRY", 2)
    alive = [leader.opened(b"/alive%d" % k) for k in range(5)]
    dead = [leader.opened(b"/dead%d" % k) for k in range(3)]
    sessions = [session(leader) for _ in range(8)]
    leader.clock.advance(SESSION_SECONDS - 1)
    leader.soft.keep_alive(alive, 0)
    for number in sorted(sessions)[:5]:
        leader.soft.keep_alive([], number)
    leader.clock.advance(1)
    assert duty.work() == "ended 2 uploads, 2 sessions, the maintenance of 0 nodes"
    assert duty.work() == "ended 1 uploads, 1 sessions, the maintenance of 0 nodes"
    assert duty.work() == "nothing to expire"
    assert queries.open_uploads(leader.db, [*alive, *dead]) == set(alive)


def test_maintenance_ends_by_itself(leader: Coordinator) -> None:
    leader.lead("d1", "d2")
    duty = Expiry(leader.desk, leader.soft, UPLOAD_SECONDS, SESSION_SECONDS)
    until = leader.consensus.cluster_ms() + 60_000
    command = e.SetNode(
        node_id="d1", set_intent=True, intent=t.NODE_INTENT_MAINTENANCE, maintenance_until_cluster_ms=until
    )
    leader.system(e.SystemCommand(set_node=command))
    assert queries.pending_deadline(leader.db) == until
    leader.clock.advance(59)
    assert duty.work() == "nothing to expire"
    leader.clock.advance(1)
    duty.work()
    assert {row.info.node_id: row.intent for row in queries.node_rows(leader.db)}["d1"] == (
        t.NODE_INTENT_NORMAL
    )
    assert leader.soft.known()["d1"].intent == t.NODE_INTENT_NORMAL
    assert queries.pending_deadline(leader.db) is None


def test_it_looks_often_enough_for_the_shortest_time_to_live(leader: Coordinator) -> None:
    assert Expiry(leader.desk, leader.soft, 2.0, 3600.0).wait() == 0.5
    assert Expiry(leader.desk, leader.soft, 3600.0, 3600.0).wait() == 10.0
    assert Expiry(leader.desk, leader.soft, 3600.0, 0.1).wait() == 0.2
