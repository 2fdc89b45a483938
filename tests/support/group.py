"""Coordinators' consensus without the rest of the process: members on threads, with real sockets and disks."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, TypeVar

from coordinator.consensus import Consensus, ConsensusSettings, Identity, Proposal, SnapshotFile
from coordinator.consensus.database import Database
from coordinator.metadata import migrations
from coordinator.metadata.machine import Machine
from quorumfs.clock import SystemClock
from quorumfs.errors import QuorumFSError, UnavailableError
from quorumfs.mint import system_random
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t

T = TypeVar("T")

SECRET = b"the secret of this group........"
MIB = 1 << 20


class Group:
    """`size` members in `directory`; `kill` is without any last word, as far as a thread can die."""

    def __init__(self, directory: Path, size: int = 3, *, journal_keep_bytes: int = 64 * MIB) -> None:
        self.directory = directory
        self.clock = SystemClock()
        self.deaths: list[str] = []
        self.keep = journal_keep_bytes
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(size)]
            self.ports = [one.getsockname()[1] for one in sockets]
        self.ids = [f"c{number}" for number in range(1, size + 1)]
        self.genesis = m.GenesisRequest(
            cluster_id="group",
            history=1,
            wall_ms=1,
            members=[
                m.Member(
                    node_id=node_id, member_uuid=f"uuid-{node_id}", raft=f"127.0.0.1:{port}", grpc=node_id
                )
                for node_id, port in zip(self.ids, self.ports, strict=True)
            ],
        )
        self.running: dict[str, Consensus] = {}

    def start(self, *node_ids: str) -> None:
        for node_id in node_ids or self.ids:
            directory = self.directory / node_id
            directory.mkdir(exist_ok=True)
            identity = Identity.load(directory, node_id) or Identity.accept(directory, self.genesis, node_id)
            member = Consensus(
                settings=ConsensusSettings(
                    "127.0.0.1",
                    self.ports[self.ids.index(node_id)],
                    journal_segment_bytes=2 * MIB,
                    journal_keep_bytes=self.keep,
                ),
                database=Database.open(directory, Machine(migrations.upgrade)),
                identity=identity,
                directory=directory,
                secret=SECRET,
                clock=self.clock,
                random=system_random,
                fatal=self._fatal(node_id),
                fetch_snapshot=self._fetch,
            )
            member.start()
            self.running[node_id] = member

    def _fatal(self, node_id: str) -> Callable[[str, int], NoReturn]:
        def fatal(message: str, code: int) -> NoReturn:
            self.deaths.append(f"{node_id} {code}: {message}")
            raise SystemExit(code)

        return fatal

    def _fetch(self, address: str, at_least: int, target: Path) -> SnapshotFile:
        """The address of a member is its id here."""
        if address not in self.running:
            raise UnavailableError(f"{address} does not run")
        made = self.running[address].snapshot(target.parent)
        shutil.move(made.path, target)
        return SnapshotFile(target, made.index, made.term, made.sha256, made.size)

    def kill(self, node_id: str) -> None:
        self.running.pop(node_id).stop(transfer=False)

    def close(self) -> None:
        for node_id in list(self.running):
            self.kill(node_id)

    def leader(self, among: tuple[str, ...] = ()) -> str:
        """Waits until one leads."""
        return until(
            lambda: next(
                (
                    node_id
                    for node_id, member in self.running.items()
                    if member.leadership() is not None and (not among or node_id in among)
                ),
                None,
            )
        )

    def propose(self, node_id: str, key: str, seconds: float = 5.0) -> bytes | QuorumFSError:
        """Set the alarm `key`: one entry; its answer, or the refusal."""
        command = e.SystemCommand(set_alarm=e.SetAlarm(code=key, message=key))
        raw = e.SystemBatch(commands=[command]).SerializeToString()
        deadline = self.clock.monotonic() + seconds
        return self._ask(
            lambda done: self.running[node_id].propose(
                Proposal(e.Item(system=raw), 1, len(raw), deadline), done
            )
        )

    def write(self, key: str) -> None:
        """Set the alarm `key` through whoever leads, again until it is acknowledged."""
        answer = until(lambda: answered(self.propose(self.leader(), key)))
        assert e.SystemResult.FromString(answer).results[0].code == t.ERROR_CODE_OK

    def read(self, node_id: str) -> set[str] | QuorumFSError:
        """The keys of all alarms, behind a barrier."""
        answer = self._ask(
            lambda done: self.running[node_id].read(
                lambda tx: b"\n".join(row[0].encode() for row in tx.execute("SELECT code FROM alarm")), done
            )
        )
        return answer if isinstance(answer, QuorumFSError) else set(answer.decode().split())

    def keys(self, node_id: str) -> set[str]:
        with self.running[node_id].reader() as tx:
            return {row[0] for row in tx.execute("SELECT code FROM alarm")}

    def _ask(self, ask: Callable[[Callable[[bytes | QuorumFSError], None]], None]) -> bytes | QuorumFSError:
        came = threading.Event()
        answers: list[bytes | QuorumFSError] = []

        def done(answer: bytes | QuorumFSError) -> None:
            answers.append(answer)
            came.set()

        ask(done)
        assert came.wait(20), "no answer came"
        assert len(answers) == 1
        return answers[0]


def answered(answer: bytes | QuorumFSError) -> bytes | None:
    return answer if isinstance(answer, bytes) else None


def until(true: Callable[[], T | None], seconds: float = 20.0) -> T:
    """The first true value."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)
    return found
