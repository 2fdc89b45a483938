"""Three members of the Raft group with real sockets and disks, without gRPC around them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.consensus.journal import Journal
from quorumfs.errors import NoSpaceError, NotLeaderError, OutcomeUnknownError, QuorumFSError
from tests.support.group import MIB, Group, until

pytestmark = pytest.mark.cluster


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path)
    made.start()
    yield made
    made.close()
    assert made.deaths == []


def agree(group: Group, keys: set[str]) -> None:
    until(lambda: all(group.keys(node_id) == keys for node_id in group.running))


def test_what_the_leader_acknowledged_is_on_every_member(group: Group) -> None:
    for number in range(50):
        group.write(f"k{number}")
    agree(group, {f"k{number}" for number in range(50)})
    rolling = {
        group.running[node_id]._database.rolling_at(index)
        for index in [min(one.status().applied_index for one in group.running.values())]
        for node_id in group.ids
    }
    assert len(rolling) == 1


def test_a_follower_refuses_and_changes_nothing(group: Group) -> None:
    leader = group.leader()
    follower = next(node_id for node_id in group.ids if node_id != leader)
    assert isinstance(group.propose(follower, "x"), NotLeaderError)
    assert isinstance(group.read(follower), NotLeaderError)


def test_writes_go_on_when_leaders_die_one_after_another(group: Group) -> None:
    written = set()
    for number in range(6):
        group.write(f"before{number}")
        victim = group.leader()
        group.kill(victim)
        group.write(f"after{number}")
        group.start(victim)
        written |= {f"before{number}", f"after{number}"}
    agree(group, written)


def test_everything_acknowledged_is_there_after_all_died(group: Group) -> None:
    for number in range(20):
        group.write(f"k{number}")
    for node_id in group.ids:
        group.kill(node_id)
    group.start()
    group.leader()
    agree(group, {f"k{number}" for number in range(20)})


def test_a_read_sees_every_write_that_was_acknowledged_before(group: Group) -> None:
    written: set[str] = set()
    for number in range(30):
        group.write(f"k{number}")
        written.add(f"k{number}")
        assert group.read(group.leader()) == written


def test_a_leadership_that_is_handed_over_refuses_nobody_for_long(group: Group) -> None:
    before = group.leader()
    assert group.running[before].transfer(None)
    after = group.leader()
    assert after != before
    group.write("after")
    assert group.running[after].status().term == group.running[before].status().term


def test_an_isolated_leader_answers_nothing_and_steps_down(group: Group) -> None:
    group.write("before")
    old = group.leader()
    others = tuple(node_id for node_id in group.ids if node_id != old)
    for node_id, member in group.running.items():
        member._links.block(frozenset(others if node_id == old else {old}))
    answers: list[object] = [group.propose(old, "lost", 1.0), group.read(old)]
    assert all(isinstance(answer, NotLeaderError | OutcomeUnknownError) for answer in answers)
    new = group.leader(others)
    assert isinstance(group.propose(new, "kept"), bytes)
    for member in group.running.values():
        member._links.block(frozenset())
    until(lambda: group.running[old].leader_id() in others)
    until(lambda: "kept" in group.keys(old))
    assert "lost" not in group.keys(new) or "lost" in group.keys(old)


def test_a_member_that_was_cut_off_deposes_nobody_when_it_returns(group: Group) -> None:
    leader = group.leader()
    term = group.running[leader].status().term
    away = next(node_id for node_id in group.ids if node_id != leader)
    everybody = frozenset(group.ids)
    group.running[away]._links.block(everybody)
    until(lambda: group.running[away].leader_id() is None)
    group.write("meanwhile")
    group.running[away]._links.block(frozenset())
    until(lambda: "meanwhile" in group.keys(away))
    assert group.leader() == leader
    assert group.running[leader].status().term == term


def test_a_member_that_was_away_for_long_fetches_a_snapshot(tmp_path: Path) -> None:
    group = Group(tmp_path, journal_keep_bytes=64 * 1024)
    group.start()
    away = next(node_id for node_id in group.ids if node_id != group.leader())
    group.kill(away)
    padding = "x" * 1000
    written = set()
    for number in range(400):
        group.write(f"{number}-{padding}")
        written.add(f"{number}-{padding}")
        status = group.running[group.leader()].status()
        if status.base_index > 10:
            break
    until(lambda: group.running[group.leader()].status().base_index > 10)
    group.start(away)
    agree(group, written)
    until(lambda: group.running[away].status().base_index > 1)
    group.write("after")
    agree(group, written | {"after"})
    group.close()
    assert group.deaths == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_member_with_another_state_stops(group: Group) -> None:
    group.write("k")
    odd = next(node_id for node_id in group.ids if node_id != group.leader())
    database = group.running[odd]._database
    database.rolling_at = lambda index: b"another state".ljust(32, b".")  # type: ignore[method-assign]
    until(lambda: any(death.startswith(f"{odd} 74") for death in group.deaths))
    assert "differs from the leader's" in group.deaths[0]
    group.deaths.clear()


def set_back(group: Group, node_id: str, copy: Path) -> None:
    """The disk of a member becomes what it was when `copy` was made, as with a restored virtual machine."""
    group.kill(node_id)
    shutil.rmtree(group.directory / node_id)
    shutil.copytree(copy, group.directory / node_id)


def test_a_member_whose_disk_was_set_back_does_not_vote_until_it_has_caught_up(
    group: Group, tmp_path: Path
) -> None:
    victim = next(one for one in group.ids if one != group.leader())
    group.kill(victim)
    shutil.copytree(tmp_path / victim, tmp_path / "copy")
    group.start(victim)
    group.write("acknowledged")
    until(lambda: "acknowledged" in group.keys(victim))
    # Its former peers have seen a later start of it than the copy knows of.
    set_back(group, victim, tmp_path / "copy")
    leader = group.leader()
    lagging = next(one for one in group.ids if one not in (victim, leader))
    group.start(victim)
    until(lambda: group.running[victim]._core.replica._memory.muted_term is not None)
    group.kill(leader)
    # The two that are left would be a majority; one of them has forgotten, and so neither may win by its vote.
    with pytest.raises(AssertionError):
        until(lambda: any(one.leadership() for one in group.running.values()), 3.0)
    group.start(leader)
    group.write("after")
    assert "acknowledged" in group.keys(group.leader())
    until(lambda: group.running[victim]._core.replica._memory.muted_term is None)
    group.kill(lagging)
    group.write("and it votes again")


def test_a_disk_that_counts_the_same_start_again_is_noticed_by_followers_too(
    group: Group, tmp_path: Path
) -> None:
    victim = group.ids[0]
    group.kill(victim)
    shutil.copytree(tmp_path / victim, tmp_path / "copy")
    group.start(victim)
    group.write("x")
    set_back(group, victim, tmp_path / "copy")
    others = [one for one in group.ids if one != victim]
    group.kill(others[0])
    group.start(victim)
    until(lambda: group.running[victim]._core.replica._memory.muted_term is not None)
    group.start(others[0])
    group.write("y")
    until(lambda: "y" in group.keys(victim))


class FullJournal(Journal):
    disk_full = property(lambda _: True)

    def has_room(self) -> bool:
        return False


@pytest.mark.parametrize("who", ["the leader", "a follower"])
def test_a_member_whose_disk_is_full_takes_no_part_and_comes_back(group: Group, who: str) -> None:
    leader = group.leader()
    full = leader if who == "the leader" else next(one for one in group.ids if one != leader)
    journal = group.running[full]._journal
    journal.__class__ = FullJournal
    group.write("while it is full")
    assert group.leader() != full
    assert group.running[full].status().disk_full
    journal.__class__ = Journal
    until(lambda: "while it is full" in group.keys(full))
    group.write("after")
    until(lambda: "after" in group.keys(full))


def test_a_group_of_one_leads_itself(tmp_path: Path) -> None:
    group = Group(tmp_path, 1)
    group.start()
    group.write("k")
    assert group.read("c1") == {"k"}
    group.close()


def test_too_much_at_once_is_refused_not_queued_for_ever(group: Group) -> None:
    leader = group.leader()
    group.running[leader]._core.queue.operations = 20_000
    answer = group.propose(leader, "k")
    assert isinstance(answer, QuorumFSError)
    assert not isinstance(answer, NoSpaceError)
    assert MIB
