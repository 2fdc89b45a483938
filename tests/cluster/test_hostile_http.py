"""Clients that are slow, greedy or hostile, by raw sockets, against real agents: whoever is honest is answered in time
meanwhile, and the agent is the same process, no larger, when they are gone."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quorumfs.local.layout import HOST, NodeSpec
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from sidecar import limits
from tests.support.agents import ask
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

cluster = cluster_fixture(coordinators=1, datanodes=1)

SLOW_CLIENTS = 200
READERS = 50
GREEDY_BYTES = 10 << 20
GROWTH_BYTES_MAX = 48 << 20
ANSWER_SECONDS = 2.0
SECRETS = ("root:", "[node]")


@pytest.fixture
def node(cluster: LocalCluster) -> NodeSpec:
    return cluster.nodes[0]


@pytest.fixture(autouse=True)
def unharmed(cluster: LocalCluster, node: NodeSpec) -> Iterator[None]:
    """The agent is the same afterwards, and no larger than a little."""
    before = _life(cluster, node)
    yield
    assert ask(node, "/health").status == 200
    process, size = _life(cluster, node)
    assert process == before[0]
    assert size - before[1] < GROWTH_BYTES_MAX, f"it grew by {(size - before[1]) >> 20} MiB"


def _life(cluster: LocalCluster, node: NodeSpec) -> tuple[int, int]:
    """(pid, resident bytes) of the process that answers: gunicorn's only child."""
    processes = cluster.local.status()["processes"]
    parent = next(
        one["pid"] for one in processes if (one["node_id"], one["kind"]) == (node.node_id, "sidecar")
    )
    (worker,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(worker), int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * 4096


def connect(node: NodeSpec) -> socket.socket:
    made = socket.create_connection((HOST, node.ports["http"]), 5.0)
    made.settimeout(limits.HEADER_SECONDS + 5)
    return made


def say(node: NodeSpec, sent: bytes) -> bytes:
    """All that comes back for these bytes, until the agent closes; b"" when it just closed."""
    answer = b""
    with connect(node) as connection, contextlib.suppress(ConnectionError):
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        while part := connection.recv(65536):
            answer += part
    return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def times_of_health(node: NodeSpec, count: int = 20) -> list[float]:
    """How long each of some honest questions takes, all of which are answered."""
    taken = []
    for path in ("/health", "/status", "/leader", "/metrics") * (count // 4):
        answer = ask(node, path)
        assert answer.status == 200
        taken.append(answer.seconds)
    return taken


def test_two_hundred_clients_that_send_a_byte_at_a_time_hold_up_nobody_and_are_cut_off(
    node: NodeSpec, record_property: Any
) -> None:
    slow = [connect(node) for _ in range(SLOW_CLIENTS)]
    begun = time.monotonic()
    try:
        for connection in slow:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        taken = []
        for _ in range(5):
            for connection in slow:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"x")
            taken += times_of_health(node, 4)
        record_property("health_seconds_max", max(taken))
        assert max(taken) < ANSWER_SECONDS
        for connection in slow:
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b"", "it is not answered: it has asked nothing"
        assert time.monotonic() - begun < limits.HEADER_SECONDS + 5
    finally:
        for connection in slow:
            connection.close()


def test_fifty_readers_of_the_log_who_read_nothing_hold_up_nobody(
    node: NodeSpec, record_property: Any
) -> None:
    readers = [connect(node) for _ in range(READERS)]
    try:
        for reader in readers:
            reader.sendall(
                b"GET /logs/stream?follow=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
            )
        for reader in readers:
            assert reader.recv(12) == b"HTTP/1.1 200"
        taken = times_of_health(node, 40)
        record_property("health_seconds_max", max(taken))
        assert max(taken) < ANSWER_SECONDS
        too_many = [connect(node) for _ in range(limits.CONNECTIONS_PER_THREAD * limits.THREADS_MIN)]
        try:
            assert max(times_of_health(node, 4)) < ANSWER_SECONDS
        finally:
            for connection in too_many:
                connection.close()
    finally:
        for reader in readers:
            reader.close()
    wait_for(lambda: " 0.0" in _streams(node), 30.0, "the places of the readers are free again")


def _streams(node: NodeSpec) -> str:
    return next(
        line
        for line in ask(node, "/metrics").text.splitlines()
        if line.startswith("quorumfs_sidecar_log_streams")
    )


GREEDY = {
    "a header of 10 MB": (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * GREEDY_BYTES, 431),
    "10 MB of headers": (
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * (GREEDY_BYTES // 6),
        431,
    ),
    "an address of 10 MB": (b"GET /" + b"x" * GREEDY_BYTES, 414),
    "a body that is said to have 10 MB": (
        b"POST /v1/gc HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % GREEDY_BYTES
        + b"x" * GREEDY_BYTES,
        413,
    ),
    "a body of unknown length": (
        b"POST /v1/gc HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"a00000\r\n"
        + b"x" * GREEDY_BYTES,
        411,
    ),
}


@pytest.mark.parametrize("name", GREEDY)
def test_what_is_too_large_is_refused_unread(node: NodeSpec, name: str) -> None:
    sent, expected = GREEDY[name]
    begun = time.monotonic()
    answer = say(node, sent)
    assert time.monotonic() - begun < ANSWER_SECONDS
    # The rest of what was sent lies unread when the agent closes: the kernel may take its answer away with it.
    assert answer == b"" or status_of(answer) == expected


ODD = (
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHo\x00st: 127.0.0.1\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
)


@pytest.mark.parametrize("sent", ODD)
def test_bytes_that_are_no_request_are_refused_or_cut_off(node: NodeSpec, sent: bytes) -> None:
    answer = say(node, sent + (b"" if b"\r\n\r\n" in sent else b"\r\n\r\n"))
    if answer:
        assert status_of(answer) in (400, 403, 404, 411, 414, 417, 501, 505), answer[:200]
        assert b"Traceback" not in answer


OUTSIDE = (
    "/ui/../../../../etc/passwd",
    "/ui/..%2f..%2f..%2fetc%2fpasswd",
    "/ui/%2e%2e/%2e%2e/etc/passwd",
    "/ui/....//....//etc/passwd",
    "/ui/..\\..\\etc\\passwd",
    "/ui//etc/passwd",
    "//etc/passwd",
    "/ui/%00index.html",
    "/ui/../app.py",
    "/logs/../../node.toml",
    "/logs/stream/../../../cluster.secret",
    "/logs/stream?follow=0&logger=../../cluster.secret",
    "/v1/files?path=/../../etc/passwd",
    "/v1/files/layout?path=../../../etc/passwd",
    "/v1/gc/explain/..%2f..%2fetc%2fpasswd",
    "http://169.254.169.254/latest/meta-data",
    "http://127.0.0.1:1/etc/passwd",
    "*",
)


@pytest.mark.parametrize("target", OUTSIDE)
def test_no_path_leads_out_of_what_is_served(node: NodeSpec, target: str) -> None:
    answer = say(node, f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(head) in (400, 404), answer[:300]
    assert not any(word in body.decode("utf-8", "replace") for word in SECRETS), answer[:300]


class Trap:
    """A listener that counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server((HOST, 0))
        self._socket.setblocking(False)
        self.address = f"{HOST}:{self._socket.getsockname()[1]}"

    @property
    def visitors(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.accept()[0].close()
                count += 1
        return count

    def close(self) -> None:
        self._socket.close()


def test_no_request_makes_an_agent_call_an_address_of_the_callers(node: NodeSpec) -> None:
    trap = Trap()
    try:
        for body in (
            {"nodes": [trap.address], "action": "status"},
            {"nodes": ["c1"], "action": "status", "params": {"http": trap.address}},
            {"nodes": ["c1"], "action": f"http://{trap.address}/"},
            {"selector": f"http={trap.address}", "action": "status"},
            {"all": True, "action": "logs", "params": {"since": f"http://{trap.address}/"}},
            {"all": True, "action": "status", "url": f"http://{trap.address}/"},
        ):
            answer = ask(node, "/v1/cluster/exec", "POST", body)
            assert answer.status in (400, 404, 502), (body, answer.text)
        for path in (
            f"/v1/cluster/nodes/{trap.address}/drain",
            f"/v1/cluster/nodes/http:%2f%2f{trap.address}%2f/forget",
        ):
            assert ask(node, path, "POST", {}).status in (400, 404)
        for headers in (
            {"Host": trap.address},
            {"X-Forwarded-Host": trap.address},
            {"Forwarded": f"host={trap.address}"},
            {"Referer": f"http://{trap.address}/"},
        ):
            answer = ask(node, "/leader", headers=headers)
            assert trap.address not in answer.text
        told = (
            f"GET http://{trap.address}/leader HTTP/1.1\r\nHost: {trap.address}\r\nConnection: close\r\n\r\n"
        )
        assert trap.address.encode() not in say(node, told.encode())
        assert trap.visitors == 0
    finally:
        trap.close()


def test_no_agent_has_thrown_up_its_hands(cluster: LocalCluster, node: NodeSpec) -> None:
    assert surprises(cluster) == []
    cut = [json.loads(line) for line in cluster.log(node.node_id, "sidecar").splitlines() if line[:1] == "{"]
    assert all(one["level"].lower() != "error" for one in cut), [
        one for one in cut if one["level"] == "ERROR"
    ]
