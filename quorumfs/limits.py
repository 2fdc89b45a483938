"""Every bound in one place, and the relations between them, asserted at import.

What an operator may change is a setting (common/config.py) whose default stands here.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

# Names and paths
NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 4096
PATH_DEPTH_MAX = 512
SYMLINK_TARGET_BYTES_MAX = 4095
SYMLINK_HOPS_MAX = 40

# Data
CHUNK_SIZE_BYTES = 64 * MIB
CHUNK_SIZE_BYTES_MAX = 1 * GIB
BLOCK_BYTES = 64 * KIB
FRAME_BYTES = 1 * MIB  # of a read
WRITE_FRAME_BYTES = 2 * MIB  # each is handed from thread to thread on every node: fewer are cheaper
FRAME_BYTES_MAX = 4 * MIB
MESSAGE_BYTES_MAX = 8 * MIB
STREAM_WINDOW_BYTES = 4 * MIB  # of a stream, held for a slow reader
REPLICATION_DEFAULT = 3
REPLICATION_MAX = 16
MIN_REPLICAS_DEFAULT = 2
INLINE_BYTES_MAX = 16 * KIB
INLINE_BUDGET_BYTES = 256 * MIB

# Packs: chunks that many small files share
PACK_BYTES_MAX = 4 * MIB
PACK_BYTES_MIN = 64 * KIB  # less is not worth a write on datanodes, if it may be inline
PACK_AGED_BYTES_MIN = 1 * MIB  # of bodies that are moved from the metadata only for their age
PACKED_FILE_BYTES_MAX = 1 * MIB
PACKS_IN_FLIGHT = 3  # one being stored, one on its way, one whose files are made
RUN_BYTES_MAX = 4 * MIB  # of a pack, read in one call
RUN_GAP_BYTES = 2 * BLOCK_BYTES  # between two files that are read together
RUNS_IN_FLIGHT = 4
PACK_SECONDS = 5.0  # all tries to store a pack whose files may also be inline

# Small files that are put one by one, and share chunks
TOGETHER_BYTES_MAX = 256 * KIB
TOGETHER_TURN_SECONDS = 1.0  # who waits longer for those before goes by itself
TOGETHER_SILENCE_SECONDS = 2.0  # who comes longer after the one before goes by itself
TOGETHER_UPLOAD_SECONDS = 10.0  # how long one upload protects their chunks, about
TOGETHER_END_SECONDS = 1.0  # to end it when the client is closed

INLINE_REFUSED_SECONDS = 5.0  # how long the metadata is not offered again what it did not take

# Metadata
ENTRY_BYTES_MAX = 512 * KIB
BATCH_OPS_MAX = 256
PACK_FILES_MAX = 2 * BATCH_OPS_MAX - 1  # with the pack itself, two messages
BATCH_BYTES_MAX = 320 * KIB
ENTRY_OPS_MAX = 1024
QUEUE_OPS_MAX = 20_000
QUEUE_BYTES_MAX = 32 * MIB
EXTENTS_BYTES_MAX = 256 * KIB
ALLOCATE_CHUNKS_MAX = 64
LIST_PAGE_DEFAULT = 1000
LIST_PAGE_MAX = 5000
LAYOUT_EXTENTS_MAX = 2000
SESSION_SLOTS_MAX = 64
LABELS_MAX = 64
LABEL_KEY_BYTES_MAX = 63
LABEL_VALUE_BYTES_MAX = 63

# Replicated time, milliseconds
SESSION_TTL_MS = 3_600_000
UPLOAD_TTL_MS = 3_600_000
TRASH_RETENTION_MS = 3 * 24 * 3_600_000
GC_GRACE_MS = 6 * 3_600_000
GC_QUARANTINE_MS = 24 * 3_600_000
BALANCE_BYTES_PER_SECOND = 50 * MIB
BALANCE_THRESHOLD_PERCENT = 5
TICK_INTERVAL_MS = 10_000

# Waiting, seconds
RPC_DEADLINE_SECONDS = 5.0
CLIENT_DEADLINE_SECONDS = 60.0
HEARTBEAT_SECONDS = 1.0
SUSPECT_SECONDS = 3.0
DEAD_SECONDS = 30.0
STALL_SECONDS = 3.0

# What a client waits for
LOOK_SECONDS = 0.5  # at the first contact each coordinator is asked who leads, for so long
LOOK_AGAIN_SECONDS = 0.7  # and at later looks, when nobody led at the first
QUESTION_SECONDS = (
    1.6  # an operator's question looks for a leader no longer: two seconds are promised for the answer
)
LEADERLESS_SECONDS = (
    3.0  # who has heard no leader for longer does not wait for an election to end: there is none
)
NOBODY_SECONDS = 1.5  # before the first contact, while every known address refuses connections
FIRST_ANSWER_SECONDS = 6.0  # for an answer of any coordinator, before there ever was one
FIRST_CONTACT_SECONDS = 8.0  # for a leader, before any was ever reached
RPC_SECONDS_FIRST = 1.5  # one try of a metadata call; the next are given more, up to RPC_DEADLINE_SECONDS
READ_STALL_SECONDS = 2.0  # no frame of a chunk for so long: another replica
WRITE_STALL_SECONDS = 2 * STALL_SECONDS  # at least; see stall_seconds
SEAL_SECONDS = 5 * STALL_SECONDS  # from the last frame to the acknowledgements; see seal_seconds
STORE_CHUNK_SECONDS = 60.0  # all tries to store one chunk
SLOWEST_BYTES_PER_SECOND = 1 * MIB  # who takes or gives a chunk more slowly, on the average, is given up
READ_CHUNK_SECONDS = 20.0  # all tries to find a reachable replica
SUSPECT_NODE_SECONDS = 15.0  # how long a client avoids a datanode that failed it
KEEP_ALIVE_SECONDS = 5.0  # between two signs of life of open uploads
HEDGE_SECONDS_MIN = 0.05  # a frame that is later than this, at least, is asked of another replica too
HEDGE_SECONDS_MAX = 1.0
SHORT_CIRCUIT_SECONDS = 1.0  # to be handed an open chunk; then it is read over gRPC
SHORT_CIRCUIT_RETRY_SECONDS = 15.0  # how long a door that failed is left alone
SHORT_CIRCUIT_OFF_SECONDS = 300.0  # and one that is switched off
OPEN_CHUNK_IDLE_SECONDS = 60.0

# What a client has in flight
CHUNKS_IN_FLIGHT = 2
READ_AHEAD_FRAMES = 8  # per chunk being read ahead
OPEN_CHUNKS_MAX = 64  # descriptors of chunks on this machine
STREAM_CHUNK_BYTES = 32 * MIB  # of sources that cannot be read again: held in memory until they are durable
CLIENT_SLOTS_MAX = 16

# Raft
RAFT_FRAME_BYTES_MAX = 4 * MIB
RAFT_HEARTBEAT_SECONDS = 0.05
RAFT_ELECTION_SECONDS_MIN = 0.25
RAFT_ELECTION_SECONDS_MAX = 0.5


def stall_seconds(row: int) -> float:
    """How long the first of a row of `row` nodes may take no frame before it is dropped from a write.

    Longer the longer the row: a node that waits for one behind it takes nothing meanwhile, and must have given
    that one up, and gone on, before who stands in front gives up on itself. Half of what a stuck node may take
    lies between two of them, because room behind a window comes back in lumps.
    """
    return STALL_SECONDS * (1 + row) / 2


def seal_seconds(row: int) -> float:
    """How long a row of `row` nodes may take to acknowledge after its last frame. Longer the longer, as above."""
    return STALL_SECONDS * (1 + row)


assert FRAME_BYTES % BLOCK_BYTES == 0
assert FRAME_BYTES <= FRAME_BYTES_MAX < MESSAGE_BYTES_MAX
assert FRAME_BYTES_MAX <= STREAM_WINDOW_BYTES
assert WRITE_FRAME_BYTES % BLOCK_BYTES == 0
assert 2 * WRITE_FRAME_BYTES <= STREAM_WINDOW_BYTES
assert WRITE_FRAME_BYTES < SLOWEST_BYTES_PER_SECOND * STALL_SECONDS  # slow is not stalled
assert CHUNK_SIZE_BYTES % WRITE_FRAME_BYTES == 0 == STREAM_CHUNK_BYTES % WRITE_FRAME_BYTES
assert CHUNK_SIZE_BYTES % FRAME_BYTES == 0
assert BATCH_BYTES_MAX <= ENTRY_BYTES_MAX < RAFT_FRAME_BYTES_MAX
assert EXTENTS_BYTES_MAX <= BATCH_BYTES_MAX
assert INLINE_BYTES_MAX < BATCH_BYTES_MAX
assert INLINE_BYTES_MAX <= PACKED_FILE_BYTES_MAX <= PACK_BYTES_MAX <= CHUNK_SIZE_BYTES
assert PACKED_FILE_BYTES_MAX <= RUN_BYTES_MAX
assert MIN_REPLICAS_DEFAULT <= REPLICATION_DEFAULT <= REPLICATION_MAX
assert HEARTBEAT_SECONDS < SUSPECT_SECONDS < DEAD_SECONDS
assert RAFT_HEARTBEAT_SECONDS * 3 < RAFT_ELECTION_SECONDS_MIN < RAFT_ELECTION_SECONDS_MAX
assert RPC_SECONDS_FIRST < RPC_DEADLINE_SECONDS < FIRST_ANSWER_SECONDS
assert LOOK_SECONDS * 2 < NOBODY_SECONDS < FIRST_ANSWER_SECONDS
assert LOOK_SECONDS + LOOK_AGAIN_SECONDS < QUESTION_SECONDS < 2.0
assert RAFT_ELECTION_SECONDS_MAX * 2 < QUESTION_SECONDS
assert RAFT_ELECTION_SECONDS_MAX * 4 < LEADERLESS_SECONDS < FIRST_CONTACT_SECONDS
assert FIRST_ANSWER_SECONDS < FIRST_CONTACT_SECONDS < CLIENT_DEADLINE_SECONDS
assert HEDGE_SECONDS_MIN < HEDGE_SECONDS_MAX < READ_STALL_SECONDS < READ_CHUNK_SECONDS
assert SHORT_CIRCUIT_SECONDS < READ_STALL_SECONDS
assert STALL_SECONDS < WRITE_STALL_SECONDS < SEAL_SECONDS < STORE_CHUNK_SECONDS
assert stall_seconds(1) == STALL_SECONDS
assert stall_seconds(REPLICATION_DEFAULT - 1) < WRITE_STALL_SECONDS
assert seal_seconds(REPLICATION_DEFAULT - 1) < SEAL_SECONDS
assert seal_seconds(REPLICATION_MAX) + STALL_SECONDS < STORE_CHUNK_SECONDS
assert STREAM_CHUNK_BYTES <= CHUNK_SIZE_BYTES
assert CLIENT_SLOTS_MAX <= SESSION_SLOTS_MAX
