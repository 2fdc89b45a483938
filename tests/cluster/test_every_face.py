"""Every endpoint and every command on a real cluster, in every state: answered within two seconds, truthfully, with the
right status or exit code. The tables, and what is right: tests/support/faces.py."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from dfsctl.commands import dfsctl as tree
from quorumfs import Client
from quorumfs.discovery import TOKEN_VARIABLE
from quorumfs.limits import LEADERLESS_SECONDS
from quorumfs.local.layout import NodeSpec
from quorumfs.testing import LocalCluster, cluster_fixture, wait_for
from tests.house.generate import ROOT
from tests.support import faces
from tests.support.agents import Answer, ask
from tests.support.commands import Dfsctl, Said
from tests.support.faces import COMMANDS, ROUTES, Command, Found, Route, State, World
from tests.support.shells import Shells
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

ANSWER_SECONDS = 2.0
WAIT_SECONDS = (
    60.0  # for what begins something and waits for its end, or starts a daemon's program to judge a file
)
AT_ONCE = 3
SHOWN_MAX = 10_000  # characters of each stream of a command that failed
COORDINATORS = ("c1", "c2", "c3")
OF_THE_LEADER = ("/v1/gc", "/v1/repair", "/v1/balance", "/v1/cluster/durability")
STATES: Sequence[State] = (
    "healthy",
    "a datanode hangs",
    "the leader hangs",
    "a datanode is dead",
    "the leader is dead",
    "leaderless",
)

cluster = cluster_fixture(labels={"zone": ("a", "b", "c")})


class Faces:
    """What all states share: a cluster with tokens, files and a backup, and the shells."""

    def __init__(self, cluster: LocalCluster, home: Path) -> None:
        self.cluster, self.home = cluster, home
        plain = Dfsctl(home, cluster.coordinators)
        made = plain.well("auth", "token", "create", "--role", "admin", "--name", "root", "-o", "json").json
        self.token = str(made["token"])
        self.headers = {"Authorization": f"Bearer {self.token}"}
        self.environment = {**plain.environment(), TOKEN_VARIABLE: self.token}
        self.contract = ask(cluster.nodes[0], "/openapi.json").json
        self.validators: dict[tuple[str, str, int], Any] = {}
        (home / "tree").mkdir()
        (home / "tree" / "leaf").write_bytes(b"x" * 100_000)
        (home / "file").write_bytes(b"y" * 100_000)
        with cluster.client() as fs:
            fs.makedirs("/face/empty")
            fs.write_bytes("/face/a", b"x" * 300_000)
            fs.write_bytes("/face/text", b"one\ntwo\n")
            self.chunk = fs.locate("/face/a")[0].chunk
        self.numbers = itertools.count()

    def prepare(self, fs: Client, at: str) -> None:
        """What commands move, remove and bring back."""
        fs.mkdir(at)
        for name in ("mv", "rm", "gone"):
            fs.write_bytes(f"{at}/{name}", b"1")
        fs.delete(f"{at}/gone")

    def fill(self, text: str, world: World, at: str) -> list[str]:
        coordinator = next((one for one in world.victims if one.startswith("c")), "c1")
        given = {
            "at": at,
            "file": self.home / "file",
            "tree": self.home / "tree",
            "new": self.home / f"new-{next(self.numbers)}",
            "nowhere": self.home / "nowhere",
            "backup": self.home / "backup",
            "config": self.cluster.layout.process(self.cluster.layout.node("c1"), "node").config,
            "dir": self.cluster.directory,
            "chunk": world.chunk,
            "victim": coordinator,
            "name": at.rpartition("/")[2],
        }
        return [word.format(**given) for word in text.split()]


@pytest.fixture(scope="module")
def every(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Faces:
    return Faces(cluster, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def shells(every: Faces) -> Iterator[Shells]:
    with Shells(AT_ONCE, every.environment, every.home) as made:
        made.run(["backup", "create", every.home / "backup"])
        yield made


# --- the states -------------------------------------------------------------------------------------------


@contextmanager
def trouble(cluster: LocalCluster, state: State) -> Iterator[tuple[str, ...]]:
    """The cluster in this state, for as long as it takes everybody to know; the nodes that hang or are dead."""
    leader = cluster.leader()
    followers = [one for one in COORDINATORS if one != leader]
    hung, dead = {
        "healthy": ([], []),
        "a datanode hangs": (["d2"], []),
        "the leader hangs": ([leader], []),
        "a datanode is dead": ([], ["d2"]),
        "the leader is dead": ([], [leader]),
        "leaderless": ([leader], [followers[0]]),
    }[state]
    pids = {one: _pid(cluster, one) for one in hung}
    for node_id in hung:
        cluster.pause(node_id)
    for node_id in dead:
        cluster.kill(node_id)
    victims = (*hung, *dead)
    try:
        wait_for(lambda: _is_known(cluster, state, hung, dead), 30.0, f"everybody knows: {state}")
        yield victims
    finally:
        for node_id in hung:
            cluster.resume(node_id)
        cluster.start_all()
    assert {one: _pid(cluster, one) for one in hung} == pids, "who hung has obeyed nothing that was refused"


def _pid(cluster: LocalCluster, node_id: str) -> int | None:
    processes = cluster.local.status()["processes"]
    return next(one["pid"] for one in processes if (one["node_id"], one["kind"]) == (node_id, "node"))


def _is_known(cluster: LocalCluster, state: State, hung: list[str], dead: list[str]) -> bool:
    victims = {*hung, *dead}
    for node in cluster.nodes:
        health = ask(node, "/health")
        if health.json["node"]["state"] != (
            "hung" if node.node_id in hung else "down" if node.node_id in dead else "ok"
        ):
            return False
        if state != "leaderless" and node.node_id not in victims and health.status != 200:
            return False  # the next leader has not acknowledged it yet
        leader = ask(node, "/leader").json["leader"]
        if (leader is None) is not (state == "leaderless") or (leader and leader["node_id"] in victims):
            return False
    if state == "leaderless":
        left = next(one for one in COORDINATORS if one not in victims)
        raft = ask(cluster.layout.node(left), "/v1/raft").json
        heard = [one["heard_age_seconds"] for one in raft["members"] if one["node_id"] in victims]
        return all(age is None or age > LEADERLESS_SECONDS + 0.5 for age in heard)
    view = ask(cluster.nodes[0] if "c1" not in victims else cluster.nodes[1], "/v1/cluster").json
    members = [*view["coordinators"], *view["datanodes"]]
    return bool(view["current"]) and all(
        (one["state"] != "alive") is (one["node_id"] in victims) for one in members
    )


def world_at(every: Faces, state: State, victims: tuple[str, ...], node: NodeSpec | None = None) -> World:
    made = World(state, victims, every.chunk)
    if node is None:
        return made
    own = ask(node, "/health").json["node"]["state"]
    return replace(made, node_id=node.node_id, role=node.role, own=own)


# --- endpoints --------------------------------------------------------------------------------------------


def check_routes(every: Faces, world: World, nodes: Sequence[NodeSpec], found: Found) -> None:
    leader = every.cluster.leader() if world.led else None
    jobs = [
        (world_at(every, world.state, world.victims, node), node, key, route)
        for node in nodes
        for key, route in ROUTES.items()
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for wrong in pool.map(lambda job: _check_route(every, *job, leader, found), jobs):
            found.wrong += wrong


def _check_route(
    every: Faces,
    world: World,
    node: NodeSpec,
    key: tuple[str, str],
    route: Route,
    leader: str | None,
    found: Found,
) -> list[str]:
    method, pattern = key
    path = (route.path or pattern).replace("{chunk}", world.chunk)
    body, expected = route.body, route.statuses(world)
    if key == ("post", "/shutdown") and world.own == "ok":
        body, expected = {"mode": "nonsense"}, (400,)
    name = f"{world.state}: {method.upper()} {path} at {world.node_id}"
    answer = ask(node, path, method.upper(), body, every.headers)
    found.took(
        name,
        answer.seconds,
        ANSWER_SECONDS,
        lambda: ask(node, path, method.upper(), body, every.headers).seconds,
    )
    wrong = (
        [] if answer.status in expected else [f"HTTP {answer.status}, not {expected}: {answer.text[:300]}"]
    )
    wrong += _against_contract(every, method, pattern, answer)
    wrong += _lies(world, pattern, answer, leader)
    if method != "get":
        change = route.change or body
        refused = ask(node, path, method.upper(), change)
        again = lambda: ask(node, path, method.upper(), change).seconds  # noqa: E731
        found.took(f"{name} without a token", refused.seconds, ANSWER_SECONDS, again)
        if refused.status != 401:
            wrong.append(f"without a token: HTTP {refused.status}")
    return [f"{name}: {one}" for one in wrong]


def _against_contract(every: Faces, method: str, pattern: str, answer: Answer) -> list[str]:
    told = every.contract["paths"][pattern][method]["responses"].get(str(answer.status))
    if told is None:
        return [f"HTTP {answer.status} is not in the contract"]
    if answer.kind not in told["content"]:
        return [f"{answer.kind} is not in the contract"]
    if answer.kind != "application/json":
        return []
    key = (pattern, method, answer.status)
    if key not in every.validators:
        schema = {**told["content"][answer.kind]["schema"], "components": every.contract["components"]}
        every.validators[key] = jsonschema_rs.validator_for(schema, validate_formats=True)
    return [
        f"{error.message} at {error.instance_path}"
        for error in every.validators[key].iter_errors(answer.json)
    ]


def _lies(world: World, pattern: str, answer: Answer, leader: str | None) -> list[str]:
    """What an answer says and is not so."""
    if pattern == "/metrics":
        up = [line for line in answer.text.splitlines() if line.startswith("quorumfs_node_up{")]
        return [] if up and up[0].endswith(" 1.0" if world.own == "ok" else " 0.0") else [f"{up}"]
    if pattern.startswith("/health") and world.own != "ok":
        word = {"hung": "hang", "down": "down"}[world.own]
        return [] if word in answer.text else [f"it does not say that the node is {world.own}"]
    if answer.kind != "application/json" or (answer.status >= 400 and pattern != "/leader"):
        return []
    told = answer.json
    wrong = []
    if pattern == "/status" and world.own != "ok" and not told["age_seconds"]:
        wrong.append("what it said last is told without its age")
    named = told.get("leader") if isinstance(told.get("leader"), dict) else None
    named_id = (named or {}).get("node_id") or ((named or {}).get("leader") or {}).get("node_id")
    if pattern == "/leader" and named_id != leader:
        wrong.append(f"{named_id} leads, and not {leader}")
    if pattern == "/status" and told["node"]["state"] != world.own:
        wrong.append(f"the node is {world.own}, and not {told['node']['state']}")
    is_new = told.get("current") and told.get("authoritative", True)
    if pattern in ("/v1/cluster", "/v1/raft") and is_new and named_id in world.victims:
        wrong.append(f"{named_id} does not lead")
    if pattern == "/v1/cluster" and world.led:
        # A follower that answers for a leader who is late knows no datanode's state, and says that it does not lead.
        may_not_know = not told["authoritative"] and any(one in COORDINATORS for one in world.victims)
        for one in (*told["coordinators"], *told["datanodes"]):
            if one["state"] == "unspecified" and may_not_know:
                continue
            if (one["state"] == "alive") is (one["node_id"] in world.victims):
                as_of = {
                    name: told[name] for name in ("authoritative", "age_seconds", "observed_by", "reason")
                }
                wrong.append(f"{one['node_id']} is not {one['state']}, as of {as_of}")
    if pattern in OF_THE_LEADER and not world.led and told.get("current"):
        wrong.append("it is told as current, and nobody leads")
    if pattern == "/v1/cluster/exec":
        wrong += _lies_of_results(world, told["results"])
    return wrong


def _lies_of_results(world: World, results: Sequence[dict[str, Any]]) -> list[str]:
    failed = {one["node_id"] for one in results if not one["ok"]}
    # Without a leader nobody is ready, and says so.
    expected = {*world.victims} if world.led else {one["node_id"] for one in results}
    return [] if failed == expected else [f"{sorted(failed)} fail, and not {sorted(expected)}"]


# --- commands ---------------------------------------------------------------------------------------------


def check_commands(
    every: Faces, shells: Shells, world: World, found: Found, *, everything: bool = True
) -> None:
    """`everything`: also those that steer, or wait, while one node is away: they go to the leader as others do."""
    at = f"/face/{world.state.replace(' ', '-')}-{next(every.numbers)}"
    leader = None
    if world.led:
        leader = every.cluster.leader()
        with every.cluster.client() as fs:
            every.prepare(fs, at)
    rows = [(name, row) for name, row_s in COMMANDS.items() for row in row_s if not row.elsewhere]
    if not everything and world.led and world.victims:
        rows = [(name, row) for name, row in rows if not row.steers and not row.waits]
    if world.state != "healthy":
        rows = [(name, row) for name, row in rows if row.expected != "here" or name == "dev status"]

    def run(job: tuple[str, Command]) -> list[str]:
        return _check_command(every, shells, world, at, *job, leader, found)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for wrong in pool.map(run, [one for one in rows if not one[1].steers]):
            found.wrong += wrong
    for job in rows:
        if job[1].steers:
            found.wrong += run(job)


def _check_command(
    every: Faces,
    shells: Shells,
    world: World,
    at: str,
    name: str,
    row: Command,
    leader: str | None,
    found: Found,
) -> list[str]:
    argv = [*name.split(), *every.fill(row.argv, world, at)]
    shown = f"{world.state}: dfsctl {name} {row.argv}"
    words = argv if row.bytes_out else [*argv, "-o", "json"]
    said = shells.run(words)
    again = None if row.steers else lambda: shells.run(words).seconds
    found.took(shown, said.seconds, WAIT_SECONDS if row.waits and world.led else ANSWER_SECONDS, again)
    wrong = []
    expected = row.codes(world)
    if said.code not in expected:
        wrong.append(f"exit code {said.code}, not {expected}")
    if "Traceback" in said.err + said.text:
        wrong.append(said.err)
    if not row.bytes_out:
        broken = _against_words(said)
        wrong += broken or _lies_of(world, name, row, said, leader)
    return [f"{shown}: {one}\n{_in_full(said)}" for one in wrong]


def _in_full(said: Said) -> str:
    """All that a command has said: who was silent stands on stderr, and why it was believed in the numbers."""
    try:
        out = json.dumps(said.json)
    except ValueError:
        out = said.text
    parts = (("stdout", out), ("stderr", said.err))
    told = [f"    {name}: {line}" for name, text in parts for line in text[:SHOWN_MAX].splitlines()]
    return "\n".join([f"    exit code {said.code} after {said.seconds:.2f} s", *told])


def _against_words(said: Said) -> list[str]:
    """JSON on stdout whatever happens; an error has its four parts, and the same in words."""
    try:
        told = said.json
    except ValueError:
        return [f"no JSON: {said.text[:200]!r}"]
    wrong = []
    error = told.get("error") if isinstance(told, dict) else None
    if error is not None and not {"code", "message", "cause", "next"} <= error.keys():
        wrong.append(f"half an error: {error}")
    if said.code and not said.err.strip():
        wrong.append("it fails without a word")
    return wrong


def _lies_of(world: World, name: str, row: Command, said: Said, leader: str | None) -> list[str]:
    """What a command says and is not so."""
    told: Any = said.json
    wrong = []
    if name in ("leader", "status"):
        named = (told.get("leader") or {}).get("node_id")
        if named != leader:
            wrong.append(f"{named} leads, and not {leader}")
    if name in ("status", "node ls") and world.led and row.argv == "":
        nodes = told if name == "node ls" else [*told["coordinators"], *told["datanodes"]]
        for one in nodes:
            if (one["state"] == "alive") is (one["node_id"] in world.victims):
                wrong.append(f"{one['node_id']} is told to be {one['state']}")
    if name == "node exec" and row.argv.startswith("health"):
        wrong += _lies_of_results(world, told["results"])
    if name == "dev status":
        running = {
            one["node_id"] for one in told["processes"] if one["kind"] == "node" and one["state"] == "running"
        }
        if running & {*world.victims} or len(running) + len(world.victims) != 6:
            wrong.append(f"{sorted(running)} run")
    if name == "scrub status":
        silent = {one["node_id"] for one in told if one["error"]}
        if silent != {one for one in world.victims if one.startswith("d")}:
            wrong.append(f"{sorted(silent)} do not answer")
    if name == "raft hash" and said.code in (0, 8):
        silent = {one["node_id"] for one in told if "error" in one}
        if silent != {one for one in world.victims if one.startswith("c")}:
            wrong.append(f"{sorted(silent)} have no hash")
    return wrong


# --- the tests --------------------------------------------------------------------------------------------


def test_no_endpoint_and_no_command_is_forgotten(every: Faces) -> None:
    told = {(method, path) for path, operations in every.contract["paths"].items() for method in operations}
    assert faces.without_row(told, ROUTES) == ([], [])
    assert faces.without_row(faces.names(tree), COMMANDS) == ([], [])
    for rows in COMMANDS.values():
        assert all(not row.elsewhere or Path(row.elsewhere).is_file() for row in rows)


def test_every_metric_of_the_dashboard_and_of_the_alerts_exists(every: Faces) -> None:
    told = "\n".join(ask(node, "/metrics").text for node in every.cluster.nodes)
    there = set(re.findall(r"^# TYPE (\S+) ", told, re.MULTILINE)) | set(
        re.findall(r"^\w+", told, re.MULTILINE)
    )
    for file in ("grafana/quorumfs.json", "prometheus/alerts.yml"):
        named = set(re.findall(r"\b(?:quorumfs|process)_\w+", (ROOT / "deploy" / file).read_text()))
        assert len(named) > 8
        assert named <= there, file


@pytest.mark.parametrize("state", STATES)
def test_every_face_answers_in_time_and_truthfully(every: Faces, shells: Shells, state: State) -> None:
    found = Found()
    with trouble(every.cluster, state) as victims:
        world = world_at(every, state, victims)
        chosen = [*victims[:1], *(one for one in ("c1", "c2", "c3", "d1") if one not in victims)][:3]
        check_routes(every, world, [every.cluster.layout.node(one) for one in (*chosen[:2], "d1")], found)
        check_commands(every, shells, world, found, everything=False)
    assert found.wrong == [], "\n".join(found.wrong)


def first_questions(
    shells: Shells, state: str, asked: Sequence[tuple[str, tuple[int, ...]]], found: Found
) -> list[Said]:
    """Asked at once, before anybody has noticed anything: each for the first and only time."""

    def run(row: tuple[str, tuple[int, ...]]) -> Said:
        words, codes = row
        said = shells.run([*words.split(), "-o", "json"])
        found.took(f"{state}: dfsctl {words}", said.seconds, ANSWER_SECONDS)
        wrong = [] if said.code in codes else [f"exit code {said.code}, not {codes}"]
        wrong += _against_words(said)
        found.wrong += [f"{state}: dfsctl {words}: {one}\n{_in_full(said)}" for one in wrong]
        return said

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(run, asked))


def test_the_first_questions_after_a_datanode_hangs_are_answered_without_it(
    every: Faces, shells: Shells
) -> None:
    found = Found()
    asked = (("gc quarantine ls", (8,)), (f"gc explain {every.chunk}", (0,)), ("fsck", (8,)))
    every.cluster.pause("d2")
    try:
        listed, story, _ = first_questions(shells, "d2 hangs", asked, found)
    finally:
        every.cluster.resume("d2")
    assert found.wrong == [], "\n".join(found.wrong)
    assert "d2 did not tell" in listed.err
    assert story.json["state"] == "referenced"


def test_the_first_questions_after_the_quorum_is_lost_are_answered_with_what_each_coordinator_says(
    every: Faces, shells: Shells
) -> None:
    found = Found()
    leader = every.cluster.leader()
    other, left = (one for one in COORDINATORS if one != leader)
    asked = tuple((words, (5,)) for words in ("leader", "status", "node ls", "gc status", "raft members"))
    every.cluster.pause(leader)
    every.cluster.kill(other)
    try:
        told = first_questions(shells, "the quorum is lost", asked, found)
    finally:
        every.cluster.resume(leader)
        every.cluster.start_all()
    assert found.wrong == [], "\n".join(found.wrong)
    for said in told:
        cause = said.json["error"]["cause"]
        assert left in cause, cause
        assert "does not answer" in cause, cause
        assert "does not run" in cause, cause


AGENTS_COMMANDS: Sequence[tuple[str, tuple[int, ...]]] = (
    ("node exec status --all", (8,)),
    ("node exec health --all", (8,)),
    ("node exec status -n {victim}", (7,)),
    ("node loglevel --all", (8,)),
    ("node logs --all --since 1h --level warning", (8,)),
    ("node logs {victim}", (7,)),
    ("node restart --status", (5,)),  # perhaps it runs one
    ("node restart d9", (3,)),
    ("top --interval 0.2", (0,)),
    ("status", (0,)),
    ("node ls", (0,)),
    ("node show {victim}", (0,)),
    ("leader", (0,)),
    ("events", (0,)),
    ("node label {victim} seen-", (0,)),
)


def test_an_agent_that_hangs_costs_its_own_answer_only(every: Faces, shells: Shells) -> None:
    """Of the leader's, which is asked first, and of a datanode's: the nodes themselves are well."""
    found = Found()
    for victim in (every.cluster.leader(), "d2"):
        every.cluster.pause(victim, "sidecar")
        try:
            for words, codes in AGENTS_COMMANDS:
                # The courses are coordinators'.
                expected = (3,) if "restart" in words and victim == "d2" else codes
                found.wrong += _beside_a_hung_agent(shells, victim, words, expected, found)
            for node in every.cluster.nodes:
                if node.node_id != victim:
                    answer = ask(node, "/leader", headers=every.headers)
                    found.took(f"/leader of {node.node_id} beside {victim}", answer.seconds, ANSWER_SECONDS)
                    if answer.json["leader"]["node_id"] != every.cluster.leader():
                        found.wrong.append(f"{node.node_id} does not know the leader: {answer.text}")
        finally:
            every.cluster.resume(victim, "sidecar")
    assert found.wrong == [], "\n".join(found.wrong)


def _beside_a_hung_agent(
    shells: Shells, victim: str, words: str, codes: tuple[int, ...], found: Found
) -> list[str]:
    argv = [*words.format(victim=victim).split(), "-o", "json"]
    said = shells.run(argv)
    shown = f"{victim}'s agent hangs: dfsctl {' '.join(argv)}"
    found.took(shown, said.seconds, ANSWER_SECONDS, lambda: shells.run(argv).seconds)
    wrong = [] if said.code in codes else [f"exit code {said.code}, not {codes}: {said.err or said.text}"]
    wrong += _against_words(said)
    told = said.json
    if words.startswith(("node exec", "node loglevel")) and "results" in told:
        failed = {one["node_id"] for one in told["results"] if not one["ok"]}
        if failed != {victim}:
            wrong.append(f"{sorted(failed)} fail")
    if words.startswith("top"):
        silent = {one["node_id"] for one in told if one["error"]}
        if silent != {victim}:
            wrong.append(f"{sorted(silent)} are told as silent")
    return [f"{shown}: {one}" for one in wrong]


@pytest.mark.long
@pytest.mark.parametrize("state", STATES)
def test_every_agent_does_in_every_state_and_again(every: Faces, shells: Shells, state: State) -> None:
    found = Found()
    begun = time.monotonic()
    with trouble(every.cluster, state) as victims:
        world = world_at(every, state, victims)
        for _ in range(3):
            check_routes(every, world, every.cluster.nodes, found)
            check_commands(every, shells, world, found)
    print(f"\n{state}, {time.monotonic() - begun:.0f} s; slowest of {len(found.slowest)}:")
    for name, seconds in sorted(found.slowest.items(), key=lambda one: -one[1])[:12]:
        print(f"  {seconds:5.2f} s  {name}")
    assert found.wrong == [], "\n".join(found.wrong)


def test_nobody_has_thrown_up_its_hands(cluster: LocalCluster) -> None:
    assert surprises(cluster) == []
