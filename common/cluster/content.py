"""What a datanode gives its heartbeats, and what it wants from them: protocols only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from quorumfs.v1 import membership_pb2 as m
from quorumfs.v1 import types_pb2 as t


class HeartbeatContent(Protocol):
    """What this node has to tell. Called on the heartbeat thread, `inventory` on one of its own."""

    def load(self) -> m.NodeLoad: ...

    def disks(self) -> Sequence[t.DiskInfo]: ...

    def take_delta(self, sequence: int) -> Sequence[m.ReplicaReport]:
        """Replicas that changed and whose change no heartbeat was acknowledged for, a bounded number.

        They go out with heartbeat `sequence` and are given again until that, or a later one, is acknowledged.
        """
        ...

    def outcomes(self, sequence: int) -> Sequence[m.CommandOutcome]:
        """Outcomes of commands, under the same rule."""
        ...

    def acknowledged(self, sequence: int) -> None:
        """The leader has what went out with heartbeat `sequence`; it need not be told again."""
        ...

    def inventory(self) -> Iterator[m.InventoryPage]:
        """All that this node holds, in order of chunk ids, in pages; only `replicas` or `ids` are filled in.

        May take minutes. What changes meanwhile comes with later deltas.
        """
        ...

    def holds_nothing(self) -> bool:
        """Whether there is no chunk on any disk (a node that was wiped, or never used). The cluster strikes all that it
        thought to be here: a disk that cannot be read is not empty."""
        ...


class EpochStore(Protocol):
    """The highest leadership that this node obeyed; the datanode's durable fence is one."""

    @property
    def epoch(self) -> tuple[int, int]: ...

    @property
    def commit_index(self) -> int: ...

    @property
    def incarnation(self) -> int:
        """Grows with every start of the process."""
        ...

    def obey(self, epoch: t.Epoch) -> None:
        """Returns when `epoch` is the highest, and durably so. Raises FencedError for a lower one."""
        ...

    def heard(self, epoch: t.Epoch, commit_index: int) -> None:
        """The leader of `epoch`, which is obeyed, has told its commit index. Never waits for a disk."""
        ...


@dataclass(frozen=True, slots=True)
class Agenda:
    """What a datanode's ClusterNode needs besides its identity.

    `obey_commands` gets commands of the obeyed epoch, on the heartbeat thread: it queues them and returns.
    `learn_cluster_id` is called once, before the node counts as registered; durable on return.
    `apply_labels` gets the labels that the cluster has for this node, when they differ from what was sent.
    """

    content: HeartbeatContent
    epochs: EpochStore
    obey_commands: Callable[[Sequence[m.Command]], None]
    learn_cluster_id: Callable[[str], None]
    apply_labels: Callable[[dict[str, str]], None]
    heartbeat_seconds: float
