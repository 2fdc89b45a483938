"""The proof of the secret and the frames after it."""

from __future__ import annotations

import pytest

from coordinator.consensus import handshake as shake
from quorumfs.limits import RAFT_FRAME_BYTES_MAX

SECRET = b"s" * 32
ROUTE = shake.route("cluster", "c2", "uuid-2", "c1", "uuid-1")
CLIENT, SERVER = b"c" * 32, b"S" * 32


def pair() -> tuple[shake.Sealer, shake.Opener]:
    key, _ = shake.keys(SECRET, CLIENT, SERVER)
    return shake.Sealer(key), shake.Opener(key)


def test_both_ends_that_know_the_secret_are_let_in() -> None:
    peer, nonce = shake.read_hello(shake.hello(ROUTE, "c2", CLIENT), lambda peer: ROUTE)
    assert (peer, nonce) == ("c2", CLIENT)
    shown, server_nonce = shake.answer(SECRET, "c1", CLIENT, shake.challenge(SECRET, "c1", CLIENT, SERVER))
    assert server_nonce == SERVER
    shake.check_answer(SECRET, "c1", CLIENT, SERVER, shown)


@pytest.mark.parametrize(
    "other",
    [
        ("another", "c2", "uuid-2", "c1", "uuid-1"),
        ("cluster", "c2", "former disk", "c1", "uuid-1"),
        ("cluster", "c2", "uuid-2", "c3", "uuid-1"),
        ("cluster", "c2", "uuid-2", "c1", "former disk"),
    ],
)
def test_a_hello_that_means_another_cluster_node_or_disk_is_refused(other: tuple[str, ...]) -> None:
    with pytest.raises(shake.RefusedError):
        shake.read_hello(shake.hello(shake.route(*other), "c2", CLIENT), lambda peer: ROUTE)


def test_garbage_of_the_right_length_is_refused() -> None:
    with pytest.raises(shake.RefusedError):
        shake.read_hello(b"\xff" * shake.HELLO_BYTES, lambda peer: ROUTE)


def test_a_listener_without_the_secret_learns_no_proof() -> None:
    with pytest.raises(shake.RefusedError):
        shake.answer(SECRET, "c1", CLIENT, shake.challenge(b"x" * 32, "c1", CLIENT, SERVER))


def test_a_listener_that_answers_for_another_node_is_refused() -> None:
    with pytest.raises(shake.RefusedError):
        shake.answer(SECRET, "c1", CLIENT, shake.challenge(SECRET, "c3", CLIENT, SERVER))


def test_a_listeners_own_proof_sent_back_to_it_is_refused() -> None:
    reflected = shake.challenge(SECRET, "c1", CLIENT, SERVER)[shake.NONCE_BYTES :]
    with pytest.raises(shake.RefusedError):
        shake.check_answer(SECRET, "c1", CLIENT, SERVER, reflected)


def test_frames_come_out_in_order_however_they_are_cut() -> None:
    sealer, opener = pair()
    bodies = [b"", b"one", b"x" * 70_000, b"three"]
    stream = b"".join(sealer.seal(body) for body in bodies)
    found = []
    for start in range(0, len(stream), 777):
        found += opener.feed(stream[start : start + 777])
    assert found == bodies


@pytest.mark.parametrize("change", ["flipped", "replayed", "dropped", "swapped", "truncated_tag"])
def test_a_frame_that_is_not_the_next_genuine_one_is_refused(change: str) -> None:
    sealer, opener = pair()
    first, second = sealer.seal(b"first"), sealer.seal(b"second")
    stream = {
        "flipped": first[:-1] + bytes([first[-1] ^ 1]),
        "replayed": first + first,
        "dropped": second,
        "swapped": second + first,
        "truncated_tag": first[:5] + b"\0" * 15 + first[20:],
    }[change]
    with pytest.raises(shake.RefusedError):
        opener.feed(stream)


def test_a_frame_of_the_other_direction_is_refused() -> None:
    of_client, of_server = shake.keys(SECRET, CLIENT, SERVER)
    with pytest.raises(shake.RefusedError):
        shake.Opener(of_server).feed(shake.Sealer(of_client).seal(b"x"))


def test_a_frame_that_says_it_is_too_long_is_refused_before_it_arrives() -> None:
    _, opener = pair()
    with pytest.raises(shake.RefusedError):
        opener.feed((RAFT_FRAME_BYTES_MAX + 1).to_bytes(4, "big") + b"\0" * shake.TAG_BYTES)
