"""The node agent: what makes a process a node of the cluster, beside the gRPC server that it also is.

Theory of operation
1. `ClusterNode` is the active half of every node process. It owns this node's state (starting,
   waiting_for_genesis, running, draining, stopping), knows who leads, and follows the leader for ever: no
   failure of others makes it give up, and none makes it need a restart.
2. A datanode pushes heartbeats (`heartbeats.py`, one thread) over a stream to the leader. One at a time, each with a
   deadline of twice the interval: a stopped leader costs one deadline, then the others are asked. Whom to ask next,
   and when, is decided by `following.py` alone, which is pure and has a budget. Sources are, in this order: who
   answered last, hints in refusals, the coordinators that the configuration and the leader named, sidecars.
3. An answer counts only under an epoch that is not below the highest this node has obeyed. A higher one is
   made durable first (`EpochStore.obey`), then its commands are handed on.
4. What is reported (changed replicas, outcomes of commands) stays with its owner until the heartbeat that
   carried it is acknowledged; so an outcome may be told twice, never lost.
5. `NodeManager` is this process's view of the membership (a datanode's: of the coordinators), refreshed from any
   coordinator that answers (`watching.py`, one thread); it says how old it is and never goes back. `LeaderTracker` says
   who leads, how that is known (raft, heartbeat, hint, poll), and since when.
6. A coordinator has no heartbeats: Raft tells it who leads, and it looks at its own tables.
"""

from common.cluster.content import Agenda, EpochStore, HeartbeatContent
from common.cluster.leader_tracker import LeaderTracker
from common.cluster.manager import NodeManager
from common.cluster.node import ClusterNode, State
from common.cluster.transport import GrpcTransport, Transport

__all__ = [
    "Agenda",
    "ClusterNode",
    "EpochStore",
    "GrpcTransport",
    "HeartbeatContent",
    "LeaderTracker",
    "NodeManager",
    "State",
    "Transport",
]
