"""Rules about the code itself."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from quorumfs.errors import InvalidArgumentError
from quorumfs.rpc import direct_stream, methods
from tests.house.generate import ROOT

ROOMS = ("quorumfs", "common", "coordinator", "datanode", "sidecar", "dfsctl", "migrations")
VALUE_MODULES = ("errors", "ids", "mint", "clock", "limits", "backoff", "paths", "checksum", "selectors")


def sources() -> list[Path]:
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return [path for path in found if not re.search(r"_pb2(_grpc)?\.py$", path.name)]


@pytest.mark.parametrize("module", VALUE_MODULES)
def test_importing_a_value_module_loads_no_grpc(module: str) -> None:
    program = f"import sys, quorumfs.{module}; sys.exit('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60)
    assert done.returncode == 0


def test_every_module_says_what_lives_in_it() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if not path.read_text().lstrip().startswith(('"""', 'r"""'))
    ]
    assert silent == []


def test_no_room_is_a_drawer_for_anything() -> None:
    drawers = re.compile(r"^(utils?|helpers?|misc|base)(\.py)?$")
    assert [str(p) for room in ROOMS for p in (ROOT / room).rglob("*") if drawers.match(p.name)] == []


def test_no_main_path_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    left = [
        f"{p.relative_to(ROOT)}:{n}"
        for p in sources()
        for n, line in enumerate(p.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert left == []


def test_no_module_unpickles_or_evaluates_foreign_data() -> None:
    banned = re.compile(
        r"^\s*(import|from) (pickle|marshal|shelve|dill|cloudpickle)\b|\byaml\.load\(|(?<![\w.])eval\(", re.M
    )
    assert [str(p.relative_to(ROOT)) for p in sources() if banned.search(p.read_text())] == []


def test_every_module_is_reachable() -> None:
    """A file that nothing imports and no entry point names is dead."""
    text = {path: path.read_text() for path in sources()}
    everything = "\n".join(text.values()) + (ROOT / "pyproject.toml").read_text()
    dead = []
    for path in text:
        if path.name in ("__init__.py", "__main__.py") or "versions" in path.parts or path.name == "env.py":
            continue
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        package, name = dotted.rsplit(".", 1)
        ways = (
            rf"{re.escape(dotted)}\b",
            rf"from {re.escape(package)} import [^\n]*\b{name}\b",
            rf"import \([^)]*\b{name}\b",
            rf"[\"']\.?{name}[\"']",
        )
        wanted = re.compile("|".join(ways))
        if not wanted.search(everything):
            dead.append(dotted)
    assert dead == []


def test_every_call_has_its_row_in_the_protocol_page() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.M)
    served = [
        name
        for proto in sorted((ROOT / "protos").rglob("*.proto"))
        for name in re.findall(r"^  rpc (\w+)\(", proto.read_text(), re.M)
    ]
    assert sorted(rows) == sorted(served)


CALLERS = {"client", "node", "admin"}
DEADLINE = re.compile(r"\d+(\.\d+)?(, growing to \d+)?|by size|stall( \d+(, seal \d+ .*)?)?")
RETRIES = {"yes", "no", "same bytes"}
ONLY_LOOKS = (
    "Get",
    "List",
    "Explain",
    "Examine",
    "Stat",
    "Read",
    "Verify",
    "Fetch",
    "StreamLogs",
    "CreateBackup",
)


def calls() -> list[tuple[str, str, str, str, str]]:
    """Call, who, deadline, retry, note, as the protocol page tells them."""
    page = (ROOT / "docs/protocol.md").read_text()
    return re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| ?(.*?) ?\|$", page, re.M)


def test_every_call_has_a_deadline_and_a_retry_class() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    assert len(calls()) == len(re.findall(r"^\| `\w+` \|", page, re.M))
    for name, who, deadline, retry, _ in calls():
        assert who in CALLERS, name
        assert DEADLINE.fullmatch(deadline), name
        assert retry in RETRIES, name


def test_every_call_that_may_be_repeated_and_changes_something_says_why_once_is_enough() -> None:
    silent = [
        name
        for name, _, _, retry, note in calls()
        if retry == "yes" and not note and not name.startswith(ONLY_LOOKS)
    ]
    assert silent == []


def test_what_the_library_sends_again_by_itself_may_be_repeated_by_the_page() -> None:
    wrong = []
    for name, _, _, retry, _ in calls():
        for service in ("Namespace", "Membership", "Chunks", "Admin", "Control", "Trust"):
            try:
                method = methods.find(f"{service}.{name}")
            except InvalidArgumentError:
                continue
            if method.only_looks and retry != "yes":
                wrong.append(f"{service}.{name}")
    assert wrong == []


@pytest.mark.parametrize(
    ("system", "machine", "package"),
    [
        ("linux", "x86_64", "awscrt"),
        ("linux", "aarch64", "awscrt"),
        ("linux", "riscv64", "crc32c"),
        ("darwin", "x86_64", "crc32c"),
    ],
)
def test_every_platform_gets_one_package_for_checksums(system: str, machine: str, package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = {"sys_platform": system, "platform_machine": machine}
    required = map(Requirement, project["dependencies"])
    got = {one.name for one in required if one.marker is None or one.marker.evaluate(environment)}
    assert got & {"awscrt", "crc32c"} == {package}


def test_the_grpc_of_the_constraints_is_one_that_streams_were_driven_with() -> None:
    """Another one costs half as much again of a client's CPU for a small file. Read the parts that `direct_stream`
    uses in it, run tests/cluster/test_streams_of_batches.py with its release in `TRIED`, and keep it there."""
    (pinned,) = re.findall(r"^grpcio==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned.startswith(direct_stream.TRIED)
    assert direct_stream.is_possible()
