"""Partitions of a cluster on this machine: files that its nodes read, if their configuration says `dev.faults`.

Cut off from each other are the nodes' own transports (Raft, and gRPC between nodes); clients and agents reach all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quorumfs.errors import InvalidArgumentError, PreconditionFailedError

if TYPE_CHECKING:  # daemons import the names of the files
    from quorumfs.local.cluster import DevCluster
    from quorumfs.local.layout import Layout

CUT_FILE_NAME = (
    "cut.json"  # in a node's data directory: {"id of a node out of reach": "its gRPC address", ...}
)
SEEN_FILE_NAME = "cut.seen"  # the same bytes, written by the node once they hold
KEY = "dev.faults"
SEEN_SECONDS = 3.0
_POLL_SECONDS = 0.02


def partition(cluster: DevCluster, side: Sequence[str]) -> list[list[str]]:
    """Cut the nodes of `side` off from all others; both sides, as soon as every running node goes by it.

    It replaces an earlier one. Raises NotFoundError, InvalidArgumentError, PreconditionFailedError.
    """
    layout = cluster.layout()
    here = sorted({layout.node(one).node_id for one in side})
    there = [one.node_id for one in layout.nodes if one.node_id not in here]
    if not here or not there:
        raise InvalidArgumentError("a partition has two sides", cause="all nodes would be on one")
    _require_faults(layout)
    _write(cluster, layout, {node_id: there if node_id in here else here for node_id in (*here, *there)})
    return [here, there]


def heal(cluster: DevCluster) -> list[list[str]]:
    """Everybody reaches everybody again, as soon as this returns. Harmless without a partition."""
    layout = cluster.layout()
    _require_faults(layout)
    everybody = [one.node_id for one in layout.nodes]
    _write(cluster, layout, {node_id: [] for node_id in everybody})
    return [everybody]


def _require_faults(layout: Layout) -> None:
    if layout.overrides.get(KEY) != "true":
        raise PreconditionFailedError(
            "this cluster's nodes do not let themselves be cut off",
            cause=f"they were started without {KEY}, which makes every call between them slower",
            next=f"dfsctl dev down; dfsctl dev up --set {KEY}=true",
        )


def _write(cluster: DevCluster, layout: Layout, out_of_reach: dict[str, list[str]]) -> None:
    files: dict[Path, bytes] = {}
    for node_id, others in out_of_reach.items():
        node = layout.node(node_id)
        told = {one: layout.node(one).address("grpc") for one in others}
        raw = json.dumps(told).encode() if told else b""
        directory = layout.data_directory(node)
        directory.mkdir(parents=True, exist_ok=True)
        new = directory / f"{CUT_FILE_NAME}.new"
        new.write_bytes(raw)
        new.replace(directory / CUT_FILE_NAME)
        if cluster.processes.state(layout.process(node, "node")) == "running":
            files[directory / SEEN_FILE_NAME] = raw
    deadline = time.monotonic() + SEEN_SECONDS
    while late := [file for file, raw in files.items() if not file.exists() or file.read_bytes() != raw]:
        if time.monotonic() > deadline:
            raise PreconditionFailedError(
                f"not every node goes by it: {', '.join(sorted(file.parts[-3] for file in late))}",
                cause=f"they were started before {KEY} was set, or are busy",
                next="dfsctl dev stop NODE; dfsctl dev start NODE; then again",
            )
        time.sleep(_POLL_SECONDS)
