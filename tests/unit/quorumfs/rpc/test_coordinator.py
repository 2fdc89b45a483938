"""The stub that follows the leader: what it sends to whom, again, and what it makes of the answers."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from quorumfs import limits
from quorumfs.clock import ManualClock
from quorumfs.errors import (
    BusyError,
    Code,
    InvalidArgumentError,
    NoLeaderError,
    NoSpaceError,
    OutcomeUnknownError,
    QuorumFSError,
    SessionExpiredError,
    UnavailableError,
)
from quorumfs.rpc.coordinator import Coordinator
from quorumfs.v1 import admin_pb2, membership_pb2
from quorumfs.v1 import namespace_pb2 as pb
from tests.unit.quorumfs.fakes import Cluster, broken, timed_out, with_trailer

GET_GC = admin_pb2.GetGcRequest()


class World:
    """A cluster in memory, a coordinator stub before it, and a clock that the pauses move."""

    def __init__(self, addresses: tuple[str, ...] = ("c1:1", "c2:1", "c3:1"), **options: object) -> None:
        self.cluster = Cluster()
        self.net = self.cluster.net
        self.clock = ManualClock()
        self.stub = Coordinator(
            addresses,
            self.net,
            clock=self.clock,
            chance=lambda: 0.5,
            pause=self.clock.advance,
            **options,  # type: ignore[arg-type]  what a test wants different
        )

    def mkdir(self, path: str) -> pb.Result:
        return self.stub.do([mkdir(path)])[0]

    def sent(self, method: str) -> list[tuple[str, bytes]]:
        return [(address, raw) for address, name, raw in self.net.calls if name == method]


def mkdir(path: str) -> pb.Op:
    return pb.Op(mkdir=pb.MkdirRequest(ref=pb.Ref(path=path.encode())))


def stat(path: str) -> pb.ReadOp:
    return pb.ReadOp(stat=pb.StatRequest(ref=pb.Ref(path=path.encode())))


def fails_once(world: World, method: str, error: Exception, address: str | None = None) -> None:
    """The next call of `method` arrives nowhere."""
    pending = [error]

    def before(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/" + method) and address in (None, where) and pending and is_change(raw, method):
            raise pending.pop()

    world.net.before = before


def is_change(raw: bytes, method: str) -> bool:
    return method != "Do" or pb.Batch.FromString(raw).session != 0


def loses_reply_once(world: World, error: Exception) -> None:
    """The next change happens, but nobody hears of it."""
    pending = [error]

    def after(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do") and pending and is_change(raw, "Do"):
            raise pending.pop()

    world.net.after = after


def test_a_change_happens_in_a_session_that_is_opened_once() -> None:
    world = World()
    assert world.mkdir("/a").code == Code.OK
    assert world.mkdir("/b").code == Code.OK
    assert world.cluster.applied == ["open_session", "mkdir", "mkdir"]
    batches = [pb.Batch.FromString(raw) for _, raw in world.sent("Do")]
    assert [batch.seq for batch in batches] == [0, 1, 2]
    assert len({batch.session for batch in batches[1:]}) == 1


def test_a_follower_s_hint_leads_to_the_leader_which_is_then_asked_first() -> None:
    world = World()
    world.cluster.leader = "c3:1"
    world.mkdir("/a")
    assert [address for address, _ in world.sent("Do")] == ["c1:1", "c3:1", "c3:1"]
    assert world.sent("GetLeader") == []


def test_who_is_in_a_hurry_asks_first_who_leads() -> None:
    world = World(fail_fast=True)
    world.cluster.leader = "c3:1"
    world.mkdir("/a")
    assert [address for address, _ in world.sent("GetLeader")] == ["c1:1", "c3:1"]
    assert [address for address, _ in world.sent("Do")] == ["c3:1", "c3:1"]


def test_a_lost_reply_is_asked_for_with_the_same_bytes_and_happens_once() -> None:
    world = World()
    world.mkdir("/a")
    loses_reply_once(world, broken())
    assert world.mkdir("/b").code == Code.OK
    assert world.cluster.applied.count("mkdir") == 2
    sent = [raw for _, raw in world.sent("Do")]
    assert sent[-1] == sent[-2]


def test_a_failover_after_the_change_was_decided_gives_the_stored_answer_of_the_next_leader() -> None:
    world = World()
    world.mkdir("/a")

    def die(where: str, path: str, raw: bytes) -> None:
        if where == "c1:1" and path.endswith("/Do"):
            world.net.down.add("c1:1")
            world.cluster.leader = "c2:1"
            raise broken()

    world.net.after = die
    assert world.mkdir("/b").code == Code.OK
    assert world.cluster.applied.count("mkdir") == 2


def test_a_stopped_leader_is_left_after_one_short_try() -> None:
    world = World()
    world.mkdir("/a")

    def stopped(where: str, path: str, raw: bytes) -> None:
        if where == "c1:1":
            world.clock.advance(limits.RPC_SECONDS_FIRST)
            world.cluster.leader = "c2:1"
            raise timed_out()

    world.net.before = stopped
    begun = world.clock.now
    assert world.mkdir("/b").code == Code.OK
    assert world.clock.now - begun < limits.RPC_SECONDS_FIRST + 0.5


def test_while_nobody_leads_it_waits_and_goes_on() -> None:
    world = World()
    world.mkdir("/a")
    world.cluster.leader = ""
    asked = []

    def elect(where: str, path: str, raw: bytes) -> None:
        asked.append(where)
        if len(asked) == 10:
            world.cluster.leader = "c2:1"

    world.net.before = elect
    assert world.mkdir("/b").code == Code.OK


def test_one_that_hangs_is_left_at_the_first_contact_after_a_moment() -> None:
    world = World(fail_fast=True)
    world.cluster.leader = "c2:1"

    def stopped(where: str, path: str, raw: bytes) -> None:
        if where == "c1:1":
            world.clock.advance(limits.LOOK_SECONDS)
            raise timed_out()

    world.net.before = stopped
    begun = world.clock.now
    assert world.mkdir("/a").code == Code.OK
    assert world.clock.now - begun <= limits.LOOK_SECONDS
    assert [address for address, _ in world.sent("Do")] == ["c2:1", "c2:1"]
    assert world.stub.known[-1] == "c1:1"


def test_where_nobody_has_led_for_long_that_is_said_at_once_and_nothing_is_sent() -> None:
    world = World(fail_fast=True)
    world.cluster.leader, world.cluster.leaderless_seconds = "", 12.0
    world.net.down.add("c1:1")
    begun = world.clock.now
    with pytest.raises(NoLeaderError, match="c3 has heard no leader for 12 s"):
        world.mkdir("/a")
    with pytest.raises(NoLeaderError):
        world.stub.leader()
    assert world.clock.now - begun < 1.0
    assert world.sent("Do") == []
    assert world.stub.cluster_view(leader=False).observed_by in ("c2", "c3")


def test_a_question_about_the_cluster_is_answered_in_two_seconds_right_after_the_quorum_was_lost() -> None:
    """The leader hangs, another is dead, and the third still takes the first for the leader, or has just ceased to."""
    for last_word in ("c1", ""):
        for ask in (lambda stub: stub.leader_view(), lambda stub: stub.control("Control.GetGc", GET_GC)):
            world = World(fail_fast=True)
            world.cluster.leader, world.cluster.leaderless_seconds = last_word and f"{last_word}:1", 0.4
            world.net.down.add("c2:1")

            def stopped(where: str, path: str, raw: bytes, world: World = world) -> None:
                if where == "c1:1":
                    world.clock.advance(limits.LOOK_AGAIN_SECONDS)
                    raise timed_out()

            world.net.before = stopped
            begun = world.clock.now
            with pytest.raises(NoLeaderError) as refused:
                ask(world.stub)
            assert world.clock.now - begun <= 2.0
            assert "among c" in refused.value.message
            assert "c1:1 does not answer" in refused.value.cause
            assert "c2:1 does not run" in refused.value.cause
            word = "c3 takes c1 for the leader" if last_word else "c3 has heard no leader for 0 s"
            assert word in refused.value.cause


def test_who_has_answered_once_is_not_said_to_be_silent_when_it_is_late_the_next_time() -> None:
    world = World(fail_fast=True)
    world.cluster.leader, world.cluster.leaderless_seconds = "", 0.2
    world.net.down.add("c1:1")

    def late(where: str, path: str, raw: bytes) -> None:
        if where == "c2:1" or len([one for one, _ in world.sent("GetLeader") if one == "c3:1"]) > 1:
            world.clock.advance(limits.LOOK_SECONDS)
            raise timed_out()

    world.net.before = late
    with pytest.raises(NoLeaderError) as refused:
        world.stub.leader_view()
    assert "c3 has heard no leader" in refused.value.cause
    assert "c2:1 does not answer" in refused.value.cause


def test_a_question_about_the_cluster_waits_for_an_election_that_is_under_way() -> None:
    world = World(fail_fast=True)
    world.cluster.leader, world.cluster.leaderless_seconds = "", 0.2
    begun = world.clock.now

    def elect(where: str, path: str, raw: bytes) -> None:
        if world.clock.now - begun > 0.8:
            world.cluster.leader = "c2:1"

    world.net.before = elect
    assert world.stub.leader_view().leader.node_id == "c2"


def test_a_question_about_the_cluster_reaches_coordinators_that_are_far_away() -> None:
    world = World(fail_fast=True)

    def far(where: str, path: str, raw: bytes) -> None:
        if path.endswith("GetLeader") and len(world.sent("GetLeader")) <= 3:
            world.clock.advance(limits.LOOK_SECONDS)
            raise timed_out()
        world.clock.advance(0.7)

    world.net.before = far
    assert world.stub.leader_view().leader.node_id == "c1"


def test_files_are_waited_for_where_a_question_about_the_cluster_is_not() -> None:
    world = World(fail_fast=True)
    world.cluster.leader, world.cluster.leaderless_seconds = "", 0.4
    begun = world.clock.now
    with pytest.raises(NoLeaderError):
        world.mkdir("/a")
    assert world.clock.now - begun > limits.FIRST_ANSWER_SECONDS


@pytest.mark.parametrize(
    ("hurry", "limit"), [(True, limits.NOBODY_SECONDS), (False, limits.FIRST_ANSWER_SECONDS)]
)
def test_that_no_coordinator_runs_at_all_is_told_soon(hurry: bool, limit: float) -> None:
    world = World(fail_fast=hurry)
    world.net.down.update(world.cluster.coordinators)
    begun = world.clock.now
    with pytest.raises(NoLeaderError, match="c2:1"):
        world.mkdir("/a")
    assert world.clock.now - begun <= limit + 0.5


def test_coordinators_that_are_far_away_are_reached_also_by_who_is_in_a_hurry() -> None:
    world = World(fail_fast=True)

    def far(where: str, path: str, raw: bytes) -> None:
        if path.endswith("GetLeader"):
            world.clock.advance(limits.LOOK_SECONDS)
            raise timed_out()
        world.clock.advance(0.7)

    world.net.before = far
    assert world.mkdir("/a").code == Code.OK


def test_that_no_coordinator_answers_is_told_within_six_seconds() -> None:
    world = World(fail_fast=True)

    def stopped(where: str, path: str, raw: bytes) -> None:
        world.clock.advance(limits.LOOK_SECONDS if path.endswith("GetLeader") else limits.RPC_SECONDS_FIRST)
        raise timed_out()

    world.net.before = stopped
    begun = world.clock.now
    with pytest.raises(NoLeaderError, match="no answer"):
        world.mkdir("/a")
    assert world.clock.now - begun <= limits.FIRST_ANSWER_SECONDS + limits.RPC_SECONDS_FIRST + 0.5
    with pytest.raises(NoLeaderError):
        world.stub.read([stat("/a")])


def test_a_cluster_that_is_electing_at_the_first_contact_is_given_a_little_longer() -> None:
    world = World()
    world.cluster.leader = ""
    begun = world.clock.now
    with pytest.raises(NoLeaderError):
        world.mkdir("/a")
    assert limits.FIRST_ANSWER_SECONDS < world.clock.now - begun <= limits.FIRST_CONTACT_SECONDS + 0.5


def test_once_reached_a_lost_cluster_is_waited_for_until_the_deadline() -> None:
    world = World(timeout=30.0)
    world.mkdir("/a")
    world.net.down.update(world.cluster.coordinators)
    begun = world.clock.now
    with pytest.raises(NoLeaderError):
        world.mkdir("/b")
    assert 29 < world.clock.now - begun < 32


def test_a_change_whose_answer_never_comes_is_unknown_and_its_session_is_not_used_again() -> None:
    world = World(timeout=5.0)
    world.mkdir("/a")
    first = pb.Batch.FromString(world.sent("Do")[-1][1]).session

    def lost(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do"):
            world.clock.advance(1.0)
            raise broken()

    world.net.after = lost
    with pytest.raises(OutcomeUnknownError) as caught:
        world.mkdir("/b")
    assert caught.value.code is Code.OUTCOME_UNKNOWN
    world.net.after = lambda *_: None
    assert world.mkdir("/c").code == Code.OK
    assert pb.Batch.FromString(world.sent("Do")[-1][1]).session != first


def test_an_expired_session_with_nothing_in_flight_is_replaced_without_a_word() -> None:
    world = World()
    world.mkdir("/a")
    world.cluster.sessions.clear()
    assert world.mkdir("/b").code == Code.OK
    assert world.cluster.applied == ["open_session", "mkdir", "open_session", "mkdir"]


def test_an_expired_session_with_a_change_in_doubt_is_unknown_and_never_sent_again() -> None:
    world = World()
    world.mkdir("/a")

    def lose_and_expire(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do") and is_change(raw, "Do") and world.cluster.sessions:
            world.cluster.sessions.clear()
            raise broken()

    world.net.after = lose_and_expire
    with pytest.raises(SessionExpiredError):
        world.mkdir("/b")
    assert world.cluster.applied.count("mkdir") == 2
    world.net.after = lambda *_: None
    assert world.mkdir("/c").code == Code.OK


def test_a_refused_message_uses_no_sequence_number() -> None:
    world = World()
    world.mkdir("/a")
    fails_once(world, "Do", with_trailer(InvalidArgumentError("an unknown field")))
    with pytest.raises(InvalidArgumentError):
        world.mkdir("/b")
    assert world.mkdir("/c").code == Code.OK


def test_a_leader_whose_disk_is_full_is_asked_again_until_another_leads() -> None:
    world = World()
    world.mkdir("/a")
    refusals = [3]

    def full(where: str, path: str, raw: bytes) -> None:
        if where == "c1:1" and path.endswith("/Do") and world.cluster.leader == where:
            refusals[0] -= 1
            if not refusals[0]:
                world.cluster.leader = "c2:1"
            raise with_trailer(NoSpaceError("the disk of c1 is full"))

    world.net.before = full
    assert world.mkdir("/b").code == Code.OK
    assert world.cluster.applied.count("mkdir") == 2


def test_full_disks_everywhere_are_told_by_their_name() -> None:
    world = World(timeout=2.0)
    world.mkdir("/a")

    def full(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do"):
            raise with_trailer(NoSpaceError("the disk of c1 is full"))

    world.net.before = full
    with pytest.raises(NoSpaceError, match="c1"):
        world.mkdir("/b")
    world.net.before = lambda where, path, raw: None
    assert world.mkdir("/b").code == Code.OK, "nothing had happened, and the session goes on"


def test_a_busy_leader_is_asked_again() -> None:
    world = World()
    world.mkdir("/a")
    fails_once(world, "Do", with_trailer(BusyError("the queue is full")))
    assert world.mkdir("/b").code == Code.OK
    assert {address for address, _ in world.sent("Do")} == {"c1:1"}


def test_a_refusal_of_one_operation_is_its_result_and_not_an_error() -> None:
    world = World()
    results = world.stub.do([mkdir("/a"), mkdir("/a"), mkdir("/b")])
    assert [result.code for result in results] == [0, Code.ALREADY_EXISTS, 0]


def test_many_operations_are_cut_into_messages_and_stay_in_order() -> None:
    world = World()
    results = world.stub.do([mkdir(f"/{n}") for n in range(600)])
    assert [result.info.path for result in results] == [f"/{n}".encode() for n in range(600)]
    sizes = [len(pb.Batch.FromString(raw).ops) for _, raw in world.sent("Do")][1:]
    assert sizes == [256, 256, 88]


def test_large_operations_fill_a_message_by_bytes() -> None:
    world = World()
    body = bytes(16000)
    from quorumfs.checksum import crc32c

    ops = [
        pb.Op(put_file=pb.PutFileRequest(ref=pb.Ref(path=b"/%d" % n), body=body, checksum=crc32c(body)))
        for n in range(50)
    ]
    assert len(world.stub.do(ops)) == 50
    assert all(len(raw) <= limits.BATCH_BYTES_MAX for _, raw in world.sent("Do"))


def test_reads_are_repeated_freely() -> None:
    world = World()
    world.mkdir("/a")
    fails_once(world, "Read", broken())
    assert world.stub.read([stat("/a")])[0].info.path == b"/a"


def layout(path: str) -> pb.ReadOp:
    return pb.ReadOp(layout=pb.LayoutRequest(ref=pb.Ref(path=path.encode())))


def test_questions_of_one_caller_share_one_stream() -> None:
    world = World()
    world.stub.read([layout("/a")])
    world.stub.read([layout("/b")])
    assert [one.path for one in world.net.exchanges] == ["/quorumfs.v1.Namespace/Read"]


def test_a_question_does_not_wait_for_the_one_that_has_the_stream() -> None:
    world = World()
    answered: list[int] = []

    def ask_another(address: str, path: str, raw: bytes) -> None:
        world.net.before = lambda *_: None
        answered.append(len(world.stub.read([layout("/b")])))

    world.net.before = ask_another
    world.stub.read([layout("/a")])
    assert answered == [1]
    assert len(world.net.exchanges) == 1


def test_a_stale_read_is_answered_by_anybody() -> None:
    world = World()
    world.mkdir("/a")
    world.net.down.update(["c1:1", "c2:1"])
    assert world.stub.read([stat("/a")], pb.CONSISTENCY_STALE)[0].info.path == b"/a"
    assert world.sent("Read")[-1][0] == "c3:1"


def test_the_only_known_coordinator_tells_the_others() -> None:
    world = World(("c1:1",))
    world.mkdir("/a")
    assert set(world.stub.known) == {"c1:1", "c2:1", "c3:1"}
    world.net.down.add("c1:1")
    world.cluster.leader = "c3:1"
    assert world.mkdir("/b").code == Code.OK


def test_the_leader_is_whom_it_says_itself() -> None:
    world = World()
    world.cluster.leader = "c2:1"
    leader = world.stub.leader()
    assert (leader.node_id, leader.grpc) == ("c2", "c2:1")
    world.net.down.add("c2:1")
    with pytest.raises(NoLeaderError):
        world.stub.leader()


def test_a_call_by_name_follows_the_leader_through_its_reply() -> None:
    world = World()
    world.cluster.leader = "c3:1"
    reply = world.stub.control("Control.TransferLeadership", admin_pb2.TransferLeadershipRequest())
    assert reply.detail == "done"


def test_a_call_that_changes_something_is_not_repeated_when_its_answer_was_lost() -> None:
    world = World()

    def lost(where: str, path: str, raw: bytes) -> None:
        raise broken()

    world.net.after = lost
    with pytest.raises(OutcomeUnknownError):
        world.stub.control("Control.TransferLeadership", admin_pb2.TransferLeadershipRequest())
    assert world.cluster.applied == ["transfer"]


def test_a_call_to_one_node_asks_that_node_only() -> None:
    world = World()
    view = world.stub.call("Admin.GetLeader", admin_pb2.GetLeaderRequest(), address="c2:1")
    assert view.observed_by == "c2"
    with pytest.raises(UnavailableError):
        world.stub.call("Admin.GetLeader", admin_pb2.GetLeaderRequest(), address="nowhere:1")


def test_a_call_nobody_serves_and_one_that_does_not_exist_are_told_apart() -> None:
    world = World()
    with pytest.raises(QuorumFSError):
        world.stub.control("Control.GetGc", admin_pb2.GetGcRequest())
    with pytest.raises(InvalidArgumentError, match="no call"):
        world.stub.control("Control.Nothing", admin_pb2.GetGcRequest())


def test_the_token_travels_with_every_call() -> None:
    world = World(token="secret")
    world.mkdir("/a")
    assert all(metadata == (("authorization", "Bearer secret"),) for metadata in world.net.metadata)


def test_signs_of_life_and_reports_reach_the_leader() -> None:
    world = World()
    world.cluster.leader = "c2:1"
    assert world.stub.keep_alive([b"u" * 16]) == []
    world.stub.report_replica(b"c" * 16, "d1", 3, "block 7")
    assert world.cluster.reports[0].node_id == "d1"


def test_nobody_known_is_no_leader() -> None:
    with pytest.raises(NoLeaderError):
        Coordinator([])


def test_a_closed_stub_does_not_wait() -> None:
    world = World()
    world.net.down.update(world.cluster.coordinators)
    world.stub.close()
    begun = world.clock.now
    with pytest.raises(UnavailableError):
        world.mkdir("/a")
    assert world.clock.now == begun


@pytest.mark.parametrize("lanes", [1, 4])
def test_many_threads_with_lost_replies_change_everything_exactly_once(lanes: int) -> None:
    world = World(batches_in_flight=lanes)
    calls = 0
    lock = threading.Lock()

    def sometimes(where: str, path: str, raw: bytes) -> None:
        nonlocal calls
        with lock:
            calls += 1
            lost = calls % 5 == 0
        if lost and path.endswith("/Do") and is_change(raw, "Do"):
            raise broken()

    world.net.after = sometimes
    wrong: list[str] = []

    def work(base: int) -> None:
        for n in range(30):
            path = f"/{base}-{n}"
            if world.mkdir(path).info.path != path.encode():
                wrong.append(path)

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert world.cluster.applied.count("mkdir") == 240


# ---- what is known of a change that was never sent -------------------------------------------------------


def test_a_change_whose_session_could_not_be_opened_is_refused_and_not_unknown() -> None:
    world = World()

    def silent(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do"):
            world.clock.advance(1.0)
            raise timed_out()

    world.net.after = silent
    with pytest.raises(NoLeaderError, match="nothing was changed"):
        world.mkdir("/a")
    assert "mkdir" not in world.cluster.applied


def test_opening_a_session_and_the_change_share_one_time_limit() -> None:
    world = World(timeout=30.0)
    world.mkdir("/a")
    world.cluster.sessions.clear()  # expired: the change is refused once, then a session is opened

    def slow(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do") and not is_change(raw, "Do"):
            world.clock.advance(20.0)
        if path.endswith("/Do") and is_change(raw, "Do"):
            world.clock.advance(2.0)
            raise timed_out()

    begun = world.clock.now
    world.net.after = slow
    with pytest.raises(OutcomeUnknownError):
        world.mkdir("/b")
    assert world.clock.now - begun < 35


def test_an_interrupted_change_keeps_its_number_for_itself() -> None:
    world = World()
    world.mkdir("/a")

    def interrupt(where: str, path: str, raw: bytes) -> None:
        world.net.after = lambda *_: None
        raise KeyboardInterrupt

    world.net.after = interrupt
    with pytest.raises(KeyboardInterrupt):
        world.mkdir("/interrupted")
    assert world.mkdir("/b").code == Code.OK
    assert world.cluster.applied.count("mkdir") == 3


# ---- who is asked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Control.GetClusterStatus", admin_pb2.GetClusterStatusRequest()),
        ("Control.GetRaft", admin_pb2.GetRaftRequest()),
        ("Membership.GetCluster", membership_pb2.GetClusterRequest()),
    ],
)
def test_what_any_coordinator_answers_is_asked_of_the_leader(method: str, request_: Any) -> None:
    world = World()
    world.cluster.leader = "c3:1"
    world.stub.call(method, request_)
    assert world.net.calls[-1][0] == "c3:1"
    world.net.down.add("c3:1")
    assert World().stub.call(method, request_, leader=False) is not None
    assert world.stub.call(method, request_, address="c2:1") is not None


def test_an_answer_of_a_follower_does_not_count_as_having_reached_the_leader() -> None:
    world = World()
    world.net.down.update(["c1:1", "c2:1"])
    world.stub.cluster_view(leader=False)
    assert world.stub.answering == "c3:1"
    begun = world.clock.now
    with pytest.raises(NoLeaderError):
        world.mkdir("/a")
    assert world.clock.now - begun <= limits.FIRST_CONTACT_SECONDS + 0.5


def test_it_is_known_who_answered_and_that_nobody_did() -> None:
    world = World()
    world.net.down.update(world.cluster.coordinators)
    with pytest.raises(NoLeaderError):
        world.mkdir("/a")
    assert world.stub.answering is None
    world.net.down.discard("c2:1")
    with pytest.raises(NoLeaderError):
        world.mkdir("/a")
    assert world.stub.answering == "c2:1"


def busy_at_first(world: World, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The log entry of a mkdir has no room for it, so often."""
    make, left = world.cluster._op_mkdir, [None] * times

    def refuses(request: pb.MkdirRequest) -> pb.Result:
        if left:
            left.pop()
            raise BusyError("the log entry has no room")
        return make(request)

    monkeypatch.setattr(world.cluster, "_op_mkdir", refuses)


def test_an_operation_for_which_its_entry_had_no_room_is_carried_out_by_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    busy_at_first(world, monkeypatch, 3)
    assert world.mkdir("/a").code == 0
    assert world.cluster.applied.count("mkdir") == 4


def test_an_operation_that_no_entry_has_room_for_is_refused_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(timeout=2.0)
    began = world.clock.monotonic()
    busy_at_first(world, monkeypatch, 1000)
    assert world.mkdir("/a").code == Code.BUSY
    assert world.clock.monotonic() - began < 3.0
