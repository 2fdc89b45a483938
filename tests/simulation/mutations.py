"""The tests' test: one safeguard is removed at a time, and the simulation has to notice.

`python -m tests.simulation.mutations` says for each which seed found it, and after how many. A mutation replaces a
production function for the length of a run; `changes` bend the plan of a seed towards where it can show.
`row`: of the table of holes in coordinator/consensus/DESIGN.md, where the safeguard closes one.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import patch

from coordinator.consensus import core as core_module
from coordinator.consensus import guard, leadership, recovery
from coordinator.consensus import replica as replica_module
from coordinator.consensus.configuration import Configuration, Configurations
from coordinator.consensus.core import Core
from coordinator.consensus.entry_writer import EntryWriter
from coordinator.consensus.journal import Journal
from coordinator.consensus.leadership import LEASE_SHARE, NEVER, Beats
from coordinator.consensus.progress import Progress, agreed
from coordinator.consensus.records import FRAME_HEAD_BYTES, Frame
from coordinator.consensus.replica import Replica
from coordinator.consensus.segments import Segments
from coordinator.consensus.upkeep import Upkeep
from coordinator.metadata import batches
from coordinator.metadata.commands import sessions
from tests.simulation import leases, scenarios
from tests.simulation.plan import plan_of
from tests.simulation.simulation import run_seed
from tests.simulation.world import Violation
from tests.support.memory_database import MemoryDatabase

SEEDS_MAX = 60


@dataclass(frozen=True)
class Mutation:
    """`plant` removes the safeguard within its block."""

    name: str
    plant: Callable[[], AbstractContextManager[object]]
    row: int = 0
    seeds_max: int = SEEDS_MAX
    changes: Mapping[str, Any] = field(default_factory=dict)
    play: Callable[[int], None] | None = None  # instead of chance


def hunt(mutation: Mutation, first: int = 1) -> tuple[int, str]:
    """How many seeds were tried, and what the last of them violated; nothing if it was not found."""
    for seed in range(first, first + mutation.seeds_max):
        with mutation.plant():
            violation = _violation(mutation, seed)
        if violation:
            return seed - first + 1, violation
    return mutation.seeds_max, ""


def _violation(mutation: Mutation, seed: int) -> str:
    if mutation.play is None:
        return run_seed(seed, plan=replace(plan_of(seed), **mutation.changes)).violation
    try:
        mutation.play(seed)
    except Violation as violation:
        return str(violation)
    return ""


def _method(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    """Replace a function by what `make` makes of it."""
    return partial(patch.object, owner, name, make(getattr(owner, name)))


@contextmanager
def _handler(kind: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace what a member does with messages of a kind."""
    handlers = dict(Replica._HANDLERS)
    handlers[kind] = make(handlers[kind])
    with patch.object(Replica, "_HANDLERS", handlers):
        yield


# The disk


def _without_sync(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(journal: Journal, *, seal: bool = True) -> None:
        if journal.last_index > journal.synced_index:
            journal._log.segments.sync = lambda: None  # type: ignore[method-assign]
        try:
            original(journal, seal=seal)
        finally:
            journal._log.segments.__dict__.pop("sync", None)

    return mutated


def _term_without_sync(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(journal: Journal, term: int, voted_for: str | None) -> None:
        journal._log.segments.sync = lambda: None  # type: ignore[method-assign]
        try:
            original(journal, term, voted_for)
        finally:
            journal._log.segments.__dict__.pop("sync", None)

    return mutated


def _failed_sync_is_fine(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(segments: Segments) -> None:
        try:
            original(segments)
        except OSError:
            pass

    return mutated


def _unchecked_frame(data: memoryview, offset: int, seed: int) -> Frame | None:
    """A frame is whatever looks like one."""
    found = recovery_read_frame(data, offset, seed)
    if found is not None or offset + FRAME_HEAD_BYTES > len(data):
        return found
    from coordinator.consensus import records

    magic, size, sequence, previous = records._FRAME.unpack_from(data, offset)
    end = offset + size
    if magic != records._FRAME_MAGIC or size % records.SECTOR_BYTES or not offset < end <= len(data):
        return None
    (crc,) = records._CRC.unpack_from(data, offset + records._FRAME.size)
    return Frame(offset, end, sequence, previous, crc)


recovery_read_frame = recovery.read_frame


def _log_thrown_away(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Replica, journal: Journal, applied: tuple[int, int]) -> None:
        if journal.first_index < applied[0] < journal.last_index:
            journal.truncate_from(applied[0] + 1)
        original(replica, journal, applied)

    return mutated


def _commit_is_trusted(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Any, journal: Journal, applied: tuple[int, int]) -> None:
        original(replica, journal, applied)
        replica._SyncObj__raftCommitIndex = journal.last_index

    return mutated


def _compact_beyond_durable(upkeep: Any) -> None:
    journal = upkeep._journal
    upto = min(upkeep._database.applied_index, journal.index_keeping(upkeep.keep_bytes // 2))
    if journal.payload_bytes > upkeep.keep_bytes and upto > journal.first_index:
        journal.drop_to(upto)


def _install_is_volatile(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(database: MemoryDatabase, file: Any, index: int, term: int) -> None:
        before = database._images[0]
        original(database, file, index, term)
        database._images.insert(0, before)

    return mutated


def _tried_is_committed(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(writer: EntryWriter, entries: Any) -> Any:
        fresh = [entry for entry in entries if entry.index > writer.at.index]
        tried = writer._tried
        if tried is not None and fresh and fresh[0].index == tried.entry.index:
            writer._tried = replace(tried, entry=fresh[0])
        return original(writer, entries)

    return mutated


# Replication


def _always_truncate(log: Any, commit_index: int, previous: int, previous_term: int, entries: Any) -> Any:
    plan = guard.follow(log, commit_index, previous, previous_term, entries)
    end = previous + len(entries)
    if (
        plan.matched
        and plan.truncate_from is None
        and max(previous, log.first_index) < log.last_index
        and end > log.first_index
    ):
        kept = tuple(one for one in entries if one[1] > log.first_index)
        return replace(plan, truncate_from=max(previous, log.first_index) + 1, append=kept)
    return plan


def _commit_beyond_verified(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Any, peer: str, message: Any) -> None:
        original(replica, peer, message)
        commit = min(message["commit_index"], replica.journal.last_index)
        if message["term"] == replica.term() and commit > replica.commit_index():
            replica._SyncObj__raftCommitIndex = commit

    return mutated


def _hint_is_success(replica: Any, peer: str, message: Any) -> None:
    if replica._accept_leader(peer, message["term"]):
        replica.wanted_snapshot = (peer, message["index"])
        replica._acknowledge(peer, message["beat"], replica.journal.last_index, reset=False)


def _hint_is_not_answered(replica: Any, peer: str, message: Any) -> None:
    if replica._accept_leader(peer, message["term"]):
        replica.wanted_snapshot = (peer, message["index"])


def _hints_without_end(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Any, peer: str, *rest: Any) -> None:
        original(replica, peer, *rest)
        if (
            replica._links.connected(peer)
            and replica.journal.term_at(replica.progress[peer].next - 1) is None
        ):
            mutated(replica, peer, *rest)

    return mutated


def _any_term_counts(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Any, peer: str, message: Any) -> None:
        original(replica, peer, {**message, "term": replica.term()})

    return mutated


def _acknowledge_at_once(replica: Any, peer: str, beat: int, verified: int, *, reset: bool) -> None:
    replica._links.send(
        peer,
        {
            "type": "next_node_idx",
            "term": replica.term(),
            "next_node_idx": verified + 1,
            "reset": reset,
            "success": not reset,
            "beat": beat,
            "hold_ms": int(replica._timing.hold * 1000),
        },
    )


def _commit(*, own_disk: bool, own_term: bool) -> Callable[[Any], None]:
    def mutated(replica: Any) -> None:
        if replica.leads():
            own = replica.journal.synced_index if own_disk else replica.journal.last_index
            matches = [
                own if one == replica.own_id else replica.progress[one].match for one in replica.voters
            ]
            index = agreed(matches)
            term = replica.journal.term_at(index)
            if index > replica.commit_index() and (term == replica.term() or not own_term):
                replica._SyncObj__raftCommitIndex = index
        replica._hand_over()

    return mutated


@contextmanager
def _own_disk_comes_last() -> Iterator[None]:
    """A leader syncs after it has counted: the order of a turn alone would hide what is counted too early."""
    follow_role, sync = Core._follow_role, Journal.sync
    replicas: dict[Journal, Replica] = {}

    def mutated_follow_role(core: Core) -> None:
        replicas[core.journal] = core.replica
        sync(core.journal)
        follow_role(core)

    def mutated_sync(journal: Journal) -> None:
        if journal not in replicas or not replicas[journal].leads():
            sync(journal)

    with (
        patch.object(Replica, "advance_commit", _commit(own_disk=False, own_term=True)),
        patch.object(Core, "_follow_role", mutated_follow_role),
        patch.object(Journal, "sync", mutated_sync),
    ):
        yield


def _installed_without_reset(replica: Any, index: int, term: int, configuration: Any) -> None:
    replica._SyncObj__raftLastApplied = max(replica.handed_index(), index)
    replica._SyncObj__raftCommitIndex = min(max(replica.commit_index(), index), replica.journal.last_index)


# Elections


def _may_vote(*, boot_wait: bool, stickiness: bool) -> Callable[[Any], bool]:
    def mutated(replica: Any) -> bool:
        now = replica._clock.monotonic()
        if (boot_wait and now < replica._mute_until) or not replica.journal.has_room():
            return False
        if replica.leads():
            return not replica.has_contact()
        return not stickiness or bool(now - replica.heard_at >= replica._timing.election_min)

    return mutated


def _every_answer_is_an_echo(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Any, peer: str, message: Any) -> None:
        if message["term"] == replica.term() and replica.leads():
            replica.beats.echo(peer, message["beat"], message["hold_ms"] / 1000)
        original(replica, peer, message)

    return mutated


def _votes_again(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Any, peer: str, message: Any) -> None:
        if not replica.leads():
            replica._SyncObj__votedForNodeId = None
        original(replica, peer, message)

    return mutated


@contextmanager
def _old_logs_win() -> Iterator[None]:
    with _handler("request_vote", _any_log_will_do), patch.object(Replica, "_is_up_to_date", lambda *_: True):
        yield


def _any_log_will_do(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Any, peer: str, message: Any) -> None:
        original(replica, peer, {**message, "last_log_term": 1 << 40})

    return mutated


def _counts_every_answer(replica: Any, peer: str, message: Any) -> None:
    if message["term"] == replica.term():
        replica._stock(peer, message)


def _campaigns_at_once(replica: Any) -> None:
    replica._campaign(transfer=False)


# Who waits


def _leads_at_once(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Any) -> None:
        original(replica)
        replica.noop_index = 0

    return mutated


def _forgets_who_waits(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(core: Any) -> None:
        core._waiting.clear()
        original(core)

    return mutated


def _keeps_who_waits(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(core: Any) -> None:
        waiting, core._waiting = core._waiting, {}
        original(core)
        core._waiting = waiting

    return mutated


def _no_barrier(core: Any) -> bool:
    if not core._reads:
        return False
    core._barriers.append(core_module._Barrier(0, core.replica.commit_index(), list(core._reads)))
    core._reads.clear()
    return True


def _lease_since_the_echo(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Any, peer: str, message: Any) -> None:
        original(replica, peer, message)
        beats = replica.beats
        if replica.leads() and message["success"]:
            beats._leases[peer] = replica._clock.monotonic() + message["hold_ms"] / 1000 * LEASE_SHARE
            beats._renew()

    return mutated


def _without_a_promise(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(replica: Any, *arguments: Any) -> Any:
        with patch.object(replica, "_promised_until", NEVER):
            return original(replica, *arguments)

    return mutated


def _without_waiting(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(core: Any) -> bool:
        with patch.object(Configurations, "last_index", 0):
            return bool(original(core))

    return mutated


def _no_memory_of_batches(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(context: Any, batch: Any, raw: bytes) -> None:
        if context.execute("SELECT 1 FROM session WHERE id = ?", (batch.session,)).fetchone() is None:
            original(context, batch, raw)

    return mutated


def _poison(context: Any, op: Any) -> Any:
    return batches.COMMANDS[op.WhichOneof("op")](context, getattr(op, op.WhichOneof("op")))


WILD = {"wild": True, "loss": 0.02, "doubling": 0.1, "delay_chance": 0.1}
MEMBERS = {"spares": 2, "wild": False}
SNAPSHOTS = {"keep_bytes": 1024}


def _with_its_configuration(original: Callable[..., Any]) -> Callable[..., Any]:
    def installed(replica: Replica, index: int, term: int, configuration: Configuration) -> None:
        original(replica, index, term, configuration)
        replica.configurations.reset(index, configuration)

    return installed


def _newest_members(configurations: Configurations) -> Mapping[str, Any]:
    return {member.node_id: member for member in configurations.current.members}


def _only_of_candidates(original: Callable[..., None]) -> Callable[..., None]:
    def mutated(replica: Replica) -> None:
        if replica._may_campaign():
            original(replica)

    return mutated


MUTATIONS = (
    Mutation("entries are not synced", _method(Journal, "sync", _without_sync), 1),
    Mutation("term and vote are not synced", _method(Journal, "set_term", _term_without_sync), 1),
    Mutation(
        "what a failed sync left is taken as durable", _method(Segments, "sync", _failed_sync_is_fine), 8
    ),
    Mutation("the log's tail is thrown away at a start", _method(Replica, "_adopt", _log_thrown_away), 2),
    Mutation(
        "a torn frame is read",
        lambda: patch.object(recovery, "read_frame", _unchecked_frame),
        3,
        play=scenarios.a_frame_that_is_on_the_disk_in_part_is_cut_at_the_next_start,
    ),
    Mutation("every message truncates", lambda: patch.object(replica_module, "follow", _always_truncate), 4),
    Mutation(
        "the commit index is believed beyond what was compared",
        lambda: _handler("append_entries", _commit_beyond_verified),
        5,
    ),
    Mutation(
        "a snapshot is acknowledged before it is there",
        lambda: _handler("snapshot_hint", lambda original: _hint_is_success),
        6,
        changes=SNAPSHOTS,
    ),
    Mutation(
        "the log's end is taken as committed at a start", _method(Replica, "_adopt", _commit_is_trusted), 7
    ),
    Mutation("a refusal of an operation ends applying", lambda: patch.object(batches, "_one", _poison), 9),
    Mutation(
        "a leader nobody answers goes on", lambda: patch.object(Replica, "has_contact", lambda self: True), 10
    ),
    Mutation(
        "a follower that fetches a snapshot is silent",
        lambda: _handler("snapshot_hint", lambda original: _hint_is_not_answered),
        12,
        changes=SNAPSHOTS,
    ),
    Mutation(
        "hints at a snapshot are sent without end",
        _method(Replica, "_send_entries", _hints_without_end),
        13,
        changes=SNAPSHOTS,
    ),
    Mutation(
        "an acknowledgement of any term counts",
        lambda: _handler("next_node_idx", _any_term_counts),
        16,
        play=scenarios.an_acknowledgement_of_an_old_leadership_counts_nothing,
    ),
    Mutation(
        "no pre-vote",
        lambda: patch.object(Replica, "_ask_for_pre_votes", _campaigns_at_once),
        17,
        play=scenarios.a_member_that_returns_deposes_nobody,
    ),
    Mutation(
        "votes in spite of a leader",
        lambda: patch.object(Replica, "_may_vote", _may_vote(boot_wait=True, stickiness=False)),
        17,
    ),
    Mutation(
        "votes just after a start",
        lambda: patch.object(Replica, "_may_vote", _may_vote(boot_wait=False, stickiness=True)),
        17,
    ),
    Mutation(
        "an installed snapshot is not durable",
        _method(MemoryDatabase, "install", _install_is_volatile),
        18,
        changes=SNAPSHOTS,
    ),
    Mutation(
        "what was tried is committed with another entry",
        _method(EntryWriter, "apply", _tried_is_committed),
        play=scenarios.what_was_tried_in_a_lost_leadership_leaves_nothing,
    ),
    Mutation("a repeated batch is carried out again", _method(sessions, "recall", _no_memory_of_batches), 19),
    Mutation(
        "who waits is forgotten with the leadership", _method(Core, "_end_leadership", _forgets_who_waits), 19
    ),
    Mutation(
        "who waits is kept beyond the leadership", _method(Core, "_end_leadership", _keeps_who_waits), 19
    ),
    Mutation("a member votes twice in a term", lambda: _handler("request_vote", _votes_again)),
    Mutation("an old log may win", _old_logs_win),
    Mutation(
        "a doubled vote counts twice",
        lambda: _handler("response_vote", lambda original: _counts_every_answer),
        play=scenarios.two_answers_of_one_voter_are_one_vote,
    ),
    Mutation(
        "acknowledged before it is synced",
        lambda: patch.object(Replica, "_acknowledge", _acknowledge_at_once),
    ),
    Mutation(
        "a leader counts what its disk has not",
        _own_disk_comes_last,
    ),
    Mutation(
        "entries of older terms are committed by count",
        lambda: patch.object(Replica, "advance_commit", _commit(own_disk=True, own_term=False)),
        play=scenarios.an_entry_of_an_old_term_is_not_committed_by_count,
    ),
    Mutation(
        "a snapshot without a reset of the log",
        lambda: patch.object(Replica, "installed", _installed_without_reset),
        changes=SNAPSHOTS,
    ),
    Mutation(
        "compaction beyond what is durable",
        lambda: patch.object(Upkeep, "_compact", _compact_beyond_durable),
        changes=SNAPSHOTS,
    ),
    Mutation(
        "a leader begins before its no-op is applied",
        _method(Replica, "_SyncObj__onBecomeLeader", _leads_at_once),
    ),
    Mutation(
        "reads do not wait for a majority",
        lambda: patch.object(Core, "_note_barrier", _no_barrier),
        play=scenarios.a_leader_that_was_replaced_answers_no_question,
    ),
    Mutation(
        "a lease is longer than the promises",
        lambda: patch.object(leadership, "LEASE_SHARE", 3.0),
        play=leases.a_leader_that_others_lost_answers_nothing_that_is_old,
    ),
    Mutation(
        "a lease begins with the echo",
        lambda: _handler("next_node_idx", _lease_since_the_echo),
        play=leases.a_late_echo_is_a_short_lease,
    ),
    Mutation(
        "who lost its leader campaigns in spite of its promise",
        _method(Replica, "link_changed", _without_a_promise),
        play=leases.who_heard_the_leader_last_keeps_its_promise,
    ),
    Mutation(
        "who lost its leader votes in spite of its promise",
        _method(Replica, "_may_vote", _without_a_promise),
        play=leases.who_heard_the_leader_last_keeps_its_promise,
    ),
    Mutation(
        "a lease outlasts the wish to hand over",
        lambda: patch.object(Beats, "give_up_lease", lambda beats: None),
        play=leases.a_leader_that_hands_over_has_no_lease,
    ),
    Mutation(
        "a disk that was set back is not told",
        lambda: _handler("greeting", lambda original: lambda *_: None),
        20,
        play=scenarios.what_a_set_back_disk_acknowledged_is_not_lost,
    ),
    Mutation(
        "a disk that was set back goes on with its election",
        lambda: patch.object(Replica, "_may_campaign", lambda replica: replica.own_id in replica.voters),
        20,
        play=scenarios.what_a_set_back_disk_acknowledged_is_not_lost,
    ),
    Mutation(
        "a disk that was set back proves contact",
        lambda: _handler("next_node_idx", _every_answer_is_an_echo),
        20,
        play=scenarios.a_member_that_forgot_proves_no_leadership,
    ),
    Mutation(
        "a disk that was set back counts again at any commit index",
        lambda: patch.object(
            Replica,
            "_has_all_committed",
            lambda replica, message, verified: verified >= message["commit_index"],
        ),
        20,
        play=scenarios.a_member_that_forgot_is_counted_only_when_its_leader_knows_what_was_committed,
    ),
    Mutation(
        "a disk that was set back is not doubted",
        lambda: patch.object(replica_module, "Progress", lambda following, **_: Progress(following)),
        20,
        play=scenarios.what_a_set_back_disk_acknowledges_before_it_is_told_does_not_count,
    ),
    Mutation(
        "a disk that was set back does not count its starts on",
        lambda: patch.object(replica_module, "boots_lacking", lambda shown, remembered: 0),
        20,
        play=scenarios.a_disk_that_was_set_back_is_told_so_once,
    ),
    Mutation(
        "a leader's wish is followed just after a start",
        lambda: patch.object(Replica, "_has_just_started", lambda replica: False),
        20,
        play=scenarios.a_member_that_has_just_started_leads_on_nobodys_wish,
    ),
    Mutation(
        "two changes of the members at a time",
        _method(Core, "_change_members", _without_waiting),
        20,
        play=scenarios.two_removals_at_a_time_do_not_make_a_group_of_one,
    ),
    Mutation(
        "a truncated configuration stays",
        lambda: patch.object(Configurations, "truncate_from", lambda *_: False),
        20,
        play=scenarios.a_removal_that_was_not_committed_shuts_nobody_out,
    ),
    Mutation(
        "a configuration counts only when it is applied",
        _method(Configurations, "append", lambda original: lambda *_: None),
        20,
        changes=MEMBERS,
    ),
    Mutation(
        "an installed state's configuration replaces what the log told since",
        _method(Replica, "installed", _with_its_configuration),
        20,
        play=scenarios.members_who_changed_during_an_installation_are_not_forgotten,
    ),
    Mutation(
        "only the members of the newest configuration are heard",
        lambda: patch.object(Configurations, "known", property(_newest_members)),
        20,
        play=scenarios.a_removal_that_was_not_committed_shuts_nobody_out,
    ),
    Mutation(
        "who was away is not told of the members",
        lambda: _handler("members", lambda original: lambda *_: None),
        20,
        play=scenarios.a_leader_who_joined_meanwhile_is_heard,
    ),
    Mutation(
        "who may not campaign asks nobody who leads",
        _method(Replica, "_ask_for_pre_votes", _only_of_candidates),
        20,
        play=scenarios.a_learner_hears_a_leader_who_joined_meanwhile,
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutations", description=__doc__)
    parser.add_argument("--only", default="", metavar="PATTERN", help="those whose name matches")
    parser.add_argument("--first", type=int, default=1, metavar="SEED")
    arguments = parser.parse_args()
    missed = []
    for mutation in MUTATIONS:
        if not re.search(arguments.only, mutation.name):
            continue
        began = time.monotonic()
        tried, violation = hunt(mutation, arguments.first)
        seconds = f"{time.monotonic() - began:.0f} s"
        row = f"row {mutation.row}" if mutation.row else ""
        if not violation:
            missed.append(mutation.name)
            print(f"MISSED   {mutation.name:55} {row:7} {tried} seeds, {seconds}", flush=True)
        else:
            how = "play" if mutation.play else "seed"
            said = violation.splitlines()[0][:110]
            print(f"caught   {mutation.name:55} {row:7} by the {tried}. {how}, {seconds}: {said}", flush=True)
    if missed:
        print(f"not caught: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
