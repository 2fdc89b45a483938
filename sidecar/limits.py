"""Every bound of the management agent, and the relations between them, asserted at import.

Seconds unless the name says otherwise. What an operator may change is a setting (`http.threads`).
"""

from __future__ import annotations

# Asking
NODE_DEADLINE_SECONDS = 1.0  # the own node must answer by then, or it is called hung
PEER_DEADLINE_SECONDS = 0.8  # another coordinator, asked about the leader
PEER_BUDGET_SECONDS = 0.9  # all of them together, what it takes to find out that nobody listens included
MUTATION_DEADLINE_SECONDS = 5.0  # labels go through the log; a shutdown only begins
NODE_POLL_SECONDS = 0.5
ALIVE_SECONDS = 1.2  # who was given an order answers a question beside it by then, or is called hung
FRESH_SECONDS = 0.25  # an answer this young is as good as a new one
READ_FRESH_SECONDS = 0.5  # the same for the larger ones: metrics, the cluster, raft, gc
LEADER_FRESH_SECONDS = 3.0  # an older view of the leader is not told as the current one
PEERS_MAX = 16
BARRIER_BUDGET_SECONDS = 1.0  # a question about files, to a leader; then any coordinator's state is told
PROBLEMS_MAX = 100  # chunks that lack replicas, told one by one
LIST_PAGE_MAX = 500
PATH_BYTES_MAX = 3500  # as a query parameter, within a request line

# Orders to the cluster, and to other nodes' agents
ORDER_BUDGET_SECONDS = 6.0  # an entry, through an election
TARGET_DEADLINE_SECONDS = 7.0  # another agent, whose own node may take MUTATION_DEADLINE_SECONDS
TARGET_READ_SECONDS = 1.5
TARGET_ALIVE_SECONDS = 1.2  # another agent, before it is told to change something
TARGET_ANSWER_BYTES_MAX = 1 << 20
TARGETS_MAX = 1000
TARGETS_AT_ONCE = 16
EXECS_AT_ONCE = 4
EXEC_BUDGET_SECONDS = 9.0  # from the request's begin, who calls and who is meant included
MAINTENANCE_SECONDS_MAX = 30 * 86_400.0
SELECTOR_CHARACTERS_MAX = 1000
LOG_LINES_MAX = 1000
RESTART_POLL_SECONDS = 0.5
RESTART_WAIT_SECONDS_MAX = 3600.0

# Serving
THREADS_MIN = 64
THREADS_RESERVED = 14  # never taken by log streams: health must always find one
CONNECTIONS_PER_THREAD = 4
HEADER_SECONDS = 10.0  # from connect to a complete request, and to the end of an ordinary answer
KEEPALIVE_SECONDS = 5
SEND_STALL_SECONDS = 15  # a reader that takes nothing for so long is cut off
GRACEFUL_SECONDS = 4
WORKER_TIMEOUT_SECONDS = 60
OWN_QUESTION_SECONDS = 5.0  # between two questions to itself, where it is watched
OWN_ANSWER_SECONDS = 5.0
BODY_BYTES_MAX = 64 << 10
HEAD_BYTES_MAX = 64 << 10
REQUEST_LINE_BYTES_MAX = 4094
HEADER_FIELDS_MAX = 64
HEADER_FIELD_BYTES_MAX = 8190

# In the WSGI environment: what a request calls that may outlive HEADER_SECONDS.
LIFT_DEADLINE = "quorumfs.lift_deadline"

# Log streams
LOG_RING_RECORDS_MAX = 4096
LOG_RING_BYTES_MAX = 4 << 20
LOG_BATCH_RECORDS_MAX = 256
LOG_KEEPALIVE_SECONDS = 5.0
LOG_LINGER_SECONDS = 10.0  # the tail stays open this long after its last reader
LOG_RETRY_SECONDS = 0.5
LOG_ONCE_DEADLINE_SECONDS = 5.0
GREP_BYTES_MAX = 256
LEVEL_TTL_SECONDS_MAX = 7 * 24 * 3600.0
DRAIN_SECONDS_MAX = 3600.0
REASON_CHARACTERS_MAX = 500

assert NODE_DEADLINE_SECONDS + PEER_DEADLINE_SECONDS < 2.0, "every endpoint answers within two seconds"
assert PEER_DEADLINE_SECONDS < PEER_BUDGET_SECONDS < 2.0 - NODE_DEADLINE_SECONDS
assert BARRIER_BUDGET_SECONDS + PEER_DEADLINE_SECONDS < 2.0, "also for files, leaderless"
assert max(ALIVE_SECONDS, TARGET_READ_SECONDS, TARGET_ALIVE_SECONDS) < 2.0
assert FRESH_SECONDS < NODE_POLL_SECONDS < LEADER_FRESH_SECONDS
assert THREADS_RESERVED < THREADS_MIN
assert REQUEST_LINE_BYTES_MAX + HEADER_FIELD_BYTES_MAX < HEAD_BYTES_MAX
assert MUTATION_DEADLINE_SECONDS < HEADER_SECONDS
assert LOG_ONCE_DEADLINE_SECONDS < HEADER_SECONDS
assert MUTATION_DEADLINE_SECONDS < TARGET_DEADLINE_SECONDS
assert TARGET_ALIVE_SECONDS + TARGET_DEADLINE_SECONDS < EXEC_BUDGET_SECONDS < HEADER_SECONDS
assert ORDER_BUDGET_SECONDS < HEADER_SECONDS
assert TARGET_READ_SECONDS < TARGET_DEADLINE_SECONDS
