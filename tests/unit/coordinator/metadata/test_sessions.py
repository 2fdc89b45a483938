"""Sessions: the same bytes again get the same answer, anything else out of step is refused."""

from __future__ import annotations

import pytest

from coordinator.metadata import queries
from quorumfs.errors import Code
from quorumfs.limits import SESSION_SLOTS_MAX, SESSION_TTL_MS
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.support.machines import Cluster
from tests.support.ops import mkdir, names, put


def opened(cluster: Cluster, **fields: int) -> int:
    return cluster.one(n.Op(open_session=n.OpenSessionRequest(client="test", **fields))).session.session


def close(session: int) -> n.Op:
    return n.Op(close_session=n.CloseSessionRequest(session=session))


def expire(cluster: Cluster, *sessions: int) -> int:
    return cluster.system(e.SystemCommand(expire_sessions=e.ExpireSessions(sessions=sessions))).number


def test_a_batch_sent_again_gets_its_first_answer_and_is_not_done_again(cluster: Cluster) -> None:
    batch = n.Batch(session=opened(cluster), slot=0, seq=1, ops=[mkdir(b"/a")])
    first = cluster.batch(batch)
    cluster.one(n.Op(delete=n.DeleteRequest(ref=n.Ref(path=b"/a"))))
    again = cluster.batch(batch)
    assert again == first
    assert again.index < cluster.replica.index
    assert names(cluster.replica.db, b"/") == []


def test_a_refusal_is_remembered_like_any_answer(cluster: Cluster) -> None:
    batch = n.Batch(session=opened(cluster), slot=0, seq=1, ops=[put(b"/a/x")])
    assert cluster.batch(batch).results[0].code == Code.NOT_FOUND
    cluster.one(mkdir(b"/a"))
    assert cluster.batch(batch).results[0].code == Code.NOT_FOUND


def test_twice_in_one_entry_the_second_gets_the_answer_of_the_first(cluster: Cluster) -> None:
    raw = n.Batch(session=opened(cluster), slot=0, seq=1, ops=[mkdir(b"/a")]).SerializeToString()
    first, second = cluster.entry(e.Item(batch=raw), e.Item(batch=raw))
    assert first == second
    assert n.BatchResult.FromString(first).results[0].code == Code.OK


@pytest.mark.parametrize("seq", [0, 1, 2, 4, 2**64 - 1])
def test_a_number_that_is_not_the_next_is_refused(cluster: Cluster, seq: int) -> None:
    session = opened(cluster)
    for number in (1, 2):
        cluster.batch(n.Batch(session=session, seq=number, ops=[mkdir(b"/%d" % number)]))
    answer = cluster.batch(n.Batch(session=session, seq=seq, ops=[mkdir(b"/other")]))
    assert answer.code == Code.STALE_SEQUENCE
    assert not answer.results
    assert names(cluster.replica.db, b"/") == [b"1", b"2"]


def test_the_first_number_of_a_slot_is_1(cluster: Cluster) -> None:
    session = opened(cluster)
    for seq, code in ((0, Code.STALE_SEQUENCE), (2, Code.STALE_SEQUENCE), (1, Code.OK)):
        assert cluster.batch(n.Batch(session=session, slot=5, seq=seq)).code == code


def test_slots_count_for_themselves(cluster: Cluster) -> None:
    session = opened(cluster)
    for slot in (0, SESSION_SLOTS_MAX - 1):
        assert cluster.batch(n.Batch(session=session, slot=slot, seq=1)).code == Code.OK
    beyond = cluster.batch(n.Batch(session=session, slot=SESSION_SLOTS_MAX, seq=1))
    assert beyond.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("session", [1, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_session_that_is_not_open_is_refused_whole(cluster: Cluster, session: int) -> None:
    answer = cluster.batch(n.Batch(session=session, slot=2, seq=1, ops=[mkdir(b"/a")]))
    assert (answer.code, answer.slot, answer.seq) == (Code.SESSION_EXPIRED, 2, 1)
    assert names(cluster.replica.db, b"/") == []


def test_a_session_has_a_number_of_63_bits_and_its_limits(cluster: Cluster) -> None:
    made = cluster.one(n.Op(open_session=n.OpenSessionRequest(client="c" * 5000, ttl_ms=2**64 - 1)))
    assert 0 < made.session.session < 2**63
    assert made.session.ttl_ms == SESSION_TTL_MS
    assert made.session.slots == SESSION_SLOTS_MAX
    assert cluster.one(n.Op(open_session=n.OpenSessionRequest(ttl_ms=500))).session.ttl_ms == 500


def test_a_closed_session_forgets_its_slots_and_closing_again_is_harmless(cluster: Cluster) -> None:
    session = opened(cluster)
    batch = n.Batch(session=session, seq=1, ops=[mkdir(b"/a")])
    cluster.batch(batch)
    assert [one.code for one in cluster.do(close(session), close(session), close(2**64 - 1))] == [0, 0, 0]
    assert cluster.batch(batch).code == Code.SESSION_EXPIRED


def test_a_session_may_close_itself(cluster: Cluster) -> None:
    session = opened(cluster)
    answer = cluster.batch(n.Batch(session=session, seq=1, ops=[close(session), mkdir(b"/a")]))
    assert [one.code for one in answer.results] == [Code.OK, Code.OK]
    assert cluster.replica.db.execute("SELECT count(*) FROM slot").fetchone() == (0,)


def test_a_session_lives_for_its_time_after_its_last_batch(cluster: Cluster) -> None:
    session = opened(cluster)
    cluster.now_ms += SESSION_TTL_MS - 1
    cluster.batch(n.Batch(session=session, seq=1))
    cluster.now_ms += SESSION_TTL_MS - 1
    assert queries.sessions_past(cluster.replica.db, cluster.now_ms, 10) == []
    assert expire(cluster, session) == 0
    cluster.now_ms += 1
    assert queries.sessions_past(cluster.replica.db, cluster.now_ms, 10) == [session]
    assert expire(cluster, session, session, 2**64 - 1) == 1
    assert cluster.batch(n.Batch(session=session, seq=2)).code == Code.SESSION_EXPIRED
