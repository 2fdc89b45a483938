"""A member of the core alone: `Consensus` and the state machine, without gRPC, services and duties.

Run as a child (children.py), three of them make a group (core_group.py). What it shows is what is left when the way
from a client to the log costs nothing: the callers live in the leader's own process, as callbacks.

Two ways to bring operations: `single` proposes each caller's operation as a batch of its own, like a server that is
asked one by one; `batched` proposes what all callers of a lane want as one batch of a session, like our client.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import ops
from benchmarks.callers import known_name, new_name
from benchmarks.children import serve, wait_until
from benchmarks.tally import Stopwatch, Tally
from common import log
from coordinator.consensus import Consensus, ConsensusSettings, Identity, Proposal, SnapshotFile
from coordinator.consensus.database import Database
from coordinator.duties.desk import Desk
from coordinator.duties.genesis import commands
from coordinator.metadata import migrations, queries
from coordinator.metadata.machine import Machine
from quorumfs.clock import SystemClock
from quorumfs.errors import QuorumFSError, UnavailableError
from quorumfs.limits import MESSAGE_BYTES_MAX
from quorumfs.mint import system_random
from quorumfs.rpc.status import raise_for
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import namespace_pb2 as n

HISTORY = 1
SECRET = b"of a group that holds nothing..."
PROPOSAL_SECONDS = 30.0

Answer = bytes | QuorumFSError
Begin = Callable[[int, Callable[[Answer], None]], None]
"""Begin the next request of a lane; the callback gets its answer."""


class CoreMember:
    """`config`: directory, node_id, and `members`, the raft address of each by its id."""

    def __init__(self, config: dict[str, Any]) -> None:
        directory = Path(config["directory"])
        node_id = config["node_id"]
        genesis = m.GenesisRequest(
            cluster_id="core",
            history=HISTORY,
            wall_ms=1,
            members=[
                m.Member(node_id=one, member_uuid=f"uuid-{one}", raft=address, grpc=one)
                for one, address in sorted(config["members"].items())
            ],
        )
        host, _, port = config["members"][node_id].rpartition(":")
        self._clock = SystemClock()
        self._members = list(genesis.members)
        identity = Identity.load(directory, node_id) or Identity.accept(directory, genesis, node_id)
        self._consensus = Consensus(
            settings=ConsensusSettings(host, int(port)),
            database=Database.open(directory, Machine(migrations.upgrade)),
            identity=identity,
            directory=directory,
            secret=SECRET,
            clock=self._clock,
            random=system_random,
            fatal=_fatal,
            fetch_snapshot=_no_snapshot,
        )
        self._desk = Desk(self._consensus, self._clock)
        self._consensus.start()

    def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["verb"]:
            case "status":
                return {"leads": self._consensus.leadership() is not None}
            case "found":
                self._desk.propose(commands("core", HISTORY, self._members))
                return {}
            case "mkdir":
                self._do([n.Op(mkdir=n.MkdirRequest(ref=n.Ref(path=command["directory"].encode())))])
                return {}
            case "fill":
                self._do(
                    [
                        ops.create(f"{command['directory']}/{known_name(0, k, command['names'])}")
                        for k in command["some"]
                    ]
                )
                return {}
            case _:
                return self._load(command)

    def _load(self, command: dict[str, Any]) -> dict[str, Any]:
        lanes, each = command["lanes"], command["operations"]
        verb = {"create": self._creator, "stat": self._asker}[command["verb"]]
        loop = ClosedLoop(verb(command, lanes, each), lanes, each)
        return loop.run(command["start_at"], command["seconds"])

    def _creator(self, command: dict[str, Any], lanes: int, each: int) -> Begin:
        """A lane has a slot of its own in a session when it carries several operations, and no session otherwise."""
        session = self._open_session() if command["batched"] else 0
        sequence = [0] * lanes

        def begin(lane: int, done: Callable[[Answer], None]) -> None:
            sequence[lane] += 1
            first = sequence[lane] * each
            batch = n.Batch(
                session=session,
                slot=lane if session else 0,
                seq=sequence[lane] if session else 0,
                ops=[ops.create(f"{command['directory']}/{new_name(lane, first + k)}") for k in range(each)],
            )
            self._consensus.propose(self._proposal(batch), done)

        return begin

    def _asker(self, command: dict[str, Any], lanes: int, each: int) -> Begin:
        counts = [0] * lanes

        def begin(lane: int, done: Callable[[Answer], None]) -> None:
            counts[lane] += each
            names = [known_name(lane, counts[lane] + k, command["names"]) for k in range(each)]
            asked = [ops.stat(f"{command['directory']}/{name}") for name in names]

            def question(tx: Any) -> bytes:
                found = n.ReadBatchResult()
                queries.stat_all(tx, [op.stat for op in asked], found.results.add, MESSAGE_BYTES_MAX)
                return found.SerializeToString()

            self._consensus.read(question, done)

        return begin

    def _open_session(self) -> int:
        results = self._do([n.Op(open_session=n.OpenSessionRequest(client="benchmark"))])
        return results[0].session.session

    def _do(self, wanted: list[n.Op]) -> list[n.Result]:
        """Propose and wait. Raises what was refused."""
        came = threading.Event()
        answers: list[Answer] = []

        def done(answer: Answer) -> None:
            answers.append(answer)
            came.set()

        self._consensus.propose(self._proposal(n.Batch(ops=wanted)), done)
        came.wait(PROPOSAL_SECONDS)
        if isinstance(answers[0], QuorumFSError):
            raise answers[0]
        results = list(n.BatchResult.FromString(answers[0]).results)
        for result in results:
            raise_for(result.code, result.error)
        return results

    def _proposal(self, batch: n.Batch) -> Proposal:
        raw = batch.SerializeToString()
        item = e.Item(principal=e.Principal(name="anonymous"), batch=raw)
        return Proposal(item, len(batch.ops), len(raw), self._clock.monotonic() + PROPOSAL_SECONDS)


class ClosedLoop:
    """`lanes` requests of `each` operations under way at any time, until the time is up."""

    def __init__(self, begin: Begin, lanes: int, each: int) -> None:
        self._begin = begin
        self._lanes = lanes
        self._each = each
        self._tally = Tally()
        self._lock = threading.Lock()
        self._running = lanes
        self._ended = threading.Event()
        self._end = 0.0

    def run(self, start_at: float, seconds: float) -> dict[str, Any]:
        """What came of it."""
        self._end = start_at + seconds
        wait_until(start_at)
        watch = Stopwatch()
        for lane in range(self._lanes):
            self._next(lane)
        self._ended.wait(seconds + PROPOSAL_SECONDS)
        wall_seconds, _ = watch.read()
        return self._tally.report(wall_seconds, 0.0)  # the callers' CPU is the leader's, and counted there

    def _next(self, lane: int) -> None:
        if time.monotonic() >= self._end:
            self._finish()
            return
        began = time.perf_counter()

        def done(answer: Answer) -> None:
            if isinstance(
                answer, QuorumFSError
            ):  # this member leads no more: asking again is refused at once
                self._tally.fail(answer)
                self._finish()
                return
            self._tally.latencies += [time.perf_counter() - began] * self._each
            self._next(lane)

        self._begin(lane, done)

    def _finish(self) -> None:
        """A lane less."""
        with self._lock:
            self._running -= 1
            if not self._running:
                self._ended.set()


def _fatal(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    os._exit(code)


def _no_snapshot(address: str, at_least: int, target: Path) -> SnapshotFile:
    raise UnavailableError(f"{address} hands out no snapshots", cause="the members of this group never lag")


def main() -> None:
    config = json.loads(sys.argv[1])
    log.setup("warning", "json", node_id=config["node_id"], role="coordinator")
    serve(CoreMember(config).handle)


if __name__ == "__main__":
    main()
