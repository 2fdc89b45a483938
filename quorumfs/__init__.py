"""QuorumFS: highly available file storage. `from quorumfs import Client`.

Importing this package, or a module of values in it, loads no gRPC: names are resolved when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quorumfs.aio import AsyncClient
    from quorumfs.client import Client
    from quorumfs.errors import QuorumFSError
    from quorumfs.files import QuorumReader, QuorumWriter
    from quorumfs.values import FileStatus, FileType, Location, TrashItem

    __version__: str

__all__ = [
    "AsyncClient",
    "Client",
    "FileStatus",
    "FileType",
    "Location",
    "QuorumFSError",
    "QuorumReader",
    "QuorumWriter",
    "TrashItem",
    "__version__",
]

_HOME = {
    "AsyncClient": "quorumfs.aio",
    "Client": "quorumfs.client",
    "FileStatus": "quorumfs.values",
    "FileType": "quorumfs.values",
    "Location": "quorumfs.values",
    "QuorumFSError": "quorumfs.errors",
    "QuorumReader": "quorumfs.files",
    "QuorumWriter": "quorumfs.files",
    "TrashItem": "quorumfs.values",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("quorumfs")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"
