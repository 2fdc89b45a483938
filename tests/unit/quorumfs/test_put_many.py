"""Many small files in few packs, over a cluster in memory: layout, retries, failures of single files and of all."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumfs import Client, limits
from quorumfs.errors import (
    AlreadyExistsError,
    BusyError,
    NoLeaderError,
    OutcomeUnknownError,
    PartialError,
    UnavailableError,
)
from quorumfs.limits import KIB, MIB
from quorumfs.ops import NewFile
from quorumfs.pack import layout
from quorumfs.put_many import ManyFiles
from quorumfs.v1 import namespace_pb2 as pb
from quorumfs.values import FileStatus
from tests.unit.quorumfs.fakes import Cluster

RANDOM = random.Random(11)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(chunk_size=64 * MIB)


@pytest.fixture
def fs(cluster: Cluster) -> Iterator[Client]:
    with Client("c1:1,c2:1,c3:1", channels=cluster.net) as client:
        yield client


def some(count: int, size: int = 4 * KIB, prefix: str = "/") -> dict[str, bytes]:
    return {f"{prefix}{number:05}": RANDOM.randbytes(size) for number in range(count)}


def chunks(cluster: Cluster) -> Counter[bytes]:
    """Chunk on datanodes -> how many files it holds."""
    extents = [extent for file in cluster.names.values() for extent in file.extents]
    return Counter(one.chunk for one in extents if not cluster.sealed[one.chunk].inline)


def test_hundreds_of_small_files_share_a_chunk_and_a_message(fs: Client, cluster: Cluster) -> None:
    files = some(600)
    stored = fs.put_many(files)
    assert {name: one.size_bytes for name, one in stored.items()} == dict.fromkeys(files, 4 * KIB)
    assert sorted(chunks(cluster).values()) == [89, 511]
    assert sum(node.writes for node in cluster.nodes.values()) == 2
    changes = [pb.Batch.FromString(raw) for _, name, raw in cluster.net.calls if name == "Do"]
    assert len([batch for batch in changes if batch.session and len(batch.ops) > 1]) == 3
    assert {name: fs.read_bytes(name) for name in files} == files
    assert cluster.uploads == {}


def test_a_few_bytes_are_not_worth_a_pack(fs: Client, cluster: Cluster) -> None:
    fs.put_many(some(16))
    assert chunks(cluster) == {}
    fs.put_many(some(17))
    assert list(chunks(cluster).values()) == [17]


def test_what_the_metadata_has_no_room_for_is_packed(fs: Client, cluster: Cluster) -> None:
    cluster.inline_max = 0
    fs.put_many({**some(3, 100), "/empty": b""})
    assert list(chunks(cluster).values()) == [3]
    assert fs.read_bytes("/empty") == b""


def test_large_files_are_stored_alone_between_the_packs(fs: Client, cluster: Cluster) -> None:
    files = {**some(100), "/large": RANDOM.randbytes(MIB + 1), **some(100, prefix="/z"), "/empty": b""}
    fs.put_many(files)
    assert {name: fs.read_bytes(name) for name in files} == files
    assert sorted(chunks(cluster).values()) == [1, 200]


def test_local_files_bring_their_mode_and_time(fs: Client, tmp_path: Path) -> None:
    local = []
    for number in range(3):
        path = tmp_path / str(number)
        path.write_bytes(RANDOM.randbytes(40 * KIB))
        path.chmod(0o640)
        os.utime(path, ns=(5, 1_234_567_890_123_456_789))
        local.append(path)
    stored = fs.put_many((f"/{path.name}", path) for path in local)
    assert {(one.mode, one.modified_ns) for one in stored.values()} == {(0o640, 1_234_567_890_123_456_789)}
    assert [fs.read_bytes(f"/{path.name}") for path in local] == [path.read_bytes() for path in local]


def test_the_files_that_are_refused_are_named_and_the_others_stored(
    fs: Client, cluster: Cluster, tmp_path: Path
) -> None:
    fs.write_bytes("/00007", b"mine")
    failed: dict[str, Exception] = {}
    given = {**some(100), "/missing": tmp_path / "missing"}
    stored = fs.put_many(given, if_absent=True, failed=failed)  # type: ignore[arg-type]
    assert len(stored) == 99
    assert {name: type(error) for name, error in failed.items()} == {
        "/00007": AlreadyExistsError,
        "/missing": FileNotFoundError,
    }
    assert fs.read_bytes("/00007") == b"mine"
    with pytest.raises(PartialError) as caught:
        fs.put_many(some(100), if_absent=True)
    assert len(caught.value.ids) == 100


def test_files_whose_long_paths_differ_only_at_the_end_are_told_apart(fs: Client) -> None:
    long = "/" + "/".join(["x" * 200] * 4)
    files = {f"{long}/{name}": b"body" for name in "abc"}
    assert set(fs.put_many(files)) == set(files)


def test_the_last_of_two_files_of_one_name_wins(fs: Client) -> None:
    first, last = some(300), RANDOM.randbytes(4 * KIB)
    fs.put_many([*first.items(), ("/00000", last), *some(300, prefix="/z").items()])
    assert fs.read_bytes("/00000") == last
    assert fs.read_bytes("/00001") == first["/00001"]


def test_a_pack_whose_replicas_were_lost_is_sent_again_whole(fs: Client, cluster: Cluster) -> None:
    files = some(40)

    def lose(where: str, path: str, raw: bytes) -> None:
        ops = pb.Batch.FromString(raw).ops if path.endswith("/Do") else ()
        found = [op.put_file.packed.chunk for op in ops if op.put_file.HasField("packed")]
        if found:
            cluster.net.before = lambda *_: None
            cluster.lost.update(found)

    cluster.net.before = lose
    assert len(fs.put_many(files)) == 40
    assert list(chunks(cluster).values()) == [40]
    assert not cluster.lost & set(chunks(cluster))
    assert {name: fs.read_bytes(name) for name in files} == files


def test_a_pack_whose_upload_expired_is_sent_again_under_another(fs: Client, cluster: Cluster) -> None:
    files = some(40)

    def expire(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do") and any(op.HasField("add_extents") for op in pb.Batch.FromString(raw).ops):
            cluster.net.before = lambda *_: None
            cluster.uploads.clear()

    cluster.net.before = expire
    assert len(fs.put_many(files)) == 40
    assert {name: fs.read_bytes(name) for name in files} == files


def test_a_pack_that_is_lost_again_and_again_fails_with_its_reason(fs: Client, cluster: Cluster) -> None:
    def lose(where: str, path: str, raw: bytes) -> None:
        if path.endswith("/Do"):
            cluster.lost.update(
                op.put_file.packed.chunk for op in pb.Batch.FromString(raw).ops if op.HasField("put_file")
            )

    cluster.net.before = lose
    with pytest.raises(PartialError, match="not durable") as caught:
        fs.put_many(some(40))
    assert len(caught.value.ids) == 40
    assert cluster.uploads == {}


def test_a_datanode_that_dies_costs_a_pack_only_time(fs: Client, cluster: Cluster) -> None:
    cluster.add_node("d4")
    for name in ("d1", "d2"):
        cluster.nodes[name].stop_after = 0
    files = some(600, 2 * KIB)
    assert len(fs.put_many(files)) == 600
    assert {name: fs.read_bytes(name) for name in files} == files


def test_without_datanodes_what_is_small_enough_goes_inline(
    fs: Client, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PACK_SECONDS", 0.0)
    monkeypatch.setattr(limits, "STORE_CHUNK_SECONDS", 0.0)
    for node in list(cluster.nodes):
        del cluster.nodes[node]
    files = some(300)
    assert len(fs.put_many(files)) == 300
    assert fs.read_bytes("/00299") == files["/00299"]
    failed: dict[str, Exception] = {}
    assert fs.put_many({"/a": bytes(40 * KIB)}, failed=failed) == {}  # type: ignore[arg-type]
    assert list(failed) == ["/a"]


def test_no_leader_ends_it_all(cluster: Cluster) -> None:
    with Client("c1:1", channels=cluster.net, timeout=0.2) as fs:
        fs.write_bytes("/warm", b"")
        cluster.net.down.update(cluster.coordinators)
        with pytest.raises((NoLeaderError, UnavailableError)):
            fs.put_many(some(600))


def without_coordinators_from(cluster: Cluster, number: int) -> None:
    """They are gone from the `number`-th message on that makes files."""
    seen = 0

    def note(where: str, path: str, raw: bytes) -> None:
        nonlocal seen
        if path.endswith("/Do") and any(op.HasField("put_file") for op in pb.Batch.FromString(raw).ops):
            seen += 1
            if seen == number:
                cluster.net.down.update(cluster.coordinators)

    cluster.net.before = note


def test_an_error_that_ends_it_all_leaves_an_account_of_every_file_that_was_taken(cluster: Cluster) -> None:
    stored: dict[str, FileStatus] = {}
    failed: dict[str, Exception] = {}
    taken = []

    def files() -> Iterator[tuple[str, bytes]]:
        for name, body in some(900).items():
            taken.append(name)
            yield name, body

    with Client("c1:1", channels=cluster.net, timeout=0.2) as fs:
        fs.mkdir("/warm")
        without_coordinators_from(cluster, 2)
        with pytest.raises((NoLeaderError, UnavailableError, OutcomeUnknownError)):
            fs.put_many(files(), stored=stored, failed=failed)  # type: ignore[arg-type]
    assert len(stored) == 255
    assert set(stored) == {name.decode() for name in cluster.names} - {"/warm", "/"}
    assert set(stored) | set(failed) == set(taken)
    assert not set(stored) & set(failed)


def test_what_earlier_messages_of_a_pack_have_stored_is_known_when_a_later_one_fails(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PACK_SECONDS", 0.0)
    for node in list(cluster.nodes):
        del cluster.nodes[node]
    files = some(40, 16 * KIB)
    stored: dict[str, FileStatus] = {}
    failed: dict[str, Exception] = {}
    with Client("c1:1", channels=cluster.net, timeout=0.2) as fs:
        fs.mkdir("/warm")
        without_coordinators_from(cluster, 2)
        with pytest.raises((NoLeaderError, UnavailableError, OutcomeUnknownError)):
            fs.put_many(files, stored=stored, failed=failed)  # type: ignore[arg-type]
    assert 0 < len(stored) < 40
    assert set(stored) == {name.decode() for name in cluster.names} - {"/warm", "/"}
    assert set(stored) | set(failed) == set(files)
    assert not set(stored) & set(failed)


def busy_once(client: Client, number: int, monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """The `number`-th message that makes files is refused as a whole. How often each file was asked for in others."""
    do, made, seen = client.namespace.operations.do, Counter[bytes](), 0

    def refuse(ops: Sequence[pb.Op], *rest: float) -> Sequence[pb.Result]:
        nonlocal seen
        paths = [op.put_file.ref.path for op in ops if op.HasField("put_file")]
        seen += bool(paths)
        if paths and seen == number:
            raise BusyError("the leader takes no more")
        made.update(paths)
        return do(ops, *rest)

    monkeypatch.setattr(client.namespace.operations, "do", refuse)
    return made


def test_what_a_message_of_a_pack_has_made_is_not_made_again_when_the_next_is_refused(
    fs: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = some(300)
    made = busy_once(fs, 2, monkeypatch)
    assert set(fs.put_many(files)) == set(files)
    assert set(made.values()) == {1}


def test_what_a_message_of_a_pack_has_made_does_not_fail_with_the_next(
    fs: Client, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = some(300) | {"/large": bytes(limits.INLINE_BYTES_MAX + 1)}
    busy_once(fs, 2, monkeypatch)
    stored: dict[str, FileStatus] = {}
    failed: dict[str, Exception] = {}
    fs.put_many(files, stored=stored, failed=failed)  # type: ignore[arg-type]
    assert set(stored) == {name.decode() for name in cluster.names} - {"/"}
    assert set(stored) | set(failed) == set(files)
    assert not set(stored) & set(failed)
    assert {str(error) for error in failed.values()} == {"the leader takes no more"}


def test_an_error_of_what_gives_the_files_leaves_the_account_too(fs: Client, cluster: Cluster) -> None:
    stored: dict[str, FileStatus] = {}
    failed: dict[str, Exception] = {}
    given = some(300)

    def files() -> Iterator[tuple[str, bytes]]:
        yield from given.items()
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fs.put_many(files(), stored=stored, failed=failed)  # type: ignore[arg-type]
    assert set(stored) == {name.decode() for name in cluster.names} - {"/"}
    assert set(stored) | set(failed) == set(given)
    assert not set(stored) & set(failed)
    assert cluster.uploads == {}


def test_chunks_are_allocated_for_several_packs_at_once_and_none_in_vain(
    fs: Client, cluster: Cluster
) -> None:
    fs.put_many(some(2000))
    ops = [op for _, name, raw in cluster.net.calls if name == "Do" for op in pb.Batch.FromString(raw).ops]
    asked = [op.allocate.count for op in ops if op.HasField("allocate")]
    assert sum(asked) == 4
    assert len(asked) < 4


def test_only_a_few_packs_are_in_memory(fs: Client) -> None:
    taken = 0
    known: list[int] = []

    def files() -> Iterator[tuple[str, bytes]]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield f"/{number}", bytes(MIB)

    def note(done: int) -> None:
        known.append(taken - done // MIB)

    fs.put_many(files(), progress=note)
    per_pack = limits.PACK_BYTES_MAX // MIB
    assert max(known) <= (limits.PACKS_IN_FLIGHT + 1) * per_pack + 1


def test_the_names_of_packs_that_are_through_are_forgotten(fs: Client) -> None:
    known: list[int] = []
    many = ManyFiles(
        fs._uploader, fs.namespace, fs._keep_alive, progress=lambda _: known.append(len(many._names))
    )
    many.put((NewFile(f"/{number}".encode()), bytes(300)) for number in range(4000))
    assert len(many.stored) == 4000
    assert max(known) <= (limits.PACKS_IN_FLIGHT + 1) * limits.PACK_FILES_MAX + 1


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50))
def test_the_ranges_of_a_pack_follow_each_other_without_gap_or_overlap(lengths: list[int]) -> None:
    data = random.Random(sum(lengths)).randbytes(sum(lengths))
    ranges = layout(b"u", b"c", lengths)
    assert [one.length for one in ranges] == lengths
    assert b"".join(data[one.chunk_offset :][: one.length] for one in ranges) == data


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.sampled_from((0, 1, 100, 4096, 16384, 16385, 65536, 300_000)), max_size=60),
    seed=st.integers(0, 2**32),
)
def test_whatever_the_sizes_every_file_comes_back(sizes: list[int], seed: int) -> None:
    source = random.Random(seed)
    files = {f"/{number}": source.randbytes(size) for number, size in enumerate(sizes)}
    cluster = Cluster(chunk_size=64 * MIB)
    with Client("c1:1,c2:1,c3:1", channels=cluster.net) as fs:
        assert set(fs.put_many(files)) == set(files)
        assert {name: fs.read_bytes(name) for name in files} == files
