"""The agents' JSON as JSON Schema: what `/openapi.json` says, and what the tests hold every answer to. Pure.

An object has exactly the fields that are written here, all of them always; what may be unknown is null.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
SECONDS: Schema = {"type": "number", "minimum": 0}
TIME: Schema = {"type": "string", "format": "date-time"}
ANYTHING: Schema = {}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
HEX_ID: Schema = {"type": "string", "pattern": "^[0-9a-fA-F]{32}$"}


def obj(**fields: Schema) -> Schema:
    """An object with these fields and no others, all of them there."""
    return {
        "type": "object",
        "properties": fields,
        "required": sorted(fields),
        "additionalProperties": False,
    }


def some(**fields: Schema) -> Schema:
    """An object with some of these fields and no others: a request's."""
    return {"type": "object", "properties": fields, "additionalProperties": False}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def many(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


ERROR_DETAIL = obj(code=TEXT, message=TEXT, cause=TEXT, next=TEXT)
ERROR = obj(error=ERROR_DETAIL)
NODE_FINDING = obj(
    node_id=TEXT,
    role=TEXT,
    state=one_of("ok", "hung", "down"),
    detail=TEXT,
    since_seconds=SECONDS,
    age_seconds=SECONDS,
)
HEALTH = obj(
    status=one_of("ok", "failing"),
    live=TRUTH,
    ready=TRUTH,
    reasons=many(TEXT),
    warnings=many(TEXT),
    node=NODE_FINDING,
    checks=many(obj(name=TEXT, ok=TRUTH, detail=TEXT, liveness=TRUTH, age_seconds=NUMBER)),
    observed_at=TIME,
)
LEADER_HINT = obj(node_id=TEXT, grpc=TEXT, http=TEXT)
LEADER = obj(
    leader=LEADER_HINT, term=COUNT, observed_by=TEXT, observed_at=TIME, age_seconds=SECONDS, source=TEXT
)
NO_LEADER = obj(
    error=ERROR_DETAIL,
    leader={"type": "null"},
    term=COUNT,
    observed_by=TEXT,
    observed_at=TIME,
    last_known=maybe(LEADER),
)
DISK = obj(
    disk_id=TEXT,
    path=TEXT,
    state=TEXT,
    error=maybe(TEXT),
    total_bytes=COUNT,
    used_bytes=COUNT,
    free_bytes=COUNT,
    chunks=COUNT,
    quarantined_bytes=COUNT,
)
ALARM = obj(code=TEXT, message=TEXT, since=TIME)
_RAFT = {
    "node_id": TEXT,
    "state": TEXT,
    "term": COUNT,
    "leader": maybe(LEADER_HINT),
    "commit_index": COUNT,
    "applied_index": COUNT,
    "last_index": COUNT,
    "base_index": COUNT,
    "members": many(
        obj(
            node_id=TEXT,
            member_uuid=TEXT,
            raft=TEXT,
            grpc=TEXT,
            http=TEXT,
            learner=TRUTH,
            connected=TRUTH,
            match_index=COUNT,
            heard_age_seconds=NUMBER,
        )
    ),
    "history": COUNT,
    "format": COUNT,
    "schema_revision": TEXT,
    "tick_age_seconds": NUMBER,
    "journal_bytes": COUNT,
    "queue_ops": COUNT,
    "queue_bytes": COUNT,
    "boot_counter": COUNT,
    "state_hash": maybe(obj(index=COUNT, hash=maybe(TEXT), rolling=maybe(TEXT))),
}
STATUS = obj(
    node_id=TEXT,
    role=TEXT,
    state=TEXT,
    node=NODE_FINDING,
    labels=LABELS,
    grpc=TEXT,
    http=TEXT,
    version=maybe(TEXT),
    cluster_id=maybe(TEXT),
    uptime_seconds=maybe(SECONDS),
    pid=maybe(COUNT),
    leader=maybe(LEADER_HINT),
    term=maybe(COUNT),
    commit_index=maybe(COUNT),
    applied_index=maybe(COUNT),
    raft=maybe(obj(**_RAFT)),
    epoch=maybe(obj(history=COUNT, term=COUNT)),
    disks=many(DISK),
    streams=obj(write=COUNT, read=COUNT),
    rss_bytes=COUNT,
    security_mode=TEXT,
    heartbeat_age_seconds=maybe(NUMBER),
    alarms=many(ALARM),
    observed_by=maybe(TEXT),
    observed_at=maybe(TIME),
    age_seconds=maybe(SECONDS),
)
LOG_LEVEL = obj(node_id=TEXT, level=TEXT, ttl_seconds=SECONDS, logger=TEXT)
SHUTDOWN = obj(node_id=TEXT, state=TEXT, detail=TEXT)
NODE_LABELS = obj(node_id=TEXT, labels=LABELS, observed_at=TIME, age_seconds=SECONDS)
DUTY = obj(name=TEXT, state=TEXT, last=TEXT, last_age_seconds=NUMBER, runs=COUNT, failures=COUNT)
DUTIES = obj(node_id=TEXT, duties=many(DUTY))
NODE_ENTRY = obj(
    node_id=TEXT,
    role=TEXT,
    state=TEXT,
    intent=TEXT,
    labels=LABELS,
    grpc=TEXT,
    http=TEXT,
    raft=maybe(TEXT),
    version=TEXT,
    heartbeat_age_seconds=NUMBER,
    maintenance_seconds=maybe(SECONDS),
    disks=many(DISK),
)
_AS_OF = {"observed_by": TEXT, "observed_at": TIME, "age_seconds": SECONDS, "current": TRUTH, "reason": TEXT}
_GC_REPORT = {
    "cycle": COUNT,
    "outcome": TEXT,
    "marked": COUNT,
    "gathered": COUNT,
    "candidates": COUNT,
    "condemned": COUNT,
    "deleted": COUNT,
    "recalled": COUNT,
    "void_nodes": many(TEXT),
    "seconds": SECONDS,
    "dry_run": TRUTH,
    "would_condemn": many(HEX_ID),
}
GC_CYCLE = obj(**_GC_REPORT, ticket=COUNT, reason=TEXT)
GC_CYCLES = obj(
    cycles=many(obj(**_GC_REPORT, reason=TEXT, ended_age_seconds=SECONDS)),
    observed_by=TEXT,
    observed_at=TIME,
    age_seconds=SECONDS,
    authoritative=TRUTH,
    current=TRUTH,
    reason=TEXT,
)
_GC = {
    "state": TEXT,
    "phase": TEXT,
    "cycle": COUNT,
    "grace_seconds": SECONDS,
    "candidates": COUNT,
    "condemned": COUNT,
    "quarantined": COUNT,
    "held": COUNT,
    "paused": TRUTH,
    "interval_seconds": SECONDS,
    "last_cycle": maybe(obj(**_GC_REPORT)),
    "accounting": many(
        obj(
            node_id=TEXT,
            total_bytes=COUNT,
            free_bytes=COUNT,
            referenced_bytes=COUNT,
            uploading_bytes=COUNT,
            orphan_bytes=COUNT,
            condemned_bytes=COUNT,
            quarantined_bytes=COUNT,
            unaccounted_bytes=COUNT,
            other_bytes=COUNT,
        )
    ),
    "live": maybe(
        obj(
            chunks=COUNT,
            total_bytes=COUNT,
            live_bytes=COUNT,
            sparse_chunks=COUNT,
            dead_bytes=COUNT,
            rewritten_chunks=COUNT,
        )
    ),
}
GC = obj(**_GC)
GC_AS_OF = obj(**_GC, authoritative=TRUTH, **_AS_OF)
RAFT_AS_OF = obj(**_RAFT, **_AS_OF)
CLUSTER = obj(
    cluster_id=TEXT,
    leader=maybe(LEADER_HINT),
    term=COUNT,
    authoritative=TRUTH,
    coordinators=many(NODE_ENTRY),
    datanodes=many(NODE_ENTRY),
    capacity=obj(total_bytes=COUNT, used_bytes=COUNT, free_bytes=COUNT),
    files=COUNT,
    directories=COUNT,
    chunks=obj(total=COUNT, under_replicated=COUNT, missing=COUNT, corrupt=COUNT),
    gc=GC,
    alarms=many(ALARM),
    **_AS_OF,
)
NODES = obj(nodes=many(NODE_ENTRY), selector=TEXT, **_AS_OF)
_BY_DOMAINS = many(obj(want=COUNT, number=COUNT, chunks=COUNT, size_bytes=COUNT))
DURABILITY = obj(
    chunks=COUNT,
    inline_chunks=COUNT,
    inline_bytes=COUNT,
    under_replicated=COUNT,
    missing=COUNT,
    copies=many(obj(want=COUNT, live=COUNT, chunks=COUNT, size_bytes=COUNT)),
    zones=_BY_DOMAINS,
    racks=_BY_DOMAINS,
    hosts=_BY_DOMAINS,
    problems=many(
        obj(
            chunk=HEX_ID,
            size_bytes=COUNT,
            want=COUNT,
            live=many(TEXT),
            others=many(TEXT),
            paths=many(TEXT),
        )
    ),
    counted_age_seconds=SECONDS,
    **_AS_OF,
)
_CHUNK_STORY = {
    "chunk": HEX_ID,
    "state": TEXT,
    "length": COUNT,
    "live_bytes": COUNT,
    "referenced_by": many(TEXT),
    "last_referenced_by": many(TEXT),
    "deleted_by": maybe(TEXT),
    "deleted_at_index": maybe(COUNT),
    "orphan_since": maybe(TIME),
    "condemned_at_index": maybe(COUNT),
    "seen_on": many(TEXT),
    "quarantined_on": many(TEXT),
    "sightings": many(obj(node_id=TEXT, state=TEXT, seen_at=maybe(TIME))),
    "held_by": maybe(TEXT),
    "earliest_sweep_at": maybe(TIME),
}
CHUNK_STORY = obj(**_CHUNK_STORY, authoritative=TRUTH, **_AS_OF)
EXEC = obj(
    action=TEXT,
    matched=many(TEXT),
    results=many(
        obj(
            node_id=TEXT,
            ok=TRUTH,
            status=maybe({"type": "integer"}),
            result=ANYTHING,
            error=maybe({"type": "object"}),
        )
    ),
)
NODE_ACTION = obj(node_id=TEXT, action=TEXT, detail=TEXT)
CANDIDATES = obj(
    chunks=many(obj(**_CHUNK_STORY)),
    next=maybe(HEX_ID),
    authoritative=TRUTH,
    silent_nodes=many(TEXT),
    **_AS_OF,
)
_REPAIR = {"pending": COUNT, "running": COUNT, "done": COUNT, "failed": COUNT, "bytes_per_second": NUMBER}
REPAIR = obj(**_REPAIR)
REPAIR_AS_OF = obj(**_REPAIR, authoritative=TRUTH, **_AS_OF)
_BALANCE = {
    "state": TEXT,
    "bytes_per_second": COUNT,
    "threshold_percent": COUNT,
    "moving": COUNT,
    "moved": COUNT,
    "moved_bytes": COUNT,
    "failed": COUNT,
    "excess_bytes": COUNT,
    "nodes": many(
        obj(
            node_id=TEXT,
            used_bytes=COUNT,
            room_bytes=COUNT,
            used_share=maybe(NUMBER),
            takes_part=TRUTH,
        )
    ),
}
BALANCE = obj(**_BALANCE)
BALANCE_AS_OF = obj(**_BALANCE, **_AS_OF)
FILE = obj(
    path=TEXT,
    name=TEXT,
    type=TEXT,
    size_bytes=COUNT,
    modified=TIME,
    replication=maybe(COUNT),
    mode=TEXT,
    target=maybe(TEXT),
)
FILES = obj(path=TEXT, entries=many(FILE), next=maybe(TEXT), **_AS_OF)
LAYOUT = obj(
    path=TEXT,
    size_bytes=COUNT,
    extents=many(
        obj(
            offset=COUNT,
            length=COUNT,
            chunk=HEX_ID,
            chunk_offset=COUNT,
            inline=TRUTH,
            replicas=many(obj(node_id=TEXT, state=TEXT, node_state=TEXT)),
        )
    ),
    is_whole=TRUTH,
    **_AS_OF,
)
RESTART = obj(
    number=COUNT,
    state=one_of("running", "done", "stopped", "failed"),
    phase=TEXT,
    error=maybe(ERROR_DETAIL),
    max_unavailable=COUNT,
    started_at=TIME,
    ended_at=maybe(TIME),
    nodes=many(
        obj(
            node_id=TEXT,
            state=one_of("waiting", "restarting", "back", "failed"),
            seconds=maybe(SECONDS),
        )
    ),
)
