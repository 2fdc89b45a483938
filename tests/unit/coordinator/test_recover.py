"""The way out of a lost majority: what the survivor's disk holds afterwards is a group of one that can lead."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.config import NodeConfig
from coordinator import recover
from coordinator.consensus import Configuration, Identity
from coordinator.consensus.database import Database
from coordinator.consensus.files import RealFiles
from coordinator.consensus.interfaces import LogEntry
from coordinator.consensus.journal import Journal
from coordinator.consensus.memory import DurableMemory
from coordinator.consensus.standing import CONFIGURATION, NOOP
from coordinator.metadata import migrations
from coordinator.metadata.machine import Machine
from quorumfs.clock import SystemClock
from quorumfs.errors import Exit
from quorumfs.v1 import membership_pb2 as m

GENESIS = m.GenesisRequest(
    cluster_id="5b5c0b6e-0000-4000-8000-000000000001",
    history=1,
    members=[m.Member(node_id=f"c{k}", member_uuid=f"uuid-{k}", raft=f"127.0.0.1:740{k}") for k in (1, 2, 3)],
)


def open_journal(directory: Path) -> Journal:
    return Journal.open(directory / "raft", RealFiles(), SystemClock(), segment_bytes=recover.SEGMENT_BYTES)


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    """A member whose log has the entries 2 to 5 of term 1."""
    Identity.accept(tmp_path, GENESIS, "c1")
    journal = open_journal(tmp_path)
    for index in range(2, 6):
        journal.append(NOOP, index, 1)
    journal.close()
    return NodeConfig.model_validate(
        {
            "node": {"data_dir": str(tmp_path), "id": "c1", "role": "coordinator"},
            "cluster": {"coordinators": ["127.0.0.1:7400"]},
        }
    )


def apply(directory: Path, upto: int, term: int) -> None:
    database = Database.open(directory, Machine(migrations.upgrade))
    database.apply([LogEntry(index, term, None) for index in range(2, upto + 1)])
    database.close()


def group_in_log(directory: Path) -> list[str]:
    """Of the last entry, which must be a configuration."""
    journal = open_journal(directory)
    command = journal[-1][0]
    journal.close()
    assert command[:1] == CONFIGURATION
    return list(Configuration.decode(command[1:]).voters)


def test_without_a_word_of_the_operator_nothing_is_changed(config: NodeConfig, tmp_path: Path) -> None:
    apply(tmp_path, 3, 1)
    DurableMemory(tmp_path, RealFiles()).mute(1)
    assert recover.run(config, confirmed=False) == Exit.SAFETY_GUARD
    journal = open_journal(tmp_path)
    assert journal.last_index == 5
    journal.close()
    assert DurableMemory(tmp_path, RealFiles()).muted_term == 1


def test_a_log_that_is_gone_is_not_made_anew_without_a_word_of_the_operator(
    config: NodeConfig, tmp_path: Path
) -> None:
    """A start would take the new one for the member's own."""
    apply(tmp_path, 3, 1)
    shutil.rmtree(tmp_path / "raft")
    assert recover.run(config, confirmed=False) == Exit.SAFETY_GUARD
    assert not Journal.is_there(tmp_path / "raft", RealFiles())
    assert recover.run(config, confirmed=True) == 0
    assert group_in_log(tmp_path) == ["c1"]


def test_a_survivor_that_was_muted_may_lead(config: NodeConfig, tmp_path: Path) -> None:
    """Nobody is left whose later term could unmute it."""
    apply(tmp_path, 3, 1)
    DurableMemory(tmp_path, RealFiles()).mute(1)
    assert recover.run(config, confirmed=True) == 0
    assert DurableMemory(tmp_path, RealFiles()).muted_term is None
    assert group_in_log(tmp_path) == ["c1"]


def test_two_survivors_that_both_go_on_alone_do_not_share_a_history(
    config: NodeConfig, tmp_path: Path
) -> None:
    """By history, index and time one would take the other's chunks for its own garbage."""
    twin = tmp_path / "twin"
    shutil.copytree(tmp_path, twin)
    assert recover.run(config, confirmed=True) == 0
    node = config.node.model_copy(update={"data_dir": twin})
    assert recover.run(config.model_copy(update={"node": node}), confirmed=True) == 0
    histories = [one.history for path in (tmp_path, twin) if (one := Identity.load(path, "c1")) is not None]
    assert len(set(histories)) == 2
    assert min(histories) > GENESIS.history


def test_a_log_that_a_snapshot_has_overtaken_begins_anew_before_the_new_group(
    config: NodeConfig, tmp_path: Path
) -> None:
    """The process ended between the installation and the log's reset: a start would drop all behind the snapshot."""
    apply(tmp_path, 3, 2)
    assert recover.run(config, confirmed=True) == 0
    journal = open_journal(tmp_path)
    assert (journal.first_index, journal.term_at(3), journal.last_index) == (3, 2, 4)
    journal.close()
    assert group_in_log(tmp_path) == ["c1"]
