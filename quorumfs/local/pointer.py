"""Which local cluster was started last: one line in the user's cache. Imports no gRPC.

It lies in the cache directory because losing it costs nothing: `--dir` says the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from quorumfs.errors import QuorumFSError


def cache_home() -> Path:
    """`$XDG_CACHE_HOME/quorumfs`, else `~/.cache/quorumfs`. Not made by this call."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if given.startswith("/") else Path.home() / ".cache"
    return root / "quorumfs"


def default_directory() -> Path:
    """Where `dfsctl dev up` puts a cluster when nobody says otherwise."""
    return cache_home() / "dev"


def pointer_path() -> Path:
    return cache_home() / "dev-current"


def remember(directory: Path) -> None:
    """From now on `directory` is the last one started. Replaced atomically; not synced."""
    path = pointer_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_bytes(os.fsencode(directory.absolute()) + b"\n")
    new.replace(path)


def forget(directory: Path) -> None:
    """Take the pointer away if it points at `directory`."""
    if _pointed_at() == directory.absolute():
        pointer_path().unlink(missing_ok=True)


def current_directory() -> Path | None:
    """The directory of the cluster that was started last, if it is still there."""
    directory = _pointed_at()
    return directory if directory is not None and (directory / "cluster.json").is_file() else None


def _pointed_at() -> Path | None:
    try:
        raw = pointer_path().read_bytes().strip()
    except OSError:
        return None
    return Path(os.fsdecode(raw)) if raw else None


def current_coordinators() -> str | None:
    """`host:port,...` of the local cluster started last; None when there is none, or all of it was stopped.

    One whose coordinators were all killed, or stopped while others run, is still the one that is meant: who
    asks it learns that it is down.
    """
    from quorumfs.local.layout import read_layout
    from quorumfs.local.processes import Processes

    directory = current_directory()
    if directory is None:
        return None
    try:
        layout = read_layout(directory)
        processes = Processes()
        meant = any(processes.state(spec) != "stopped" for spec in layout.processes())
    except (OSError, QuorumFSError):  # half written or half removed: then there is no cluster to offer
        return None
    return layout.coordinators if meant else None
