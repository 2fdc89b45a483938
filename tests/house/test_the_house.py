"""Rules about the code itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
