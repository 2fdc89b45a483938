"""How every endpoint and every command is to be asked in a cluster's every state, and what it has to answer then.

A route or a command without a row here fails the test that goes through them (tests/cluster/test_every_face.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dfsctl.shell import Group

State = Literal[
    "healthy",
    "leaderless",
    "a datanode hangs",
    "the leader hangs",
    "a datanode is dead",
    "the leader is dead",
]
OwnNode = Literal["ok", "hung", "down"]


@dataclass(frozen=True, slots=True)
class World:
    """The moment: `victims` are the nodes that hang or are dead, `own` how the asked agent's node is, `chunk` one that
    a file has."""

    state: State
    victims: tuple[str, ...]
    chunk: str = ""
    node_id: str = ""
    role: str = ""
    own: OwnNode = "ok"

    @property
    def led(self) -> bool:
        return self.state != "leaderless"

    @property
    def coordinators_lost(self) -> bool:
        return any(one.startswith("c") for one in self.victims)

    @property
    def datanodes_lost(self) -> bool:
        return any(one.startswith("d") for one in self.victims)


# --- endpoints --------------------------------------------------------------------------------------------

Kind = Literal[
    "agent",  # by the agent alone, or with what the node said last
    "live",
    "well",  # ready, healthy
    "leader",
    "node",  # by the node, if it answers
    "order to the node",
    "labels",  # by the node and the leader
    "members",  # by any coordinator
    "led",  # by the leader only
    "kept",  # by the leader; else what it said last, as old as it is
    "coordinator",  # steering: by coordinators' agents only
]


@dataclass(frozen=True, slots=True)
class Route:
    """`well`: the statuses of a good answer. `{chunk}` and `{node}` in the path are filled in. `change`: the body of a
    change, where `body` only asks."""

    kind: Kind
    path: str = ""
    body: Mapping[str, Any] | None = None
    change: Mapping[str, Any] | None = None
    well: tuple[int, ...] = (200,)

    def statuses(self, world: World) -> tuple[int, ...]:
        """With which it may answer."""
        own_fails = {"ok": self.well, "hung": (504,), "down": (503,)}[world.own]
        led = self.well if world.led else (503,)
        match self.kind:
            case "agent" | "members":
                return self.well
            case "live":
                return self.well if world.own == "ok" else (503,)
            case "well":
                return self.well if world.own == "ok" and world.led else (503,)
            case "leader" | "led":
                return led
            case "node" | "order to the node":
                return own_fails
            case "labels":
                return own_fails if world.own != "ok" else led
            case "kept":
                return self.well if world.led else (*self.well, 503)
            case "coordinator":
                return self.well if world.role == "coordinator" else (409,)


ROUTES: Mapping[tuple[str, str], Route] = {
    ("get", "/health"): Route("well"),
    ("get", "/health/live"): Route("live"),
    ("get", "/health/ready"): Route("well"),
    ("get", "/leader"): Route("leader"),
    ("get", "/status"): Route("agent"),
    ("get", "/metrics"): Route("agent"),
    ("get", "/openapi.json"): Route("agent"),
    ("get", "/"): Route("agent", well=(302,)),
    ("get", "/ui/"): Route("agent"),
    ("get", "/ui/{name}"): Route("agent", "/ui/app.js"),
    ("get", "/logs/stream"): Route("node", "/logs/stream?follow=0&level=info&since=1h"),
    ("get", "/logs/level"): Route("node"),
    ("put", "/logs/level"): Route("order to the node", body={"level": "info"}),
    # Of a node that is well it would be the end (tests/cluster/test_sidecars.py): there it is refused.
    ("post", "/shutdown"): Route("order to the node", body={"reason": "must not arrive"}, well=()),
    ("delete", "/shutdown"): Route("order to the node", body={}, well=(200, 409)),
    ("get", "/v1/labels"): Route("agent"),
    ("patch", "/v1/labels"): Route("labels", body={"labels": {"seen": "yes"}}),
    ("get", "/v1/duties"): Route("node"),
    ("post", "/v1/duties/{name}"): Route(
        "order to the node", "/v1/duties/tokens", body={"action": "run"}, well=(200, 404)
    ),
    ("get", "/v1/cluster"): Route("members"),
    ("get", "/v1/cluster/nodes"): Route("members", "/v1/cluster/nodes?selector=zone"),
    ("get", "/v1/cluster/durability"): Route("kept"),
    ("post", "/v1/cluster/exec"): Route(
        "coordinator",
        body={"action": "health", "all": True},
        change={"action": "log_level", "all": True},
        well=(200, 207, 502),
    ),
    ("post", "/v1/cluster/restart"): Route("coordinator", body={"nodes": ["nobody"]}, well=(404,)),
    ("get", "/v1/cluster/restart"): Route("agent", well=(404,)),
    ("delete", "/v1/cluster/restart"): Route("agent", body={}, well=(404,)),
    ("post", "/v1/cluster/nodes/{node_id}/{action}"): Route("led", "/v1/cluster/nodes/d1/undrain", body={}),
    ("get", "/v1/raft"): Route("members"),
    ("get", "/v1/gc"): Route("kept"),
    ("post", "/v1/gc"): Route("led", body={"paused": False}),
    ("get", "/v1/gc/cycles"): Route("kept"),
    ("post", "/v1/gc/cycles"): Route("led", body={"dry_run": True}, well=(200, 202)),
    ("get", "/v1/gc/candidates"): Route("members"),
    ("get", "/v1/gc/explain/{chunk}"): Route("members", "/v1/gc/explain/{chunk}"),
    ("get", "/v1/repair"): Route("members"),
    ("post", "/v1/repair"): Route("led", body={}),
    ("get", "/v1/balance"): Route("kept"),
    ("post", "/v1/balance"): Route("led", body={"action": "resume"}, well=(200, 409)),
    ("get", "/v1/files"): Route("members", "/v1/files?path=/face"),
    ("get", "/v1/files/layout"): Route("members", "/v1/files/layout?path=/face/a"),
}


# --- commands ---------------------------------------------------------------------------------------------

Codes = tuple[int, ...]
Expected = Literal["led", "any", "here"]


@dataclass(frozen=True, slots=True)
class Command:
    """`argv`: what follows the command's name, with {file}, {dir}, {new}, {chunk}, {victim}, ... filled in.

    `expected`: "led": exit code 5 while nobody leads; "any": some coordinator answers; "here": it asks none. `code`: of
    a good answer; `coordinator_lost`, `datanode_lost`: when one of those does not answer. `steers`: it is not run
    beside others. `waits`: for what it began, or for a process that it starts, which take their time.
    """

    argv: str = ""
    expected: Expected = "led"
    code: Codes = (0,)
    coordinator_lost: Codes | None = None
    datanode_lost: Codes | None = None
    leaderless: Codes | None = None
    steers: bool = False
    waits: bool = False
    bytes_out: bool = False
    elsewhere: str = ""

    def codes(self, world: World) -> Codes:
        """With which it may end."""
        if self.expected != "here" and not world.led:
            if self.leaderless is not None:
                return self.leaderless
            if self.expected == "led":
                return (5,)
        if world.coordinators_lost and self.coordinator_lost is not None:
            return self.coordinator_lost
        if world.datanodes_lost and self.datanode_lost is not None:
            return self.datanode_lost
        return self.code


def led(argv: str = "", **more: Any) -> Command:
    return Command(argv, "led", **more)


def here(argv: str = "", **more: Any) -> Command:
    return Command(argv, "here", **more)


def anybody(argv: str = "", **more: Any) -> Command:
    return Command(argv, "any", **more)


def elsewhere(test: str) -> Command:
    return Command(elsewhere=f"tests/cluster/{test}.py")


PARTIAL: Codes = (8,)
ALL_LOST_BUT_ONE: Mapping[str, Any] = {"coordinator_lost": PARTIAL, "leaderless": PARTIAL}

COMMANDS: Mapping[str, Sequence[Command]] = {
    "put": [led("{file} {at}/put")],
    "get": [led("/face/a {new}")],
    "sync": [led("{tree} {at}/sync")],
    "cat": [led("/face/a", bytes_out=True)],
    "head": [led("-n 1 /face/text", bytes_out=True)],
    "tail": [led("-n 1 /face/text", bytes_out=True)],
    "ls": [led("-l /face"), led("/nowhere", code=(3,))],
    "stat": [led("/face/a")],
    "tree": [led("/face/empty")],
    "find": [led("/face --name a")],
    "du": [led("/face")],
    "df": [led()],
    "locate": [led("/face/a")],
    "verify": [led("/face/a", datanode_lost=PARTIAL)],
    "mkdir": [led("{at}/made"), led("/face", code=(4,))],
    "mv": [led("{at}/mv {at}/moved")],
    "cp": [led("/face/a {at}/copied")],
    "rm": [led("{at}/rm")],
    "setrep": [led("3 /face/a")],
    "undelete": [led("{at}/gone")],
    "trash ls": [led()],
    "trash restore": [led("999999", code=(3,))],
    "trash empty": [led("--older-than 99999 --yes")],
    "leader": [led()],
    "status": [led()],
    "events": [anybody(**ALL_LOST_BUT_ONE), anybody("--since 1h --kind node", **ALL_LOST_BUT_ONE)],
    "top": [anybody("--interval 0.2")],
    "bench": [led("meta --seconds 0.1 --size 1K --parallel 1")],
    "cluster init": [here("--secret-file {new} --make-secret")],
    "node ls": [led(), led("-l zone=a"), anybody("--stale")],
    "node show": [led("d1"), led("d9", code=(3,))],
    "node label": [led("d1 seen=yes"), led("d1 seen-")],
    "node drain": [led("d1", steers=True)],
    "node undrain": [led("d1", steers=True)],
    "node decommission": [led("d1", steers=True), led("d1 --cancel", steers=True), led("--status")],
    "node maintenance": [led("d1 --for 30s", steers=True), led("d1 --end", steers=True)],
    "node forget": [led("d1", code=(10,))],
    "node shutdown": [led("c1 c2 c3 --max-unavailable 3", code=(10,), steers=True)],
    "node restart": [anybody("--status", code=(3,)), anybody("d9", code=(3,))],
    "node logs": [anybody("--all --since 1h --level warning", datanode_lost=PARTIAL, **ALL_LOST_BUT_ONE)],
    "node loglevel": [
        anybody("--all", datanode_lost=PARTIAL, **ALL_LOST_BUT_ONE),
        anybody("d1 info"),
    ],
    "node exec": [
        anybody("status --all"),
        anybody("health --all", coordinator_lost=PARTIAL, datanode_lost=PARTIAL, leaderless=(5,)),
    ],
    "raft status": [led(), anybody("--node {victim}", coordinator_lost=(5, 7), leaderless=(5, 7))],
    "raft members": [led()],
    "raft hash": [led(coordinator_lost=PARTIAL)],
    "raft transfer": [led("c9", code=(3,))],
    "raft add": [led("127.0.0.1:1", code=(4,), steers=True)],
    "raft remove": [led("c9", code=(3,))],
    "raft recover": [here("{config}", code=(1, 10), waits=True, bytes_out=True)],
    "raft rejoin": [led("c9", code=(3, 4))],
    "repair status": [led()],
    "repair now": [led()],
    "scrub status": [anybody()],
    "scrub start": [led("d1")],
    "scrub stop": [led("d1"), led("d9", code=(3,))],
    "fsck": [led(datanode_lost=PARTIAL), led("--quick")],
    "balance plan": [led()],
    "balance start": [led(steers=True)],
    # What was started ends by itself when there is nothing left to move.
    "balance pause": [led(steers=True, code=(0, 4))],
    "balance resume": [led(steers=True, code=(0, 4))],
    "balance status": [led()],
    "gc status": [led()],
    "gc run": [led(steers=True), led("--dry-run", steers=True, waits=True)],
    "gc pause": [led(steers=True)],
    "gc resume": [led(steers=True)],
    "gc candidates": [led()],
    "gc explain": [led("{chunk}")],
    "gc release": [led("--all")],
    "gc quarantine ls": [led(datanode_lost=(8,))],
    "gc quarantine restore": [led("{chunk}", code=(0, 3, 4))],
    "auth token create": [led("--role viewer --name {name}", steers=True)],
    "auth token ls": [led()],
    "auth token revoke": [led("{name}", steers=True)],
    "backup create": [led("{new}")],
    "backup verify": [here("{backup}", waits=True)],
    "backup restore": [here("{backup} {config}", code=(4, 5, 10), waits=True)],
    "config check": [here("{config}", waits=True)],
    "config origin": [here("{config}", waits=True)],
    "dev up": [here("--dir {nowhere} --set nonsense=1", code=(2,))],
    "dev down": [here("--dir {nowhere}")],
    "dev status": [here("--dir {dir}")],
    "dev kill": [here("d9 --dir {dir}", code=(3,))],
    "dev stop": [here("d9 --dir {dir}", code=(3,))],
    "dev start": [here("d1 --dir {dir}")],
    "dev pause": [here("d9 --dir {dir}", code=(3,))],
    "dev resume": [here("d1 --dir {dir}")],
    "dev partition": [here("d1 --dir {dir}", code=(4,)), here("d9 --dir {dir}", code=(3,))],
    "dev heal": [here("--dir {dir}", code=(4,))],
    "dev tour": [elsewhere("test_the_main_job")],
    "completion": [here("bash", bytes_out=True)],
    "version": [here()],
}


def names(group: Group, before: str = "") -> Iterator[str]:
    """Every command of the tree, as it is typed."""
    for name, row in group.table.items():
        if isinstance(row, Group):
            yield from names(row, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def without_row(wanted: Iterable[Any], rows: Mapping[Any, Any]) -> tuple[list[Any], list[Any]]:
    """(those that nothing is said of here, those that are only here)."""
    there = set(wanted)
    return sorted(there - rows.keys()), sorted(rows.keys() - there)


@dataclass
class Found:
    """What was wrong, and the slowest answers."""

    wrong: list[str] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)

    def took(self, what: str, seconds: float, limit: float, again: Callable[[], float] | None = None) -> None:
        """It may be late once, for the machine has other work: who waits for somebody that hangs is late every time.
        `again` asks the same once more, and says how long that took."""
        if seconds > limit and again is not None:
            seconds = again()
        self.slowest[what] = max(seconds, self.slowest.get(what, 0.0))
        if seconds > limit:
            self.wrong.append(f"{what} took {seconds:.2f} s")
