"""What operators tell the cluster of its nodes: use them or not, let them rest, move off, forget.

The leader alone does it, by entries: what was said holds whoever leads next. What is refused says why, and by which
rule.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from common import log
from coordinator.decisions.departure import eta_seconds, refusals
from coordinator.decisions.placement import LEAVING, Candidate
from coordinator.metadata import departures, queries
from coordinator.metadata.queries import Apart, DamagedChunk, Gone, Held
from coordinator.services.gateway import Gateway
from coordinator.soft.apart import apart
from coordinator.soft_state import SoftState, node_table
from quorumfs.errors import (
    InvalidArgumentError,
    NotFoundError,
    PreconditionFailedError,
    SafetyGuardError,
    make,
)
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

MAINTENANCE_SECONDS_MAX = 30 * 86_400.0
EXAMINED_MAX = 200
BLOCKERS_MAX = 20

NORMAL, DRAINING = t.NODE_INTENT_NORMAL, t.NODE_INTENT_DRAINING
DECOMMISSIONING, DECOMMISSIONED = t.NODE_INTENT_DECOMMISSIONING, t.NODE_INTENT_DECOMMISSIONED
MAINTENANCE = t.NODE_INTENT_MAINTENANCE

ORDERS: Mapping[str, tuple[t.NodeIntent.ValueType, tuple[t.NodeIntent.ValueType, ...]]] = {
    "drain": (DRAINING, (NORMAL, DRAINING, MAINTENANCE)),
    "undrain": (NORMAL, ()),
    "decommission": (DECOMMISSIONING, (NORMAL, DRAINING, MAINTENANCE, DECOMMISSIONING)),
    "recommission": (NORMAL, (NORMAL, DECOMMISSIONING, DECOMMISSIONED)),
    "maintenance": (MAINTENANCE, (NORMAL, MAINTENANCE)),
    "end_maintenance": (NORMAL, (NORMAL, MAINTENANCE)),
}
"""What a node is told -> the intent that it gets, and those from which it may (none: from any)."""

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """What a leaving node holds, and the first chunks that keep it: unreadable ones, those being written, those that
    remain; with some paths of each."""

    held: Held
    unreadable: Sequence[tuple[bytes, Sequence[bytes]]]
    writing: Sequence[tuple[bytes, Sequence[bytes]]]
    remaining: Sequence[tuple[DamagedChunk, Sequence[bytes]]]


class NodeDesk:
    """All methods run on the gRPC loop. `rate`: bytes a second that leave a node, None when not measured."""

    def __init__(
        self, gateway: Gateway, soft: SoftState, rate: Callable[[str], float | None] = lambda node_id: None
    ) -> None:
        self._gateway = gateway
        self._soft = soft
        self._rate = rate

    async def set_node(self, request: a.SetNodeRequest) -> str:
        """What was done, in a sentence. Raises QuorumFSError."""
        self._gateway.require_leadership()
        node_id = request.node_id
        command = e.SetNode(node_id=node_id)
        if request.action == "labels":
            command.labels.update(request.labels)
            command.remove_labels.extend(request.remove_labels)
        elif request.action in ORDERS:
            command.set_intent = True
            command.intent, only_from = ORDERS[request.action]
            command.only_from.extend(only_from)
        else:
            known = ", ".join([*ORDERS, "labels"])
            raise InvalidArgumentError(f"a node cannot be told to {request.action!r}", next=f"use {known}")
        if command.intent == MAINTENANCE:
            command.maintenance_until_cluster_ms = self._until(request.seconds)
        known_node = self._soft.known_as(node_id)
        if known_node is not None:
            if request.action == "decommission" and known_node.intent == DECOMMISSIONED:
                return f"{node_id} is decommissioned already"
            if command.intent != NORMAL and not known_node.is_datanode:
                raise InvalidArgumentError(
                    f"{node_id} is a coordinator: it holds no replicas",
                    cause=f"{request.action} is for datanodes",
                    next="for a while: dfsctl node shutdown; for good: dfsctl raft remove",
                )
        await self._settle(e.SystemCommand(set_node=command))
        return f"{node_id}: {request.action} is set"

    def _until(self, seconds: float) -> int:
        if not 0 < seconds <= MAINTENANCE_SECONDS_MAX:
            raise InvalidArgumentError(
                f"no maintenance lasts {seconds:g} s", cause=f"at most {MAINTENANCE_SECONDS_MAX:g} s"
            )
        return self._gateway.consensus.cluster_ms() + int(seconds * 1000)

    async def forget(self, request: a.ForgetNodeRequest) -> str:
        """Strike a node that is gone. Raises SafetyGuardError while it lives, or is needed, unless `force` says so."""
        self._gateway.require_leadership()
        node_id = request.node_id
        if any(one.node_id == node_id for one in self._gateway.members()):
            raise SafetyGuardError(f"{node_id} is a member of the Raft group", next="dfsctl raft remove")
        if self._soft.recently_heard(node_id):
            raise SafetyGuardError(f"{node_id} is alive", cause="it sends heartbeats", next="stop it first")
        if self._soft.may_be_alive(node_id):
            raise SafetyGuardError(
                f"{node_id} may be alive",
                cause="the leader has not listened for long enough to know",
                next="try again in a few seconds",
            )
        if not request.force:
            await self._refuse_needed(node_id)
        forget = e.SystemCommand(forget_node=e.ForgetNode(node_id=node_id))
        while (await self._settle(forget)).number:
            _log.info(
                "node.forgetting", node=node_id
            )  # an entry takes some of its replicas, the last the node
        return f"{node_id} is forgotten"

    async def _refuse_needed(self, node_id: str) -> None:
        gone, away = self._soft.gone(), apart(self._soft.candidates())
        look = await self._gateway.ask(lambda tx: _look(tx, node_id, gone, away, 1))
        held = look.held
        if held.nothing_remains:
            return
        reasons = []
        if held.remaining_chunks:
            reasons.append("they have not been copied to enough other nodes yet")
        if held.last_copies:
            example = _named(look.remaining[0][0].chunk, look.remaining[0][1]) if look.remaining else ""
            reasons.append(f"of {held.last_copies} no other node that stays has a replica{example}")
        if held.unreadable:
            example = _named(*look.unreadable[0])
            reasons.append(
                f"of {held.unreadable} more only damaged replicas are left, some of them there{example}"
            )
        if held.writing:
            reasons.append(f"{held.writing} chunks are being written there{_named(*look.writing[0])}")
        raise SafetyGuardError(
            f"without {node_id} {held.remaining_chunks} chunks have fewer replicas than they want",
            cause="; ".join(reasons),
            next="wait for repair (dfsctl repair status), or --force if the node is gone for good",
        )

    async def scrub(self, request: a.ControlScrubRequest) -> str:
        """Order datanodes to stop scrubbing, or to go on at a pace. Raises NotFoundError, PreconditionFailedError."""
        self._gateway.require_leadership()
        there = self._soft.candidates()
        unknown = sorted(set(request.node_ids) - there.keys())
        if unknown:
            raise NotFoundError(f"no datanode {unknown[0]!r} is registered", next="dfsctl node ls")
        wanted = sorted(request.node_ids or there)
        heard = [one for one in wanted if self._soft.recently_heard(one)]
        if not heard:
            raise PreconditionFailedError(f"none of {', '.join(wanted) or 'the datanodes'} is heard now")
        self._soft.take_done(("scrub",))  # what came of earlier orders is of no interest
        what = b"stop" if request.stop else b"%d" % request.bytes_per_second
        for node_id in heard:
            order = m.ScrubCommand(stop=request.stop, bytes_per_second=request.bytes_per_second)
            self._soft.order(node_id, "scrub", m.Command(scrub=order), what)
        silent = [one for one in wanted if one not in heard]
        verb = "stop scrubbing" if request.stop else "scrub"
        told = f"told to {verb}: {', '.join(heard)}"
        return f"{told}; not heard, and not told: {', '.join(silent)}" if silent else told

    async def decommissions(self, request: a.GetDecommissionRequest) -> a.Decommissions:
        """How far nodes are that leave, and what keeps them. Raises NotFoundError for one that is not registered."""
        self._gateway.require_leadership()
        candidates = self._soft.candidates()
        asked = request.node_id
        if asked and asked not in candidates:
            known = ", ".join(sorted(candidates))
            raise NotFoundError(f"no datanode {asked!r} is registered", cause=f"there are {known or 'none'}")
        gone, away = self._soft.gone(), apart(candidates)
        found = a.Decommissions()
        for node_id in [asked] if asked else sorted(candidates):
            if candidates[node_id].intent not in LEAVING:
                continue
            look = await self._gateway.ask(lambda tx, one=node_id: _look(tx, one, gone, away, EXAMINED_MAX))  # type: ignore[misc]
            found.nodes.append(self._progress(node_id, look, candidates))
        return found

    def _progress(self, node_id: str, look: Look, candidates: Mapping[str, Candidate]) -> a.Decommission:
        held = look.held
        known = self._soft.known_as(node_id)
        told = a.Decommission(
            node_id=node_id,
            intent=known.intent if known is not None else t.NODE_INTENT_DECOMMISSIONING,
            remaining_chunks=held.remaining_chunks,
            remaining_bytes=held.remaining_bytes,
            total_chunks=held.chunks,
            total_bytes=held.bytes,
            last_copies=held.last_copies,
            unreadable=held.unreadable,
            uploads=held.writing,
            blockers=blockers(look, candidates)[:BLOCKERS_MAX],
        )
        rate = self._rate(node_id)
        eta = eta_seconds(held.remaining_bytes, rate)
        if rate is not None:
            told.bytes_per_second = rate
        if eta is not None:
            told.eta_seconds = eta
        return told

    async def _settle(self, command: e.SystemCommand) -> e.SystemResult.One:
        """Propose and read the node table anew; what the command left. Raises what it was refused with."""
        done = await self._gateway.system(command)
        if done.code != t.ERROR_CODE_OK:
            raise make(done.code, done.error.message, cause=done.error.cause, next=done.error.next)
        self._soft.set_known(await self._gateway.ask(node_table))
        return done


def blockers(look: Look, candidates: Mapping[str, Candidate]) -> list[a.Blocker]:
    """Of the chunks looked at, those that cannot move now, each with the reason."""
    found = [
        a.Blocker(chunk=chunk, paths=_texts(paths), reason=reason)
        for reason, chunks in (("unreadable", look.unreadable), ("writing", look.writing))
        for chunk, paths in chunks
    ]
    for one, paths in look.remaining:
        rules = refusals(candidates, one.live, one.length)
        if rules:
            told = [f"{rule.node_id}: {rule.rule}" for rule in rules]
            found.append(
                a.Blocker(
                    chunk=one.chunk, length=one.length, paths=_texts(paths), reason="no_place", refusals=told
                )
            )
    return found


def _look(tx: sqlite3.Connection, node_id: str, gone: Gone, away: Apart, limit: int) -> Look:
    chunks = departures.remaining(tx, node_id, gone, away, limit)
    remaining = queries.damaged_chunks(tx, chunks, gone, departures.without(away, node_id))
    return Look(
        queries.held(tx, node_id, gone, away),
        [(chunk, departures.paths_of(tx, chunk)) for chunk in departures.unreadable(tx, node_id, limit)],
        [(chunk, [path]) for chunk, path in departures.writing(tx, node_id, limit)],
        [(one, departures.paths_of(tx, one.chunk)) for one in remaining],
    )


def _texts(paths: Sequence[bytes]) -> list[str]:
    return [path.decode("utf-8", "replace") for path in paths]


def _named(chunk: bytes, paths: Sequence[bytes]) -> str:
    of = f" of {_texts(paths)[0]}" if paths else ""
    return f": chunk {chunk.hex()}{of} for one"
