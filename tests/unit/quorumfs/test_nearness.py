"""Which replica is read first."""

from __future__ import annotations

from collections import Counter
from typing import Any

from quorumfs.nearness import Nearness, read_first
from quorumfs.v1 import namespace_pb2, types_pb2

CHUNK = bytes(16)


def chunk(*places: tuple[str, str], chunk_id: bytes = CHUNK) -> namespace_pb2.ChunkLocation:
    """A chunk with a live replica at each (host, zone); the nodes are d1, d2, ..."""
    found = namespace_pb2.ChunkLocation(chunk=chunk_id, length=1)
    for k, (host, zone) in enumerate(places, 1):
        found.replicas.add(
            node_id=f"d{k}", grpc=f"d{k}:1", host=host, zone=zone, state=types_pb2.REPLICA_STATE_LIVE
        )
    return found


def order(nearness: Nearness, of: Any, suspects: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> str:
    return " ".join(replica.node_id for replica in nearness.order(of, suspects, without))


def test_the_same_host_comes_first_then_the_same_zone() -> None:
    places = chunk(("x", "b"), ("y", "a"), ("me", "a"))
    assert order(Nearness("me", "a"), places) == "d3 d2 d1"


def test_the_zone_is_that_of_the_nodes_on_this_host() -> None:
    nearness = Nearness("me")
    elsewhere = chunk(("x", "b"), ("y", "a"))
    assert order(nearness, elsewhere) == "d1 d2"
    nearness.order(chunk(("me", "a")), (), ())
    assert order(nearness, elsewhere) == "d2 d1"


def test_a_zone_that_was_said_is_not_learned_anew() -> None:
    nearness = Nearness("me", "b")
    nearness.order(chunk(("me", "a")), (), ())
    assert order(nearness, chunk(("x", "a"), ("y", "b"))) == "d2 d1"


def test_labels_that_are_missing_are_nobodys_neighbours() -> None:
    assert order(Nearness("", ""), chunk(("", ""), ("", ""), chunk_id=b"\1" + bytes(15))) == "d2 d1"
    assert [Nearness("").distance(r) for r in chunk(("", "")).replicas] == [2]


def test_a_near_node_that_is_ill_comes_after_a_far_one_that_is_well() -> None:
    places = chunk(("me", "a"), ("x", "b"))
    assert order(Nearness("me", "a"), places, suspects=("d1",)) == "d2 d1"
    places.replicas[0].node_state = types_pb2.NODE_STATE_SUSPECT
    assert order(Nearness("me", "a"), places) == "d2 d1"
    places.replicas[0].node_state = types_pb2.NODE_STATE_ALIVE
    places.replicas[0].state = types_pb2.REPLICA_STATE_CORRUPT
    assert order(Nearness("me", "a"), places) == "d2 d1"


def test_who_has_failed_or_has_no_address_is_not_asked() -> None:
    places = chunk(("x", ""), ("y", ""), ("z", ""))
    places.replicas[2].grpc = ""
    assert order(Nearness("me"), places, without=("d1",)) == "d2"


def test_ties_are_spread_over_the_chunks_and_are_the_same_for_every_client() -> None:
    first: Counter[str] = Counter()
    for k in range(300):
        places = chunk(("x", ""), ("y", ""), ("z", ""), chunk_id=k.to_bytes(16, "little"))
        found = order(Nearness("me"), places)
        assert found == order(Nearness("you"), places)
        first[found.split()[0]] += 1
    assert first == {"d1": 100, "d2": 100, "d3": 100}


def row(*names: str) -> list[types_pb2.NodeAddress]:
    return [types_pb2.NodeAddress(node_id=name, grpc=f"{name}:1") for name in names]


def test_a_writer_knows_which_replica_will_be_read_first_whatever_the_order_of_the_row() -> None:
    for k in range(30):
        chunk_id = k.to_bytes(16, "little")
        far, all_here = chunk(("x", ""), ("y", ""), ("z", ""), chunk_id=chunk_id), ("me", "")
        first = order(Nearness("me"), far).split()[0]
        assert read_first(chunk_id, row("d3", "d1", "d2"), lambda _: False) == first
        one_machine = chunk(all_here, all_here, all_here, chunk_id=chunk_id)
        assert order(Nearness("me"), one_machine).split()[0] == first
        assert read_first(chunk_id, row("d2", "d3", "d1"), lambda _: True) == first
        local = chunk(("x", ""), ("me", ""), ("z", ""), chunk_id=chunk_id)
        assert order(Nearness("me"), local).split()[0] == "d2"
        assert read_first(chunk_id, row("d2", "d3", "d1"), lambda address: address == "d2:1") == "d2"
