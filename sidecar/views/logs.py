"""The node's log: a stream that can be resumed, and its level, which can be changed for a while."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain

from flask import Blueprint, Response, jsonify, request

from quorumfs.errors import QuorumFSError
from quorumfs.v1 import admin_pb2
from sidecar import bodies, limits, schemas, shapes
from sidecar.agent import Agent, agent
from sidecar.auth import Role, require, token_of
from sidecar.contract import Contract, describes
from sidecar.logs import LEVELS, Entry, Filter, Follower
from sidecar.methods import GET_LOG_LEVEL, SET_LOG_LEVEL

views = Blueprint("logs", __name__)

SSE, NDJSON = "text/event-stream", "application/x-ndjson"
LOG_QUERY = {
    "level": schemas.one_of(*LEVELS),
    "since": schemas.TEXT,
    "follow": schemas.one_of("0", "1", "false", "true"),
    "grep": {"type": "string", "maxLength": limits.GREP_BYTES_MAX},
}
LEVEL_BODY: schemas.Schema = {
    **schemas.some(
        level=schemas.one_of(*LEVELS[:-1]),
        ttl_seconds={"type": "number", "minimum": 0, "maximum": limits.LEVEL_TTL_SECONDS_MAX},
        logger={"type": "string", "maxLength": 200},
    ),
    "required": ["level"],
}


@views.get("/logs/stream")
@describes(Contract({200: None}, query=LOG_QUERY, media=(NDJSON, SSE)))
@require(Role.VIEWER)
def stream() -> Response:
    """`?level=&since=&follow=&grep=`, header Last-Event-ID. Server-sent events by Accept, else NDJSON.

    `follow` is the default for server-sent events only. `grep` is a plain substring of the record's JSON, in
    any case: a pattern could be made to run for ever.
    """
    served = agent()
    asked = bodies.query(("level", "since", "follow", "grep"))
    wanted = _filter(asked, served.clock.wall_ms())
    is_sse = request.accept_mimetypes.best_match((NDJSON, SSE), NDJSON) == SSE
    after = request.headers.get("Last-Event-ID", "")[:200]
    dialect = SERVER_SENT if is_sse else LINES
    stack = ExitStack()
    stack.enter_context(served.logs.slot())
    try:
        if bodies.flag(asked, "follow", is_sse):
            follower = stack.enter_context(closing(served.logs.follow(wanted, after)))
            chunks = _followed(served, follower, dialect)
            lift: Callable[[], None] = request.environ.get(limits.LIFT_DEADLINE, lambda: None)
            lift()
        else:
            chunks = _once(served.logs.once(wanted, after), dialect)
    except BaseException:
        stack.close()
        raise
    response = Response(chunks, content_type=f"{dialect.content_type}; charset=utf-8")
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(stack.close)
    return response


@views.get("/logs/level")
@describes(Contract({200: schemas.LOG_LEVEL}, query={"logger": schemas.TEXT}))
@require(Role.VIEWER)
def read_level() -> Response:
    """`?logger=`: the level that holds for this one, else for all."""
    logger = bodies.query(("logger",)).get("logger", "")
    bodies.text_field({"logger": logger}, "logger", "", 200)
    return _level(agent().link.ask(GET_LOG_LEVEL, admin_pb2.GetLogLevelRequest(logger=logger)))


@views.put("/logs/level")
@describes(Contract({200: schemas.LOG_LEVEL}, body=LEVEL_BODY))
@require(Role.OPERATOR)
def change_level() -> Response:
    """Body: `{"level": "debug", "ttl_seconds": 600, "logger": ""}`; with a ttl it goes back by itself."""
    bodies.query(())
    body = bodies.json_object(("level", "ttl_seconds", "logger"))
    return _level(
        agent().link.change(
            SET_LOG_LEVEL,
            admin_pb2.LogLevel(
                level=bodies.choice_field(body, "level", None, LEVELS[:-1]),
                ttl_seconds=bodies.seconds_field(body, "ttl_seconds", 0.0, limits.LEVEL_TTL_SECONDS_MAX),
                logger=bodies.text_field(body, "logger", "", 200),
            ),
            token_of(request),
        )
    )


def _level(answer: admin_pb2.LogLevel) -> Response:
    return jsonify(
        {
            "node_id": agent().settings.node_id,
            "level": answer.level,
            "ttl_seconds": shapes.seconds(answer.ttl_seconds),
            "logger": answer.logger,
        }
    )


def _filter(asked: dict[str, str], now_wall_ms: int) -> Filter:
    grep = bodies.text_field(asked, "grep", "", limits.GREP_BYTES_MAX)
    level = bodies.choice_field({"level": asked.get("level", "debug").lower()}, "level", "debug", LEVELS)
    since = asked.get("since", "")
    return Filter(level, bodies.since_wall_ms(since, now_wall_ms) if since else 0, grep)


# -- the two dialects


@dataclass(frozen=True, slots=True)
class Dialect:
    """How records and remarks are written. `idle` shows that both sides are still there."""

    content_type: str
    record: Callable[[Entry], bytes]
    remark: Callable[[str, shapes.Json], bytes]
    idle: bytes


def one_line(record: admin_pb2.LogRecord) -> str:
    """The record as one line of JSON, whatever the node wrote."""
    try:
        fields = json.loads(record.json)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        fields = {"event": record.event, "text": record.json}
    known = {"id": record.id, "ts": shapes.rfc3339(record.wall_ms), "level": record.level}
    return json.dumps({**known, **fields}, ensure_ascii=True, separators=(",", ":"))


def _sse_record(entry: Entry) -> bytes:
    return f"id: {entry.event_id}\ndata: {one_line(entry.record)}\n\n".encode()


def _sse_remark(kind: str, fields: shapes.Json) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(fields)}\n\n".encode()


def _line_record(entry: Entry) -> bytes:
    return f"{one_line(entry.record)}\n".encode()


def _line_remark(kind: str, fields: shapes.Json) -> bytes:
    return f"{json.dumps({'remark': kind, **fields})}\n".encode()


SERVER_SENT = Dialect(SSE, _sse_record, _sse_remark, b": still here\n\n")
LINES = Dialect(NDJSON, _line_record, _line_remark, b"\n")


def _once(entries: Iterator[Entry], dialect: Dialect) -> Iterator[bytes]:
    """Asks for the first record now, so that a node that does not answer is an error and not an empty log."""
    first = next(entries, None)

    def rest() -> Iterator[bytes]:
        if first is None:
            return
        try:
            for entry in chain((first,), entries):
                if entry.record.dropped:
                    yield dialect.remark("dropped", {"dropped": entry.record.dropped})
                yield dialect.record(entry)
        except QuorumFSError as error:
            yield dialect.remark("error", {"error": error.to_json()})

    return rest()


def _followed(served: Agent, follower: Follower, dialect: Dialect) -> Iterator[bytes]:
    """Records as they come; a remark when some were lost and when the node's state changes."""
    told = ""
    while True:
        batch = follower.next(limits.LOG_KEEPALIVE_SECONDS)
        seen = served.link.observe(limits.LOG_KEEPALIVE_SECONDS)
        state = batch.tail if seen.answers else seen.state
        if state not in (told, "starting"):
            told = state
            yield dialect.remark("node", {"state": state, "detail": batch.detail or seen.detail})
        if batch.dropped:
            yield dialect.remark("dropped", {"dropped": batch.dropped})
        if batch.entries:
            yield b"".join(dialect.record(entry) for entry in batch.entries)
        elif not batch.closed:
            yield dialect.idle
        if batch.closed:
            yield dialect.remark("end", {"reason": "the agent is stopping"})
            return
