"""Placement for Allocate operations: what the leader decides before it proposes, from soft state and
metadata."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.decisions.placement import Candidate, Chance, Decision, Wanted, place
from coordinator.metadata import queries
from coordinator.services.gateway import Gateway
from coordinator.services.intake import Intake
from coordinator.soft_state import SoftState
from quorumfs.errors import NoPlacementError
from quorumfs.limits import ALLOCATE_CHUNKS_MAX, CHUNK_SIZE_BYTES_MAX
from quorumfs.rpc.status import to_detail
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n

LookUp = Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, n.UploadInfo]]]


@dataclass(frozen=True, slots=True)
class Placed:
    """The choices of one batch; `refused`: for ops without a placement, the error that tells why."""

    choices: tuple[e.Choice, ...]
    refused: Mapping[int, NoPlacementError]


class Placer:
    """`look_up` gives the figures of those uploads that are open, from this member's own state."""

    def __init__(self, soft: SoftState, look_up: LookUp, chance: Chance, min_replicas: int) -> None:
        self._soft = soft
        self._look_up = look_up
        self._chance = chance
        self._min_replicas = min_replicas

    async def place(self, intake: Intake) -> Placed:
        """Choose nodes for every Allocate of the batch. An op that cannot be placed goes without a choice,
        and `apply` refuses it; the others of its batch go on."""
        if not intake.allocations:
            return Placed((), {})
        uploads = await self._look_up([request.upload for _, request in intake.allocations])
        candidates = self._soft.candidates()
        choices: list[e.Choice] = []
        refused: dict[int, NoPlacementError] = {}
        for number, request in intake.allocations:
            upload = uploads.get(request.upload)
            if upload is None or not 1 <= request.count <= ALLOCATE_CHUNKS_MAX:
                continue  # apply says what is wrong
            choice = self._place_one(number, request, upload, candidates)
            if isinstance(choice, NoPlacementError):
                refused[number] = choice
            else:
                choices.append(choice)
        return Placed(tuple(choices), refused)

    def _place_one(
        self,
        number: int,
        request: n.AllocateRequest,
        upload: n.UploadInfo,
        candidates: dict[str, Candidate],
    ) -> e.Choice | NoPlacementError:
        """Takes what it gives away from the room of `candidates`."""
        size = min(request.size_hint or upload.chunk_size_bytes, CHUNK_SIZE_BYTES_MAX)
        minimum = upload.min_replicas or min(self._min_replicas, upload.replication)
        wanted = Wanted(
            upload.replication, minimum, size, frozenset(request.exclude), near_host=request.near_host
        )
        choice = e.Choice(op=number)
        for _ in range(request.count):
            decision = place(candidates.values(), wanted, self._chance)
            if not decision.node_ids:
                return no_placement(decision, wanted)
            choice.placements.add(node_ids=decision.node_ids)
            for node_id in decision.node_ids:
                one = candidates[node_id]
                candidates[node_id] = replace(one, free_bytes=max(0, one.free_bytes - size))
            self._soft.promise(decision.node_ids, size)
        return choice


def no_placement(decision: Decision, wanted: Wanted) -> NoPlacementError:
    return NoPlacementError(
        f"no place for a chunk of {wanted.size_bytes} bytes on at least {wanted.minimum} datanodes",
        cause=decision.explain(),
        next="dfsctl node ls shows the datanodes; start, undrain or add one, or free space",
    )


def explain(result: bytes, refused: Mapping[int, NoPlacementError]) -> bytes:
    """`result` (a BatchResult) with the reasons of those ops that `apply` refused for want of a placement.

    The stored result keeps the code alone: who asks again with the same bytes gets the code without the
    table.
    """
    batch = n.BatchResult.FromString(result)
    for number, error in refused.items():
        if number < len(batch.results) and int(batch.results[number].code) == error.code:
            batch.results[number].error.CopyFrom(to_detail(error))
    return batch.SerializeToString()


async def open_uploads(gateway: Gateway, uploads: Sequence[bytes]) -> dict[bytes, n.UploadInfo]:
    """The figures of those uploads that are open, from this member's own state."""

    def look(tx: sqlite3.Connection) -> dict[bytes, n.UploadInfo]:
        found = {}
        for upload in dict.fromkeys(uploads):
            answer = queries.answer(tx, n.ReadOp(get_upload=n.GetUploadRequest(upload=upload)))
            if answer.HasField("upload"):
                found[upload] = answer.upload
        return found

    return await gateway.ask(look)
