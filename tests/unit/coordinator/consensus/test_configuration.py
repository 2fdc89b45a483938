"""Who belongs to the group, as values."""

from __future__ import annotations

import itertools

import pytest

from coordinator.consensus.configuration import MEMBERS_MAX, Configuration, Configurations
from quorumfs.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, SafetyGuardError
from quorumfs.v1 import membership_pb2 as m


def group(*ids: str) -> Configuration:
    return Configuration.of(m.Member(node_id=one, member_uuid=f"uuid-{one}") for one in ids)


def test_a_configuration_comes_back_from_its_bytes_in_order() -> None:
    made = group("c2", "c1", "c3")
    assert Configuration.decode(made.encode()) == made
    assert made.ids == ("c1", "c2", "c3")


def test_a_new_member_learns_before_it_votes() -> None:
    joined = group("c1", "c2").with_learner(m.Member(node_id="c3"))
    assert (joined.ids, joined.voters) == (("c1", "c2", "c3"), ("c1", "c2"))
    assert joined.promoted("c3").voters == ("c1", "c2", "c3")


def test_the_last_voter_stays() -> None:
    alone = group("c1").with_learner(m.Member(node_id="c2"))
    with pytest.raises(SafetyGuardError):
        alone.without("c1")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(AlreadyExistsError):
        group("c1").with_learner(m.Member(node_id="c1"))
    with pytest.raises(AlreadyExistsError):
        group("c1").promoted("c1")
    with pytest.raises(NotFoundError):
        group("c1").promoted("c2")
    with pytest.raises(NotFoundError):
        group("c1", "c2").without("c3")
    with pytest.raises(InvalidArgumentError):
        group(*(f"c{number}" for number in range(MEMBERS_MAX))).with_learner(m.Member(node_id="d"))
    with pytest.raises(InvalidArgumentError):
        Configuration.decode(b"\xff\xff")


def test_two_configurations_in_a_row_have_overlapping_majorities() -> None:
    before = group("c1", "c2", "c3")
    steps = [before, before.with_learner(m.Member(node_id="c4"))]
    steps += [steps[-1].promoted("c4")]
    steps += [steps[-1].without("c1")]
    for old, new in itertools.pairwise(steps):
        assert len(set(old.voters) ^ set(new.voters)) <= 1


def test_a_configuration_counts_from_its_appending_and_is_undone_by_truncation() -> None:
    kept = Configurations(group("c1", "c2", "c3"))
    kept.append(10, group("c1", "c2"))
    assert kept.current.ids == ("c1", "c2")
    assert not kept.truncate_from(11)
    assert kept.truncate_from(10)
    assert kept.current.ids == ("c1", "c2", "c3")


def test_what_is_applied_is_undone_no_more() -> None:
    kept = Configurations(group("c1", "c2", "c3"))
    kept.append(10, group("c1", "c2"))
    kept.append(12, group("c1"))
    kept.applied(11)
    assert kept.last_index == 12
    kept.truncate_from(2)
    assert kept.current.ids == ("c1", "c2")


def test_a_snapshot_brings_its_own() -> None:
    kept = Configurations(group("c1", "c2", "c3"))
    kept.append(10, group("c1"))
    kept.append(30, group("c2"))
    kept.reset(20, group("c1", "c2"))
    assert kept.current.ids == ("c2",)
    kept.truncate_from(21)
    assert kept.current.ids == ("c1", "c2")
