"""Files of one chunk each: where their replicas lie, and how often datanodes have copied one."""

from __future__ import annotations

import os

from quorumfs import Client
from quorumfs.testing import LocalCluster

CHUNK_BYTES = 256 << 10
FILES = 24


def store_files(cluster: LocalCluster) -> dict[str, bytes]:
    """FILES of them; path -> content."""
    files = {f"/f{k}": os.urandom(CHUNK_BYTES - k) for k in range(FILES)}
    with cluster.client() as fs:
        for path, content in files.items():
            fs.write_bytes(path, content)
    return files


def holders(fs: Client, path: str) -> set[str]:
    """The nodes with a good replica of a file of one chunk."""
    (location,) = fs.locate(path)
    return {one.node_id for one in location.replicas if one.state == "live"}


def copied(cluster: LocalCluster) -> int:
    """How many copies the datanodes have made for leaders."""
    lines = [line for one in cluster.layout.datanodes for line in cluster.log(one.node_id).splitlines()]
    return sum('"command.done"' in line and '"replicate"' in line for line in lines)


def everything_is_there(fs: Client, stored: dict[str, bytes]) -> None:
    for path, content in stored.items():
        assert fs.read_bytes(path) == content
