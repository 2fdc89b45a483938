"""What `import quorumfs` costs, and what it offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import quorumfs


@pytest.mark.parametrize(
    "statement",
    [
        "import quorumfs",
        "from quorumfs import FileStatus, QuorumFSError, __version__",
        "import quorumfs.paths, quorumfs.discovery, quorumfs.frames, quorumfs.local.cluster",
        "import dfsctl.commands, dfsctl.dev",
    ],
)
def test_values_load_no_grpc(statement: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; sys.exit('grpc' in sys.modules)"], timeout=60
    )
    assert done.returncode == 0


def test_every_name_it_offers_is_there() -> None:
    for name in quorumfs.__all__:
        assert getattr(quorumfs, name) is not None
    assert set(quorumfs.__all__) <= set(dir(quorumfs))
    with pytest.raises(AttributeError):
        _ = quorumfs.nothing  # type: ignore[attr-defined]  that is the point
