"""The configuration files of a local cluster's nodes, as text: ordinary files that systemd could use."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from quorumfs.errors import InvalidArgumentError
from quorumfs.limits import MIN_REPLICAS_DEFAULT, REPLICATION_DEFAULT
from quorumfs.local.layout import Layout, NodeSpec

Sections = dict[str, dict[str, Any]]

_HEAD = """\
# Written by `dfsctl dev up`. Stop the node, change what you like, start it again: nobody overwrites it
# until somebody gives `dev up` another --set or --label.
"""


def config_text(layout: Layout, node: NodeSpec) -> str:
    """The TOML of one node. Paths in it are relative to the file, so that the directory may be moved."""
    sections = _sections(layout, node)
    for key, text in layout.overrides.items():
        section, name = split_key(key)
        _put(sections.setdefault(section, {}), name, parse_value(text))
    return _HEAD + "".join(f"\n[{name}]\n{_table(values)}" for name, values in sections.items())


def parse_overrides(given: tuple[str, ...] | list[str]) -> dict[str, str]:
    """`section.key=value` texts as a table. Raises InvalidArgumentError."""
    found = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals:
            raise InvalidArgumentError(f"--set {one!r} has no value", next="write --set section.key=value")
        split_key(key.strip())
        found[key.strip()] = value.strip()
    return found


def parse_labels(given: tuple[str, ...] | list[str]) -> dict[str, tuple[str, ...]]:
    """`key=a,b,c` texts as a table: datanode k gets value k, round and round. Raises InvalidArgumentError."""
    found = {}
    for one in given:
        key, equals, values = one.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise InvalidArgumentError(f"--label {one!r} is none", next="write --label zone=a,b,c")
        found[key.strip()] = tuple(value.strip() for value in values.split(","))
    return found


def split_key(key: str) -> tuple[str, str]:
    """Section and name of `section.name` (a name may have dots). Raises InvalidArgumentError."""
    section, dot, name = key.partition(".")
    if not dot or not section or not name or not section.isidentifier():
        raise InvalidArgumentError(
            f"{key!r} is no configuration key", next="write section.key, as in gc.grace_seconds"
        )
    return section, name


def parse_value(text: str) -> Any:
    """`text` as a TOML value (5, 0.5, true, ["a"]); what is none is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _sections(layout: Layout, node: NodeSpec) -> Sections:
    sections: Sections = {
        "node": {"id": node.node_id, "role": node.role, "data_dir": "data"},
        "cluster": {
            "name": "dev",
            "coordinators": [one.address("grpc") for one in layout.coordinator_nodes],
            "secret_file": f"../{layout.secret_file.name}",
        },
        "grpc": {"host": node.host, "port": node.ports["grpc"]},
        "http": {"host": node.host, "port": node.ports["http"]},
        "security": {"mode": "insecure" if layout.hosts else "loopback"},
    }
    if node.role == "coordinator":
        sections["raft"] = {"host": node.host, "port": node.ports["raft"]}
    if 0 < layout.datanode_count < REPLICATION_DEFAULT:
        sections["data"] = {
            "replication": layout.datanode_count,
            "min_replicas": min(layout.datanode_count, MIN_REPLICAS_DEFAULT),
        }
    if node.labels:
        sections["node"]["labels"] = dict(node.labels)
    return sections


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    first, dot, rest = name.partition(".")
    if not dot:
        table[first] = value
        return
    inner = table.setdefault(first, {})
    if not isinstance(inner, dict):
        raise InvalidArgumentError(f"{name!r} goes below {first!r}, which is a value")
    inner[rest] = value


def _table(values: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in values.items())


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else json.dumps(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case dict():
            return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
        case _:
            # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
            return json.dumps(str(value)).replace("\x7f", "\\u007f")
