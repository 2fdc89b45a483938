"""The tests' test: one safeguard of the garbage collection is removed at a time, and its machine has to notice.

`python -m tests.property.gc_mutations` says for each what found it, and how soon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from coordinator.decisions import collection
from coordinator.duties.cycle import Cycle
from coordinator.duties.holders import Deleted
from coordinator.metadata import contents, garbage, system
from coordinator.metadata.commands import garbage as commands
from coordinator.metadata.context import Context
from datanode.store import rules
from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.property.gc_machine import Collection
from tests.property.planted import noticed, perform_on, tell
from tests.support.datanodes import Datanode
from tests.support.farm import GRACE_SECONDS, NODES, Farm

EXAMPLES_MAX = 100


@dataclass(frozen=True)
class Mutation:
    """`plant` removes the safeguard within its block. `play`: what happens, instead of chance."""

    name: str
    plant: Callable[[], AbstractContextManager[object]]
    play: Callable[[Collection], None] | None = None


def perform(play: Callable[[Collection], None]) -> None:
    """One play from its beginning to the end of all garbage. Raises what the machine has against it."""
    perform_on(Collection(), play)


def hunt(mutation: Mutation) -> str:
    """What the machine said against it; empty: it noticed nothing."""
    given = settings(
        max_examples=EXAMPLES_MAX,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )

    def act() -> None:
        if mutation.play is not None:
            perform(mutation.play)
        else:
            run_state_machine_as_test(Collection, settings=given)

    return noticed(mutation.plant(), act)


def _command(kind: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    """Replace what `apply` does with commands of a kind."""
    return partial(patch.dict, system.COMMANDS, {kind: make(system.COMMANDS[kind])})


def _method(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    return partial(patch.object, owner, name, make(getattr(owner, name)))


def _condemn_whatever_is_named(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(context: Context, command: e.CondemnChunks) -> int:
        for chunk in command.chunks:
            context.execute(
                "INSERT OR IGNORE INTO orphan VALUES (?, ?, ?, '', x'', 0, 0, 0, 0)",
                (chunk, context.index, context.now_ms),
            )
            context.execute("UPDATE orphan SET condemned_index = ? WHERE chunk = ?", (context.index, chunk))
            context.execute("UPDATE chunk SET state = 2 WHERE id = ?", (chunk,))
        return len(command.chunks)

    return mutated


def _without_grace(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(context: Context, command: e.CondemnChunks) -> Any:
        with patch.object(Context, "setting", lambda self, key: 0):
            return original(context, command)

    return mutated


def _adopt_what_is_known(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(context: Context, command: e.AdoptChunks) -> Any:
        for one in command.chunks:
            known = context.execute("SELECT 1 FROM chunk WHERE id = ?", (one.chunk,)).fetchone()
            if known is not None:
                context.execute(
                    "INSERT OR IGNORE INTO orphan VALUES (?, ?, ?, '', x'', 0, 0, 0, 0)",
                    (one.chunk, context.index, context.now_ms),
                )
        return original(context, command)

    return mutated


def _forget_without_asking(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(context: Context, command: e.ForgetChunks) -> int:
        for chunk in command.chunks:
            if context.execute("DELETE FROM chunk WHERE id = ? AND state = 2", (chunk,)).rowcount:
                context.execute("DELETE FROM orphan WHERE chunk = ?", (chunk,))
                context.totals.chunks -= 1
        return len(command.chunks)

    return mutated


def _release_at_once(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(context: Context, command: e.ReleaseChunks) -> int:
        for chunk in command.chunks:
            context.execute("UPDATE orphan SET hold = 0, since_ms = 0 WHERE chunk = ?", (chunk,))
        return len(command.chunks)

    return mutated


def _restore_without_a_hold(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(context: Context, command: e.RestoreChunks) -> Any:
        done = original(context, command)
        for chunk in command.chunks:
            context.execute("UPDATE orphan SET hold = 0 WHERE chunk = ?", (chunk,))
        return done

    return mutated


def _restore_without_voiding(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(node: Datanode, epoch: Any, chunks: Sequence[bytes], void_below: int) -> Any:
        return original(node, epoch, chunks, 0)

    return mutated


def _void_nodes_count(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(cycle: Cycle, node_id: str, why: str) -> None:
        listed = cycle._listed.get(node_id, collection.PackedIds())
        original(cycle, node_id, why)
        cycle._listed[node_id] = listed

    return mutated


def _silence_is_consent(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(cycle: Cycle, node_id: str, condemned: Sequence[tuple[bytes, int]]) -> Any:
        original(cycle, node_id, condemned)
        return Deleted(frozenset(chunk for chunk, _ in condemned))

    return mutated


def _only_of_this_cycle(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(tx: Any, after: bytes, limit: int) -> Any:
        now = garbage.cluster(tx)
        assert now is not None
        mine = "SELECT chunk FROM orphan WHERE cycle = ?"
        chunks = {row[0] for row in tx.execute(mine, (now.cycle,))}
        return [one for one in original(tx, after, limit) if one.chunk in chunks]

    return mutated


def _births_do_not_matter(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda context, birth: True


def _an_upload_ends_as_ever(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(context: Context, upload: bytes, last: Any) -> None:
        original(context, upload, last)
        context.execute("UPDATE orphan SET hold = 0 WHERE since_index = ?", (context.index,))

    return mutated


def _wherever_born(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda chunk, birth, condemned, hold: original(
        chunk, birth, replace(condemned, released=True), hold
    )


@contextmanager
def _nobody_looks_at_births() -> Iterator[None]:
    """Neither the log at what it adopts, nor a node at what it is to delete: each alone suffices."""
    with (
        patch.object(commands, "_is_of_this_log", lambda context, birth: True),
        patch.object(rules, "check_quarantine", _wherever_born(rules.check_quarantine)),
    ):
        yield


def _goes_on_in_its_history(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda farm, image, history: original(farm, image, farm.history)


# Plays


def _condemned(machine: Collection, *paths: bytes) -> list[bytes]:
    """Files that were stored everywhere and removed, up to where their chunks are to be deleted."""
    farm = machine.farm
    for path in paths:
        machine.store(path, NODES)
    chunks = [machine.files.pop(path) for path in paths]
    for path, chunk in zip(paths, chunks, strict=True):
        farm.remove(path)
        machine.garbage[chunk] = machine.now_ms
    machine.time_passes(GRACE_SECONDS)
    farm.collect.request(dry_run=False)
    farm.step_until("sweep")
    return chunks


def a_restore_in_the_middle_of_deleting(machine: Collection) -> None:
    (chunk,) = _condemned(machine, b"/a")
    machine.farm.step()
    assert machine.farm.on(chunk) == ["d2", "d3"]
    machine.farm.leader.run(lambda: machine.desk.restore([chunk]))
    del machine.garbage[chunk]
    machine.held[chunk] = set(NODES)
    machine.the_collection_goes_on(20)


def an_election_in_the_middle_of_deleting(machine: Collection) -> None:
    _condemned(machine, b"/a")
    machine.a_leader_is_elected()
    machine.a_deposed_leader_goes_on(20)


def a_leader_that_knows_less(machine: Collection) -> None:
    _condemned(machine, b"/a")
    machine.a_node_hears_of_a_log_that_was_lost("d2", 1000)
    machine.the_collection_goes_on(20)


def a_node_away_for_a_moment(machine: Collection) -> None:
    _condemned(machine, b"/a", b"/b")
    machine.farm.step()
    machine.a_node_is_cut_off("d2")
    machine.farm.step()
    machine.a_node_comes_back("d2")
    machine.the_collection_goes_on(20)


def a_node_away_for_long(machine: Collection) -> None:
    _condemned(machine, b"/a")
    machine.a_node_is_cut_off("d2")
    machine.the_collection_goes_on(20)
    machine.all_is_proposed_to_be_forgotten_by_mistake()


def an_older_backup(machine: Collection) -> None:
    """Restored when there are newer files; then the log grows beyond where it was before."""
    machine.store(b"/a", NODES)
    machine.a_backup_is_made()
    machine.store(b"/b", NODES)
    machine.a_backup_is_restored(-1)
    machine.everything_is_collected()
    for _ in range(60):
        machine.time_passes(1.0)
    machine.everything_is_collected()


def an_older_backup_with_an_open_upload(machine: Collection) -> None:
    """Behind the backup it became a file; after the restore it comes to its end without becoming one."""
    machine.open_upload(NODES)
    ((upload, made, _),) = machine.uploads
    machine.a_backup_is_made()
    assert machine.farm.commit(upload, made, *NODES) is Code.OK
    machine.a_backup_is_restored(-1)
    machine.farm.leader.batch(n.Op(abort_upload=n.AbortUploadRequest(upload=upload)))
    machine.uploads = []
    machine.held[made.chunks[0].chunk] = set(NODES)
    machine.everything_is_collected()


def an_old_file_is_removed(machine: Collection) -> None:
    machine.store(b"/a", NODES)
    machine.time_passes(20 * GRACE_SECONDS)
    machine.farm.remove(b"/a")
    machine.garbage[machine.files.pop(b"/a")] = machine.now_ms
    machine.all_is_proposed_to_be_condemned_by_mistake()
    machine.a_cycle_runs()


PLAYS = (
    an_old_file_is_removed,
    an_older_backup,
    an_older_backup_with_an_open_upload,
    a_restore_in_the_middle_of_deleting,
    an_election_in_the_middle_of_deleting,
    a_leader_that_knows_less,
    a_node_away_for_a_moment,
    a_node_away_for_long,
)

MUTATIONS = (
    Mutation("apply condemns what it is told to", _command("condemn", _condemn_whatever_is_named)),
    Mutation("no grace", _command("condemn", _without_grace), an_old_file_is_removed),
    Mutation(
        "grace counts from the birth of a chunk",
        partial(patch.object, commands, "_CANDIDATE", commands._CANDIDATE.replace("since_ms", "birth_ms", 1)),
        an_old_file_is_removed,
    ),
    Mutation("what something refers to is adopted as an orphan", _command("adopt", _adopt_what_is_known)),
    Mutation(
        "forgotten before every holder has confirmed",
        _command("forget_chunks", _forget_without_asking),
        a_node_away_for_long,
    ),
    Mutation("released chunks get no grace", _command("release", _release_at_once)),
    Mutation("restored chunks are not held", _command("restore", _restore_without_a_hold)),
    Mutation(
        "a restore voids no delete",
        _method(Datanode, "restore", _restore_without_voiding),
        a_restore_in_the_middle_of_deleting,
    ),
    Mutation(
        "chunks of another log are garbage", _method(commands, "_is_of_this_log", _births_do_not_matter)
    ),
    Mutation(
        "nodes obey deposed leaders",
        _method(Datanode, "obey", lambda _: lambda node, epoch: None),
        an_election_in_the_middle_of_deleting,
    ),
    Mutation(
        "nodes obey leaders that know less",
        _method(Datanode, "check_log", lambda _: lambda node, index: None),
        a_leader_that_knows_less,
    ),
    Mutation("void nodes count", _method(Cycle, "_void", _void_nodes_count), a_node_away_for_a_moment),
    Mutation(
        "a node that does not answer has confirmed",
        _method(Cycle, "_delete", _silence_is_consent),
        a_node_away_for_long,
    ),
    Mutation(
        "a restored backup takes what is newer for garbage",
        _nobody_looks_at_births,
        an_older_backup,
    ),
    Mutation(
        "a restored backup takes what its open uploads became for garbage",
        _method(contents, "release_upload", _an_upload_ends_as_ever),
        an_older_backup_with_an_open_upload,
    ),
    Mutation(
        "a restored backup goes on in its history",
        _method(Farm, "restore_backup", _goes_on_in_its_history),
        an_older_backup,
    ),
    Mutation(
        "a new leader forgets what was condemned",
        _method(garbage, "condemned", _only_of_this_cycle),
        an_election_in_the_middle_of_deleting,
    ),
)


def main() -> None:
    tell(MUTATIONS, hunt)


if __name__ == "__main__":
    main()
