"""Configuration: TOML file < environment `QUORUMFS_SECTION__KEY` < `--set section.key=value`.

The schema is `config_schema.py`. Here: layers are merged, unknown keys and bad values are refused, all at
once, each with where it was written, and every effective value can say where it came from.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from common.config_schema import NodeConfig
from quorumfs.errors import InvalidArgumentError

__all__ = ["NodeConfig", "check_main", "from_command_line", "inspect", "load", "origins"]

PREFIX = "QUORUMFS_"
FILE_BYTES_MAX = 1 << 20
REDACTED = "(redacted)"


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a configuration is refused."""

    key: str
    reason: str
    origin: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason} ({self.origin})"


@dataclass(slots=True)
class _Layers:
    """Values merged so far, who said each, and what cannot be used."""

    values: dict[str, Any] = field(default_factory=dict)
    said_by: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def put(self, section: str, key: str, value: Any, origin: str) -> None:
        self.values.setdefault(section, {})[key] = value
        self.said_by[f"{section}.{key}"] = origin

    def refuse(self, key: str, reason: str, origin: str) -> None:
        self.problems.append(Problem(key, reason, origin))


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file, the environment and flags come to: a configuration, or the problems with it."""

    file: Path
    config: NodeConfig | None
    problems: tuple[Problem, ...]
    said_by: Mapping[str, str]


def load(path: Path, overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> NodeConfig:
    """The configuration of one node. Relative paths in it are relative to the file.

    Raises InvalidArgumentError that names the file and lists every unknown key and bad value with its reason.
    """
    found = inspect(path, overrides, environ)
    if found.config is None:
        raise InvalidArgumentError(
            f"{found.file}: the configuration is refused",
            cause="; ".join(map(str, found.problems)),
            next=f"correct it, then: dfsctl config check {found.file}",
        )
    return found.config


def inspect(path: Path, overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Inspection:
    """Like `load`, but problems are values. Reads the file once; never raises for what is in it."""
    path = Path(path).absolute()
    layers = _Layers()
    _read_file(path, layers)
    _read_environment(environ, layers)
    _read_overrides(overrides, layers)
    config = _validate(path, layers)
    if layers.problems:
        config = None
    return Inspection(path, config, tuple(layers.problems), layers.said_by)


def origins(
    path: Path, overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ
) -> list[tuple[str, Any, str]]:
    """(key, effective value, where it came from) of every key, secrets redacted. Raises like `load`."""
    load(path, overrides, environ)
    return _origins(inspect(path, overrides, environ))


def _origins(found: Inspection) -> list[tuple[str, Any, str]]:
    if found.config is None:
        return []
    return [
        (key, REDACTED if _is_secret(key) else value, found.said_by.get(key, "default"))
        for key, value in _leaves(found.config)
    ]


def from_command_line(program: str, role: str | None, argv: Sequence[str]) -> NodeConfig:
    """A daemon's configuration: `--config FILE [--set K=V]...`. `--check-config` answers and ends here.

    `role` is what the daemon is; a file of the other role is refused. Bad usage and a refused configuration
    end the process with status 2 and the reasons on stderr.
    """
    checked = check_main(argv, program=program, role=role)
    if checked is not None:
        raise SystemExit(checked)
    arguments = _parser(program).parse_args(argv)
    found = _of_role(inspect(arguments.config, arguments.set), role)
    if found.config is None:
        sys.stderr.write(_as_text(found) + "\n")
        raise SystemExit(2)
    return found.config


def read_again(program: str, role: str | None, argv: Sequence[str]) -> Inspection:
    """The same, of a process that runs: problems are values."""
    arguments = _parser(program).parse_args(argv)
    return _of_role(inspect(arguments.config, arguments.set), role)


def plain_leaves(config: NodeConfig) -> dict[str, Any]:
    """Every effective value by its key, as JSON has it, secrets redacted."""
    return {key: REDACTED if _is_secret(key) else _plain(value) for key, value in _leaves(config)}


def check_main(argv: Sequence[str], *, program: str = "quorumfs", role: str | None = None) -> int | None:
    """Carries out `--check-config` or `--config-origin` and returns the exit status (0, or 2 if refused).

    None when the arguments ask for neither. The answer is on stdout; as JSON with `-o json`.
    """
    arguments = _parser(program).parse_args(argv)
    if not arguments.check_config and not arguments.config_origin:
        return None
    found = _of_role(inspect(arguments.config, arguments.set), role)
    as_json = arguments.output == "json"
    if found.config is None or arguments.check_config:
        text = json.dumps(_as_json(found), indent=2) if as_json else _as_text(found)
    else:
        rows = _origins(found)
        text = (
            json.dumps(
                {
                    "file": str(found.file),
                    "settings": [{"key": k, "value": _plain(v), "origin": o} for k, v, o in rows],
                },
                indent=2,
            )
            if as_json
            else "\n".join(f"{k} = {json.dumps(_plain(v))}  # {o}" for k, v, o in rows)
        )
    sys.stdout.write(text + "\n")
    return 0 if found.config is not None else 2


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the node's TOML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting"
    )
    parser.add_argument("--check-config", action="store_true", help="say whether the file is good, then end")
    parser.add_argument(
        "--config-origin", action="store_true", help="say where each value came from, then end"
    )
    parser.add_argument("-o", dest="output", choices=("table", "json"), default="table")
    return parser


def _of_role(found: Inspection, role: str | None) -> Inspection:
    if role is None or found.config is None or found.config.node.role == role:
        return found
    origin = found.said_by.get("node.role", "default")
    problem = Problem(
        "node.role", f"this program is a {role}, the file is a {found.config.node.role}'s", origin
    )
    return Inspection(found.file, None, (problem,), found.said_by)


def _as_text(found: Inspection) -> str:
    if found.config is not None:
        return f"{found.file}: ok"
    return "\n".join(f"{found.file}: {problem}" for problem in found.problems)


def _as_json(found: Inspection) -> dict[str, Any]:
    problems = [{"key": p.key, "reason": p.reason, "origin": p.origin} for p in found.problems]
    return {"file": str(found.file), "ok": found.config is not None, "problems": problems}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _is_secret(key: str) -> bool:
    return key.endswith(("secret", "token", "password"))


def _leaves(config: NodeConfig) -> Iterator[tuple[str, Any]]:
    for section in type(config).model_fields:
        table: BaseModel = getattr(config, section)
        for key in type(table).model_fields:
            yield f"{section}.{key}", getattr(table, key)


def _sections() -> dict[str, type[BaseModel]]:
    return {
        name: info.annotation
        for name, info in NodeConfig.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
    }


# --- the layers ---------------------------------------------------------------------------------------


def _read_file(path: Path, layers: _Layers) -> None:
    origin = f"file {path}"
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            layers.refuse("(file)", f"is larger than {FILE_BYTES_MAX} bytes", origin)
            return
        values = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        layers.refuse("(file)", f"cannot be read: {error.strerror or error}", origin)
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        layers.refuse("(file)", f"is not TOML: {error}", origin)
        return
    for section, table in values.items():
        if section not in _sections():
            layers.refuse(section, "unknown section", origin)
        elif not isinstance(table, dict):
            layers.refuse(section, "must be a table", origin)
        else:
            for key, value in table.items():
                _accept(section, key, value, origin, layers)


def _read_environment(environ: Mapping[str, str], layers: _Layers) -> None:
    known = {f"{s}_{k}".upper(): (s, k) for s, model in _sections().items() for k in model.model_fields}
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        rest, origin = name.removeprefix(PREFIX), f"environment {name}"
        if "__" in rest:
            section, _, key = rest.lower().partition("__")
            _accept_text(section, key, environ[name], origin, layers)
        elif rest in known:  # any other name without `__` is a client's variable, such as QUORUMFS_TOKEN
            section, key = known[rest]
            right = f"{PREFIX}{section.upper()}__{key.upper()}"
            layers.refuse(
                f"{section}.{key}", f"two underscores stand between section and key: {right}", origin
            )


def _read_overrides(overrides: Sequence[str], layers: _Layers) -> None:
    for text in overrides:
        dotted, equals, value = text.partition("=")
        section, dot, key = dotted.strip().partition(".")
        if not equals or not dot:
            layers.refuse(dotted, "an override is section.key=value", "flag --set")
        else:
            _accept_text(section, key, value, "flag --set", layers)


def _accept(section: str, key: str, value: Any, origin: str, layers: _Layers) -> None:
    model = _sections().get(section)
    if model is None:
        layers.refuse(f"{section}.{key}", "unknown section", origin)
    elif key not in model.model_fields:
        layers.refuse(f"{section}.{key}", "unknown key", origin)
    else:
        layers.put(section, key, value, origin)


def _accept_text(section: str, key: str, text: str, origin: str, layers: _Layers) -> None:
    """Take `text` for a key after reading it as the key's type; dotted keys are entries of a table."""
    table_key, dot, entry = key.partition(".")
    model = _sections().get(section)
    if model is None or table_key not in model.model_fields:
        _accept(section, key, text, origin, layers)
        return
    kind = model.model_fields[table_key].annotation
    try:
        if dot:
            if get_origin(kind) is not dict:
                layers.refuse(f"{section}.{key}", "unknown key", origin)
                return
            present = layers.values.get(section, {}).get(table_key, {})
            value: Any = {**present, entry: text} if isinstance(present, dict) else {entry: text}
        else:
            value = _read_text(kind, text)
    except ValueError as error:
        layers.refuse(f"{section}.{key}", _reason(error), origin)
        return
    layers.put(section, table_key, value, origin)


def _read_text(kind: Any, text: str) -> Any:
    """`text` as a value of type `kind`: lists and tables as JSON, or `a,b` and `k=v,k=v`. Or ValueError."""
    shape = get_origin(kind)
    if shape in (tuple, dict) and text.lstrip()[:1] in ("[", "{"):
        return json.loads(text)
    if shape is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if shape is dict:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError("a table is key=value,key=value")
        return {key.strip(): value.strip() for key, _, value in pairs}
    if kind in (int, float, bool):
        return TypeAdapter(kind).validate_python(text.strip())
    return text


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            _sentence(one["msg"]) for one in error.errors(include_input=False, include_url=False)
        )
    return str(error)


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")


# --- validation ---------------------------------------------------------------------------------------


def _validate(path: Path, layers: _Layers) -> NodeConfig | None:
    if any(problem.key == "(file)" for problem in layers.problems):
        return None  # every required key would be reported as missing, which says nothing
    try:
        return NodeConfig.model_validate(layers.values, context={"root": path.parent})
    except ValidationError as error:
        for one in error.errors(include_input=False, include_url=False):
            if one["type"] == "relation":
                for key, reason in one["ctx"]["problems"]:
                    layers.refuse(key, reason, layers.said_by.get(key, "default"))
                continue
            key = ".".join(str(part) for part in one["loc"][:2])
            missing = one["type"] == "missing"
            if missing and any(problem.key in (key, "node.data_dir") for problem in layers.problems):
                continue  # a value was given and refused already, or it follows from data_dir
            origin = f"file {path}" if missing else layers.said_by.get(key, "default")
            entry = "".join(f"[{part}]" for part in one["loc"][2:])
            layers.refuse(key + entry, "is missing" if missing else _sentence(one["msg"]), origin)
        return None
