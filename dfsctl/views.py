"""The cluster's own answers as the JSON of docs/dfsctl.md: pure, from wire messages to plain values."""

from __future__ import annotations

from typing import Any

from dfsctl.output import time_of_ms
from quorumfs.v1 import admin_pb2, membership_pb2, types_pb2


def leader(hint: types_pb2.LeaderHint) -> dict[str, str] | None:
    """Whom a hint names; None when nobody."""
    if not hint.node_id:
        return None
    return {"node_id": hint.node_id, "grpc": hint.grpc, "http": hint.http}


def node(view: membership_pb2.NodeView) -> dict[str, Any]:
    """One node as `status` and `node ls` show it."""
    info = view.info
    return {
        "node_id": info.node_id,
        "role": _word(types_pb2.NodeRole.Name(info.role), "NODE_ROLE_"),
        "state": _word(types_pb2.NodeState.Name(view.state), "NODE_STATE_"),
        "intent": _word(types_pb2.NodeIntent.Name(view.intent), "NODE_INTENT_"),
        "maintenance_seconds": round(view.maintenance_seconds, 3) if view.maintenance_seconds else None,
        "labels": dict(sorted(info.labels.items())),
        "grpc": info.grpc,
        "http": info.http,
        "version": info.version,
        "heartbeat_age_seconds": round(view.heartbeat_age_seconds, 3),
    }


def node_in_full(view: membership_pb2.NodeView) -> dict[str, Any]:
    """One node as `node show` has it."""
    info, load = view.info, view.load
    return {
        **node(view),
        "raft": view.raft or None,
        "node_uuid": info.node_uuid,
        "host": info.host,
        "incarnation": info.incarnation,
        "started_at": time_of_ms(info.started_wall_ms),
        "disks": [disk(one) for one in info.disks],
        "load": {
            "write_streams": load.write_streams,
            "read_streams": load.read_streams,
            "rss_bytes": load.rss_bytes,
            "cpu_fraction": round(load.cpu_fraction, 3),
        },
    }


def disk(one: types_pb2.DiskInfo) -> dict[str, Any]:
    return {
        "disk_id": one.disk_id,
        "path": one.path,
        "state": one.state,
        "error": one.error,
        "total_bytes": one.total_bytes,
        "used_bytes": one.used_bytes,
        "free_bytes": one.free_bytes,
        "chunks": one.chunks,
        "quarantined_bytes": one.quarantined_bytes,
    }


def nodes(view: membership_pb2.ClusterView, role: types_pb2.NodeRole.ValueType) -> list[dict[str, Any]]:
    """The nodes of one role, by name."""
    return sorted((node(one) for one in view.nodes if one.info.role == role), key=lambda one: one["node_id"])


def membership(view: membership_pb2.ClusterView) -> dict[str, Any]:
    """The part of `status` that any coordinator can tell."""
    return {
        "cluster_id": view.cluster_id or None,
        "leader": leader(view.leader),
        "term": view.term,
        "coordinators": nodes(view, types_pb2.NODE_ROLE_COORDINATOR),
        "datanodes": nodes(view, types_pb2.NODE_ROLE_DATANODE),
        "observed_by": view.observed_by,
        "observed_at": time_of_ms(view.observed_wall_ms),
    }


def status(answer: admin_pb2.ClusterStatus) -> dict[str, Any]:
    """The whole of `status`, as the leader tells it."""
    return {
        **membership(answer.view),
        "capacity": {
            "total_bytes": answer.total_bytes,
            "used_bytes": answer.used_bytes,
            "free_bytes": answer.free_bytes,
        },
        "files": answer.files,
        "directories": answer.directories,
        "chunks": {
            "total": answer.chunks,
            "under_replicated": answer.under_replicated,
            "missing": answer.missing,
            "corrupt": answer.corrupt,
        },
        "gc": gc(answer.gc),
        "alarms": [
            {"code": one.code, "message": one.message, "since": time_of_ms(one.since_wall_ms)}
            for one in answer.alarms
        ],
    }


def gc(answer: admin_pb2.GcStatus) -> dict[str, Any]:
    return {
        "state": answer.state,
        "phase": answer.phase,
        "cycle": answer.cycle,
        "grace_seconds": answer.grace_seconds,
        "candidates": answer.candidates,
        "condemned": answer.condemned,
        "quarantined": answer.quarantined,
        "held": answer.held,
        "paused": answer.paused,
        "interval_seconds": answer.interval_seconds,
        "last_cycle": gc_report(answer.last_cycle) if answer.HasField("last_cycle") else None,
        "accounting": [disk_classes(one) for one in answer.accounting],
        "live": live_bytes(answer.live) if answer.HasField("live") else None,
    }


def live_bytes(told: admin_pb2.LiveBytes) -> dict[str, Any]:
    """How much of the chunks is alive."""
    return {
        "chunks": told.chunks,
        "total_bytes": told.total_bytes,
        "live_bytes": told.live_bytes,
        "sparse_chunks": told.sparse_chunks,
        "dead_bytes": told.dead_bytes,
        "rewritten_chunks": told.rewritten_chunks,
    }


def disk_classes(one: admin_pb2.DiskClasses) -> dict[str, Any]:
    """Every byte of a node's disks in one class each."""
    return {
        "node_id": one.node_id,
        "total_bytes": one.total_bytes,
        "free_bytes": one.free_bytes,
        "referenced_bytes": one.referenced_bytes,
        "uploading_bytes": one.uploading_bytes,
        "orphan_bytes": one.orphan_bytes,
        "condemned_bytes": one.condemned_bytes,
        "quarantined_bytes": one.quarantined_bytes,
        "unaccounted_bytes": one.unaccounted_bytes,
        "other_bytes": one.other_bytes,
    }


def gc_report(report: admin_pb2.GcReport) -> dict[str, Any]:
    return {
        "cycle": report.cycle,
        "outcome": report.outcome,
        "reason": report.reason,
        "marked": report.marked,
        "gathered": report.gathered,
        "strays": report.strays,
        "adopted": report.adopted,
        "recalled": report.recalled,
        "candidates": report.candidates,
        "condemned": report.condemned,
        "deleted": report.deleted,
        "void_nodes": list(report.void_nodes),
        "seconds": report.seconds,
        "dry_run": report.dry_run,
        "would_condemn": [one.hex() for one in report.would_condemn],
    }


def chunk_story(story: admin_pb2.ChunkStory) -> dict[str, Any]:
    """`gc explain`, and each line of `gc candidates`."""
    return {
        "chunk": story.chunk.hex(),
        "state": story.state,
        "length": story.length,
        "live_bytes": story.live_bytes,
        "referenced_by": list(story.referenced_by),
        "last_referenced_by": list(story.last_referenced_by),
        "deleted_by": story.deleted_by or None,
        "deleted_at_index": story.deleted_at_index or None,
        "orphan_since": time_of_ms(story.since_wall_ms),
        "condemned_at_index": story.condemned_index or None,
        "seen_on": list(story.seen_on),
        "quarantined_on": list(story.quarantined_on),
        "sightings": [
            {"node_id": one.node_id, "state": one.state, "seen_at": time_of_ms(one.wall_ms)}
            for one in story.sightings
        ],
        "held_by": story.held_by or None,
        "earliest_sweep_at": time_of_ms(story.earliest_sweep_wall_ms),
    }


def quarantined(story: admin_pb2.ChunkStory) -> dict[str, Any]:
    """Each line of `gc quarantine ls`. `path`: the last that referred to it, or one that still does."""
    return {
        "chunk": story.chunk.hex(),
        "path": next(iter([*story.last_referenced_by, *story.referenced_by]), None),
        "deleted_by": story.deleted_by or None,
        "deleted_at_index": story.deleted_at_index or None,
        "since": time_of_ms(story.since_wall_ms),
        "nodes": list(story.quarantined_on),
    }


def repair(answer: admin_pb2.RepairStatus) -> dict[str, Any]:
    return {
        "pending": answer.pending,
        "running": answer.running,
        "done": answer.done,
        "failed": answer.failed,
        "bytes_per_second": answer.bytes_per_second,
    }


def decommission(one: admin_pb2.Decommission) -> dict[str, Any]:
    """How far a node is that leaves, and what keeps it."""
    return {
        "node_id": one.node_id,
        "intent": _word(types_pb2.NodeIntent.Name(one.intent), "NODE_INTENT_"),
        "remaining_chunks": one.remaining_chunks,
        "remaining_bytes": one.remaining_bytes,
        "total_chunks": one.total_chunks,
        "total_bytes": one.total_bytes,
        "last_copies": one.last_copies,
        "unreadable": one.unreadable,
        "writing": one.uploads,
        "bytes_per_second": round(one.bytes_per_second, 1) if one.HasField("bytes_per_second") else None,
        "eta_seconds": round(one.eta_seconds, 1) if one.HasField("eta_seconds") else None,
        "blockers": [
            {
                "chunk": blocker.chunk.hex(),
                "size_bytes": blocker.length,
                "paths": list(blocker.paths),
                "reason": blocker.reason,
                "refusals": list(blocker.refusals),
            }
            for blocker in one.blockers
        ],
    }


def balance(answer: admin_pb2.BalanceStatus) -> dict[str, Any]:
    return {
        "state": answer.state,
        "bytes_per_second": answer.bytes_per_second,
        "threshold_percent": answer.threshold_percent,
        "moving": answer.moving,
        "moved": answer.moved,
        "moved_bytes": answer.moved_bytes,
        "failed": answer.failed,
        "excess_bytes": answer.excess_bytes,
        "nodes": [
            {
                "node_id": one.node_id,
                "used_bytes": one.used_bytes,
                "room_bytes": one.room_bytes,
                "used_share": round(one.used_bytes / one.room_bytes, 6) if one.room_bytes else None,
                "takes_part": one.takes_part,
            }
            for one in answer.nodes
        ],
    }


def durability(answer: admin_pb2.Durability) -> dict[str, Any]:
    """How well all chunks are kept."""
    return {
        "chunks": answer.chunks,
        "inline_chunks": answer.inline_chunks,
        "inline_bytes": answer.inline_bytes,
        "under_replicated": answer.lacking_total - answer.missing_total,
        "missing": answer.missing_total,
        "copies": [_kept(one, "live") for one in answer.copies],
        "zones": [_kept(one, "number") for one in answer.zones],
        "racks": [_kept(one, "number") for one in answer.racks],
        "hosts": [_kept(one, "number") for one in answer.hosts],
        "problems": [
            {
                "chunk": one.chunk.hex(),
                "size_bytes": one.length,
                "want": one.want,
                "live": list(one.live),
                "others": list(one.others),
                "paths": list(one.paths),
            }
            for one in answer.lacking
        ],
        "age_seconds": round(answer.age_seconds, 3),
    }


def _kept(one: admin_pb2.KeptChunks, name: str) -> dict[str, int]:
    return {"want": one.want, name: one.number, "chunks": one.chunks, "size_bytes": one.bytes}


def balance_plan(answer: admin_pb2.BalanceStatus) -> dict[str, Any]:
    moved = sum(one.length for one in answer.moves)
    return {
        "state": answer.state,
        "bytes": moved,
        "eta_seconds": round(moved / max(1, answer.bytes_per_second), 1),
        "excess_bytes": answer.excess_bytes,
        "threshold_percent": answer.threshold_percent,
        "nodes": balance(answer)["nodes"],
        "moves": [
            {
                "chunk": one.chunk.hex(),
                "length": one.length,
                "source": one.source,
                "destination": one.destination,
            }
            for one in answer.moves
        ],
    }


def raft(answer: admin_pb2.RaftStatus) -> dict[str, Any]:
    """`raft status` of one coordinator."""
    return {
        "node_id": answer.node_id,
        "state": answer.state,
        "term": answer.term,
        "leader": leader(answer.leader),
        "commit_index": answer.commit_index,
        "applied_index": answer.applied_index,
        "last_index": answer.last_index,
        "base_index": answer.base_index,
        "history": answer.history,
        "format": answer.format,
        "schema_revision": answer.schema_revision,
        "tick_age_seconds": round(answer.tick_age_seconds, 3),
        "journal_bytes": answer.journal_bytes,
        "boot_counter": answer.boot_counter,
        "state_hash": state_hash(answer.state_hash) if answer.HasField("state_hash") else None,
        "members": [member(one) for one in answer.members],
    }


def state_hash(one: admin_pb2.StateHash.One) -> dict[str, Any]:
    """Without `hash` nobody has marked this index: `dfsctl raft hash` marks one."""
    return {"index": one.index, "hash": one.hash.hex() or None, "rolling": one.rolling.hex() or None}


def member(one: admin_pb2.RaftMember) -> dict[str, Any]:
    return {
        "node_id": one.member.node_id,
        "member_uuid": one.member.member_uuid,
        "raft": one.member.raft,
        "grpc": one.member.grpc,
        "http": one.member.http,
        "learner": one.member.learner,
        "match_index": one.match_index,
        "heard_age_seconds": round(one.heard_age_seconds, 3),
        "connected": one.connected,
    }


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()
