"""A cluster in memory with the verbs of `quorumfs.Client`, and a way to run one command line against it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dfsctl.__main__ import run
from dfsctl.shell import Settings
from quorumfs import paths
from quorumfs.checksum import crc32c
from quorumfs.errors import (
    AlreadyExistsError,
    NoLeaderError,
    NotEmptyError,
    NotFoundError,
    PathIsADirectoryError,
    PathNotADirectoryError,
    QuorumFSError,
)
from quorumfs.local_file import NewLocalFile
from quorumfs.v1 import admin_pb2, chunks_pb2
from quorumfs.values import FileStatus, FileType, Location, ReplicaPlace, SpaceStatus, TrashItem

EPOCH_NS = 1_700_000_000_000_000_000


@dataclass
class Node:
    type: FileType
    mode: int = 0o755
    mtime_ns: int = EPOCH_NS
    data: bytes = b""
    target: str = ""
    replication: int = 3
    id: int = 0
    version: int = 1


@dataclass
class FakeClient:
    """Holds what a test looks at afterwards. `fail` maps a path to the error that its next verb raises."""

    nodes: dict[str, Node] = field(default_factory=lambda: {"/": Node(FileType.DIRECTORY)})
    trash: list[tuple[int, str, Node]] = field(default_factory=list)
    fail: dict[str, BaseException] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    closed: bool = False
    coordinator: Any = None

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    # --- looking ---

    def _path(self, path: Any) -> str:
        clean = os.fsdecode(paths.join(paths.split(os.fsencode(path))))
        if clean in self.fail:
            raise self.fail[clean]
        return clean

    def _node(self, path: str, follow: bool = True) -> Node:
        node = self.nodes.get(path)
        if node is None:
            raise NotFoundError(f"{path} does not exist")
        if follow and node.type is FileType.SYMLINK:
            return self._node(os.path.normpath(os.path.join(os.path.dirname(path), node.target)))
        return node

    def _status(self, path: str, node: Node) -> FileStatus:
        return FileStatus(
            path=path,
            name=path.rsplit("/", 1)[1],
            type=node.type,
            size_bytes=len(node.data),
            mode=node.mode,
            modified_ns=node.mtime_ns,
            replication=node.replication,
            id=node.id,
            version=node.version,
            checksum=crc32c(node.data),
            target=node.target,
        )

    def stat(self, path: Any, *, follow: bool = True, stale: bool = False) -> FileStatus:
        where = self._path(path)
        return self._status(where, self._node(where, follow))

    def iterate(self, path: Any = "/", *, stale: bool = False) -> Iterator[FileStatus]:
        where = self._path(path)
        if self._node(where).type is not FileType.DIRECTORY:
            raise PathNotADirectoryError(f"{where} is not a directory")
        prefix = where.rstrip("/") + "/"
        for name in sorted(self.nodes, key=os.fsencode):
            if name.startswith(prefix) and name != "/" and "/" not in name[len(prefix) :]:
                yield self._status(name, self.nodes[name])

    def statfs(self, *, stale: bool = False) -> SpaceStatus:
        return SpaceStatus(1, 2, 3, 4, 5, 6000, 700, 5300)

    def locate(self, path: Any) -> list[Location]:
        node = self._node(self._path(path))
        place = ReplicaPlace("d1", "127.0.0.1:1", "", "disk", "live", "", "")
        length, checksum = len(node.data), crc32c(node.data)
        return [Location(0, length, "ab" * 16, 0, length, checksum, False, (place,))]

    # --- changing ---

    def _parent(self, path: str) -> None:
        parent = path.rsplit("/", 1)[0] or "/"
        if self._node(parent).type is not FileType.DIRECTORY:
            raise PathNotADirectoryError(f"{parent} is not a directory")

    def put(self, source: Any, path: Any, **options: Any) -> FileStatus:
        where = self._path(path)
        self._parent(where)
        data = Path(source).read_bytes() if isinstance(source, str | os.PathLike) else source.read()
        old = self.nodes.get(where)
        if old is not None and options.get("if_absent"):
            raise AlreadyExistsError(f"{where} exists")
        if old is not None and old.type is FileType.DIRECTORY:
            raise PathIsADirectoryError(f"{where} is a directory")
        status = os.stat(source) if isinstance(source, str | os.PathLike) else None
        node = Node(
            FileType.FILE,
            (status.st_mode & 0o7777 if status else 0) or 0o644,
            (status.st_mtime_ns if status else 0) or EPOCH_NS,
            data,
            replication=options.get("replication") or 3,
        )
        if options.get("progress"):
            options["progress"](len(data))
        self.nodes[where] = node
        return self._status(where, node)

    def put_many(
        self,
        files: Iterable[tuple[Any, Any]],
        *,
        failed: dict[str, QuorumFSError | OSError],
        progress: Callable[[int], object],
        **options: Any,
    ) -> dict[str, FileStatus]:
        stored = {}
        for path, data in files:
            try:
                stored[path] = self.put(data, path, **options)
            except NoLeaderError:
                raise
            except (QuorumFSError, OSError) as error:
                failed[path] = error
        progress(sum(one.size_bytes for one in stored.values()))
        return stored

    def get(self, path: Any, target: Any, *, progress: Callable[[int], object] | None = None) -> FileStatus:
        where = self._path(path)
        node = self._node(where)
        if node.type is FileType.DIRECTORY:
            raise PathIsADirectoryError(f"{where} is a directory")
        with NewLocalFile(target) as file:
            file.write(node.data)
            file.publish(node.mode, node.mtime_ns, False)
        return self._status(where, node)

    def iterate_many(
        self, files: Iterable[Any], *, failed: dict[str, QuorumFSError]
    ) -> Iterator[tuple[str, FileStatus, bytes]]:
        for path in files:
            try:
                where = self._path(path)
                node = self._node(where)
                yield path, self._status(where, node), node.data
            except NoLeaderError:
                raise
            except QuorumFSError as error:
                failed[path] = error

    def read_bytes(self, path: Any) -> bytes:
        return self._node(self._path(path)).data

    def open(self, path: Any, mode: str = "rb") -> io.BufferedReader:
        where = self._path(path)
        node = self._node(where)
        if node.type is FileType.DIRECTORY:
            raise PathIsADirectoryError(f"{where} is a directory")
        return io.BufferedReader(io.BytesIO(node.data))  # type: ignore[arg-type]  # good enough for a reader

    def mkdir(self, path: Any, *, parents: bool = False, mode: int = 0, modified_ns: int = 0) -> FileStatus:
        where = self._path(path)
        old = self.nodes.get(where)
        if old is not None and not (parents and self._node(where).type is FileType.DIRECTORY):
            raise AlreadyExistsError(f"{where} exists")
        if parents and where.rsplit("/", 1)[0] not in ("", *self.nodes):
            self.mkdir(where.rsplit("/", 1)[0], parents=True)
        self._parent(where)
        if old is None:
            self.nodes[where] = Node(FileType.DIRECTORY, mode or 0o755)
        return self._status(where, self.nodes[where])

    def makedirs(self, path: Any) -> FileStatus:
        return self.mkdir(path, parents=True)

    def symlink(
        self, target: str, path: Any, *, modified_ns: int | None = None, replace: bool = False
    ) -> FileStatus:
        where = self._path(path)
        if where in self.nodes and not replace:
            raise AlreadyExistsError(f"{where} exists")
        self.nodes[where] = Node(
            FileType.SYMLINK, 0o777, EPOCH_NS if modified_ns is None else modified_ns, target=target
        )
        return self._status(where, self.nodes[where])

    def set_attributes(self, path: Any, **given: Any) -> FileStatus:
        where = self._path(path)
        node = self._node(where)
        node.mode = node.mode if given.get("mode") is None else given["mode"]
        node.mtime_ns = node.mtime_ns if given.get("modified_ns") is None else given["modified_ns"]
        node.replication = given.get("replication") or node.replication
        return self._status(where, node)

    def rename(self, source: Any, target: Any, *, replace: bool = False) -> FileStatus:
        before, after = self._path(source), self._path(target)
        self._node(before)
        if after in self.nodes and not replace:
            raise AlreadyExistsError(f"{after} exists")
        for name in [n for n in self.nodes if n == before or n.startswith(before + "/")]:
            self.nodes[after + name[len(before) :]] = self.nodes.pop(name)
        return self._status(after, self.nodes[after])

    def copy(self, source: Any, target: Any, *, replace: bool = False) -> FileStatus:
        after = self._path(target)
        if after in self.nodes and not replace:
            raise AlreadyExistsError(f"{after} exists")
        self.nodes[after] = self._node(self._path(source))
        return self._status(after, self.nodes[after])

    def delete(
        self, path: Any, *, recursive: bool = False, purge: bool = False, missing_ok: bool = False
    ) -> int:
        where = self._path(path)
        if where not in self.nodes and missing_ok:
            return 0
        node = self._node(where, follow=False)
        below = [n for n in self.nodes if n.startswith(where + "/")]
        if below and not recursive:
            raise NotEmptyError(f"{where} is not empty")
        for name in [where, *below]:
            del self.nodes[name]
        if purge:
            return 0
        self.trash.append((len(self.trash) + 1, where, node))
        return len(self.trash)

    def list_trash(self) -> Iterator[TrashItem]:
        for trash_id, path, node in self.trash:
            status = self._status(path, node)
            yield TrashItem(trash_id, path, status, status.modified, 60.0, "me")

    def undelete(
        self, path: Any = None, *, trash_id: int = 0, to: Any = None, replace: bool = False
    ) -> FileStatus:
        for entry in reversed(self.trash):
            if entry[0] == trash_id or entry[1] == path:
                self.trash.remove(entry)
                self.nodes[to or entry[1]] = entry[2]
                return self._status(to or entry[1], entry[2])
        raise NotFoundError("not in the trash")

    def empty_trash(self, *, trash_id: int = 0, older_than_seconds: float = 0) -> int:
        removed, self.trash = len(self.trash), []
        return removed


class FakeCoordinator:
    """Answers calls by name: a message, or an error to raise."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Any, dict[str, Any]]] = []
        self.answering: str | None = "127.0.0.1:7410"

    def call(self, method: str, request: Any, deadline: float | None = None, **options: Any) -> Any:
        self.asked.append((method, request, options))
        answer = self.answers[method]
        if isinstance(answer, Iterator):
            answer = next(answer)
        if isinstance(answer, QuorumFSError):
            raise answer
        return answer

    control = call

    def stream(
        self, method: str, request: Any, deadline: float, *, address: str | None = None
    ) -> Iterator[Any]:
        yield from self.call(method, request, address=address)

    def leader_view(self) -> Any:
        return self.call("leader_view", None)

    def leader(self) -> Any:
        return SimpleNamespace(node_id="c1", grpc="127.0.0.1:7400")

    def cluster_view(self, selector: str = "", *, leader: bool = True) -> Any:
        return self.call("Membership.GetCluster", selector, leader=leader)

    def close(self) -> None: ...


@dataclass
class Said:
    """What a command said."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def text(self) -> str:
        return self.out.decode()


@pytest.fixture
def client() -> FakeClient:
    info = chunks_pb2.ChunkInfo(file="/disk/abab.chunk")
    answers = {"Chunks.Stat": info, "Admin.GetHealth": admin_pb2.HealthReport(live=True)}
    return FakeClient(coordinator=FakeCoordinator(answers))


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator({})


@pytest.fixture
def dfsctl(
    client: FakeClient,
    coordinator: FakeCoordinator,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., Said]:
    """`dfsctl("ls", "-l")` runs that command line."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))

    def call(*argv: str) -> Said:
        fakes = SimpleNamespace(connect=lambda _: client, follow=lambda _: coordinator)
        code = run(argv, Settings(connect=fakes.connect, follow=fakes.follow))
        out, err = capfdbinary.readouterr()
        return Said(int(code), out, err.decode())

    return call
