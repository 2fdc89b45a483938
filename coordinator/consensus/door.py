"""The door to the replicated log: `Consensus` gives the core its threads, files and sockets.

Threads: `raft` turns the core; `apply` is the only writer of SQLite; `read-*` answer questions; `journal` makes
spare segments; `snapshot` exists while one is fetched. Whatever ends one of the first two unexpectedly ends the
process: a member that only looks alive is worse than a dead one.
"""

from __future__ import annotations

import random as chance
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NoReturn

from common import log
from common.lifecycle import ExitCode
from coordinator.consensus import pin, snapshots
from coordinator.consensus.bell import Bell
from coordinator.consensus.configuration import Configuration
from coordinator.consensus.core import TRANSFER_SECONDS, Change, Core, Outside, Reading, Transfer
from coordinator.consensus.database import Database
from coordinator.consensus.files import CorruptJournal, Files, RealFiles, SickStorage
from coordinator.consensus.guard import BrokenInvariantError
from coordinator.consensus.identity import Identity
from coordinator.consensus.interfaces import Answer, Done, Question
from coordinator.consensus.journal import Journal
from coordinator.consensus.leadership import Leadership
from coordinator.consensus.links import Peer, TcpLinks
from coordinator.consensus.memory import DurableMemory, boot_number
from coordinator.consensus.proposals import Proposal
from coordinator.consensus.reading import ReaderThreads
from coordinator.consensus.settings import ConsensusSettings
from coordinator.consensus.standing import LEADER, ROLE_NAMES, Timing
from coordinator.consensus.status import MemberState, RaftState, SnapshotFile
from coordinator.metadata import migrations, queries
from quorumfs.clock import Clock
from quorumfs.errors import OutcomeUnknownError
from quorumfs.mint import RandomBytes
from quorumfs.v1 import membership_pb2 as m

TURN_SECONDS_MAX = 0.1
FULL_DISK_SECONDS = 0.5
STOP_SECONDS = 5.0
STARTS_WITHOUT_LOG_MAX = 3

Fatal = Callable[[str, int], NoReturn]
FetchFrom = Callable[[str, int, Path], SnapshotFile]
"""(gRPC address, least index, target file) -> what was fetched. Raises QuorumFSError, OSError."""

REMEDY = "see the log, then `dfsctl raft rejoin` brings this member back as a learner"

_log = log.get(__name__)


class Consensus:
    """One member of the group, running. All methods may be called from any thread, after `start`."""

    def __init__(
        self,
        *,
        settings: ConsensusSettings,
        database: Database,
        identity: Identity,
        directory: Path,
        secret: bytes,
        clock: Clock,
        random: RandomBytes,
        fatal: Fatal,
        fetch_snapshot: FetchFrom,
    ) -> None:
        pin.check()
        self.identity = identity
        self._database = database
        self._directory = directory
        self._clock = clock
        self._fatal = fatal
        self._fetch_snapshot = fetch_snapshot
        self._listeners: list[Callable[[Leadership | None], None]] = []
        self._listening = threading.Lock()
        self._proposed: Callable[[str], None] | None = None
        self._stopping = threading.Event()
        self._apply_work = Bell()
        self._journal_work = threading.Event()
        own_id = settings.node_id or identity.node_id
        files = RealFiles()
        refuse_lost_journal(directory / "raft", files, database.applied_index, identity.boot_counter)
        self._journal = Journal.open(
            directory / "raft", files, clock, segment_bytes=settings.journal_segment_bytes
        )
        self._links = TcpLinks(
            settings.host,
            settings.port,
            Peer(own_id, identity.member_uuid, ""),
            identity.cluster_id,
            secret,
            clock,
            random,
        )
        memory = DurableMemory(directory, files)
        self._readers = ReaderThreads(database.reader, settings.reader_threads)
        self._core = Core(
            own_id,
            self._applied_configuration(),
            identity.history,
            self._journal,
            database,
            self._links,
            clock,
            chance.SystemRandom().random,
            random,
            Timing(settings.heartbeat_seconds, settings.election_seconds_min, settings.election_seconds_max),
            settings.journal_keep_bytes,
            Outside(
                self._answer,
                self._fetch,
                self._applied_configuration,
                self._apply_work.ring,
                self._journal_work.set,
                self._on_leadership,
            ),
            memory,
            boot_number(identity.boot_counter + memory.boots_ahead, int.from_bytes(random(4), "big")),
            settings.read_lease,
        )
        self._threads = [
            threading.Thread(target=self._guarded, args=(run,), name=name, daemon=True)
            for name, run in (("raft", self._turn), ("apply", self._apply), ("journal", self._prepare))
        ]

    # Life

    def start(self) -> None:
        """Open the Raft port and turn. Raises UnavailableError when the port is taken."""
        self._core.start()
        self._readers.start()
        for thread in self._threads:
            thread.start()

    def stop(self, transfer: bool = True) -> None:
        """Hand the leadership over if asked, end the threads, close the files. Again is harmless.

        A thread that a slow disk holds up keeps its files: closed, their descriptors could be another file's by the
        time it goes on. The end of the process closes them.
        """
        if self._stopping.is_set():
            return
        if transfer and self.leadership() is not None:
            self.transfer(None)
        self._stopping.set()
        self._links.wake()
        self._apply_work.ring()
        self._journal_work.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(STOP_SECONDS)
        self._readers.stop(STOP_SECONDS)
        late = [thread.name for thread in self._threads if thread.is_alive()]
        if late:
            _log.warning("stop.late", threads=late)
            return
        self._core.end()
        self._links.close()
        self._journal.close()
        self._database.close()

    def _guarded(self, run: Callable[[], None]) -> None:
        """A thread without which this member must not look alive."""
        name = threading.current_thread().name
        try:
            run()
        except BrokenInvariantError as error:
            self._fatal(
                f"{name}: {error}; this member's state cannot be trusted: {REMEDY}", ExitCode.SICK_DISK
            )
        except Exception as error:  # noqa: BLE001  the end of the process says what it was
            sick = isinstance(error, (OSError, sqlite3.Error, SickStorage))
            remedy = f": {REMEDY}" if sick else ""
            code = ExitCode.SICK_DISK if sick else ExitCode.FAILURE
            _log.error("thread.died", thread=name, error=repr(error), exc_info=True)
            self._fatal(f"{name}: {error}{remedy}", code)

    # Threads

    def _turn(self) -> None:
        while not self._stopping.is_set():
            self._core.turn(TURN_SECONDS_MAX)

    def _apply(self) -> None:
        applier = self._core.applier
        while not self._stopping.is_set():
            if not applier.waits:
                self._apply_work.wait()
            elif not applier.work():
                self._stopping.wait(FULL_DISK_SECONDS)

    def _prepare(self) -> None:
        while not self._stopping.is_set():
            self._journal_work.wait()
            self._journal_work.clear()
            if not self._stopping.is_set():
                self._journal.prepare()
                self._links.wake()  # what waited for room

    def _answer(self, readings: Sequence[Reading]) -> None:
        self._readers.ask_all([(one.question, one.done) for one in readings])

    def _fetch(
        self, leader_id: str, at_least: int, on_done: Callable[[tuple[Path, int, int] | None], None]
    ) -> None:
        address = next((one.grpc for one in self.members() if one.node_id == leader_id), "")
        target = self._directory / "snapshot.fetched"

        def run() -> None:
            began = time.monotonic()
            try:
                target.unlink(missing_ok=True)
                found = self._fetch_snapshot(address, at_least, target)
                index, term = snapshots.verify(found.path)
            except Exception as error:  # noqa: BLE001  whatever it was, the loop must learn that there is none
                _log.warning("snapshot.failed", leader=leader_id, error=repr(error))
                with suppress(OSError):
                    target.unlink(missing_ok=True)
                on_done(None)
                return
            took_ms = int((time.monotonic() - began) * 1000)
            _log.info("snapshot.fetched", index=index, bytes=found.size, took_ms=took_ms)
            on_done((found.path, index, term))

        threading.Thread(target=run, name="snapshot", daemon=True).start()

    # Who leads

    def subscribe(self, listener: Callable[[Leadership | None], None]) -> None:
        """Tell `listener` of this member's leadership, now and at every change. It must not block."""
        with self._listening:
            self._listeners.append(listener)
            listener(self._core.leadership)

    def _on_leadership(self, leadership: Leadership | None) -> None:
        if leadership is None:
            _log.info("leadership.ended")
        else:
            _log.info("leadership.begun", term=leadership.term, history=leadership.history)
        with self._listening:
            for listener in self._listeners:
                listener(leadership)

    def subscribe_group(self, hook: Callable[[], None]) -> None:
        """Call `hook` after the answers of each group of entries. Before `start`."""
        self._core.applier.subscribe(hook)

    def leadership(self) -> Leadership | None:
        """Of this member; None when it does not lead, or not yet."""
        return self._core.leadership

    def leader_id(self) -> str | None:
        return self._core.replica.leader_id()

    @property
    def term(self) -> int:
        """The present term; `status` has the same and much more, which costs a hundred times as much."""
        return self._core.replica.term()

    @property
    def commit_index(self) -> int:
        return self._core.replica.commit_index()

    @property
    def last_index(self) -> int:
        """Of this member's log."""
        return self._journal.last_index

    def members(self) -> Sequence[m.Member]:
        """Voters and learners, by the configuration that is effective here."""
        return self._core.replica.configurations.current.members

    def change_members(self, make: Callable[[Configuration], Configuration], done: Done) -> None:
        """Have the leader change the members: `make` gives the next configuration or raises; `done` gets b"" when
        the change is committed and applied here, or why it was refused: NotLeaderError, OutcomeUnknownError, what
        `make` raised."""
        self._core.change_members(Change(make, done))

    def _applied_configuration(self) -> Configuration:
        """As the state has it; before the cluster is initialised, that of genesis."""
        with self._database.reader() as tx:
            applied = queries.members(tx)
        return Configuration.of(applied or self.identity.members)

    def block(self, peers: frozenset[str]) -> None:
        """Fault hook: lose everything from and to these members, without a word. Any thread."""
        self._links.block(peers)

    def heard_age(self) -> float:
        """Seconds since a leader was heard; 0 when this member leads."""
        if self._core.leadership is not None:
            return 0.0
        return self._clock.monotonic() - self._core.replica.spoke_at

    def state_age(self) -> float:
        """Seconds since this member's state had all that was committed; 0 when it leads. See `Core`."""
        return self._core.state_age()

    def transfer(self, node_id: str | None) -> bool:
        """Hand the leadership to a follower (the best one, when None); waits. False: it stays here."""
        if self._core.leadership is None:
            return False
        wish = Transfer(node_id, self._clock.monotonic() + TRANSFER_SECONDS, threading.Event())
        self._core.transfer(wish)
        wish.done.wait(TRANSFER_SECONDS + TURN_SECONDS_MAX * 2)
        return wish.given

    # Entries and questions

    def observe(self, fsync: Callable[[float], None], proposed: Callable[[str], None]) -> None:
        """Have these told of each sync of the journal, in seconds, and of each proposal's end: `done`, `refused`
        (nothing happened), `unknown`. Before `start`; they must not block."""
        self._journal.on_fsync(fsync)
        self._proposed = proposed

    def _counting(self, done: Done) -> Done:
        proposed = self._proposed
        if proposed is None:
            return done

        def counted(answer: Answer) -> None:
            unknown = isinstance(answer, OutcomeUnknownError)
            proposed("done" if isinstance(answer, bytes) else "unknown" if unknown else "refused")
            done(answer)

        return counted

    def propose(self, proposal: Proposal, done: Done) -> None:
        """Have an item committed and applied; `done` gets its result, or why there is none:
        NotLeaderError, BusyError, TimedOutError, NoSpaceError, TooLargeError (nothing happened),
        OutcomeUnknownError."""
        self._core.propose(proposal, self._counting(done))

    def read(self, question: Question, done: Done) -> None:
        """Ask the leader's state, under its lease or behind a barrier: nothing acknowledged before this call is
        missed."""
        self._core.read(question, done)

    def read_stale(self, question: Question, done: Done) -> None:
        """Ask this member's state as it is."""
        self._readers.ask(question, done)

    def reader(self) -> AbstractContextManager[sqlite3.Connection]:
        """A read transaction on this member's state as it is."""
        return self._database.reader()

    def cluster_ms(self) -> int:
        return self._core.now_ms()

    def snapshot(self, directory: Path) -> SnapshotFile:
        """A copy of the state in a new file in `directory`; takes a while, blocks nobody else."""
        return snapshots.make(self._database, directory)

    def schema_revision(self) -> str:
        """Of the database, as of now."""
        with self._database.reader() as tx:
            return migrations.current_revision(tx)

    def hash_at(self, index: int) -> tuple[bytes, bytes] | None:
        """(hash of all rows, rolling hash) at an index that a HashAt entry marked; None: not (yet) here."""
        rows, rolling = self._database.hash_at(index), self._database.rolling_at(index)
        return None if rows is None or rolling is None else (rows, rolling)

    def state_hash(self) -> tuple[int, bytes, bytes]:
        """(index, hash of all rows, rolling hash) at the last index that a HashAt entry marked; before the first, the
        last applied one and its rolling hash. What is forgotten is empty."""
        index, rows = self._database.last_hash() or (self._database.applied_index, b"")
        return index, rows, self._database.rolling_at(index) or b""

    # What it says of itself

    def status(self) -> RaftState:
        core, replica, journal = self._core, self._core.replica, self._journal
        now = self._clock.monotonic()
        return RaftState(
            node_id=replica.own_id,
            state=ROLE_NAMES[replica.role()] if replica.own_id in replica.voters else "learner",
            term=replica.term(),
            leader_id=replica.leader_id(),
            commit_index=replica.commit_index(),
            applied_index=self._database.applied_index,
            last_index=journal.last_index,
            base_index=journal.first_index,
            members=tuple(self._member_state(one, now) for one in self.members()),
            history=self.identity.history,
            tick_age_seconds=max(0.0, now - core.turned_at),
            journal_bytes=journal.disk_bytes,
            queue_ops=core.queue.operations,
            queue_bytes=core.queue.size_bytes,
            boot_counter=self.identity.boot_counter,
            fsync=journal.fsync,
            wal_bytes=self._database.wal_bytes,
            longest_checkpoint_seconds=self._database.longest_checkpoint_seconds,
            disk_full=core.disk_full,
        )

    def _member_state(self, member: m.Member, now: float) -> MemberState:
        replica, node_id = self._core.replica, member.node_id
        if node_id == replica.own_id:
            return MemberState(member, self._journal.last_index, 0.0, True)
        progress = replica.progress.get(node_id) if replica.role() == LEADER else None
        return MemberState(
            member,
            progress.match if progress is not None else 0,
            self._links.heard_age(node_id, now),
            self._links.connected(node_id),
        )


def refuse_lost_journal(directory: Path, files: Files, applied_index: int, boot_counter: int) -> None:
    """A log that begins anew beside a member that was there before has forgotten votes and acknowledgements. To be
    asked before the log is opened: a new one that was made looks like any other at the next start.

    Raises CorruptJournal. A start that was cut short before the first log was made is let pass, twice.
    """
    was_there = applied_index > 1 or boot_counter > STARTS_WITHOUT_LOG_MAX
    if was_there and not Journal.is_there(directory, files):
        raise CorruptJournal(directory, 0, "the log is gone, but this member has been running before")
