"""The tests' test: one safeguard of the collection is removed at a time, and the simulation has to notice.

`python -m tests.simulation.garbage.mutations` says for each which seed found it, and what it said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

from coordinator.duties.cycle import Cycle
from coordinator.duties.holders import Orders
from coordinator.duties.repack import Repack
from coordinator.duties.trim import TrimDuty
from coordinator.metadata import contents, garbage, layouts
from coordinator.metadata.commands import garbage as commands
from coordinator.soft.touched import Touched
from datanode.duties.upkeep import PurgeDuty
from datanode.store.chunks import ChunkStore
from datanode.store.disk import Disk
from datanode.store.fence import EpochStore
from datanode.store.holds import Hold
from quorumfs.checksum import crc32c
from quorumfs.errors import QuorumFSError
from quorumfs.store_chunk import Stored
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.property import gc_mutations as planted
from tests.property.planted import tell
from tests.simulation.garbage.rewriting import SimPackWriter
from tests.simulation.garbage.run import Scale, run_storage_seed, scale_of
from tests.simulation.garbage.service import SimHolders

SEEDS_MAX = 40


@dataclass(frozen=True)
class Mutation:
    """`plant` removes the safeguard within its block. `bend`: the scale of a seed towards where it can show."""

    name: str
    plant: Callable[[], AbstractContextManager[object]]
    bend: Callable[[Scale], Scale] = lambda scale: scale


def hunt(mutation: Mutation, first: int = 1) -> tuple[int, str]:
    """How many seeds were tried, and what the last of them violated; nothing if it was not found."""
    for seed in range(first, first + SEEDS_MAX):
        with mutation.plant():
            violation = run_storage_seed(seed, scale=mutation.bend(scale_of(seed))).violation
        if violation:
            return seed - first + 1, violation
    return SEEDS_MAX, ""


def _method(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    return partial(patch.object, owner, name, make(getattr(owner, name)))


def _restored(scale: Scale) -> Scale:
    return replace(scale, restores=True)


def _repairing(scale: Scale) -> Scale:
    return replace(scale, repairs=True, datanodes=4, harm_pause=0.6)


def _balancing(scale: Scale) -> Scale:
    return replace(scale, repairs=True, balances=True, datanodes=4, harm_pause=2.5, restores=False)


def _hasty(scale: Scale) -> Scale:
    return replace(scale, hasty=True)


def _harsh(scale: Scale) -> Scale:
    return replace(scale, harm_pause=0.6)


def _rewriting(scale: Scale) -> Scale:
    return replace(scale, rewrites=True)


def _void_nothing(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda store, chunk, hold: original(store, chunk, Hold(hold.history, 0))


def _obey_everybody(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(fence: EpochStore, epoch: Any) -> None:
        if (epoch.history, epoch.term) > fence.epoch:
            original(fence, epoch)

    return mutated


def _purge_at_once(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutated(duty: PurgeDuty) -> str:
        duty._age_seconds += 1e6 * bool(duty._since)
        return str(original(duty))

    return mutated


def _trim_first(original: Callable[..., Any]) -> Callable[..., Any]:
    """The node is told before the metadata is."""

    def mutated(duty: TrimDuty, command: e.SystemCommand) -> None:
        for one in command.trim.replicas:
            index = duty._desk.consensus.status().commit_index
            duty._holders.delete(one.node_id, Orders(duty._epoch, index, [(one.chunk, index)]))
        original(duty, command)

    return mutated


def _only_promised(original: Callable[..., Any]) -> Callable[..., Any]:
    """Nobody has written a byte of the pack yet."""

    def mutated(packs: SimPackWriter, upload: n.UploadInfo, target: n.AllocatedChunk, body: Any) -> Stored:
        content = bytes(body.view)
        acks = [t.ReplicaAck(node_id=one.node_id, durable=True) for one in target.replicas]
        sealed = n.SealedChunk(
            chunk=target.chunk, length=len(content), checksum=crc32c(content), replicas=acks
        )
        return Stored(sealed, frozenset())

    return mutated


def _delete_what_was_rewritten(original: Callable[..., Any]) -> Callable[..., Any]:
    """By whoever rewrote it, at once."""

    def mutated(duty: Repack, upload: n.UploadInfo, read: Any) -> Any:
        moved = original(duty, upload, read)
        packs: Any = duty._packs
        holders = SimHolders(packs._process, packs._storage)
        index, epoch = duty._desk.consensus.commit_index, packs._soft.epoch()
        for one, _ in read:
            where = duty._desk.look(partial(layouts.location, chunk=one.chunk))
            for replica in where.replicas if where is not None else ():
                with suppress(QuorumFSError):
                    holders.delete(replica.node_id, Orders(epoch, index, [(one.chunk, index)]))
        return moved

    return mutated


def _condemn_by_the_birth() -> Any:
    changed = commands._CANDIDATE.replace("since_ms", "birth_ms", 1)
    return patch.object(commands, "_CANDIDATE", changed)


def _due_at_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """Every orphan that is not held, however young."""

    def mutated(tx: Any, after: bytes, limit: int) -> Sequence[bytes]:
        return garbage.candidates(tx, after, limit, held=False)

    return mutated


class _Several:
    """Mutations that make one bug together."""

    def __init__(self, *plants: Callable[[], AbstractContextManager[object]]) -> None:
        self._plants = plants
        self._planted: list[AbstractContextManager[object]] = []

    def __enter__(self) -> None:
        self._planted = [plant() for plant in self._plants]
        for one in self._planted:
            one.__enter__()

    def __exit__(self, *error: Any) -> None:
        for one in reversed(self._planted):
            one.__exit__(*error)


MUTATIONS = (
    Mutation(
        "apply condemns what it is told to",
        planted._command("condemn", planted._condemn_whatever_is_named),
    ),
    Mutation(
        "there is no grace",
        lambda: _Several(
            planted._command("condemn", planted._without_grace),
            _method(garbage, "due", _due_at_once),
        ),
    ),
    Mutation(
        "the grace counts from the birth of a chunk",
        lambda: _Several(_condemn_by_the_birth, _method(garbage, "due", _due_at_once)),
    ),
    Mutation(
        "what something refers to is adopted as an orphan, and condemned",
        lambda: _Several(
            planted._command("adopt", planted._adopt_what_is_known),
            lambda: patch.object(commands, "_CANDIDATE", commands._CANDIDATE.partition(" AND NOT EXISTS")[0]),
        ),
    ),
    Mutation(
        "a restore from quarantine voids no delete", _method(ChunkStore, "restore", _void_nothing), _hasty
    ),
    Mutation(
        "a restore from quarantine holds nothing",
        planted._command("restore", planted._restore_without_a_hold),
        _harsh,
    ),
    Mutation(
        "what was released gets no grace", planted._command("release", planted._release_at_once), _harsh
    ),
    Mutation("nodes obey deposed leaders", _method(EpochStore, "obey", _obey_everybody), _harsh),
    Mutation(
        "chunks of another log are garbage",
        planted._method(commands, "_is_of_this_log", planted._births_do_not_matter),
        _restored,
    ),
    Mutation(
        "what the open uploads of a backup became is garbage",
        planted._method(contents, "release_upload", planted._an_upload_ends_as_ever),
        _restored,
    ),
    Mutation(
        "a node that does not answer has confirmed",
        planted._method(Cycle, "_delete", planted._silence_is_consent),
        _harsh,
    ),
    Mutation(
        "forgotten before every holder has confirmed",
        planted._command("forget_chunks", planted._forget_without_asking),
        _harsh,
    ),
    Mutation(
        "a new leader forgets what was condemned",
        planted._method(garbage, "condemned", planted._only_of_this_cycle),
        _harsh,
    ),
    Mutation(
        "replicas are deleted before the log says so", _method(TrimDuty, "_propose", _trim_first), _repairing
    ),
    Mutation(
        "extents move before the new pack is durable",
        _method(SimPackWriter, "_send", _only_promised),
        _rewriting,
    ),
    Mutation(
        "the old pack is deleted by whoever rewrote it",
        _method(Repack, "_move", _delete_what_was_rewritten),
        _rewriting,
    ),
    Mutation(
        "what a node said before it deleted a replica brings that back",
        lambda: patch.object(Touched, "since", lambda *_: False),
        _balancing,
    ),
    Mutation("quarantined chunks are purged at once", _method(PurgeDuty, "work", _purge_at_once)),
    Mutation(
        "names are not synced",
        lambda: patch.object(Disk, "sync_directory", lambda disk, path: None),
        _harsh,
    ),
)


def _said(mutation: Mutation) -> str:
    seeds, found = hunt(mutation)
    return f"seed {seeds}: {found}" if found else ""


def main() -> None:
    tell(MUTATIONS, _said)


if __name__ == "__main__":
    main()
