"""The wire's messages as the JSON that is documented: fields may be added, never renamed. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from quorumfs.v1 import admin_pb2, membership_pb2, namespace_pb2, types_pb2
from sidecar.leader_tracking import Finding, LeaderView
from sidecar.node_link import Observation
from sidecar.settings import Settings

Json = dict[str, Any]

WALL_MS_MAX = 253_402_300_799_000  # the last second that RFC 3339 can write


def rfc3339(wall_ms: int) -> str:
    """`wall_ms` since 1970 in UTC, such as 2026-01-31T12:00:00.123Z."""
    moment = datetime.fromtimestamp(min(max(wall_ms, 0), WALL_MS_MAX) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(value: float) -> float:
    return round(value, 3)


def word(enum: Any, value: int) -> str:
    """The last word of an enum's value in lower case: NODE_ROLE_DATANODE is datanode."""
    names: dict[int, str] = {number: name for name, number in enum.items()}
    return names.get(value, f"unknown_{value}").split("_", 2)[-1].lower()


def leader_hint(hint: types_pb2.LeaderHint) -> Json | None:
    if not hint.node_id:
        return None
    return {"node_id": hint.node_id, "grpc": hint.grpc, "http": hint.http}


def leader_view(view: LeaderView, now: float) -> Json:
    return {
        "leader": {"node_id": view.node_id, "grpc": view.grpc, "http": view.http},
        "term": view.term,
        "observed_by": view.observed_by,
        "observed_at": rfc3339(view.wall_ms),
        "age_seconds": seconds(view.age_seconds(now)),
        "source": view.source,
    }


def node_finding(seen: Observation, settings: Settings, now: float) -> Json:
    """How the own node is, as its agent sees it; part of several answers."""
    return {
        "node_id": settings.node_id,
        "role": settings.role,
        "state": seen.state,
        "detail": seen.detail,
        "since_seconds": seconds(max(0.0, now - seen.since)),
        "age_seconds": seconds(max(0.0, now - seen.at)),
    }


def status(seen: Observation, found: Finding, settings: Settings, now: float) -> Json:
    """One node. What it said last stays when it does not answer, with its age; `state` says how it is now."""
    told = seen.status
    said = told.value if told is not None else admin_pb2.NodeStatus()
    known = told is not None
    current = found.current
    has_raft = known and settings.is_coordinator
    return {
        "node_id": settings.node_id,
        "role": settings.role,
        "state": said.state if seen.answers and said.state else seen.state,
        "node": node_finding(seen, settings, now),
        "labels": dict(said.node.labels) if known else dict(settings.labels),
        "grpc": said.node.grpc or settings.grpc_advertised,
        "http": said.node.http or settings.http_advertised,
        "version": said.node.version or None,
        "cluster_id": said.cluster_id or None,
        "uptime_seconds": seconds(said.uptime_ms / 1000) if seen.answers and known else None,
        "pid": said.pid or None,
        "leader": None if current is None else leader_view(current, now)["leader"],
        "term": current.term if current is not None else (said.leader.term or None),
        "commit_index": said.raft.commit_index if has_raft else (said.highest_commit_index or None),
        "applied_index": said.raft.applied_index if has_raft else None,
        "raft": raft(said.raft) if has_raft and said.HasField("raft") else None,
        "epoch": _epoch(said) if known else None,
        "disks": [disk(one) for one in said.node.disks],
        "streams": {"write": said.load.write_streams, "read": said.load.read_streams},
        "rss_bytes": said.load.rss_bytes,
        "security_mode": said.security_mode or ("insecure" if settings.insecure else "loopback"),
        "heartbeat_age_seconds": _heartbeat_age(said, settings),
        "alarms": alarms(said.alarms),
        "observed_by": None if told is None else told.by,
        "observed_at": None if told is None else rfc3339(told.wall_ms),
        "age_seconds": None if told is None else seconds(told.age_seconds(now)),
    }


def _heartbeat_age(said: admin_pb2.NodeStatus, settings: Settings) -> float | None:
    """None on coordinators, and on a datanode that has not had one acknowledged yet."""
    age = said.last_heartbeat_age_seconds
    return None if settings.is_coordinator or age < 0 else seconds(age)


def _epoch(said: admin_pb2.NodeStatus) -> Json | None:
    if not said.HasField("highest_epoch"):
        return None
    return {"history": said.highest_epoch.history, "term": said.highest_epoch.term}


def disk(info: types_pb2.DiskInfo) -> Json:
    return {
        "disk_id": info.disk_id,
        "path": info.path,
        "state": info.state,
        "error": info.error or None,
        "total_bytes": info.total_bytes,
        "used_bytes": info.used_bytes,
        "free_bytes": info.free_bytes,
        "chunks": info.chunks,
        "quarantined_bytes": info.quarantined_bytes,
    }


def alarms(raised: Iterable[admin_pb2.Alarm]) -> list[Json]:
    return [{"code": one.code, "message": one.message, "since": rfc3339(one.since_wall_ms)} for one in raised]


def node_entry(view: membership_pb2.NodeView) -> Json:
    """One line of `node ls`."""
    return {
        "node_id": view.info.node_id,
        "role": word(types_pb2.NodeRole, view.info.role),
        "state": word(types_pb2.NodeState, view.state),
        "intent": word(types_pb2.NodeIntent, view.intent),
        "maintenance_seconds": seconds(view.maintenance_seconds) if view.maintenance_seconds else None,
        "labels": dict(view.info.labels),
        "grpc": view.info.grpc,
        "http": view.info.http,
        "raft": view.raft or None,
        "version": view.info.version,
        "heartbeat_age_seconds": seconds(view.heartbeat_age_seconds),
        "disks": [disk(one) for one in view.info.disks],
    }


def cluster(told: admin_pb2.ClusterStatus) -> Json:
    """The shape of `dfsctl status`."""
    nodes = [node_entry(view) for view in told.view.nodes]
    return {
        "cluster_id": told.view.cluster_id,
        "leader": leader_hint(told.view.leader),
        "term": told.view.term,
        "authoritative": told.view.authoritative,
        "coordinators": [node for node in nodes if node["role"] == "coordinator"],
        "datanodes": [node for node in nodes if node["role"] == "datanode"],
        "capacity": {
            "total_bytes": told.total_bytes,
            "used_bytes": told.used_bytes,
            "free_bytes": told.free_bytes,
        },
        "files": told.files,
        "directories": told.directories,
        "chunks": {
            "total": told.chunks,
            "under_replicated": told.under_replicated,
            "missing": told.missing,
            "corrupt": told.corrupt,
        },
        "gc": gc(told.gc),
        "alarms": alarms(told.alarms),
    }


def durability(told: admin_pb2.Durability) -> Json:
    """How many chunks have how many readable replicas, and on how many domains these lie."""
    return {
        "chunks": told.chunks,
        "inline_chunks": told.inline_chunks,
        "inline_bytes": told.inline_bytes,
        "under_replicated": told.lacking_total - told.missing_total,
        "missing": told.missing_total,
        "copies": [_kept(one, "live") for one in told.copies],
        "zones": [_kept(one, "number") for one in told.zones],
        "racks": [_kept(one, "number") for one in told.racks],
        "hosts": [_kept(one, "number") for one in told.hosts],
        "problems": [
            {
                "chunk": one.chunk.hex(),
                "size_bytes": one.length,
                "want": one.want,
                "live": list(one.live),
                "others": list(one.others),
                "paths": list(one.paths),
            }
            for one in told.lacking
        ],
        "counted_age_seconds": seconds(told.age_seconds),
    }


def _kept(one: admin_pb2.KeptChunks, name: str) -> Json:
    return {"want": one.want, name: one.number, "chunks": one.chunks, "size_bytes": one.bytes}


def raft(told: admin_pb2.RaftStatus) -> Json:
    return {
        "node_id": told.node_id,
        "state": told.state,
        "term": told.term,
        "leader": leader_hint(told.leader),
        "commit_index": told.commit_index,
        "applied_index": told.applied_index,
        "last_index": told.last_index,
        "base_index": told.base_index,
        "members": [raft_member(member) for member in told.members],
        "history": told.history,
        "format": told.format,
        "schema_revision": told.schema_revision,
        "tick_age_seconds": seconds(told.tick_age_seconds),
        "journal_bytes": told.journal_bytes,
        "queue_ops": told.queue_ops,
        "queue_bytes": told.queue_bytes,
        "boot_counter": told.boot_counter,
        "state_hash": state_hash(told.state_hash) if told.HasField("state_hash") else None,
    }


def state_hash(one: admin_pb2.StateHash.One) -> Json:
    """Without `hash` nobody has marked this index: `dfsctl raft hash` marks one."""
    return {"index": one.index, "hash": one.hash.hex() or None, "rolling": one.rolling.hex() or None}


def raft_member(member: admin_pb2.RaftMember) -> Json:
    return {
        "node_id": member.member.node_id,
        "member_uuid": member.member.member_uuid,
        "raft": member.member.raft,
        "grpc": member.member.grpc,
        "http": member.member.http,
        "learner": member.member.learner,
        "connected": member.connected,
        "match_index": member.match_index,
        "heard_age_seconds": seconds(member.heard_age_seconds),
    }


def gc(told: admin_pb2.GcStatus) -> Json:
    return {
        "state": told.state,
        "phase": told.phase,
        "cycle": told.cycle,
        "grace_seconds": told.grace_seconds,
        "candidates": told.candidates,
        "condemned": told.condemned,
        "quarantined": told.quarantined,
        "held": told.held,
        "paused": told.paused,
        "interval_seconds": told.interval_seconds,
        "last_cycle": gc_report(told.last_cycle) if told.HasField("last_cycle") else None,
        "accounting": [disk_classes(one) for one in told.accounting],
        "live": live_bytes(told.live) if told.HasField("live") else None,
    }


def live_bytes(told: admin_pb2.LiveBytes) -> Json:
    """How much of the chunks is alive."""
    return {
        "chunks": told.chunks,
        "total_bytes": told.total_bytes,
        "live_bytes": told.live_bytes,
        "sparse_chunks": told.sparse_chunks,
        "dead_bytes": told.dead_bytes,
        "rewritten_chunks": told.rewritten_chunks,
    }


DISK_CLASSES = (
    "total_bytes",
    "free_bytes",
    "referenced_bytes",
    "uploading_bytes",
    "orphan_bytes",
    "condemned_bytes",
    "quarantined_bytes",
    "unaccounted_bytes",
    "other_bytes",
)


def disk_classes(told: admin_pb2.DiskClasses) -> Json:
    """Every byte of a node's disks in one class each."""
    return {"node_id": told.node_id, **{name: getattr(told, name) for name in DISK_CLASSES}}


def gc_report(report: admin_pb2.GcReport) -> Json:
    return {
        "cycle": report.cycle,
        "outcome": report.outcome,
        "marked": report.marked,
        "gathered": report.gathered,
        "candidates": report.candidates,
        "condemned": report.condemned,
        "deleted": report.deleted,
        "recalled": report.recalled,
        "void_nodes": list(report.void_nodes),
        "seconds": seconds(report.seconds),
        "dry_run": report.dry_run,
        "would_condemn": [chunk.hex() for chunk in report.would_condemn],
    }


def chunk_story(told: admin_pb2.ChunkStory) -> Json:
    """The shape of `dfsctl gc explain`."""
    return {
        "chunk": told.chunk.hex(),
        "state": told.state,
        "length": told.length,
        "live_bytes": told.live_bytes,
        "referenced_by": list(told.referenced_by),
        "last_referenced_by": list(told.last_referenced_by),
        "deleted_by": told.deleted_by or None,
        "deleted_at_index": told.deleted_at_index or None,
        "orphan_since": rfc3339(told.since_wall_ms) if told.since_wall_ms else None,
        "condemned_at_index": told.condemned_index or None,
        "seen_on": list(told.seen_on),
        "quarantined_on": list(told.quarantined_on),
        "sightings": [
            {
                "node_id": one.node_id,
                "state": one.state,
                "seen_at": rfc3339(one.wall_ms) if one.wall_ms else None,
            }
            for one in told.sightings
        ],
        "held_by": told.held_by or None,
        "earliest_sweep_at": rfc3339(told.earliest_sweep_wall_ms) if told.earliest_sweep_wall_ms else None,
    }


def duty(told: admin_pb2.Duty) -> Json:
    return {
        "name": told.name,
        "state": told.state,
        "last": told.last,
        "last_age_seconds": seconds(told.last_age_seconds),
        "runs": told.runs,
        "failures": told.failures,
    }


def repair(told: admin_pb2.RepairStatus) -> Json:
    """The shape of `dfsctl repair status`."""
    return {
        "pending": told.pending,
        "running": told.running,
        "done": told.done,
        "failed": told.failed,
        "bytes_per_second": told.bytes_per_second,
    }


def balance(told: admin_pb2.BalanceStatus) -> Json:
    """The shape of `dfsctl balance status`."""
    return {
        "state": told.state,
        "bytes_per_second": told.bytes_per_second,
        "threshold_percent": told.threshold_percent,
        "moving": told.moving,
        "moved": told.moved,
        "moved_bytes": told.moved_bytes,
        "failed": told.failed,
        "excess_bytes": told.excess_bytes,
        "nodes": [
            {
                "node_id": one.node_id,
                "used_bytes": one.used_bytes,
                "room_bytes": one.room_bytes,
                "used_share": round(one.used_bytes / one.room_bytes, 6) if one.room_bytes else None,
                "takes_part": one.takes_part,
            }
            for one in told.nodes
        ],
    }


def file_entry(told: namespace_pb2.FileInfo, path: bytes) -> Json:
    """One line of `dfsctl ls`."""
    kind = word(types_pb2.InodeType, told.type)
    return {
        "path": text(path),
        "name": text(told.name),
        "type": kind,
        "size_bytes": told.size,
        "modified": rfc3339(told.mtime_ns // 1_000_000),
        "replication": told.replication if kind == "file" else None,
        "mode": f"{told.mode:04o}",
        "target": text(told.target) if kind == "symlink" else None,
    }


def text(name: bytes) -> str:
    """Names are UTF-8; what is not, as a hostile coordinator may say, is shown escaped."""
    return name.decode("utf-8", "backslashreplace")


def layout(told: namespace_pb2.Layout) -> Json:
    """Where a file lies: the shape of `dfsctl locate`, without the places on disks, which only datanodes know."""
    chunks = {one.chunk: one for one in told.chunks}
    return {
        "path": text(told.info.path),
        "size_bytes": told.info.size,
        "extents": [_extent(one, chunks.get(one.chunk)) for one in told.extents],
        "is_whole": not told.next_offset,
    }


def _extent(one: types_pb2.Extent, where: namespace_pb2.ChunkLocation | None) -> Json:
    replicas = [] if where is None else where.replicas
    return {
        "offset": one.offset,
        "length": one.length,
        "chunk": one.chunk.hex(),
        "chunk_offset": one.chunk_offset,
        "inline": where is not None and where.inline,
        "replicas": [
            {
                "node_id": replica.node_id,
                "state": word(types_pb2.ReplicaState, replica.state),
                "node_state": word(types_pb2.NodeState, replica.node_state),
            }
            for replica in replicas
        ],
    }
