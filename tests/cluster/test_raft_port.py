"""The Raft port with real sockets: strangers get nowhere, floods and garbage stall nothing, peers find each other."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from coordinator.consensus import handshake as shake
from coordinator.consensus.links import STRANGERS_MAX, Peer, TcpLinks
from coordinator.consensus.messages import Message
from quorumfs.clock import SystemClock
from quorumfs.errors import UnavailableError
from quorumfs.mint import system_random

pytestmark = pytest.mark.cluster

SECRET = b"the secret of this cluster ....."
CLUSTER = "cluster-1"
ROUTE = shake.route(CLUSTER, "c2", "uuid-c2", "c1", "uuid-c1")


class Member:
    """Links on a thread of their own, and what they told."""

    def __init__(
        self, own_id: str, ports: dict[str, int], secret: bytes = SECRET, cluster: str = CLUSTER
    ) -> None:
        peers = [
            Peer(one, f"uuid-{one}", f"127.0.0.1:{port}") for one, port in ports.items() if one != own_id
        ]
        self.port = ports[own_id]
        own = Peer(own_id, f"uuid-{own_id}", "")
        self.links = TcpLinks("127.0.0.1", self.port, own, cluster, secret, SystemClock(), system_random)
        self.links.set_peers(peers)
        self.messages: list[tuple[str, Message]] = []
        self.turned_at = time.monotonic()
        self.stall_seconds_max = 0.0
        self._orders: list[Callable[[], Any]] = []
        self._ending = False
        self.links.start(lambda peer, message: self.messages.append((peer, message)), lambda peer, up: None)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending:
            self.links.poll(0.02)
            now = time.monotonic()
            self.stall_seconds_max = max(self.stall_seconds_max, now - self.turned_at)
            self.turned_at = now
            while self._orders:
                self._orders.pop(0)()
        self.links.close()

    def order(self, act: Callable[[], Any]) -> None:
        self._orders.append(act)

    def send(self, peer: str, term: int) -> None:
        self.order(lambda: self.links.send(peer, {"type": "stale", "term": term}))

    def terms_from(self, peer: str) -> list[int]:
        return [message["term"] for sender, message in self.messages if sender == peer]

    def close(self) -> None:
        self._ending = True
        self._thread.join(5)


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def free_ports(*node_ids: str) -> dict[str, int]:
    with ExitStack() as stack:
        sockets = {
            node_id: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for node_id in node_ids
        }
        return {node_id: sock.getsockname()[1] for node_id, sock in sockets.items()}


@pytest.fixture
def pair() -> Iterator[tuple[Member, Member]]:
    ports = free_ports("c1", "c2")
    members = Member("c1", ports), Member("c2", ports)
    yield members
    for member in members:
        member.close()


def test_two_members_talk_in_both_directions(pair: tuple[Member, Member]) -> None:
    one, two = pair
    until(lambda: one.links.connected("c2") and two.links.connected("c1"))
    for term in range(1, 101):
        one.send("c2", term)
        two.send("c1", 1000 + term)
    until(lambda: len(two.terms_from("c1")) == 100 and len(one.terms_from("c2")) == 100)
    assert two.terms_from("c1") == list(range(1, 101))


def test_a_member_that_comes_back_is_linked_again() -> None:
    ports = free_ports("c1", "c2")
    one, two = Member("c1", ports), Member("c2", ports)
    until(lambda: one.links.connected("c2"))
    two.close()
    until(lambda: not one.links.connected("c2"))
    two = Member("c2", ports)
    until(lambda: one.links.connected("c2") and two.links.connected("c1"))
    one.close()
    two.close()


@pytest.mark.parametrize(("secret", "cluster"), [(b"another secret", CLUSTER), (SECRET, "cluster-2")])
def test_a_member_of_elsewhere_is_refused(secret: bytes, cluster: str) -> None:
    ports = free_ports("c1", "c2")
    one, two = Member("c1", ports), Member("c2", ports, secret, cluster)
    until(lambda: one.links.refused + two.links.refused >= 3)
    assert not one.links.connected("c2")
    assert not two.links.connected("c1")
    one.close()
    two.close()


def test_a_taken_port_is_said_with_what_to_do(pair: tuple[Member, Member]) -> None:
    links = TcpLinks(
        "127.0.0.1", pair[0].port, Peer("c3", "", ""), CLUSTER, SECRET, SystemClock(), system_random
    )
    with pytest.raises(UnavailableError, match="cannot be opened"):
        links.start(lambda peer, message: None, lambda peer, up: None)
    links.close()


def hostile(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def is_closed(sock: socket.socket) -> bool:
    """The other end closed it, within the socket's time-out."""
    try:
        return sock.recv(4096) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("size", [1, 100, 10_000, 1 << 20])
def test_a_stranger_that_sends_garbage_is_cut_off(pair: tuple[Member, Member], size: int) -> None:
    with hostile(pair[0].port) as sock:
        try:
            sock.sendall(os.urandom(size))
        except ConnectionError:
            return
        assert is_closed(sock)


def test_a_stranger_that_says_nothing_is_cut_off(pair: tuple[Member, Member]) -> None:
    with hostile(pair[0].port) as sock:
        assert is_closed(sock)


def test_a_pickle_is_not_executed(pair: tuple[Member, Member], tmp_path: Any) -> None:
    target = tmp_path / "pwned"
    pickle_bytes = b"cos\nsystem\n(S'touch " + str(target).encode() + b"'\ntR."
    with hostile(pair[0].port) as sock:
        sock.sendall(len(pickle_bytes).to_bytes(4, "little") + pickle_bytes + b"\0" * shake.HELLO_BYTES)
        assert is_closed(sock)
    assert not target.exists()


def test_a_recorded_handshake_is_worth_nothing(pair: tuple[Member, Member]) -> None:
    """The challenge is new each time, so that the answer of before does not fit."""
    with hostile(pair[0].port) as sock:
        sock.sendall(shake.hello(ROUTE, "c2", b"n" * 32))
        challenge = sock.recv(shake.CHALLENGE_BYTES)
        answer, _ = shake.answer(SECRET, "c1", b"n" * 32, challenge)
    with hostile(pair[0].port) as sock:
        sock.sendall(shake.hello(ROUTE, "c2", b"n" * 32))
        assert sock.recv(shake.CHALLENGE_BYTES) != challenge
        sock.sendall(answer)
        assert is_closed(sock)


def test_peers_keep_talking_through_a_flood(pair: tuple[Member, Member]) -> None:
    """Two hundred connections and 50 MB of garbage: the members' loop never stalls and messages arrive."""
    one, two = pair
    until(lambda: one.links.connected("c2"))
    one.stall_seconds_max = 0.0
    garbage = random.Random(1).randbytes(1 << 20)

    def flood() -> None:
        idle = []
        for _ in range(200):
            try:
                idle.append(hostile(one.port))
            except OSError:
                continue
        for _ in range(50):
            try:
                with hostile(one.port) as sock:
                    sock.sendall(garbage)
            except OSError:
                continue
        for sock in idle:
            sock.close()

    thread = threading.Thread(target=flood)
    thread.start()
    sent = 0
    while thread.is_alive():
        sent += 1
        two.send("c1", sent)
        time.sleep(0.01)
    until(lambda: len(one.terms_from("c2")) == sent)
    assert one.links.connected("c2")
    assert one.stall_seconds_max < 1.0


def test_more_strangers_than_places_push_out_the_oldest(pair: tuple[Member, Member]) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(hostile(pair[0].port))
        for _ in range(STRANGERS_MAX + 1):
            stack.enter_context(hostile(pair[0].port))
        assert is_closed(first)
