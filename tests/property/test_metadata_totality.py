"""Whatever is in the log: the state machine answers, keeps its invariants, and does so on every member alike.

Messages are generated from the protobuf descriptors, so that a new field or operation is fuzzed the day it is
made. Most values are extreme or nonsense; some, by the name of their field, fit the state, so that what lies
behind the first check is reached too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.metadata import hashing, invariants, migrations, queries
from coordinator.metadata.settings import KNOWN
from quorumfs.checksum import combine, crc32c
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.support.machines import Cluster, Replica, RowByRow, empty_image
from tests.support.ops import clone, delete, mkdir, put, symlink

DEPTH_MAX = 4
RIGHT = 0xEEEE_EEEE
"""A checksum that stands for the right one."""
HANDLE = bytes.fromhex("ee" * 15)
"""An id that stands for one of the state, with a number behind it."""
SESSION_HANDLE = 0xEE00

NUMBERS = (0, 1, 2, 3, 4, 9, 255, 2**31 - 1, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
SIGNED = (0, 1, -1, 2**63 - 1, -(2**63))
SMALL = (0, 1, 2, 3, 16, 17, 64, 0o644, 0o7777, 0o10000, 2**31, 2**32 - 1)
ENUMS = (0, 1, 2, 3, 4, 5, 99, -1, 2**31 - 1, -(2**31))
TEXTS = (
    "",
    "data.replication",
    "1",
    "9" * 30,
    "\u0663",
    "d1",
    "d2",
    "d3",
    "d9",
    "c1",
    "disk-d1",
    "host",
    "\0",
    "\u202e\ud7ff\u2028",
    "x" * 3000,
)
PATHS = (b"/", b"/a", b"/a/x", b"/a/b", b"/file", b"/large", b"/link", b"/loop/x", b"/up/a/x", b"/copy", b"x")
ODD_PATHS = (b"", b"//", b"/..", b"/a/\xff", b"/a\0b", b"/" + b"n" * 256, b"/a" * 600, b"/" * 5000, b"a/b/c")

ids = st.integers(0, 5).map(lambda k: HANDLE + bytes([k]))
numbers = st.one_of(st.sampled_from(NUMBERS), st.integers(0, 2**64 - 1))
sizes = st.sampled_from((0, 3, 4, 5, 8))

FITTING: dict[int, dict[str, st.SearchStrategy[Any]]] = {
    FieldDescriptor.TYPE_BYTES: {
        "path": st.sampled_from(PATHS),
        "original_path": st.sampled_from((b"/gone", b"/a")),
        "target": st.sampled_from((b"a", b"../..", b"/link", b"loop", b"/")),
        "upload": ids,
        "uploads": ids,
        "chunk": ids,
        "chunks": ids,
        "into": ids,
        "body": st.sampled_from((b"", b"body")),
    },
    FieldDescriptor.TYPE_FIXED64: {
        "session": st.integers(0, 2).map(lambda k: SESSION_HANDLE + k),
        "sessions": st.integers(0, 2).map(lambda k: SESSION_HANDLE + k),
    },
    FieldDescriptor.TYPE_UINT64: {
        "base": st.sampled_from((0, 0, 0, 1, 2)),
        "seq": st.sampled_from((1, 2)),
        "expected_version": st.just(0),
        "trash_id": st.sampled_from((0, 1, 2)),
        "length": sizes,
        "offset": sizes,
        "chunk_offset": st.sampled_from((0, 0, 1)),
        "size": sizes,
        "history": st.sampled_from((1, 2)),
        "cluster_ms": st.integers(0, 10**12),
        "maintenance_until_cluster_ms": st.integers(0, 10**12),
        "expires_cluster_ms": st.integers(0, 10**12),
    },
    FieldDescriptor.TYPE_UINT32: {
        "slot": st.sampled_from((0, 1)),
        "op": st.integers(0, 3),
        "count": st.sampled_from((1, 2)),
        "mode": st.sampled_from((0, 0o600)),
        "replication": st.sampled_from((0, 1, 2, 3, 5)),
    },
    FieldDescriptor.TYPE_FIXED32: {"checksum": st.just(RIGHT)},
    FieldDescriptor.TYPE_STRING: {
        "node_id": st.sampled_from(("d1", "d2", "d3", "d4")),
        "node_ids": st.sampled_from(("d1", "d2", "d3")),
        "node_uuid": st.sampled_from(("uuid-d1", "uuid-d4")),
        "disk_id": st.sampled_from(("disk-d1", "disk-d2", "disk-d9")),
        "cluster_id": st.just("cluster"),
        "code": st.just("alarm"),
        "token_id": st.sampled_from(("t1", "t2")),
        "key": st.sampled_from(tuple(sorted(KNOWN))),
        "value": st.sampled_from(("1", "2", "3", "70000")),
    },
    FieldDescriptor.TYPE_ENUM: {"role": st.just(2), "state": st.sampled_from((0, 2, 3, 4, 5))},
    FieldDescriptor.TYPE_BOOL: {
        "if_absent": st.just(False),
        "durable": st.just(True),
        "recursive": st.just(True),
    },
}
"""By the type and the name of a field: what leads somewhere."""
ANY: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_UINT64: numbers,
    FieldDescriptor.TYPE_FIXED64: numbers,
    FieldDescriptor.TYPE_SINT64: st.one_of(st.sampled_from(SIGNED), st.integers(-(2**63), 2**63 - 1)),
    FieldDescriptor.TYPE_UINT32: st.one_of(st.sampled_from(SMALL), st.integers(0, 2**32 - 1)),
    FieldDescriptor.TYPE_FIXED32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_ENUM: st.sampled_from(ENUMS),
    FieldDescriptor.TYPE_STRING: st.one_of(st.sampled_from(TEXTS), st.text(max_size=10)),
    FieldDescriptor.TYPE_BYTES: st.one_of(st.binary(max_size=20), st.sampled_from((bytes(9000), b"\xff"))),
}
ODD = {
    name: st.one_of(st.sampled_from(ODD_PATHS), st.binary(max_size=8)) for name in ("path", "original_path")
}
ENDS_THE_PROCESS = ("migrate", "raise_format")
"""By design, when it is not known here."""


@st.composite
def messages(draw: st.DrawFn, kind: type[Message], depth: int = 0) -> Any:
    """Every field there or not, every value from the extremes to the fitting."""
    made = kind()
    for group in made.DESCRIPTOR.oneofs:
        members = [one for one in group.fields if one.name not in ENDS_THE_PROCESS]
        if len(members) > 1 or draw(st.booleans()):
            _fill(draw, made, draw(st.sampled_from(members)), depth)
    for one in made.DESCRIPTOR.fields:
        if one.containing_oneof is None and draw(st.integers(0, 5)) < 5:
            _fill(draw, made, one, depth)
    return made


def _fill(draw: st.DrawFn, made: Message, one: FieldDescriptor, depth: int) -> None:
    if one.message_type is not None and one.message_type.GetOptions().map_entry:
        getattr(made, one.name).update(
            draw(st.dictionaries(ANY[one.TYPE_STRING], ANY[one.TYPE_STRING], max_size=3))
        )
    elif one.message_type is not None:
        if depth == DEPTH_MAX:
            return
        values = messages(GetMessageClass(one.message_type), depth + 1)
        if one.is_repeated:
            getattr(made, one.name).extend(draw(st.lists(values, max_size=3)))
        else:
            getattr(made, one.name).CopyFrom(draw(values))
    elif one.is_repeated:
        getattr(made, one.name).extend(_value(draw, one) for _ in range(draw(st.integers(0, 3))))
    else:
        setattr(made, one.name, _value(draw, one))


def _value(draw: st.DrawFn, one: FieldDescriptor) -> Any:
    fitting = FITTING.get(one.type, {}).get(one.name)
    if fitting is not None and draw(st.integers(0, 9)) < 9:
        return draw(fitting)
    is_path = one.type == FieldDescriptor.TYPE_BYTES and one.name in ODD
    return draw(ODD[one.name] if is_path else ANY[one.type])


# What stands for something is replaced by what the state has


class Known:
    """Ids of the state at hand."""

    def __init__(self, replica: Replica) -> None:
        def column(query: str) -> list[Any]:
            return [row[0] for row in replica.db.execute(query)]

        self.uploads = column("SELECT id FROM upload ORDER BY id")
        self.chunks = column("SELECT id FROM chunk ORDER BY upload IS NULL, id")
        self.sessions = column("SELECT id FROM session ORDER BY id")

    def bind(self, message: Message) -> None:
        for one, value in message.ListFields():
            if one.message_type is not None:
                for child in _children(value, one):
                    self.bind(child)
            elif one.type == FieldDescriptor.TYPE_BYTES:
                known = self.uploads if one.name.startswith("upload") else self.chunks
                _replace(message, one, lambda given, known=known: _bound(given, known))
            elif one.name in ("session", "sessions") and self.sessions:
                _replace(message, one, self._session)
        _set_right(message)

    def _session(self, given: int) -> int:
        number = given - SESSION_HANDLE
        return int(self.sessions[number % len(self.sessions)]) if 0 <= number < 99 else given


def _children(value: Any, one: FieldDescriptor) -> Iterable[Message]:
    if one.message_type.GetOptions().map_entry:
        return ()
    return value if one.is_repeated else (value,)


def _bound(given: bytes, known: list[bytes]) -> bytes:
    return known[given[-1] % len(known)] if given[:-1] == HANDLE and known else given


def _replace(message: Message, one: FieldDescriptor, make: Any) -> None:
    value = getattr(message, one.name)
    if one.is_repeated:
        value[:] = [make(given) for given in value]
    else:
        setattr(message, one.name, make(value))


def _set_right(message: Message) -> None:
    if getattr(message, "checksum", 0) != RIGHT:
        return
    if isinstance(message, n.PutFileRequest):
        message.checksum = crc32c(message.body)
    elif isinstance(message, n.SealedChunk):
        message.checksum = crc32c(bytes(message.length)) if message.length < 1000 else 0
    elif isinstance(message, n.CommitUploadRequest):
        whole = 0
        for chunk in message.chunks:
            whole = combine(whole, chunk.checksum, chunk.length)
        message.checksum = whole


# Entries


batches = messages(n.Batch)
steps = st.one_of(
    messages(n.Op).map(lambda op: n.Batch(ops=[op])),
    messages(n.Op).map(lambda op: n.Batch(ops=[op])),
    messages(e.SystemCommand).map(lambda command: e.SystemBatch(commands=[command])),
    batches,
    st.binary(max_size=40),
)
choices = st.lists(messages(e.Choice), max_size=2)
entries = st.tuples(messages(e.Stamp), st.lists(st.tuples(messages(e.Principal), choices, steps), max_size=2))


def _state() -> bytes:
    """A little of everything: files of all kinds, links, trash, an open upload, sessions, orphans."""
    cluster = Cluster()
    cluster.do(
        mkdir(b"/a/b", parents=True),
        put(b"/file", b"body"),
        put(b"/a/x"),
        symlink(b"/link", b"/a"),
        symlink(b"/loop", b"loop"),
        symlink(b"/up", b"../.."),
        clone(b"/file", b"/copy"),
        put(b"/gone", b"gone"),
        delete(b"/gone"),
    )
    for path in (b"/large", b"/lost"):
        cluster.upload(path, 3, 5)
    cluster.one(delete(b"/lost", purge=True))
    cluster.system(e.SystemCommand(reap_trash=e.ReapTrash(limit=9)))
    for _ in range(2):
        cluster.one(n.Op(open_session=n.OpenSessionRequest(client="fuzz")))
        opened = cluster.one(
            n.Op(open_upload=n.OpenUploadRequest(ref=n.Ref(path=b"/large"), from_current=True))
        ).upload.upload
        choice = e.Choice(placements=[e.Placement(node_ids=["d1", "d2", "d3"])] * 2)
        cluster.one(n.Op(allocate=n.AllocateRequest(upload=opened, count=2)), choices=[choice])
    return cluster.replica.image()


STATE = _state()
STATES = {"a little of everything": STATE, "before genesis": empty_image()}
BOOKKEEPING = {"raft_state", "slot", "alembic_version"}


def contents(replica: Replica) -> dict[str, list[Any]]:
    tables = [row[0] for row in replica.db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {
        table: sorted(replica.db.execute(f'SELECT * FROM "{table}"').fetchall(), key=repr)
        for table in tables
        if table not in BOOKKEEPING
    }


def encode(replica: Replica, stamp: e.Stamp, made: Iterable[tuple[Any, Any, Any]]) -> bytes:
    known = Known(replica)
    seed = hashlib.sha256(str(replica.index).encode()).digest()[:16]
    entry = e.Entry(format=1, stamp=stamp, seed=seed)
    for principal, choices, body in made:
        item = entry.items.add(principal=principal, choices=choices)
        if not isinstance(body, bytes):
            known.bind(body)
        if isinstance(body, e.SystemBatch):
            item.system = body.SerializeToString()
        else:
            item.batch = body if isinstance(body, bytes) else body.SerializeToString()
    return entry.SerializeToString()


def codes(entry: bytes, results: Iterable[bytes]) -> list[int]:
    """One for each operation or command of the entry, or for a batch that was refused whole."""
    found: list[int] = []
    for item, result in zip(e.Entry.FromString(entry).items, results, strict=True):
        if item.WhichOneof("body") == "system":
            found += [one.code for one in e.SystemResult.FromString(result).results]
        else:
            answer = n.BatchResult.FromString(result)
            found += [answer.code] if answer.code else [one.code for one in answer.results]
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from((*STATES, "a little of everything")), st.lists(entries, min_size=2, max_size=6))
def test_whatever_an_entry_says_it_is_answered_and_the_state_stays_whole(begins: str, log: list[Any]) -> None:
    first, second = Replica(STATES[begins]), RowByRow(STATES[begins])
    for stamp, made in log:
        before = contents(first)
        entry = encode(first, stamp, made)
        index = first.index + 1
        results = first.apply(index, entry)
        assert invariants.violations(first.db) == []
        if all(codes(entry, results)):
            assert contents(first) == before, "what was refused has left something"
        assert second.apply(index, entry) == results
    assert hashing.state_hash(first.db) == hashing.state_hash(second.db)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(messages(n.ReadOp), min_size=1, max_size=5))
def test_whatever_is_asked_it_is_answered(ops: list[n.ReadOp]) -> None:
    replica = Replica(STATE)
    known = Known(replica)
    for op in ops:
        known.bind(op)
        answer = queries.answer(replica.db, op)
        assert (answer.code != 0) == answer.HasField("error")


def test_the_first_schema_again_changes_nothing() -> None:
    replica = Replica(STATE)
    before = contents(replica)
    migrate = e.Migrate(revision=migrations.FIRST, digest=migrations.digest(migrations.FIRST))
    system = e.SystemBatch(commands=[e.SystemCommand(migrate=migrate)]).SerializeToString()
    replica.apply(replica.index + 1, e.Entry(format=1, items=[e.Item(system=system)]).SerializeToString())
    assert contents(replica) == before
