"""Access tokens on real processes: every door asks for them, also while nobody leads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from common.access import RPC_ROLES, is_change
from quorumfs.discovery import TOKEN_VARIABLE
from quorumfs.errors import Code, OutcomeUnknownError, PermissionDeniedError, UnauthenticatedError
from quorumfs.rpc.coordinator import Coordinator
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from quorumfs.v1 import admin_pb2
from tests.support.agents import Answer, ask
from tests.support.calls import all_calls, answers
from tests.support.commands import Dfsctl
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

cluster = cluster_fixture(labels={"zone": ("a", "b", "c")})


class WithToken(Dfsctl):
    """`dfsctl` with a token in its environment."""

    token = ""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **({TOKEN_VARIABLE: self.token} if self.token else {})}


class Tokens:
    def __init__(self, home: Path, cluster: LocalCluster) -> None:
        self._dfsctl = WithToken(home, cluster.coordinators)
        self.early = self.make("viewer", "", "early")  # until there is an admin, this machine may make tokens
        self.admin = self.make("admin", "", "root")
        self.operator = self.make("operator", self.admin, "op")
        self.viewer = self.make("viewer", self.admin, "eye")

    def run(self, token: str, *words: str) -> tuple[int, Any]:
        """(exit code, what was printed) of a `dfsctl` command with this token."""
        self._dfsctl.token = token
        said = self._dfsctl(*words, "-o", "json")
        return said.code, said.json

    def make(self, role: str, token: str, name: str) -> str:
        code, made = self.run(token, "auth", "token", "create", "--role", role, "--name", name)
        assert code == 0, made
        return str(made["token"])


@pytest.fixture(scope="module")
def tokens(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return Tokens(tmp_path_factory.mktemp("home"), cluster)


@pytest.fixture(autouse=True)
def well(cluster: LocalCluster) -> Iterator[None]:
    yield
    cluster.start_all()


def change(cluster: LocalCluster, node_id: str, token: str = "") -> Answer:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return ask(cluster.layout.node(node_id), "/logs/level", "PUT", {"level": "info"}, headers)


def test_every_agent_asks_for_a_token_as_soon_as_there_is_one(cluster: LocalCluster, tokens: Tokens) -> None:
    for one in cluster.nodes:
        assert change(cluster, one.node_id).status == 401
        assert change(cluster, one.node_id, tokens.admin[:-1] + "x").status == 401
        assert change(cluster, one.node_id, tokens.viewer).status == 403
        assert change(cluster, one.node_id, tokens.operator).status == 200


def test_every_admin_service_asks_for_one(cluster: LocalCluster, tokens: Tokens) -> None:
    code, told = tokens.run("", "gc", "pause")
    assert (code, told["error"]["code"]) == (6, "unauthenticated")
    assert tokens.run(tokens.viewer, "gc", "pause")[0] == 6
    assert tokens.run(tokens.operator, "gc", "pause")[0] == 0
    assert tokens.run(tokens.operator, "gc", "resume")[0] == 0
    assert tokens.run(tokens.operator, "auth", "token", "ls")[0] == 6
    assert tokens.run("", "auth", "token", "create", "--role", "admin")[0] == 6, "there is an admin now"
    assert tokens.run(tokens.early, "auth", "token", "create", "--role", "admin")[0] == 6
    request = admin_pb2.SetLabelsRequest(set={"colour": "red"})
    for one in cluster.nodes:
        for token, right in ((None, False), (tokens.viewer, False), (tokens.operator, True)):
            assert is_taken(one.address("grpc"), request, token) is right, (one.node_id, right)


def is_taken(address: str, request: admin_pb2.SetLabelsRequest, token: str | None) -> bool:
    caller = Coordinator([address], token=token)
    try:
        caller.call("Admin.SetLabels", request, address=address, repeatable=True)
    except (UnauthenticatedError, PermissionDeniedError):
        return False
    except OutcomeUnknownError:  # whoever led has just stopped to: it had let the request in
        return True
    finally:
        caller.close()
    return True


# Without a token, from this machine: files, what clients and nodes begin with, and the questions of operators. In
# loopback mode whoever runs programs here may read and write files; nothing else is changed by a stranger.
OPEN_SERVICES = ("Namespace",)
OPEN_CALLS = (
    "Trust.Hello",
    "Membership.GetCluster",
    *(f"Chunks.{name}" for name in ("Write", "Read", "List", "Stat", "Verify", "GetShortCircuit")),
)


def is_open(method: MethodDescriptor) -> bool:
    service, path = method.containing_service, f"/{method.containing_service.full_name}/{method.name}"
    if path in RPC_ROLES:
        return not is_change(RPC_ROLES[path])
    return service.name in OPEN_SERVICES or f"{service.name}.{method.name}" in OPEN_CALLS


def test_a_stranger_reaches_files_and_questions_and_nothing_else(
    cluster: LocalCluster, tokens: Tokens
) -> None:
    nodes = {"coordinator": cluster.leader(), "datanode": "d1"}
    wrong = []
    for role, method in all_calls():
        with grpc.insecure_channel(cluster.layout.node(nodes[role]).address("grpc")) as channel:
            if is_refused(channel, method) is is_open(method):
                wrong.append(f"{role}: {method.full_name}")
    assert wrong == []


def is_refused(channel: grpc.Channel, method: MethodDescriptor) -> bool:
    """Whether an empty message without a token ends as unauthenticated."""
    found: list[Any] = []
    try:
        found = list(answers(channel, method, [b""], seconds=2.0, most=1))
    except grpc.RpcError as error:
        told: Any = error
        return bool(told.code() is grpc.StatusCode.UNAUTHENTICATED)
    reply = message_factory.GetMessageClass(method.output_type)()
    reply.ParseFromString(found[0] if found else b"")
    error = getattr(reply, "error", None)
    return int(getattr(error, "code", 0) or getattr(reply, "code", 0)) == Code.UNAUTHENTICATED


def test_a_revoked_token_opens_nothing_any_more(cluster: LocalCluster, tokens: Tokens) -> None:
    short = tokens.make("operator", tokens.admin, "short")
    assert change(cluster, "d2", short).status == 200
    assert tokens.run(tokens.admin, "auth", "token", "revoke", "short")[0] == 0
    for one in cluster.nodes:
        wait_for(
            lambda one=one: change(cluster, one.node_id, short).status == 401,  # type: ignore[misc]
            10.0,
            f"{one.node_id} knows that it is revoked",
        )
    assert tokens.run(tokens.admin, "auth", "token", "revoke", "root")[0] == 10, "the last admin's"


def test_without_a_leader_and_without_coordinators_tokens_are_still_judged(
    cluster: LocalCluster, tokens: Tokens
) -> None:
    for coordinator in ("c1", "c2", "c3"):
        cluster.kill(coordinator)
    cluster.kill("d3", "sidecar")
    cluster.start_node("d3", "sidecar")
    for node_id in ("d1", "d3"):
        wait_for(lambda node_id=node_id: alive(cluster, node_id), 30.0, f"{node_id} answers")  # type: ignore[misc]
        assert change(cluster, node_id).status == 401
        assert change(cluster, node_id, tokens.viewer).status == 403
        assert change(cluster, node_id, tokens.operator).status == 200
    assert ask(cluster.layout.node("d1"), "/status").status == 200


def alive(cluster: LocalCluster, node_id: str) -> bool:
    try:
        return ask(cluster.layout.node(node_id), "/health/live").status == 200
    except OSError:
        return False


def test_changes_and_refusals_are_in_the_log_with_who_and_what(cluster: LocalCluster, tokens: Tokens) -> None:
    change(cluster, "d1", tokens.operator)
    change(cluster, "d1", tokens.viewer)
    events = [json.loads(line) for line in cluster.log("d1", "sidecar").splitlines() if line.startswith("{")]
    told = [one for one in events if one["event"] in ("http.changed", "http.refused")]
    assert any(one["event"] == "http.changed" and one["principal"].startswith("op/") for one in told)
    assert any(one["event"] == "http.refused" and one["status"] == 403 for one in told)
    for text in (cluster.log("d1", "sidecar"), cluster.log("c1")):
        assert tokens.operator not in text


def test_nobody_has_thrown_up_its_hands(cluster: LocalCluster) -> None:
    assert surprises(cluster) == []
