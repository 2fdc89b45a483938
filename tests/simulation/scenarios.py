"""Directed plays: what chance brings about too rarely, step by step, under the monitors that watch every run.

Each play is a promise kept; some of them are where a planted bug shows (mutations.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from coordinator.consensus.applier import Install
from tests.simulation.process import Process
from tests.simulation.stage import Backup, Stage, expect


def a_member_that_returns_deposes_nobody(seed: int) -> None:
    """Cut off for seconds, it has asked in vain; its return changes neither leader nor term."""
    with Stage(seed) as stage:
        leader = stage.leader()
        term = leader.core.replica.term()
        away, other = stage.others(leader.node_id)
        stage.cut(away, leader.node_id, other)
        stage.run(4.0)
        stage.heal(away, leader.node_id, other)
        stage.run(3.0)
        expect((stage.leader().node_id, stage.leader().core.replica.term()), (leader.node_id, term))
        stage.settle()


def a_member_that_sees_only_a_follower_deposes_nobody(seed: int) -> None:
    """The leader and one follower do not see each other, the other follower sees both."""
    with Stage(seed) as stage:
        leader = stage.leader()
        term = leader.core.replica.term()
        asking, _ = stage.others(leader.node_id)
        stage.cut(leader.node_id, asking)
        stage.run(4.0)
        expect((stage.leader().node_id, stage.leader().core.replica.term()), (leader.node_id, term))
        stage.settle()


def a_leader_that_is_cut_off_answers_no_question_and_steps_down(seed: int) -> None:
    """Within two election timeouts, while the others have elected and written."""
    with Stage(seed) as stage:
        old = stage.leader().node_id
        stage.cut(old, *stage.others(old))
        stage.run(0.1)  # its lease is over
        answers = stage.read(old)
        stage.run(1.0)
        expect(stage[old].core.replica.leads(), False)
        expect([answer for answer in answers if isinstance(answer, bytes)], [])
        stage.write_through(stage.leader().node_id, 3)
        stage.settle()


def a_leader_that_brings_somebody_up_by_a_snapshot_stays_leader(seed: int) -> None:
    """One member is down, another needs a snapshot: the leader has nobody else who could answer it."""
    with Stage(seed, keep_bytes=1024) as stage:
        leader = stage.leader().node_id
        behind, down = stage.others(leader)
        stage.crash(behind)
        stage.write_through(leader, 60)
        stage.run(2.0)
        term = stage[leader].core.replica.term()
        stage.crash(down)
        stage.start(behind)
        stage.until(lambda: stage.happened(behind, "snapshot.installed"))
        stage.run(2.0)
        expect((stage.leader().node_id, stage[leader].core.replica.term()), (leader, term))
        stage.write_through(leader, 3)
        stage.settle()


def an_acknowledgement_of_an_old_leadership_counts_nothing(seed: int) -> None:
    """c2 acknowledges an entry of c1's, and the answer is late; the entry is replaced, and c1 leads again."""
    with Stage(seed, members=5, wild=True) as stage:
        stage.let_lead("c1")
        term = stage["c1"].core.replica.term()
        for one in ("c1", "c2"):
            stage.cut(one, "c3", "c4", "c5")
        stage.hold(
            lambda sender, receiver, message: (
                (sender, message["type"]) == ("c2", "next_node_idx") and message["term"] == term
            )
        )
        before = stage["c1"].journal.last_index
        stage.write("c1", 2)
        stage.until(lambda: stage["c2"].journal.synced_index == before + 2)
        stage.cut("c2", "c1")
        stage.until(lambda: stage["c1"].core.leadership is None and stage.cluster.leader() is not None)
        stage.heal("c1", "c3", "c4", "c5")
        stage.until(lambda: stage["c1"].journal.last_index == stage.leader().journal.last_index)
        expect(stage["c1"].journal.last_index < before + 2, True)
        stage.hold(
            lambda sender, receiver, message: (
                (sender, receiver) in (("c1", "c4"), ("c1", "c5")) and message["type"] == "append_entries"
            )
        )
        stage.let_lead_soon("c1")
        stage.until(lambda: stage["c1"].core.replica.leads() and stage["c3"].journal.last_index >= before + 2)
        stage.cluster.network.unblock(("c2", "c1"))
        stage.release("c2")
        stage.run(0.1)
        stage.settle()


def an_entry_of_an_old_term_is_not_committed_by_count(seed: int) -> None:
    """Figure 8 of the paper, with three members: what c1 brings to c3 may still be replaced by c2."""
    with Stage(seed, wild=True, batch_entries=1) as stage:
        stage.let_lead("c1")
        stage.until(stage.all_agree)
        entry = stage["c1"].journal.last_index + 1
        stage.cut("c1", "c2", "c3")
        stage.write("c1")
        stage.hold(lambda sender, receiver, message: sender == "c2" and message["type"] == "append_entries")
        stage.until(lambda: stage["c2"].core.replica.leads() or stage["c3"].core.replica.leads())
        if stage["c3"].core.replica.leads():
            return  # the other play; this one wants c2
        stage.until(lambda: stage["c2"].journal.synced_index == entry)
        stage.crash("c2")
        stage.hold(
            lambda sender, receiver, message: (
                sender == "c2" or any(one[1] > entry for one in message.get("entries", ()))
            )
        )
        stage.heal("c1", "c3")
        stage.until(lambda: stage["c3"].journal.synced_index == entry)
        stage.run(0.05)
        stage.crash("c1")
        stage.start("c2")
        stage.drop()
        stage.heal("c2", "c1")
        stage.until(lambda: stage.cluster.leader() is not None)
        stage.settle()


def what_was_tried_in_a_lost_leadership_leaves_nothing(seed: int) -> None:
    """c1, alone, has tried its next entry when it hears of another one with that index."""
    with Stage(seed) as stage:
        stage.let_lead("c1")
        stage.until(stage.all_agree)
        writer, applier = stage["c1"].database._entries, stage["c1"].core.applier
        stage.cut("c1", "c2", "c3")
        with patch.object(
            applier, "work", lambda: False
        ):  # readers are on the writer's connection here, and undo it
            stage.write("c1")
            stage.until(lambda: any(stage[one].core.replica.leads() for one in ("c2", "c3")))
        applier.work()
        expect(writer._tried is not None, True)
        stage.heal("c1", "c2", "c3")
        stage.until(lambda: writer._tried is None)
        stage.until(stage.all_agree)
        stage.settle()


def two_answers_of_one_voter_are_one_vote(seed: int) -> None:
    """c1, of five, reaches c2 alone, whose answer comes twice; the others elect in that term."""
    with Stage(seed, members=5, wild=True) as stage:
        stage.let_lead("c3")
        stage.until(stage.all_agree)
        stage.cut("c1", "c4", "c5")
        stage.cluster.network.block(("c1", "c3"))
        stage.hold(lambda sender, receiver, message: sender == "c2" and message["type"] == "response_vote")
        stage.let_lead_soon("c1")
        stage.until(lambda: stage.held)
        stage.cut("c2", "c3", "c4", "c5")
        stage.release(twice=True)
        stage.run(0.02)
        stage.crash("c3")
        stage.start("c3")
        stage.until(lambda: any(stage[one].core.replica.leads() for one in ("c3", "c4", "c5")))
        stage.settle()


def a_leader_that_was_replaced_answers_no_question(seed: int) -> None:
    """It has asked another to lead, and hears nothing since; for half a second it may believe to lead."""
    with Stage(seed) as stage:
        old = stage.leader().node_id
        new, other = stage.others(old)
        stage.run(1.0)
        stage.cluster.network.block((new, old), (other, old))
        stage.let_lead_soon(new)
        stage.until(lambda: stage[new].core.leadership is not None)
        stage.write_through(new, 2)
        answers = stage.read(old)
        stage.run(1.5)
        expect([answer for answer in answers if isinstance(answer, bytes)], [])
        stage.settle()


def a_full_disk_ends_nobody_who_is_greeted(seed: int) -> None:
    """A peer starts again and again, which is to be remembered, and there is no room for it."""
    with Stage(seed) as stage:
        leader = stage.leader().node_id
        full, other = stage.others(leader)
        stage.run(1.0)
        disk = stage[full].member.disk
        disk.fill(0)
        for _ in range(3):
            stage.crash(other)
            stage.start(other)
            stage.run(1.5)
        expect(stage[full].alive, True)
        expect(stage.happened(full, "memory.disk_full"), True)
        disk.free()
        stage.write_through(stage.leader().node_id, 3)
        stage.settle()


def a_frame_that_is_on_the_disk_in_part_is_cut_at_the_next_start(seed: int) -> None:
    """Its first sector is there, and looks like a frame."""
    with Stage(seed) as stage:
        leader = stage.leader().node_id
        member = stage.others(leader)[0]
        stage.until(stage.all_agree)
        torn = stage.cut_power_in_a_long_frame(member)
        answers = stage.write(leader, 1, "x" * 1000)
        stage.until(lambda: torn() and answers)
        stage.start(member)
        stage.write_through(stage.leader().node_id, 3)
        expect(stage.happened(member, "journal.tail_cut"), True)
        stage.settle()


def a_segment_that_is_long_in_the_making_deposes_nobody(seed: int) -> None:
    """The disk is slow, not full: what is proposed meanwhile waits, and nobody is told that there is no room."""
    with Stage(seed) as stage:
        leader = stage.leader().node_id
        term = stage[leader].core.replica.term()
        stage[leader].spare_seconds = 2.0
        stage.write_until(leader, lambda: not stage[leader].journal.has_room())
        answers = stage.write(leader, 5)
        stage.run(0.5)
        expect(answers, [])
        stage.until(lambda: len(answers) == 5)
        expect([one for one in answers if not isinstance(one, bytes)], [])
        expect((stage.leader().node_id, stage[leader].core.replica.term()), (leader, term))
        stage.settle()


def a_disk_that_makes_no_segment_at_all_loses_the_leadership(seed: int) -> None:
    """It is not full, only stuck: another member may have a better one."""
    with Stage(seed) as stage:
        leader = stage.leader().node_id
        stage[leader].spare_seconds = 60.0
        stage.write_until(leader, lambda: not stage[leader].journal.has_room())
        stage.run(8.0)
        expect(stage.leader().node_id != leader, True)
        stage.write_through(stage.leader().node_id, 3)
        stage.crash(leader)
        stage.start(leader)
        stage.settle()


def a_member_that_takes_nothing_in_tells_how_old_its_state_is(seed: int) -> None:
    """It hears its leader all the while, which is not enough: its disk is full."""
    with Stage(seed) as stage:
        leader = stage.leader().node_id
        full = stage.others(leader)[0]
        stage.run(1.0)
        expect(stage[full].core.state_age() < 0.5, True)
        disk = stage[full].member.disk
        disk.fill(0)
        stage.write_until(leader, lambda: not stage[full].journal.has_room())
        stage.write_through(leader, 3)
        stage.run(2.0)
        expect(stage[full].core.replica.leader_id(), leader)
        expect(stage[full].core.state_age() > 1.9, True)
        disk.free()
        stage.settle()
        stage.run(0.5)
        expect(stage[full].core.state_age() < 0.5, True)


def who_has_lost_its_leader_tells_how_old_its_state_is(seed: int) -> None:
    """Also when the connection broke, and when it led itself until then."""
    with Stage(seed) as stage:
        leader = stage.leader().node_id
        others = stage.others(leader)
        stage.write_through(leader, 3)
        stage.run(0.2)
        stage.cut(leader, *others)
        stage.run(3.0)
        expect(2.0 < stage[leader].core.state_age() < 4.0, True)
        stage.heal(leader, *others)
        stage.settle()
        leader = stage.leader().node_id
        left, other = stage.others(leader)
        stage.run(0.2)
        stage.crash(leader, other)
        stage.run(3.0)
        expect(2.5 < stage[left].core.state_age() < 4.0, True)
        stage.settle()


def a_disk_that_was_set_back_does_not_vote_until_it_has_caught_up(seed: int) -> None:
    """Its peers remember a later start of it than it shows."""
    with Stage(seed) as stage:
        leader = stage.leader().node_id
        member = stage.others(leader)[0]
        stage.crash(member)
        backup = stage.back_up(member)
        stage.start(member)
        stage.run(1.0)
        stage.write_through(leader, 10)
        stage.crash(member)
        stage.set_back(member, backup)
        stage.start(member)
        stage.until(lambda: stage.happened(member, "member.muted"))
        stage.run(1.0)
        stage.sent.clear()
        stage.let_lead(stage.others(leader, member)[0])
        expect([one for one in stage.sent if one[0] == member and "vote" in one[2]], [])
        stage.run(1.0)
        stage.let_lead(leader)
        stage.until(lambda: stage.happened(member, "member.unmuted"))
        stage.write_through(stage.leader().node_id, 3)
        stage.settle()


def a_disk_that_was_set_back_is_told_so_once(seed: int) -> None:
    """When it has caught up, neither a broken connection nor another start makes it a stranger again."""
    with Stage(seed) as stage:
        stage.let_lead("c1")
        stage.crash("c3")
        backup = stage.back_up("c3")
        for _ in range(4):
            stage.start("c3")
            stage.run(1.0)
            stage.crash("c3")
        stage.set_back("c3", backup)
        stage.start("c3")
        stage.until(lambda: stage.happened("c3", "member.muted"))
        stage.let_lead("c2")
        stage.until(lambda: stage.happened("c3", "member.unmuted"))
        stage.cut("c3", "c1", "c2")
        stage.run(4.0)
        stage.heal("c3", "c1", "c2")
        stage.run(1.0)
        expect(stage["c3"].core.replica._memory.muted_term, None)
        stage.crash("c3")
        stage.start("c3")
        stage.run(1.0)
        stage.crash("c1")
        stage.write_through(stage.leader().node_id, 3)
        stage.settle()


def a_disk_that_was_set_back_far_is_brought_up_by_a_snapshot(seed: int) -> None:
    """What it lacks is in nobody's log any more; muted or not, it gets it."""
    with Stage(seed, keep_bytes=1024) as stage:
        leader = stage.leader().node_id
        member = stage.others(leader)[0]
        stage.crash(member)
        backup = stage.back_up(member)
        stage.start(member)
        stage.run(1.0)
        stage.write_through(leader, 60)
        stage.run(2.0)
        stage.crash(member)
        stage.set_back(member, backup)
        stage.start(member)
        stage.until(lambda: stage.happened(member, "member.muted"))
        stage.until(lambda: stage.happened(member, "snapshot.installed"))
        stage.run(1.0)
        stage.let_lead(stage.others(leader, member)[0])
        stage.run(1.0)
        stage.let_lead(leader)
        stage.until(lambda: stage.happened(member, "member.unmuted"))
        stage.settle()


def what_a_set_back_disk_acknowledged_is_not_lost(seed: int) -> None:
    """An entry is on c1 and c2; c1 is set back, c2 is down: c1 and c3 alone must not go on without it."""
    with Stage(seed, latency=0.03) as stage:  # time enough to ask before it is told
        stage.crash("c1")
        backup = stage.back_up("c1")
        stage.start("c1")
        stage.let_lead("c2")
        stage.run(1.0)
        stage.cut("c3", "c1", "c2")
        stage.run(0.5)
        stage.write_through("c2", 5)
        stage.crash("c1", "c2")
        stage.set_back("c1", backup)
        stage.start("c1")
        stage.run(0.4 + stage.world.random.random() * 0.6)
        stage.heal("c3", "c1", "c2")
        stage.run(4.0)
        expect(stage.cluster.leader(), None)
        stage.start("c2")
        stage.settle()


def a_removal_that_was_not_committed_shuts_nobody_out(seed: int) -> None:
    """c3 has it in its log that c1 is no member; c1 leads, and is heard by c3 all the same."""
    with Stage(seed) as stage:
        stage.let_lead("c3")
        stage.run(1.0)
        stage.cut("c3", "c1", "c2")
        stage.change_members("c3", lambda now: now.without("c1"))
        stage.until(lambda: stage["c3"].core.replica.voters == ("c2", "c3"))
        stage.until(lambda: not stage["c3"].core.replica.leads() and stage.cluster.leader() is not None)
        stage.let_lead("c1")
        stage.heal("c3", "c1", "c2")
        stage.write_through("c1", 3)
        stage.settle()
        expect(stage["c3"].core.replica.voters, ("c1", "c2", "c3"))


def two_removals_at_a_time_do_not_make_a_group_of_one(seed: int) -> None:
    """A leader that is cut off is told to remove both others; alone it must commit nothing."""
    with Stage(seed) as stage:
        old = stage.leader().node_id
        first, second = stage.others(old)
        stage.run(1.0)
        stage.cut(old, first, second)
        committed = stage[old].core.replica.commit_index()
        stage.change_members(old, lambda now: now.without(first))
        stage.change_members(old, lambda now: now.without(second))
        stage.run(2.0)
        expect(stage[old].core.replica.commit_index(), committed)
        stage.write_through(stage.leader().node_id, 3)
        stage.settle()


def a_leader_who_joined_meanwhile_is_heard(seed: int) -> None:
    """c4 became a member and leads while c1 was down, who knows nothing of c4."""
    with Stage(seed, spares=1) as stage:
        stage.let_lead("c2")
        stage.crash("c1")
        stage.add_voter("c4")
        stage.let_lead("c4")
        stage.start("c1")
        stage.write_through("c4", 3)
        stage.settle()
        expect(stage["c1"].core.replica.voters, ("c1", "c2", "c3", "c4"))


def a_learner_hears_a_leader_who_joined_meanwhile(seed: int) -> None:
    """c5 was added and died before it had an entry; c4, of whom it knows nothing, has joined since and leads."""
    with Stage(seed, spares=2) as stage:
        stage.let_lead("c2")
        stage.add_learner("c5")
        stage.crash("c5")
        stage.add_voter("c4")
        stage.let_lead("c4")
        stage.start("c5")
        stage.write_through("c4", 3)
        stage.settle()
        expect(stage["c5"].core.replica.voters, ("c1", "c2", "c3", "c4"))


def a_candidate_who_joined_meanwhile_gets_the_vote_it_needs(seed: int) -> None:
    """c4 and c2 need a third vote, and c1, who was down, knows nothing of c4."""
    with Stage(seed, spares=1) as stage:
        stage.let_lead("c2")
        stage.crash("c1")
        stage.add_voter("c4")
        stage.let_lead("c3")
        stage.cut("c2", "c1", "c3", "c4")
        stage.run(0.1)
        stage.write("c3", 3)
        stage.run(0.5)
        stage.crash("c3")
        stage.start("c1")
        stage.heal("c2", "c1", "c3", "c4")
        stage.until(lambda: stage.cluster.leader() is not None)
        stage.settle()


def a_member_that_forgot_proves_no_leadership(seed: int) -> None:
    """c3 has helped c2 to the leadership, and is set back; c1, who led before, has it answer, and must not read."""
    with Stage(seed) as stage:
        stage.let_lead("c2")
        stage.crash("c3")
        backup = stage.back_up("c3")
        stage.start("c3")
        stage.let_lead("c1")
        stage.run(1.0)
        stage.cluster.network.block(("c2", "c1"), ("c3", "c1"))
        stage.let_lead_soon("c2")
        stage.until(lambda: stage["c2"].core.leadership is not None)
        stage.cut("c1", "c2")
        stage.write_through("c2", 2)
        stage.crash("c3")
        stage.set_back("c3", backup)
        stage.cut("c3", "c2")
        stage.heal("c3", "c1")
        stage.start("c3")
        stage.until(lambda: stage.happened("c3", "member.muted"))
        expect(stage["c1"].core.replica.leads(), True)
        answers = stage.read("c1")
        stage.run(1.5)
        expect([answer for answer in answers if isinstance(answer, bytes)], [])
        stage.settle()


def a_member_that_forgot_is_counted_only_when_its_leader_knows_what_was_committed(seed: int) -> None:
    """c1 and c3 have entries that c2 lacks. c3 is set back; c1, started anew, leads and knows no commit index yet."""
    with Stage(seed, latency=0.02) as stage:
        stage.let_lead("c1")
        stage.crash("c3")
        backup = stage.back_up("c3")
        stage.cut("c2", "c3")
        stage.start("c3")
        stage.run(1.0)
        stage.cut("c2", "c1")
        stage.run(0.1)
        stage.write_through("c1", 5)
        stage.crash("c1", "c3")
        stage.set_back("c3", backup)
        stage.start("c1", "c3")
        stage.until(lambda: stage.happened("c3", "member.muted"))
        stage.heal("c2", "c1")
        stage.until(lambda: stage["c1"].core.replica.leads())
        stage.cluster.network.block(("c1", "c2"))
        beginning = stage.world.now
        while stage.world.now < beginning + 0.3 and not stage.happened("c3", "member.unmuted"):
            stage.run(0.001)
        stage.crash("c1")
        stage.heal("c2", "c3")
        stage.run(4.0)
        stage.start("c1")
        stage.settle()


def what_a_set_back_disk_acknowledges_before_it_is_told_does_not_count(seed: int) -> None:
    """c1 has helped c2 to commit, is set back, and takes an entry of c3's, who led before, into the same place."""
    with Stage(seed, latency=0.02) as stage:
        backup = _voter_to_be_set_back(stage)
        stage.write_through("c2")
        _set_back_to_old_leader(stage, backup)
        stage.write("c3")
        stage.start("c1")
        stage.run(2.0)
        stage.settle()


def a_member_that_has_just_started_leads_on_nobodys_wish(seed: int) -> None:
    """c1 has voted for c2, is set back, and is asked by c3, who led before, to lead in that very term."""
    with Stage(seed, latency=0.02) as stage:
        backup = _voter_to_be_set_back(stage)
        _set_back_to_old_leader(stage, backup)
        stage.run(0.06)
        stage.start("c1")
        stage.ask_to_lead("c3", "c1")
        stage.run(1.5)
        stage.settle()


def _voter_to_be_set_back(stage: Stage) -> Backup:
    """c2 leads by c1's vote, which this backup of c1 lacks; c3, who leads until then, has not heard of it."""
    stage.let_lead("c3")
    stage.run(0.5)
    stage.crash("c1")
    backup = stage.back_up("c1")
    stage.start("c1")
    stage.run(2.5)
    stage.cluster.network.block(("c2", "c3"), ("c1", "c3"))
    stage.ask_to_lead("c3", "c2", seconds=0.06)
    stage.until(lambda: stage["c2"].core.leadership is not None)
    stage.cut("c3", "c2")
    return backup


def _set_back_to_old_leader(stage: Stage, backup: Backup) -> None:
    stage.crash("c1")
    stage.set_back("c1", backup)
    stage.cut("c1", "c2")
    stage.heal("c1", "c3")


def a_snapshot_that_comes_too_late_changes_nothing(seed: int) -> None:
    """While it is on its way another leads, who has all the entries still."""
    with Stage(seed, keep_bytes=1024) as stage:
        leader = stage.leader().node_id
        behind, other = stage.others(leader)
        stage[other].core.upkeep.keep_bytes = 1 << 30
        stage.crash(behind)
        stage.write_through(leader, 60)
        stage.run(2.0)
        late: list[tuple[Any, ...]] = []
        with patch.object(Process, "_arrive", lambda *arguments: late.append(arguments)):
            stage.start(behind)
            stage.until(lambda: late)
            stage.let_lead(other)
            stage.until(lambda: stage[behind].database.applied_index == stage[other].database.applied_index)
        for process, *arguments in late:
            process._arrive(*arguments)
        stage.run(1.0)
        expect(stage.happened(behind, "snapshot.installed"), False)
        stage.settle()


def members_who_changed_during_an_installation_are_not_forgotten(seed: int) -> None:
    """It waits for its turn; meanwhile another leads, who has all the entries still, and adds a member."""
    with Stage(seed, keep_bytes=1024, spares=1) as stage:
        stage.let_lead("c1")
        stage["c2"].core.upkeep.keep_bytes = 1 << 30
        stage.crash("c3")
        stage.write_through("c1", 60)
        stage.run(2.0)
        stage.start("c3")
        behind, applier = stage["c3"].core.replica, stage["c3"].core.applier
        with patch.object(applier, "work", lambda: False):
            stage.until(lambda: any(isinstance(job, Install) for job in applier._jobs))
            leader = stage.let_lead("c2").core.replica
            stage.add_learner("c4")
            stage.until(lambda: behind.handed_index() == leader.commit_index())
        applier.work()
        stage.until(lambda: stage.happened("c3", "snapshot.installed"))
        expect(behind.configurations.current, leader.configurations.current)
        stage.settle()


def a_log_is_compacted_again_after_a_start_without_a_quorum(seed: int) -> None:
    """c1 asked for durability when nothing was applied since the log's beginning; later there is much to drop."""
    with Stage(seed, keep_bytes=1024) as stage:
        stage["c1"].core.upkeep.keep_bytes = 1 << 30  # not yet
        stage.write_through(stage.leader().node_id, 30)
        database = stage["c1"].database
        crash = database.crash
        database.crash = lambda _: crash(lambda count: 0)  # type: ignore[method-assign]  # all that may be lost
        stage.crash("c1", "c2", "c3")
        stage.start("c1")
        stage.run(2.0)
        stage.start("c2", "c3")
        stage.write_through(stage.leader().node_id, 60)
        stage.run(2.0)
        journal = stage["c1"].journal
        expect(journal.last_index - journal.first_index < 60, True)
        stage.settle()


SCENARIOS: tuple[Callable[[int], None], ...] = (
    a_member_that_returns_deposes_nobody,
    a_member_that_sees_only_a_follower_deposes_nobody,
    a_leader_that_is_cut_off_answers_no_question_and_steps_down,
    a_leader_that_brings_somebody_up_by_a_snapshot_stays_leader,
    an_acknowledgement_of_an_old_leadership_counts_nothing,
    an_entry_of_an_old_term_is_not_committed_by_count,
    what_was_tried_in_a_lost_leadership_leaves_nothing,
    two_answers_of_one_voter_are_one_vote,
    a_leader_that_was_replaced_answers_no_question,
    a_full_disk_ends_nobody_who_is_greeted,
    a_frame_that_is_on_the_disk_in_part_is_cut_at_the_next_start,
    a_segment_that_is_long_in_the_making_deposes_nobody,
    a_disk_that_makes_no_segment_at_all_loses_the_leadership,
    a_member_that_takes_nothing_in_tells_how_old_its_state_is,
    who_has_lost_its_leader_tells_how_old_its_state_is,
    a_disk_that_was_set_back_does_not_vote_until_it_has_caught_up,
    a_disk_that_was_set_back_is_told_so_once,
    a_disk_that_was_set_back_far_is_brought_up_by_a_snapshot,
    what_a_set_back_disk_acknowledged_is_not_lost,
    a_removal_that_was_not_committed_shuts_nobody_out,
    two_removals_at_a_time_do_not_make_a_group_of_one,
    a_leader_who_joined_meanwhile_is_heard,
    a_learner_hears_a_leader_who_joined_meanwhile,
    a_candidate_who_joined_meanwhile_gets_the_vote_it_needs,
    a_snapshot_that_comes_too_late_changes_nothing,
    members_who_changed_during_an_installation_are_not_forgotten,
    a_log_is_compacted_again_after_a_start_without_a_quorum,
    a_member_that_forgot_proves_no_leadership,
    a_member_that_forgot_is_counted_only_when_its_leader_knows_what_was_committed,
    what_a_set_back_disk_acknowledges_before_it_is_told_does_not_count,
    a_member_that_has_just_started_leads_on_nobodys_wish,
)
