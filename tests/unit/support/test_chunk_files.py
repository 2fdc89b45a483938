from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chunk_files import DAMAGE, sealed, spare_replica, unequal

CHUNK = "ab" + 30 * "0"


@pytest.fixture
def disks(tmp_path: Path) -> dict[str, Path]:
    """Three nodes with one chunk each, the same."""
    found = {node_id: tmp_path / node_id for node_id in ("d1", "d2", "d3")}
    for disk in found.values():
        put(disk, CHUNK, b"0123456789")
    return found


def put(disk: Path, name: str, content: bytes) -> Path:
    file = disk / "disk0/chunks/ab" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_only_sealed_chunks_count(disks: dict[str, Path]) -> None:
    put(disks["d1"], f"{CHUNK}.tmp", b"unfinished")
    assert {chunk: {*files} for chunk, files in sealed(disks).items()} == {CHUNK: {"d1", "d2", "d3"}}


@pytest.mark.parametrize("harm", sorted(DAMAGE))
def test_a_replica_is_damaged_only_while_two_others_are_whole_and_only_once(
    disks: dict[str, Path], harm: str
) -> None:
    found = spare_replica(disks, "d2", [])
    assert found is not None
    chunk, file = found
    assert (chunk, file.is_relative_to(disks["d2"])) == (CHUNK, True)
    before = file.read_bytes()
    DAMAGE[harm](file)
    assert not file.exists() or file.read_bytes() != before
    assert (unequal(disks) == [CHUNK]) == (harm != "remove")
    assert spare_replica(disks, "d1", []) is None
    assert spare_replica(disks, "d2", []) is None


def test_a_chunk_that_was_damaged_before_is_spared(disks: dict[str, Path]) -> None:
    assert spare_replica(disks, "d1", [CHUNK]) is None
