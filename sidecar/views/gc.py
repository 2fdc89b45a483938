"""Garbage collection: what it is doing, what the last cycle found, one chunk explained; a cycle, a pause."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from quorumfs.errors import NoLeaderError, QuorumFSError
from quorumfs.ids import ID_BYTES
from quorumfs.v1 import admin_pb2
from sidecar import bodies, limits, schemas, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require, token_of
from sidecar.contract import Contract, describes
from sidecar.methods import CONTROL_GC, EXPLAIN_CHUNK, LIST_CANDIDATES, RUN_GC
from sidecar.views.freshness import as_of

views = Blueprint("gc", __name__)

PAUSE_BODY = schemas.obj(paused=schemas.TRUTH)
CANDIDATE_STATES = ("orphan", "held", "quarantined")
CANDIDATES_QUERY = {
    "state": schemas.one_of(*CANDIDATE_STATES),
    "after": schemas.HEX_ID,
    "limit": {"type": "integer", "minimum": 1, "maximum": limits.LIST_PAGE_MAX},
}
CYCLE_BODY = schemas.some(dry_run=schemas.TRUTH, ticket={**schemas.COUNT, "maximum": bodies.NUMBER_MAX})


@views.get("/v1/gc")
@describes(Contract({200: schemas.GC_AS_OF}))
@require(Role.VIEWER)
def gc() -> Response:
    bodies.query(())
    told, error = agent().fleet.gc.answer()
    error = error or _not_leading(told.value)
    return jsonify({**shapes.gc(told.value), "authoritative": error is None, **as_of(told, error)})


def _not_leading(told: admin_pb2.GcStatus) -> QuorumFSError | None:
    if told.authoritative:
        return None
    return NoLeaderError("only a leader knows what the collection does; a follower tells what it remembers")


@views.post("/v1/gc")
@describes(Contract({200: schemas.GC}, body=PAUSE_BODY))
@require(Role.OPERATOR)
def control_gc() -> Response:
    """Body: `{"paused": true | false}`, whoever leads."""
    bodies.query(())
    paused = bodies.truth_field(bodies.json_object(("paused",)), "paused", is_required=True)
    asked = admin_pb2.ControlGcRequest(pause=paused, resume=not paused)
    answer = agent().fleet.order(CONTROL_GC, asked, lambda found: found.error, token_of(request))
    return jsonify(shapes.gc(answer))


@views.get("/v1/gc/cycles")
@describes(Contract({200: schemas.GC_CYCLES}))
@require(Role.VIEWER)
def gc_cycles() -> Response:
    """The last cycles that the leader remembers of its leadership, newest first, dry runs too."""
    bodies.query(())
    told, error = agent().fleet.gc_cycles.answer()
    cycles = [
        {
            **shapes.gc_report(one),
            "reason": one.reason,
            "ended_age_seconds": shapes.seconds(one.age_seconds),
        }
        for one in told.value.cycles
    ]
    error = error or _not_leading(told.value)
    return jsonify({"cycles": cycles, "authoritative": error is None, **as_of(told, error)})


@views.post("/v1/gc/cycles")
@describes(Contract({200: schemas.GC_CYCLE, 202: schemas.GC_CYCLE}, errors=(404, 409), body=CYCLE_BODY))
@require(Role.OPERATOR)
def run_gc() -> Response:
    """Body: `{"dry_run"}`. 202: a cycle has begun, and `ticket` names it; with `{"ticket"}` how it stands."""
    bodies.query(())
    body = bodies.json_object(("dry_run", "ticket"))
    ticket = bodies.count_field(body, "ticket", 0, bodies.NUMBER_MAX)
    asked = admin_pb2.RunGcRequest(
        dry_run=bodies.truth_field(body, "dry_run"), ticket=ticket, wait=bool(ticket)
    )
    answer = agent().fleet.order(RUN_GC, asked, lambda found: found.error, token_of(request))
    response = jsonify({**shapes.gc_report(answer), "ticket": answer.ticket, "reason": answer.reason})
    response.status_code = 202 if answer.outcome == "running" else 200
    return response


@views.get("/v1/gc/candidates")
@describes(Contract({200: schemas.CANDIDATES}, query=CANDIDATES_QUERY))
@require(Role.VIEWER)
def candidates() -> Response:
    """`?state=orphan|held|quarantined&after=&limit=`: a page of chunks by id; `next` is the `after` of the next; of
    `quarantined`, `silent_nodes`: datanodes that did not tell.

    While nobody leads, as any coordinator's tables have it (not of `quarantined`: only nodes know that)."""
    query = bodies.query(("state", "after", "limit"))
    state = bodies.choice_field(query, "state", "orphan", CANDIDATE_STATES)
    after = query.get("after", "")
    asked = admin_pb2.ListCandidatesRequest(
        after=bodies.hex_id(after, ID_BYTES) if after else b"",
        limit=bodies.number(query, "limit", 100, limits.LIST_PAGE_MAX),
        held=state == "held",
        quarantined=state == "quarantined",
    )
    stale = admin_pb2.ListCandidatesRequest()
    stale.CopyFrom(asked)
    stale.stale = True
    told, error = agent().fleet.ask_leader_first(
        LIST_CANDIDATES,
        asked,
        stale,
        lambda found: found.error,
        lambda found: found.age_ms,
        token_of(request),
    )
    chunks = [shapes.chunk_story(one) for one in told.value.chunks]
    following = told.value.next.hex() or None
    return jsonify(
        {
            "chunks": chunks,
            "next": following,
            "authoritative": told.value.authoritative,
            "silent_nodes": list(told.value.silent_nodes),
            **as_of(told, error),
        }
    )


@views.get("/v1/gc/explain/<chunk>")
@describes(Contract({200: schemas.CHUNK_STORY}, errors=(404,)))
@require(Role.VIEWER)
def explain(chunk: str) -> Response:
    """In what state a chunk is, what refers to it or did, who has it, what keeps it.

    While nobody leads, as any coordinator's tables have it: no datanode is asked."""
    bodies.query(())
    named = bodies.hex_id(chunk, ID_BYTES)
    told, error = agent().fleet.ask_leader_first(
        EXPLAIN_CHUNK,
        admin_pb2.ExplainChunkRequest(chunk=named),
        admin_pb2.ExplainChunkRequest(chunk=named, stale=True),
        lambda found: found.error,
        lambda found: found.age_ms,
        token_of(request),
    )
    return jsonify(
        {
            **shapes.chunk_story(told.value),
            "authoritative": told.value.authoritative,
            **as_of(told, error),
        }
    )
