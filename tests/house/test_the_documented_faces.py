"""The pages that others rely on name every command, exit code and endpoint there is, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dfsctl.commands import dfsctl
from dfsctl.errors import BROKEN_PIPE, INTERRUPTED
from dfsctl.fleet import execute
from dfsctl.shell import Group
from quorumfs.errors import Exit
from sidecar.actions import ACTIONS
from tests.house.generate import ROOT


def first_cells(page: str) -> list[str]:
    """The first cell of every row of every table of the page."""
    return re.findall(r"^\| ([^|]*?) \|", (ROOT / page).read_text(), re.M)


def in_code(cells: list[str]) -> list[str]:
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def commands_of(group: Group, before: str = "") -> Iterator[str]:
    for name, row in group.table.items():
        if isinstance(row, Group):
            yield from commands_of(row, f"{before}{name} ")
        else:
            yield before + name


def test_every_command_of_dfsctl_has_its_json_in_the_page() -> None:
    assert sorted(in_code(first_cells("docs/dfsctl.md"))) == sorted(commands_of(dfsctl))


def test_every_exit_code_of_dfsctl_has_its_row() -> None:
    told = [int(code) for cell in first_cells("docs/dfsctl.md") for code in re.findall(r"\b\d+\b", cell)]
    assert told == [*map(int, Exit), INTERRUPTED, BROKEN_PIPE]


def test_the_help_of_node_exec_names_every_action_there_is_and_no_other() -> None:
    words = re.sub(r"\s+", " ", execute.help or "")
    told = words.partition("ACTION: ")[2].partition(".")[0]
    assert set(told.split(", ")) == ACTIONS.keys()


def test_every_endpoint_of_the_agents_has_its_row() -> None:
    served = [
        f"{method.upper()} {path}"
        for view in sorted((ROOT / "sidecar/views").glob("*.py"))
        for method, path in re.findall(r'^@views\.(\w+)\("([^"]+)"\)', view.read_text(), re.M)
    ]
    cells = in_code(first_cells("docs/operations.md"))
    told = [cell for cell in cells if re.match(r"(GET|PUT|POST|PATCH|DELETE) /", cell)]
    assert sorted(told) == sorted(served)


def test_every_key_of_an_action_of_node_exec_is_in_the_page_and_in_the_help() -> None:
    page = (ROOT / "docs" / "dfsctl.md").read_text()
    for name, action in ACTIONS.items():
        (told,) = re.findall(rf"^- `{name}`: (.*)$", page, re.M)
        fields = [] if name == "labels" else list(action.fields)
        assert [field for field in fields if f"`{field}`" not in told] == [], name
        assert [field for field in fields if not re.search(rf"\b{field}\b", execute.help or "")] == [], name
