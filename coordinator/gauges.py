"""Metrics of a coordinator that are read when they are asked for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from coordinator.duties.repack import Figures as RepackFigures
from coordinator.duties.repair import Repair
from coordinator.metrics import CoordinatorMetrics, Sample
from coordinator.services.gateway import Gateway
from coordinator.soft_state import SoftState

RAFT_GAUGES = (
    ("term", "The current term."),
    ("commit_index", "Highest index known to be committed."),
    ("applied_index", "Highest index applied to the database."),
    ("last_index", "Highest index in the journal."),
    ("tick_age", "Seconds since the Raft loop last turned."),
    ("journal_bytes", "Bytes of the journal."),
    ("queue_ops", "Operations that wait to be proposed."),
    ("queue_bytes", "Bytes that wait to be proposed."),
    ("longest_fsync_seconds", "The longest sync of the journal since the start."),
    ("wal_bytes", "Bytes of the database's write-ahead log."),
    ("longest_checkpoint_seconds", "The longest that a checkpoint kept the database's writer."),
)


GC_GAUGES = (
    ("candidates", "Chunks that nothing refers to, and that are not condemned yet."),
    ("condemned", "Chunks that are condemned, and not deleted everywhere yet."),
    ("held", "Chunks that nothing refers to, held until an operator releases them."),
    ("paused", "1 when the garbage collection is paused."),
)

Figures = Mapping[str, float]


class Recent:
    """The last answer to a question for which a scrape does not wait. Every scrape has it asked again, so what is told
    is as old as the scrape before. Any thread."""

    def __init__(self, ask: Callable[[], Future[Figures]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._asked: Future[Figures] | None = None
        self._figures: Figures = {}

    def figures(self) -> Figures:
        with self._lock:
            if self._asked is None or self._asked.done():
                self._asked = self._ask()
                self._asked.add_done_callback(self._take)
            return self._figures

    def _take(self, asked: Future[Figures]) -> None:
        failed = asked.cancelled() or asked.exception() is not None
        self._figures = {} if failed else asked.result()


def add_gauges(figures: CoordinatorMetrics, gateway: Gateway, soft: SoftState) -> None:
    """Of Raft, and of the datanodes as the leader sees them."""

    def raft(field: str) -> Callable[[], Sequence[Sample]]:
        return lambda: [((), float(getattr(gateway.consensus.status(), field)))] if gateway.attached else []

    def nodes() -> Sequence[Sample]:
        states = Counter(pulse.liveness.value for pulse in soft.pulses().values())
        return [((state,), float(number)) for state, number in states.items()]

    gauges = figures.gauges
    for field, text in RAFT_GAUGES:
        gauges.add(f"quorumfs_raft_{field}", text, raft(field))
    gauges.add(
        "quorumfs_raft_is_leader",
        "1 when this member leads.",
        lambda: [((), float(gateway.attached and gateway.leadership() is not None))],
    )
    gauges.add("quorumfs_datanodes", "Datanodes, as the leader sees them.", nodes, ("state",))


def add_live_gauges(figures: CoordinatorMetrics, rewriting: Callable[[], RepackFigures | None]) -> None:
    """How much of the chunks is alive, as the leader's last look through all of them has found."""

    def figure(field: str) -> Callable[[], Sequence[Sample]]:
        def read() -> Sequence[Sample]:
            found = rewriting()
            return [((), float(getattr(found, field)))] if found is not None and found.rounds else []

        return read

    gauges = figures.gauges
    gauges.add(
        "quorumfs_chunk_bytes", "Content of all chunks that files refer to, once.", figure("total_bytes")
    )
    gauges.add("quorumfs_chunk_live_bytes", "Of that, what an extent names.", figure("live_bytes"))
    gauges.add("quorumfs_sparse_chunks", "Chunks of which too little is alive.", figure("sparse_chunks"))
    gauges.add("quorumfs_sparse_dead_bytes", "Dead bytes in these.", figure("dead_bytes"))


def add_repair_gauges(
    figures: CoordinatorMetrics, soft: SoftState, repair: Callable[[], Repair | None]
) -> None:
    """What the leader's repair has before it; nothing is told by a member that does not lead."""

    def figure(field: str) -> Callable[[], Sequence[Sample]]:
        def read() -> Sequence[Sample]:
            found = repair()
            return [((), float(getattr(found.figures, field)))] if found is not None and soft.leading else []

        return read

    gauges = figures.gauges
    gauges.add("quorumfs_repair_pending", "Chunks that lack replicas and wait.", figure("pending"))
    gauges.add("quorumfs_repair_running", "Copies that are under way.", figure("running"))
    gauges.add("quorumfs_chunks_missing", "Chunks without a readable replica.", figure("missing"))


def add_gc_gauges(figures: CoordinatorMetrics, recent: Recent) -> None:
    """What waits for the garbage collection, as the leader knows it."""

    def figure(name: str) -> Sequence[Sample]:
        found = recent.figures()
        return [((), float(found[name]))] if name in found else []

    for name, text in GC_GAUGES:
        figures.gauges.add(f"quorumfs_gc_{name}", text, partial(figure, name))
