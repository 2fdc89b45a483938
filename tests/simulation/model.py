"""What the log means, as a few dictionaries have it: written from the protocol's promises, not from the machine.

It is given every entry in order, together with what the machine answered, and says where they differ. Numbers that
the machine may choose (versions, session and upload ids) are taken over from the answers and must be new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quorumfs.errors import Code
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from quorumfs.v1 import types_pb2 as t
from tests.simulation.world import Violation

Seen = tuple[str, int, int, int]
"""What a reader is told of a path: kind, size, checksum, version (0 for a directory)."""

View = Mapping[bytes, Seen]


@dataclass(eq=False)
class Node:
    """A directory (children) or a file."""

    size: int = 0
    checksum: int = 0
    version: int = 0
    children: dict[bytes, Node] | None = None
    parent: Node | None = None

    @property
    def is_directory(self) -> bool:
        return self.children is not None

    def names(self) -> dict[bytes, Node]:
        assert self.children is not None
        return self.children


@dataclass
class Slot:
    """The last batch of a slot: its bytes, and what was answered."""

    seq: int
    raw: bytes
    answer: bytes
    used_ms: int


@dataclass
class Session:
    ttl_ms: int
    opened_ms: int
    slots: dict[int, Slot] = field(default_factory=dict)

    def end_ms(self) -> int:
        return self.ttl_ms + max([self.opened_ms, *(slot.used_ms for slot in self.slots.values())])


@dataclass
class Upload:
    directory: Node
    name: bytes
    if_absent: bool
    deadline_ms: int


class Refused(Exception):  # noqa: N818
    def __init__(self, code: Code) -> None:
        self.code = code


class Model:
    """`executed`: the raw bytes of every batch that was carried out, not only answered again."""

    def __init__(self) -> None:
        self.root = Node(children={})
        self.now_ms = 0
        self.settings = {"session.ttl_ms": 3_600_000, "upload.ttl_ms": 3_600_000}
        self.sessions: dict[int, Session] = {}
        self.uploads: dict[bytes, Upload] = {}
        self.executed: dict[bytes, int] = {}
        self.view: View = {}
        self.repeated = 0
        self.expired_sessions = 0
        self._version = 0
        self._changed = False
        self._commands: Mapping[str, Callable[[Any, n.Result], None]] = {
            "open_session": self._open_session,
            "open_upload": self._open_upload,
            "commit_upload": self._commit_upload,
            "put_file": self._put_file,
            "mkdir": self._mkdir,
            "delete": self._delete,
            "rename": self._rename,
        }

    # Entries

    def apply(self, entry: bytes, results: list[bytes]) -> None:
        """Carry out an entry; raises Violation when it should have been answered otherwise."""
        decoded = e.Entry.FromString(entry)
        self.now_ms = max(self.now_ms, decoded.stamp.cluster_ms)
        self._changed = False
        for item, result in zip(decoded.items, results, strict=True):
            if item.HasField("system"):
                self._system(item.system, e.SystemResult.FromString(result))
            else:
                self._batch(item.batch, result)
        if self._changed:
            self.view = dict(_walk(self.root, b""))

    def _batch(self, raw: bytes, result: bytes) -> None:
        batch, answer = n.Batch.FromString(raw), n.BatchResult.FromString(result)
        session = self.sessions.get(batch.session)
        if batch.session:
            code, stored = self._recall(session, batch, raw)
            _expect(Code(answer.code), code, "a batch", batch)
            if stored is not None and result != stored:
                raise Violation(f"a repeated batch was answered otherwise than the first time: {batch}")
            if code is not Code.OK or stored is not None:
                self.repeated += stored is not None
                return
        if batch.session and raw in self.executed:
            raise Violation(f"a batch was carried out twice: {batch}")
        self.executed[raw] = answer.index
        for op, one in zip(batch.ops, answer.results, strict=True):
            self._op(op, one)
        if session is not None:
            session.slots[batch.slot] = Slot(batch.seq, raw, result, self.now_ms)

    def _recall(self, session: Session | None, batch: n.Batch, raw: bytes) -> tuple[Code, bytes | None]:
        """The code of the batch as a whole, and the answer that is known already."""
        if session is None:
            return Code.SESSION_EXPIRED, None
        last = session.slots.get(batch.slot)
        if last is not None and batch.seq == last.seq and raw == last.raw:
            return Code.OK, last.answer
        if batch.seq == (last.seq if last is not None else 0) + 1:
            return Code.OK, None
        return Code.STALE_SEQUENCE, None

    def _op(self, op: n.Op, result: n.Result) -> None:
        kind = op.WhichOneof("op") or ""
        expected = Code.OK
        try:
            self._commands[kind](getattr(op, kind), result)
        except Refused as refused:
            expected = refused.code
        _expect(Code(result.code), expected, kind, op)

    # Names

    def _parent(self, path: bytes) -> tuple[Node, bytes]:
        *above, name = path.split(b"/")[1:]
        node = self.root
        for part in above:
            if not node.is_directory:
                raise Refused(Code.NOT_A_DIRECTORY)
            found = node.names().get(part)
            if found is None:
                raise Refused(Code.NOT_FOUND)
            node = found
        if not node.is_directory:
            raise Refused(Code.NOT_A_DIRECTORY)
        return node, name

    @staticmethod
    def _check_target(old: Node | None, if_absent: bool, expected_version: int = 0) -> None:
        if old is not None and if_absent:
            raise Refused(Code.ALREADY_EXISTS)
        if old is not None and old.is_directory:
            raise Refused(Code.IS_A_DIRECTORY)
        if expected_version and (old is None or old.version != expected_version):
            raise Refused(Code.PRECONDITION_FAILED)

    def _put_file(self, request: n.PutFileRequest, result: n.Result) -> None:
        parent, name = self._parent(request.ref.path)
        self._check_target(parent.names().get(name), request.if_absent, request.expected_version)
        self._place_file(parent, name, len(request.body), request.checksum, result)

    def _place_file(self, parent: Node, name: bytes, size: int, checksum: int, result: n.Result) -> None:
        version = result.info.version
        if not result.code and version in self._versions_in_use():
            raise Violation(f"version {version} was given twice")
        self._link(parent, name, Node(size, checksum, version))
        if (result.info.size, result.info.checksum) != (size, checksum):
            raise Violation(f"the answer tells of another file than was written: {result.info}")

    def _versions_in_use(self) -> set[int]:
        return {seen[3] for seen in self.view.values() if seen[3]}

    def _link(self, parent: Node, name: bytes, node: Node) -> None:
        parent.names()[name] = node
        node.parent = parent
        self._changed = True

    def _mkdir(self, request: n.MkdirRequest, result: n.Result) -> None:
        parent, name = self._parent(request.ref.path)
        if name in parent.names():
            raise Refused(Code.ALREADY_EXISTS)
        self._link(parent, name, Node(children={}))

    def _delete(self, request: n.DeleteRequest, result: n.Result) -> None:
        try:
            parent, name = self._parent(request.ref.path)
            old = parent.names().get(name)
            if old is None:
                raise Refused(Code.NOT_FOUND)
        except Refused as refused:
            if refused.code is Code.NOT_FOUND and request.missing_ok:
                return
            raise
        if old.children and not request.recursive:
            raise Refused(Code.NOT_EMPTY)
        self._unlink(parent, name)

    def _unlink(self, parent: Node, name: bytes) -> None:
        parent.names().pop(name).parent = None
        self._changed = True

    def _rename(self, request: n.RenameRequest, result: n.Result) -> None:
        source, source_name = self._parent(getattr(request, "from").path)
        moved = source.names().get(source_name)
        if moved is None:
            raise Refused(Code.NOT_FOUND)
        target, target_name = self._parent(request.to.path)
        old = target.names().get(target_name)
        if old is moved:
            return
        if old is not None and not request.replace:
            raise Refused(Code.ALREADY_EXISTS)
        if moved in _upwards(target) or (old is not None and old in _upwards(source)):
            raise Refused(Code.CYCLE)
        if old is not None:
            self._unlink(target, target_name)
        del source.names()[source_name]
        self._link(target, target_name, moved)

    # Uploads and sessions

    def _open_upload(self, request: n.OpenUploadRequest, result: n.Result) -> None:
        directory, name = self._parent(request.ref.path)
        self._check_target(directory.names().get(name), request.if_absent)
        upload = result.upload.upload
        if upload in self.uploads:
            raise Violation(f"upload {upload.hex()} was given twice")
        deadline = self.now_ms + self.settings["upload.ttl_ms"]
        self.uploads[upload] = Upload(directory, name, request.if_absent, deadline)

    def _commit_upload(self, request: n.CommitUploadRequest, result: n.Result) -> None:
        upload = self.uploads.get(request.upload)
        if upload is None:
            raise Refused(Code.UPLOAD_GONE)
        if self.root not in _upwards(upload.directory):
            raise Refused(Code.NOT_FOUND)
        self._check_target(upload.directory.names().get(upload.name), upload.if_absent)
        del self.uploads[request.upload]
        self._place_file(upload.directory, upload.name, 0, 0, result)

    def _open_session(self, request: n.OpenSessionRequest, result: n.Result) -> None:
        session = result.session.session
        if not session or session in self.sessions:
            raise Violation(f"session {session} was given twice")
        self.sessions[session] = Session(self.settings["session.ttl_ms"], self.now_ms)

    def _system(self, raw: bytes, result: e.SystemResult) -> None:
        for command, one in zip(e.SystemBatch.FromString(raw).commands, result.results, strict=True):
            kind = command.WhichOneof("command")
            if kind == "set_setting":
                self.settings[command.set_setting.key] = int(command.set_setting.value)
            elif kind == "expire_sessions":
                self._expire_sessions(command.expire_sessions, one)
            elif kind == "expire_uploads":
                self._expire_uploads(command.expire_uploads, one)
            _expect(Code(one.code), Code.OK, kind or "", command)

    def _expire_sessions(self, command: e.ExpireSessions, result: e.SystemResult.One) -> None:
        past = [
            k for k in command.sessions if k in self.sessions and self.now_ms >= self.sessions[k].end_ms()
        ]
        for session in past:
            del self.sessions[session]
        self.expired_sessions += len(past)
        _expect(result.number, len(past), "expire_sessions", command)

    def _expire_uploads(self, command: e.ExpireUploads, result: e.SystemResult.One) -> None:
        past = [
            k for k in command.uploads if k in self.uploads and self.uploads[k].deadline_ms <= self.now_ms
        ]
        for upload in past:
            del self.uploads[upload]
        _expect(result.number, len(past), "expire_uploads", command)


def answer(view: View, op: n.ReadOp) -> tuple[Code, tuple[tuple[bytes, Seen], ...]]:
    """What a question must be answered with: the code, and what is told of each path."""
    if op.HasField("stat"):
        path = op.stat.ref.path
        code = _resolve(view, path)
        return code, ((path, view[path]),) if code is Code.OK else ()
    path = op.list.ref.path
    code = _resolve(view, path)
    if code is Code.OK and path != b"/" and view[path][0] != "directory":
        code = Code.NOT_A_DIRECTORY
    if code is not Code.OK:
        return code, ()
    prefix = path.rstrip(b"/") + b"/"
    below = [
        (one, seen) for one, seen in view.items() if one.startswith(prefix) and b"/" not in one[len(prefix) :]
    ]
    return Code.OK, tuple(sorted(below))


def told(result: n.ReadResult, op: n.ReadOp) -> tuple[Code, tuple[tuple[bytes, Seen], ...]]:
    """What an answer says, in the same terms."""
    if result.code:
        return Code(result.code), ()
    if op.HasField("stat"):
        return Code.OK, ((op.stat.ref.path, seen_of(result.info)),)
    prefix = op.list.ref.path.rstrip(b"/") + b"/"
    return Code.OK, tuple((prefix + one.name, seen_of(one)) for one in result.listing.entries)


def seen_of(info: n.FileInfo) -> Seen:
    if info.type == t.INODE_TYPE_DIRECTORY:
        return "directory", 0, 0, 0
    return "file", info.size, info.checksum, info.version


def _resolve(view: View, path: bytes) -> Code:
    if path == b"/" or path in view:
        return Code.OK
    while path := path.rpartition(b"/")[0]:
        if path in view:
            return Code.NOT_FOUND if view[path][0] == "directory" else Code.NOT_A_DIRECTORY
    return Code.NOT_FOUND


def _walk(node: Node, path: bytes) -> list[tuple[bytes, Seen]]:
    found: list[tuple[bytes, Seen]] = []
    for name, child in node.names().items():
        below = path + b"/" + name
        if child.is_directory:
            found.append((below, ("directory", 0, 0, 0)))
            found += _walk(child, below)
        else:
            found.append((below, ("file", child.size, child.checksum, child.version)))
    return found


def _upwards(node: Node | None) -> list[Node]:
    found = []
    while node is not None:
        found.append(node)
        node = node.parent
    return found


def _expect(found: object, expected: object, what: str, about: object) -> None:
    if found != expected:
        raise Violation(f"{what} was answered {found!r}, not {expected!r}: {about}")
