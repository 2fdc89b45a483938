"""Sparse chunks are rewritten: files keep their bytes, and the old chunk is garbage."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.duties.repack import REST_SECONDS, Repack, Rules
from quorumfs.errors import UnavailableError
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.support.coordinator import Coordinator
from tests.support.ops import delete, put, ref
from tests.unit.coordinator.duties.test_packing import Datanodes, content, make, rows


@pytest.fixture
def nodes() -> Datanodes:
    return Datanodes()


ROUND_SECONDS = 7.0


def repacking(leader: Coordinator, nodes: Datanodes, live_percent_min: int = 50, most: int = 1000) -> Repack:
    def read(where: n.ChunkLocation, offset: int, length: int) -> bytes:
        if where.chunk not in nodes.chunks:
            raise UnavailableError("nobody answers")
        assert offset + length <= where.length
        return nodes.chunks[where.chunk][offset : offset + length]

    rules = Rules(live_percent_min, most, ROUND_SECONDS)
    return Repack(leader.desk, leader.soft, nodes, read, "cluster", rules, lambda: 0.5, leader.clock)


@pytest.fixture
def bodies(leader: Coordinator, nodes: Datanodes) -> dict[bytes, bytes]:
    """Ten files of ten bytes in one pack, of which seven go; those that are left."""
    leader.lead("d1", "d2", "d3")
    bodies = {b"/%d" % number: b"%d" % number * 10 for number in range(10)}
    leader.batch(*(put(path, body) for path, body in bodies.items()))
    make(leader, nodes).work()
    for number in range(7):
        remove(leader, b"/%d" % number)
        del bodies[b"/%d" % number]
    return bodies


def remove(leader: Coordinator, path: bytes) -> None:
    leader.batch(delete(path, purge=True))
    leader.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))


def test_what_is_alive_moves_to_a_new_chunk_and_the_old_one_is_garbage(
    leader: Coordinator, nodes: Datanodes, bodies: dict[bytes, bytes]
) -> None:
    (old,) = nodes.chunks
    duty = repacking(leader, nodes)
    assert duty.work() == "rewrote 1 sparse chunks, moved 3 extents"
    assert {path: content(leader, nodes, path) for path in bodies} == bodies
    (new,) = nodes.chunks.keys() - {old}
    assert len(nodes.chunks[new]) == 30
    assert rows(leader, "SELECT DISTINCT chunk FROM extent") == [(new,)]
    assert rows(leader, "SELECT chunk FROM orphan") == [(old,)]
    assert rows(leader, "SELECT count(*) FROM upload") == [(0,)]
    assert duty.work() == "0 sparse chunks found"
    assert duty.wait() == ROUND_SECONDS
    assert (duty.figures.rewritten_chunks, duty.figures.sparse_chunks) == (1, 0)


def test_what_changes_while_the_pack_is_written_is_not_touched(
    leader: Coordinator, nodes: Datanodes, bodies: dict[bytes, bytes]
) -> None:
    nodes.before_answer = lambda: (remove(leader, b"/8"), leader.batch(put(b"/9", b"new")))
    repacking(leader, nodes).work()
    assert content(leader, nodes, b"/7") == bodies[b"/7"]
    layout = n.ReadOp(layout=n.LayoutRequest(ref=ref(b"/9")))
    from coordinator.metadata import queries

    found = queries.answer(leader.db, layout).layout
    assert [one.body for one in found.chunks] == [b"new"]


def test_nothing_is_rewritten_above_the_bound_or_when_it_is_off(
    leader: Coordinator, nodes: Datanodes, bodies: dict[bytes, bytes]
) -> None:
    assert "0 sparse" in repacking(leader, nodes, live_percent_min=30).work()
    assert "nothing is rewritten" in repacking(leader, nodes, live_percent_min=0).work()
    assert "fits into no pack" in repacking(leader, nodes, most=29).work()
    assert len(nodes.chunks) == 1


def test_what_becomes_sparse_later_is_found_in_the_next_round(leader: Coordinator, nodes: Datanodes) -> None:
    """As when a new leader looks before the trash is reaped."""
    leader.lead("d1", "d2", "d3")
    leader.batch(*(put(b"/%d" % number, b"0123456789") for number in range(10)))
    make(leader, nodes).work()
    duty = repacking(leader, nodes)
    leader.batch(*(delete(b"/%d" % number, purge=True) for number in range(7)))
    assert (duty.work(), duty.wait()) == ("0 sparse chunks found", ROUND_SECONDS)
    leader.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=100)))
    assert duty.work() == "rewrote 1 sparse chunks, moved 3 extents"


def test_what_fits_into_no_pack_is_looked_at_once_in_a_round(
    leader: Coordinator, nodes: Datanodes, bodies: dict[bytes, bytes]
) -> None:
    duty = repacking(leader, nodes, most=29)
    assert "fits into no pack" in duty.work()
    assert duty.wait() == ROUND_SECONDS


def test_a_read_that_gives_too_little_moves_nothing(
    leader: Coordinator, nodes: Datanodes, bodies: dict[bytes, bytes]
) -> None:
    (old,) = nodes.chunks
    nodes.chunks[old] = nodes.chunks[old][:-1]
    assert "can be read now" in repacking(leader, nodes).work()
    assert rows(leader, "SELECT DISTINCT chunk FROM extent") == [(old,)]


def test_what_cannot_be_read_rests_for_a_while(
    leader: Coordinator, nodes: Datanodes, bodies: dict[bytes, bytes]
) -> None:
    kept = dict(nodes.chunks)
    nodes.chunks.clear()
    duty = repacking(leader, nodes)
    assert "can be read now" in duty.work()
    assert "0 sparse" in duty.work()
    nodes.chunks.update(kept)
    leader.clock.advance(REST_SECONDS)
    leader.beat("d1"), leader.beat("d2"), leader.beat("d3")
    assert "rewrote 1" in duty.work()


def test_a_pack_that_no_node_takes_leaves_everything_as_it_was(
    leader: Coordinator, nodes: Datanodes, bodies: dict[bytes, bytes]
) -> None:
    before: list[tuple[Any, ...]] = rows(leader, "SELECT * FROM extent")
    nodes.broken = {"d1", "d2", "d3"}
    with pytest.raises(UnavailableError):
        repacking(leader, nodes).work()
    assert rows(leader, "SELECT * FROM extent") == before
    assert rows(leader, "SELECT count(*) FROM upload") == [(0,)]
