"""A lost majority: one surviving coordinator begins a new history alone. Offline, by an operator's word.

What the lost members had acknowledged and this one had not received is gone, and nobody can say how much that is; what
lies in its log beyond the applied index may or may not have been acknowledged, and is kept, unless a snapshot that was
installed has overtaken the log. The new history is higher than the survivor's: datanodes obey it, and a former member
that turns up after all is refused by its UUID. Two survivors that were both told to go on alone do not share a history.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from common.config import NodeConfig
from common.lifecycle import ExitCode
from coordinator.consensus import Configuration, Identity
from coordinator.consensus.database import Database
from coordinator.consensus.files import RealFiles
from coordinator.consensus.identity import FILE, encode, write_record
from coordinator.consensus.journal import Journal
from coordinator.consensus.memory import DurableMemory
from coordinator.consensus.standing import CONFIGURATION
from coordinator.histories import later
from coordinator.metadata import migrations, queries
from coordinator.metadata.invariants import violations
from coordinator.metadata.machine import Machine
from quorumfs.clock import SystemClock
from quorumfs.errors import Exit, NotFoundError
from quorumfs.mint import system_random, uuid_text
from quorumfs.v1 import membership_pb2 as m

SEGMENT_BYTES = 16 << 20


def run(config: NodeConfig, *, confirmed: bool) -> int:
    """Say what would be kept and lost; with `confirmed`, do it. The exit code: 10 when it was only said.

    Raises NotFoundError when there is no member here, PreconditionFailedError when it runs, SickStorage.
    """
    directory = config.node.data_dir
    identity = Identity.load(directory, config.node.id)
    if identity is None:
        raise NotFoundError(
            f"{directory} holds no member of a cluster", next="recover a coordinator that survived"
        )
    log, files = directory / "raft", RealFiles()
    if not confirmed and not Journal.is_there(log, files):  # opening it would make one
        return _only_said(identity, "Its Raft log is gone, and with it what its state does not have.\n")
    journal = Journal.open(log, files, SystemClock(), segment_bytes=SEGMENT_BYTES)
    database = Database.open(directory, Machine(migrations.upgrade))
    try:
        return _recover(directory, identity, journal, database, confirmed=confirmed)
    finally:
        database.close()
        journal.close()


def _recover(
    directory: Path, identity: Identity, journal: Journal, database: Database, *, confirmed: bool
) -> int:
    with database.reader() as tx:
        members = queries.members(tx) or list(identity.members)
        broken = violations(tx)
    own = next(
        (one for one in members if one.node_id == identity.node_id), m.Member(node_id=identity.node_id)
    )
    lost = [one.node_id for one in members if one.node_id != identity.node_id]
    log_goes_on = journal.term_at(database.applied_index) == database.applied_term
    beyond = journal.last_index - database.applied_index if log_goes_on else 0
    sys.stdout.write(
        f"{identity.node_id} of cluster {identity.cluster_id}, history {identity.history}\n"
        f"  applied                 {database.applied_index} (term {database.applied_term})\n"
        f"  log ends at             {journal.last_index} (term {journal.last_term})\n"
        f"  beyond the applied      {beyond} entries, which are kept\n"
        f"  members given up        {', '.join(lost) or 'none'}\n"
        f"  its state               {'; '.join(broken) or 'whole: every rule of it holds'}\n"
        "What these had acknowledged and this one never received is lost; nobody can say how much that is.\n"
        "If most of them can be started again, start them instead.\n"
    )
    if not confirmed:
        return _only_said(identity)
    alone = m.Member(
        node_id=own.node_id, member_uuid=uuid_text(system_random), raft=own.raft, grpc=own.grpc, http=own.http
    )
    # The identity first: should this be cut short, the member reaches nobody and can be recovered again.
    number = later(identity.history, system_random)
    changed = replace(identity, history=number, member_uuid=alone.member_uuid, members=(alone,))
    write_record(directory / FILE, encode(changed), RealFiles())
    DurableMemory(directory, RealFiles()).unmute()  # those who remember what it forgot are given up
    if not log_goes_on:
        journal.reset(database.applied_index, database.applied_term)
    term = max(journal.getCurrentTerm(), journal.last_term) + 1
    journal.setCurrentTerm(term, None)
    journal.add(CONFIGURATION + Configuration.of([alone]).encode(), journal.last_index + 1, term)
    journal.sync()
    sys.stdout.write(
        f"{identity.node_id} is the only member now, of history {changed.history}. Start it, then add others:\n"
        "  dfsctl raft add HOST:PORT   (each with an empty node.data_dir)\n"
    )
    return ExitCode.OK


def _only_said(identity: Identity, found: str = "") -> int:
    sys.stdout.write(
        f"{found}Nothing was changed. Again with --yes begins a later history than {identity.history}.\n"
    )
    return Exit.SAFETY_GUARD
