"""The tests' test: one safeguard of the rewriting is removed at a time, and the machine has to notice.

`python -m tests.property.repack_mutations` says for each what it said.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

from coordinator.metadata import contents, system
from coordinator.metadata.commands import repacking
from coordinator.metadata.contents import Last
from coordinator.metadata.context import Context
from quorumfs.v1 import entries_pb2 as e
from tests.property.planted import noticed, perform_on, tell
from tests.property.repack_machine import ALL, GRACE_MS, Repacking

Apply = Callable[[Context, bytes, int, e.RepackChunks.Range], int]


@dataclass(frozen=True)
class Mutation:
    """`plant` removes the safeguard within its block. `play`: what happens, instead of chance."""

    name: str
    plant: Callable[[], AbstractContextManager[object]]
    play: Callable[[Repacking], None]


def perform(play: Callable[[Repacking], None]) -> None:
    """One play from its beginning to the end of all that is dead. Raises what the machine has against it."""
    perform_on(Repacking(), play)


def hunt(mutation: Mutation) -> str:
    """What the machine said against it; empty: it noticed nothing."""
    return noticed(mutation.plant(), partial(perform, mutation.play))


# Plays


def _half_dead(machine: Repacking) -> None:
    """A pack of /a, /b and /c, of which the first is gone, and a leader that has seen it."""
    machine.files_are_stored_in_a_pack([3, 3, 3], 0)
    machine.remove(b"/a", purge=True)
    machine.the_reaper_goes_on(1000)
    machine.a_leader_looks(ALL, 100)
    assert machine.rewrites


def a_leader_switches_too_early(machine: Repacking) -> None:
    _half_dead(machine)
    machine.a_leader_switches(0, 0, 100)


def a_leader_switches_too_late(machine: Repacking) -> None:
    """Its upload has ended: the pack is garbage."""
    _half_dead(machine)
    machine.a_leader_writes_its_pack(0)
    machine.a_leader_closes(0, forgets=False)
    machine.a_leader_switches(0, 0, 100)
    machine.check()
    machine.time_passes(GRACE_MS)
    machine.the_collection_condemns_and_deletes()


def everything_goes_well(machine: Repacking) -> None:
    _half_dead(machine)
    machine.set_replication(b"/b", 3)
    machine.a_leader_writes_its_pack(0)
    machine.a_leader_switches(0, 0, 100)
    machine.check()


def a_file_is_cut_short_by_an_edit(machine: Repacking) -> None:
    """What the leader has read is less than what another file names."""
    machine.files_are_stored_in_a_pack([4], 0)
    machine.an_edit_begins(b"/a", 2, 0)
    machine.an_edit_ends(0, abort=False)
    machine.the_trash_is_emptied()
    machine.the_reaper_goes_on(1000)
    machine.a_leader_looks(ALL, 100)
    (one,) = machine.rewrites
    one.ranges[0].length = 1  # a leader that is mistaken
    one.content = one.content[:1]
    machine.a_leader_writes_its_pack(0)
    machine.a_leader_switches(0, 0, 100)


def an_edit_goes_on_meanwhile(machine: Repacking) -> None:
    _half_dead(machine)
    machine.a_leader_writes_its_pack(0)
    machine.an_edit_begins(b"/b", 2, 1)
    machine.a_leader_switches(0, 0, 100)
    machine.an_edit_hands_in_its_extents(0)
    machine.an_edit_ends(0, abort=False)


def one_file_moves_and_the_other_does_not(machine: Repacking) -> None:
    _half_dead(machine)
    machine.a_leader_writes_its_pack(0)
    machine.rewrites[0].ranges[0].length = 3  # of /b alone
    machine.a_leader_switches(0, 0, 100)
    machine.time_passes(GRACE_MS)
    machine.the_collection_condemns_and_deletes()


PLAYS = (
    a_leader_switches_too_early,
    a_leader_switches_too_late,
    everything_goes_well,
    a_file_is_cut_short_by_an_edit,
    an_edit_goes_on_meanwhile,
    one_file_moves_and_the_other_does_not,
)


def _sql(name: str, change: Callable[[str], str]) -> Any:
    return partial(patch.object, repacking, name, change(getattr(repacking, name)))


def _range(make: Callable[[Apply], Apply]) -> Any:
    return partial(patch.object, repacking, "_repack", make(repacking._repack))


def _packs_of_uploads_that_are_over(context: Context, command: e.RepackChunks) -> int:
    return sum(repacking._repack(context, b"", 0, one) for one in command.ranges)


def _one_further(original: Apply) -> Apply:
    def mutated(context: Context, upload: bytes, least: int, one: e.RepackChunks.Range) -> int:
        changed = e.RepackChunks.Range()
        changed.CopyFrom(one)
        changed.into_offset += 1
        return original(context, upload, least, changed)

    return mutated


def _let_go_at_once(original: Apply) -> Apply:
    """The old chunk, with what still refers to it."""

    def mutated(context: Context, upload: bytes, least: int, one: e.RepackChunks.Range) -> int:
        count = original(context, upload, least, one)
        known = context.execute("SELECT 1 FROM orphan WHERE chunk = ?", (one.chunk,)).fetchone()
        if count and known is None:
            contents.let_go(context, one.chunk, Last(b"", ""))
        return count

    return mutated


def _never_let_go(original: Apply) -> Apply:
    def mutated(context: Context, upload: bytes, least: int, one: e.RepackChunks.Range) -> int:
        with patch.object(contents, "let_go", lambda *_: None):
            return original(context, upload, least, one)

    return mutated


def _wanted_once(original: Apply) -> Apply:
    def mutated(context: Context, upload: bytes, least: int, one: e.RepackChunks.Range) -> int:
        count = original(context, upload, least, one)
        context.execute("UPDATE chunk SET want = 1 WHERE id = ?", (one.into,))
        return count

    return mutated


def _any_pack(query: str) -> str:
    """Durable or not: its parameters are used up all the same."""
    return "SELECT 1000 FROM chunk WHERE id = ? AND upload = ? AND ? + ? >= 0"


MUTATIONS = (
    Mutation(
        "extents move before the new pack is durable", _sql("_PACK", _any_pack), a_leader_switches_too_early
    ),
    Mutation(
        "a pack counts whose upload is over",
        lambda: _Both(
            patch.dict(system.COMMANDS, {"repack": _packs_of_uploads_that_are_over}),
            _sql(
                "_PACK", lambda query: query.replace("upload = ?", "? = x''").replace("state = ?", "? > 0")
            )(),
        ),
        a_leader_switches_too_late,
    ),
    Mutation(
        "what lies only partly within a range moves",
        _sql("_WITHIN", lambda query: query.replace("chunk_offset + length <= ?", "chunk_offset < ?")),
        a_file_is_cut_short_by_an_edit,
    ),
    Mutation(
        "what open uploads refer to moves",
        _sql("_WITHIN", lambda query: query.partition(" AND version")[0]),
        an_edit_goes_on_meanwhile,
    ),
    Mutation(
        "everything goes to the wrong place in the pack",
        _range(_one_further),
        one_file_moves_and_the_other_does_not,
    ),
    Mutation(
        "the old pack goes while files refer to it",
        _range(_let_go_at_once),
        one_file_moves_and_the_other_does_not,
    ),
    Mutation("the old pack stays for ever", _range(_never_let_go), everything_goes_well),
    Mutation("the new pack wants one replica", _range(_wanted_once), everything_goes_well),
)


class _Both:
    """Two mutations that make one bug together."""

    def __init__(self, *planted: AbstractContextManager[object]) -> None:
        self._planted = planted

    def __enter__(self) -> None:
        for one in self._planted:
            one.__enter__()

    def __exit__(self, *error: Any) -> None:
        for one in reversed(self._planted):
            one.__exit__(*error)


def main() -> None:
    tell(MUTATIONS, hunt)


if __name__ == "__main__":
    main()
