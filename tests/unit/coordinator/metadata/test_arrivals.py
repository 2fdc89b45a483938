"""New files that are written together at the end of an entry: nobody in the entry can tell."""

from __future__ import annotations

import random

import pytest

from coordinator.metadata import invariants
from quorumfs.v1 import namespace_pb2 as n
from tests.support.machines import Cluster
from tests.support.ops import clone, delete, mkdir, put, rename

PLACES = [b"/d/" + name for name in (b"a", b"b", b"c")] + [b"/d/a/x", b"/a", b"/b/y"]
TABLES = (
    "SELECT id, type, parent, name, mode, mtime_ns, version, replication FROM inode ORDER BY id",
    "SELECT parent, name, inode FROM dentry ORDER BY parent, name",
    "SELECT id, inode, size, checksum FROM version ORDER BY id",
    "SELECT version, file_offset, length, chunk_offset FROM extent ORDER BY version, file_offset",
    "SELECT id, inode, path FROM trash ORDER BY id",
    "SELECT files, directories, next_inode, next_version, logical_bytes, inline_bytes FROM totals",
)


def operation(chance: random.Random) -> n.Op:
    place = chance.choice(PLACES)
    match chance.randrange(10):
        case 0:
            return mkdir(place)
        case 1:
            return delete(place, recursive=True)
        case 2:
            return rename(place, chance.choice(PLACES), replace=True)
        case 3:
            return clone(place, b"/clone", replace=True)
        case 4:
            return put(place, b"", if_absent=True)
        case 5:
            return put(place, b"", expected_version=chance.randrange(1, 20))
        case _:
            return put(place, chance.choice((b"", b"body", b"another body")))


@pytest.mark.parametrize("seed", range(60))
def test_operations_in_one_entry_end_like_the_same_in_an_entry_each(seed: int) -> None:
    chance = random.Random(seed)
    operations = [mkdir(b"/d"), *(operation(chance) for _ in range(25))]
    together, apart = Cluster(), Cluster()
    answers = together.do(*operations)
    expected = [apart.one(one) for one in operations]
    assert [(one.code, one.info) for one in answers] == [(one.code, one.info) for one in expected]
    for table in TABLES:
        assert together.replica.db.execute(table).fetchall() == apart.replica.db.execute(table).fetchall()
    assert invariants.violations(together.replica.db) == []
