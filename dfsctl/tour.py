"""`dfsctl dev tour`: the main job in one command. A file is stored, the leader killed, the file read back."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfsctl.dev import cluster_to_start, describe, next_steps
from dfsctl.output import show, size
from dfsctl.shell import Settings, dev_command, settings
from quorumfs.errors import IntegrityError
from quorumfs.limits import MIB

if TYPE_CHECKING:
    from quorumfs import Client
    from quorumfs.local.cluster import DevCluster

_DIRECTORY = "/tour"


@dev_command()
@click.option("--mebibytes", type=click.IntRange(1, 4096), default=96, help="Size of the file.")
def tour(mebibytes: int) -> None:
    """Start the cluster, store a file, kill the leader, read the file back, leave the cluster running."""
    given = settings()
    cluster = cluster_to_start(given)
    say = _voice(given)
    began = time.monotonic()
    layout = cluster.up()
    say(f"cluster ready in {time.monotonic() - began:.1f} s: {layout.coordinators}")
    given.coordinators = layout.coordinators
    with given.client() as client, tempfile.TemporaryDirectory(prefix="quorumfs-tour-") as home:
        seen = _store_kill_read(cluster, client, Path(home), mebibytes * MIB, say)
    cluster.start(seen["killed"])
    cluster.wait_ready()
    say(f"{seen['killed']} runs again and has caught up")
    found = cluster.status()
    show(given, {**found, "tour": seen}, lambda: ["", *describe(found), *next_steps(found)])


def _store_kill_read(
    cluster: DevCluster, client: Client, home: Path, length: int, say: Callable[[str], None]
) -> dict[str, Any]:
    digest = _write_sample(home / "sample", length)
    path = f"{_DIRECTORY}/sample"
    client.makedirs(_DIRECTORY)
    began = time.monotonic()
    client.put(home / "sample", path)
    say(f"stored {path}: {size(length)} on {_holders(client, path)} in {time.monotonic() - began:.1f} s")
    leader = client.leader()
    cluster.kill(leader.node_id)
    began = time.monotonic()
    say(f"killed the leader {leader.node_id} (SIGKILL)")
    client.write_bytes(f"{_DIRECTORY}/written-after-the-kill", b"acknowledged by a new leader\n")
    failover = time.monotonic() - began
    successor = client.leader()
    say(f"{successor.node_id} leads; the first write was acknowledged after {failover:.2f} s")
    client.get(path, home / "copy")
    if _sha256(home / "copy") != digest:
        raise IntegrityError(
            f"{path} is not what was stored", next="keep the cluster's directory and report it"
        )
    say(f"read {path} back: the same {size(length)} (SHA-256 {digest[:16]}...)")
    return {
        "path": path,
        "size_bytes": length,
        "sha256": digest,
        "killed": leader.node_id,
        "leader": successor.node_id,
        "failover_seconds": round(failover, 3),
    }


def _write_sample(path: Path, length: int) -> str:
    """Bytes that no two chunks share, made from a counter."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        written = 0
        while written < length:
            piece = hashlib.shake_128(written.to_bytes(8, "big")).digest(min(MIB, length - written))
            file.write(piece)
            digest.update(piece)
            written += len(piece)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holders(client: Client, path: str) -> str:
    nodes = {place.node_id for one in client.locate(path) for place in one.replicas}
    return ", ".join(sorted(nodes)) or "the coordinators"


def _voice(given: Settings) -> Callable[[str], None]:
    """The tour's words are data for people; with JSON they would be in the way."""

    def say(line: str) -> None:
        if not given.as_json:
            click.echo(line)

    return say
