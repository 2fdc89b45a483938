"""Files of one chunk each: where their replicas lie, and which of them datanodes have copied."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

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


Copies = Counter[tuple[str, str]]
"""(node, chunk) -> how often the node has told that it is there as ordered. `len` of a difference counts each once: who
is told twice to copy what it has, as after a lost answer, looks at it and makes no copy."""


def copied(cluster: LocalCluster) -> Copies:
    """What datanodes have copied for leaders."""
    return Copies(
        (one.node_id, chunk)
        for one in cluster.layout.datanodes
        for line in cluster.log(one.node_id).splitlines()
        if '"command.done"' in line and '"replicate"' in line and (chunk := _field("chunk", line))
    )


def deaths(cluster: LocalCluster) -> Counter[str]:
    """Node -> how often a coordinator has declared it dead."""
    told = [
        line for one in cluster.layout.coordinator_nodes for line in cluster.log(one.node_id).splitlines()
    ]
    return Counter(_field("node", line) for line in told if '"node.dead"' in line)


def _field(name: str, line: str) -> str:
    """Of a line in JSON; empty: it is not there (yet)."""
    found = re.search(rf'"{name}": ?"([^"]+)"', line)
    return found[1] if found is not None else ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in a cluster's life; what was copied, and who was declared dead, since then."""

    copies: Copies
    deaths: Counter[str]

    @classmethod
    def now(cls, cluster: LocalCluster) -> Mark:
        return cls(copied(cluster), deaths(cluster))

    def copies_since(self, cluster: LocalCluster) -> int:
        return len(copied(cluster) - self.copies)

    def check_copies(self, cluster: LocalCluster, number: int, dead: Collection[str] = ()) -> None:
        """So many were made since, none twice, and nobody but `dead` was declared dead. AssertionError: which of the
        two was otherwise; when a node is declared dead more copies are right."""
        made = sorted(copied(cluster) - self.copies)
        others = sorted((deaths(cluster) - self.deaths).keys() - set(dead))
        assert len(made) <= number or others, f"{made} were copied, and nobody but {dead} was declared dead"
        assert len(made) == number, f"{made} were copied; declared dead in between: {others}"


def everything_is_there(fs: Client, stored: dict[str, bytes]) -> None:
    for path, content in stored.items():
        assert fs.read_bytes(path) == content
