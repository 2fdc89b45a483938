"""Where the cluster is: the argument, the environment, the user's file, or a cluster running for development.

The first of these that says anything decides:

1. the argument, "host:port,host:port" or a sequence of them
2. `QUORUMFS_COORDINATORS`
3. `client.toml` in `$XDG_CONFIG_HOME/quorumfs` (else `~/.config/quorumfs`), `coordinators = ["host:port"]`
4. the cluster on this machine that was started last (quorumfs/local)
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from quorumfs.errors import InvalidArgumentError
from quorumfs.local.pointer import current_coordinators

COORDINATORS_VARIABLE = "QUORUMFS_COORDINATORS"
TOKEN_VARIABLE = "QUORUMFS_TOKEN"
_PORT_MAX = 65535


def find_coordinators(
    given: str | Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    local_cluster: Callable[[], str | None] = current_coordinators,
) -> tuple[str, ...]:
    """The coordinators' addresses. Raises InvalidArgumentError when nothing names any, or not well.

    `environment`: instead of the process's; `local_cluster`: says where a cluster on this machine is.
    """
    env = os.environ if environment is None else environment
    if given:
        return parse_addresses(given, "the argument")
    if env.get(COORDINATORS_VARIABLE):
        return parse_addresses(env[COORDINATORS_VARIABLE], COORDINATORS_VARIABLE)
    file = _home(env, "XDG_CONFIG_HOME", ".config") / "quorumfs" / "client.toml"
    found = _from_file(file)
    if not found and (local := local_cluster()):
        found = parse_addresses(local, "the cluster on this machine")
    if not found:
        raise InvalidArgumentError(
            "no coordinator is known",
            cause=f"no argument, no {COORDINATORS_VARIABLE}, no {file}, "
            "and the local cluster that was started last, if any, does not run",
            next="give --coordinators host:port,..., or dfsctl dev up [--dir DIR] to start one or return to one",
        )
    return found


def parse_addresses(given: str | Sequence[str], source: str) -> tuple[str, ...]:
    """Addresses host:port, as text with commas or as a sequence. Raises InvalidArgumentError."""
    parts = given.split(",") if isinstance(given, str) else list(given)
    addresses = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not addresses:
        raise InvalidArgumentError(f"{source} names no coordinator", cause=f"{given!r} is empty")
    for address in addresses:
        _check(address, source)
    return addresses


def _check(address: str, source: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= _PORT_MAX:
        raise InvalidArgumentError(
            f"{source} names a coordinator that is not host:port", cause=f"{address!r}"
        )


def _home(env: Mapping[str, str], variable: str, below_home: str) -> Path:
    chosen = env.get(variable, "")
    if chosen and Path(chosen).is_absolute():
        return Path(chosen)
    return Path(env.get("HOME") or Path.home()) / below_home


def _from_file(path: Path) -> tuple[str, ...]:
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgumentError(f"{path} cannot be read", cause=str(error)) from error
    given = settings.get("coordinators")
    if not given or not isinstance(given, str | list) or not all(isinstance(part, str) for part in given):
        raise InvalidArgumentError(
            f"{path} names no coordinator", cause='the key "coordinators" is to be a list of "host:port"'
        )
    return parse_addresses(given, str(path))
