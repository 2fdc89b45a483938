"""What a follower does with append_entries: Raft paper, figure 2, and the holes of the stock library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.consensus.guard import BrokenInvariantError, Entry, Follow, follow


class Log:
    """Terms of the entries from `first` on."""

    def __init__(self, first: int, terms: list[int]) -> None:
        self.first_index = first
        self.terms = terms

    @property
    def last_index(self) -> int:
        return self.first_index + len(self.terms) - 1

    def term_at(self, index: int) -> int | None:
        position = index - self.first_index
        return self.terms[position] if 0 <= position < len(self.terms) else None


def entries(start: int, *terms: int) -> list[Entry]:
    return [(b"\x00", start + k, term) for k, term in enumerate(terms)]


def test_new_entries_are_appended() -> None:
    assert follow(Log(1, [0, 1]), 2, 2, 1, entries(3, 1, 1)) == Follow(
        True, 4, append=tuple(entries(3, 1, 1))
    )


def test_a_heartbeat_verifies_only_up_to_its_previous_index() -> None:
    assert follow(Log(1, [0, 1, 1, 1]), 1, 2, 1, []) == Follow(True, 2)


def test_a_doubled_message_truncates_nothing() -> None:
    """Hole 4: a duplicate cut the log to what the duplicate held, and committed entries were lost."""
    assert follow(Log(1, [0, 1, 1, 1, 1]), 1, 1, 0, entries(2, 1, 1)) == Follow(True, 3)


def test_a_conflict_truncates_from_its_index_on() -> None:
    plan = follow(Log(1, [0, 1, 1, 1]), 2, 2, 1, entries(3, 2))
    assert plan == Follow(True, 3, truncate_from=3, append=tuple(entries(3, 2)))


def test_a_gap_is_refused_and_asked_for_from_the_commit_index() -> None:
    assert follow(Log(1, [0, 1]), 2, 5, 1, entries(6, 1)) == Follow(False, 2)


def test_another_term_at_the_previous_index_is_refused() -> None:
    assert follow(Log(1, [0, 1, 1]), 1, 3, 2, []) == Follow(False, 1)


def test_what_lies_before_the_base_counts_as_equal() -> None:
    assert follow(Log(5, [1, 1]), 6, 2, 1, entries(3, 1, 1)) == Follow(True, 4)
    assert follow(Log(5, [1, 1]), 6, 3, 1, entries(4, 1, 1, 1, 2)) == Follow(
        True, 7, append=((b"\x00", 7, 2),)
    )


@pytest.mark.parametrize(
    ("previous", "term", "new"),
    [(1, 0, entries(2, 3)), (2, 3, []), (0, 0, entries(1, 7, 7))],
    ids=["a conflict", "another previous entry", "another base"],
)
def test_a_leader_that_contradicts_committed_entries_is_a_broken_invariant(
    previous: int, term: int, new: list[Entry]
) -> None:
    with pytest.raises(BrokenInvariantError):
        follow(Log(1, [0, 1, 1]), 3, previous, term, new)


@given(st.data())
def test_the_log_becomes_the_leaders_prefix_or_keeps_more_of_the_same(data: st.DataObject) -> None:
    """Whatever piece of its log a leader sends, and in whatever order pieces come, what is acknowledged is equal."""
    common = data.draw(st.integers(1, 4))
    # One leader a term: the leader's entries are of even terms, those that only this log has of odd ones.
    leader = [0, *sorted(data.draw(st.lists(st.sampled_from((2, 4, 6)), min_size=common, max_size=8)))]
    own_tail = sorted(data.draw(st.lists(st.sampled_from((3, 5)), max_size=4)))
    log = Log(1, leader[:common] + [term for term in own_tail if term >= leader[common - 1]])
    for _ in range(6):
        previous = data.draw(st.integers(1, len(leader)))
        count = data.draw(st.integers(0, len(leader) - previous))
        sent = [(b"\x00", k, leader[k - 1]) for k in range(previous + 1, previous + 1 + count)]
        plan = follow(log, 1, previous, leader[previous - 1], sent)
        if not plan.matched:
            continue
        if plan.truncate_from is not None:
            assert log.terms[plan.truncate_from - 1] != leader[plan.truncate_from - 1]
            del log.terms[plan.truncate_from - 1 :]
        log.terms += [term for _, _, term in plan.append]
        assert log.terms[: plan.verified] == leader[: plan.verified]
