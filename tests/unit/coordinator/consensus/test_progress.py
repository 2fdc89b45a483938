"""What a leader knows of a peer's log."""

from __future__ import annotations

from coordinator.consensus.progress import WINDOW_ENTRIES, Progress, agreed


def test_an_acknowledgement_moves_match_and_never_back() -> None:
    progress = Progress(next=5)
    assert progress.acknowledged(7)
    assert not progress.acknowledged(3)
    assert (progress.match, progress.next) == (7, 8)


def test_late_refusals_of_a_pipelined_run_change_nothing() -> None:
    """Hole 11: they raised nextIndex again, and the follower never caught up."""
    progress = Progress(next=100)
    progress.refused(10, beat=3, last_beat=5)
    assert progress.next == 10
    progress.next = 60
    progress.refused(20, beat=5, last_beat=6)
    progress.refused(90, beat=9, last_beat=9)
    assert progress.next == 60


def test_a_refusal_never_goes_below_what_was_acknowledged() -> None:
    progress = Progress(next=100, match=50)
    progress.refused(10, beat=3, last_beat=3)
    assert progress.next == 51


def test_the_window_bounds_what_is_under_way() -> None:
    progress = Progress(next=51, match=50)
    assert progress.window == WINDOW_ENTRIES
    progress.next += WINDOW_ENTRIES
    assert progress.window == 0


def test_a_lost_connection_sends_again_what_was_under_way() -> None:
    progress = Progress(next=90, match=50)
    progress.lost_contact()
    assert progress.next == 51


def test_a_majority_agrees_on_the_middle() -> None:
    assert agreed([7]) == 7
    assert agreed([9, 4]) == 4
    assert agreed([9, 4, 7]) == 7
    assert agreed([9, 4, 7, 1]) == 4
    assert agreed([9, 4, 7, 1, 8]) == 7


def test_a_muted_peer_is_sent_what_follows_and_counts_for_nothing() -> None:
    progress = Progress(next=3)
    progress.heard(40)
    assert (progress.next, progress.match, progress.window) == (41, 0, WINDOW_ENTRIES)
    progress.next = 60
    progress.heard(30)
    assert progress.next == 60
    progress.lost_contact()
    assert progress.next == 41


def test_a_peer_that_was_set_back_is_doubted_until_it_says_that_it_is_muted() -> None:
    progress = Progress(next=3, doubted=True)
    progress.refused(2, beat=1, last_beat=1)
    assert progress.doubted
    progress.heard(1)
    assert not progress.doubted
