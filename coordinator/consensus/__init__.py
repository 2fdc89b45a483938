"""The replicated log and the door to it: `Consensus`. The argument for its safety is in DESIGN.md.

Importing this package is cheap; the names below load what they need when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.consensus.configuration import Configuration as Configuration
    from coordinator.consensus.door import Consensus as Consensus
    from coordinator.consensus.identity import Identity as Identity
    from coordinator.consensus.interfaces import DatabaseDoor as DatabaseDoor
    from coordinator.consensus.interfaces import Done as Done
    from coordinator.consensus.interfaces import LogEntry as LogEntry
    from coordinator.consensus.interfaces import Question as Question
    from coordinator.consensus.leadership import Leadership as Leadership
    from coordinator.consensus.proposals import Proposal as Proposal
    from coordinator.consensus.settings import ConsensusSettings as ConsensusSettings
    from coordinator.consensus.status import MemberState as MemberState
    from coordinator.consensus.status import RaftState as RaftState
    from coordinator.consensus.status import SnapshotFile as SnapshotFile

_HOME = {
    "Configuration": "configuration",
    "Consensus": "door",
    "ConsensusSettings": "settings",
    "DatabaseDoor": "interfaces",
    "Done": "interfaces",
    "Identity": "identity",
    "Leadership": "leadership",
    "LogEntry": "interfaces",
    "MemberState": "status",
    "Proposal": "proposals",
    "Question": "interfaces",
    "RaftState": "status",
    "SnapshotFile": "status",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
