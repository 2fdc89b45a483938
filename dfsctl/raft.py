"""`dfsctl raft`: the coordinators' group."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfsctl import views
from dfsctl.errors import in_words
from dfsctl.output import pairs, show, table
from dfsctl.parallel import NODE_SECONDS
from dfsctl.shell import command, settings
from quorumfs.errors import IntegrityError, NotFoundError, PartialError, QuorumFSError
from quorumfs.local.processes import console_script
from quorumfs.v1 import admin_pb2, membership_pb2

if TYPE_CHECKING:
    from quorumfs.rpc.coordinator import Coordinator

CHANGE_SECONDS = 180.0
HASH_SECONDS = 30.0

_MEMBER_HEADINGS = ("NODE", "KIND", "MATCH", "HEARD S", "CONNECTED", "RAFT", "GRPC")


@command()
@click.option("--node", "node_id", help="As this coordinator sees it (default: the leader).")
def status(node_id: str | None) -> None:
    """Term, indexes and members as one coordinator sees them."""
    given = settings()
    with given.coordinator() as coordinator:
        address = _address_of(coordinator, node_id) if node_id else None
        deadline = NODE_SECONDS if address else None
        answer = coordinator.control(
            "Control.GetRaft", admin_pb2.GetRaftRequest(), address=address, deadline=deadline
        )
    data = views.raft(answer)
    plain = {key: value for key, value in data.items() if key not in ("members", "leader")}
    plain["leader"] = data["leader"]["node_id"] if data["leader"] else None
    show(given, data, lambda: [*pairs(plain.items()), "", *_member_table(data["members"])])


@command()
def members() -> None:
    """The members of the group, as the leader sees them."""
    given = settings()
    with given.coordinator() as coordinator:
        answer = coordinator.control("Control.GetRaft", admin_pb2.GetRaftRequest())
    data = [views.member(one) for one in answer.members]
    show(given, data, lambda: _member_table(data))


@command("hash")
def hash_() -> None:
    """Every member's state hash at one index. Exit code 9 when they differ, 8 when one does not answer."""
    given = settings()
    with given.coordinator() as coordinator:
        # Once, of whoever leads: every time marks another index, at which all begin to hash anew.
        answer = coordinator.control(
            "Control.GetStateHash",
            admin_pb2.GetStateHashRequest(),
            address=coordinator.leader().grpc,
            deadline=given.timeout_seconds or HASH_SECONDS,
            repeatable=True,
        )
    data: list[dict[str, Any]] = []
    for one in answer.members:
        row: dict[str, Any] = {
            "node_id": one.node_id,
            "index": one.index,
            "hash": one.hash.hex(),
            "rolling": one.rolling.hex(),
        }
        data.append({**row, "error": one.error} if one.error else row)
    show(
        given,
        data,
        lambda: table(("NODE", "INDEX", "HASH"), ((r["node_id"], r["index"], r["hash"]) for r in data)),
    )
    error = _verdict(data)
    if error is not None:  # the answer stays a list; the verdict is in words and in the exit code
        click.echo(in_words(error), err=True, nl=False)
        raise click.exceptions.Exit(int(error.exit_code))


@command()
@click.argument("node_id", metavar="[NODE]", required=False, default="")
def transfer(node_id: str) -> None:
    """Hand leadership to NODE, or to whoever is up to date."""
    given = settings()
    with given.coordinator() as coordinator:
        request = admin_pb2.TransferLeadershipRequest(to_node_id=node_id)
        answer = coordinator.control("Control.TransferLeadership", request)
    show(given, {"detail": answer.detail}, lambda: [answer.detail or "leadership was handed over"])


@command()
@click.argument("address", metavar="HOST:PORT")
def add(address: str) -> None:
    """Take the empty coordinator that waits at this gRPC address into the group, and wait until it votes."""
    _change("add", membership_pb2.Member(grpc=address))


@command()
@click.argument("node_id", metavar="NODE")
def remove(node_id: str) -> None:
    """Remove a member; refused (exit code 10) when too few of the others answer."""
    _change("remove", membership_pb2.Member(node_id=node_id))


@command()
@click.argument("node_id", metavar="NODE")
def rejoin(node_id: str) -> None:
    """Bring back a member that was started again with an empty disk, and wait until it votes."""
    _change("rejoin", membership_pb2.Member(node_id=node_id))


@command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do it; without, it is only said what would be kept and lost.")
def recover(file: Path, yes: bool) -> None:
    """After a lost majority: let the stopped coordinator of this FILE begin a new history alone."""
    argv = [
        console_script("quorumfs-coordinator"),
        "--config",
        str(file),
        "--recover",
        *(["--yes"] if yes else []),
    ]
    done = subprocess.run(argv, check=False)
    raise click.exceptions.Exit(done.returncode)


def _change(action: str, member: membership_pb2.Member) -> None:
    given = settings()
    request = admin_pb2.ChangeMemberRequest(action=action, member=member)
    with given.coordinator() as coordinator:
        # Bringing a member up goes on where it was: it may be asked for again. A removal is over at once.
        answer = coordinator.control(
            "Control.ChangeMember", request, deadline=CHANGE_SECONDS, repeatable=action != "remove"
        )
    show(given, {"detail": answer.detail}, lambda: [answer.detail])


def _verdict(rows: list[dict[str, Any]]) -> QuorumFSError | None:
    """Why the members' states cannot be called the same."""
    told = [row for row in rows if "error" not in row]
    if len({(row["index"], row["hash"]) for row in told}) > 1:
        return IntegrityError(
            "the coordinators' states differ",
            cause="; ".join(f"{row['node_id']} at {row['index']}: {row['hash']}" for row in told),
            next="stop writing, keep every coordinator's data directory, and report it",
        )
    silent = [f"{row['node_id']}: {row['error']}" for row in rows if "error" in row]
    if silent:
        return PartialError("not every coordinator told its state hash", cause="; ".join(silent))
    return None


def _address_of(coordinator: Coordinator, node_id: str) -> str:
    view = coordinator.cluster_view(leader=False)
    for one in view.nodes:
        if one.info.node_id == node_id and one.info.grpc:
            return one.info.grpc
    raise NotFoundError(f"no coordinator {node_id!r} in this cluster", next="dfsctl raft members lists them")


def _member_table(rows: list[dict[str, Any]]) -> list[str]:
    return table(
        _MEMBER_HEADINGS,
        (
            (
                row["node_id"],
                "learner" if row["learner"] else "voter",
                row["match_index"],
                row["heard_age_seconds"],
                row["connected"],
                row["raft"],
                row["grpc"],
            )
            for row in rows
        ),
    )
