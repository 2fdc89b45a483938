"""Directed plays of leases and handovers: a leader may be asked at any moment, and answers nothing that is old.

docs/decisions/0013 has the rules; mutations.py takes each of them out.
"""

from __future__ import annotations

from coordinator.consensus.standing import Timing
from tests.simulation.stage import Stage, expect


def a_wish_for_somebody_who_does_not_vote_ends_at_once(seed: int) -> None:
    """Nobody of that name, or no more: the leader goes on, with its lease."""
    with Stage(seed) as stage:
        leader = stage.leader().node_id
        stage.ask_to_lead(leader, "c9")
        stage.run(0.2)
        stage.write_through(leader)
        expect(stage.leader().node_id, leader)
        stage.until(lambda: stage.lease_left(leader) > 0)
        stage.settle()


def a_leader_that_others_lost_answers_nothing_that_is_old(seed: int) -> None:
    """Both followers see their connections to it break, it does not: they elect, and it may be asked at any moment."""
    with Stage(seed) as stage:
        old = stage.leader().node_id
        stage.run(1.0)
        stage.cut(old, *stage.others(old))
        for one in stage.others(old):
            stage.lose(one, old)
        _nothing_old_is_read(stage, old)


def a_late_echo_is_a_short_lease(seed: int) -> None:
    """A follower's echo is under way for longer than its promise lasts, and another is elected then."""
    with Stage(seed, wild=True) as stage:
        old = stage.leader().node_id
        first, second = stage.others(old)
        stage.run(1.0)
        stage.hold(lambda sender, receiver, message: receiver == old)
        stage.run(0.06)
        stage.cluster.network.block((old, first), (old, second))
        for one in (first, second):
            stage.lose(one, old)
        stage.until(lambda: any(stage[one].core.replica.leads() for one in (first, second)))
        stage.cut(old, second)
        stage.release(first)
        _nothing_old_is_read(stage, old)


def who_heard_the_leader_last_keeps_its_promise(seed: int) -> None:
    """One follower has lost the leader for long and asks again and again; the other one loses it now."""
    with Stage(seed, timing=Timing(0.05, 0.16, 0.3)) as stage:
        old = stage.leader().node_id
        asking, last = stage.others(old)
        stage.run(1.0)
        stage.cut(old, asking)
        stage.lose(asking, old)
        stage.run(0.5)
        stage.until(lambda: stage.lease_left(old) > 0.07)
        stage.cut(old, last)
        stage.lose(last, old)
        _nothing_old_is_read(stage, old)


def a_leader_that_hands_over_has_no_lease(seed: int) -> None:
    """By its own wish another is elected at once, and it hears nothing of that."""
    with Stage(seed) as stage:
        old = stage.leader().node_id
        new, other = stage.others(old)
        stage.run(1.0)
        stage.until(lambda: stage.lease_left(old) > 0.06)
        stage.cluster.network.block((new, old), (other, old))
        stage.let_lead_soon(new)
        _nothing_old_is_read(stage, old)


def a_leader_answers_under_its_lease_without_a_round(seed: int) -> None:
    """While the majority's promises last it answers, though it reaches nobody; then no more."""
    with Stage(seed) as stage:
        leader = stage.leader().node_id
        stage.run(1.0)
        stage.until(lambda: stage.lease_left(leader) > 0.04)
        stage.cut(leader, *stage.others(leader))
        answers = stage.read(leader)
        stage.run(0.02)
        expect([type(one) for one in answers], [bytes])
        stage.run(0.1)
        late = stage.read(leader)
        stage.run(1.0)
        expect([one for one in late if isinstance(one, bytes)], [])
        stage.settle()


def _nothing_old_is_read(stage: Stage, old: str) -> None:
    """As soon as another leader has acknowledged an entry, the old one answers no question without it."""
    stage.until(lambda: any(stage[one].core.leadership for one in stage.others(old)))
    new = next(one for one in stage.others(old) if stage[one].core.leadership)
    stage.write_through(new)
    written = stage[new].database.applied_index
    answers = stage.read(old)
    stage.run(0.02)
    expect([one for one in answers if isinstance(one, bytes) and int(one) < written], [])
    stage.settle()


PLAYS = (
    a_wish_for_somebody_who_does_not_vote_ends_at_once,
    a_leader_that_others_lost_answers_nothing_that_is_old,
    a_late_echo_is_a_short_lease,
    who_heard_the_leader_last_keeps_its_promise,
    a_leader_that_hands_over_has_no_lease,
    a_leader_answers_under_its_lease_without_a_round,
)
