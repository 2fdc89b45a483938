"""Nodes: who belongs to the cluster, with which disks and labels, and what operators have said of them.

1. A node keeps its key, a small number, for life; replicas name it. Sizes of disks and signs of life are a leader's
   soft state and never come here.
2. A node may hold a million replicas. Where they are to go, one entry takes REPLICAS_PER_ENTRY of them and says that
   there are more: the command is then proposed again, and does its work when they are gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from coordinator.metadata.context import Context
from quorumfs.errors import DuplicateNodeError, InvalidArgumentError, NotFoundError, PreconditionFailedError
from quorumfs.limits import LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

DISKS_MAX = 64
TEXT_CHARACTERS_MAX = 1024
NUMBER_MAX = 2**63 - 1
REPLICAS_PER_ENTRY = 5000

INTENT_WORDS: Mapping[int, str] = {
    t.NODE_INTENT_NORMAL: "in normal use",
    t.NODE_INTENT_DRAINING: "draining",
    t.NODE_INTENT_DECOMMISSIONING: "decommissioning",
    t.NODE_INTENT_DECOMMISSIONED: "decommissioned",
    t.NODE_INTENT_MAINTENANCE: "in maintenance",
}

_ROLE = {t.NODE_ROLE_COORDINATOR: "coordinator", t.NODE_ROLE_DATANODE: "datanode"}
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")


def register(context: Context, command: e.RegisterNode) -> int:
    """Take a node in, or note what has changed about it; its key. 0: it is empty, and more replicas that it had are to
    go first.

    Labels that the cluster has for a node stay as they are; those it tells for the first time are added. What an
    operator took away stays away, though the node's file has it, until an operator sets it again.
    Raises InvalidArgumentError, and DuplicateNodeError for two nodes under one id or one node under two.
    """
    told = command.node
    _check_node(told)
    _refuse_other_id(context, told)
    row = context.execute(
        "SELECT key, node_uuid, info, role FROM node WHERE node_id = ?", (told.node_id,)
    ).fetchone()
    if row is None:
        return _take_in(context, told)
    key, node_uuid, info, role = int(row[0]), row[1], m.NodeInfo.FromString(row[2]), row[3]
    if told.role != role:
        raise DuplicateNodeError(
            f"{told.node_id} is registered as a {_ROLE[role]}, not as a {_ROLE[told.role]}",
            next="choose another node.id",
        )
    labels, dropped = dict(told.labels), list[str]()
    if node_uuid == told.node_uuid:
        dropped = [*info.dropped_labels]
        labels = {label: value for label, value in labels.items() if label not in dropped}
        labels.update(info.labels)
    elif not command.empty:
        raise DuplicateNodeError(
            f"another node is registered as {told.node_id}",
            cause=f"its UUID is {node_uuid}, this one's {told.node_uuid}, and this one is not empty",
            next=f"choose another node.id, or forget the old one: dfsctl node forget {told.node_id}",
        )
    check_labels(labels)
    if command.empty and drop_replicas(context, key):
        return 0
    context.execute(
        "UPDATE node SET node_uuid = ?, role = ?, info = ? WHERE key = ?",
        (told.node_uuid, told.role, _lasting(told, labels, dropped), key),
    )
    _note_disks(context, key, told)
    return key


def forget(context: Context, command: e.ForgetNode) -> int:
    """Let a node go, with all its replicas; how many of these are still to go first. Raises NotFoundError."""
    key = key_of(context, command.node_id)
    left = drop_replicas(context, key)
    if left:
        return left
    context.execute("DELETE FROM disk WHERE node = ?", (key,))
    context.execute("DELETE FROM node WHERE key = ?", (key,))
    return 0


def set_node(context: Context, command: e.SetNode) -> int:
    """Note what an operator says of a node: its intent, its labels. Raises NotFoundError, InvalidArgumentError, and
    PreconditionFailedError when its intent is not among those that the command wants to end."""
    row = context.execute(
        "SELECT key, info, intent, maintenance_until_ms FROM node WHERE node_id = ?", (command.node_id,)
    ).fetchone()
    if row is None:
        raise _unknown(command.node_id)
    key, info, intent, until_ms = int(row[0]), m.NodeInfo.FromString(row[1]), int(row[2]), int(row[3])
    if command.only_from and intent not in command.only_from:
        raise PreconditionFailedError(
            f"{command.node_id} is {INTENT_WORDS.get(intent, intent)}",
            next=f"dfsctl node undrain {command.node_id} ends that",
        )
    labels = dict(info.labels)
    labels.update(command.labels)
    gone = [label for label in command.remove_labels if labels.pop(label, None) is not None]
    dropped = [label for label in dict.fromkeys([*info.dropped_labels, *gone]) if label not in labels]
    check_labels(labels)
    if command.set_intent:
        intent, until_ms = command.intent, command.maintenance_until_cluster_ms
        if intent not in t.NodeIntent.values() or until_ms > NUMBER_MAX:
            raise InvalidArgumentError(f"a node has no intent {intent} until {until_ms}")
        until_ms = until_ms if intent == t.NODE_INTENT_MAINTENANCE else 0
    context.execute(
        "UPDATE node SET info = ?, intent = ?, maintenance_until_ms = ? WHERE key = ?",
        (_lasting(info, labels, dropped[-LABELS_MAX:]), intent, until_ms, key),
    )
    return key


def end_maintenance(context: Context, command: e.EndMaintenance) -> int:
    """Nodes whose maintenance is over as of this entry are used again; how many. The others were told something else
    meanwhile, and are passed over."""
    ended = 0
    for node_id in command.node_ids:
        ended += context.execute(
            "UPDATE node SET intent = ?, maintenance_until_ms = 0"
            " WHERE node_id = ? AND intent = ? AND maintenance_until_ms <= ?",
            (t.NODE_INTENT_NORMAL, node_id, t.NODE_INTENT_MAINTENANCE, context.now_ms),
        ).rowcount
    return ended


def key_of(context: Context, node_id: str) -> int:
    """Raises NotFoundError for a node that is not registered."""
    row = context.execute("SELECT key FROM node WHERE node_id = ?", (node_id,)).fetchone()
    if row is None:
        raise _unknown(node_id)
    return int(row[0])


def drop_replicas(context: Context, key: int) -> int:
    """A node's replicas are gone, up to REPLICAS_PER_ENTRY of them, and its chunks count without them; how many are
    left."""
    page = "SELECT chunk, state FROM replica WHERE node = ? ORDER BY state, chunk LIMIT ?"
    context.execute(
        f"UPDATE chunk SET live = live - 1 WHERE id IN (SELECT chunk FROM ({page}) WHERE state = ?)",
        (key, REPLICAS_PER_ENTRY, t.REPLICA_STATE_LIVE),
    )
    context.execute(
        f"DELETE FROM replica WHERE node = ? AND chunk IN (SELECT chunk FROM ({page}))",
        (key, key, REPLICAS_PER_ENTRY),
    )
    (left,) = context.execute("SELECT count(*) FROM replica WHERE node = ?", (key,)).fetchone()
    return int(left)


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises InvalidArgumentError, about the first bad label in order of names."""
    if len(labels) > LABELS_MAX:
        raise InvalidArgumentError(f"{len(labels)} labels", cause=f"a node has at most {LABELS_MAX}")
    for key in sorted(labels):
        value = labels[key]
        if len(key) > LABEL_KEY_BYTES_MAX or not _KEY.fullmatch(key):
            raise InvalidArgumentError(f"a label cannot be called {key[:LABEL_KEY_BYTES_MAX]!a}")
        if len(value) > LABEL_VALUE_BYTES_MAX or not _VALUE.fullmatch(value):
            raise InvalidArgumentError(f"label {key} cannot be {value[:LABEL_VALUE_BYTES_MAX]!a}")


def _take_in(context: Context, told: m.NodeInfo) -> int:
    check_labels(told.labels)
    key = context.totals.take_node()
    context.execute(
        "INSERT INTO node (key, node_id, node_uuid, role, info, intent, maintenance_until_ms, registered_index)"
        " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
        (
            key,
            told.node_id,
            told.node_uuid,
            told.role,
            _lasting(told, told.labels),
            t.NODE_INTENT_NORMAL,
            context.index,
        ),
    )
    _note_disks(context, key, told)
    return key


def _note_disks(context: Context, key: int, told: m.NodeInfo) -> None:
    """Disks keep their keys; one that is not told any more stays, for replicas may name it."""
    for one in told.disks:
        row = context.execute(
            "SELECT key FROM disk WHERE node = ? AND disk_id = ?", (key, one.disk_id)
        ).fetchone()
        if row is not None:
            context.execute("UPDATE disk SET path = ? WHERE key = ?", (one.path, row[0]))
        else:
            context.execute(
                "INSERT INTO disk (key, node, disk_id, path) VALUES (?, ?, ?, ?)",
                (context.totals.take_disk(), key, one.disk_id, one.path),
            )


def _lasting(told: m.NodeInfo, labels: Mapping[str, str], dropped: Sequence[str] = ()) -> bytes:
    """What is kept of a description: of its disks only ids and paths. `dropped`: labels that an operator took away."""
    kept = m.NodeInfo()
    kept.CopyFrom(told)
    kept.ClearField("labels")
    kept.labels.update(labels)
    kept.dropped_labels[:] = dropped
    del kept.disks[:]
    kept.disks.extend(t.DiskInfo(disk_id=one.disk_id, path=one.path) for one in told.disks)
    return kept.SerializeToString(deterministic=True)


def _check_node(told: m.NodeInfo) -> None:
    if not _NODE_ID.fullmatch(told.node_id) or not told.node_uuid:
        raise InvalidArgumentError(f"a node cannot be called {told.node_id[:63]!a}", cause="or has no UUID")
    if told.role not in _ROLE:
        raise InvalidArgumentError(f"{told.node_id} has no role")
    if len(told.disks) > DISKS_MAX or any(not one.disk_id for one in told.disks):
        raise InvalidArgumentError(
            f"{told.node_id} has too many disks, or one without an id", cause=f"at most {DISKS_MAX}"
        )
    texts = (told.node_uuid, told.grpc, told.http, told.version, told.host)
    of_disks = (text for one in told.disks for text in (one.disk_id, one.path))
    if any(len(text) > TEXT_CHARACTERS_MAX for text in (*texts, *of_disks)):
        raise InvalidArgumentError(f"{told.node_id} describes itself at too great a length")


def _refuse_other_id(context: Context, told: m.NodeInfo) -> None:
    row = context.execute(
        "SELECT node_id FROM node WHERE node_uuid = ? AND node_id <> ?", (told.node_uuid, told.node_id)
    ).fetchone()
    if row is not None:
        raise DuplicateNodeError(
            f"{told.node_id} has the identity of {row[0]}",
            cause=f"both have UUID {told.node_uuid}: a copied data directory, or a changed node.id",
            next=f"give {told.node_id} an empty data directory, or call it {row[0]} again",
        )


def _unknown(node_id: str) -> NotFoundError:
    return NotFoundError(
        f"no node {node_id[:63]!a} is registered", next="dfsctl node ls shows those that are"
    )
