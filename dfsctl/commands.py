"""The table of all commands: the only place that knows them all. Adding one is one line here."""

from __future__ import annotations

from dfsctl.shell import Entry, Group

dfsctl = Group(
    "dfsctl",
    help="Files and operations of a QuorumFS cluster. Remote paths are absolute, as in /data/x.",
    table={
        "put": Entry("dfsctl.files:put", "Store a local file, or a tree with -r."),
        "get": Entry("dfsctl.files:get", "Fetch a file, or a tree with -r."),
        "sync": Entry("dfsctl.sync:sync", "Make one tree like another, sending only what differs."),
        "cat": Entry("dfsctl.files:cat", "Write files to stdout."),
        "head": Entry("dfsctl.files:head", "The first bytes or lines of a file."),
        "tail": Entry("dfsctl.files:tail", "The last bytes or lines of a file."),
        "ls": Entry("dfsctl.listing:ls", "List a directory or a file."),
        "stat": Entry("dfsctl.listing:stat", "Everything about one path."),
        "tree": Entry("dfsctl.listing:tree", "A directory as a tree."),
        "find": Entry("dfsctl.listing:find", "Paths below a directory that match."),
        "du": Entry("dfsctl.listing:du", "Bytes below a directory."),
        "df": Entry("dfsctl.listing:df", "Room in the cluster."),
        "locate": Entry("dfsctl.listing:locate", "Where each piece of a file lies."),
        "verify": Entry("dfsctl.verify:verify", "Check every replica of a file where it lies."),
        "mkdir": Entry("dfsctl.namespace:mkdir", "Make directories."),
        "mv": Entry("dfsctl.namespace:mv", "Rename or move."),
        "cp": Entry("dfsctl.namespace:cp", "Copy on the servers, sharing chunks."),
        "rm": Entry("dfsctl.namespace:rm", "Remove to the trash."),
        "setrep": Entry("dfsctl.namespace:setrep", "How many replicas a file has."),
        "undelete": Entry("dfsctl.trash:undelete", "Bring back what was removed from a path."),
        "trash": Group(
            "trash",
            help="What rm, overwriting and mv --force replaced.",
            table={
                "ls": Entry("dfsctl.trash:ls", "What lies in the trash."),
                "restore": Entry("dfsctl.trash:restore", "Bring one entry back."),
                "empty": Entry("dfsctl.trash:empty", "Give the space back; cannot be undone."),
            },
        ),
        "leader": Entry("dfsctl.cluster:leader", "Who leads now."),
        "status": Entry("dfsctl.cluster:status", "The whole cluster at a glance."),
        "events": Entry("dfsctl.events:events", "What happened to the cluster, as its coordinators saw it."),
        "top": Entry("dfsctl.top:top", "What the nodes are doing now."),
        "bench": Entry("dfsctl.bench:bench", "How fast this cluster is, from here."),
        "cluster": Group(
            "cluster",
            help="The cluster's own life.",
            table={"init": Entry("dfsctl.cluster:init", "Make a cluster of empty coordinators, once.")},
        ),
        "node": Group(
            "node",
            help="The nodes of the cluster.",
            table={
                "ls": Entry("dfsctl.node:ls", "All nodes, or those a selector matches."),
                "show": Entry("dfsctl.node:show_", "Everything about one node."),
                "label": Entry("dfsctl.node:label", "Set (key=value) and remove (key-) labels."),
                "drain": Entry("dfsctl.node:drain", "Give a node nothing new."),
                "undrain": Entry("dfsctl.node:undrain", "Use a drained node again."),
                "decommission": Entry("dfsctl.leaving:decommission", "Move everything off a node, for good."),
                "maintenance": Entry("dfsctl.leaving:maintenance", "Let a node be away for a while."),
                "forget": Entry("dfsctl.node:forget", "Strike a node that is gone for good."),
                "shutdown": Entry(
                    "dfsctl.fleet:shutdown", "End nodes in order, never the last copy or a quorum."
                ),
                "restart": Entry("dfsctl.restart:restart", "Restart nodes in waves, each waited for."),
                "logs": Entry("dfsctl.fleet:logs", "What nodes logged, once or as it comes."),
                "loglevel": Entry("dfsctl.fleet:loglevel", "Read or set nodes' log level."),
                "exec": Entry("dfsctl.fleet:execute", "Have many nodes do something."),
            },
        ),
        "raft": Group(
            "raft",
            help="The coordinators' Raft group.",
            table={
                "status": Entry(
                    "dfsctl.raft:status", "Term, indexes and members as one coordinator sees them."
                ),
                "members": Entry("dfsctl.raft:members", "The members of the group."),
                "hash": Entry("dfsctl.raft:hash_", "The members' state hashes at one index."),
                "transfer": Entry("dfsctl.raft:transfer", "Hand leadership over."),
                "add": Entry("dfsctl.raft:add", "Take in another coordinator."),
                "remove": Entry("dfsctl.raft:remove", "Remove a member."),
                "recover": Entry("dfsctl.raft:recover", "After a lost majority: go on with one survivor."),
                "rejoin": Entry("dfsctl.raft:rejoin", "Bring back a member that lost its disk."),
            },
        ),
        "repair": Group(
            "repair",
            help="The making of replicas that are lacking.",
            table={
                "status": Entry("dfsctl.duties:repair_status", "How much is being made, and waits."),
                "now": Entry("dfsctl.duties:repair_now", "Look anew, and try again what failed, at once."),
            },
        ),
        "scrub": Group(
            "scrub",
            help="The reading and verifying of everything that datanodes hold.",
            table={
                "status": Entry("dfsctl.scrub:status", "How far each datanode is."),
                "start": Entry("dfsctl.scrub:start", "Read on, at a pace of your own."),
                "stop": Entry("dfsctl.scrub:stop", "Read nothing until it is started."),
            },
        ),
        "fsck": Entry("dfsctl.fsck:fsck", "The metadata against what the datanodes have, both ways."),
        "balance": Group(
            "balance",
            help="Moving replicas from fuller datanodes to emptier ones.",
            table={
                "plan": Entry("dfsctl.balance:plan", "What would be moved."),
                "start": Entry("dfsctl.balance:start", "Move until the nodes are evenly full."),
                "pause": Entry("dfsctl.balance:pause", "Begin no move until it is resumed."),
                "resume": Entry("dfsctl.balance:resume", "Go on moving."),
                "status": Entry("dfsctl.balance:status", "Where it stands, and how full each node is."),
            },
        ),
        "gc": Group(
            "gc",
            help="The collection of chunks that nothing refers to.",
            table={
                "status": Entry("dfsctl.gc:status", "Where it stands."),
                "run": Entry("dfsctl.gc:run", "Run a cycle now, or see what it would do."),
                "pause": Entry("dfsctl.gc:pause", "Condemn and delete nothing until it is resumed."),
                "resume": Entry("dfsctl.gc:resume", "Go on collecting."),
                "candidates": Entry("dfsctl.gc:candidates", "Orphans that are not condemned yet."),
                "explain": Entry("dfsctl.gc:explain", "Everything about one chunk."),
                "release": Entry("dfsctl.gc:release", "End the hold of chunks: they may go."),
                "quarantine": Group(
                    "quarantine",
                    help="Chunks that were deleted and are still there.",
                    table={
                        "ls": Entry("dfsctl.gc:quarantine_ls", "What datanodes have in quarantine."),
                        "restore": Entry("dfsctl.gc:quarantine_restore", "Bring chunks back, and hold them."),
                    },
                ),
            },
        ),
        "auth": Group(
            "auth",
            help="Access tokens: who may look at, operate and administer the cluster.",
            table={
                "token": Group(
                    "token",
                    help="Bearer tokens with a role; QUORUMFS_TOKEN carries one.",
                    table={
                        "create": Entry("dfsctl.auth:create", "Make a token; its secret is shown once."),
                        "ls": Entry("dfsctl.auth:ls", "The tokens there are, without their secrets."),
                        "revoke": Entry("dfsctl.auth:revoke", "End a token."),
                    },
                ),
            },
        ),
        "backup": Group(
            "backup",
            help="Copies of the metadata.",
            table={
                "create": Entry("dfsctl.backup:create", "Copy the metadata of the running cluster."),
                "verify": Entry("dfsctl.backup:verify", "Is a backup whole?"),
                "restore": Entry("dfsctl.backup:restore", "Begin a new history from a backup."),
            },
        ),
        "config": Group(
            "config",
            help="A node's configuration file, judged by its own daemon.",
            table={
                "check": Entry("dfsctl.config:check", "Is the file good?"),
                "origin": Entry("dfsctl.config:origin", "Each effective value and where it came from."),
            },
        ),
        "dev": Group(
            "dev",
            help="A real cluster of real processes on this machine.",
            with_directory=True,
            table={
                "up": Entry("dfsctl.dev:up", "Start it, make it if it is new, wait until it is ready."),
                "down": Entry("dfsctl.dev:down", "Stop every process of it."),
                "status": Entry("dfsctl.dev:status", "Its processes."),
                "kill": Entry("dfsctl.dev:kill", "SIGKILL a node."),
                "stop": Entry("dfsctl.dev:stop", "SIGTERM a node."),
                "start": Entry("dfsctl.dev:start", "Start a node again."),
                "pause": Entry("dfsctl.dev:pause", "SIGSTOP a node: it hangs."),
                "resume": Entry("dfsctl.dev:resume", "SIGCONT a node."),
                "partition": Entry("dfsctl.dev:partition", "Cut nodes off from all others."),
                "heal": Entry("dfsctl.dev:heal", "Everybody reaches everybody again."),
                "tour": Entry(
                    "dfsctl.tour:tour", "Store a file, kill the leader, read it back: see it work."
                ),
            },
        ),
        "completion": Entry("dfsctl.about:completion", "Tab completion for bash, zsh or fish."),
        "version": Entry("dfsctl.about:version", "The version of this program."),
    },
)
