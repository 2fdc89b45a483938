"""What a seed chooses: the size of everything, how often things fail, and what the clients want.

Limits are small, so that what is rare in production (a full window, a rolled segment, a snapshot) happens all the
time. They are the constants of the production modules, changed for the length of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from unittest.mock import patch

from coordinator.consensus import applier, core, entry_writer, frame_log, proposals, standing
from coordinator.consensus import progress as progress_module
from coordinator.consensus.standing import Timing

KIB = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes in bytes, times in seconds, chances from 0 to 1."""

    members: int
    spares: int  # machines that may become members
    seconds: float
    timing: Timing
    # the network
    wild: bool
    latency: float
    loss: float
    doubling: float
    delay_chance: float
    send_buffer_bytes: int
    poll_items: int
    # the disks
    segment_bytes: int
    cache_bytes: int
    keep_bytes: int
    sync_seconds: float
    slow_sync_chance: float
    # the schedule
    interleaving: float
    apply_lag: float
    clock_skew: float
    # small limits
    batch_entries: int
    window: int
    group_entries: int
    entry_ops: int
    queue_ops: int
    backlog_bytes: int
    rolling: int
    # faults
    fault_pause: float
    faults: tuple[str, ...]
    # clients
    clients: int
    slots: int
    registers: bool
    think: float
    patience: float
    try_seconds: float
    read_share: float
    stale_share: float
    ops_max: int
    session_ttl_ms: int
    upload_ttl_ms: int
    read_lease: bool

    @property
    def entry_bytes(self) -> int:
        return self.segment_bytes // 10

    @property
    def batch_bytes(self) -> int:
        return self.segment_bytes // 5


FAULTS = (
    "crash",
    "crash",
    "crash",
    "crash at a point",
    "crash at a point",
    "crash at a point",
    "crash the leader",
    "crash the leader",
    "crash all",
    "stop",
    "isolate",
    "isolate the leader",
    "halves",
    "one way",
    "bridge",
    "flapping",
    "reset",
    "pause",
    "pause the leader",
    "stall",
    "slow applying",
    "failing disk",
    "full disk",
    "full disk of the leader",
    "transfer",
    "late messages",
    "wall clock",
)


def plan_of(seed: int, seconds: float | None = None) -> Plan:
    """The plan of a seed. `seconds`: of faults, instead of what it chooses."""
    random = Random(f"plan {seed}")
    heartbeat = random.choice((0.03, 0.05, 0.05, 0.08))
    election = heartbeat * random.choice((4, 5, 5, 8))
    wild = random.random() < 0.4
    segment = random.choice((16, 24, 32, 64)) * KIB
    registers = random.random() < 0.25
    return Plan(
        members=random.choice((3, 5, 1)) if seed % 9 == 0 else 3,
        spares=2 if seed % 5 == 0 else 0,
        seconds=seconds or random.choice((12.0, 16.0, 20.0, 30.0)),
        timing=Timing(heartbeat, election, election * random.choice((1.5, 2.0, 2.0))),
        wild=wild,
        latency=random.choice((0.0002, 0.001, 0.003, 0.01)),
        loss=random.choice((0.0, 0.01, 0.05, 0.15)) if wild else 0.0,
        doubling=random.choice((0.0, 0.02, 0.1)) if wild else 0.0,
        delay_chance=random.choice((0.0, 0.02, 0.1)),
        send_buffer_bytes=random.choice((8, 64, 4096)) * KIB,
        poll_items=random.choice((1, 4, 64, 64)),
        segment_bytes=segment,
        cache_bytes=random.choice((0, 2 * KIB, 1024 * KIB)),
        keep_bytes=random.choice((1, 4, 16, 64)) * KIB,
        sync_seconds=random.choice((0.0, 0.0002, 0.001, 0.008)),
        slow_sync_chance=random.choice((0.0, 0.001, 0.005)),
        interleaving=random.choice((0.0, 0.02, 0.1)),
        apply_lag=random.choice((0.0002, 0.001, 0.005, 0.03)),
        clock_skew=random.choice((0.0, 0.001, 0.02, 0.1)),
        batch_entries=random.choice((1, 2, 8, 512)),
        window=random.choice((1, 2, 6, 1024)),
        group_entries=random.choice((1, 3, 64)),
        entry_ops=random.choice((4, 8, 1024)),
        queue_ops=random.choice((8, 20_000)),
        backlog_bytes=random.choice((2, 1024)) * KIB,
        rolling=random.choice((4, 64, 4096)),
        fault_pause=random.choice((0.3, 0.8, 1.5, 3.0)),
        faults=tuple(random.sample(sorted(set(FAULTS)), 8)) if random.random() < 0.5 else FAULTS,
        clients=random.choice((2, 3, 5, 8)),
        slots=random.choice((1, 1, 2)) if registers else random.choice((1, 2, 4)),
        registers=registers,
        think=random.choice((0.0, 0.02, 0.1)),
        patience=random.choice((1.0, 3.0, 8.0)),
        try_seconds=random.choice((0.2, 0.5, 1.5)),
        read_share=random.choice((0.1, 0.3, 0.6)),
        stale_share=random.choice((0.0, 0.2)),
        ops_max=1 if registers else random.choice((1, 2, 4)),
        session_ttl_ms=random.choice((1500, 4000, 3_600_000)),
        upload_ttl_ms=random.choice((1000, 5000, 3_600_000)),
        read_lease=random.random() < 0.8,
    )


@contextmanager
def limits_of(plan: Plan) -> Iterator[None]:
    """The production modules' limits are those of the plan within the block."""
    changes = (
        (standing, "BATCH_ENTRIES_MAX", plan.batch_entries),
        (standing, "BATCH_BYTES_MAX", plan.batch_bytes),
        (progress_module, "WINDOW_ENTRIES", plan.window),
        (applier, "GROUP_ENTRIES_MAX", plan.group_entries),
        (core, "BACKLOG_BYTES_MAX", plan.backlog_bytes),
        (proposals, "ENTRY_OPS_MAX", plan.entry_ops),
        (proposals, "ENTRY_BYTES_MAX", plan.entry_bytes),
        (proposals, "QUEUE_OPS_MAX", plan.queue_ops),
        (entry_writer, "ROLLING_MAX", plan.rolling),
        (frame_log, "FRAME_BYTES_MAX", plan.segment_bytes // 2),
    )
    with ExitStack() as stack:
        for module, name, value in changes:
            stack.enter_context(patch.object(module, name, value))
        yield
