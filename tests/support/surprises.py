"""What nodes and agents did not foresee: every trace in their logs."""

from __future__ import annotations

from quorumfs.testing import LocalCluster

_SHOWN = 3000


def surprises(cluster: LocalCluster) -> list[str]:
    """One line per trace that any process of the cluster logged, with the name of its log."""
    return [
        f"{node.node_id} {kind}: {line[-_SHOWN:]}"
        for node in cluster.nodes
        for kind in ("node", "sidecar")
        for line in cluster.log(node.node_id, kind).splitlines()
        if "Traceback" in line
    ]
